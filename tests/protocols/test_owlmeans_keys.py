"""Keys by the broker's own methods: times to live, revisions, watches."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, fail

from broker.errors import Unavailable
from protocols.owlmeans.methods import MAX_NAMES
from tests.protocols.owlmeans_emulator import Failed, Room


@pytest.fixture
def room():
    return Room()


def failure(room, member, method, *args):
    with pytest.raises(Failed) as caught:
        room.ask(member, method, *args)
    return f"{caught.value.type}: {caught.value.message}"


def test_key_is_set_and_read(room):
    alice = room.join("alice")
    assert room.ask(alice, "broker.get", "user:1") == {"key": "user:1", "value": None, "revision": 0}
    assert room.ask(alice, "broker.set", "user:1", '{"a":1} ä') == {"key": "user:1", "revision": 1}
    assert room.ask(alice, "broker.get", "user:1") == {"key": "user:1", "value": '{"a":1} ä', "revision": 1}
    assert room.ask(alice, "broker.delete", "user:1") == {"key": "user:1", "deleted": True}
    assert room.ask(alice, "broker.delete", "user:1") == {"key": "user:1", "deleted": False}


def test_patch_merges_objects_and_appends_texts(room):
    alice = room.join("alice")
    room.ask(alice, "broker.set", "o", '{"a":1,"b":2}')
    assert room.ask(alice, "broker.patch", "o", '{"b":3}') == {"key": "o", "value": '{"a":1,"b":3}', "revision": 2}
    assert room.ask(alice, "broker.patch", "t", "x")["value"] == "x"
    assert room.ask(alice, "broker.patch", "t", "y")["value"] == "xy"


def test_increment_adds_exact_numbers(room):
    alice = room.join("alice")
    assert room.ask(alice, "broker.increment", "n") == {"key": "n", "value": "1", "revision": 1}
    assert room.ask(alice, "broker.increment", "n", -5)["value"] == "-4"
    assert room.ask(alice, "broker.increment", "n", 2**60)["value"] == str(2**60 - 4)
    assert room.ask(alice, "broker.increment", "f", 0.5)["value"] == "0.5"
    for amount in ("1", None, [], {}):
        expected = "SocketErrorMessageMalformed: socket:message:malformed:amount"
        assert failure(room, alice, "broker.increment", "n", amount) == expected
    room.ask(alice, "broker.set", "text", "abc")
    assert "SocketErrorMessageMalformed" in failure(room, alice, "broker.increment", "text", 1)


def test_revision_lets_only_one_of_two_writers_win(room):
    alice = room.join("alice")
    assert room.ask(alice, "broker.set", "k", "first", {"revision": 0})["revision"] == 1
    conflict = "SocketErrorMessage: socket:message:conflict:k"
    assert failure(room, alice, "broker.set", "k", "again", {"revision": 0}) == conflict
    assert room.ask(alice, "broker.set", "k", "second", {"revision": 1})["revision"] == 2
    assert failure(room, alice, "broker.delete", "k", {"revision": 1}) == conflict
    assert room.ask(alice, "broker.delete", "k", {"revision": 2})["deleted"] is True


def test_key_goes_by_itself_with_an_event(room):
    alice = room.join("alice")
    room.ask(alice, "broker.set", "k", "v", {"ttl": 2})
    assert room.ask(alice, "broker.get", "k")["expires"] == 1700000002000
    room.ask(alice, "broker.watch", "k")
    room.advance(4)
    assert room.ask(alice, "broker.get", "k")["value"] is None
    event = alice.client.of("event")[0]
    assert (event["event"], event["name"], event["payload"]["value"]) == ("kv/k", "expired", None)


def test_range_is_ordered_and_limited(room):
    alice = room.join("alice")
    for key in ("a", "b", "c", "é", "z"):
        room.ask(alice, "broker.set", key, key)
    whole = room.ask(alice, "broker.range", "", "\U0010ffff")
    assert [entry["key"] for entry in whole["entries"]] == ["a", "b", "c", "z", "é"]
    assert whole["more"] is False
    part = room.ask(alice, "broker.range", "b", "z", {"limit": 2})
    assert ([entry["key"] for entry in part["entries"]], part["more"]) == (["b", "c"], True)


def test_range_ends_when_it_is_long_enough(room):
    alice = room.join("alice")
    for key in "abcd":
        room.ask(alice, "broker.set", key, "x" * 300000)
    part = room.ask(alice, "broker.range", "a", "z")
    assert (len(part["entries"]), part["more"]) == (2, True)
    assert failure(room, alice, "broker.watch", ">") == "SocketErrorMessage: socket:message:limit:snapshot"


@pytest.mark.parametrize(
    ("method", "arguments", "what"),
    [
        ("get", [], "arguments"),
        ("get", [5], "key"),
        ("get", [""], "key"),
        ("get", ["k" * 1025], "key"),
        ("set", ["k", 5], "value"),
        ("set", ["k", "v", {"ttl": 0}], "ttl"),
        ("set", ["k", "v", {"ttl": 8.64e12}], "ttl"),
        ("set", ["k", "v", {"ttl": 1e306}], "ttl"),
        ("set", ["k", "v", {"ttl": "1"}], "options"),
        ("set", ["k", "v", {"revision": -1}], "revision"),
        ("range", ["a", "b", {"limit": 0}], "limit"),
        ("range", ["a", "b", {"limit": 1001}], "limit"),
        ("watch", ["a.>.b"], "pattern"),
    ],
)
def test_bad_arguments_are_named(room, method, arguments, what):
    alice = room.join("alice")
    expected = f"SocketErrorMessageMalformed: socket:message:malformed:{what}"
    assert failure(room, alice, f"broker.{method}", *arguments) == expected


# Watches


def test_watch_begins_with_what_is_there(room):
    alice, bob = room.join("alice"), room.join("bob")
    for key in ("user.1", "user.2", "user.2.x", "other"):
        room.ask(bob, "broker.set", key, key.upper())
    alice.client.observe("kv/user.*")
    answer = room.ask(alice, "broker.watch", "user.*")
    assert answer == {
        "watching": ["user.*"],
        "entries": [
            {"key": "user.1", "value": "USER.1", "revision": 1},
            {"key": "user.2", "value": "USER.2", "revision": 2},
        ],
        "epoch": room.broker.store.epoch,
        "revision": 4,
        "snapshot": True,
    }
    room.ask(bob, "broker.set", "user.1", "new")
    room.ask(bob, "broker.set", "other", "new")
    room.ask(alice, "broker.delete", "user.2")
    assert [(payload["key"], payload["value"]) for _, payload in alice.client.heard] == [
        ("user.1", "new"),
        ("user.2", None),
    ]
    event = alice.client.of("event")[0]
    assert (event["event"], event["topic"], event["name"]) == ("kv/user.*", "kv/user.1", "set")
    assert event["payload"] == {"key": "user.1", "value": "new", "timestamp": 1700000000000, "revision": 5}


def test_watch_of_one_key_names_it(room):
    alice = room.join("alice")
    answer = room.ask(alice, "broker.watch", "k")
    assert (answer["watching"], answer["entries"], answer["revision"]) == (["k"], [], 0)
    room.ask(alice, "broker.set", "k", "v")
    event = alice.client.of("event")[0]
    assert event["event"] == "kv/k"
    assert "topic" not in event


def test_watch_of_a_prefix_shows_whatever_begins_with_it(room):
    alice = room.join("alice")
    for key in ("job:1", "job:2.x", "jo", "a.job:3"):
        room.ask(alice, "broker.set", key, "v")
    found = room.ask(alice, "broker.watch", "job:*")["entries"]
    assert [entry["key"] for entry in found] == ["job:1", "job:2.x"]
    for key in ("job:", "job:1", "job:2.y", "jo", "a.job:3"):
        room.ask(alice, "broker.set", key, "w")
    assert [(event["event"], event["topic"]) for event in alice.client.of("event")] == [
        ("kv/job:*", "kv/job:"),
        ("kv/job:*", "kv/job:1"),
        ("kv/job:*", "kv/job:2.y"),
    ]


def test_watch_shows_the_values_before_to_those_who_ask(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.ask(alice, "broker.watch", "k", {"previous": True})
    room.ask(bob, "broker.watch", "k")
    for method, *arguments in (
        ("set", 'ä"1'),
        ("set", ""),
        ("patch", "2"),
        ("set", "3"),
        ("increment", 4),
        ("delete",),
    ):
        room.ask(bob, f"broker.{method}", "k", *arguments)
    room.ask(bob, "broker.set", "k", "5", {"ttl": 1})
    room.advance(3)
    heard = [event["payload"] for event in alice.client.of("event")]
    assert [each["value"] for each in heard] == ['ä"1', "", "2", "3", "7", None, "5", None]
    assert [each["previous"] for each in heard] == [None, 'ä"1', "", "2", "3", "7", None, "5"]
    assert [each["revision"] for each in heard] == list(range(1, 9))
    assert not any("previous" in event["payload"] for event in bob.client.of("event"))
    assert [event["id"] for event in bob.client.of("event")] == [event["id"] for event in alice.client.of("event")]


def resume(room, member, pattern, revision, **options):
    since = {"epoch": room.broker.store.epoch, "revision": revision}
    return room.ask(member, "broker.watch", pattern, {"from": since, **options})


def revisions(member):
    return [event["payload"]["revision"] for event in member.client.of("event")]


def test_watch_goes_on_where_it_was(room):
    alice, bob = room.join("alice"), room.join("bob")
    position = room.ask(alice, "broker.watch", "a.*")
    alice.leave()
    for key in ("a.1", "b", "a.2", "a.1"):
        room.ask(bob, "broker.set", key, key)
    room.ask(bob, "broker.delete", "a.2")
    again = room.join("alice")
    answer = resume(room, again, "a.*", position["revision"], previous=True)
    assert (answer["snapshot"], answer["entries"], answer["revision"]) == (False, [], 0)
    room.ask(bob, "broker.set", "a.3", "new")
    assert again.client.frames[0]["type"] == "result"
    assert [event["payload"]["key"] for event in again.client.of("event")] == ["a.1", "a.2", "a.1", "a.2", "a.3"]
    assert [event["payload"]["previous"] for event in again.client.of("event")] == [None, None, "a.1", "a.2", None]
    assert revisions(again) == [1, 3, 4, 5, 6]


def test_watch_goes_on_after_any_revision_that_was_answered(room):
    alice = room.join("alice")
    first = room.ask(alice, "broker.set", "k", "1")["revision"]
    room.ask(alice, "broker.set", "k", "2")
    assert resume(room, alice, "k", first)["snapshot"] is False
    assert [event["payload"]["value"] for event in alice.client.of("event")] == ["2"]


def test_watch_of_what_is_not_known_any_more_begins_with_a_snapshot(room):
    alice = room.join("alice")
    room.ask(alice, "broker.set", "k", "1")
    room.advance(301)
    room.ask(alice, "broker.set", "k", "2")
    answer = resume(room, alice, "k", 0)
    assert (answer["snapshot"], answer["entries"][0]["value"], answer["revision"]) == (True, "2", 2)
    other = room.ask(alice, "broker.watch", "k", {"from": {"epoch": "other", "revision": 2}})
    assert (other["snapshot"], other["epoch"]) == (True, room.broker.store.epoch)
    assert alice.client.of("event") == []
    room.advance(301)
    assert resume(room, alice, "k", 2)["snapshot"] is False


def test_watch_of_more_than_is_kept_begins_with_a_snapshot(room, monkeypatch):
    monkeypatch.setattr("broker.core.changes.MAX_CHANGES", 10)
    alice = room.join("alice")
    for number in range(12):
        room.ask(alice, "broker.set", "k", str(number))
    assert resume(room, alice, "k", 1)["snapshot"] is True
    assert resume(room, alice, "k", 2)["snapshot"] is False
    assert revisions(alice) == list(range(3, 13))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"from": {"epoch": "", "revision": -1}}, "from"),
        ({"from": {"epoch": "", "revision": 2**53 + 1}}, "from"),
        ({"previuos": True}, "options"),
        ({"from": {"epoch": ""}}, "options"),
        ({"from": 7}, "options"),
        ({"previous": 1}, "options"),
    ],
)
def test_bad_options_of_a_watch_are_refused(room, options, what):
    alice = room.join("alice")
    assert f"malformed:{what}" in failure(room, alice, "broker.watch", "k", options)
    assert room.ask(alice, "broker.unwatch", "k") == {"watching": []}


def test_watch_after_what_was_not_given_yet_is_refused(room):
    alice = room.join("alice")
    with pytest.raises(Failed, match="malformed:from"):
        resume(room, alice, "k", 1)


def test_a_key_that_holds_a_wildcard_is_watched_exactly(room):
    alice = room.join("alice")
    for key in ("job:*", "a*b"):
        room.ask(alice, "broker.set", key, key)
        assert [e["key"] for e in room.ask(alice, "broker.watch", key, {"exact": True})["entries"]] == [key]
    for key in ("job:1", "job:*", "a*b", "axb"):
        room.ask(alice, "broker.set", key, "new")
    assert [event["event"] for event in alice.client.of("event")] == ["kv/job:*", "kv/a*b"]
    room.ask(alice, "broker.watch", "job:*")
    room.ask(alice, "broker.set", "job:1", "newer")
    assert alice.client.of("event")[-1]["topic"] == "kv/job:1"
    assert room.ask(alice, "broker.unwatch", "job:*") == {"watching": ["a*b"]}
    room.ask(alice, "broker.unwatch", "a*b")
    assert room.broker.keys._names == {}
    assert room.broker.keys._patterns.count == 0


def test_what_was_missed_is_sent_as_the_client_reads_it(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.ask(bob, "broker.watch", "other")  # so that much is kept
    for number in range(20):
        room.ask(bob, "broker.set", "k", f"{number}" * 50_000)
    assert resume(room, alice, "k", 0)["snapshot"] is False
    room.ask(bob, "broker.set", "k", "last")
    assert len(alice.client.of("event")) < 10
    room.advance(1)
    assert revisions(alice) == list(range(1, 22))
    room.ask(bob, "broker.set", "k", "live")
    assert revisions(alice)[-1] == 22


def test_unwatched_keys_are_silent(room):
    alice = room.join("alice")
    for pattern in ("a", "b", "c.*"):
        room.ask(alice, "broker.watch", pattern)
    assert room.ask(alice, "broker.unwatch", "b") == {"watching": ["a", "c.*"]}
    assert room.ask(alice, "broker.unwatch", "never") == {"watching": ["a", "c.*"]}
    for key in ("a", "b", "c.d"):
        room.ask(alice, "broker.set", key, "v")
    assert [event["event"] for event in alice.client.of("event")] == ["kv/a", "kv/c.*"]


def test_changes_during_the_snapshot_follow_it(room, monkeypatch):
    alice, bob = room.join("alice"), room.join("bob")
    room.ask(bob, "broker.set", "k", "old")
    store, waiting = room.broker.store, Deferred()
    read = store.range

    def slow(*args):
        found = read(*args)
        return waiting.addCallback(lambda _: found)

    monkeypatch.setattr(store, "range", slow)
    pending = alice.client.call("broker.watch", "k")
    room.pump()
    room.ask(bob, "broker.set", "k", "new")
    assert alice.client.frames == []
    waiting.callback(None)
    room.pump()
    assert [entry["value"] for entry in pending.result()["entries"]] == ["old"]
    assert [frame["type"] for frame in alice.client.frames] == ["result", "event"]
    assert alice.client.of("event")[0]["payload"]["value"] == "new"


def test_a_change_that_the_snapshot_has_does_not_follow_it(room, monkeypatch):
    alice, bob = room.join("alice"), room.join("bob")
    room.ask(bob, "broker.set", "k", "old")
    store, waiting = room.broker.store, Deferred()
    read = store.range
    monkeypatch.setattr(store, "range", lambda *args: waiting.addCallback(lambda _: read(*args)))
    pending = alice.client.call("broker.watch", ">")
    room.pump()
    room.ask(bob, "broker.set", "k", "new")
    room.ask(bob, "broker.set", "other", "new")
    waiting.callback(None)
    room.pump()
    assert [(entry["key"], entry["revision"]) for entry in pending.result()["entries"]] == [("k", 2), ("other", 3)]
    assert pending.result()["revision"] == 1
    room.ask(bob, "broker.set", "k", "newest")
    assert revisions(alice) == [4]


def test_too_many_changes_during_the_snapshot_end_the_connection(room, monkeypatch):
    monkeypatch.setattr("protocols.owlmeans.watches.MAX_HELD_BYTES", 1500)
    alice, bob = room.join("alice"), room.join("bob")
    never = Deferred()  # held here: with nobody to fire it, the watch would be collected as garbage
    monkeypatch.setattr(room.broker.store, "range", lambda *args: never)
    alice.client.call("broker.watch", "k")
    room.pump()
    room.ask(bob, "broker.set", "k", "x" * 500)
    assert alice.closed is None
    room.ask(bob, "broker.set", "k", "x" * 500)
    assert alice.closed == (1013, "too much before the snapshot")


def test_failed_watch_leaves_nothing_behind(room, monkeypatch):
    alice = room.join("alice")
    broken = Deferred()
    monkeypatch.setattr(room.broker.store, "range", lambda *_: broken)
    pending = alice.client.call("broker.watch", "k")
    room.pump()
    broken.errback(Unavailable("store"))
    room.pump()
    assert str(pending.error) == "SocketError: socket:internal"
    assert room.ask(alice, "broker.unwatch", "k") == {"watching": []}
    room.ask(alice, "broker.set", "k", "v")
    assert alice.client.of("event") == []


def test_too_many_watches_are_refused(room, monkeypatch):
    monkeypatch.setattr("protocols.owlmeans.watches.MAX_PATTERNS", 1)
    alice = room.join("alice")
    room.ask(alice, "broker.watch", "a")
    room.ask(alice, "broker.watch", "a")
    assert failure(room, alice, "broker.watch", "b") == "SocketErrorMessage: socket:message:limit:watches"


def test_change_of_a_key_is_an_event_on_its_topic(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.ask(alice, "broker.subscribe", "kv/k")
    room.ask(bob, "broker.set", "k", "v")
    event = alice.client.of("event")[0]
    assert (event["event"], event["name"]) == ("kv/k", "set")
    assert event["payload"] == {"key": "k", "value": "v", "timestamp": 1700000000000}


def test_store_that_is_away_fails_the_call(room):
    alice = room.join("alice")
    room.broker.store.stopService()
    assert failure(room, alice, "broker.get", "k") == "SocketError: socket:internal"
    alice.client.enqueue(1)
    room.pump()
    assert alice.client.notices == ["SocketError|||socket:internal|||"]


def test_failed_second_snapshot_ends_no_watch(room, monkeypatch):
    alice = room.join("alice")
    room.ask(alice, "broker.watch", "k")
    monkeypatch.setattr(room.broker.store, "range", lambda *_: fail(Unavailable("store")))
    assert failure(room, alice, "broker.watch", "k") == "SocketError: socket:internal"
    room.ask(alice, "broker.set", "k", "v")
    assert len(alice.client.of("event")) == 1


@pytest.mark.parametrize("method", ["subscribe", "unsubscribe", "register", "unregister"])
def test_lists_of_names_have_a_limit(room, method):
    alice = room.join("alice")
    names = [f"n{number}" for number in range(MAX_NAMES + 1)]
    assert failure(room, alice, f"broker.{method}", names) == "SocketErrorMessage: socket:message:limit:names"
    room.ask(alice, f"broker.{method}", names[1:])


def test_a_change_is_compared_with_few_of_many_watched_patterns(room):
    alice, bob = room.join("alice"), room.join("bob")
    for number in range(50):
        room.ask(alice, "broker.watch", f"a.*.b{number}")
    before = room.broker.keys._patterns.visited
    room.ask(bob, "broker.set", "a.q.b7", "v")
    room.ask(bob, "broker.set", "a.q.c", "v")
    assert [event["event"] for event in alice.client.of("event")] == ["kv/a.*.b7"]
    assert room.broker.keys._patterns.visited - before == 6


def test_who_watches_is_told_of_changes_that_were_missed(room):
    alice = room.join("alice")
    for pattern in ("job:*", "a"):
        room.ask(alice, "broker.watch", pattern)
    room.ask(alice, "broker.subscribe", "kv/b")
    room.broker._tell_gaps("missed")
    room.pump()
    gaps = [frame["payload"] for frame in alice.client.of("system") if frame["event"] == "broker.gap"]
    assert gaps == [{"topic": f"kv/{topic}", "why": "missed"} for topic in ("job:*", "a", "b")]
    assert alice.closed is None


@pytest.mark.parametrize("key", ['{"key":1}', '"{"', "\\{", "payload"])
def test_a_watched_change_says_its_revision_wherever_its_key_looks_like_an_object(room, key):
    alice = room.join("alice")
    room.ask(alice, "broker.watch", key, {"exact": True, "previous": True})
    for value in ("{}", '{"revision":9}'):
        room.ask(alice, "broker.set", key, value)
    changes = [event["payload"] for event in alice.client.of("event")]
    assert [(each["key"], each["value"], each["revision"], each["previous"]) for each in changes] == [
        (key, "{}", 1, None),
        (key, '{"revision":9}', 2, "{}"),
    ]
