"""Real daemons whose files are saved, restored, exchanged and compacted."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from tests.conftest import StartDaemon
from tests.support.commands import begin, txbroker
from tests.support.daemon import WITH_METRICS, Daemon
from tests.support.eventually import eventually, pause
from tests.support.http_client import Answer, get, post

pytestmark = [pytest.mark.processes, pytest.mark.unmeasured]

ENVIRON = {
    **WITH_METRICS,
    "TXBROKER_PROTOCOLS": "ganomede",
    "TXBROKER_POLL_TIMEOUT_SECONDS": "0",
    "TXBROKER_ERROR_DELAY_SECONDS": "0",
}
WRITERS = 4


def events(daemon: Daemon) -> str:
    return f"{daemon.url}/events/v1/events"


async def posted(daemon: Daemon, data: Any) -> int:
    event = {"clientId": "w", "channel": "ch", "from": "f", "type": "t", "data": data}
    answer = await post(events(daemon), event)
    assert answer.status == 200, answer.text
    return int(answer.json()["id"])


async def polled(daemon: Daemon, epoch: str = "", after: int = 0) -> Answer:
    return await get(f"{events(daemon)}?clientId=r&channel=ch&after={after}&epoch={epoch}&limit=1000")


async def stored(daemon: Daemon) -> dict[int, Any]:
    """Return the data of all events by their ids, which have no hole."""
    found: dict[int, Any] = {}
    while page := (await polled(daemon, after=len(found))).json():
        found |= {event["id"]: event["data"] for event in page}
        assert list(found) == list(range(1, len(found) + 1))
    return found


async def epoch_of(daemon: Daemon) -> str:
    return (await polled(daemon)).headers["x-epoch"]


def database(daemon: Daemon) -> Path:
    return daemon.directory / "txbroker.db"


async def check_old_cursors_are_told(daemon: Daemon, before: str) -> None:
    after = await epoch_of(daemon)
    assert after != before
    answer = await polled(daemon, before, after=2)
    assert (answer.status, answer.headers["x-epoch"]) == (410, after)


@attrs.define
class Writers:
    """Post until they are told to stop, and remember what was acknowledged."""

    daemon: Daemon
    acknowledged: dict[int, Any] = attrs.field(factory=dict)
    stopping: bool = False
    ended: Any = None

    def start(self) -> Writers:
        self.ended = gatherResults([Deferred.fromCoroutine(self.write(number)) for number in range(WRITERS)])
        return self

    async def write(self, writer: int) -> None:
        number = 0
        while not self.stopping:
            data = {"writer": writer, "n": number, "text": "x" * 20_000}
            self.acknowledged[await posted(self.daemon, data)] = data
            number += 1

    async def until(self, count: int) -> None:
        await eventually(lambda: len(self.acknowledged) >= count)


@pytest_twisted.ensureDeferred
async def test_a_backup_under_load_has_all_that_was_acknowledged_before(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon(**ENVIRON)
    backup = tmp_path / "backup.db"
    writers = Writers(daemon).start()
    await writers.until(60)
    before = dict(writers.acknowledged)
    said = await txbroker(daemon, "backup", backup)
    assert said == f"{backup.stat().st_size} bytes of {database(daemon)} are saved in {backup}"
    await writers.until(len(writers.acknowledged) + 2 * WRITERS)  # they go on
    writers.stopping = True
    await writers.ended
    refused = begin(daemon, "restore", backup)
    assert await refused.exit() == 1
    assert refused.lines[0].endswith(f"can not be opened: process {daemon.pid} is using it.")
    epoch = await epoch_of(daemon)
    assert await stored(daemon) == writers.acknowledged
    await daemon.stop()
    said = await txbroker(daemon, "restore", backup)
    await daemon.start()
    found = await stored(daemon)
    assert len(before) <= len(found) < len(writers.acknowledged)
    assert found == {id: writers.acknowledged[id] for id in found}
    assert before.items() <= found.items()
    await check_old_cursors_are_told(daemon, epoch)
    assert await posted(daemon, {}) == len(found) + 1
    kept = Path(said.rpartition(" ")[2])
    assert sqlite3.connect(kept).execute("SELECT count(*) FROM event").fetchone() == (len(writers.acknowledged),)


async def older_copy(daemon: Daemon, size: int = 10) -> tuple[Callable[[], object], str]:
    """Post to *daemon* in two runs; return what puts the file of the first in its place, and the epoch of both."""
    await posted(daemon, {})
    await daemon.stop()
    copy = shutil.copy(database(daemon), daemon.directory / "copy")
    await daemon.start()
    for _ in range(3):
        await posted(daemon, {"text": "x" * size})
    return lambda: shutil.copy(copy, database(daemon)), await epoch_of(daemon)


async def check_it_is_noticed(daemon: Daemon, epoch: str) -> None:
    daemon.provoked.extend(["was lost", "was that of a newer file"])
    await daemon.start()
    assert len(await stored(daemon)) == 1
    await check_old_cursors_are_told(daemon, epoch)
    await daemon.until_metric("txbroker_store_went_back_total", 1)
    assert any("data of the store was lost" in line and epoch in line for line in daemon.output)
    assert await posted(daemon, {}) == 2


@pytest_twisted.ensureDeferred
async def test_an_older_file_that_was_copied_back_by_hand_is_noticed(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(**ENVIRON)
    put_back, epoch = await older_copy(daemon)
    await seen_beside(daemon)
    await daemon.kill()
    put_back()
    for suffix in ("-wal", "-shm"):
        Path(f"{database(daemon)}{suffix}").unlink()
    await check_it_is_noticed(daemon, epoch)


@pytest_twisted.ensureDeferred
async def test_one_beside_which_the_log_of_the_newer_one_was_left_is_too(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(**ENVIRON)
    put_back, epoch = await older_copy(daemon, 900_000)
    while merged(daemon) <= generation_of(daemon.directory / "copy"):
        await posted(daemon, {"text": "x" * 900_000})
        await pause(0.1)
    await daemon.kill()
    put_back()
    await check_it_is_noticed(daemon, epoch)
    assert (daemon.directory / "txbroker.db-wal.stale").exists()


def generation_of(path: Path) -> int:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    ((number,),) = connection.execute("SELECT value FROM meta WHERE name = 'generation'").fetchall()
    connection.close()
    return int(number)


def merged(daemon: Daemon) -> int:
    """Return the generation that the file has without its log, as the small file beside it says."""
    memory = daemon.directory / ".txbroker.db.generation"
    return int(memory.read_text().split()[2]) if memory.exists() else 0


async def seen_beside(daemon: Daemon) -> None:
    """Return when the small file beside the database has what the database has."""
    memory = daemon.directory / ".txbroker.db.generation"
    await eventually(lambda: int(memory.read_text().split()[1]) == generation_of(database(daemon)))


@pytest_twisted.ensureDeferred
async def test_a_daemon_that_is_killed_again_and_again_keeps_its_epoch(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(**ENVIRON)
    epochs = set()
    for _ in range(2):
        await posted(daemon, {})
        epochs.add(await epoch_of(daemon))
        await daemon.kill()
        await daemon.start()
    assert len(epochs) == 1
    await daemon.until_metric("txbroker_store_went_back_total", 0)


def never_shrinks(path: Path) -> None:
    """Make the file what those of before were."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("PRAGMA auto_vacuum = NONE")
    connection.execute("VACUUM")
    connection.close()


@pytest_twisted.ensureDeferred
async def test_retention_shrinks_a_file_of_before(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(**ENVIRON, TXBROKER_RETENTION="none")
    for _ in range(60):
        await posted(daemon, {"text": "x" * 100_000})
    await daemon.stop()
    never_shrinks(database(daemon))
    assert database(daemon).stat().st_size > 6_000_000
    await daemon.restart(TXBROKER_RETENTION="3")  # it sweeps at its start
    while database(daemon).stat().st_size > 2_000_000:
        await pause(0.02)
    assert [event["id"] for event in (await polled(daemon)).json()] == [58, 59, 60]
