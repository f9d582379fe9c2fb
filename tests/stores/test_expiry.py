"""What has ended, by a clock that jumps: what was jumped over lives on for an hour, all else ends in time."""

from __future__ import annotations

import pytest

from broker.core.clocks import WallClock
from broker.stores.expiry import MAX_DOWNTIME, SKIPPED_FOR, Expiry

NOW = 1_700_000_000.0
DAY, WEEK = 86400.0, 7 * 86400.0


class Clocks:
    """Time goes by on both clocks alike, until that on the wall is set."""

    def __init__(self, noted: float = 0.0) -> None:
        self.now, self.elapsed = NOW, 5.0
        self.expiry = Expiry(WallClock(lambda: self.now), lambda: self.elapsed, noted)

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass, in which the daemon looks at the time once a second, about."""
        while seconds > 0:
            step = min(seconds, 30.0)
            self.now, self.elapsed, seconds = self.now + step, self.elapsed + step, seconds - step
            self.expiry.look()

    def jump(self, seconds: float) -> None:
        self.now += seconds

    def ended(self, *ends: float) -> list[bool]:
        return [self.expiry.is_over(NOW + end) for end in ends]


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def test_what_has_an_end_ends_at_it_and_what_has_none_never(clocks):
    clocks.advance(10)
    assert clocks.ended(9, 10, 11) == [True, True, False]
    assert not clocks.expiry.is_over(0.0)


@pytest.mark.parametrize("ahead", [3600.0, DAY + 1, 8 * DAY])
def test_a_jump_forward_ends_nothing(clocks, ahead):
    clocks.advance(10)
    clocks.jump(ahead)
    assert clocks.ended(5, 60, 3000, ahead) == [True, False, False, False]


def test_while_a_jump_is_skipped_what_was_there_ends_in_its_own_time(clocks):
    clocks.jump(WEEK)
    clocks.advance(59)
    assert clocks.ended(60, 100) == [False, False]
    clocks.advance(2)
    assert clocks.ended(60, 100) == [True, False]


def test_while_a_jump_is_skipped_what_is_new_ends_in_time(clocks):
    clocks.jump(WEEK)
    clocks.advance(10)
    assert clocks.ended(WEEK + 9, WEEK + 11) == [True, False]


def test_a_jump_that_has_lasted_an_hour_counts(clocks):
    clocks.jump(WEEK)
    clocks.expiry.look()
    clocks.advance(SKIPPED_FOR - 1)
    assert clocks.ended(DAY) == [False]
    clocks.advance(1)
    assert clocks.ended(DAY, WEEK, WEEK + DAY) == [True, True, False]


def test_a_jump_that_is_undone_has_ended_nothing(clocks):
    clocks.jump(WEEK)
    clocks.advance(600)
    clocks.jump(-WEEK)
    clocks.advance(SKIPPED_FOR)
    assert clocks.ended(SKIPPED_FOR + 599, SKIPPED_FOR + 601, DAY) == [True, False, False]


def test_what_is_new_after_a_jump_that_is_undone_in_part_ends_in_time(clocks):
    clocks.jump(WEEK)
    clocks.advance(60)
    clocks.jump(-WEEK + 7200)
    clocks.advance(5)  # it is noticed late
    assert clocks.ended(7200 + 64, 7200 + 66) == [True, False]


def test_jumps_add_up(clocks):
    clocks.jump(WEEK)
    clocks.advance(60)
    clocks.jump(WEEK)
    clocks.advance(60)
    assert clocks.ended(120, 130, WEEK, 2 * WEEK, 2 * WEEK + 119) == [True, False, False, False, True]


def test_after_a_jump_back_nothing_ends_too_early(clocks):
    clocks.advance(10)
    clocks.jump(-3600)
    assert clocks.ended(11, -3591) == [False, True]  # what is there lives longer
    clocks.advance(60)
    assert clocks.ended(-3600 + 69, -3600 + 71) == [True, False]  # what is new ends in time


def test_a_clock_that_was_behind_and_is_put_right_ends_nothing(clocks):
    clocks.jump(-WEEK)
    clocks.advance(600)
    clocks.jump(WEEK)
    assert clocks.ended(500, 700, -WEEK + 500) == [False, False, True]


def test_small_steps_count_at_once(clocks):
    for _ in range(10):
        clocks.jump(50.0)
        clocks.advance(1)
    assert clocks.ended(509, 511) == [True, False]


def test_age_does_not_count_what_is_skipped(clocks):
    assert clocks.expiry.oldest(DAY) == NOW - DAY
    clocks.jump(WEEK)
    assert clocks.expiry.oldest(DAY) == NOW - DAY
    clocks.advance(SKIPPED_FOR)
    assert clocks.expiry.oldest(DAY) == NOW + WEEK + SKIPPED_FOR - DAY


@pytest.mark.parametrize(("down", "skips"), [(3600.0, False), (MAX_DOWNTIME - 1, False), (8 * DAY, True)])
def test_the_time_noted_before_a_restart_is_compared(down, skips):
    clocks = Clocks(noted=NOW - down)
    assert clocks.ended(-down + 1) == [not skips]
    clocks.advance(SKIPPED_FOR)
    assert clocks.ended(-down + 1) == [True]


def test_a_clock_that_is_behind_what_was_noted_ends_nothing_when_it_is_put_right():
    clocks = Clocks(noted=NOW + WEEK)
    clocks.advance(60)
    clocks.jump(WEEK)
    assert clocks.ended(WEEK - 10, WEEK + 10, WEEK + 70) == [False, False, False]


def test_the_time_is_noted_once_a_minute_without_what_is_skipped(clocks):
    assert [clocks.expiry.note_due(), clocks.expiry.note_due()] == [NOW, 0.0]
    clocks.jump(WEEK)
    clocks.advance(60)
    assert [clocks.expiry.note_due(), clocks.expiry.note_due()] == [NOW + 60, 0.0]


def test_a_jump_is_logged_once(clocks, logged):
    for _ in range(3):
        clocks.expiry.report()
    assert logged == []
    clocks.jump(WEEK)
    for _ in range(3):
        clocks.expiry.report()
    assert [event["seconds"] for event in logged] == [WEEK]
    clocks.advance(SKIPPED_FOR)
    for _ in range(3):
        clocks.expiry.report()
    assert len(logged) == 2
