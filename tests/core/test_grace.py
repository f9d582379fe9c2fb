"""The grace of slow readers by itself: a queue whose length the test says, and a clock."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from broker.core.grace import LOOKS, SlowReaderGrace


class Queue:
    """A send queue of which 1000 bytes may wait, in its grace."""

    def __init__(self, seconds: float = 5.0) -> None:
        self.clock = Clock()
        self.unsent = 1001
        self.ends: list[str] = []
        self.grace = SlowReaderGrace(
            lambda: self.unsent,
            1000,
            seconds,
            lambda: self.ends.append("recovered"),
            lambda: self.ends.append("expired"),
            self.clock,
        )
        self.grace.start()


@pytest.mark.parametrize("seconds", [0.001, 0.1, 5.0, 3600.0])
def test_it_expires_when_its_time_is_up(seconds):
    queue = Queue(seconds)
    queue.clock.pump([seconds / 100] * 99)
    assert queue.ends == []
    queue.clock.pump([seconds / 100] * 2)
    assert queue.ends == ["expired"]
    assert queue.clock.getDelayedCalls() == []


def test_a_queue_that_is_below_its_limit_at_one_look_has_recovered():
    queue = Queue()
    queue.clock.pump([0.1] * 40)
    queue.unsent = 1000
    queue.clock.advance(5.0 / LOOKS)
    assert queue.ends == ["recovered"]
    queue.unsent = 1 << 20
    queue.clock.pump([0.1] * 100)
    assert queue.ends == ["recovered"]


def test_reading_alone_is_not_enough():
    queue = Queue()
    queue.unsent = 60_000
    for _ in range(60):
        queue.clock.advance(0.1)
        queue.unsent -= 900
    assert queue.ends == ["expired"]


def test_once_stopped_it_calls_nothing():
    queue = Queue()
    queue.grace.stop()
    queue.grace.stop()
    queue.clock.advance(10)
    assert (queue.ends, queue.clock.getDelayedCalls()) == ([], [])
