"""TCP connections that send what one iteration of the reactor produced in one system call.

Twisted's ``transport.write`` only notes the bytes and asks the reactor to be
told when the socket is writable: two system calls and one more iteration before
the first byte leaves.  :class:`FrameTransport` offers ``send_frame`` beside it, which
collects frames until the :class:`Outbox` is flushed and then calls ``send`` once.
What the kernel does not take goes the ordinary way, from the same buffer, so that
order, ``loseConnection``, half-close and producers are Twisted's own.

Twisted's own iteration wraps each read in a logging context and looks three times at what
kind of event it was.  :class:`ReactorLoop` reads a connection that has something to
read and does nothing else for it; every other kind of event takes Twisted's slow path.  What
all those reads have caused leaves at the end of the iteration, so that a service that many
call gets one ``send`` for all of them.

This uses private names of Twisted (:data:`PRIVATE_NAMES`, :data:`LOOP_NAMES`); it was tested
with the versions in :data:`TESTED_VERSIONS`.  Where a name is missing, or an endpoint is not
plain TCP, connections are ordinary ones and :func:`sockets.writer_for` gives their ``write``, and the
iteration is Twisted's: slower, otherwise the same.
"""

from __future__ import annotations

import select
import sys
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

from twisted.internet import main, tcp
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.log import callWithLogger

from broker.core.memory import Account
from broker.core.slices import ITERATION, READ_SLICE, SLICE, slices_of
from broker.web.net.probes import is_probe, peek
from broker.web.net.tcp_info import bytes_of

log = Logger()

TESTED_VERSIONS = "Twisted 26.4 to 26.10"
PRIVATE_NAMES = (
    "_tempDataBuffer",
    "_tempDataLen",
    "_writeDisconnected",
    "_writeDisconnecting",
    "_aborting",
    "_maybePauseProducer",
)
LOOP_NAMES = ("_poller", "_selectables", "_doReadOrWrite", "_disconnectSelectable")  # of its EPollReactor
HANG_UP = select.EPOLLHUP | select.EPOLLERR
CHECKED = 4  # connections that are read between two looks at the time
NOBODY: frozenset[int] = frozenset()  # was late
MAX_PROBES = 16  # probes of health that are read in one iteration though its time is over
READ_BYTES = 65536  # bytes asked for in one recv
FLUSH_BYTES = 65536  # bytes collected before they are sent without waiting for the outbox
FEW_SENDS = 1000  # connections that are flushed before the first look at the time: an event for as many goes at once
CHECKED_SENDS = 16  # and between two looks
CLOSING = 0.002  # seconds in which connections are closed after a flush, of those with an answer and of the others
CHECKED_CLOSES = 4  # so many are closed between two looks at the time
MAX_FLUSHED = 4 << 20  # bytes of long frames sent in one iteration
MAX_KEPT = 4 << 20  # bytes of different long frames that wait for a later one


