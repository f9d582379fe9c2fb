"""Indices: kept up to date bit by bit, one answer whatever happens in between."""

from __future__ import annotations

import gc

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from broker.config.options import Retention
from broker.core import indices
from broker.core.indices import DEFINITION, POSITION, ROWS, Indices, rows_log
from broker.core.slices import SLICE, slices_of
from broker.errors import NotFound, Unauthenticated, Unavailable
from broker.messages import Event
from broker.patterns import LOG_PREFIX
from broker.stores import open_store
from broker.testing import make_broker, value_of
from tests.support.logs import logging


class Shelf:
    """Indices on a memory store, whose reads can be counted and held."""

    def __init__(self, **options):
        self.clock = Clock()
        self.store = open_store("memory:", clock=self.clock)
        self.store.startService()
        self.indices = Indices(self.store, self.clock, **options)
        self.looked_at = []

    def post(self, *names, topic="t"):
        for name in names:
            value_of(self.store.append(LOG_PREFIX + topic, Event(topic, name, None)))

    def create(self, id="i", topic="t", field="name"):
        return value_of(Deferred.fromCoroutine(self.indices.create(id, topic, field)))

    def extract(self, event, field):
        assert field == "name"
        self.looked_at.append(event.id)
        return event.name

    def start(self, value, id="i"):
        return Deferred.fromCoroutine(self.indices.read(id, value, self.extract))

    def ids(self, value, id="i"):
        return [event.id for event in value_of(self.start(value, id)).events]


@pytest.fixture
def shelf():
    shelf = Shelf()
    shelf.create()
    return shelf


def test_an_index_that_exists_stays_as_it_is(shelf):
    assert shelf.create("j") is True
    assert shelf.create("j", "other", "field") is False
    assert value_of(Deferred.fromCoroutine(shelf.indices.definition("j"))) == ("t", "name")


def test_an_unknown_index_is_not_found(shelf):
    with pytest.raises(NotFound):
        shelf.ids("a", "unknown")


def test_rows_come_newest_first(shelf):
    shelf.post("a", "b", "a", "a", "b")
    assert shelf.ids("a") == [4, 3, 1]
    assert shelf.ids("b") == [5, 2]
    assert shelf.ids("c") == []


def test_each_event_is_looked_at_once(shelf):
    shelf.post("a", "b")
    shelf.ids("a")
    shelf.post("a")
    assert shelf.ids("a") == [3, 1]
    assert shelf.looked_at == [1, 2, 3]


def test_what_has_no_text_is_passed_over(shelf):
    shelf.post("", "a", "")
    assert shelf.ids("a") == [2]
    assert shelf.ids("") == []


def test_a_long_channel_is_worked_off_in_batches(shelf, monkeypatch):
    monkeypatch.setattr(indices, "EVENTS_PER_READ", 3)
    shelf.post(*"abcabcabca")
    assert shelf.ids("a") == [10, 7, 4, 1]
    assert value_of(shelf.store.get(POSITION, "i")).value == b"10"


@pytest.mark.unmeasured
def test_a_hundred_thousand_events_come_to_an_end(shelf):
    for _ in range(100_000):
        shelf.store.append(LOG_PREFIX + "t", Event("t", "", None))
    shelf.post("a")
    assert shelf.ids("a") == [100_001]


def test_two_readers_at_once_index_each_event_once(shelf, monkeypatch):
    shelf.post("a", "a")
    held = Deferred()
    read = shelf.store.read

    def slow(*words):
        monkeypatch.setattr(shelf.store, "read", read)
        return held.addCallback(lambda _: read(*words))

    monkeypatch.setattr(shelf.store, "read", slow)
    first, second = shelf.start("a"), shelf.start("a")
    assert not first.called
    held.callback(None)
    assert [len(value_of(reader).events) for reader in (first, second)] == [2, 2]
    assert shelf.looked_at == [1, 2]
    assert shelf.indices._semaphores == {}


