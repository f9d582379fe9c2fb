"""Jobs for workers without a session, such as those that ask by HTTP: some now, or as soon as there are any.

Such a worker is known by its principal.  It has a job for its lease, wherever its requests come to.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from broker.core.jobs import CLAIM_BYTES, Jobs
from broker.errors import NotDone
from broker.jobs import Worker
from broker.messages import Delivery, Mail

MAX_LOOK_SECONDS = 10.0  # in which the store says whether there are any
LEASE_SECONDS = 2.0  # in which this node gets its lease among the others, if it has none


@attrs.define(eq=False)
class Claimant:
    """One request for jobs.

    Attributes:
        limit: how many it takes.
        clock: times it.
        count: called with the bytes that are held for it more, or fewer.
        deliveries: what it has got.
        id: that of the session of its leases: none, so that they last when this has ended.
    """

    limit: int
    clock: IReactorTime
    count: Callable[[int], object]
    deliveries: list[Delivery] = attrs.field(factory=list)
    id: str = ""
    _bytes: int = 0  # of their bodies
    _held: int = 0
    _idle: bool = False
    _late: bool = False
    _waiting: Deferred[None] | None = None

    def post_mail(self, mail: Mail) -> bool:
        """Take a job, if there is room."""
        if not isinstance(mail, Delivery) or len(self.deliveries) >= self.limit:
            return False
        self.deliveries.append(mail)
        self._bytes += len(mail.body)
        self.hold(len(mail.body))
        self._wake()
        return True

    def accepts_jobs(self, all_left: bool) -> bool:
        """Whether there is room."""
        return len(self.deliveries) < self.limit and self._bytes < CLAIM_BYTES

    def hold(self, change: int) -> None:
        """Count bytes that are held until this has ended; what is in flight then is limited as jobs are."""
        self._held += change
        self.count(change)

    def idle(self) -> None:
        """Notice that the store is asked for no jobs for this any more."""
        self._idle = True
        self._wake()

    async def wait(self, seconds: float, *, until_idle: bool) -> None:
        """Return when there are some, after so many seconds, or, with *until_idle*, when none are asked for."""
        self._idle = self._late = False
        late = self.clock.callLater(seconds, self.end_wait)
        try:
            while not (self.deliveries or self._late or (until_idle and self._idle)):
                self._waiting = Deferred()
                await self._waiting
        finally:
            self._waiting = None
            if late.active():
                late.cancel()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self.clock.callLater(0, _fire, waiting)  # others come with it

    def end_wait(self) -> None:
        """Return what there is now; a no-op when it does not wait."""
        self._late = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def end(self) -> list[Delivery]:
        """Return what it has got, and hold nothing any more."""
        self.hold(-self._held)
        deliveries, self.deliveries = self.deliveries, []
        return deliveries


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
    hold: Callable[[int], object] = lambda _: None,
) -> list[Delivery]:
    """Return up to *limit* jobs of *queue*, waiting up to *wait* seconds if there are none.

    Cancelling returns them to the queue.  *hold* is called with the bytes that are held meanwhile, more or fewer.

    Raises:
        Unavailable: nobody knows whether there are any.
    """
    claimant = Claimant(limit, clock, hold)
    jobs.consume(claimant, queue, worker, ack=True, prefetch=limit, lease=lease, matches=matches, on_idle=claimant.idle)
    try:
        if not jobs.may_lease:
            wait = max(wait, LEASE_SECONDS)  # it may have just begun
        if jobs.is_claiming(claimant, queue):
            await claimant.wait(MAX_LOOK_SECONDS, until_idle=True)
        if wait > 0:
            jobs.claimants[claimant] = None
            try:
                await claimant.wait(wait, until_idle=False)
            finally:
                del jobs.claimants[claimant]
        problem = None if claimant.deliveries else jobs.problem_of(queue)
    except BaseException:  # cancelled, above all
        jobs.stop_consuming(claimant, queue)  # before: else it would get them again
        for delivery in claimant.deliveries:
            jobs.leases.undelivered(delivery.id)
        claimant.end()
        raise
    jobs.stop_consuming(claimant, queue)
    for delivery in claimant.deliveries:
        jobs.leases.detach(delivery.id)
    if problem is not None:
        raise NotDone(problem.what, message=problem.message)
    return claimant.end()


def end_claims(jobs: Jobs) -> None:
    """Let all claims that wait return what there is now, perhaps nothing."""
    for claimant in list(jobs.claimants):
        claimant.end_wait()


def _fire(waiting: Deferred[None]) -> None:
    if not waiting.called:
        waiting.callback(None)
