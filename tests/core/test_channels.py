"""Stored topics: waiting, waking, cursors, retention."""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import Any, cast

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from broker.config.options import Retention
from broker.core.channels import NOTICE_RETRY, Channels, StoreEventSource, cursor_key
from broker.core.hot_topics import KEPT_SECONDS
from broker.core.slices import SLICE, slices_of
from broker.errors import Invalid, NotDone, RateLimited, Unavailable
from broker.interfaces import IEventSource
from broker.messages import Addition, Event, Quota
from broker.patterns import LOG_PREFIX
from broker.stores import open_store
from broker.testing import make_broker, value_of
from tests.support.logs import lines_of, logging


class Bus:
    """Delivers nothing by itself; keeps what it is told."""

    shared = False
    ready = ""

    def __init__(self):
        self.published = []
        self.listening = []

    def publish(self, event):
        self.published.append(event)

    def listen(self, topic):
        self.listening.append(topic)

    def forget(self, topic):
        self.listening.remove(topic)


class Room:
    """Channels on a memory store, with a bus that the test works by hand."""

    def __init__(self, **options):
        self.clock = Clock()
        self.clock.advance(1_000_000_000)
        self.store = open_store("memory:", clock=self.clock)
        self.store.startService()
        self.bus = Bus()
        self.channels = Channels(self.store, cast(Any, self.bus), self.clock, **options)

    def post(self, topic="t"):
        event = value_of(self.channels.post(Event(topic, "n", b"1")))
        self.channels.arrived(event)
        return event

    def poll(self, topic="t", after=0, limit=100, timeout=5.0, **more):
        return Deferred.fromCoroutine(self.channels.poll(topic, after, limit, timeout, **more))

    def wait(self, seconds):
        for _ in range(round(seconds / 0.05) + 1):
            self.clock.advance(0.05)


@pytest.fixture
def room():
    return Room()


def ids(deferred):
    return [event.id for event in value_of(deferred)]


def test_what_was_stored_together_is_published_in_slices_and_before_what_comes_later(room):
    def publish(event):
        room.clock.rightNow += 0.002  # it has many subscribers
        room.bus.published.append(event)

    room.bus.publish = publish
    several = [Addition(f"{LOG_PREFIX}t", Event("t", "n", b"%d" % number)) for number in range(20)]
    value_of(room.channels.post_all(several[:10]))
    assert 0 < len(room.bus.published) < 10
    value_of(room.channels.post(Event("t", "n", b"10")))
    value_of(room.channels.post_all(several[:5]))
    assert 0 < len(room.bus.published) < 10
    room.wait(1)
    assert [event.id for event in room.bus.published] == list(range(1, 17))
    assert room.clock.getDelayedCalls() == []


def test_poll_answers_at_once_what_is_there(room):
    room.post()
    room.post()
    assert ids(room.poll()) == [1, 2]
    assert ids(room.poll(after=1)) == [2]
    assert ids(room.poll(limit=1)) == [1]
    assert room.channels.waiting == 0


@pytest.mark.parametrize("ends", [False, True])
def test_very_many_polls_are_answered_in_slices(room, ends, monkeypatch):
    monkeypatch.setattr("broker.core.channels.FEW_WAITERS", 2)
    polls = [room.poll() for _ in range(3)]
    slices_of(room.clock).now = partial(next, count(room.clock.seconds(), SLICE))  # each answer takes a slice
    if ends:
        room.channels.end_polls()
    else:
        room.post()
    assert [poll.called for poll in polls] == [True, False, False]
    polls.pop().addErrback(lambda failure: failure.trap(CancelledError)).cancel()
    room.wait(1)
    assert [ids(poll) for poll in polls] == [[] if ends else [1]] * 2
    assert room.channels.waiting == 0


def test_poll_wakes_on_post(room):
    poll = room.poll()
    assert not poll.called
    room.post()
    assert ids(poll) == [1]


def test_poll_ends_with_nothing_at_its_timeout(room):
    poll = room.poll(timeout=1.0)
    room.wait(0.9)
    assert not poll.called
    room.wait(0.15)
    assert ids(poll) == []


def test_poll_without_a_timeout_does_not_wait(room):
    assert ids(room.poll(timeout=0)) == []


