"""What a node receives from Redis, when the connection or the store fail in between: without either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from broker.buses.redis_recovery import MARK_DELAY, RETRY_DELAY
from broker.buses.redis_subscriber import SILENCE_TIMEOUT, SUBSCRIBE_TIMEOUT, UNSUBSCRIBE_DELAY, RedisSubscriber
from broker.errors import Unavailable
from broker.messages import Event, encode_text
from broker.redis.event_codec import encode_message


@attrs.define(eq=False)
class Source:
    """A log for each topic; ``away`` fails all questions, ``slow`` keeps the answers back, ``late`` the questions."""

    events: dict[str, list[tuple[int, Event]]] = attrs.field(factory=dict)
    last: int = 0
    epoch: str = "e1"
    server: str = ""
    away: bool = False
    slow: list[tuple[Deferred[Any], Callable[[], Any]]] | None = None
    late: bool = False
    publishing: set[str] = attrs.field(factory=set)
    resume: Any = None

    def append(self, topic: str) -> Event:
        self.last += 1
        log = self.events.setdefault(topic, [])
        event = Event(topic, "kind", b"%d" % (len(log) + 1), "me", 1.0, len(log) + 1, self.epoch)
        log.append((self.last, event))
        return event

    def wipe(self) -> None:
        self.events.clear()
        self.last, self.epoch = 0, f"{self.epoch}'"

    def go_back(self, topic: str, to: int) -> int:
        """Lose the events of *topic* after id *to*; return the mark that is left."""
        self.epoch = f"{self.epoch}'"
        self.events[topic] = [
            (at, event.stored_as(event.id, self.epoch, event.time)) for at, event in self.events[topic][:to]
        ]
        self.last = self.events[topic][-1][0]
        return self.last

    def _answer(self, question: Callable[[], Any]) -> Deferred[Any]:
        if self.away:
            return fail(Unavailable("store"))
        result = question()
        if self.slow is None:
            return succeed(result)
        waiting: Deferred[Any] = Deferred()
        self.slow.append((waiting, question if self.late else lambda: result))
        return waiting

    def release(self) -> None:
        waiting, self.slow, self.late = self.slow or [], None, False
        for answer, question in waiting:
            answer.callback(question())

    def release_next(self) -> None:
        assert self.slow is not None
        answer, question = self.slow.pop(0)
        answer.callback(question())

    def mark(self) -> Deferred[int]:
        return self._answer(lambda: self.last)

    def changes(self, mark: int) -> Deferred[dict[str, int]]:
        return self._answer(lambda: {topic: log[-1][0] for topic, log in self.events.items() if log[-1][0] > mark})

    def since(self, topic: str, mark: int) -> Deferred[int]:
        return self._answer(lambda: next((event.id for at, event in self.events.get(topic, ()) if at > mark), 0))

    def read(self, topic: str, after: int, limit: int, max_bytes: int = 0) -> Deferred[list[Event]]:
        return self._answer(lambda: [event for _, event in self.events.get(topic, ()) if event.id > after][:limit])

    def publishes(self, origin: str) -> bool:
        return origin in self.publishing

    def on_answer(self, call: Any) -> None:
        self.resume = call


@attrs.define(eq=False)
class Protocol:
    sent: list[tuple[bytes, ...]] = attrs.field(factory=list)

    def send(self, *words: bytes) -> None:
        self.sent.append(words)


@attrs.define(eq=False)
class Connection:
    protocol: Protocol | None = None
    dropped: list[str] = attrs.field(factory=list)
    problem: str = ""

    def drop(self, reason: str) -> None:
        self.dropped.append(reason)


class World:
    """A subscriber, its connection to a Redis that answers when told to, and what it has delivered."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.source, self.connection = Source(), Connection()
        self.heard: list[Event] = []
        self.messages: list[bytes] = []
        self.publishing: set[str] = set()
        self.resumed: list[Any] = []
        self.missed: list[str] = []
        self.subscriber = RedisSubscriber(
            self.clock,
            "p0/event/",
            "p0/node/me",
            self.heard.append,
            self.messages.append,
            lambda o: o in self.publishing,
            self.resumed.append,
            self.missed.extend,
        )
        self.subscriber.use(self.connection)  # type: ignore[arg-type]
        self.subscriber.source = self.source  # type: ignore[assignment]

    def connect(self) -> None:
        self.connection.protocol = Protocol()
        self.subscriber.opened()
        self.answer()

    def cut(self) -> None:
        self.connection.protocol = None
        self.subscriber.closed()

    def answer(self) -> None:
        """Let Redis answer what it was asked."""
        self.clock.advance(0)
        protocol = self.connection.protocol
        assert protocol is not None
        sent, protocol.sent = protocol.sent, []
        for command, *channels in sent:
            if command == b"PING":
                self.subscriber.on_message([b"pong", b""])
            elif command in (b"SUBSCRIBE", b"PSUBSCRIBE"):
                for channel in channels:
                    self.subscriber.on_message([command.lower(), channel, 1])

    def listen(self, topic: str) -> None:
        self.subscriber.listen(topic, False)
        if self.connection.protocol is not None:
            self.answer()

    def heartbeat(self) -> None:
        self.subscriber.heartbeat()
        self.answer()

    def post(self, topic: str = "t", *, announce: bool = True) -> Event:
        event = self.source.append(topic)
        if announce:
            self.announce(event)
        return event

    def announce(self, event: Event) -> None:
        stamp = event.epoch.encode() if event.id else b"me.%d" % id(event)
        self.subscriber.on_message(
            [b"message", encode_text("p0/event/" + event.topic), encode_message(event, event.id, stamp)]
        )

    @property
    def ids(self) -> list[int]:
        return [event.id for event in self.heard]


