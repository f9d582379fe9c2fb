"""What is stored again when the store has lost everything, whatever it refuses at first."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import LogEvent

from broker.core.restoration import RETRY_DELAY, Restoration
from broker.errors import Invalid, Unavailable
from tests.support.logs import lines_of


class Step:
    """A step that raises what it is told to, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.taken = 0

    async def __call__(self) -> None:
        self.taken += 1
        if self.errors:
            raise self.errors.pop(0)


def test_what_is_refused_is_tried_again_until_it_is_done(logged: list[LogEvent]) -> None:
    clock, first, second = Clock(), Step(*[Unavailable("store")] * 3), Step()
    Restoration(clock, [("names", first), ("rooms", second)]).begin()
    clock.pump([RETRY_DELAY] * 2)
    assert (first.taken, second.taken) == (3, 0)
    clock.advance(RETRY_DELAY)
    assert (first.taken, second.taken) == (4, 1)
    assert len(lines_of(logged)) == 2
    assert clock.getDelayedCalls() == []


def test_a_step_that_fails_otherwise_keeps_none_of_the_others(logged: list[LogEvent]) -> None:
    first, second = Step(Invalid("name")), Step()
    Restoration(Clock(), [("names", first), ("rooms", second)]).begin()
    assert (first.taken, second.taken) == (1, 1)
    assert len(logged) == 1


def test_a_store_that_loses_everything_again_gets_everything_again() -> None:
    clock, first, second = Clock(), Step(), Step(Unavailable("store"))
    restoration = Restoration(clock, [("names", first), ("rooms", second)])
    restoration.begin()
    restoration.begin()
    assert (first.taken, second.taken) == (2, 2)
    assert clock.getDelayedCalls() == []


def test_a_store_that_loses_everything_while_the_daemon_stops_gets_nothing_again() -> None:
    clock, step = Clock(), Step(Unavailable("store"))
    restoration = Restoration(clock, [("names", step)])
    restoration.stop()
    restoration.begin()
    assert (step.taken, clock.getDelayedCalls()) == (0, [])


def test_stopping_leaves_no_timer() -> None:
    clock = Clock()
    restoration = Restoration(clock, [("names", Step(Unavailable("store")))])
    restoration.begin()
    restoration.stop()
    assert clock.getDelayedCalls() == []
