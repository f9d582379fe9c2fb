"""The session that works frames off in their order, over a link without a network."""

from __future__ import annotations

import itertools
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from broker.core.slices import SLICE, slices_of
from broker.errors import Invalid
from broker.interfaces import ISession
from broker.messages import text_frame
from broker.sessions import (
    MAX_AT_ONCE,
    MAX_BACKLOG_BYTES,
    MAX_BACKLOG_FRAMES,
    MAX_HELD_BYTES,
    MAX_HELD_EVENTS,
    BaseSession,
    FramedSession,
    OrderedSession,
)
from broker.testing import FakeLink, make_broker
from tests.support.logs import failures_of


@attrs.define(eq=False)
class Session(OrderedSession):
    """``wait`` waits until it is answered, ``now`` is done, ``bug`` raises; all are noted."""

    begun: list[bytes] = attrs.field(factory=list)
    waiting: list[Deferred[Any]] = attrs.field(factory=list)
    ends: int = 0
    clock: Clock | None = None

    def frame(self, data: bytes, binary: bool) -> Deferred[Any] | None:
        self.begun.append(data)
        if data == b"bug":
            raise RuntimeError("ours")
        if data.startswith(b"slow") and self.clock is not None:
            self.clock.rightNow += SLICE
        if data == b"event":
            self.on_event(b"meanwhile")
            self._link.send(b"answer")
        if not data.startswith(b"wait"):
            return None
        self.waiting.append(Deferred())
        return self.waiting[-1].addCallback(lambda _: self._link.send(b"answer"))

    def ended(self) -> None:
        self.ends += 1

    def on_event(self, text: bytes, topic: str = "t") -> None:
        if self.holding:
            self.hold(topic, text_frame(text))
        else:
            self._link.send(text)

    def answer(self) -> None:
        self.waiting.pop(0).callback(None)


@attrs.define(eq=False)
class Impatient(Session):
    """One whose events do not wait for a slow answer."""

    holds_events = False


@pytest.fixture
def link():
    return FakeLink()


@pytest.fixture
def session(link):
    return Session(link)


def say(session, *frames):
    for frame in frames:
        session.received(frame, False)


@pytest.mark.parametrize("make", [lambda link: BaseSession(), Session])
def test_it_is_what_its_interface_says(link, make):
    verifyObject(ISession, make(link))


def test_a_frame_waits_until_the_one_before_it_is_done(session):
    say(session, b"now", b"wait 1", b"now", b"wait 2", b"wait 3")
    assert session.begun == [b"now", b"wait 1"]
    session.answer()
    assert session.begun[2:] == [b"now", b"wait 2"]
    session.answer()
    assert session.begun[4:] == [b"wait 3"]


def test_an_event_goes_out_behind_the_answer(session, link):
    say(session, b"event", b"wait")
    session.on_event(b"before the answer")
    assert link.take() == [b"answer", b"meanwhile"]
    session.answer()
    session.on_event(b"after it")
    assert link.take() == [b"answer", b"before the answer", b"after it"]


def test_events_need_not_wait_for_a_slow_answer(link):
    session = Impatient(link)
    say(session, b"event", b"wait")
    session.on_event(b"at once")
    assert link.take() == [b"answer", b"meanwhile", b"at once"]


def test_what_is_held_may_be_sent_before_the_answer(session, link):
    say(session, b"wait")
    session.on_event(b"1", "left")
    session.on_event(b"2", "kept")
    session.release(lambda topic: topic == "left")
    assert link.take() == [b"1"]
    session.answer()
    assert link.take() == [b"answer", b"2"]


def test_a_thousand_frames_that_wait_need_no_stack(session):
    say(session, b"wait", *[b"now"] * 3000)
    session.answer()
    assert len(session.begun) == 3001


