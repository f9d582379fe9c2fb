"""Keys that are set at once: done by few statements, with the outcome that each would have by itself."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.errors import BrokerError
from broker.messages import Quota
from broker.stores.sqlite import SqliteStore
from broker.stores.sqlite_sets import SIZES
from tests.support.store_pump import Pump

NOW = 1_700_000_000.0
FEW = Quota("cursors", "key:few", 5)


class Home:
    """A store on a file, and the statements that its writer has done."""

    def __init__(self, path: Path) -> None:
        self.clock, self.pump = Clock(), Pump()
        self.clock.advance(NOW)
        self.store = SqliteStore(str(path), clock=self.clock, reactor=self.pump, timeout=0.05)
        self.store.startService()
        self.statements: list[str] = []
        assert self.store._file is not None
        self.store._file.writes.set_trace_callback(self.statements.append)

    def outcomes(self, answers: list[Deferred[Any]]) -> list[Any]:
        return [self._outcome(answer) for answer in answers]

    def _outcome(self, answer: Deferred[Any]) -> Any:
        try:
            return self.pump.result(answer)
        except BrokerError as error:
            return type(error), str(error)

    def kept(self) -> list[Any]:
        return [self.pump.result(self.store.range(space, "", "~", 1000)) for space in "ab"]


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[tuple[Home, Home]]:
    homes = Home(tmp_path / "one.db"), Home(tmp_path / "other.db")
    yield homes
    for home in homes:
        home.pump.stop(home.store)


def sets_of(store: SqliteStore, count: int, value: bytes = b"1") -> list[Deferred[Any]]:
    return [store.set("a", f"k{number}", value) for number in range(count)]


def test_keys_that_are_set_at_once_take_two_statements_for_many(homes: tuple[Home, Home]) -> None:
    home, _ = homes
    home.outcomes(sets_of(home.store, 2 * SIZES[0]))
    home.statements.clear()
    entries = home.outcomes(sets_of(home.store, 2 * SIZES[0], b"2"))
    assert sum("entry" in statement for statement in home.statements) == 4
    assert [(entry.value, entry.revision) for entry in entries] == [(b"2", number) for number in range(65, 129)]


def test_a_key_that_is_set_twice_at_once_keeps_the_second_value(homes: tuple[Home, Home]) -> None:
    home, _ = homes
    home.outcomes(sets_of(home.store, 20))
    home.outcomes([*sets_of(home.store, 10, b"2"), *sets_of(home.store, 20, b"3")])
    assert {entry.value for _, entry in home.kept()[0]} == {b"3"}


def test_what_can_not_be_set_fails_alone(homes: tuple[Home, Home]) -> None:
    home, _ = homes
    home.outcomes(sets_of(home.store, 20))
    wrong: Any = 7
    answers = sets_of(home.store, 10, b"2")
    failing = home.store.set("a", wrong, b"2")
    answers += [home.store.set("a", f"k{number}", b"2") for number in range(10, 20)]
    home.outcomes(answers)
    with pytest.raises(AttributeError):
        home.pump.result(failing)
    assert [entry.value for _, entry in home.kept()[0]] == [b"2"] * 20


@pytest.mark.parametrize("seed", range(4))
def test_outcomes_at_once_are_those_of_one_after_the_other(homes: tuple[Home, Home], seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(3):
        calls = [_call(chance) for _ in range(120)]
        at_once, after = homes
        one = at_once.outcomes([at_once.store.set(*call, **more) for call, more in calls])
        other = [after.outcomes([after.store.set(*call, **more)])[0] for call, more in calls]
        assert one == other
        assert at_once.kept() == after.kept()
        for home in homes:
            home.clock.advance(30)


def _call(chance: random.Random) -> tuple[tuple[str, str, bytes], dict[str, Any]]:
    """Return the arguments of a ``set``: most are alike, some are of a kind that is done by itself."""
    space = "a" if chance.random() < 0.98 else "b"
    value = b"%d" % chance.randrange(1000) if chance.random() < 0.98 else b"x" * 100
    more: dict[str, Any] = {"expires": chance.choice((0.0, NOW + 45, NOW + 1000)), "quota": chance.choice((None, FEW))}
    if chance.random() < 0.02:
        more["revision"] = chance.randrange(3)
    return (space, f"k{chance.randrange(45)}", value), more
