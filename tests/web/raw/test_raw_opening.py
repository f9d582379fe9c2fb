"""A connection of a stream dialect before it has a session, without a network."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from broker.core.memory import Memory
from broker.messages import HttpRequest
from broker.sessions import BaseSession
from broker.web.raw.link import RawLink, raw_link_class
from broker.web.ws.options import TrafficCounter, WebSocketOptions


@attrs.define(eq=False)
class Session(BaseSession):
    link: RawLink
    got: list[Any] = attrs.field(factory=list)

    def opened(self) -> None:
        self.got.append("opened")

    def received(self, data: bytes, binary: bool) -> None:
        self.got.append(data)
        if data == b"stop":
            self.link.pause_receiving()

    def closed(self, code: int, reason: str) -> None:
        self.got.append(code)


@attrs.define
class Opening:
    """A link whose session is made when the test says so."""

    clock: Clock = attrs.field(factory=Clock)
    made: Deferred[Any] = attrs.field(factory=Deferred)
    ends: list[tuple[int, str]] = attrs.field(factory=list)
    links: set[Any] = attrs.field(factory=set)
    link: Any = None
    session: Any = None

    def __attrs_post_init__(self) -> None:
        kind = raw_link_class(WebSocketOptions(), self.clock, TrafficCounter(), self.links, Memory())
        self.link = kind(HttpRequest("", "", "", {}), self.make, lambda *end: self.ends.append(end), judged=True)
        self.link.makeConnection(StringTransport())

    async def make(self, link: RawLink) -> Any:
        self.session = await self.made
        return self.session

    def open(self) -> Session:
        session = Session(self.link)
        self.made.callback(session)
        return session


@pytest.fixture
def opening():
    return Opening()


def test_what_comes_early_waits_for_the_session(opening):
    opening.link.dataReceived(b"early")
    assert opening.link.transport.producerState == "paused"
    session = opening.open()
    assert opening.link.transport.producerState == "producing"
    opening.link.dataReceived(b"late")
    assert session.got == ["opened", b"early", b"late"]
    assert not opening.clock.getDelayedCalls()


def test_a_client_that_goes_away_cancels_the_making_of_its_session(opening):
    cancelled = []
    opening.made = Deferred(cancelled.append)
    opening = Opening(made=opening.made)
    opening.link.connectionLost(Failure(ConnectionDone()))
    assert cancelled == [opening.made]
    assert (opening.ends[0][0], opening.links) == (1006, set())


def test_a_session_that_is_not_made_in_time_is_given_up(opening):
    opening.clock.advance(10)
    assert opening.link.transport.disconnecting
    opening.link.connectionLost(Failure(ConnectionDone()))
    assert [code for code, _ in opening.ends] == [1013]
    assert not opening.clock.getDelayedCalls()


def test_a_session_that_wants_no_more_makes_the_client_wait(opening):
    session = opening.open()
    for data in (b"stop", b"1", b"2"):
        opening.link.dataReceived(data)
    assert session.got == ["opened", b"stop"]
    assert opening.link.transport.producerState == "paused"
    opening.link.resume_receiving()
    opening.clock.advance(0)
    assert session.got == ["opened", b"stop", b"12"]
    assert opening.link.transport.producerState == "producing"


@pytest.mark.parametrize(("error", "expected"), [(ConnectionDone(), 1000), (ConnectionLost(), 1006)])
def test_what_was_read_before_the_end_is_delivered(opening, error, expected):
    session = opening.open()
    for data in (b"stop", b"1"):
        opening.link.dataReceived(data)
    opening.link.connectionLost(Failure(error))
    assert session.got == ["opened", b"stop", b"1", expected]
    assert [code for code, _ in opening.ends] == [expected]
    assert not opening.clock.getDelayedCalls()


@pytest.mark.parametrize("request_line", [b"GET / HTTP/1.1\r\n", b"POST /a HTTP/1.1", b"OPTIONS * HTTP/1.1\r\n"])
def test_what_begins_as_a_request_of_a_browser_is_dropped(opening, request_line):
    session = opening.open()
    opening.link.dataReceived(request_line)
    assert session.got == ["opened"]
    assert opening.link.transport.disconnected


@pytest.mark.parametrize("first", [b"GET key\r\n", b"\x10\x0c\x00\x04MQTT", b"PUB /a 1\n", b"G"])
def test_what_only_resembles_one_is_not(opening, first):
    session = opening.open()
    opening.link.dataReceived(first)
    assert session.got == ["opened", first]
