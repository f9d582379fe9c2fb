from __future__ import annotations

import sys
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent

from broker.core.slices import SLICE
from broker.messages import HttpRequest, Response
from broker.web.http.channel import HttpChannel
from broker.web.http.parser import MAX_PIPELINED, MAX_UNPARSED_BYTES, Limits
from broker.web.http.response import render
from tests.support.logs import lines_of
from tests.web.http.fake_site import GET, UPGRADE, FakeSite, get, post
from tests.web.wire import Wire, read_all

# Requests and answers.


def test_a_request_is_answered(site: FakeSite, wire: Wire) -> None:
    wire.server.dataReceived(get("/a?b=c&d", "X-One: 1", "X-Two:  2 ", "x-two: 3"))
    request = site.requests[0]
    assert (request.method, request.path, request.query, request.body) == ("GET", "/a", "b=c&d", b"")
    assert request.headers == {"host": "h", "x-one": "1", "x-two": "2, 3"}
    assert (request.address, request.secure) == ("10.0.0.1", False)
    assert wire.value() == (
        b"HTTP/1.1 200 OK\r\n"
        b"Content-Type: application/json\r\n"
        b"Connection: keep-alive\r\n"
        b"Keep-Alive: timeout=5\r\n"
        b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
        b"X-Request-Id: " + request.id.encode() + b"\r\n"
        b"Content-Length: 2\r\n"
        b"\r\n"
        b"/a"
    )


def test_the_date_moves_on(site: FakeSite, wire: Wire) -> None:
    wire.say(GET)
    site.clock.advance(1.5)
    assert wire.say(GET)[0].headers["date"] == "Sun, 06 Nov 1994 08:49:38 GMT"


def test_a_request_may_come_byte_by_byte(site: FakeSite, wire: Wire) -> None:
    for byte in post(b"hello") + GET:
        wire.server.dataReceived(bytes((byte,)))
    assert [(request.path, request.body) for request in site.requests] == [("/p", b"hello"), ("/a", b"")]
    assert [heard.body for heard in wire.heard()] == [b"/p", b"/a"]


def test_ids_of_requests_look_like_random_uuids_and_differ(site: FakeSite, wire: Wire) -> None:
    ids = {heard.headers["x-request-id"] for heard in wire.say(GET * 10)}
    assert len(ids) == 10
    for id in ids:
        assert [len(part) for part in id.split("-")] == [8, 4, 4, 4, 12]
        assert UUID(id).version == 4


def test_a_large_body_comes_whole(site: FakeSite, wire: Wire) -> None:
    site.limits = Limits(body_bytes=100000)
    wire = Wire(HttpChannel(site, ""))
    body = bytes(range(256)) * 300
    stream = post(body) + GET
    for start in range(0, len(stream), 65536):
        wire.server.dataReceived(stream[start : start + 65536])
    assert [request.body for request in site.requests] == [body, b""]
    wire.lose()


def test_a_chunked_body_comes_whole(site: FakeSite, wire: Wire) -> None:
    head = get("/p", "Transfer-Encoding: chunked", method="POST")
    wire.say(head + b"3\r\nhel\r\n2\r\nlo\r\n0\r\nX-Trailer: 1\r\n\r\n")
    assert site.requests[0].body == b"hello"
    assert "x-trailer" not in site.requests[0].headers


def test_a_body_in_many_small_chunks_costs_little_more_than_its_bytes(site: FakeSite, wire: Wire) -> None:
    site.limits = Limits(body_bytes=100000)
    wire = Wire(HttpChannel(site, ""))
    wire.server.dataReceived(get("/p", "Transfer-Encoding: chunked", method="POST"))
    wire.server.dataReceived(b"1\r\nx\r\n" * 90000)
    assert sys.getsizeof(wire.server._parser._pieces) < 200000
    wire.server.dataReceived(b"0\r\n\r\n")
    assert site.requests[0].body == b"x" * 90000
    wire.lose()


def test_head_gets_the_length_and_no_body(site: FakeSite, wire: Wire) -> None:
    wire.server.dataReceived(get("/abc", method="HEAD"))
    (heard,) = read_all(wire.value(), heads=True)
    assert (heard.status, heard.headers["content-length"], heard.body) == (200, "4", b"")


