"""Upgrading: handshakes, sessions, how a link is used, and how it ends."""

from __future__ import annotations

import json
import sys
import zlib
from typing import Any, cast

import attrs
import pytest
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.logger import LogEvent
from zope.interface.verify import verifyObject

from broker.core.slices import BYTE, SLICE, slices_of
from broker.errors import Refused
from broker.interfaces import ILink
from broker.messages import HttpRequest, Response, text_frame
from broker.web.ws import masking
from broker.web.ws.link import WebSocketLink
from broker.web.ws.options import WebSocketOptions
from broker.web.ws.reader import MAX_READING
from broker.web.ws.upgrade import WebSocketUpgrader
from tests.web.ws.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    WAYS,
    Bench,
    Session,
    Wire,
    client_frame,
    closing,
    each_way,
    handshake,
    open_link,
    refuse,
    server_frames,
    text,
)


class Arrival:
    """A client that asks for the upgrade, and what becomes of it."""

    def __init__(self, request: HttpRequest | None = None, rest: bytes = b"", **options: Any) -> None:
        self.clock = Clock()
        self.wire = Wire()
        self.upgrader = WebSocketUpgrader(WebSocketOptions(**options), self.clock)
        self.request = request or handshake()
        self.rest = rest
        self.ended: list[tuple[int, str]] = []
        self.making: Deferred[Any] = Deferred(lambda _: self.cancelled.append(True))
        self.cancelled: list[bool] = []
        self.sessions: list[Session] = []

    def enter(self, factory: Any = None, **options: Any) -> Response | None:
        return self.upgrader.upgrade(
            self.wire,
            self.request,
            cast(Any, factory or self.session),
            refuse=options.pop("refuse", refuse),
            on_closed=lambda code, reason: self.ended.append((code, reason)),
            rest=self.rest,
            **options,
        )

    def session(self, link: ILink) -> Session:
        self.sessions.append(Session(link))
        return self.sessions[-1]

    def later(self, link: ILink) -> Deferred[Any]:
        self.session(link)
        return self.making

    def timers(self) -> list[Any]:
        self.clock.advance(0.1)
        return list(self.clock.getDelayedCalls())


def slow_link(way: Any) -> Bench:
    """Return a link whose session takes a whole slice for each message."""
    bench = open_link(**way)

    def work() -> None:
        bench.clock.rightNow += SLICE

    bench.session.work = work
    return bench


def feed_in_slice(bench: Bench, data: bytes) -> None:
    """Let *data* come as the reactor's loop does."""
    slices = slices_of(bench.clock)
    slices.begin()
    bench.wire.feed(data)
    slices.finish()


def arrived(bench: Bench) -> list[bytes]:
    return [data for data, _ in bench.session.messages]


class TestHandshake:
    def test_a_good_one_is_accepted_with_the_key_of_the_rfc(self) -> None:
        arrival = Arrival()
        assert arrival.enter(subprotocol="chat", headers=[("X-Own", "1")]) is None
        # RFC 6455, 1.3: for this key "the server would […] s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".
        assert arrival.wire.value() == (
            b"HTTP/1.1 101 Switching Protocols\r\n"
            b"Upgrade: websocket\r\n"
            b"Connection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
            b"Server: txbroker\r\n"
            b"X-Own: 1\r\n"
            b"Sec-WebSocket-Protocol: chat\r\n"
            b"X-Request-Id: req-1\r\n\r\n"
        )
        assert arrival.sessions[0].log == ["opened"]

    def test_the_server_need_not_tell_its_name(self) -> None:
        arrival = Arrival(attrs.evolve(handshake(), id=""), server="")
        arrival.enter()
        assert b"Server" not in arrival.wire.value()
        assert b"X-Request-Id" not in arrival.wire.value()

    @pytest.mark.parametrize(
        "headers",
        [
            {"upgrade": "WebSocket"},
            {"upgrade": "h2c, websocket"},
            {"connection": "keep-alive, Upgrade"},
            {"sec-websocket-key": " dGhlIHNhbXBsZSBub25jZQ== "},
        ],
    )
    def test_other_spellings_are_accepted(self, headers: dict[str, str]) -> None:
        assert Arrival(handshake(**headers)).enter() is None

    @pytest.mark.parametrize(
        ("headers", "status", "told"),
        [
            ({"upgrade": ""}, 426, ("Upgrade", "websocket")),
            ({"upgrade": "h2c"}, 426, ("Upgrade", "websocket")),
            ({"connection": "keep-alive"}, 426, ("Upgrade", "websocket")),
            ({"host": ""}, 400, None),
            ({"sec-websocket-version": "8"}, 426, ("Sec-WebSocket-Version", "13")),
            ({"sec-websocket-version": "13, 13"}, 426, ("Sec-WebSocket-Version", "13")),
            ({"sec-websocket-version": ""}, 426, ("Sec-WebSocket-Version", "13")),
            ({"sec-websocket-key": ""}, 400, None),
            ({"sec-websocket-key": "dGhlIHNhbXBsZQ=="}, 400, None),
            ({"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ"}, 400, None),
            ({"sec-websocket-key": "dGhlIHNhbXBs*SBub25jZQ=="}, 400, None),
            ({"sec-websocket-key": "é" * 24}, 400, None),
        ],
    )
    def test_a_bad_one_is_refused_and_nothing_taken_over(
        self, headers: dict[str, str], status: int, told: tuple[str, str] | None
    ) -> None:
        arrival = Arrival(handshake(**headers))
        response = arrival.enter()
        assert response is not None
        assert response.status == status
        assert told is None or told in response.headers
        assert json.loads(response.body)["error"]["code"] == "INVALID"
        assert arrival.wire.value() == b""
        assert arrival.ended == []
        assert not arrival.upgrader.links

    def test_another_method_is_refused(self) -> None:
        response = Arrival(attrs.evolve(handshake(), method="POST")).enter()
        assert response is not None
        assert (response.status, response.headers) == (405, (("Allow", "GET"),))


