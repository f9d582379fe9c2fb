"""How late the reactor is, and what /ready says of it."""

from __future__ import annotations

import threading
import time

import pytest
from twisted.internet.task import Clock

from broker.app.tap import make_lag
from broker.observe.lag import INTERVAL, TOLD, ReactorLag
from broker.observe.metrics import Histogram
from broker.observe.stacks import StackWatch, described, stack_of
from broker.testing import make_broker
from tests.support.logs import lines_of

LOOK = 0.01  # seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lag(clock):
    lag = ReactorLag(clock, Histogram((0.01, 1.0)))
    lag.startService()
    yield lag
    lag.stopService()
    assert not clock.getDelayedCalls()


def test_a_loop_that_runs_has_no_lag(clock, lag):
    clock.pump([INTERVAL] * 20)
    assert lag.longest() < 1e-6
    assert lag.reason() == ""
    assert lag._histogram.counts == [20, 0, 0]


def test_a_blocked_loop_is_counted_and_told_for_a_moment(clock, lag, logged):
    clock.advance(2.0 + INTERVAL)
    assert lag.longest() == pytest.approx(2.0)
    assert lag.reason() == "the reactor loop was blocked for 2.0 s"
    assert lag._histogram.counts == [0, 0, 1]
    assert lines_of(logged) == ["the reactor loop was blocked for 2.0 s"]
    clock.pump([INTERVAL] * (int(TOLD / INTERVAL) + 1))
    assert lag.reason() == ""
    assert lag.longest() == pytest.approx(2.0)


def test_who_asks_before_the_tick_is_told_too(clock, lag):
    clock.rightNow += 2.0 + INTERVAL  # timers that were due before are not called yet
    assert lag.longest() == pytest.approx(2.0)
    assert lag.reason() == "the reactor loop was blocked for 2.0 s"


def test_a_lag_is_forgotten_after_a_minute(clock, lag):
    clock.advance(1.5 + INTERVAL)
    clock.pump([INTERVAL] * 650)
    assert lag.longest() < 1e-6


def test_a_stopped_one_says_nothing(clock, lag):
    lag.stopService()
    clock.advance(10.0)
    assert (lag.longest(), lag.reason()) == (0.0, "")


def test_the_daemon_is_not_ready_while_its_loop_is_late(clock):
    broker = make_broker(clock)
    lag = make_lag(clock, broker)
    lag.startService()
    assert broker.ready() == []
    clock.advance(2.0 + INTERVAL)
    assert broker.ready() == broker.obstacles() == ["the reactor loop was blocked for 2.0 s"]
    assert broker.metrics.gauges["ready"]() is False
    lag.stopService()


def test_the_stack_of_what_blocks_is_kept(monkeypatch):
    monkeypatch.setattr("broker.observe.stacks.LOOK", LOOK)
    watch = StackWatch()
    watch.start()
    watch.ticked()
    began = time.monotonic()
    while not watch._caught and time.monotonic() < began + 60.0:
        time.sleep(LOOK)  # it is this that blocks
    watch.stop()
    caught = watch.caught()
    assert "observe/test_lag.py:" in caught
    assert "test_the_stack_of_what_blocks_is_kept" in caught
    assert watch.caught() == ""


def test_a_thread_that_has_gone_has_no_stack():
    assert stack_of(1) == ""


def test_the_innermost_frames_of_the_thread_are_named():
    dump = (
        "Thread 0x00007f01 (most recent call first):\n"
        + "".join(f'  File "/lib/a b/m{number}.py", line {number} in f{number}\n' for number in range(7))
        + '\nCurrent thread 0x00007f02 [stacks] (most recent call first):\n  File "<stdin>", line ??? in <module>\n'
    )
    assert described(dump, 0x7F01) == " < ".join(f"a b/m{number}.py:{number} f{number}" for number in range(5))
    assert described(dump, 0x7F02) == "<stdin>:??? <module>"
    assert described(dump, 0x7F03) == ""


def test_without_room_for_it_there_is_no_stack(monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("broker.observe.stacks.TemporaryFile", full)
    assert stack_of(threading.get_ident()) == ""
