"""Time limits of bodies and answers are for standing still, not for being slow."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor

from broker.messages import Response
from broker.web.http.channel import HttpChannel, Times
from tests.support.eventually import TIMEOUT, eventually, pause
from tests.web.http.fake_site import GET, FakeSite, get, post
from tests.web.test_port import Client, Served, post_of, request, serve
from tests.web.wire import Wire, read_all

LIMIT = 0.4  # seconds; what goes on without a stop takes at least twice that

# Over real sockets.


async def stop(served: Served, port: object) -> None:
    await port.stopListening()  # type: ignore[attr-defined]
    await served.site.drain(TIMEOUT)


async def read_slowly(client: Client, size: int) -> int:
    """Read the answer in pieces of 32 KiB, each after a while; return how many bytes came in all."""
    client.transport.pauseProducing()
    count = 0
    while count < size:
        with suppress(BlockingIOError):
            piece = client.transport.socket.recv(32768)
            assert piece, f"the connection ended after {count} bytes"
            count += len(piece)
        await pause(0.01)
    return count


@pytest.mark.parametrize("end", ["stays open", "asked to close", "has shut down its side"])
@pytest_twisted.ensureDeferred
async def test_a_client_that_reads_slowly_gets_a_long_answer_to_its_end(end: str) -> None:
    size = 4 << 20
    served, port = await serve("tcp:0:interface=127.0.0.1", Times(stalled=LIMIT, linger=LIMIT, half_closed=LIMIT))
    client = await served.connect(receive_buffer=32768)
    lines = ("Connection: close",) if end == "asked to close" else ()
    began = reactor.seconds()
    client.transport.write(request(f"/much?{size}", *lines))
    if end == "has shut down its side":
        client.transport.loseWriteConnection()
    assert await read_slowly(client, size) >= size
    assert reactor.seconds() - began > 2 * LIMIT
    client.transport.abortConnection()
    await stop(served, port)


@pytest_twisted.ensureDeferred
async def test_a_client_that_stops_reading_is_cut_off() -> None:
    served, port = await serve("tcp:0:interface=127.0.0.1", Times(stalled=LIMIT))
    client = await served.connect(receive_buffer=32768)
    client.transport.pauseProducing()
    client.transport.write(request(f"/much?{16 << 20}"))
    await eventually(lambda: served.dialect.much and not served.site.connections)
    counts: Any = served.site._counts
    assert counts.slow_consumers == {"close": 1}
    client.transport.abortConnection()
    await stop(served, port)


@pytest_twisted.ensureDeferred
async def test_a_slow_upload_is_taken() -> None:
    served, port = await serve("tcp:0:interface=127.0.0.1", Times(body=LIMIT))
    client = await served.connect()
    client.transport.write(post_of(100))
    for _ in range(100):
        client.transport.write(b"x")
        await pause(0.01)
    assert [answer.body for answer in await client.answers(1)] == [b"x" * 100]
    client.transport.abortConnection()
    await stop(served, port)


@pytest_twisted.ensureDeferred
async def test_an_upload_that_stands_still_is_refused() -> None:
    served, port = await serve("tcp:0:interface=127.0.0.1", Times(body=LIMIT))
    client = await served.connect()
    client.transport.write(post_of(100) + b"x" * 50)
    assert [answer.status for answer in await client.answers(1)] == [408]
    client.transport.abortConnection()
    await stop(served, port)


# By the clock.


def test_a_body_may_take_any_time_as_long_as_it_comes(site: FakeSite, wire: Wire) -> None:
    stream = post(b"x" * 500)
    for byte in stream[-500:] if wire.say(stream[:-500]) == [] else b"":
        site.clock.pump([1.0] * 3)
        wire.server.dataReceived(bytes((byte,)))
    assert [heard.status for heard in wire.heard()] == [200]


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_body_that_stands_still_is_refused(site: FakeSite, wire: Wire, framing: str) -> None:
    wire.say(get("/p", framing, method="POST") + b"5\r\nhello\r\n")
    site.clock.pump([1.0] * 15)
    wire.say(b"1\r\nx\r\n")
    site.clock.pump([1.0] * 19)
    assert wire.heard() == []
    site.clock.pump([1.0] * 7)
    assert [heard.status for heard in wire.heard()] == [408]
    assert wire.half_closed


def test_a_trailer_that_comes_byte_by_byte_is_no_progress(site: FakeSite, wire: Wire) -> None:
    wire.say(get("/p", "Transfer-Encoding: chunked", method="POST") + b"1\r\nx\r\n0\r\nX: ")
    for _ in range(30):
        wire.server.dataReceived(b"y")
        site.clock.advance(1.0)
    assert [heard.status for heard in wire.heard()] == [408]


def test_a_body_is_not_timed_while_an_answer_before_it_is_awaited(site: FakeSite, wire: Wire) -> None:
    site.reply = site.wait
    stream = post(b"hello")
    wire.say(GET + stream[:-5])
    site.clock.pump([1.0] * 100)
    assert wire.heard() == []
    site.waiting[0].callback(Response())
    site.clock.pump([1.0] * 26)
    assert [heard.status for heard in wire.heard()] == [200, 408]


def blocked(wire: Wire, site: FakeSite) -> None:
    wire.full = True
    wire.server.dataReceived(GET)


def closing(wire: Wire, site: FakeSite) -> None:
    wire.server.dataReceived(get("/a", "Connection: close"))


def lingering(wire: Wire, site: FakeSite) -> None:
    site.reply = lambda _: Response(body=bytes(1000), close=True)
    wire.server.dataReceived(GET)


@pytest.fixture(params=[blocked, closing, lingering])
def sending(request: pytest.FixtureRequest, site: FakeSite, wire: Wire) -> Wire:
    """A connection whose client has much to read."""
    wire.loseConnection = lambda: None  # type: ignore[method-assign]
    wire.dataBuffer = bytes(1000)
    act: Callable[[Wire, FakeSite], None] = request.param
    act(wire, site)
    return wire


def test_an_answer_may_take_any_time_as_long_as_it_is_read(site: FakeSite, sending: Wire) -> None:
    for left in range(900, 0, -1):
        sending.dataBuffer = bytes(left)
        site.clock.advance(1.0)
    assert not sending.lost


def test_an_answer_that_is_read_no_further_is_cut_off(site: FakeSite, sending: Wire) -> None:
    for left in range(900, 800, -1):
        sending.dataBuffer = bytes(left)
        site.clock.advance(1.0)
    site.clock.pump([1.0] * 59)
    assert not sending.lost
    site.clock.pump([1.0] * 18)
    assert sending.aborted


def test_a_refusal_that_was_read_ends_the_lingering(site: FakeSite, wire: Wire) -> None:
    wire.dataBuffer = bytes(1000)
    lingering(wire, site)
    site.clock.pump([1.0] * 10)
    assert not wire.lost
    wire.dataBuffer = b""
    site.clock.pump([1.0] * 16)
    assert wire.aborted


class Below:
    """The transport below that of TLS."""

    dataBuffer = b""
    offset = 0
    closed = False

    def loseConnection(self) -> None:
        self.closed = True


@pytest.fixture
def below(wire: Wire) -> Below:
    """What *wire* goes over, which waits for a close_notify of its client."""
    wire.server.secure = True
    wire.wrappedProtocol = wire.server  # type: ignore[attr-defined]  # as of Twisted's TLS
    wire.transport = below = Below()  # type: ignore[attr-defined]
    wire.loseConnection = lambda: None  # type: ignore[method-assign]
    return below


@pytest.mark.parametrize("act", [closing, lingering])
def test_a_client_over_tls_that_has_got_all_is_not_waited_for(
    site: FakeSite, wire: Wire, below: Below, act: Callable[[Wire, FakeSite], None]
) -> None:
    below.dataBuffer = bytes(1000)
    act(wire, site)
    site.clock.pump([1.0] * 10)
    assert not below.closed
    below.dataBuffer = b""
    site.clock.pump([1.0] * 16)
    assert (below.closed, wire.aborted) == (True, False)


def test_a_client_over_tls_has_a_moment_to_answer_a_close(site: FakeSite, wire: Wire, below: Below) -> None:
    closing(wire, site)
    site.clock.advance(1.5)
    assert not below.closed
    site.clock.pump([0.5] * 3)
    assert (below.closed, wire.aborted) == (True, False)


def test_an_idle_connection_is_closed_soon_after_its_limit(site: FakeSite, wire: Wire) -> None:
    wire.say(GET)
    site.clock.pump([1.0] * 29)
    assert not wire.lost
    site.clock.pump([1.0] * 10)
    assert wire.lost


@pytest.mark.parametrize(("idle", "advertised"), [(75.0, "5"), (9.0, "4"), (1.0, "1"), (inf, "5")])
def test_less_than_the_idle_limit_is_advertised(site: FakeSite, idle: float, advertised: str) -> None:
    site.times = Times(idle=idle)
    wire = Wire(HttpChannel(site, ""))
    assert wire.say(GET)[0].headers["keep-alive"] == f"timeout={advertised}"
    wire.lose()


def test_no_limit_is_no_limit(site: FakeSite) -> None:
    site.times = Times(idle=inf, body=inf)
    idle, standing = Wire(HttpChannel(site, "")), Wire(HttpChannel(site, ""))
    idle.say(GET)
    standing.say(post(b"x" * 10)[:-1])
    site.clock.pump([100.0] * 100)
    assert (idle.lost, standing.lost) == (False, False)
    assert [heard.status for heard in standing.say(b"x")] == [200]
    idle.lose()
    standing.lose()


def test_a_body_in_drips_costs_little_more_than_its_bytes(site: FakeSite) -> None:
    wire = Wire(HttpChannel(site, ""))
    wire.say(post(b"x" * 1000)[:-1000])
    for _ in range(999):
        wire.server.dataReceived(b"x")
    assert len(wire.server._parser._pieces) == 999
    assert wire.server._parser.unparsed == b""
    assert read_all(wire.value()) == []
    wire.lose()
