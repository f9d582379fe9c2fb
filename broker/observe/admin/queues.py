"""Work queues and their dead letters, as rows."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from broker.core.gathering import gather
from broker.core.parts import Parts
from broker.errors import Invalid
from broker.jobs import Job, QueueState
from broker.observe.admin.paging import Page, Query, Row, check_order, stored_page

NAMES_PER_READ = 1000
MAX_NAMES = 20_000  # queues that one request looks at for a word in their names
MAX_DEAD_BYTES = 1 << 20  # of bodies that one answer reads


class DeadQuery(Query, kw_only=True):
    """``queue``: whose dead letters are shown."""

    queue: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class WorkQueues:
    """Shows the work queues of the store.

    Args:
        parts: of the core.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def queues(self, query: Query) -> Page:
        """Return work queues with what they have, by their names."""
        check_order(query)
        names, last = await self._names(query)
        jobs, now = self._parts.store.jobs, self._parts.store.wall.time()
        states = await gather(names[: query.limit], jobs.state)
        consumers = self._parts.jobs.consumers
        rows = [
            _queue(name, state, len(consumers[name].holders) if name in consumers else 0, now)
            for name, state in zip(names, states, strict=False)
        ]
        return Page(rows, last, complete=not last or len(rows) == query.limit)

    async def _names(self, query: Query) -> tuple[list[str], str]:
        """Return the names that are asked for, and the last one that was looked at if there may be more."""
        found: list[str] = []
        after = query.after
        for _ in range(0, MAX_NAMES, NAMES_PER_READ):
            names = await self._parts.store.jobs.queues(after, NAMES_PER_READ)
            for name in names:
                if query.q in name:
                    if len(found) == query.limit:
                        return found, after
                    found.append(name)
                after = name
            if len(names) < NAMES_PER_READ:
                return found, ""
        return found, after

    async def dead(self, query: DeadQuery) -> Page:
        """Return the dead letters of a queue, without their bodies."""
        check_order(query)
        parts, after = self._parts, 0
        if query.after:
            epoch, _, number = query.after.rpartition("-")
            if epoch != parts.store.epoch or not (number.isascii() and number.isdecimal()):
                raise Invalid("after", message="after must be what next was in the answer before.")
            after = int(number)
        jobs = await parts.store.jobs.dead(query.queue, after, query.limit + 1, MAX_DEAD_BYTES)
        ids = [f"{parts.store.epoch}-{job.number}" for job in jobs]
        rows = [dead_row(id, job) for id, job in zip(ids, jobs, strict=True)]
        if len(jobs) <= query.limit and sum(len(job.body) for job in jobs) >= MAX_DEAD_BYTES:
            return Page(rows, ids[-1])  # there may be more behind so many bytes
        return stored_page(rows, ids, query.limit)


def dead_row(id: str, job: Job) -> dict[str, Any]:
    """Return a dead letter as it is shown."""
    return {
        "id": id,
        "ref": job.ref,
        "sender": job.source,
        "time": job.time or None,
        "failures": job.failures,
        "reason": job.reason,
        "worker": job.worker,
        "died": job.until or None,
        "bytes": len(job.body),
    }


def _queue(name: str, state: QueueState, consumers: int, now: float) -> Row:
    return {
        "queue": name,
        "ready": state.ready,
        "delayed": state.delayed,
        "in_flight": state.in_flight,
        "dead": state.dead,
        "oldest_seconds": round(max(0.0, now - state.oldest), 3) if state.oldest else None,
        "consumers": consumers,
    }