class TestSession:
    def test_it_may_take_time_and_gets_what_came_meanwhile(self) -> None:
        arrival = Arrival(rest=text("first"))
        arrival.enter(arrival.later)
        arrival.wire.feed(text("second"))
        assert arrival.wire.value() == b""
        arrival.making.callback(arrival.sessions[0])
        arrival.wire.feed(text("third"))
        assert arrival.wire.value().startswith(b"HTTP/1.1 101 ")
        assert arrival.sessions[0].messages == [(b"first", False), (b"second", False), (b"third", False)]

    def test_it_may_come_from_a_coroutine(self) -> None:
        arrival = Arrival()

        async def make(link: ILink) -> Session:
            return arrival.session(link)

        arrival.enter(make)
        assert arrival.sessions[0].log == ["opened"]

    def test_a_client_that_sends_too_much_ahead_is_read_no_further(self) -> None:
        arrival = Arrival()
        arrival.enter(arrival.later)
        arrival.wire.feed(text("a" * 60_000))
        assert arrival.wire.producerState == "producing"
        arrival.wire.feed(text("b" * 60_000))
        assert arrival.wire.producerState == "paused"
        arrival.making.callback(arrival.sessions[0])
        assert arrival.wire.producerState == "producing"
        assert [len(data) for data, _ in arrival.sessions[0].messages] == [60_000, 60_000]

    def test_a_refusal_is_answered_with_its_own_status_and_body(self) -> None:
        arrival = Arrival()
        arrival.enter(arrival.later)
        arrival.making.errback(Refused(401, "who?", body=b'{"no":1}', content_type="application/json"))
        answer = arrival.wire.value()
        assert answer.startswith(
            b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nConnection: close\r\n"
        )
        assert answer.endswith(b'\r\n\r\n{"no":1}')
        assert b"X-Request-Id: req-1\r\n" in answer
        assert arrival.wire.disconnecting
        arrival.wire.lose()
        assert arrival.ended == [(401, "who?")]
        assert not arrival.upgrader.links
        assert arrival.timers() == []

    def test_a_refusal_of_too_many_tells_when_to_come_again(self) -> None:
        for status, field in ((429, b"Retry-After: 18\r\n"), (503, b"Retry-After: 18\r\n"), (403, b"")):
            arrival = Arrival()
            arrival.enter(arrival.later)
            arrival.making.errback(Refused(status, body=b"no", retry_after=17.2))
            assert field in arrival.wire.value()
            assert (b"Retry-After" in arrival.wire.value()) == bool(field)

    def test_a_refusal_without_a_body_tells_its_message(self) -> None:
        arrival = Arrival()

        def make(link: ILink) -> Session:
            raise Refused(403, "not you")

        arrival.enter(make)
        assert arrival.wire.value().endswith(b"\r\n\r\nnot you")

    def test_another_failure_is_answered_as_the_caller_says(self) -> None:
        arrival = Arrival(attrs.evolve(handshake(), id=""))
        arrival.enter(arrival.later, refuse=lambda failure: Response(418, str(failure.value).encode()))
        arrival.making.errback(ValueError("tea"))
        assert arrival.wire.value().startswith(b"HTTP/1.1 418 ")
        assert arrival.wire.value().endswith(b"\r\n\r\ntea")
        assert arrival.ended == [(418, "tea")]

    def test_a_failure_without_an_answer_is_an_internal_error(self, logged: list[LogEvent]) -> None:
        arrival = Arrival()

        def broken(failure: Any) -> Response:
            raise RuntimeError("provoked")

        arrival.enter(arrival.later, refuse=broken)
        arrival.making.errback(ValueError("x"))
        assert arrival.wire.value().startswith(b"HTTP/1.1 500 ")
        assert "RuntimeError" in str(logged[-1]["log_failure"])

    def test_a_client_that_does_not_read_its_refusal_is_cut_off(self) -> None:
        arrival = Arrival(close_timeout=2.0)
        arrival.enter(arrival.later)
        arrival.making.errback(Refused(401))
        arrival.wire.feed(b"whatever")
        arrival.clock.advance(2.0)
        assert arrival.wire.aborted

    def test_a_session_that_is_not_ready_in_time_is_given_up(self) -> None:
        arrival = Arrival(open_timeout=3.0)
        arrival.enter(arrival.later)
        arrival.clock.advance(2.9)
        assert not arrival.cancelled
        arrival.clock.advance(0.1)
        assert arrival.cancelled
        assert arrival.wire.value().startswith(b"HTTP/1.1 500 ")
        assert arrival.ended == [(500, "handshake")]
        arrival.wire.lose()
        assert arrival.timers() == []

    def test_a_client_that_leaves_meanwhile_cancels_it(self) -> None:
        arrival = Arrival()
        arrival.enter(arrival.later)
        arrival.wire.lose(ConnectionLost())
        assert arrival.cancelled
        assert arrival.ended[0][0] == 1006
        assert arrival.sessions[0].log == []
        assert not arrival.upgrader.links
        assert arrival.timers() == []

    def test_a_session_made_in_spite_of_that_is_closed(self) -> None:
        arrival = Arrival()
        arrival.making = Deferred(lambda making: making.callback(arrival.sessions[0]))
        arrival.enter(arrival.later)
        arrival.wire.lose()
        assert arrival.sessions[0].log == [("closed", 1006, "")]
        assert len(arrival.ended) == 1

    @pytest.mark.parametrize(("error", "told"), [(CancelledError(), False), (ValueError("late"), True)])
    def test_a_failure_after_that_is_told_if_it_is_one(
        self, logged: list[LogEvent], error: Exception, told: bool
    ) -> None:
        arrival = Arrival()
        arrival.making = Deferred(lambda making: making.errback(error))
        arrival.enter(arrival.later)
        arrival.wire.lose()
        assert bool([event for event in logged if "log_failure" in event]) is told

    def test_what_is_no_session_ends_the_connection(self, logged: list[LogEvent]) -> None:
        arrival = Arrival()
        arrival.enter(arrival.later)
        arrival.wire.registerProducer = lambda *args: 1 / 0
        arrival.making.callback(arrival.sessions[0])
        assert arrival.wire.aborted
        assert "ZeroDivisionError" in str(logged[-1]["log_failure"])

    @pytest.mark.parametrize("act", ["close", "abort"])
    def test_its_link_can_be_ended_before_it_is_open(self, act: str) -> None:
        arrival = Arrival()
        arrival.enter(arrival.later)
        [link] = arrival.upgrader.links
        link.send(b"too early")
        getattr(link, act)()
        if act == "abort":
            assert arrival.wire.aborted
        else:
            assert arrival.cancelled
            assert arrival.wire.value().startswith(b"HTTP/1.1 500 ")
        arrival.wire.lose()
        assert len(arrival.ended) == 1
        assert arrival.timers() == []

    def test_a_link_that_was_dropped_is_not_answered_when_its_session_fails(self) -> None:
        arrival = Arrival()
        arrival.enter(arrival.later)
        [link] = arrival.upgrader.links
        link.abort()
        arrival.making.errback(Refused(403))
        assert arrival.wire.value() == b""
        assert arrival.ended == []
        arrival.wire.lose(ConnectionLost())
        assert [code for code, _ in arrival.ended] == [1006]
        assert arrival.timers() == []

    def test_one_that_fails_when_opened_is_closed_with_1011(self, logged: list[LogEvent]) -> None:
        class Broken(Session):
            def opened(self) -> None:
                raise RuntimeError("provoked")

        arrival = Arrival()
        arrival.enter(Broken)
        _, _, frames = arrival.wire.value().partition(b"\r\n\r\n")
        assert server_frames(frames) == [(CLOSE, b"\x03\xf3internal error")]
        assert "RuntimeError" in str(logged[-1]["log_failure"])

    def test_one_that_fails_at_its_end_is_logged(self, logged: list[LogEvent]) -> None:
        class Broken(Session):
            def closed(self, code: int, reason: str) -> None:
                raise RuntimeError("provoked")

        arrival = Arrival()
        arrival.enter(Broken)
        arrival.wire.lose()
        assert arrival.ended == [(1006, "Connection was closed cleanly.")]
        assert "RuntimeError" in str(logged[-1]["log_failure"])


