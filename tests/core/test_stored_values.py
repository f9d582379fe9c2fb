"""What an older version, or an import, has stored: no time, position or message of it stops those who read."""

from __future__ import annotations

import json

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel

from broker.core.channels import CURSOR, cursor_key
from broker.core.indices import DEFINITION, rows_log
from broker.core.indices import POSITION as INDEX_POSITION
from broker.core.memberships import SPACE as MEMBERS
from broker.core.queues import POSITION as QUEUE_POSITION
from broker.errors import Invalid
from broker.messages import MAX_ID, MAX_TIME, Event, Request
from broker.patterns import pair_key
from broker.testing import http_request, make_broker, value_of
from protocols import ganomede
from tests.protocols.owlmeans_emulator import Room
from tests.support.logs import lines_of, logging
from tests.support.peers import attach, call, perform

TIMES = [1e308, float("inf"), float("-inf"), float("nan"), -1.0, MAX_TIME * 1.01]
POSITIONS = [b"", b"x", b"-1", b"1.5", b"1e308", b"9" * 19, b"9" * 400, b"9" * 5000, b"\xff", b"null"]
MAIL = "mail/client:alice"


@pytest.fixture
def errors():
    with logging(LogLevel.error) as events:
        yield events
    assert lines_of(events) == []


@pytest.fixture
def room():
    return Room(poll_timeout_seconds=1.0, durable_topics=("ch",))


def http(room, target, body=b""):
    dialect = ganomede.dialect(room.broker.settings)
    headers = {"content-type": "application/json"}
    answer = http_request(room.broker, dialect, "POST" if body else "GET", f"/events/v1/{target}", body, headers)
    room.advance(2.0)
    return value_of(answer)


@pytest.mark.parametrize("time", TIMES)
def test_an_event_of_any_time_can_be_read(room, errors, time):
    value_of(room.broker.store.append("event/ch", Event("ch", "T", b"[1]", "f", time)))
    (event,) = json.loads(http(room, "latest?channel=ch").body)
    assert event == {"id": 1, "timestamp": 0, "type": "T", "from": "f", "data": [1]}
    assert len(json.loads(http(room, "events?clientId=c&channel=ch").body)) == 1
    assert http(room, "indices", b'{"id":"i","channel":"ch","field":"type"}').status == 200
    assert len(json.loads(http(room, "indices/i/T").body)["rows"]) == 1


@pytest.mark.parametrize("time", TIMES)
def test_an_event_of_any_time_is_delivered(room, errors, time):
    alice = room.join("alice")
    room.ask(alice, "broker.subscribe", "ch")
    room.broker.arrived(Event("ch", "T", b"[1]", "f", time))
    room.pump()
    (event,) = alice.client.of("event")
    assert (event["payload"], event["dt"]) == ([1], 0)


@pytest.mark.parametrize("position", POSITIONS)
def test_a_cursor_of_any_value_can_be_read_and_moved(room, errors, position):
    value_of(room.broker.store.append("event/ch", Event("ch", "T", b"[1]")))
    value_of(room.broker.store.set(CURSOR, cursor_key("c", "ch"), position))
    found = json.loads(http(room, "events?clientId=c&channel=ch").body)
    assert len(found) == 1
    assert http(room, "events?clientId=c&channel=ch&after=1").status == 200
    assert http(room, "events?clientId=c&channel=ch").body == b"[]"


@pytest.mark.parametrize("position", POSITIONS)
def test_positions_of_any_value_stop_no_index_and_no_queue(room, errors, position):
    value_of(room.broker.store.append("event/ch", Event("ch", "T", b"[1]")))
    http(room, "indices", b'{"id":"i","channel":"ch","field":"type"}')
    for space, key in ((INDEX_POSITION, "i"), (QUEUE_POSITION, "client:alice")):
        value_of(room.broker.store.set(space, key, position))
    assert http(room, "indices/i/T").status == 200
    alice, bob = room.join("alice"), room.join("bob")
    bob.client.enqueue("hello", recipient="alice")
    room.advance(1.0)
    assert [message["payload"] for message in alice.client.of("message")] == ["hello"]


@pytest.mark.parametrize("definition", [b"", b"x", b"null", b"[]", b"{}", b'{"channel":1,"field":"type"}', b"\xff"])
def test_an_index_that_is_none_is_not_found(room, errors, definition):
    value_of(room.broker.store.set(DEFINITION, "i", definition))
    assert http(room, "indices/i/T").status == 404


@pytest.mark.parametrize("ref", [None, b"", b"x", b"-1", b"9" * 5000])
def test_a_row_of_an_index_that_is_none_is_passed_over(room, errors, ref):
    value_of(room.broker.store.append("event/ch", Event("ch", "T", b"[1]")))
    http(room, "indices", b'{"id":"i","channel":"ch","field":"type"}')
    value_of(room.broker.store.append(rows_log("i", "T"), Event("ch", "", ref)))
    assert len(json.loads(http(room, "indices/i/T").body)["rows"]) == 1


