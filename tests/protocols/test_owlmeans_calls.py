"""Calls from client to client, and every way in which they end."""

from __future__ import annotations

import json

import pytest

from broker.errors import CalleeFailed
from broker.messages import Request
from broker.testing import value_of
from tests.protocols.owlmeans_emulator import HOLD, Failed, Room

VALUES = [0, 1.5, -1, True, False, "", "text ä 😀 \u2028", [], [1, [2]], {}, {"a": {"b": [None]}}, 2**60, "\x00"]


@pytest.fixture(params=["auto", "off"])
def room(request):
    return Room(speedups=request.param)


def held(room, member, method="slow"):
    """Let *member* perform *method* and keep the ids of its calls."""
    room.offer(member, method, lambda *_: HOLD)
    return lambda: [frame["id"] for frame in member.client.of("call")]


def failure(room, member, method, *args, **extra):
    with pytest.raises(Failed) as caught:
        room.ask(member, method, *args, **extra)
    return str(caught.value)


@pytest.mark.parametrize("value", VALUES)
def test_arguments_and_results_of_every_json_type_pass(room, value):
    alice, bob = room.join("alice"), room.join("bob")
    room.offer(bob, "echo", lambda *args: list(args))
    assert room.ask(alice, "echo", value, [value]) == [value, [value]]
    room.offer(bob, "first", lambda arg: arg)
    assert room.ask(alice, "first", value) == value


