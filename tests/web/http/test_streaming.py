"""Bodies that are sent while they are made, over a connection without a network."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from broker.errors import Unavailable
from broker.messages import Response
from broker.web.http.channel import HttpChannel
from broker.web.http.streaming import framing_of
from tests.support.logs import failures_of
from tests.web.http.fake_site import GET, FakeSite, get, post
from tests.web.wire import Wire

HTTP_1_0 = b"GET /a HTTP/1.0\r\n\r\n"
KEPT_1_0 = b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"


class Pieces:
    """An asynchronous iterator that yields what the test gives to it, and notes what becomes of it."""

    def __init__(self, *given: bytes) -> None:
        self.asked = 0
        self.closed = 0
        self.cancelled = 0
        self._given: list[Any] = list(given)
        self._waiting: Deferred[bytes] | None = None

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        self.asked += 1
        if self._given:
            piece = self._given.pop(0)
        else:
            self._waiting = Deferred()
            try:
                piece = await self._waiting
            except CancelledError:
                self.cancelled += 1
                raise
        if piece is None:
            raise StopAsyncIteration
        return piece  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        self.closed += 1

    def give(self, piece: bytes | None) -> None:
        assert self._waiting is not None
        self._waiting.callback(piece)  # type: ignore[arg-type]

    def fail(self, error: Exception) -> None:
        assert self._waiting is not None
        self._waiting.errback(error)


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


def stream(site: FakeSite, body: Any, **more: Any) -> None:
    site.reply = lambda request: Response(body=body, **more)


def test_pieces_are_chunks_and_the_connection_goes_on(site: FakeSite, wire: Wire) -> None:
    site.reply = lambda request: Response(body=pieces(b"ab", b"", b"c" * 17))
    wire.server.dataReceived(GET)
    data = wire.value()
    assert b"\r\nTransfer-Encoding: chunked\r\n" in data
    assert b"Content-Length" not in data
    assert data.endswith(b"\r\n\r\n2\r\nab\r\n11\r\n" + b"c" * 17 + b"\r\n0\r\n\r\n")
    wire.clear()
    (answer,) = wire.say(GET)
    assert (answer.headers["connection"], answer.body) == ("keep-alive", b"ab" + b"c" * 17)
    assert site.released == ["/a", "/a"]


def test_head_is_sent_before_there_is_a_piece(site: FakeSite, wire: Wire) -> None:
    body = Pieces()
    stream(site, body)
    wire.server.dataReceived(GET)
    assert wire.value().endswith(b"\r\n\r\n")
    wire.clear()
    body.give(b"1")
    assert wire.value() == b"1\r\n1\r\n"
    wire.clear()
    body.give(None)
    assert wire.value() == b"0\r\n\r\n"
    assert (body.closed, site.released) == (1, ["/a"])


def test_a_length_that_is_known_is_told(site: FakeSite, wire: Wire) -> None:
    site.reply = lambda request: Response(body=pieces(b"ab", b"c"), length=3)
    (answer,) = wire.say(GET)
    assert (answer.headers["content-length"], answer.body) == ("3", b"abc")
    assert "transfer-encoding" not in answer.headers


@pytest.mark.parametrize("length", [2, 4])
def test_a_body_that_has_another_length_ends_the_connection(
    site: FakeSite, wire: Wire, length: int, logged: Any
) -> None:
    site.reply = lambda request: Response(body=pieces(b"ab", b"c"), length=length)
    wire.server.dataReceived(GET)
    assert wire.aborted
    assert wire.value().partition(b"\r\n\r\n")[2] in (b"ab", b"abc")
    assert [type(failure) for failure in failures_of(logged)] == [ValueError]


def test_for_http_1_0_the_end_of_the_connection_is_the_end(site: FakeSite, wire: Wire) -> None:
    site.reply = lambda request: Response(body=pieces(b"ab", b"c"))
    wire.server.dataReceived(KEPT_1_0)
    head, _, body = wire.value().partition(b"\r\n\r\n")
    assert b"Connection: close" in head
    assert b"Transfer-Encoding" not in head
    assert (body, wire.disconnecting, wire.aborted) == (b"abc", True, False)


def test_for_http_1_0_a_known_length_keeps_the_connection(site: FakeSite, wire: Wire) -> None:
    site.reply = lambda request: Response(body=pieces(b"ab", b"c"), length=3)
    (answer,) = wire.say(KEPT_1_0)
    assert (answer.headers["connection"], answer.body) == ("keep-alive", b"abc")


def test_for_http_1_0_a_failure_is_no_clean_end(site: FakeSite, wire: Wire) -> None:
    body = Pieces(b"ab")
    stream(site, body)
    wire.server.dataReceived(HTTP_1_0)
    body.fail(Unavailable(message="The store is away"))
    assert wire.aborted


@pytest.mark.parametrize(("length", "told"), [(None, None), (3, "3")])
def test_a_head_has_no_body_and_the_source_does_not_begin(
    site: FakeSite, wire: Wire, length: int | None, told: str | None
) -> None:
    body = Pieces(b"abc")
    stream(site, body, length=length)
    wire.server.dataReceived(get("/a", method="HEAD"))
    data = wire.value()
    assert data.endswith(b"\r\n\r\n")
    assert (b"Content-Length: 3\r\n" in data) is (told is not None)
    assert (body.asked, body.closed, site.released) == (0, 1, ["/a"])
    wire.clear()
    site.reply = lambda request: Response(body=b"next")
    assert [answer.body for answer in wire.say(GET)] == [b"next"]


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_can_have_no_body_has_none(site: FakeSite, wire: Wire, status: int) -> None:
    body = Pieces(b"abc")
    stream(site, body, status=status)
    (answer,) = wire.say(GET)
    assert (answer.status, answer.body, body.asked, body.closed) == (status, b"", 0, 1)
    assert not {"content-length", "transfer-encoding"} & answer.headers.keys()


def test_a_client_that_leaves_cancels_what_is_awaited_and_closes_the_iterator(site: FakeSite, wire: Wire) -> None:
    body = Pieces(b"a")
    stream(site, body)
    wire.server.dataReceived(GET)
    wire.lose()
    assert (body.cancelled, body.closed, site.released) == (1, 1, ["/a"])


@pytest.mark.parametrize("given", [(b"a",), (b"a", b"b")], ids=["waits for the source", "waits for the client"])
def test_what_a_client_leaves_behind_is_no_garbage(site: FakeSite, wire: Wire, given: tuple[bytes, ...]) -> None:
    stream(site, Pieces(*given))
    wire.full = len(given) > 1
    wire.server.dataReceived(GET)
    wire.producer.resumeProducing()
    gc.collect()
    gc.disable()
    try:
        wire.lose()
        wire.server = wire.producer = None
        site.lost.clear()
        site.requests.clear()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_what_a_generator_does_at_its_end_is_done_when_the_client_leaves(site: FakeSite, wire: Wire) -> None:
    done: list[str] = []
    cleaned: Deferred[None] = Deferred()

    async def generate() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            await Deferred()
        finally:
            done.append("began")
            await cleaned
            done.append("ended")

    stream(site, generate())
    wire.server.dataReceived(GET)
    wire.lose()
    assert (done, site.released) == (["began"], [])
    cleaned.callback(None)
    assert (done, site.released) == (["began", "ended"], ["/a"])


def test_a_client_that_leaves_while_the_answer_is_awaited_gets_none_and_its_body_is_closed(
    site: FakeSite, wire: Wire
) -> None:
    body, answer = Pieces(b"a"), Deferred[Response]()
    answer.addErrback(lambda _: Response(body=body))  # it ignores that it was cancelled
    site.reply = lambda request: answer
    wire.server.dataReceived(GET)
    wire.lose()
    assert (body.asked, body.closed, site.released) == (0, 1, ["/a"])


def test_a_client_that_does_not_read_is_asked_for_no_piece(site: FakeSite, wire: Wire) -> None:
    body = Pieces(b"a", b"b")
    stream(site, body)
    wire.full = True
    wire.server.dataReceived(GET)
    assert body.asked == 0
    wire.producer.resumeProducing()
    assert body.asked == 1
    wire.drain()
    assert body.asked == 3
    body.give(None)
    assert wire.heard()[0].body == b"ab"


def test_a_client_that_reads_nothing_is_dropped(site: FakeSite, wire: Wire) -> None:
    body = Pieces(b"a", b"b")
    stream(site, body)
    wire.full = True
    wire.dataBuffer = b"x" * 1000
    wire.server.dataReceived(GET)
    site.clock.pump([5.0] * 20)
    assert (wire.aborted, wire.server.too_slow, body.closed, site.released) == (True, True, 1, ["/a"])


def test_a_stream_that_waits_for_its_source_has_no_time_limit(site: FakeSite, wire: Wire) -> None:
    body = Pieces()
    stream(site, body)
    wire.server.dataReceived(GET)
    site.clock.pump([30.0] * 100)
    assert not wire.lost
    body.give(b"at last")
    body.give(None)
    assert wire.heard()[0].body == b"at last"


def test_pipelined_requests_wait_for_the_end_of_a_stream(site: FakeSite, wire: Wire) -> None:
    body = Pieces(b"first")
    site.reply = lambda request: Response(body=body if request.path == "/s" else b"second")
    wire.server.dataReceived(get("/s") + get("/t"))
    assert [request.path for request in site.requests] == ["/s"]
    body.give(None)
    assert [answer.body for answer in wire.heard()] == [b"first", b"second"]


def test_many_pipelined_streams_are_no_recursion(site: FakeSite, wire: Wire) -> None:
    site.reply = lambda request: Response(body=pieces(b"x"))
    wire.server.dataReceived(GET * 2000)
    site.clock.pump([0.01] * 100)
    assert len(wire.heard()) == 2000


def test_the_last_of_a_connection_closes_it_at_the_end(site: FakeSite, wire: Wire) -> None:
    body = Pieces(b"a")
    stream(site, body)
    wire.server.dataReceived(get("/a", "Connection: close"))
    assert not wire.lost
    body.give(None)
    assert [answer.headers["connection"] for answer in wire.heard()] == ["close"]
    assert wire.lost


def test_a_stream_goes_on_while_the_site_drains_and_then_closes(site: FakeSite, wire: Wire) -> None:
    body = Pieces(b"a")
    stream(site, body)
    wire.server.dataReceived(GET)
    wire.server.finish()
    body.give(b"b")
    assert not wire.lost
    body.give(None)
    assert [answer.body for answer in wire.heard()] == [b"ab"]
    assert (wire.lost, wire.aborted) == (True, False)


def test_a_half_closed_client_gets_all_of_a_stream(site: FakeSite, wire: Wire) -> None:
    body = Pieces(b"a")
    stream(site, body)
    wire.server.dataReceived(GET)
    wire.end()
    for _ in range(10):
        site.clock.pump([1.0] * 50)
        body.give(b".")
    body.give(None)
    assert [answer.body for answer in wire.heard()] == [b"a.........."]
    assert (wire.lost, wire.aborted) == (True, False)


@pytest.mark.parametrize("error", [Unavailable(message="away"), RuntimeError("ours")])
def test_what_fails_on_the_way_ends_the_connection(site: FakeSite, wire: Wire, error: Exception, logged: Any) -> None:
    body = Pieces(b"a")
    stream(site, body)
    wire.server.dataReceived(GET)
    body.fail(error)
    assert wire.aborted
    assert not wire.value().endswith(b"0\r\n\r\n")
    assert (body.closed, site.released) == (1, ["/a"])
    assert failures_of(logged) == [error] * isinstance(error, RuntimeError)


@pytest.mark.parametrize("piece", ["text", None, 5, bytearray(b"a")])
def test_a_piece_that_is_not_bytes_is_a_bug(site: FakeSite, wire: Wire, piece: Any, logged: Any) -> None:
    site.reply = lambda request: Response(body=pieces(piece))
    wire.server.dataReceived(GET)
    assert wire.aborted
    assert [type(failure) for failure in failures_of(logged)] == [TypeError]


def test_a_header_that_can_not_be_rendered_ends_the_source(site: FakeSite, wire: Wire, logged: Any) -> None:
    body = Pieces(b"a")
    stream(site, body, headers=("no pair",))
    (answer,) = wire.say(GET)
    assert (answer.status, body.asked, body.closed, site.released) == (500, 0, 1, ["/a"])
    assert len(failures_of(logged)) == 1


def test_own_fields_of_a_dialect_do_not_change_where_a_body_ends(site: FakeSite, wire: Wire) -> None:
    headers = (("Content-Length", "1"), ("transfer-encoding", "gzip"))
    site.reply = lambda request: Response(body=pieces(b"abc"), headers=headers)
    (answer,) = wire.say(GET)
    assert (answer.body, answer.headers["transfer-encoding"]) == (b"abc", "chunked")


def test_a_long_source_lets_others_have_their_turn(site: FakeSite, wire: Wire) -> None:
    asked = 0

    async def long() -> AsyncIterator[bytes]:
        nonlocal asked
        while asked < 100:
            asked += 1
            site.clock.rightNow += 0.001
            yield b"x"

    stream(site, long())
    wire.server.dataReceived(GET)
    assert 0 < asked < 20
    site.clock.advance(0)
    assert asked == 100


def test_an_iterator_without_a_close_is_one_too(site: FakeSite, wire: Wire) -> None:
    class Two:
        left = 2

        def __aiter__(self) -> Two:
            return self

        async def __anext__(self) -> bytes:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return b"x"

    stream(site, Two())
    assert [answer.body for answer in wire.say(GET)] == [b"xx"]


def test_a_source_that_ends_its_own_connection_is_closed(site: FakeSite, wire: Wire) -> None:
    ended: list[bool] = []

    async def ending() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            wire.abortConnection()
            yield b"b"
        finally:
            ended.append(True)

    stream(site, ending())
    wire.server.dataReceived(GET)
    assert ended == [True]
    assert site.released == ["/a"]


def test_a_source_that_ends_its_own_connection_and_then_waits_is_cancelled(site: FakeSite, wire: Wire) -> None:
    ended: list[bool] = []
    waiting: Deferred[None] = Deferred()

    async def ending() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            await waiting
            wire.abortConnection()
            await Deferred()
        finally:
            ended.append(True)

    stream(site, ending())
    wire.server.dataReceived(GET)
    waiting.callback(None)
    site.clock.advance(0)
    assert ended == [True]
    assert site.released == ["/a"]


@attrs.define(eq=False)
class Producer:
    """An ``IBodyProducer`` that notes what is asked of it."""

    length: Any = "unknown"
    consumer: Any = None
    calls: list[str] = attrs.field(factory=list)
    done: Deferred[None] = attrs.field(factory=Deferred)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        self.consumer = consumer
        self.calls.append("start")
        return self.done

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


def test_a_producer_writes_its_body(site: FakeSite, wire: Wire) -> None:
    producer = Producer()
    stream(site, producer)
    wire.server.dataReceived(GET)
    producer.consumer.write(b"ab")
    wire.full = True
    producer.consumer.write(b"c")
    wire.drain()
    producer.done.callback(None)
    assert [answer.body for answer in wire.heard()] == [b"abc"]
    assert producer.calls == ["start", "pause", "resume"]
    assert site.released == ["/a"]


def test_the_length_of_a_producer_is_told(site: FakeSite, wire: Wire) -> None:
    producer = Producer(length=2, done=succeed(None))
    site.reply = lambda request: Response(body=producer)
    wire.server.dataReceived(get("/a", method="HEAD"))
    assert b"Content-Length: 2\r\n" in wire.value()
    assert producer.calls == ["stop"]


def test_a_producer_is_stopped_when_the_client_leaves(site: FakeSite, wire: Wire) -> None:
    producer = Producer()
    stream(site, producer)
    wire.server.dataReceived(GET)
    wire.lose()
    producer.consumer.write(b"late")
    assert (producer.calls, site.released) == (["start", "stop"], ["/a"])
    producer.done.errback(Failure(ConnectionDone()))  # it may do this: nobody minds
    producer.done.addErrback(lambda _: None)


@pytest.mark.parametrize("acts", ["start", "stop"])
def test_a_producer_that_fails_costs_its_own_connection(site: FakeSite, wire: Wire, acts: str, logged: Any) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("ours")

    broken = type("Broken", (Producer,), {f"{acts}Producing": fail})
    stream(site, broken())
    wire.server.dataReceived(GET)
    assert wire.aborted is (acts == "start")
    wire.lose()
    assert [type(failure) for failure in failures_of(logged)] == [RuntimeError]
    assert site.released == ["/a"]


def test_what_waits_for_a_client_on_a_transport_that_does_not_count_is_counted(site: FakeSite) -> None:
    wire = Wire(HttpChannel(site, "10.0.0.1"))
    body = Pieces(b"x" * 1000)
    stream(site, body)
    wire.server.dataReceived(GET)
    assert site.memory.used == 0
    wire.full = True
    body.give(b"x" * 1000)
    assert 1000 <= site.memory.send_queue.used < 1100
    wire.drain()
    assert site.memory.used == 0
    wire.full = True
    body.give(b"x" * 1000)
    wire.lose()
    assert site.memory.used == 0


def test_the_body_of_a_request_counts_until_its_stream_has_ended(site: FakeSite) -> None:
    site.limits = attrs.evolve(site.limits, body_bytes=100_000)
    wire = Wire(HttpChannel(site, "10.0.0.1"))
    body = Pieces()
    stream(site, body)
    wire.server.dataReceived(post(b"x" * 50_000))
    body.give(None)
    assert site.memory.used == 0
    wire.lose()


def test_what_one_client_after_the_other_is_sent_is_framed_once() -> None:
    ann, bob = framing_of("1.1", None), framing_of("1.1", None)
    piece, other = b"data: 1\n\n", b"data: 2\n\n"
    chunk = ann.frame(piece)
    assert (chunk, ann.frame(other)) == (b"9\r\ndata: 1\n\n\r\n", b"9\r\ndata: 2\n\n\r\n")
    assert bob.frame(other) is ann.frame(other)
