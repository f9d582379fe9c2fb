"""The jobs of the stores that are embedded in the daemon, by their tables: see ``sqlite_jobs``."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from twisted.internet.defer import Deferred, fail
from zope.interface import implementer

from broker.errors import NotFound
from broker.jobs import Claimed, IJobStore, Job, QueueState, Settled, Slot, Worker
from broker.messages import Mail, Quota
from broker.stores.expiry import Expiry
from broker.stores.sqlite_jobs import JobTables

# Has a method of JobTables done with its arguments, that carry so many bytes; True: it only reads.
Do = Callable[[Callable[..., Any], tuple[Any, ...], int, bool], Deferred[Any]]


@implementer(IJobStore)
class EmbeddedJobs:
    """Has the tables of jobs changed.

    Args:
        do: has a method of ``JobTables`` done with its arguments, in a transaction.
        is_present: whether an epoch is that of the store.
        before_commit: see ``IJobStore.before_commit``.
    """

    def __init__(
        self, do: Do, is_present: Callable[[str], bool], before_commit: Callable[[Callable[[], object]], object]
    ) -> None:
        self._do, self._is_present = do, is_present
        self._before_commit = before_commit

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
        arguments = (queue, mail, key, key_seconds, order, delay, ttl, limit, quota)
        return self._do(JobTables.add, arguments, len(mail.body), False)

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
        return self._do(JobTables.claim, (queue, slots, numbers, remove, max_bytes), 0, False)

    def ready(self, queue: str, after: int, limit: int, max_bytes: int) -> Deferred[list[Job]]:
        """See ``IJobStore.ready``."""
        return self._do(JobTables.ready, (queue, after, limit, max_bytes), 0, False)

    def find(self, number: int) -> Deferred[str | None]:
        """See ``IJobStore.find``."""
        return self._do(JobTables.find, (number,), 0, True)

    def finish(self, number: int, token: int, client: str, *, epoch: str | None = None) -> Deferred[Settled]:
        """See ``IJobStore.finish``."""
        return self._settle(epoch, JobTables.finish, (number, token, client))

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
        return self._settle(epoch, JobTables.fail, (number, token, client, reason, delays, expired), len(reason))

    def _settle(
        self, epoch: str | None, act: Callable[..., Settled], arguments: tuple[Any, ...], size: int = 0
    ) -> Deferred[Settled]:
        if epoch is not None and not self._is_present(epoch):
            return fail(NotFound("job", str(arguments[0])))
        return self._do(act, arguments, size, False)

    def release(
        self, number: int, token: int, node: str, *, max_deliveries: int, delivered: bool = True
    ) -> Deferred[Settled]:
        """See ``IJobStore.release``."""
        return self._do(JobTables.release, (number, token, node, max_deliveries, delivered), 0, False)

    def extend(
        self, number: int, token: int, worker: Worker, lease: float, *, epoch: str | None = None
    ) -> Deferred[Settled]:
        """See ``IJobStore.extend``."""
        return self._settle(epoch, JobTables.extend, (number, token, worker, lease))

    def restore(self, job: Job) -> Deferred[None]:
        """See ``IJobStore.restore``."""
        return self._do(JobTables.restore, (job,), len(job.body), False)

    def adopt(self, node: str, heir: str, after: int, limit: int) -> Deferred[list[tuple[Job, bool]]]:
        """See ``IJobStore.adopt``."""
        return self._do(JobTables.adopt, (node, heir, after, limit), 0, False)

    def nodes(self) -> Deferred[list[str]]:
        """See ``IJobStore.nodes``."""
        return self._do(JobTables.nodes, (), 0, True)

    def state(self, queue: str) -> Deferred[QueueState]:
        """See ``IJobStore.state``."""
        return self._do(JobTables.state, (queue,), 0, True)

    def totals(self) -> Deferred[QueueState]:
        """See ``IJobStore.totals``."""
        return self._do(JobTables.totals, (), 0, True)

    def queues(self, after: str, limit: int) -> Deferred[list[str]]:
        """See ``IJobStore.queues``."""
        return self._do(JobTables.queues, (after, limit), 0, True)

    def dead(self, queue: str, after: int, limit: int, max_bytes: int) -> Deferred[list[Job]]:
        """See ``IJobStore.dead``."""
        return self._do(JobTables.dead, (queue, after, limit, max_bytes), 0, True)

    def retry(self, queue: str, numbers: Sequence[int] | None, limit: int) -> Deferred[int]:
        """See ``IJobStore.retry``."""
        return self._do(JobTables.retry, (queue, numbers, limit), 0, False)

    def drop(self, queue: str, numbers: Sequence[int] | None, limit: int) -> Deferred[int]:
        """See ``IJobStore.drop``."""
        return self._do(JobTables.drop, (queue, numbers, limit), 0, False)

    def sweep(self, seconds: float) -> Deferred[int]:
        """See ``IJobStore.sweep``."""
        return Deferred.fromCoroutine(self._sweep(seconds))

    async def _sweep(self, seconds: float) -> int:
        removed = 0
        after: int | None = 0
        while after is not None:
            count, after = await self._do(JobTables.sweep, (after, seconds), 0, False)
            removed += count
        return removed


class MemoryJobTables(JobTables):
    """The tables of a store without a file.

    Args: see ``JobTables``.
    """

    def __init__(
        self,
        expiry: Expiry,
        count: Callable[[Quota | None], bytes | None],
        uncount: Callable[[bytes | None], object],
        check_room: Callable[[], object],
    ) -> None:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL)")
        connection.executescript(files("broker.stores").joinpath("schema_jobs.sql").read_text("utf-8"))
        super().__init__(connection, expiry, count, uncount, check_room)
        self._empty = 0
        self._empty = self.used_bytes

    @property
    def used_bytes(self) -> int:
        """How much memory the jobs take, about."""
        (pages,) = self._execute("PRAGMA page_count").fetchone()
        (free,) = self._execute("PRAGMA freelist_count").fetchone()
        (size,) = self._execute("PRAGMA page_size").fetchone()
        return int((pages - free) * size) - self._empty
