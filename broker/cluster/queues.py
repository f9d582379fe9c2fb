"""Queues that several nodes deliver from: one at a time.

The position of a queue also holds a lock: the node that is delivering, and the number of its lease.  It locks with a
compare-and-set, stores the position after the hand-over as a node alone does, and unlocks; when
its lease ends in between, another delivers again what is after the stored position.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import attrs

from broker.cluster.notifier import QueueNotifier
from broker.core.afterwards import afterwards
from broker.core.pauses import Pauses
from broker.core.queues import LOG, POSITION, Queues
from broker.errors import BrokerError, Conflict, NotDone, Unavailable
from broker.interfaces import ISharedBus
from broker.messages import Event, Mail, Quota

LOCK_RETRY = 0.25  # seconds until a node tries again to lock a queue
RETRY_DELAY = 1.0  # seconds until it tries again to unlock one


@attrs.frozen
class State:
    """How far a queue is.

    Attributes:
        position: the id of the last message that was delivered.
        node: the address of the node that is delivering; "" for none.
        lease: the number of the lease under which it does; 0: an older version has not said so.
        epoch: of the store when it locked: one that went back may have a lock that was given back already.
        revision: of the key that holds all of them.
    """

    position: int
    node: str = ""
    lease: int = 0
    epoch: str = ""
    revision: int = 0


class SharedQueues(Queues):
    """Delivers mail or keeps it, on one of several nodes; *use* must be called first."""

    def use(self, bus: ISharedBus, notify: Callable[[str], Awaitable[bool]]) -> None:
        """Be the node of *bus*.

        Args:
            bus: knows the leases.
            notify: notifies the other nodes that something waits in a queue; returns whether all know.
        """
        self._bus, self._notifier = bus, QueueNotifier(self._clock, notify)
        self._locks: dict[str, int] = {}  # the leases under which queues are locked here
        self._pauses = Pauses(self._clock)

    def wake(self, queue: str) -> None:
        """Drain *queue*: another node has stored something there, or has gone."""
        self._unclear(queue)
        self.drain(queue)

    def wake_all(self) -> None:
        """Drain every queue that has consumers here."""
        for queue in list(self._backlogs):
            self.wake(queue)

    def lost(self) -> None:
        """Notice that the store went back: so have its locks, and what was delivered may have to be again."""
        self._locks.clear()
        self.wake_all()

    def stop(self) -> None:
        """Cancel all timers."""
        super().stop()
        self._notifier.stop()
        self._pauses.stop()

    # The other nodes.

    async def _keep(self, mail: Mail, quota: Quota | None) -> tuple[Event, bool]:
        try:
            kept = await super()._keep(mail, quota)
        except Unavailable:
            self._notifier.notify(mail.queue)  # it may be stored all the same
            raise
        self._notifier.notify(mail.queue)
        return kept

    # The lock.

    async def move(self, queue: str, put: Callable[[Mail, str], Awaitable[object]]) -> None:
        """See ``Queues.move``; a no-op while another node delivers from *queue*."""
        lease = self._bus.lease
        if not lease or not await self._lock_surely(queue, lease):
            return
        await afterwards(super().move(queue, put), partial(self._unlock, queue, lease))

    async def _deliver_batch(self, queue: str) -> bool | None:
        lease = self._bus.lease
        # Most queues are: to see that takes two operations, and to lock them, four more.
        if lease and await self._is_empty(queue):
            return True
        if lease and await self._lock_surely(queue, lease):
            return await afterwards(super()._deliver_batch(queue), partial(self._unlock, queue, lease))
        self._drain_later(queue, LOCK_RETRY)
        return None

    async def _is_empty(self, queue: str) -> bool:
        """Whether nothing is left to deliver, or being delivered: a position moves after the hand-over."""
        position, _ = await self._position(queue)
        return not await self._store.read(LOG + queue, position, 1)

    def _may_deliver(self, queue: str) -> bool:
        if self._locks.get(queue) == self._bus.lease:
            return True
        self._drain_later(queue, LOCK_RETRY)
        return False

    async def _lock_surely(self, queue: str, lease: int) -> bool:
        """Lock *queue*, unless another node has; when that is not known, it is not locked."""
        try:
            locked = await self._lock(queue, lease)
        except Exception:  # the answer may be lost
            await self._unlock(queue, lease)
            raise
        if locked:
            self._locks[queue] = lease
        return locked

    async def _lock(self, queue: str, lease: int) -> bool:
        while True:
            state = await self._state(queue)
            if not await self._is_free(queue, state):
                return False
            ours = attrs.evolve(state, node=self._bus.address, lease=lease, epoch=self._store.epoch)
            # In another epoch by now, it would be none.
            if await self._change(queue, ours) and ours.epoch == self._store.epoch:
                return True

    async def _is_free(self, queue: str, state: State) -> bool:
        # One of this node is left from an earlier lease: it delivers from a queue once at a time.
        if state.node in ("", self._bus.address):
            return True
        if not self._holds(state):
            try:
                await self._bus.holders([queue])  # if it has come just now, it is known after this
            except NotDone as error:
                if not error.retry_after:
                    raise
        return not self._holds(state)

    def _holds(self, state: State) -> bool:
        """Whether the lease under which the queue was locked has not ended; a later one may not be known here yet."""
        if state.epoch and state.epoch != self._store.epoch:
            return False
        lease = self._bus.lease_of(state.node)
        return lease > 0 and (not state.lease or state.lease >= lease)

    async def _unlock(self, queue: str, lease: int) -> None:
        """Give the lock of *queue* back, however often that fails: while *lease* lasts, nobody else can deliver."""
        self._locks.pop(queue, None)
        while self._bus.lease in (0, lease):
            try:
                if await self._unlocked(queue):
                    return
            except BrokerError:
                await self._pauses.pause(RETRY_DELAY)

    async def _unlocked(self, queue: str) -> bool:
        state = await self._state(queue)
        return state.node != self._bus.address or await self._change(queue, attrs.evolve(state, node=""))

    # The position.

    async def _advance(self, queue: str, upto: int, epoch: str) -> bool:
        while (state := await self._state(queue)).position < upto:
            if epoch != self._store.epoch:  # other messages have these ids now, or will
                return False
            if not state.position and await self._begins_after(queue, upto):
                return False
            if await self._change(queue, attrs.evolve(state, position=upto)):
                if epoch != self._store.epoch:
                    await self._go_back(queue, upto, state.position)
                    return False
                await self._store.trim(LOG + queue, upto)
                return True
        return False

    async def _go_back(self, queue: str, moved: int, position: int) -> None:
        """Store *position* again, which was *moved* when the store had just gone back."""
        while (state := await self._state(queue)).position == moved:
            if await self._change(queue, attrs.evolve(state, position=position)):
                return

    async def _position(self, queue: str) -> tuple[int, int]:
        state = await self._state(queue)
        return state.position, state.revision

    async def _state(self, queue: str) -> State:
        entry = await self._store.get(POSITION, queue)
        if entry is None:
            return State(0)
        position, node, lease, epoch, *_ = (*entry.value.decode().split(" "), "", "", "")
        return State(int(position), node, int(lease or 0), epoch, entry.revision)

    async def _change(self, queue: str, state: State) -> bool:
        """Write *state*, which was made of what ``_state`` has found; False when that is out of date."""
        text = f"{state.position} {state.node} {state.lease} {state.epoch}" if state.node else str(state.position)
        try:
            await self._store.set(POSITION, queue, text.encode(), revision=state.revision, expires=self._end())
        except Conflict:
            return False
        return True
