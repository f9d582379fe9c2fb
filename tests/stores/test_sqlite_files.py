"""The files of the SQLite store are deleted, replaced, truncated or damaged under it, or the disk has errors."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import LogLevel

from broker.errors import Unavailable
from broker.remembered import forget_results
from broker.stores import sqlite_checkpoints, sqlite_tables, sqlite_writer
from broker.stores.sqlite import SqliteStore
from broker.stores.sqlite_checkpoints import READER, CheckpointHealth, CheckpointState
from broker.stores.sqlite_writer import WriterThread
from tests.stores.test_sqlite_store import Home, event
from tests.support.logs import lines_of, logging


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setattr(sqlite_writer, "CHECK_INTERVAL", 0.01)
    directory = tmp_path / "state"
    directory.mkdir()
    home = Home(directory)
    yield home
    for store in home.stores:
        home.stop(store)


def refused(home: Home, answer: Deferred[Any]) -> str:
    with pytest.raises(Unavailable) as caught:
        home.result(answer)
    return str(caught.value)


# Files that are lost.


def delete(home: Home) -> None:
    home.path.unlink()


def move_away(home: Home) -> None:
    home.path.rename(home.path.with_name("elsewhere.db"))


def replace_by_another(home: Home) -> None:
    other(home, home.path.with_name("other.db"))
    os.replace(home.path.with_name("other.db"), home.path)


def overwrite(home: Home, data: bytes) -> None:
    """Put *data* into the file in one go: a store that looks meanwhile must not find half of it."""
    with open(home.path, "r+b", buffering=0) as file:
        file.write(data)
        file.truncate(len(data))


def overwrite_by_another(home: Home) -> None:
    other(home, home.path.with_name("other.db"))
    overwrite(home, home.path.with_name("other.db").read_bytes())


def overwrite_by_older(home: Home) -> None:
    overwrite(home, home.path.with_name("older.db").read_bytes())


def overwrite_by_letter(home: Home) -> None:
    overwrite(home, b"This is not a database, but a letter." * 3000)


def truncate(home: Home) -> None:
    os.truncate(home.path, 0)


def shorten(home: Home) -> None:
    os.truncate(home.path, 8192)


def remove_directory(home: Home) -> None:
    # The database first: the store may look at any moment, and names what it finds first.
    home.path.unlink()
    shutil.rmtree(home.path.parent)


def replace_directory(home: Home) -> None:
    home.path.parent.rename(home.path.parent.with_name("moved"))
    home.path.parent.mkdir()


def delete_log(home: Home) -> None:
    side(home, "-wal").unlink()


def replace_log(home: Home) -> None:
    side(home, "-new").write_bytes(side(home, "-wal").read_bytes())
    os.replace(side(home, "-new"), side(home, "-wal"))


def truncate_log(home: Home) -> None:
    os.truncate(side(home, "-wal"), 0)


def shorten_log(home: Home) -> None:
    os.truncate(side(home, "-wal"), 5000)


def delete_index(home: Home) -> None:
    side(home, "-shm").unlink()


def delete_lock(home: Home) -> None:
    side(home, ".lock").unlink()


def side(home: Home, suffix: str) -> Path:
    return Path(f"{home.path}{suffix}")


def other(home: Home, path: Path) -> None:
    """Make another database of the broker at *path*."""
    second = Home(home.path.parent)
    second.path = path
    store = second.store()
    for _ in range(30):
        second.append(store, "foreign", b"x" * 5000)
    second.stop(store)


LOST: dict[Callable[[Home], None], str] = {
    delete: "test.db was deleted",
    move_away: "test.db was deleted",
    replace_by_another: "test.db was replaced by another file",
    remove_directory: "test.db was deleted",
    replace_directory: "test.db was deleted",
    delete_log: "test.db-wal was deleted; what was acknowledged is in",
    replace_log: "test.db-wal was replaced by another file; what was acknowledged is in",
    delete_index: "test.db-shm was deleted; what was acknowledged is in",
    delete_lock: "test.db.lock was deleted; what was acknowledged is in",
}
RUINED = (overwrite_by_another, overwrite_by_older, overwrite_by_letter, truncate, shorten)


def filled(home: Home) -> SqliteStore:
    """Return a store with some events in the file and some in the log, and with an older copy beside it."""
    store = home.store()
    checkpoints = store._guard.checkpoints
    with pytest.MonkeyPatch.context() as patch:
        # This thread writes the log back: the writer thread would take that for the work of another program.
        patch.setattr(sqlite_writer, "CHECK_INTERVAL", 60)
        home.append(store, body=b"x" * 20_000)
        home.append(store, "another")  # it has looked after the first one
        assert checkpoints.run()
        shutil.copyfile(home.path, home.path.with_name("older.db"))
        home.append(store, body=b"x" * 20_000)
        assert checkpoints.run()
    home.append(store)
    return store


@pytest.mark.parametrize("harm", [*LOST, *RUINED], ids=lambda harm: harm.__name__)
def test_a_file_that_is_lost_is_noticed_while_nothing_is_written(home: Home, harm: Callable[[Home], None]) -> None:
    store = filled(home)
    with logging(LogLevel.error) as lines:
        harm(home)
        home.pump.until(lambda: store.ready)
        for _ in range(2):
            assert refused(home, store.append("log", event())) == store.ready
            assert refused(home, store.set("s", "k", b"")) == store.ready
        home.clock.advance(10)
    assert store.ready.startswith(f"The store can not write: {home.path.parent}/{LOST.get(harm, 'test.db was ')}")
    assert (" by another program;" in store.ready) == (harm in RUINED)
    assert store.ready.endswith("; nothing is written until the broker is started again.")
    assert lines_of(lines) == [store.ready]
    assert home.clock.getDelayedCalls() == []


@pytest.mark.parametrize("harm", [*LOST][:-2], ids=lambda harm: harm.__name__)
def test_what_is_written_to_a_lost_file_is_not_acknowledged(
    home: Home, harm: Callable[[Home], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writer, "CHECK_INTERVAL", 60)
    store = filled(home)
    home.append(store)
    harm(home)
    assert "test.db" in refused(home, store.append("log", event()))
    assert home.ids(store)[:4] == [1, 2, 3, 4]  # what is open can be read


@pytest.mark.parametrize("harm", RUINED, ids=lambda harm: harm.__name__)
def test_a_file_with_other_contents_is_not_read(home: Home, harm: Callable[[Home], None]) -> None:
    store = filled(home)
    harm(home)
    home.pump.until(lambda: store.ready)
    assert refused(home, store.read("log", 0, 9)).startswith("The store can not be read: ")


@pytest.mark.parametrize("suffix", ["-wal", "-shm", ".lock"])
def test_what_was_acknowledged_is_in_the_file_when_another_beside_it_is_lost(home: Home, suffix: str) -> None:
    store = filled(home)
    side(home, suffix).unlink()
    home.pump.until(lambda: store.ready)
    copy = Home(home.path.parent.parent)
    shutil.copyfile(home.path, copy.path)  # as after kill -9
    again = copy.store()
    assert copy.ids(again) == [1, 2, 3]
    copy.stop(again)
    home.stop(store)
    assert home.ids(home.store()) == [1, 2, 3]


@pytest.mark.parametrize("harm", [replace_by_another, overwrite_by_another], ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("killed", [False, True])
def test_the_file_that_has_come_instead_is_left_alone(home: Home, harm: Callable[[Home], None], killed: bool) -> None:
    store = filled(home)
    harm(home)
    home.pump.until(lambda: store.ready)
    if not killed:
        home.stop(store)
    copy = Home(home.path.parent.parent)
    for path in home.path.parent.glob("test.db*"):
        shutil.copyfile(path, copy.path.parent / path.name)
    again = copy.store()
    assert copy.ids(again) == []
    assert copy.ids(again, "foreign") == list(range(1, 31))
    assert copy.sql("PRAGMA integrity_check") == [("ok",)]
    copy.stop(again)


@pytest.mark.parametrize("first", [0, 4096, 8192, 60_000], ids=lambda first: f"{first}-bytes-first")
def test_a_file_that_is_looked_at_while_it_is_overwritten_is_not_taken_for_the_own(home: Home, first: int) -> None:
    store = filled(home)
    other(home, home.path.with_name("other.db"))
    data = home.path.with_name("other.db").read_bytes()
    assert store._guard.watch.main[2] < len(data)
    with open(home.path, "r+b", buffering=0) as file:
        file.write(data[:first])
        os.utime(home.path)  # the system notes the time before it writes the first byte
        written = home.path.stat().st_mtime_ns
        looked_at(home, store)
        file.seek(first)
        file.write(data[first:])
        os.utime(home.path, ns=(written, written))
    home.pump.until(lambda: store.ready)
    assert " by another program;" in store.ready or "is damaged: " in store.ready
    home.stop(store)
    assert home.path.read_bytes() == data
    assert not side(home, "-wal").exists()


def looked_at(home: Home, store: SqliteStore) -> None:
    """Return when the writer thread has looked at the files again."""
    looks: list[None] = []
    reason_to_doubt = store._guard.watch._reason_to_doubt

    def note() -> str:
        reason = reason_to_doubt()
        looks.append(None)
        return reason

    store._guard.watch._reason_to_doubt = note  # type: ignore[method-assign]
    home.pump.until(lambda: looks)


def test_what_overwrites_a_damaged_file_is_left_alone(home: Home) -> None:
    two_logs(home)
    store = home.store()
    home.append(store)
    damage(home)
    refused(home, store.read("a", 0, 1000))
    overwrite_by_another(home)  # as who restores a copy before the broker is stopped
    found = home.path.read_bytes()
    home.stop(store)
    assert home.path.read_bytes() == found
    assert not side(home, "-wal").exists()


@pytest.mark.parametrize("harm", [replace_by_another, *RUINED], ids=lambda harm: harm.__name__)
def test_a_file_that_comes_just_before_the_end_is_left_alone(
    home: Home, harm: Callable[[Home], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writer, "CHECK_INTERVAL", 60)
    store = filled(home)
    harm(home)
    found = home.path.read_bytes()
    with logging(LogLevel.error) as lines:
        home.stop(store)
    assert home.path.read_bytes() == found
    assert not side(home, "-wal").exists()
    assert [line.partition(" was ")[0] for line in lines_of(lines)] == [f"The store can not write: {home.path}"]


def test_the_log_of_the_file_that_has_come_instead_is_not_deleted(home: Home) -> None:
    store = filled(home)
    replace_by_another(home)
    home.pump.until(lambda: store.ready)
    side(home, "-wal").write_bytes(b"of that file")
    home.stop(store)
    assert side(home, "-wal").read_bytes() == b"of that file"


@pytest.mark.parametrize("harm", [truncate_log, shorten_log], ids=lambda harm: harm.__name__)
def test_a_log_that_is_truncated_is_noticed_and_nothing_of_it_gets_into_the_file(
    home: Home, harm: Callable[[Home], None]
) -> None:
    store = filled(home)
    for _ in range(5):
        home.append(store, body=b"x" * 20_000)
    before = home.path.read_bytes()
    harm(home)
    home.pump.until(lambda: store.ready)
    assert "test.db-wal was truncated by another program; what was acknowledged is perhaps not all in" in store.ready
    home.stop(store)
    assert home.path.read_bytes() == before


def test_a_log_that_is_truncated_between_two_writes_is_noticed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "CHECK_INTERVAL", 60)
    store = filled(home)
    for _ in range(5):
        home.append(store, body=b"x" * 20_000)
    truncate_log(home)
    for _ in range(200):
        # The first one makes it long again, with a hole.
        store.append("log", event(b"x" * 200_000)).addErrback(lambda _: None)
        home.pump.until(lambda: store._commits.idle)
        if store.ready:
            break
    assert "was truncated by another program" in store.ready or "is damaged" in store.ready
    assert home.path.read_bytes()[:16] == b"SQLite format 3\0"


def test_another_program_may_write_the_log_back(home: Home) -> None:
    store = filled(home)
    home.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    home.sql("CREATE TABLE notes (text)")
    home.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    for _ in range(20):
        home.append(store)
    assert store.ready == ""
    assert len(home.ids(store)) == 23


def test_files_that_can_not_be_looked_at_are_lost_only_as_long(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(home)

    def denied(path: object, **options: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", denied)
        assert refused(home, store.append("log", event())).endswith("test.db: Permission denied.")
        assert store.ready
    assert home.append(store) == 5  # the other one was stored all the same
    assert store.ready == ""


# Pages that are damaged.


def damage(home: Home) -> None:
    """Overwrite the pages that have events of "a" only."""
    data = home.path.read_bytes()
    pages = {place: data[place : place + 4096] for place in range(0, len(data), 4096)}
    pages = {place: page for place, page in pages.items() if b"body of a" in page and b"body of b" not in page}
    assert pages
    with home.path.open("r+b") as file:
        for place in pages:
            file.seek(place)
            file.write(b"\0" * 4096)


def two_logs(home: Home) -> None:
    """Make a file whose log "a" has events on pages of their own."""
    store = home.store()
    for log in ("b", "a", "b"):
        body = b"body of %s " % log.encode() * 40
        home.result(gatherResults([store.append(log, event(body)) for _ in range(100)]))
    home.stop(store)


def test_a_damaged_page_is_told_and_stays_told_and_others_are_read(home: Home) -> None:
    two_logs(home)
    damage(home)
    store = home.store()
    assert len(home.ids(store, "b")) == 200
    with logging(LogLevel.error) as lines:
        assert refused(home, store.read("a", 0, 1000)).startswith("The store can not be read")
        assert f"{home.path} is damaged: " in store.ready
        for _ in range(3):
            home.clock.advance(1)
            assert refused(home, store.append("b", event())) == store.ready
            assert len(home.ids(store, "b")) == 200
    assert lines_of(lines) == [store.ready]


def test_damage_that_a_write_finds_stays_too(home: Home) -> None:
    two_logs(home)
    ((root,),) = home.sql("SELECT rootpage FROM sqlite_master WHERE name = 'entry'")
    with home.path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
    store = home.store()
    refused(home, store.set("s", "k", b"1"))
    assert "is damaged: " in store.ready
    home.clock.advance(5)
    assert "is damaged: " in refused(home, store.append("b", event()))
    assert len(home.ids(store, "b")) == 200


def test_damage_that_is_done_while_the_store_is_open_is_found(home: Home) -> None:
    two_logs(home)
    store = home.store()
    assert len(home.ids(store, "a")) == 100  # and is in the cache
    damage(home)
    home.pump.until(lambda: store.ready)
    assert f"{home.path} is damaged: " in store.ready
    assert len(home.ids(store, "b")) == 200


# I/O errors.


def io_error() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    return error


def failing_commit(home: Home, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> None:
    """Let so many commits fail, as with errors of fsync."""
    commit, left = sqlite_tables.TableWriter.commit, [None] * times

    def fail(tables: sqlite_tables.TableWriter) -> None:
        if left:
            left.pop()
            raise io_error()
        commit(tables)

    monkeypatch.setattr(sqlite_tables.TableWriter, "commit", fail)


def test_after_an_io_error_the_file_is_opened_anew_before_anything_is_acknowledged(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(home)
    home.result(store.set("s", "k", b"1"))
    failing_commit(home, store, monkeypatch, 3)
    assert store._file is not None
    before = store._file.writes
    assert refused(home, store.append("log", event())) == "The store can not write: disk I/O error."
    assert refused(home, store.append("log", event())) == "The store can not write: disk I/O error."
    assert home.ids(store) == [1, 2, 3]  # reading goes on
    home.clock.advance(1)
    home.pump.until(lambda: store._commits.idle)
    assert store._file.writes is before
    with logging(LogLevel.info) as lines:
        assert home.append(store) == 4
    assert lines_of(lines) == [f"{home.path} was opened anew, and nothing is missing", "The store can write again."]
    assert store._file.writes is not before
    assert (home.ids(store), home.result(store.get("s", "k")).value) == ([1, 2, 3, 4], b"1")
    assert store.ready == ""


def test_a_file_that_lacks_something_after_an_io_error_is_not_written(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(home)
    failing_commit(home, store, monkeypatch)
    refused(home, store.append("log", event()))
    assert store._file is not None
    reopen = store._file.reopen

    def lose() -> None:
        home.sql("DELETE FROM event WHERE id = 3")
        reopen()

    monkeypatch.setattr(type(store._file), "reopen", lambda file: lose())
    assert "test.db lacks what was acknowledged before an I/O error; nothing" in refused(home, store.set("s", "k", b""))
    assert home.ids(store) == [1, 2]


def test_a_file_that_can_not_be_opened_anew_is_tried_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(home)
    failing_commit(home, store, monkeypatch)
    refused(home, store.append("log", event()))

    def fail(file: object) -> None:
        raise io_error()

    with monkeypatch.context() as patch:
        patch.setattr(type(store._file), "reopen", fail)
        assert "disk I/O error" in refused(home, store.append("log", event()))
        assert "can not be read" in refused(home, store.read("log", 0, 9))
    assert home.append(store) == 4
    assert home.ids(store) == [1, 2, 3, 4]


# Checkpoints.


class Log:
    """A log of which a test says how long it is, and its connection."""

    def __init__(self) -> None:
        self.long = True
        self.attempts = 0
        self.now = 0.0
        self.result: tuple[int, int, int] | Exception = (0, 9, 9)
        self.states: list[CheckpointState] = []

    def execute(self, statement: str) -> Log:
        self.attempts += 1
        return self

    def fetchone(self) -> tuple[int, int, int]:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def log_has(self, pages: int) -> bool:
        return self.long

    def accept(self) -> None:
        """Nothing is remembered here."""

    def checkpoints(self) -> sqlite_checkpoints.Checkpoints:
        now = lambda: self.now  # noqa: E731
        return sqlite_checkpoints.Checkpoints(self, self, 9, self.states.append, now)  # type: ignore[arg-type]


def test_a_checkpoint_that_fails_is_tried_again_later_and_later() -> None:
    log = Log()
    checkpoints = log.checkpoints()
    log.result = sqlite3.OperationalError("disk I/O error")
    for _ in range(1000):
        checkpoints.look()
        log.now += 0.1
    assert 5 <= log.attempts <= 9
    assert log.states == [CheckpointState("disk I/O error", True)] * log.attempts
    log.result = (0, 9, 9)
    log.now += sqlite_checkpoints.MAX_DELAY
    checkpoints.look()
    assert log.states[-1] == CheckpointState()
    checkpoints.look()  # at once, now that it works
    assert (log.attempts, len(log.states)) == (len(log.states) + 1, len(log.states))


def test_a_log_that_is_short_is_not_written_back() -> None:
    log = Log()
    log.long = False
    log.checkpoints().look()
    assert log.attempts == 0


def test_failing_checkpoints_are_logged_once_and_told_when_the_log_is_long() -> None:
    counts: list[int] = []
    sizes = [100]
    health = CheckpointHealth(lambda: counts.append(1), lambda: sizes[0], 1000)
    with logging(LogLevel.info) as lines:
        for _ in range(3):
            health.note(CheckpointState("disk I/O error", True))
        assert health.problem == ""
        sizes[0] = 1001
        assert health.problem == (
            "The write-ahead log can not be written back into the database file: disk I/O error; it has 1001 bytes."
        )
        health.note(CheckpointState())
    assert (health.problem, len(counts)) == ("", 3)
    assert lines_of(lines) == [
        "The write-ahead log can not be written back into the database file: disk I/O error.",
        "The write-ahead log can be written back again.",
    ]


def test_a_log_that_a_reader_keeps_may_be_longer() -> None:
    sizes = [1000 * READER]
    health = CheckpointHealth(lambda: None, lambda: sizes[0], 1000)
    health.note(CheckpointState("another program reads", False))
    assert health.problem == ""
    sizes[0] += 1
    assert "another program reads" in health.problem


def test_the_log_is_written_back_when_it_is_long_and_begins_anew(home: Home) -> None:
    store = home.store()
    for _ in range(40):
        home.append(store, body=b"x" * 200_000)
    home.pump.until(lambda: home.path.stat().st_size > 4_000_000)
    assert side(home, "-wal").stat().st_size < 7_000_000


def test_a_reader_of_an_old_state_makes_the_store_degraded(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.stores.sqlite.MAX_LOG_BYTES", 1_000_000 // READER)
    store = filled(home)
    reader = home.other()
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM event").fetchone()
    for _ in range(40):
        home.append(store, body=b"x" * 200_000)
    home.pump.until(lambda: store.degraded)
    assert "another program reads an old state of it; it has" in store.degraded
    assert store.ready == ""
    reader.close()


def test_permanent_refusals_count_as_errors(home: Home) -> None:
    store = filled(home)
    delete(home)
    home.pump.until(lambda: store.ready)
    home.failures.clear()
    refused(home, store.append("log", event()))
    assert home.failures == [1]
    assert home.ids(store) == [1, 2, 3]


# Memory.

SHRINK = "PRAGMA shrink_memory"


def test_once_nothing_is_written_the_pages_of_what_was_are_given_up(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle: list[int] = []
    rest = WriterThread._rest
    monkeypatch.setattr(WriterThread, "_rest", lambda thread: (rest(thread), idle.append(1)))
    store = home.store()
    assert store._file is not None
    done: list[str] = []
    store._file.writes.set_trace_callback(done.append)
    for rounds in (1, 2):
        home.append(store)
        idle.clear()
        home.pump.until(lambda: len(idle) >= 3)
        assert done.count(SHRINK) == rounds
        assert done[-1] == SHRINK


def test_the_pages_that_were_read_are_given_up_with_what_else_is_remembered(home: Home) -> None:
    store = home.store()
    assert store._file is not None
    home.append(store)
    done: list[str] = []
    store._file.reads.set_trace_callback(done.append)
    forget_results()
    assert done == [SHRINK]
    assert home.ids(store) == [1]
    home.stop(store)
    forget_results()  # of a connection that is closed
    assert done.count(SHRINK) == 1
