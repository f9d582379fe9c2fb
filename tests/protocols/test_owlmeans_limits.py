"""Calls that are taken back, that go to the least busy performer, or that wait for one."""

from __future__ import annotations

import pytest

from broker.testing import value_of
from tests.protocols.owlmeans_emulator import HOLD, Failed, Room

BUSY = "SocketErrorMessage: socket:message:busy:work"


@pytest.fixture
def room():
    return Room()


def workers(room, *names, **options):
    members = [room.join(name) for name in names]
    for member in members:
        room.offer(member, "work", lambda *_: HOLD, **options)
    return members


def begin(room, caller, *args, count=1, **extra):
    pending = [caller.client.call("work", *args, **extra) for _ in range(count)]
    room.pump()
    return pending


def calls_of(member):
    return [frame["id"] for frame in member.client.of("call")]


def refusal(room, member, method, *args, **extra):
    with pytest.raises(Failed) as caught:
        room.ask(member, method, *args, **extra)
    return str(caught.value)


# Cancelling


def test_cancel_reaches_the_callee_as_a_frame_and_the_caller_as_an_error(room):
    alice, (bob,) = room.join("alice"), workers(room, "bob")
    (pending,) = begin(room, alice, id="mine")
    assert room.ask(alice, "broker.cancel", "mine") == {"cancelled": "mine"}
    assert str(pending.error) == "SocketErrorMessage: socket:message:cancelled:work"
    (id,) = calls_of(bob)
    assert bob.client.of("system") == [{"type": "system", "event": "broker.cancel", "id": id}]
    bob.client.answer(id, "late")
    room.pump()
    assert room.broker.metrics.answers_dropped == 1
    assert room.broker.calls.pending == 0


def test_cancelled_request_ends_with_a_response(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.ask(bob, "broker.acknowledge")
    bob.client.acknowledge(lambda message: bob.client.reply(message["id"], 1) or True)
    alice.client.request({}, id="mine")
    room.pump()
    assert room.ask(alice, "broker.cancel", "mine") == {"cancelled": "mine"}
    assert alice.client.responses == [1, {"error": "SocketErrorMessage|||socket:message:cancelled:|||"}]
    assert bob.client.of("system")[0]["id"] == bob.client.of("request")[0]["id"]


@pytest.mark.parametrize("id", ["nope", "", "theirs"])
def test_nobody_cancels_what_is_not_his_own(room, id):
    alice, eve = room.join("alice"), room.join("eve")
    (bob,) = workers(room, "bob")
    begin(room, alice, id="theirs")
    assert refusal(room, eve, "broker.cancel", id) == (
        f"SocketErrorConnectionUnsupported: socket:connection:unsupported:call:{id}"
    )
    assert bob.client.of("system") == []


def test_a_call_is_cancelled_only_once_and_not_after_its_end(room):
    alice, (bob,) = room.join("alice"), workers(room, "bob")
    begin(room, alice, id="a")
    bob.client.answer(calls_of(bob)[0], 1)
    room.pump()
    assert "unsupported:call:a" in refusal(room, alice, "broker.cancel", "a")
    begin(room, alice, id="b")
    room.ask(alice, "broker.cancel", "b")
    assert "unsupported:call:b" in refusal(room, alice, "broker.cancel", "b")
    assert len(bob.client.of("system")) == 1


@pytest.mark.parametrize("arguments", [[], [5], [["a"]], [None]])
def test_cancel_needs_an_id(room, arguments):
    assert "malformed:" in refusal(room, room.join("alice"), "broker.cancel", *arguments)


# The least busy one


def test_a_call_goes_to_the_performer_with_the_fewest_in_flight(room):
    alice = room.join("alice")
    bob, carol = workers(room, "bob", "carol", mode="leastbusy")
    begin(room, alice, count=4)
    assert [len(calls_of(member)) for member in (bob, carol)] == [2, 2]
    for id in calls_of(carol):
        carol.client.answer(id, 1)
    room.pump()
    begin(room, alice, count=2)
    assert [len(calls_of(member)) for member in (bob, carol)] == [2, 4]


def test_modes_of_those_who_share_a_method_do_not_mix(room):
    workers(room, "bob", mode="leastbusy")
    alice = room.join("alice")
    for options in ([], [{"mode": "roundrobin"}], [{"mode": "single"}]):
        assert refusal(room, alice, "broker.register", "work", *options) == (
            "SocketErrorMessage: socket:message:exists:work"
        )
    room.ask(alice, "broker.register", "work", {"mode": "leastbusy"})


# Limits


def test_over_the_limit_and_the_queue_callers_are_told_that_it_is_busy(room):
    alice, (bob,) = room.join("alice"), workers(room, "bob", max_in_flight=2, queue=1)
    pending = begin(room, alice, count=4)
    assert len(calls_of(bob)) == 2
    assert str(pending[3].error) == BUSY
    bob.client.answer(calls_of(bob)[0], 7)
    room.pump()
    assert len(calls_of(bob)) == 3
    assert [each.done for each in pending] == [True, False, False, True]


def test_without_a_queue_nothing_waits(room):
    alice, (bob,) = room.join("alice"), workers(room, "bob", max_in_flight=1)
    begin(room, alice)
    assert refusal(room, alice, "work") == BUSY
    bob.client.answer(calls_of(bob)[0], 7)
    room.pump()
    begin(room, alice)
    assert len(calls_of(bob)) == 2


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"max_in_flight": 0}, "options"),
        ({"max_in_flight": -1}, "options"),
        ({"max_in_flight": 1.5}, "options"),
        ({"max_in_flight": "1"}, "options"),
        ({"max_in_flight": True}, "options"),
        ({"max_in_flight": 1, "queue": -1}, "options"),
        ({"max_in_flight": 1, "queue": 10_001}, "queue"),
        ({"queue": 5}, "queue"),
        ({"max_inflight": 1}, "options:max_inflight"),
        ({"mode": "least_busy"}, "options"),
    ],
)
def test_limits_that_can_not_be_are_refused(room, options, what):
    alice = room.join("alice")
    expected = f"SocketErrorMessageMalformed: socket:message:malformed:{what}"
    assert refusal(room, alice, "broker.register", "work", options) == expected
    assert room.ask(alice, "broker.methods") == {"methods": []}


