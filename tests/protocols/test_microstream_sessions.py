"""Sessions in memory: how requests, WebSockets and time come together."""

from __future__ import annotations

import json
from functools import partial
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from broker.core.slices import SLICE, slices_of
from broker.errors import NotFound, Refused
from broker.messages import Event, HttpRequest, Mail, Reply, Request
from broker.testing import FakeLink, make_broker, value_of
from protocols.microstream.engineio import MAX_PACKETS, Times
from protocols.microstream.server import Bounds, Server
from protocols.microstream.sessions import Session


class Echo(Session):
    """Sends back what it gets; "bug" is one."""

    def on_message(self, data, binary):
        if data == b"bug":
            raise RuntimeError("a bug")
        self.send([(data, binary)])


class Sessions:
    """A server of echoes, its clock and its clients."""

    def __init__(self, **times):
        self.clock = Clock()
        self.broker = make_broker(self.clock)
        self.server = Server(Echo, self.clock, times=Times(**times))

    def request(self, method, query, body=b""):
        """Return the Deferred of an answer."""
        peer = self.broker.attach("microstream", "127.0.0.1")
        request = HttpRequest(method, "/socket.io/", query, {}, body)
        return Deferred.fromCoroutine(self.server.answer(peer, request))

    def polling(self):
        """Return the query of a new polling session, and the session."""
        opened = json.loads(value_of(self.request("GET", "EIO=4&transport=polling")).body[1:])
        return f"transport=polling&sid={opened['sid']}", self.server.sessions[opened["sid"]]

    def websocket(self, query):
        peer = self.broker.attach("microstream", "127.0.0.1")
        link = FakeLink(HttpRequest("GET", "/socket.io/", query, {}))
        session = value_of(Deferred.fromCoroutine(self.server.session(peer, link)))
        session.opened()
        return link, session

    def stop(self):
        """End everything; nothing may be left of it."""
        self.server.drain()
        assert self.server.sessions == {}
        assert len(self.server.timers) == 0
        self.broker.stopService()
        assert self.clock.getDelayedCalls() == []


@pytest.fixture
def sessions():
    sessions = Sessions()
    yield sessions
    sessions.stop()


def test_the_peer_of_a_polling_session_outlives_its_requests(sessions):
    query, session = sessions.polling()
    assert session.peer.session is session
    value_of(sessions.request("POST", query, b"4x"))
    assert not session.peer.closed
    value_of(sessions.request("POST", query, b"1"))
    assert session.peer.closed


def test_a_cancelled_get_ends_the_session_and_leaves_nothing_behind(sessions):
    query, session = sessions.polling()
    waiting = sessions.request("GET", query)
    waiting.addErrback(lambda failure: None)
    waiting.cancel()
    assert session.ended
    assert session.peer.closed


def test_draining_answers_those_who_wait_and_takes_nobody(sessions):
    query, _ = sessions.polling()
    waiting = sessions.request("GET", query)
    link, _ = sessions.websocket("EIO=4&transport=websocket")
    sessions.server.drain()
    assert value_of(waiting).body == b"1"
    assert link.closed == (1012, "leaving")
    with pytest.raises(Refused) as caught:
        value_of(sessions.request("GET", "EIO=4&transport=polling"))
    assert caught.value.status == 503


def test_where_closes_are_spread_draining_ends_those_only_that_poll(sessions):
    sessions.server = Server(Echo, sessions.clock, spread=True)
    query, polling = sessions.polling()
    waiting = sessions.request("GET", query)
    link, session = sessions.websocket("EIO=4&transport=websocket")
    sessions.server.drain()
    assert (value_of(waiting).body, polling.ended) == (b"1", True)
    assert (link.closed, session.ended) == (None, False)
    session.closed(1012, "leaving")
    assert session.ended


def test_a_client_that_does_not_poll_counts_as_a_slow_consumer(sessions):
    sessions.server = Server(Echo, sessions.clock, bounds=Bounds(queue_bytes=1000))
    _, session = sessions.polling()
    session.send([(b"x" * 990, False)])
    assert (session.ended, dict(sessions.broker.metrics.slow_consumers)) == (False, {})
    session.send([(b"x" * 990, False)])
    assert (session.ended, dict(sessions.broker.metrics.slow_consumers)) == (True, {"close": 1})


