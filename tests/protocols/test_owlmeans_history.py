"""Reading what is stored, coming back to a position, cursors."""

from __future__ import annotations

import pytest

from broker.patterns import LOG_PREFIX
from broker.testing import http_request, value_of
from protocols.ganomede import dialect as ganomede
from tests.protocols.owlmeans_emulator import Failed, Room


@pytest.fixture
def room():
    return Room(durable_topics=("log.>",), poll_timeout_seconds=0.0)


def publish(room, count=1, topic="log.a"):
    bob = next((m for m in room.members if m.connected.peer.named == "bob"), None) or room.join("bob")
    for _ in range(count):
        bob.client.notify(topic, {"n": 1})
    room.pump()


def trim(room, upto, topic="log.a"):
    value_of(room.broker.store.trim(LOG_PREFIX + topic, upto))


def ids(member):
    return [event["id"] for event in member.client.of("event")]


def test_read_shows_events_with_epoch_oldest_and_newest(room):
    alice, epoch = room.join("alice"), room.broker.store.epoch
    publish(room, 3)
    trim(room, 1)
    assert room.ask(alice, "broker.read", "log.a", {"after": 2}) == {
        "events": [
            {
                "topic": "log.a",
                "id": 3,
                "epoch": epoch,
                "name": "log.a",
                "payload": {"n": 1},
                "sender": "bob",
                "time": 1700000000000,
            }
        ],
        "epoch": epoch,
        "first": 2,
        "head": 3,
    }


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"limit": 2}, [1, 2]),
        ({"after": 3}, [4, 5]),
        ({"after": 5}, []),
        ({"before": 4, "limit": 2}, [2, 3]),
        ({"before": 6}, [1, 2, 3, 4, 5]),
        ({"before": 1}, []),
        ({"before": 0}, []),
        ({"last": 2}, [4, 5]),
        ({"last": 1000}, [1, 2, 3, 4, 5]),
    ],
)
def test_read_pages_both_ways(room, options, found):
    alice = room.join("alice")
    publish(room, 5)
    for name in ("after", "before"):
        if name in options:
            options = options | {name: {"epoch": room.broker.store.epoch, "id": options[name]}}
    assert [event["id"] for event in room.ask(alice, "broker.read", "log.a", options)["events"]] == found


def test_an_empty_topic_has_its_first_event_to_come(room):
    answer = room.ask(room.join("alice"), "broker.read", "log.none")
    assert (answer["events"], answer["first"], answer["head"]) == ([], 1, 0)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"after": 6}, "malformed:after"),
        ({"before": 7}, "malformed:before"),
        ({"after": -1}, "malformed"),
        ({"after": 1, "last": 2}, "malformed:last"),
        ({"limit": 0}, "malformed:limit"),
        ({"limit": 1001}, "malformed:limit"),
        ({"last": 0}, "malformed:last"),
        ({"last": 1001}, "malformed:last"),
        ({"aftre": 1}, "malformed"),
        ({"after": {"epoch": "other", "id": 1}}, "epoch"),
    ],
)
def test_read_refuses_what_means_nothing(room, options, error):
    alice = room.join("alice")
    publish(room, 5)
    with pytest.raises(Failed, match=error):
        room.ask(alice, "broker.read", "log.a", options)


def test_a_position_of_another_epoch_is_gone_with_the_present_one(room):
    alice = room.join("alice")
    with pytest.raises(Failed) as caught:
        room.ask(alice, "broker.read", "log.a", {"after": {"epoch": "other", "id": 1}})
    assert (caught.value.type, caught.value.message) == (
        "SocketErrorConnection",
        f"socket:connection:epoch:{room.broker.store.epoch}",
    )


# Subscriptions from a position.


