"""What can be read off the core at any moment: the values of its gauges."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from broker import __version__
from broker.core.named_queues import NamedQueues
from broker.core.parts import Parts
from broker.interfaces import ISharedBus

# The values of a gauge: one, one for each value of its label, or None while there is none.
Read = Callable[[], Any]


def core_gauges(parts: Parts, queues: NamedQueues) -> dict[str, Read]:
    """Return what reads the gauges of the core, by their names in the catalog of metrics."""
    store, bus, memory = parts.store, parts.bus, parts.memory
    return {
        "build_info": lambda: {__version__: 1.0},
        "nodes": lambda: len(cast(ISharedBus, bus).nodes) if bus.shared else 1,
        "calls_pending": lambda: parts.calls.pending,
        "polls_waiting": lambda: parts.channels.waiting,
        "subscriptions": lambda: parts.topics.subscriptions,
        "topics": lambda: len(parts.topics),
        "services": lambda: len(parts.calls.performers) + len(parts.calls.services),
        "sessions": lambda: len(parts.presence),
        "members": lambda: len(parts.members),
        "subscriptions_behind": lambda: parts.followers.behind,
        "memory_held_bytes": lambda: memory.used,
        "memory_limit_bytes": lambda: memory.limit,
        **{f"{name}_bytes": partial(getattr, account, "used") for name, account in memory.accounts.items()},
        "store_ready": lambda: not store.ready,
        "bus_ready": lambda: not bus.ready,
        "store_bytes": lambda: store.used_bytes,
        "store_limit_bytes": lambda: parts.settings.max_store_bytes,
        **job_gauges(parts),
        **{f"queue_{name}": partial(queues.read, name) for name in NamedQueues.STATES},
    }


def job_gauges(parts: Parts) -> dict[str, Read]:
    """Return what reads the numbers of jobs in all work queues, as they were counted last."""

    def counted(state: str) -> float:
        return float(getattr(parts.jobs.counted, state))

    def oldest() -> float:
        first = parts.jobs.counted.oldest
        return max(0.0, parts.store.wall.time() - first) if first else 0.0

    states = ("ready", "delayed", "in_flight", "dead")
    return {**{f"jobs_{state}": partial(counted, state) for state in states}, "jobs_oldest_seconds": oldest}