def test_ending_twice_is_ending_once(sessions):
    link, session = sessions.websocket("EIO=4&transport=websocket")
    session.end(1000, "first")
    session.end(1011, "second")
    session.closed(1000, "")
    assert link.closed == (1000, "first")


def test_a_bug_ends_a_polling_session(sessions):
    query, session = sessions.polling()
    with pytest.raises(RuntimeError):
        value_of(sessions.request("POST", query, b"4bug"))
    assert session.ended


def test_a_message_that_ends_the_session_is_the_last(sessions):
    query, _ = sessions.polling()
    waiting = sessions.request("GET", query)
    value_of(sessions.request("POST", query, b"4a\x1e1\x1e4b"))
    assert value_of(waiting).body == b"4a\x1e6"


def test_a_body_refused_by_the_port_ends_its_session(sessions):
    query, session = sessions.polling()
    request = HttpRequest("POST", "/socket.io/", query, {})
    assert sessions.server.refusal(408, "too slow", request).status == 408
    assert not session.ended
    answer = sessions.server.refusal(413, "too large", request)
    assert (answer.status, answer.body) == (413, b'{"code":3,"message":"too large"}')
    assert session.ended
    assert sessions.server.refusal(413, "too large", request).status == 413


def test_a_probe_is_answered_by_the_first_packet(sessions):
    link, session = sessions.websocket("EIO=4&transport=websocket")
    link.take()
    first, second = session.probe(), session.probe()
    assert link.take() == [b"2"]
    assert not first.called
    session.received(b"4x", False)
    assert (value_of(first), value_of(second)) == (True, True)


def test_a_probe_ends_with_its_session_or_its_asker(sessions):
    query, session = sessions.polling()
    asked, given_up = session.probe(), session.probe()
    given_up.addErrback(lambda failure: None)
    given_up.cancel()
    assert value_of(sessions.request("GET", query)).body == b"2"
    session.end()
    assert value_of(asked) is False
    assert value_of(session.probe()) is False


def test_a_ping_that_is_due_is_sent_whoever_notices_first(sessions):
    query, _ = sessions.polling()
    sessions.clock.rightNow += 25.0  # and no timer has run yet
    assert value_of(sessions.request("GET", query)).body == b"2"
    sessions.clock.rightNow += 20.0
    assert value_of(sessions.request("GET", query)).status == 400


def test_an_ended_session_leaves_no_timer(sessions):
    _, session = sessions.polling()
    session.set_idle_timeout(3.0)
    session.end()
    assert len(sessions.server.timers) == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_requests_of_the_polling_transport_postpone_the_idle_timeout(sessions, method):
    query, session = sessions.polling()
    session.set_idle_timeout(3.0)
    for _ in range(10):
        sessions.clock.advance(0.4)
        session.send([(b"x", False)])
        assert value_of(sessions.request(method, query, b"3")).status == 200
    for _ in range(8):
        sessions.clock.advance(0.4)
    assert session.ended


def test_the_idle_timeout_ends_a_waiting_get(sessions):
    query, session = sessions.polling()
    session.set_idle_timeout(3.0)
    waiting = sessions.request("GET", query)
    for _ in range(6):
        sessions.clock.advance(0.4)
    assert value_of(waiting).body == b"2"
    waiting = sessions.request("GET", query)
    for _ in range(8):
        sessions.clock.advance(0.4)
    assert value_of(waiting).body == b"1"
    assert session.ended


def test_a_websocket_that_is_moving_is_dropped_in_time(sessions):
    query, session = sessions.polling()
    sid = query.rpartition("=")[2]
    link, upgrade = sessions.websocket(f"transport=websocket&sid={sid}")
    sessions.clock.advance(10.1)
    assert link.closed == (1000, "")
    upgrade.received(b"2probe", False)
    upgrade.closed(1000, "")
    assert link.sent == []
    assert session.engine.polling


@pytest.mark.parametrize("moved", [True, False])
def test_sessions_that_do_nothing_in_the_core_say_so(sessions, moved):
    query, session = sessions.polling()
    if moved:
        session = sessions.websocket(f"transport=websocket&sid={query.rpartition('=')[2]}")[1]
        assert value_of(Deferred.fromCoroutine(session.probe())) is True
    session.event(Event("t", "n", b"1"), "t")
    session.reply(Reply("r", b"1"))
    assert session.mail(Mail("q", "r", b"1")) is False
    with pytest.raises(NotFound):
        session.request(Request("1", "p", "p", "", b"[]"))