def test_missed_events_follow_the_result_and_then_the_new_ones(room):
    alice, epoch = room.join("alice"), room.broker.store.epoch
    publish(room, 3)
    answer = room.ask(alice, "broker.subscribe", "log.a", {"from": {"epoch": epoch, "id": 1}})
    assert answer == {"subscribed": ["log.a"], "epoch": epoch, "id": 1, "recovered": True}
    publish(room, 1)
    assert ids(alice) == [2, 3, 4]
    assert [frame["type"] for frame in alice.client.frames] == ["result", "event", "event", "event"]


@pytest.mark.parametrize(("origin", "id", "found"), [("start", 1, [2, 3, 4]), ("new", 3, [4]), (2, 2, [3, 4])])
def test_a_subscription_begins_where_it_says(room, origin, id, found):
    alice = room.join("alice")
    publish(room, 3)
    trim(room, 1)
    answer = room.ask(alice, "broker.subscribe", "log.a", {"from": origin})
    publish(room, 1)
    assert (answer["id"], answer["recovered"], ids(alice)) == (id, True, found)


def test_a_plain_subscription_is_answered_as_ever(room):
    alice = room.join("alice")
    publish(room, 1)
    assert room.ask(alice, "broker.subscribe", "log.a", {"echo": True}) == {"subscribed": ["log.a"]}


def test_what_is_lost_by_retention_is_told(room):
    alice, epoch = room.join("alice"), room.broker.store.epoch
    publish(room, 5)
    trim(room, 3)
    answer = room.ask(alice, "broker.subscribe", "log.a", {"from": {"epoch": epoch, "id": 1}})
    assert answer == {
        "subscribed": ["log.a"],
        "epoch": epoch,
        "id": 3,
        "recovered": False,
        "lost": {"from": 2, "to": 3, "why": "retention"},
    }
    assert ids(alice) == [4, 5]


def test_what_is_lost_with_an_epoch_is_told(room):
    alice = room.join("alice")
    publish(room, 2)
    answer = room.ask(alice, "broker.subscribe", "log.a", {"from": {"epoch": "other", "id": 7}})
    assert (answer["recovered"], answer["id"]) == (False, 0)
    assert answer["lost"] == {"from": 8, "to": None, "why": "epoch"}
    assert ids(alice) == [1, 2]


def test_what_is_lost_later_is_told_by_a_gap(room):
    alice = room.join("alice")
    publish(room, 1)
    room.ask(alice, "broker.subscribe", "log.a", {"from": "start"})
    alice.connected.link.paused, alice.connected.link.unsent = True, 1 << 20
    publish(room, 4)
    trim(room, 3)
    alice.connected.link.drain()
    room.pump()
    assert ids(alice) == [1, 4, 5]
    assert [frame["payload"] for frame in alice.client.of("system")] == [
        {"topic": "log.a", "epoch": room.broker.store.epoch, "from": 2, "to": 3, "why": "retention"}
    ]


@pytest.mark.parametrize(
    ("topic", "origin"),
    [
        ("log.a", {"epoch": "e"}),
        ("log.a", {"id": 1}),
        ("log.a", {"epoch": "e", "id": 1, "x": 1}),
        ("log.a", {"epoch": "e", "id": -1}),
        ("log.a", {"epoch": 5, "id": 1}),
        ("log.a", 99),
        ("log.a", -1),
        ("log.a", 1.5),
        ("log.a", True),
        ("log.a", "end"),
        ("log.>", {"epoch": "e", "id": 1}),
        ("log.>", 1),
        ("log.>", {"other.a": 1}),
        (["log.a", "log.b"], 1),
    ],
)
def test_what_is_no_position_is_refused(room, topic, origin):
    alice = room.join("alice")
    publish(room, 2)
    with pytest.raises(Failed, match="malformed"):
        room.ask(alice, "broker.subscribe", topic, {"from": origin})
    assert room.ask(alice, "broker.unsubscribe", []) == {"subscribed": []}


