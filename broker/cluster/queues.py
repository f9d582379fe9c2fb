"""Queues that several nodes deliver from: one at a time.

The position of a queue also holds a lock: the node that is delivering.  It locks with a
compare-and-set, stores the position after the hand-over as a node alone does, and unlocks; when
it dies in between, another delivers again what is after the stored position.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IDelayedCall

from broker.core.queues import LOG, POSITION, Queues
from broker.errors import Conflict
from broker.messages import Mail, Quota

LOCK_RETRY = 0.25  # seconds until a node tries again to lock a queue


@attrs.frozen
class State:
    """How far a queue is.

    Attributes:
        position: the id of the last message that was delivered.
        node: the address of the node that is delivering; "" for none.
        revision: of the key that holds both.
    """

    position: int
    node: str
    revision: int


class SharedQueues(Queues):
    """Delivers mail or keeps it, on one of several nodes; *use* must be called first."""

    def use(self, address: str, lives: Callable[[str], bool], notify: Callable[[str], object]) -> None:
        """Be the node of *address*.

        Args:
            address: of this node.
            lives: whether the node of an address is alive.
            notify: notifies the other nodes that something waits in a queue.
        """
        self._address, self._lives, self._notify = address, lives, notify
        self._later: dict[str, IDelayedCall] = {}

    def wake(self, queue: str) -> None:
        """Drain *queue*: another node has stored something there, or has gone."""
        self._unclear(queue)
        self.drain(queue)

    def wake_all(self) -> None:
        """Drain every queue that has consumers here."""
        for queue in list(self._backlogs):
            self.wake(queue)

    async def _keep(self, mail: Mail, quota: Quota | None) -> bool:
        dropped = await super()._keep(mail, quota)
        self._notify(mail.queue)
        return dropped

    def stop(self) -> None:
        """Cancel all timers."""
        for timer in self._later.values():
            timer.cancel()
        self._later.clear()

    async def _deliver_batch(self, queue: str) -> bool | None:
        if not await self._lock(queue):
            if queue not in self._later:
                self._later[queue] = self._clock.callLater(LOCK_RETRY, self._retry, queue)
            return None
        try:
            return await super()._deliver_batch(queue)
        finally:
            await self._unlock(queue)

    def _retry(self, queue: str) -> None:
        del self._later[queue]
        self.wake(queue)

    async def _lock(self, queue: str) -> bool:
        while True:
            state = await self._state(queue)
            if state.node not in ("", self._address) and self._lives(state.node):
                return False
            if await self._change(queue, state, state.position, self._address):
                return True

    async def _unlock(self, queue: str) -> None:
        while (state := await self._state(queue)).node == self._address:
            if await self._change(queue, state, state.position, ""):
                return

    async def _advance(self, queue: str, upto: int) -> bool:
        while (state := await self._state(queue)).position < upto:
            if not state.position and await self._begins_after(queue, upto):
                return False
            if await self._change(queue, state, upto, state.node):
                await self._store.trim(LOG + queue, upto)
                return True
        return False

    async def _position(self, queue: str) -> tuple[int, int]:
        state = await self._state(queue)
        return state.position, state.revision

    async def _state(self, queue: str) -> State:
        entry = await self._store.get(POSITION, queue)
        if entry is None:
            return State(0, "", 0)
        position, _, node = entry.value.partition(b" ")
        return State(int(position), node.decode(), entry.revision)

    async def _change(self, queue: str, state: State, position: int, node: str) -> bool:
        """Write the position and the lock; False when *state* is out of date."""
        try:
            text = f"{position} {node}".strip().encode()
            await self._store.set(POSITION, queue, text, revision=state.revision, expires=self._end())
        except Conflict:
            return False
        return True
