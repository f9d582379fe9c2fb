"""Requests, which may be answered many times."""

from __future__ import annotations

import pytest

from tests.protocols.owlmeans_emulator import Room


@pytest.fixture(params=["auto", "off"])
def room(request):
    return Room(speedups=request.param)


def taker(room, member, topic="*", *, answers=()):
    """Let *member* take requests of *topic*; return the frames that come."""

    def take(message):
        for answer in answers:
            member.client.reply(message["id"], answer)
        return True

    member.client.acknowledge(take)
    room.ask(member, "broker.acknowledge", topic)
    return member.client


def test_responses_come_in_order_with_the_requesters_id(room):
    alice, bob = room.join("alice"), room.join("bob")
    requests = taker(room, bob, "stream", answers=[{"i": 0}, {"i": 1}, {"i": 2}])
    stream = alice.client.request({"action": "stream"})
    room.pump()
    assert stream == [{"i": 0}, {"i": 1}, {"i": 2}]
    request = requests.of("request")[0]
    assert {k: request[k] for k in ("payload", "sender", "recipient")} == {
        "payload": {"action": "stream"},
        "sender": "alice",
        "recipient": "bob",
    }
    assert {response["sender"] for response in alice.client.of("response")} == {"bob"}


def test_topics_are_listed_as_they_come_and_go(room):
    bob = room.join("bob")
    assert room.ask(bob, "broker.acknowledge") == {"acknowledging": ["*"]}
    assert room.ask(bob, "broker.acknowledge", "jobs") == {"acknowledging": ["*", "jobs"]}
    assert room.ask(bob, "broker.unacknowledge") == {"acknowledging": ["jobs"]}


@pytest.mark.parametrize("payload", [{"action": "other"}, {"action": 5}, {}, [1], "text", None])
def test_requests_that_nobody_else_takes_go_to_the_star(room, payload):
    alice, bob, carol = room.join("alice"), room.join("bob"), room.join("carol")
    taker(room, bob, "stream")
    others = taker(room, carol, "*")
    alice.client.request(payload)
    room.pump()
    assert [request["payload"] for request in others.of("request")] == [payload]


def test_takers_of_a_topic_take_turns(room):
    alice, bob, carol = room.join("alice"), room.join("bob"), room.join("carol")
    clients = [taker(room, member, "jobs") for member in (bob, carol)]
    for _ in range(4):
        alice.client.request({"action": "jobs"})
    room.pump()
    assert [len(client.of("request")) for client in clients] == [2, 2]


def test_request_without_a_taker_fails_by_a_response(room):
    alice = room.join("alice")
    stream = alice.client.request({"action": "stream"})
    room.pump()
    assert stream == [{"error": "SocketErrorConnectionUnsupported|||socket:connection:unsupported:request:stream|||"}]


def test_addressed_request_reaches_one_who_acknowledged_nothing(room):
    alice, bob = room.join("alice"), room.join("bob")
    bob.client.ping()
    room.pump()
    alice.client.request({"q": 1}, recipient="bob")
    alice.client.request({"q": 2}, recipient=bob.id)
    room.pump()
    assert [request["payload"]["q"] for request in bob.client.of("request")] == [1, 2]
    stream = alice.client.request({}, recipient="carl")
    room.pump()
    assert stream == [{"error": "SocketErrorConnection|||socket:connection:recipient:carl|||"}]


def test_addressed_request_waits_for_the_clients_handlers(room):
    alice, bob = room.join("alice"), room.join("bob")
    alice.client.request({"q": 1}, recipient="bob")
    room.pump()
    assert bob.client.frames == []
    room.advance(0.3)
    assert len(bob.client.of("request")) == 1


def test_unanswered_request_expires(room):
    room = Room(request_idle_seconds=2.0)
    alice, bob = room.join("alice"), room.join("bob")
    taker(room, bob)
    stream = alice.client.request({})
    room.advance(2.2)
    assert stream == [{"error": "SocketErrorTimeout|||socket:timeout:request|||"}]
    bob.client.reply(bob.client.of("request")[0]["id"], "late")
    room.pump()
    assert len(stream) == 1


def test_answered_request_ends_silently_when_idle():
    room = Room(request_idle_seconds=2.0)
    alice, bob = room.join("alice"), room.join("bob")
    taker(room, bob)
    stream = alice.client.request({})
    room.pump()
    id = bob.client.of("request")[0]["id"]
    for number in range(3):
        room.advance(1.5)
        bob.client.reply(id, number)
    room.advance(2.5)
    bob.client.reply(id, "too late")
    room.advance(2.5)
    assert stream == [0, 1, 2]
    assert room.broker.calls.pending == 0


@pytest.mark.parametrize(("answers", "expected"), [([], ["lost"]), ([1], [1])])
def test_responder_that_leaves_fails_only_what_it_never_answered(room, answers, expected):
    alice, bob = room.join("alice"), room.join("bob")
    taker(room, bob, answers=answers)
    stream = alice.client.request({})
    room.pump()
    bob.leave()
    room.pump()
    lost = {"error": "SocketErrorConnection|||socket:connection:lost:|||"}
    assert stream == [lost if value == "lost" else value for value in expected]


def test_error_for_a_request_becomes_a_response(room):
    alice, bob = room.join("alice"), room.join("bob")
    taker(room, bob)
    stream = alice.client.request({})
    room.pump()
    bob.client.answer(bob.client.of("request")[0]["id"], error="no|||Error: no|||stack")
    room.pump()
    assert stream == [{"error": "ResilientError|||no|||"}]


def test_request_without_id_is_told_by_a_notice(room):
    alice = room.join("alice")
    alice.client.send({"type": "request", "payload": {}})
    room.pump()
    assert alice.client.notices == ["SocketErrorMessageMalformed|||socket:message:malformed:id|||"]


def test_requester_that_leaves_ends_the_request(room):
    alice, bob = room.join("alice"), room.join("bob")
    taker(room, bob)
    alice.client.request({})
    room.pump()
    alice.leave()
    bob.client.reply(bob.client.of("request")[0]["id"], 1)
    room.pump()
    assert room.broker.calls.pending == 0
