"""Events: names, patterns, echo, order, and what other dialects publish."""

from __future__ import annotations

import json

import pytest

from broker.messages import Event, wire_frame
from protocols.owlmeans import wire
from protocols.owlmeans.wire import encode
from tests.protocols.owlmeans_emulator import Failed, Room


@pytest.fixture(params=["auto", "off"])
def room(request):
    return Room(speedups=request.param)


def subscribed(room, member, *patterns, **options):
    member.client.observe(*patterns)
    return room.ask(member, "broker.subscribe", list(patterns), *([options] if options else []))


def test_event_reaches_those_who_subscribed_to_its_name(room):
    alice, bob, carol = room.join("alice"), room.join("bob"), room.join("carol")
    assert subscribed(room, alice, "order.created") == {"subscribed": ["order.created"]}
    bob.client.notify("order.created", {"id": 1}, dt=5)
    room.pump()
    assert alice.client.heard == [("order.created", {"id": 1})]
    event = alice.client.of("event")[0]
    assert {k: event[k] for k in ("event", "payload", "sender", "dt", "name")} == {
        "event": "order.created",
        "payload": {"id": 1},
        "sender": "bob",
        "dt": 5,
        "name": "order.created",
    }
    assert carol.client.of("event") == []


def test_event_comes_once_by_each_subscription_with_one_id(room):
    alice, bob = room.join("alice"), room.join("bob")
    subscribed(room, alice, "order.created", "order.*", ">", "other.*")
    bob.client.notify("order.created", 1)
    bob.client.notify("order.created", 2)
    room.pump()
    events = alice.client.of("event")
    assert [(e["event"], e.get("topic")) for e in events[:3]] == [
        ("order.created", None),
        (">", "order.created"),
        ("order.*", "order.created"),
    ]
    assert len({e["id"] for e in events}) == 2
    assert ("order.*", 1) in alice.client.heard


@pytest.mark.parametrize("size", [wire.LONG - 2, wire.LONG - 1])
def test_a_long_payload_is_framed_as_a_short_one(size):
    event = Event("a.b", "n", encode("x" * size), "alice", time=1.0, id=7, epoch="e", author="user:a")
    frame = wire.event(event, "a.*")
    assert frame.wire == wire_frame(frame.payload)
    assert frame.size == len(frame.payload)
    assert json.loads(frame.payload) == {
        "type": "event",
        "event": "a.*",
        "topic": "a.b",
        "id": 7,
        "payload": "x" * size,
        "sender": "alice",
        "dt": 1000,
        "name": "n",
        "from": "user:a",
        "epoch": "e",
        "eventId": "e:a.b:7",
    }


def test_all_receivers_get_the_same_id(room):
    alice, bob, carol = room.join("alice"), room.join("bob"), room.join("carol")
    subscribed(room, alice, "e")
    subscribed(room, carol, "e")
    bob.client.notify("e", 1)
    room.pump()
    assert alice.client.of("event") == carol.client.of("event")


@pytest.mark.parametrize(
    ("pattern", "heard"),
    [
        ("a.>", ["a.b", "a.b.c"]),
        ("a.*", ["a.b"]),
        ("*.b", ["a.b"]),
        ("a", ["a"]),
        ("a*", ["a", "a.b", "a.b.c"]),
        ("a.b*", ["a.b", "a.b.c"]),
    ],
)
def test_patterns_match_tokens(room, pattern, heard):
    alice, bob = room.join("alice"), room.join("bob")
    subscribed(room, alice, pattern)
    for name in ("a", "a.b", "a.b.c", "b"):
        bob.client.notify(name, name)
    room.pump()
    assert [payload for _, payload in alice.client.heard] == heard


@pytest.mark.parametrize("name", ["job:*", "a*b", "a>", "*", "a.>.b", "a..*"])
def test_a_name_that_holds_a_wildcard_is_subscribed_to_exactly(room, name):
    alice, bob = room.join("alice"), room.join("bob")
    assert subscribed(room, alice, name, exact=True) == {"subscribed": [name]}
    for topic in ("job:1", "axb", name, "a"):
        bob.client.notify(topic, topic)
    room.pump()
    assert alice.client.heard == [(name, name)]
    assert room.ask(alice, "broker.unsubscribe", name) == {"subscribed": []}