def test_payloads_pass_as_the_exact_bytes(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.offer(bob, "m", lambda *_: HOLD)
    text = b'[ 1.0, 1e2 ,{"b":1,"a":2,"b":3}, 123456789012345678901234567890, "\\u00e4\\/" ]'
    bob.connected.link.take()
    alice.connected.session.received(b'{"type":"call","id":"1","method":"m","payload":%b,"x":1}' % text, False)
    (forwarded,) = bob.connected.link.take()
    assert b'"payload":%b,"timeout"' % text in forwarded
    answer = b'{"type":"result","payload":{"z": 1.50},"id":"%b"}' % json.loads(forwarded)["id"].encode()
    bob.connected.session.received(answer, False)
    assert b'"payload":{"z": 1.50},"sender"' in alice.connected.link.take()[0]


def test_null_and_missing_results_arrive_as_null(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.offer(bob, "nothing", lambda: None)
    assert room.ask(alice, "nothing") is None
    ids = held(room, bob)
    pending = alice.client.call("slow")
    room.pump()
    bob.client.send({"type": "result", "id": ids()[-1]})
    room.pump()
    assert pending.result() is None


def test_client_calls_itself(room):
    alice = room.join("alice")
    room.offer(alice, "double", lambda n: 2 * n)
    assert room.ask(alice, "double", 4) == 8


def test_ids_are_made_anew_for_each_hop(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.offer(bob, "m", lambda: 1)
    room.ask(alice, "m", id="mine")
    assert bob.client.of("call")[0]["id"] != "mine"
    assert alice.client.of("result")[-1]["id"] == "mine"


def test_unknown_method_is_refused(room):
    alice = room.join("alice")
    expected = "SocketErrorConnectionUnsupported: socket:connection:unsupported:method:nope.method"
    assert failure(room, alice, "nope.method", 1) == expected


@pytest.mark.parametrize("method", ["broker.nope", "broker."])
def test_unknown_method_of_the_broker_is_refused(room, method):
    alice = room.join("alice")
    expected = f"SocketErrorConnectionUnsupported: socket:connection:unsupported:method:{method}"
    assert failure(room, alice, method) == expected


def test_second_registration_of_a_method_is_refused(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.offer(bob, "math.add", lambda: "bob")
    assert (
        failure(room, alice, "broker.register", ["free", "math.add"])
        == "SocketErrorMessage: socket:message:exists:math.add"
    )
    assert failure(room, alice, "free") == "SocketErrorConnectionUnsupported: socket:connection:unsupported:method:free"
    assert room.ask(bob, "broker.register", "math.add") == {"registered": ["math.add"]}
    assert room.ask(alice, "math.add") == "bob"


def test_roundrobin_registrations_take_turns(room):
    alice, bob, carol = room.join("alice"), room.join("bob"), room.join("carol")
    room.offer(bob, "who", lambda: "bob", mode="roundrobin")
    room.offer(carol, "who", lambda: "carol", mode="roundrobin")
    answers = [room.ask(alice, "who") for _ in range(4)]
    assert sorted(answers[:2]) == ["bob", "carol"]
    assert answers[:2] == answers[2:]
    assert failure(room, alice, "broker.register", "who") == "SocketErrorMessage: socket:message:exists:who"


def test_unregistered_methods_are_called_no_more(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.offer(bob, "m", lambda: 1)
    assert room.ask(bob, "broker.unregister", ["m", "never"]) == {"unregistered": ["m"]}
    assert "unsupported" in failure(room, alice, "m")


def test_methods_are_listed_by_pattern(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.ask(bob, "broker.register", ["math.add", "math.sub", "text.up"])
    assert room.ask(alice, "broker.methods") == {"methods": ["math.add", "math.sub", "text.up"]}
    assert room.ask(alice, "broker.methods", "math.*") == {"methods": ["math.add", "math.sub"]}


def test_lost_callee_ends_the_call_at_once(room):
    alice, bob = room.join("alice"), room.join("bob")
    held(room, bob, "hang")
    pending = alice.client.call("hang")
    room.pump()
    bob.leave(1006)
    room.pump()
    assert str(pending.error) == "SocketErrorConnection: socket:connection:lost:hang"


def test_answer_for_a_caller_that_left_is_dropped(room):
    alice, bob = room.join("alice"), room.join("bob")
    ids = held(room, bob)
    alice.client.call("slow")
    room.pump()
    alice.leave()
    bob.client.answer(ids()[0], 1)
    room.pump()
    assert bob.client.notices == []
    assert room.broker.metrics.answers_dropped == 1


def test_call_times_out_once_and_drops_the_late_answer(room):
    alice, bob = room.join("alice"), room.join("bob")
    ids = held(room, bob)
    pending = alice.client.call("slow", timeout=100)
    room.pump()
    assert bob.client.of("call")[0]["timeout"] == 100
    room.advance(0.05)
    assert not pending.done
    room.advance(0.2)
    assert str(pending.error) == "SocketErrorTimeout: socket:timeout:call"
    bob.client.answer(ids()[0], "late")
    room.advance(1)
    assert len(alice.client.of("result")) == 0


def test_call_without_limit_waits_until_a_side_leaves(room):
    room = Room(max_call_timeout_seconds=10.0)
    alice, bob = room.join("alice"), room.join("bob")
    held(room, bob)
    pending = alice.client.call("slow", timeout=0)
    room.pump()
    assert bob.client.of("call")[0]["timeout"] == 0
    room.clock.advance(100000)
    room.pump()
    assert not pending.done
    bob.leave()
    room.pump()
    assert "lost" in str(pending.error)


@pytest.mark.parametrize(
    ("given", "effective"), [({}, 60000), ({"timeout": 10**9}, 3600000), ({"timeout": None}, 60000)]
)
def test_missing_and_excessive_timeouts_are_bounded(room, given, effective):
    alice, bob = room.join("alice"), room.join("bob")
    held(room, bob)
    alice.client.send({"type": "call", "id": "1", "method": "slow", "payload": [], **given})
    room.pump()
    assert bob.client.of("call")[0]["timeout"] == effective


@pytest.mark.parametrize("timeout", [0.4, 0.5, 0.999, 1e-9, 5e-324, 1, 1.2])
def test_smallest_timeout_is_a_millisecond(room, timeout):
    alice, bob = room.join("alice"), room.join("bob")
    held(room, bob)
    pending = alice.client.call("slow", timeout=timeout)
    room.pump()
    assert bob.client.of("call")[0]["timeout"] == 1
    room.advance(0.2)
    assert str(pending.error) == "SocketErrorTimeout: socket:timeout:call"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0, 0), (0.0004, 1), (1e-300, 1), (0.001, 1), (0.0016, 2), (60.0, 60000)]
)
def test_timeout_of_another_dialect_is_shown_in_whole_milliseconds(room, seconds, shown):
    bob = room.join("bob")
    held(room, bob)
    bob.connected.session.request(Request("1", "slow", "", "slow", b"[]", timeout=seconds))
    room.pump()
    assert bob.client.of("call")[0]["timeout"] == shown


@pytest.mark.parametrize("timeout", [-1, "soon", [1], 10**400])
def test_bad_timeouts_are_refused(room, timeout):
    alice = room.join("alice")
    expected = "SocketErrorMessageMalformed: socket:message:malformed:timeout"
    assert failure(room, alice, "slow", timeout=timeout) == expected


def test_answer_of_a_third_session_is_dropped(room):
    alice, bob, mallory = room.join("alice"), room.join("bob"), room.join("mallory")
    ids = held(room, bob)
    pending = alice.client.call("slow")
    room.pump()
    mallory.client.answer(ids()[0], "forged")
    mallory.client.answer(ids()[0], error="ResilientError|||forged|||")
    room.pump()
    assert not pending.done
    bob.client.answer(ids()[0], "true")
    room.pump()
    assert pending.result() == "true"


def test_second_answer_is_dropped(room):
    alice, bob = room.join("alice"), room.join("bob")
    ids = held(room, bob)
    pending = alice.client.call("slow")
    room.pump()
    bob.client.answer(ids()[0], 1)
    bob.client.answer(ids()[0], 2)
    bob.client.answer("unknown", 3)
    room.pump()
    assert pending.result() == 1
    assert room.broker.metrics.answers_dropped == 2


def test_answer_without_id_is_told_to_the_callee(room):
    bob = room.join("bob")
    bob.client.send({"type": "result", "payload": 1})
    bob.client.send({"type": "error", "payload": "x"})
    room.pump()
    assert bob.client.notices == ["SocketErrorMessageMalformed|||socket:message:malformed:id|||"] * 2


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("SocketError|||socket:mine|||stack\n at x|||more", ("SocketError", "socket:mine")),
        ("MyError|||why|||", ("MyError", "why")),
        ("MyError|||why", ("MyError", "why")),
        ("User not found|||Error: User not found\n  at f|||…", ("ResilientError", "User not found")),
        ("Single|||Error: Single\n  at f|||…", ("ResilientError", "Single")),
        ("Typed|||TypeError: Typed\n  at f|||…", ("ResilientError", "Typed")),
        ("just text", ("ResilientError", "just text")),
        ("", ("ResilientError", "error")),
        ("|||x|||", ("ResilientError", "error")),
        (None, ("ResilientError", "error")),
        (5, ("ResilientError", "error")),
        ({"message": "SocketError|||x|||"}, ("ResilientError", "error")),
        (["x"], ("ResilientError", "error")),
    ],
)
def test_errors_of_callees_are_normalised(room, payload, expected):
    alice, bob = room.join("alice"), room.join("bob")
    alice.client.types.add("MyError")
    ids = held(room, bob)
    pending = alice.client.call("slow")
    room.pump()
    bob.client.send({"type": "error", "id": ids()[0], "payload": payload})
    room.pump()
    assert (pending.error.type, pending.error.message) == expected
    assert alice.client.of("error")[0]["payload"] == "|||".join((*expected, ""))


def error_sent_to(member):
    """Return the payload of the one frame for *member*, which its emulator would not take with a stack."""
    (frame,) = member.connected.link.take()
    return json.loads(frame)["payload"]


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("MyError|||no|||at x|||cut", "MyError|||no|||at x"),
        ("MyError|||no|||", "MyError|||no|||"),
        ("MyError|||no", "MyError|||no|||"),
        (
            "User not found|||Error: User not found\n at x|||",
            "ResilientError|||User not found|||Error: User not found\n at x",
        ),
        ("text", "ResilientError|||text|||"),
    ],
)
def test_a_stack_passes_where_that_is_set(payload, expected):
    room = Room(owlmeans_pass_stacks=True)
    alice, bob = room.join("alice"), room.join("bob")
    ids = held(room, bob)
    alice.client.call("slow")
    room.pump()
    bob.client.send({"type": "error", "id": ids()[0], "payload": payload})
    bob.pump()
    assert error_sent_to(alice) == expected


