"""The changes that are kept for those who were away."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from twisted.internet.task import Clock

from broker.core.change_batches import BATCH_BYTES
from broker.core.changes import IDLE_BYTES, MAX_BYTES, MAX_CHANGES, MAX_SECONDS, RecentChanges
from broker.messages import Event, KeyAnnouncement, previous_value, revision_of


def change(revision: int, value: bytes = b"v", before: bytes | None = None) -> Event:
    announcement = KeyAnnouncement("kv/k", "set", 1.0, key="k")
    announcement.made(revision, before)
    return announcement.event_of(value)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recent(clock: Clock) -> RecentChanges:
    found = RecentChanges(clock)
    found.keep()
    return found


def revisions(changes: Iterable[Event] | None) -> list[int] | None:
    return None if changes is None else list(map(revision_of, changes))


def test_the_changes_after_a_revision_are_those_that_follow_it(recent: RecentChanges) -> None:
    for revision in (5, 6, 7):
        recent.add(change(revision))
    assert [revisions(recent.after(revision, 7)) for revision in (4, 5, 6, 7)] == [[5, 6, 7], [6, 7], [7], []]
    assert recent.after(3, 7) is None


def test_who_has_the_newest_needs_none_that_is_kept(recent: RecentChanges) -> None:
    assert revisions(recent.after(0, 0)) == revisions(recent.after(9, 9)) == []
    assert recent.after(8, 9) is None


def test_changes_are_kept_for_five_minutes(recent: RecentChanges, clock: Clock) -> None:
    recent.add(change(1))
    clock.advance(MAX_SECONDS)
    recent.add(change(2))
    assert revisions(recent.after(0, 2)) == [1, 2]
    clock.advance(1)
    assert recent.after(0, 2) is None
    assert revisions(recent.after(1, 2)) == [2]
    clock.advance(MAX_SECONDS)
    recent.drop()
    assert len(recent) == 0
    assert revisions(recent.after(2, 2)) == []


def test_what_is_dropped_or_added_while_changes_are_read_is_no_matter(recent: RecentChanges, clock: Clock) -> None:
    for revision in range(1, 2 * BATCH_BYTES // 100):
        recent.add(change(revision))
    found = recent.after(2, 1000)
    assert found is not None
    assert revision_of(next(found)) == 3
    clock.advance(MAX_SECONDS + 1)
    recent.add(change(2 * BATCH_BYTES // 100))
    recent.drop()
    assert len(recent) == 1
    assert revisions(found) == list(range(4, 2 * BATCH_BYTES // 100))


def test_long_changes_are_far_fewer_where_nobody_watches(clock: Clock) -> None:
    recent = RecentChanges(clock)
    for revision in range(1, 40):
        recent.add(change(revision, b"x" * (IDLE_BYTES // 4)))
    assert len(recent) == 3
    recent.keep()
    for revision in range(40, 50):
        recent.add(change(revision, b"x" * (IDLE_BYTES // 4)))
    assert len(recent) == 13
    clock.advance(MAX_SECONDS - 1)
    assert revisions(recent.after(40, 49)) == list(range(41, 50))
    clock.advance(2)
    recent.add(change(50))
    assert len(recent) == 1


def test_as_many_short_changes_are_kept_where_nobody_watches(clock: Clock) -> None:
    recent = RecentChanges(clock)
    for revision in range(1, MAX_CHANGES + 2):
        recent.add(change(revision))
    assert len(list(recent.after(1, MAX_CHANGES + 1) or ())) == MAX_CHANGES


def test_so_many_changes_are_kept(recent: RecentChanges) -> None:
    for revision in range(1, MAX_CHANGES + 2):
        recent.add(change(revision))
    assert recent.after(0, MAX_CHANGES + 1) is None
    kept = recent.after(1, MAX_CHANGES + 1)
    assert kept is not None
    assert len(list(kept)) == MAX_CHANGES


def test_what_is_kept_of_a_change_is_not_what_it_was_rendered_to(recent: RecentChanges) -> None:
    made = change(1)
    recent.add(made)
    made.render(lambda event, *_: b"a frame")
    (kept,) = recent.after(0, 1) or []
    assert kept._rendered is None
    for name in ("topic", "name", "body", "source", "time", "id", "epoch", "origin", "dialect", "original", "author"):
        assert getattr(kept, name) == getattr(made, name)


def test_long_changes_are_fewer(recent: RecentChanges) -> None:
    for revision in range(1, 40):
        recent.add(change(revision, b"x" * (MAX_BYTES // 16), b"y" * (MAX_BYTES // 16)))
    assert 4 <= len(recent) <= 8


@pytest.mark.parametrize("before", [None, b"", b"=", b"-", b"12-", b"value"])
def test_a_change_says_its_revision_and_the_value_before(before: bytes | None) -> None:
    made = change(2**53, b"v", before)
    assert (revision_of(made), previous_value(made)) == (2**53, (True, before))


def test_a_change_may_not_know_the_value_before() -> None:
    announcement = KeyAnnouncement("kv/k", "set", 1.0, key="k")
    assert (revision_of(announcement.event_of(b"v")), previous_value(announcement.event_of(b"v"))) == (0, (False, None))
    announcement.made(7, None, known=False)
    assert (revision_of(announcement.event_of(b"v")), previous_value(announcement.event_of(b"v"))) == (7, (False, None))
