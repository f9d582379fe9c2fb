"""Mailboxes and work queues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import Interface

from broker.interfaces.coroutines import Coro
from broker.jobs import Job, QueueState
from broker.messages import Delivery


class IJobVerbs(Interface):
    """To send messages to mailboxes and jobs to work queues, and to work on them."""

    def enqueue(ref: str, body: bytes, *, recipient: str = "", time: float = 0.0) -> Deferred[bool]:
        """Send a message to a client's mailbox, or to the work queue ``queue:<name>``.

        Without a recipient it goes to ``queue:default``.  Fires when it has been
        handed over or stored, with True if an older one of a mailbox was dropped for it.

        Raises:
            Gone: the recipient is unknown and has no mailbox.
            RateLimited: the work queue has as many jobs as it may.
        """

    def add_job(
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
        """Store a job of the work queue *queue*; return its id, and whether there was one with that *key* already.

        Args:
            queue: without ``queue:``, as in all verbs of jobs.
            body: JSON text.
            ref: the client's own id of it.
            key: makes it the only one of its principal for ``TXBROKER_DEDUP_SECONDS``: the id of the first is returned.
            order: jobs with the same one go one at a time; one that has failed is waited for.
            delay: seconds until it may be delivered.
            ttl: seconds after which it is not delivered any more; 0: the queue's own.
            time: the client's clock, in seconds since 1970.

        Raises:
            RateLimited: the queue has as many jobs as it may, or is one too many.
        """

    def consume(
        queue: str,
        *,
        ack: bool = False,
        prefetch: int = 0,
        lease: float = 0.0,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        """Take jobs of work queue *queue* by ``ISession.mail``, or take them otherwise from now on.

        The next job goes to the consumer with the most room.

        Args:
            queue: which.
            ack: whether each is a ``Delivery``, which comes again, here or elsewhere, until ``finish_job`` is called.
                Otherwise each comes at most once.
            prefetch: how many jobs it may have at once, by default 1; without *ack*, how many that were sent may
                wait to leave for the client, by default 64.
            lease: seconds in which one must be finished, failed or extended; 0: ``TXBROKER_LEASE_SECONDS``.
            members: take only jobs whose body is an object with exactly these values of these members.

        Raises:
            RateLimited: it has too many registrations.
        """

    def claim_jobs(
        queue: str,
        limit: int = 1,
        *,
        lease: float = 0.0,
        wait: float = 0.0,
        members: Mapping[str, Any] | None = None,
    ) -> Coro[list[Delivery]]:
        """Return up to *limit* jobs of *queue*, waiting up to *wait* seconds if there are none.

        For a client without a session, which may come by another connection each time: it has the jobs by its
        principal, until their leases end, and settles them by peers without a session, on any node.  *lease* and
        *members* as in ``consume``.  Cancelling returns them to the queue.

        Raises:
            RateLimited: too many requests wait, as for ``poll``, or too many jobs are in flight in this way.
            Unauthenticated: the credential of the client has expired meanwhile.
            Unavailable: nobody knows whether there are any.
        """

    def stop_consuming(queue: str) -> None:
        """Undo ``consume``; a no-op without one.  What is in flight stays the client's."""

    def finish_job(id: str, *, queue: str = "") -> Deferred[None]:
        """Say that the job of the delivery *id* is done: it is removed.

        Raises:
            NotFound: it was delivered to another since, or is gone, or is not one of *queue*, if that is said.
        """

    def fail_job(id: str, *, reason: str = "", delay: float | None = None, queue: str = "") -> Deferred[None]:
        """Say that the job has failed: it comes again in *delay* seconds, by default in 1, 5, 30 and 120, or is dead.

        Raises:
            NotFound: see ``finish_job``.
        """

    def give_back_job(id: str, *, queue: str = "") -> Deferred[None]:
        """Say that the job was not begun: it comes again at once, as if it had not been delivered.

        Raises:
            NotFound: see ``finish_job``.
        """

    def extend_job(id: str, seconds: float, *, queue: str = "") -> Deferred[None]:
        """Let the lease end in so many *seconds* from now on.

        Raises:
            NotFound: see ``finish_job``.
        """

    def queue_state(queue: str) -> Deferred[QueueState]:
        """Return how many jobs a queue has."""

    def dead_jobs(queue: str, limit: int, after: str = "") -> Coro[list[tuple[str, Job]]]:
        """Return dead jobs of *queue* with their ids: those after the id *after*, at most *limit*, at most 1000."""

    def retry_jobs(queue: str, ids: Sequence[str] | None) -> Coro[int]:
        """Let dead jobs of these ids, None: all, be delivered as new ones; return how many there were."""

    def drop_jobs(queue: str, ids: Sequence[str] | None) -> Coro[int]:
        """Remove dead jobs of these ids, None: all; return how many there were."""

    def collect() -> None:
        """Get the mail that its session has declined before, or that no consumer accepted."""
