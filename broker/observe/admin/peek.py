"""A look at what is stored: events of a topic, jobs of a queue, the value of a key.  Nothing changes by it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from broker.core.parts import Parts
from broker.errors import Invalid, NotFound
from broker.interfaces import IPeer
from broker.jobs import Job
from broker.messages import MAX_ID, Event
from broker.observe.admin.queues import dead_row

MAX_PEEKED = 100  # things in one answer
MAX_BYTES = 1 << 20  # of their bodies
MAX_SHOWN = 65536  # bytes of one body

_read = msgspec.json.Decoder(msgspec.Raw).decode


class Peek(msgspec.Struct, forbid_unknown_fields=True):
    """One of ``topic``, ``queue`` and ``key``; with ``dead``, the dead letters of the queue.

    Events are the newest, or those behind the id ``after``; jobs are the first, or those behind the number ``after``.
    """

    topic: str = ""
    queue: str = ""
    key: str | None = None
    dead: bool = False
    after: Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PEEKED)] = 10


async def peek(parts: Parts, peer: IPeer, wanted: Peek) -> tuple[dict[str, Any], dict[str, object]]:
    """Return what there is to see, and what the log says of it.

    Raises:
        Invalid: it is not said at what.
        NotFound: there is no such key.
    """
    if bool(wanted.topic) + bool(wanted.queue) + (wanted.key is not None) != 1 or (wanted.dead and not wanted.queue):
        raise Invalid("body", message="Name one of topic, queue and key; dead letters are those of a queue.")
    if wanted.topic:
        return {"events": await _events(parts, wanted)}, {"topic": wanted.topic}
    if wanted.queue:
        return {"jobs": await _jobs(parts, wanted)}, {"queue": wanted.queue, "dead": wanted.dead}
    key = wanted.key or ""
    entry = await peer.get(key)
    if entry is None:
        raise NotFound("key", key, message=f"There is no key {key[:100]}.")
    said = {"key": key, "revision": entry.revision, "expires": entry.expires or None, **_body(entry.value)}
    return said, {"key": key}


async def _events(parts: Parts, wanted: Peek) -> list[dict[str, Any]]:
    channels = parts.channels
    if wanted.after is not None:
        events = await channels.read(wanted.topic, wanted.after, wanted.limit, MAX_BYTES)
    else:
        events = await channels.latest(wanted.topic, wanted.limit, MAX_BYTES)
    kept = await parts.retained.last(wanted.topic)
    if kept is not None and wanted.after is None and (not events or events[-1].time < kept.time):
        events.append(kept)
    return [_event(event) for event in events]


def _event(event: Event) -> dict[str, Any]:
    said = {"id": event.id or None, "time": event.time, "name": event.name, "sender": event.source}
    return {**said, **({"payload": None} if event.body is None else _body(event.body))}


async def _jobs(parts: Parts, wanted: Peek) -> list[dict[str, Any]]:
    jobs, after = parts.store.jobs, wanted.after or 0
    find = jobs.dead if wanted.dead else jobs.ready
    found = await find(wanted.queue, after, wanted.limit, MAX_BYTES)
    return [_job(parts.store.epoch, job) for job in found]


def _job(epoch: str, job: Job) -> dict[str, Any]:
    return {"number": job.number, **dead_row(f"{epoch}-{job.number}", job), **_body(job.body)}


def _body(body: bytes) -> dict[str, Any]:
    """Return a body as it is shown: as JSON, else as text, cut if it is long."""
    if len(body) > MAX_SHOWN:
        return {"text": body[:MAX_SHOWN].decode("utf-8", "replace"), "bytes": len(body), "cut": True}
    try:
        body.decode()
        return {"payload": _read(body), "bytes": len(body)}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {"text": body.decode("utf-8", "replace"), "bytes": len(body)}
