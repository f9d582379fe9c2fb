"""Presence, last values and testaments, as clients see them."""

from __future__ import annotations

import pytest

from tests.protocols.owlmeans_emulator import Failed, Room


@pytest.fixture
def room():
    return Room()


def heard(member):
    return [(event["topic"], event["name"], event["payload"]) for event in member.client.of("event")]


def listening(room, name, *patterns, **options):
    member = room.join(name)
    room.ask(member, "broker.subscribe", list(patterns), options)
    return member


def refused(room, member, method, *arguments):
    with pytest.raises(Failed) as caught:
        room.ask(member, method, *arguments)
    return str(caught.value)


def test_members_are_seen_with_what_they_say_of_themselves(room):
    ann, bob = room.join("ann"), room.join("bob")
    answer = room.ask(ann, "broker.subscribe", "chat", {"presence": True})
    assert answer == {"subscribed": ["chat"], "members": [{"id": "ann", "sessions": 1}]}
    room.ask(bob, "broker.subscribe", "chat", {"presence": {"nick": "b"}})
    both = [{"id": "ann", "sessions": 1}, {"id": "bob", "sessions": 1, "info": {"nick": "b"}}]
    assert room.ask(room.join(), "broker.members", "chat") == {"members": both, "count": 2}
    assert room.ask(bob, "broker.members", "nobody's") == {"members": [], "count": 0}


def test_joins_and_leaves_are_events(room):
    carol = listening(room, "carol", "broker.presence.*")
    ann = listening(room, "ann", "chat", presence={"a": 1})
    again = listening(room, "ann", "chat", presence=True)
    ann.leave(1006)
    room.advance(5)
    again.leave()
    room.advance(1.5)
    assert [each[1:] for each in heard(carol)] == [("join", {"id": "ann", "info": {"a": 1}})]
    room.advance(1)
    assert heard(carol)[1:] == [("broker.presence.chat", "leave", {"id": "ann"})]


def test_whoever_unsubscribes_or_says_so_is_present_no_more(room):
    ann, bob = listening(room, "ann", "a", presence=True), listening(room, "bob", "b", presence=True)
    room.ask(ann, "broker.unsubscribe", "a")
    answer = room.ask(bob, "broker.subscribe", "b", {"presence": False})
    assert answer == {"subscribed": ["b"], "members": [{"id": "bob", "sessions": 0}]}
    room.advance(3)
    assert [room.ask(bob, "broker.members", topic)["count"] for topic in "ab"] == [0, 0]


def test_subscribing_again_leaves_the_presence_as_it_is(room):
    ann = listening(room, "ann", "a", presence="x")
    assert room.ask(ann, "broker.subscribe", "a", {"echo": True}) == {"subscribed": ["a"]}
    assert room.ask(ann, "broker.members", "a")["members"][0]["info"] == "x"


def test_presence_goes_with_a_subscription_from_a_position(room):
    ann = room.join("ann")
    answer = room.ask(ann, "broker.subscribe", "a", {"from": "start", "presence": True})
    assert answer["members"] == [{"id": "ann", "sessions": 1}]


@pytest.mark.parametrize(
    ("topics", "presence", "error"),
    [
        ("a.*", True, "malformed:presence"),
        (["a", "b"], 1, "malformed:presence"),
        ("a", "x" * 4096, "limit:presence"),
        ("kv/a", 1, "forbidden:subscribe:kv/a"),
    ],
)
def test_presence_that_can_not_be_is_refused_with_the_subscription(room, topics, presence, error):
    ann = room.join("ann")
    assert error in refused(room, ann, "broker.subscribe", topics, {"presence": presence})
    assert room.ask(ann, "broker.subscribe", []) == {"subscribed": []}


def test_an_event_is_not_delivered_to_those_it_excludes(room):
    ann, bob, carol = (listening(room, name, "t", "t.*") for name in ("ann", "bob", "carol"))
    other = listening(room, "bob", "t.>")
    dave = listening(room, "dave", "t.*", **{"from": "new"})
    answer = room.ask(ann, "broker.publish", "t", 1, {"exclude": ["bob", carol.id, "nobody"]})
    assert answer == {"delivered": 0}
    assert room.ask(ann, "broker.publish", "t.a", 2, {"exclude": ["dave"]}) == {"delivered": 3}
    assert room.ask(other, "broker.publish", "t", 3, {"exclude": []}) == {"delivered": 3}
    payloads = [[event["payload"] for event in each.client.of("event")] for each in (ann, bob, carol, other, dave)]
    assert payloads == [[3], [2, 3], [2, 3], [2], []]


def test_a_stored_event_is_not_delivered_to_those_it_excludes_but_may_be_read(room):
    ann, bob = listening(room, "ann", "t"), listening(room, "bob", "t")
    room.ask(ann, "broker.publish", "t", 1, {"durable": True, "exclude": ["bob"]})
    assert bob.client.of("event") == []
    assert [event["payload"] for event in room.ask(bob, "broker.read", "t")["events"]] == [1]


@pytest.mark.parametrize(("exclude", "error"), [([""], "malformed:exclude"), (["a"] * 1001, "limit:exclude")])
def test_what_can_not_be_excluded_is_refused(room, exclude, error):
    assert error in refused(room, room.join("ann"), "broker.publish", "t", 1, {"exclude": exclude})
