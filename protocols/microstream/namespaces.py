"""A Socket.IO session: an Engine.IO session whose messages are Socket.IO packets."""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_urlsafe

from broker.interfaces import ILink, IPeer
from broker.messages import CloseCode
from protocols.microstream.sessions import Handshake, Session, SessionContext
from protocols.microstream.socketio import Ack, Connect, Connection, Disconnect, Emit, ack_packets, event_packets

INVALID_NAMESPACE = b'{"message":"Invalid namespace"}'


class SocketSession(Session):
    """One client: the base class of a Socket.IO application, which overrides ``on_connect`` and ``on_event``.

    Attributes:
        connect_timeout: seconds from the handshake after which the session ends if no
            namespace was joined; 0: never.  A subclass may set its own.
        sockets: the protocol state of all namespaces.
    """

    connect_timeout: float = 45.0

    def __init__(self, context: SessionContext, peer: IPeer, handshake: Handshake, link: ILink | None) -> None:
        super().__init__(context, peer, handshake, link)
        self.sockets = Connection()
        self._joined = False
        timeout = self.connect_timeout
        self._connect_bucket = context.timers.add(self._connect_timed_out, timeout) if timeout else None

    # For subclasses

    def on_connect(self, connect: Connect) -> None:
        """Call ``accept`` or ``refuse``, now or later; override this."""
        self.refuse(connect.namespace, INVALID_NAMESPACE)

    def on_disconnect(self, namespace: str) -> None:
        """Clean up: the client has left *namespace*."""

    def on_event(self, emit: Emit) -> None:
        """Handle an event; override this."""

    def accept(self, namespace: str) -> None:
        """Answer a CONNECT: the client has joined *namespace*."""
        self._stop_connect_timer()
        self._joined = True
        self.send([(self.sockets.accept(namespace, token_urlsafe(15)), False)])

    def refuse(self, namespace: str, error: bytes) -> None:
        """Answer a CONNECT by CONNECT_ERROR; the client may try again.

        Args:
            namespace: that was asked for.
            error: the JSON object ``{"message":…[,"data":…]}``.
        """
        self.send([(self.sockets.refuse(namespace, error), False)])

    def emit(self, items: bytes, attachments: Sequence[bytes] = (), *, namespace: str = "/") -> None:
        """Send an event; *items* is the JSON array of its name and arguments.

        Each ``{"_placeholder":true,"num":i}`` in *items* stands for ``attachments[i]``.
        """
        if self.link is not None and not attachments and namespace == "/":
            # Fast path for nearly every event: on WebSocket nothing is ever queued before it.
            self.link.send(b"42" + items)
            return
        self.send(event_packets(namespace, items, attachments=attachments))

    def acknowledge(self, emit: Emit, items: bytes, attachments: Sequence[bytes] = ()) -> None:
        """Acknowledge *emit*, if it asks for that; *items* is the JSON array of the arguments."""
        if emit.id is not None:
            self.send(ack_packets(emit.namespace, emit.id, items, attachments=attachments))

    @property
    def admitted(self) -> bool:
        """Whether it has joined a namespace: till then it can do nothing."""
        return self._joined

    def overdue(self, seconds: float) -> bool:
        """End the session: no namespace was joined in time."""
        self._connect_timed_out()
        return False

    # Called by Session

    def on_message(self, data: bytes, binary: bool) -> None:
        """Handle an Engine.IO message: a Socket.IO packet or an attachment of one."""
        packet = self.sockets.receive(data, binary)
        if type(packet) is Emit:
            self.on_event(packet)
        elif type(packet) is Connect:
            self.on_connect(packet)
        elif type(packet) is Disconnect:
            self.on_disconnect(packet.namespace)
        else:
            assert packet is None or type(packet) is Ack
            if packet is not None:  # no acknowledgement was ever asked for
                self.peer.ignore()

    def on_ended(self) -> None:
        """Stop the timer."""
        self._stop_connect_timer()

    def _stop_connect_timer(self) -> None:
        self.context.timers.drop(self._connect_timed_out, self._connect_bucket)

    def _connect_timed_out(self) -> None:
        self.end(CloseCode.POLICY_VIOLATION, "no namespace")
