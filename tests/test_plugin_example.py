"""The examples of docs/writing-a-plugin.rst do what that page says of them."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString, connectProtocol

from broker.testing import connect, http_request, make_broker, value_of
from tests.support.daemon import WITH_METRICS, Daemon
from tests.support.eventually import eventually
from tests.support.examples import EXAMPLES, load_example
from tests.support.http_client import get, post
from tests.support.ws_client import ws_connect
from tests.web.test_port import Client


@pytest.fixture
def lines():
    return load_example("lines").dialect(None)


@pytest.mark.parametrize("name", ["lines", "sse", "export", "tally", "telnet", "badge"])
def test_an_example_is_shorter_than_sixty_lines(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 60


@pytest.mark.parametrize(("name", "count"), [("lines", 5), ("sse", 6), ("telnet", 4), ("badge", 5)])
def test_the_tests_of_that_page_pass(monkeypatch, name, count):
    monkeypatch.syspath_prepend(EXAMPLES)
    tests = runpy.run_path(str(EXAMPLES / f"{name}_test.py"))
    for module in ("lines", "sse", "telnet", "badge"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    names = [name for name in tests if name.startswith("test_")]
    assert len(names) == count
    for name in names:
        tests[name]()


def test_a_pattern_is_subscribed_to(lines):
    broker = make_broker()
    ann, bob = connect(broker, lines), connect(broker, lines)
    assert bob.say("SUB news.*") == [b"OK"]
    assert ann.say('PUB news.today {"a": 1}') == [b"OK"]
    assert bob.link.take() == [b'EVENT news.today {"a": 1}']


@pytest.mark.parametrize("line", ["", "SUB", "PUB", "PUB news", "PUB news {", "FLY there", b"SUB \xff", b"PUB a \xff"])
def test_a_line_that_makes_no_sense_is_refused(lines, line):
    (answer,) = connect(make_broker(), lines).say(line)
    assert answer.startswith(b"ERR INVALID ")


def test_a_reserved_name_is_refused(lines):
    assert connect(make_broker(), lines).say("PUB broker.x 1") == [b"ERR DENIED publish broker.x"]


def test_nothing_remains_of_a_client_that_left(lines):
    broker = make_broker()
    ann = connect(broker, lines)
    ann.say("SUB news")
    ann.leave()
    assert len(broker.topics) == 0


@pytest.mark.parametrize("name", ["lines:dialect", "protocols.lines:dialect", "lines"])
@pytest_twisted.ensureDeferred
async def test_the_daemon_speaks_it_beside_the_others(start_daemon, tmp_path, name):
    # As a module of its own, or as a file that somebody adds to the namespace package.
    folder = tmp_path if name == "lines:dialect" else tmp_path / "protocols"
    folder.mkdir(exist_ok=True)
    (folder / "lines.py").write_text((EXAMPLES / "lines.py").read_text())
    path = f"{tmp_path}:{Path(__file__).parent.parent}"
    daemon = await start_daemon(TXBROKER_PROTOCOLS=f"ganomede {name}", PYTHONPATH=path)
    client = await ws_connect(daemon.ws("/lines"))
    client.send("SUB news")
    assert await client.receive() == "OK"
    client.send("PUB news 1")
    assert await client.receive() == "OK"
    client.send("PUB news {")
    assert (await client.receive()).startswith("ERR INVALID ")
    await client.close()


@pytest_twisted.ensureDeferred
async def test_a_stream_of_events_reaches_a_client_of_the_daemon_and_ends_with_it(start_daemon, tmp_path):
    path = f"{EXAMPLES}:{Path(__file__).parent.parent}"
    secret = {"TXBROKER_API_SECRET": "s"}
    daemon = await start_daemon(TXBROKER_PROTOCOLS="ganomede sse:dialect", PYTHONPATH=path, **secret)
    client = await connectProtocol(clientFromString(reactor, f"tcp:127.0.0.1:{daemon.port}"), Client())
    client.transport.write(b"GET /sse/news HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer s\r\n\r\n")
    await client.until(lambda: b"\r\n\r\n" in client.data)
    assert b"Content-Type: text/event-stream\r\n" in client.data
    said = {"clientId": "me", "channel": "news", "from": "me", "type": "hello", "secret": "s", "data": {"a": 1}}
    assert (await post(f"{daemon.url}/events/v1/events", json=said)).status == 200
    await client.until(lambda: re.search(rb'event: hello\ndata: {"a": ?1}\n\n', client.data))
    await daemon.stop()
    await client.until(lambda: client.lost)
    assert client.data.endswith(b"\r\n0\r\n\r\n")
    assert client.clean


@pytest_twisted.ensureDeferred
async def test_a_dialect_has_settings_metrics_and_a_peer_of_its_own(start_daemon):
    path = f"{EXAMPLES}:{Path(__file__).parent.parent}"
    daemon = await start_daemon(
        TXBROKER_PROTOCOLS="ganomede tally:dialect telnet:dialect",
        TXBROKER_TELNET_LISTEN="tcp:0:interface=127.0.0.1",
        TXBROKER_TALLY_TOPIC="weather",
        TXBROKER_API_SECRET="s",
        PYTHONPATH=path,
        **WITH_METRICS,
    )
    for channel in ("weather", "news", "weather"):
        said = {"clientId": "me", "channel": channel, "from": "me", "type": "t", "secret": "s"}
        assert (await post(f"{daemon.url}/events/v1/events", json=said)).status == 200
    answer = await get(f"{daemon.url}/tally", headers={"Authorization": "Bearer s"})
    assert answer.body == b"2\n"
    port = await eventually(lambda: re.search(r"telnet is at 127.0.0.1:(\d+)", "\n".join(daemon.output)))
    client = await connectProtocol(clientFromString(reactor, f"tcp:127.0.0.1:{port[1]}"), Client())
    client.transport.write(b"AUTH s\nSUB weather\n")
    await client.until(lambda: client.data == b"OK\nOK\n")
    metrics = await get(f"{daemon.admin_url}/metrics")
    assert "txbroker_tally_events_total 2.0" in metrics.text
    assert 'txbroker_connections{dialect="telnet"} 1.0' in metrics.text
    await daemon.stop()
    await client.until(lambda: client.lost)
    assert client.data == b"OK\nOK\nBYE leaving\n"


@pytest_twisted.ensureDeferred
async def test_a_dialect_whose_settings_are_wrong_stops_the_daemon(tmp_path):
    path = f"{EXAMPLES}:{Path(__file__).parent.parent}"
    wrong = {"TXBROKER_TALLY_STEP": "two"}
    program = Daemon(tmp_path, TXBROKER_PROTOCOLS="tally:dialect", PYTHONPATH=path, **wrong).spawn()
    assert await program.exit() == 2
    assert "TXBROKER_TALLY_STEP: expected a whole number that is not negative, not 'two'" in "\n".join(program.lines)


def test_a_whole_topic_is_exported_page_by_page():
    broker, export = make_broker(), load_example("export").dialect(None)
    peer = broker.attach("test", "127.0.0.1")
    for number in range(300):
        value_of(peer.post("news", "e", b'{"n":\n%d,"text":"%b"}' % (number, b"x" * 1000)))
    stream = value_of(http_request(broker, export, "GET", "/export/news")).body
    data = stream.take()
    assert data.count(b"\n") < 100
    while piece := stream.take():
        data += piece
    assert stream.ended
    assert [json.loads(line)["n"] for line in data.splitlines()] == list(range(300))
