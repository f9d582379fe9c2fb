"""What is special about the SQLite store: its file, its thread, its failures."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import weakref
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from broker.errors import Conflict, Unavailable
from broker.messages import Entry, Event, Quota
from broker.remembered import forget_results
from broker.stores import open_store, sqlite_file, sqlite_space, sqlite_tables, sqlite_writer
from broker.stores.expiry import Expiry
from broker.stores.revisions import RESERVED
from broker.stores.sqlite import SqliteStore
from broker.stores.sqlite_batches import READS, Batch
from broker.stores.sqlite_tables import TableReader
from broker.stores.sqlite_writer import STOP_SECONDS
from tests.support.logs import lines_of, logging
from tests.support.store_pump import Pump

NOW = 1_700_000_000.0


def event(body: bytes | None = b"1", *, name: str = "kind", time: float = NOW) -> Event:
    return Event("topic", name, body, "me", time)


class Home:
    """A directory with one database, the store on it, and what it reported."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "test.db"
        self.clock = Clock()
        self.clock.advance(NOW)
        self.pump = Pump()
        self.commits: list[int] = []
        self.failures: list[int] = []
        self.stores: list[SqliteStore] = []

    def store(self) -> SqliteStore:
        """Return a new store, started."""
        store = SqliteStore(
            str(self.path),
            clock=self.clock,
            reactor=self.pump,
            observe=lambda operations, seconds: self.commits.append(operations),
            failed=self.failures.append,
            timeout=0.05,
        )
        store.startService()
        self.stores.append(store)
        return store

    def result(self, answer: Deferred[Any]) -> Any:
        return self.pump.result(answer)

    def append(self, store: SqliteStore, log: str = "log", body: bytes = b"1") -> int:
        return int(self.result(store.append(log, event(body))).id)

    def ids(self, store: SqliteStore, log: str = "log") -> list[int]:
        return [each.id for each in self.result(store.read(log, 0, 1_000_000))]

    def other(self) -> sqlite3.Connection:
        """Return the connection of another program."""
        return sqlite3.connect(self.path, isolation_level=None)

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Do as another program would."""
        connection = self.other()
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()

    def stop(self, store: SqliteStore) -> None:
        self.pump.stop(store)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setattr(sqlite_writer, "MAX_SECONDS", inf)  # on a busy machine any operation may last long
    home = Home(tmp_path)
    yield home
    for store in home.stores:
        home.stop(store)


# The file.


def test_the_files_are_for_their_owner_only(home: Home) -> None:
    store = home.store()
    home.append(store)
    files = sorted(home.path.parent.iterdir())
    assert [file.name for file in files] == ["test.db", "test.db-shm", "test.db-wal", "test.db.lock"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_the_mode_of_a_file_that_is_there_is_left_alone(home: Home) -> None:
    home.path.touch()
    home.path.chmod(0o640)
    home.append(home.store())
    assert home.path.stat().st_mode & 0o777 == 0o640


def test_a_new_file_has_a_new_epoch(home: Home) -> None:
    store = home.store()
    home.stop(store)
    home.path.unlink()
    assert home.store().epoch != store.epoch


def test_a_second_store_on_the_file_is_refused(home: Home) -> None:
    store = home.store()
    with pytest.raises(Unavailable) as caught:
        home.store()
    assert str(caught.value) == f"The store {home.path} can not be opened: process {os.getpid()} is using it."
    assert home.append(store) == 1


def test_a_second_name_of_the_file_is_refused_too(home: Home) -> None:
    home.store()
    (home.path.parent / "alias.db").symlink_to(home.path)
    alias = open_store("sqlite:alias.db", clock=home.clock, directory=str(home.path.parent), reactor=home.pump)
    with pytest.raises(Unavailable, match="is using it"):
        alias.startService()


def test_the_file_can_be_opened_after_a_refusal_was_put_right(home: Home) -> None:
    home.path.write_bytes(b"This is not a database, but a letter." * 100)
    with pytest.raises(Unavailable) as caught:
        home.store()
    assert str(caught.value) == f"The store {home.path} can not be opened: file is not a database."
    home.path.unlink()
    assert home.append(home.store()) == 1


def test_a_missing_directory_is_told(home: Home) -> None:
    home.path = home.path.parent / "missing" / "test.db"
    with pytest.raises(Unavailable) as caught:
        home.store()
    assert str(caught.value) == f"The store {home.path} can not be opened: No such file or directory."


def test_a_directory_in_the_place_of_the_file_is_told(home: Home) -> None:
    home.path.mkdir()
    with pytest.raises(Unavailable, match="can not be opened: unable to open database file"):
        home.store()


def test_a_file_of_a_newer_version_is_refused_and_left_alone(home: Home) -> None:
    home.stop(home.store())
    home.sql("PRAGMA user_version = 99")
    before = home.path.read_bytes()
    with pytest.raises(Unavailable) as caught:
        home.store()
    assert str(caught.value) == (
        f"The store {home.path} can not be opened: it was written by a newer version "
        f"(its schema is 99, the newest known here is {len(sqlite_file.schema_steps())})."
    )
    assert home.path.read_bytes() == before


def test_revisions_go_on_above_those_of_an_older_version(home: Home) -> None:
    first, second, *_ = sqlite_file.schema_steps()
    rows = "('kv', X'61', X'31', 7, 0), ('kv', X'62', X'32', 3, 0), ('cursor', X'63', X'33', 9007199254740993, 0)"
    connection = home.other()
    connection.executescript(
        f"{first}; {second}; INSERT INTO entry (space, key, value, revision, expires) VALUES {rows};"
        f"PRAGMA application_id = {sqlite_file.APPLICATION_ID}; PRAGMA user_version = 2;"
    )
    connection.close()
    store = home.store()
    assert home.result(store.revision("kv")) == 7
    assert home.result(store.set("kv", "b", b"2", revision=3)) == Entry(b"2", 8)
    assert home.result(store.delete("kv", "a", revision=7))
    assert home.result(store.set("kv", "a", b"1", revision=0)) == Entry(b"1", 10)
    assert home.result(store.set("cursor", "c", b"3")).revision == 2**52 + 1


def test_after_a_kill_revisions_are_above_all_that_were_given(home: Home, tmp_path: Path) -> None:
    store = home.store()
    given = [home.result(store.set("kv", "k", b"%d" % number)).revision for number in range(3)]
    (tmp_path / "left").mkdir()
    left = Home(tmp_path / "left")
    for ending in ("", "-wal"):
        shutil.copy(f"{home.path}{ending}", f"{left.path}{ending}")
    again = left.store()
    revision = left.result(again.set("kv", "k", b"again")).revision
    left.stop(again)
    assert given == [1, 2, 3]
    assert 3 < revision <= 3 + 2 * RESERVED


class Value:
    """What a read has found."""


def test_what_was_refused_keeps_nothing_of_what_was_done_with_it() -> None:
    def refuse(tables: object) -> None:
        raise Conflict("revision", "key")

    nothing: Any = Mock()
    batch = Batch([(Deferred(), refuse, ()), (Deferred(), lambda tables: Value(), ())])
    sqlite_writer.write(nothing, batch)
    error, value = batch.outcomes
    found = weakref.ref(value)
    del batch, value
    assert isinstance(error, Conflict)
    assert found() is None


def test_a_revision_of_what_was_undone_is_given_to_nobody_else(home: Home) -> None:
    store = home.store()
    home.result(store.set("kv", "k", b"1"))
    failing = store.set("kv", "\ud800", b"2", expires=cast(Any, object()))
    others = [store.set("kv", f"k{number}", b"2") for number in range(3)]
    with pytest.raises(Exception, match="type 'object' is not supported"):
        home.result(failing)
    revisions = [home.result(other).revision for other in others]
    assert revisions == sorted(set(revisions))
    assert revisions[0] > 1
    assert home.result(store.revision("kv")) == revisions[-1]


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE cake (name)", "PRAGMA application_id = 7", "PRAGMA user_version = 1"]
)
def test_a_file_of_another_program_is_refused(home: Home, statement: str) -> None:
    home.sql(statement)
    with pytest.raises(Unavailable, match="it is a SQLite file of another program"):
        home.store()


def test_an_older_file_is_brought_up_to_date_step_by_step(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    store = home.store()
    home.append(store)
    home.stop(store)
    steps = sqlite_file.schema_steps()
    more = ("ALTER TABLE log ADD COLUMN colour TEXT", "UPDATE log SET colour = 'red'")
    monkeypatch.setattr(sqlite_file, "schema_steps", lambda: steps + more)
    again = home.store()
    assert home.sql("PRAGMA user_version") == [(len(steps) + 2,)]
    assert home.sql("SELECT colour FROM log") == [("red",)]
    assert again.epoch == store.epoch
    assert home.append(again) == 2


def test_a_step_that_fails_changes_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.stop(home.store())
    steps = sqlite_file.schema_steps()
    monkeypatch.setattr(
        sqlite_file, "schema_steps", lambda: (*steps, "CREATE TABLE cake (name); INSERT INTO missing VALUES (1)")
    )
    with pytest.raises(Unavailable, match="no such table: missing"):
        home.store()
    assert home.sql("PRAGMA user_version") == [(len(steps),)]
    assert home.sql("SELECT count(*) FROM sqlite_master WHERE name = 'cake'") == [(0,)]


def test_a_file_that_another_program_is_writing_is_refused(home: Home) -> None:
    other = home.other()
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="can not be opened: database is locked"):
        home.store()
    other.close()
    assert home.append(home.store()) == 1


@pytest.mark.parametrize(("durability", "level"), [("fsync", 2), ("os", 1)])
def test_the_durability_decides_when_sqlite_syncs(tmp_path: Path, durability: str, level: int) -> None:
    file = sqlite_file.open_file(str(tmp_path / "test.db"), durability, 1.0)
    assert file.writes.execute("PRAGMA synchronous").fetchone() == (level,)
    assert file.writes.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    file.close()


# Group commit, and reading at once.


def test_what_is_called_in_one_loop_iteration_is_one_commit(home: Home) -> None:
    store = home.store()
    home.result(gatherResults([store.append("log", event()) for _ in range(100)]))
    assert home.commits == [100]


def test_what_is_called_during_a_commit_is_the_next_one(home: Home) -> None:
    store = home.store()
    late: list[Deferred[Event]] = []

    def more(first: Event) -> Event:
        late.extend(store.append("log", event()) for _ in range(7))
        return first

    home.result(store.append("log", event()).addCallback(more))
    home.result(gatherResults(late))
    assert home.commits == [1, 7]


def test_answers_come_in_the_order_of_the_calls(home: Home) -> None:
    store = home.store()
    order: list[int] = []
    answers: list[Deferred[Any]] = [
        store.append("a", event()),
        store.set("s", "k", b""),
        store.read("a", 0, 1),
        store.append("b", event()),
    ]
    for number, answer in enumerate(answers):
        answer.addCallback(lambda _, number: order.append(number), number)
    home.result(gatherResults(answers))
    assert order == [0, 1, 2, 3]


def test_reading_waits_for_writes_only_that_it_must_see(home: Home) -> None:
    store = home.store()
    home.append(store, "a")
    home.result(store.set("s", "k", b"1"))
    pending: list[Deferred[Any]] = [
        store.append("b", event()),
        store.set("s", "other", b"2"),
        store.set("t", "k", b"3"),
    ]
    assert store.read("a", 0, 9).called
    assert store.latest("a", 9).called
    assert store.head("a").called
    assert store.get("s", "k").called
    assert store.range("u", "", "~", 9).called
    behind: list[Deferred[Any]] = [
        store.read("b", 0, 9),
        store.get("s", "other"),
        store.range("s", "", "~", 9),
        store.logs("", "", 9),
    ]
    assert not any(answer.called for answer in behind)
    found = home.result(gatherResults([*behind, *pending]))
    assert [each.id for each in found[0]] == [1]
    assert found[1:4] == [Entry(b"2", 2), [("k", Entry(b"1", 1)), ("other", Entry(b"2", 2))], ["a", "b"]]


def test_reading_waits_for_a_commit_that_is_running(home: Home) -> None:
    store = home.store()
    late: list[Deferred[Any]] = []

    def more(_: Event) -> None:
        late.append(store.append("log", event()))

    home.result(store.append("log", event()).addCallback(more))
    read = store.read("log", 0, 9)
    assert not read.called
    assert [each.id for each in home.result(read)] == [1, 2]


def test_a_refusal_costs_the_others_no_commit_of_their_own(home: Home) -> None:
    store = home.store()
    good: list[Deferred[Any]] = [store.append("log", event()), store.set("s", "k", b"1")]
    conflict = store.set("s", "k", b"2", revision=7)
    good.append(store.append("log", event()))
    with pytest.raises(Conflict):
        home.result(conflict)
    home.result(gatherResults(good))
    assert home.commits == [4]


def test_reading_that_fails_at_once_is_tried_in_the_thread(home: Home) -> None:
    store = home.store()
    home.append(store)
    assert store._file is not None
    store._file.reads.close()
    assert home.ids(store) == [1]


def test_last_ids_that_left_the_memory_are_found_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_tables, "MAX_CACHED_LOGS", 3)
    store = home.store()
    for expected in (1, 2, 3):
        assert [home.append(store, f"log {number}") for number in range(6)] == [expected] * 6


# Back-pressure.


def test_too_many_operations_are_refused_at_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "MAX_PENDING", 5)
    store = home.store()
    answers = [store.append("log", event()) for _ in range(5)]
    with pytest.raises(Unavailable, match="can not keep up"):
        home.result(store.append("log", event()))
    assert not any(answer.called for answer in answers)
    assert [each.id for each in home.result(gatherResults(answers))] == [1, 2, 3, 4, 5]
    assert home.failures == [1]
    assert home.append(store) == 6


def test_too_many_bytes_are_refused_at_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "MAX_PENDING_BYTES", 1000)
    store = home.store()
    answers: list[Deferred[Any]] = [store.append("log", event(bytes(600))), store.set("s", "k", bytes(400))]
    for refused in (store.append("log", event(b"1")), store.set("s", "k", b"1")):
        with pytest.raises(Unavailable, match="can not keep up"):
            home.result(refused)
    home.result(gatherResults(answers))
    assert home.append(store, body=bytes(600)) == 2
    assert home.append(store, body=bytes(600)) == 3


# Failures.


def assert_unavailable(home: Home, answer: Deferred[Any], reason: str) -> None:
    with pytest.raises(Unavailable) as caught:
        home.result(answer)
    assert str(caught.value) == f"The store can not write: {reason}."
    assert caught.value.message == "The store can not write."  # and no more for clients


def tick(home: Home) -> None:
    """Let the store try to write again."""
    home.clock.advance(sqlite_writer.PROBE_INTERVAL)


def test_a_full_disk_fails_the_batch_and_recovers(home: Home) -> None:
    store = home.store()
    home.append(store)
    assert store._file is not None
    writes = store._file.writes
    (pages,) = writes.execute("PRAGMA page_count").fetchone()
    writes.execute(f"PRAGMA max_page_count = {pages}")
    small, large, read = (
        store.append("log", event()),
        store.append("log", event(bytes(100_000))),
        store.read("log", 0, 9),
    )
    assert_unavailable(home, small, "database or disk is full")
    assert_unavailable(home, large, "database or disk is full")
    assert [each.id for each in home.result(read)] == [1]
    assert store.ready == "The store can not write: database or disk is full."
    assert home.failures == [2]
    assert home.result(store.head("log")) == 1

    # As long as there is no room for an ordinary write, it stays so.
    tick(home)
    home.result(store.set("s", "k", b"").addErrback(lambda _: None))
    tick(home)

    writes.execute("PRAGMA max_page_count = 1000000")
    tick(home)
    home.result(store.trim("nothing", 1))
    assert store.ready == ""
    assert home.append(store) == 2
    assert home.ids(store) == [1, 2]


def test_it_finds_out_by_itself_that_writing_works_again(home: Home) -> None:
    store = home.store()
    other = home.other()
    other.execute("BEGIN IMMEDIATE")
    assert_unavailable(home, store.append("log", event()), "database is locked")
    assert store.ready == "The store can not write: database is locked."
    tick(home)
    home.result(store.logs("", "", 9))  # behind the attempt, which fails
    assert store.ready == "The store can not write: database is locked."
    other.execute("ROLLBACK")
    other.close()
    tick(home)
    home.result(store.logs("", "", 9))
    assert store.ready == ""
    tick(home)
    assert home.clock.getDelayedCalls() == []
    assert home.append(store) == 1


def test_a_write_that_works_ends_the_attempts(home: Home) -> None:
    store = home.store()
    other = home.other()
    other.execute("BEGIN IMMEDIATE")
    assert_unavailable(home, store.append("log", event()), "database is locked")
    other.close()
    assert home.append(store) == 1
    assert store.ready == ""
    home.result(store.logs("", "", 9))
    home.commits.clear()
    tick(home)
    assert home.clock.getDelayedCalls() == []
    assert home.append(store) == 2
    assert home.commits == [1]


def test_a_failed_batch_leaves_no_hole_in_any_log(home: Home) -> None:
    store = home.store()
    home.append(store, "old")
    other = home.other()
    other.execute("BEGIN IMMEDIATE")
    answers = [store.append(log, event()) for log in ("old", "new", "old")]
    for answer in answers:
        assert_unavailable(home, answer, "database is locked")
    other.close()
    assert (home.append(store, "old"), home.append(store, "new")) == (2, 1)


def test_reads_in_a_failed_batch_see_what_was_before(home: Home) -> None:
    store = home.store()
    home.result(store.set("s", "k", b"1"))
    other = home.other()
    other.execute("BEGIN IMMEDIATE")
    set_, get = store.set("s", "k", b"2"), store.get("s", "k")
    assert_unavailable(home, set_, "database is locked")
    assert home.result(get) == Entry(b"1", 1)
    other.close()


def test_stopping_while_writing_fails_leaves_no_delayed_call(home: Home) -> None:
    store = home.store()
    other = home.other()
    other.execute("BEGIN IMMEDIATE")
    assert_unavailable(home, store.append("log", event()), "database is locked")
    answer = store.append("log", event())
    home.stop(store)
    assert_unavailable(home, answer, "database is locked")
    assert home.clock.getDelayedCalls() == []
    other.close()


def test_one_bad_operation_does_not_fail_the_others(home: Home) -> None:
    store = home.store()
    home.append(store)
    home.sql(
        "CREATE TRIGGER poison BEFORE INSERT ON event WHEN CAST(new.name AS TEXT) = 'poison'"
        " BEGIN SELECT RAISE(ABORT, 'poisoned'); END"
    )
    good: list[Deferred[Any]] = [store.append("log", event()), store.set("s", "k", b"1")]
    bad = store.append("log", event(name="poison"))
    good += [store.append("log", event()), store.append("new", event())]
    read = store.read("log", 0, 9)
    with pytest.raises(sqlite3.IntegrityError, match="poisoned"):
        home.result(bad)
    results = home.result(gatherResults(good))
    assert [results[0].id, results[1], results[2].id, results[3].id] == [2, Entry(b"1", 1), 3, 1]
    assert [each.id for each in home.result(read)] == [1, 2, 3]
    assert store.ready == ""


@pytest.mark.parametrize("wrong", [Event("topic", "kind", [1]), Event("topic", None, b"")])  # type: ignore[arg-type]
def test_an_event_that_can_not_be_stored_leaves_no_hole(home: Home, wrong: Event) -> None:
    store = home.store()
    answers = [store.append("log", event()), store.append("log", event())]
    bad = store.append("log", wrong)
    answers.append(store.append("log", event()))
    with pytest.raises((sqlite3.Error, AttributeError)):
        home.result(bad)
    assert [each.id for each in home.result(gatherResults(answers))] == [1, 2, 3]
    assert home.ids(store) == [1, 2, 3]


def test_a_damaged_file_makes_reads_unavailable_too(home: Home) -> None:
    store = home.store()
    home.append(store)
    home.sql("DROP TABLE event")
    with pytest.raises(Unavailable, match=r"^The store can not be read: no such table: event\.$"):
        home.result(store.read("log", 0, 9))
    assert_unavailable(home, store.append("log", event()), "no such table: event")


def test_a_damaged_index_does_not_let_the_thread_delete_for_ever(home: Home) -> None:
    store = home.store()
    home.append(store)
    home.stop(store)
    home.sql("UPDATE log SET trimmed = 1")
    first, second = home.other(), home.other()
    (index,) = first.execute("SELECT * FROM sqlite_master WHERE name = 'log_to_purge'").fetchall()
    first.execute("PRAGMA writable_schema = ON")
    first.execute("DELETE FROM sqlite_master WHERE name = 'log_to_purge'")
    second.execute("UPDATE log SET purged = 1")  # the index is not told
    first.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", index)
    first.close()
    second.close()
    store = home.store()
    purged = store._commits.submit(sqlite_tables.TableWriter.purge, (), 0)
    assert_unavailable(home, purged, "the index log_to_purge is damaged")
    home.failures.clear()
    assert [home.append(store) for _ in range(5)] == [2, 3, 4, 5, 6]
    assert home.failures == []  # it is not tried again


def test_the_thread_survives_when_even_undoing_fails(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    store = home.store()
    other = home.other()
    other.execute("BEGIN IMMEDIATE")

    def broken(tables: sqlite_tables.TableWriter) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_tables.TableWriter, "rollback", broken)
        assert_unavailable(home, store.append("log", event()), "disk I/O error")
    other.close()
    assert home.append(store) == 1


# Trimming hides at once and deletes in steps.


# Its size.


def limited(home: Home, max_bytes: int = 0, min_free_bytes: int = 0) -> SqliteStore:
    store = SqliteStore(
        str(home.path), clock=home.clock, reactor=home.pump, max_bytes=max_bytes, min_free_bytes=min_free_bytes
    )
    store.startService()
    home.stores.append(store)
    return store


def test_a_file_that_is_full_is_still_full_after_a_restart(home: Home) -> None:
    store = home.store()
    home.append(store, body=b"x" * 500_000)
    home.stop(store)
    again = limited(home, max_bytes=400_000)
    with pytest.raises(Unavailable, match="The store is full"):
        home.append(again)
    assert "(TXBROKER_MAX_STORE_BYTES)" in again.ready
    assert again.used_bytes > 400_000


def test_it_notices_that_it_is_full_while_much_is_written_at_once(home: Home) -> None:
    store = limited(home, max_bytes=1_000_000)
    refused: list[Failure] = []
    for _ in range(100):
        home.result(store.append("log", event(b"x" * 100_000)).addErrback(refused.append))
    assert 85 < len(refused) < 99
    assert all(failure.check(Unavailable) for failure in refused)
    assert home.path.stat().st_size < 1_500_000


def test_a_disk_that_is_nearly_full_is_left_what_is_free(home: Home) -> None:
    disk = os.statvfs(home.path.parent)
    free = disk.f_bavail * disk.f_frsize
    with logging(LogLevel.info) as lines:
        store = limited(home, min_free_bytes=2 * free)
        for _ in range(2):
            with pytest.raises(Unavailable, match=r"bytes are free on its disk .TXBROKER_MIN_FREE_BYTES is"):
                home.append(store)
        store._space._min_free_bytes = 1
        home.append(store)
    assert [line.partition(":")[0] for line in lines_of(lines)] == ["The store is full", "The store has room again."]


def test_a_full_store_logs_it_once_and_delivers_what_it_has(home: Home) -> None:
    store = home.store()
    home.append(store, body=b"x" * 100_000)
    home.result(store.set("mail-at", "queue", b"1"))
    home.stop(store)
    again = limited(home, max_bytes=50_000)
    home.result(again.expired("s", 1))
    assert again.ready.startswith("The store is full")
    assert home.result(again.set("mail-at", "another", b"1")).created
    assert home.ids(again) == [1]


def test_a_new_file_gives_back_what_was_deleted_in_steps(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_space, "FREE_PAGES_KEPT", 8)
    store = home.store()
    for _ in range(20):
        home.append(store, body=b"x" * 100_000)
    pages = home.sql("PRAGMA page_count")[0][0]
    home.result(store.trim("log", 20))
    steps = 0
    while home.sql("PRAGMA page_count")[0][0] > 40 or home.sql("PRAGMA freelist_count")[0][0] > 8:
        home.result(store.expired("s", 1))
        home.append(store, "other")
        steps += 1
    assert pages > 400
    assert steps >= (pages - 40) // sqlite_space.VACUUMED_PAGES // 2  # writers had their turn in between
    assert home.sql("PRAGMA integrity_check") == [("ok",)]
    while not store._commits.idle:
        home.result(store.expired("s", 1))
    assert home.path.stat().st_size <= 48 * 4096  # the disk has it, without that more is written


def never_shrinks(home: Home) -> None:
    """Make the file what those of early versions were."""
    for statement in ("PRAGMA journal_mode = DELETE", "PRAGMA auto_vacuum = NONE; VACUUM"):
        connection = home.other()
        connection.executescript(statement)
        connection.close()


def test_a_small_file_of_before_is_converted_at_the_start(home: Home) -> None:
    store = home.store()
    home.append(store, body=b"x" * 400_000)
    home.stop(store)
    never_shrinks(home)
    again = home.store()
    assert home.sql("PRAGMA auto_vacuum") == [(sqlite_space.INCREMENTAL,)]
    assert (home.ids(again), again.epoch) == ([1], store.epoch)
    assert Path(f"{home.path}-wal").stat().st_size < 400_000


def test_a_large_file_of_before_is_a_warning(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.stop(home.store())
    never_shrinks(home)
    monkeypatch.setattr(sqlite_space, "MAX_CONVERTED_BYTES", 0)
    with logging(LogLevel.warn) as events:
        home.append(home.store())
    reason = "stop the broker, and run txbroker compact"
    assert lines_of(events) == [f"{home.path} does not shrink when events are removed: {reason}"]


def test_a_conversion_that_fails_is_a_warning(home: Home) -> None:
    home.stop(home.store())
    never_shrinks(home)
    other, connection = home.other(), sqlite3.connect(home.path, timeout=0.0, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with logging(LogLevel.warn) as events:
        sqlite_space.let_shrink(connection, str(home.path))
    assert lines_of(events) == [f"{home.path} does not shrink when events are removed: database is locked"]
    other.close()
    connection.close()


def test_a_file_that_is_not_converted_uses_its_pages_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_space, "FREE_PAGES_KEPT", 8)
    monkeypatch.setattr(sqlite_space, "MAX_CONVERTED_BYTES", 0)
    home.stop(home.store())
    never_shrinks(home)
    store = home.store()
    for _ in range(2):
        head = home.append(store, body=b"x" * 400_000)
        pages = home.sql("PRAGMA page_count")[0][0]
        home.result(store.trim("log", head))
        while home.sql("PRAGMA freelist_count")[0][0] < 90:
            home.result(store.expired("s", 1))
    assert home.sql("PRAGMA page_count")[0][0] <= pages + 2
    assert store.used_bytes < 400_000 + (home.path.parent / "test.db-wal").stat().st_size


def rows(home: Home) -> int:
    ((count,),) = home.sql("SELECT count(*) FROM event")
    return int(count)


def test_trimmed_events_are_deleted_in_steps(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_tables, "PURGED_ROWS", 10)
    store = home.store()
    home.result(gatherResults([store.append(log, event()) for log in ("a", "b") for _ in range(50)]))
    home.commits.clear()
    home.result(gatherResults([store.trim("a", 45), store.trim("b", 5)]))
    assert len(home.ids(store, "a")) == 5
    assert rows(home) == 100
    home.stop(store)
    assert home.commits == [2, 1]
    assert rows(home) == 90


def test_deleting_goes_on_until_all_is_gone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_tables, "PURGED_ROWS", 10)
    store = home.store()
    home.result(gatherResults([store.append(log, event()) for log in ("a", "b") for _ in range(50)]))
    home.result(gatherResults([store.trim("a", 45), store.trim("b", 5)]))
    while not store._commits.idle:
        home.append(store, "c")
    assert home.sql("SELECT count(*) FROM log WHERE purged < trimmed") == [(0,)]
    assert home.sql("SELECT count(*) FROM event e JOIN log l ON l.id = e.log WHERE l.name <> x'63'") == [(50,)]
    assert home.ids(store, "a") == [46, 47, 48, 49, 50]


def test_deleting_goes_on_after_a_restart(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_tables, "PURGED_ROWS", 10)
    store = home.store()
    home.result(gatherResults([store.append("log", event()) for _ in range(15)]))
    home.result(store.trim("log", 15))
    home.stop(store)
    assert rows(home) == 5
    again = home.store()
    home.result(again.logs("", "", 1))
    assert rows(home) == 0
    assert home.append(again) == 16


def test_a_large_sweep_works_in_steps(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_tables, "SWEPT_ROWS", 7)
    store = home.store()
    appends = [store.append(f"log {number}", event(time=NOW - 9)) for number in range(10) for _ in range(9)]
    appends += [store.append(f"log {number}", event()) for number in range(0, 10, 2)]
    keys = [store.set(space, f"{number}", b"", expires=NOW - 7200) for space in "abc" for number in range(8)]
    home.result(gatherResults([*appends, *keys]))
    home.commits.clear()
    between: list[Deferred[Any]] = [store.sweep("log ", NOW - 5, 0), store.append("log 1", event())]
    gone, appended = home.result(gatherResults(between))
    assert (gone, appended.id) == (90, 10)
    assert len(home.commits) > 90 / 7
    assert [home.ids(store, f"log {number}") for number in (0, 1, 3)] == [[10], [10], []]
    assert home.sql("SELECT count(*) FROM entry") == [(0,)]


def test_a_sweep_that_fails_says_so(home: Home) -> None:
    store = home.store()
    home.append(store)
    other = home.other()
    other.execute("BEGIN IMMEDIATE")
    assert_unavailable(home, store.sweep("", NOW + 1, 0), "database is locked")
    other.close()
    assert home.result(store.sweep("", NOW + 1, 0)) == 1


# The end of the process.

CHILD = """
import os, sys
from twisted.internet import reactor
from broker.messages import Event
from broker.stores import open_store

