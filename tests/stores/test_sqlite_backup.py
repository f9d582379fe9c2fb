"""Backups of the SQLite store: made, put back, and compacted, as a whole or not at all."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from broker.errors import Unavailable
from broker.stores import sqlite_copy, sqlite_file
from broker.stores.sqlite_backup import back_up
from broker.stores.sqlite_compact import compact
from broker.stores.sqlite_copy import RESTORED, CopyError
from broker.stores.sqlite_history import memory_path, recall
from broker.stores.sqlite_restore import restore
from tests.stores.test_sqlite_store import Home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    (tmp_path / "state").mkdir()
    home = Home(tmp_path / "state")
    yield home
    for store in home.stores:
        home.stop(store)


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Where the backup shall be."""
    return tmp_path / "backup.db"


def run(home: Home, *bodies: bytes) -> str:
    """Append *bodies* in a run of its own; return the epoch of that."""
    store = home.store()
    for body in bodies:
        home.append(store, body=body)
    home.stop(store)
    return store.epoch


def bodies(home: Home) -> list[bytes | None]:
    """Return what a start finds."""
    store = home.store()
    found = [event.body for event in home.result(store.read("log", 0, 1_000_000))]
    home.stop(store)
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def sql(path: Path, script: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(script)
    connection.close()


# Making one.


def test_a_backup_is_one_file_for_its_owner(home: Home, backup: Path) -> None:
    run(home, b"1", b"2")
    assert back_up(str(home.path), str(backup)) == backup.stat().st_size > 0
    assert backup.stat().st_mode & 0o777 == 0o600
    assert names(backup.parent) == ["backup.db", "state"]
    assert names(home.path.parent) == [".test.db.generation", "test.db", "test.db.lock"]
    assert bodies(home) == [b"1", b"2"]


def test_what_a_kill_has_left_in_the_log_is_saved(home: Home, backup: Path, tmp_path: Path) -> None:
    store = home.store()
    home.append(store, body=b"1")
    killed = tmp_path / "killed.db"
    for suffix in ("", "-wal"):
        Path(f"{killed}{suffix}").write_bytes(Path(f"{home.path}{suffix}").read_bytes())
    home.stop(store)
    back_up(str(killed), str(backup))
    restore(str(home.path), str(backup))
    assert bodies(home) == [b"1"]


def test_a_file_is_overwritten_only_when_that_is_asked_for(home: Home, backup: Path) -> None:
    run(home, b"1")
    backup.write_text("mine")
    with pytest.raises(CopyError, match="there is a file of that name, which only --overwrite replaces"):
        back_up(str(home.path), str(backup))
    assert backup.read_text() == "mine"
    back_up(str(home.path), str(backup), overwrite=True)
    assert restore(str(home.path), str(backup))


def test_a_file_that_came_meanwhile_is_not_overwritten(
    home: Home, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(home, b"1")
    monkeypatch.setattr("broker.stores.sqlite_backup.check_pages", lambda *_: backup.write_text("mine"))
    with pytest.raises(CopyError, match="there is a file of that name"):
        back_up(str(home.path), str(backup))
    assert backup.read_text() == "mine"


@pytest.mark.parametrize("links", [True, False])
def test_where_there_are_no_links_files_are_renamed(
    home: Home, backup: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr("os.link", refuse)
    run(home, b"1")
    back_up(str(home.path), str(backup))
    with pytest.raises(FileExistsError):
        sqlite_copy.publish(str(home.path), str(backup), overwrite=False)
    assert names(backup.parent) == ["backup.db", "state"]


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", ".lock", RESTORED])
def test_the_store_itself_is_no_place_for_it(home: Home, suffix: str) -> None:
    run(home, b"1")
    with pytest.raises(CopyError, match="it is a file of the store itself"):
        back_up(str(home.path), f"{home.path}{suffix}", overwrite=True)
    with pytest.raises(CopyError, match="it is a file of the store itself"):
        back_up(str(home.path), memory_path(str(home.path)), overwrite=True)
    assert bodies(home) == [b"1"]


@pytest.mark.parametrize("make", ["symlink_to", "hardlink_to"])
def test_neither_is_another_name_of_it(home: Home, backup: Path, make: str) -> None:
    run(home, b"1")
    getattr(backup, make)(home.path)
    with pytest.raises(CopyError, match="it is a file of the store itself"):
        back_up(str(home.path), str(backup), overwrite=True)


@pytest.mark.parametrize(
    ("target", "reason"),
    [("state", "it is a directory"), ("missing/b.db", "No such file or directory"), ("pipe", "it is no regular file")],
)
def test_a_place_that_can_be_none_is_told(home: Home, tmp_path: Path, target: str, reason: str) -> None:
    run(home, b"1")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CopyError) as caught:
        back_up(str(home.path), str(tmp_path / target), overwrite=True)
    assert str(caught.value) == f"The backup {tmp_path / target} can not be made: {reason}."


def test_a_disk_that_is_too_small_is_told_before(home: Home, backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(home, b"1")
    full = os.statvfs_result((4096, 4096, 9, 1, 1, 9, 9, 9, 0, 255))
    monkeypatch.setattr("os.statvfs", lambda path: full)
    for work in (lambda: back_up(str(home.path), str(backup)), lambda: compact(str(home.path))):
        with pytest.raises(CopyError, match=r"that needs \d+ bytes, and 4096 are free on the disk"):
            work()
    assert names(backup.parent) == ["state"]


def test_a_store_that_is_not_there_is_not_made(home: Home, backup: Path) -> None:
    with pytest.raises(CopyError, match=f"there is no store {home.path}"):
        back_up(str(home.path), str(backup))
    assert names(home.path.parent) == []


def test_a_store_that_may_not_be_read_is_told(home: Home, backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(home, b"1")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may read all
    with pytest.raises(CopyError, match=f"{home.path} can not be read: Permission denied"):
        back_up(str(home.path), str(backup))


def test_a_damaged_store_is_not_saved_as_if_it_were_sound(home: Home, backup: Path) -> None:
    run(home, *(b"x" * 9000 for _ in range(50)))
    damage(home.path)
    with pytest.raises(CopyError, match="it is damaged"):
        back_up(str(home.path), str(backup))
    assert names(backup.parent) == ["state"]


def test_a_log_of_another_file_is_not_written_into_the_store(home: Home, backup: Path) -> None:
    run(home, b"1")
    old = home.path.read_bytes()
    run(home, b"2")
    store = home.store()
    home.append(store, body=b"3")
    log = Path(f"{home.path}-wal").read_bytes()
    home.stop(store)
    home.path.write_bytes(old)
    Path(f"{home.path}-wal").write_bytes(log)
    with pytest.raises(CopyError, match="is that of a newer file: start the broker once, which sets it aside"):
        back_up(str(home.path), str(backup))
    assert home.path.read_bytes() == old
    assert bodies(home) == [b"1"]


def damage(path: Path) -> None:
    """Write over pages in the midst of the file *path*."""
    with path.open("r+b") as file:
        file.seek(5 * 4096)
        file.write(b"\xa5" * 4096 * 20)


# Putting one back.


def test_a_backup_comes_back_in_a_new_epoch(home: Home, backup: Path) -> None:
    before = run(home, b"1")
    back_up(str(home.path), str(backup))
    content = backup.read_bytes()
    run(home, b"2")
    kept = restore(str(home.path), str(backup))
    assert bodies(home) == [b"1"]
    assert home.stores[-1].epoch != before
    assert backup.read_bytes() == content
    home.path = Path(kept)
    assert bodies(home) == [b"1", b"2"]
    assert home.stores[-1].epoch == before


def test_a_start_after_a_restoring_finds_nothing_to_tell(home: Home, backup: Path) -> None:
    run(home, b"1")
    back_up(str(home.path), str(backup))
    restore(str(home.path), str(backup))
    epochs = {run(home), run(home)}
    assert len(epochs) == 1
    assert recall(str(home.path)) is not None


def test_each_restoring_is_an_epoch_and_keeps_what_it_replaces(home: Home, backup: Path) -> None:
    epochs = {run(home, b"1")}
    back_up(str(home.path), str(backup))
    kept = set()
    for _ in range(3):
        kept.add(restore(str(home.path), str(backup)))
        epochs.add(run(home, b"2"))
    assert len(epochs) == 4
    assert len(kept) == 3
    assert all(Path(name).exists() for name in kept)


def test_a_machine_without_a_store_gets_one(home: Home, backup: Path, tmp_path: Path) -> None:
    run(home, b"1")
    back_up(str(home.path), str(backup))
    (tmp_path / "new").mkdir()
    there = Home(tmp_path / "new")
    assert restore(str(there.path), str(backup)) == ""
    assert bodies(there) == [b"1"]


def test_a_copy_made_by_hand_is_restored_with_its_log(home: Home, backup: Path) -> None:
    run(home, b"1")
    store = home.store()
    home.append(store, body=b"2")
    for suffix in ("", "-wal"):
        Path(f"{backup}{suffix}").write_bytes(Path(f"{home.path}{suffix}").read_bytes())
    home.stop(store)
    restore(str(home.path), str(backup))
    assert bodies(home) == [b"1", b"2"]


def test_the_mode_of_the_file_stays(home: Home, backup: Path) -> None:
    run(home, b"1")
    back_up(str(home.path), str(backup))
    home.path.chmod(0o640)
    restore(str(home.path), str(backup))
    compact(str(home.path))
    assert home.path.stat().st_mode & 0o777 == 0o640


def test_an_older_backup_is_brought_up_to_date_at_the_start(home: Home, backup: Path) -> None:
    sql(
        backup,
        f"{sqlite_file.schema_steps()[0]}; PRAGMA application_id = {sqlite_file.APPLICATION_ID};"
        "PRAGMA user_version = 1; INSERT INTO log (name) VALUES (X'6c6f67');"
        "INSERT INTO event VALUES (1, 1, 0, X'', X'', X'31', 0);",
    )
    restore(str(home.path), str(backup))
    assert bodies(home) == [b"1"]


def letter(path: Path) -> None:
    path.write_bytes(b"This is not a database, but a letter." * 100)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_in_a_page(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


def first_page_only(path: Path) -> None:
    os.truncate(path, 4096)


def missing(path: Path) -> None:
    path.unlink()


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def of_another_program(path: Path) -> None:
    path.unlink()
    sql(path, "CREATE TABLE cake (name)")


def of_a_newer_version(path: Path) -> None:
    sql(path, "PRAGMA user_version = 99")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (letter, "file is not a database"),
        (empty, "it is no store of txbroker"),
        (truncated, "database disk image is malformed"),
        (cut_in_a_page, "it is truncated"),
        (first_page_only, "database disk image is malformed"),
        (damage, "it is damaged: "),
        (missing, "there is no such file"),
        (directory, "there is no such file"),
        (of_another_program, "it is a SQLite file of another program"),
        (of_a_newer_version, "it was written by a newer version"),
    ],
)
def test_what_is_no_sound_backup_changes_nothing(
    home: Home, backup: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    before = run(home, *(b"x" * 9000 for _ in range(30)))
    back_up(str(home.path), str(backup))
    spoil(backup)
    files = {name: (home.path.parent / name).read_bytes() for name in names(home.path.parent)}
    with pytest.raises(CopyError, match=rf"^The backup {backup} can not be restored: .*({reason})"):
        restore(str(home.path), str(backup))
    assert {name: (home.path.parent / name).read_bytes() for name in names(home.path.parent) if "lock" not in name} == {
        name: content for name, content in files.items() if "lock" not in name
    }
    assert run(home) == before


def test_the_store_can_not_be_restored_from_itself(home: Home) -> None:
    run(home, b"1")
    with pytest.raises(CopyError, match="it is the store itself"):
        restore(str(home.path), str(home.path))
    assert bodies(home) == [b"1"]


def test_a_store_in_use_is_neither_restored_nor_compacted(home: Home, backup: Path) -> None:
    run(home, b"1")
    back_up(str(home.path), str(backup))
    store = home.store()
    for work in (lambda: restore(str(home.path), str(backup)), lambda: compact(str(home.path))):
        with pytest.raises(Unavailable, match=f"process {os.getpid()} is using it"):
            work()
    assert home.ids(store) == [1]


def test_neither_is_one_that_another_program_reads(home: Home, backup: Path) -> None:
    run(home, b"1")
    back_up(str(home.path), str(backup))
    other = home.other()
    other.execute("BEGIN")
    other.execute("SELECT * FROM log").fetchall()
    for work in (lambda: restore(str(home.path), str(backup)), lambda: compact(str(home.path))):
        with pytest.raises(CopyError, match="database is locked"):
            work()
    other.close()
    assert bodies(home) == [b"1"]
    assert [name for name in names(home.path.parent) if "restored" in name or "part" in name] == []


def test_a_damaged_store_is_replaced_and_kept_with_its_log(home: Home, backup: Path) -> None:
    run(home, b"1")
    back_up(str(home.path), str(backup))
    letter(home.path)
    content = home.path.read_bytes()
    Path(f"{home.path}-wal").write_bytes(b"a log")
    kept = restore(str(home.path), str(backup))
    assert (Path(kept).read_bytes(), Path(f"{kept}-wal").read_bytes()) == (content, b"a log")
    assert bodies(home) == [b"1"]


# Being killed.


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Let a process do *work*, which dies before its *step*-th call that changes names; return whether it did."""
    child = os.fork()
    if child == 0:
        left = [step]
        for name in ("rename", "replace", "link", "unlink", "fsync", "pwrite"):
            _count(name, left)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def _count(name: str, left: list[int]) -> None:
    call = getattr(os, name)

    def counted(*words: object, **named: object) -> object:
        left[0] -= 1
        if not left[0]:
            os._exit(9)
        return call(*words, **named)

    setattr(os, name, counted)


def test_a_restoring_that_is_killed_anywhere_has_happened_or_not(home: Home, backup: Path) -> None:
    old = run(home, b"1")
    back_up(str(home.path), str(backup))
    newer = [b"1", b"2"]
    run(home, b"2")
    content = home.path.read_bytes(), Path(memory_path(str(home.path))).read_bytes()
    step, outcomes = 1, []
    while killed_at(step, lambda: restore(str(home.path), str(backup))):
        found = bodies(home)
        assert (found, home.stores[-1].epoch == old) in [(newer, True), ([b"1"], False)]
        outcomes.append(found == newer)
        step += 1
        for file, before in zip((home.path, Path(memory_path(str(home.path)))), content, strict=True):
            file.write_bytes(before)
    assert outcomes == sorted(outcomes, reverse=True)
    assert True in outcomes
    assert False in outcomes
    assert bodies(home) == [b"1"]
    assert not Path(f"{home.path}{RESTORED}").exists()


def test_a_compaction_that_is_killed_anywhere_loses_nothing(home: Home) -> None:
    old = run(home, b"1", b"2")
    step = 1
    while killed_at(step, lambda: compact(str(home.path))):
        assert bodies(home) == [b"1", b"2"]
        assert home.stores[-1].epoch == old
        step += 1
    assert step > 3


# Compacting.


def test_a_compacted_file_is_smaller_and_gives_back_what_is_removed(home: Home) -> None:
    before = run(home, *(b"x" * 9000 for _ in range(300)))
    sql(home.path, "PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = NONE; VACUUM; DELETE FROM event WHERE id > 3")
    size = home.path.stat().st_size
    had, has = compact(str(home.path))
    assert had == size > 10 * has
    assert has == home.path.stat().st_size
    assert home.sql("PRAGMA auto_vacuum") == [(2,)]
    assert run(home) == before


def test_a_missing_store_and_that_of_another_program_are_not_compacted(home: Home) -> None:
    with pytest.raises(CopyError, match="there is no such file"):
        compact(str(home.path))
    of_another = home.path
    sql(of_another, "CREATE TABLE cake (name)")
    content = of_another.read_bytes()
    with pytest.raises(CopyError, match="it is a SQLite file of another program"):
        compact(str(of_another))
    assert of_another.read_bytes() == content


def test_a_store_is_restored_where_nothing_can_be_remembered(home: Home, backup: Path) -> None:
    run(home, b"1")
    back_up(str(home.path), str(backup))
    epoch = run(home, b"2")
    memory = Path(memory_path(str(home.path)))
    memory.unlink()
    memory.mkdir()
    assert restore(str(home.path), str(backup))
    assert run(home) != epoch
    assert bodies(home) == [b"1"]


@pytest.mark.parametrize("command", ["restore", "compact"])
def test_a_backup_that_is_being_made_does_not_keep_the_store_from_being_opened(
    home: Home, backup: Path, command: str
) -> None:
    run(home, b"1")
    back_up(str(home.path), str(backup))
    if command == "restore":
        restore(str(home.path), str(backup))
    else:
        compact(str(home.path))
    with closing(home.other()) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM event").fetchone() == (1,)
        assert run(home, b"2")
    assert bodies(home) == [b"1", b"2"]


def test_what_a_kill_has_left_of_a_store_that_is_gone_is_not_applied_to_a_backup(home: Home, backup: Path) -> None:
    run(home, b"1")
    back_up(str(home.path), str(backup))
    journal = Path(f"{home.path}-journal")
    with closing(home.other()) as writer:
        writer.execute("PRAGMA journal_mode = DELETE")
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("BEGIN")
        writer.execute("DROP TABLE event")
        writer.execute("INSERT INTO meta VALUES ('filling', zeroblob(400000))")  # so that pages must be written
        kept = journal.read_bytes()
    home.path.unlink()
    journal.write_bytes(kept)
    restore(str(home.path), str(backup))
    assert not journal.exists()
    assert bodies(home) == [b"1"]