def test_a_pattern_tells_the_position_in_each_of_its_topics(room):
    alice, epoch = room.join("alice"), room.broker.store.epoch
    publish(room, 2)
    publish(room, 1, "log.b")
    trim(room, 1)
    positions = {"log.a": {"epoch": epoch, "id": 0}, "log.b": {"epoch": epoch, "id": 0}}
    answer = room.ask(alice, "broker.subscribe", "log.*", {"from": positions})
    assert answer == {
        "subscribed": ["log.*"],
        "epoch": epoch,
        "recovered": False,
        "positions": positions | {"log.a": {"epoch": epoch, "id": 1}},
        "lost": [{"topic": "log.a", "from": 1, "to": 1, "why": "retention"}],
    }
    events = alice.client.of("event")
    assert sorted((event["event"], event["topic"], event["id"]) for event in events) == [
        ("log.*", "log.a", 2),
        ("log.*", "log.b", 1),
    ]


def test_several_topics_begin_alike(room):
    alice = room.join("alice")
    publish(room, 1)
    publish(room, 2, "log.b")
    answer = room.ask(alice, "broker.subscribe", ["log.a", "log.b"], {"from": "start"})
    assert sorted(answer["positions"]) == ["log.a", "log.b"]
    assert sorted(ids(alice)) == [1, 1, 2]


def test_wildcards_of_an_exact_name_are_plain(room):
    alice = room.join("alice")
    publish(room, 1)
    answer = room.ask(alice, "broker.subscribe", "log.*", {"from": "start", "exact": True})
    assert (answer["id"], ids(alice)) == (0, [])
    room.ask(alice, "broker.subscribe", "log.*", {"exact": True})
    assert room.ask(alice, "broker.unsubscribe", "log.*") == {"subscribed": []}


# Cursors.


def test_a_subscription_goes_on_after_what_its_cursor_has_acknowledged(room):
    publish(room, 3)
    alice = room.join("alice")
    assert room.ask(alice, "broker.subscribe", "log.a", {"cursor": "reader"})["id"] == 0
    assert [(event["id"], event["cursor"]) for event in alice.client.of("event")] == [
        (1, "reader"),
        (2, "reader"),
        (3, "reader"),
    ]
    assert room.ask(alice, "broker.ack", "reader", "log.a", 2) == {"cursor": "reader", "id": 2, "back": False}
    alice.leave()
    again = room.join("alice")
    assert room.ask(again, "broker.subscribe", "log.*", {"cursor": "reader"})["recovered"]
    assert ids(again) == [3]


def test_an_acknowledgement_that_goes_back_says_so(room):
    alice, epoch = room.join("alice"), room.broker.store.epoch
    publish(room, 3)
    room.ask(alice, "broker.ack", "reader", "log.a", 3)
    answer = room.ask(alice, "broker.ack", "reader", "log.a", {"epoch": epoch, "id": 1})
    assert answer == {"cursor": "reader", "id": 1, "back": True}
    for id, error in ((4, "malformed:id"), (-1, "malformed:id"), ({"epoch": "other", "id": 1}, "epoch")):
        with pytest.raises(Failed, match=error):
            room.ask(alice, "broker.ack", "reader", "log.a", id)


def test_from_decides_where_a_cursor_begins(room):
    alice = room.join("alice")
    publish(room, 3)
    room.ask(alice, "broker.ack", "reader", "log.a", 3)
    assert room.ask(alice, "broker.subscribe", "log.a", {"cursor": "reader", "from": "start"})["id"] == 0
    assert [event["cursor"] for event in alice.client.of("event")] == ["reader"] * 3


def test_a_cursor_is_the_client_id_of_ganomede(room):
    alice, http = room.join("alice"), ganomede(room.broker.settings)
    publish(room, 3)
    url = "/events/v1/events?clientId=reader&channel=log.a"
    value_of(http_request(room.broker, http, "GET", url + "&after=1"))
    assert room.ask(alice, "broker.subscribe", "log.a", {"cursor": "reader"})["id"] == 1
    room.ask(alice, "broker.ack", "reader", "log.a", 2)
    answer = value_of(http_request(room.broker, http, "GET", url))
    assert b'"id":3' in answer.body
    assert b'"id":2' not in answer.body


