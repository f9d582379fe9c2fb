"""The jobs of the Redis store, by the verbs of ``jobs.lua``."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from zope.interface import implementer

from broker.errors import NotFound, RateLimited
from broker.jobs import Claimed, IJobStore, Job, QueueState, Settled, Slot, Worker
from broker.messages import Mail, Quota, decode_text, encode_text
from broker.redis.operations import Operation
from broker.stores.redis_swap import FULL, OVER_QUOTA, over_quota
from broker.stores.sqlite_jobs import total_of

QUEUES_STEP = 100  # that one call looks at
CLAIM_BYTES = 1 << 20  # of bodies that a claim may return, about
MAX_DELIVERED = b"it was delivered %s times without an end"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[bytes, bytes, float]).decode


class QueueOperation(Operation):
    """An operation on the queue that its first argument names."""

    __slots__ = ()

    def place(self) -> Hashable:
        """Return the name that the script has for the queue, too."""
        return b"jobs:" + self.words[1]


@implementer(IJobStore)
class RedisJobs:
    """Has the script keep the jobs.

    Args:
        submit: has an operation done.
        check_room: returns what fails when nothing may be added, else None.
        before_commit: see ``IJobStore.before_commit``.
    """

    def __init__(
        self,
        submit: Callable[[Operation], Deferred[Any]],
        check_room: Callable[[], Deferred[Any] | None],
        before_commit: Callable[[Callable[[], object]], object],
    ) -> None:
        self._submit, self._check_room, self._before_commit = submit, check_room, before_commit

    def before_commit(self, work: Callable[[], object]) -> None:
        """See ``IJobStore.before_commit``."""
        self._before_commit(work)

    def add(
        self,
        queue: str,
        mail: Mail,
        *,
        key: str = "",
        key_seconds: float = 0.0,
        order: str = "",
        delay: float = 0.0,
        ttl: float = 0.0,
        limit: int = 0,
        quota: Quota | None = None,
    ) -> Deferred[tuple[int, bool]]:
        """See ``IJobStore.add``."""
        full = self._check_room()
        if full is not None:
            return full

        def added(result: list[Any]) -> tuple[int, bool]:
            if result[0] == OVER_QUOTA:
                raise over_quota(quota)
            if result[0] == FULL:
                raise RateLimited("limit", "jobs")
            return int(result[0]), result[1] == 1

        names = encode_text(key), _number(key_seconds), encode_text(order)
        bounds = _number(delay), _number(ttl), b"%d" % limit, b"" if quota is None else quota.words
        words = (b"add_job", encode_text(queue), _head(mail), mail.body, *names, *bounds)
        return self._submit(QueueOperation(words, added, 2 * len(mail.body)))

    def claim(
        self,
        queue: str,
        slots: Sequence[Slot],
        *,
        numbers: Sequence[int] | None = None,
        remove: bool = False,
        max_bytes: int = 0,
    ) -> Deferred[Claimed]:
        """See ``IJobStore.claim``."""

        def claimed(result: list[Any]) -> Claimed:
            due, *rows = result
            jobs = [_job(row, delivered=1) for row in rows]
            return Claimed(jobs, float(due) if due else None)

        words = [b"claim_jobs", encode_text(queue), _flag(remove), b"%d" % (max_bytes or CLAIM_BYTES)]
        words.append(b"" if numbers is None else b"1")
        for index, (worker, lease) in enumerate(slots):
            number = b"" if numbers is None else b"%d" % numbers[index]
            words += (number, *_who(worker), _number(lease))
        words.insert(5, b"%d" % len(slots))
        return self._submit(QueueOperation(words, claimed))

    def ready(self, queue: str, after: int, limit: int, max_bytes: int) -> Deferred[list[Job]]:
        """See ``IJobStore.ready``."""
        bounds = b"%d" % after, b"%d" % limit, b"%d" % (max_bytes or CLAIM_BYTES)
        return self._submit(QueueOperation((b"ready_jobs", encode_text(queue), *bounds), _jobs))

    def find(self, number: int) -> Deferred[str | None]:
        """See ``IJobStore.find``."""
        return self._submit(Operation((b"find_job", b"%d" % number), _text_or_none, reads=True))

    def finish(self, number: int, token: int, client: str, *, epoch: str | None = None) -> Deferred[Settled]:
        """See ``IJobStore.finish``."""
        return self._settle(number, b"finish_job", b"%d" % token, _epoch(epoch), encode_text(client))

    def fail(
        self,
        number: int,
        token: int,
        client: str,
        *,
        reason: str,
        delays: Sequence[float],
        expired: str = "",
        epoch: str | None = None,
    ) -> Deferred[Settled]:
        """See ``IJobStore.fail``."""
        words = b"%d" % token, _epoch(epoch), encode_text(client), encode_text(reason), encode_text(expired)
        return self._settle(number, b"fail_job", *words, b"%d" % len(delays), *map(_number, delays))

    def release(
        self, number: int, token: int, node: str, *, max_deliveries: int, delivered: bool = True
    ) -> Deferred[Settled]:
        """See ``IJobStore.release``."""
        words = b"%d" % token, encode_text(node), b"%d" % max_deliveries, _flag(delivered), MAX_DELIVERED
        return self._settle(number, b"release_job", *words)

    def extend(
        self, number: int, token: int, worker: Worker, lease: float, *, epoch: str | None = None
    ) -> Deferred[Settled]:
        """See ``IJobStore.extend``."""
        words = b"%d" % token, _epoch(epoch), *_who(worker), _number(lease)
        return self._settle(number, b"extend_job", *words)

    def _settle(self, number: int, verb: bytes, *words: bytes) -> Deferred[Settled]:
        return self._submit(Operation((verb, b"%d" % number, *words), partial(_settled, number)))

    def restore(self, job: Job) -> Deferred[None]:
        """See ``IJobStore.restore``."""
        head = _head(Mail("", job.ref, b"", job.source, job.time))
        counts = b"%d" % job.number, b"%d" % job.token, b"%d" % (job.deliveries - 1), b"%d" % job.failures
        words = (b"restore_job", encode_text(job.queue), head, job.body, *counts)
        texts = encode_text(job.reason), encode_text(job.order)
        return self._submit(QueueOperation((*words, *texts), _none, 2 * len(job.body)))

    def adopt(self, node: str, heir: str, after: int, limit: int) -> Deferred[list[tuple[Job, bool]]]:
        """See ``IJobStore.adopt``."""

        def adopted(result: list[Any]) -> list[tuple[Job, bool]]:
            return [(_job([number, queue, b"", *rest[:-1]]), rest[-1] == b"1") for number, queue, *rest in result]

        words = (b"adopt_jobs", encode_text(node), encode_text(heir), b"%d" % after, b"%d" % limit)
        return self._submit(Operation(words, adopted))

    def nodes(self) -> Deferred[list[str]]:
        """See ``IJobStore.nodes``."""
        return self._submit(Operation((b"job_nodes", b""), lambda found: list(map(decode_text, found)), reads=True))

    def state(self, queue: str) -> Deferred[QueueState]:
        """See ``IJobStore.state``."""
        return self._submit(QueueOperation((b"queue_state", encode_text(queue)), _state))

    def totals(self) -> Deferred[QueueState]:
        """See ``IJobStore.totals``; in steps, between which other operations are done."""
        return Deferred.fromCoroutine(self._totals())

    async def _totals(self) -> QueueState:
        total, start = QueueState(), b"-"
        while start:
            words = (b"queue_states", start, b"%d" % QUEUES_STEP)
            start, *found = await self._submit(Operation(words, reads=True))
            total = total_of([total, *map(_state, found)])
        return total

    def queues(self, after: str, limit: int) -> Deferred[list[str]]:
        """See ``IJobStore.queues``."""
        words = (b"queue_names", b"(" + encode_text(after), b"%d" % limit)
        return self._submit(Operation(words, lambda found: list(map(decode_text, found)), reads=True))

    def dead(self, queue: str, after: int, limit: int, max_bytes: int) -> Deferred[list[Job]]:
        """See ``IJobStore.dead``."""
        bounds = b"%d" % after, b"%d" % limit, b"%d" % (max_bytes or CLAIM_BYTES)
        return self._submit(QueueOperation((b"dead_jobs", encode_text(queue), *bounds), _jobs, reads=True))

    def retry(self, queue: str, numbers: Sequence[int] | None, limit: int) -> Deferred[int]:
        """See ``IJobStore.retry``."""
        return self._dead(b"retry_jobs", queue, numbers, limit)

    def drop(self, queue: str, numbers: Sequence[int] | None, limit: int) -> Deferred[int]:
        """See ``IJobStore.drop``."""
        return self._dead(b"drop_jobs", queue, numbers, limit)

    def _dead(self, verb: bytes, queue: str, numbers: Sequence[int] | None, limit: int) -> Deferred[int]:
        return self._submit(QueueOperation((verb, encode_text(queue), b"%d" % limit, *_numbers(numbers))))

    def sweep(self, seconds: float) -> Deferred[int]:
        """See ``IJobStore.sweep``; in steps, between which other operations are done."""
        return Deferred.fromCoroutine(self._sweep(seconds))

    async def _sweep(self, seconds: float) -> int:
        removed, start = 0, b"-"
        while start:
            words = (b"queue_names", start, b"%d" % QUEUES_STEP)
            names = await self._submit(Operation(words, reads=True))
            start = b"(" + names[-1] if len(names) == QUEUES_STEP else b""
            for name in names:
                more = 1
                while more:
                    gone, more = await self._submit(QueueOperation((b"sweep_queue", name, _number(seconds))))
                    removed += gone
        return removed


def _number(value: float) -> bytes:
    return repr(float(value)).encode()


def _who(worker: Worker) -> tuple[bytes, bytes, bytes]:
    return encode_text(worker.client), _flag(worker.named), encode_text(worker.node)


def _epoch(epoch: str | None) -> bytes:
    """Return what the script compares with the present epoch; one empty word for any."""
    return b"" if epoch is None else b"=" + encode_text(epoch)


def _flag(value: bool) -> bytes:
    return b"1" if value else b""


def _numbers(numbers: Sequence[int] | None) -> list[bytes]:
    """Return how many *numbers* there are, and those; one empty word for None."""
    return [b""] if numbers is None else [b"%d" % len(numbers), *(b"%d" % number for number in numbers)]


def _head(mail: Mail) -> bytes:
    return _encode((encode_text(mail.source), encode_text(mail.ref), float(mail.time)))


def _none(_: object) -> None:
    return None


def _text_or_none(found: bytes | None) -> str | None:
    return None if found is None else decode_text(found)


def _settled(number: int, found: list[Any] | None) -> Settled:
    if found is None:
        raise NotFound("job", str(number))
    queue, ready, dead, delay = found
    return Settled(decode_text(queue), ready == 1, dead == 1, float(delay))


def _state(found: list[Any]) -> QueueState:
    ready, delayed, in_flight, dead, oldest = found
    return QueueState(ready, delayed, in_flight, dead, float(oldest))


def _jobs(rows: list[list[Any]]) -> list[Job]:
    return [_job(row) for row in rows]


def _job(row: list[Any], *, delivered: int = 0) -> Job:
    """Return the job of *row*, with so many more deliveries than it says."""
    number, queue, body, head, token, deliveries, failures, reason, worker, order, until = row
    source, ref, time = _decode(head)
    return Job(
        int(number),
        decode_text(queue),
        body,
        decode_text(ref),
        decode_text(source),
        time,
        int(token) + delivered,
        int(deliveries) + delivered,
        int(failures),
        decode_text(reason),
        decode_text(worker),
        decode_text(order),
        float(until),
    )
