"""SIGTERM: who waits is answered, and the daemon is gone soon."""

from __future__ import annotations

import signal

import pytest_twisted
from twisted.internet.defer import gatherResults

from tests.support.daemon import WITH_METRICS
from tests.support.http_client import get, post

ENDLESS = "600"  # seconds: a test that waits for these fails
SECRET = "s3cret"


@pytest_twisted.ensureDeferred
async def test_term_answers_waiting_polls_with_nothing_and_ends_in_time(start_daemon):
    daemon = await start_daemon(
        TXBROKER_PROTOCOLS="ganomede",
        TXBROKER_API_SECRET=SECRET,
        TXBROKER_POLL_TIMEOUT_SECONDS=ENDLESS,
        TXBROKER_DRAIN_SECONDS=ENDLESS,
        **WITH_METRICS,
    )
    events = f"{daemon.url}/events/v1/events"
    polls = [get(f"{events}?secret={SECRET}&channel=ch&clientId=c{n}") for n in range(20)]
    held = get(f"{events}?secret=wrong&channel=ch&clientId=c")
    await daemon.until_metric("txbroker_polls_waiting", 20)
    await daemon.until_metric('txbroker_auth_failures_total{dialect="ganomede"}', 1)
    daemon.program.signal(signal.SIGTERM)
    answers = await gatherResults(polls)
    assert {(answer.status, answer.body) for answer in answers} == {(200, b"[]")}
    assert (await held).status == 401
    assert await daemon.program.exit() == 0


@pytest_twisted.ensureDeferred
async def test_what_was_acknowledged_before_term_is_there_after_it(start_daemon):
    daemon = await start_daemon(TXBROKER_PROTOCOLS="ganomede")
    event = {"clientId": "w", "channel": "ch", "from": "f", "type": "t"}
    for id in (1, 2, 3):
        assert (await post(f"{daemon.url}/events/v1/events", event)).json()["id"] == id
    await get(f"{daemon.url}/events/v1/events?channel=ch&clientId=c&after=1")
    await daemon.restart()
    answer = await get(f"{daemon.url}/events/v1/events?channel=ch&clientId=c")
    assert [event["id"] for event in answer.json()] == [2, 3]
    assert (await post(f"{daemon.url}/events/v1/events", event)).json()["id"] == 4
