"""What a dialect's own session may begin with.

:class:`BaseSession` does nothing; :class:`OrderedSession` works frames off one
after the other and keeps those that come meanwhile; :class:`FramedSession` is that for stream dialects, which
have to find the frames in what comes; :class:`CallerSession` waits for the answer to a call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, ClassVar, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.errors import BrokerError, NotFound, TooLarge
from broker.interfaces import Coro, ILink, IPeer, ISession
from broker.messages import CloseCode, Event, Frame, Mail, Reply, Request

log = Logger()

MAX_BACKLOG_BYTES = 1 << 20  # of the frames that wait for the one before them
MAX_BACKLOG_FRAMES = 8192
MAX_AT_ONCE = 1 << 17  # bytes of a frame that waited, and may be handled where the one before it has ended
MAX_HELD_BYTES = 1 << 23  # of the events that wait for an answer to go out first
MAX_HELD_EVENTS = 10_000
MIN_HELD = 4096  # bytes of a frame that has not all come, from which on they are counted


class Slices(Protocol):
    """What a session needs of ``broker.core.slices.Slices``."""

    now: Callable[[], float]

    def deadline(self) -> float:
        """Return until when work that begins now may go on."""

    def add(self, go_on: Callable[[], object]) -> None:
        """Call *go_on* in a later iteration of the reactor's loop."""


@implementer(ISession)
class BaseSession:
    """An ``ISession`` whose methods do the least that is right.

    It ignores events, refuses every request, declines mail and is always alive.
    """

    def opened(self) -> None:
        """Wait for the client to begin."""

    def received(self, data: bytes, binary: bool) -> None:
        """Ignore the frame."""

    def event(self, event: Event, pattern: str) -> None:
        """Ignore the event."""

    def request(self, request: Request) -> None:
        """Refuse: this client performs nothing."""
        raise NotFound("method", request.procedure)

    def cancelled(self, id: str) -> None:
        """Ignore it: an answer is dropped."""

    def reply(self, reply: Reply) -> None:
        """Ignore the reply."""

    def mail(self, mail: Mail) -> bool | Deferred[bool] | Coro[bool]:
        """Leave it in its queue."""
        return False

    def accepts_jobs(self, all_left: bool) -> bool:
        """Say yes."""
        return True

    def probe(self) -> Awaitable[bool]:
        """Say yes: the transport's own pings notice a dead link."""
        return _yes()

    def closed(self, code: int, reason: str) -> Awaitable[object] | None:
        """Hold nothing that had to be given back."""
        return None


@attrs.define(eq=False)
class CallerSession(BaseSession):
    """A session that waits for the one answer to a call, as an HTTP request does."""

    answered: Deferred[Reply] = attrs.field(factory=Deferred)

    def reply(self, reply: Reply) -> None:
        """Take the answer."""
        if not self.answered.called:
            self.answered.callback(reply)

    def disconnect(self, code: int, reason: str) -> None:
        """Cancel the waiting: the broker disconnects the client."""
        self.answered.cancel()


async def _yes() -> bool:
    return True