def test_poll_returns_the_next_event_without_another_look(room, monkeypatch):
    room.post()
    poll = room.poll(after=1)
    monkeypatch.setattr(room.channels, "read", None)
    room.post()
    assert ids(poll) == [2]


def test_poll_goes_on_waiting_while_the_store_is_away(room, monkeypatch):
    poll = room.poll()
    with monkeypatch.context() as away:
        away.setattr(room.store, "read", lambda *_: fail(Unavailable("store")))
        room.channels.arrived(Event("t", "n", b"1", id=2))
        assert not poll.called
    room.post()
    assert ids(poll) == [1]


def test_poll_waits_while_the_cursor_is_being_stored_and_returns_nothing_before(room):
    room.post()
    moved = Deferred()
    poll = room.poll(after=1, moved=moved)
    room.post()
    assert not poll.called
    moved.callback(None)
    assert ids(poll) == [2]
    assert room.channels.waiting == 0


def test_poll_reads_nothing_before_the_cursor_is_stored(room, monkeypatch):
    room.post()
    moved, read = Deferred(), []
    monkeypatch.setattr(room.store, "read", lambda *_: read.append(1) or succeed([]))
    poll = room.poll(after=0, moved=moved)
    assert not read
    moved.callback(None)
    assert read
    assert not poll.called
    poll.addErrback(lambda _: None).cancel()


def test_poll_that_waits_fails_as_soon_as_its_cursor_is_refused(room):
    room.post()
    moved = Deferred()
    poll = room.poll(after=1, moved=moved)
    moved.errback(RateLimited("limit", "cursors"))
    with pytest.raises(RateLimited):
        value_of(poll)
    assert room.channels.waiting == 0


def test_poll_fails_when_its_cursor_is_refused_after_the_event_has_come(room):
    room.post()
    moved = Deferred()
    poll = room.poll(after=1, moved=moved)
    room.post()
    moved.errback(RateLimited("limit", "cursors"))
    with pytest.raises(RateLimited):
        value_of(poll)


def test_poll_that_waits_delivers_while_the_store_takes_no_cursor(room):
    room.post()
    moved = Deferred()
    poll = room.poll(after=1, moved=moved)
    moved.errback(Unavailable("store"))
    assert not poll.called
    room.post()
    assert ids(poll) == [2]


def test_poll_that_is_one_too_many_leaves_its_cursor_to_the_store():
    room = Room(waiting_limit=0)
    moved = Deferred()
    with pytest.raises(RateLimited):
        value_of(room.poll(moved=moved))
    moved.errback(Unavailable("store"))
    assert not isinstance(moved.result, Failure)  # it would be logged that nobody has handled it


def test_poll_that_was_cancelled_leaves_its_cursor_to_the_store(room):
    room.post()
    moved = Deferred()
    poll = room.poll(after=1, moved=moved)
    poll.addErrback(lambda failure: failure.trap(CancelledError)).cancel()
    assert room.channels.waiting == 0
    moved.errback(RateLimited("limit", "cursors"))  # nobody is left whom that concerns


def test_poll_reads_again_when_the_event_is_not_the_next(room):
    room.post()
    poll = room.poll(after=1)
    for _ in range(2):
        value_of(room.channels.post(Event("t", "n", b"1")))
    room.channels.arrived(Event("t", "n", b"1", id=3))
    assert ids(poll) == [2, 3]


def test_an_event_that_is_older_than_wanted_lets_the_poll_wait_on(room):
    poll = room.poll(after=10)
    room.post()
    room.post()
    assert not poll.called
    room.wait(5)
    assert ids(poll) == []


def test_what_arrives_without_a_wake_up_is_read_at_the_timeout(room):
    poll = room.poll(timeout=1.0)
    value_of(room.channels.post(Event("t", "n", b"1")))  # and the bus says nothing
    room.wait(1)
    assert ids(poll) == [1]


def test_at_the_known_end_of_a_topic_nothing_is_looked_up(room, monkeypatch):
    room.post()
    room.post()
    monkeypatch.setattr(room.channels, "read", None)
    poll = room.poll(after=2)
    monkeypatch.undo()
    assert ids(room.poll(after=1)) == [2]
    room.post()
    assert ids(poll) == [3]


def elsewhere(room):
    """Store an event as another node does: this one has not heard of it."""
    return value_of(room.channels.post(Event("t", "n", b"1")))


