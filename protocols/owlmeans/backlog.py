"""What a client does not get at once, because it reads more slowly than events come.

Stored events wait in the store: its subscriptions go on from there when it has read what it was sent.  Of others the
newest are kept, and it is told how many were dropped.  Nothing else is ever held back or dropped.
"""

from __future__ import annotations

from collections import deque
from functools import partial

import attrs
from twisted.internet.interfaces import IReactorTime

from broker.interfaces import ILink, IPeer
from broker.messages import Event, Frame, Loss
from protocols.owlmeans import wire

MAX_TOPICS = 1000  # whose dropped events are counted apart from those of others
BURST_LIMIT = 16  # times the limit: what may be kept for as long as a client may be slow


@attrs.define(eq=False)
class Backlog:
    """The events that wait for one client.

    Args:
        peer: follows what is stored.
        link: the way out.
        clock: for how long it has been slow.
        max_bytes: that may wait to be sent.
        max_events: stored events that may be sent before the client has read them.
        grace: seconds for which ``BURST_LIMIT`` times as many bytes of other events are kept.
    """

    _peer: IPeer
    _link: ILink
    _clock: IReactorTime
    _max_bytes: int
    _max_events: int
    _grace: float
    _frames: deque[tuple[str, Frame]] = attrs.field(factory=deque)  # of events that are not stored, with their topics
    _size: int = 0  # bytes of them
    _dropped: dict[str, int] = attrs.field(factory=dict)  # events by topic
    _began: float = 0.0  # when the first of them had to wait
    _sent: int = 0  # stored events, while it is slow

    def add(self, event: Event, pattern: str) -> None:
        """Send *event*, which has come by a plain subscription, if there is room; else let it wait."""
        frame: Frame = event.render(wire.event, pattern)
        if not self._frames and self._has_room(frame):
            self._link.send_frame(frame)
        elif self.wait_in_store(event, pattern):
            self._wait()
        else:
            self._keep(event.topic, pattern, frame)

    def wait_in_store(self, event: Event, pattern: str) -> bool:
        """Have *event*, if it is stored, and all after it read when the peer resumes; say whether that is so."""
        return self._peer.fall_behind(event, pattern, partial(self.offer, pattern, ""), self.report_loss)

    def offer(self, pattern: str, cursor: str, event: Event) -> bool:
        """Send *event* of the subscription to *pattern* by *cursor*, if there is room; see ``IPeer.follow``."""
        link = self._link
        if not link.open:
            return False
        if not event.id:
            self.add(event, pattern)
            return True
        frame: Frame = event.render(wire.event, pattern, cursor) if cursor else event.render(wire.event, pattern)
        if not link.paused:
            self._sent = 0  # it has read all
        elif self._sent >= self._max_events or not self._has_room(frame):
            self._wait()
            return False
        else:
            self._sent += 1
        link.send_frame(frame)
        return True

    def report_loss(self, loss: Loss) -> None:
        """Tell the client of stored events that it can not get any more."""
        self._link.send(wire.gap_of(loss))

    def drained(self) -> None:
        """Send what has waited: the client has read all that it was sent."""
        self._sent = 0
        dropped, self._dropped = self._dropped, {}
        for topic, count in dropped.items():
            self._link.send(wire.gap(topic, count))
        frames, before = self._frames, self._size
        while frames and self._has_room(frames[0][1]):
            _, frame = frames.popleft()
            self._size -= frame.size
            self._link.send_frame(frame)
        self._link.hold(self._size - before)
        if frames:
            self._wait()
        self._peer.resume()

    def close(self) -> None:
        """Keep nothing any more."""
        self._link.hold(-self._size)
        self._frames.clear()
        self._dropped.clear()
        self._size = 0

    def _has_room(self, frame: Frame) -> bool:
        link = self._link
        return not link.paused or link.unsent + frame.size <= self._max_bytes

    def _wait(self) -> None:
        self._link.on_drained = self.drained

    def _keep(self, topic: str, pattern: str, frame: Frame) -> None:
        """Keep *frame*, and drop the oldest if that is too much."""
        now = self._clock.seconds()
        if not self._frames:
            self._began = now
        frames, before = self._frames, self._size
        frames.append((topic, frame))
        self._size += frame.size
        limit = self._max_bytes * (BURST_LIMIT if now < self._began + self._grace else 1)
        if self._size > limit and not self._dropped:
            self._peer.slow_consumer("drop")
        while self._size > limit:
            oldest, frame = frames.popleft()
            self._size -= frame.size
            counted = oldest if oldest in self._dropped or len(self._dropped) < MAX_TOPICS else pattern
            self._dropped[counted] = self._dropped.get(counted, 0) + 1
        self._link.hold(self._size - before)
        self._wait()
