"""Publications that are answered: stored or live, by a key, behind a head, several together; and their expiry."""

from __future__ import annotations

import gc

import pytest

from broker.testing import value_of
from tests.protocols.owlmeans_emulator import Failed, Pending, Room

NOW = 1700000000000  # milliseconds


@pytest.fixture
def room():
    return Room()


def subscribed(room, name, *patterns):
    member = room.join(name)
    member.client.observe(*patterns)
    room.ask(member, "broker.subscribe", list(patterns))
    return member


def stored(room, topic):
    return [event.body for event in value_of(room.members[0].connected.peer.read(topic, 0, 99))]


def refused(room, member, method, *arguments):
    with pytest.raises(Failed) as caught:
        room.ask(member, method, *arguments)
    return str(caught.value)


def test_a_stored_publication_is_answered_with_its_position(room):
    bob, alice = room.join("bob"), subscribed(room, "alice", "t")
    answer = room.ask(bob, "broker.publish", "t", {"a": 1}, {"durable": True, "name": "made"})
    assert answer == {"epoch": room.broker.store.epoch, "id": 1, "time": NOW, "duplicate": False}
    (event,) = alice.client.of("event")
    assert (event["id"], event["name"], event["sender"], event["payload"]) == (1, "made", "bob", {"a": 1})
    assert (event["dt"], event["epoch"]) == (NOW, answer["epoch"])


def test_a_topic_that_is_durable_stores_without_being_asked():
    room = Room(durable_topics=("log.>",))
    bob = room.join("bob")
    assert room.ask(bob, "broker.publish", "log.a", 1)["id"] == 1
    assert room.ask(bob, "broker.publish", "log.a", 2, {"durable": False})["id"] == 2
    assert room.ask(bob, "broker.publish", "other", 1) == {"delivered": 0}


def test_a_live_publication_is_answered_with_how_many_have_got_it(room):
    bob = subscribed(room, "bob", "a.b", "other")
    subscribed(room, "alice", "a.b", "a.*")
    subscribed(room, "carol", ">")
    assert room.ask(bob, "broker.publish", "a.b", 1) == {"delivered": 2}
    assert room.ask(bob, "broker.publish", "nobody's", 1, {}) == {"delivered": 1}
    room.ask(bob, "broker.subscribe", "a.b", {"echo": True})
    assert room.ask(bob, "broker.publish", "a.b", 1) == {"delivered": 3}


def test_a_session_counts_once_however_it_listens(room):
    bob, alice = room.join("bob"), subscribed(room, "alice", "t")
    for member in (bob, alice):
        room.ask(member, "broker.subscribe", "*", {"from": "new"})
    assert room.ask(bob, "broker.publish", "t", 1) == {"delivered": 1}
    assert room.ask(alice, "broker.publish", "t", 1) == {"delivered": 1}
    room.ask(bob, "broker.subscribe", "*", {"from": "new", "echo": True})
    assert room.ask(bob, "broker.publish", "t", 1) == {"delivered": 2}


def test_what_is_published_again_by_its_key_is_stored_and_delivered_once(room):
    bob, carol, alice = room.join("bob"), room.join("carol"), subscribed(room, "alice", "t")
    options = {"durable": True, "key": "k"}
    first = room.ask(bob, "broker.publish", "t", 1, options)
    room.advance(2)
    assert room.ask(carol, "broker.publish", "t", 2, options) == {**first, "duplicate": True}
    assert alice.client.heard == [("t", 1)]
    assert stored(room, "t") == [b"1"]
    assert room.ask(carol, "broker.publish", "other", 2, options)["duplicate"] is False


def test_a_key_is_known_for_as_long_as_the_setting_says():
    room = Room(dedup_seconds=2.0)
    bob = room.join("bob")
    found = []
    for wait in (0.0, 1.9, 0.2):
        room.advance(wait)
        found.append(room.ask(bob, "broker.publish", "t", 1, {"durable": True, "key": "k"})["id"])
    assert found == [1, 1, 2]


def test_a_head_may_be_expected_by_its_position(room):
    bob = room.join("bob")
    epoch = room.ask(bob, "broker.publish", "t", 1, {"durable": True})["epoch"]
    first, other = {"epoch": epoch, "id": 1}, {"epoch": "other", "id": 2}
    assert room.ask(bob, "broker.publish", "t", 2, {"durable": True, "expect": first})["id"] == 2
    assert "conflict:2" in refused(room, bob, "broker.batch", [{"topic": "t", "expect": first}])
    for method, arguments in (
        ("publish", ["t", 3, {"durable": True, "expect": other}]),
        ("batch", [[{"topic": "t", "expect": other}]]),
    ):
        assert f"socket:connection:epoch:{epoch}" in refused(room, bob, f"broker.{method}", *arguments)
    assert room.ask(bob, "broker.batch", [{"topic": "t", "expect": {**first, "id": 2}}])["events"][0]["id"] == 3


