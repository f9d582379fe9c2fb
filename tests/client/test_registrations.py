"""Subscriptions, watches, consumers, procedures and requests, over the losses of connections."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET

from broker.client.consumers import Consumer
from broker.client.errors import CallFailed, Invalid, Taken
from broker.client.outcomes import EndOfStream
from broker.client.procedures import Procedure, Responder
from broker.client.readers import Reader
from broker.client.streams import Stream
from broker.client.values import Position
from broker.client.watchers import Watcher
from tests.client.fake_driver import Bench, End


def subscribe(bench: Bench, name: str = "t", limit: int = 1000, **options: Any) -> Reader:
    terms = {each: options.pop(each) for each in ("exact", "echo") if each in options}
    reader = Reader(bench.core, name, Stream(limit), **options)
    bench.core.subscribe(reader, **terms)
    return reader


def begun(bench: Bench, id: int = 0, epoch: str = "e", name: str = "", **more: Any) -> dict[str, Any]:
    """Answer the subscribe that was sent, for *name* if there are several; return its options."""
    sent = [each for each in bench.take() if each.get("method") == "broker.subscribe"]
    (frame,) = (each for each in sent if name in ("", each["payload"][0]))
    bench.driver.sent += [each for each in sent if each is not frame]
    bench.answer(frame, {"subscribed": ["t"], "epoch": epoch, "id": id, "recovered": True, **more})
    options: dict[str, Any] = (frame["payload"] + [{}])[1]
    return options


def event(bench: Bench, id: int | str, epoch: str = "e", pattern: str = "t", **more: Any) -> None:
    stored = {"epoch": epoch} if epoch else {}
    bench.receive(type="event", event=pattern, id=id, payload=id, sender="x", dt=1, name="n", **stored, **more)


def payloads(stream: Stream[Any]) -> list[Any]:
    return [each.payload for each in stream.clear()]


DENIED = "ForbiddenAuthorizationError|||auth:authorization:forbidden:read:t|||"
IDLE = "SocketErrorTimeout|||socket:timeout:request|||"

# Subscriptions.


def test_a_subscription_goes_on_after_the_last_event():
    bench = Bench().connected()
    subscription = subscribe(bench, origin="start")
    assert begun(bench) == {"from": "start"}
    for id in (1, 2, 3):
        event(bench, id)
    bench.lose()
    bench.core.connected()  # too early: there is no attempt
    bench.back()
    assert begun(bench, id=3) == {"from": {"epoch": "e", "id": 3}}
    for id in (3, 4):
        event(bench, id)
    assert payloads(subscription.stream) == [1, 2, 3, 4]
    assert bench.core.statistics().duplicates == 1


def test_one_with_a_cursor_goes_on_after_the_last_event_and_not_after_the_cursor():
    bench = Bench().connected()
    subscribe(bench, cursor="c")
    assert begun(bench, id=7) == {"cursor": "c"}
    event(bench, 8, cursor="c")
    bench.lose()
    bench.back()
    assert begun(bench, id=8) == {"cursor": "c", "from": {"epoch": "e", "id": 8}}


def test_one_without_events_goes_on_where_it_began():
    bench = Bench().connected()
    subscribe(bench, origin="new")
    begun(bench, id=41)
    bench.lose()
    bench.back()
    assert begun(bench, id=41) == {"from": {"epoch": "e", "id": 41}}


def test_one_without_beginning_goes_on_where_it_was_too():
    bench = Bench().connected()
    reader = subscribe(bench, echo=True)
    assert begun(bench, id=7) == {"echo": True, "from": "new"}
    event(bench, 8)
    bench.lose()
    bench.back()
    assert begun(bench, id=8) == {"echo": True, "from": {"epoch": "e", "id": 8}}
    event(bench, 8)
    event(bench, 9)
    assert (payloads(reader.stream), list(reader.gaps)) == ([8, 9], [])


def test_that_events_may_be_missing_as_they_are_not_stored_is_told():
    bench = Bench().connected()
    live, stored, strict = subscribe(bench), subscribe(bench, "stored"), subscribe(bench, "strict", origin="new")
    for name in ("t", "stored", "strict"):
        begun(bench, id=7, name=name)
    event(bench, "uuid", epoch="")
    event(bench, "uuid", epoch="", pattern="strict")
    bench.lose()
    bench.back()
    for name in ("t", "stored", "strict"):
        begun(bench, id=7, name=name)
    assert [gap.why for gap in live.gaps] == ["away"]
    assert (list(stored.gaps), list(strict.gaps)) == ([], [])


@pytest.mark.parametrize("refusal", [DENIED, "SocketErrorMessage|||socket:message:limit:topics|||"])
def test_who_may_not_read_what_is_stored_gets_what_comes_and_is_told_what_may_be_missing(refusal):
    bench = Bench().connected()
    reader = subscribe(bench, "a.*")
    bench.refuse(bench.take()[0], refusal)
    (frame,) = bench.take()
    assert frame["payload"] == ["a.*"]
    bench.answer(frame, {"subscribed": ["a.*"]})
    event(bench, 3, pattern="a.*", topic="a.x")
    bench.lose()
    bench.back()
    (frame,) = bench.take()
    assert frame["payload"] == ["a.*"]
    bench.answer(frame, {"subscribed": ["a.*"]})
    event(bench, 5, pattern="a.*", topic="a.x")
    assert (payloads(reader.stream), [gap.why for gap in reader.gaps]) == ([3, 5], ["away"])
    assert "registration-failed" not in bench.kinds


@pytest.mark.parametrize("origin", [None, "start"])
def test_a_place_that_the_broker_does_not_know_is_left_and_that_is_told(origin):
    bench = Bench().connected()
    reader = subscribe(bench, origin=origin)
    begun(bench)
    event(bench, 9)
    bench.lose()
    bench.back()
    (frame,) = bench.take()
    bench.refuse(frame, "SocketErrorMessageMalformed|||socket:message:malformed:from|||")
    assert begun(bench, id=7) == {"from": "new"}
    event(bench, 8)
    assert (payloads(reader.stream), [gap.why for gap in reader.gaps]) == ([9, 8], ["missed"])
    bench.lose()
    bench.back()
    assert begun(bench, id=8) == {"from": {"epoch": "e", "id": 8}}


def test_one_that_is_malformed_ends_however_it_is_asked_for():
    bench = Bench().connected()
    reader = subscribe(bench)
    begun(bench)
    reader.become_plain()
    bench.lose()
    bench.back()
    bench.refuse(bench.take()[0], "SocketErrorMessageMalformed|||socket:message:malformed:topic|||")
    assert (bench.take(), End(reader.stream.available()).errors) == ([], ["INVALID"])


def test_one_with_the_last_value_goes_on_where_that_was():
    bench = Bench().connected()
    subscribe(bench, last=2)
    assert begun(bench, id=5) == {"last": 2}
    bench.lose()
    bench.back()
    assert begun(bench, id=5) == {"from": {"epoch": "e", "id": 5}}


def test_one_with_the_last_value_of_a_topic_that_is_not_stored_asks_where_it_is():
    bench = Bench().connected()
    reader = subscribe(bench, last=1)
    (frame,) = bench.take()
    bench.answer(frame, {"subscribed": ["t"]})
    event(bench, "kept", epoch="")
    assert begun(bench, id=0) == {"from": "new"}
    event(bench, 1)
    assert payloads(reader.stream) == ["kept", 1]


def test_a_pattern_goes_on_in_each_topic():
    bench = Bench().connected()
    subscription = subscribe(bench, "a.*", origin="new")
    begun(bench, positions={"a.x": {"epoch": "e", "id": 5}})
    event(bench, 6, pattern="a.*", topic="a.x")
    event(bench, 1, pattern="a.*", topic="a.y")
    bench.lose()
    bench.back()
    assert begun(bench)["from"] == {"a.x": {"epoch": "e", "id": 6}, "a.y": {"epoch": "e", "id": 1}}
    assert [each.topic for each in subscription.stream.clear()] == ["a.x", "a.y"]


def test_what_is_lost_is_told_and_another_epoch_begins():
    bench = Bench().connected()
    subscription = subscribe(bench, origin=Position("old", 9))
    begun(bench, epoch="new", id=0, recovered=False, lost={"from": 10, "to": None, "why": "epoch"})
    event(bench, 1, epoch="new")
    assert [(gap.topic, gap.first, gap.last, gap.why) for gap in subscription.gaps] == [("t", 10, None, "epoch")]
    assert (bench.kinds[-1], payloads(subscription.stream)) == ("gap", [1])


def test_a_gap_while_it_is_subscribed_is_told():
    bench = Bench().connected()
    subscription = subscribe(bench, "a.>")
    begun(bench)
    bench.receive(type="system", event="broker.gap", payload={"topic": "a.b", "count": 17})
    bench.receive(type="system", event="broker.gap", payload={"topic": "other", "count": 1})
    assert [(gap.topic, gap.count, gap.why) for gap in subscription.gaps] == [("a.b", 17, "slow")]
    assert bench.kinds.count("gap") == 2


def test_an_answer_of_a_connection_that_is_lost_is_not_taken_for_the_present_one():
    bench = Bench().connected()
    subscription = subscribe(bench, origin="start")
    bench.lose()
    bench.back()
    begun(bench, id=0)
    event(bench, 1)
    assert payloads(subscription.stream) == [1]


def test_a_stored_topic_is_asked_again_when_the_application_has_read():
    bench = Bench().connected()
    subscription = subscribe(bench, origin="start", limit=4)
    begun(bench)
    for id in (1, 2, 3, 4):
        event(bench, id)
    assert bench.methods() == ["broker.unsubscribe"]
    event(bench, 5)  # was under way
    subscription.stream.pop()
    assert bench.methods() == []
    subscription.stream.pop()
    assert begun(bench, id=4) == {"from": {"epoch": "e", "id": 4}}
    event(bench, 5)
    assert payloads(subscription.stream) == [3, 4, 5]


def test_one_that_is_not_read_stays_away_after_a_loss_too():
    bench = Bench().connected()
    subscription = subscribe(bench, origin="start", limit=2)
    begun(bench)
    for id in (1, 2):
        event(bench, id)
    bench.lose()
    bench.back()
    assert bench.methods() == []
    subscription.stream.pop()
    assert begun(bench, id=2)["from"] == {"epoch": "e", "id": 2}


def test_of_a_live_topic_the_oldest_are_dropped():
    bench = Bench().connected()
    subscription = subscribe(bench, limit=2)
    begun(bench)
    for id in "abcd":
        event(bench, id, epoch="")
    assert payloads(subscription.stream) == ["c", "d"]
    assert [gap.count for gap in subscription.gaps] == [1, 1]


def test_a_subscription_that_is_denied_ends_with_that():
    bench = Bench().connected()
    reader = subscribe(bench)
    ready = End(reader.ready)
    for _ in range(2):  # with a position, and without
        bench.refuse(bench.take()[0], DENIED)
    assert (ready.errors, End(reader.stream.available()).errors) == (["DENIED"], ["DENIED"])
    assert bench.core.registry.found == {}
    assert bench.kinds.count("registration-failed") == 1


def test_one_that_can_not_be_had_now_is_tried_again():
    bench = Bench().connected()
    subscription = subscribe(bench)
    bench.refuse(bench.take()[0], "SocketError|||socket:internal|||")
    bench.advance(0.5)
    ready = End(subscription.ready)
    begun(bench)
    assert ready.results[0].epoch == "e"


def test_close_unsubscribes_and_ends_the_stream():
    bench = Bench().connected()
    subscription = subscribe(bench)
    begun(bench)
    event(bench, "a", epoch="")
    subscription.close()
    assert bench.methods() == ["broker.unsubscribe"]
    assert subscription.stream.pop().payload == "a"
    end = End(subscription.stream.available())
    assert isinstance(end.error, EndOfStream)
    subscribe(bench)


def test_a_payload_of_bytes_comes_as_bytes():
    bench = Bench().connected()
    subscription = subscribe(bench)
    begun(bench)
    bench.receive(type="event", event="t", id="x", payload="AAE=", encoding="base64", sender="x", dt=1, name="n")
    assert payloads(subscription.stream) == [b"\0\1"]


# Several readers.


def test_a_second_reader_begins_elsewhere_and_the_first_gets_nothing_twice():
    bench = Bench().connected()
    first = subscribe(bench, origin="start")
    begun(bench)
    event(bench, 1)
    event(bench, 2)
    second = subscribe(bench, origin=Position("e", 1))
    assert begun(bench, id=1) == {"from": {"epoch": "e", "id": 1}}
    event(bench, 2)  # of that beginning; all of it comes again
    assert begun(bench, id=1) == {"from": {"epoch": "e", "id": 1}}
    for id in (2, 3):
        event(bench, id)
    assert (payloads(first.stream), payloads(second.stream)) == ([1, 2, 3], [2, 3])
    bench.lose()
    bench.back()
    assert begun(bench, id=3) == {"from": {"epoch": "e", "id": 3}}


def test_live_events_reach_all_readers_at_any_time():
    bench = Bench().connected()
    first = subscribe(bench)
    begun(bench, id=4)
    second = subscribe(bench)
    event(bench, "a", epoch="")
    begun(bench, id=4)
    event(bench, "b", epoch="")
    begun(bench, id=4)
    event(bench, "c", epoch="")
    assert (payloads(first.stream), payloads(second.stream)) == (["a", "b", "c"], ["b", "c"])


def test_readers_of_a_pattern_go_on_where_the_last_is_in_each_topic():
    bench = Bench().connected()
    subscribe(bench, "a.*", origin="start")
    begun(bench, positions={"a.x": {"epoch": "e", "id": 0}})
    event(bench, 4, pattern="a.*", topic="a.x")
    event(bench, 1, pattern="a.*", topic="a.y")
    subscribe(bench, "a.*")
    begun(
        bench,
        positions={"a.x": {"epoch": "e", "id": 6}, "a.y": {"epoch": "e", "id": 1}, "a.z": {"epoch": "e", "id": 2}},
    )
    assert begun(bench)["from"] == {
        "a.x": {"epoch": "e", "id": 4},
        "a.y": {"epoch": "e", "id": 1},
    }  # of a.z from the start


def test_a_slow_reader_waits_and_the_other_does_not():
    bench = Bench().connected()
    slow, fast = subscribe(bench, limit=2, origin="start"), subscribe(bench, origin="start")
    for _ in range(3):
        begun(bench)
    for id in (1, 2, 3, 4):
        event(bench, id)
    assert bench.methods() == []
    assert (payloads(fast.stream), len(slow.stream)) == ([1, 2, 3, 4], 2)
    slow.stream.pop()
    assert begun(bench, id=2) == {"from": {"epoch": "e", "id": 2}}
    for id in (3, 4, 5):
        event(bench, id)
    assert payloads(fast.stream) == [5]
    assert payloads(slow.stream) == [2, 3]


def test_the_last_reader_to_leave_unsubscribes():
    bench = Bench().connected()
    first, second = subscribe(bench), subscribe(bench)
    for _ in range(3):
        begun(bench)
    first.close()
    event(bench, 1)
    assert (bench.methods(), payloads(second.stream)) == ([], [1])
    second.close()
    assert bench.methods() == ["broker.unsubscribe"]
    assert bench.core.registry.found == {}


def test_one_that_is_refused_leaves_the_others_alone():
    bench = Bench().connected()
    first = subscribe(bench)
    begun(bench, id=3)
    second = subscribe(bench, cursor="foreign")
    ready = End(second.ready)
    (frame,) = bench.take()
    bench.refuse(frame, "ForbiddenAuthorizationError|||auth:authorization:forbidden:act:foreign|||")
    assert ready.errors == ["DENIED"]
    assert begun(bench, id=3) == {"from": {"epoch": "e", "id": 3}}
    event(bench, 4)
    assert payloads(first.stream) == [4]


def test_readers_that_begin_alike_begin_at_once():
    bench = Bench().connected()
    readers = [subscribe(bench, origin="start") for _ in range(50)]
    asked = [begun(bench), begun(bench), begun(bench)]
    assert asked == [{"from": "start"}, {"from": "start"}, {"from": {"epoch": "e", "id": 0}}]
    event(bench, 1)
    assert [payloads(each.stream) for each in readers] == [[1]] * 50
    assert bench.methods() == []


def test_an_event_passes_by_those_who_have_had_it():
    bench = Bench().connected()
    first = subscribe(bench, origin="start")
    begun(bench)
    for id in range(1, 5):
        event(bench, id)
    second = subscribe(bench, origin="start")
    begun(bench)
    begun(bench)
    for id in range(1, 6):
        event(bench, id)
    event(bench, "uuid", epoch="")
    assert (payloads(first.stream), payloads(second.stream)) == ([1, 2, 3, 4, 5, "uuid"],) * 2
    assert bench.core.statistics().duplicates == 0  # nobody had to drop one


def test_readers_on_other_terms_are_refused():
    bench = Bench().connected()
    subscribe(bench)
    with pytest.raises(Invalid, match="echo"):
        subscribe(bench, echo=True)


def test_what_is_lost_is_told_to_those_who_have_not_had_it():
    bench = Bench().connected()
    behind, ahead = subscribe(bench, origin=Position("e", 2), limit=2), subscribe(bench, origin=Position("e", 2))
    for _ in range(3):
        begun(bench, id=2)
    for id in (3, 4, 5, 6):
        event(bench, id)
    bench.lose()
    bench.back()
    behind.stream.clear()
    bench.take()
    behind.paused = False
    bench.core.registry.get("subscription", "t").begin()
    begun(bench, id=5, recovered=False, lost={"from": 5, "to": 5, "why": "retention"})
    assert [(gap.first, gap.last) for gap in behind.gaps] == [(5, 5)]
    assert list(ahead.gaps) == []


# Watches.


def watch(bench: Bench, pattern: str = "k.*", limit: int = 1000, previous: bool = False, **terms: Any) -> Watcher:
    found = Watcher(bench.core, pattern, Stream(limit), previous)
    bench.core.watch(found, **terms)
    return found


def watching(
    bench: Bench, entries: dict[str, tuple[str, int]], revision: int, epoch: str = "e", snapshot: bool = True
) -> Any:
    (frame,) = (each for each in bench.take() if each.get("method") == "broker.watch")
    listed = [{"key": key, "value": value, "revision": at} for key, (value, at) in entries.items()]
    answer = {"watching": ["k.*"], "entries": listed, "epoch": epoch, "revision": revision, "snapshot": snapshot}
    bench.answer(frame, answer)
    return frame["payload"][1].get("from")


def change(bench: Bench, key: str, value: str | None, revision: int, **more: Any) -> None:
    payload = {"key": key, "value": value, "timestamp": 5, "revision": revision, **more}
    bench.receive(
        type="event", event="kv/k.*", topic=f"kv/{key}", id="u", payload=payload, name="set", revision=revision, **more
    )


def seen(found: Watcher) -> list[tuple[str, str | None, str]]:
    return [(each.key, each.value, each.kind) for each in found.stream.clear()]


def test_a_watch_brings_what_is_there_and_each_change():
    bench = Bench().connected()
    found = watch(bench, previous=True)
    assert watching(bench, {"k.a": ("1", 3)}, 3) is None
    change(bench, "k.a", "2", 4, previous="1")
    change(bench, "k.a", None, 5)
    _, first, second = found.stream.clear()
    assert [(first.value, first.previous), (second.value, second.previous)] == [("2", "1"), (None, UNSET)]


def test_a_watch_and_a_subscription_to_the_same_keys_get_their_own():
    bench = Bench().connected()
    found = watch(bench)
    watching(bench, {}, 0)
    subscription = subscribe(bench, "kv/k.*")
    begun(bench)
    change(bench, "k.a", "1", 1)
    bench.receive(
        type="event", event="kv/k.*", topic="kv/k.a", id="u", payload={"key": "k.a", "value": "1"}, name="set"
    )
    assert (len(found.stream), len(subscription.stream)) == (1, 1)


def test_a_watch_goes_on_after_its_last_revision():
    bench = Bench().connected()
    found = watch(bench)
    watching(bench, {"k.a": ("1", 3)}, 3)
    change(bench, "k.b", "1", 9)
    bench.lose()
    bench.back()
    assert watching(bench, {}, 9, snapshot=False) == {"epoch": "e", "revision": 9}
    change(bench, "k.b", "1", 9)
    change(bench, "k.a", "2", 10)
    assert seen(found) == [("k.a", "1", "present"), ("k.b", "1", "set"), ("k.a", "2", "set")]


def test_after_a_snapshot_only_what_is_different_comes():
    bench = Bench().connected()
    found = watch(bench)
    watching(bench, {"k.a": ("1", 1), "k.b": ("1", 2), "k.c": ("1", 3)}, 3)
    found.stream.clear()
    bench.lose()
    bench.back()
    watching(bench, {"k.a": ("1", 1), "k.b": ("2", 7)}, 8)
    assert seen(found) == [("k.c", None, "missed"), ("k.b", "2", "present")]


def test_another_epoch_brings_all():
    bench = Bench().connected()
    found = watch(bench)
    watching(bench, {"k.a": ("1", 5)}, 5)
    bench.lose()
    bench.back()
    watching(bench, {"k.a": ("1", 2)}, 2, epoch="f")
    change(bench, "k.a", "2", 3)
    assert seen(found) == [("k.a", "1", "present"), ("k.a", "1", "present"), ("k.a", "2", "set")]


def test_changes_that_were_missed_are_asked_for():
    bench = Bench().connected()
    found = watch(bench)
    watching(bench, {}, 0)
    bench.receive(type="system", event="broker.gap", payload={"topic": "kv/k.*", "why": "missed"})
    watching(bench, {"k.a": ("1", 5)}, 5)
    assert (seen(found), bench.kinds[-1]) == ([("k.a", "1", "present")], "gap")


def test_a_second_watch_begins_with_what_is_there_and_the_first_misses_nothing():
    bench = Bench().connected()
    first = watch(bench)
    watching(bench, {"k.a": ("1", 1)}, 1)
    change(bench, "k.b", "1", 3)
    second = watch(bench)
    change(bench, "k.a", None, 4)  # before the broker is asked
    assert watching(bench, {"k.b": ("2", 6)}, 6) is None
    change(bench, "k.b", "3", 7)  # comes once more
    assert watching(bench, {}, 4, snapshot=False) == {"epoch": "e", "revision": 4}
    for value, revision in (("x", 5), ("2", 6), ("3", 7)):
        change(bench, "k.b", value, revision)
    assert seen(first) == [
        ("k.a", "1", "present"),
        *(
            (key, value, "set")
            for key, value in (("k.b", "1"), ("k.a", None), ("k.b", "x"), ("k.b", "2"), ("k.b", "3"))
        ),
    ]
    assert seen(second) == [("k.b", "2", "present"), ("k.b", "3", "set")]
    assert bench.methods() == []


def test_what_was_removed_does_not_come_back_to_who_has_had_that():
    bench = Bench().connected()
    first, second = watch(bench, limit=2), watch(bench)
    watching(bench, {}, 0)
    watching(bench, {}, 0)
    watching(bench, {}, 0, snapshot=False)
    change(bench, "k.a", "1", 1)
    change(bench, "k.a", None, 2)  # now the first has as many as it should
    change(bench, "k.b", "1", 3)
    assert [len(first.stream), len(second.stream)] == [2, 3]
    first.stream.pop()
    assert watching(bench, {}, 2, snapshot=False) == {"epoch": "e", "revision": 2}
    change(bench, "k.b", "1", 3)
    assert ([key for key, _, _ in seen(first)], [key for key, _, _ in seen(second)]) == (
        ["k.a", "k.b"],
        ["k.a", "k.a", "k.b"],
    )


def test_the_last_of_several_watches_ends_it_at_the_broker():
    bench = Bench().connected()
    first, second = watch(bench, previous=True), watch(bench)
    for _ in range(2):
        watching(bench, {}, 0)
    with pytest.raises(Invalid, match="exact"):
        watch(bench, exact=True)
    watching(bench, {}, 0, snapshot=False)
    change(bench, "k.a", "1", 1, previous=None)
    assert [reader.stream.pop().previous for reader in (first, second)] == [None, UNSET]
    first.close()
    assert bench.take() == []
    second.close()
    assert bench.methods() == ["broker.unwatch"]


def test_a_snapshot_that_can_not_be_had_ends_only_the_watch_that_wants_it():
    bench = Bench().connected()
    first = watch(bench)
    watching(bench, {}, 1)
    second = watch(bench)
    (frame,) = bench.take()
    bench.refuse(frame, "SocketErrorMessage|||socket:message:limit:snapshot|||")
    assert (first.ended, second.ended) == (False, True)
    watching(bench, {}, 1, snapshot=False)
    change(bench, "k.a", "1", 2)
    assert seen(first) == [("k.a", "1", "set")]


# Consumers.


def consume(bench: Bench, **options: Any) -> Consumer:
    consumer = Consumer(bench.core, "q", Stream(10), **options)
    bench.core.register(consumer)
    (frame,) = (each for each in bench.take() if each.get("method") == "broker.consume")
    bench.answer(frame, {"consuming": ["q"]})
    return consumer


def job(bench: Bench, id: str, delivery: int = 1) -> None:
    bench.receive(type="message", id=id, queue="q", delivery=delivery, lease=30, payload={"n": id}, sender="x", dt=1)


def test_a_job_is_extended_until_it_is_done():
    bench = Bench().connected()
    consumer = consume(bench, prefetch=2)
    job(bench, "j1")
    bench.advance(15.0)
    (frame,) = (each for each in bench.take() if each["type"] == "call")
    assert (frame["method"], frame["payload"]) == ("broker.extend", ["j1", 30.0])
    done = End(consumer.stream.pop().done())
    (frame,) = (each for each in bench.take() if each["type"] == "call")
    bench.answer(frame, {})
    bench.advance(60.0)
    assert (done.results, consumer.held) == ([None], {})
    assert {frame.get("method") for frame in bench.take()} <= {None, "broker.extend"} - {"broker.extend"}


def test_a_failed_job_says_why():
    bench = Bench().connected()
    consumer = consume(bench)
    job(bench, "j1")
    consumer.stream.pop().fail("no such user", 3.0)
    assert bench.take()[-1]["payload"] == ["j1", {"reason": "no such user", "delay": 3.0}]


def test_done_is_told_after_a_loss():
    bench = Bench(name="w").connected()
    consumer = consume(bench)
    job(bench, "j1")
    bench.lose()
    done = End(consumer.stream.pop().done())
    bench.back()
    assert done.pending
    (frame,) = (each for each in bench.take() if each.get("method") == "broker.done")
    bench.refuse(frame, "SocketErrorConnectionUnsupported|||socket:connection:unsupported:job:j1|||")
    assert done.errors == ["NOT_FOUND"]


@pytest.mark.parametrize(("name", "away", "kept"), [("", 0.5, 0), ("w", 0.5, 1), ("w", 6.0, 0)])
def test_jobs_that_nobody_has_begun_are_dropped_when_they_went_back(name, away, kept):
    bench = Bench(name=name, first_wait=2 * away, max_wait=20.0).connected()
    consumer = consume(bench)
    job(bench, "j1")
    bench.lose()
    bench.back()
    (frame,) = (each for each in bench.take() if each.get("method") == "broker.consume")
    bench.answer(frame, {"consuming": ["q"]})
    assert len(consumer.stream) == len(consumer.held) == kept


def test_jobs_that_nobody_has_begun_go_back_when_the_consumer_ends():
    bench = Bench().connected()
    consumer = consume(bench, prefetch=3)
    for id in ("j1", "j2", "j3"):
        job(bench, id)
    begun = consumer.stream.pop()
    bench.take()
    consumer.close()
    job(bench, "j4")  # it was on its way
    assert [(frame["method"], frame["payload"]) for frame in bench.take()] == [
        ("broker.release", ["q", {"not_begun": ["j2", "j3"]}]),
        ("broker.release", ["q", {"not_begun": ["j4"]}]),
    ]
    assert set(consumer.held) == {begun.id}
    begun.done()
    assert bench.take()[-1]["payload"] == ["j1"]


def test_a_job_is_released_and_the_consumer_goes_on():
    bench = Bench().connected()
    consumer = consume(bench, prefetch=3)
    job(bench, "j1")
    released = End(consumer.stream.pop().release())
    (frame,) = bench.take()
    assert (frame["method"], frame["payload"]) == ("broker.release", ["q", {"not_begun": ["j1"]}])
    bench.answer(frame, {"consuming": []})
    assert (released.results, bench.methods(), len(consumer.held)) == ([None], ["broker.consume"], 0)
    bench.advance(100.0)
    assert "broker.extend" not in bench.methods()


def test_a_job_that_is_released_while_the_connection_is_lost_goes_back_when_there_is_one():
    bench = Bench(name="w").connected()
    consumer = consume(bench)
    job(bench, "j1")
    bench.lose()
    consumer.stream.pop().release()
    bench.back()
    frames = bench.take()
    assert [frame["method"] for frame in frames] == ["broker.consume", "broker.release"]
    for frame in frames:
        bench.answer(frame, {"consuming": []})
    assert bench.methods() == ["broker.consume"]


def test_a_second_consumer_of_a_queue_is_refused():
    bench = Bench().connected()
    consume(bench)
    with pytest.raises(Taken, match="consumer of q"):
        bench.core.register(Consumer(bench.core, "q", Stream(10)))


def test_jobs_that_nobody_has_begun_go_back_when_the_client_closes():
    bench = Bench().connected()
    consume(bench, prefetch=2)
    job(bench, "j1")
    bench.take()
    bench.core.close()
    (frame,) = bench.take()
    assert (frame["method"], frame["payload"]) == ("broker.release", ["q", {"not_begun": ["j1"]}])


def test_a_job_that_somebody_else_has_is_told():
    bench = Bench().connected()
    consume(bench)
    job(bench, "j1")
    bench.advance(15.0)
    (frame,) = (each for each in bench.take() if each.get("method") == "broker.extend")
    bench.refuse(frame, "SocketErrorConnectionUnsupported|||socket:connection:unsupported:job:j1|||")
    assert bench.kinds[-1] == "job-lost"


def test_the_own_mailbox_is_consumed_by_the_first_frame():
    bench = Bench()
    bench.core.register(Consumer(bench.core, "@me", Stream(10)))
    bench.core.start()
    bench.core.connected()
    assert [frame["method"] for frame in bench.take()] == ["broker.consume", "broker.whoami"]


# Procedures and requests.


def test_a_call_is_answered_by_the_handler():
    bench = Bench().connected()
    bench.core.register(Procedure(bench.core, "add", lambda a, b: a + b, {"mode": "roundrobin"}))
    (frame,) = bench.take()
    assert frame["payload"] == ["add", {"mode": "roundrobin"}]
    bench.receive(type="call", id="c1", method="add", payload=[1, 2], timeout=1000, sender="x", recipient="me", dt=1)
    bench.receive(type="call", id="c2", method="add", payload=[1, 2], timeout=1000, sender="x", recipient="me", dt=1)
    first, second = bench.driver.invocations
    first.respond(first.handler(*first.arguments))
    second.fail(CallFailed("none left", "OutOfStock"))
    first.fail(ValueError())
    assert bench.take() == [
        {"type": "result", "id": "c1", "payload": 3},
        {"type": "error", "id": "c2", "payload": "OutOfStock|||none left|||"},
    ]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("bad"), "ResilientError|||bad|||"),
        (KeyError(), "ResilientError|||KeyError|||"),
        (CallFailed("a ||| b", "no identifier"), "ResilientError|||a  b|||"),
    ],
)
def test_what_a_handler_raises_is_written_so_that_every_client_can_read_it(error, text):
    bench = Bench().connected()
    bench.core.register(Procedure(bench.core, "p", lambda: None))
    bench.take()
    bench.receive(type="call", id="c", method="p", payload=[], sender="x", dt=1)
    bench.driver.invocations[0].fail(error)
    assert bench.take()[0]["payload"] == text


def test_a_result_that_is_no_json_is_an_error():
    bench = Bench().connected()
    bench.core.register(Procedure(bench.core, "p", lambda: None))
    bench.take()
    bench.receive(type="call", id="c", method="p", payload=[], sender="x", dt=1)
    bench.driver.invocations[0].respond(object())
    assert bench.take()[0]["type"] == "error"


@pytest.mark.parametrize("how", ["cancel", "loss"])
def test_a_handler_is_stopped_when_nobody_waits(how):
    bench = Bench().connected()
    bench.core.register(Procedure(bench.core, "p", lambda: None))
    bench.take()
    bench.receive(type="call", id="c", method="p", payload=[], sender="x", dt=1)
    (invocation,), stopped = bench.driver.invocations, []
    invocation.stop = lambda: stopped.append(True)
    bench.receive(type="system", event="broker.cancel", id="c") if how == "cancel" else bench.lose()
    invocation.respond(1)
    assert (stopped, [frame for frame in bench.take() if frame["type"] == "result"]) == ([True], [])


def test_a_call_of_what_is_not_performed_any_more_is_an_error():
    bench = Bench().connected()
    bench.receive(type="call", id="c", method="gone", payload=[], sender="x", dt=1)
    assert bench.take()[0]["type"] == "error"


def test_procedures_are_registered_again_and_a_name_that_is_taken_is_waited_for():
    bench = Bench().connected()
    bench.core.register(Procedure(bench.core, "p", lambda: None))
    settled = End(bench.core.settled())
    bench.answer(bench.take()[0], {"registered": ["p"]})
    assert settled.results == [None]
    bench.lose()
    bench.back()
    settled = End(bench.core.settled())
    bench.refuse(bench.take()[0], "SocketErrorMessage|||socket:message:exists:p|||")
    bench.advance(0.5)
    bench.answer(bench.take()[0], {"registered": ["p"]})
    assert (settled.results, bench.kinds.count("registration-failed")) == ([None], 1)


def test_a_request_brings_its_responses_and_ends_after_so_many():
    bench = Bench().connected()
    asked = bench.core.requests.ask({"action": "a"}, "", replies=2, idle=5.0, timeout=None)
    (frame,) = bench.take()
    for number in range(3):
        bench.receive(type="response", id=frame["id"], payload=number, sender="x", dt=1)
    assert (asked.stream.clear(), asked.stream.ended, len(bench.core.requests)) == ([0, 1], True, 0)


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (
            lambda bench, id: bench.receive(
                type="response", id=id, payload={"error": "SocketErrorTimeout|||socket:timeout:request|||"}
            ),
            "TIMEOUT",
        ),
        (lambda bench, id: bench.lose(), "CONNECTION_LOST"),
        (lambda bench, id: bench.advance(30.0), "TIMEOUT"),
        (lambda bench, id: (bench.receive(type="response", id=id, payload=1), bench.advance(5.0)), "END"),
        (lambda bench, id: bench.core.close(), "CLOSED"),
    ],
)
def test_a_request_ends_in_every_way(act, code):
    bench = Bench().connected()
    asked = bench.core.requests.ask({}, "bob", replies=None, idle=5.0, timeout=None)
    (frame,) = bench.take()
    act(bench, frame["id"])
    asked.stream.clear()
    assert End(asked.stream.available()).errors == [code]
    assert len(bench.core.requests) == 0


def test_a_request_whose_responses_nobody_reads_is_cancelled():
    bench = Bench(max_unread=3).connected()
    asked = bench.core.requests.ask({}, "bob", replies=None, idle=5.0, timeout=None)
    (frame,) = bench.take()
    for number in range(100):
        bench.receive(type="response", id=frame["id"], payload=number, sender="x", dt=1)
    (cancel,) = bench.take()
    assert (cancel["method"], cancel["payload"]) == ("broker.cancel", [frame["id"]])
    assert (asked.stream.clear(), len(bench.core.requests)) == (list(range(30)), 0)
    assert End(asked.stream.available()).errors == ["CANCELLED"]


def test_requests_are_taken_by_action():
    bench = Bench().connected()
    bench.core.register(Responder(bench.core, "count", lambda payload: 1))
    bench.core.register(Responder(bench.core, "*", lambda payload: 2))
    bench.take()
    for id, payload in (("a", {"action": "count"}), ("b", {"action": "other"}), ("c", 5)):
        bench.receive(type="request", id=id, payload=payload, sender="x", dt=1)
    for invocation in list(bench.driver.invocations):
        invocation.respond(invocation.handler(*invocation.arguments))
        invocation.finish()
    assert [(frame["id"], frame["payload"]) for frame in bench.take()] == [("a", 1), ("b", 2), ("c", 2)]
