"""A link: messages between two nodes arrive exactly once and in order, as long as both keep their leases.

The bus may lose a message, bring it late, or not know whether it was sent.  So each message has a
number.  The receiver drops those that it had already, acknowledges those that it has, and
asks again when one is missing; the sender keeps what is not acknowledged.  One frame is under way at
a time, and what is sent meanwhile goes with the next.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any, Protocol, TypeAlias

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.errors import BrokerError

log = Logger()

MAX_FRAME_BYTES = 1 << 20  # bytes of the messages of one frame, unless a single one has more
MAX_FRAME_MESSAGES = 1000
MANY = 16  # messages from which on a frame waits for more that the next loop iteration may bring
MAX_HELD_BACK = 2  # iterations for which it does at most
ACK_MESSAGES = 5000  # messages that are acknowledged at once, without a wait for something to send along
TICK = 0.1  # seconds between two looks at what a link has to do; for so long an acknowledgement waits
RETRY = 0.25  # seconds until a frame is sent again that has surely or perhaps not arrived
ASK_TICKS = 10  # without an acknowledgement, until the other side is asked for one
UNKNOWN_TICKS = 50  # for which a node may be unknown to this one: it began after the last renewal
MAX_BYTES = 1 << 25  # bytes that one link keeps; the double for what must not be refused
UNCOUNTED_BYTES = 1 << 16  # that a link may keep more than it has counted

ASK = 1  # in ``Frame.flags``: acknowledge at once
MISSING = 2  # in ``Frame.flags``: send again what follows ``ack``


class Frame(msgspec.Struct, array_like=True):
    """What travels between two nodes: messages in a row, and how far those of the other side have come.

    Attributes:
        lease: number of the sender's lease.
        to: number of the receiver's, 0 when the sender does not know it.
        link: the sender's number of the link; a later link of it has a larger one.
        peer: the receiver's number of it; negative or 0 when the sender does not know it: then that
            of the last one that has ended there.
        ack: number of the last message that has arrived.
        first: number of the first message here, or of the next one if there is none.
        flags: ``ASK``, ``MISSING``, both or 0.
        messages: an array of them.
    """

    lease: int
    to: int
    link: int
    peer: int
    ack: int
    first: int
    flags: int
    messages: msgspec.Raw


# A message, what its sender knows it by, or None, and its bytes, about.
Entry: TypeAlias = tuple[object, object, int]


class ILinkOwner(Protocol):
    """What a link needs of all links of its node; see ``broker.cluster.links``."""

    clock: IReactorTime

    def lease_of(self, address: str) -> int:
        """Return the number of another node's lease, as far as it is known; 0: there is none."""

    def transmit(self, link: Link, ack: int, first: int, flags: int, messages: list[object]) -> Deferred[bool]:
        """Send a frame; fire with whether it was handed over.  A failure says that nobody knows."""

    def on_messages(self, link: Link, messages: list[Any]) -> None:
        """Take the next messages of the node of *link*, until that is closed; must not raise."""

    def on_refused(self, address: str, token: Any) -> bool:
        """Say whether to forget the message of *token*, which has surely not arrived, instead of trying again."""

    def end(self, link: Link, reason: str, *, again: bool = False) -> None:
        """Break *link*; with *again*, begin the next one at once, which tells the other side."""

    def hold(self, link: Link, size: int) -> None:
        """Count *size* bytes for *link*."""