class TestWhatCameBeforeTheEnd:
    """``ISession.closed`` may return a Deferred or a coroutine."""

    def lose(self, finishing: Any, **options: Any) -> Arrival:
        class Busy(Session):
            def closed(self, code: int, reason: str) -> Any:
                super().closed(code, reason)
                return finishing

        arrival = Arrival(**options)
        arrival.enter(Busy)
        arrival.wire.lose()
        return arrival

    def test_the_end_is_told_when_it_is_done(self) -> None:
        finishing: Deferred[None] = Deferred()
        arrival = self.lose(finishing)
        assert (arrival.ended, len(arrival.upgrader.links)) == ([], 1)
        finishing.callback(None)
        assert ([code for code, _ in arrival.ended], len(arrival.upgrader.links)) == ([1006], 0)
        assert arrival.timers() == []

    def test_a_coroutine_will_do(self) -> None:
        async def finish() -> None:
            await finishing

        finishing: Deferred[None] = Deferred()
        arrival = self.lose(finish())
        assert arrival.ended == []
        finishing.callback(None)
        assert len(arrival.ended) == 1

    def test_it_is_given_up_after_a_while(self, logged: list[LogEvent]) -> None:
        cancelled: list[Any] = []
        arrival = self.lose(Deferred(cancelled.append), finish_timeout=7.0)
        arrival.clock.advance(6.9)
        assert (arrival.ended, cancelled) == ([], [])
        arrival.clock.advance(0.2)
        assert (len(arrival.ended), len(cancelled), len(arrival.upgrader.links)) == (1, 1, 0)
        assert [event["log_level"].name for event in logged] == ["warn"]

    def test_a_stop_gives_it_up_at_once(self, logged: list[LogEvent]) -> None:
        cancelled: list[Any] = []
        arrival = self.lose(Deferred(cancelled.append))
        (link,) = arrival.upgrader.links
        link.close(1001, "leaving")
        assert arrival.ended == []
        link.abort()
        assert (len(arrival.ended), len(cancelled)) == (1, 1)
        assert (arrival.timers(), logged) == ([], [])

    @pytest.mark.parametrize("finishing", [fail(RuntimeError("ours")), 5], ids=["failed", "no awaitable"])
    def test_a_bug_in_it_is_logged(self, logged: list[LogEvent], finishing: Any) -> None:
        arrival = self.lose(finishing)
        assert len(arrival.ended) == 1
        assert len([event for event in logged if "log_failure" in event]) == 1


