"""Socket.IO on an Engine.IO session: a client in its namespaces."""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_urlsafe
from typing import TYPE_CHECKING

from broker.interfaces import ILink, IPeer
from broker.messages import CloseCode
from protocols.microstream.sessions import Session
from protocols.microstream.socketio import Ack, Connect, Connection, Disconnect, Emit, ack_packets, event_packets

if TYPE_CHECKING:
    from protocols.microstream.server import Handshake, Server

CONNECT_TIMEOUT = 45.0  # seconds for the first namespace
INVALID_NAMESPACE = b'{"message":"Invalid namespace"}'


class SocketSession(Session):
    """A client whose events come one by one to ``take_event``.

    Args:
        connect_timeout: seconds after which it is closed if it has come into no
            namespace.
    """

    def __init__(
        self,
        server: Server,
        peer: IPeer,
        handshake: Handshake,
        link: ILink | None,
        connect_timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        super().__init__(server, peer, handshake, link)
        self.sockets = Connection()
        self._connect_line = server.timers.add(self._not_connected, connect_timeout)

    # For those who build upon it

    def take_connect(self, asked: Connect) -> None:
        """Accept or refuse it, now or later."""
        self.refuse(asked.namespace, INVALID_NAMESPACE)

    def take_disconnect(self, namespace: str) -> None:
        """The client has left *namespace*."""

    def take_event(self, emit: Emit) -> None:
        """Take an event."""

    def accept(self, namespace: str) -> None:
        """Let the client into *namespace*."""
        self._forget_timeout()
        self.send([(self.sockets.accept(namespace, token_urlsafe(15)), False)])

    def refuse(self, namespace: str, error: bytes) -> None:
        """Keep the client out of *namespace*; it may try again."""
        self.send([(self.sockets.refuse(namespace, error), False)])

    def emit(self, items: bytes, attachments: Sequence[bytes] = (), *, namespace: str = "/") -> None:
        """Send an event; *items* is the JSON array of its name and arguments."""
        if self.link is not None and not attachments and namespace == "/":
            self.link.send(b"42" + items)  # the short way, for nearly all: nothing is ever queued before a WebSocket
            return
        self.send(event_packets(namespace, items, attachments=attachments))

    def acknowledge(self, emit: Emit, items: bytes, attachments: Sequence[bytes] = ()) -> None:
        """Answer an event that asks for it."""
        if emit.id is not None:
            self.send(ack_packets(emit.namespace, emit.id, items, attachments=attachments))

    # Called by Session

    def message(self, data: bytes, binary: bool) -> None:
        """Take an Engine.IO message."""
        came = self.sockets.receive(data, binary)
        if type(came) is Emit:
            self.take_event(came)
        elif type(came) is Connect:
            self.take_connect(came)
        elif type(came) is Disconnect:
            self.take_disconnect(came.namespace)
        else:
            assert came is None or type(came) is Ack  # nobody has asked for one

    def ended(self) -> None:
        """Forget the time limit."""
        self._forget_timeout()

    def _forget_timeout(self) -> None:
        self.server.timers.drop(self._not_connected, self._connect_line)

    def _not_connected(self) -> None:
        self.end(CloseCode.POLICY_VIOLATION, "no namespace")