def test_publisher_hears_itself_only_with_echo(room):
    alice, other = room.join("alice"), room.join("alice")
    subscribed(room, alice, "e")
    subscribed(room, other, "e")
    alice.client.notify("e", 1)
    room.pump()
    assert (alice.client.heard, other.client.heard) == ([], [("e", 1)])
    subscribed(room, alice, "e", echo=True)
    alice.client.notify("e", 2)
    room.pump()
    assert alice.client.heard == [("e", 2)]


def test_unsubscribed_events_come_no_more(room):
    alice, bob = room.join("alice"), room.join("bob")
    subscribed(room, alice, "a", "b", "c.*")
    assert room.ask(alice, "broker.unsubscribe", ["a", "c.*", "never"]) == {"subscribed": ["b"]}
    for name in ("a", "b", "c.d"):
        bob.client.notify(name, 1)
    room.pump()
    assert alice.client.heard == [("b", 1)]


def test_order_of_a_thousand_events_is_kept(room):
    alice, bob = room.join("alice"), room.join("bob")
    subscribed(room, alice, "n", "m*")
    for number in range(1000):
        bob.client.notify("n", number)
    room.pump()
    assert [payload for _, payload in alice.client.heard] == list(range(1000))


def test_null_payload_passes_and_missing_one_becomes_an_object(room):
    alice, bob = room.join("alice"), room.join("bob")
    subscribed(room, alice, "e")
    bob.client.notify("e", None)
    bob.client.send({"type": "event", "event": "e"})
    room.pump()
    assert [event["payload"] for event in alice.client.of("event")] == [None, {}]


def test_failed_subscription_changes_nothing(room):
    alice = room.join("alice")
    subscribed(room, alice, "kept")
    with pytest.raises(Failed, match="malformed:pattern"):
        room.ask(alice, "broker.subscribe", ["kept", "new", "a.>.b"])
    assert room.ask(alice, "broker.unsubscribe", []) == {"subscribed": ["kept"]}


@pytest.mark.parametrize("pattern", ["a..*", "a.>.b", "a>", "*a", "a*b", "**", ".*", "a" * 255 + "*"])
@pytest.mark.parametrize("method", ["subscribe", "watch", "methods"])
def test_a_pattern_that_can_match_nothing_is_refused(room, method, pattern):
    alice = room.join("alice")
    with pytest.raises(Failed, match="malformed:pattern"):
        room.ask(alice, f"broker.{method}", pattern)


def test_too_many_subscriptions_are_refused():
    room = Room(max_subscriptions=2)
    alice = room.join("alice")
    with pytest.raises(Failed, match="limit:subscriptions"):
        room.ask(alice, "broker.subscribe", ["a", "b", "c"])
    assert room.ask(alice, "broker.subscribe", ["a", "b"]) == {"subscribed": ["a", "b"]}


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("", "SocketErrorMessageMalformed|||socket:message:malformed:topic|||"),
        ("broker.x", "ForbiddenAuthorizationError|||auth:authorization:forbidden:publish:broker.x|||"),
        ("broker", "ForbiddenAuthorizationError|||auth:authorization:forbidden:publish:broker|||"),
        ("kv/k", "ForbiddenAuthorizationError|||auth:authorization:forbidden:publish:kv/k|||"),
        (5, "SocketErrorMessageMalformed|||socket:message:malformed:event|||"),
        ("a\nb", "SocketErrorMessageMalformed|||socket:message:malformed:topic|||"),
    ],
)
def test_refused_events_are_told_by_a_notice(room, name, error):
    alice = room.join("alice")
    alice.client.notify(name, 1)
    room.pump()
    assert alice.client.notices == [error]
    ref = alice.client.of("system")[0]["payload"]["ref"]
    assert ref == ({"type": "event", "event": name} if isinstance(name, str) and name else {"type": "event"})


def test_presence_is_told_to_those_who_subscribed(room):
    alice = room.join("alice")
    subscribed(room, alice, "broker.client.online", "broker.client.offline")
    bob = room.join("bob")
    bob.leave()
    room.pump()
    assert alice.client.heard == [
        ("broker.client.online", {"id": "bob", "session": bob.id}),
        ("broker.client.offline", {"id": "bob", "session": bob.id}),
    ]
    assert {event["sender"] for event in alice.client.of("event")} == {"broker"}


def test_durable_events_carry_id_and_epoch():
    room = Room(durable_topics=("log.>",))
    alice, bob = room.join("alice"), room.join("bob")
    subscribed(room, alice, "log.a")
    for number in range(2):
        bob.client.notify("log.a", number, dt=1)
    room.pump()
    events = alice.client.of("event")
    assert [event["id"] for event in events] == [1, 2]
    assert {event["epoch"] for event in events} == {room.broker.store.epoch}
    # The sender's clock decides nothing of what is stored.
    assert {event["dt"] for event in events} == {1700000000000}


