"""Pages of a log: what is in them, and how much is read for them."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from broker.core.pages import STEP, first_id, read_last_page, read_page
from broker.messages import Event
from broker.stores import open_store
from broker.testing import value_of


class Shelf:
    """A log with bodies of the given sizes; notes how many events each reading has returned."""

    def __init__(self, *sizes: int) -> None:
        self.store = open_store("memory:", clock=Clock())
        self.store.startService()
        self.read_at_once = []
        for size in sizes:
            value_of(self.store.append("log", Event("t", "", b"x" * size)))

    def read(self, *words):
        return self.store.read(*words).addCallback(self._note)

    def latest(self, *words):
        return self.store.latest(*words).addCallback(self._note)

    def _note(self, events):
        self.read_at_once.append(len(events))
        return events

    def page(self, *words):
        return [event.id for event in value_of(Deferred.fromCoroutine(read_page(cast(Any, self), "log", *words)))]

    def last(self, *words):
        return [event.id for event in value_of(Deferred.fromCoroutine(read_last_page(cast(Any, self), "log", *words)))]


@pytest.mark.parametrize("limit", [1, 31, 32, 33, 64, 65, 99, 100, 101, 1000])
def test_pages_are_what_one_reading_would_be(limit):
    shelf = Shelf(*[0] * 100)
    assert shelf.page(0, limit) == list(range(1, 101))[:limit]
    assert shelf.page(40, limit) == list(range(41, 101))[:limit]
    assert shelf.last(limit) == list(range(1, 101))[-limit:]


def test_nothing_is_an_empty_page():
    assert (Shelf().page(0, 10), Shelf().last(10), Shelf(1).page(0, 0), Shelf(1).page(1, 10)) == ([], [], [], [])


def test_a_page_ends_where_it_grows_too_long():
    shelf = Shelf(40, 40, 40, 200, 10)
    assert [shelf.page(after, 10, 100) for after in (0, 2, 3, 4)] == [[1, 2], [3], [4], [5]]
    assert shelf.last(10, 100) == [5]
    assert Shelf(40, 200, 40, 40).last(10, 100) == [3, 4]
    assert Shelf(40, 200).last(10, 100) == [2]


def test_no_more_is_read_than_a_step_beyond_the_page():
    shelf = Shelf(*[100] * 500)
    assert len(shelf.page(0, 500, 1000)) == len(shelf.last(500, 1000)) == 10
    assert shelf.read_at_once == [STEP, STEP]


@pytest.mark.parametrize(
    ("size", "limit", "read"), [(10, 100, [10]), (100, STEP, [STEP]), (2 * STEP, 100, [STEP, STEP])]
)
def test_the_last_page_is_read_no_further_than_it_goes(size, limit, read):
    shelf = Shelf(*[0] * size)
    assert len(shelf.last(limit)) == min(size, limit)
    assert shelf.read_at_once == read


def test_what_retention_took_is_not_in_the_last_page():
    shelf = Shelf(*[0] * 100)
    value_of(shelf.store.trim("log", 60))
    assert shelf.last(90) == list(range(61, 101))


def test_pages_of_large_events_are_read_in_small_parts_and_are_whole():
    shelf = Shelf(*[700_000] * 6)
    assert shelf.page(0, 9) == [1, 2, 3, 4, 5, 6]
    assert shelf.last(5) == [2, 3, 4, 5, 6]
    assert shelf.last(5, 2_000_000) == [5, 6]
    assert max(shelf.read_at_once) == 2


def test_a_page_of_so_many_bytes_ends_with_the_event_that_fills_it():
    shelf = Shelf(40, 40, 40, 200, 10)
    assert [shelf.page(after, 10, 10_000, None, 100) for after in (0, 3, 4)] == [[1, 2, 3], [4], [5]]
    assert shelf.page(0, 2, 10_000, None, 100) == [1, 2]
    assert shelf.page(0, 10, 90, None, 100) == [1, 2]


def test_no_more_is_read_for_a_page_than_it_has():
    shelf = Shelf(*[10_000] * 100)
    assert len(shelf.page(0, 100, 1 << 23, None, 100_000)) == 10
    assert sum(shelf.read_at_once) == 10


def test_pages_of_so_many_bytes_are_the_whole_log():
    shelf, found = Shelf(*[number * 37 % 500 for number in range(300)]), []
    while page := shelf.page(len(found), 1000, 1 << 23, None, 700):
        found += page
    assert found == list(range(1, 301))


class Pauses:
    """Slices that are over at once; counts the pauses."""

    def __init__(self) -> None:
        self.count = 0

    def deadline(self) -> float:
        return 0.0

    async def checked(self, end: float) -> float:
        self.count += 1
        return end


def log_of(count, alive):
    """Return a store with *count* events, which have expired but for those with the ids *alive*."""
    clock = Clock()
    store = open_store("memory:", clock=clock)
    store.startService()
    for id in range(1, count + 1):
        value_of(store.append("log", Event("t", "", b"1", expires=200.0 if id in alive else 50.0)))
    clock.advance(100)
    return store


@pytest.mark.parametrize("alive", [(), (1,), (5, 40, 1500, 1999), (2000,), tuple(range(1, 2001, 3))])
def test_what_has_expired_is_left_out(alive):
    store = log_of(2000, set(alive))
    for limit in (1, 3, 100, 1000):
        page, last = value_of(read_page(store, "log", 0, limit)), value_of(read_last_page(store, "log", limit))
        assert [event.id for event in page] == list(alive[:limit])
        assert [event.id for event in last] == list(alive[-limit:])
    for after in (4, 5, 1998):
        page = value_of(read_page(store, "log", after, 2))
        assert [event.id for event in page] == [id for id in alive if id > after][:2]


def test_what_has_expired_is_passed_over_in_slices():
    store, pauses = log_of(2000, {2000}), Pauses()
    assert [event.id for event in value_of(read_page(store, "log", 0, 9, slices=cast(Any, pauses)))] == [2000]
    assert 3 < pauses.count < 20
    pauses.count = 0
    assert [event.id for event in value_of(read_last_page(store, "log", 9, slices=cast(Any, pauses)))] == [2000]
    assert 3 < pauses.count < 20


def test_the_oldest_event_is_found_that_is_appended_while_it_is_looked_for():
    store = open_store("memory:", clock=Clock())
    store.startService()

    class Busy:
        """Has the first event right after it was asked for anything."""

        def __init__(self):
            self.asked = 0

        def __getattr__(self, name):
            answer = getattr(store, name)

            def asked(*arguments):
                found = value_of(answer(*arguments))
                self.asked += 1
                if self.asked == 1:
                    value_of(store.append("log", Event("topic", "kind", b"1")))
                return succeed(found)

            return asked

    assert value_of(Deferred.fromCoroutine(first_id(cast(Any, Busy()), "log"))) == 1
