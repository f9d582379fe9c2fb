"""Each store keeps the contract, and what is special about each."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import Clock
from zope.interface import implementer

from broker.errors import Invalid
from broker.interfaces import IStore
from broker.messages import Event
from broker.stores import FORMS, database_path, open_store
from broker.stores.numbers import add
from tests.stores.made_store import MakeStore
from tests.stores.store_contract import DurableContract, StoreContract
from tests.support.store_pump import Pump


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def make(self, clock: Clock) -> MakeStore:
        return lambda: open_store("memory:", clock=clock)

    @pytest.fixture
    def make_limited(self, clock: Clock) -> Callable[[int], IStore]:
        return lambda size: open_store("memory:", clock=clock, max_bytes=size)


class TestSqliteStore(DurableContract):
    @pytest.fixture
    def make(self, clock: Clock, tmp_path: Path) -> MakeStore:
        return lambda: open_store("sqlite:", clock=clock, directory=str(tmp_path))

    @pytest.fixture
    def make_limited(self, clock: Clock, tmp_path: Path) -> Callable[[int], IStore]:
        return lambda size: open_store("sqlite:", clock=clock, directory=str(tmp_path), max_bytes=size)


class TestSqliteStoreWithoutFsync(DurableContract):
    @pytest.fixture
    def make(self, clock: Clock, tmp_path: Path) -> MakeStore:
        return lambda: open_store("sqlite:my.db", clock=clock, directory=str(tmp_path), durability="os")

    @pytest.fixture
    def make_limited(self, clock: Clock, tmp_path: Path) -> Callable[[int], IStore]:
        directory = str(tmp_path)
        return lambda size: open_store("sqlite:", clock=clock, directory=directory, durability="os", max_bytes=size)


@pytest.mark.parametrize(
    ("rest", "path"),
    [
        ("", "/state/txbroker.db"),
        ("other.db", "/state/other.db"),
        ("sub/other.db", "/state/sub/other.db"),
        ("/data/a.db", "/data/a.db"),
        ("///data/a.db", "/data/a.db"),
    ],
)
def test_a_sqlite_url_names_a_file(rest: str, path: str) -> None:
    assert database_path(rest, "/state") == path


def test_without_a_directory_the_file_is_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert database_path("", "") == str(tmp_path / "txbroker.db")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://user:secret@host", f"There is no store 'mysql': use {FORMS}."),
        ("", f"There is no store '': use {FORMS}."),
        ("memory:secret", f"There is no store 'memory': use {FORMS}."),
        ("sqlite", f"There is no store 'sqlite': use {FORMS}."),
        ("sqlite://host/path", "A SQLite store has no host: write sqlite:/path or sqlite:path."),
    ],
)
def test_a_wrong_url_is_refused_in_plain_words(url: str, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        open_store(url, clock=Clock())
    assert str(caught.value) == message


def test_an_unknown_durability_is_refused() -> None:
    with pytest.raises(Invalid, match='must be "fsync" or "os"'):
        open_store("memory:", clock=Clock(), durability="maybe")


def test_a_clock_that_is_the_reactor_delivers_the_answers(tmp_path: Path) -> None:
    @implementer(IReactorFromThreads)
    class ClockOfThreads(Clock, Pump):
        def __init__(self) -> None:
            Clock.__init__(self)
            Pump.__init__(self)

    clock = ClockOfThreads()
    store = open_store("sqlite:", clock=clock, directory=str(tmp_path))
    store.startService()
    assert clock.result(store.append("log", Event("topic", "kind", b"1"))).id == 1
    clock.stop(store)


def test_the_descriptions_say_what_is_promised(tmp_path: Path) -> None:
    def description(url: str, durability: str) -> str:
        return open_store(url, clock=Clock(), directory="/state", durability=durability).description

    assert description("memory:", "fsync") == "memory; everything is lost at the end of the process"
    assert description("sqlite:", "fsync") == "SQLite; what was answered survives a power cut"
    assert description("sqlite:", "os") == (
        "SQLite; what was answered survives the end of the process but perhaps not a power cut"
    )


@given(st.integers(), st.integers())
def test_integers_are_added_exactly(left: int, right: int) -> None:
    assert add(b"%d" % left, b"%d" % right) == b"%d" % (left + right)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_a_sum_of_doubles_is_their_shortest_text(left: float, right: float) -> None:
    try:
        text = add(repr(left).encode(), repr(right).encode())
    except Invalid:
        assert not math.isfinite(left + right)
    else:
        assert float(text) == left + right
        assert not text.endswith(b".0")
        assert len(text) <= max(len(repr(left + right)), 22)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" 1",
        b"1 ",
        b"+1",
        b"01",
        b".5",
        b"5.",
        b"1_000",
        b"0x1",
        b"-",
        b"1e",
        b"nan",
        b"-inf",
        b"1\n",
        b"\xc2\xb2",
    ],
)
def test_what_is_no_json_number_is_no_number(text: bytes) -> None:
    with pytest.raises(Invalid, match="not a number"):
        add(b"1", text)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (b"1" * 5000, b"1"),  # more digits than are read
        (b"9" * 4300, b"1"),  # more digits than are written
        (b"9" * 400, b"0.5"),  # beyond the doubles
        (b"1e400", b"1"),
        (b"1.7e308", b"1.7e308"),
    ],
)
def test_what_is_too_large_is_refused(left: bytes, right: bytes) -> None:
    with pytest.raises(Invalid, match="too large"):
        add(left, right)


def test_large_whole_doubles_keep_their_exponent() -> None:
    assert add(b"1e20", b"0") == b"100000000000000000000"
    assert add(b"1e21", b"0") == b"1e+21"
    assert add(b"-0.0", b"-0.0") == b"0"
