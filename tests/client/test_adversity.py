"""What goes wrong around a client: garbage, clocks, handlers that never return, iterators that nobody holds."""

from __future__ import annotations

import asyncio
import gc
import hashlib
from base64 import b64encode
from typing import Any, cast

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import ILogObserver, globalLogPublisher

from broker.client import Cancelled, Closed, Invalid
from broker.client.asyncio import Client as AsyncioClient
from broker.client.consumers import Consumer
from broker.client.handles import EventItems
from broker.client.readers import Reader
from broker.client.states import State
from broker.client.streams import Stream
from broker.client.subscriptions import Subscription
from broker.client.twisted import Client as TwistedClient
from broker.client.watchers import Watcher
from tests.client.fake_driver import IDENTITY, Bench, End
from tests.support.both_clients import LIBRARIES, Library
from tests.support.proxy import Proxy

FAST = {"first_wait": 0.01, "max_wait": 0.05}
KINDS = "result error event message response call request auth system pong nothing".split()
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda each: st.lists(each, max_size=3),
    max_leaves=4,
)
MEMBERS = "id payload event topic name queue method epoch stage lease delivery dt cursor retry_after".split()
KNOWN = ["1", "2", "3", "t", "k", "q", "kv/k", "broker.gap", "broker.expiring", "broker.error"]
members = st.dictionaries(st.sampled_from(MEMBERS), json_values | st.sampled_from(KNOWN))


@pytest.fixture(params=sorted(LIBRARIES))
def library(request: pytest.FixtureRequest) -> Library:
    return LIBRARIES[request.param]


# Without input and output.


@given(st.lists(st.tuples(st.sampled_from(KINDS), members), max_size=12))
def test_whatever_the_broker_sends_the_client_goes_on(frames):
    bench = Bench().connected()
    reader = Reader(bench.core, "t", Stream(100))
    bench.core.subscribe(reader)
    bench.core.watch(Watcher(bench.core, "k", Stream(100)))
    bench.core.register(Consumer(bench.core, "q", Stream(100)))
    end = End(bench.verbs.get("k"))
    for kind, frame in frames:
        try:
            bench.receive(type=kind, **frame)
        except Exception:  # a driver tells the application of it
            assert bench.state is State.READY
    bench.take()
    bench.lose()
    bench.back()
    for frame in bench.take():
        bench.refuse(frame, "SocketError|||socket:internal|||")
    assert (len(end.results) + len(end.errors), bench.state) == (1, State.READY)
    bench.core.close()
    bench.core.disconnected(1000, "")
    assert (len(bench.core.timers), len(bench.core.pending), bench.core.registry.found) == (0, 0, {})


@pytest.mark.parametrize(
    "payload", [None, "x", {"subscribed": 5}, {"epoch": "e", "id": "no"}, {"epoch": "e", "lost": 5}]
)
def test_an_answer_that_is_none_is_asked_for_again(payload):
    bench = Bench().connected()
    reader = Reader(bench.core, "t", Stream(10))
    bench.core.subscribe(reader)
    bench.answer(bench.take()[0], payload)
    assert bench.kinds[-1] == "registration-failed"
    bench.advance(1.0)
    bench.answer(bench.take()[0], {"subscribed": ["t"], "epoch": "e", "id": 3})
    assert End(reader.ready).results[0].id == 3


def test_a_broker_that_does_not_say_who_it_is_is_tried_again():
    bench = Bench()
    bench.core.start()
    bench.core.connected()
    bench.answer(bench.take()[0], {"id": 5})
    assert (bench.state, bench.driver.acts[-1], bench.kinds[-1]) == (State.WAITING, "abort", "waiting")


def test_after_a_day_that_nobody_has_seen_the_broker_is_asked_first():
    bench = Bench().connected()
    call, read = End(bench.verbs.call("p", timeout=0)), End(bench.verbs.get("k"))
    bench.take()
    bench.now += 86400.0
    bench.core.tick()
    assert (bench.methods(), bench.state) == (["ping"], State.READY)
    assert (call.pending, read.errors) == (True, ["TIMEOUT"])
    bench.receive(type="pong")
    bench.advance(15.0)
    assert bench.state is State.READY