@pytest.mark.parametrize("status", [204, 304])
def test_some_answers_have_neither_body_nor_length(site: FakeSite, wire: Wire, status: int) -> None:
    site.reply = lambda _: Response(status, b"never sent")
    (heard,) = wire.say(GET)
    assert heard.status == status
    assert not {"content-length", "content-type"} & set(heard.headers)


def test_a_plain_answer_has_no_request_id(site: FakeSite, wire: Wire) -> None:
    site.reply = lambda _: Response(404, plain=True)
    assert "x-request-id" not in wire.say(GET)[0].headers


def test_an_answer_may_have_its_own_reason_type_and_headers(site: FakeSite, wire: Wire) -> None:
    site.reply = lambda _: Response(299, b"x", "text/plain", (("X-A", "1"), ("X-B", "2")), "Fine")
    (heard,) = wire.say(GET)
    assert (heard.status, heard.reason, heard.headers["content-type"]) == (299, "Fine", "text/plain")
    assert (heard.headers["x-a"], heard.headers["x-b"]) == ("1", "2")


def test_a_client_s_words_do_not_become_header_lines(site: FakeSite, wire: Wire) -> None:
    site.reply = lambda _: Response(
        reason="OK\r\nX-Evil: 1",
        content_type="text/plain\r\nX-Evil: 2",
        headers=(("Location", "/\r\nX-Evil: 3\r\n\r\nbody\0"), ("X-Evil: 4\r\nX", "y"), ("X\nY", "z"), ("", "z")),
    )
    (heard,) = wire.say(GET)
    assert not [name for name in heard.headers if "evil" in name]
    assert heard.headers["location"] == "/ X-Evil: 3 body "


def test_a_dialect_does_not_decide_the_framing(site: FakeSite, wire: Wire) -> None:
    site.reply = lambda _: Response(
        body=b"hello",
        headers=(("Content-Length", "1"), ("transfer-encoding", "chunked"), ("Connection", "close"), ("Date", "-")),
    )
    (heard,) = wire.say(GET)
    assert (heard.headers["content-length"], heard.headers["connection"]) == ("5", "keep-alive")
    assert "transfer-encoding" not in heard.headers
    assert not wire.disconnecting


def test_characters_beyond_latin_1_are_replaced() -> None:
    wire = render(Response(headers=(("X", "é€"),)), "id", False, 5, b"")
    assert b"X: \xe9?\r\n" in wire


# The end of a connection.


def test_a_client_may_ask_to_close(site: FakeSite, wire: Wire) -> None:
    (heard,) = wire.say(get("/a", "Connection: close") + GET)
    assert heard.headers["connection"] == "close"
    assert "keep-alive" not in heard.headers
    assert wire.disconnecting
    assert len(site.requests) == 1


def test_an_old_client_is_answered_and_the_connection_closed(site: FakeSite, wire: Wire) -> None:
    (heard,) = wire.say(b"GET /old HTTP/1.0\r\n\r\n")
    assert (heard.body, heard.headers["connection"]) == (b"/old", "close")
    assert wire.disconnecting