def test_on_a_shared_store_the_end_is_not_known_unless_somebody_has_waited_there(room):
    room.store.shared = True
    room.post()
    elsewhere(room)
    assert ids(room.poll(after=1)) == [2]


def hot(room):
    """Let somebody get an event on a shared store, and ask for no other yet."""
    room.store.shared = True
    poll = room.poll()
    room.post()
    assert ids(poll) == [1]
    assert room.bus.listening == ["t"]


def test_at_the_end_of_a_hot_topic_of_a_shared_store_nothing_is_looked_up(room, monkeypatch):
    hot(room)
    for id in range(1, 4):
        monkeypatch.setattr(room.channels, "read", None)
        poll = room.poll(after=id)
        room.wait(1)
        monkeypatch.undo()
        room.post()
        assert ids(poll) == [id + 1]
    assert room.bus.listening == ["t"]


def test_what_another_node_has_stored_on_a_hot_topic_is_read_at_the_timeout_at_the_latest(room):
    hot(room)
    elsewhere(room)
    poll = room.poll(after=1, timeout=1.0)
    assert not poll.called
    room.wait(1)
    assert ids(poll) == [2]


def test_a_topic_is_hot_for_as_long_as_it_is_listened_to(room):
    hot(room)
    room.wait(KEPT_SECONDS + 1)
    assert room.bus.listening == []
    elsewhere(room)
    assert ids(room.poll(after=1)) == [2]


def test_a_topic_is_hot_again_when_somebody_waits_in_time(room):
    hot(room)
    for _ in range(3):
        room.wait(KEPT_SECONDS - 2)
        poll = room.poll(after=1, timeout=0.5)
        room.wait(1)
        assert ids(poll) == []
    assert room.bus.listening == ["t"]
    room.wait(KEPT_SECONDS + 1)
    assert room.bus.listening == []


def test_no_topic_is_hot_while_the_bus_carries_nothing(room):
    hot(room)
    elsewhere(room)
    room.bus.ready = "Redis is away"
    assert ids(room.poll(after=1)) == [2]


def test_no_topic_is_hot_when_the_store_has_others(room):
    hot(room)
    elsewhere(room)
    room.channels.end_polls()
    assert ids(room.poll(after=1)) == [2]


def test_hot_topics_are_limited_and_none_is_left_at_the_end(room, monkeypatch):
    monkeypatch.setattr("broker.core.hot_topics.MAX_KEPT", 2)
    room.store.shared = True
    for topic in "abcd":
        poll = room.poll(topic)
        room.post(topic)
        assert ids(poll) == [1]
    assert room.bus.listening == ["a", "b"]
    room.channels.stop()
    assert room.bus.listening == []
    assert room.clock.getDelayedCalls() == []


def test_remembered_ends_are_limited(room):
    known = room.channels._heads
    known.size = 2
    for topic in "abcde":
        room.post(topic)
    assert len(known) <= 2
    assert ids(room.poll("a")) == [1]


def test_every_waiting_poll_is_woken(room):
    polls = [room.poll() for _ in range(200)]
    room.post()
    assert [ids(poll) for poll in polls] == [[1]] * 200


def test_the_bus_is_heard_for_as_long_as_somebody_waits(room):
    polls = [room.poll(), room.poll()]
    assert room.bus.listening == ["t"]
    polls[0].cancel()
    value_of(polls[0].addErrback(lambda failure: failure.trap(CancelledError)))
    assert room.bus.listening == ["t"]
    room.post()
    value_of(polls[1])
    assert room.bus.listening == []


def test_cancelled_poll_leaves_nothing_behind(room):
    poll = room.poll()
    poll.cancel()
    value_of(poll.addErrback(lambda failure: failure.trap(CancelledError)))
    assert (room.channels.waiting, room.channels._waiters, room.bus.listening) == (0, {}, [])
    room.wait(0.1)
    assert not room.clock.getDelayedCalls()


def test_a_failing_read_leaves_nothing_behind(room):
    room.store.stopService()
    with pytest.raises(Unavailable):
        value_of(room.poll())
    assert (room.channels.waiting, room.bus.listening) == (0, [])


def test_waiting_polls_are_limited():
    room = Room(waiting_limit=1)
    first = room.poll()
    with pytest.raises(RateLimited):
        value_of(room.poll())
    room.post()
    assert ids(first) == [1]
    assert room.channels.waiting == 0