def test_a_credential_that_is_refused_after_a_restart_ends_all():
    bench = Bench().connected()
    reader = Reader(bench.core, "t", Stream(10))
    bench.core.subscribe(reader)
    publication = End(bench.verbs.publish("t", 1, durable=True, key="k"))
    bench.lose(1012)
    bench.advance(8.0)
    waits = End(bench.verbs.get("k"))
    bench.core.refused(401, "SocketErrorConnectionUnauthorized|||socket:connection:unauthorized:token|||")
    assert (bench.state, bench.kinds[-2:]) == (State.STOPPED, ["auth-failed", "stopped"])
    found = [publication, waits, End(reader.stream.available()), End(reader.ready), End(bench.core.settled())]
    assert [end.errors for end in found] == [["UNAUTHENTICATED"]] * 5
    assert (len(bench.core.timers), bench.core.registry.found) == (0, {})


@pytest.mark.parametrize("kind", ["connecting", "ready", "lost", "waiting", "gap", "registration-failed"])
def test_whoever_is_told_of_something_may_close_the_client(kind):
    bench = Bench()
    reader = Reader(bench.core, "t", Stream(10))
    bench.core.subscribe(reader)
    ends: list[End] = []
    bench.driver.on_notice = lambda notice: ends.append(End(bench.core.close())) if notice.kind == kind else None
    begun = End(bench.core.start())
    bench.core.connected()
    for frame in bench.take():
        bench.answer(frame, IDENTITY)
    for frame in bench.take():
        bench.refuse(frame, "SocketError|||socket:internal|||")
    bench.receive(type="system", event="broker.gap", payload={"topic": "t", "count": 1})
    bench.lose()
    bench.advance(30.0)
    assert (bench.state, len(bench.core.timers), begun.pending) == (State.STOPPED, 0, False)
    assert ends
    assert all(end.results == [None] for end in ends)
    assert (len(bench.core.pending), bench.core.registry.found) == (0, {})


class Holder:
    """What iterators have of a driver; what they ask for is done at once."""

    def call_soon(self, function: Any) -> None:
        function()


HOLDER: Any = Holder()


def test_iterators_that_nobody_holds_are_closed():
    bench = Bench().connected()
    held: list[Any] = []
    for number in range(5000):
        reader = Reader(bench.core, f"t{number % 50}", Stream(10))
        bench.core.subscribe(reader)
        items: Any = EventItems(HOLDER, reader)
        if number % 1000 == 0:
            held.append(items)
    del items, reader
    gc.collect()
    (subscription,) = bench.core.registry.all()
    assert isinstance(subscription, Subscription)
    assert (subscription.name, len(subscription.readers)) == ("t0", 5)
    held.clear()
    assert bench.core.registry.found == {}
    present = Reader(bench.core, "chat", Stream(10), presence=True)
    bench.core.subscribe(present)
    EventItems(HOLDER, present)
    assert not present.ended


# With both drivers.


