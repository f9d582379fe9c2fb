"""Jobs for workers without a session, such as those that ask by HTTP: some now, or as soon as there are any.

Such a worker is known by its principal.  It has a job for its lease, wherever its requests come to.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from broker.core.jobs import Jobs
from broker.jobs import Worker
from broker.messages import Delivery, Mail

LOOK_SECONDS = 0.005  # between two looks whether the store has answered
MAX_LOOK_SECONDS = 10.0


@attrs.define(eq=False)
class Claimant:
    """One request for jobs.

    Attributes:
        limit: how many it takes.
        clock: times it.
        deliveries: what it has got.
        id: that of the session of its leases: none, so that they last when this has ended.
    """

    limit: int
    clock: IReactorTime
    deliveries: list[Delivery] = attrs.field(factory=list)
    id: str = ""
    _waiting: Deferred[None] | None = None

    def post_mail(self, mail: Mail) -> bool:
        """Take a job, if there is room."""
        if not isinstance(mail, Delivery) or len(self.deliveries) >= self.limit:
            return False
        self.deliveries.append(mail)
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self.clock.callLater(0, _fire, waiting)  # others come with it
        return True

    def accepts_jobs(self, all_left: bool) -> bool:
        """Whether there is room."""
        return len(self.deliveries) < self.limit

    def hold(self, change: int) -> None:
        """Count nothing: what it has got is in flight when it has ended, and limited as jobs are."""

    async def arrival(self, seconds: float) -> None:
        """Return when there are some, or after so many seconds."""
        if self.deliveries:
            return
        waiting: Deferred[None] = Deferred()
        self._waiting = waiting
        late = self.clock.callLater(seconds, self._late)
        try:
            await waiting
        finally:
            self._waiting = None
            if late.active():
                late.cancel()

    def _late(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)


async def claim_jobs(
    jobs: Jobs,
    clock: IReactorTime,
    queue: str,
    worker: Worker,
    limit: int,
    *,
    lease: float,
    wait: float = 0.0,
    matches: Callable[[bytes], bool] | None = None,
) -> list[Delivery]:
    """Return up to *limit* jobs of *queue*, waiting up to *wait* seconds if there are none.

    Cancelling returns them to the queue.
    """
    claimant = Claimant(limit, clock)
    jobs.consume(claimant, queue, worker, ack=True, prefetch=limit, lease=lease, matches=matches)
    try:
        await _settled(jobs, queue, claimant)
        if wait > 0:
            await claimant.arrival(wait)
    except CancelledError:
        jobs.stop_consuming(claimant, queue)  # before: else it would get them again
        for delivery in claimant.deliveries:
            jobs.leases.undelivered(delivery.id)
        raise
    finally:
        jobs.stop_consuming(claimant, queue)
    return claimant.deliveries


async def _settled(jobs: Jobs, queue: str, claimant: Claimant) -> None:
    """Return when the store has said whether it has jobs for *claimant*."""
    clock = claimant.clock
    end = clock.seconds() + MAX_LOOK_SECONDS
    while jobs.is_claiming(claimant, queue) and not claimant.deliveries and clock.seconds() < end:
        await deferLater(clock, LOOK_SECONDS)


def _fire(waiting: Deferred[None]) -> None:
    if not waiting.called:
        waiting.callback(None)