@pytest.fixture
def world() -> World:
    world = World()
    world.connect()
    return world


def test_what_comes_is_delivered(world: World) -> None:
    world.listen("t")
    world.post()
    world.announce(Event("t", "live", None))
    world.subscriber.on_message([b"message", b"p0/node/me", b"for me"])
    assert world.ids == [1, 0]
    assert world.messages == [b"for me"]


def test_what_was_missed_while_away_is_read_first(world: World) -> None:
    world.listen("t")
    world.post()
    world.cut()
    for _ in range(3):
        world.post(announce=False)
    world.connect()
    world.post()
    assert world.ids == [1, 2, 3, 4, 5]


def test_thousands_of_confirmations_before_the_mark_cost_no_look_at_all_that_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    recovery = world.subscriber._recovery
    missing = recovery._missing
    monkeypatch.setattr(recovery, "_missing", lambda: looks.append(1) or missing())
    world.source.slow = []
    for number in range(1000):
        world.subscriber.listen(f"t{number}.*", False)
    heard = world.subscriber.listening()
    world.answer()
    assert not looks
    world.source.release()
    assert len(looks) <= 3
    assert heard is not None
    assert heard.called


def test_the_end_of_thousands_of_patterns_looks_at_few_topics_and_few_patterns(world: World) -> None:
    subscriptions = world.subscriber._subscriptions
    for number in range(1000):
        world.subscriber.listen(f"t{number}.*", False)
    world.subscriber.listen("seen.>", False)
    world.answer()
    for number in range(100):
        world.post(f"seen.{number}")
    visited = subscriptions._patterns.visited
    for number in range(1000):
        world.subscriber.forget(f"t{number}.*", False)
    world.clock.pump([UNSUBSCRIBE_DELAY, 1])
    assert len(subscriptions) == 1
    assert subscriptions._patterns.visited == visited  # no topic was theirs
    assert world.post("seen.0").id == 2
    assert subscriptions._patterns.visited - visited < 10
    assert len(world.heard) == 101


def test_the_mark_of_another_server_does_not_say_that_everything_before_it_has_arrived(world: World) -> None:
    world.listen("t")
    world.heartbeat()
    world.source.server = "two"  # the store has noticed already that another one is the master
    world.post(announce=False)
    world.heartbeat()
    world.cut()
    world.subscriber.server = "two"
    world.connect()
    assert world.ids == [1]


def test_a_cut_before_the_first_beat_loses_nothing(world: World) -> None:
    world.listen("t")
    world.cut()
    world.post(announce=False)
    world.connect()
    assert world.ids == [1]


