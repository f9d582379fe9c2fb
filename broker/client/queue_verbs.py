"""Adding jobs to work queues, and looking after these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import msgspec

from broker.client import wire
from broker.client.base_verbs import BaseVerbs
from broker.client.outcomes import Operation
from broker.client.values import Enqueued, QueueState
from broker.client.wire import options


class _Number(msgspec.Struct):
    retried: int = 0
    dropped: int = 0


_number = wire.reader(_Number)
_enqueued = wire.reader(Enqueued)
_queue_state = wire.reader(QueueState)


@attrs.define(eq=False)
class QueueVerbs(BaseVerbs):
    """Of work queues."""

    def enqueue(
        self,
        queue: str,
        payload: Any,
        *,
        key: str | None = None,
        delay: float | None = None,
        order: str | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
        wait: bool | None = None,
    ) -> Operation[Enqueued]:
        """Add a job; with a key it is asked again after a loss.

        Args:
            queue: its name.
            payload: any JSON.
            key: makes it the only one of that name.
            delay: seconds until it is delivered.
            order: of those with the same, one goes at a time.
            ttl: seconds after which it is delivered to nobody.
            timeout: seconds that this may take.
            wait: whether it waits for a connection.
        """
        given = options(key=key, delay=delay, order=order, ttl=ttl)
        return self.core.ask(
            "broker.enqueue", [queue, payload, *given], _enqueued, again=key is not None, timeout=timeout, wait=wait
        )

    def queue(self, queue: str) -> Operation[QueueState]:
        """Ask how many jobs *queue* has."""
        return self.core.ask("broker.queue", [queue], _queue_state, again=True)

    def retry(self, queue: str, ids: Sequence[str] | None = None) -> Operation[int]:
        """Let dead jobs be delivered as new ones, all of them without *ids*; ends with how many there were."""
        chosen = "all" if ids is None else list(ids)
        return self.core.ask("broker.retry", [queue, chosen], lambda data: _number(data).retried)

    def drop(self, queue: str, ids: Sequence[str] | None = None) -> Operation[int]:
        """Remove dead jobs, all of them without *ids*; ends with how many there were."""
        chosen = "all" if ids is None else list(ids)
        return self.core.ask("broker.drop", [queue, chosen], lambda data: _number(data).dropped)
