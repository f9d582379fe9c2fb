"""Timers, waits, the throttle and streams."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from broker.client.backoff import Backoff
from broker.client.outcomes import Outcome
from broker.client.streams import Stream
from broker.client.throttle import Throttle
from broker.client.timers import Timers
from tests.client.fake_driver import End


def test_timers_run_in_order_and_not_when_cancelled():
    now, ran = [0.0], []
    timers = Timers(lambda: now[0], lambda when: None)
    timers.after(2.0, lambda: ran.append("b"))
    cancelled = timers.after(1.5, lambda: ran.append("x"))
    timers.after(1.0, lambda: ran.append("a"))
    timers.cancel(cancelled)
    timers.cancel(cancelled)
    assert (timers.run(), len(timers)) == (1.0, 2)
    now[0] = 3.0
    assert (timers.run(), ran, len(timers)) == (None, ["a", "b"], 0)


def test_the_first_timer_is_told():
    told: list[float] = []
    timers = Timers(lambda: 0.0, told.append)
    for when in (5.0, 7.0, 3.0):
        timers.at(when, lambda: None)
    assert told == [5.0, 3.0]


@given(st.lists(st.tuples(st.floats(0, 10), st.booleans()), max_size=300))
def test_cancelled_timers_are_not_kept(steps):
    timers = Timers(lambda: 0.0, lambda when: None)
    for when, cancels in steps:
        timer = timers.at(when + 1, lambda: None)
        if cancels:
            timers.cancel(timer)
    assert len(timers) == sum(not cancels for _, cancels in steps)
    assert len(timers._heap) <= 2 * len(timers) + 130


@given(st.integers(0, 200), st.floats(0, 1, exclude_max=True))
def test_waits_are_bounded(attempts, chance):
    backoff = Backoff(0.5, 30.0, lambda: chance)
    for _ in range(attempts):
        assert 0 <= backoff.next() <= 30.0
    backoff.reset()
    assert backoff.next() == 0.5 * chance


def test_the_throttle_lets_all_pass_until_it_is_taught():
    throttle = Throttle()
    assert all(throttle.acquire(0.0) for _ in range(10_000))
    assert throttle.rate is None


def test_it_halves_the_rate_waits_as_told_and_recovers_without_end():
    throttle, now = Throttle(), 0.0
    for _ in range(100):  # a hundred in a second
        now += 0.01
        assert throttle.acquire(now)
    throttle.refused(now, 2.0)
    taught = throttle.rate
    assert taught is not None
    assert 20 < taught < 80
    assert (throttle.acquire(now + 1.9), throttle.next(now)) == (False, now + 2.0)
    throttle.refused(now + 0.1, 2.0)  # another that was under way
    assert throttle.rate == taught
    passed, now = 0, now + 2.0
    for _ in range(1000):
        now += 0.001
        passed += throttle.acquire(now)
    assert taught * 0.8 <= passed <= taught * 1.5
    for _ in range(60):
        throttle.acquire(now := now + 1.0)
    assert throttle.rate is None


def test_an_own_limit_holds_whatever_the_broker_lets():
    throttle, now, passed = Throttle(10.0), 0.0, 0
    for _ in range(1000):
        now += 0.01
        passed += throttle.acquire(now)
    assert 98 <= passed <= 102
    throttle.limit = None
    assert throttle.acquire(now)


def test_two_that_wait_for_one_item_do_not_lose_it():
    stream: Stream[int] = Stream(10)
    first, second = End(stream.available()), End(stream.available())
    stream.push(1)
    assert (first.results, second.results, stream.pop()) == ([None], [None], 1)


def test_who_stops_waiting_loses_no_item():
    stream: Stream[int] = Stream(10)
    waiting = stream.available()
    waiting.cancel()
    stream.push(1)
    assert stream.pop() == 1


def test_a_stream_gives_what_is_left_before_its_end():
    stream: Stream[int] = Stream(10)
    stream.push(1)
    stream.end()
    stream.push(2)
    assert End(stream.available()).results == [None]
    assert (stream.pop(), End(stream.available()).errors) == (1, ["END"])


def test_an_outcome_ends_once_whoever_listens_when():
    outcome: Outcome[int] = Outcome()
    early = End(outcome)
    outcome.succeed(1)
    outcome.fail(RuntimeError())  # type: ignore[arg-type]
    late = End(outcome)
    assert (early.results, late.results, early.errors) == ([1], [1], [])


def test_jitter_spreads_clients_that_lost_their_broker_together():
    waits = sorted(Backoff(1.0, 30.0, random.Random(seed).random).next() for seed in range(200))
    assert waits[-1] - waits[0] > 0.5
