"""Changes of keys that the bus has not brought: read after a break, in their order, each once; or it is said."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from broker.core import missed_changes
from broker.core.missed_changes import MARK, RETRY, MissedChanges
from broker.errors import Unavailable
from broker.messages import Event, revision_of


def change(revision, key="a", **more):
    return Event(f"kv/{key}", "set", b"", original=b"%016d-" % revision, **more)


class World:
    """A store, and a bus whose answers wait in ``answers`` when they are to."""

    def __init__(self):
        self.clock = Clock()
        self.kept, self.head, self.answers, self.failures = [], 0, None, []
        self.told, self.heard = 0, []
        self.missed = MissedChanges(
            cast(Any, self),
            cast(Any, self),
            "kv",
            self.clock,
            lambda topic: topic == "kv/stored",
            self.arrived,
            self.lost,
        )

    def revision(self, space):
        return succeed(self.head)

    def received_all(self):
        if self.failures:
            return fail(self.failures.pop())
        if self.answers is None:
            return succeed(None)
        self.answers.append(Deferred())
        return self.answers[-1]

    def key_changes(self, space, after, seconds):
        known = [each for each in self.kept if revision_of(each) > after]
        return succeed((self.head, known if len(known) == self.head - after else None))

    def lost(self):
        self.told += 1

    def arrived(self, event):
        if self.missed.is_next(event):
            self.heard.append(revision_of(event))

    def make(self, *revisions, key="a", arrive=True):
        for revision in revisions:
            self.kept.append(change(revision, key))
            self.head = revision
            if arrive:
                self.arrived(self.kept[-1])


@pytest.fixture
def world():
    world = World()
    world.make(1, 2)
    world.heard.clear()
    world.missed.begin()
    return world


def test_what_was_missed_comes_before_what_is_new(world):
    world.make(3)
    world.make(4, 5, arrive=False)
    world.answers = []
    world.missed.missed()
    world.make(6)
    assert world.heard == [3]
    world.answers.pop().callback(None)
    world.make(7)
    assert (world.heard, world.told, world.missed.is_idle) == ([3, 4, 5, 6, 7], 0, False)


def test_what_was_read_and_comes_by_the_bus_too_is_delivered_once(world):
    world.make(3, 4, arrive=False)
    world.missed.missed()
    world.arrived(world.kept[-1])
    assert world.heard == [3, 4]
    world.clock.advance(MARK)
    world.missed.beat()
    assert (world.missed._read, world.missed.is_idle) == (set(), True)


def test_how_far_all_changes_have_come_is_found_out_now_and_then(world):
    world.make(3, arrive=False)  # nobody here watches that key
    world.missed.beat()
    assert world.missed.known == 2
    world.clock.advance(MARK)
    world.missed.beat()
    assert world.missed.known == 3


def test_that_says_nothing_when_the_connection_is_lost_meanwhile(world):
    world.make(3, arrive=False)
    world.clock.advance(MARK)
    world.answers = []
    world.missed.beat()
    world.missed.missed()
    for answer in world.answers:
        answer.callback(None)
    assert world.heard == [3]


def test_a_second_break_meanwhile_leaves_no_hole(world):
    world.answers = []
    world.make(3, arrive=False)
    world.missed.missed()
    world.make(4)
    world.make(5, arrive=False)
    world.missed.missed()
    world.make(6)
    while world.answers:
        world.answers.pop(0).callback(None)
    assert (world.heard, world.told) == ([3, 4, 5, 6], 0)


def test_the_store_is_asked_again_when_it_is_away(world):
    world.make(3, arrive=False)
    world.failures = [Unavailable("redis")]
    world.missed.missed()
    world.make(4)
    world.clock.advance(RETRY)
    assert world.heard == [3, 4]


def test_who_watches_is_told_when_changes_are_not_kept_any_more(world):
    world.make(3, 4, arrive=False)
    del world.kept[2]
    world.missed.missed()
    world.make(5)
    assert (world.told, world.heard) == (1, [5])


def test_who_watches_is_told_when_too_many_wait(world, monkeypatch):
    monkeypatch.setattr(missed_changes, "MAX_WAITING", 1)
    world.answers = []
    world.missed.missed()
    world.make(3, 4, 5)
    del world.kept[-3:]
    world.answers.pop().callback(None)
    assert (world.told, world.heard) == (1, [3])


def test_who_watches_is_told_when_nobody_knows_how_far_changes_had_come(world):
    world.missed.forget()
    world.missed.missed()
    assert world.told == 1


def test_stored_changes_are_left_to_the_bus(world):
    world.make(3, key="stored", arrive=False)
    world.make(4, arrive=False)
    world.missed.missed()
    world.arrived(change(3, "stored", id=1))
    assert world.heard == [4, 3]


def test_no_timer_is_left(world):
    world.failures = [Unavailable("redis")]
    world.missed.missed()
    world.missed.stop()
    assert world.clock.getDelayedCalls() == []