def test_null_is_no_limit(room):
    alice, (bob,) = room.join("alice"), workers(room, "bob", max_in_flight=None, queue=None)
    begin(room, alice, count=3)
    assert len(calls_of(bob)) == 3


def test_a_waiting_call_can_be_cancelled(room):
    alice, (bob,) = room.join("alice"), workers(room, "bob", max_in_flight=1, queue=1)
    begin(room, alice, id="a")
    (waits,) = begin(room, alice, id="b")
    room.ask(alice, "broker.cancel", "b")
    assert "cancelled:work" in str(waits.error)
    assert bob.client.of("system") == []


def test_the_time_that_a_call_has_waited_is_taken_from_its_timeout(room):
    alice, (bob,) = room.join("alice"), workers(room, "bob", max_in_flight=1, queue=1)
    begin(room, alice, timeout=60000)
    begin(room, alice, timeout=10000)
    room.advance(4)
    bob.client.answer(calls_of(bob)[0], 1)
    room.pump()
    assert 5800 <= bob.client.of("call")[1]["timeout"] <= 6000


def test_addressed_calls_count_too(room):
    alice = room.join("alice")
    bob, carol = workers(room, "bob", "carol", mode="roundrobin", max_in_flight=1)
    for _ in range(2):
        alice.client.call("@bob/work")
    room.pump()
    assert [len(calls_of(member)) for member in (bob, carol)] == [1, 0]
    assert str(alice.client.of("error")[0]["payload"]).endswith("busy:work|||")


# Streams


def test_a_responder_is_not_read_while_its_requester_does_not_keep_up(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.ask(bob, "broker.acknowledge")
    bob.client.acknowledge(lambda message: True)
    stream = alice.client.request({})
    room.pump()
    (request,) = bob.client.of("request")
    alice.connected.link.paused = True
    bob.client.reply(request["id"], 1)
    room.pump()
    assert not bob.connected.link.receiving
    alice.connected.link.paused = False
    room.advance(0.1)
    assert bob.connected.link.receiving
    bob.client.reply(request["id"], 2)
    room.pump()
    assert stream == [1, 2]


def test_nothing_is_left_behind(room):
    alice, (bob,) = room.join("alice"), workers(room, "bob", max_in_flight=1, queue=5, mode="leastbusy")
    begin(room, alice, count=4)
    for member in (alice, bob):
        member.leave()
    room.clock.advance(0.3)
    assert room.broker.calls.pending == 0
    assert room.broker.memory.held.used == 0
    value_of(room.broker.stopService())
    assert room.clock.getDelayedCalls() == []
