"""The contract of ``IBus``, sentence by sentence, for every bus.

A module of tests inherits :class:`BusContract` and says in the fixture ``bus`` how to make one.
"""

from __future__ import annotations

import pytest
import pytest_twisted
from zope.interface.verify import verifyObject

from broker.interfaces import IBus
from broker.messages import Event
from tests.support.eventually import eventually

BODIES = [None, b"", b"1", b'"\xc3\xa4"', bytes(range(256)) * 1000]


def live(topic: str, body: bytes | None = b"1") -> Event:
    return Event(topic, "kind", body, "me", 1.5, origin="session", dialect="native", original=b"frame")


class BusContract:
    """What holds for every bus."""

    @pytest.fixture
    def bus(self) -> IBus:
        """Return a started bus that appends what it delivers to ``heard``."""
        raise AssertionError("the module of tests says how")

    @pytest.fixture
    def heard(self) -> list[Event]:
        return []

    async def listen(self, bus: IBus, *topics: str) -> None:
        """Listen and wait until that has taken effect."""
        for topic in topics:
            bus.listen(topic)

    def test_it_provides_the_interface(self, bus: IBus) -> None:
        verifyObject(IBus, bus)
        assert bus.node
        assert bus.ready == ""

    @pytest_twisted.ensureDeferred
    @pytest.mark.parametrize("body", BODIES)
    async def test_an_event_comes_as_it_was_published(self, bus: IBus, heard: list[Event], body: bytes | None) -> None:
        await self.listen(bus, "topic")
        given = live("topic", body)
        given.author = "me \ud800"
        await_ = bus.publish(given)
        if await_ is not None:
            await await_
        await eventually(lambda: heard)
        (found,) = heard
        for name in (
            "topic",
            "name",
            "body",
            "source",
            "time",
            "id",
            "epoch",
            "origin",
            "dialect",
            "original",
            "author",
        ):
            assert getattr(found, name) == getattr(given, name)

    @pytest_twisted.ensureDeferred
    async def test_events_of_one_topic_come_in_order(self, bus: IBus, heard: list[Event]) -> None:
        await self.listen(bus, "topic")
        for number in range(1000):
            bus.publish(live("topic", b"%d" % number))
        await eventually(lambda: len(heard) >= 1000)
        assert [event.body for event in heard] == [b"%d" % number for number in range(1000)]

    @pytest_twisted.ensureDeferred
    @pytest.mark.parametrize("topic", ["a.b", "ä", "with blank", "a[b]", "back\\slash", "ques?tion", "kv/x"])
    async def test_a_topic_may_have_any_name(self, bus: IBus, heard: list[Event], topic: str) -> None:
        await self.listen(bus, topic)
        bus.publish(live(topic))
        await eventually(lambda: heard)
        assert [event.topic for event in heard] == [topic]

    @pytest_twisted.ensureDeferred
    async def test_patterns_bring_each_event_once(self, bus: IBus, heard: list[Event]) -> None:
        await self.listen(bus, "a.*", "a.>", "a.b", ">")
        for body in (b"1", b"2"):
            bus.publish(live("a.b", body))
        bus.publish(live("a.b", b"2"))
        await eventually(lambda: len(heard) >= 3)
        assert [event.body for event in heard] == [b"1", b"2", b"2"]

    @pytest_twisted.ensureDeferred
    async def test_the_beginning_of_topics_can_be_listened_to(self, bus: IBus, heard: list[Event]) -> None:
        bus.listen("kv/", prefix=True)
        await self.listen(bus, "end")
        bus.publish(live("kv/a.b"))
        bus.publish(live("end"))
        await eventually(lambda: len(heard) >= 2)
        assert [event.topic for event in heard] == ["kv/a.b", "end"]
        bus.forget("kv/", prefix=True)

    @pytest_twisted.ensureDeferred
    async def test_what_two_listen_to_is_heard_until_both_forget_it(self, bus: IBus, heard: list[Event]) -> None:
        await self.listen(bus, "topic", "topic")
        bus.forget("topic")
        bus.publish(live("topic"))
        await eventually(lambda: heard)
        bus.forget("topic")

    @pytest_twisted.ensureDeferred
    async def test_a_name_can_be_claimed_again_and_released(self, bus: IBus) -> None:
        await bus.claim("name")
        await bus.claim("name")
        bus.release("name")
        bus.release("name")
        await bus.claim("name", shared=True)