def test_a_failure_frees_the_index(shelf, monkeypatch):
    shelf.post("a")
    monkeypatch.setattr(shelf.store, "append", lambda *args: (_ for _ in ()).throw(Unavailable("store")))
    with pytest.raises(Unavailable):
        shelf.ids("a")
    monkeypatch.undo()
    assert shelf.ids("a") == [1]
    assert shelf.indices._semaphores == {}


def test_rows_that_fail_together_are_one_failure(shelf, monkeypatch):
    shelf.post("a", "b", "c")
    monkeypatch.setattr(shelf.store, "append", lambda *args: fail(Unavailable("store")))
    with logging() as events:
        with pytest.raises(Unavailable):
            shelf.ids("a")
        gc.collect()
    assert events == []


def test_a_read_is_cut_where_it_grows_too_long():
    shelf = Shelf(max_bytes=100)
    shelf.create()
    for size in (60, 50, 40, 200):
        value_of(shelf.store.append(LOG_PREFIX + "t", Event("t", "a", b"x" * size)))
    assert shelf.ids("a") == [4]
    value_of(shelf.store.append(LOG_PREFIX + "t", Event("t", "b", None)))
    for size in (50, 40):
        value_of(shelf.store.append(LOG_PREFIX + "t", Event("t", "b", b"x" * size)))
    assert shelf.ids("b") == [7, 6, 5]


def test_a_long_stretch_of_rows_is_read_in_steps(shelf):
    shelf.post(*"a" * 100, *"ba" * 2)
    rows = [104, 102, *range(100, 0, -1)]
    assert shelf.ids("a") == rows
    asked = []
    read = shelf.store.read
    shelf.store.read = lambda log, *words: asked.append(words[:2]) or read(log, *words)
    assert shelf.ids("a") == rows
    assert asked[1:] == [(103, 1), (101, 1), (68, 32), (36, 32), (4, 32), (0, 4)]


def test_a_crash_between_the_rows_and_the_position_repeats_nothing(shelf):
    shelf.post("a", "a")
    assert shelf.ids("a") == [2, 1]
    value_of(shelf.store.delete(POSITION, "i"))
    assert shelf.ids("a") == [2, 1]


def test_an_event_has_one_row_whatever_becomes_of_the_position(shelf):
    shelf.post("a", "b", "a")
    assert shelf.ids("a") == [3, 1]
    value_of(shelf.store.delete(POSITION, "i"))
    shelf.post("a")
    assert shelf.ids("a") == [4, 3, 1]
    assert value_of(shelf.store.head(rows_log("i", "a"))) == 3


def test_a_row_that_was_not_written_is_written_before_those_after_it(shelf, monkeypatch):
    append, refused = shelf.store.append, []

    def refuse_first(log, row, *words):
        if refused:
            return append(log, row, *words)
        refused.append(row.body)
        return fail(Unavailable("store"))

    shelf.post("a", "a", "a")
    monkeypatch.setattr(shelf.store, "append", refuse_first)
    with pytest.raises(Unavailable):
        shelf.ids("a")
    assert shelf.ids("a") == [3, 2, 1]
    rows = value_of(shelf.store.read(rows_log("i", "a"), 0, 9))
    assert [row.body for row in rows] == [b"1", b"2", b"3"]


def test_an_index_that_was_made_anew_has_the_rows_of_all_events_again(shelf):
    shelf.post("a", "a")
    other = Indices(shelf.store, shelf.clock)
    assert shelf.ids("a") == [2, 1]
    value_of(shelf.store.delete(DEFINITION, "i"))
    assert value_of(Deferred.fromCoroutine(other.create("i", "t", "name"))) is True
    assert shelf.ids("a") == [2, 1]


