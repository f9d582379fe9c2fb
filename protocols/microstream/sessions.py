"""An Engine.IO session over long-polling, WebSocket, or the one and then the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from broker.core.deadlines import Deadlines
from broker.core.slices import slices_of
from broker.interfaces import ILink, IPeer
from broker.messages import CloseCode
from broker.sessions import BaseSession
from protocols.microstream.engineio import (
    ALIVE,
    CLOSE,
    CLOSED,
    NOOP,
    Engine,
    Message,
    Packet,
    ProtocolError,
    State,
    Times,
    open_packet,
)
from protocols.microstream.engineio import Event as EngineEvent
from protocols.microstream.idle import IdleTimeout

MIN_COUNTED = 4096  # bytes of packets that wait for a GET, from which on they are counted


@attrs.frozen
class Handshake:
    """The request that started a session.

    Attributes:
        sid: of the new session.
        query: its parameters, each with all its values; "those of the handshake request
            count and are repeated on every request".
        headers: its headers, by lower-case name.
    """

    sid: str
    query: Mapping[str, Sequence[str]] = attrs.field(repr=False)
    headers: Mapping[str, str] = attrs.field(repr=False)


@attrs.frozen(eq=False)
class SessionContext:
    """What a server shares with all of its sessions.

    Attributes:
        times: timers and limits of each session.
        clock: the reactor, or a ``task.Clock``.
        timers: of all sessions; a key is the function to call.
        queue_bytes: most bytes in the send queue of a client that does not poll.
        forget: removes a session, which has ended, from the server.
    """

    times: Times
    clock: IReactorTime
    timers: Deadlines[Callable[[], object]]
    queue_bytes: int
    forget: Callable[[Session], object]


class PendingUpgrade(Protocol):
    """The WebSocket that a polling session is upgrading to."""

    def drop(self) -> None:
        """Close it; polling goes on."""


class Session(BaseSession):
    """One client: the base class of an Engine.IO application, which overrides ``on_message``.

    The session owns its peer, which lives through many requests, and closes it when it ends.

    Args:
        context: what the server shares with its sessions.
        peer: the broker's side of the client.
        handshake: how the session started.
        link: its WebSocket, or None when it starts by polling.

    Attributes:
        sid: the session id, a secret of the client that identifies its requests.
        link: its WebSocket, or None while it polls.
        upgrade: the WebSocket it is upgrading to, or None.
    """

    def __init__(self, context: SessionContext, peer: IPeer, handshake: Handshake, link: ILink | None) -> None:
        self.context, self.peer, self.sid = context, peer, handshake.sid
        self.engine = Engine(context.times, context.clock, websocket=link is not None)
        self.link = link
        self.upgrade: PendingUpgrade | None = None
        self._waiting_get: Deferred[bytes] | None = None
        self._probes: list[Deferred[bool]] = []
        self._batching = False
        self._slices = slices_of(context.clock)
        self._idle: IdleTimeout | None = None
        self._held = 0  # bytes that the peer was told of
        self._bucket = context.timers.add(self.heartbeat, context.times.ping_interval)
        peer.bind(self, self.end)

    # For subclasses

    def on_message(self, data: bytes, binary: bool) -> None:
        """Handle a message; override this.

        Raises:
            ProtocolError: end the session.
        """

    def on_ended(self) -> None:
        """Clean up: the session has ended.  Called once."""

    def send(self, messages: Iterable[Packet]) -> None:
        """Send *messages*, each as its data and whether that is binary; in one response when polling."""
        engine = self.engine
        for data, binary in messages:
            engine.send(data, binary)
        self.flush()

    def set_idle_timeout(self, seconds: float) -> None:
        """End the session as soon as nothing was received for *seconds*, beginning now; 0: never.

        It is pinged before.  Without this, only Engine.IO's pings end a silent session.
        """
        if self._idle is not None:
            self._idle.stop()
            self._idle = None
        if seconds > 0:
            context = self.context
            self._idle = IdleTimeout(
                context.clock, context.timers, seconds, context.times.ping_timeout, self._ping, self._idle_timed_out
            )

    @property
    def ended(self) -> bool:
        """Whether the session has ended."""
        return self.engine.state is State.CLOSED

    def end(self, code: int = CloseCode.NORMAL, reason: str = "", last: bytes = CLOSE) -> None:
        """End the session on either transport; idempotent.

        Args:
            code: of the WebSocket close frame.
            reason: of the WebSocket close frame.
            last: the last packet for a waiting GET.
        """
        if self.ended:
            return
        payload = b"" if self._waiting_get is None else self.engine.last_payload(last)
        self.engine.close()
        self.context.timers.drop(self.heartbeat, self._bucket)
        self.set_idle_timeout(0)
        self.context.forget(self)
        if self.upgrade is not None:
            self.upgrade.drop()
        if self.link is not None:
            self.link.close(code, reason)
        self._answer(payload)
        self._answer_probes(False)
        self.on_ended()
        self.peer.close()

    # Unadmitted

    @property
    def admitted(self) -> bool:
        """Whether its client is admitted; see ``broker.core.unadmitted``."""
        return self.peer.admitted

    @property
    def evictable(self) -> bool:
        """Whether it can be ended to make room: always, since clients wait before they come again."""
        return True

    def evict(self) -> None:
        """End the session to make room for another."""
        self.end(CloseCode.TRY_AGAIN_LATER, "too many sessions")

    def overdue(self, seconds: float) -> bool:
        """End the session: its client was not admitted in time."""
        self.end(CloseCode.POLICY_VIOLATION, f"not admitted within {seconds:g} s")
        return False

    # WebSocket

    def opened(self) -> None:
        """Send the open packet: the session starts on WebSocket."""
        assert self.link is not None
        self.link.send(open_packet(self.sid, self.context.times, upgrades=False))
        self.flush()

    def received(self, data: bytes, binary: bool) -> None:
        """Handle a WebSocket frame."""
        if self._idle is not None:
            self._idle.last = self.context.clock.seconds()
        try:
            if not binary and self.engine.is_plain(data):
                self.on_message(data[1:], False)
            else:
                events = self.engine.receive_frame(data, binary)
                self._ignore(1, events)
                self._handle(events)
        except ProtocolError as error:
            self.end(error.code, str(error))

    def closed(self, code: int, reason: str) -> None:
        """End the session: its WebSocket has closed."""
        self.link = None
        self.end()

    def on_upgraded(self, link: ILink) -> None:
        """Send over *link* from now on, first what is queued."""
        self.upgrade, self.link = None, link
        self._answer(NOOP)
        self.flush()

    # Polling

    async def get(self) -> bytes:
        """Return the payload of a response to a GET, waiting for the next packet if there is none.

        Raises:
            ProtocolError: another GET is waiting already; this has ended the session.
        """
        if self._waiting_get is not None:
            self.end()
            raise ProtocolError("two polls at once")
        self._received()
        payload = self.engine.poll()
        if self._held:
            self._count_queued()
        if payload:
            return payload
        self._waiting_get = Deferred()
        try:
            return await self._waiting_get
        except CancelledError:
            # The client has closed the connection; it starts a new session when it comes back.
            self._waiting_get = None
            self.end()
            raise

    async def post(self, body: bytes) -> None:
        """Handle the packets of the body of a POST, in slices if there are many.

        They are handled even if the client closes its connection meanwhile.

        Raises:
            ProtocolError: a packet is malformed, or another POST is under way; this has ended the session.
        """
        if self._batching:
            self.end()
            raise ProtocolError("two POSTs at once")
        self._received()
        try:
            parts = self.engine.parts(body)
        except ProtocolError:
            self.end()
            raise
        done: Deferred[None] = Deferred()
        handling = Deferred.fromCoroutine(self._handle_in_slices(parts))
        handling.addBoth(lambda result: None if done.called else done.callback(result))
        await done

    async def _handle_in_slices(self, parts: list[bytes]) -> None:
        self._batching = True
        try:
            events = await self._received_in_slices(parts)
            self._ignore(len(parts), events)
            end = self._slices.deadline()
            for event in events:
                end = await self._slices.checked(end)
                if self.ended:
                    return
                self._handle((event,))
        except ProtocolError:
            self.end()
            raise
        except Exception:
            self.end(CloseCode.INTERNAL_ERROR)
            raise
        finally:
            self._batching = False
        self.flush()

    async def _received_in_slices(self, parts: list[bytes]) -> list[EngineEvent]:
        """Return the events of all *parts*, before the first is handled: a malformed one refuses all of them."""
        events: list[EngineEvent] = []
        end = self._slices.deadline()
        for part in parts:
            events += self.engine.receive_part(part)
            end = await self._slices.checked(end)
        return events

    def _received(self) -> None:
        if self._idle is not None:
            self._idle.last = self.context.clock.seconds()

    def flush(self) -> None:
        """Send what is queued, as far as the transport takes it now."""
        engine = self.engine
        link = self.link
        if link is not None:
            for data, binary in engine.frames():
                if binary:
                    link.send_binary(data)
                else:
                    link.send(data)
            if not self._held:
                return
        elif self._waiting_get is not None:
            # What the packets of one POST cause is sent in one response.
            if not self._batching:
                self._answer(engine.poll())
        elif engine.queued > self.context.queue_bytes:
            self.peer.slow_consumer()
            self.end(CloseCode.TRY_AGAIN_LATER, "reading too slowly")
        if engine.queued >= MIN_COUNTED or self._held:
            self._count_queued()

    def _count_queued(self) -> None:
        """Count the packets that wait for the next GET, as far as they are more than a little."""
        queued = self.engine.queued
        size = queued if queued >= MIN_COUNTED else 0
        change, self._held = size - self._held, size
        if change:
            self.peer.hold(change)

    def _answer(self, payload: bytes) -> None:
        waiting = self._waiting_get
        if waiting is not None and payload:
            self._waiting_get = None
            waiting.callback(payload)

    def _ignore(self, packets: int, events: list[EngineEvent]) -> None:
        """Count those of *packets* that are no message: they ask for nothing."""
        ignored = packets - sum(type(event) is Message for event in events)
        if ignored:
            self.peer.ignore(ignored)

    def _handle(self, events: Iterable[EngineEvent]) -> None:
        for event in events:
            if type(event) is Message:
                self.on_message(event.data, event.binary)
            elif event is ALIVE:
                self._schedule_heartbeat(self.context.times.ping_interval)
                self._answer_probes(True)
            elif event is CLOSED:
                self.end(last=NOOP)
            if self.engine.state is State.CLOSED:
                return

    # Heartbeat

    def heartbeat(self) -> None:
        """Ping the client, or end the session when it has not answered the last ping.

        "close the transport instead of sending 41; the client then reconnects"
        """
        if self.engine.heartbeat():
            self._schedule_heartbeat(self.context.times.ping_timeout)
            self.flush()
        else:
            self.end(CloseCode.GOING_AWAY, "ping timeout")

    def probe(self) -> Deferred[bool]:
        """Ping the client; fire with True at its next packet, of any type, or with False when the session ends."""
        if self.ended:
            return succeed(False)
        probe: Deferred[bool] = Deferred(self._probes.remove)
        self._probes.append(probe)
        self._ping()
        return probe

    def _ping(self) -> None:
        if self.engine.ping():
            self._schedule_heartbeat(self.context.times.ping_timeout)
            self.flush()

    def _idle_timed_out(self) -> None:
        self.end(CloseCode.GOING_AWAY, "idle")

    def _schedule_heartbeat(self, delay: float) -> None:
        timers = self.context.timers
        timers.drop(self.heartbeat, self._bucket)
        self._bucket = timers.add(self.heartbeat, delay)

    def _answer_probes(self, alive: bool) -> None:
        probes, self._probes = self._probes, []
        for probe in probes:
            probe.callback(alive)