class Link:
    """One link, as this node sees it.

    Args:
        links: all of this node.
        address: of the other node.
        number: of this link, here.
        to: number of the other node's lease, 0 when it is not known.

    Attributes:
        peer: the other side's number of the link, 0 while it is not known.
        closed: whether it is broken.
        kept: how many messages are kept.
        bytes: that they have.
        waiting: messages that have surely not arrived.
        limit: how many bytes may be kept until they are counted again.
        due: whether a frame is sent anyway: at the end of this loop iteration, or when the present one was answered.
    """

    def __init__(self, links: ILinkOwner, address: str, number: int, to: int) -> None:
        self.node, self.number, self.to, self.peer = address, number, to, 0
        self.address = ""  # for the accounts of memory: it is no client, and has no share
        self.closed = self.due = False
        self.kept = self.bytes = 0
        self.limit = UNCOUNTED_BYTES
        self.waiting: deque[Entry] = deque()
        self._links = links
        self._clock = links.clock
        self._base = 1  # number of the first message that is not acknowledged
        self._sent: deque[Entry] = deque()  # that may have arrived
        self._flying: deque[Entry] = deque()  # that are sent for the first time, now
        self._again: int | None = None  # number of the next of those that is sent again; None: none is
        self._in_flight = False  # whether the bus has a frame
        self._received = 0  # number of the last message that has arrived
        self._acknowledged = 0  # the same, as the other side was told
        self._flags = 0  # for the next frame
        self._gathered = 0  # how many messages waited when the next frame was held back last
        self._held_back = 0  # for how many iterations
        self._retry_at = 0.0
        self._missed_at = -1  # the number before the hole that the other side was told of last
        self._quiet_ticks = 0  # without progress
        self._ticks = 0  # while the other node is unknown to this one
        self._counted = 0
        self._flush: IDelayedCall | None = None
        self._timer: IDelayedCall | None = None

    # To the other side.

    def put(self, message: object, token: object, size: int) -> None:
        """Send *message*, of *size* bytes, after those before it."""
        self.waiting.append((message, token, size))
        self.kept += 1
        self.bytes += size
        if not self.due:
            self.wake()
        if self.bytes > self.limit:
            self._count()

    def wake(self, flags: int = 0) -> None:
        """Send a frame at the end of this loop iteration, or when the present one was answered."""
        self._flags |= flags
        if self._flush is None and not self._in_flight and not self._retry_at:
            self._flush = self._clock.callLater(0, self._gather)
            self.due = True
        if self._timer is None:
            self._timer = self._clock.callLater(TICK, self._tick)

    def send_waiting(self) -> None:
        """Send what waits at once, if no frame is under way."""
        if self.waiting and not self._in_flight:
            self._send()

    def _gather(self) -> None:
        """Send; when much comes at present, not before an iteration has brought nothing, but after a few at most.

        Half of what a message to another node costs is that of its frame, so that more in each pays, in time, too.
        """
        waiting, gathered = len(self.waiting), self._gathered
        if MANY <= waiting < MAX_FRAME_MESSAGES and waiting > gathered and self._held_back < MAX_HELD_BACK:
            self._gathered = waiting
            self._held_back += 1
            self._flush = self._clock.callLater(0, self._gather)
        else:
            self._send()

    def _send(self) -> None:
        self._gathered = self._held_back = 0
        if self._flush is not None and self._flush.active():
            self._flush.cancel()
        self._flush = None
        self.due = True
        first, messages = self._next() if self._again is None else self._resent(self._again)
        flags, self._flags = self._flags, 0
        self._in_flight = True
        self._count()
        if self.closed:  # too much was kept
            return
        acknowledged, self._acknowledged = self._acknowledged, self._received
        sent = self._links.transmit(self, self._received, first, flags, messages)
        sent.addCallbacks(self._answered, self._failed, (first, flags, acknowledged), errbackArgs=(flags,))

    def _next(self) -> tuple[int, list[object]]:
        """Return the number of the first message that was not sent yet, and those of the next frame."""
        waiting, flying, size = self.waiting, self._flying, 0
        if not flying and self.bytes < MAX_FRAME_BYTES and len(waiting) <= MAX_FRAME_MESSAGES:
            self.waiting, self._flying = flying, waiting  # all of them
            return self._base + len(self._sent), [message for message, _, _ in waiting]
        while waiting and size < MAX_FRAME_BYTES and len(flying) < MAX_FRAME_MESSAGES:
            entry = waiting.popleft()
            size += entry[2]
            flying.append(entry)
        return self._base + len(self._sent), [message for message, _, _ in flying]

    def _resent(self, first: int) -> tuple[int, list[object]]:
        """Return the same of those that are sent again, of which *first* is the next."""
        messages: list[object] = []
        size, index = 0, max(0, first - self._base)
        first = self._base + index
        for message, _, length in islice(self._sent, index, index + MAX_FRAME_MESSAGES):
            if size >= MAX_FRAME_BYTES:
                break
            size += length
            messages.append(message)
        self._again = first + len(messages)
        if self._again >= self._base + len(self._sent):
            self._again = None
        return first, messages

    def _answered(self, received: bool, first: int, flags: int, acknowledged: int) -> None:
        """Go on after the bus has said whether the other node has got a frame."""
        self._in_flight = self.due = False
        if self.closed:
            return
        if received:
            self._sent.extend(self._flying)
            self._flying.clear()
            if self._again is not None or self._flags:
                self._send()
            elif self.waiting:
                self.due = True
                self._gather()
            return
        self._flags |= flags
        self._acknowledged = acknowledged
        self._delay()
        if self._flying:
            self._refused()
        elif first < self._base + len(self._sent):
            self._again = first if self._again is None else min(self._again, first)

    def _failed(self, failure: Failure, flags: int) -> None:
        """Go on after the bus has said that it does not know."""
        if failure.check(BrokerError) is None:
            log.failure("a message to node {node} could not be sent", failure, node=self.node)
        self._in_flight = self.due = False
        if self.closed:
            return
        self._sent.extend(self._flying)
        self._flying.clear()
        if self._sent:
            self._again = self._base
        self._flags |= flags | ASK
        self._delay()

    def _delay(self) -> None:
        self._retry_at = self._clock.seconds() + RETRY
        if self._timer is None:
            self._timer = self._clock.callLater(TICK, self._tick)

    def _refused(self) -> None:
        """Keep those messages of the frame, and after it, that their senders do not take back."""
        self.waiting.extendleft(reversed(self._flying))
        self._flying.clear()
        gone: set[int] = set()
        for entry in list(self.waiting):
            if entry[1] is not None and self._links.on_refused(self.node, entry[1]):
                gone.add(id(entry))
                self.kept -= 1
                self.bytes -= entry[2]
            if self.closed:
                return
        if gone:
            self.waiting = deque(entry for entry in self.waiting if id(entry) not in gone)

    # From the other side.

    def on_frame(self, frame: Frame, messages: list[Any]) -> None:
        """Take what the other side has sent over this link; *messages* are those of *frame*, decoded."""
        if frame.ack >= self._base:
            self._trim(frame.ack)
        if frame.flags & MISSING and self._sent:
            self._again = self._base
            self.wake()
        number = frame.first
        if number > self._received + 1:
            self._ask_again(frame.flags & ASK)
            return
        new = messages[max(0, self._received + 1 - number) :]
        if new:
            self._received += len(new)
            self._links.on_messages(self, new)
            if self.closed:
                return
        if frame.flags & ASK or self._received - self._acknowledged >= ACK_MESSAGES:
            self.wake()
        elif messages and self._timer is None:
            self._timer = self._clock.callLater(TICK, self._tick)

    def _trim(self, upto: int) -> None:
        """Forget the messages up to the number *upto*: they have arrived."""
        self._quiet_ticks = 0
        base, size = self._base, 0
        for entries in (self._sent, self._flying):
            if base + len(entries) - 1 <= upto:  # all of them, as a rule
                base += len(entries)
                size += sum([length for _, _, length in entries])
                entries.clear()
            while entries and base <= upto:
                size += entries.popleft()[2]
                base += 1
        self.kept -= base - self._base
        self.bytes -= size
        self._base = base
        if not self._sent:
            self._again = None
        self._count()

    def missed(self) -> None:
        """Ask for what may have been lost: this node was not reachable."""
        self._ask_again(ASK)

    def _ask_again(self, asked: int) -> None:
        """Ask for what follows the last message, unless that was done and the other side has not *asked*."""
        if asked or self._missed_at != self._received:
            self._missed_at = self._received
            self.wake(MISSING)

    # What time does.

    def _tick(self) -> None:
        self._timer = None
        if self._is_unknown():
            self._links.end(self, "its node is not known")
            return
        if self._retry_at and self._clock.seconds() >= self._retry_at:
            self._retry_at = 0.0
            self.wake()
        elif self._received != self._acknowledged:
            self.wake()
        self._quiet_ticks += 1
        if self._quiet_ticks >= ASK_TICKS and (self._sent or not self.peer):
            self._quiet_ticks = 0
            self.wake(ASK)
        if self._timer is None and self._has_work():
            self._timer = self._clock.callLater(TICK, self._tick)

    def _has_work(self) -> bool:
        """Whether something is to be sent, acknowledged or found out."""
        return bool(
            self.kept
            or self._in_flight
            or self._retry_at
            or self._received != self._acknowledged
            or not self.peer
            or self._ticks >= 0
        )

    def _is_unknown(self) -> bool:
        """Whether the other node has not shown up among those that live for too long; else ``departed`` ends it."""
        if self._ticks >= 0:
            known = self._links.lease_of(self.node)
            self._ticks = -1 if known else self._ticks + 1
        return self._ticks > UNKNOWN_TICKS

    # Its end.

    def shed(self) -> None:
        """Break it: too much memory is used."""
        self._links.end(self, "too much waits for that node", again=True)

    def close(self) -> list[Any]:
        """Drop everything; return the tokens of the messages that have surely not arrived."""
        self.closed = True
        for timer in (self._flush, self._timer):
            if timer is not None and timer.active():
                timer.cancel()
        self._flush = self._timer = None
        self.due = False
        unsent = [token for _, token, _ in self.waiting if token is not None]
        for entries in (self._sent, self._flying, self.waiting):
            entries.clear()
        self.kept = self.bytes = 0
        self._count()
        return unsent

    def _count(self) -> None:
        if self.bytes != self._counted:
            self._counted = self.bytes
            self.limit = min(self.bytes + UNCOUNTED_BYTES, MAX_BYTES)
            self._links.hold(self, self.bytes)
