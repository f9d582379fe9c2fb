"""Clients of every dialect come, do something and go without a good-bye: nothing of them stays."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from broker.access.principals import make_access
from broker.app.dialects import load_dialects
from broker.app.tap import make_site
from broker.buses import open_bus
from broker.config.settings import Settings
from broker.core.service import Broker
from broker.peer import Peer
from broker.stores import open_store
from broker.web.net.listening import listen
from broker.web.net.transport import FrameTransport, Outbox
from tests.support.eventually import TIMEOUT, eventually
from tests.support.tables import Everything
from tests.web.ws.frames import CONTINUATION, PING, TEXT, client_frame, closing

AT_ONCE = 25  # visitors at the same time


class Visitor(Protocol):
    """Says *words*, and drops the connection when it has heard *until*; at once for b""."""

    def __init__(self, words: bytes, until: bytes) -> None:
        self._words = words
        self._until = until
        self._heard = b""
        self.gone: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self._words)
        if not self._until:
            # What was written must have left; to hear of it is too much.
            reactor.callLater(0.005, self.transport.abortConnection)

    def dataReceived(self, data: bytes) -> None:
        self._heard += data
        if self._until and self._until in self._heard:
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone.callback(self._heard)


async def visit(port: int, words: bytes, until: bytes = b"") -> bytes:
    """Return what a visitor has heard."""
    visitor = Visitor(words, until)
    await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), visitor)
    heard = await visitor.gone.addTimeout(TIMEOUT, reactor)
    assert until in heard, heard
    return heard


def http(method: str, path: str, said: Any = None, **query: object) -> bytes:
    target = f"{path}?{urlencode(query)}" if query else path
    body = said if isinstance(said, bytes) else b"" if said is None else json.dumps(said).encode()
    kind = "text/plain" if isinstance(said, bytes) else "application/json"
    lines = (f"{method} {target} HTTP/1.1", "Host: localhost", "X-Api-Key: any", f"Content-Type: {kind}")
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body


def opening(path: str, **query: object) -> bytes:
    fields = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    target = f"{path}?{urlencode(query)}" if query else path
    return "\r\n".join((f"GET {target} HTTP/1.1", "Host: localhost", *fields, key, "", "")).encode()


def say(*frames: Any) -> bytes:
    texts = (frame if isinstance(frame, str) else json.dumps(frame) for frame in frames)
    return b"".join(client_frame(TEXT, text.encode()) for text in texts)


def call(ref: int, method: str, *arguments: Any) -> dict[str, Any]:
    return {"type": "call", "id": str(ref), "method": method, "payload": arguments}


def event(n: int) -> bytes:
    return http("POST", "/events/v1/events", {"clientId": "w", "channel": f"ch{n}", "from": "f", "type": "t"})


def owlmeans(n: int) -> Iterator[tuple[bytes, bytes]]:
    everything = say(
        call(1, "broker.register", [f"m{n}", "shared"], {"mode": "roundrobin"}),
        call(2, "broker.subscribe", [f"a{n}", "a.*", ">"]),
        call(3, "broker.consume", f"q{n}"),
        call(4, "broker.acknowledge", "topic"),
        call(5, "broker.watch", "k.*"),
        call(6, f"m{n}", 1),  # which it never answers itself
        {"type": "request", "id": "7", "payload": {"action": "topic"}},
        {"type": "message", "recipient": f"c{n}", "payload": 1},
        {"type": "message", "recipient": "queue:other", "payload": 1},
        {"type": "event", "event": "a.b", "payload": 1},
    )
    yield opening("/owlmeans", client=f"c{n}") + everything, b'"watching"'
    yield opening("/owlmeans", client=f"c{n}") + everything, b""
    yield opening("/owlmeans") + client_frame(TEXT, b"{", fin=False) + client_frame(CONTINUATION, b"", fin=False), b""
    yield opening("/owlmeans") + client_frame(PING, b"?") + closing(1000), b"?"


def ganomede(n: int) -> Iterator[tuple[bytes, bytes]]:
    yield http("GET", "/events/v1/events", clientId=f"c{n}", channel=f"ch{n}"), b""  # in the middle of the poll
    yield event(n), b'"id"'
    yield event(n)[:-5], b""  # in the middle of the body
    yield http("POST", "/events/v1/indices", {"id": f"i{n % 3}", "channel": "ch", "field": "type"}), b"200"
    yield http("GET", f"/events/v1/indices/i{n % 3}/t"), b""
    yield http("GET", "/events/v1/events", clientId="c", channel=f"ch{n}", after=0) * 3, b""


def thinws(n: int) -> Iterator[tuple[bytes, bytes]]:
    frames = say(
        {"type": "connect", "connectionID": f"c{n % 9}"},
        {"type": "subscribe", "roomID": f"r{n}"},
        {"type": "message", "roomID": f"r{n}", "message": 1},
        {"type": "unsubscribe", "roomID": f"r{n}", "messageID": 4},
    )
    yield opening("/thinws") + frames, b'"messageID":4'
    yield opening("/thinws") + frames, b""


def hpkv(n: int) -> Iterator[tuple[bytes, bytes]]:
    frames = say(
        *(
            {"op": op, "key": f"k.{n % 9}", "value": 1 if op == 6 else "1", "endKey": "z", "messageId": op}
            for op in range(1, 7)
        )
    )
    yield opening("/ws", apiKey="any") + frames, b'"messageId":6'
    yield opening("/ws", apiKey="any") + frames, b""
    yield opening("/ws", token="wrong"), b"403"


def microstream(n: int) -> Iterator[tuple[bytes, bytes]]:
    request = '42["request",{"targetService":"s1","payload":{"id":"1","event":"e"}}]'
    way = {"EIO": 4, "transport": "websocket"}
    yield opening("/socket.io/", serviceName=f"s{n % 3}", **way) + say("40", request), b""
    yield opening("/socket.io/", serviceName=f"own{n}", **way) + say("40"), b"40{"
    yield opening("/socket.io/", serviceName="", **way) + say("40"), b"44{"


def nobody(n: int) -> Iterator[tuple[bytes, bytes]]:
    yield opening("/owlmeans")[:-20], b""
    yield b"nonsense\r\n\r\n", b"400"
    yield b"", b""


async def by_token(port: int, n: int) -> None:
    wanted = {"subscribeKeys": [f"k.{n % 9}"], "subscribePatterns": ["k.*"]}
    heard = await visit(port, http("POST", "/token/websocket", wanted), b'"}')
    token = re.findall(rb'"token":"([^"]+)"', heard)[0].decode()
    written = say({"op": 2, "key": f"k.{n % 9}", "value": "1", "messageId": 1})
    await visit(port, opening("/ws", token=token) + written, b"notification")


async def by_polling(port: int, n: int) -> None:
    way = {"EIO": 4, "transport": "polling"}
    heard = await visit(port, http("GET", "/socket.io/", serviceName=f"p{n}", **way), b"maxPayload")
    sid = re.findall(rb'"sid":"([^"]+)"', heard)[0].decode()
    if n % 3 == 0:  # leave without a word
        return
    await visit(port, http("POST", "/socket.io/", b"40", sid=sid, **way), b"ok")
    if n % 3 == 1:  # in the middle of a poll
        await visit(port, http("GET", "/socket.io/", sid=sid, **way), b"40{")
        await visit(port, http("GET", "/socket.io/", sid=sid, **way))
    else:  # in the middle of the upgrade
        probe = opening("/socket.io/", sid=sid, EIO=4, transport="websocket") + say("2probe")
        await visit(port, probe, b"3probe")


def visits(port: int, n: int) -> Iterator[Deferred[Any]]:
    """Begin the visits of one client of each kind."""
    for kind in (owlmeans, ganomede, thinws, hpkv, microstream, nobody):
        for words, until in kind(n):
            yield Deferred.fromCoroutine(visit(port, words, until))
    yield Deferred.fromCoroutine(by_token(port, n))
    yield Deferred.fromCoroutine(by_polling(port, n))


async def all_visits(port: int, numbers: Iterable[int]) -> int:
    """Return how many visits there were."""
    done = 0
    under_way: list[Deferred[Any]] = []
    for n in numbers:
        under_way += visits(port, n)
        if len(under_way) >= AT_ONCE:
            done += len(await gatherResults(under_way, consumeErrors=True))
            under_way = []
    return done + len(await gatherResults(under_way, consumeErrors=True))


async def _inside(directory: Path) -> tuple[Everything, Any]:
    settings = Settings(ping_seconds=0.5, pong_seconds=5.0, store="sqlite:", durability="os")
    dialects = load_dialects(settings.protocols, settings)
    store = open_store(settings.store, clock=reactor, directory=str(directory), durability="os")
    bus = open_bus(settings.bus, settings.node, reactor=reactor)
    broker = Broker(settings, store, bus, reactor, make_access(settings))
    site = make_site(reactor, settings, broker, dialects)
    broker.startService()
    port = await listen(reactor, "tcp:0:interface=127.0.0.1", site, Outbox(reactor))
    return Everything(broker, site), port


@pytest_twisted.ensureDeferred
async def test_nothing_is_left_in_any_table_of_those_who_have_gone(short_path, soak):
    rounds = 100 if soak else 12
    everything, port = await _inside(short_path)
    assert everything.left() == []
    assert await all_visits(port.getHost().port, range(rounds)) > 20 * rounds
    try:
        await eventually(lambda: not everything.left())
    except AssertionError:
        assert everything.left() == []
    await port.stopListening()
    await everything.site.drain(0.0)
    await everything.broker.stopService()


@pytest_twisted.ensureDeferred
async def test_nothing_of_those_who_have_gone_waits_for_the_garbage_collector(short_path):
    everything, port = await _inside(short_path)
    await all_visits(port.getHost().port, range(2))  # what is made only once
    await eventually(lambda: not everything.left())
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await all_visits(port.getHost().port, range(2, 5))
        await eventually(lambda: not everything.left())
        gc.collect()
        assert [garbage for garbage in gc.garbage if isinstance(garbage, (FrameTransport, Peer))] == []
    finally:
        gc.set_debug(0)
        gc.enable()
        gc.garbage.clear()
    await port.stopListening()
    await everything.site.drain(0.0)
    await everything.broker.stopService()


def resident(pid: int) -> int:
    """Return how many KiB of memory the process has."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", text)[0])


@pytest_twisted.ensureDeferred
async def test_memory_does_not_grow_with_those_who_have_gone(start_daemon, soak):
    rounds = 100 if soak else 50
    daemon = await start_daemon(TXBROKER_PING_SECONDS="0.5", TXBROKER_PONG_SECONDS="5", TXBROKER_DURABILITY="os")
    await all_visits(daemon.port, range(20))
    before = resident(daemon.pid)
    assert await all_visits(daemon.port, range(20, 20 + rounds)) > 20 * rounds
    assert resident(daemon.pid) - before < 8 * 1024
