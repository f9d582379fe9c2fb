"""The files of a running daemon are deleted, replaced or damaged, or its disk fails; or its Redis is full."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from tests.conftest import StartDaemon
from tests.support.daemon import WITH_METRICS, Daemon
from tests.support.eventually import TIMEOUT, eventually, pause
from tests.support.faulty_disk import FaultyDisk
from tests.support.http_client import Answer, get, post
from tests.support.redis_server import RedisServer

SETTINGS = {
    "TXBROKER_PROTOCOLS": "ganomede hpkv",
    "TXBROKER_ERROR_DELAY_SECONDS": "0",
    "TXBROKER_POLL_TIMEOUT_SECONDS": "0",
}


def event(channel: str, text: str = "") -> dict[str, Any]:
    return {"clientId": "w", "channel": channel, "from": "f", "type": "t", "data": {"text": text}}


class Client:
    """Posts to a daemon and reads what it has."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.events = f"{daemon.url}/events/v1/events"

    def post(self, channel: str = "ch", text: str = "") -> Deferred[Answer]:
        return post(self.events, event(channel, text))

    def poll(self, channel: str = "ch", **query: object) -> Deferred[Answer]:
        said = "".join(f"&{name}={value}" for name, value in query.items())
        return get(f"{self.events}?clientId=c&channel={channel}&limit=1000{said}")

    async def ids(self, channel: str = "ch") -> list[int]:
        answer = await get(f"{self.daemon.url}/events/v1/latest?channel={channel}&limit=1000")
        assert answer.status == 200
        return [each["id"] for each in answer.json()]

    async def all_ids(self) -> list[int]:
        """Return the ids of all events, page by page."""
        ids: list[int] = []
        while page := (await self.poll(after=ids[-1] if ids else 0)).json():
            ids += [each["id"] for each in page]
        return ids

    async def until_ready(self, ready: bool) -> Answer:
        """Wait for ``/ready`` to say so; return its answer on the admin port."""
        end = reactor.seconds() + TIMEOUT
        while (await get(f"{self.daemon.url}/ready")).status != (200 if ready else 503):
            assert reactor.seconds() < end
            await pause(0.02)
        return await get(f"{self.daemon.admin_url}/ready")

    def errors(self) -> list[str]:
        return [str(line["msg"]) for line in self.daemon.events() if line.get("level") == "error"]


def database(daemon: Daemon) -> Path:
    return daemon.directory / "txbroker.db"


def delete(path: Path) -> None:
    path.unlink()


def delete_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def truncate(path: Path) -> None:
    os.truncate(path, 0)


HARMS: dict[Callable[[Path], None], tuple[str, list[int]]] = {
    delete: ("txbroker.db was deleted", []),
    delete_log: ("txbroker.db-wal was deleted", [1]),
    truncate: ("txbroker.db was truncated by another program", []),
}


@pytest_twisted.ensureDeferred
async def test_files_that_are_lost_are_told_and_nothing_more_is_acknowledged(start_daemon: StartDaemon) -> None:
    async def lose(harm: Callable[[Path], None], reason: str, left: list[int]) -> None:
        daemon = await start_daemon(**SETTINGS, **WITH_METRICS)
        daemon.provoked += ["The store can not write", "data of the store was lost"]
        client = Client(daemon)
        assert (await client.post()).status == 200
        harm(database(daemon))
        ready = await client.until_ready(False)
        assert reason in ready.text
        assert (await client.post()).status == 503
        assert (await client.until_ready(False)).text == ready.text
        assert [reason in line for line in client.errors()] == [True]
        assert "/txbroker.db" not in (await get(f"{daemon.url}/ready")).text
        await daemon.kill()
        await daemon.start()
        assert await client.ids() == left
        assert (await client.post()).json()["id"] == len(left) + 1

    await gatherResults([Deferred.fromCoroutine(lose(harm, *outcome)) for harm, outcome in HARMS.items()])


