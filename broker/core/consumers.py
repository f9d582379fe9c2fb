"""The consumers of one work queue, and whom its next jobs go to.

That is the one with the most room; of several, the one that has had as much for the longest.  To find it takes as
many steps with one consumer as with ten thousand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs

from broker.core.acknowledgements import Taken
from broker.jobs import Worker
from broker.messages import Mail


class Taker(Protocol):
    """What jobs need of a peer."""

    @property
    def id(self) -> str:
        """The session id."""

    def post_mail(self, mail: Mail) -> Taken:
        """Hand *mail* to the client; False: it does not accept it now."""

    def accepts_jobs(self, all_left: bool) -> bool:
        """Whether a job can be sent now, and, if asked for, all that was sent before has left."""

    def hold(self, change: int) -> None:
        """Count bytes that are held for the client."""


@attrs.define(eq=False)
class Consumer:
    """One who takes the jobs of a queue.

    Attributes:
        peer: who that is.
        queue: which.
        ack: whether it acknowledges.
        prefetch: how many jobs it may have at once; without *ack*, how many may wait to leave for it.
        lease: seconds for which it has one.
        worker: what it is for the store.
        matches: says which payloads it takes; None: all.
        on_idle: called when the store has said whether there is anything for it; None: that is not asked for.
        taken: how many it has, or were sent since all had left.
        claiming: how many the store is asked for.
        looked: up to which number no job that was ready matched.
        declined: whether it has declined one, and was not heard of since.
        gone: whether it takes no more.
        listed: under how much room ``ByRoom`` has it; 0: it has it not.
    """

    peer: Taker
    queue: str
    ack: bool
    prefetch: int
    lease: float
    worker: Worker
    matches: Callable[[bytes], bool] | None = None
    on_idle: Callable[[], object] | None = None
    taken: int = 0
    claiming: int = 0
    looked: int = 0
    declined: bool = False
    gone: bool = False
    listed: int = 0

    def room(self) -> int:
        """Return for how many jobs there is room, if it ``accepts`` any."""
        if self.gone or self.declined:
            return 0
        taken = self.taken if self.ack or self.taken < self.prefetch else 0
        return max(0, self.prefetch - taken - self.claiming)

    def accepts(self) -> bool:
        """Whether it can be sent a job now; if not, its peer says when to ask again."""
        full = not self.ack and self.taken >= self.prefetch
        if not self.peer.accepts_jobs(full):
            return False
        if full:
            self.taken = 0
        return True


class ByRoom:
    """Those of some consumers that have room, by how much.

    A consumer stands under the room that it had when it was offered last, which is never less than it has now: only
    who gets more room must be offered again.
    """

    __slots__ = ("_by_room", "_max_room")

    def __init__(self) -> None:
        self._by_room: list[dict[Consumer, None]] = []
        self._max_room = 0  # nobody has more

    def offer(self, consumer: Consumer) -> None:
        """Notice that *consumer* may have more room than before."""
        room = consumer.room()
        if room > consumer.listed:
            self._list(consumer, room)

    def _list(self, consumer: Consumer, room: int) -> None:
        """Let *consumer* stand under *room*, as the last; 0: nowhere."""
        by_room = self._by_room
        if consumer.listed:
            del by_room[consumer.listed][consumer]
        consumer.listed = room
        if not room:
            return
        while len(by_room) <= room:
            by_room.append({})
        by_room[room][consumer] = None
        if room > self._max_room:
            self._max_room = room

    def remove(self, consumer: Consumer) -> None:
        """Forget *consumer*, until it is offered again; a no-op for one without room."""
        self._list(consumer, 0)

    def first(self) -> Consumer | None:
        """Return whom the next job goes to; None: nobody has room."""
        while (consumer := self._first_listed()) is not None:
            room = consumer.room()
            if room < consumer.listed:
                self._list(consumer, room)
            elif consumer.accepts():
                return consumer
            else:
                self.remove(consumer)
        return None

    def _first_listed(self) -> Consumer | None:
        while self._max_room:
            for consumer in self._by_room[self._max_room]:
                return consumer
            self._max_room -= 1
        return None

    def choose(self, limit: int) -> list[Consumer]:
        """Return whom the next jobs go to, at most *limit*, and count each as asked for."""
        chosen: list[Consumer] = []
        while self._max_room and len(chosen) < limit and (consumer := self.first()) is not None:
            consumer.claiming += 1
            chosen.append(consumer)
        return chosen


class Consumers(dict[Consumer, None]):
    """The consumers of one queue.

    It is read as a dict, whose keys they are, and changed by its methods.

    Attributes:
        filtering: those that take some jobs only.
        acknowledging: how many of the others acknowledge.
    """

    def __init__(self) -> None:
        super().__init__()
        self.filtering: dict[Consumer, None] = {}
        self.acknowledging = 0
        self._by_room = {True: ByRoom(), False: ByRoom()}  # the others, by whether they acknowledge

    def add(self, consumer: Consumer) -> None:
        """Let *consumer* be one of them."""
        self[consumer] = None
        if consumer.matches is not None:
            self.filtering[consumer] = None
            return
        self.acknowledging += consumer.ack
        self.offer(consumer)

    def remove(self, consumer: Consumer) -> None:
        """Let *consumer* be none of them any more."""
        consumer.gone = True
        del self[consumer]
        if consumer.matches is not None:
            del self.filtering[consumer]
            return
        self.acknowledging -= consumer.ack
        self._by_room[consumer.ack].remove(consumer)

    def offer(self, consumer: Consumer) -> None:
        """Notice that *consumer* may have more room than before, or accepts jobs again."""
        if consumer.matches is None and not consumer.gone:
            self._by_room[consumer.ack].offer(consumer)

    def choose(self, ack: bool, limit: int) -> list[Consumer]:
        """Return whom the next jobs go to of those that acknowledge, or do not; see ``ByRoom.choose``."""
        return self._by_room[ack].choose(limit)

    def first(self) -> Consumer | None:
        """Return whom the next job goes to that everybody takes; None: nobody has room."""
        acknowledging, others = self._by_room[True].first(), self._by_room[False].first()
        if acknowledging is None or others is None:
            return acknowledging or others
        return max(acknowledging, others, key=Consumer.room)
