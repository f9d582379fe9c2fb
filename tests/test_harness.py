"""The tests' own tools do what they say."""

import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionDeny
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.support import http_client
from tests.support.daemon import TWISTD, Daemon, clean_environ
from tests.support.processes import Ended, Program
from tests.support.proxy import Proxy
from tests.support.ws_client import Closed, Refused, WebSocket, ws_connect


class Echo(WebSocketServerProtocol):
    def onConnect(self, request):
        if request.path == "/no":
            raise ConnectionDeny(403, "not you")
        return "two" if "two" in request.protocols else None

    def onMessage(self, payload, isBinary):
        if payload == b"leave":
            self.sendClose(3001, "as you wish")
        elif payload == b"vanish":
            self.transport.abortConnection()
        else:
            self.sendMessage(payload, isBinary, fragmentSize=3)


@pytest.fixture
def echo_url():
    factory = WebSocketServerFactory()
    factory.protocol = Echo
    port: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")
    yield f"ws://127.0.0.1:{port.getHost().port}"
    pytest_twisted.blockon(port.stopListening())


@pytest_twisted.ensureDeferred
async def test_websocket_client_exchanges_text_and_binary(echo_url):
    socket = await ws_connect(echo_url, subprotocols=["one", "two"])
    socket.send_json({"a": "ä"})
    socket.send(b"\x00\xff\x00\xff")
    assert socket.subprotocol == "two"
    assert await socket.receive_json() == {"a": "ä"}
    assert await socket.receive() == b"\x00\xff\x00\xff"
    assert socket.waiting == []
    assert await socket.close() == (1000, "")


@pytest_twisted.ensureDeferred
async def test_websocket_client_tells_how_it_ended(echo_url):
    socket = await ws_connect(echo_url)
    waiting = socket.receive()
    socket.send("leave")
    assert await socket.closed() == (3001, "as you wish")
    with pytest.raises(Closed):
        await waiting
    other: WebSocket = await ws_connect(echo_url)
    other.send("vanish")
    assert await other.closed() == (1006, "")


@pytest_twisted.ensureDeferred
async def test_websocket_client_tells_of_a_refusal(echo_url):
    with pytest.raises(Refused) as caught:
        await ws_connect(echo_url + "/no")
    assert caught.value.status == 403


@pytest_twisted.ensureDeferred
async def test_http_client_sends_json_and_reads_the_answer():
    class Mirror(Resource):
        isLeaf = True

        def render_POST(self, request):
            request.setResponseCode(201)
            request.setHeader("X-Type", request.getHeader("content-type"))
            return request.content.read()

    port: Any = reactor.listenTCP(0, cast(Any, Site(Mirror())), interface="127.0.0.1")
    answer = await http_client.post(f"http://127.0.0.1:{port.getHost().port}/", {"a": 1})
    assert (answer.status, answer.headers["x-type"], answer.json()) == (201, "application/json", {"a": 1})
    await port.stopListening()


@pytest.mark.processes
@pytest_twisted.ensureDeferred
async def test_program_is_heard_and_ended(tmp_path: Path):
    code = "import sys\nfor line in sys.stdin: print('heard', line, end='', flush=True)"
    program = Program.start([sys.executable, "-c", code], env={}, cwd=tmp_path)
    program.say("one")
    program.say("two")
    assert await program.line(lambda line: "two" in line) == "heard two"
    program.signal(signal.SIGTERM)
    assert await program.exit() == -signal.SIGTERM
    assert program.lines == ["heard one", "heard two"]


@pytest.mark.processes
@pytest_twisted.ensureDeferred
async def test_waiting_for_a_program_that_ends_fails(tmp_path: Path):
    program = Program.start([sys.executable, "-c", "print('no')"], env={}, cwd=tmp_path)
    with pytest.raises(Ended, match="no"):
        await program.line(lambda line: line == "yes")


@pytest_twisted.ensureDeferred
async def test_redis_server_restarts_with_its_data(redis_server):
    port = redis_server.port
    await redis_server.kill()
    await redis_server.start()
    assert redis_server.running
    assert redis_server.port == port
    assert redis_server.socket.exists()


@pytest_twisted.async_yield_fixture
async def proxied_echo() -> AsyncIterator[tuple[Proxy, str]]:
    factory = WebSocketServerFactory()
    factory.protocol = Echo
    port: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")
    proxy = await Proxy(port.getHost().port).start()
    yield proxy, f"ws://127.0.0.1:{proxy.port}"
    await proxy.stop()
    await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_what_a_proxy_swallows_is_lost_for_good_and_nobody_notices(proxied_echo):
    proxy, url = proxied_echo
    old = await ws_connect(url)
    proxy.swallow()
    old.send("lost")
    proxy.heal()
    old.send("lost, too")
    new = await ws_connect(url)
    new.send("passed")
    assert await new.receive() == "passed"
    assert old.waiting == []
    assert not old.closed().called
    assert await new.close() == (1000, "")
    old.abort()


@pytest_twisted.ensureDeferred
async def test_what_a_proxy_holds_arrives_when_it_is_healed(proxied_echo):
    proxy, url = proxied_echo
    socket = await ws_connect(url)
    proxy.hold()
    later = ws_connect(url)
    socket.send("late")
    proxy.heal()
    assert await socket.receive() == "late"
    assert await (await later).close() == (1000, "")
    assert await socket.close() == (1000, "")


@pytest_twisted.ensureDeferred
async def test_a_proxy_tells_the_end_of_one_side_to_the_other(proxied_echo):
    _, url = proxied_echo
    socket = await ws_connect(url)
    socket.send("vanish")
    assert await socket.closed() == (1006, "")


@pytest.mark.processes
@pytest.mark.parametrize(("words", "status"), [(["--version"], 0), (["--nonsense"], 1)])
@pytest_twisted.ensureDeferred
async def test_a_forked_program_ends_as_one_that_was_started(words, status, tmp_path):
    forked = Program.fork([TWISTD, *words], env=clean_environ(tmp_path), cwd=tmp_path)
    started = Program.start([TWISTD, *words], env=clean_environ(tmp_path), cwd=tmp_path)
    assert await forked.exit() == await started.exit() == status
    assert forked.lines == started.lines


@pytest.mark.processes
@pytest_twisted.ensureDeferred
async def test_a_forked_daemon_is_ended_by_a_signal(tmp_path):
    daemon = Daemon(tmp_path)
    for _ in range(2):
        await daemon.start()
        await daemon.kill()
        assert daemon.program.status == -signal.SIGKILL
    assert await (await daemon.start()).stop() == 0
