"""One Engine.IO session with I/O: a client, over whichever transport it has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import CancelledError, Deferred, succeed

from broker.interfaces import ILink, IPeer
from broker.messages import CloseCode
from broker.sessions import BaseSession
from protocols.microstream.engineio import (
    ALIVE,
    CLOSE,
    CLOSED,
    NOOP,
    Engine,
    Malformed,
    Message,
    Packet,
    State,
    open_packet,
)
from protocols.microstream.engineio import Event as EngineEvent

if TYPE_CHECKING:
    from protocols.microstream.server import Handshake, Server


class Moving(Protocol):
    """A WebSocket to which a session is about to move."""

    def drop(self) -> None:
        """Close it."""


class Session(BaseSession):
    """A client whose messages come one by one to ``message``.

    It owns its peer: polling keeps one over many requests.

    Attributes:
        sid: known to the client alone, and what its requests show.
        link: its WebSocket, once packets travel that way.
        upgrade: the WebSocket it may move to.
    """

    def __init__(self, server: Server, peer: IPeer, handshake: Handshake, link: ILink | None) -> None:
        self.server, self.peer, self.sid = server, peer, handshake.sid
        self.engine = Engine(server.times, server.clock, websocket=link is not None)
        self.link = link
        self.upgrade: Moving | None = None
        self._getting: Deferred[bytes] | None = None
        self._asking: list[Deferred[bool]] = []
        self._corked = False
        self._bucket = server.timers.add(self.ring, server.times.ping_interval)
        peer.bind(self, self.end)

    # For those who build upon it

    def message(self, data: bytes, binary: bool) -> None:
        """Take a message; ``Malformed`` ends the session."""

    def ended(self) -> None:
        """The session has ended; once."""

    def send(self, packets: Iterable[Packet]) -> None:
        """Send messages, together if the transport can."""
        engine = self.engine
        for data, binary in packets:
            engine.send(data, binary)
        self.flush()

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.engine.state is State.CLOSED

    def end(self, code: int = CloseCode.NORMAL, reason: str = "", last: bytes = CLOSE) -> None:
        """End the session, whatever transport it has; again is nothing.

        Args:
            code: of the WebSocket close frame.
            reason: goes with it.
            last: the last packet for a GET that waits.
        """
        if self.over:
            return
        payload = b"" if self._getting is None else self.engine.last_payload(last)
        self.engine.close()
        self.server.timers.drop(self.ring, self._bucket)
        self.server.forget(self)
        if self.upgrade is not None:
            self.upgrade.drop()
        if self.link is not None:
            self.link.close(code, reason)
        self._answer(payload)
        self._notify(False)
        self.ended()
        self.peer.close()

    # WebSocket

    def opened(self) -> None:
        """Say the first word: the session began on WebSocket."""
        assert self.link is not None
        self.link.send(open_packet(self.sid, self.server.times, upgrades=False))
        self.flush()

    def received(self, data: bytes, binary: bool) -> None:
        """Take a frame."""
        try:
            if not binary and self.engine.is_plain(data):
                self.message(data[1:], False)
            else:
                self._take(self.engine.receive_frame(data, binary))
        except Malformed as error:
            self.end(error.code, str(error))

    def closed(self, code: int, reason: str) -> None:
        """The WebSocket has gone, and the session with it."""
        self.link = None
        self.end()

    def move(self, link: ILink) -> None:
        """Packets travel over *link* from now on."""
        self.upgrade, self.link = None, link
        self._answer(NOOP)
        self.flush()

    # Polling

    async def get(self) -> bytes:
        """Return what waits for the client, or wait for it.

        Raises:
            Malformed: another GET waits already; the session has ended.
        """
        if self._getting is not None:
            self.end()
            raise Malformed("two polls at once")
        payload = self.engine.poll()
        if payload:
            return payload
        self._getting = Deferred()
        try:
            return await self._getting
        except CancelledError:
            # The client has hung up, and its next try will be a new session.
            self._getting = None
            self.end()
            raise

    def post(self, body: bytes) -> None:
        """Take the packets of *body*.

        Raises:
            Malformed: they are wrong; the session has ended.
        """
        self._corked = True
        try:
            self._take(self.engine.receive_payload(body))
        except Malformed:
            self.end()
            raise
        except Exception:
            self.end(CloseCode.INTERNAL_ERROR)
            raise
        finally:
            self._corked = False
        self.flush()

    def flush(self) -> None:
        """Let go what can go now."""
        engine = self.engine
        link = self.link
        if link is not None:
            for data, binary in engine.frames():
                if binary:
                    link.send_binary(data)
                else:
                    link.send(data)
        elif self._getting is not None:
            # What one POST brings about goes in one answer.
            if not self._corked:
                self._answer(engine.poll())
        elif engine.queued > self.server.queue_bytes:
            self.end(CloseCode.TRY_AGAIN_LATER, "reading too slowly")

    def _answer(self, payload: bytes) -> None:
        getting = self._getting
        if getting is not None and payload:
            self._getting = None
            getting.callback(payload)

    def _take(self, events: list[EngineEvent]) -> None:
        for event in events:
            if type(event) is Message:
                self.message(event.data, event.binary)
            elif event is ALIVE:
                self._set_alarm(self.server.times.ping_interval)
                self._notify(True)
            elif event is CLOSED:
                self.end(last=NOOP)
            if self.engine.state is State.CLOSED:
                return

    # Signs of life

    def ring(self) -> None:
        """Ping the client, or let it go when the last ping was in vain.

        "close the transport instead of sending 41; the client then reconnects"
        """
        if self.engine.ring():
            self._set_alarm(self.server.times.ping_timeout)
            self.flush()
        else:
            self.end(CloseCode.GOING_AWAY, "ping timeout")

    def probe(self) -> Deferred[bool]:
        """Ask the client whether it is there; fires at the first packet of any kind."""
        if self.over:
            return succeed(False)
        asking: Deferred[bool] = Deferred(self._asking.remove)
        self._asking.append(asking)
        if self.engine.ping():
            self._set_alarm(self.server.times.ping_timeout)
            self.flush()
        return asking

    def _set_alarm(self, delay: float) -> None:
        timers = self.server.timers
        timers.drop(self.ring, self._bucket)
        self._bucket = timers.add(self.ring, delay)

    def _notify(self, alive: bool) -> None:
        asking, self._asking = self._asking, []
        for asked in asking:
            asked.callback(alive)
