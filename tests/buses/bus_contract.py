"""The contracts of ``IBus`` and ``ISharedBus``, sentence by sentence, for every bus.

A module of tests inherits :class:`BusContract` and says in the fixture ``bus`` how to make one; for a bus between
nodes it inherits :class:`SharedBusContract`, too, and says how to make several.
"""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import pytest_twisted
from zope.interface.verify import verifyObject

from broker.errors import NotDone, Taken
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
        given.author, given.exclude = "me \ud800", ("ann", "s1")
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
            "exclude",
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


@attrs.define(eq=False)
class Told:
    """What the bus of one node has told it."""

    bus: Any
    messages: list[tuple[str, bytes]] = attrs.field(factory=list)
    departed: list[str] = attrs.field(factory=list)
    lapsed: list[int] = attrs.field(factory=list)
    leased: list[int] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        bus = self.bus
        bus.received = lambda *message: self.messages.append(message)
        bus.departed = self.departed.append
        bus.lapsed, bus.leased = lambda: self.lapsed.append(bus.lease), lambda: self.leased.append(bus.lease)


class SharedBusContract:
    """What holds for every bus between nodes."""

    @pytest.fixture
    async def pair(self) -> tuple[Told, Told]:
        """Return two nodes with leases, each of which knows of the other's."""
        raise AssertionError("the module of tests says how")

    async def lapse(self, node: Told, other: Told) -> None:
        """Let the lease of *node* end as time would end it, for both."""
        raise AssertionError("the module of tests says how")

    async def renew(self, node: Told) -> None:
        """Let *node*, which is silent since its lease has ended, renew it."""
        raise AssertionError("the module of tests says how")

    @pytest_twisted.ensureDeferred
    async def test_each_node_knows_the_numbers_of_the_leases(self, pair: tuple[Told, Told]) -> None:
        one, two = pair
        for node, other in (pair, pair[::-1]):
            assert node.bus.lease == node.bus.lease_of(node.bus.address) == other.bus.lease_of(node.bus.address) > 0
            assert other.bus.lives(node.bus.address)
        assert one.bus.lease != two.bus.lease
        assert not one.bus.lease_of("nobody")
        assert not one.bus.lives("nobody")

    @pytest_twisted.ensureDeferred
    async def test_a_node_may_live_that_has_a_lease_of_which_nobody_here_has_heard(
        self, pair: tuple[Told, Told]
    ) -> None:
        one, two = pair
        one.bus._lease._others.clear()
        assert not one.bus.lives(two.bus.address)
        assert await one.bus.may_live(two.bus.address)
        assert not await one.bus.may_live("nobody")
        await self.lapse(two, one)
        assert not await one.bus.may_live(two.bus.address)

    @pytest_twisted.ensureDeferred
    async def test_a_name_that_is_not_shared_has_one_holder(self, pair: tuple[Told, Told]) -> None:
        one, two = pair
        await one.bus.claim("name")
        for shared in (False, True):
            with pytest.raises(Taken):
                await two.bus.claim("name", shared=shared)
        assert await two.bus.holders(["other", "name"]) == ("name", [one.bus.address])
        assert await one.bus.release("name")
        await two.bus.claim("name", shared=True)
        await one.bus.claim("name", shared=True)
        assert await one.bus.holders(["name"]) == ("name", [two.bus.address, one.bus.address])

    @pytest_twisted.ensureDeferred
    async def test_many_names_are_claimed_at_once(self, pair: tuple[Told, Told]) -> None:
        one, two = pair
        names = {f"name{number}": bool(number % 2) for number in range(1000)}
        await two.bus.claim("name10")
        await two.bus.claim("name11", shared=True)
        assert await one.bus.claim_all(names) == {"name10": two.bus.address}
        assert await two.bus.claim_all(dict(list(names.items())[:100])) == {
            name: one.bus.address for name, shared in list(names.items())[:100] if not shared and name != "name10"
        }
        assert await one.bus.claim_all(names) == {"name10": two.bus.address}
        assert await one.bus.release("name10", "name11", "name12")
        assert await one.bus.holders(["name12", "name11"]) == ("name11", [two.bus.address])
        assert await one.bus.holders(["name10", "name13"]) == ("name10", [two.bus.address])

    @pytest_twisted.ensureDeferred
    async def test_a_lease_is_unbroken_since_the_first_after_a_time_without_one(self, pair: tuple[Told, Told]) -> None:
        one, two = pair
        assert one.bus.unbroken_since == one.bus.lease
        assert one.bus.lease_seconds == two.bus.lease_seconds > 0
        await self.lapse(one, two)
        await self.renew(one)
        assert one.bus.unbroken_since == one.bus.lease

    @pytest_twisted.ensureDeferred
    async def test_a_message_goes_to_a_node_that_has_a_lease(self, pair: tuple[Told, Told]) -> None:
        one, two = pair
        assert await one.bus.send(two.bus.address, b"\x00\xff hello")
        await eventually(lambda: two.messages)
        assert two.messages == [(one.bus.address, b"\x00\xff hello")]
        assert not await one.bus.send("nobody", b"hello")
        await self.lapse(two, one)
        assert not await one.bus.send(two.bus.address, b"late")

    @pytest_twisted.ensureDeferred
    async def test_a_node_whose_lease_has_ended_does_nothing_under_it(self, pair: tuple[Told, Told]) -> None:
        one, two = pair
        await self.lapse(one, two)
        assert one.lapsed == [0]
        assert one.bus.lease == one.bus.lease_of(one.bus.address) == 0
        for act in (
            lambda: one.bus.claim("name"),
            lambda: one.bus.claim_all({"name": True}),
            lambda: one.bus.holders(["name"]),
        ):
            with pytest.raises(NotDone):
                await act()
        assert await one.bus.release("name")
        assert not await one.bus.send(two.bus.address, b"late")

    @pytest_twisted.ensureDeferred
    async def test_the_names_of_an_ended_lease_are_free(self, pair: tuple[Told, Told]) -> None:
        one, two = pair
        await one.bus.claim("name")
        await one.bus.claim("shared", shared=True)
        await one.bus.claim("kept")
        await self.lapse(one, two)
        await two.bus.claim("name")
        await two.bus.claim("shared")
        await self.renew(one)
        assert await one.bus.claim_all({"name": False, "shared": True, "kept": False}) == {
            "name": two.bus.address,
            "shared": two.bus.address,
        }
        assert await two.bus.holders(["kept"]) == ("kept", [one.bus.address])

    @pytest_twisted.ensureDeferred
    async def test_the_next_lease_has_a_higher_number_and_the_one_before_departs(self, pair: tuple[Told, Told]) -> None:
        one, two = pair
        before = one.bus.lease
        await self.lapse(one, two)
        await self.renew(one)
        assert one.bus.lease > before
        assert one.leased == [one.bus.lease]
        await eventually(lambda: two.bus.lease_of(one.bus.address) == one.bus.lease)
        assert two.departed == [one.bus.address]
        assert await two.bus.send(one.bus.address, b"again")
