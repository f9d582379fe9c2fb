"""Consumers of work queues, and their jobs."""

from __future__ import annotations

from typing import Any

import attrs

from broker.client import wire
from broker.client.context import Context
from broker.client.errors import ClientError, NotFound
from broker.client.notices import Notice
from broker.client.outcomes import Operation
from broker.client.registrations import Registration
from broker.client.streams import Stream
from broker.client.timers import Timer
from broker.client.wire import Frame

MAX_RETURNED = 1000  # jobs that one call gives back
HELD_WHILE_AWAY = 5.0  # seconds for which the broker keeps what a client with a name had


@attrs.define(eq=False)
class Delivery:
    """A job that the client has.

    Attributes:
        consumer: by whom it came.
        id: of this delivery.
        queue: its name.
        payload: decoded.
        delivery: 1 for the first.
        lease: seconds that it may take, unless it is extended.
        ref: the sender's own id, or "".
        sender: the client id of who has added it.
        time: milliseconds since 1970.
        settled: whether the broker was told what has become of it.
    """

    consumer: Consumer
    id: str
    queue: str
    payload: Any
    delivery: int
    lease: float
    ref: str
    sender: str
    time: int
    settled: bool = False
    _timer: Timer | None = None

    def begin(self) -> None:
        """Extend the lease for as long as it takes, from now on: it may have to wait for the application, too."""
        if not self.settled and self._timer is None:
            self._timer = self.consumer.context.timers.after(self.lease / 2, self._extend)

    def done(self) -> Operation[None]:
        """Say that it is done."""
        return self._settle("broker.done", [self.id])

    def fail(self, reason: str = "", delay: float | None = None) -> Operation[None]:
        """Say that it has failed; it comes again, after *delay* seconds if that is given."""
        return self._settle("broker.fail", [self.id, *wire.options(reason=reason or None, delay=delay)])

    def release(self) -> Operation[None]:
        """Give it back: it comes again at once, to whoever consumes the queue, as if it had not been delivered."""
        released = self._settle("broker.release", [self.queue, *wire.options(not_begun=[self.id])])
        released.listen(self.consumer.go_on, self.consumer.go_on)
        return released

    def extend(self, seconds: float) -> Operation[None]:
        """Keep it for so many seconds from now on."""
        return self.consumer.context.ask("broker.extend", [self.id, seconds], _nothing, again=True)

    def stop(self) -> None:
        """Extend it no more."""
        self.consumer.context.timers.cancel(self._timer)
        self._timer = None
        self.consumer.held.pop(self.id, None)

    def _settle(self, method: str, arguments: list[object]) -> Operation[None]:
        self.settled = True
        self.stop()
        # Within the lease, or who else gets it says what has become of it.
        return self.consumer.context.ask(method, arguments, _nothing, again=True, timeout=max(self.lease, 1.0))

    def _extend(self) -> None:
        context = self.consumer.context
        if context.is_ready:
            extended = context.control("broker.extend", wire.arguments([self.id, self.lease]))
            extended.listen(_nothing, self._not_extended)
        self._timer = context.timers.after(self.lease / 2, self._extend)

    def _not_extended(self, error: ClientError) -> None:
        if isinstance(error, NotFound) and not self.settled:
            self.stop()
            self.consumer.context.notify(Notice("job-lost", f"{self.queue} {self.id}", error=error))


def _nothing(_: object) -> None:
    """Return nothing."""


@attrs.define(eq=False)
class Consumer(Registration):
    """A work queue, or with ``@me`` the client's own mailbox.

    Attributes:
        stream: of its jobs.
        prefetch: how many it has at once.
        lease: seconds that each may take; None: as the broker says.
        filter: members that the payload must have.
        held: the jobs that it has, by id.
    """

    kind, method, undo = "consumer", "broker.consume", "broker.release"

    stream: Stream[Delivery]
    prefetch: int = 1
    lease: float | None = None
    filter: dict[str, Any] | None = None
    held: dict[str, Delivery] = attrs.field(factory=dict, init=False)
    _lost_at: float = attrs.field(default=0.0, init=False)

    def arguments(self) -> list[object]:
        """Return the queue and how its jobs are to come."""
        return [self.name, *wire.options(ack=True, prefetch=self.prefetch, lease=self.lease, filter=self.filter)]

    def answered(self, payload: bytes) -> object:
        """Drop the jobs that nobody has begun, if they went back meanwhile."""
        if self._lost_at and self.context.clock() - self._lost_at > HELD_WHILE_AWAY:
            self._drop_unbegun()
        self._lost_at = 0.0
        return None

    def on_lost(self) -> None:
        """Drop the jobs that nobody has begun, unless the broker keeps them for this client."""
        self._lost_at = self._lost_at or self.context.clock()
        if not self.context.options.name or self.name == "@me":
            self._drop_unbegun()

    def on_job(self, frame: Frame) -> None:
        """Give a job to the application."""
        payload, id = wire.payload_of(frame), str(frame.id)
        job = Delivery(self, id, self.name, payload, frame.delivery, frame.lease, frame.ref, frame.sender, frame.dt)
        self.held[id] = job
        self.context.counts.jobs += 1
        job.begin()
        self.stream.push(job)

    def go_on(self, _: object) -> None:
        """Consume again: to give a job back ends that."""
        if not self.ended and self.context.is_ready:
            self.begin()

    def close(self) -> None:
        """Have no more of them."""
        self.end(None)

    def on_end(self, error: ClientError | None) -> None:
        """Consume no more, give back the jobs that nobody has begun, and end the stream."""
        give_back(self.context, self.name, self._drop_unbegun())
        self.stream.end(error)

    def _drop_unbegun(self) -> list[str]:
        """Drop the jobs that nobody has begun; return their ids."""
        jobs = self.stream.clear()
        for job in jobs:
            job.stop()
        return [job.id for job in jobs]


def give_back(context: Context, queue: str, ids: list[str]) -> None:
    """Let *context* consume *queue* no more, and return the jobs *ids*, which nobody has begun.

    That they were delivered counts for nothing.  Without a connection they have gone back, or will by themselves.
    """
    for start in range(0, max(len(ids), 1), MAX_RETURNED):
        if context.is_ready:
            some = ids[start : start + MAX_RETURNED]
            context.control("broker.release", wire.arguments([queue, *wire.options(not_begun=some or None)]))
