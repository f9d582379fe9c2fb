"""What strangers, who show no credential, can do to all others."""

from __future__ import annotations

import socket
from contextlib import suppress

from benchmarks.abuse.target import Target, attack

HANDSHAKE = b"GET /socket.io/?EIO=4&transport=polling&serviceName=s HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = (
    b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Endless: "
BODY = b"POST /events/v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 60_000
MAX_OPEN = 3000  # connections that the attacker keeps


@attack
def polling_sessions(target: Target) -> None:
    """Socket.IO sessions, hundreds in each packet of one socket."""
    with socket.create_connection(("127.0.0.1", target.port)) as link:
        link.settimeout(1.0)
        while not target.over():
            with suppress(TimeoutError):
                link.sendall(HANDSHAKE * 100)
                link.recv(1 << 20)


@attack
def half_heads(target: Target) -> None:
    """Connections with half a head."""
    _hold(target, HEAD)


@attack
def half_bodies(target: Target) -> None:
    """Connections with a part of a large body."""
    _hold(target, BODY)


@attack
def silent_connections(target: Target) -> None:
    """Connections that say nothing."""
    _hold(target, b"")


@attack
def idle_sockets(target: Target) -> None:
    """ThinWS clients that never show a credential."""
    _hold(target, UPGRADE % b"/thinws")


def _hold(target: Target, data: bytes) -> None:
    """Open connections as fast as can be, send *data* on each, and keep them."""
    links: list[socket.socket] = []
    while not target.over():
        with suppress(OSError):
            link = socket.create_connection(("127.0.0.1", target.port), timeout=1.0)
            links.append(link)
            link.setblocking(False)
            link.send(data)
        if len(links) > MAX_OPEN:
            links.pop(0).close()
    for link in links:
        link.close()
