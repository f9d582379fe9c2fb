"""Half-closing and slow HTTP clients of a whole daemon, on SQLite and on Redis."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString, connectProtocol

from tests.support.eventually import pause
from tests.support.http_client import post
from tests.web.test_port import Client
from tests.web.wire import read_all

SECRET = "s3cret"
EVENTS = "/events/v1/events"
LIMIT = 1.0  # seconds


@pytest.fixture(scope="module")
def daemon_environ():
    return {
        "TXBROKER_PROTOCOLS": "ganomede",
        "TXBROKER_API_SECRET": SECRET,
        "TXBROKER_KEEPALIVE_SECONDS": str(LIMIT),
        "TXBROKER_UPLOAD_STALL_SECONDS": str(LIMIT),
    }


def head(method, target, *lines):
    return "\r\n".join((f"{method} {target} HTTP/1.1", "Host: h", *lines, "", "")).encode()


def publication(channel):
    """Return the head and the body of a request that publishes an event."""
    event = {"clientId": "w", "secret": SECRET, "from": "svc/v1", "type": "T", "channel": channel}
    body = json.dumps(event).encode()
    return head("POST", EVENTS, "Content-Type: application/json", f"Content-Length: {len(body)}"), body


def poll(channel):
    return head("GET", f"{EVENTS}?{urlencode({'secret': SECRET, 'clientId': 'c', 'channel': channel, 'after': 0})}")


async def connect(daemon):
    return await connectProtocol(clientFromString(reactor, f"tcp:127.0.0.1:{daemon.port}"), Client())


async def answers(client):
    """Wait for the end; return status and body of what came before it."""
    await client.until(lambda: client.lost)
    return [(heard.status, json.loads(heard.body)) for heard in read_all(client.data)]


@pytest_twisted.ensureDeferred
async def test_a_publisher_that_half_closes_is_told_of_its_event(shared_daemon):
    client = await connect(shared_daemon)
    client.transport.write(b"".join(publication("half")) * 3)
    client.transport.loseWriteConnection()
    assert [(status, body["id"]) for status, body in await answers(client)] == [(200, 1), (200, 2), (200, 3)]


@pytest_twisted.ensureDeferred
async def test_a_poller_that_half_closes_gets_the_event_that_comes(shared_daemon):
    client = await connect(shared_daemon)
    client.transport.write(poll("awaited"))
    client.transport.loseWriteConnection()
    event = json.loads(publication("awaited")[1])
    assert (await post(shared_daemon.url + EVENTS, event)).status == 200
    [(status, body)] = await answers(client)
    assert (status, [event["type"] for event in body]) == (200, ["T"])


@pytest_twisted.ensureDeferred
async def test_half_a_request_is_refused_and_stores_nothing(shared_daemon):
    client = await connect(shared_daemon)
    start, body = publication("cut")
    client.transport.write(start + body[:-1])
    client.transport.loseWriteConnection()
    assert [status for status, _ in await answers(client)] == [400]
    whole = await post(shared_daemon.url + EVENTS, json.loads(body))
    assert json.loads(whole.body)["id"] == 1


@pytest_twisted.ensureDeferred
async def test_a_slow_upload_is_taken(shared_daemon):
    statuses = []
    while 200 not in statuses and len(statuses) < 9:  # a busy machine may let it stand still
        statuses.append(await uploaded_slowly(shared_daemon))
    assert statuses[-1] == 200


async def uploaded_slowly(daemon):
    """Upload the body of a publication byte by byte, in more than the limit; return the status."""
    client = await connect(daemon)
    start, body = publication("slow")
    client.transport.write(start)
    began = reactor.seconds()
    for byte in body:
        client.transport.write(bytes((byte,)))
        await pause(3 * LIMIT / len(body))
    assert reactor.seconds() - began > 2 * LIMIT
    (answer,) = await client.answers(1)
    client.transport.abortConnection()
    return answer.status


@pytest_twisted.ensureDeferred
async def test_an_upload_that_stands_still_is_refused_and_an_idle_connection_closed(shared_daemon):
    standing, idle = await connect(shared_daemon), await connect(shared_daemon)
    start, body = publication("standing")
    standing.transport.write(start + body[:-1])
    idle.transport.write(start + body)
    assert [status for status, _ in await answers(standing)] == [408]
    assert [status for status, _ in await answers(idle)] == [200]
