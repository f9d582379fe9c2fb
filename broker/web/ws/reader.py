"""Reading frames: a fast path for what clients nearly always send.

Complete, unfragmented, masked text and binary frames, pings and pongs are taken out
of a chunk by :meth:`FrameReader._read_fast`.  Fragments, errors, compression and
the closing handshake are Autobahn's own code, and with ``fast_path`` off everything
is; both behave alike, which a test with random streams shows.  The one
difference is when: text that is no UTF-8 is noticed here once its frame is whole.

Where the accelerator was built, it finds the data frames: :meth:`FrameReader._read_compiled`.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

from twisted.internet.interfaces import IReactorTime

from broker.core.memory import Holder, Memory
from broker.core.slices import Slices
from broker.interfaces import ISession
from broker.messages import HttpRequest
from broker.web.ws.autobahn import CLOSED, OPEN, AutobahnCore
from broker.web.ws.masking import unmask
from broker.web.ws.options import Traffic

# First bytes of unfragmented frames, RFC 6455, 5.2: FIN, no extension bits, opcode.
TEXT = 0x81
BINARY = 0x82
PING = 0x89
PONG = 0x8A
# Second bytes: 5.2 again, the mask bit and the length, or how many bytes hold it.
MASKED = 0x80
TWO_BYTES = 0xFE
EIGHT_BYTES = 0xFF

SHORT = 512  # bytes that are handled at once, however long others have taken
MAX_READING = 16384  # bytes that wait, up to which more is read
MIN_COUNTED = 4096  # bytes of an incomplete message, from which on they are counted
MAX_FAST_BYTES = 65535  # bytes of a payload on the fast path: what two bytes can say
FAST_NAMES = frozenset(("data", "current_frame", "inside_message"))  # of Autobahn's, that this needs


class FrameReader(AutobahnCore):
    """The receiving half of a link.

    Attributes:
        session: what receives the messages.
        handshake: the request that opened the connection; its peer tells whether the client is admitted.
        clock: the reactor, or a ``task.Clock``.
        traffic: where bytes are counted.
        alive: set when bytes come; cleared by the heartbeat.
        receiving: whether the session wants messages; while not, what was read is kept in ``data``.
        complete: whether ``message_data`` is a whole message, that waits for a later slice.
        postponed: whether what was read waits for a later slice of the reactor's time.
        slices: says when, so that nobody else waits for the messages of one client.
        fast_path: whether there is one.
        fast: whether frames take it now: nothing that was read waits.
        max_fast_bytes: the longest payload on the fast path, in bytes.
        read_frames: the accelerator's; None: ``_read_fast`` is the fast path.
        memory: where the bytes of incomplete messages are counted.
    """

    clock: ClassVar[IReactorTime]
    traffic: ClassVar[Traffic]
    fast_path: ClassVar[bool]
    fast: bool
    max_fast_bytes: ClassVar[int]
    read_frames: ClassVar[Any]  # mypy takes a function of a class for a method
    slices: ClassVar[Slices]
    memory: ClassVar[Memory]

    session: ISession
    handshake: HttpRequest
    alive = False
    receiving = True
    complete = False
    postponed = False
    counted = False  # whether ``memory`` knows of an incomplete message
    message_data: Any = None

    def session_failed(self) -> None:
        """Close the connection: the session raised the exception that is being handled."""
        raise AssertionError("a link handles this")

    def pause_receiving(self) -> None:
        """Stop reading, so that TCP makes the client wait."""
        if self.state == OPEN and self.receiving:
            self.receiving = self.fast = False
            self.transport.pauseProducing()

    def resume_receiving(self) -> None:
        """Read again: first, in an iteration of its own, what was read before the pause."""
        if not self.receiving:
            self.receiving = True
            self._choose_path()
            self.clock.callLater(0, self._receive_again)

    def _choose_path(self) -> None:
        self.fast = self.fast_path and self.receiving and not self.postponed

    def _receive_again(self) -> None:
        if self.receiving and not self.postponed and self.state != CLOSED:
            self.dataReceived(b"")
        if self.receiving and not self.postponed and self.state != CLOSED:
            self.transport.resumeProducing()

    def _postpone(self) -> None:
        """Go on in a later slice: other connections have waited long enough."""
        self.postponed, self.fast = True, False
        # Most send nothing more until they are answered, and to stop reading costs a system call.
        if self.complete or len(self.data) > MAX_READING:
            self.transport.pauseProducing()
        self.slices.add(self._go_on, message=True)

    def _go_on(self) -> None:
        self.postponed = False
        self._choose_path()
        if self.complete:
            self._deliver()
        self._receive_again()

    def receive_rest(self) -> bool:
        """Deliver what was read before a pause: the connection has ended; say whether that is all, for now."""
        self.receiving = True
        self._choose_path()
        if self.state == OPEN and self.data and not self.postponed:
            self.dataReceived(b"")
        return not self.postponed

    def dataReceived(self, data: bytes) -> None:
        """Read *data* on the fast path as far as possible, and the rest with Autobahn."""
        self.alive = True
        self.traffic.bytes_in += len(data)
        kept = self.data
        if kept:
            data = kept + data
            self.data = b""
        if (
            self.fast
            and self.state == OPEN
            and self.current_frame is None
            and not self.inside_message
            and (len(data) <= SHORT or self.slices.allows(SHORT))
        ):
            read = self._read_fast if self.read_frames is None else self._read_compiled
            while read(data):
                if not self._read_slow(True):
                    kept = data
                    break
                data, self.data = self.data, b""
            if kept or self.data:
                self._count_if_long()
        else:
            self._receive_slowly(data)

    def _receive_slowly(self, data: bytes) -> None:
        """Read *data* with Autobahn, or keep it."""
        if not self.receiving or self.postponed:
            self.data = data
            self.transport.pauseProducing()
        elif len(data) > SHORT and not self.slices.allows(SHORT):
            self.data = data
            self._postpone()
        elif self.state != CLOSED:
            self.data = data
            self._read_slow(False)
        self._count_if_long()

    def _count_if_long(self) -> None:
        if len(self.data) >= MIN_COUNTED or self.message_data or self.counted:
            self.count_received()

    def count_received(self) -> None:
        """Count what was received of a message that is not complete."""
        size = len(self.data) + len(self.message_data or b"")
        if size < MIN_COUNTED or self.state == CLOSED:
            size = 0
        self.counted = size > 0
        peer = self.handshake.peer
        upload, holder = self.memory.upload, cast(Holder, self)  # a link is a whole holder
        upload.hold(holder, size)  # it may be shed by that
        self.memory.unadmitted.hold(holder, 0 if peer is None or peer.admitted else upload.of(holder))

    def _read_fast(self, data: bytes) -> bool:
        """Deliver the complete data frames that *data* begins with and keep the rest.

        Returns:
            Whether what is kept needs the slow path; otherwise it is nothing,
            or a part of a frame.
        """
        received = self.session.received
        slices = self.slices
        limit = self.max_fast_bytes
        position, end, slow, over = 0, len(data), True, False
        while end - position >= 2:
            first = data[position]
            size = data[position + 1]
            if first != TEXT and first != BINARY:
                stop = self._read_ping(data, position)
                if not stop or stop > end:
                    slow = not stop
                    break
                position, over = stop, slices.now() >= slices.end
                if over:
                    break
                continue
            if size < MASKED or size == EIGHT_BYTES:
                break
            if size < TWO_BYTES:
                size &= 0x7F
                start = position + 6
            else:
                if end - position < 8:
                    slow = False
                    break
                size = data[position + 2] << 8 | data[position + 3]
                start = position + 8
                if size <= 125:
                    # 5.2: "the minimal number of bytes MUST be used to encode the length".
                    break
            stop = start + size
            if size > limit or stop > end:
                slow = size > limit
                break
            payload = unmask(data[start:stop], data[start - 4 : start])
            if first == TEXT and not (payload.isascii() or is_utf8(payload)):
                break
            position = stop
            try:
                received(payload, first == BINARY)
            except Exception:
                self.session_failed()
            over = position < end and slices.now() >= slices.end
            if over or self.state != OPEN or not self.receiving:
                break
        else:
            slow = False
        return self._keep(data, position, over) and slow

    def _read_compiled(self, data: bytes) -> bool:
        """Do what ``_read_fast`` does, with the accelerator."""
        position, end, slow = 0, len(data), True
        while True:
            frames = self.read_frames(data, position, self.max_fast_bytes)
            over = self._receive(frames, end)
            position = frames.position
            if over or self.state != OPEN or not self.receiving:
                break
            slow = frames.slow
            if not slow:
                break
            stop = self._read_ping(data, position)
            if not stop or stop > end:
                slow = not stop
                break
            position, over = stop, self.slices.over()
            if over:
                break
        return self._keep(data, position, over) and slow

    def _receive(self, frames: Any, end: int) -> bool:
        """Deliver *frames* of *end* bytes, as far as they are wanted now; say whether the slice is over."""
        received, slices = self.session.received, self.slices
        for payload, binary in frames:
            try:
                received(payload, binary)
            except Exception:
                self.session_failed()
            if slices.now() >= slices.end and frames.position < end:
                return True
            if self.state != OPEN or not self.receiving:
                break
        return False

    def _keep(self, data: bytes, position: int, over: bool) -> bool:
        """Keep what *data* has from *position* on; say whether that can be read at once, as it can not if *over*."""
        rest = position < len(data)
        if rest:
            self.data = data[position:] if position else data
        if over:
            self._postpone()
        return rest and not over

    def _read_ping(self, data: bytes, position: int) -> int:
        """Answer the ping, or drop the pong, at *position* of *data*.

        Returns:
            Where it ends, perhaps beyond the end of *data* (then nothing was
            done); 0 when it is another frame, or a wrong one.
        """
        first, size = data[position], data[position + 1]
        if first not in (PING, PONG) or not MASKED <= size < TWO_BYTES:
            return 0
        start = position + 6
        stop = start + (size & 0x7F)
        if first == PING and stop <= len(data):
            self.sendPong(unmask(data[start:stop], data[start - 4 : start]))
        return stop

    def _read_slow(self, one: bool) -> bool:
        """Let Autobahn read ``data``: to its end, or only until *one* message is complete.

        Returns:
            Whether the fast path can go on.
        """
        while self.state != CLOSED and self.receiving and not self.postponed and self.processData():
            if self.complete:
                return False
            if self.data and self.slices.over():
                self._postpone()
                return False
            if one and self.current_frame is None and not self.inside_message and self.state == OPEN:
                return True
        return False

    def onMessageFrameData(self, payload: bytes) -> None:
        """Keep a part of a fragment, so that many small or empty ones cost no more than their bytes."""
        if not self.failedByMe:
            self.message_data = self.message_data or bytearray()  # Autobahn begins with a list
            self.message_data += payload

    def onMessageFrame(self, payload: Any) -> None:
        """Do nothing: its parts are kept already."""

    def onMessageEnd(self) -> None:
        """Deliver a message of Autobahn's, unless the connection is closing."""
        if self.message_data and not self.slices.allows(len(self.message_data)):
            self.complete = True
            self._postpone()
        else:
            self._deliver()

    def _deliver(self) -> None:
        message, self.message_data, self.complete = self.message_data, None, False
        if self.state != OPEN:
            return
        try:
            self.session.received(bytes(message), self.message_is_binary)
        except Exception:
            self.session_failed()


def is_utf8(text: bytes) -> bool:
    """Whether *text* is UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