@pytest_twisted.ensureDeferred
async def test_a_file_that_was_replaced_is_not_touched_by_the_old_one(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(**SETTINGS, **WITH_METRICS)
    daemon.provoked += ["The store can not write", "data of the store was lost"]
    client, path = Client(daemon), database(daemon)
    assert (await client.post()).status == 200
    copy = path.with_name("copy.db")
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    assert (await client.post()).status == 200
    os.replace(copy, path)
    assert "was replaced by another file" in (await client.until_ready(False)).text
    assert await client.ids() == [1, 2]
    await daemon.restart()
    assert await client.ids() == [1]
    assert (await client.post()).json()["id"] == 2


def written_commands(page: str, word: str) -> str:
    """Return the example of the documentation *page* in which *word* stands."""
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    (block,) = [part for part in re.findall(r"code-block:: bash\n\n((?: +.*\n|\n)+)", text) if word in part]
    return str(block)


@pytest_twisted.ensureDeferred
async def test_what_was_deleted_is_saved_as_the_documentation_says(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(**SETTINGS, **WITH_METRICS)
    daemon.provoked.append("The store can not write")
    client, path = Client(daemon), database(daemon)
    for _ in range(2):  # the second time there is the log of another database, too
        assert (await client.post()).status == 200
        delete(path)
        await client.until_ready(False)
        commands = written_commands("operations/disks.rst", "readlink")
        subprocess.run(["sh", "-ec", commands], cwd=daemon.directory, check=True, timeout=TIMEOUT)
        await daemon.stop()
        os.replace(path.with_name("saved.db"), path)
        os.replace(path.with_name("saved.db-wal"), f"{path}-wal")
        await daemon.start()
    assert await client.ids() == [1, 2]


@pytest_twisted.ensureDeferred
async def test_damaged_pages_are_told_and_other_channels_are_read(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(**SETTINGS, **WITH_METRICS)
    daemon.provoked.append("is damaged")
    client, path = Client(daemon), database(daemon)
    for channel in ("b", "a", "b"):
        await gatherResults([client.post(channel, f"body of {channel} " * 40) for _ in range(50)])
    await daemon.stop()
    data = path.read_bytes()
    with path.open("r+b") as file:
        for place in range(0, len(data), 4096):
            if b"body of a" in (page := data[place : place + 4096]) and b"body of b" not in page:
                file.seek(place)
                file.write(bytes(4096))
    await daemon.start()
    assert (await client.poll("a")).status == 503
    for _ in range(2):
        assert "is damaged" in (await client.until_ready(False)).text
        assert (await client.post("b")).status == 503
        assert len(await client.ids("b")) == 100
        assert (await client.poll("b", after=99)).json()[0]["id"] == 100
    assert len(client.errors()) == 1


async def posted(client: Client, count: int, size: int = 100) -> list[int]:
    """Post so many events, one after the other; return the ids of those that were acknowledged."""
    ids: list[int] = []
    for _ in range(count):
        answer = await client.post(text="x" * size)
        if answer.status == 200:
            ids.append(answer.json()["id"])
    return ids


@pytest_twisted.ensureDeferred
async def test_a_disk_that_can_not_sync_or_write_costs_nothing_that_was_acknowledged(
    start_daemon: StartDaemon, short_path: Path
) -> None:
    disk = FaultyDisk(short_path)
    daemon = await start_daemon(**SETTINGS, **WITH_METRICS, **disk.environ)
    daemon.provoked.append("The store can not write")
    client = Client(daemon)
    acknowledged = await posted(client, 3)
    for faults, error in (
        (["sync txbroker.db-wal"], errno.EIO),
        (["write txbroker.db", "write txbroker.db-wal", "sync txbroker.db"], errno.EROFS),  # mounted read-only
        (["write txbroker.db-wal"], errno.ENOSPC),
    ):
        disk.fail(*faults, error=error)
        assert await posted(client, 2) == []
        await client.until_ready(False)
        assert await client.ids() == list(range(1, len(acknowledged) + 1))
        polled = await client.poll(after=1)  # whose cursor can not be stored
        assert [each["id"] for each in polled.json()] == acknowledged[1:]
        disk.heal()
        acknowledged += await posted(client, 2)
        await client.until_ready(True)
    assert acknowledged == list(range(1, 10))
    assert sum("was opened anew, and nothing is missing" in line for line in daemon.output) == 2
    await daemon.kill()
    await daemon.start()
    assert await client.ids() == acknowledged


@pytest_twisted.ensureDeferred
async def test_a_remount_read_only_under_load_loses_nothing(start_daemon: StartDaemon, short_path: Path) -> None:
    disk = FaultyDisk(short_path)
    daemon = await start_daemon(**SETTINGS, **WITH_METRICS, **disk.environ)
    daemon.provoked.append("The store can not write")
    client, stop = Client(daemon), False
    acknowledged: list[int] = []

    async def write() -> None:
        while not stop:
            acknowledged.extend(await posted(client, 1))

    async def more() -> None:
        goal = len(acknowledged) + 20
        await eventually(lambda: len(acknowledged) >= goal)

    writers = [Deferred.fromCoroutine(write()) for _ in range(4)]
    await more()
    disk.fail("write txbroker.db", "write txbroker.db-wal", "sync txbroker.db", "sync -wal", error=errno.EROFS)
    await client.until_ready(False)
    assert (await client.ids())[-1] >= max(acknowledged)
    disk.heal()
    await client.until_ready(True)
    await more()
    stop = True
    await gatherResults(writers)
    await daemon.kill()
    await daemon.start()
    ids = await client.all_ids()
    assert ids == list(range(1, len(ids) + 1))
    assert len(set(acknowledged)) == len(acknowledged)
    assert set(acknowledged) <= set(ids)


@pytest_twisted.ensureDeferred
async def test_checkpoints_that_fail_are_told_and_hold_up_nobody(start_daemon: StartDaemon, short_path: Path) -> None:
    disk = FaultyDisk(short_path)
    daemon = await start_daemon(**SETTINGS, **WITH_METRICS, **disk.environ, TXBROKER_MAX_STORE_BYTES="16000000")
    daemon.provoked.append("can not be written back")
    client = Client(daemon)
    disk.fail("write txbroker.db", "sync txbroker.db")
    assert len(await posted(client, 15, 200_000)) == 15
    ready = await client.until_ready(False)
    assert "The write-ahead log can not be written back into the database file: disk I/O error" in ready.text
    assert (await client.post()).status == 200
    assert len(client.errors()) == 1
    metrics = (await get(f"{daemon.admin_url}/metrics")).text
    (count,) = [line.split()[1] for line in metrics.splitlines() if line.startswith("txbroker_store_checkpoint_err")]
    assert 1 <= float(count) <= 5  # of 16 commits
    disk.heal()
    await client.until_ready(True)
    assert await client.all_ids() == list(range(1, 17))


@pytest_twisted.ensureDeferred
async def test_what_a_full_redis_has_is_read_and_polled(start_daemon: StartDaemon, redis_server: RedisServer) -> None:
    daemon = await start_daemon(
        **SETTINGS, **WITH_METRICS, TXBROKER_STORE=redis_server.url, TXBROKER_API_KEYS="ann:key-of-ann-12345"
    )
    daemon.provoked += ["Redis refuses", "OOM"]
    client = Client(daemon)
    events, secret = f"{daemon.url}/events/v1", "secret=key-of-ann-12345&channel=ch"
    posts = [await post(f"{events}/events?{secret}", event("ch")) for _ in range(3)]
    assert [answer.status for answer in posts] == [200, 200, 200]
    await redis_server.command("CONFIG", "SET", "maxmemory", "1")
    assert (await post(f"{events}/events?{secret}", event("ch"))).status == 503
    await client.until_ready(False)
    for query, ids in (
        ("events?clientId=c&", [1, 2, 3]),
        ("events?after=1&clientId=d&", [2, 3]),
        ("latest?", [1, 2, 3]),
    ):
        answer = await get(f"{events}/{query}{secret}")
        assert (answer.status, [each["id"] for each in answer.json()]) == (200, ids)
    await redis_server.command("CONFIG", "SET", "maxmemory", "0")
    await client.until_ready(True)
    assert (await get(f"{events}/events?after=1&clientId=d&{secret}")).status == 200
    moved = await get(f"{events}/events?clientId=d&{secret}")
    assert [each["id"] for each in moved.json()] == [2, 3]