def test_a_mark_that_was_confirmed_is_where_it_goes_on(world: World) -> None:
    world.listen("other.*")
    world.post("other.a", announce=False)  # lost, but before the mark
    world.heartbeat()
    world.cut()
    world.post("other.a", announce=False)
    world.connect()
    assert world.ids == [2]


def test_a_store_that_is_away_is_asked_again(world: World) -> None:
    world.listen("t")
    world.cut()
    world.post(announce=False)
    world.source.away = True
    world.connect()
    assert world.ids == []
    world.source.away = False
    world.clock.advance(RETRY_DELAY)
    assert world.ids == [1]


def test_a_hole_is_filled_even_if_the_store_is_away_at_first(world: World) -> None:
    world.listen("t")
    world.post()
    world.post(announce=False)
    world.source.away = True
    world.post()
    world.post()
    assert world.ids == [1]
    world.source.away = False
    world.clock.advance(RETRY_DELAY)
    assert world.ids == [1, 2, 3, 4]


def test_listening_while_the_store_is_away_begins_with_the_next_beat(world: World) -> None:
    world.source.away = True
    world.listen("t")
    world.post(announce=False)
    world.source.away = False
    world.announce(world.source.append("t"))
    assert world.ids == []  # it is not known yet what came before it
    world.heartbeat()
    world.clock.advance(MARK_DELAY)
    assert world.ids == [2]


def test_what_comes_before_the_mark_is_known_waits_for_it(world: World) -> None:
    world.source.slow = []
    world.listen("t")
    world.post()
    assert world.ids == []
    world.source.release()
    world.clock.advance(MARK_DELAY)
    assert world.ids == [1]


def test_what_was_appended_between_a_heartbeat_and_joining_is_not_heard(world: World) -> None:
    world.source.slow = []
    world.subscriber.heartbeat()
    world.post(announce=False)
    world.listen("t")
    world.source.release()
    world.clock.advance(MARK_DELAY)
    assert world.ids == []
    world.post()
    assert world.ids == [2]


def test_a_cut_while_changes_are_asked_for_asks_again(world: World) -> None:
    world.listen("t")
    world.cut()
    world.post(announce=False)
    world.source.slow = []
    world.connect()
    world.cut()
    world.post(announce=False)
    world.source.release()
    assert world.ids in ([], [1, 2])
    world.connect()
    assert world.ids == [1, 2]


def test_a_wiped_source_begins_anew(world: World) -> None:
    world.listen("t")
    world.post()
    world.heartbeat()
    world.cut()
    world.source.wipe()
    world.post(announce=False)
    world.subscriber.wiped()
    world.connect()
    world.post()
    assert world.ids == [1, 1, 2]


def test_after_a_source_went_back_only_what_is_new_comes(world: World) -> None:
    world.listen("t")
    for _ in range(5):
        world.post()
    world.cut()
    kept = world.source.go_back("t", 3)
    world.post(announce=False)
    world.subscriber.wiped(kept)
    world.connect()
    world.post()
    assert world.ids == [1, 2, 3, 4, 5, 4, 5]
    assert [event.epoch for event in world.heard[-2:]] == [world.source.epoch] * 2


def test_what_was_missed_before_a_source_went_back_and_is_still_there_comes(world: World) -> None:
    world.listen("t")
    world.post()
    world.heartbeat()
    world.cut()
    for _ in range(4):
        world.post(announce=False)
    kept = world.source.go_back("t", 3)
    world.subscriber.wiped(kept)
    world.connect()
    assert world.ids == [1, 2, 3]


def test_a_gap_that_is_being_read_when_the_source_goes_back_is_read_to_its_end(world: World) -> None:
    world.listen("t")
    world.post()
    for _ in range(3):
        world.post(announce=False)
    world.source.slow = []
    world.post()
    kept = world.source.go_back("t", 4)
    world.subscriber.wiped(kept)
    world.source.release()
    world.heartbeat()
    world.post()
    assert world.ids == [1, 2, 3, 4, 5]