class FrameTransport(tcp.Server):
    """A TCP connection with ``send_frame``.

    Attributes:
        queue_limit: bytes that may wait for the kernel before ``overflowed`` is
            called; one frame of any size may come on top.
        overflowed: called once when more waits; None to let it grow.
        transferred: once it has ended, how many bytes have come and gone; None: that is not known.
        may_probe: whether it may ask for the health of the daemon: its client has not used anything else yet.
    """

    queue_limit: int = sys.maxsize
    overflowed: Callable[[], object] | None = None
    transferred: tuple[int, int] | None = None
    may_probe = True
    _in_outbox = False

    server: Any  # the FramePort
    _tempDataBuffer: list[bytes]
    _tempDataLen: int

    def send_frame(self, data: bytes) -> None:
        """Queue *data* for the next flush; a no-op once the connection is closed."""
        self._tempDataBuffer.append(data)
        self._tempDataLen = collected = self._tempDataLen + len(data)
        if not self._in_outbox:
            self._in_outbox = True
            self.server.outbox.add(self)
        if collected > FLUSH_BYTES and not self.server.outbox.keeps(data):
            # One handler may send more than the limit: it must see `paused` before it is done.
            self.flush_frames()

    def pause_above(self, size: int) -> None:
        """Pause the producer when more than *size* bytes wait, if that is less than what Twisted does it for."""
        self.bufferSize = min(self.bufferSize, size)

    def flush_frames(self) -> None:
        """Send what was collected, in one system call; called by the outbox."""
        self._in_outbox = False
        collected = self._tempDataBuffer
        if not collected:
            return
        if not self.connected or self._writeDisconnected or self._aborting:
            collected.clear()
            self._tempDataLen = 0
            return
        if self.dataBuffer:
            # The kernel was full before: doWrite goes on in order when it has room.
            self._count_unsent()
            self._apply_backpressure(len(collected[-1]) if collected else 0)
            return
        data = collected[0] if len(collected) == 1 else b"".join(collected)
        try:
            sent = self.socket.send(data)
        except OSError:
            # No room, or an error: doWrite will meet that again, and report it.
            sent = 0
        collected.clear()
        self._tempDataLen = 0
        if sent < len(data):
            self.dataBuffer = data
            self.offset = sent
            self.startWriting()
            self._count_unsent()
            self._apply_backpressure(len(data))
        if sent > FLUSH_BYTES:
            self.server.outbox.flushed += sent

    def loseConnection(self, *arguments: Any) -> None:
        """Close when everything is sent, without waiting until the reactor sees that there is room to write."""
        super().loseConnection(*arguments)
        self.server.outbox.close_soon(self)

    def loseWriteConnection(self) -> None:
        """Shut down the side that writes when everything is sent, as soon as that."""
        super().loseWriteConnection()
        self.server.outbox.close_soon(self)

    def finish(self) -> None:
        """Do what was asked for by ``loseConnection`` or ``loseWriteConnection``, if everything is sent.

        The client may wait for the end of its answer.
        """
        if self.connected and not (self._aborting or self._writeDisconnected or self.dataBuffer or self._tempDataLen):
            end = self.doWrite()
            if end:
                self.stopReading()
                self.stopWriting()
                self.connectionLost(Failure(end))

    def doRead(self) -> Any:
        """Deliver what one recv returns, then flush every connection that it caused frames on.

        Returns None, or the reason to disconnect, as Twisted's ``doRead`` does.
        """
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not data:
            return main.CONNECTION_DONE
        outbox = self.server.outbox
        if outbox.busy:  # the reactor loop flushes after it has read every ready connection
            self.protocol.dataReceived(data)
            return None
        outbox.busy = True
        try:
            self.protocol.dataReceived(data)
        finally:
            outbox.busy = False
            outbox.flush()
        return None

    def doWrite(self) -> Any:
        """Send more of what the kernel had no room for; return as Twisted's ``doWrite`` does."""
        end = super().doWrite()
        self._count_unsent()
        return end

    def connectionLost(self, reason: Failure) -> None:
        """Note what has passed, and drop the overflow callback, which refers to the protocol."""
        if hasattr(self, "socket"):  # else it is told twice of its end, as when it was aborted meanwhile
            self.transferred = bytes_of(self.socket)
        self.overflowed = None
        self._drop_unsent()
        super().connectionLost(reason)

    def abortConnection(self) -> None:
        """End the connection with a reset, and drop at once what was to be sent.

        As Twisted's, but many that are ended at once end in slices.
        """
        if self.disconnected or self._aborting:
            return
        self._aborting = True
        self.stopReading()
        self.stopWriting()
        self.doRead = self.doWrite = lambda: None  # type: ignore[method-assign]
        self._drop_unsent()
        slices_of(self.reactor).add(lambda: self.connectionLost(Failure(ConnectionAborted())))

    # Memory

    @property
    def address(self) -> str:
        """See ``memory.Holder``."""
        return str(self.client[0])

    def shed(self) -> None:
        """Let the protocol end the connection: too much waits."""
        shed = getattr(self.protocol, "shed", None)
        if shed is None:
            self.abortConnection()
        else:
            shed()

    def drop_frames(self) -> int:
        """Drop every frame that waits, but for one of which a part is sent; return the bytes that are left."""
        self._tempDataBuffer.clear()
        self._tempDataLen = 0
        self._count_unsent()
        return len(self.dataBuffer) - self.offset

    def _drop_unsent(self) -> None:
        self.dataBuffer, self.offset = b"", 0
        self._tempDataBuffer.clear()
        self._tempDataLen = 0
        self._count_unsent()

    def _count_unsent(self) -> None:
        # Not from the offset on: what was sent of it is kept as well.
        account = self.server.outbox.unsent
        if account is not None:
            account.hold(self, len(self.dataBuffer) + self._tempDataLen)

    def _apply_backpressure(self, newest: int) -> None:
        """Pause the producer and report an overflow; *newest* bytes belong to the last frame."""
        if not self.producerPaused:
            self._maybePauseProducer()
        overflowed = self.overflowed
        if overflowed is None:
            return
        if len(self.dataBuffer) - self.offset + self._tempDataLen - newest > self.queue_limit:
            self.overflowed = None
            overflowed()