@pytest.mark.parametrize(
    ("size", "allowed"),
    [(0, MAX_BACKLOG_FRAMES), (MAX_BACKLOG_BYTES // 4, 4), (MAX_BACKLOG_BYTES, 1), (3 * MAX_BACKLOG_BYTES, 1)],
)
def test_so_much_may_wait_and_no_more(session, link, size, allowed):
    say(session, b"wait", *[b"x" * size] * allowed)
    assert link.closed is None
    say(session, b"x")
    assert link.closed == (1013, "too many frames at once")
    session.answer()
    assert len(session.begun) == 1 + allowed


@pytest.mark.parametrize("size", [0, MAX_BACKLOG_BYTES // 100, MAX_BACKLOG_BYTES // 2, 7 * MAX_BACKLOG_BYTES])
def test_the_link_waits_while_much_waits_before_anything_is_refused(session, link, size):
    say(session, b"wait")
    assert link.receiving
    sent = 0
    while link.receiving:
        say(session, b"x" * size)
        sent += 1
    session.answer()
    assert (len(session.begun), link.receiving, link.closed) == (1 + sent, True, None)


def test_the_link_waits_until_most_of_it_is_done(session, link):
    say(session, b"wait", *[b"wait" + b"x" * (MAX_BACKLOG_BYTES // 8)] * 4)
    assert not link.receiving
    session.answer()
    session.answer()
    assert not link.receiving
    session.answer()
    assert link.receiving


def test_room_in_the_backlog_comes_back(session, link):
    for _ in range(3):
        say(session, b"wait", *[b"x" * (MAX_BACKLOG_BYTES // 8)] * 8)
        session.answer()
    assert link.closed is None


@pytest.mark.parametrize(("size", "allowed"), [(0, MAX_HELD_EVENTS), (MAX_HELD_BYTES // 4, 4)])
def test_so_many_events_may_be_held_and_no_more(session, link, size, allowed):
    say(session, b"wait")
    for _ in range(allowed):
        session.on_event(b"x" * size)
    assert link.closed is None
    session.on_event(b"x")
    assert link.closed == (1013, "busy")


# The end


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1013])
def test_what_came_before_the_end_is_worked_off(session, link, code):
    say(session, b"wait 1", b"now", b"wait 2", b"now")
    link.close(code)
    finished = session.closed(code, "")
    session.answer()
    assert (session.begun[1:], finished.called, session.ends) == ([b"now", b"wait 2"], False, 0)
    session.answer()
    assert (session.begun[3:], finished.called, session.ends) == ([b"now"], True, 1)


def test_an_idle_session_ends_at_once(session):
    say(session, b"now")
    assert session.closed(1000, "") is None
    assert session.ends == 1


def test_who_is_disconnected_has_nothing_more_done(session, link):
    say(session, b"wait", b"now")
    session.disconnect(4003, "token revoked")
    assert link.closed == (4003, "token revoked")
    finished = session.closed(4003, "token revoked")
    session.answer()
    assert (session.begun, finished.called, session.ends) == ([b"wait"], True, 1)


def test_what_is_given_up_is_not_begun_any_more(session):
    say(session, b"wait", b"now")
    finished = session.closed(1000, "")
    finished.cancel()
    assert session.ends == 1
    session.answer()
    assert (session.begun, session.ends) == ([b"wait"], 1)
    finished.addErrback(lambda failure: failure.trap(CancelledError))


@pytest.mark.parametrize("late", [False, True])
def test_a_bug_closes_the_connection_and_ends_what_waits(session, link, logged, late):
    say(session, b"wait", b"bug", b"now")
    if late:
        session.waiting.pop().errback(RuntimeError("ours"))
    else:
        session.answer()
    assert link.closed == (1011, "internal error")
    assert b"now" not in session.begun
    assert [type(failure) for failure in failures_of(logged)] == [RuntimeError]
    assert session.closed(1011, "") is None


def test_frames_that_waited_are_worked_off_in_slices(session):
    clock = Clock()
    session.slices, session.clock = slices_of(clock), clock
    for data in (b"wait", b"slow 1", b"slow 2", b"slow 3"):
        session.received(data, False)
    session.answer()
    assert session.begun == [b"wait", b"slow 1"]
    session.received(b"slow 4", False)
    closing = session.closed(1000, "")
    assert (session.ends, closing.called) == (0, False)
    clock.pump([0] * 5)
    assert session.begun == [b"wait", b"slow 1", b"slow 2", b"slow 3", b"slow 4"]
    assert slices_of(clock).pauses == 3
    assert (session.ends, closing.called) == (1, True)


def test_frames_and_events_that_wait_are_counted():
    link = FakeLink()
    session = Session(link)
    session.received(b"wait 1", False)
    session.received(b"wait 22", False)
    session.received(b"now", False)
    session.on_event(b"event")
    assert link.held == 7 + 3 + 5
    session.answer()
    assert link.held == 3
    session.answer()
    assert link.held == 0


def test_frames_that_are_dropped_are_counted_no_more():
    link = FakeLink()
    session = Session(link)
    session.received(b"wait 1", False)
    session.received(b"now", False)
    session.disconnect(1008, "go")
    assert link.held == 0
    session.answer()


def test_long_frames_that_waited_are_handled_in_slices(session: Session, link: FakeLink) -> None:
    clock = Clock()
    session.slices = slices_of(clock)
    long = b"1" * (MAX_AT_ONCE + 1)
    for data in (b"wait", long, b"now"):
        session.received(data, False)
    session.waiting[0].callback(None)
    assert session.begun == [b"wait"]
    clock.advance(0)
    assert session.begun == [b"wait", long, b"now"]


@attrs.define(eq=False)
class Numbered(FramedSession):
    """Frames that begin with their length, one digit; ``wait`` waits until it is answered."""

    begun: list[bytes] = attrs.field(factory=list)
    waiting: list[Deferred[Any]] = attrs.field(factory=list)
    ends: int = 0

    def frame_size(self, buffer: bytearray) -> int:
        if not buffer[:1].isdigit():
            raise Invalid("frame")
        return int(buffer[:1]) + 1

    def frame(self, data: bytes, binary: bool) -> Deferred[Any] | None:
        self.begun.append(data[1:])
        if data[1:] == b"quit":
            self.link.close()
        if data[1:] != b"wait":
            return None
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def ended(self) -> None:
        self.ends += 1


@pytest.fixture
def numbered():
    return Numbered(FakeLink(stream=True), make_broker().attach("test", ""))


@given(st.lists(st.binary(max_size=9), max_size=20), st.lists(st.integers(1, 7), min_size=1))
def test_frames_are_found_wherever_the_network_cuts_them(frames, cuts):
    session = Numbered(FakeLink(stream=True), make_broker().attach("test", ""))
    stream = b"".join(b"%d%b" % (len(frame), frame) for frame in frames if frame not in (b"wait", b"quit"))
    for size in itertools.cycle(cuts):
        if not stream:
            break
        session.received(stream[:size], True)
        stream = stream[size:]
    assert session.begun == [frame for frame in frames if frame not in (b"wait", b"quit")]


def test_what_is_no_frame_ends_the_connection(numbered):
    numbered.received(b"2abx1c", True)
    assert numbered.begun == [b"ab"]
    assert numbered.link.closed[0] == 1002
    numbered.received(b"1d", True)
    assert numbered.begun == [b"ab"]


def test_a_frame_that_will_be_too_long_ends_the_connection_at_its_beginning(numbered):
    numbered.link.allow_messages(5)
    numbered.received(b"4abcd5", True)
    assert numbered.begun == [b"abcd"]
    assert numbered.link.closed[0] == 1009


def test_what_follows_the_last_frame_of_a_client_is_not_done(numbered):
    numbered.received(b"4quit1a", True)
    numbered.closed(1000, "")
    assert (numbered.begun, numbered.ends) == ([b"quit"], 1)


def test_a_client_that_sends_more_frames_than_may_wait_is_made_to_wait(numbered):
    numbered.received(b"4wait" + b"1a" * 3 * MAX_BACKLOG_FRAMES, True)
    assert not numbered.link.receiving
    assert numbered.link.open
    numbered.waiting[0].callback(None)
    assert len(numbered.begun) == 3 * MAX_BACKLOG_FRAMES + 1
    assert numbered.link.receiving
    assert numbered.link.held == 0


def test_frames_that_came_whole_are_done_after_the_end(numbered):
    numbered.received(b"4wait" + b"1a" * MAX_BACKLOG_FRAMES + b"9abc", True)
    ending = numbered.closed(1006, "")
    assert (len(numbered.begun), numbered.ends) == (1, 0)
    numbered.waiting[0].callback(None)
    assert (len(numbered.begun), numbered.ends, ending.called) == (MAX_BACKLOG_FRAMES + 1, 1, True)


def test_very_many_frames_of_one_client_let_others_have_their_turn(numbered):
    clock = Clock()
    numbered.slices = slices_of(clock)
    begun = []

    def frame(data, binary):
        begun.append(data)
        clock.rightNow += SLICE / 10

    numbered.frame = frame
    numbered.received(b"1a" * 100, True)
    assert 0 < len(begun) < 30
    assert not numbered.link.receiving
    clock.pump([0] * 20)
    assert len(begun) == 100
    assert numbered.link.receiving