@pytest.mark.parametrize(
    ("passed", "data", "stack"),
    [
        (True, b'{"stack":"at |||x"}', "at x"),
        (True, b'{"stack":1}', ""),
        (True, None, ""),
        (False, b'{"stack":"x"}', ""),
    ],
)
def test_details_of_other_dialects_are_no_stack_unless_set(passed, data, stack):
    room = Room(owlmeans_pass_stacks=passed)
    alice, bob = room.join("alice"), room.join("bob")
    ids = held(room, bob)
    alice.client.call("slow")
    room.pump()
    bob.connected.peer.answer(ids()[0], b"null", CalleeFailed("E1", "no", data))
    assert error_sent_to(alice) == f"ResilientError|||E1: no|||{stack}"


def test_errors_of_other_dialects_carry_code_and_message(room):
    alice, bob = room.join("alice"), room.join("bob")
    ids = held(room, bob)
    codes = {
        "EVENT_NOT_FOUND": "ResilientError: EVENT_NOT_FOUND: no such event",
        "E1": "ResilientError: E1: no such event",
    }
    for code, expected in codes.items():
        pending = alice.client.call("slow")
        room.pump()
        bob.connected.peer.answer(ids()[-1], b"null", CalleeFailed(code, "no such event", b'{"a":1}'))
        room.pump()
        assert str(pending.error) == expected