@pytest.mark.parametrize("topic", ["", "line\nend", "x" * 256])
def test_a_membership_of_what_is_no_topic_is_left_out(room, errors, topic):
    value_of(room.broker.store.set(MEMBERS, pair_key("test:ann", topic), b""))
    value_of(room.broker.store.set(MEMBERS, pair_key("test:ann", "good"), b""))
    peer = attach(room.broker)
    assert value_of(Deferred.fromCoroutine(peer.become("ann"))) == ["good"]


@pytest.mark.parametrize("head", [*('["r",%s]' % time for time in ("1e308", "-1", "null", "8.64e12")), '["r",1e309]'])
def test_a_message_of_any_time_is_delivered(room, errors, head):
    value_of(room.broker.store.append(MAIL, Event("client:alice", "mail", head.encode() + b"\n5", "bob", 1.7e9)))
    value_of(room.broker.store.append(MAIL, Event("client:alice", "mail", b'["r",1.7e9]\n6', "bob", 1.7e9)))
    alice = room.join("alice")
    room.advance(1.0)
    received = alice.client.of("message")
    assert [message["payload"] for message in received] == ([6] if "1e309" in head else [5, 6])
    assert all(0 <= message["dt"] <= MAX_TIME * 1000 for message in received)
    assert alice.closed is None


@pytest.mark.parametrize("body", [None, b"", b"x", b"[]", b"[1,2]\n3", b'["\xff",1]\n3', b"\n"])
def test_what_is_no_message_stops_no_mailbox(room, errors, body):
    value_of(room.broker.store.append(MAIL, Event("client:alice", "mail", body, "bob", 1.7e9)))
    alice, bob = room.join("alice"), room.join("bob")
    bob.client.enqueue("behind it", recipient="alice")
    room.advance(1.0)
    assert [message["payload"] for message in alice.client.of("message")] == ["behind it"]


def test_a_key_with_half_a_character_is_passed_over_expires_and_can_be_removed(room, errors):
    alice, peer = room.join("alice"), attach(room.broker)
    room.ask(alice, "broker.watch", ">")
    now = room.clock.seconds()
    for key, expires in (("k", 0.0), ("k\ud800", 0.0), ("k\udfff", now + 1), ("kä", now + 1)):
        value_of(room.broker.store.set("kv", key, b"v", expires=expires))
    found = room.ask(alice, "broker.range", "", "~")["entries"] + room.ask(alice, "broker.range", "kä", "kä")["entries"]
    assert [entry["key"] for entry in found] == ["k", "kä", "kä"]
    room.advance(3.0)
    assert [event["payload"]["key"] for event in alice.client.of("event")] == ["kä"]
    assert value_of(peer.delete("k\ud800")) is True
    for write in (peer.set, peer.patch, peer.increment):
        with pytest.raises(Invalid):
            value_of(write("k\ud800", b"1"))


# What is refused before it is stored or passed on


@pytest.mark.parametrize("time", TIMES)
def test_a_time_that_no_clock_shows_is_refused_by_every_verb(time):
    broker = make_broker(Clock())
    ann, bob = attach(broker, "ann"), attach(broker, "bob")
    perform(bob, "m")
    bob.acknowledge("*")
    for use in (
        lambda: ann.publish("t", "e", b"1", time=time),
        lambda: ann.enqueue("r", b"1", recipient="bob", time=time),
        lambda: call(ann, "m", time=time),
        lambda: ann.call("r", Request("", "m", "", "", b"[]", timeout=time)),
        lambda: ann.request("r", Request("", "", "", "", b"1", time=time)),
        lambda: ann.request("r", Request("", "", "", "", b"1", timeout=time)),
    ):
        with pytest.raises(Invalid):
            use()
    assert (bob.session.served, bob.session.mails, broker.calls.pending) == ([], [], 0)


@pytest.mark.parametrize("time", TIMES)
def test_an_answer_of_any_time_arrives_with_that_of_the_broker(time):
    broker = make_broker(Clock())
    ann, bob = attach(broker), attach(broker)
    perform(bob, "m")
    call(ann, "m")
    assert bob.answer(bob.session.served[0].id, b"1", time=time)
    assert [(reply.body, reply.time) for reply in ann.session.replies] == [(b"1", 0.0)]


@pytest.mark.parametrize("number", [-1, MAX_ID + 1, 2**63, 10**400])
def test_a_revision_or_a_position_that_can_not_be_is_refused(number):
    peer = attach(make_broker(Clock()))
    for use in (
        lambda: peer.set("k", b"v", revision=number),
        lambda: peer.delete("k", revision=number),
        lambda: peer.move_cursor("c", "t", number),
    ):
        with pytest.raises(Invalid):
            value_of(use())
    assert value_of(peer.get("k")) is None
    assert value_of(Deferred.fromCoroutine(peer.cursor("c", "t"))) == 0
