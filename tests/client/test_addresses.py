"""Where a client connects to: one of several nodes, and one whose certificate it trusts."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import trustme
from twisted.internet import reactor

from broker.client import Invalid, Untrusted
from broker.client.asyncio import Client as AsyncioClient
from broker.client.states import State
from broker.client.twisted import Client as TwistedClient
from tests.client.fake_driver import Bench, End
from tests.support.both_clients import LIBRARIES, Library
from tests.support.cluster import Cluster
from tests.support.redis_server import free_port

FAST = {"first_wait": 0.01, "max_wait": 0.1}
NODES = ("ws://one/v1/ws", "ws://two/v1/ws", "ws://three/v1/ws")


@pytest.fixture(params=sorted(LIBRARIES))
def library(request: pytest.FixtureRequest) -> Library:
    return LIBRARIES[request.param]


# Several nodes.


def test_each_attempt_takes_the_next_node():
    bench = Bench(url=NODES, name="me")
    bench.core.start()
    for _ in range(4):
        bench.lose()
        bench.advance(8.0)
    hosts = [url.removeprefix("ws://").partition("/")[0] for url in bench.driver.urls]
    assert hosts[:4] == ["two", "three", "one", "two"]  # it begins at a random one, here in the middle
    assert set(bench.driver.urls) == {f"{url}?client=me" for url in NODES}


def test_a_loss_leads_to_the_next_node_too():
    bench = Bench(url=NODES).connected()
    bench.lose()
    bench.back()
    assert bench.driver.urls == [NODES[1], NODES[2]]


@pytest.mark.parametrize("url", [(), "http://broker/", ["ws://broker/", ""]])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(Invalid):
        Bench(url=url)


@pytest.mark.processes
@pytest.mark.unmeasured
@pytest_twisted.ensureDeferred
async def test_who_loses_its_node_goes_on_at_another(library: Library) -> None:
    cluster = await Cluster.new().start()
    urls = [f"ws://127.0.0.1:{free_port()}/v1/ws", *(node.ws("/v1/ws") for node in cluster.nodes)]
    from_thread: Any = reactor

    async def scenario(library: Library) -> None:
        async with library.client(urls, **FAST) as reader, library.client(urls, **FAST) as writer:
            tried: list[str] = []
            reader.on("connecting", lambda notice: tried.append(notice.reason))
            events = reader.subscribe("nodes")
            await events.ready()
            await writer.publish("nodes", 0, durable=True, key="0")
            assert (await events.__anext__()).payload == 0
            (node,) = (each for each in cluster.nodes if each.url in place_of(reader))
            from_thread.callFromThread(node.program.signal, signal.SIGKILL)
            await library.until(lambda: reader.stats().losses)
            for number in range(1, 4):
                await writer.publish("nodes", number, durable=True, key=str(number))
            assert [(await events.__anext__()).payload for _ in range(3)] == [1, 2, 3]
            assert (events.gaps, node.url in place_of(reader)) == ((), False)

    def place_of(client: Any) -> str:
        (host,) = {client._core.connection.url.partition("/v1")[0].replace("ws:", "http:")}
        return host

    try:
        await library.run(scenario, 30.0)
    finally:
        await cluster.end()


# Certificates.


def test_an_untrusted_certificate_ends_who_was_never_connected():
    bench = Bench(url=["wss://one/", "wss://two/"])
    begun = End(bench.core.start())
    bench.core.untrusted("self-signed certificate")
    bench.advance(8.0)
    assert begun.pending  # the other node may have a better one
    bench.core.untrusted("self-signed certificate")
    assert (begun.errors, bench.state) == (["UNTRUSTED"], State.STOPPED)
    assert bench.kinds.count("untrusted") == 2


def test_who_was_connected_gives_it_some_time_and_tells_each_failure():
    bench = Bench(url="wss://one/").connected()
    bench.lose()
    for _ in range(5):
        assert bench.state is State.WAITING
        bench.advance(8.0)
        bench.core.untrusted("certificate has expired")
    assert (bench.state, bench.kinds.count("untrusted")) == (State.STOPPED, 5)
    assert End(bench.verbs.get("k")).errors == ["UNTRUSTED"]


def test_one_that_is_right_again_counts_anew():
    bench = Bench(url="wss://one/").connected()
    for _ in range(2):
        bench.lose()
        for _ in range(4):
            bench.advance(8.0)
            bench.core.untrusted("certificate has expired")
        bench.back()
    assert bench.state is State.READY


@pytest.mark.parametrize("client", [AsyncioClient, TwistedClient])
@pytest.mark.parametrize(
    "content", [None, "", "no certificate", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----"]
)
def test_a_file_without_certificates_is_refused_at_once(client, content, tmp_path):
    path = tmp_path / "authority.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Invalid, match="ca_file"):
        client("wss://localhost/", ca_file=str(path))


@pytest.mark.processes
@pytest.mark.unmeasured
@pytest_twisted.ensureDeferred
async def test_a_certificate_of_ones_own_is_trusted_and_no_other(
    start_daemon: Any, library: Library, tmp_path: Path
) -> None:
    authority, pem, trusted = trustme.CA(), tmp_path / "server.pem", tmp_path / "authority.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    trusted.write_bytes(trustme.CA().cert_pem.bytes() + authority.cert_pem.bytes())  # it may hold several
    listen = f"ssl:0:interface=127.0.0.1:privateKey={pem}:certKey={pem}"
    daemon = await start_daemon(TXBROKER_LISTEN=listen)
    url = daemon.ws("/v1/ws")

    async def scenario(library: Library) -> None:
        async with library.client(url, ca_file=str(trusted), **FAST) as client:
            assert (await client.set("tls", "yes")).revision > 0
        for address, ca_file in ((url, ""), (url.replace("127.0.0.1", "localhost"), str(trusted))):
            told: list[Any] = []
            other = library.client(address, ca_file=ca_file, **FAST)
            other.on("untrusted", told.append)
            with pytest.raises(Untrusted, match=r"(?i)certif|mismatch|verif"):
                await other.connect()
            assert (other.state, len(told)) == ("stopped", 1)
            with pytest.raises(Untrusted):
                await other.get("k")

    assert url.startswith("wss://")
    await library.run(scenario, 30.0)