def test_draining_ends_waiting_polls_and_lets_none_wait(room):
    polls = [room.poll("a"), room.poll("b"), room.poll("b")]
    room.channels.drain()
    assert [ids(poll) for poll in polls] == [[], [], []]
    assert ids(room.poll()) == []


def test_the_poster_hears_of_its_event_before_the_readers_do(room):
    order, stored = [], Deferred()
    append = room.store.append
    room.store.append = lambda *words: stored.addCallback(lambda _: append(*words))
    room.bus.publish = lambda event: order.append(("bus", event.id))
    room.channels.post(Event("t", "n", b"1")).addCallback(lambda event: order.append(("poster", event.id)))
    stored.callback(None)
    assert order == [("poster", 1), ("bus", 1)]


def test_a_store_that_announces_is_not_repeated(room):
    room.store.announces = True
    value_of(room.channels.post(Event("t", "n", b"1")))
    assert room.bus.published == []


def test_a_post_that_fails_is_not_published(room):
    room.store.stopService()
    with pytest.raises(Unavailable):
        value_of(room.channels.post(Event("t", "n", b"1")))
    assert room.bus.published == []


@pytest.mark.parametrize("shared", [True, False])
def test_what_nodes_tell_each_other_is_kept_for_those_that_are_away(room, shared):
    room.bus.shared = shared
    room.channels.notify(Event("control", "n", None))
    assert [event.id for event in room.bus.published] == [1 if shared else 0]
    assert value_of(room.channels.head("control")) == (1 if shared else 0)


def test_an_event_of_the_broker_itself_that_is_lost_costs_a_log_line():
    room = Room(durable=("kept",))
    room.bus.shared = True
    assert room.channels.announce(Event("live", "n", None)) is None
    assert value_of(cast(Any, room.channels.announce(Event("kept", "n", None)))).id == 1
    room.store.stopService()
    with logging() as events:
        assert value_of(cast(Any, room.channels.announce(Event("kept", "n", None)))) is None
        room.channels.notify(Event("control", "n", None))
    lines = [line.partition(":")[0] for line in lines_of(events)]
    assert lines == ["an event on kept was lost", "an event on control was lost"]


def test_durable_topics_are_patterns():
    channels = Room(durable=("news", "log.>")).channels
    assert [channels.is_durable(topic) for topic in ("news", "log.a.b", "log", "other")] == [True, True, False, False]


def test_latest_and_head(room):
    for _ in range(3):
        room.post()
    assert ids(room.channels.latest("t", 2)) == [2, 3]
    assert value_of(room.channels.head("t")) == 3
    assert value_of(room.channels.head("other")) == 0


# Cursors


def cursor(room, client="c", topic="t"):
    return value_of(Deferred.fromCoroutine(room.channels.cursor(client, topic)))


def move(room, id, client="c", topic="t"):
    return value_of(room.channels.move_cursor(client, topic, id))


def test_a_cursor_moves_in_both_directions(room):
    assert cursor(room) == 0
    move(room, 7)
    assert cursor(room) == 7
    move(room, 3)
    assert cursor(room) == 3
    with pytest.raises(Invalid):
        move(room, -1)


def test_cursors_of_different_pairs_are_different():
    pairs = [("x", "users:add"), ("x:users", "add"), ("1", ":a"), ("1:", "a"), ("", "1:a"), ("1:a", "")]
    assert len({cursor_key(*pair) for pair in pairs}) == len(pairs)


DAY = 86400.0  # seconds


def test_a_cursor_ends_when_it_was_not_used_for_its_life():
    room = Room(cursor_seconds=10 * DAY)
    move(room, 7)
    left = value_of(room.store.get("cursor", cursor_key("c", "t"))).expires - room.clock.seconds()
    assert 10 * DAY < left <= 11 * DAY
    room.clock.advance(10 * DAY)
    move(room, 8)
    room.clock.advance(10 * DAY)
    assert cursor(room) == 8
    room.clock.advance(11 * DAY)
    assert cursor(room) == 0


def test_to_be_read_is_to_be_used_and_costs_few_writes():
    room = Room(cursor_seconds=10 * DAY)
    move(room, 7)
    counted = writes(room)
    for _ in range(300):
        assert cursor(room) == 7
        room.clock.advance(DAY / 10)
    assert 29 <= len(counted) <= 30