def test_the_mark_of_the_last_stored_event_is_known_of_its_epoch(world: World) -> None:
    world.listen("t")
    assert world.subscriber.last_mark("e1", "") == 0
    event = world.source.append("t")
    stored = encode_message(event, event.id, b"0123456789abcdef.77")
    world.subscriber.on_message([b"message", b"p0/event/t", stored])
    world.announce(Event("t", "live", None))
    assert world.subscriber.last_mark("0123456789abcdef", "") == 77
    assert world.subscriber.last_mark("e1", "") == 0


def test_the_last_mark_of_a_server_is_known_when_events_come_from_the_next(world: World) -> None:
    event = world.source.append("t")
    for server, mark in (("one", b"77"), ("two", b"80")):
        world.subscriber.server = server
        stored = encode_message(event, event.id, b"0123456789abcdef." + mark)
        world.subscriber.on_message([b"message", b"p0/event/t", stored])
    marks = [world.subscriber.last_mark("0123456789abcdef", server) for server in ("one", "two", "three")]
    assert marks == [77, 80, 0]


def test_an_event_of_a_new_epoch_begins_anew_by_itself(world: World) -> None:
    world.listen("t")
    world.post()
    world.source.wipe()
    world.post(announce=False)
    world.post()
    assert world.ids == [1, 1, 2]


def test_a_wipe_in_the_middle_of_reading_begins_anew(world: World) -> None:
    world.listen("t")
    world.post()
    world.post(announce=False)
    world.source.slow = []
    world.post()
    waiting = world.source.slow
    world.source.slow = None
    world.source.wipe()
    world.post(announce=False)
    world.subscriber.wiped()
    for answer, result in waiting:
        answer.callback(result)
    assert world.ids == [1, 1]


def test_a_topic_that_nobody_wants_any_more_is_not_read(world: World) -> None:
    world.listen("t")
    world.post()
    world.source.away = True
    world.post(announce=False)
    world.post()
    world.subscriber.forget("t", False)
    world.clock.pump([UNSUBSCRIBE_DELAY, RETRY_DELAY, RETRY_DELAY])
    world.source.away = False
    world.clock.advance(RETRY_DELAY)
    assert world.ids == [1]
    assert len(world.subscriber) == 0
    assert world.subscriber._recovery._gaps == {}


def test_coming_back_soon_is_as_if_one_had_stayed(world: World) -> None:
    world.listen("t")
    world.post()
    world.subscriber.forget("t", False)
    world.clock.advance(UNSUBSCRIBE_DELAY / 2)
    world.post()
    world.listen("t")
    world.clock.advance(UNSUBSCRIBE_DELAY)
    world.post()
    assert world.ids == [1, 2, 3]


def published(world: World, origin: str, body: bytes = b"") -> None:
    world.announce(Event("t", "live", body, origin=origin))


def test_the_publisher_is_answered_before_anybody_hears(world: World) -> None:
    world.listen("t")
    world.source.publishing.add("mine")
    event = world.source.append("t")
    event.origin = "mine"
    world.announce(event)
    published(world, "other", b"after")
    assert world.heard == []
    world.source.publishing.clear()
    world.source.resume()
    assert [event.body for event in world.heard] == [b"1", b"after"]


def test_each_publisher_is_answered_by_the_one_it_waits_for(world: World) -> None:
    world.listen("t")
    world.publishing.add("mine")
    published(world, "mine", b"1")
    world.source.publishing.add("too")
    published(world, "too", b"2")
    world.source.resume()
    assert world.heard == []
    world.resumed.pop()()
    assert [event.body for event in world.heard] == [b"1", b"2"]


def test_who_publishes_again_as_soon_as_it_is_answered_holds_nobody_up(world: World) -> None:
    world.listen("t")
    world.publishing.add("busy")
    world.source.publishing.add("busy")
    published(world, "busy", b"1")
    published(world, "other", b"2")
    world.resumed.pop()()  # its next one is under way already, and so it is when the source answers
    assert world.heard == []
    world.source.resume()
    assert [event.body for event in world.heard] == [b"1", b"2"]


