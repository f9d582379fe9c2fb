"""What ``txbroker enqueue`` and ``dead`` do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict
from uuid import uuid4

import msgspec

from broker.app.client.output import as_text, emit, emit_json, moment, one_line
from broker.app.client.running import once
from broker.app.client.target import Target
from broker.client import ClientError
from broker.client.asyncio import Client

MAX_PAGE = 1000  # jobs that the broker lists at once


class _DeadJob(TypedDict):
    id: str
    payload: Any
    deliveries: int
    reason: NotRequired[str]
    worker: NotRequired[str]
    time: int | float


class _Dead(TypedDict):
    jobs: list[_DeadJob]


def enqueue(target: Target, queue: str, payload: Any, given: Mapping[str, Any], *, as_json: bool) -> None:
    """Add a job, and print its id; *given* are options of ``Verbs.enqueue``."""
    # With a key it is sent again after a loss, and added once all the same.
    options = {**given, "key": given["key"] or uuid4().hex}
    done = once(target, lambda client: client.enqueue(queue, payload, **options))
    if as_json:
        emit_json({"id": done.id, "duplicate": done.duplicate})
    else:
        emit(done.id + (" is there already" if done.duplicate else ""))


def list_dead(target: Target, queue: str, limit: int, *, as_json: bool) -> None:
    """Print the dead jobs of *queue*."""
    jobs = once(target, lambda client: _dead(client, queue, limit))
    for job in jobs:
        if as_json:
            emit_json(job)
            continue
        words = [job["id"], moment(int(job["time"])), f"{job['deliveries']} deliveries", as_text(job["payload"])]
        emit("  ".join(map(one_line, [*words, *([str(job["reason"])] if job.get("reason") else [])])))


async def _dead(client: Client, queue: str, limit: int) -> list[_DeadJob]:
    jobs: list[_DeadJob] = []
    while len(jobs) < limit:
        size = min(limit - len(jobs), MAX_PAGE)
        after = {"after": jobs[-1]["id"]} if jobs else {}
        page = _jobs(await client.call("broker.dead", queue, {"limit": size, **after}))
        jobs += page
        if len(page) < size:
            break
    return jobs


def _jobs(answer: object) -> list[_DeadJob]:
    try:
        return msgspec.convert(answer, _Dead)["jobs"]
    except msgspec.ValidationError as error:
        raise ClientError(f"an answer can not be read: {error}") from None


def requeue(target: Target, queue: str, ids: Sequence[str] | None, *, as_json: bool) -> None:
    """Let dead jobs of *queue* be delivered as new ones, all of them without *ids*; print how many there were."""
    many = once(target, lambda client: client.retry(queue, ids))
    if as_json:
        emit_json({"requeued": many})
    else:
        emit(f"requeued: {many}")


def drop(target: Target, queue: str, ids: Sequence[str] | None, *, as_json: bool) -> None:
    """Remove dead jobs of *queue*, all of them without *ids*; print how many there were."""
    many = once(target, lambda client: client.drop(queue, ids))
    if as_json:
        emit_json({"dropped": many})
    else:
        emit(f"dropped: {many}")
