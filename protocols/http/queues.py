"""Work queues: add jobs, claim some, say what has become of them, look after the dead."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from broker.answers import dead_letter, milliseconds, queue_state
from broker.errors import Invalid
from broker.jobs import MAX_DELAY
from broker.messages import Delivery, Response
from broker.patterns import QUEUE, check_name
from protocols.http.answers import answer
from protocols.http.operations import Call, Operation
from protocols.http.requests import Strict, json_body, members, read_json

MAX_CLAIMED = 1000
MAX_WAIT = 60.0  # seconds that a claim may wait; more is as much as that

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Delay = Annotated[float, msgspec.Meta(ge=0, le=MAX_DELAY)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=MAX_DELAY)]


class EnqueueQuery(Strict):
    """``key``: makes it the only job; ``order``: of those with one, one goes at a time; ``delay``, ``ttl``: seconds."""

    key: Name | None = None
    delay: Delay = 0.0
    order: Name | None = None
    ttl: Positive | None = None


class ClaimQuery(Strict):
    """``max``: how many; ``wait`` and ``lease``: seconds; ``filter``: members of their payloads, a JSON object."""

    max: Annotated[int, msgspec.Meta(ge=1, le=MAX_CLAIMED)] = 1
    wait: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    lease: Annotated[float, msgspec.Meta(gt=0, le=86400)] | None = None
    filter: str | None = None


class DeadQuery(Strict):
    """``limit``: how many; ``after``: the id after which they begin."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    after: Name | None = None


class Failure(Strict):
    """``delay``: seconds until the job comes again; ``reason``: is kept with it."""

    delay: Delay | None = None
    reason: str = ""


class Extension(Strict):
    """``seconds`` from now on."""

    seconds: Annotated[float, msgspec.Meta(gt=0, le=86400)]


class Chosen(Strict):
    """Which of the dead jobs: those of ``ids``, or ``all``."""

    ids: list[str] | None = None
    all: bool = False


async def enqueue(call: Call) -> Response:
    """Store a job."""
    query, body = call.query, json_body(call.request)
    if not body:
        raise Invalid("body", message="a job has a payload, which is any JSON value")
    key, shown = query.key, call.header("idempotency-key")
    if shown and key and check_name(shown, "Idempotency-Key") != key:
        raise Invalid("Idempotency-Key", message="key and Idempotency-Key are not the same")
    key = key or shown
    if key:
        check_name(key, "key")
    id, duplicate = await call.peer.add_job(
        call.name, body, key=key, order=query.order or "", delay=query.delay, ttl=query.ttl or 0.0
    )
    return answer({"id": id, "duplicate": duplicate}, 201)


async def claim(call: Call) -> Response:
    """Answer with jobs that the client has from now on."""
    query = call.query
    wanted = None if query.filter is None else _filter(query.filter)
    wait = min(query.wait, MAX_WAIT)
    found = await call.peer.claim_jobs(call.name, query.max, lease=query.lease or 0.0, wait=wait, members=wanted)
    return answer([_job(each) for each in found])


def _filter(text: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = read_json(dict[str, Any], text.encode())
    except Invalid as error:
        raise Invalid("parameter", "filter", message=f"filter is a JSON object: {error.message}") from None
    return found


async def done(call: Call) -> Response:
    """Say that a job is done."""
    await call.peer.finish_job(call.names[1], queue=call.name)
    return answer({})


async def fail(call: Call) -> Response:
    """Say that a job has failed."""
    said: Failure = members(Failure, call.request)
    await call.peer.fail_job(call.names[1], reason=said.reason, delay=said.delay, queue=call.name)
    return answer({})


async def release(call: Call) -> Response:
    """Give back a job that was not begun."""
    await call.peer.give_back_job(call.names[1], queue=call.name)
    return answer({})


async def extend(call: Call) -> Response:
    """Keep a job for some seconds from now on."""
    said: Extension = members(Extension, call.request)
    await call.peer.extend_job(call.names[1], said.seconds, queue=call.name)
    return answer({})


async def state(call: Call) -> Response:
    """Answer with how many jobs there are by state, and how old the oldest is that is ready."""
    found = await call.peer.queue_state(call.name)
    return answer(queue_state(found, call.peer.wall.time()))


async def dead(call: Call) -> Response:
    """Answer with the jobs that have failed too often, the first first."""
    found = await call.peer.dead_jobs(call.name, call.query.limit, call.query.after or "")
    return answer({"jobs": [dead_letter(id, job) for id, job in found]})


async def retry(call: Call) -> Response:
    """Let dead jobs be delivered as new ones."""
    return answer({"retried": await call.peer.retry_jobs(call.name, _chosen(call))})


async def drop(call: Call) -> Response:
    """Remove dead jobs."""
    return answer({"dropped": await call.peer.drop_jobs(call.name, _chosen(call))})


def _chosen(call: Call) -> list[str] | None:
    """Return the ids, None for all."""
    said: Chosen = members(Chosen, call.request)
    if (said.ids is not None) is said.all:
        raise Invalid("body", "ids", message='which jobs: {"ids": […]} or {"all": true}')
    return said.ids


def _job(job: Delivery) -> dict[str, Any]:
    said: dict[str, Any] = {"id": job.id}
    if job.ref:
        said["ref"] = job.ref
    return said | {
        "queue": job.queue.removeprefix(QUEUE),
        "delivery": job.delivery,
        "lease": job.lease,
        "payload": msgspec.Raw(job.body),
        "sender": job.source,
        "time": milliseconds(job.time),
    }


PATH = "/queues/{queue}"
JOB = PATH + "/jobs/{id}"
NUMBERS = {200: "How many there were."}
QUEUE_OPERATIONS = (
    Operation(
        "POST",
        PATH,
        "Store a job.",
        enqueue,
        EnqueueQuery,
        headers=("Idempotency-Key",),
        body=Any,
        body_needed=True,
        results={201: "It is stored."},
    ),
    Operation("GET", PATH, "Ask how many jobs a queue has.", state, results={200: "Their numbers by state."}),
    Operation(
        "POST",
        PATH + "/claim",
        "Get jobs, waiting for some if there are none; each is the client's until its lease ends.",
        claim,
        ClaimQuery,
        results={200: "The jobs; none in time: an empty array."},
    ),
    Operation("POST", JOB + "/done", "Say that a job is done.", done),
    Operation("POST", JOB + "/fail", "Say that a job has failed: it comes again later.", fail, body=Failure),
    Operation("POST", JOB + "/release", "Give a job back: it comes again at once, as if it was not claimed.", release),
    Operation(
        "POST", JOB + "/extend", "Keep a job for some seconds from now on.", extend, body=Extension, body_needed=True
    ),
    Operation("GET", PATH + "/dead", "List jobs that have failed too often.", dead, DeadQuery, results={200: "Jobs."}),
    Operation(
        "POST",
        PATH + "/dead/retry",
        "Let dead jobs be delivered again.",
        retry,
        body=Chosen,
        body_needed=True,
        results=NUMBERS,
    ),
    Operation("POST", PATH + "/dead/drop", "Remove dead jobs.", drop, body=Chosen, body_needed=True, results=NUMBERS),
)
