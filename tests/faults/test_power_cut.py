"""A power cut at any moment loses nothing that was acknowledged; and what replays it sees what a disk may do."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from tests.faults.power_cut.__main__ import GOAL, LARGE, STEPS
from tests.faults.power_cut.disk import Disk, Image, Survival
from tests.faults.power_cut.image import found_by_store
from tests.faults.power_cut.promises import NOTHING, Found, Promises
from tests.faults.power_cut.recording import SOURCE, Record, environ, read_log
from tests.faults.power_cut.replay import check_by_daemon, check_by_store, explain, found_by_stores, record
from tests.support.preloaded import NoCompiler, compile_library, find_compiler

pytestmark = pytest.mark.unmeasured

FILE, DIRECTORY = 5, 6  # descriptors
SEEDS = 200


@pytest.fixture
def work(short_path: Path) -> Path:
    """An empty directory; the test is skipped where nothing can be compiled."""
    try:
        find_compiler()
    except NoCompiler as error:
        pytest.skip(str(error))
    return short_path.resolve()


@pytest.mark.processes
@pytest.mark.timeout(1800)
@pytest_twisted.ensureDeferred
async def test_nothing_acknowledged_is_lost_by_a_power_cut(work: Path, soak: bool) -> None:
    recording = await (record(work, STEPS, GOAL, large=LARGE) if soak else record(work, ("kill", "stop"), 30))
    seed = random.randrange(1 << 30)
    by_store = check_by_store(recording, seed, 300 if soak else 24)
    by_daemon = await check_by_daemon(recording, seed, 9 if soak else 1)
    control = check_by_store(recording, seed, 60 if soak else 16, syncs=False)
    print(f"{recording}, seed {seed}: {by_store}; by a daemon: {by_daemon}; control: {control}")
    assert not explain(work, by_store, by_daemon)
    assert by_store.acknowledged > by_store.images
    assert control.lost > 0


@pytest.mark.processes
@pytest_twisted.ensureDeferred
async def test_a_power_cut_without_syncs_takes_only_what_came_last(work: Path, soak: bool) -> None:
    recording = await record(work, ("kill",), 200 if soak else 20, TXBROKER_DURABILITY="os")
    report = check_by_store(recording, random.randrange(1 << 30), 100 if soak else 24)
    damages = ("store", "file", "holes", "doubled", "ids")
    assert [text for texts in report.broken.values() for text in texts if text.startswith(damages)] == []
    assert report.lost > 0


@pytest.mark.processes
@pytest_twisted.ensureDeferred
async def test_a_power_cut_leaves_the_store_or_the_backup_that_is_restored(work: Path, soak: bool) -> None:
    backup = work / "backup"
    steps = ("kill", f"backup {backup}", "stop", f"restore {backup}")
    recording = await record(work, steps, 100 if soak else 10)
    promises, (_, saved, begun, _) = recording.promises, recording.marks
    first = next(index for index, each in enumerate(recording.records) if each.stamp > begun)
    for cut, found in found_by_stores(recording, random.randrange(1 << 30), 200 if soak else 20, first=first):
        assert not found.unreadable
        before = found.values["epoch", ""] is not NOTHING
        broken = promises.broken(found, cut.stamp(recording) if before else saved)
        assert [text for text in broken if before or not text.startswith("epoch ")] == []
        assert not before or cut.position < len(recording.records)
    assert found_by_store(work / "state", promises).values["epoch", ""] is NOTHING


# The recorder.

EVERY_WAY = """
import os, sys
os.chdir(sys.argv[1])
with open("plain", "wb", buffering=0) as file:
    file.write(b"one")
    os.pwrite(file.fileno(), b"two", 10)
    os.writev(file.fileno(), [b"th", b"ree"])
    file.seek(2)
    file.write(b"four")
    os.posix_fallocate(file.fileno(), 0, 100)
    os.fsync(file.fileno())
    os.ftruncate(file.fileno(), 50)
    os.fdatasync(file.fileno())
with open(os.path.abspath("plain"), "ab") as file:
    file.write(b"added")
