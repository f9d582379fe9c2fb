"""Work queues: each job goes to one of the consumers that have room for it.

A consumer that acknowledges has a job for a lease, see ``leases``.  One that does not gets it at most once: it
is removed before it is sent; and if nothing waits in the queue it is not stored at all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.core.consumers import Consumer, Consumers, Taker
from broker.core.leases import Leases
from broker.core.registry import Registry
from broker.core.slices import slices_of
from broker.errors import BrokerError, NotDone, NotFound, Unavailable
from broker.interfaces import IStore
from broker.jobs import Claimed, Job, QueueState, Settled, Worker
from broker.messages import Delivery, Mail, Quota
from broker.patterns import QUEUE

log = Logger()

MAX_CLAIM = 64  # jobs in one claim
CLAIM_BYTES = 1 << 18  # of their bodies, after which no more follow
LOOKED_AT = 100  # jobs that are looked at together for those that filter
MIN_WAIT = 0.01  # seconds until a job is looked for whose time is about to come
RETRY_DELAY, MAX_RETRY_DELAY = 1.0, 30.0  # seconds until a claim that has failed is tried again, doubled each time
LEASE_BYTES = 500  # that are held for a job in flight
NOT_ACKNOWLEDGED = "it was not acknowledged"
MAX_COUNTING = 0.01  # of the time may pass with counting jobs
MAX_LOOKING = 0.2  # of the time may pass with looking through all of a queue for those that filter


@attrs.define(eq=False)
class WorkQueue:
    """A queue that has consumers here.

    Attributes:
        name: without ``queue:``.
        consumers: those of this node.
        clear: whether all that is ready, as far as it is known, is being claimed.
        version: rises with each reason to look again.
        asked: those for whom the store is to be asked for a job before it commits, by whether they acknowledge.
        spare: how many of those were asked for without knowing of a job for them.
        claims: how many jobs the store is, or is to be, asked for.
        looking: whether those that filter are served.
        resets: how often they were to begin anew.
        next_look: when what no job matched may be looked at again, by the clock of ``Jobs``.
        timer: when the next job is due, or a claim is tried again.
        failures: how many claims have failed one after the other.
        problem: why the last has; None: it has not.
        busy: whether claims are being made.
        again: whether there is reason to make more.
    """

    name: str
    consumers: Consumers = attrs.field(factory=Consumers)
    clear: bool = False
    version: int = 0
    asked: dict[bool, list[Consumer]] = attrs.field(factory=lambda: {True: [], False: []})
    spare: int = 0
    claims: int = 0
    looking: bool = False
    resets: int = 0
    next_look: float = 0.0
    timer: IDelayedCall | None = None
    failures: int = 0
    problem: BrokerError | None = None
    busy: bool = False
    again: bool = False


class Jobs:
    """Adds jobs and hands them out.

    Args:
        store: keeps them.
        clock: times leases.
        node: returns the address of this node, another one at each start.
        max_failures: how often a job may fail before it is dead.
        limit: how many jobs a queue may have, without the dead ones; 0: any number.
        max_age: seconds after which a job is too old; 0.0: never.
        came_back: see ``Leases``.
    """

    def __init__(
        self,
        store: IStore,
        clock: IReactorTime,
        node: Callable[[], str],
        came_back: Callable[[str, str], Awaitable[bool]],
        *,
        max_failures: int = 5,
        limit: int = 0,
        max_age: float = 0.0,
    ) -> None:
        self.consumers: Registry[Any] = Registry("queue")
        self.claimants: dict[Any, None] = {}  # requests that wait for jobs
        self.counted = QueueState()
        self._next_count = 0.0
        self.leases = Leases(store, clock, node, max_failures, came_back, self._freed, self._on_settled)
        self.max_age = max_age
        self._store, self._clock, self._node, self._limit = store, clock, node, limit
        self._slices = slices_of(clock)
        self._works: dict[str, WorkQueue] = {}
        self._consumers: dict[tuple[Any, str], Consumer] = {}
        self._stopped = False

    def __len__(self) -> int:
        return len(self._works)

    def notify(self, queue: str) -> None:
        """Notify the other nodes that a job of *queue* is ready: there are none here."""

    async def lives(self, node: str) -> bool:
        """Whether that node is there: there is no other."""
        return False

    @property
    def may_lease(self) -> bool:
        """Whether jobs may be given to workers that acknowledge."""
        return True

    # Adding.

    def put(self, mail: Mail, quota: Quota | None = None) -> Deferred[None]:
        """Hand *mail* to a consumer that does not acknowledge, or add it as a job; its queue is without ``queue:``."""
        work = self._works.get(mail.queue)
        if work is not None and work.clear and not work.claims and self._hand_over(work, mail):
            return succeed(None)
        return self.add(mail, quota=quota).addCallback(_nothing)

    def _hand_over(self, work: WorkQueue, mail: Mail) -> bool:
        """Hand *mail* over at once, if there is room and nobody else has a claim to it."""
        consumers = work.consumers
        if consumers.acknowledging or consumers.filtering:
            return False
        consumer = consumers.first()
        if consumer is None:
            return False
        taken = consumer.peer.post_mail(Mail(QUEUE + mail.queue, mail.ref, mail.body, mail.source, mail.time))
        if not taken:
            return False
        if isinstance(taken, Deferred):
            _unless_taken(taken, lambda: self.add(mail).addErrback(self._not_restored, mail))
        consumer.taken += 1
        consumers.offer(consumer)  # when as many as it may have were sent, they may have left
        return True

    def add(
        self, mail: Mail, *, delay: float = 0.0, quota: Quota | None = None, **options: Any
    ) -> Deferred[tuple[int, bool]]:
        """Add a job; see ``IJobStore.add`` for the arguments and the result."""
        queue = mail.queue
        added = self._store.jobs.add(queue, mail, delay=delay, limit=self._limit, quota=quota, **options)
        # At once: the claim goes along with it.
        if delay > 0 or not self._claim_added(queue):
            added.addBoth(self._added, queue, delay)
        return added

    def _added(self, result: Any, queue: str, delay: float) -> Any:
        if not isinstance(result, Failure) or result.check(Unavailable):  # it may be stored all the same
            work = self._works.get(queue)
            if work is not None and not isinstance(result, Failure):
                self._try_again(work)
            if delay > 0:
                self._due_in(queue, delay)
            else:
                self._look_again(queue)
            self.notify(queue)
        return result

    # Consumers.

    def consume(
        self,
        peer: Taker,
        queue: str,
        worker: Worker,
        *,
        ack: bool,
        prefetch: int,
        lease: float,
        matches: Callable[[bytes], bool] | None = None,
        on_idle: Callable[[], object] | None = None,
    ) -> None:
        """Let *peer* take jobs of *queue*, or take them otherwise from now on; for the arguments see ``Consumer``."""
        self.consumers.add(peer, QUEUE + queue, shared=True)
        consumer = self._consumers.get((peer, queue))
        work = self._works.get(queue)
        if work is None:
            work = self._works[queue] = WorkQueue(queue)
        taken = 0
        if consumer is not None:
            work.consumers.remove(consumer)
            taken = consumer.taken if consumer.ack and ack else 0
        consumer = Consumer(peer, queue, ack, prefetch, lease, worker, matches, on_idle, taken)
        if taken:
            self.leases.move(peer.id, queue, consumer)
        self._consumers[peer, queue] = consumer
        work.consumers.add(consumer)
        self._try_again(work)
        self._look_for(work, consumer)

    def stop_consuming(self, peer: Taker, queue: str) -> bool:
        """Let *peer* take no more jobs of *queue*; say whether it did.  It keeps what it has."""
        consumer = self._consumers.pop((peer, queue), None)
        if consumer is None:
            return False
        self.consumers.remove(peer, QUEUE + queue)
        self._works[queue].consumers.remove(consumer)
        self._left(queue)
        return True

    def _left(self, queue: str) -> None:
        work = self._works.get(queue)
        if work is not None and not work.consumers and not work.claims and not work.looking:
            if work.timer is not None:
                work.timer.cancel()
            del self._works[queue]

    def consumed(self, peer: Taker) -> list[str]:
        """Return the queues that *peer* takes jobs of, sorted."""
        return [name.removeprefix(QUEUE) for name in self.consumers.names_of(peer)]

    def is_claiming(self, peer: Taker, queue: str) -> bool:
        """Whether the store is being asked for jobs of *queue* for *peer*."""
        consumer, work = self._consumers.get((peer, queue)), self._works.get(queue)
        return consumer is not None and work is not None and _is_asked_for(consumer, work)

    def problem_of(self, queue: str) -> BrokerError | None:
        """Return why jobs of *queue* can not be handed out now to those who acknowledge; None: they can."""
        if not self.may_lease:
            return Unavailable("lease", message="This node has lost contact with the others.")
        work = self._works.get(queue)
        return None if work is None else work.problem

    def _tell_idle(self, consumers: Iterable[Consumer], work: WorkQueue) -> None:
        for consumer in consumers:
            if consumer.on_idle is not None and not _is_asked_for(consumer, work):
                consumer.on_idle()

    def leave(self, peer: Taker) -> None:
        """Remove *peer*: it has gone."""
        for queue in self.consumed(peer):
            self.stop_consuming(peer, queue)
        self.leases.leave(peer.id)

    def collect(self, peer: Taker) -> None:
        """Hand out jobs again to *peer*, which may have room now."""
        for queue in self.consumed(peer):
            consumer, work = self._consumers[peer, queue], self._works[queue]
            if consumer.declined:
                consumer.declined, work.clear = False, False
            work.consumers.offer(consumer)
            self._claim(work)

    # Handing out.

    def wake(self, queue: str) -> None:
        """Look for jobs of *queue*: some are ready that were not, perhaps before those that were looked at."""
        work = self._works.get(queue)
        if work is None:
            return
        wait = work.next_look - self._clock.seconds()
        if wait > 0:
            self._due_in(queue, wait)
        else:
            work.resets += 1
            for consumer in work.consumers.filtering:
                consumer.looked = 0
        self._look_again(queue)

    def _try_again(self, work: WorkQueue) -> None:
        """Do not wait any more until claims are tried again that have failed."""
        if work.failures and work.timer is not None:
            work.timer.cancel()
            work.timer = None

    def wake_all(self) -> None:
        """Look for jobs of all queues that have consumers here."""
        for queue, work in list(self._works.items()):
            self._try_again(work)
            self.wake(queue)
            self._left(queue)  # its last consumer may have gone while a claim was under way that has failed

    def _look_again(self, queue: str) -> None:
        """Look for jobs: there may be one that no claim is for."""
        work = self._works.get(queue)
        if work is not None:
            work.clear = False
            work.version += 1
            self._claim(work)

    def _look_for(self, work: WorkQueue, consumer: Consumer) -> None:
        """Look for jobs for *consumer*, which is new, and alone if nothing is ready for the others."""
        if not work.clear or consumer.matches is not None:
            self._look_again(work.name)
            return
        work.clear = False  # until the store has said so again
        room = min(consumer.room(), MAX_CLAIM)
        if (self.may_lease or not consumer.ack) and consumer.accepts():
            consumer.claiming += room
            work.spare += room
            self._ask_for(work, [consumer] * room, consumer.ack)

    def added(self, queue: str) -> None:
        """Notice that jobs of *queue* are ready, here and on the other nodes."""
        self.wake(queue)
        self.notify(queue)

    def worker(self, client: str, named: bool) -> Worker:
        """Return what a client of this node is for the store."""
        return Worker(client, self._node(), named)

    def _claim_added(self, queue: str) -> bool:
        """Claim one job more, since one is being added; say whether there is room for it.

        It may be an older one that comes, which other nodes know of already.
        """
        work = self._works.get(queue)
        if work is None or work.failures or work.consumers.filtering or self._stopped:
            return False
        if work.spare:
            work.spare -= 1
            return True
        consumer = work.consumers.first()
        if consumer is None or (consumer.ack and not self.may_lease):
            work.clear = False
            return False
        consumer.claiming += 1
        self._ask_for(work, [consumer], consumer.ack)
        return True

    def _claim(self, work: WorkQueue) -> None:
        """Claim as many jobs as there is room for."""
        work.again = True
        if work.busy:
            return  # the store has answered at once
        work.busy = True
        try:
            while work.again and not (work.clear or self._stopped or (work.failures and work.timer is not None)):
                work.again = False
                self._claim_all(work)
        finally:
            work.busy = work.again = False

    def _claim_all(self, work: WorkQueue) -> None:
        for ack in (True, False) if self.may_lease else (False,):
            chosen = work.consumers.choose(ack, MAX_CLAIM - len(work.asked[ack]))
            if chosen:
                work.spare += len(chosen)
                self._ask_for(work, chosen, ack)
        filtering = work.consumers.filtering
        if filtering and not work.looking and any(each.room() for each in filtering):
            work.looking = True
            Deferred.fromCoroutine(self._look(work)).addErrback(self._claim_failed, work).addBoth(self._looked, work)

    def _ask_for(self, work: WorkQueue, chosen: list[Consumer], ack: bool) -> None:
        """Claim a job for each of *chosen*, who count as asked for, together with those who are chosen soon."""
        work.claims += len(chosen)
        asked = work.asked[ack]
        asked += chosen
        if len(asked) == len(chosen):
            self._store.jobs.before_commit(lambda: self._claim_asked(work, ack))

    def _claim_asked(self, work: WorkQueue, ack: bool) -> None:
        asked, work.asked[ack], work.spare = work.asked[ack], [], 0
        for start in range(0, len(asked), MAX_CLAIM):
            self._claim_for(work, asked[start : start + MAX_CLAIM], ack).addErrback(self._claim_failed, work)

    def _claim_for(
        self, work: WorkQueue, chosen: list[Consumer], ack: bool, numbers: list[int] | None = None
    ) -> Deferred[None]:
        slots = [(each.worker, each.lease) for each in chosen]
        claim = self._store.jobs.claim(work.name, slots, numbers=numbers, remove=not ack, max_bytes=CLAIM_BYTES)
        claim.addBoth(self._claim_ended, work, chosen)
        return claim.addCallback(self._claimed, work, chosen, work.version, numbers)

    def _claim_ended(self, result: Any, work: WorkQueue, chosen: list[Consumer]) -> Any:
        work.claims -= len(chosen)
        for consumer in chosen:
            consumer.claiming -= 1
        return result

    def _claimed(
        self, claimed: Claimed, work: WorkQueue, chosen: list[Consumer], version: int, numbers: list[int] | None
    ) -> None:
        work.failures, work.problem = 0, None
        jobs = claimed.jobs
        more = sum(len(job.body) for job in jobs) >= CLAIM_BYTES or len(jobs) == len(chosen)
        if numbers is None and not more and work.version == version:
            work.clear = not work.consumers.filtering
        of = dict(zip(numbers, chosen, strict=True)) if numbers is not None else {}
        for job, consumer in zip(jobs, chosen, strict=False):
            self._deliver(work, job, of.get(job.number, consumer))
        for consumer in chosen[len(jobs) :]:
            work.consumers.offer(consumer)
        if claimed.due is not None:
            self._due_in(work.name, claimed.due)
        if not chosen[0].ack and any(job.order for job in jobs):
            self._returned(None, work.name)  # they are gone: the next of their order keys are ready
        if numbers is None and (more or work.version != version):
            self._claim(work)
        self._tell_idle(chosen, work)
        self._left(work.name)

    def _deliver(self, work: WorkQueue, job: Job, consumer: Consumer) -> None:
        words = QUEUE + work.name, job.ref, job.body, job.source, job.time
        if not consumer.ack:
            taken = not consumer.gone and consumer.peer.post_mail(Mail(*words))
            if taken:
                consumer.taken += 1
                work.consumers.offer(consumer)  # as in ``_hand_over``
            else:
                consumer.declined = True
                self._restore(job)
            if isinstance(taken, Deferred):
                _unless_taken(taken, lambda: self._restore(job))
            return
        if consumer.gone:
            self.leases.return_job(job.number, job.token, delivered=False)
            return
        id = self.leases.add(job, consumer.worker, consumer.peer.id, consumer.lease, consumer)
        consumer.taken += 1
        consumer.peer.hold(LEASE_BYTES)
        taken = consumer.peer.post_mail(Delivery(*words, id=id, delivery=job.deliveries, lease=consumer.lease))
        if taken is True:
            return
        if isinstance(taken, Deferred):
            taken.addCallbacks(
                lambda has: self._acknowledged(has, id, consumer),
                lambda _: self.leases.fail(id, consumer.worker, NOT_ACKNOWLEDGED, None),
            ).addErrback(_settled_already)
        else:
            self._declined(id, consumer)

    def _acknowledged(self, taken: bool | None, id: str, consumer: Consumer) -> Deferred[None] | None:
        """Notice what the session of *consumer* has said of the delivery *id*; None: it has gone."""
        if taken:
            return self.leases.finish(id, consumer.worker)
        if taken is False:
            self._declined(id, consumer)
        return None

    def _declined(self, id: str, consumer: Consumer) -> None:
        consumer.declined = True
        self.leases.undelivered(id)

    def _restore(self, job: Job) -> None:
        restored = self._store.jobs.restore(job)
        restored.addCallback(self._returned, job.queue).addErrback(self._not_restored, job)

    def _not_restored(self, failure: Failure, job: Job | Mail) -> None:
        log.warn("a job of {queue} is lost: {reason}", queue=job.queue, reason=str(failure.value))

    def _claim_failed(self, failure: Failure, work: WorkQueue) -> None:
        if self._stopped:
            return
        if not failure.check(BrokerError):
            log.failure("jobs of {queue} were not handed out", failure, queue=work.name)
        elif not work.failures:
            log.warn("jobs of {queue} wait: {reason}", queue=work.name, reason=str(failure.value))
        delay = min(RETRY_DELAY * 2**work.failures, MAX_RETRY_DELAY)
        work.failures = min(work.failures + 1, 10)
        work.problem = failure.value if isinstance(failure.value, BrokerError) else BrokerError("jobs")
        work.clear = False
        for consumer in work.consumers:
            work.consumers.offer(consumer)
        self._tell_idle(list(work.consumers), work)
        self._due_in(work.name, delay)
        if failure.check(Unavailable) and not failure.check(NotDone):
            self.leases.check()  # it may have been done

    # Those that filter.

    async def _look(self, work: WorkQueue) -> None:
        """Hand out jobs to those that filter, the first that match first."""
        again, began = True, self._clock.seconds()
        from_start = any(each.matches is not None and not each.looked for each in work.consumers)
        while again:
            version = work.version
            while await self._look_at_page(work):
                pass
            again = work.version != version
        if from_start:
            ended = self._clock.seconds()
            work.next_look = ended + (ended - began) / MAX_LOOKING

    def _looked(self, _: object, work: WorkQueue) -> None:
        work.looking = False
        self._tell_idle(work.consumers, work)
        self._left(work.name)

    async def _look_at_page(self, work: WorkQueue) -> bool:
        """Look at some jobs; return whether there may be more to look at."""
        kinds = (True, False) if self.may_lease else (False,)
        filtering = [each for each in work.consumers.filtering if each.ack in kinds]
        looking = [each for each in filtering if each.room() and each.accepts()]
        if not looking or self._stopped:
            return False
        after, resets = min(each.looked for each in looking), work.resets
        jobs = await self._store.jobs.ready(work.name, after, LOOKED_AT, CLAIM_BYTES)
        room = {each: each.room() for each in looking}
        found = await self._matched(jobs, room)
        if resets == work.resets:  # else some are ready that were not, before those that were looked at
            for consumer in looking:
                if room[consumer] and jobs:
                    consumer.looked = max(consumer.looked, jobs[-1].number)
        for ack in (True, False):
            some = [(number, each) for number, each in found if each.ack is ack]
            if some:
                work.claims += len(some)
                for _, each in some:
                    each.claiming += 1
                await self._claim_for(work, [each for _, each in some], ack, [number for number, _ in some])
        return bool(jobs)

    async def _matched(self, jobs: Iterable[Job], room: dict[Consumer, int]) -> list[tuple[int, Consumer]]:
        """Return the numbers of those of *jobs* that match, each with who takes it, and leave less *room*.

        It takes slices: very many may ask for very long ones.
        """
        found: list[tuple[int, Consumer]] = []
        end = self._slices.deadline()
        for job in jobs:
            for consumer in _able(job, room):
                end = await self._slices.checked(end)
                if not consumer.gone and consumer.matches is not None and consumer.matches(job.body):
                    room[consumer] -= 1
                    found.append((job.number, consumer))
                    break
        return found

    # Slots and times.

    def _freed(self, consumer: Consumer) -> None:
        """Notice that *consumer* has a slot more."""
        consumer.taken -= 1
        consumer.peer.hold(-LEASE_BYTES)
        work = self._works.get(consumer.queue)
        if work is not None and not consumer.gone:
            work.consumers.offer(consumer)
            self._claim(work)

    def _on_settled(self, settled: Settled) -> None:
        """Notice what has become of a delivery."""
        if settled.ready:
            self._returned(None, settled.queue)
        elif settled.delay:
            self._due_in(settled.queue, settled.delay)
            self.notify(settled.queue)

    def _returned(self, _: object, queue: str) -> None:
        self.wake(queue)
        work = self._works.get(queue)
        if work is None or not work.clear:
            self.notify(queue)

    def _due_in(self, queue: str, seconds: float) -> None:
        """Look for jobs of *queue* in so many seconds at the latest."""
        work = self._works.get(queue)
        if work is None or self._stopped:
            return
        delay = max(seconds, MIN_WAIT)
        if work.timer is None:
            work.timer = self._clock.callLater(delay, self._due, work)
        elif work.timer.getTime() > self._clock.seconds() + delay:
            work.timer.reset(delay)

    def _due(self, work: WorkQueue) -> None:
        work.timer = None
        self.wake(work.name)
        self._left(work.name)

    # All of it.

    def recover_soon(self) -> None:
        """Do ``recover`` until that was possible."""
        self.leases.until_done(self.recover)

    async def recover(self) -> None:
        """Return the jobs that are in flight on nodes that are no more.

        Raises:
            Unavailable: the store is away.
        """
        for node in await self._store.jobs.nodes():
            if node != self._node() and not await self.lives(node):
                await self.leases.adopt(node)

    async def measure(self) -> None:
        """Count all jobs, for the metrics; a no-op soon after a count that has taken long."""
        began = self._clock.seconds()
        if began < self._next_count:
            return
        self.counted = await self._store.jobs.totals()
        ended = self._clock.seconds()
        self._next_count = ended + (ended - began) / MAX_COUNTING

    def stop(self) -> None:
        """Hand out no more, and cancel all timers."""
        self._stopped = True
        self.leases.stop()
        for work in self._works.values():
            if work.timer is not None:
                work.timer.cancel()
                work.timer = None


def _is_asked_for(consumer: Consumer, work: WorkQueue) -> bool:
    """Whether the store is being asked for jobs for *consumer*."""
    return consumer.claiming > 0 or (consumer.matches is not None and work.looking)


def _able(job: Job, room: dict[Consumer, int]) -> list[Consumer]:
    """Return who may take *job* if it matches, the one with the most room first."""
    able = [each for each, free in room.items() if free and each.looked < job.number]
    able.sort(key=lambda each: -room[each])
    return able


def _unless_taken(taken: Deferred[bool | None], give_back: Callable[[], object]) -> None:
    """Call *give_back* when a session says that its client has not got a job, or says nothing."""
    taken.addErrback(lambda _: False).addCallback(lambda has: None if has else give_back())


def _settled_already(failure: Failure) -> None:
    # Its lease has ended, and it may be with another by now; or the store is away, and it will end.
    failure.trap(NotFound, Unavailable)


def _nothing(_: object) -> None:
    return None