def test_an_old_client_may_ask_to_stay(site: FakeSite, wire: Wire) -> None:
    (heard,) = wire.say(b"GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert heard.headers["connection"] == "keep-alive"
    assert not wire.disconnecting


def test_an_answer_may_close(site: FakeSite, wire: Wire) -> None:
    site.reply = lambda _: Response(close=True)
    heard = wire.say(GET + GET)
    assert [answer.headers["connection"] for answer in heard] == ["close"]
    assert len(site.requests) == 1


def test_the_site_is_told_of_the_end_once(site: FakeSite, wire: Wire) -> None:
    wire.say(get("/a", "Connection: close"))
    wire.lose()
    assert site.lost == [wire.server]


def test_an_idle_connection_finishes_at_once(site: FakeSite, wire: Wire) -> None:
    wire.say(GET)
    wire.server.finish()
    assert wire.disconnecting


def test_a_busy_connection_finishes_after_its_answer(site: FakeSite, wire: Wire) -> None:
    site.reply = site.wait
    wire.say(GET)
    wire.server.finish()
    assert not wire.disconnecting
    site.waiting[0].callback(Response())
    assert wire.heard()[0].headers["connection"] == "close"
    assert wire.disconnecting


def test_a_request_that_has_begun_is_answered_before_the_finish(site: FakeSite, wire: Wire) -> None:
    wire.say(GET[:10])
    wire.server.finish()
    assert wire.say(GET[10:])[0].headers["connection"] == "close"


# Order.


def test_a_pipeline_is_answered_in_order(site: FakeSite, wire: Wire) -> None:
    site.reply = lambda request: site.wait(request) if request.path == "/slow" else Response(body=request.path.encode())
    wire.say(get("/1") + get("/slow") + get("/3"))
    assert [heard.body for heard in wire.heard()] == []
    assert [request.path for request in site.requests] == ["/1", "/slow"]
    site.waiting[0].callback(Response(body=b"at last"))
    assert [heard.body for heard in wire.heard()] == [b"at last", b"/3"]


def test_a_long_pipeline_stops_the_reading_and_nothing_is_lost(site: FakeSite, wire: Wire) -> None:
    site.reply = site.wait
    stream = b"".join(get(f"/{number}") for number in range(3000))
    wire.server.dataReceived(stream)
    assert not wire.reading
    assert len(wire.server._parser.arrived) < 300
    while site.waiting:
        waiting, site.waiting = site.waiting, []
        for deferred in waiting:
            deferred.callback(Response())
    assert [request.path for request in site.requests] == [f"/{number}" for number in range(3000)]
    assert len(wire.heard()) == 3000
    assert wire.reading


def test_great_bodies_that_wait_stop_the_reading_and_are_not_lost(site: FakeSite, wire: Wire) -> None:
    site.limits = Limits(body_bytes=100000)
    site.reply = site.wait
    wire = Wire(HttpChannel(site, ""))
    bodies = [bytes((number,)) * 90000 for number in range(5)]
    wire.say(b"".join(map(post, bodies)))
    assert not wire.reading
    for number in range(5):
        site.waiting[number].callback(Response())
    assert [request.body for request in site.requests] == bodies
    assert wire.reading
    wire.lose()


def test_what_comes_while_nothing_is_parsed_keeps_its_place(site: FakeSite, wire: Wire) -> None:
    site.reply = site.wait
    wire.say(get("/") * (MAX_PIPELINED + 1))
    for piece in (b"GET /last HT", b"TP/1.1\r\nHost: h\r\n\r\n"):
        wire.say(piece)
    assert not wire.reading
    site.reply = lambda request: Response(body=request.path.encode())
    site.waiting[0].callback(Response())
    assert wire.heard()[-1].body == b"/last"
    assert wire.reading


def test_a_bad_request_is_refused_after_the_good_ones(site: FakeSite, wire: Wire) -> None:
    site.reply = site.wait
    wire.say(GET + b"nonsense\r\n\r\n")
    assert not wire.half_closed
    site.waiting[0].callback(Response())
    assert [heard.status for heard in wire.heard()] == [200, 400]
    assert wire.half_closed


# Clients that go away, and answers that fail.


def test_the_answer_is_cancelled_when_the_client_goes(site: FakeSite, wire: Wire, logged: list[LogEvent]) -> None:
    site.reply = site.wait
    wire.say(get("/poll") + get("/next"))
    wire.lose()
    assert site.cancelled == ["/poll"]
    assert len(site.requests) == 1
    assert not [event for event in logged if "log_failure" in event]


def test_an_answer_that_ignores_its_cancelling_is_dropped(site: FakeSite, wire: Wire) -> None:
    deferred: Deferred[Response] = Deferred(lambda cancelled: cancelled.callback(Response()))
    site.reply = lambda _: deferred
    wire.say(GET)
    wire.lose()
    assert wire.value() == b""


def test_an_answer_that_waits_twice_comes(site: FakeSite, wire: Wire) -> None:
    first: Deferred[Response] = Deferred()
    second: Deferred[Response] = Deferred()

    async def both(request: HttpRequest) -> Response:
        one = await first
        two = await second
        return Response(body=one.body + two.body)

    site.answer = both  # type: ignore[method-assign]
    wire.say(GET)
    first.callback(Response(body=b"1"))
    assert wire.heard() == []
    second.callback(Response(body=b"2"))
    assert wire.heard()[0].body == b"12"


def test_an_answer_may_survive_a_failure_that_it_waited_for(site: FakeSite, wire: Wire) -> None:
    deferred: Deferred[Response] = Deferred()

    async def brave(request: HttpRequest) -> Response:
        try:
            return await deferred
        except ValueError:
            return Response(418)

    site.answer = brave  # type: ignore[method-assign]
    wire.say(GET)
    deferred.errback(ValueError())
    assert wire.heard()[0].status == 418


@pytest.mark.parametrize("late", [False, True])
def test_an_answer_that_fails_is_a_500_and_the_connection_goes_on(
    site: FakeSite, wire: Wire, logged: list[LogEvent], late: bool
) -> None:
    def fail(_: HttpRequest) -> Any:
        raise ZeroDivisionError("deliberate")

    site.reply = site.wait if late else fail
    answers = wire.say(GET)
    if late:
        site.waiting[0].errback(ZeroDivisionError("deliberate"))
        answers = wire.heard()
    (heard,) = answers
    assert (heard.status, heard.headers["connection"]) == (500, "keep-alive")
    assert b"deliberate" not in heard.body
    assert [event["log_failure"].type for event in logged if "log_failure" in event] == [ZeroDivisionError]
    site.reply = lambda _: Response()
    assert wire.say(GET)[0].status == 200


@pytest.mark.parametrize("late", [False, True])
def test_an_answer_that_is_none_is_a_500(site: FakeSite, wire: Wire, logged: list[LogEvent], late: bool) -> None:
    site.reply = site.wait if late else (lambda _: Response(body="private"))  # type: ignore[arg-type]
    heard = wire.say(GET)
    if late:
        site.waiting[0].callback(None)  # type: ignore[arg-type]
        heard = wire.heard()
    assert [answer.status for answer in heard] == [500]
    assert [event for event in logged if "log_failure" in event]
    assert "private" not in "".join(map(str, lines_of(logged)))


def test_a_failure_behind_an_answer_costs_the_connection_only(
    site: FakeSite, wire: Wire, logged: list[LogEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Coroutine[Any, Any, Response]:
        raise ZeroDivisionError

    site.reply = site.wait
    wire.say(GET + GET)
    monkeypatch.setattr(site, "answer", fail)
    site.waiting[0].callback(Response())
    assert wire.aborted
    assert [event["log_failure"].type for event in logged if "log_failure" in event] == [ZeroDivisionError]


# Refusals.


@pytest.mark.parametrize(
    ("stream", "status"),
    [
        (b"GET /x HTTP/1.1\r\n\r\n", 400),
        (get("/x", "X: " + "y" * 20000), 431),
        (get("/x", "Content-Length: 1001", method="POST"), 413),
        (get("/x", "Content-Length: 1", "Expect: more", method="POST"), 417),
        (b"GET /x HTTP/2.0\r\nHost: h\r\n\r\n", 505),
    ],
)
def test_a_refused_request_ends_the_connection(site: FakeSite, wire: Wire, stream: bytes, status: int) -> None:
    (heard,) = wire.say(stream)
    assert (heard.status, heard.headers["connection"]) == (status, "close")
    assert wire.half_closed
    assert site.requests == []


def test_the_site_sees_as_much_of_a_refused_request_as_was_read(site: FakeSite, wire: Wire) -> None:
    (heard,) = wire.say(get("/big", "Content-Length: 1001", method="POST"))
    assert heard.body == b"The body is over 1000 bytes. /big"


def test_a_refused_client_that_still_sends_can_read_the_refusal(site: FakeSite, wire: Wire) -> None:
    wire.say(get("/x", "Content-Length: 9999", method="POST"))
    assert wire.say(b"x" * 5000) == []
    assert not wire.lost
    site.clock.pump([1.0] * 3)
    assert wire.aborted


# Expect: 100-continue.


def test_a_client_is_told_to_go_on(site: FakeSite, wire: Wire) -> None:
    head = get("/p", "Content-Length: 5", "Expect: 100-Continue", method="POST")
    wire.server.dataReceived(head)
    assert wire.value() == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.clear()
    assert wire.say(b"hello")[0].status == 200
    assert site.requests[0].body == b"hello"


def test_a_client_that_has_sent_its_body_already_is_not(site: FakeSite, wire: Wire) -> None:
    assert [heard.status for heard in wire.say(post(b"hello", "Expect: 100-continue"))] == [200]


def test_a_client_is_told_to_go_on_after_the_answers_before(site: FakeSite, wire: Wire) -> None:
    site.reply = site.wait
    wire.say(GET + get("/p", "Content-Length: 5", "Expect: 100-continue", method="POST"))
    assert wire.value() == b""
    site.waiting[0].callback(Response())
    assert [heard.status for heard in wire.heard()] == [200, 100]


@pytest.mark.parametrize("expectation", ["100-continue", "a-miracle"])
def test_what_an_old_client_expects_is_ignored(site: FakeSite, wire: Wire, expectation: str) -> None:
    head = f"POST /p HTTP/1.0\r\nContent-Length: 5\r\nExpect: {expectation}\r\n\r\n"
    assert wire.say(head.encode()) == []
    assert [heard.status for heard in wire.say(b"hello")] == [200]
    assert site.requests[0].body == b"hello"


def test_a_client_with_too_much_to_send_is_not_told_to_go_on(site: FakeSite, wire: Wire) -> None:
    head = get("/p", "Content-Length: 5000", "Expect: 100-continue", method="POST")
    assert [heard.status for heard in wire.say(head)] == [413]


# Time.


def test_a_slow_header_is_refused(site: FakeSite, wire: Wire) -> None:
    for byte in GET[:18]:
        wire.server.dataReceived(bytes((byte,)))
        site.clock.advance(0.5)
    assert wire.value() == b""
    site.clock.pump([0.5] * 4)
    assert [heard.status for heard in wire.heard()] == [408]
    assert wire.half_closed


def test_a_silent_new_connection_is_closed_without_a_word(site: FakeSite, wire: Wire) -> None:
    site.clock.pump([1.0] * 11)
    assert wire.lost
    assert wire.value() == b""


def test_an_idle_connection_outlives_what_was_advertised_and_is_closed(site: FakeSite, wire: Wire) -> None:
    heard = wire.say(GET)
    assert heard[0].headers["keep-alive"] == "timeout=5"
    site.clock.pump([1.0] * 29)
    assert not wire.lost
    site.clock.pump([1.0] * 32)
    assert wire.lost
    assert wire.value() == b""


def test_requests_keep_a_connection_open(site: FakeSite, wire: Wire) -> None:
    for _ in range(10):
        wire.say(GET)
        site.clock.pump([1.0] * 20)
    assert not wire.lost


def test_a_connection_is_not_idle_while_its_answer_is_awaited(site: FakeSite, wire: Wire) -> None:
    site.reply = site.wait
    wire.say(GET)
    site.clock.pump([10.0] * 30)
    assert not wire.lost
    site.waiting[0].callback(Response())
    site.clock.pump([1.0] * 29)
    assert not wire.lost


def test_each_request_has_its_own_time(site: FakeSite, wire: Wire) -> None:
    wire.say(GET[:10])
    site.clock.pump([1.0] * 9)
    wire.say(GET[10:] + GET[:10])
    site.clock.pump([1.0] * 9)
    assert wire.say(GET[10:])[0].status == 200


# A client that does not read.


def test_nothing_is_answered_while_the_client_does_not_read(site: FakeSite, wire: Wire) -> None:
    wire.full = True
    wire.say(GET * 3)
    assert len(site.requests) == 1
    wire.drain()
    assert len(site.requests) == 3


def test_a_client_that_never_reads_is_cut_off(site: FakeSite, wire: Wire) -> None:
    wire.full = True
    wire.say(GET * 3)
    site.clock.pump([1.0] * 61)
    assert wire.aborted


def test_a_client_that_sends_and_never_reads_is_read_no_further(site: FakeSite, wire: Wire) -> None:
    wire.full = True
    for _ in range(10):
        if wire.reading:
            wire.server.dataReceived(GET * 1000)
    assert not wire.reading
    assert len(site.requests) == 1
    wire.drain()
    assert len(site.requests) >= 1000


def test_a_client_that_reads_again_in_time_stays(site: FakeSite, wire: Wire) -> None:
    wire.full = True
    wire.say(GET)
    site.clock.pump([1.0] * 59)
    wire.drain()
    site.clock.pump([1.0] * 20)
    assert not wire.lost


def test_a_closing_connection_whose_client_does_not_read_is_cut_off(site: FakeSite, wire: Wire) -> None:
    wire.lose = lambda reason=None: None  # type: ignore[method-assign]
    wire.say(get("/a", "Connection: close"))
    site.clock.pump([1.0] * 61)
    assert wire.aborted
    del wire.lose


# Upgrades.


def test_a_handshake_is_handed_over_with_what_came_behind_it(site: FakeSite, wire: Wire) -> None:
    wire.server.dataReceived(GET + UPGRADE + b"\x81\x80mask")
    assert [heard.body for heard in wire.heard()] == [b"/a"]
    ((request, rest),) = site.upgraded
    assert (request.path, request.headers["upgrade"], rest) == ("/ws", "websocket", b"\x81\x80mask")
    assert site.lost == []
    assert len(site.deadlines) == 0


def test_a_handshake_waits_for_the_answers_before_it(site: FakeSite, wire: Wire) -> None:
    site.reply = site.wait
    wire.say(GET + UPGRADE + b"one")
    wire.say(b"two")
    assert site.upgraded == []
    site.waiting[0].callback(Response())
    assert site.upgraded[0][1] == b"onetwo"


def test_a_client_does_not_send_without_end_before_its_handshake_is_answered(site: FakeSite, wire: Wire) -> None:
    site.reply = site.wait
    wire.say(GET + UPGRADE)
    wire.server.dataReceived(b"x" * MAX_UNPARSED_BYTES)
    assert not wire.reading
    site.waiting[0].callback(Response())
    assert wire.reading
    assert site.upgraded[0][1] == b"x" * MAX_UNPARSED_BYTES


def test_a_handshake_behind_a_long_pipeline_loses_nothing(site: FakeSite, wire: Wire) -> None:
    site.reply = site.wait
    wire.say(get("/") * (MAX_PIPELINED + 1) + UPGRADE + b"one")
    wire.say(b"two")
    site.reply = lambda _: Response()
    site.waiting[0].callback(Response())
    assert site.upgraded[0][1] == b"onetwo"


def test_a_refused_handshake_is_answered_and_ends_the_connection(site: FakeSite, wire: Wire) -> None:
    site.refuse_upgrade = Response(403)
    (heard,) = wire.say(UPGRADE + GET)
    assert (heard.status, heard.headers["connection"]) == (403, "close")
    assert wire.half_closed
    assert site.requests == []


def test_an_upgrade_to_something_else_is_an_ordinary_request(site: FakeSite, wire: Wire) -> None:
    (heard,) = wire.say(post(b"hello", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: x"))
    assert (heard.status, site.requests[0].body) == (200, b"hello")
    assert site.upgraded == []


@attrs.define
class Broken:
    """A limit that can not be compared."""


def test_a_mistake_while_parsing_is_no_fault_of_the_client(site: FakeSite) -> None:
    site.limits = Limits(head_fields=Broken())  # type: ignore[arg-type]
    wire = Wire(HttpChannel(site, ""))
    with pytest.raises(Exception, match="callback"):
        wire.say(GET)
    wire.lose()


def test_requests_that_take_long_let_others_have_their_turn(site: FakeSite, wire: Wire) -> None:
    def reply(request: HttpRequest) -> Response:
        site.clock.rightNow += SLICE
        return Response(body=b"done")

    site.reply = reply
    site.slices.begin()
    wire.say(get("/1") + get("/2") + get("/3"))
    site.slices.finish()
    assert [request.path for request in site.requests] == ["/1"]
    wire.say(get("/4"))
    assert len(site.requests) == 1
    site.clock.pump([0] * 4)
    assert [request.path for request in site.requests] == ["/1", "/2", "/3", "/4"]
    assert site.slices.pauses == 3


def test_bodies_wait_for_the_end_of_a_backlog_and_other_requests_do_not(site: FakeSite) -> None:
    wires = [Wire(HttpChannel(site, "10.0.0.1")) for _ in range(2)]
    site.slices.begin_backlog("a")
    wires[0].say(b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 600\r\n\r\n" + b"x" * 600)
    wires[1].say(get("/2"))
    site.clock.advance(0)
    assert [request.path for request in site.requests] == ["/2"]
    site.slices.end_backlog("a")
    site.clock.advance(0)
    assert [request.path for request in site.requests] == ["/2", "/1"]
    for wire in wires:
        wire.lose()


def test_bodies_that_are_complete_when_the_slice_is_over_wait(site: FakeSite) -> None:
    wires = [Wire(HttpChannel(site, "10.0.0.1")) for _ in range(3)]
    body = b"x" * 600
    site.slices.begin()
    site.clock.rightNow += SLICE
    for wire in wires:
        wire.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    assert site.requests == []
    site.slices.finish()
    site.clock.advance(0)
    assert len(site.requests) == site.slices.pauses == 3
    for wire in wires:
        wire.lose()