class TestLink:
    def test_it_is_what_its_interface_says(self) -> None:
        bench = open_link()
        assert verifyObject(ILink, bench.link)

    @pytest.mark.parametrize(
        ("size", "header"),
        [
            (0, b"\x81\x00"),
            (125, b"\x81\x7d"),
            (126, b"\x81\x7e\x00\x7e"),
            (65535, b"\x81\x7e\xff\xff"),
            (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
        ],
    )
    def test_messages_become_frames(self, size: int, header: bytes) -> None:
        bench = open_link()
        payload = b"a" * size
        bench.link.send(payload)
        bench.link.send_frame(text_frame(payload))
        bench.link.send_binary(payload)
        assert bench.wire.value() == (header + payload) * 2 + b"\x82" + header[1:] + payload
        assert bench.traffic.messages_out == 3
        assert bench.traffic.bytes_out == 3 * size

    def test_what_comes_is_counted(self) -> None:
        bench = open_link()
        bench.wire.feed(text("abc"))
        assert bench.traffic.bytes_in == 9

    def test_it_keeps_its_request_without_the_fields_of_the_handshake(self) -> None:
        arrival = Arrival(handshake(cookie="a=b", origin="https://broker.test"))
        seen: list[str] = []

        def make(link: ILink) -> Session:
            seen.extend(link.handshake.headers)
            return arrival.session(link)

        arrival.enter(make)
        assert "sec-websocket-key" in seen
        assert arrival.request.headers == {"host": "broker.test", "cookie": "a=b", "origin": "https://broker.test"}

    def test_after_its_end_everything_is_ignored(self) -> None:
        bench = open_link()
        assert bench.link.open
        bench.link.close(1001, "leaving")
        assert not bench.link.open
        bench.wire.clear()
        bench.link.send(b"a")
        bench.link.send_binary(b"b")
        bench.link.send_frame(text_frame(b"c"))
        bench.link.close(1000)
        bench.link.ping()
        assert bench.wire.value() == b""
        bench.wire.lose()
        bench.link.send(b"a")
        bench.link.close()
        bench.link.abort()
        assert bench.session.log == ["opened", ("closed", 1001, "leaving")]
        assert bench.ended == [(1001, "leaving")]
        assert bench.timers() == []

    @pytest.mark.parametrize(
        ("reason", "told"),
        [("a" * 200, b"a" * 123), ("é" * 100, "é".encode() * 61), ("x" + "𝄞" * 40, b"x" + "𝄞".encode() * 30)],
    )
    def test_a_reason_is_cut_between_characters(self, reason: str, told: bytes) -> None:
        bench = open_link()
        bench.link.close(4000, reason)
        assert bench.sent == [(CLOSE, b"\x0f\xa0" + told)]

    def test_a_client_that_does_not_answer_a_close_is_cut_off(self) -> None:
        bench = open_link(close_timeout=1.5)
        bench.link.close(4000, "enough")
        bench.clock.advance(1.4)
        assert not bench.wire.aborted
        bench.clock.advance(0.1)
        assert bench.wire.aborted
        bench.wire.lose()
        assert bench.ended == [(4000, "enough")]
        assert bench.timers() == []

    def test_what_waits_before_a_close_gets_the_time_of_a_slow_reader(self) -> None:
        bench = open_link(close_timeout=1.0, slow_grace=5.0)
        bench.link.pauseProducing()
        bench.link.close()
        bench.clock.advance(4.9)
        assert not bench.wire.aborted
        bench.clock.advance(0.1)
        assert bench.wire.aborted

    def test_a_client_that_closes_and_never_reads_is_cut_off(self) -> None:
        bench = open_link(close_timeout=1.0)
        bench.wire.feed(closing(1000))
        assert bench.wire.disconnecting
        bench.clock.advance(1.0)
        assert bench.wire.aborted

    def test_a_client_that_closes_at_the_same_time_with_much_under_way_is_not_waited_for(self) -> None:
        bench = open_link()
        bench.link.pauseProducing()
        bench.link.close()
        bench.wire.feed(closing(1000))
        assert bench.wire.aborted

    def test_abort_drops_at_once_even_while_closing(self) -> None:
        bench = open_link()
        bench.wire.feed(closing(1000))
        bench.link.abort()
        assert bench.wire.aborted
        bench.wire.lose()
        assert bench.ended == [(1000, "")]

    def test_a_lost_connection_ends_the_session_once(self) -> None:
        bench = open_link()
        bench.link.abort()
        bench.link.abort()
        bench.wire.lose(ConnectionLost())
        assert bench.session.log == ["opened", ("closed", 1006, "aborted")]
        assert bench.ended == [(1006, "aborted")]
        assert not bench.upgrader.links

    def test_a_failing_session_costs_its_own_connection_only(self, logged: list[LogEvent]) -> None:
        bench, other = open_link(), open_link()
        bench.wire.feed(text("fail"))
        other.wire.feed(text("echo on"))
        assert bench.sent == [(CLOSE, b"\x03\xf3internal error")]
        assert other.sent == [(TEXT, b"on")]
        assert [event for event in logged if "ValueError" in str(event.get("log_failure"))]

    @each_way
    @pytest.mark.parametrize("ending", ["resumed", "lost", "closed by the client"])
    def test_a_link_that_does_not_receive_keeps_what_was_read(self, way: Any, ending: str) -> None:
        bench = open_link(**way)
        last = closing(1000) if ending == "closed by the client" else b""
        bench.wire.feed(text("wait") + text("2"))
        bench.wire.feed(text("3") + last)
        assert bench.session.messages == [(b"wait", False)]
        assert bench.wire.producerState == "paused"
        if ending == "lost":
            bench.wire.lose()
        else:
            bench.link.resume_receiving()
            bench.clock.advance(0)
        assert bench.session.messages == [(b"wait", False), (b"2", False), (b"3", False)]
        assert ending != "resumed" or bench.wire.producerState == "producing"

    @each_way
    def test_frames_that_take_long_let_others_have_their_turn(self, way: Any) -> None:
        bench = slow_link(way)
        feed_in_slice(bench, text("1") + text("2") + client_frame(TEXT, b"3", fin=False) + client_frame(0, b"3"))
        assert arrived(bench) == [b"1"]
        bench.clock.advance(0)
        assert arrived(bench) == [b"1", b"2", b"33"]
        assert slices_of(bench.clock).pauses == 2

    @each_way
    @pytest.mark.parametrize("size", [10, MAX_READING])
    def test_no_more_is_read_of_who_sends_more_than_a_little_while_its_frames_wait(self, way: Any, size: int) -> None:
        bench = slow_link(way)
        second = text("2" * size)
        feed_in_slice(bench, text("1") + second)
        assert bench.wire.producerState == ("paused" if size == MAX_READING else "producing")
        bench.wire.feed(text("3"))
        assert bench.wire.producerState == "paused"
        assert arrived(bench) == [b"1"]
        bench.clock.pump([0, 0])
        assert arrived(bench) == [b"1", b"2" * size, b"3"]
        assert bench.wire.producerState == "producing"

    @each_way
    def test_a_long_message_waits_for_a_slice_of_its_own_and_keeps_its_place(self, way: Any) -> None:
        bench = slow_link(way)
        long = b"1" * (int(SLICE / BYTE) + 1)
        feed_in_slice(bench, client_frame(TEXT, long) + text("2"))
        assert arrived(bench) == []
        assert bench.wire.producerState == "paused"
        bench.clock.pump([0, 0])
        assert arrived(bench) == [long, b"2"]
        assert bench.wire.producerState == "producing"

    def test_a_long_message_that_waits_is_handled_though_its_connection_has_ended(self) -> None:
        bench = slow_link({})
        long = b"1" * (int(SLICE / BYTE) + 1)
        feed_in_slice(bench, client_frame(TEXT, long))
        bench.wire.lose()
        bench.clock.pump([0, 0])
        assert arrived(bench) == [long]

    @each_way
    @pytest.mark.parametrize("lost", [False, True])
    def test_a_long_message_waits_for_the_end_of_a_backlog_and_counts_meanwhile(self, way: Any, lost: bool) -> None:
        bench = open_link(**way)
        slices = slices_of(bench.clock)
        bench.wire.feed(text("1"))
        slices.begin_backlog("a")
        bench.wire.feed(client_frame(TEXT, b"2" * 60_000))
        bench.clock.pump([0] * 3)
        assert arrived(bench) == [b"1"]
        assert bench.link.memory.upload.used >= 60_000
        if lost:
            bench.wire.lose()
        pauses = slices.pauses
        bench.clock.pump([0] * 3)
        assert slices.pauses == pauses  # it does not ask again and again
        slices.end_backlog("a")
        bench.clock.pump([0] * 3)
        assert arrived(bench) == [b"1", b"2" * 60_000]
        assert bench.link.memory.upload.used == 0

    def test_what_comes_when_the_slice_is_over_waits(self) -> None:
        bench = open_link()
        slices = slices_of(bench.clock)
        slices.begin()
        bench.clock.rightNow += SLICE
        bench.wire.feed(text("a" * 600))
        slices.finish()
        assert arrived(bench) == []
        bench.clock.advance(0)
        assert arrived(bench) == [b"a" * 600]

    @each_way
    def test_a_session_may_pause_while_its_frames_wait(self, way: Any) -> None:
        bench = slow_link(way)
        feed_in_slice(bench, text("1") + text("2"))
        bench.link.pause_receiving()
        bench.clock.advance(0)
        assert arrived(bench) == [b"1"]
        bench.link.resume_receiving()
        bench.clock.advance(0)
        assert arrived(bench) == [b"1", b"2"]

    @each_way
    def test_frames_that_wait_when_the_connection_ends_are_done_before_its_end(self, way: Any) -> None:
        bench = slow_link(way)
        feed_in_slice(bench, text("1") + text("2") + text("3"))
        bench.wire.lose()
        assert (arrived(bench), bench.ended, bench.link.open) == ([b"1"], [], False)
        bench.clock.advance(0)
        assert arrived(bench) == [b"1", b"2", b"3"]
        assert [code for code, _ in bench.ended] == [1006]
        assert slices_of(bench.clock).pauses >= 2

    @each_way
    def test_frames_that_wait_are_dropped_with_the_connection(self, way: Any) -> None:
        bench = slow_link(way)
        feed_in_slice(bench, text("1") + text("2"))
        bench.link.abort()
        bench.clock.advance(0)
        assert arrived(bench) == [b"1"]

    @pytest.mark.parametrize("way", [WAYS["compiled"], WAYS["fast"]])
    def test_pings_let_others_have_their_turn(self, way: Any) -> None:
        bench = slow_link(way)
        slices_of(bench.clock).begin()
        bench.clock.rightNow += SLICE
        bench.wire.feed(client_frame(PING, b"1") + client_frame(PING, b"2"))
        assert [data for _, data in bench.sent] == [b"1"]
        bench.clock.advance(0)
        assert [data for _, data in bench.sent] == [b"1", b"2"]

    def test_a_client_that_has_to_wait_is_not_taken_for_dead(self) -> None:
        bench = open_link(ping_interval=10, pong_timeout=5)
        bench.link.pause_receiving()
        bench.clock.pump([1.0] * 60)
        assert bench.link.open
        bench.link.resume_receiving()
        bench.clock.pump([1.0] * 20)
        assert not bench.link.open

    def test_a_close_receives_the_answer_of_the_client(self) -> None:
        bench = open_link()
        bench.link.pause_receiving()
        bench.link.close(1001, "leaving")
        bench.clock.advance(0)
        bench.wire.feed(closing(1001))
        bench.wire.lose()
        assert bench.ended == [(1001, "leaving")]

    @pytest.mark.parametrize("size", [11, 200, 70_000])
    def test_its_dialect_may_allow_longer_messages(self, size: int) -> None:
        bench, other = open_link(max_message_bytes=10), open_link(max_message_bytes=10)
        bench.link.allow_messages(size)
        for each in (bench, other):
            each.wire.feed(client_frame(TEXT, b"x" * size))
        assert (bench.session.messages, other.session.messages) == ([(b"x" * size, False)], [])
        bench.wire.feed(client_frame(TEXT, b"x" * (size + 1)))
        assert [code for code, _ in bench.sent] == [CLOSE]

    def test_an_oversize_message_is_logged_with_the_setting(self, logged: list[LogEvent]) -> None:
        bench = open_link(max_message_bytes=10)
        bench.wire.feed(text("a" * 11))
        [event] = [event for event in logged if "TXBROKER_MAX_MESSAGE_BYTES" in (event.get("log_format") or "")]
        assert (event["size"], event["limit"]) == (11, 10)

    def test_memory_of_an_idle_link_is_small(self) -> None:
        bench = open_link()
        bench.wire.feed(text("hello") + client_frame(PING) + client_frame(PONG))
        bench.link.ping()
        # Autobahn's own connection has about seventy.
        assert len(vars(bench.link)) <= 12

    def test_interleaved_fragments_of_two_links_do_not_mix(self) -> None:
        links = [open_link(), open_link()]
        euro = "€".encode()
        for bench in links:
            bench.wire.feed(client_frame(TEXT, euro[:1], fin=False))
        for bench in links:
            bench.wire.feed(client_frame(CONTINUATION, euro[1:]))
            assert bench.session.messages == [(euro, False)]

    @pytest.mark.parametrize("piece", [b"", b"ab"])
    def test_fragments_of_a_message_cost_little_more_than_their_bytes(self, piece: bytes) -> None:
        bench = open_link()
        bench.wire.feed(client_frame(TEXT, b"", fin=False))
        bench.wire.feed(client_frame(CONTINUATION, piece, fin=False) * 20000)
        assert sys.getsizeof(bench.link.message_data) < 100000
        bench.wire.feed(client_frame(CONTINUATION, b"!"))
        assert bench.session.messages == [(piece * 20000 + b"!", False)]

    def test_an_unknown_autobahn_takes_the_slow_path(
        self, logged: list[LogEvent], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("broker.web.ws.link.FAST_NAMES", frozenset(("renamed",)))
        bench = open_link()
        assert not bench.link.fast_path
        bench.wire.feed(text("echo a"))
        assert bench.sent == [(TEXT, b"a")]
        assert "Autobahn is not known" in logged[-1]["log_format"]


class TestHeartbeat:
    def test_a_silent_client_is_pinged_and_then_dropped(self) -> None:
        bench = open_link(ping_interval=25, pong_timeout=20)
        bench.clock.pump([0.05] * 505)
        assert bench.sent == [(PING, b"")]
        bench.clock.pump([0.05] * 390)
        assert not bench.wire.aborted
        bench.clock.pump([0.05] * 20)
        assert bench.wire.aborted
        bench.wire.lose()
        assert bench.ended == [(1006, "ping timeout")]
        assert bench.timers() == []

    @pytest.mark.parametrize("life", [client_frame(PONG), text("hello"), b"\x81"])
    def test_any_byte_after_the_ping_counts(self, life: bytes) -> None:
        bench = open_link(ping_interval=25, pong_timeout=20)
        for _ in range(4):
            bench.clock.pump([0.05] * 505)
            bench.wire.feed(life)
        assert not bench.wire.aborted
        assert bench.sent == [(PING, b"")] * 4

    def test_bytes_before_the_ping_do_not_count(self) -> None:
        bench = open_link(ping_interval=25, pong_timeout=20)
        bench.wire.feed(text("hello"))
        bench.clock.pump([0.05] * 920)
        assert bench.wire.aborted

    def test_it_can_be_off(self) -> None:
        bench = open_link(ping_interval=0)
        bench.clock.advance(1000)
        assert bench.sent == []
        assert bench.timers() == []

    def test_a_closing_link_is_not_pinged(self) -> None:
        bench = open_link(ping_interval=5, close_timeout=100)
        bench.link.close()
        bench.wire.clear()
        bench.clock.pump([0.05] * 110)
        assert bench.wire.value() == b""


class TestSlowReader:
    """On a transport that does not itself count; FrameTransport's part is in test_transport."""

    @staticmethod
    def slow_link(frames: int = 12, **options: Any) -> Bench:
        """Return a link for which so many frames of 100 bytes wait; 1000 bytes may, and the grace is 5 s."""
        bench = open_link(**{"send_queue_bytes": 1000, "slow_grace": 5.0, "ping_interval": 0} | options)
        bench.wire.producer.pauseProducing()
        send(bench, frames)
        return bench

    def test_one_that_stays_slow_is_closed_with_1013_and_then_cut(self, logged: list[LogEvent]) -> None:
        bench = self.slow_link()
        send(bench, 50)
        bench.clock.pump([0.1] * 49)
        assert bench.sent == [(TEXT, b"a" * 98)] * 62
        bench.clock.pump([0.1] * 2)
        assert bench.sent[62:] == [(CLOSE, b"\x03\xf5reading too slowly")]
        assert bench.traffic.slow_consumers == {"close": 1}
        [event] = [event for event in logged if "TXBROKER_SEND_QUEUE_BYTES" in (event.get("log_format") or "")]
        assert event["address"] == "192.0.2.1"
        bench.clock.advance(4.8)
        assert not bench.wire.aborted
        bench.clock.advance(0.2)
        assert bench.wire.aborted
        bench.wire.lose()
        assert bench.ended == [(1013, "reading too slowly")]
        assert bench.timers() == []

    @pytest.mark.parametrize(("frames", "slow"), [(11, False), (12, True)])
    def test_the_grace_begins_when_more_than_the_limit_waits(self, frames: int, slow: bool) -> None:
        bench = self.slow_link(frames)
        bench.clock.pump([0.1] * 51)
        assert bench.link.open is not slow

    def test_one_for_which_far_too_much_waits_is_closed_at_once(self) -> None:
        bench = self.slow_link(161)
        assert bench.link.open
        send(bench, 2)
        assert bench.sent == [(TEXT, b"a" * 98)] * 162 + [(CLOSE, b"\x03\xf5reading too slowly")]
        assert bench.traffic.slow_consumers == {"close": 1}

    def test_without_grace_it_is_closed_at_the_limit(self) -> None:
        assert not self.slow_link(slow_grace=0).link.open

    def test_one_that_catches_up_in_time_stays(self) -> None:
        bench = self.slow_link()
        for _ in range(5):
            bench.clock.pump([0.1] * 49)
            bench.wire.producer.resumeProducing()
            bench.wire.producer.pauseProducing()
            send(bench, 12)
        bench.clock.pump([0.1] * 49)
        assert bench.link.open
        assert bench.traffic.slow_consumers == {}

    def test_one_that_has_caught_up_has_the_old_limit_and_a_new_grace(self) -> None:
        bench = self.slow_link()
        bench.wire.producer.resumeProducing()
        assert bench.timers() == []
        bench.wire.producer.pauseProducing()
        send(bench, 12)
        bench.clock.pump([0.1] * 51)
        assert not bench.link.open

    def test_one_that_leaves_during_the_grace_leaves_nothing_behind(self) -> None:
        bench = self.slow_link()
        bench.wire.lose()
        assert bench.timers() == []

    def test_one_that_is_closed_during_the_grace_is_not_closed_again(self) -> None:
        bench = self.slow_link()
        bench.link.close(1001, "leaving")
        send(bench, 50)
        bench.clock.pump([0.1] * 49)
        assert bench.sent[12:] == [(CLOSE, b"\x03\xe9leaving")]
        assert bench.traffic.slow_consumers == {}

    def test_one_that_catches_up_after_the_close_is_closed_in_good_order(self) -> None:
        bench = self.slow_link(slow_grace=0)
        bench.wire.producer.resumeProducing()
        bench.wire.feed(closing(1013))
        assert bench.wire.disconnecting
        assert not bench.wire.aborted

    def test_what_was_read_does_not_count(self) -> None:
        bench = open_link(send_queue_bytes=1000, ping_interval=0)
        for _ in range(10):
            bench.wire.producer.pauseProducing()
            send(bench, 8)
            bench.wire.producer.resumeProducing()
        assert not bench.link.paused
        assert bench.timers() == []


def send(bench: Bench, frames: int) -> None:
    for _ in range(frames):
        bench.link.send(b"a" * 98)


class TestCompression:
    OFFER = "permessage-deflate; client_max_window_bits"

    def test_it_is_off_unless_asked_for(self) -> None:
        arrival = Arrival(handshake(**{"sec-websocket-extensions": self.OFFER}))
        arrival.enter()
        assert b"Sec-WebSocket-Extensions" not in arrival.wire.value()

    def test_long_messages_are_compressed_both_ways_and_short_ones_are_not(self) -> None:
        arrival = Arrival(handshake(**{"sec-websocket-extensions": self.OFFER}), compression=True)
        arrival.enter()
        assert b"Sec-WebSocket-Extensions: permessage-deflate\r\n" in arrival.wire.value()
        link = arrival.wire.protocol
        long = b"long and boring " * 100
        inflate = zlib.decompressobj(-15)
        for send, opcode in (
            (link.send, TEXT),
            (link.send_binary, BINARY),
            (lambda data: link.send_frame(text_frame(data)), TEXT),
        ):
            arrival.wire.clear()
            send(long)
            sent = arrival.wire.value()
            assert sent[0] == 0xC0 | opcode
            assert len(sent) < 200
            assert inflate.decompress(sent[2 if sent[1] < 126 else 4 :] + b"\x00\x00\xff\xff") == long
            arrival.wire.clear()
            send(b"short")
            assert server_frames(arrival.wire.value()) == [(opcode, b"short")]
        deflate = zlib.compressobj(wbits=-15)
        packed = (deflate.compress(long) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
        arrival.wire.feed(client_frame(TEXT, packed, rsv=4) + text("plain"))
        assert arrival.sessions[0].messages == [(long, False), (b"plain", False)]

    def test_what_unpacks_to_too_much_is_refused(self) -> None:
        arrival = Arrival(
            handshake(**{"sec-websocket-extensions": self.OFFER}), compression=True, max_message_bytes=10_000
        )
        arrival.enter()
        arrival.wire.clear()
        deflate = zlib.compressobj(wbits=-15)
        bomb = (deflate.compress(bytes(1_000_000)) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
        arrival.wire.feed(client_frame(BINARY, bomb, rsv=4))
        assert [(opcode, payload[:2]) for opcode, payload in server_frames(arrival.wire.value())] == [
            (CLOSE, b"\x03\xf1")
        ]
        assert arrival.sessions[0].messages == []

    @pytest.mark.parametrize("offer", ["x-webkit-deflate-frame", "permessage-deflate; server_max_window_bits=99", ""])
    def test_what_can_not_be_agreed_to_is_declined(self, offer: str) -> None:
        arrival = Arrival(handshake(**{"sec-websocket-extensions": offer}), compression=True)
        arrival.enter()
        assert arrival.wire.value().startswith(b"HTTP/1.1 101 ")
        assert b"Sec-WebSocket-Extensions" not in arrival.wire.value()


def test_the_integer_mask_does_what_the_c_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (0, 1, 3, 4, 5, 125, 1000):
        data = bytes(range(256)) * 4
        assert masking.unmask_by_integer(data[:size], b"\x01\x80\xff\x00") == masking.unmask(
            data[:size], b"\x01\x80\xff\x00"
        )
    monkeypatch.setitem(__import__("sys").modules, "websockets.speedups", None)
    assert masking.best_unmask() is masking.unmask_by_integer


def test_links_are_of_a_class_per_upgrader() -> None:
    first, second = open_link(), open_link(max_message_bytes=10)
    assert isinstance(first.link, WebSocketLink)
    assert type(first.link) is not type(second.link)
    assert (first.link.max_fast_bytes, second.link.max_fast_bytes) == (65535, 10)
