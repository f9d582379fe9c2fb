"""What the kernel knows of a TCP connection."""

from __future__ import annotations

import socket
import struct

TCP_INFO_BYTES = 136  # of struct tcp_info, up to tcpi_bytes_acked and tcpi_bytes_received


def bytes_of(handle: socket.socket) -> tuple[int, int] | None:
    """Return how many bytes were received on *handle*, and how many acknowledged; None: that is not known."""
    if getattr(handle, "family", None) not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        info = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
    except OSError:
        return None
    if len(info) < TCP_INFO_BYTES:
        return None
    acknowledged, received = struct.unpack_from("=QQ", info, TCP_INFO_BYTES - 16)
    return received, acknowledged
