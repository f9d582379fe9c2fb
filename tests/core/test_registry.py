import sys
from collections import Counter

import pytest

from broker.core.registry import NAME_BYTES, Registry
from broker.errors import Taken


@pytest.fixture
def registry():
    return Registry("exists")


def test_a_name_has_one_holder(registry):
    registry.add("ann", "add")
    with pytest.raises(Taken) as refusal:
        registry.add("bob", "add")
    assert (refusal.value.what, refusal.value.name) == ("exists", "add")
    assert registry.get("add").next() == "ann"


def test_the_same_holder_may_ask_again(registry):
    registry.add("ann", "add")
    registry.add("ann", "add")
    assert registry.get("add").holders == ["ann"]


def test_a_shared_name_is_taken_in_turn(registry):
    for holder in ("ann", "bob", "cid"):
        registry.add(holder, "add", shared=True)
    place = registry.get("add")
    assert sorted(place.next() for _ in range(6)) == ["ann", "ann", "bob", "bob", "cid", "cid"]


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True)])
def test_sharing_takes_two_who_are_willing(registry, first, second):
    registry.add("ann", "add", shared=first)
    with pytest.raises(Taken):
        registry.add("bob", "add", shared=second)


def test_the_turns_are_in_the_order_of_registration(registry):
    for holder in ("ann", "bob", "cid"):
        registry.add(holder, "add", shared=True)
    for order in (["bob", "cid", "ann"], ["cid", "ann", "bob"], ["ann", "bob", "cid"]):
        registry.get("add").next()
        assert registry.in_turn("add") == order
    assert registry.in_turn("other") == []


def test_who_says_nothing_of_sharing_does_not_share(registry):
    registry.add("ann", "add", shared=True)
    for ask in (registry.check, registry.add):
        with pytest.raises(Taken):
            ask("bob", "add")


def test_a_turn_survives_that_a_holder_leaves(registry):
    for holder in ("ann", "bob", "cid"):
        registry.add(holder, "add", shared=True)
    place = registry.get("add")
    place.next()
    place.next()
    registry.remove("cid", "add")
    assert {place.next(), place.next()} == {"ann", "bob"}


def test_leaving_gives_everything_back(registry):
    registry.add("ann", "b")
    registry.add("ann", "a")
    registry.add("bob", "c")
    assert registry.leave("ann") == ["a", "b"]
    assert registry.names() == ["c"]
    assert registry.leave("ann") == []
    assert "a" not in registry
    assert len(registry) == 1


def test_removing_what_one_does_not_hold_is_nothing(registry):
    registry.add("ann", "a")
    assert not registry.remove("bob", "a")
    assert not registry.remove("ann", "b")
    assert registry.remove("ann", "a")
    assert registry.names_of("ann") == []


def test_the_names_of_one_holder_have_one_registration_and_each_counts():
    counted = Counter()
    registry = Registry("exists", lambda holder, change: counted.update({holder: change}))
    for name in ("add", "sub"):
        registry.add("ann", name)
        registry.add("ann", name)
    registry.add("ann", "shared", shared=True)
    assert registry["add"] is registry["sub"]
    assert registry["add"].holders == ["ann"]
    assert counted["ann"] == 3 * NAME_BYTES + len("addsubshared")
    assert registry.remove("ann", "add")
    assert registry["sub"].next() == "ann"
    registry.leave("ann")
    assert (dict(registry), counted["ann"]) == ({}, 0)


def test_a_registry_without_names_keeps_no_room_for_those_it_had():
    registry = Registry("exists")
    empty = sys.getsizeof(registry)
    for number in range(1000):
        registry.add("ann", f"m{number}")
    registry.leave("ann")
    assert sys.getsizeof(registry) <= empty
