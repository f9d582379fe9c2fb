"""Work queues whose jobs are handed out by several nodes, each to its own consumers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from broker.cluster.notifier import QueueNotifier
from broker.core.jobs import Jobs
from broker.interfaces import ISharedBus
from broker.patterns import QUEUE


class SharedJobs(Jobs):
    """Adds jobs and hands them out, on one of several nodes; *use* must be called first."""

    def use(self, bus: ISharedBus, notify: Callable[[str], Awaitable[bool]]) -> None:
        """Be the node of *bus*.

        Args:
            bus: knows the leases.
            notify: notifies the other nodes that something waits in a queue, named with its kind; returns whether all
                know.
        """
        self._bus, self._notifier = bus, QueueNotifier(self._clock, notify)

    def notify(self, queue: str) -> None:
        """See ``Jobs.notify``."""
        self._notifier.notify(QUEUE + queue)

    async def lives(self, node: str) -> bool:
        """Whether that node has a lease."""
        if not self._bus.lives(node):
            await self._bus.holders([node])  # if it has come just now, it is known after this
        return self._bus.lives(node)

    async def recover(self) -> None:
        """See ``Jobs.recover``; a no-op while this node does not know which others there are."""
        if self._bus.lease:
            await super().recover()

    def lost(self) -> None:
        """Notice that the store went back: what is in flight may have to be delivered again."""
        self.leases.forget()
        self.leases.check(delivered=True)
        self.wake_all()

    def departed(self, _: str) -> None:
        """Notice that the lease of a node has ended."""
        self.recover_soon()
        self.wake_all()

    def stop(self) -> None:
        """See ``Jobs.stop``."""
        super().stop()
        self._notifier.stop()
