"""The changes of keys that a node has missed, while it was not connected to the others.

What is published while nobody is connected is lost.  A shared store keeps the last changes as long as somebody
watches: a node that is connected again reads those after the last that it has got, delivers them, and only then those
that have come since.  If they are not all there any more, it says so.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.core.changes import MAX_SECONDS
from broker.core.slices import slices_of
from broker.errors import BrokerError
from broker.interfaces import ISharedBus, ISharedStore
from broker.messages import Event, revision_of

log = Logger()

MARK = 5.0  # seconds between two looks for how far all changes have come
RETRY = 1.0  # seconds until the store is asked again that was away
UNKNOWN = -1  # what no revision is
MAX_WAITING = 10_000  # changes that wait until those before them were read; if there are more, some are missing


class MissedChanges:
    """Finds the changes that the bus has not brought.

    Args:
        store: keeps the last changes of a space.
        bus: brings them.
        space: of the store.
        clock: times all of that.
        is_stored: whether the change of a key, by its topic, is stored in a log: then the bus itself reads what it
            has missed.
        deliver: called with each change that was missed, and those that have waited for it; it asks ``is_next``.
        lost: called when some can not be had any more.

    Attributes:
        known: the revision up to which all that is watched has come; -1: nobody knows.
        is_idle: whether nothing is missed, as far as is known: each change that comes is the next.
    """

    def __init__(
        self,
        store: ISharedStore,
        bus: ISharedBus,
        space: str,
        clock: IReactorTime,
        is_stored: Callable[[str], bool],
        deliver: Callable[[Event], object],
        lost: Callable[[], object],
    ) -> None:
        self._store, self._bus, self._space, self._clock = store, bus, space, clock
        self._is_stored, self._deliver, self._lost = is_stored, deliver, lost
        self._slices = slices_of(clock)
        self.known, self.is_idle = UNKNOWN, True
        self._marking = False
        self._next_mark = -inf
        self._breaks = 0  # of the connection
        self._waiting: list[Event] | None = None  # what has come since it was connected again
        self._overflows = False  # whether some of that were dropped
        self._delivering = False
        self._read: set[int] = set()  # the revisions of what was read, which the bus may still bring
        self._pause: Deferred[None] | None = None
        self._stopped = False

    def begin(self) -> None:
        """Notice that somebody watches, after a time in which nobody did."""
        self.known, self._next_mark = UNKNOWN, -inf
        self.beat()

    def beat(self) -> None:
        """Find out now and then how far all changes have come.  To be called each second while somebody watches."""
        if not self._marking and self._waiting is None and self._slices.now() >= self._next_mark:
            self._marking = True
            self._next_mark = self._slices.now() + MARK
            Deferred.fromCoroutine(self._mark()).addErrback(_log_failure).addBoth(self._marked)

    async def _mark(self) -> None:
        breaks = self._breaks
        revision = await self._store.revision(self._space)
        await self._bus.received_all()
        if breaks == self._breaks:
            self._reached(revision)
            self._read.clear()
            self.is_idle = self._waiting is None

    def _marked(self, _: object) -> None:
        self._marking = False

    def is_next(self, change: Event) -> bool:
        """Whether *change*, which the bus has brought, is to be delivered now; else it waits, or was delivered."""
        if change.id or self._delivering:
            return True
        if self._waiting is not None:
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append(change)
            else:
                self._overflows = True
            return False
        revision = revision_of(change)
        if revision in self._read:
            return False
        self._reached(revision)
        return True

    def missed(self) -> None:
        """Notice that the bus has not brought all, and is connected again now."""
        self._breaks += 1
        begins, self._waiting = self._waiting is None, []  # those of before the break are read, too
        self.is_idle = False
        if begins:
            Deferred.fromCoroutine(self._recover()).addErrback(_log_failure)

    def forget(self) -> None:
        """Notice that the revisions of before mean nothing any more."""
        self.known = UNKNOWN
        self._read.clear()

    def stop(self) -> None:
        """Leave no timer behind."""
        self._stopped = True
        if self._pause is not None:
            self._pause.cancel()

    async def _recover(self) -> None:
        breaks = -1
        while breaks != self._breaks:
            breaks, self._overflows = self._breaks, False
            try:
                # Then all subscriptions are in effect again.
                await self._bus.received_all()
                changes = await self._changes()
            except BrokerError:
                breaks = -1
                await self._wait()
                continue
            if breaks == self._breaks:
                await self._catch_up(changes, breaks)
        self._waiting = None
        self.is_idle = not self._read

    async def _changes(self) -> list[Event] | None:
        """Return the changes after the last known; None: they are not known any more."""
        if self.known == UNKNOWN:
            return None
        _, changes = await self._store.key_changes(self._space, self.known, MAX_SECONDS)
        return changes

    async def _catch_up(self, changes: list[Event] | None, breaks: int) -> None:
        """Deliver *changes*, then what has waited, until the connection is lost again."""
        if changes is None or self._overflows:
            self._lost()
        await self._deliver_all(changes or [], missed=True)
        while self._waiting and breaks == self._breaks:
            waiting, self._waiting = self._waiting, []
            await self._deliver_all(waiting, missed=False)

    async def _deliver_all(self, changes: list[Event], *, missed: bool) -> None:
        end = self._slices.deadline()
        for change in changes:
            revision = revision_of(change)
            if not (revision in self._read or (missed and self._is_stored(change.topic))):
                self._delivering = True
                try:
                    self._deliver(change)
                finally:
                    self._delivering = False
            if missed:
                self._read.add(revision)
            self._reached(revision)
            end = await self._slices.checked(end)

    def _reached(self, revision: int) -> None:
        self.known = max(self.known, revision)

    async def _wait(self) -> None:
        self._pause = deferLater(self._clock, RETRY)
        if self._stopped:
            self._pause.cancel()
        await self._pause


def _log_failure(failure: Failure) -> None:
    if not failure.check(BrokerError, CancelledError):
        log.failure("changes of keys that were missed could not be read", failure)