def test_own_cursors_are_listed_with_how_far_they_are_behind(room):
    alice = room.join("alice")
    publish(room, 3)
    publish(room, 1, "log.b")
    for cursor, topic, id in (("one", "log.a", 1), ("one", "log.b", 1), ("two", "log.a", 3)):
        room.ask(alice, "broker.ack", cursor, topic, id)
    listed = room.ask(alice, "broker.cursors")["cursors"]
    assert [(each["cursor"], each["topic"], each["id"], each["lag"]) for each in listed] == [
        ("one", "log.a", 1, 2),
        ("one", "log.b", 1, 0),
        ("two", "log.a", 3, 0),
    ]
    assert {each["moved"] for each in listed} == {1700000000000}
    assert [each["cursor"] for each in room.ask(alice, "broker.cursors", "log.b")["cursors"]] == ["one"]


def test_cursors_of_others_are_neither_used_nor_listed():
    room = Room(durable_topics=("log.>",), api_keys={"ann": "key-of-ann-12345", "bob": "key-of-bob-12345"})
    ann = room.join(query="token=key-of-ann-12345")
    bob = room.join(query="token=key-of-bob-12345")
    bob.client.notify("log.a", 1)
    room.pump()
    room.ask(ann, "broker.ack", "reader", "log.a", 1)
    with pytest.raises(Failed, match="forbidden:act:reader"):
        room.ask(bob, "broker.ack", "reader", "log.a", 0)
    with pytest.raises(Failed, match="forbidden:act:reader"):
        room.ask(bob, "broker.subscribe", "log.a", {"cursor": "reader"})
    assert room.ask(bob, "broker.cursors") == {"cursors": []}
    assert [each["cursor"] for each in room.ask(ann, "broker.cursors")["cursors"]] == ["reader"]


# Permissions.


@pytest.fixture
def restricted(tmp_path):
    file = tmp_path / "permissions.toml"
    file.write_text(
        '[anonymous.subscribe]\nallow = [">"]\n[anonymous.publish]\nallow = [">"]\n'
        '[anonymous.read]\nallow = ["log.open.>"]\ndeny = ["log.open.secret"]\n'
    )
    return Room(durable_topics=("log.>",), permissions_file=str(file))


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("broker.read", ["log.a"]),
        ("broker.subscribe", ["log.a", {"from": "start"}]),
        ("broker.subscribe", ["log.a", {"cursor": "c"}]),
        ("broker.subscribe", ["log.*", {"from": "new"}]),
        ("broker.subscribe", ["log.open.*", {"from": "start"}]),
        ("broker.ack", ["c", "log.a", 0]),
        ("broker.cursors", ["log.a"]),
    ],
)
def test_what_is_stored_needs_the_permission_to_read(restricted, method, arguments):
    alice = restricted.join()
    with pytest.raises(Failed, match="forbidden"):
        restricted.ask(alice, method, *arguments)
    assert restricted.ask(alice, "broker.subscribe", "log.a") == {"subscribed": ["log.a"]}
    assert restricted.ask(alice, "broker.subscribe", "log.open.x", {"from": "start"})["recovered"]


def test_own_cursors_come_first_and_those_of_ganomede_have_no_time(room):
    alice, http = room.join("zz-alice"), ganomede(room.broker.settings)
    publish(room, 1)
    value_of(http_request(room.broker, http, "GET", "/events/v1/events?clientId=a&channel=log.a&after=1"))
    room.ask(alice, "broker.ack", "zz-alice", "log.a", 1)
    listed = room.ask(alice, "broker.cursors")["cursors"]
    assert [(each["cursor"], each["moved"]) for each in listed] == [("zz-alice", 1700000000000), ("a", None)]
