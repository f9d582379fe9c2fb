"""The verbs of jobs: those of work queues that acknowledge, and what looks after them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred

from broker.core.epochs import epoch_of
from broker.core.job_claims import claim_jobs
from broker.core.job_filters import job_filter
from broker.core.leases import delivery_of, is_number
from broker.core.slices import slices_of
from broker.errors import Invalid, NotFound, RateLimited, TooLarge, Unauthenticated
from broker.jobs import MAX_DELAY, Job, QueueState, Worker, is_queue_of_broker
from broker.messages import MAX_TIME, Delivery, Mail
from broker.patterns import QUEUE, check_name, check_text
from broker.peer.queues import QueueVerbs

MAX_PREFETCH = 1000
MAX_CLAIMED = 1000  # jobs of one claim
MAX_UNATTENDED, MAX_UNATTENDED_OF_ONE = 100_000, 10_000  # jobs that workers without a session have, or one of them
MAX_LEASE = 86400.0  # seconds
MAX_REASON = 1000  # characters of a reason that are kept
MAX_DEAD = 1000  # jobs in one answer
DEAD_BYTES = 1 << 20  # of their bodies
MAX_IDS = 10_000  # of dead jobs that are chosen one by one
STEP = 500  # dead jobs that one step retries or drops
PREFETCH, PREFETCH_WITH_ACK = 64, 1

Ids = Sequence[str] | None


class JobVerbs(QueueVerbs):
    """Add jobs, consume them, say what has become of them, and look after those that are dead."""

    __slots__ = ()

    def add_job(
        self,
        queue: str,
        body: bytes,
        *,
        ref: str = "",
        key: str = "",
        order: str = "",
        delay: float = 0.0,
        ttl: float = 0.0,
        time: float = 0.0,
    ) -> Deferred[tuple[str, bool]]:
        """See ``IPeer.add_job``."""
        self._allow_queue("send", queue)
        key = self._own_key(key)
        if order:
            check_text(order, "order")
        if not 0 <= delay <= MAX_DELAY or not 0 <= ttl <= MAX_DELAY or not 0 <= time <= MAX_TIME:
            raise Invalid("delay" if not 0 <= delay <= MAX_DELAY else "time" if 0 <= ttl <= MAX_DELAY else "ttl")
        if 0 < ttl <= delay:
            raise Invalid("ttl", message="ttl is over before delay is")  # nobody would ever get it
        parts = self._parts
        mail = Mail(queue, ref, body, self.client, time or parts.store.wall.time())
        seconds = parts.settings.dedup_seconds if key else 0.0
        options = {"key": key if seconds else "", "key_seconds": seconds, "order": order, "ttl": ttl}
        added = parts.jobs.add(mail, delay=delay, quota=self._queues(), **options)
        return added.addCallback(lambda found: (f"{parts.store.epoch}-{found[0]}", found[1]))

    def _allow_queue(self, verb: str, queue: str) -> None:
        """Check that the client may *verb* the work queue *queue*.

        Raises:
            Invalid: it is no name.
            Denied: it is the broker's, or the client has no permission.
        """
        self._allow(verb, QUEUE + queue)
        check_name(queue, "queue")
        self._own(verb, queue)
        if is_queue_of_broker(queue):
            raise self.deny(verb, queue, "")

    def consume(
        self,
        queue: str,
        *,
        ack: bool = False,
        prefetch: int = 0,
        lease: float = 0.0,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        """See ``IPeer.consume``."""
        self._allow_queue("consume", queue)
        parts = self._parts
        prefetch = prefetch or (PREFETCH_WITH_ACK if ack else PREFETCH)
        lease = lease or parts.settings.lease_seconds
        if not 0 < prefetch <= MAX_PREFETCH or not 0 < lease <= MAX_LEASE:
            raise Invalid("prefetch" if not 0 < prefetch <= MAX_PREFETCH else "lease")
        if queue not in self.consumed and len(self.consumed) >= parts.settings.max_registrations:
            raise self._log(RateLimited("limit", "registrations"), "consume", "TXBROKER_MAX_REGISTRATIONS")
        matches = None if members is None else job_filter(members)
        parts.jobs.consume(self, queue, self._worker(), ack=ack, prefetch=prefetch, lease=lease, matches=matches)
        parts.cluster.hold(QUEUE + queue)

    def give_back_job(self, id: str, *, queue: str = "") -> Deferred[None]:
        """See ``IPeer.give_back_job``."""
        leases, session = self._parts.jobs.leases, "" if self.session is None else self.id
        return self._settle(id, queue, lambda: leases.give_back(id, self._settler(), session))

    def stop_consuming(self, queue: str) -> None:
        """See ``IPeer.stop_consuming``."""
        if self._parts.jobs.stop_consuming(self, queue):
            self._parts.cluster.release((QUEUE + queue,))

    @property
    def consumed(self) -> list[str]:
        """See ``IPeer.consumed``."""
        return self._parts.jobs.consumed(self)

    async def claim_jobs(
        self,
        queue: str,
        limit: int = 1,
        *,
        lease: float = 0.0,
        wait: float = 0.0,
        members: Mapping[str, Any] | None = None,
    ) -> list[Delivery]:
        """See ``IPeer.claim_jobs``."""
        self._allow_queue("consume", queue)
        if not self.identity.owner:  # whose would they be, from one request to the next?
            raise self.deny("consume", queue, "")
        parts = self._parts
        lease = lease or parts.settings.lease_seconds
        if not 0 < limit <= MAX_CLAIMED or not 0 < lease <= MAX_LEASE or not wait >= 0:
            raise Invalid("max" if not 0 < limit <= MAX_CLAIMED else "lease" if wait >= 0 else "wait")
        self._check_unattended()
        matches = None if members is None else job_filter(members)
        expires = self.identity.expires
        if expires:
            wait = min(wait, max(0.0, expires - self.wall.time()))
        words = parts.jobs, parts.clock, queue, self._principal(), limit
        claim = claim_jobs(*words, lease=lease, wait=wait, matches=matches, hold=self.hold)
        try:
            found = await (self._waiting_claim(queue, claim) if wait > 0 else claim)
        finally:
            parts.cluster.release((QUEUE + queue,))  # one that waited may have ended before this did
        if expires and not found and self.wall.time() >= expires:
            raise Unauthenticated("token", message="The credential has expired")
        return found

    async def _waiting_claim(self, queue: str, claim: Coroutine[Any, Any, list[Delivery]]) -> list[Delivery]:
        """Return what *claim* does, which may wait for jobs of *queue*.

        Raises:
            RateLimited: too many requests wait.
        """
        parts, share = self._parts, self._share or self._take_share()
        try:
            with parts.channels.place(share):
                parts.cluster.hold(QUEUE + queue)  # other nodes say when there is a job
                return await claim
        except RateLimited as error:
            claim.close()
            raise self._log_polls(error, share, "consume") from None

    def _check_unattended(self) -> None:
        """Check that not too many jobs are in flight here without a session, in all or of this client.

        Raises:
            RateLimited: there are.
        """
        leases = self._parts.jobs.leases
        if leases.unattended() >= MAX_UNATTENDED:
            raise self._log(RateLimited("limit", "jobs"), "consume", "")
        if leases.unattended(self.identity.principal) >= MAX_UNATTENDED_OF_ONE:
            raise self._log(RateLimited("limit", "jobs"), "consume", "")

    def _principal(self) -> Worker:
        """Return what a worker is that has no session, and may come by another connection each time."""
        return self._parts.jobs.worker(self.identity.principal, named=True)

    def _settler(self) -> Worker:
        return self._principal() if self.session is None else self._worker()

    def _worker(self) -> Worker:
        return self._parts.jobs.worker(self.client, bool(self.identity.client or self.named))

    # Deliveries.

    def finish_job(self, id: str, *, queue: str = "") -> Deferred[None]:
        """See ``IPeer.finish_job``."""
        return self._settle(id, queue, lambda: self._parts.jobs.leases.finish(id, self._settler()))

    def fail_job(self, id: str, *, reason: str = "", delay: float | None = None, queue: str = "") -> Deferred[None]:
        """See ``IPeer.fail_job``."""
        if delay is not None and not 0 <= delay <= MAX_DELAY:
            raise Invalid("delay")
        leases, shown = self._parts.jobs.leases, reason[:MAX_REASON]
        return self._settle(id, queue, lambda: leases.fail(id, self._settler(), shown, delay))

    def extend_job(self, id: str, seconds: float, *, queue: str = "") -> Deferred[None]:
        """See ``IPeer.extend_job``."""
        if not 0 < seconds <= MAX_LEASE:
            raise Invalid("seconds")
        leases, session = self._parts.jobs.leases, "" if self.session is None else self.id
        return self._settle(id, queue, lambda: leases.extend(id, self._settler(), session, seconds))

    def _settle(self, id: str, queue: str, act: Callable[[], Deferred[None]]) -> Deferred[None]:
        """Do *act* with a delivery, if it is one of *queue*, "": any, and the client may consume its queue."""
        found = self._parts.jobs.leases.queue_of(id)
        if found is None:
            return ensureDeferred(self._settle_elsewhere(id, queue, act))
        self._allow("consume", QUEUE + found)
        if queue and found != queue:
            raise NotFound("job", id)
        return act()

    async def _settle_elsewhere(self, id: str, queue: str, act: Callable[[], Deferred[None]]) -> None:
        self._allow("consume", "", check_permission=False)
        epoch, number, _ = delivery_of(id)
        present = await epoch_of(self._parts.store, epoch)
        found = await self._parts.store.jobs.find(number) if epoch == present else None
        if found is None or (queue and found != queue):
            raise NotFound("job", id)
        self._check_permission("consume", QUEUE + found)
        await act()

    async def _numbers(self, ids: Sequence[str]) -> list[int]:
        """Return the numbers of the jobs that *ids* name, those of another epoch left out."""
        if len(ids) > MAX_IDS:
            raise TooLarge("ids")
        shown = {id.partition("-")[0] for id in ids}
        epoch = await epoch_of(self._parts.store, shown.pop() if len(shown) == 1 else None)
        slices, numbers = slices_of(self._parts.clock), []
        end = slices.deadline()
        for id in ids:
            words = id.split("-", 2)
            if len(words) == 2 and words[0] == epoch and is_number(words[1]):
                numbers.append(int(words[1]))
            end = await slices.checked(end)
        return numbers

    # Looking after a queue.

    def queue_state(self, queue: str) -> Deferred[QueueState]:
        """See ``IPeer.queue_state``."""
        self._allow_queue("consume", queue)
        return self._parts.store.jobs.state(queue)

    async def dead_jobs(self, queue: str, limit: int, after: str = "") -> list[tuple[str, Job]]:
        """See ``IPeer.dead_jobs``."""
        self._allow_queue("manage", queue)
        if not 0 < limit <= MAX_DEAD:
            raise Invalid("limit")
        numbers = await self._numbers([after]) if after else [0]
        if not numbers:
            raise Invalid("after")
        store = self._parts.store
        async with self._reading("manage", "jobs"):
            found = await store.jobs.dead(queue, numbers[0], limit, DEAD_BYTES)
        return [(f"{store.epoch}-{job.number}", job) for job in found]

    async def retry_jobs(self, queue: str, ids: Ids) -> int:
        """See ``IPeer.retry_jobs``."""
        self._allow_queue("manage", queue)
        retried = await self._of_dead(self._parts.store.jobs.retry, queue, ids)
        if retried:
            self._parts.jobs.added(queue)
        return retried

    async def drop_jobs(self, queue: str, ids: Ids) -> int:
        """See ``IPeer.drop_jobs``."""
        self._allow_queue("manage", queue)
        return await self._of_dead(self._parts.store.jobs.drop, queue, ids)

    async def _of_dead(self, act: Callable[..., Deferred[int]], queue: str, ids: Ids) -> int:
        """Do *act* with the dead jobs of *ids*, None: all, in steps; return how many there were."""
        if ids is not None:
            numbers = list(dict.fromkeys(await self._numbers(ids)))
            steps = [numbers[start : start + STEP] for start in range(0, len(numbers), STEP)]
            return sum([await act(queue, step, STEP) for step in steps])
        total, last = 0, STEP
        left = (await self._parts.store.jobs.state(queue)).dead  # those that die meanwhile are others
        while last == STEP and left > 0:
            last = await act(queue, None, min(STEP, left))
            total += last
            left -= last
        return total
