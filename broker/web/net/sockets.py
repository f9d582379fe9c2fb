"""What is asked of a connection's transport, whichever kind it is: ours, Twisted's own, or that of TLS."""

from __future__ import annotations

import fcntl
import select
import socket
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any

from broker.web.net.probes import peek
from broker.web.net.tcp_info import bytes_of
from broker.web.net.transport import FrameTransport


def writer_for(transport: Any) -> Callable[[bytes], None]:
    """Return the fastest way to send bytes on *transport*; it keeps order with ``write``."""
    if isinstance(transport, FrameTransport):
        return transport.send_frame
    return transport.write  # type: ignore[no-any-return]


def peer_is_gone(transport: Any) -> bool:
    """Whether the connection of *transport* was reset, or closed in both directions by its peer.

    A TCP peer that has closed its socket looks like one that has only shut down its
    write side, until it is sent something: then this is False.
    """
    handle = getattr(_of_socket(transport), "socket", None)
    if handle is None:
        return False
    poll = select.poll()
    poll.register(handle, 0)  # errors and hang-ups are always reported
    return bool(poll.poll(0))


def has_unread(transport: Any) -> bool:
    """Whether something has come on the connection of *transport* that nobody has read yet."""
    handle = getattr(_of_socket(transport), "socket", None)
    return handle is not None and bool(peek(handle))


def buffered_bytes(transport: Any) -> int | None:
    """Return how many bytes *transport* has not yet given to the kernel, or None if it does not tell.

    For TLS they are those of the encrypted stream.
    """
    lower = _of_socket(transport)
    buffer = getattr(lower, "dataBuffer", None)  # of twisted.internet.abstract.FileDescriptor
    if buffer is None:
        return None
    waiting: int = len(buffer) - getattr(lower, "offset", 0) + getattr(lower, "_tempDataLen", 0)
    return waiting


def unacknowledged_bytes(transport: Any) -> int:
    """Return how many bytes written to *transport* its peer has not received; 0 where that is not known.

    Over TCP the peer's kernel has received what it has acknowledged.  Where the kernel
    does not tell, what it was given counts as received.
    """
    waiting = buffered_bytes(transport) or 0
    handle = getattr(_of_socket(transport), "socket", None)
    if handle is None:
        return waiting
    try:
        queued = fcntl.ioctl(handle, termios.TIOCOUTQ, bytes(4))
    except OSError:
        return waiting
    return waiting + int.from_bytes(queued, sys.byteorder)


def transferred_bytes(transport: Any) -> tuple[int, int] | None:
    """Return how many bytes the kernel has received on *transport*, and how many its peer has acknowledged.

    That costs nothing until it is asked for.  None: it is no TCP, or the kernel does not tell.
    """
    handle = getattr(_of_socket(transport), "socket", None)
    return None if handle is None else bytes_of(handle)


def finally_transferred_bytes(transport: Any) -> tuple[int, int] | None:
    """Return the same of a connection that has ended, where its transport has noted it."""
    found: tuple[int, int] | None = getattr(_of_socket(transport), "transferred", None)
    return found


def limit_unacknowledged(transport: Any, seconds: float) -> None:
    """Have the kernel end the connection of *transport* when its peer receives nothing for *seconds* of what is sent.

    Otherwise it tries for a quarter of an hour.  Only TCP has that.
    """
    handle = getattr(_of_socket(transport), "socket", None)
    if handle is not None and handle.family != socket.AF_UNIX and seconds < inf:
        with suppress(OSError):
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


def close_below(transport: Any) -> None:
    """Close the connection of *transport*, which may wait for its peer to end TLS, when everything is sent."""
    _of_socket(transport).loseConnection()


def _of_socket(transport: Any) -> Any:
    """Return the transport that has the socket: under TLS the one below *transport*."""
    return transport.transport if hasattr(transport, "wrappedProtocol") else transport


def expect_no_probe(transport: Any) -> None:
    """Note that the client of *transport* is one of a dialect: what it sends next is no probe of health."""
    if isinstance(transport, FrameTransport):
        transport.may_probe = False


def hand_over(transport: Any, protocol: Any) -> None:
    """Let *transport* deliver to *protocol*, which is that of a dialect, from now on.

    The previous protocol gets no further call, not even ``connectionLost``.
    """
    expect_no_probe(transport)
    # TLS and other wrappers are themselves the protocol of the socket's transport.
    if hasattr(transport, "wrappedProtocol"):
        transport.wrappedProtocol = protocol
    else:
        transport.protocol = protocol