@attrs.define(eq=False)
class OrderedSession(BaseSession):
    """A session whose frames are begun in the order in which they came.

    A subclass implements :meth:`frame`, and usually :meth:`overrun` and :meth:`ended`:

    * While the Deferred that ``frame`` returned has not fired, later frames wait.  When there
      are half of ``MAX_BACKLOG_FRAMES``, or they have half of ``MAX_BACKLOG_BYTES``, the link is
      asked to receive no more until most are done.  For each that comes all the same when
      there are as many, or they are as long, ``overrun`` is called instead.
    * An event that arrives while ``holding`` is true has to wait until the answer of the
      frame has gone out: give it to :meth:`hold` instead of the link.
    * When the connection has ended, the frames that came before are worked off, and
      then ``ended`` is called; see ``ISession.closed``.  Those that wait are dropped
      when the broker itself disconnects the client: bind it for
      that, ``peer.bind(session)``: its :meth:`disconnect` is used.

    It is an attrs class, and so must be those built upon it.

    Attributes:
        holds_events: whether events wait until the Deferred has fired; otherwise only
            until ``frame`` has returned.
        holding: whether an event has to wait now.
        slices: lets others have their turn while many frames are worked off; None: they wait.
    """

    holds_events: ClassVar[bool] = True

    _link: ILink
    holding: bool = attrs.field(default=False, init=False)
    slices: Slices | None = attrs.field(default=None, init=False)
    _busy: bool = attrs.field(default=False, init=False)
    _looping: bool = attrs.field(default=False, init=False)
    _backlog: deque[tuple[bytes, bool]] = attrs.field(factory=deque, init=False)
    _backlog_bytes: int = attrs.field(default=0, init=False)
    _paused: bool = attrs.field(default=False, init=False)
    _held: list[tuple[str, Frame]] = attrs.field(factory=list, init=False)
    _held_bytes: int = attrs.field(default=0, init=False)
    _finished: Deferred[None] | None = attrs.field(default=None, init=False)

    # What a subclass implements

    def frame(self, data: bytes, binary: bool) -> Deferred[Any] | None:
        """Begin what a frame asks for; None: the next frame need not wait.

        An exception, and a Deferred that fails, is a bug: it is logged, and the link is closed with 1011.
        """
        raise NotImplementedError

    def overrun(self, data: bytes, binary: bool) -> None:
        """Refuse a frame because too much waits before it."""
        self._link.close(CloseCode.TRY_AGAIN_LATER, "too many frames at once")

    def ended(self) -> None:
        """Give back what the session holds: the connection has ended, and no frame is left; once."""

    # ISession

    def received(self, data: bytes, binary: bool) -> None:
        """Begin a frame, or keep it until those before it are done."""
        if not self._busy:
            self._begin(data, binary)
        elif len(self._backlog) >= MAX_BACKLOG_FRAMES or self._backlog_bytes >= MAX_BACKLOG_BYTES:
            self.overrun(data, binary)
        else:
            self._backlog.append((data, binary))
            self._backlog_bytes += len(data)
            self._link.hold(len(data))
            if not self._paused and self._backlog_exceeds(2):
                self._paused = True
                self._link.pause_receiving()

    def _backlog_exceeds(self, part: int) -> bool:
        return len(self._backlog) * part >= MAX_BACKLOG_FRAMES or self._backlog_bytes * part >= MAX_BACKLOG_BYTES

    def closed(self, code: int, reason: str) -> Deferred[None] | None:
        """Work off the frames that came before the end."""
        if not self._busy:
            self.ended()
            return None
        self._finished = Deferred(lambda _: self._drop_backlog())
        return self._finished.addBoth(self._end)

    # For the dialect and the core

    def disconnect(self, code: int, reason: str) -> None:
        """Close the connection because the broker says so: the client may do nothing more."""
        self._drop_backlog()
        self._link.close(code, reason)

    def hold(self, topic: str, frame: Frame) -> None:
        """Keep the *frame* of an event on *topic* until the answer that is due has gone out.

        A client for which too much is held is closed with 1013.
        """
        if len(self._held) >= MAX_HELD_EVENTS or self._held_bytes >= MAX_HELD_BYTES:
            self._link.close(CloseCode.TRY_AGAIN_LATER, "busy")
            return
        self._held.append((topic, frame))
        self._held_bytes += len(frame.payload)
        self._link.hold(len(frame.payload))

    def release(self, which: Callable[[str], bool] = bool) -> None:
        """Send what is held, of the topics that *which* says yes to, by default all."""
        before, held, self._held, self._held_bytes = self._held_bytes, self._held, [], 0
        for topic, frame in held:
            if which(topic):
                self._link.send_frame(frame)
            else:
                self._held.append((topic, frame))
                self._held_bytes += len(frame.payload)
        self._link.hold(self._held_bytes - before)

    # The order

    def _begin(self, data: bytes, binary: bool) -> None:
        # A store that writes at once brings events about before the answer.
        self._busy = self.holding = True
        try:
            doing = self.frame(data, binary)
        except Exception:
            self._fail(Failure())
            return
        if doing is None:
            self._busy = self.holding = False
            if self._held:
                self.release()
            return
        self.holding = self.holds_events
        if self._held and not self.holding:
            self.release()
        doing.addCallbacks(self._next, self._fail)

    def _next(self, _: object = None, *, in_slice: bool = False) -> None:
        """Send what was held for the answer, then go on with the frames that wait: a long one *in_slice* only."""
        self._busy = self.holding = False
        if self._held:
            self.release()
        if self._looping:  # a frame of the loop below was done at once
            return
        self._looping = True
        end = inf if self.slices is None else self.slices.deadline()
        while self._backlog and not self._busy:
            long = not in_slice and len(self._backlog[0][0]) > MAX_AT_ONCE
            if self.slices is not None and (long or self.slices.now() >= end):
                self._busy = True
                self.slices.add(lambda: self._next(in_slice=True))
                break
            in_slice = False
            data, binary = self._backlog.popleft()
            self._backlog_bytes -= len(data)
            self._link.hold(-len(data))
            self._begin(data, binary)
        self._looping = False
        if self._paused and not self._backlog_exceeds(4):
            self._paused = False
            self._resume()
        if self._finished is not None and not self._busy:
            self._finished.callback(None)

    def _resume(self) -> None:
        """Receive again: there is room for more frames."""
        self._link.resume_receiving()

    def _fail(self, failure: Failure) -> None:
        log.failure("a session failed", failure)
        self._link.close(CloseCode.INTERNAL_ERROR, "internal error")
        self._drop_backlog()
        self._next()

    def _drop_backlog(self) -> None:
        self._link.hold(-self._backlog_bytes)
        self._backlog.clear()
        self._backlog_bytes = 0

    def _end(self, result: Any) -> Any:
        self._finished = None
        self.ended()
        return result


