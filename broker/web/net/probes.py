"""Probes of health: what asks for them, told by the first bytes of a connection."""

from __future__ import annotations

import socket

# How the request of a probe begins.
PROBES = tuple(
    b"%b /%b%b" % (method, page, end)
    for method in (b"GET", b"HEAD", b"OPTIONS")
    for page in (b"health", b"ready")
    for end in (b" ", b"?")
)
END_OF_HEAD = b"\r\n\r\n"
PEEKED = 1024  # bytes in which the head of a probe has to end
LOOK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)


def peek(connection: socket.socket) -> bytes | None:
    """Return the first bytes that *connection* has received and nobody has read, b"" at its end, None for none yet."""
    try:
        return connection.recv(PEEKED, LOOK)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def is_probe(received: bytes | None) -> bool:
    """Whether *received* begins with a whole request for the health of the daemon."""
    return received is not None and received.startswith(PROBES) and END_OF_HEAD in received