store = open_store("sqlite:test.db", clock=reactor, directory=sys.argv[1])
store.startService()

def append(log):
    store.append(log, Event("topic", "kind", b"body of " + log.encode())).addCallback(acknowledged, log)

def acknowledged(event, log):
    os.write(1, b"%s %d\\n" % (log.encode(), event.id))
    append(log)

for number in range(32):
    append(f"log{number % 4}")
reactor.run()
"""


def killed_while_appending(directory: Path, lines: int) -> dict[str, list[int]]:
    """Return the ids that were acknowledged, by log, before the process was killed."""
    with subprocess.Popen([sys.executable, "-c", CHILD, str(directory)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        try:
            acknowledged = [child.stdout.readline() for _ in range(lines)]
        finally:
            child.kill()
        acknowledged += child.stdout.readlines()
    assert child.returncode == -signal.SIGKILL
    ids: dict[str, list[int]] = {}
    for line in filter(lambda line: line.endswith(b"\n"), acknowledged):
        log, number = line.split()
        ids.setdefault(log.decode(), []).append(int(number))
    return ids


@pytest.mark.processes
def test_nothing_acknowledged_is_lost_when_the_process_is_killed(home: Home) -> None:
    heads: dict[str, int] = {}
    for number in range(3):
        acknowledged = killed_while_appending(home.path.parent, 200 + 77 * number)
        store = home.store()
        for log, ids in acknowledged.items():
            # They go on where the log ended, in the order of the appends.
            assert ids == list(range(heads.get(log, 0) + 1, heads.get(log, 0) + 1 + len(ids)))
            found = home.ids(store, log)
            assert found == list(range(1, len(found) + 1))
            assert len(found) >= ids[-1]
            heads[log] = home.append(store, log)
            assert heads[log] == len(found) + 1
        home.stop(store)
    assert len(heads) == 4


def test_a_file_of_version_1_keeps_what_it_has_and_counts_it_for_nobody(home: Home) -> None:
    steps = sqlite_file.schema_steps()
    connection = home.other()
    connection.executescript(
        f"{steps[0]}; PRAGMA application_id = {sqlite_file.APPLICATION_ID}; PRAGMA user_version = 1;"
        "INSERT INTO log (name) VALUES (X'6c6f67'); INSERT INTO event VALUES (1, 1, 0, X'', X'', X'31', 0);"
        "INSERT INTO entry VALUES ('s', X'6b', X'31', 1, 0);"
    )
    connection.close()
    store = home.store()
    quota = Quota("keys", "ann", 1)
    assert home.ids(store) == [1]
    assert home.append(store) == 2
    assert home.result(store.set("s", "k", b"2", quota=quota)) == Entry(b"2", 2)
    home.result(store.set("s", "of ann", b"", quota=quota))
    assert home.result(store.delete("s", "k")) is True
    assert home.sql("SELECT count FROM account") == [(1,)]
    described = Event("topic", "kind", b"2", content_type="text/x", expires=5.0)
    home.result(store.append("log", described, key="k", key_seconds=60))
    assert home.result(store.append("log", described, key="k", key_seconds=60)).duplicate
    found = [(event.content_type, event.expires) for event in home.result(store.read("log", 0, 9))]
    assert found == [("", 0.0), ("", 0.0), ("text/x", 5.0)]


def test_a_file_of_version_5_keeps_its_keys_with_all_that_belongs_to_them(home: Home) -> None:
    steps = sqlite_file.schema_steps()
    rows = [f"('kv', CAST('{n:03}' AS BLOB), zeroblob({n}), {n}, {n % 2 * 1e12}, X'61')" for n in range(1, 300)]
    connection = home.other()
    connection.executescript(
        "".join(f"{step};" for step in steps[:5])
        + f"PRAGMA application_id = {sqlite_file.APPLICATION_ID}; PRAGMA user_version = 5;"
        f"INSERT INTO entry (space, key, value, revision, expires, account) VALUES {', '.join(rows)};"
        "INSERT INTO account VALUES (X'61', 299);"
    )
    connection.close()
    store = home.store()
    found = dict(home.result(store.range("kv", "", "z", 1000)))
    assert len(found) == 299
    assert found["258"] == Entry(bytes(258), 258)
    assert found["257"] == Entry(bytes(257), 257, 1e12)
    assert home.result(store.delete("kv", "257"))
    assert home.sql("SELECT count FROM account") == [(298,)]


def bytes_read() -> int:
    """Return how many bytes this process has read from files and sockets."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_no_key_is_slower_for_the_large_values_of_others(home: Home) -> None:
    store = home.store()
    home.result(gatherResults([store.set("kv", f"k{number:02}", bytes(500_000)) for number in range(20)]))
    before = bytes_read()
    for number in range(20):
        home.result(store.set("kv", f"k{number:02}.small", b"1"))
        assert home.result(store.get("kv", f"k{number:02}.small")).value == b"1"
    assert bytes_read() - before < 40_000_000  # the log may be written back into the file meanwhile