def test_reading_a_cursor_does_not_take_back_what_was_moved_meanwhile():
    room = Room(cursor_seconds=10 * DAY)
    move(room, 7)
    room.clock.advance(2 * DAY)
    get = room.store.get

    def moved_behind(*args):
        found = get(*args)
        value_of(room.store.set("cursor", cursor_key("c", "t"), b"9"))
        return found

    room.store.get = moved_behind
    assert cursor(room) == 7
    room.store.get = get
    assert cursor(room) == 9


def test_without_a_life_a_cursor_stays(room):
    move(room, 7)
    assert value_of(room.store.get("cursor", cursor_key("c", "t"))).expires == 0.0
    room.clock.advance(10_000 * DAY)
    assert cursor(room) == 7


def test_one_cursor_too_many_is_refused_and_those_that_are_move_on(room):
    quota = Quota("cursors", "secret", 2)
    for topic in ("a", "b"):
        value_of(room.channels.move_cursor("c", topic, 1, quota))
    with pytest.raises(RateLimited, match="limit cursors"):
        value_of(room.channels.move_cursor("c", "t", 1, quota))
    value_of(room.channels.move_cursor("c", "a", 2, quota))


def writes(room):
    """Count what is set in the store from now on."""
    counted = []
    set_ = room.store.set
    room.store.set = lambda *args, **options: counted.append(args[1:]) or set_(*args, **options)
    return counted


def test_a_cursor_that_stands_there_already_costs_no_write(room):
    counted = writes(room)
    for id in (7, 7, 8, 8, 7, 7):
        move(room, id)
    assert [value for _, value in counted] == [b"7", b"8", b"7"]
    assert cursor(room) == 7


def test_a_cursor_that_stands_there_is_renewed_before_it_goes():
    room = Room(cursor_seconds=3 * DAY)
    for _ in range(20):
        move(room, 7)
        room.clock.advance(DAY / 2)
    assert cursor(room) == 7


def test_a_move_that_was_not_stored_is_made_again(room):
    store = room.store.set
    room.store.set = lambda *args, **options: fail(Unavailable("store"))
    with pytest.raises(Unavailable):
        move(room, 7)
    room.store.set = store
    move(room, 7)
    assert cursor(room) == 7


def test_the_last_of_several_moves_under_way_counts(room):
    held = Deferred()
    store = room.store.set

    def slow(*args, **options):
        done = Deferred()
        held.addCallback(lambda _: store(*args, **options).addCallback(done.callback) and None)
        return done

    room.store.set = slow
    moves = [room.channels.move_cursor("c", "t", id) for id in (5, 3, 5)]
    held.callback(None)
    assert all(made.called for made in moves)
    assert cursor(room) == 5


def test_another_node_may_move_a_shared_cursor(room):
    room.store.shared = True
    counted = writes(room)
    move(room, 7)
    move(room, 7)
    assert len(counted) == 2


def test_remembered_moves_are_limited(room):
    room.channels._moves.size = 2
    for id in range(5):
        move(room, id, client=str(id))
    assert len(room.channels._moves) <= 2


# What nodes notify each other of


@pytest.fixture
def nodes():
    room = Room()
    room.bus.shared = True
    return room


def test_what_the_store_did_not_take_is_told_later(nodes, monkeypatch):
    with monkeypatch.context() as away:
        away.setattr(nodes.store, "append", lambda *words: fail(Unavailable("redis")))
        for name in ("left", "revoked"):
            nodes.channels.notify(Event("broker.control.x", name, None))
        nodes.clock.pump([NOTICE_RETRY] * 3)
    nodes.clock.advance(NOTICE_RETRY)
    assert [event.name for event in nodes.bus.published] == ["left", "revoked"]
    assert nodes.clock.getDelayedCalls() == []


def test_stopping_leaves_no_notice_behind(nodes, monkeypatch):
    monkeypatch.setattr(nodes.store, "append", lambda *words: fail(Unavailable("redis")))
    nodes.channels.notify(Event("broker.control.x", "left", None))
    nodes.channels.stop()
    nodes.channels.notify(Event("broker.control.x", "left", None))
    assert nodes.clock.getDelayedCalls() == []


# What the bus does not take yet