BODIES = st.lists(
    st.tuples(
        st.sampled_from(["get", "post", "put", "socket", "time"]),
        st.one_of(
            st.sampled_from([b"1", b"2", b"3", b"4x", b"4a\x1e4b", b"5", b"2probe", b"bAQID", b"abc"]),
            st.binary(max_size=20),
        ),
    ),
    max_size=25,
)


@given(BODIES)
def test_no_sequence_leaves_anything_behind(steps):
    sessions = Sessions(ping_interval=3.0, ping_timeout=2.0, upgrade_timeout=1.0)
    query, _ = sessions.polling()
    links = []
    for step, data in steps:
        if step == "time":
            sessions.clock.advance(0.7)
        elif step == "socket" and (not links or links[-1][0].closed):
            if query.rpartition("=")[2] in sessions.server.sessions:
                links.append(sessions.websocket(f"transport=websocket&{query.replace('transport=polling&', '')}"))
        elif step == "socket":
            links[-1][1].received(data, False)
        else:
            sessions.request(step.upper(), query, data)
    sessions.stop()
    assert all(link.closed for link, _ in links)


# Many packets


class Slow(Session):
    """Takes a slice for each message."""

    def on_message(self, data, binary):
        self.context.clock.rightNow += SLICE  # type: ignore[attr-defined]
        self.send([(data, binary)])


@pytest.fixture
def slow():
    sessions = Sessions()
    sessions.server = Server(Slow, sessions.clock)
    yield sessions
    sessions.stop()


def test_the_packets_of_a_post_are_handled_in_slices(slow):
    query, _ = slow.polling()
    posted = slow.request("POST", query, b"\x1e".join(b"4%d" % number for number in range(4)))
    assert not posted.called
    slow.clock.pump([0] * 4)
    assert value_of(posted).body == b"ok"
    assert slices_of(slow.clock).pauses == 3
    assert value_of(slow.request("GET", query)).body == b"40\x1e41\x1e42\x1e43"


def test_packets_that_ask_for_nothing_are_read_in_slices_too(slow):
    query, session = slow.polling()
    slices_of(slow.clock).now = partial(next, count(0.0, SLICE))  # each packet takes a slice
    posted = slow.request("POST", query, b"40\x1e6\x1e7")
    assert not posted.called
    slow.clock.pump([SLICE] * 20)
    assert value_of(posted).status == 400
    assert session.ended


def test_a_post_whose_client_goes_takes_effect(slow):
    query, _ = slow.polling()
    posted = slow.request("POST", query, b"40\x1e41")
    posted.addErrback(lambda failure: failure.trap(CancelledError)).cancel()
    slow.clock.pump([0] * 2)
    assert value_of(slow.request("GET", query)).body == b"40\x1e41"


def test_a_second_post_meanwhile_ends_the_session(slow):
    query, session = slow.polling()
    first = slow.request("POST", query, b"40\x1e41\x1e42")
    assert value_of(slow.request("POST", query, b"43")).status == 400
    assert session.ended
    slow.clock.pump([0] * 3)
    assert value_of(first).body == b"ok"


def test_more_packets_than_can_be_read_in_time_end_the_session(slow):
    query, session = slow.polling()
    assert value_of(slow.request("POST", query, b"\x1e".join([b"6"] * MAX_PACKETS))).status == 200
    assert value_of(slow.request("POST", query, b"\x1e".join([b"6"] * (MAX_PACKETS + 1)))).status == 413
    assert session.ended


def test_packets_that_wait_for_a_get_are_counted_until_it_comes(sessions):
    query, session = sessions.polling()
    memory = sessions.broker.memory
    session.send([(b"x" * 5000, False)])
    assert memory.held.used == 5001
    value_of(sessions.request("GET", query))
    assert memory.used == 0
    session.send([(b"x" * 5000, False)])
    session.end()
    assert memory.used == 0


def test_the_session_with_the_most_packets_ends_when_there_are_too_many():
    sessions = Sessions()
    sessions.broker.memory.held.share = 10_000
    (_, first), (_, second) = sessions.polling(), sessions.polling()
    first.send([(b"x" * 6000, False)])
    second.send([(b"x" * 5000, False)])
    assert (first.ended, second.ended, sessions.broker.memory.used) == (True, False, 5001)
    sessions.stop()
    assert sessions.broker.memory.used == 0