@pytest.mark.parametrize("swept", [False, True])
def test_keys_of_events_leave_no_row(home: Home, swept: bool) -> None:
    store = home.store()
    for number in range(50):
        home.result(store.append("log", Event("topic", "kind", b"1"), key=f"k{number}", key_seconds=60))
    home.clock.advance(60)
    if swept:
        home.result(store.sweep("", 0, 0))
    else:  # each that comes takes two of them away
        for number in range(25):
            home.result(store.append("log", Event("topic", "kind", b"1"), key=f"new{number}", key_seconds=60))
    assert home.sql("SELECT count(*) FROM known_key WHERE key < CAST('l' AS BLOB)") == [(0,)]


# Changes of large values.


def doubled(old: bytes, new: bytes) -> bytes:
    return old[:-1] + new


def patched(store: SqliteStore, count: int) -> list[Deferred[Entry]]:
    return [store.patch("kv", "large", b"%d" % (number % 10), doubled) for number in range(count)]


def test_many_patches_of_a_large_value_are_many_transactions_and_nobody_waits_for_all(home: Home) -> None:
    store = home.store()
    home.result(store.set("kv", "large", bytes(900_000)))
    home.commits.clear()
    answers = patched(store, 90)
    home.result(store.set("kv", "small", b"1"))
    assert sum(answer.called for answer in answers) < 50
    home.result(gatherResults(answers))
    assert max(home.commits) < 50
    assert home.result(store.get("kv", "large")).value[-2:] == b"\x009"