@attrs.define(eq=False)
class FramedSession(OrderedSession):
    """An :class:`OrderedSession` of a stream dialect: finds the frames in the bytes that come.

    A subclass implements :meth:`frame_size`, and :meth:`frame` gets each whole frame, with ``binary`` True.  A
    frame may be as long as ``ILink.max_message_bytes``, which is ``TXBROKER_MAX_MESSAGE_BYTES``.

    It is made of the link and the peer.

    Attributes:
        peer: of the client.
    """

    peer: IPeer
    _buffer: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    _counted: int = attrs.field(default=0, init=False)  # bytes of the buffer that the link knows of
    _splitting: bool = attrs.field(default=False, init=False)
    _broken: bool = attrs.field(default=False, init=False)  # whether no frame is looked for any more

    @property
    def link(self) -> ILink:
        """The connection to the client."""
        return self._link

    def frame_size(self, buffer: bytearray) -> int:
        """Return how many of the first bytes of *buffer*, which has some, are its first frame; 0: it has not all come.

        More than there are is the size of one that has not all come, whose beginning says that.

        Raises:
            BrokerError: they can not be a frame.  See :meth:`malformed`.
        """
        raise NotImplementedError

    def malformed(self, error: BrokerError) -> None:
        """End the connection: what the client sends is no frame, or too long a one."""
        too_large = isinstance(error, TooLarge)
        self._link.close(CloseCode.MESSAGE_TOO_BIG if too_large else CloseCode.PROTOCOL_ERROR, error.message)

    def received(self, data: bytes, binary: bool) -> None:
        """Find the frames that are whole now, and begin them or keep them until those before them are done."""
        if not self._broken:
            self._buffer += data
            self._split()

    def closed(self, code: int, reason: str) -> Deferred[None] | None:
        """Work off the frames that came whole before the end."""
        if not self._splitting:
            self._split(last=True)
        return super().closed(code, reason)

    def _split(self, *, last: bool = False) -> None:
        """Take the whole frames out of the buffer, until others must have their turn; all of the *last* ones."""
        if self._splitting:
            return  # a frame was done at once, or has paused and resumed
        self._splitting = True
        try:
            self._take_frames(last)
        finally:
            self._splitting = False
        held = len(self._buffer) if len(self._buffer) > MIN_HELD else 0
        if held != self._counted:
            self._counted, change = held, held - self._counted
            self._link.hold(change)

    def _take_frames(self, last: bool) -> None:
        end = inf if self.slices is None or last else self.slices.deadline()
        while self._buffer and not self._broken and (last or not self._paused):
            frame = self._next_frame()
            if frame is None:
                return
            was_open = self._link.open
            if last and self._busy:
                self._backlog.append((frame, True))
                self._backlog_bytes += len(frame)
                self._link.hold(len(frame))
            else:
                super().received(frame, True)
            if was_open and not self._link.open:  # what came behind it is not asked for any more
                self._broken = True
                self._buffer.clear()
            if self._buffer and not self._paused and self.slices is not None and self.slices.now() >= end:
                self._pause_splitting(self.slices)

    def _next_frame(self) -> bytes | None:
        """Remove and return the first frame of the buffer; None: it has not all come, or is none."""
        buffer, limit = self._buffer, self._link.max_message_bytes
        try:
            size = self.frame_size(buffer)
            if size > limit or (not 0 < size <= len(buffer) and len(buffer) > limit):
                raise TooLarge("frame")
        except BrokerError as error:
            self._broken = True
            buffer.clear()
            self.malformed(error)
            return None
        if not 0 < size <= len(buffer):
            return None
        frame = bytes(buffer[:size])
        del buffer[:size]
        return frame

    def _pause_splitting(self, slices: Slices) -> None:
        self._paused = True
        self._link.pause_receiving()
        slices.add(self._go_on)

    def _go_on(self) -> None:
        if self._paused and not self._backlog_exceeds(4):
            self._paused = False
            self._resume()

    def _resume(self) -> None:
        self._split()
        if not self._paused:
            super()._resume()

    def _drop_backlog(self) -> None:
        super()._drop_backlog()
        self._broken = True
        self._buffer.clear()
