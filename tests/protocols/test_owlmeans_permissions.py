"""Permissions, verb by verb, and rates."""

from __future__ import annotations

import json

import pytest

from broker.access.permissions import Permissions, Rule
from broker.access.principals import Access
from broker.testing import make_broker
from tests.protocols.owlmeans_emulator import Failed, Room

ALLOW = {
    "allow": ("ok.*", "both", "queue:ok", "kv/ok.*", "kv/ok", "friend"),
    "deny": ("ok.not", "queue:no", "kv/ok.not"),
}
VERBS = (
    "publish", "subscribe", "call", "register", "request", "acknowledge", "send", "consume", "manage", "read", "write",
)  # fmt: skip


def make_room(**settings):
    rule = Rule(**ALLOW)
    access = Access(
        mode="required",
        keys={"alice": "a", "bob": "b", "friend": "f", "poor": "p"},
        permissions=Permissions({"key:alice": dict.fromkeys(VERBS, rule), "key:bob": {v: Rule((">",)) for v in VERBS}}),
    )
    room = Room(make_broker(access=access, auth="required", **settings))
    room.clock.advance(1700000000.0)
    return room


@pytest.fixture
def room():
    return make_room()


def forbidden(room, member, method, *args, **extra):
    with pytest.raises(Failed) as caught:
        room.ask(member, method, *args, **extra)
    assert caught.value.type == "ForbiddenAuthorizationError"
    return caught.value.message.removeprefix("auth:authorization:forbidden:")


@pytest.mark.parametrize(
    ("method", "good", "bad", "verb", "name"),
    [
        ("broker.register", ["ok.m"], ["other"], "register", "other"),
        ("broker.register", ["ok.m"], [["ok.n", "ok.not"]], "register", "ok.not"),
        ("broker.subscribe", ["ok.yes"], ["other.*"], "subscribe", "other.*"),
        ("broker.subscribe", ["both"], ["ok.*"], "subscribe", "ok.*"),
        ("broker.subscribe", ["broker.presence.ok.yes"], ["broker.presence.other"], "subscribe", "other"),
        ("broker.subscribe", ["broker.presence.both"], ["broker.presence.*"], "subscribe", "*"),
        ("broker.testament", ["ok.t", 1], ["other", 1], "publish", "other"),
        ("broker.subscribe", ["ok.t", {"last": 1}], ["other", {"last": 1}], "subscribe", "other"),
        ("broker.members", ["ok.yes"], ["ok.not"], "subscribe", "ok.not"),
        ("broker.acknowledge", ["ok.a"], ["*"], "acknowledge", "*"),
        ("broker.consume", ["ok"], ["no"], "consume", "queue:no"),
        ("broker.enqueue", ["ok", 1], ["no", 1], "send", "queue:no"),
        ("broker.queue", ["ok"], ["no"], "consume", "queue:no"),
        ("broker.dead", ["ok"], ["no"], "manage", "queue:no"),
        ("broker.retry", ["ok", "all"], ["no", "all"], "manage", "queue:no"),
        ("broker.drop", ["ok", []], ["no", []], "manage", "queue:no"),
        ("broker.get", ["ok.k"], ["ok.not"], "read", "kv/ok.not"),
        ("broker.set", ["ok.k", "v"], ["other", "v"], "write", "kv/other"),
        ("broker.patch", ["ok.k", "{}"], ["other", "v"], "write", "kv/other"),
        ("broker.increment", ["ok.n"], ["other"], "write", "kv/other"),
        ("broker.delete", ["ok.k"], ["other"], "write", "kv/other"),
    ],
)
def test_verb_is_allowed_and_denied_by_pattern(room, method, good, bad, verb, name):
    alice = room.join("", "token=a")
    room.ask(alice, method, *good)
    assert forbidden(room, alice, method, *bad) == f"{verb}:{name}"


def test_calls_are_allowed_and_denied_by_pattern(room):
    alice, bob = room.join("", "token=a"), room.join("", "token=b")
    for name in ("ok.m", "ok.not", "other"):
        room.offer(bob, name, lambda: 1)
    assert room.ask(alice, "ok.m") == 1
    assert forbidden(room, alice, "ok.not") == "call:ok.not"
    assert forbidden(room, alice, "other", recipient="bob") == "call:other"
    assert room.ask(alice, "broker.methods") == {"methods": ["ok.m"]}


def test_events_are_allowed_and_denied_by_pattern(room):
    alice, bob = room.join("", "token=a"), room.join("", "token=b")
    room.ask(bob, "broker.subscribe", ">")
    for name in ("ok.e", "ok.not", "other"):
        alice.client.notify(name, 1)
    room.pump()
    assert [event.get("topic") for event in bob.client.of("event")] == ["ok.e"]
    assert alice.client.notices == [
        f"ForbiddenAuthorizationError|||auth:authorization:forbidden:publish:{name}|||" for name in ("ok.not", "other")
    ]


