"""Works in steps: one after the other, as far as a slice goes."""

from itertools import count

import pytest
from twisted.internet.task import Clock

from broker.core import steps
from broker.core.slices import SLICE, Slices
from broker.core.steps import Steps
from tests.support.logs import failures_of, logging


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def slices(clock):
    return Slices(clock)


def let_steps_last(slices):
    slices.now = count(0.0, SLICE).__next__


def work(done, name, number):
    for step in range(number):
        done.append(f"{name}{step}")
        yield


def test_what_is_short_is_done_at_once(clock, slices):
    done, all_work = [], Steps(slices)
    all_work.add(work(done, "a", 2))
    assert (done, len(all_work), clock.getDelayedCalls()) == (["a0", "a1"], 0, [])


def test_works_are_done_one_after_the_other_in_slices(clock, slices):
    done, all_work = [], Steps(slices)
    let_steps_last(slices)
    for name in "ab":
        all_work.add(work(done, name, 2))
    assert done == ["a0"]
    clock.pump([1] * 5)
    assert (done, len(all_work)) == (["a0", "a1", "b0", "b1"], 0)
    assert slices.pauses == 5  # two of them to notice that a work is over


def test_the_oldest_are_done_at_once_when_too_many_wait(slices, monkeypatch):
    monkeypatch.setattr(steps, "MAX_WAITING", 2)
    done, all_work = [], Steps(slices)
    let_steps_last(slices)
    for name in "abc":
        all_work.add(work(done, name, 3))
    assert (done, len(all_work)) == (["a0", "a1", "a2"], 2)


def test_a_work_that_fails_does_not_keep_the_next_from_being_done(slices):
    def failing():
        raise ValueError("no")
        yield

    done, all_work = [], Steps(slices)
    with logging() as logged:
        all_work.add(failing())
        all_work.add(work(done, "a", 1))
    assert (done, len(failures_of(logged))) == (["a0"], 1)


def test_nothing_is_done_after_the_end(clock, slices):
    done, all_work = [], Steps(slices)
    let_steps_last(slices)
    all_work.add(work(done, "a", 3))
    all_work.stop()
    all_work.add(work(done, "b", 1))
    clock.advance(0)
    assert (done, len(all_work)) == (["a0"], 0)