def test_rows_that_were_written_twice_are_read_past():
    shelf = Shelf(rows_limit=4)
    shelf.create()
    shelf.post(*"aaaaaa")
    for number in (1, 2, 3, 3, 4, 4, 4, 5, 6, 5, 6):
        value_of(shelf.store.append(rows_log("i", "a"), Event("t", "", b"%d" % number)))
    value_of(shelf.store.set(POSITION, "i", b"6"))
    assert shelf.ids("a") == [6, 5, 4, 3]


def test_events_that_retention_took_are_gone_from_the_rows(shelf):
    shelf.post("a", "a", "b", "a")
    assert shelf.ids("a") == [4, 2, 1]
    value_of(shelf.store.trim(LOG_PREFIX + "t", 2))
    assert shelf.ids("a") == [4]


def test_at_most_so_many_rows_are_read():
    shelf = Shelf(rows_limit=2)
    shelf.create()
    shelf.post("a", "a", "a")
    assert shelf.ids("a") == [3, 2]


def test_rows_of_different_pairs_are_in_different_logs():
    pairs = [("i", "a:b"), ("i:a", "b"), ("1:", "i"), ("1", ":i")]
    assert len({rows_log(*pair) for pair in pairs}) == len(pairs)


def test_retention_takes_old_rows_too():
    clock = Clock()
    clock.advance(1_000_000_000)
    broker = make_broker(clock, retention=Retention(seconds=100, count=0))
    peer = broker.attach("test", "")
    value_of(peer.post("t", "a", None))
    value_of(Deferred.fromCoroutine(peer.create_index("i", "t", "name")))
    read = Deferred.fromCoroutine(peer.read_index("i", "a", lambda event, field: event.name))
    assert [event.id for event in value_of(read).events] == [1]
    clock.advance(200)
    assert value_of(broker.store.read(rows_log("i", "a"), 0, 10)) == []
    assert rows_log("i", "a").startswith(ROWS)
    assert value_of(broker.store.get(DEFINITION, "i")) is not None


def test_who_was_not_admitted_learns_nothing_of_an_index():
    from broker.access.principals import Access

    broker = make_broker(Clock(), Access(mode="required", secrets=("s",)))
    peer = broker.attach("test", "")
    with pytest.raises(Unauthenticated):
        value_of(Deferred.fromCoroutine(peer.read_index("i", "a", lambda event, field: None)))


def test_an_index_is_brought_up_to_date_and_read_in_slices(shelf):
    clock = shelf.clock
    shelf.indices = Indices(shelf.store, clock=clock)
    extract = shelf.extract

    def slowly(event, field):
        clock.rightNow += SLICE
        return extract(event, field)

    shelf.extract = slowly
    shelf.post(*"abab")
    reading = shelf.start("a")
    assert shelf.looked_at == [1]
    clock.pump([0] * 5)
    assert shelf.looked_at == [1, 2, 3, 4]
    assert [event.id for event in value_of(reading).events] == [3, 1]
    assert slices_of(clock).pauses >= 3


def test_many_rows_are_read_a_part_at_a_time(shelf, monkeypatch):
    monkeypatch.setattr(indices, "ROWS_PER_READ", 2)
    shelf.post(*"aaabaaa")
    assert shelf.ids("a") == [7, 6, 5, 3, 2, 1]
    read, latest, clock = shelf.store.read, shelf.store.latest, shelf.clock
    numbers = []

    def slowly(operation):
        def run(log, *arguments):
            if log.startswith(ROWS):
                numbers.append(arguments[-1] if operation == latest else arguments[1])
                clock.rightNow += SLICE
            return operation(log, *arguments)

        return run

    monkeypatch.setattr(shelf.store, "latest", slowly(latest))
    monkeypatch.setattr(shelf.store, "read", slowly(read))
    pauses = slices_of(clock).pauses
    reading = shelf.start("a")
    assert numbers == [2]
    clock.pump([0] * 5)
    assert [event.id for event in value_of(reading).events] == [7, 6, 5, 3, 2, 1]
    assert numbers == [2, 2, 2, 2]  # the last of which finds nothing
    assert slices_of(clock).pauses >= pauses + 3
