"""The jobs that workers of this node have: until when, and what becomes of them then.

A lease is timed by the clock that can not be set.  A worker that has gone returns its jobs at once; one with a client
id has some seconds to come back, and may then finish what it had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.core.deadlines import Deadlines
from broker.core.pauses import Pauses
from broker.core.slices import slices_of
from broker.core.uncancelled import outcome_of, uncancelled
from broker.errors import BrokerError, NotDone, NotFound, Unavailable
from broker.interfaces import IStore
from broker.jobs import Job, Settled, Worker
from broker.patterns import is_reserved

log = Logger()

GRACE = 5.0  # seconds in which a worker with a client id may come back
BACK_OFF = (1.0, 5.0, 30.0, 120.0)  # seconds after each failure; after more of them, the last
MAX_DELIVERIES = 20  # of one job, however they ended
EXPIRED = "its lease has ended"
RETRY_DELAY, MAX_RETRY_DELAY = 1.0, 30.0  # seconds until the store is asked again, doubled each time
ADOPTED = 500  # jobs in one step
MAX_ADOPTED = 86400.0  # seconds that may be left of a lease: the clock by which it was stored may have been wrong


@attrs.define(eq=False)
class Lease:
    """A job in flight.

    Attributes:
        id: the name of the delivery, as the client has it.
        number, token, queue: of the job.
        worker: who has it.
        session: the id of the session that has it, or had it.
        end: when it ends, by the clock of ``Leases``.
        consumer: whose slot it takes; None: nobody's.
        lost: whether that session has gone.
        bucket: that of ``Deadlines``.
    """

    id: str
    number: int
    token: int
    queue: str
    worker: Worker
    session: str
    end: float
    consumer: Any = None
    lost: bool = False
    bucket: dict[str, float] | None = None


class Leases:
    """Has the leases of this node.

    Args:
        store: keeps the jobs.
        clock: times the leases.
        node: returns the address of this node.
        max_failures: how often a job may fail.
        came_back: whether a client that has gone has come back since, by its id and that of the session.
        freed: called with a consumer that has a slot more.
        settled: called with what has become of a delivery.
    """

    def __init__(
        self,
        store: IStore,
        clock: IReactorTime,
        node: Callable[[], str],
        max_failures: int,
        came_back: Callable[[str, str], Awaitable[bool]],
        freed: Callable[[Any], object],
        settled: Callable[[Settled], object],
    ) -> None:
        self._store, self._clock, self._node = store, clock, node
        self._slices = slices_of(clock)
        self._delays = (*BACK_OFF, *BACK_OFF[-1:] * max_failures)[: max(0, max_failures - 1)]
        self._came_back, self._freed, self._settled = came_back, freed, settled
        self._leases: dict[str, Lease] = {}
        self._sessions: dict[str, dict[str, Lease]] = {}  # by the id of the session
        self._unattended: Counter[str] = Counter()  # of those without a session, how many each client has
        self._unsure: set[str] = set()  # deliveries that may have been extended here, of which nothing is known
        self._deadlines: Deadlines[str] = Deadlines(clock, self._due)
        self._pauses = Pauses(clock)
        self._checks = 0  # that were asked for, since one was done
        self._delivered = False  # whether any of them may find jobs that were delivered
        self._stopped = False

    def __len__(self) -> int:
        return len(self._leases)

    def of(self, session: str) -> int:
        """Return how many jobs the session of that id has."""
        return len(self._sessions.get(session, ()))

    def unattended(self, client: str = "") -> int:
        """Return how many jobs a client has without a session, or all such clients have."""
        return self._unattended[client] if client else self.of("")

    def id_of(self, number: int, token: int) -> str:
        """Return the name of a delivery: no other one has it."""
        return f"{self._store.epoch}-{number}-{token}"

    def queue_of(self, id: str) -> str | None:
        """Return the queue of a job that is in flight here; None: it is not."""
        lease = self._leases.get(id)
        return None if lease is None else lease.queue

    def add(self, job: Job, worker: Worker, session: str, seconds: float, consumer: Any = None) -> str:
        """Let *session* have *job* for so many seconds; return the name of the delivery."""
        id = self.id_of(job.number, job.token)
        end = self._clock.seconds() + seconds
        self._hold(Lease(id, job.number, job.token, job.queue, worker, session, end, consumer), seconds)
        return id

    def _hold(self, lease: Lease, seconds: float) -> None:
        self._leases[lease.id] = lease
        self._sessions.setdefault(lease.session, {})[lease.id] = lease
        lease.bucket = self._deadlines.add(lease.id, seconds)
        if not lease.session:
            self._unattended[lease.worker.client] += 1

    def _forget(self, lease: Lease) -> None:
        if self._leases.get(lease.id) is not lease:
            return
        del self._leases[lease.id]
        others = self._sessions[lease.session]
        del others[lease.id]
        if not others:
            del self._sessions[lease.session]
        if not lease.session:
            self._unattended[lease.worker.client] -= 1
            if not self._unattended[lease.worker.client]:
                del self._unattended[lease.worker.client]
        self._deadlines.drop(lease.id, lease.bucket)
        self._free(lease)

    def _free(self, lease: Lease) -> None:
        consumer, lease.consumer = lease.consumer, None
        if consumer is not None:
            self._freed(consumer)

    # What workers ask for.

    def finish(self, id: str, worker: Worker) -> Deferred[None]:
        """Notice that *worker* has done a job.

        Raises:
            NotFound: it is not the worker's, or not any more.
        """
        lease, epoch, number, token = self._find(id, worker)
        return self._settle(lease, self._store.jobs.finish(number, token, worker.client, epoch=epoch))

    def fail(self, id: str, worker: Worker, reason: str, delay: float | None) -> Deferred[None]:
        """Notice that *worker* has failed; *delay*: seconds until the job comes again, None: as its failures say.

        Raises:
            NotFound: see ``finish``.
        """
        lease, epoch, number, token = self._find(id, worker)
        delays = self._delays if delay is None else (delay,) * len(self._delays)
        answer = self._store.jobs.fail(number, token, worker.client, reason=reason, delays=delays, epoch=epoch)
        return self._settle(lease, answer)

    def _find(self, id: str, worker: Worker) -> tuple[Lease | None, str, int, int]:
        """Return the lease that *worker* has here, or None, and what the store calls the delivery."""
        lease = self._leases.get(id)
        # The store compares the epoch: this node may not have reached it yet, or be the last to know the present one.
        if lease is None or lease.worker.client != worker.client:
            return None, *delivery_of(id)
        return lease, id.partition("-")[0], lease.number, lease.token

    def _settle(self, lease: Lease | None, answer: Deferred[Settled]) -> Deferred[None]:
        """Free the slot at once, so that its next job is claimed in the same step of the store."""
        if lease is not None:
            self._free(lease)
        return outcome_of(answer.addCallbacks(self._on_answer, self._on_refusal, (lease,), errbackArgs=(lease,)))

    def _on_answer(self, settled: Settled, lease: Lease | None) -> None:
        if lease is not None:
            self._forget(lease)
        self._settled(settled)

    def _on_refusal(self, failure: Failure, lease: Lease | None) -> Failure:
        # Else it may be in flight all the same, until the lease has ended.
        if lease is not None and failure.check(NotFound):
            self._forget(lease)
        return failure

    def extend(self, id: str, worker: Worker, session: str, seconds: float) -> Deferred[None]:
        """Let the lease of *worker*, now of *session*, end in so many seconds.

        Raises:
            NotFound: see ``finish``.
        """
        return uncancelled(self._extend(id, worker, session, seconds))

    async def _extend(self, id: str, worker: Worker, session: str, seconds: float) -> None:
        _, epoch, number, token = self._find(id, worker)
        try:
            settled = await self._store.jobs.extend(number, token, worker, seconds, epoch=epoch)
        except NotDone:
            raise
        except Unavailable:
            if id not in self._leases:
                self._unsure.add(id)
                self.until_done(lambda: self._find_extended(id))
            raise
        lease, consumer = self._leases.get(id), None
        if lease is not None:
            consumer, lease.consumer = lease.consumer, None
            self._forget(lease)
        end = self._clock.seconds() + seconds
        self._hold(Lease(id, number, token, settled.queue, worker, session, end, consumer), seconds)

    async def _find_extended(self, id: str) -> None:
        """Have the lease of a job that another node had, if it was extended here although nobody has said so."""
        _, number, token = delivery_of(id)
        found = await self._store.jobs.adopt(self._node(), self._node(), number - 1, 1)
        self._unsure.discard(id)
        for job, named in found:
            left = min(job.until - self._store.wall.time(), MAX_ADOPTED)
            if (job.number, job.token) == (number, token) and id not in self._leases and left > 0:
                self._adopt(job, Worker(job.worker, self._node(), named), left)

    def give_back(self, id: str, worker: Worker, session: str) -> Deferred[None]:
        """Return a job that *worker*, now of *session*, has not begun: that counts as no delivery.

        Raises:
            NotFound: see ``finish``.
        """
        return uncancelled(self._give_back(id, worker, session))

    async def _give_back(self, id: str, worker: Worker, session: str) -> None:
        if self._find(id, worker)[0] is None:
            await self._extend(id, worker, session, GRACE)  # another node may have it: then it is this one's now
        self.undelivered(id)

    def detach(self, id: str) -> None:
        """Let a job take no slot any more; a no-op for one that is not in flight here."""
        lease = self._leases.get(id)
        if lease is not None:
            lease.consumer = None

    def move(self, session: str, queue: str, consumer: Any) -> None:
        """Let the jobs of *queue* that *session* has take slots of *consumer* in the place of another."""
        for lease in self._sessions.get(session, {}).values():
            if lease.queue == queue and lease.consumer is not None:
                lease.consumer = consumer

    # Ends.

    def undelivered(self, id: str) -> None:
        """Return a job that the client has not been sent; a no-op for one that is not in flight any more."""
        lease = self._leases.get(id)
        if lease is not None:
            self._release(lease, delivered=False)

    def leave(self, session: str) -> None:
        """Notice that a session has gone: that is no failure of what it had."""
        left = list(self._sessions.get(session, {}).values())
        for lease in left:  # all of them, before the first is returned
            lease.consumer, lease.lost = None, True
        self._give_up(iter(left))

    def _give_up(self, left: Iterator[Lease]) -> None:
        """Return *left*, of a session that has gone, or let its client come back; in slices if there are many."""
        now, end = self._slices.now, self._slices.deadline()
        for lease in left:
            if self._leases.get(lease.id) is lease:  # else it has been done meanwhile, or another session has it
                if lease.worker.named:
                    self._lose(lease)
                else:
                    self._release(lease)
            if now() >= end:
                self._slices.add(lambda: self._give_up(left))
                return

    def _lose(self, lease: Lease) -> None:
        self._deadlines.drop(lease.id, lease.bucket)
        if not self._stopped:  # else another node, or the next start, sees to it
            left = lease.end - self._clock.seconds()
            lease.bucket = self._deadlines.add(lease.id, max(0.0, min(GRACE, left)))

    def _release(self, lease: Lease, *, delivered: bool = True) -> None:
        self._forget(lease)
        self.return_job(lease.number, lease.token, delivered=delivered)

    def return_job(self, number: int, token: int, *, delivered: bool) -> None:
        """Let a job be ready again; see ``IJobStore.release``."""
        release, words = self._store.jobs.release, (number, token, self._node())
        self._ask(lambda: release(*words, max_deliveries=MAX_DELIVERIES, delivered=delivered))

    def _due(self, id: str) -> None:
        lease = self._leases.get(id)
        if lease is None:
            return
        if not lease.lost:
            self._expire(lease)
        elif lease.end > self._clock.seconds():
            Deferred.fromCoroutine(self._after_grace(lease)).addErrback(self._failed)
        else:
            self._release(lease)

    def _expire(self, lease: Lease) -> None:
        self._forget(lease)
        node, words = self._node(), (lease.number, lease.token, lease.worker.client)
        self._ask(lambda: self._store.jobs.fail(*words, reason=EXPIRED, delays=self._delays, expired=node))

    async def _after_grace(self, lease: Lease) -> None:
        """Return a job, unless its worker has come back: it may finish it then."""
        try:
            back = await self._came_back(lease.worker.client, lease.session)
        except Unavailable:
            back = True  # it can not be returned now either
        if self._leases.get(lease.id) is not lease:
            return
        left = lease.end - self._clock.seconds()
        if back and left > 0 and not self._stopped:
            lease.bucket = self._deadlines.add(lease.id, left)
        else:
            self._release(lease)

    def _ask(self, settle: Callable[[], Deferred[Settled]]) -> None:
        """Settle a delivery, unless it was already."""

        async def ask() -> None:
            try:
                settled = await settle()
            except NotFound:
                return
            self._settled(settled)

        self.until_done(ask)

    def until_done(self, work: Callable[[], Awaitable[object]]) -> None:
        """Do *work*, again and again while the store is away; after ``stop`` once."""
        Deferred.fromCoroutine(self._until_done(work)).addErrback(self._failed)

    async def _until_done(self, work: Callable[[], Awaitable[object]]) -> None:
        delay = RETRY_DELAY
        while True:
            try:
                await work()
                return
            except Unavailable:
                if self._stopped:
                    return
            await self._pauses.pause(delay)
            delay = min(2 * delay, MAX_RETRY_DELAY)

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError, BrokerError):
            log.failure("a job could not be returned", failure)

    def stop(self) -> None:
        """Cancel all timers: what is in flight is returned by another node, or after the next start."""
        self._stopped = True
        self._deadlines.stop()
        self._pauses.stop()

    # What nobody here has.

    async def adopt(self, node: str) -> None:
        """Return the jobs in flight on a node that is no more, those of workers with client ids after their grace.

        Raises:
            Unavailable: the store is away.
        """
        try:
            await self._adopt_all(node)
        except NotDone:
            raise
        except Unavailable:
            self.check(delivered=True)  # some may have been adopted
            raise

    async def _adopt_all(self, node: str) -> None:
        after = 0
        while found := await self._store.jobs.adopt(node, self._node(), after, ADOPTED):
            for job, named in found:
                after = job.number
                worker = Worker(job.worker, self._node(), named)
                left = max(0.0, job.until - self._store.wall.time())
                if not named or not left:
                    self.return_job(job.number, job.token, delivered=True)
                elif self.id_of(job.number, job.token) not in self._leases:
                    self._adopt(job, worker, min(left, MAX_ADOPTED))

    def _adopt(self, job: Job, worker: Worker, left: float) -> None:
        # A worker without a session is known by its principal: there is none that it could have lost.
        lost = not is_reserved(worker.client)
        lease = Lease(
            self.id_of(job.number, job.token), job.number, job.token, job.queue, worker, "",
            self._clock.seconds() + left, lost=lost,
        )  # fmt: skip
        self._hold(lease, min(GRACE, left) if lost else left)

    def check(self, *, delivered: bool = False) -> None:
        """Return the jobs that are in flight on this node in the store, and here are not: an answer was lost.

        *delivered*: whether a worker may have seen them.
        """
        self._checks += 1
        self._delivered = self._delivered or delivered
        if self._checks == 1 and not self._stopped:
            self.until_done(self._check)

    async def _check(self) -> None:
        asked, after = self._checks, 0
        while found := await self._store.jobs.adopt(self._node(), self._node(), after, ADOPTED):
            for job, _ in found:
                after = job.number
                id = self.id_of(job.number, job.token)
                if id not in self._leases and id not in self._unsure:
                    self.return_job(job.number, job.token, delivered=self._delivered)
        again, self._checks = self._checks > asked, 0
        self._delivered = self._delivered and again
        if again:
            self.check()

    def forget(self) -> None:
        """Forget all leases: the store went back, and what it has in flight is to be returned."""
        for lease in list(self._leases.values()):
            self._forget(lease)


def delivery_of(id: str) -> tuple[str, int, int]:
    """Return epoch, number and token of the delivery that is called *id*.

    Raises:
        NotFound: none can be called so.
    """
    epoch, _, rest = id.partition("-")
    number, _, token = rest.partition("-")
    if not epoch or not is_number(number) or not is_number(token):
        raise NotFound("job", id)
    return epoch, int(number), int(token)


def is_number(text: str) -> bool:
    """Whether *text* is a number of a job or a token, in decimal digits."""
    return text.isascii() and text.isdigit() and len(text) <= 15
