"""Work queues whose jobs are handed out by several nodes, each to its own consumers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.cluster.notifier import QueueNotifier
from broker.core.jobs import Jobs
from broker.errors import BrokerError
from broker.interfaces import ISharedBus
from broker.patterns import QUEUE

log = Logger()


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
        self._awaiting: IDelayedCall | None = None
        self._reviewing = False

    def notify(self, queue: str) -> None:
        """See ``Jobs.notify``."""
        self._notifier.notify(QUEUE + queue)

    async def lives(self, node: str) -> bool:
        """Whether that node has a lease, though it be new, or may be about to renew it."""
        if self._bus.lives(node):
            return True
        may_live = await self._bus.may_live(node)
        if may_live and self._awaiting is None and not self._stopped:
            # If it does not, nothing tells so.
            self._awaiting = self._clock.callLater(self._bus.lease_seconds, self._look_for_it)
        return may_live

    def _look_for_it(self) -> None:
        self._awaiting = None
        self.recover_soon()

    @property
    def may_lease(self) -> bool:
        """Whether this node has a lease: without one, others return what it has."""
        return bool(self._bus.lease)

    def leased(self) -> None:
        """Notice that this node has a lease again."""
        self.recover_soon()
        self.wake_all()

    def review(self) -> None:
        """Look for jobs in flight on nodes that are no more: what one has sent may come after it has ended.

        To be called every few seconds.
        """
        if not self._reviewing and not self._stopped:
            self._reviewing = True
            Deferred.fromCoroutine(self.recover()).addErrback(_review_failed).addBoth(self._reviewed)

    def _reviewed(self, _: object) -> None:
        self._reviewing = False

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
        if self._awaiting is not None:
            self._awaiting.cancel()
            self._awaiting = None


def _review_failed(failure: Failure) -> None:
    if not failure.check(BrokerError):  # else the store is away, and the next look comes soon
        log.failure("jobs in flight were not reviewed", failure)