def test_many_events_that_were_held_let_others_have_their_turn(world: World) -> None:
    world.listen("t")
    world.publishing.add("mine")
    for number in range(50):
        published(world, "mine", b"%d" % number)
    slices = world.subscriber._slices
    slices.now = iter(range(1000)).__next__  # each look at the time takes a second
    world.resumed[0]()
    published(world, "other", b"50")
    assert 0 < len(world.heard) < 50
    world.clock.pump([1000.0] * 60)
    assert [event.body for event in world.heard] == [b"%d" % number for number in range(51)]
    assert slices.pauses > 1


def test_waiting_for_what_is_listened_to(world: World) -> None:
    assert world.subscriber.listening() is None
    world.subscriber.listen("a", False)
    first = world.subscriber.listening()
    world.subscriber.listen("b", False)
    second = world.subscriber.listening()
    assert first is not None
    assert second is not None
    assert not first.called
    world.answer()
    assert first.called
    assert second.called
    assert world.subscriber.listening() is None


def test_waiting_has_an_end_when_redis_is_away(world: World) -> None:
    world.cut()
    world.listen("a")
    waiting = world.subscriber.listening()
    assert waiting is not None
    world.clock.advance(SUBSCRIBE_TIMEOUT)
    assert waiting.called
    world.connect()
    assert world.subscriber.listening() is None


def test_what_is_appended_after_waiting_has_ended_is_heard_though_the_mark_comes_later(world: World) -> None:
    world.heartbeat()
    world.cut()
    world.source.slow, world.source.late = [], True
    world.listen("t")
    waiting = world.subscriber.listening()
    assert waiting is not None
    world.clock.advance(SUBSCRIBE_TIMEOUT)
    assert waiting.called
    world.post(announce=False)
    # Asked once more by the store, when it has connected again.
    world.source.release()
    world.connect()
    assert world.ids == [1]


def test_a_silent_connection_is_dropped(world: World) -> None:
    world.subscriber.heartbeat()
    world.clock.advance(SILENCE_TIMEOUT + 0.1)
    world.subscriber.heartbeat()
    world.clock.advance(0)
    assert world.connection.dropped == ["it does not answer"]


def test_a_source_that_hangs_says_nothing_of_the_connection(world: World) -> None:
    world.source.slow = []
    for _ in range(10):
        world.clock.advance(SILENCE_TIMEOUT / 2)
        world.heartbeat()
    assert world.connection.dropped == []
    assert len(world.source.slow) == 1  # nor is it asked again and again


@pytest.mark.parametrize("message", [[b"pong", b""], [b"message", b"p0/node/me", b"for me"]])
def test_a_process_that_has_stood_still_reads_before_it_judges(world: World, message: list[bytes]) -> None:
    world.subscriber.heartbeat()
    world.clock.advance(SILENCE_TIMEOUT * 3)
    world.subscriber.heartbeat()
    world.subscriber.on_message(message)  # what has arrived meanwhile
    world.clock.advance(0)
    assert world.connection.dropped == []


def test_an_error_of_redis_drops_the_connection(world: World) -> None:
    world.subscriber.on_message(ValueError("LOADING"))
    assert world.connection.dropped == ["LOADING"]


def test_stopping_leaves_no_timer(world: World) -> None:
    world.listen("t")
    world.cut()
    world.post(announce=False)
    world.source.away = True
    world.connect()
    world.subscriber.stop()
    assert world.clock.getDelayedCalls() == []


@pytest.mark.unmeasured
def test_many_join_at_little_cost(world: World) -> None:
    for number in range(3000):
        world.subscriber.listen(f"room {number}", False)
    world.answer()
    assert not world.subscriber._recovery.behind
    for number in range(3000):
        world.subscriber.forget(f"room {number}", False)
    world.clock.pump([UNSUBSCRIBE_DELAY, 1.0])
    assert len(world.subscriber) == 0


def test_a_store_that_fails_in_the_last_iteration_leaves_no_failure_behind() -> None:
    """A node that is stopped then never asks what became of the question."""
    world = World()
    world.connect()
    world.source.away = True
    world.subscriber.listen("news", False)
    calls: Any = world.clock.getDelayedCalls()
    assert [call.args[0].result for call in calls if call.args and isinstance(call.args[0], Deferred)] == [None]
