"""Sockets that are bound while the process has the right to, and listened on after it has given that up."""

from __future__ import annotations

import socket

from twisted.internet.abstract import isIPv6Address
from twisted.internet.error import CannotListenError

from broker.web.net.socket_file import bind_socket

Place = tuple[str, int]  # as in ``endpoints``


class BoundSockets:
    """What endpoints take for the reactor: it binds where they would listen.

    Connections that come meanwhile wait in the queue of the socket.

    Args:
        backlog: least number of connections that may wait so.
    """

    def __init__(self, backlog: int) -> None:
        self._backlog = backlog
        self._sockets: dict[Place, list[socket.socket]] = {}

    def pop(self, place: Place) -> socket.socket | None:
        """Remove and return a socket that was bound for *place*, as the endpoint names it; None: there is none."""
        found = self._sockets.get(place)
        return found.pop(0) if found else None

    def add(self, place: Place, made: socket.socket) -> None:
        """Have *made*, which is bound for *place* already."""
        self._sockets.setdefault(place, []).append(made)

    def all(self) -> list[tuple[Place, socket.socket]]:
        """Return all that were bound and not popped, in the order in which they are popped."""
        return [(place, made) for place, found in self._sockets.items() for made in found]

    def listenTCP(self, port: int, factory: object, backlog: int = 50, interface: str = "") -> None:
        """Bind a port.

        Raises:
            CannotListenError: it can not be had.
        """
        family = socket.AF_INET6 if isIPv6Address(interface) else socket.AF_INET
        made = socket.socket(family)
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as of other ports, before the first comes
        try:
            found = socket.getaddrinfo(interface or None, port, family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            made.bind(found[0][4])
            made.listen(max(backlog, self._backlog))
        except OSError as error:
            made.close()
            raise CannotListenError(interface, port, error) from None
        self.add((interface, port), made)

    def listenUNIX(self, address: str, factory: object, backlog: int, mode: int, group: str) -> None:
        """Bind a unix socket.

        Raises:
            CannotListenError: it can not be had.
        """
        made = bind_socket(address, max(backlog, self._backlog), mode, group)
        self.add((address, 0), made)
