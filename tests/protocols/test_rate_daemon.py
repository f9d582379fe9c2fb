"""How much of its rate one request takes, through the whole daemon."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
import pytest_twisted

from tests.protocols.owlmeans_emulator import Remote
from tests.support.http_client import get, post

EVENTS = "/events/v1/events"
NAMES = ("poster", "first", "again", "end", "last", "definer", "reader", "owl")


@pytest.fixture(scope="module")
def daemon_environ():
    return {
        "TXBROKER_API_KEYS": " ".join(f"{name}:key-of-{name}" for name in NAMES),
        "TXBROKER_RATE": "0.001",
        "TXBROKER_RATE_BURST": "1",
        "TXBROKER_POLL_TIMEOUT_SECONDS": "0.05",
    }


def url(daemon, name, path=EVENTS, **fields):
    return f"{daemon.url}{path}?{urlencode({'secret': f'key-of-{name}', **fields})}"


@pytest_twisted.ensureDeferred
async def test_one_request_takes_one_token(shared_daemon):
    event = {"clientId": "w", "channel": "ch", "from": "w", "type": "T", "secret": "key-of-poster"}
    index = {"id": "by-type", "channel": "ch", "field": "type", "secret": "key-of-definer"}
    answers = [
        await post(shared_daemon.url + EVENTS, event),
        await get(url(shared_daemon, "first", channel="ch", clientId="a")),
        await get(url(shared_daemon, "again", channel="ch", clientId="b", after=0)),
        await get(url(shared_daemon, "end", channel="ch", clientId="c", after=9)),
        await get(url(shared_daemon, "last", "/latest", channel="ch")),
        await post(shared_daemon.url + "/events/v1/indices", index),
        await get(url(shared_daemon, "reader", "/events/v1/indices/by-type/T")),
    ]
    assert [answer.status for answer in answers] == [200] * len(answers), answers


@pytest_twisted.ensureDeferred
async def test_one_frame_takes_one_token(shared_daemon):
    owl = await Remote.join(shared_daemon.ws("/owlmeans?token=key-of-owl"))
    assert len((await owl.ask("broker.register", ["a", "b", "c"]))["registered"]) == 3
    await owl.socket.close()
