import pytest
from twisted.internet.task import Clock

from broker.core.deadlines import BATCH, GRAIN, MAX_BUCKETS, Deadlines
from broker.core.slices import SLICE
from tests.support.logs import failures_of, logging


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def due():
    return []


@pytest.fixture
def deadlines(clock, due):
    return Deadlines(clock, due.append)


def pass_time(clock, seconds):
    clock.pump([GRAIN] * (round(seconds / GRAIN)))


def test_a_key_is_due_after_its_delay_and_not_before(clock, due, deadlines):
    deadlines.add("a", 1.0)
    pass_time(clock, 0.95)
    assert due == []
    pass_time(clock, 0.15)
    assert due == ["a"]
    assert len(deadlines) == 0


def test_a_key_is_due_at_its_very_time(clock, due):
    Deadlines(clock, due.append, grain=0.25).add("a", 1.0)
    clock.pump([0.25] * 4)
    assert due == ["a"]


def test_keys_are_due_in_the_order_of_their_times(clock, due, deadlines):
    deadlines.add("late", 2.0)
    deadlines.add("early", 0.5)
    deadlines.add("also early", 0.5)
    pass_time(clock, 2.2)
    assert due == ["early", "also early", "late"]


def test_a_dropped_key_is_never_due_and_leaves_nothing(clock, due, deadlines):
    bucket = deadlines.add("a", 1.0)
    deadlines.drop("a", bucket)
    deadlines.drop("a", bucket)
    deadlines.drop("a", None)
    pass_time(clock, 2.0)
    assert due == []
    assert not clock.getDelayedCalls()


def test_no_timer_runs_while_nothing_waits(clock, deadlines):
    assert not clock.getDelayedCalls()
    deadlines.add("a", 0.1)
    assert len(clock.getDelayedCalls()) == 1
    pass_time(clock, 0.3)
    assert not clock.getDelayedCalls()


def test_one_that_fails_does_not_hold_up_the_others(clock, due):
    def expire(key):
        if key == "bad":
            raise ValueError(key)
        due.append(key)

    deadlines = Deadlines(clock, expire)
    for key in ("a", "bad", "b"):
        deadlines.add(key, 1.0)
    with logging() as events:
        pass_time(clock, 1.2)
    assert due == ["a", "b"]
    assert [str(failure) for failure in failures_of(events)] == ["bad"]


def test_many_odd_delays_are_rounded_up_to_few_lines(clock, due, deadlines):
    buckets = [deadlines.add(number, 10.0 + number / 1000) for number in range(1000)]
    assert len({id(bucket) for bucket in buckets}) <= MAX_BUCKETS + 2
    pass_time(clock, 9.9)
    assert due == []
    pass_time(clock, 7.0)
    assert sorted(due) == list(range(1000))


@pytest.mark.parametrize(("delay", "bucket"), [(0.5, 1.0), (63.9, 64.0), (64.0, 64.0), (64.1, 128.0)])
def test_a_delay_is_rounded_up_to_the_next_power_of_two(clock, deadlines, delay, bucket):
    for number in range(MAX_BUCKETS):
        deadlines.add(number, 1000.0 + number)
    assert deadlines.add("a", 1000.0)["a"] == clock.seconds() + 1000.0
    assert deadlines.add("b", delay)["b"] == clock.seconds() + bucket


def test_what_is_due_may_add_again(clock, due):
    again: Deadlines[str] = Deadlines(clock, lambda key: (due.append(key), again.add(key, 1.0)))
    again.add("a", 1.0)
    pass_time(clock, 3.4)
    assert due == ["a", "a", "a"]


def test_stopping_forgets_everything(clock, due, deadlines):
    deadlines.add("a", 0.1)
    deadlines.stop()
    deadlines.stop()
    pass_time(clock, 1.0)
    assert due == []
    assert not clock.getDelayedCalls()


def test_many_that_are_due_at_once_let_others_have_their_turn(clock):
    due, turns = [], []

    def expire(key):
        due.append(key)
        clock.rightNow += SLICE / BATCH

    def other():
        turns.append(len(due))
        if len(due) < 3 * BATCH - 1:
            clock.callLater(0, other)

    deadlines = Deadlines(clock, expire)
    buckets = [deadlines.add(number, 1.0) for number in range(3 * BATCH)]
    clock.callLater(1.0, other)
    clock.callLater(1.0, buckets[-1].pop, 3 * BATCH - 1)
    pass_time(clock, 1.3)
    assert due == list(range(3 * BATCH - 1))
    assert {BATCH, 2 * BATCH} <= {*turns}
    assert len(deadlines) == 0


def test_each_that_takes_a_whole_slice_lets_others_have_their_turn(clock):
    due, turns = [], []

    def expire(key):
        due.append(key)
        clock.rightNow += SLICE
        clock.callLater(0, lambda: turns.append(len(due)))

    deadlines = Deadlines(clock, expire)
    for number in range(5):
        deadlines.add(number, 1.0)
    pass_time(clock, 1.3)
    assert due == list(range(5))
    assert turns == [1, 2, 3, 4, 5]


def test_what_is_dropped_while_others_are_due_is_not_due(clock):
    due = []

    def expire(key):
        due.append(key)
        bucket.pop("b", None)

    deadlines = Deadlines(clock, expire)
    for key in "abc":
        bucket = deadlines.add(key, 1.0)
    pass_time(clock, 1.1)
    assert due == ["a", "c"]


def test_what_came_while_the_process_was_frozen_came_in_time(clock, due, deadlines):
    answered = deadlines.add("answered", 1.0)
    deadlines.add("silent", 1.0)
    pass_time(clock, 0.5)
    clock.rightNow += 5.0
    # The loop looks at its timers first, and at the sockets then.
    clock.callLater(0, deadlines.drop, "answered", answered)
    clock.advance(0)
    assert due == ["silent"]
