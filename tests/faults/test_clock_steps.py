"""The clock of the machine, or of Redis, is set under a daemon with clients: nothing comes late, nothing ends early."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from tests.support.daemon import WITH_METRICS, Daemon
from tests.support.eventually import eventually
from tests.support.faketime import FakeTime
from tests.support.http_client import get, post
from tests.support.redis_server import RedisServer
from tests.support.ws_client import WebSocket, ws_connect

HOUR, DAY = 3600, 86400
LIMIT = 30.0  # seconds: much longer than what is waited for, and much shorter than a step
TIMES = {
    **WITH_METRICS,
    "TXBROKER_PING_SECONDS": "0.5",
    "TXBROKER_PONG_SECONDS": "30",
    "TXBROKER_POLL_TIMEOUT_SECONDS": "0.5",
    "TXBROKER_DRAIN_SECONDS": "0",
}

pytestmark = [pytest.mark.processes, pytest.mark.unmeasured]
StartDaemon = Callable[..., Awaitable[Daemon]]


@pytest.fixture
def faketime(short_path: Path) -> FakeTime:
    return FakeTime(short_path)


class Client:
    """An OwlMeans client, frame by frame."""

    def __init__(self, socket: WebSocket) -> None:
        self.socket, self._number = socket, 0

    @classmethod
    async def join(cls, daemon: Any) -> Client:
        return cls(await ws_connect(daemon.ws("/owlmeans")))

    def call(self, method: str, *payload: Any, **more: Any) -> str:
        self._number += 1
        frame = {"type": "call", "id": str(self._number), "method": method, "payload": payload, **more}
        self.socket.send_json(frame)
        return str(self._number)

    async def ask(self, method: str, *payload: Any, **more: Any) -> Any:
        id = self.call(method, *payload, **more)
        while (frame := await self.socket.receive_json(LIMIT)).get("id") != id:
            pass
        return frame["payload"]

    async def value(self, key: str) -> Any:
        return (await self.ask("broker.get", key))["value"]

    async def gone(self, key: str) -> None:
        """Return when *key* has expired."""
        end = time.monotonic() + LIMIT
        while await self.value(key) is not None:
            assert time.monotonic() < end, f"{key} does not expire"


def events(daemon: Any) -> str:
    return f"{daemon.url}/events/v1/events"


async def until_ready(daemon: Any) -> None:
    end = time.monotonic() + LIMIT
    while (await get(f"{daemon.url}/ready", timeout=LIMIT)).status != 200:
        assert time.monotonic() < end, "not ready"


async def publish(daemon: Any) -> None:
    event = {"clientId": "w", "channel": "ch", "from": "f", "type": "t", "data": {}}
    assert (await post(events(daemon), event, timeout=LIMIT)).status == 200


async def dates(daemon: Any) -> list[float]:
    """Return the times of the events of the channel, in seconds."""
    stored = (await get(f"{events(daemon)}?clientId=reader&channel=ch&after=0")).json()
    return [event["timestamp"] / 1000 for event in stored]


async def caller_of(daemon: Any) -> Client:
    """Return a client that may call a procedure which another performs, and never answers."""
    performer = await Client.join(daemon)
    await performer.ask("broker.register", "never")
    return await Client.join(daemon)


async def wait_over(daemon: Any, caller: Client, step: Callable[[], object]) -> None:
    """Let a poll wait, a call, and a connection for its first ping; return when all is over, though *step* is done."""
    idle = await ws_connect(daemon.ws("/owlmeans"))
    polled = get(f"{events(daemon)}?clientId=poller&channel=silent", timeout=LIMIT)
    failed = Deferred.fromCoroutine(caller.ask("never", 1, timeout=500))
    pinged = Deferred.fromCoroutine(eventually(lambda: idle.pings, LIMIT))
    await daemon.until_metric("txbroker_polls_waiting", 1)
    step()
    answer, _, _ = await gatherResults([polled, failed, pinged], consumeErrors=True)
    assert (answer.status, answer.json()) == (200, [])


@pytest_twisted.ensureDeferred
async def test_steps_of_the_clock_stop_nothing_and_end_nothing(start_daemon: StartDaemon, faketime: FakeTime) -> None:
    daemon = await start_daemon(**faketime.environ, **TIMES)
    caller = await caller_of(daemon)
    await caller.ask("broker.set", "lives", "1", {"ttl": 600})
    await publish(daemon)
    for step in (-HOUR, HOUR, 8 * DAY, 0):
        await wait_over(daemon, caller, partial(faketime.ahead, step))
        assert (await get(f"{daemon.url}/ready", timeout=LIMIT)).status == 200
        await publish(daemon)
        assert await caller.value("lives") == "1"
        await caller.ask("broker.set", "ends", "1", {"ttl": 0.2})
        await caller.gone("ends")
    found = await dates(daemon)
    assert len(found) == 5
    assert found == sorted(found)
    assert found[-1] - found[0] > 7 * DAY  # those after the last step stay with what was dated before
    assert abs(found[0] - time.time()) < HOUR / 2


@pytest_twisted.ensureDeferred
async def test_a_step_while_the_daemon_is_down_ends_nothing(start_daemon: StartDaemon, faketime: FakeTime) -> None:
    daemon = await start_daemon(**faketime.environ, **TIMES)
    client = await Client.join(daemon)
    await client.ask("broker.set", "lives", "1", {"ttl": DAY})
    await publish(daemon)
    await daemon.kill()
    faketime.ahead(8 * DAY)
    await daemon.start()
    client = await Client.join(daemon)
    assert await client.value("lives") == "1"
    faketime.ahead(-HOUR)
    await publish(daemon)
    first, last = await dates(daemon)
    assert first <= last < first + HOUR


@pytest.mark.parametrize("reactor", ["select", "asyncio", "poll"])
@pytest_twisted.ensureDeferred
async def test_timers_run_on_whatever_the_reactor(
    short_path: Path, faketime: FakeTime, reactor: str, soak: bool
) -> None:
    if reactor == "poll" and not soak:
        pytest.skip("it is the one for select but for one method: see make soak")
    daemon = Daemon(short_path, **faketime.environ, **TIMES)
    daemon.options = [f"--reactor={reactor}"]
    await daemon.start()
    await wait_over(daemon, await caller_of(daemon), partial(faketime.ahead, -HOUR))
    assert await daemon.stop() == 0


@pytest_twisted.ensureDeferred
async def test_the_clock_of_redis_counts_and_its_steps_end_nothing(
    start_daemon: StartDaemon, faketime: FakeTime, short_path: Path
) -> None:
    server = RedisServer(short_path, environ=faketime.environ)
    await server.start()
    (short_path / "ahead").mkdir()
    other = FakeTime(short_path / "ahead")
    environ = {**TIMES, "TXBROKER_STORE": server.url}
    right = await start_daemon(**environ, TXBROKER_NODE="right")
    wrong = await start_daemon(**other.environ, **environ, TXBROKER_NODE="wrong")
    other.ahead(7 * DAY)
    await gatherResults([Deferred.fromCoroutine(until_ready(node)) for node in (right, wrong)])
    one, two = await Client.join(right), await Client.join(wrong)
    await one.ask("broker.set", "lives", "1", {"ttl": 600})
    await two.ask("broker.set", "ends", "1", {"ttl": 0.2})
    await one.gone("ends")
    for node in (right, wrong):
        await publish(node)
    assert max(abs(date - time.time()) for date in await dates(right)) < HOUR
    for step in (-HOUR, 8 * DAY):
        faketime.ahead(step)
        for node, client in ((right, one), (wrong, two)):
            await publish(node)
            assert await client.value("lives") == "1"
            assert (await get(f"{node.url}/ready", timeout=LIMIT)).status == 200
    found = await dates(wrong)
    assert found == sorted(found)
    await gatherResults([Deferred.fromCoroutine(node.stop()) for node in (right, wrong)])
    await server.kill()
