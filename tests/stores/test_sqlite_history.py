"""A store whose file is not what it was is noticed, and begins a new epoch."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogLevel

from broker.stores import sqlite_history
from broker.stores.sqlite import SqliteStore
from broker.stores.sqlite_history import History, Position, memory_path, position_of, recall, remember
from tests.stores.test_sqlite_store import Home
from tests.support.logs import lines_of, logging


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    for store in home.stores:
        home.stop(store)


def run(home: Home, *bodies: bytes) -> str:
    """Append *bodies* in a run of its own; return the epoch of that."""
    store = home.store()
    for body in bodies:
        home.append(store, body=body)
    home.stop(store)
    return store.epoch


def saved(home: Home, *suffixes: str) -> Callable[[], None]:
    """Copy the file and those beside it with *suffixes*; return what puts the copies back."""
    copies = [(Path(f"{home.path}{suffix}"), Path(f"{home.path.parent}/copy{suffix}")) for suffix in ("", *suffixes)]
    for file, copy in copies:
        shutil.copyfile(file, copy)

    def put_back() -> None:
        for file, copy in copies:
            shutil.copyfile(copy, file)

    return put_back


def errors_of(home: Home) -> tuple[SqliteStore, list[str]]:
    """Start a store; return it with the errors that it has logged."""
    with logging(LogLevel.error) as events:
        return home.store(), lines_of(events)


def test_a_file_that_is_what_it_was_keeps_its_epoch(home: Home) -> None:
    epochs = {run(home, *bodies) for bodies in ([b"1"], [], [b"2", b"3"], [])}
    store, errors = errors_of(home)
    assert {store.epoch} == epochs
    assert errors == []


def test_an_older_copy_in_its_place_begins_a_new_epoch(home: Home) -> None:
    run(home, b"1")
    put_back = saved(home)
    before = run(home, b"2")
    put_back()
    store, errors = errors_of(home)
    assert store.epoch != before
    assert home.ids(store) == [1]
    (error,) = errors
    assert error.startswith(f"data of the store was lost: {home.path} has generation 2 of epoch {before}, and had come")
    assert f"to generation 3 of epoch {before}; the epoch is {store.epoch} now" in error


def test_that_is_told_once_and_by_wiped(home: Home) -> None:
    run(home, b"1")
    put_back = saved(home)
    run(home, b"2")
    put_back()
    wiped: list[str] = []
    for _ in range(2):
        store = SqliteStore(str(home.path), clock=home.clock, reactor=home.pump)
        store.wiped = lambda store=store: wiped.append(store.epoch)  # type: ignore[misc]
        store.startService()
        home.stop(store)
    assert wiped == [store.epoch]


def test_a_copy_of_what_it_has_is_no_older_one(home: Home) -> None:
    before = run(home, b"1")
    saved(home)()
    store, errors = errors_of(home)
    assert (store.epoch, errors) == (before, [])


def test_the_file_of_another_store_begins_a_new_epoch(home: Home, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Home(tmp_path / "other")
    theirs = run(other, b"a", b"b")
    ours = run(home, b"1")
    shutil.copyfile(other.path, home.path)
    store, errors = errors_of(home)
    assert store.epoch not in (ours, theirs)
    assert len(errors) == 1


def test_a_file_that_has_gone_is_told_too(home: Home) -> None:
    before = run(home, b"1")
    home.path.unlink()
    with logging(LogLevel.warn) as events:
        store = home.store()
    assert store.epoch != before
    (warning,) = lines_of(events)
    assert warning.startswith(f"{home.path} is new: the store before had come to generation 2 of epoch {before}; the")


def test_what_is_remembered_is_for_the_owner_and_may_be_lost(home: Home) -> None:
    before = run(home, b"1")
    memory = Path(memory_path(str(home.path)))
    assert memory.name == ".test.db.generation"
    assert memory.stat().st_mode & 0o777 == 0o600
    memory.unlink()
    assert run(home, b"2") == before
    assert memory.exists()


@pytest.mark.parametrize("content", [b"", b"x", b"a b c\n", b"\xff\xfe \x00 1\n", b"epoch 1 2 3\n"])
def test_what_is_remembered_in_no_form_is_a_warning(home: Home, content: bytes) -> None:
    before = run(home, b"1")
    Path(memory_path(str(home.path))).write_bytes(content)
    with logging(LogLevel.warn) as events:
        assert home.store().epoch == before
    assert [line for line in lines_of(events) if "can not be read" in line]


def test_a_place_that_can_not_be_written_stops_nothing(home: Home) -> None:
    Path(memory_path(str(home.path))).mkdir()
    assert run(home, b"1") == run(home, b"2")
    store = home.store()
    home.result(store.expired("s", 1))
    assert home.ids(store) == [1, 2]


# The write-ahead log that a kill leaves.


def test_an_older_file_is_not_mixed_with_the_log_of_a_newer_one(home: Home) -> None:
    run(home, b"1")
    put_back = saved(home)
    run(home, b"2")
    store = home.store()
    home.append(store, body=b"3")
    log = Path(f"{home.path}-wal").read_bytes()
    home.stop(store)
    put_back()
    Path(f"{home.path}-wal").write_bytes(log)
    again, errors = errors_of(home)
    assert home.ids(again) == [1]
    assert again.epoch != store.epoch
    assert Path(f"{home.path}-wal.stale").read_bytes() == log
    assert [error.partition(" ")[0] for error in errors] == ["the", "data"]
    assert home.sql("PRAGMA integrity_check") == [("ok",)]


def test_an_older_file_with_its_own_log_is_used_with_it(home: Home) -> None:
    run(home, b"1")
    store = home.store()
    home.append(store, body=b"2")
    put_back = saved(home, "-wal")
    home.stop(store)
    run(home, b"3")
    put_back()
    again, errors = errors_of(home)
    assert home.ids(again) == [1, 2]
    assert again.epoch != store.epoch
    assert len(errors) == 1


def test_the_log_that_a_kill_has_left_is_used(home: Home) -> None:
    run(home, b"1")
    store = home.store()
    home.append(store, body=b"2")
    put_back = saved(home, "-wal")
    home.stop(store)
    put_back()
    remember(str(home.path), Position(store.epoch, 2, 2))  # as it was before the stop
    again, errors = errors_of(home)
    assert (home.ids(again), again.epoch, errors) == ([1, 2], store.epoch, [])


def test_an_older_file_of_the_same_run_is_not_mixed_with_a_log_that_has_begun_anew(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_history, "INTERVAL", 0.0)
    store = home.store()
    home.append(store, body=b"1")
    home.stop(store)
    put_back = saved(home)
    again = home.store()
    for _ in range(60):
        home.append(again, body=b"x" * 100_000)
        home.result(again.expired("s", 1))
    home.append(again, body=b"2")
    home.result(again.expired("s", 1))
    log, memory = Path(f"{home.path}-wal").read_bytes(), Path(memory_path(str(home.path))).read_bytes()
    home.stop(again)
    put_back()
    Path(f"{home.path}-wal").write_bytes(log)
    Path(memory_path(str(home.path))).write_bytes(memory)
    third, errors = errors_of(home)
    assert (home.ids(third), third.epoch == store.epoch, len(errors)) == ([1], False, 2)


# The number.


def generation(home: Home) -> int:
    ((number,),) = home.sql("SELECT value FROM meta WHERE name = 'generation'")
    return int(number)


def test_what_is_written_at_once_raises_it_once_and_the_stop_once_more(home: Home, monkeypatch: Any) -> None:
    monkeypatch.setattr(sqlite_history, "INTERVAL", 3600.0)
    store = home.store()
    for _ in range(20):
        home.append(store)
    assert generation(home) == 2
    home.stop(store)
    assert generation(home) == 3
    assert recall(str(home.path)) == Position(store.epoch, 3, 3)


def test_it_rises_again_after_a_while_and_not_without_a_write(home: Home, monkeypatch: Any) -> None:
    monkeypatch.setattr(sqlite_history, "INTERVAL", 0.0)
    store = home.store()
    for _ in range(3):
        home.append(store)
        home.result(store.expired("s", 1))
    assert generation(home) == 4
    assert recall(str(home.path)) == Position(store.epoch, 4, 1)


def test_a_step_that_was_undone_is_not_remembered(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB)")
    history = History(connection, path, None)
    connection.execute("BEGIN")
    history.step()
    history.undone()
    connection.execute("ROLLBACK")
    history.save()
    assert position_of(connection) == Position(history.epoch, 1)
    assert recall(path) == Position(history.epoch, 1, 1)
    history.step()
    history.save()
    assert recall(path) == Position(history.epoch, 2, 1)
    connection.close()
