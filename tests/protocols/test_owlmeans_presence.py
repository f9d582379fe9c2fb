"""Presence, last values and testaments, as clients see them."""

from __future__ import annotations

import pytest

from tests.protocols.owlmeans_emulator import Failed, Room

NOW = 1700000000000  # milliseconds


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


def test_of_many_members_pages_are_asked_for(room):
    for name in ("cid", "ann", "bob"):
        listening(room, name, "chat", presence=True)
    ann, bob, cid = ({"id": name, "sessions": 1} for name in ("ann", "bob", "cid"))
    asker = room.join()
    first = room.ask(asker, "broker.members", "chat", {"limit": 2})
    assert first == {"members": [ann, bob], "count": 3, "more": True}
    assert room.ask(asker, "broker.members", "chat", {"after": "bob"}) == {"members": [cid], "count": 3, "more": False}
    for options in ({"limit": 0}, {"limit": 1001}):
        assert "malformed:limit" in refused(room, asker, "broker.members", "chat", options)
    assert "malformed:options:ofset" in refused(room, asker, "broker.members", "chat", {"ofset": 1})


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


@pytest.mark.parametrize("origin", ["new", "start"])
def test_a_subscription_from_a_position_leaves_out_what_excludes_its_client(room, origin):
    ann, bob = room.join("ann"), listening(room, "bob", "t", **{"from": origin})
    for value, exclude in enumerate((["bob"], [], [bob.id, "bob"], ["ann"])):
        room.ask(ann, "broker.publish", "t", value, {"durable": True, "exclude": exclude})
    room.advance(1)
    later, other = (listening(room, name, "t.>", "t", **{"from": "start"}) for name in ("bob", "carol"))
    room.advance(1)
    payloads = [[event["payload"] for event in each.client.of("event")] for each in (bob, later, other)]
    assert payloads == [[1, 3], [1, 3], [0, 1, 2, 3]]


def test_a_slow_reader_is_not_sent_what_excludes_it_when_it_has_read(room):
    ann, bob = room.join("ann"), listening(room, "bob", "t")
    bob.connected.link.paused, bob.connected.link.unsent = True, 1 << 20
    for value, exclude in enumerate(([], ["bob"], [], ["bob"])):
        room.ask(ann, "broker.publish", "t", value, {"durable": True, "exclude": exclude})
    bob.connected.link.drain()
    room.advance(1)
    assert [event["payload"] for event in bob.client.of("event")] == [0, 2]


def test_the_last_value_does_not_come_to_those_it_excludes(room):
    room.ask(room.join("ann"), "broker.publish", "t", 1, {"retain": True, "exclude": ["bob"]})
    assert (last(room, "t", name="bob")[1], last(room, "t", name="carol")[1]) == ([], [1])


@pytest.mark.parametrize(("exclude", "error"), [([""], "malformed:exclude"), (["a"] * 1001, "limit:exclude")])
def test_what_can_not_be_excluded_is_refused(room, exclude, error):
    assert error in refused(room, room.join("ann"), "broker.publish", "t", 1, {"exclude": exclude})


def last(room, topic, number=1, name=""):
    member = room.join(name)
    answer = room.ask(member, "broker.subscribe", topic, {"last": number})
    assert answer["subscribed"] == [topic]
    room.advance(1)
    return member, [event["payload"] for event in member.client.of("event")]


def test_the_last_value_is_kept_for_who_subscribes_later(room):
    ann = room.join("ann")
    for value in (1, 2):
        answer = room.ask(ann, "broker.publish", "t", value, {"retain": True, "name": "n", "content_type": "x/y"})
        assert answer == {"delivered": 0}
    bob, payloads = last(room, "t")
    assert payloads == [2]
    (event,) = bob.client.of("event")
    assert (event["event"], event["name"], event["sender"], event["content_type"]) == ("t", "n", "ann", "x/y")
    room.ask(ann, "broker.publish", "t", 3)
    assert [event["payload"] for event in bob.client.of("event")] == [2, 3]
    assert last(room, "t")[1] == [2]


def test_topics_of_the_setting_keep_their_last_value_whoever_publishes():
    room = Room(retained_topics=("keep.>",))
    ann = room.join("ann")
    ann.client.notify("keep.a", 1)
    ann.client.notify("other", 1)
    room.pump()
    assert last(room, "keep.a", 5)[1] == [1]
    assert last(room, "other")[1] == []


@pytest.mark.parametrize("payload", [None, {}])
def test_null_clears_the_last_value(room, payload):
    ann = room.join("ann")
    room.ask(ann, "broker.publish", "t", 1, {"retain": True})
    room.ask(ann, "broker.publish", "t", payload, {"retain": True})
    assert last(room, "t")[1] == ([] if payload is None else [payload])