def test_a_publication_must_follow_the_head_that_it_expects(room):
    bob = room.join("bob")
    assert room.ask(bob, "broker.publish", "t", 1, {"durable": True, "expect": 0})["id"] == 1
    refusal = refused(room, bob, "broker.publish", "t", 2, {"durable": True, "expect": 0})
    assert refusal == "SocketErrorMessage: socket:message:conflict:1"
    assert room.ask(bob, "broker.publish", "t", 2, {"durable": True, "expect": 1})["id"] == 2
    assert stored(room, "t") == [b"1", b"2"]


@pytest.mark.parametrize("topic", ["live", "stored"])
@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"key": ""}, "key"),
        ({"key": "x" * 256}, "key"),
        ({"key": "a\nb"}, "key"),
        ({"expect": -1}, "expect"),
        ({"expect": 2**53 + 1}, "expect"),
        ({"name": ""}, "name"),
        ({"name": "a\x00"}, "name"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": -1}, "ttl"),
        ({"ttl": 1e300}, "ttl"),
        ({"content_type": "a\r\nb"}, "content_type"),
        ({"key": 1}, "options"),
        ({"expect": "1"}, "options"),
        ({"expect": True}, "options"),
        ({"durable": "yes"}, "options"),
        ({"kye": "k"}, "options:kye"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(options, wrong, topic):
    room = Room(durable_topics=("stored",))
    refusal = refused(room, room.join("bob"), "broker.publish", topic, 1, options)
    assert refusal.startswith(f"SocketErrorMessageMalformed: socket:message:malformed:{wrong}")
    assert stored(room, topic) == []


@pytest.mark.parametrize("wrong", ["key", "expect"])
def test_what_only_the_store_can_promise_is_refused_for_a_live_publication(room, wrong):
    bob, alice = room.join("bob"), subscribed(room, "alice", "t")
    refusal = refused(room, bob, "broker.publish", "t", 1, {wrong: "k" if wrong == "key" else 0})
    assert refusal == f"SocketErrorMessageMalformed: socket:message:malformed:{wrong}"
    assert alice.client.heard == []


@pytest.mark.parametrize("topic", ["broker.x", "broker", "queue:x", "kv/x"])
def test_the_broker_alone_publishes_on_its_topics(room, topic):
    bob = room.join("bob")
    for method, arguments in (("publish", (topic, 1)), ("batch", ([{"topic": "t"}, {"topic": topic}],))):
        assert "ForbiddenAuthorizationError" in refused(room, bob, f"broker.{method}", *arguments)
    assert stored(room, "t") == []


def test_payloads_pass_as_they_were_written(room):
    bob, alice = room.join("bob"), subscribed(room, "alice", "t")
    text = '[1.0, 1e2,  "\\u0061"]'
    bob.client.raw(f'{{"type":"call","id":"1","method":"broker.batch","payload":[[{{"topic":"t","payload":{text}}}]]}}')
    bob.client.raw(f'{{"type":"call","id":"2","method":"broker.publish","payload":["t",{text}]}}')
    bob.client._calls.update({"1": Pending(), "2": Pending()})
    room.pump()
    assert stored(room, "t") == [text.encode()]
    assert alice.client.heard == [("t", [1.0, 100.0, "a"])] * 2


def test_an_event_may_have_no_payload(room):
    bob, alice = room.join("bob"), subscribed(room, "alice", "t")
    room.ask(bob, "broker.publish", "t")
    room.ask(bob, "broker.batch", [{"topic": "t"}])
    assert alice.client.heard == [("t", {}), ("t", {})]
    assert stored(room, "t") == [None]


# Several together.


def test_several_are_stored_together_and_delivered_in_their_order(room):
    bob, alice = room.join("bob"), subscribed(room, "alice", "a", "b")
    several = [{"topic": topic, "payload": number, "name": "n"} for number, topic in enumerate("abab")]
    epoch = room.broker.store.epoch
    assert room.ask(bob, "broker.batch", several) == {
        "events": [{"topic": topic, "epoch": epoch, "id": id} for topic, id in (("a", 1), ("b", 1), ("a", 2), ("b", 2))]
    }
    assert alice.client.heard == [("a", 0), ("b", 1), ("a", 2), ("b", 3)]
    assert {event["name"] for event in alice.client.of("event")} == {"n"}


def test_of_several_none_is_stored_when_one_can_not_be(room):
    bob, alice = room.join("bob"), subscribed(room, "alice", ">")
    refusal = refused(room, bob, "broker.batch", [{"topic": "a"}, {"topic": "b", "expect": 1}])
    assert refusal == "SocketErrorMessage: socket:message:conflict:0"
    assert (stored(room, "a"), alice.client.of("event")) == ([], [])
    positions = room.ask(bob, "broker.batch", [{"topic": "a", "expect": 0}, {"topic": "a", "expect": 1}])["events"]
    assert [position["id"] for position in positions] == [1, 2]


def test_a_batch_that_is_sent_again_is_stored_once(room):
    bob, alice = room.join("bob"), subscribed(room, "alice", "a", "b")
    several = [{"topic": topic, "payload": 1, "key": "k"} for topic in "aba"]
    first = room.ask(bob, "broker.batch", several)["events"]
    assert ["duplicate" in position for position in first] == [False, False, True]
    again = room.ask(bob, "broker.batch", several)["events"]
    assert again == [{**position, "duplicate": True} for position in first]
    assert alice.client.heard == [("a", 1), ("b", 1)]


def test_a_batch_has_1_to_1000_events(room):
    bob = room.join("bob")
    several = [{"topic": "t", "payload": number} for number in range(1001)]
    assert "socket:message:malformed:events" in refused(room, bob, "broker.batch", [])
    assert "socket:message:limit:events" in refused(room, bob, "broker.batch", several)
    assert stored(room, "t") == []
    assert room.ask(bob, "broker.batch", several[1:])["events"][-1]["id"] == 1000


def test_a_batch_of_very_many_events_is_refused_before_they_are_decoded(room):
    bob = room.join("bob")
    # The last is none: whoever decodes it says so.
    many = [{"topic": "t"}] * 10_000 + [{"topic": 1}]
    assert "socket:message:limit:events" in refused(room, bob, "broker.batch", many)
    long = [{"topic": "t", "payload": [1] * 40_000}] * 3 + [{"topic": 1}]
    assert "socket:message:malformed:events" in refused(room, bob, "broker.batch", long)
    assert "socket:message:malformed:events" in refused(room, bob, "broker.batch", "x" * 100_000)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"topic": "t", "durable": True}, "options:durable"),
        ({"topic": "t", "kye": "k"}, "options:kye"),
        ({"payload": 1}, "events"),
        ({"topic": "t", "expect": "1"}, "events"),
        ({"topic": ""}, "topic"),
        ({"topic": "t", "expect": -1}, "expect"),
        (7, "events"),
    ],
)
def test_a_batch_is_checked_as_a_whole(room, wrong, told):
    bob = room.join("bob")
    refusal = refused(room, bob, "broker.batch", [{"topic": "t"}, wrong])
    assert refusal == f"SocketErrorMessageMalformed: socket:message:malformed:{told}"
    assert stored(room, "t") == []