def test_caller_learns_who_answered_and_callee_who_called(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.offer(bob, "m", lambda: 1)
    room.ask(alice, "m", sender="eve", recipient="", dt=1234)
    call = bob.client.of("call")[0]
    assert (call["sender"], call["recipient"], call["dt"]) == ("alice", "bob", 1234)
    assert alice.client.of("result")[-1]["sender"] == "bob"
    assert alice.client.of("result")[-1]["dt"] == 1700000000000


def test_broker_stamps_frames_without_a_clock(room):
    alice, bob = room.join("alice", stamped=False), room.join("bob", stamped=False)
    room.offer(bob, "m", lambda: 1)
    for dt in ({}, {"dt": "yesterday"}, {"dt": 1e300}, {"dt": None}):
        room.ask(alice, "m", **dt)
        assert bob.client.of("call")[-1]["dt"] == 1700000000000
        assert alice.client.of("result")[-1]["dt"] == 1700000000000


def test_call_can_be_addressed(room):
    alice, bob, other = room.join("alice"), room.join("bob"), room.join("bob")
    room.offer(bob, "who", lambda: "first", mode="roundrobin")
    room.offer(other, "who", lambda: "second", mode="roundrobin")
    assert room.ask(alice, "who", recipient="bob") == "second"
    assert room.ask(alice, "@bob/who") == "second"
    assert room.ask(alice, "who", recipient=bob.id) == "first"
    assert room.ask(alice, f"@{bob.id}/who") == "first"
    assert bob.client.of("call")[-1]["method"] == "who"


def test_addressed_call_fails_by_what_is_missing(room):
    alice = room.join("alice")
    room.join("bob")
    unsupported = "SocketErrorConnectionUnsupported: socket:connection:unsupported:method:math"
    assert failure(room, alice, "math", recipient="bob") == unsupported
    assert failure(room, alice, "math", recipient="carl") == "SocketErrorConnection: socket:connection:recipient:carl"
    assert failure(room, alice, "@carl/m") == "SocketErrorConnection: socket:connection:recipient:carl"
    malformed = "SocketErrorMessageMalformed: socket:message:malformed:method"
    assert failure(room, alice, "@bob") == malformed
    assert failure(room, alice, "") == malformed


def test_too_many_waiting_calls_are_refused():
    room = Room(max_pending_calls=2)
    alice, bob = room.join("alice"), room.join("bob")
    held(room, bob)
    for _ in range(2):
        alice.client.call("slow")
    assert failure(room, alice, "slow") == "SocketErrorMessage: socket:message:limit:pending"


def test_too_many_registrations_are_refused():
    room = Room(max_registrations=2)
    alice = room.join("alice")
    assert (
        failure(room, alice, "broker.register", ["a", "b", "c"])
        == "SocketErrorMessage: socket:message:limit:registrations"
    )


@pytest.mark.parametrize(
    ("arguments", "what"),
    [([], "arguments"), ([1], "method"), ([["a", 1]], "method"), (["a", {"mode": "all"}], "options"), ([""], "method")],
)
def test_bad_arguments_of_register_are_named(room, arguments, what):
    alice = room.join("alice")
    expected = f"SocketErrorMessageMalformed: socket:message:malformed:{what}"
    assert failure(room, alice, "broker.register", *arguments) == expected


def test_names_of_the_broker_can_not_be_registered(room):
    alice = room.join("alice")
    expected = "ForbiddenAuthorizationError: auth:authorization:forbidden:register:broker.mine"
    assert failure(room, alice, "broker.register", "broker.mine") == expected


def test_session_that_left_leaves_nothing_behind(room):
    alice, bob = room.join("alice"), room.join("bob")
    held(room, bob)
    alice.client.call("slow")
    room.pump()
    for member in (alice, bob):
        member.leave()
    room.clock.advance(0.3)
    assert room.broker.calls.pending == 0
    assert len(room.broker.presence) == 0
    value_of(room.broker.stopService())
    assert room.clock.getDelayedCalls() == []
