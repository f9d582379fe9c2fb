"""A cache that forgets the oldest."""

from __future__ import annotations

import pytest

from broker.core.bounded import BoundedDict


@pytest.fixture
def cache():
    cache = BoundedDict(2)
    cache["a"], cache["b"] = 1, 2
    return cache


def test_one_more_than_its_size_evicts_the_oldest(cache):
    cache["c"] = 3
    assert list(cache.items()) == [("b", 2), ("c", 3)]


def test_a_new_value_for_a_known_key_evicts_nothing(cache):
    cache["a"] = 3
    assert list(cache.items()) == [("a", 3), ("b", 2)]


def test_a_value_that_is_replaced_leaves_the_order(cache):
    cache.replace("a", 3)
    assert list(cache.items()) == [("a", 3), ("b", 2)]


def test_one_that_was_used_again_stays(cache):
    cache.move_to_end("a")
    cache["c"] = 3
    assert list(cache) == ["a", "c"]


@pytest.mark.parametrize(
    "add",
    [
        lambda cache: cache.setdefault("c", 3),
        lambda cache: cache.update(c=3),
        lambda cache: cache.update({"c": 3}),
        lambda cache: cache.__ior__({"c": 3}),
    ],
)
def test_no_way_to_add_one_goes_beyond_its_size(cache, add):
    add(cache)
    assert list(cache) == ["b", "c"]


def test_what_was_there_twice_when_it_was_aged_is_forgotten(cache):
    cache.age()
    cache["c"] = 3  # evicts "a"
    assert list(cache) == ["b", "c"]
    cache.age()
    assert list(cache) == ["c"]


def test_what_is_kept_is_not_forgotten(cache):
    cache.age()
    cache.age(lambda key: key == "a")
    assert list(cache) == ["a"]