def test_patches_of_a_large_value_that_is_just_being_set_wait_as_well(home: Home) -> None:
    store = home.store()
    store.set("kv", "large", bytes(900_000))
    answers = patched(store, 60)
    home.result(gatherResults(answers))
    assert max(home.commits) < 30


def test_what_changes_or_reads_a_large_value_comes_after_what_was_sent_before(home: Home) -> None:
    store = home.store()
    home.result(store.set("kv", "large", bytes(900_000)))
    answers = patched(store, 60)
    seen = store.get("kv", "large")
    gone = store.delete("kv", "large")
    found = store.range("kv", "a", "z", 10)
    assert home.result(seen).value[-1:] == b"9"
    assert all(answer.called for answer in answers)
    assert home.result(gone) is True
    assert home.result(found) == []


def test_more_work_on_large_values_than_waits_at_most_is_refused_at_once(home: Home) -> None:
    store = home.store()
    home.result(store.set("kv", "large", bytes(900_000)))
    answers = patched(store, 200)
    refused = [answer for answer in answers if answer.called]
    assert 90 < len(refused) < 120
    for answer in refused:
        with pytest.raises(Unavailable, match="too many large values"):
            home.result(answer)
    small = home.result(store.set("kv", "small", b"1"))
    assert small.created
    home.result(gatherResults([answer for answer in answers if answer not in refused]))


