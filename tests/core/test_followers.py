"""Subscriptions that begin at a position: what is stored, then what is new, each once and in order."""

from __future__ import annotations

import re
from collections import deque
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from broker.config.options import Retention
from broker.core.followers import RETRY
from broker.core.shares import READS_AT_ONCE
from broker.core.starts import MAX_TOPICS
from broker.errors import Denied, Gone, Invalid, RateLimited, TooLarge, Unavailable
from broker.interfaces import IFollower
from broker.messages import EPOCH, NEW, RETENTION, START, Event, Loss, Position
from broker.patterns import LOG_PREFIX
from broker.testing import make_broker, value_of
from tests.support.peers import attach


@attrs.define(eq=False)
class Reader:
    """A client that has room for some events."""

    room: int = 10_000
    got: list[Event] = attrs.field(factory=list)
    losses: list[Loss] = attrs.field(factory=list)

    def deliver(self, event: Event) -> bool:
        if not self.room:
            return False
        self.room -= 1
        self.got.append(event)
        return True

    @property
    def ids(self) -> list[int]:
        return [event.id for event in self.got]


class Room:
    """A broker with a client that publishes and one that follows."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000_000)
        self.broker = make_broker(self.clock, **{"durable_topics": ("t", "a.>"), **settings})
        self.store: Any = self.broker.store
        self.publisher, self.peer = attach(self.broker), attach(self.broker)

    @property
    def epoch(self) -> str:
        return str(self.store.epoch)

    def publish(self, count: int = 1, topic: str = "t", peer: Any = None) -> None:
        for _ in range(count):
            value_of((peer or self.publisher).publish(topic, "n", b"1"))

    def begin(self, reader: Reader, origin: Any, topic: str = "t", **options: Any) -> Any:
        """Follow *topic* without starting yet."""
        return value_of(self.peer.follow(topic, origin, reader.deliver, reader.losses.append, **options))

    def follow(self, reader: Reader, origin: Any, topic: str = "t", **options: Any) -> Any:
        follower = self.begin(reader, origin, topic, **options)
        follower.start()
        return follower

    def position(self, id: int) -> Position:
        return Position(self.epoch, id)

    def trim(self, upto: int, topic: str = "t") -> None:
        value_of(self.store.trim(LOG_PREFIX + topic, upto))

    def wipe(self) -> None:
        """Let the store begin anew, as after a restore that lost all."""
        for name in value_of(self.store.logs("", "", 1000)):
            value_of(self.store.trim(name, 10**9))
        self.store._logs.clear()
        self.store.epoch = "another"
        self.store.wiped()


@pytest.fixture
def room():
    return Room()


@pytest.fixture
def reader():
    return Reader()


def test_what_is_stored_comes_first_and_then_what_is_new(room, reader):
    room.publish(3)
    follower = room.follow(reader, room.position(1))
    assert verifyObject(IFollower, follower)
    room.publish(2)
    assert reader.ids == [2, 3, 4, 5]
    assert [start.position.id for start in follower.starts] == [1]


def test_nothing_is_delivered_before_the_start(room, reader):
    room.publish(2)
    follower = room.begin(reader, START)
    room.publish(2)
    assert reader.ids == []
    follower.start()
    assert reader.ids == [1, 2, 3, 4]


def test_what_is_published_while_the_beginning_is_looked_for_comes_once(room, reader):
    room.publish(2)
    found: Deferred[int] = Deferred()
    head = room.store.head
    room.store.head = lambda log: found
    beginning = Deferred.fromCoroutine(room.peer.follow("t", NEW, reader.deliver, reader.losses.append))
    room.publish(1)
    room.store.head = head
    found.callback(2)
    value_of(beginning).start()
    assert reader.ids == [3]
    room.publish(1)
    assert reader.ids == [3, 4]


def test_new_begins_with_what_comes(room, reader):
    room.publish(3)
    (start,) = room.follow(reader, NEW).starts
    room.publish(1)
    assert (start.position.id, reader.ids) == (3, [4])


def test_events_that_are_not_stored_come_too(room, reader):
    room.follow(reader, START, "live")
    room.publish(2, "live")
    assert reader.ids == [0, 0]


def test_own_events_come_by_replay_and_only_with_echo_as_new_ones(room, reader):
    room.publish(2, peer=room.peer)
    room.follow(reader, START)
    room.publish(1, peer=room.peer)
    room.publish(1)
    assert reader.ids == [1, 2, 4]
    room.follow(reader, NEW, echo=True)
    room.publish(1, peer=room.peer)
    assert reader.ids == [1, 2, 4, 5]


def test_a_client_without_room_gets_the_rest_when_it_has(room, reader):
    reader.room = 2
    room.publish(5)
    room.follow(reader, START)
    room.publish(2)
    assert reader.ids == [1, 2]
    reader.room = 3
    room.peer.resume()
    assert reader.ids == [1, 2, 3, 4, 5]
    reader.room = 10
    room.peer.resume()
    room.publish(1)
    assert reader.ids == list(range(1, 9))


def test_nothing_is_kept_for_a_client_without_room(room, reader):
    reader.room = 0
    room.follow(reader, NEW)
    room.publish(1000)
    assert room.broker.memory.used < 1000
    reader.room = 1000
    room.peer.resume()
    assert reader.ids == list(range(1, 1001))
    assert room.broker.memory.used == 0


def test_a_gap_that_the_bus_leaves_is_read_from_the_store(room, reader):
    room.follow(reader, NEW)
    room.publish(1)
    deliver, room.broker.bus.deliver = room.broker.bus.deliver, lambda event: None
    room.publish(3)
    room.broker.bus.deliver = deliver
    room.publish(1)
    assert reader.ids == [1, 2, 3, 4, 5]


def test_what_the_bus_brings_twice_is_delivered_once(room, reader):
    room.follow(reader, NEW)
    room.publish(2)
    for event in list(reader.got):
        room.broker.arrived(event)
    assert reader.ids == [1, 2]


def test_what_the_store_does_not_have_yet_is_read_later(room, reader):
    room.follow(reader, NEW)
    room.publish(1)
    read, room.store.read = room.store.read, lambda *args: fail(Unavailable("store"))
    room.broker.arrived(Event("t", "n", b"1", id=3, epoch=room.epoch))
    room.store.read = read
    room.publish(2)
    room.clock.advance(RETRY)
    assert reader.ids == [1, 2, 3]


def test_what_retention_has_removed_is_told(room, reader):
    room.publish(5)
    room.trim(3)
    (start,) = room.follow(reader, room.position(1)).starts
    assert start.loss == Loss("t", room.epoch, 2, 3, RETENTION)
    assert (start.position.id, reader.ids) == (3, [4, 5])


def test_the_start_is_the_oldest_that_is_kept_and_loses_nothing(room, reader):
    room.publish(5)
    room.trim(3)
    (start,) = room.follow(reader, START).starts
    assert (start.position.id, start.loss, reader.ids, reader.losses) == (3, None, [4, 5], [])


def test_all_that_is_left_of_a_topic_may_be_its_head(room, reader):
    room.publish(5)
    room.trim(5)
    (start,) = room.follow(reader, room.position(2)).starts
    assert start.loss == Loss("t", room.epoch, 3, 5, RETENTION)
    room.publish(1)
    assert reader.ids == [6]


@pytest.mark.parametrize(("upto", "lost", "ids"), [(4, (2, 4), [1, 5, 6, 7]), (6, (2, 6), [1, 7])])
def test_what_is_removed_while_a_client_is_behind_is_told(room, reader, upto, lost, ids):
    reader.room = 1
    room.publish(6)
    room.follow(reader, START)
    room.trim(upto)
    reader.room = 100
    room.peer.resume()
    room.publish(1)
    assert [(loss.first, loss.last, loss.why) for loss in reader.losses] == [(*lost, RETENTION)]
    assert reader.ids == ids


def test_a_position_beyond_the_newest_event_is_refused_and_changes_nothing(room, reader):
    room.publish(2)
    room.follow(reader, START)
    with pytest.raises(Invalid, match="from is beyond the newest event of t, 2"):
        room.begin(Reader(), room.position(3))
    room.publish(1)
    assert reader.ids == [1, 2, 3]
    assert len(room.broker.parts.followers) == 1


def test_a_position_of_another_epoch_is_told_and_begins_at_the_start(room, reader):
    room.publish(3)
    (start,) = room.follow(reader, Position("before", 700)).starts
    assert start.loss == Loss("t", "before", 701, None, EPOCH)
    assert (start.position, reader.ids) == (room.position(0), [1, 2, 3])


def test_a_wiped_store_is_told_and_followed_from_its_start(room, reader):
    room.publish(3)
    room.follow(reader, room.position(1))
    before = room.epoch
    room.wipe()
    room.publish(2)
    assert reader.losses == [Loss("t", before, 4, None, EPOCH)]
    assert reader.ids == [2, 3, 1, 2]


def test_whoever_wanted_new_events_only_goes_on_with_what_is_new_in_a_wiped_store(room, reader):
    room.publish(1)
    room.follow(reader, NEW)
    room.publish(1)
    room.wipe()
    room.publish(2)
    assert [loss.why for loss in reader.losses] == [EPOCH]
    assert reader.ids == [2, 1, 2]


# Patterns.


def test_a_pattern_brings_every_topic_in_its_order(room, reader):
    for number in range(3):
        room.publish(1, f"a.{number % 2}")
    follower = room.follow(reader, START, "a.*")
    room.publish(1, "a.1")
    room.publish(1, "a.new")
    heard = [(event.topic, event.id) for event in reader.got]
    assert {start.topic: start.position.id for start in follower.starts} == {"a.0": 0, "a.1": 0}
    assert [id for topic, id in heard if topic == "a.0"] == [1, 2]
    assert [id for topic, id in heard if topic == "a.1"] == [1, 2]
    assert heard[-1] == ("a.new", 1)


def test_a_pattern_begins_at_the_positions_of_its_topics_and_else_at_their_start(room, reader):
    for topic in ("a.x", "a.y"):
        room.publish(2, topic)
    room.follow(reader, {"a.x": room.position(1)}, "a.>")
    assert sorted((event.topic, event.id) for event in reader.got) == [("a.x", 2), ("a.y", 1), ("a.y", 2)]


@pytest.mark.parametrize(
    ("origin", "why"),
    [
        (Position("e", 0), "from is a position of one topic, and a.> is a pattern"),
        ({"b.x": Position("e", 0)}, "from names b.x, which a.> does not match"),
    ],
)
def test_a_pattern_takes_positions_of_its_own_topics_only(room, origin, why):
    with pytest.raises(Invalid, match=re.escape(why)):
        room.begin(Reader(), origin, "a.>")


def test_a_name_takes_no_map(room):
    with pytest.raises(Invalid, match="and t is one topic"):
        room.begin(Reader(), {"t": room.position(0)})


def test_a_pattern_of_too_many_topics_is_refused(room, reader):
    for number in range(MAX_TOPICS + 1):
        room.publish(1, f"a.{number}")
    with pytest.raises(TooLarge):
        room.begin(reader, START, "a.*")
    assert room.peer.subscriptions == []


def test_topics_of_the_nodes_are_in_no_pattern(room, reader):
    value_of(room.store.append(LOG_PREFIX + "broker.control.owner", Event("broker.control.owner", "n", b"1")))
    assert room.follow(reader, START, ">").starts == []
    with pytest.raises(Denied):
        room.begin(reader, START, "broker.control.owner")


# One client's subscriptions.


def test_a_subscription_from_a_position_takes_the_place_of_a_plain_one(room, reader):
    room.peer.subscribe("t")
    room.publish(1)
    room.follow(reader, START)
    room.publish(1)
    assert [event.id for event, _ in room.peer.session.heard] == [1]
    assert reader.ids == [1, 2]
    assert room.peer.subscriptions == ["t"]


def test_to_subscribe_again_keeps_the_position(room, reader):
    reader.room = 1
    room.publish(3)
    room.follow(reader, START)
    room.peer.subscribe("t")
    reader.room = 10
    room.peer.resume()
    assert reader.ids == [1, 2, 3]


def test_unsubscribing_ends_it_also_while_it_begins(room, reader):
    room.follow(reader, START)
    room.peer.unsubscribe("t")
    waiting: Deferred[int] = Deferred()
    head, room.store.head = room.store.head, lambda log: waiting
    beginning = Deferred.fromCoroutine(room.peer.follow("t", START, reader.deliver, reader.losses.append))
    room.store.head = head
    room.peer.unsubscribe("t")
    waiting.callback(0)
    value_of(beginning).start()
    room.publish(1)
    assert (reader.ids, len(room.broker.parts.followers), len(room.broker.topics)) == ([], 0, 0)


def test_a_closed_peer_leaves_nothing_behind(room, reader):
    reader.room = 0
    room.publish(2)
    room.follow(reader, START)
    room.peer.close()
    room.publish(1)
    assert (reader.ids, len(room.broker.parts.followers), len(room.broker.topics)) == ([], 0, 0)


def test_a_peer_that_is_closed_while_it_begins_is_told(room, reader):
    waiting: Deferred[int] = Deferred()
    room.store.head = lambda log: waiting
    beginning = Deferred.fromCoroutine(room.peer.follow("t", START, reader.deliver, reader.losses.append))
    room.peer.close()
    waiting.callback(0)
    with pytest.raises(Gone):
        value_of(beginning)
    assert len(room.broker.parts.followers) == 0


def test_they_count_as_subscriptions(reader):
    room = Room(max_subscriptions=2)
    room.follow(reader, START, "a.x")
    room.follow(reader, START, "a.y")
    with pytest.raises(RateLimited):
        room.begin(reader, START, "t")
    room.follow(reader, NEW, "a.y")


def test_a_broken_session_costs_itself_only(room, reader):
    def broken(event: Event) -> bool:
        raise ZeroDivisionError("a bug")

    follower = value_of(room.peer.follow("t", START, broken, reader.losses.append))
    follower.start()
    room.publish(1)
    assert follower.behind == {}


# Plain subscriptions whose client reads too slowly.


def test_a_plain_subscription_falls_behind_and_goes_on_from_the_store(room, reader):
    room.peer.subscribe("t")
    room.publish(1)
    ((event, pattern),) = room.peer.session.heard
    assert room.peer.fall_behind(event, pattern, reader.deliver, reader.losses.append)
    room.publish(2)
    assert (reader.ids, len(room.peer.session.heard)) == ([], 1)
    room.peer.resume()
    room.publish(1)
    assert reader.ids == [1, 2, 3, 4]
    assert room.broker.metrics.slow_consumers["pull"] == 1


def test_what_is_not_stored_can_not_wait_in_the_store(room, reader):
    room.peer.subscribe("live")
    room.publish(1, "live")
    ((event, pattern),) = room.peer.session.heard
    assert not room.peer.fall_behind(event, pattern, reader.deliver, reader.losses.append)
    assert not room.peer.fall_behind(Event("t", "n", b"1", id=1), "t", reader.deliver, reader.losses.append)


# Retention and expiry need no special case.


def test_the_sweep_of_a_topic_that_nobody_reads_is_told():
    room, reader = Room(retention=Retention(0, 2)), Reader()
    room.publish(5)
    value_of(room.store.sweep(LOG_PREFIX, 0.0, 2))
    (start,) = room.follow(reader, room.position(0)).starts
    assert (start.loss and (start.loss.first, start.loss.last), reader.ids) == ((1, 3), [4, 5])


def test_what_has_expired_is_passed_over_and_is_no_loss(room, reader):
    room.publish(1)
    for _ in range(2):
        value_of(room.publisher.publish("t", "n", b"1", expires=room.clock.seconds() + 5))
    room.publish(1)
    reader.room = 1
    room.follow(reader, START)
    room.clock.advance(3700)
    reader.room = 10
    room.peer.resume()
    room.publish(1)
    assert (reader.ids, reader.losses) == ([1, 4, 5], [])


def test_one_client_that_follows_very_much_keeps_others_waiting_for_few_reads(room):
    greedy, modest, other = Reader(0), Reader(0), attach(room.broker, address="10.0.0.2")
    for number in range(60):
        room.publish(1, f"a.{number}")
        room.follow(greedy, START, f"a.{number}")
    value_of(other.follow("a.0", START, modest.deliver, modest.losses.append)).start()
    asked: deque[tuple[str, Deferred[Any]]] = deque()
    read, room.store.read = room.store.read, lambda log, *_: asked.append((log, Deferred())) or asked[-1][1]
    greedy.room = modest.room = 1000
    room.peer.resume()
    other.resume()
    while not modest.got:
        log, waiting = asked.popleft()
        waiting.callback(value_of(read(log, 0, 100)))
    assert 0 < len(greedy.got) <= 2 * READS_AT_ONCE


def test_a_session_may_end_by_what_is_delivered(room, reader, logged):
    def deliver(event: Event) -> bool:
        room.peer.close()
        return reader.deliver(event)

    room.publish(2)
    follower = value_of(room.peer.follow("t", START, deliver, reader.losses.append))
    waiting: Deferred[Any] = Deferred()
    read, room.store.read = room.store.read, lambda *_: waiting
    follower.start()
    waiting.callback(value_of(read(LOG_PREFIX + "t", 0, 100)))
    assert reader.ids == [1]
    assert [event for event in logged if "log_failure" in event] == []