class Outbox:
    """Connections with unsent frames, so that what one loop iteration queues leaves in one send.

    While an inbound chunk is worked on (``busy`` is true) the connections that
    get frames are only collected here, and whoever set ``busy`` flushes at its end.  A
    frame from anywhere else — a timer, a thread's callback, a store's answer —
    schedules a flush in the reactor's next iteration.  Code that sends need not
    know which of the two it is, so it can not forget to flush.

    Make one for all ports of a daemon: a frame that a chunk of one port causes
    on a connection of another then leaves at the end of that chunk too.

    Attributes:
        busy: whether the caller that set it will flush when it is done.
        flushed: bytes of long frames sent since the present flush began.
        unsent: where the bytes are counted that the kernel does not take; None for nowhere.

    Args:
        clock: the reactor, or a ``task.Clock``.
        unsent: see above.
    """

    __slots__ = (
        "_answered",
        "_clock",
        "_closing",
        "_kept",
        "_kept_bytes",
        "_late",
        "_long",
        "_scheduled",
        "_senders",
        "_slices",
        "busy",
        "flushed",
        "unsent",
    )

    def __init__(self, clock: IReactorTime, unsent: Account | None = None) -> None:
        self._clock = clock
        self._slices = slices_of(clock)
        self.unsent = unsent
        self._senders: list[FrameTransport] = []
        self._late: deque[FrameTransport] = deque()  # for which the iteration before had no time
        self._long: deque[FrameTransport] = deque()  # whose long frames are sent in a later iteration
        self._kept: dict[int, bytes] = {}  # long frames that wait, or have waited since none did
        self._kept_bytes = 0
        self._answered: deque[FrameTransport] = deque()  # to be closed, when their clients have been told something
        self._closing: deque[FrameTransport] = deque()  # the same, of others, for whose end nobody waits
        self._scheduled: IDelayedCall | None = None
        self.busy = False
        self.flushed = 0

    def add(self, sender: FrameTransport) -> None:
        """Have *sender* flushed; it is added at most once until then."""
        self._senders.append(sender)
        if not self.busy and self._scheduled is None:
            self._schedule()

    def keeps(self, data: bytes) -> bool:
        """Whether *data*, a long frame, may wait for a flush: the time is over, and few such frames wait.

        One handler may send it to very many; of what they share there is one copy only.
        """
        size = len(data)
        if size <= FLUSH_BYTES or not self._slices.over():
            return False
        kept = self._kept
        if id(data) not in kept:
            if self._kept_bytes + size > MAX_KEPT:
                return False
            kept[id(data)] = data
            self._kept_bytes += size
        return True

    def flush(self) -> None:
        """Flush every sender, those included that are added meanwhile.

        What takes long is flushed later: many long frames, and the rest of very many senders; who is added until
        then does not wait for those.  So are very many connections closed.
        """
        self.flushed = 0
        if self._long:
            self._flush_long()
        end = self._flush_new()
        if self._late:
            self._flush_late(end)
        if self._answered:
            self._close(self._answered)
        if self._closing:
            self._close(self._closing)
        if self._long or self._late or self._senders or self._answered or self._closing:
            self._schedule()
        if self._kept and not self._long:
            self._kept.clear()
            self._kept_bytes = 0

    def _flush_new(self) -> float:
        """Flush those that were added; return when the time for all is over, 0.0 if they were few."""
        unchecked, end = FEW_SENDS, 0.0
        while self._senders:
            senders, self._senders = self._senders, []
            for place, sender in enumerate(senders, 1):
                self._flush_one(sender)
                if self.flushed > MAX_FLUSHED:
                    self._put_off_long(senders[place:])
                    break
                unchecked -= 1
                if not unchecked:
                    unchecked, now = CHECKED_SENDS, self._slices.now()
                    end = end or now + SLICE
                    if now >= end:
                        self._late.extend(senders[place:])
                        break
        return end

    def _flush_late(self, end: float) -> None:
        """Flush those that had to wait, in their order, but only some when the time is over at *end*."""
        late, now = self._late, self._slices.now
        end = end or now() + SLICE
        for number in range(1, len(late) + 1):
            self._flush_one(late.popleft())
            if not number % CHECKED_SENDS and now() >= end:
                break

    @staticmethod
    def _flush_one(sender: FrameTransport) -> None:
        try:
            sender.flush_frames()
        except Exception:
            # A producer or an overflow callback failed: its own connection's loss only.
            log.failure("flushing a connection failed")
            sender.abortConnection()

    def _put_off_long(self, senders: list[FrameTransport]) -> None:
        """Go on with those of *senders* that have no long frame: they need not wait for the others."""
        short: list[FrameTransport] = []
        for sender in senders:
            (self._long if sender._tempDataLen > FLUSH_BYTES else short).append(sender)
        self._senders[:0] = short
        self.flushed = 0

    def _flush_long(self) -> None:
        long = self._long
        while long and self.flushed < MAX_FLUSHED:
            self._flush_one(long.popleft())

    def _close(self, closing: deque[FrameTransport]) -> None:
        """Close those of *closing*, as many as there is time for."""
        now = self._slices.now
        end = now() + CLOSING
        for number in range(1, len(closing) + 1):
            sender = closing.popleft()
            try:
                sender.finish()
            except Exception:
                log.failure("closing a connection failed")
                sender.abortConnection()
            if not number % CHECKED_CLOSES and now() >= end:
                break

    def close_soon(self, sender: FrameTransport) -> None:
        """Have *sender* closed after the next flush.

        A client that has been told something may wait for the end of it: it does not wait for those that are dropped.
        """
        (self._answered if sender._tempDataLen else self._closing).append(sender)
        if not self.busy:
            self._schedule()

    def _schedule(self) -> None:
        if self._scheduled is None:
            self._scheduled = self._clock.callLater(0, self._flush_scheduled)

    def _flush_scheduled(self) -> None:
        self._scheduled = None
        self.flush()