def test_every_topic_of_a_batch_needs_the_permission(tmp_path):
    permissions = tmp_path / "permissions.toml"
    permissions.write_text('[key.bob.publish]\nallow = ["a"]\n[key.bob.read]\nallow = [">"]\n')
    room = Room(api_keys={"bob": "x" * 16}, permissions_file=str(permissions))
    bob = room.join(headers={"authorization": "x" * 16})
    assert "ForbiddenAuthorizationError" in refused(room, bob, "broker.batch", [{"topic": "a"}, {"topic": "b"}])
    assert "ForbiddenAuthorizationError" in refused(room, bob, "broker.publish", "b", 1, {"durable": True})
    assert stored(room, "a") == []
    assert room.ask(bob, "broker.batch", [{"topic": "a"}])["events"][0]["id"] == 1


# Content type and expiry.


def test_content_type_and_expiry_are_shown(room):
    bob, alice = room.join("bob"), subscribed(room, "alice", "t")
    described = {"ttl": 5, "content_type": "text/x"}
    room.ask(bob, "broker.publish", "t", 1, described)
    room.ask(bob, "broker.batch", [{"topic": "t", **described}])
    room.ask(bob, "broker.publish", "t", 1)
    shown = [(event.get("content_type"), event.get("expires")) for event in alice.client.of("event")]
    assert shown == [("text/x", NOW + 5000), ("text/x", NOW + 5000), (None, None)]


def test_what_has_expired_is_read_no_more_and_its_id_stays_used(room):
    bob = room.join("bob")
    for number, options in enumerate([{"ttl": 5}, {}, {"ttl": 1}]):
        room.ask(bob, "broker.publish", "t", number, {"durable": True, **options})
    peer = bob.connected.peer
    for wait, left in ((0.9, [1, 2, 3]), (0.2, [1, 2]), (4, [2])):
        room.advance(wait)
        assert [event.id for event in value_of(peer.read("t", 0, 9))] == left
        assert [event.id for event in value_of(peer.latest("t", 9))] == left
    assert room.ask(bob, "broker.publish", "t", 3, {"durable": True})["id"] == 4


def test_what_expires_on_its_way_is_not_delivered(room):
    alice = subscribed(room, "alice", "t")
    peer = room.join("bob").connected.peer
    event = value_of(peer.post("t", "n", b"1", expires=room.clock.seconds() + 1))
    room.pump()
    assert len(alice.client.of("event")) == 1
    room.clock.advance(1)
    room.broker.arrived(event)
    room.pump()
    assert len(alice.client.of("event")) == 1


def test_publications_leave_nothing_for_the_garbage_collector(room):
    alice = room.join("alice")
    room.ask(alice, "broker.publish", "t", 0, {"durable": True})
    gc.collect()
    gc.disable()
    try:
        for number in range(10):
            room.ask(alice, "broker.publish", "t", number, {"durable": True})
        alice.client.frames.clear()
        found = gc.collect()
    finally:
        gc.enable()
    assert found == 0