class Garbage(Protocol):
    """Answers with *bytes*; in these, ACCEPT stands for the accepted key."""

    said = b""

    def dataReceived(self, data: bytes) -> None:
        key = data.lower().partition(b"sec-websocket-key:")[0]
        name = data[len(key) :].partition(b":")[2].partition(b"\r\n")[0].strip()
        accept = b64encode(hashlib.sha1(name + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        self.transport.write(self.factory.said.replace(b"ACCEPT", accept))


ACCEPTED = (
    b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n"
)
NONSENSE = {
    "bytes": b"\x00\xff" * 50 + b"\r\n\r\n",
    "another status": b"HTTP/1.1 599 What\r\nContent-Length: 0\r\n\r\n",
    "no key": ACCEPTED.replace(b"ACCEPT", b"wrong"),
    "no text": ACCEPTED + b"\x81\x02\xff\xff",
    "an opcode that there is not": ACCEPTED + b"\x8f\x00",
    "a frame without end": ACCEPTED + b"\x81\x7f" + (1 << 40).to_bytes(8, "big") + b"x" * 1000,
    "a close code that there is not": ACCEPTED + b"\x88\x02\x00\x05",
}


@pytest.mark.processes
@pytest.mark.parametrize("said", NONSENSE)
@pytest_twisted.ensureDeferred
async def test_what_is_no_broker_is_tried_again_and_can_be_left(said: str, library: Library) -> None:
    factory: Any = Factory.forProtocol(Garbage)
    factory.said = NONSENSE[said]
    listening: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")

    async def scenario(library: Library) -> None:
        url = f"ws://127.0.0.1:{listening.getHost().port}/"
        client = library.client(url, max_received_bytes=1000, connect_timeout=1.0, **FAST)
        kinds: list[str] = []
        client.on("*", lambda notice: kinds.append(notice.kind))
        begun = client.connect()
        await library.until(lambda: kinds.count("waiting") >= 3)
        await client.close()
        with pytest.raises(Closed):
            await begun
        assert "error" not in kinds

    try:
        await library.run(scenario, 20.0)
    finally:
        await maybeDeferred(listening.stopListening)


@pytest.mark.alone
@pytest.mark.unmeasured
@pytest_twisted.ensureDeferred
async def test_whatever_is_cancelled_the_client_goes_on(shared_daemon: Any, library: Library) -> None:
    name = f"cancelled.{library.name}"

    async def scenario(library: Library) -> None:
        client = library.client(shared_daemon.ws("/v1/ws"), **FAST)
        client.serve(f"{name}.p")(lambda: 1)

        async def cancel(begun: Any) -> None:
            begun.cancel()
            with pytest.raises((Cancelled, Closed, asyncio.CancelledError, CancelledError)):
                await begun

        await cancel(client.connect())
        await cancel(client.settled())
        await client.connect()
        events = client.subscribe(name)
        await cancel(events.ready())
        await client.settled()
        for begun in (client.publish(name, 1), client.get(name), client.call(f"{name}.p"), client.refresh("x")):
            await cancel(begun)
        await client.enqueue(name, 1)
        jobs = client.consume(name, lease=5.0)
        job = await jobs.__anext__()
        await cancel(job.extend(5.0))
        await cancel(job.done())
        other = client.subscribe(name)
        await other.ready()
        await client.publish(name, "last", durable=True)
        other.close()
        assert await client.call(f"{name}.p") == 1
        found = client.stats()
        ended = found.succeeded + found.failed + found.timed_out + found.cancelled
        assert (found.started, found.pending) == (ended, 0)
        await client.close()
        assert (len(client._core.timers), len(client._core.pending)) == (0, 0)

    await library.run(scenario, 20.0)


@pytest.mark.alone
@pytest.mark.unmeasured
@pytest_twisted.ensureDeferred
async def test_a_client_is_closed_while_it_comes_back(shared_daemon: Any, library: Library) -> None:
    proxy = await Proxy(shared_daemon.port).start()
    from_thread: Any = reactor

    async def closed_in(state: str) -> None:
        client = library.client(f"ws://127.0.0.1:{proxy.port}/v1/ws", **FAST)
        await client.connect()
        client.subscribe("closing", print)
        from_thread.callFromThread(proxy.reset)
        await library.until(lambda: client.stats().losses)
        await library.until(lambda: client.state == state or client.stats().connections > 1)
        await client.close()
        assert (client.state, len(client._core.timers)) == ("stopped", 0)
        with pytest.raises(Closed):
            await client.get("k")

    async def scenario(library: Library) -> None:
        for state in ("waiting", "connecting", "greeting", "ready"):
            await closed_in(state)

    await library.run(scenario, 20.0)
    await proxy.stop()


@pytest.mark.alone
@pytest.mark.unmeasured
@pytest_twisted.ensureDeferred
async def test_what_never_returns_does_not_keep_the_client_from_ending(shared_daemon: Any, library: Library) -> None:
    name = f"never.{library.name}"

    async def scenario(library: Library) -> None:
        client = library.client(shared_daemon.ws("/v1/ws"), close_timeout=0.1, **FAST)
        entered, ended = [], []

        async def never(what: Any) -> None:
            entered.append(what)
            try:
                await library.sleep(3600)
            finally:
                ended.append(what)

        client.consume(name, never, prefetch=2)
        client.subscribe(name, never)
        client.serve(f"{name}.p")(never)
        await client.connect()
        await client.settled()
        await library.gather(client.enqueue(name, 1), client.enqueue(name, 2), client.publish(name, 1, durable=True))
        call = client.call(f"{name}.p", 1)
        await library.until(lambda: len(entered) >= 3)
        await client.close()
        with pytest.raises(Closed):
            await call
        assert len(ended) == len(entered)
        async with library.client(shared_daemon.ws("/v1/ws"), **FAST) as other:
            done: list[Any] = []
            other.consume(name, lambda job: done.append(job.payload))
            await library.until(lambda: sorted(done) == [1, 2])

    await library.run(scenario, 20.0)


@pytest.mark.alone
@pytest.mark.unmeasured
@pytest_twisted.ensureDeferred
async def test_a_client_may_be_closed_by_its_own_callback(shared_daemon: Any, library: Library) -> None:
    name = f"own.{library.name}"

    async def scenario(library: Library) -> None:
        client = library.client(shared_daemon.ws("/v1/ws"), close_timeout=10.0, **FAST)
        closed: list[Any] = []

        async def on_event(event: Any) -> None:
            await client.close()
            closed.append(event.payload)

        async with client, library.client(shared_daemon.ws("/v1/ws"), **FAST) as other:
            await client.subscribe(name, on_event).ready()
            await other.publish(name, 1)
            await library.until(lambda: closed)
        assert client.state == "stopped"

    await library.run(scenario, 8.0)


@pytest.mark.alone
@pytest.mark.unmeasured
@pytest_twisted.ensureDeferred
async def test_the_broker_has_no_subscription_of_an_iterator_that_nobody_holds(
    shared_daemon: Any, library: Library
) -> None:
    name = f"abandoned.{library.name}"

    async def scenario(library: Library) -> None:
        async with library.client(shared_daemon.ws("/v1/ws"), **FAST) as client:
            await library.gather(*(client.subscribe(name).ready() for _ in range(50)))
            gc.collect()
            await library.until(lambda: not client._core.registry.found)
            assert (await client.publish(name, 1)).delivered == 0

    await library.run(scenario, 20.0)


def test_what_nobody_waits_for_is_not_logged_when_the_asyncio_client_closes():
    told: list[object] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        client = AsyncioClient("ws://127.0.0.1:1/v1/ws", first_wait=1000.0)
        client.connect()
        client.publish("t", 1)
        client.settled()
        await client.close()
        client.enqueue("q", 1)
        gc.collect()
        await asyncio.sleep(0)

    asyncio.run(scenario())
    assert told == []


@pytest_twisted.ensureDeferred
async def test_what_nobody_waits_for_is_not_logged_when_the_twisted_client_closes():
    told: list[Any] = []
    observer = cast(ILogObserver, told.append)
    globalLogPublisher.addObserver(observer)
    try:
        client = TwistedClient("ws://127.0.0.1:1/v1/ws", first_wait=1000.0)
        client.connect()
        client.publish("t", 1).addCallback(lambda published: published.id)
        client.settled()
        kept = client.publish("t", 2)
        await client.close()
        client.enqueue("q", 1)
        gc.collect()
        with pytest.raises(Closed):
            await kept
    finally:
        globalLogPublisher.removeObserver(observer)
    assert [each["log_failure"] for each in told if "log_failure" in each] == []


@pytest.mark.parametrize("client", [AsyncioClient, TwistedClient])
@pytest.mark.parametrize(
    "url",
    [
        "ws://a..b/v1/ws",
        "ws://" + "a" * 64,
        "ws://",
        "ws://host:0/",
        "ws://[::1/",
        "http://x",
        "ws://u:p@x/",
        "ws://x/#y",
    ],
)
def test_a_url_that_nothing_can_be_at_is_refused(client, url):
    with pytest.raises(Invalid):
        client(url)


def test_a_name_that_can_not_be_sent_is_refused():
    with pytest.raises(Invalid):
        AsyncioClient("ws://localhost/v1/ws", name="x\udcff")


@pytest.mark.parametrize("token", ["ü€", "a\nb", b"bytes", lambda: "\udcff"])
@pytest_twisted.ensureDeferred
async def test_a_credential_that_no_header_can_have_ends_the_client(library, token):
    async def scenario(library: Library) -> None:
        client = library.client("ws://127.0.0.1:1/v1/ws", token=token)
        with pytest.raises(Invalid, match="printable ASCII"):
            await client.connect()
        assert client.state == "stopped"
        await client.close()

    await library.run(scenario)
