"""Whatever is lost and whenever: every operation ends, and every event comes once and in order."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.client.readers import Reader
from broker.client.states import State
from broker.client.streams import Stream
from tests.client.fake_driver import IDENTITY, Bench, End

few = st.integers(0, 5)


@attrs.define(eq=False)
class FakeBroker:
    """Stores what is published, once by its key, and answers; it forgets its subscribers with the connection."""

    stored: list[str] = attrs.field(factory=list)  # keys, in the order of their ids
    subscribed: bool = False
    replies: list[dict[str, Any]] = attrs.field(factory=list)

    def process(self, frame: dict[str, Any]) -> None:
        match frame.get("method"):
            case "broker.whoami":
                self._answer(frame, IDENTITY)
            case "broker.publish":
                key = frame["payload"][2]["key"]
                duplicate = key in self.stored
                if not duplicate:
                    self.store(key)
                answer = {"epoch": "e", "id": self.stored.index(key) + 1, "time": 1, "duplicate": duplicate}
                self._answer(frame, answer)
            case "broker.subscribe":
                origin = (frame["payload"] + [{}])[1]["from"]
                begin = {"start": 0, "new": len(self.stored)}[origin] if isinstance(origin, str) else origin["id"]
                self._answer(frame, {"subscribed": ["t"], "epoch": "e", "id": begin, "recovered": True})
                self.subscribed = True
                for id in range(begin + 1, len(self.stored) + 1):
                    self._send(id)
            case "broker.unsubscribe":
                self.subscribed = False
                self._answer(frame, {"subscribed": []})
            case "echo":
                self._answer(frame, frame["payload"][0])
            case "broker.cancel":
                self._answer(frame, {})

    def store(self, key: str) -> None:
        self.stored.append(key)
        if self.subscribed:
            self._send(len(self.stored))

    def _send(self, id: int) -> None:
        event = {"type": "event", "event": "t", "id": id, "epoch": "e", "payload": self.stored[id - 1], "dt": 1}
        self.replies.append({**event, "sender": "x", "name": "t"})

    def _answer(self, frame: dict[str, Any], payload: Any) -> None:
        self.replies.append({"type": "result", "id": frame["id"], "payload": payload, "sender": "broker", "dt": 1})


@attrs.define(eq=False)
class Reading:
    """What one of several readers of the topic has seen."""

    reader: Reader
    ready: End
    seen: list[str] = attrs.field(factory=list)

    @property
    def first(self) -> int:
        """How many events were there before those that it is to see."""
        return 0 if self.reader.origin == "start" or not self.ready.results else self.ready.results[0].id

    def read(self, count: int) -> None:
        for _ in range(min(count, len(self.reader.stream))):
            self.seen.append(self.reader.stream.pop().payload)


class Reconnects(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(max_unread=8, timeout=30.0)
        self.broker = FakeBroker()
        self.ends: list[End] = []
        self.keyed: dict[str, End] = {}
        self.readings: list[Reading] = []
        self.number = 0
        self.bench.core.start()
        self.join("start")

    @rule()
    def connect(self) -> None:
        while self.bench.state is State.WAITING:
            self.bench.advance(1.0)
        if self.bench.state is State.CONNECTING:
            self.bench.core.connected()

    @rule(processed=few)
    def lose(self, processed: int) -> None:
        """The broker has got some of what was sent, and what it answered is lost."""
        for frame in self.bench.take()[:processed]:
            self.broker.process(frame)
        self.broker.replies.clear()
        self.broker.subscribed = False
        self.bench.lose()

    @rule(count=few)
    def process(self, count: int) -> None:
        frames = self.bench.take()
        for frame in frames[:count]:
            self.broker.process(frame)
        self.bench.driver.sent[:0] = frames[count:]

    @rule(count=few)
    def deliver(self, count: int) -> None:
        replies, self.broker.replies = self.broker.replies[:count], self.broker.replies[count:]
        for reply in replies:
            self.bench.receive(**reply)

    @rule()
    def publish(self) -> None:
        self.number += 1
        end = End(self.bench.verbs.publish("t", 1, durable=True, key=f"k{self.number}"))
        self.ends.append(end)
        self.keyed[f"k{self.number}"] = end

    @rule(count=st.integers(1, 12))
    def others_publish(self, count: int) -> None:
        for _ in range(count):
            self.number += 1
            self.broker.store(f"o{self.number}")

    @rule(wait=st.booleans(), cancels=st.booleans())
    def call(self, wait: bool, cancels: bool) -> None:
        self.number += 1
        call = self.bench.verbs.call("echo", self.number, wait=wait)
        self.ends.append(End(call))
        if cancels:
            call.cancel()

    @precondition(lambda self: len(self.readings) < 4)
    @rule(origin=st.sampled_from(["start", "new", None]))
    def join(self, origin: Any) -> None:
        reader = Reader(self.bench.core, "t", Stream(8), origin)
        self.bench.core.subscribe(reader)
        self.readings.append(Reading(reader, End(reader.ready)))

    @precondition(lambda self: len(self.readings) > 1)
    @rule(which=few)
    def leave(self, which: int) -> None:
        self.readings.pop(which % len(self.readings)).reader.close()

    @rule(which=few, count=few)
    def read(self, which: int, count: int) -> None:
        self.readings[which % len(self.readings)].read(count)

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        if self.bench.state in (State.READY, State.WAITING):
            self.bench.advance(seconds)
            if self.bench.state is not State.READY:  # the broker was silent for too long
                self.bench.take()
                self.broker.replies.clear()
                self.broker.subscribed = False

    @invariant()
    def nothing_comes_twice_or_out_of_order(self) -> None:
        for reading in self.readings:
            assert reading.seen == self.broker.stored[reading.first :][: len(reading.seen)]

    @invariant()
    def each_operation_has_ended_once_at_most(self) -> None:
        assert all(len(end.results) + len(end.errors) <= 1 for end in self.ends)

    @invariant()
    def the_numbers_add_up(self) -> None:
        found = self.bench.core.statistics()
        ended = found.succeeded + found.failed + found.timed_out + found.cancelled
        assert (found.started, found.pending) == (ended + found.pending, sum(end.pending for end in self.ends))

    def teardown(self) -> None:
        """All ends well when the network does."""
        self.lose(0)
        self.connect()
        for _ in range(40 + len(self.broker.stored)):  # few events are read at a time
            self.process(1000)
            self.deliver(1000)
            for reading in self.readings:
                reading.read(1000)
        for reading in self.readings:
            assert reading.seen == self.broker.stored[reading.first :]
            assert [gap for gap in reading.reader.gaps if gap.why != "away"] == []
        assert not any(end.pending for end in self.ends)
        for key, end in self.keyed.items():
            assert self.broker.stored.count(key) <= 1
            assert not end.results or key in self.broker.stored
        self.bench.core.close()
        self.bench.core.disconnected(1000, "")
        assert len(self.bench.core.timers) == 0


TestReconnects = Reconnects.TestCase
