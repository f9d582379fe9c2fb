"""A daemon whose store is full refuses writes, says so, goes on with the rest, and recovers."""

from __future__ import annotations

from typing import Any

import pytest_twisted

from tests.conftest import StartDaemon
from tests.support.eventually import pause
from tests.support.http_client import Answer, get, post

LIMIT = 3_000_000  # bytes


def event(channel: str, size: int) -> dict[str, Any]:
    return {"clientId": "w", "channel": channel, "from": "f", "type": "t", "data": {"text": "x" * size}}


@pytest_twisted.ensureDeferred
async def test_a_full_store_refuses_writes_and_serves_readers(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(TXBROKER_MAX_STORE_BYTES=str(LIMIT), TXBROKER_ERROR_DELAY_SECONDS="0")
    daemon.provoked.append("The store is full")
    events = f"{daemon.url}/events/v1/events"

    async def poll(channel: str, after: int) -> Answer:
        return await get(f"{events}?clientId=c&channel={channel}&after={after}")

    assert (await post(events, event("small", 10))).status == 200
    assert (await poll("small", 0)).status == 200  # there is a cursor now
    stored = 0
    while (answer := await post(events, event("large", 200_000))).status == 200:
        stored = answer.json()["id"]
        assert stored * 200_000 < 2 * LIMIT
    assert (answer.status, answer.json()["message"]) == (503, "The store is full.")
    ready = await get(f"{daemon.url}/ready")
    assert (ready.status, "the store takes no writes" in ready.text) == (503, True)
    assert len((await poll("small", 0)).json()) == 1
    after = await poll("large", stored - 1)  # the cursor that it would make has no room
    assert [each["id"] for each in after.json()] == [stored]
    latest = await get(f"{events.removesuffix('events')}latest?channel=large&limit=2")
    assert [each["id"] for each in latest.json()] == [stored - 1, stored]
    assert (await get(f"{daemon.url}/health")).status == 200


@pytest_twisted.ensureDeferred
async def test_a_store_that_was_full_recovers_when_something_was_removed(start_daemon: StartDaemon) -> None:
    # Of a channel one event is kept; what is beyond goes with the next sweep, which the next start makes.
    daemon = await start_daemon(TXBROKER_MAX_STORE_BYTES=str(LIMIT), TXBROKER_RETENTION="1")
    daemon.provoked.append("The store is full")
    events = f"{daemon.url}/events/v1/events"
    stored = 0
    while (answer := await post(events, event("large", 200_000))).status == 200:
        stored = answer.json()["id"]
    assert answer.status == 503
    await daemon.kill()
    await daemon.start()
    for _ in range(1000):
        answer = await post(events, event("large", 10))
        if answer.status == 200:
            break
        await pause(0.01)
    latest = await get(f"{events.removesuffix('events')}latest?channel=large&limit=1")
    assert latest.json()[0]["id"] == stored + 1
    assert (await get(f"{daemon.url}/ready")).status == 200
