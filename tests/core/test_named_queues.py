"""Work queues that an operator has named."""

from __future__ import annotations

from typing import cast

from twisted.internet.task import Clock

from broker.core.named_queues import NamedQueues
from broker.core.service import MEASURE
from broker.interfaces import IStore
from broker.testing import make_broker, value_of


def test_a_named_queue_is_counted_alone():
    clock = Clock()
    clock.advance(100.0)
    broker = make_broker(clock, metrics_queues=("mail", "empty"))
    ann = broker.attach("test", "127.0.0.1")
    for queue in ("mail", "mail", "other"):
        value_of(ann.add_job(queue, b"1"))
    clock.advance(MEASURE)
    read = {name: broker.metrics.gauges[f"queue_{name}"]() for name in NamedQueues.STATES}
    assert read == {
        "ready": {"mail": 2, "empty": 0},
        "delayed": {"mail": 0, "empty": 0},
        "in_flight": {"mail": 0, "empty": 0},
        "dead": {"mail": 0, "empty": 0},
        "oldest_seconds": {"mail": MEASURE, "empty": 0},
    }


def test_a_count_that_takes_long_is_not_repeated_soon():
    clock, asked = Clock(), []

    class Jobs:
        async def state(self, name):
            asked.append(name)
            clock.rightNow += 1.0

    class Store:
        jobs = Jobs()

    queues = NamedQueues(cast(IStore, Store()), ["mail"], clock)
    for _ in range(2):
        value_of(queues.measure())
    assert asked == ["mail"]
    clock.rightNow += 100.0
    value_of(queues.measure())
    assert asked == ["mail", "mail"]
