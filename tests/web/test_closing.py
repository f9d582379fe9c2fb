"""Many WebSockets are closed over a while."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from broker.web.closing import MAX_GAP, SpreadClosing


def closing() -> tuple[Clock, list[Any], SpreadClosing]:
    clock, closed = Clock(), list[Any]()
    return clock, closed, SpreadClosing(clock, closed.append)


def test_many_are_closed_at_even_distances_in_the_time_there_is() -> None:
    clock, closed, spread = closing()
    spread.start(range(1000), 8.0)  # type: ignore[arg-type]
    assert closed == [0]
    clock.pump([0.05] * 80)
    assert 490 <= len(closed) <= 501
    clock.pump([0.05] * 80)
    assert closed == list(range(1000))
    assert clock.getDelayedCalls() == []


def test_few_do_not_take_all_of_it() -> None:
    clock, closed, spread = closing()
    spread.start(range(3), 600.0)  # type: ignore[arg-type]
    clock.pump([MAX_GAP] * 2)
    assert closed == [0, 1, 2]


def test_without_time_all_are_closed_at_once() -> None:
    clock, closed, spread = closing()
    spread.start(range(5), 0.0)  # type: ignore[arg-type]
    assert closed == list(range(5))
    spread.start((), 5.0)
    assert clock.getDelayedCalls() == []


def test_what_was_late_is_made_up_for() -> None:
    clock, closed, spread = closing()
    spread.start(range(100), 10.0)  # type: ignore[arg-type]
    clock.advance(5.0)
    assert len(closed) == 51


def test_after_a_stop_nothing_is_closed() -> None:
    clock, closed, spread = closing()
    spread.start(range(100), 10.0)  # type: ignore[arg-type]
    spread.stop()
    spread.stop()
    clock.advance(20.0)
    assert closed == [0]
    assert clock.getDelayedCalls() == []