def test_event_id_tells_stored_events_of_a_pattern_apart():
    room = Room(durable_topics=("log.>",))
    alice, bob = room.join("alice"), room.join("bob")
    subscribed(room, alice, "log.*", "log.a")
    for name in ("log.a", "log.b", "log.a"):
        bob.client.notify(name, 1)
    room.pump()
    events, epoch = alice.client.of("event"), room.broker.store.epoch
    of_pattern = [event for event in events if event["event"] == "log.*"]
    assert [event["id"] for event in of_pattern] == [1, 1, 2]
    assert [event["eventId"] for event in of_pattern] == [f"{epoch}:log.{name}" for name in ("a:1", "b:1", "a:2")]
    # The copies by the name and by the pattern are one event.
    copies = {event["eventId"] for event in events if event["event"] == "log.a"}
    assert copies == {f"{epoch}:log.a:1", f"{epoch}:log.a:2"}


def test_event_of_another_dialect_shows_its_own_name(room):
    alice = room.join("alice")
    subscribed(room, alice, "users/v1")
    room.broker.arrived(Event("users/v1", "CREATE", None, "server", 5.0, id=7, epoch="e1"))
    room.pump()
    event = alice.client.of("event")[0]
    assert event == {
        "type": "event",
        "event": "users/v1",
        "id": 7,
        "payload": {},
        "sender": "server",
        "dt": 5000,
        "name": "CREATE",
        "epoch": "e1",
        "eventId": "e1:users/v1:7",
    }


def test_subscriptions_come_from_the_url_and_the_settings():
    room = Room(owlmeans_default_subscriptions=("news",))
    alice, bob = room.join("alice", "subscribe=a,b.*,a"), room.join("bob")
    alice.client.observe("a", "b.*", "news")
    room.advance(0.3)
    for name in ("a", "b.c", "news", "other"):
        bob.client.notify(name, 1)
    room.pump()
    assert alice.client.heard == [("a", 1), ("b.*", 1), ("news", 1)]


def test_refused_subscription_of_the_url_is_told_by_a_notice(room):
    alice = room.join("alice", "subscribe=a..*,fine")
    room.advance(0.3)
    assert alice.client.notices == ["SocketErrorMessageMalformed|||socket:message:malformed:pattern|||"]
    assert room.ask(alice, "broker.unsubscribe", []) == {"subscribed": ["fine"]}


# The 250 ms rule


def test_events_wait_for_the_first_frame_of_the_client(room):
    alice, bob = room.join("", "subscribe=e"), room.join("bob")
    alice.client.observe("e")
    for number in range(3):
        bob.client.notify("e", number)
    room.pump()
    assert alice.client.frames == []
    alice.client.ping()
    room.pump()
    assert [frame["type"] for frame in alice.client.frames] == ["event", "event", "event", "pong"]
    assert [payload for _, payload in alice.client.heard] == [0, 1, 2]


def test_events_wait_no_longer_than_a_quarter_of_a_second(room):
    alice, bob = room.join("", "subscribe=e"), room.join("bob")
    room.advance(0.1)
    bob.client.notify("e", 1)
    room.advance(0.1)
    assert alice.client.frames == []
    room.advance(0.1)
    assert len(alice.client.of("event")) == 1
    room.clock.advance(10)
    bob.client.notify("e", 2)
    room.pump()
    assert len(alice.client.of("event")) == 2


def test_frames_that_mean_nothing_do_not_open_the_gate(room):
    alice, bob = room.join("", "subscribe=e"), room.join("bob")
    bob.client.notify("e", 1)
    for text in ("nonsense", "{", ""):
        alice.client.raw(text)
    room.pump()
    assert alice.client.frames == []


def test_what_waits_is_bounded():
    room = Room(send_queue_bytes=2000)
    alice, bob = room.join("", "subscribe=e"), room.join("bob")
    for _ in range(30):
        bob.client.notify("e", "x" * 100)
    room.pump()
    assert alice.closed == (1013, "too much before the first frame")


def test_client_that_leaves_early_leaves_no_timer(room):
    alice, bob = room.join("", "subscribe=e"), room.join("bob")
    bob.client.notify("e", 1)
    room.pump()
    timers = len(room.clock.getDelayedCalls())
    alice.leave()
    assert len(room.clock.getDelayedCalls()) == timers - 1
