"""When memory is given back."""

from __future__ import annotations

import gc
import sys

import msgspec
import pytest
from twisted.internet.task import Clock

from broker.app import trimmer
from broker.app.trimmer import MemoryTrimmer, resident_bytes
from broker.arenas import arenas
from broker.patterns import check_text

MIB = 1 << 20


class Process:
    """A trimmer of a process that the test says the size of."""

    def __init__(self, monkeypatch):
        self.resident, self.moved, self.trims = 50 * MIB, 0, 0
        self.frees, self.blocks = 0, 100_000
        monkeypatch.setattr(trimmer, "resident_bytes", lambda: self.resident)
        monkeypatch.setattr(sys, "getallocatedblocks", lambda: self.blocks)
        monkeypatch.setattr(trimmer, "thread_time", lambda: 0.0)  # else a slow collection lets looks be left out
        self.clock = Clock()
        self.trimmer = MemoryTrimmer(lambda: self.moved)
        self.trimmer.clock = self.clock
        self.trimmer.startService()
        self.trimmer._trim = self.trim

    def trim(self, pad):
        self.trims += 1
        self.resident -= self.frees
        self.frees = 0

    def look(self, resident=0, moved=0):
        self.resident += resident
        self.moved += moved
        self.clock.advance(MemoryTrimmer.INTERVAL)
        return self.trims


@pytest.fixture
def process(monkeypatch):
    process = Process(monkeypatch)
    yield process
    process.trimmer.stopService()
    assert process.clock.getDelayedCalls() == []


@pytest.fixture
def collected(monkeypatch):
    """Which generations were collected."""
    collected = []
    monkeypatch.setattr(gc, "collect", lambda generation=2: collected.append(generation))
    return collected


def test_nothing_is_done_while_nothing_happens(process):
    assert [process.look() for _ in range(10)] == [0] * 10


def test_a_process_that_has_grown_is_trimmed_until_that_gains_nothing(process):
    process.frees = 10 * MIB
    assert process.look(resident=12 * MIB) == 1
    assert [process.look() for _ in range(5)] == [2] * 5


def test_it_is_trimmed_once_it_is_quiet_after_much_that_came_and_went_and_once_more(process):
    assert [process.look(moved=3 * MIB) for _ in range(3)] == [0, 0, 0]
    assert [process.look() for _ in range(5)] == [1, 2, 2, 2, 2]


def test_the_last_time_waits_until_nothing_comes_and_goes_and_is_thorough(process, collected):
    process.look(resident=5 * MIB, moved=2 * MIB)
    for _ in range(3):
        process.blocks += MemoryTrimmer.STILL
        assert process.look(moved=1000) == 1
    assert [process.look(moved=1000) for _ in range(3)] == [2, 2, 2]
    assert collected == [1, 2]


def test_once_nothing_comes_and_goes_any_more_it_is_trimmed_whatever_came_before(process, collected):
    for change in (1, -1):
        process.blocks += change * MemoryTrimmer.STILL
        before = process.look()
        assert [process.look() for _ in range(3)] == [before + 1] * 3
    assert collected == [2, 2]


def test_what_looks_at_attributes_have_left_behind_is_forgotten_in_the_end(process, monkeypatch):
    forgotten = []
    monkeypatch.setattr(trimmer, "_forget_attributes", lambda: forgotten.append(process.trims))
    process.look(resident=5 * MIB, moved=2 * MIB)
    process.look()
    assert forgotten == [1]


def test_a_quiet_process_is_trimmed_though_it_has_grown_by_little(process):
    assert [process.look(resident=2 * MIB, moved=2 * MIB), process.look()] == [0, 1]


def test_it_is_trimmed_when_those_have_gone_who_had_many_objects(process, collected):
    process.blocks += 50_000
    assert process.look(resident=5 * MIB, moved=2 * MIB) == 1
    assert process.look(moved=2 * MIB) == 1
    process.blocks -= 50_000
    assert [process.look(moved=2 * MIB) for _ in range(3)] == [2, 2, 2]
    assert collected == [2]  # not in the burst itself


def test_in_a_burst_no_garbage_is_looked_for(process, collected):
    process.blocks += MemoryTrimmer.MAX_BLOCKS
    assert [process.look(resident=5 * MIB, moved=2 * MIB) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert collected == []


def test_a_pile_is_looked_at_when_twice_as_much_lasts_as_the_last_time_has_left(process, collected):
    def looks(number):
        for _ in range(number):
            process.look(resident=5 * MIB, moved=2 * MIB)

    pile = MemoryTrimmer.MAX_BLOCKS + 1
    looks(MemoryTrimmer.LASTING)  # of the start
    collected.clear()
    process.blocks += pile
    looks(MemoryTrimmer.LASTING - 1)
    assert collected == []
    looks(10)
    assert collected == [2]  # nothing of it was garbage
    process.blocks += pile
    looks(MemoryTrimmer.LASTING + 10)
    assert collected == [2]
    process.blocks += 1
    looks(MemoryTrimmer.LASTING + 10)
    assert collected == [2, 2]


def test_what_lasts_is_known_after_a_while(process, monkeypatch):
    looks = []
    monkeypatch.setattr(arenas, "look", looks.append)
    process.blocks += 500
    for _ in range(MemoryTrimmer.LASTING):
        process.blocks += 1
        process.look()
    assert looks == [0] * (MemoryTrimmer.LASTING - 1) + [501]


def test_results_that_were_remembered_are_forgotten(process):
    name = "".join("a name that nobody else checks")
    assert check_text(name) is name
    process.look(resident=5 * MIB)
    assert check_text(str(name.encode(), "utf-8")) is not name


def test_what_takes_long_is_done_seldom(process, monkeypatch):
    times = iter([0.0, 0.01, 1.0, 1.0])
    monkeypatch.setattr(trimmer, "thread_time", lambda: next(times))
    assert process.look(resident=5 * MIB, moved=2 * MIB) == 1
    assert [process.look(resident=5 * MIB, moved=2 * MIB) for _ in range(5)] == [1, 1, 1, 1, 2]


def test_what_takes_long_is_done_less_seldom_while_it_is_quiet(process, monkeypatch):
    times = iter([0.0, 0.01, 1.0, 1.0])
    monkeypatch.setattr(trimmer, "thread_time", lambda: next(times))
    assert process.look(resident=5 * MIB, moved=2 * MIB) == 1
    process.blocks += 2 * MemoryTrimmer.STILL  # not settled
    assert [process.look(resident=5 * MIB) for _ in range(2)] == [1, 2]


def test_the_size_of_this_process_is_known():
    assert 10 * MIB < resident_bytes() < 100_000 * MIB


def test_the_names_of_a_large_text_are_not_kept():
    decode = msgspec.json.Decoder(dict[str, int]).decode
    decode(b"{%s}" % b",".join(b'"m%d":0' % number for number in range(2000)))
    before = sys.getallocatedblocks()
    trimmer._forget_names()
    assert before - sys.getallocatedblocks() > 300
