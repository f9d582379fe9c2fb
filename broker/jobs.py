"""Jobs of work queues, and the contract of what keeps them.

A job is *ready* until it is claimed for a worker, *delayed* before its time has come, *in flight* while a worker
has it, and *dead* when it has failed too often.  ``tests/stores/job_contract.py`` checks every store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import attrs
from twisted.internet.defer import Deferred
from zope.interface import Interface

from broker.messages import Mail, Quota

MAX_DELAY = 366 * 86400.0  # seconds that a job may be delayed, or a lease may last
DEAD_SUFFIX = ".dead"  # of names that are the broker's: what is dead of a queue
MAILBOX = "@me"  # in the place of a queue: the client's own mailbox


def is_queue_of_broker(name: str) -> bool:
    """Whether *name*, without ``queue:``, is none that jobs can be added to or taken from."""
    return name == MAILBOX or name.endswith(DEAD_SUFFIX)


@attrs.frozen
class Worker:
    """Who has a job.

    Attributes:
        client: its client id; its session id if it has none.
        node: the address of the node that it is connected to.
        named: whether it has a client id, by which it can come back.
    """

    client: str
    node: str = ""
    named: bool = False


Slot: TypeAlias = tuple[Worker, float]  # room for one job at a worker, with the seconds of the lease


@attrs.frozen
class Job:
    """A job as a store has it.

    Attributes:
        number: the only one of its store and epoch, and higher than those of earlier jobs.
        queue: without ``queue:``.
        body: JSON text.
        ref: the sender's own id of it, or "".
        source: client id of the sender.
        time: the sender's clock in seconds, or the broker's.
        token: of the last delivery: each has a higher one.
        deliveries: how many there were, since it was retried last.
        failures: how many of them have failed.
        reason: of the last failure, or "".
        worker: who has it, or had it last.
        order: its order key, or "".
        until: when its lease ends, it died, or became ready again, in seconds since 1970; 0.0: none of them.
    """

    number: int
    queue: str
    body: bytes
    ref: str = ""
    source: str = ""
    time: float = 0.0
    token: int = 0
    deliveries: int = 0
    failures: int = 0
    reason: str = ""
    worker: str = ""
    order: str = ""
    until: float = 0.0


@attrs.frozen
class Claimed:
    """What was claimed.

    Attributes:
        jobs: in flight now, or, if that was asked for, removed.
        due: seconds until the next delayed job is ready; None: there is none.
    """

    jobs: list[Job]
    due: float | None = None


@attrs.frozen
class Settled:
    """What has become of a delivery.

    Attributes:
        queue: of the job.
        ready: whether a job of that queue is ready now that was not before.
        dead: whether the job is dead.
        delay: seconds until the job is ready again, if it waits for that.
    """

    queue: str
    ready: bool = False
    dead: bool = False
    delay: float = 0.0


@attrs.frozen
class QueueState:
    """How many jobs there are.

    Attributes:
        ready: those that wait for a worker, or for another job of their order key.
        delayed: those whose time has not come, failed ones included.
        in_flight: those that a worker has.
        dead: those that have failed too often.
        oldest: when the first of those that are ready was added, in seconds since 1970; 0.0: there is none.
    """

    ready: int = 0
    delayed: int = 0
    in_flight: int = 0
    dead: int = 0
    oldest: float = 0.0


class IJobStore(Interface):
    """Keeps the jobs of work queues.

    Each call is one step, unless it says otherwise: it takes effect as a whole or not at all, survives as an append
    to a log does, and those of one caller take effect in order.  All may fail with ``Unavailable``, as those of
    ``IStore``.

    A job that has been added is there until it is finished, dropped, removed by a claim, or too old.  It is in flight
    once at a time, and a delivery is named by its number and its token: what is asked of one that is not the
    last of its job is refused with ``NotFound``, and so is what is asked for another worker than has it, or for a
    delivery of another *epoch* than the present one: the same numbers may be given again in that.

    Of the jobs with one *order* key, one is active at a time: ready, in flight, or waiting after a failure; the
    others come after it, by their numbers.  One that was added with a delay is none of them until its time has come.
    """

    def add(
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
        """Add a job; return its number, and whether there was one with that *key* in the last *key_seconds*.

        Then nothing is added, and the number is that of the first.

        Args:
            queue: the name of the queue, without ``queue:``.
            mail: what it is; its own queue does not count.
            key: makes it the only one; "": none.
            key_seconds: how long the key is kept.
            order: the order key; "": none.
            delay: seconds until it is ready.
            ttl: seconds after which it is gone, unless it is in flight then; 0.0: never.
            limit: how many jobs the queue may have, without the dead ones; 0: any number.
            quota: what a new queue counts against.

        Raises:
            RateLimited: the queue has as many jobs as it may, or would be a new one and *quota* is used up.
        """

    def claim(
        queue: str,
        slots: Sequence[Slot],
        *,
        numbers: Sequence[int] | None = None,
        remove: bool = False,
        max_bytes: int = 0,
    ) -> Deferred[Claimed]:
        """Give a job that is ready to each of *slots*, in their order, the lowest numbers first.

        Args:
            queue: from which.
            slots: the workers, with the seconds for which they get one.
            numbers: of the jobs for the slots, one for each, as far as they are ready.
            remove: whether the jobs are removed at once, instead of being in flight.
            max_bytes: no more follow when their bodies have as many; 0: any number.
        """

    def before_commit(work: Callable[[], object]) -> None:
        """Call *work* when what was asked for until then is about to be done together; what it asks for goes along.

        At once, where each call is done by itself.  *work* must not fail.
        """

    def ready(queue: str, after: int, limit: int, max_bytes: int) -> Deferred[list[Job]]:
        """Return jobs that are ready and have a number above *after*, lowest first; *max_bytes* as in claim."""

    def find(number: int) -> Deferred[str | None]:
        """Return the queue of a job, or None."""

    def finish(number: int, token: int, client: str, *, epoch: str | None = None) -> Deferred[Settled]:
        """Remove a job of which *client* had the last delivery, even if its lease has ended.

        Raises:
            NotFound: it was delivered to another since, or is gone.
        """

    def fail(
        number: int,
        token: int,
        client: str,
        *,
        reason: str,
        delays: Sequence[float],
        expired: str = "",
        epoch: str | None = None,
    ) -> Deferred[Settled]:
        """Count a failure: the job is ready again after that of *delays* that its number of failures names.

        When it has failed more often than there are delays it is dead.  With *expired*, the address of a node, its
        lease there has ended: then *client* may still finish it; otherwise this was the end of its delivery.

        Raises:
            NotFound: it is not in flight for that delivery, on that node, or, unless *expired*, was not since its
                lease ended.
        """

    def release(
        number: int, token: int, node: str, *, max_deliveries: int, delivered: bool = True
    ) -> Deferred[Settled]:
        """Let a job that is in flight on *node* be ready at once, as the first: that is no failure.

        After *max_deliveries* it is dead.  *delivered*: whether the worker may have seen it; else it does not count.

        Raises:
            NotFound: it is not in flight for that delivery.
        """

    def extend(number: int, token: int, worker: Worker, lease: float, *, epoch: str | None = None) -> Deferred[Settled]:
        """Let the lease of *worker* end in *lease* seconds, which begins again if it has ended.

        Raises:
            NotFound: it was delivered to another since, or has failed too often.
        """

    def restore(job: Job) -> Deferred[None]:
        """Add a job again that was removed by a claim and could not be delivered, with its number; no limit counts."""

    def adopt(node: str, heir: str, after: int, limit: int) -> Deferred[list[tuple[Job, bool]]]:
        """Let the jobs in flight on *node* be in flight on the node *heir*; return at most *limit* of them.

        Those with the lowest numbers above *after*, each without its body, and with whether its worker is named.
        """

    def nodes() -> Deferred[list[str]]:
        """Return the addresses of the nodes on which jobs are in flight."""

    def state(queue: str) -> Deferred[QueueState]:
        """Return what *queue* has."""

    def totals() -> Deferred[QueueState]:
        """Return what all queues have; it may work in steps."""

    def queues(after: str, limit: int) -> Deferred[list[str]]:
        """Return names of queues that sort after *after*, at most *limit*, in rising order of their UTF-8 bytes."""

    def dead(queue: str, after: int, limit: int, max_bytes: int) -> Deferred[list[Job]]:
        """Return dead jobs with a number above *after*, lowest first; *max_bytes* as in claim."""

    def retry(queue: str, numbers: Sequence[int] | None, limit: int) -> Deferred[int]:
        """Let at most *limit* dead jobs be ready, as if they were new; None: any.  Return how many were dead."""

    def drop(queue: str, numbers: Sequence[int] | None, limit: int) -> Deferred[int]:
        """Remove at most *limit* dead jobs; None: any.  Return how many were dead."""

    def sweep(seconds: float) -> Deferred[int]:
        """Remove what has ended: jobs by their ttl or after *seconds*, dead ones so long after they died; 0.0: never.

        The seconds of a job count from when it was added or, if it was delayed or came back, was ready last.
        With them go keys that were kept for long enough, and queues that have nothing; what is in flight stays.
        It works in steps.  Returns how many jobs went.
        """
