"""What more than one of the broker's own APIs answers with, as JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from broker.jobs import Job, QueueState
from broker.messages import MAX_TIME


def milliseconds(seconds: float) -> int:
    """Return a time in seconds since 1970 as it is shown; 0 for one that no clock shows.

    An older version may have stored such a time.
    """
    return int(seconds * 1000 + 0.5) if 0 <= seconds <= MAX_TIME else 0


def queue_state(state: QueueState, now: float) -> dict[str, Any]:
    """Return how many jobs a queue has, and for how many seconds the oldest of those that are ready has been there.

    *now* is the time of day, in seconds since 1970.
    """
    return {
        "depth": state.ready,
        "delayed": state.delayed,
        "in_flight": state.in_flight,
        "dead": state.dead,
        "oldest": round(max(0.0, now - state.oldest), 3) if state.oldest else 0.0,
    }


def dead_letter(id: str, job: Job) -> dict[str, Any]:
    """Return a job that has failed too often."""
    return {
        "id": id,
        "payload": msgspec.Raw(job.body),
        "deliveries": job.deliveries,
        "reason": job.reason,
        "worker": job.worker,
        "time": milliseconds(job.until),
    }