def test_requests_are_allowed_and_denied_by_pattern(room):
    alice, bob = room.join("", "token=a"), room.join("", "token=b")
    bob.client.acknowledge(lambda message: bob.client.reply(message["id"], "yes") is None)
    room.ask(bob, "broker.acknowledge")
    streams = [alice.client.request({"action": action}) for action in ("ok.r", "ok.not")]
    room.pump()
    refused = {"error": "ForbiddenAuthorizationError|||auth:authorization:forbidden:request:ok.not|||"}
    assert streams == [["yes"], [refused]]


def test_messages_are_allowed_and_denied_by_pattern(room):
    alice = room.join("", "token=a")
    for recipient in ("queue:ok", "queue:no", "friend", "poor"):
        alice.client.enqueue(1, recipient=recipient)
    room.pump()
    assert alice.client.notices == [
        f"ForbiddenAuthorizationError|||auth:authorization:forbidden:send:{name}|||" for name in ("queue:no", "poor")
    ]


def test_answers_need_no_permission(room):
    bob, poor = room.join("", "token=b"), room.join("", "token=p")
    poor.client.acknowledge(lambda message: poor.client.reply(message["id"], 1) is None)
    poor.client.ping()
    room.pump()
    stream = bob.client.request({}, recipient="poor")
    room.pump()
    assert stream == [1]
    assert forbidden(room, poor, "broker.subscribe", "a") == "subscribe:a"


def test_watch_and_range_show_only_what_may_be_read(room):
    alice, bob = room.join("", "token=a"), room.join("", "token=b")
    for key in ("ok.a", "ok.not", "other"):
        room.ask(bob, "broker.set", key, "1")
    entries = room.ask(alice, "broker.watch", ">")["entries"]
    assert [entry["key"] for entry in entries] == ["ok.a"]
    assert [entry["key"] for entry in room.ask(alice, "broker.range", "", "~")["entries"]] == ["ok.a"]
    for key in ("ok.a", "ok.not", "other"):
        room.ask(bob, "broker.set", key, "2")
    assert [event["topic"] for event in alice.client.of("event")] == ["kv/ok.a"]


def test_rate_is_limited_with_an_answer_to_each():
    room = Room(rate=1.0, rate_burst=3)
    alice = room.join("")
    for _ in range(3):
        room.ask(alice, "broker.get", "k")
    with pytest.raises(Failed, match="SocketErrorMessage: socket:message:limit:rate"):
        room.ask(alice, "broker.get", "k")
    room.clock.advance(1)
    room.ask(alice, "broker.get", "k")


def test_who_is_too_fast_is_told_when_the_next_token_is_there():
    room = Room(rate=0.5, rate_burst=1)
    alice = room.join("")
    room.ask(alice, "broker.get", "k")
    room.clock.advance(0.5)
    alice.client.call("broker.get", "k")
    alice.client.request({"action": "x"})
    alice.client.notify("t", 1)
    room.pump()
    (error,), (response,), (notice,) = (alice.client.of(kind) for kind in ("error", "response", "system"))
    assert (error["retry_after"], response["retry_after"], notice["payload"]["retry_after"]) == (1.5, 1.5, 1.5)


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("register", (["a", "b", "c"],)),
        ("subscribe", (["a", "b.*", ">"],)),
        ("acknowledge", ("a",)),
        ("consume", ("a",)),
        ("identify", ("ann",)),
        ("set", ("k", "1")),
        ("get", ("k",)),
        ("patch", ("k", "1")),
        ("increment", ("k",)),
        ("delete", ("k",)),
        ("range", ("a", "z")),
        ("watch", ("k.*",)),
    ],
)
def test_one_frame_takes_one_token(method, args):
    room = Room(rate=0.001, rate_burst=2)
    alice = room.join("")
    room.ask(alice, f"broker.{method}", *args)
    room.ask(alice, "broker.get", "k")
    with pytest.raises(Failed, match="limit:rate"):
        room.ask(alice, "broker.get", "k")


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "event", "event": "e", "payload": 1},
        {"type": "message", "payload": 1},
        {"type": "message", "recipient": "queue:q", "payload": 1},
        {"type": "request", "id": "r", "payload": {"action": "a"}},
        {"type": "call", "id": "c", "method": "m", "payload": []},
    ],
)
def test_frames_without_a_method_of_the_broker_take_one_token_too(frame):
    room = Room(rate=0.001, rate_burst=2)
    alice = room.join("")
    alice.connected.say(json.dumps(frame))
    room.ask(alice, "broker.get", "k")
    with pytest.raises(Failed, match="limit:rate"):
        room.ask(alice, "broker.get", "k")


def test_handshake_takes_one_token_whatever_its_url_says():
    room = Room(rate=0.001, rate_burst=3)
    alice = room.join("ann", "subscribe=a,b,c.*")
    assert room.ask(alice, "broker.unsubscribe", []) == {"subscribed": ["a", "b", "c.*"]}
    room.ask(alice, "broker.get", "k")
    with pytest.raises(Failed, match="limit:rate"):
        room.ask(alice, "broker.get", "k")
