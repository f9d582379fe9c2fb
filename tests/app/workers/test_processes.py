"""``TXBROKER_PROCESSES``: real workers on a real Redis, as an operator and clients meet them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, DeferredList

from tests.support.daemon import Daemon
from tests.support.eventually import eventually
from tests.support.http_client import get, post
from tests.support.processes import Program
from tests.support.redis_server import RedisServer, refusing_port
from tests.support.workers import WORKERS, WorkersDaemon, children_of, is_running, until_gone
from tests.support.ws_client import ws_connect

pytestmark = [pytest.mark.processes, pytest.mark.unmeasured]
DIALECTS = "owlmeans ganomede microstream http"
SECRET = "a secret of sixteen"


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="txbroker-"))
    yield made
    shutil.rmtree(made)


@pytest_twisted.async_yield_fixture(scope="module")
async def workers(shared_redis_server: RedisServer) -> AsyncIterator[WorkersDaemon]:
    """A daemon for all tests of this module: use names of your own in each."""
    made = Path(tempfile.mkdtemp(prefix="txbroker-"))
    daemon = WorkersDaemon(made, shared_redis_server, "shared:", TXBROKER_PROTOCOLS=DIALECTS)
    yield await daemon.start()
    status = await daemon.stop()
    shutil.rmtree(made)
    assert status == 0
    assert not daemon.troubles(), "\n".join(daemon.output)


async def counts(workers: WorkersDaemon) -> list[int]:
    """Return how many WebSockets each worker has."""
    pages = [await workers.asked("connections", node=f"many-{number + 1}", limit=1000) for number in range(WORKERS)]
    return [sum(row["dialect"] == "owlmeans" for row in page["items"]) for page in pages]


@pytest_twisted.ensureDeferred
async def test_connections_to_the_one_port_spread_over_the_workers(workers):
    sockets = [await ws_connect(workers.ws("/v1/ws")) for _ in range(10)]
    found = await counts(workers)
    assert sum(found) == 10
    assert min(found) >= 3, found
    assert await workers.metric('txbroker_connections{dialect="owlmeans"}') == 10.0
    for socket in sockets:
        await socket.close()


@pytest_twisted.ensureDeferred
async def test_shipped_clients_talk_across_workers(workers, node):
    """Each request of these may come by another connection, and so to another worker."""
    ganomede = await node.run("ganomede_client.js", str(workers.port), "none", "roundTrip", "across")
    assert [json.loads(line)[0] for line in ganomede].count("event") == 2
    for _ in range(2):
        services = await node.run("microstream_round.js", workers.url, "polling,websocket")
        assert json.loads(services[-1]) == {"done": True, "transport": "websocket"}


@pytest_twisted.ensureDeferred
async def test_clients_of_two_dialects_hear_each_other_across_workers(workers):
    sockets = [await ws_connect(workers.ws("/v1/ws")) for _ in range(4)]
    for socket in sockets:
        socket.send('{"type":"call","id":"1","method":"broker.subscribe","payload":["bridge/news"]}')
        assert json.loads(await socket.receive())["type"] == "result"
    assert min(await counts(workers)) >= 1
    event = {"clientId": "c", "secret": "none", "channel": "bridge/news", "from": "test", "type": "hello"}
    assert (await post(f"{workers.url}/events/v1/events", event)).status == 200
    for socket in sockets:
        assert json.loads(await socket.receive())["event"] == "bridge/news"
        await socket.close()


@pytest_twisted.ensureDeferred
async def test_a_session_of_long_polling_is_found_from_any_worker(workers):
    url = f"{workers.url}/socket.io/?EIO=4&transport=polling"
    for number in range(4):
        opened = json.loads((await get(f"{url}&serviceName=eio{number}")).body[1:])
        session = f"{url}&sid={opened['sid']}"
        assert (await post(session, None, body=b"40")).text == "ok"
        assert (await get(session)).text.startswith("40{")
        upgraded = await ws_connect(workers.ws(f"/socket.io/?EIO=4&transport=websocket&sid={opened['sid']}"))
        upgraded.send("2probe")
        assert await upgraded.receive() == "3probe"
        await upgraded.close()


@pytest_twisted.ensureDeferred
async def test_operators_see_and_reach_all_workers_at_one_port(workers):
    sockets = [await ws_connect(workers.ws("/v1/ws")) for _ in range(4)]
    status = await workers.asked("status")
    assert (status["node"], status["pid"], status["ready"]) == ("many", workers.pid, [])
    assert status["connections"]["owlmeans"] == 4
    assert [worker["state"] for worker in status["workers"]] == ["ready"] * WORKERS
    page = await workers.listed("sessions", sort="client", limit=3)
    assert (len(page["items"]), page["next"]) == (3, "3"), page
    rest = await workers.listed("sessions", sort="client", limit=100, after=page["next"])
    rows = [row for row in page["items"] + rest["items"] if row["dialect"] == "owlmeans"]  # others may just be ending
    assert (len(rows), {row["node"] for row in rows}) == (4, {"many-1", "many-2"})
    for row in rows:
        assert (await workers.do("kick", {"session": row["id"]})).json()["disconnected"] == 1
    assert [(await socket.closed())[0] for socket in sockets] == [1001] * 4
    settings = {row["name"]: row["value"] for row in (await workers.asked("settings", limit=1000))["items"]}
    assert settings["TXBROKER_MAX_CONNECTIONS"] == "10000"
    assert (await workers.do("log-level", {"level": "info"})).json() == {"level": "info"}


@pytest_twisted.ensureDeferred
async def test_a_killed_worker_is_replaced_and_what_it_has_counted_stays(workers):
    sockets = [await ws_connect(workers.ws("/v1/ws")) for _ in range(6)]
    for socket in sockets:
        socket.send('{"type":"ping"}')
        await socket.receive()
    counter = 'txbroker_connections_opened_total{dialect="owlmeans"}'
    before = await workers.metric(counter)
    pid = (await workers.pids())[0]
    workers.provoked += [f'"pid":{pid}']
    os.kill(pid, signal.SIGKILL)
    seen = [before]
    ready = [(await get(workers.admin_url + "/ready")).status]
    states = set()
    while not ({"ended", "starting"} & states and await workers.metric("txbroker_workers_ready") == WORKERS):
        states |= {worker["state"] for worker in await workers.workers()}
        seen.append(await workers.metric(counter))
        ready += [(await get(url + "/ready")).status for url in (workers.url, workers.admin_url)]
    assert seen == sorted(seen)
    assert set(ready) == {200}  # the other one has done the work
    assert await workers.metric("txbroker_worker_restarts_total") == 1.0
    assert (await workers.until_replaced(1, pid))[0]["pid"] != pid
    assert await workers.metric('txbroker_connections{dialect="owlmeans"}') <= 3.0
    after = [await ws_connect(workers.ws("/v1/ws")) for _ in range(6)]
    assert await workers.metric(counter) == before + 6
    for socket in [*sockets, *after]:
        socket.abort()


@pytest_twisted.ensureDeferred
async def test_a_stop_loses_nothing_that_was_acknowledged_and_nobody_who_was_accepted(directory, shared_redis_server):
    daemon = WorkersDaemon(directory, shared_redis_server, "drain:", TXBROKER_PROTOCOLS="ganomede owlmeans")
    await daemon.start()
    sockets = [await ws_connect(daemon.ws("/v1/ws")) for _ in range(8)]
    poll = get(f"{daemon.url}/events/v1/events?clientId=c&channel=quiet&secret=none")
    acknowledged: list[int] = []
    refused: list[int] = []

    async def publish(name: int) -> None:
        """Post until the daemon says no, or is not there any more; each post is a connection of its own."""
        event = {"clientId": "c", "secret": "none", "channel": "drained", "from": f"{name}", "type": "t"}
        while not refused:
            answer = await post(f"{daemon.url}/events/v1/events", event)
            (acknowledged.append(answer.json()["id"]) if answer.status == 200 else refused.append(answer.status))

    posting = [Deferred.fromCoroutine(publish(name)) for name in range(8)]
    await eventually(lambda: len(acknowledged) > 50)
    daemon.program.signal(signal.SIGTERM)
    await DeferredList(posting, consumeErrors=True)  # in the end nobody listens
    assert set(refused) <= {503}
    assert (await poll).json() == []
    assert {(await socket.closed())[0] for socket in sockets} <= {1001, 1012}
    assert await daemon.program.exit() == 0
    assert not daemon.troubles(), "\n".join(daemon.output)
    alone = Daemon(directory, **{**daemon.environ, "TXBROKER_PROCESSES": "1"})
    await alone.start()
    query = "clientId=d&secret=none&channel=drained&after=0&limit=100000"
    stored = [event["id"] for event in (await get(f"{alone.url}/events/v1/events?{query}")).json()]
    assert await alone.stop() == 0
    assert set(acknowledged) <= set(stored)


@pytest_twisted.ensureDeferred
async def test_a_frozen_worker_is_replaced_and_all_end_with_their_supervisor(directory, shared_redis_server):
    daemon = WorkersDaemon(
        directory,
        shared_redis_server,
        "frozen:",
        TXBROKER_PROTOCOLS="owlmeans",
        TXBROKER_WORKER_TIMEOUT_SECONDS="3",
    )
    daemon.runs = (*daemon.runs[:2], f"--pidfile={directory}/pid")
    await daemon.start()
    pid = (await daemon.pids())[1]
    os.kill(pid, signal.SIGSTOP)
    for _ in range(4):  # the other one accepts whoever comes meanwhile
        await (await ws_connect(daemon.ws("/v1/ws"))).close()
    await daemon.until_replaced(2, pid)
    assert not is_running(pid)
    assert (directory / "pid").read_text() == str(daemon.pid)
    pids = children_of(daemon.pid)
    assert len(pids) == WORKERS
    await daemon.kill()
    await until_gone(pids)


@pytest_twisted.ensureDeferred
async def test_unix_sockets_are_shared_in_the_background(directory, shared_redis_server):
    log, pidfile = directory / "log", directory / "pid"
    places = {
        "TXBROKER_LISTEN": f"unix:{directory}/clients",
        "TXBROKER_ADMIN_LISTEN": f"unix:{directory}/admin",
        "TXBROKER_LOG_FILE": str(log),
        "TXBROKER_PROTOCOLS": "owlmeans",
    }
    daemon = WorkersDaemon(directory, shared_redis_server, "unix:", **places)
    twistd = Path(daemon.runs[0])
    starter = Program.start([twistd, f"--pidfile={pidfile}", "broker"], env=daemon.environ, cwd=directory)
    assert await starter.exit() == 0
    await eventually(lambda: "workers share the ports" in log.read_text())
    pid = int(pidfile.read_text())
    children = children_of(pid)
    assert len(children) == WORKERS
    log.rename(directory / "moved")
    os.kill(pid, signal.SIGUSR1)
    await eventually(lambda: log.exists() and log.read_text().count("the log was opened again") == 1 + WORKERS)
    assert {json.loads(line).get("worker", 0) for line in log.read_text().splitlines()} == {0, 1, 2}
    os.kill(pid, signal.SIGTERM)
    await until_gone([pid, *children])
    assert not list(directory.glob("clients")) + list(directory.glob("admin")) + list(directory.glob("pid"))


async def failed_start(directory: Path, **environ: str) -> tuple[int, str]:
    """Return the status and the words of a daemon that can not start."""
    program = Daemon(directory, **{"TXBROKER_PROCESSES": "2", **environ}).spawn()
    status = await program.exit()
    return status, "\n".join(program.lines)


@pytest_twisted.ensureDeferred
async def test_several_processes_need_a_store_that_they_can_share(directory):
    status, said = await failed_start(directory)
    assert status == 2
    assert "TXBROKER_PROCESSES: 2 processes need a store that they can share, and sqlite: is one process's own" in said


@pytest_twisted.ensureDeferred
async def test_a_port_in_use_is_told_before_any_worker_starts(directory):
    with refusing_port() as port:
        status, said = await failed_start(
            directory, TXBROKER_STORE="redis://127.0.0.1:1", TXBROKER_LISTEN=f"tcp:{port}:interface=127.0.0.1"
        )
    assert status == 1
    assert f"txbroker: TXBROKER_LISTEN: Couldn't listen on 127.0.0.1:{port}" in said


@pytest_twisted.ensureDeferred
async def test_workers_that_can_not_start_end_the_daemon_with_their_status(directory):
    status, said = await failed_start(
        directory,
        TXBROKER_STORE="redis://127.0.0.1:1",
        TXBROKER_PROTOCOLS="tests.app.workers.unstartable:Dialect",
    )
    assert status == 1
    assert "it never starts" in said
    assert "can not start: it has ended with the status 1" in said
