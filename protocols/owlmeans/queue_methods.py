"""The reserved methods of work queues: add jobs, consume them, say what has become of them, look after the dead."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from broker.answers import dead_letter, queue_state
from broker.errors import Invalid, NotFound
from broker.jobs import MAILBOX
from broker.jsontext import overflows
from protocols.owlmeans.methods import Answer, Method, Name, Options

if TYPE_CHECKING:
    from protocols.owlmeans.session import Session

MAX_RETURNED = 1000  # jobs that one call gives back
MAX_MESSAGES = 64  # of a mailbox that a client may have at once
Ids = list[str] | str


class EnqueueOptions(Options):
    """``key``: makes it the only job; ``order``: of those with one, one goes at a time; ``delay``, ``ttl``: seconds."""

    key: Name | None = None
    delay: float = 0.0
    order: Name | None = None
    ttl: float | None = None


class ConsumeOptions(Options):
    """``ack``: jobs are to be done; ``prefetch``: how many at once; ``lease``: seconds; ``filter``: members of them."""

    ack: bool = False
    prefetch: int | None = None
    lease: float | None = None
    filter: dict[str, Any] | None = None


class ReleaseOptions(Options):
    """``not_begun``: ids of jobs that go back at once, which counts neither as a failure nor as a delivery."""

    not_begun: list[str] = []


class FailOptions(Options):
    """``delay``: seconds until the job comes again; ``reason``: is kept with it."""

    delay: float | None = None
    reason: str = ""


class DeadOptions(Options):
    """``limit``: how many jobs at most; ``after``: the id after which they begin."""

    limit: int = 100
    after: str = ""


class Enqueue(Method):
    """Store a job of a work queue."""

    called = "enqueue"
    queue: str
    payload: msgspec.Raw
    options: EnqueueOptions | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with its id, and whether it was there already."""
        options, body = self.options or EnqueueOptions(), bytes(self.payload)
        if overflows(body):
            raise Invalid("payload")
        if options.ttl is not None and options.ttl <= 0:
            raise Invalid("ttl")
        id, duplicate = await session.peer.add_job(
            self.queue,
            body,
            key=options.key or "",
            order=options.order or "",
            delay=options.delay,
            ttl=options.ttl or 0.0,
        )
        return {"id": id, "duplicate": duplicate}


class Consume(Method):
    """Consume the jobs of a work queue, with others: the next job goes to the one with the most room."""

    called = "consume"
    free_form = True
    queue: str = "default"
    options: ConsumeOptions | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with all queues that the session takes from."""
        options = self.options or ConsumeOptions()
        if self.queue == MAILBOX:
            return self._consume_mailbox(session, options)
        prefetch, lease = options.prefetch, options.lease
        for name, value in (("prefetch", prefetch), ("lease", lease)):
            if value is not None and not value > 0:
                raise Invalid(name)
        session.peer.consume(
            self.queue, ack=options.ack, prefetch=prefetch or 0, lease=lease or 0.0, members=options.filter
        )
        await session.peer.listening()
        return {"consuming": _consumed(session)}

    def _consume_mailbox(self, session: Session, options: ConsumeOptions) -> Answer:
        for name, value in (("lease", options.lease), ("filter", options.filter)):
            if value is not None:
                raise Invalid(name)
        prefetch = 1 if options.prefetch is None else options.prefetch
        if not 0 < prefetch <= MAX_MESSAGES:
            raise Invalid("prefetch")
        session.acknowledge_mail(prefetch if options.ack else 0)
        return {"consuming": _consumed(session)}


class Release(Method):
    """Undo the consume of a work queue, a no-op without one, and give back jobs that were not begun."""

    called = "release"
    queue: str = "default"
    options: ReleaseOptions | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with the queues that are left."""
        ids = self.options.not_begun if self.options is not None else []
        if len(ids) > MAX_RETURNED:
            raise Invalid("not_begun")
        if self.queue == MAILBOX:
            session.acknowledge_mail(0)
        else:
            session.peer.stop_consuming(self.queue)
        for id in ids:
            if session.mailbox is None or not session.mailbox.settle(id, done=False):
                with suppress(NotFound):  # somebody else has got it meanwhile
                    await session.peer.give_back_job(id, queue=self.queue)
        return {"consuming": _consumed(session)}


def _consumed(session: Session) -> list[str]:
    has_mailbox = session.mailbox is not None and session.mailbox.prefetch
    return [*([MAILBOX] if has_mailbox else []), *session.peer.consumed]


class Done(Method):
    """Say that a job is done."""

    called = "done"
    id: str

    async def run(self, session: Session) -> Answer:
        """Answer with nothing."""
        if session.mailbox is None or not session.mailbox.settle(self.id, done=True):
            await session.peer.finish_job(self.id)
        return {}


class Fail(Method):
    """Say that a job has failed: it comes again later, or is dead after the fifth time."""

    called = "fail"
    id: str
    options: FailOptions | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with nothing."""
        options = self.options or FailOptions()
        if session.mailbox is None or not session.mailbox.settle(self.id, done=False):
            await session.peer.fail_job(self.id, reason=options.reason, delay=options.delay)
        return {}


class Extend(Method):
    """Keep a job for so many seconds from now on."""

    called = "extend"
    id: str
    seconds: float

    async def run(self, session: Session) -> Answer:
        """Answer with nothing."""
        await session.peer.extend_job(self.id, self.seconds)
        return {}


class Queue(Method):
    """Ask how many jobs a work queue has."""

    called = "queue"
    queue: str

    async def run(self, session: Session) -> Answer:
        """Answer with their numbers by state, and how old the oldest is that is ready."""
        found = await session.peer.queue_state(self.queue)
        return queue_state(found, session.peer.wall.time())


class Dead(Method):
    """Ask for the jobs of a work queue that have failed too often."""

    called = "dead"
    queue: str
    options: DeadOptions | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with them, the first first."""
        options = self.options or DeadOptions()
        found = await session.peer.dead_jobs(self.queue, options.limit, options.after)
        return {"jobs": [dead_letter(id, job) for id, job in found]}


class Retry(Method):
    """Let dead jobs be delivered as new ones."""

    called = "retry"
    queue: str
    ids: Ids

    async def run(self, session: Session) -> Answer:
        """Answer with how many there were."""
        return {"retried": await session.peer.retry_jobs(self.queue, _chosen(self.ids))}


class Drop(Method):
    """Remove dead jobs."""

    called = "drop"
    queue: str
    ids: Ids

    async def run(self, session: Session) -> Answer:
        """Answer with how many there were."""
        return {"dropped": await session.peer.drop_jobs(self.queue, _chosen(self.ids))}


def _chosen(ids: Ids) -> list[str] | None:
    """Return the ids, None for all."""
    if isinstance(ids, list):
        return ids
    return None if ids == "all" else [ids]


QUEUE_METHODS = (Enqueue, Consume, Release, Done, Fail, Extend, Queue, Dead, Retry, Drop)