def test_a_last_value_ends_with_its_time(room):
    room.ask(room.join("ann"), "broker.publish", "t", 1, {"retain": True, "ttl": 10})
    assert last(room, "t")[1] == [1]
    room.advance(10)
    assert last(room, "t")[1] == []


def test_the_newest_of_a_stored_topic_come_first_and_once(room):
    ann = room.join("ann")
    for value in range(5):
        room.ask(ann, "broker.publish", "t", value, {"durable": True, "retain": True})
    bob, payloads = last(room, "t", 3)
    assert payloads == [2, 3, 4]
    room.ask(ann, "broker.publish", "t", 5, {"durable": True})
    assert [event["id"] for event in bob.client.of("event")] == [3, 4, 5, 6]


def test_a_live_value_that_is_newer_than_all_that_is_stored_is_the_last(room):
    ann = room.join("ann")
    room.ask(ann, "broker.publish", "t", 1, {"durable": True})
    room.advance(1)
    room.ask(ann, "broker.publish", "t", 2, {"retain": True})
    assert last(room, "t")[1] == [2]
    assert sorted(last(room, "t", 2)[1]) == [1, 2]


@pytest.mark.parametrize(
    ("topics", "options"),
    [
        ("a.*", {"last": 1}),
        (["a", "b"], {"last": 1}),
        ("a", {"last": 0}),
        ("a", {"last": 1001}),
        ("a", {"last": 1, "from": "new"}),
        ("a", {"last": 1, "cursor": "c"}),
    ],
)
def test_last_is_of_one_topic_and_has_no_other_beginning(room, topics, options):
    ann = room.join("ann")
    assert "malformed:last" in refused(room, ann, "broker.subscribe", topics, options)
    assert room.ask(ann, "broker.subscribe", []) == {"subscribed": []}


@pytest.mark.parametrize(("code", "left"), [(1000, []), (1005, []), (1001, [1]), (1006, [1]), (1013, [1])])
def test_a_testament_is_published_unless_the_client_has_said_goodbye(room, code, left):
    ann, bob = room.join("ann"), listening(room, "bob", "t")
    assert room.ask(ann, "broker.testament", "other", 0) == {"testament": "other"}
    assert room.ask(ann, "broker.testament", "t", 1, {"name": "gone"}) == {"testament": "t"}
    room.advance(5)
    ann.leave(code)
    room.pump()
    assert [event["payload"] for event in bob.client.of("event")] == left
    assert all(
        (event["name"], event["sender"], event["dt"]) == ("gone", "ann", NOW + 5000) for event in bob.client.of("event")
    )


def test_a_testament_may_be_taken_back(room):
    ann, bob = room.join("ann"), listening(room, "bob", "t")
    room.ask(ann, "broker.testament", "t", 1)
    assert room.ask(ann, "broker.testament", None) == {"testament": None}
    assert room.ask(ann, "broker.testament", None) == {"testament": None}
    ann.leave(1006)
    room.pump()
    assert bob.client.of("event") == []


def test_a_testament_may_be_stored_or_kept_as_the_last_value():
    room = Room(durable_topics=("log",))
    for topic, options in (("log", {}), ("state", {"retain": True})):
        ann = room.join("ann")
        room.ask(ann, "broker.testament", topic, "gone", options)
        ann.leave(1006)
    assert [event["id"] for event in room.ask(room.join(), "broker.read", "log")["events"]] == [1]
    assert last(room, "state")[1] == ["gone"]


def test_a_client_that_the_broker_disconnects_leaves_its_testament(room):
    ann, bob = room.join("ann"), listening(room, "bob", "t")
    room.ask(ann, "broker.testament", "t", 1)
    ann.connected.peer.disconnect(1001, "replaced")
    ann.connected.peer.close()
    room.pump()
    assert [event["payload"] for event in bob.client.of("event")] == [1]


def test_no_testament_is_left_where_the_client_may_not_publish(room):
    assert "forbidden:publish:broker.x" in refused(room, room.join("ann"), "broker.testament", "broker.x", 1)


def test_of_very_many_members_those_are_shown_that_came_first():
    room = Room(send_queue_bytes=20_000)
    for number in range(5):
        listening(room, f"c{number}", "chat", presence="x" * 4000)
    answer = room.ask(room.join(), "broker.members", "chat")
    assert ([member["id"] for member in answer["members"]], answer["count"]) == (["c0", "c1"], 5)