open("emptied", "w").write("something")
open("emptied", "w").close()
here = os.open(".", os.O_RDONLY)
os.close(os.open("below", os.O_WRONLY | os.O_CREAT, dir_fd=here))
os.fsync(here)
os.rename("plain", "renamed")
os.link("renamed", "linked")
os.rename("below", "moved", src_dir_fd=here, dst_dir_fd=here)
os.unlink("moved", dir_fd=here)
open("gone", "w").close()
os.remove("gone")
"""


@pytest.mark.processes
def test_recorder_sees_every_way_to_change_a_file(work: Path) -> None:
    state, log = work / "state", work / "log"
    state.mkdir()
    variables = environ(compile_library(SOURCE, work), state, log)
    subprocess.run([sys.executable, "-c", EVERY_WAY, str(state)], env=variables, check=True)
    records = read_log(log.read_bytes())
    there = {path.name: path.read_bytes() for path in state.iterdir()}
    assert Disk.after(records, str(state)).content() == there
    assert sorted(there) == ["emptied", "linked", "renamed"]
    assert sum(each.kind == "S" for each in records) == 3


# The disk.


def written(*steps: str | tuple[Any, ...]) -> list[Record]:
    """Return the records of *steps*: ``"open"``, ``"sync"``, ``"sync directory"``, ``("write", 0, b"…")`` and so on."""
    records: list[Record] = []

    def note(kind: str, file: int = -1, offset: int = 0, data: bytes = b"") -> None:
        records.append(Record(kind, 1, file, offset, len(records), memoryview(data)))

    note("O", DIRECTORY, data=b"/d\0\0")
    for step in steps:
        match step:
            case "open":
                note("O", FILE, data=b"/d/file\0\0")
            case "sync":
                note("S", FILE)
            case "sync directory":
                note("S", DIRECTORY)
            case ("write", int(offset), bytes(data)):
                note("W", FILE, offset, data)
            case ("resize", int(size)):
                note("R", FILE, size)
            case ("rename" | "unlink" as kind, str(old), str(new)):
                note("N" if kind == "rename" else "U", data=f"/d/{old}\0/d/{new}\0".encode())
    return records


def images(records: list[Record], **options: bool) -> Iterator[Image]:
    """Yield what many power cuts after *records* leave."""
    for seed in range(SEEDS):
        disk = Disk.after(records, "/d", **options)
        yield disk.after_cut(Survival.draw(random.Random(seed), len(records)))


STORED = ("open", ("write", 0, b"a" * 1024), "sync", "sync directory")


@pytest.mark.parametrize("journaled", [True, False])
def test_what_was_synced_stays(journaled: bool) -> None:
    changed = written(*STORED, ("write", 1024, b"b" * 1024))
    assert {image["file"][:1024] for image in images(changed, journaled=journaled)} == {b"a" * 1024}


def test_what_was_not_synced_is_there_or_lost_or_torn() -> None:
    found = {image["file"] for image in images(written(*STORED, ("write", 0, b"b" * 1024)))}
    assert found == {first * 512 + second * 512 for first in (b"a", b"b") for second in (b"a", b"b")}


def test_writes_that_were_not_synced_are_lost_in_any_order() -> None:
    changed = written(*STORED, ("write", 0, b"b" * 512), ("write", 512, b"c" * 512))
    assert len({image["file"] for image in images(changed)}) == 4


def test_a_file_may_be_longer_than_what_has_reached_it() -> None:
    found = {image["file"] for image in images(written(*STORED, ("write", 1024, b"b" * 512)))}
    assert b"a" * 1024 + bytes(512) in found
    assert {len(content) for content in found} == {1024, 1536}


def test_what_was_cut_off_may_be_back() -> None:
    found = {image["file"] for image in images(written(*STORED, ("resize", 0), ("write", 0, b"b" * 1024)))}
    assert {b"", b"a" * 1024, b"b" * 1024} < found
    halves = {frozenset((content[:512], content[512:])) for content in found}
    assert frozenset((b"a" * 512, b"b" * 512)) not in halves  # they lie in different places


def test_a_new_name_is_there_for_sure_when_its_directory_was_synced() -> None:
    new, synced = written("open", ("write", 0, b"a"), "sync"), written("open", "sync", "sync directory")
    assert {"file" in image for image in images(new)} == {True, False}
    assert {"file" in image for image in images(synced)} == {True}


def test_a_journal_brings_new_names_with_any_sync() -> None:
    new = written("open", ("write", 0, b"a"), "sync")
    assert list(images(new, journaled=True)) == [{"file": b"a"}] * SEEDS


def test_a_removed_file_may_be_back() -> None:
    removed = written(*STORED, ("unlink", "file", ""))
    assert {"file" in image for image in images(removed)} == {True, False}
    assert {"file" in image for image in images([*removed, *written("sync directory")[1:]])} == {False}


def test_a_renamed_file_has_one_of_both_names() -> None:
    renamed = written(*STORED, ("rename", "file", "other"))
    assert {tuple(image) for image in images(renamed)} == {("file",), ("other",)}


def test_a_disk_that_ignores_syncs_may_lose_everything() -> None:
    assert {} in list(images(written(*STORED), syncs=False))


# What was promised.


def test_events_that_are_lost_or_changed_are_told() -> None:
    promises = Promises(kept=10)
    for id in (1, 2, 3):
        promises.posted(id, f"data{id}")
    late = promises.events[3][0]
    assert promises.broken(Found({1: "data1", 2: "data2"}), late) == []
    assert promises.broken(Found({1: "data1", 2: "data2"}), late + 1) == ["event 3 is None, not data3"]
    assert promises.broken(Found({1: "data1", 2: "other"}), late) == ["event 2 is other, not data2"]
    assert promises.broken(Found({}), late) != []


def test_what_was_under_way_may_be_there_or_not() -> None:
    promises = Promises(kept=10)
    register = promises.register("key", "k")
    assert register.possible(1e30) == [NOTHING]
    for value in ("a", "b"):
        register.begin(value)
        register.acknowledge()
    register.begin("c")
    assert register.possible(1e30) == ["b", "c"]
    assert register.possible(0.5) == [NOTHING, "a"]
    assert promises.broken(Found(values={("key", "k"): "c"}), 1e30) == []
    assert promises.broken(Found(values={("key", "k"): "a"}), 1e30) == ["key k is 'a', not one of ['b', 'c']"]
