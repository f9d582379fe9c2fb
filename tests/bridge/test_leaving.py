"""The end of the daemon, as clients of each dialect see it."""

from __future__ import annotations

import gc
import signal
import weakref

import pytest
import pytest_twisted

from broker.app.dialects import load_dialects
from broker.config.settings import PROTOCOLS, Settings
from broker.messages import HttpRequest
from broker.testing import connect, make_broker
from tests.bridge.clients import Ganomede, Hpkv, MicroStream, OwlMeans, ThinWs
from tests.support.daemon import WITH_METRICS
from tests.support.eventually import eventually

ENDLESS = "600"  # seconds: a test that waits for these fails


@pytest_twisted.ensureDeferred
async def test_at_term_everybody_is_let_go_in_good_order(start_daemon):
    daemon = await start_daemon(TXBROKER_POLL_TIMEOUT_SECONDS=ENDLESS, TXBROKER_DRAIN_SECONDS=ENDLESS, **WITH_METRICS)
    service = await MicroStream.join(daemon, "leaving")
    clients = [await kind.join(daemon) for kind in (OwlMeans, ThinWs, Hpkv)] + [service]
    clients[0].begin("leaving.x")
    await service.request()
    polling = Ganomede(daemon).poll("any")
    await daemon.until_metric("txbroker_polls_waiting", 1)
    daemon.program.signal(signal.SIGTERM)
    answer = await polling
    assert (answer.status, answer.body) == (200, b"[]")
    # The last three come back by themselves after any close; an application of the first does.
    assert [(await client.socket.closed())[0] for client in clients] == [1001, 1012, 1012, 1012]
    assert await daemon.program.exit() == 0


@pytest_twisted.ensureDeferred
async def test_where_other_nodes_are_clients_are_closed_one_after_the_other(start_daemon, redis_server):
    daemon = await start_daemon(TXBROKER_STORE=redis_server.url, TXBROKER_DRAIN_SECONDS=ENDLESS)
    services = [await MicroStream.join(daemon, f"leaving{number}") for number in range(6)]
    clients = [await kind.join(daemon) for kind in (OwlMeans, ThinWs, Hpkv) for _ in range(6)] + services
    closed: list[tuple[int, str]] = []
    for client in clients:
        client.socket.closed().addCallback(closed.append)
    daemon.program.signal(signal.SIGTERM)
    await eventually(lambda: closed)
    assert len(closed) < len(clients)  # those that are left have up to 0.25 s each
    await eventually(lambda: len(closed) > 2)
    daemon.program.signal(signal.SIGINT)
    assert await daemon.program.exit() == 0


REQUESTS = {
    "owlmeans": "/owlmeans",
    "hpkv": "/ws?apiKey=x",
    "thinws": "/thinws",
    "microstream": "/socket.io/?EIO=4&transport=websocket&serviceName=me",
}


@pytest.mark.parametrize("name", REQUESTS)
def test_nothing_of_a_client_that_has_left_waits_for_the_garbage_collector(name):
    broker = make_broker()
    dialect = next(one for one in load_dialects(PROTOCOLS, Settings()) if one.name == name)
    path, _, query = REQUESTS[name].partition("?")
    gc.disable()
    try:
        client = connect(broker, dialect, HttpRequest("GET", path, query, {}))
        if name == "owlmeans":
            client.say('{"type":"call","id":"1","method":"broker.watch","payload":["a.*"]}')
        left = [weakref.ref(one) for one in (client.peer, client.link, client.session)]
        client.leave()
        del client
        assert [one() for one in left] == [None] * 3
    finally:
        gc.enable()