def test_what_nobody_waits_for_any_more_is_not_read(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    get = TableReader.get

    def noted(reader: TableReader, space: str, key: str, expiry: Expiry) -> Entry | None:
        found.append(key)
        return get(reader, space, key, expiry)

    monkeypatch.setattr(TableReader, "get", noted)
    monkeypatch.setattr(sqlite_writer, "READS", READS | {noted})
    store = home.store()
    written = [store.set("kv", key, b"1") for key in ("a", "b")]
    dropped, read = store.get("kv", "a"), store.get("kv", "b")
    dropped.addErrback(lambda failure: failure.trap(CancelledError))
    dropped.cancel()
    assert home.result(read).value == b"1"
    home.result(gatherResults(written))
    assert found == ["b"]


def test_a_small_write_does_not_wait_for_all_large_ones_that_came_before(home: Home) -> None:
    store = home.store()
    large = [store.set("kv", f"{number}", bytes(900_000)) for number in range(12)]
    home.result(store.set("kv", "small", b"1"))
    assert sum(answer.called for answer in large) < 8
    home.result(gatherResults(large))
    assert max(home.commits) < 8


def cursors_of(connection: sqlite3.Connection) -> int:
    """Return how many cursors *connection* refers to, ended ones too."""
    return max(len(each) for each in gc.get_referents(connection) if isinstance(each, list))


def test_connections_let_go_of_the_cursors_that_have_ended(home: Home) -> None:
    store = home.store()
    assert store._file is not None
    for connection in (store._file.writes, store._file.reads):
        forget_results()
        for _ in range(50):
            connection.execute("SELECT 1")
        assert cursors_of(connection) >= 50
        forget_results()
        assert cursors_of(connection) < 5


def test_many_reads_of_a_large_value_that_waits_are_many_transactions_and_too_many_are_refused(home: Home) -> None:
    store = home.store()
    home.result(store.set("kv", "large", bytes(900_000)))
    home.commits.clear()
    store.set("kv", "large", bytes(900_000))
    answers = [store.get("kv", "large") for _ in range(200)]
    refused = [answer for answer in answers if answer.called]
    assert 90 < len(refused) < 140
    for answer in refused:
        with pytest.raises(Unavailable, match="too many large values"):
            home.result(answer)
    home.result(store.set("kv", "small", b"1"))
    kept = [answer for answer in answers if answer not in refused]
    assert sum(answer.called for answer in kept) < 50
    assert {len(entry.value) for entry in home.result(gatherResults(kept))} == {900_000}
    assert max(home.commits) < 50


# Transactions that end early.


def test_a_transaction_whose_reads_have_found_much_leaves_the_rest_to_the_next(home: Home) -> None:
    store = home.store()
    home.result(gatherResults([store.set("kv", f"k{number}", bytes(500_000)) for number in range(8)]))
    home.commits.clear()
    answers: list[Deferred[Any]] = []
    for number in range(8):
        answers += [store.set("kv", "last", b"%d" % number), store.range("kv", "k", "z", 100)]
    found = home.result(gatherResults(answers))
    # Two ranges of 4 MB are the most for one transaction; each sees what was written before it, and nothing later.
    assert home.commits == [6, 6, 4]
    assert [rows[-1][1].value for rows in found[1::2]] == [b"%d" % number for number in range(8)]


def test_a_transaction_that_lasts_for_long_leaves_the_rest_to_the_next(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writer, "MAX_SECONDS", 0.0)
    store = home.store()
    answers = [store.append("log", event(b"%d" % number)) for number in range(20)]
    later = store.head("log")
    assert [each.id for each in home.result(gatherResults(answers))] == list(range(1, 21))
    assert home.result(later) == 20
    assert home.commits[:20] == [1] * 20


def test_what_waits_when_the_store_has_stopped_for_long_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "MAX_SECONDS", 0.0)
    store = home.store()
    answers = [store.append("log", event()) for _ in range(500)]
    stopped = store.stopService()
    home.clock.advance(STOP_SECONDS)
    home.result(stopped)
    refused = [isinstance(answer.result, Failure) for answer in answers]
    assert refused == sorted(refused)  # the last ones
    assert any(refused)
    for answer, failed in zip(answers, refused, strict=True):
        if failed:
            with pytest.raises(Unavailable, match="stopping"):
                home.result(answer)
    assert home.sql("SELECT count(*) FROM event") == [(refused.count(False),)]
