"""Connections on a virtual clock keep their order, and bring nobody what he has left."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tests.simulation.network import LATENCY, Pipe
from tests.simulation.run import run_schedule
from tests.simulation.schedule import Schedule, Step
from tests.simulation.world import START, World


class Cable:
    """A connection of which a pipe is one direction."""

    cut = True
    lag = 0.0


class Slow:
    """Lets each message take as long as it can: it is sent again."""

    def random(self) -> float:
        return 0.999


@pytest.mark.parametrize("sent", [1, 3])
def test_what_was_held_by_a_cut_comes_before_what_was_sent_after_it(sent: int) -> None:
    world, cable, got = World(1), Cable(), list[int]()
    pipe = Pipe(world, cast(Any, Slow()), cast(Any, cable), got.append)
    for number in range(sent):
        pipe.send(number)
    world.run_until(START + 1.0)
    pipe.send(sent)
    cable.cut = False
    pipe.heal()
    world.run_until(START + 1.0 + 2 * LATENCY)
    assert got == list(range(sent))
    pipe.send(sent + 1)
    world.run_until(START + 3.0)
    assert got == list(range(sent + 2))


def test_nothing_comes_of_which_an_earlier_part_was_lost() -> None:
    world, cable, got = World(1), Cable(), list[int]()
    pipe = Pipe(world, cast(Any, Slow()), cast(Any, cable), got.append)
    pipe.send(1)
    world.run_until(START + 1.0)
    pipe.send(2)
    pipe.lose()
    cable.cut = False
    pipe.send(3)
    world.run_until(START + 2.0)
    assert got == [3]


def test_a_client_that_has_left_a_frozen_node_gets_nothing_of_it() -> None:
    steps = (
        Step(2.371, "c3", "observe", ("durable.b",)),
        Step(2.95, "n0", "freeze", (9.405, False)),
        Step(4.247, "c1", "post", ("durable.b",)),
        Step(4.269, "c3", "leave"),
        Step(4.404, "c1", "post", ("durable.b",)),
    )
    assert run_schedule(Schedule(7448, 3, 4, steps)).violations == []
