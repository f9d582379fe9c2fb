"""Sessions that are the body of an HTTP answer, in a broker without a network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred
from zope.interface import implementer
from zope.interface.verify import verifyObject

from broker.core.grace import HARD_LIMIT
from broker.errors import Denied
from broker.interfaces import IHttpDialect, IPeer, ISession
from broker.messages import CloseCode, Event, HttpRequest, Response
from broker.streams import WRITE_BYTES, StreamSession
from broker.testing import UNREAD_BYTES, FakeStream, http_request, make_broker, value_of
from tests.support.logs import failures_of, lines_of


@attrs.define(eq=False)
class Listener(StreamSession):
    """Sends the bodies of events, and notes how it ends."""

    heartbeat = b"."
    heartbeat_seconds = 10.0

    ends: list[tuple[int, str]] = attrs.field(factory=list)
    ending: Deferred[None] | None = None

    def event(self, event: Event, pattern: str) -> None:
        if event.body == b'"bug"':
            raise RuntimeError("ours")
        self.send(event.body or b"")

    def closed(self, code: int, reason: str) -> Awaitable[object] | None:
        self.ends.append((int(code), reason))
        return self.ending


@implementer(IHttpDialect)
class Streams:
    """A dialect that answers with a listener."""

    name = "streams"
    http_paths = ("/streams",)

    def __init__(self) -> None:
        self.listener: Any = None
        self.before: Callable[[Listener], object] = lambda listener: None
        self.instead: Response | Exception | None = None

    async def answer(self, peer: IPeer, request: HttpRequest) -> Response:
        peer.subscribe("news")
        self.listener = Listener(peer)
        peer.bind(self.listener)
        self.before(self.listener)
        if isinstance(self.instead, Exception):
            raise self.instead
        return self.instead or Response(200, self.listener)


class Scene:
    """One client that streams, and one that publishes."""

    def __init__(self, **settings: Any) -> None:
        self.broker = make_broker(**{"send_queue_bytes": 1000, "slow_grace_seconds": 5.0, **settings})
        self.clock: Any = self.broker.clock
        self.dialect = Streams()
        self.publisher = self.broker.attach("test", "127.0.0.1")
        self.calls = len(self.clock.getDelayedCalls())  # of the broker itself

    def open(self) -> FakeStream:
        answer = value_of(http_request(self.broker, self.dialect, "GET", "/streams"))
        stream: FakeStream = answer.body
        return stream

    @property
    def listener(self) -> Listener:
        listener: Listener = self.dialect.listener
        return listener

    def publish(self, body: bytes = b"1") -> None:
        value_of(self.publisher.publish("news", "e", body))

    def fill(self) -> None:
        """Send as much as the network takes of a client that does not read, and a little more."""
        self.publish(b"1" * (UNREAD_BYTES + 1))

    def assert_nothing_is_left(self) -> None:
        assert self.listener.peer.closed
        assert self.broker.memory.used == 0
        assert len(self.broker.topics) == 0
        assert len(self.clock.getDelayedCalls()) == self.calls


def test_thousands_of_small_pieces_are_few_writes() -> None:
    scene = Scene(send_queue_bytes=WRITE_BYTES * 4)
    stream = scene.open()
    scene.fill()
    for number in range(WRITE_BYTES // 2):
        scene.publish(b"%d" % (number % 10) * 4)
    writes: list[int] = []
    consumer = scene.listener._consumer
    write = consumer.write
    consumer.write = lambda data: (writes.append(len(data)), write(data))
    assert len(stream.take()) > UNREAD_BYTES
    assert writes == [WRITE_BYTES, WRITE_BYTES]
    assert stream.take() == b"".join(b"%d" % (number % 10) * 4 for number in range(WRITE_BYTES // 2))
    stream.leave()
    scene.assert_nothing_is_left()


def test_it_is_a_session() -> None:
    assert verifyObject(ISession, Listener(Scene().publisher))


def test_events_are_sent_as_they_come() -> None:
    scene = Scene()
    stream = scene.open()
    scene.publish(b"1")
    scene.publish(b"2")
    assert stream.take() == b"12"
    stream.leave()
    assert scene.listener.ends == [(CloseCode.ABNORMAL, "")]
    scene.assert_nothing_is_left()


def test_what_is_sent_before_the_answer_comes_first() -> None:
    scene = Scene()
    scene.dialect.before = lambda listener: listener.send(b"hello")
    stream = scene.open()
    scene.publish()
    assert stream.take() == b"hello1"
    stream.leave()
    scene.assert_nothing_is_left()


def test_its_end_is_the_end_of_the_body() -> None:
    scene = Scene()
    stream = scene.open()
    scene.publish()
    scene.listener.end()
    scene.listener.send(b"late")
    scene.listener.end()
    assert (stream.take(), stream.ended) == (b"1", True)
    assert scene.listener.ends == [(CloseCode.NORMAL, "")]
    scene.assert_nothing_is_left()


def test_it_may_have_ended_before_it_begins() -> None:
    scene = Scene()

    def say_and_end(listener: Listener) -> None:
        listener.send(b"all")
        listener.end()

    scene.dialect.before = say_and_end
    stream = scene.open()
    assert (stream.take(), stream.ended) == (b"all", True)
    scene.assert_nothing_is_left()


def test_what_waits_is_sent_before_the_end() -> None:
    scene = Scene()
    stream = scene.open()
    scene.fill()
    scene.publish(b"last")
    scene.listener.end()
    assert not stream.ended
    assert stream.take() == b"1" * (UNREAD_BYTES + 1)
    assert (stream.take(), stream.ended) == (b"last", True)
    scene.assert_nothing_is_left()


def test_the_peer_is_closed_after_the_session_has_worked_off_its_end() -> None:
    scene = Scene()
    stream = scene.open()
    scene.listener.ending = Deferred()
    stream.leave()
    assert not scene.listener.peer.closed
    scene.listener.ending.callback(None)
    scene.assert_nothing_is_left()


def test_a_heartbeat_is_sent_now_and_then_but_not_behind_what_waits() -> None:
    scene = Scene()
    stream = scene.open()
    scene.clock.advance(10.0)
    scene.clock.advance(10.0)
    assert stream.take() == b".."
    scene.fill()
    scene.clock.advance(10.0)
    assert stream.take() == b"1" * (UNREAD_BYTES + 1)
    stream.leave()
    scene.assert_nothing_is_left()


def test_what_waits_is_counted_and_comes_in_order() -> None:
    scene = Scene()
    stream = scene.open()
    scene.fill()
    for number in range(10):
        scene.publish(b"%d" % number)
    assert (scene.listener.waiting, scene.broker.memory.held.used) == (10, 10)
    stream.take()
    assert (stream.take(), scene.broker.memory.used) == (b"0123456789", 0)
    stream.leave()
    scene.assert_nothing_is_left()


def test_a_client_that_reads_too_slowly_is_dropped_after_the_grace(logged: Any) -> None:
    scene = Scene()
    stream = scene.open()
    scene.fill()
    scene.publish(b"1" * 1001)
    scene.clock.pump([0.5] * 9)
    assert not stream.broken
    scene.clock.pump([0.5] * 2)
    assert stream.broken
    assert scene.listener.ends == [(CloseCode.TRY_AGAIN_LATER, "reading too slowly")]
    assert scene.broker.metrics.slow_consumers["close"] == 1
    assert any("reads too slowly" in line for line in lines_of(logged))
    scene.assert_nothing_is_left()


def test_a_client_that_reads_again_within_the_grace_stays() -> None:
    scene = Scene()
    stream = scene.open()
    scene.fill()
    scene.publish(b"1" * 1001)
    scene.clock.pump([0.5] * 9)
    stream.take()
    scene.clock.pump([0.5] * 20)
    assert not stream.broken
    stream.leave()
    scene.assert_nothing_is_left()


@pytest.mark.parametrize(("grace", "times"), [(5.0, HARD_LIMIT), (0.0, 1)])
def test_a_client_for_which_far_too_much_waits_is_dropped_at_once(grace: float, times: int) -> None:
    scene = Scene(slow_grace_seconds=grace)
    stream = scene.open()
    scene.fill()
    for _ in range(times):
        scene.publish(b"1" * 1000)
    assert not stream.broken
    scene.publish(b"1")
    assert stream.broken
    scene.assert_nothing_is_left()


def test_a_client_whose_credential_ends_gets_a_clean_end() -> None:
    scene = Scene()
    stream = scene.open()
    scene.listener.peer.disconnect(CloseCode.POLICY_VIOLATION, "credential expired")
    assert (stream.ended, stream.broken) == (True, False)
    assert scene.listener.ends == [(CloseCode.POLICY_VIOLATION, "credential expired")]
    scene.assert_nothing_is_left()


def test_a_bug_costs_its_own_stream(logged: Any) -> None:
    scene = Scene()
    stream = scene.open()
    scene.publish(b'"bug"')
    assert stream.broken
    assert [str(failure) for failure in failures_of(logged)] == ["ours"]
    scene.assert_nothing_is_left()


def test_it_ends_when_the_daemon_stops() -> None:
    scene = Scene()
    stream = scene.open()
    scene.listener.drain()
    assert stream.ended
    scene.assert_nothing_is_left()


@pytest.mark.parametrize("instead", [Response(404), Denied("read", "news")])
def test_one_that_is_nobodys_answer_leaves_nothing(instead: Response | Exception) -> None:
    scene = Scene()
    scene.dialect.instead = instead
    answer = value_of(http_request(scene.broker, scene.dialect, "GET", "/streams"))
    assert answer.status in (403, 404)
    scene.assert_nothing_is_left()


def test_the_client_of_a_plain_stream_is_disconnected_too() -> None:
    scene = Scene()

    async def endless() -> Any:
        yield b"1"
        await Deferred()

    @implementer(IHttpDialect)
    class Plain:
        name, http_paths, peer = "plain", ("/plain",), None

        async def answer(self, peer: Any, request: HttpRequest) -> Response:
            self.peer = peer
            return Response(200, endless())

    plain: Any = Plain()
    stream = value_of(http_request(scene.broker, plain, "GET", "/plain")).body
    assert not plain.peer.closed
    plain.peer.disconnect(CloseCode.POLICY_VIOLATION, "credential expired")
    assert (stream.broken, plain.peer.closed) == (True, True)


def test_a_session_is_told_when_nothing_waits_any_more() -> None:
    scene = Scene(send_queue_bytes=10 * UNREAD_BYTES)
    stream = scene.open()
    drains: list[bool] = []
    scene.listener.__class__.drained = lambda self: drains.append(self.paused)  # type: ignore[method-assign]
    try:
        assert not scene.listener.paused
        scene.fill()
        assert scene.listener.paused
        scene.publish(b"2")
        assert drains == []
        while stream.take():
            pass
        assert drains
        assert not any(drains)
    finally:
        del scene.listener.__class__.drained
    stream.leave()