class AwayBus(Bus):
    """One that takes nothing while it is away."""

    shared = True
    error: type[Unavailable] | None = NotDone

    def publish(self, event):
        if self.error is not None:
            return fail(self.error("redis"))
        super().publish(event)
        return succeed(None)


@pytest.fixture
def away():
    room = Room(durable=("kept",))
    room.bus = AwayBus()
    room.channels._bus = cast(Any, room.bus)
    return room


@pytest.mark.parametrize("topic", ["live", "kept"])
def test_what_the_bus_did_not_take_is_sent_later_in_its_order(away, topic):
    with logging() as events:
        for name in ("online", "offline"):
            assert value_of(away.channels.announce(Event(topic, name, b"1"))) is None or topic == "kept"
        away.clock.advance(NOTICE_RETRY)
    assert lines_of(events)[0].startswith(f"an event on {topic} waits")
    assert [line for line in lines_of(events) if "lost" in line] == []
    away.bus.error = None
    value_of(away.channels.announce(Event("live", "late", b"1")))
    assert away.bus.published == []
    away.clock.advance(NOTICE_RETRY)
    assert [event.name for event in away.bus.published] == ["online", "offline", "late"]
    assert (away.channels._unsent_bytes, away.clock.getDelayedCalls()) == (0, [])


def test_what_may_have_been_sent_is_not_sent_again(away):
    away.bus.error = Unavailable
    with logging() as events:
        value_of(away.channels.announce(Event("live", "online", None)))
    assert [line.partition(":")[0] for line in lines_of(events)] == ["an event on live was lost"]
    assert away.clock.getDelayedCalls() == []


@pytest.mark.parametrize("limit", [("MAX_NOTICES", 2), ("MAX_UNSENT_BYTES", 2)])
def test_no_more_waits_than_there_is_room_for(away, monkeypatch, limit):
    monkeypatch.setattr(f"broker.core.channels.{limit[0]}", limit[1])
    with logging() as events:
        for name in "abc":
            value_of(away.channels.announce(Event("live", name, b"1")))
    assert [line for line in lines_of(events) if "lost" in line] == ["an event on live was lost: Too many events wait."]


def test_what_waits_is_tried_a_last_time_when_it_stops_and_lost_with_a_word(away):
    value_of(away.channels.announce(Event("live", "online", None)))
    away.channels.drain()
    value_of(away.channels.announce(Event("live", "offline", None)))
    with logging() as events:
        away.channels.stop()
    assert [line.partition(":")[0] for line in lines_of(events)] == ["an event on live was lost"] * 2
    assert away.clock.getDelayedCalls() == []


# What a bus reads that has missed some


class SharedStore:
    """Answers with what it was asked for."""

    epoch = "e1"
    kept = 3
    server = "one"

    def mark(self):
        return succeed(7)

    def changes(self, mark):
        return succeed({LOG_PREFIX + "a": mark + 1, LOG_PREFIX + LOG_PREFIX: mark + 2})

    def since(self, *words):
        return succeed(words)

    read = since

    def publishes(self, origin):
        return origin == "ann"

    def on_answer(self, call):
        call()


def test_a_bus_reads_topics_where_the_store_has_logs():
    source, answered = StoreEventSource(cast(Any, SharedStore())), []
    verifyObject(IEventSource, source)
    assert (source.epoch, source.server) == ("e1", "one")
    assert value_of(source.mark()) == 7
    assert value_of(source.changes(7)) == {"a": 8, LOG_PREFIX: 9}
    assert value_of(source.since("a", 5)) == (LOG_PREFIX + "a", 5)
    assert value_of(source.read("a", 5, 10, 99)) == (LOG_PREFIX + "a", 5, 10, 99)
    assert (source.publishes("ann"), source.publishes("bob")) == (True, False)
    source.on_answer(lambda: answered.append(True))
    assert answered == [True]


# Retention, as the service applies it


def test_retention_forgets_events_and_never_reuses_an_id():
    clock = Clock()
    clock.advance(1_000_000_000)
    broker = make_broker(clock, retention=Retention(seconds=0, count=2))
    peer = broker.attach("test", "")
    for _ in range(5):
        value_of(peer.post("t", "n", b"1"))
    clock.advance(60)
    assert ids(peer.read("t", 0, 100)) == [4, 5]
    assert value_of(peer.post("t", "n", b"1")).id == 6
    assert value_of(peer.head("t")) == 6