class ReactorLoop:
    """Replaces one reactor's ``doIteration`` between ``install`` and ``remove``.

    Args:
        reactor: a Twisted ``EPollReactor``; any other is left alone.
        outbox: flushed at the end of each iteration.
    """

    def __init__(self, reactor: Any, outbox: Outbox) -> None:
        self._reactor = reactor
        self._outbox = outbox
        self._slices = slices_of(reactor)
        self._late: list[int] = []  # descriptors for which the iteration before had no time

    def install(self) -> bool:
        """Replace ``doIteration``; return whether the reactor is of a kind that allows it."""
        reactor = self._reactor
        if type(reactor).__name__ != "EPollReactor" or not all(hasattr(reactor, name) for name in LOOP_NAMES):
            log.info("the reactor loop is Twisted's own: {kind} is not supported", kind=type(reactor).__name__)
            return False
        reactor.doIteration = self.poll
        return True

    def remove(self) -> None:
        """Restore the reactor's own ``doIteration``; idempotent."""
        if vars(self._reactor).get("doIteration") == self.poll:
            del self._reactor.doIteration

    def poll(self, timeout: float | None) -> None:
        """Wait up to *timeout* seconds (None: without limit), then handle every ready descriptor."""
        reactor, outbox = self._reactor, self._outbox
        selectables = reactor._selectables
        # PEP 475: a signal does not end the wait, unless its handler raises.
        events = reactor._poller.poll(-1 if timeout is None else timeout, len(selectables))
        outbox.busy = True
        slices, late = self._slices, self._late
        waited, probes = NOBODY, MAX_PROBES
        if late:
            # Those first, in the same order, and behind them who has become ready since.
            waited, ready = frozenset(late), dict(events)
            events = [(descriptor, ready.pop(descriptor)) for descriptor in late if descriptor in ready]
            events += ready.items()
            late.clear()
        over, unchecked, now = False, CHECKED, slices.now
        began = now()
        slices.iteration_end = began + ITERATION
        slices.end = end_of_slice = began + READ_SLICE  # as ``begin`` does, for less
        try:
            for descriptor, event in events:
                selectable = selectables.get(descriptor)
                if type(selectable) is not FrameTransport:
                    if event & HANG_UP and slices.over():
                        late.append(descriptor)
                    elif event == select.EPOLLIN and isinstance(selectable, tcp.Connection):
                        self._read(selectable)
                    elif selectable is not None:
                        callWithLogger(selectable, reactor._doReadOrWrite, selectable, descriptor, event)
                    continue
                if over:
                    # Who is late again is no probe, or one of too many.
                    asked = probes and selectable.may_probe and descriptor not in waited
                    if not (asked and is_probe(peek(selectable.socket))):
                        late.append(descriptor)  # epoll reports it again
                        continue
                    probes -= 1
                if event == select.EPOLLIN:
                    # What ``_read`` does: most events are this one.
                    try:
                        end = selectable.doRead()
                    except Exception:
                        # As Twisted does: a fault of one connection's protocol ends that connection.
                        log.failure("a connection failed")
                        end = sys.exc_info()[1]
                    if end:
                        self._disconnect(selectable, end)
                else:
                    callWithLogger(selectable, reactor._doReadOrWrite, selectable, descriptor, event)
                unchecked -= 1
                if not unchecked:
                    over, unchecked = now() >= end_of_slice, CHECKED
        finally:
            slices.end = inf
            outbox.busy = False
            outbox.flush()

    def _read(self, selectable: Any) -> None:
        try:
            end = selectable.doRead()
        except Exception:
            log.failure("a connection failed")
            end = sys.exc_info()[1]
        if end:
            self._disconnect(selectable, end)

    def _disconnect(self, selectable: Any, end: Any) -> None:
        """End a connection that has been closed: with many at once in slices."""
        reactor, slices = self._reactor, self._slices
        if not slices.over():
            reactor._disconnectSelectable(selectable, end, True)
            return
        reactor.removeReader(selectable)

        def disconnect() -> None:
            if not selectable.disconnected:  # it may have been dropped meanwhile
                reactor._disconnectSelectable(selectable, end, True)

        slices.add(disconnect)
