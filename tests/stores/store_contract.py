"""The contract of ``IStore``, sentence by sentence, for every store.

A module of tests inherits :class:`StoreContract`, or :class:`DurableContract`
for a store that keeps what it was given, and says in the fixture ``make`` how
to make one.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredList, gatherResults, maybeDeferred
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from broker.errors import Conflict, Invalid, RateLimited, Unavailable
from broker.interfaces import IStore
from broker.messages import Addition, Announcement, Entry, Event, KeyAnnouncement, Quota, revision_of
from broker.stores import redis as redis_store
from broker.stores.room import ESSENTIAL_SPACES, floor_group
from tests.stores.addition_contract import KEPT, AdditionContract, briefly, keyed
from tests.stores.made_store import NOW, MadeStore, MakeStore
from tests.support.eventually import TIMEOUT, pause

HOUR = 3600.0

MakeFull = Callable[[], Awaitable[IStore]]

LIMIT = 4 << 20  # bytes of a store that is to be filled

# A log may have any name but the empty one; everything else may be any string.
NAMES = ["plain", "nul\x00inside", "ä", "\uffff", "😀", "half \ud83d", "users/v1:add", "%", "x" * 5000]
TEXTS = [*NAMES, ""]


def event(body: bytes | None = b"1", *, topic: str = "topic", time: float = NOW) -> Event:
    return Event(topic, "kind", body, "me", time)


def bodies(events: list[Event]) -> list[bytes | None]:
    return [each.body for each in events]


def ids(events: list[Event]) -> list[int]:
    return [each.id for each in events]


def facts(each: Event) -> tuple[object, ...]:
    """What a store keeps of an event, and what it adds."""
    return each.topic, each.name, each.body, each.source, each.author, each.time, each.id, each.epoch


async def fill(store: IStore, log: str, count: int, *, time: float = NOW) -> None:
    await gatherResults([store.append(log, event(b"%d" % number, time=time)) for number in range(1, count + 1)])


def announcement(name: str = "set", *, key: str = "k") -> Announcement:
    """Return that of a change of *key* whose event is stored."""
    return KeyAnnouncement(f"kv/{key}", name, NOW, origin="session", stored=True, key=key)


def told(value: str | None, key: str = "k") -> bytes:
    """Return the body of the event of a change that has left *value*."""
    text = "null" if value is None else f'"{value}"'
    return f'{{"key":"{key}","value":{text},"timestamp":{NOW * 1000:.0f}}}'.encode()


def join(stored: bytes, value: bytes) -> bytes:
    return stored + b"," + value


class AnnouncementContract(MadeStore):
    """What holds for the changes of keys that are announced."""

    # Announcements.

    @pytest_twisted.ensureDeferred
    async def test_each_change_and_its_event_are_one_step(self, store: IStore, clock: Clock) -> None:
        made = [announcement(name) for name in ("set", "set", "set", "set", "delete", "set")]
        await store.set("kv", "k", b"1", announcement=made[0])
        await store.increment("kv", "k", b"2", announcement=made[1])
        await store.increment("kv", "k", b"0.5", announcement=made[2])
        await store.patch("kv", "k", b"4", join, announcement=made[3])
        await store.delete("kv", "k", announcement=made[4])
        await store.set("kv", "k", b"5", expires=NOW + 1, announcement=made[5])
        clock.advance(1)
        ended = announcement("expired")
        assert await store.expired("kv", 9, {"k": ended}.get) == ["k"]
        events = await store.read("event/kv/k", 0, 99)
        assert bodies(events) == [told("1"), told("3"), told("3.5"), told("3.5,4"), told(None), told("5"), told(None)]
        assert [each.name for each in events] == ["set", "set", "set", "set", "delete", "set", "expired"]
        for number, (each, stored) in enumerate(zip([*made, ended], events, strict=True), 1):
            assert each.published == store.announces
            if not store.announces:
                assert each.event is not None
                assert revision_of(each.event) == number
                assert facts(each.event) == facts(stored)
                assert each.event.origin == "session"

    @pytest_twisted.ensureDeferred
    async def test_a_change_that_is_refused_makes_no_event(self, store: IStore) -> None:
        made = [announcement() for _ in range(5)]
        await store.set("kv", "k", b"text")
        assert await store.delete("kv", "other", announcement=made[0]) is False
        for refused in (
            store.set("kv", "k", b"2", revision=7, announcement=made[1]),
            store.delete("kv", "k", revision=7, announcement=made[2]),
            store.increment("kv", "k", b"1", announcement=made[3]),
            store.set("kv", "n", b"2", quota=Quota("keys", "ann", 1), announcement=announcement(key="n")),
            store.set("kv", "m", b"2", quota=Quota("keys", "ann", 1), announcement=made[4]),
        ):
            await refused.addErrback(lambda failure: failure.trap(Conflict, Invalid, RateLimited))
        assert await store.head("event/kv/k") == 0
        assert await store.head("event/kv/n") == 1
        assert [each.event for each in made] == [None] * 5

    @pytest_twisted.ensureDeferred
    async def test_events_have_the_order_of_the_changes(self, store: IStore) -> None:
        changes: list[Deferred[Any]] = []
        for number in range(20):
            changes.append(store.patch("kv", "k", b"%d" % number, join, announcement=announcement()))
            changes.append(store.set("kv", "k", b"0", announcement=announcement()))
            changes.append(store.increment("kv", "k", b"%d" % number, announcement=announcement()))
        entries = await gatherResults(changes)
        events = await store.read("event/kv/k", 0, 99)
        assert [entry.revision for entry in entries] == ids(events) == list(range(1, 61))
        assert bodies(events) == [told(entry.value.decode()) for entry in entries]


class StoreContract(AdditionContract, AnnouncementContract):
    """What holds for every store."""

    @pytest.fixture
    def make_full(
        self, clock: Clock, make_limited: Callable[[int], IStore], monkeypatch: pytest.MonkeyPatch
    ) -> MakeFull:
        """Return a function that starts a store with a small and a large key, which fill it."""
        monkeypatch.setattr(redis_store, "MEASURE_INTERVAL", 0.05)

        async def full() -> IStore:
            store = make_limited(LIMIT)
            store.startService()
            await store.head("")
            await store.set("s", "small", b"")
            await store.set("s", "large", b"x" * LIMIT)
            await self.until_ready(store, False)
            return store

        return full

    @pytest.fixture
    def make_limited(self, clock: Clock) -> Callable[[int], IStore]:
        """Return a function that makes a store of at most so many bytes, on data of its own."""
        raise AssertionError("the module of tests says how")

    # As a whole.

    def test_it_provides_the_interface(self, store: IStore) -> None:
        verifyObject(IStore, store)

    def test_it_tells_its_epoch_and_that_it_is_ready(self, store: IStore) -> None:
        assert store.epoch
        assert store.ready == ""
        assert store.description

    @pytest_twisted.ensureDeferred
    async def test_everything_is_unavailable_before_the_start_and_after_the_stop(self, make: MakeStore) -> None:
        store = make()
        await self.assert_unavailable(store)
        store.startService()
        await store.append("log", event())
        await maybeDeferred(store.stopService)
        await self.assert_unavailable(store)

    async def assert_unavailable(self, store: IStore) -> None:
        assert store.ready
        calls: list[Callable[[], Deferred[Any]]] = [
            lambda: store.append("log", event()),
            lambda: store.append("log", event(), key="k"),
            lambda: store.append_all([]),
            lambda: store.append_all([Addition("log", event())]),
            lambda: store.read("log", 0, 1),
            lambda: store.latest("log", 1),
            lambda: store.head("log"),
            lambda: store.trim("log", 1),
            lambda: store.sweep("", NOW, 0),
            lambda: store.logs("", "", 1),
            lambda: store.get("space", "key"),
            lambda: store.set("space", "key", b""),
            lambda: store.delete("space", "key"),
            lambda: store.patch("space", "key", b"", join),
            lambda: store.increment("space", "key", b"1"),
            lambda: store.range("space", "", "~", 1),
            lambda: store.expired("space", 1),
        ]
        for call in calls:
            with pytest.raises(Unavailable):
                await call()

    def test_stopping_one_that_never_started_is_fine(self, make: MakeStore) -> None:
        assert maybeDeferred(make().stopService).called

    @pytest_twisted.ensureDeferred
    async def test_stopping_answers_when_all_that_was_called_is_done(self, make: MakeStore) -> None:
        store = make()
        store.startService()
        answers = [store.append("log", event()) for _ in range(100)]
        await maybeDeferred(store.stopService)
        assert ids([await answer for answer in answers]) == list(range(1, 101))

    @pytest_twisted.ensureDeferred
    async def test_cancelling_gives_up_the_answer_not_the_operation(self, store: IStore) -> None:
        answer = store.append("log", event(b"first"))
        answer.cancel()
        try:
            await answer
        except CancelledError:
            pass
        assert bodies(await store.read("log", 0, 9)) == [b"first"]

    # Logs.

    @pytest_twisted.ensureDeferred
    async def test_append_returns_a_copy_with_id_and_epoch(self, store: IStore) -> None:
        given = Event("topic", "kind", b"1", "me", NOW, origin="session", dialect="native", original=b"frame")
        stored = await store.append("log", given)
        assert facts(stored) == ("topic", "kind", b"1", "me", "", NOW, 1, store.epoch)
        assert (stored.origin, stored.dialect, stored.original) == ("session", "native", b"frame")
        assert (given.id, given.epoch) == (0, "")

    @pytest_twisted.ensureDeferred
    async def test_what_was_appended_is_read(self, store: IStore) -> None:
        stored = await store.append("log", event(b'{"a":1}'))
        (found,) = await store.read("log", 0, 9)
        assert facts(found) == facts(stored)

    @pytest_twisted.ensureDeferred
    async def test_an_event_without_a_time_gets_that_of_the_store(self, store: IStore, clock: Clock) -> None:
        clock.advance(1.5)
        stored = await store.append("log", event(time=0.0))
        (found,) = await store.read("log", 0, 9)
        assert stored.time == found.time == NOW + 1.5

    @pytest_twisted.ensureDeferred
    @pytest.mark.parametrize("body", [None, b"", b"\x00\xff", b'"\\ud800"', b" 1 ", bytes(range(256)) * 4096])
    async def test_bodies_come_back_byte_for_byte(self, store: IStore, body: bytes | None) -> None:
        await store.append("log", event(body))
        assert bodies(await store.read("log", 0, 1)) == [body]

    @pytest_twisted.ensureDeferred
    @pytest.mark.parametrize("name", NAMES)
    async def test_a_log_may_have_any_name(self, store: IStore, name: str) -> None:
        await store.append(name, event(b"1"))
        await store.append(name + "'", event(b"other"))
        assert bodies(await store.read(name, 0, 9)) == [b"1"]
        assert bodies(await store.latest(name, 9)) == [b"1"]
        assert await store.head(name) == 1
        assert await store.logs("", "", 9) == sorted([name, name + "'"])

    @pytest_twisted.ensureDeferred
    @pytest.mark.parametrize("text", TEXTS)
    async def test_topic_kind_source_and_author_may_be_any_string(self, store: IStore, text: str) -> None:
        given = [Event(text, text, None, source, NOW, author=text) for source in (text, "", "me")]
        assert [facts(await store.append("log", each))[:5] for each in given] == [facts(each)[:5] for each in given]
        for found in (await store.read("log", 0, 9), await store.latest("log", 9)):
            assert [facts(each)[:5] for each in found] == [facts(each)[:5] for each in given]

    @pytest_twisted.ensureDeferred
    @pytest.mark.parametrize("log", ["a/b", "x:a/b", "a/b:x", "b", "other"])
    async def test_the_topic_is_kept_whatever_the_log_is_called(self, store: IStore, log: str) -> None:
        assert (await store.append(log, event(topic="a/b"))).topic == "a/b"
        (found,) = await store.read(log, 0, 9)
        assert found.topic == "a/b"

    @pytest_twisted.ensureDeferred
    async def test_ids_of_each_log_rise_by_one_from_one(self, store: IStore) -> None:
        answers = [store.append(log, event()) for log in ("a", "b", "a", "a", "b")]
        assert ids(await gatherResults(answers)) == [1, 1, 2, 3, 2]

    @pytest_twisted.ensureDeferred
    async def test_concurrent_appends_keep_the_order_of_the_calls(self, store: IStore) -> None:
        answers = [store.append(f"log {number % 7}", event(b"%d" % number)) for number in range(700)]
        stored = await gatherResults(answers)
        for log in range(7):
            assert ids(stored[log::7]) == list(range(1, 101))
            found = await store.read(f"log {log}", 0, 1000)
            assert ids(found) == list(range(1, 101))
            assert bodies(found) == [b"%d" % number for number in range(log, 700, 7)]

    @pytest_twisted.ensureDeferred
    async def test_a_follower_sees_every_id_once_while_many_append(self, store: IStore) -> None:
        seen: list[int] = []
        answers: list[Deferred[Event]] = []
        for _ in range(20):
            answers += [store.append("log", event()) for _ in range(10)]
            await answers[-10]
            seen += ids(await store.read("log", len(seen), 7))
        await gatherResults(answers)
        seen += ids(await store.read("log", len(seen), 1000))
        assert seen == list(range(1, 201))

    @pytest_twisted.ensureDeferred
    @pytest.mark.parametrize(
        ("after", "limit", "expected"),
        [
            (0, 3, [1, 2, 3]),
            (3, 3, [4, 5, 6]),
            (8, 5, [9, 10]),
            (10, 5, []),
            (99, 5, []),
            (-5, 2, [1, 2]),
            (0, 0, []),
            (0, -1, []),
            (2**70, 5, []),
            (8, 2**70, [9, 10]),
        ],
    )
    async def test_read_returns_at_most_limit_after_the_id(
        self, store: IStore, after: int, limit: int, expected: list[int]
    ) -> None:
        await fill(store, "log", 10)
        assert ids(await store.read("log", after, limit)) == expected

    @pytest_twisted.ensureDeferred
    @pytest.mark.parametrize(
        ("limit", "expected"), [(3, [3, 4, 5]), (5, [1, 2, 3, 4, 5]), (2**70, [1, 2, 3, 4, 5]), (0, []), (-1, [])]
    )
    async def test_latest_returns_the_last_in_rising_order(
        self, store: IStore, limit: int, expected: list[int]
    ) -> None:
        await fill(store, "log", 5)
        assert ids(await store.latest("log", limit)) == expected

    @pytest_twisted.ensureDeferred
    async def test_a_read_may_be_bounded_by_bytes_but_returns_one_event(self, store: IStore) -> None:
        for _ in range(5):
            await store.append("log", Event("t", "n", b"x" * 1000))
        first, last = ids(await store.read("log", 1, 4, 1500)), ids(await store.latest("log", 5, 1500))
        # A store may count what stands beside a body, or ignore the bound.
        assert first in ([2, 3], [2, 3, 4, 5])
        assert last in ([4, 5], [1, 2, 3, 4, 5])
        assert ids(await store.read("log", 1, 4, 1))[:1] == [2]
        assert ids(await store.latest("log", 4, 1))[-1:] == [5]
        assert ids(await store.read("log", 1, 4, 100_000)) == [2, 3, 4, 5]

    @pytest_twisted.ensureDeferred
    async def test_a_range_may_be_bounded_by_bytes_but_returns_one_entry(self, store: IStore) -> None:
        await gatherResults([store.set("s", f"k{number}", b"x" * 1000) for number in range(5)])
        found = [key for key, _ in await store.range("s", "k1", "k9", 9, 1500)]
        assert found in (["k1", "k2"], ["k1", "k2", "k3", "k4"])
        assert [key for key, _ in await store.range("s", "k1", "k9", 9, 1)][:1] == ["k1"]
        assert len(await store.range("s", "k1", "k9", 9, 100_000)) == 4

    @pytest_twisted.ensureDeferred
    async def test_an_unknown_log_is_empty(self, store: IStore) -> None:
        assert await store.read("log", 0, 9) == []
        assert await store.latest("log", 9) == []
        assert await store.head("log") == 0
        await store.trim("log", 9)
        assert await store.logs("", "", 9) == []

    @pytest_twisted.ensureDeferred
    async def test_a_read_sees_every_write_called_before_it(self, store: IStore) -> None:
        first = store.append("log", event())
        reads = [store.read("log", 0, 9), store.latest("log", 9)]
        head, logs = store.head("log"), store.logs("", "", 9)
        second = store.append("log", event())
        set_, get, range_ = store.set("s", "k", b"1"), store.get("s", "k"), store.range("s", "a", "z", 9)
        again, changed = store.set("s", "k", b"2"), store.get("s", "k")
        assert ids(await gatherResults([first, second])) == [1, 2]
        assert [ids(found) for found in await gatherResults(reads)] == [[1], [1]]
        assert (await head, await logs) == (1, ["log"])
        assert await get == await set_ == Entry(b"1", 1)
        assert await range_ == [("k", Entry(b"1", 1))]
        assert await changed == await again == Entry(b"2", 2)

    @pytest_twisted.ensureDeferred
    async def test_a_read_sees_a_trim_called_before_it(self, store: IStore) -> None:
        await fill(store, "log", 5)
        trimmed, found = store.trim("log", 3), store.read("log", 0, 9)
        appended = store.append("log", event())
        await trimmed
        assert ids(await found) == [4, 5]
        assert (await appended).id == 6

    @pytest_twisted.ensureDeferred
    async def test_trim_forgets_the_oldest_and_keeps_the_head(self, store: IStore) -> None:
        await fill(store, "log", 10)
        await store.trim("log", 4)
        assert ids(await store.read("log", 0, 3)) == [5, 6, 7]
        assert ids(await store.read("log", 6, 2)) == [7, 8]
        assert ids(await store.latest("log", 99)) == [5, 6, 7, 8, 9, 10]
        await store.trim("log", 2)
        await store.trim("log", -1)
        assert ids(await store.read("log", 0, 1)) == [5]
        assert await store.head("log") == 10

    @pytest_twisted.ensureDeferred
    async def test_ids_go_on_after_everything_was_trimmed(self, store: IStore) -> None:
        await fill(store, "log", 3)
        await store.trim("log", 2**70)
        assert await store.read("log", 0, 9) == []
        assert await store.latest("log", 9) == []
        assert await store.head("log") == 3
        assert await store.logs("", "", 9) == ["log"]
        assert (await store.append("log", event())).id == 4

    @pytest_twisted.ensureDeferred
    async def test_sweep_by_age_forgets_what_is_older(self, store: IStore) -> None:
        for log, times in {"t/a": (1, 2, 3), "t/b": (3, 4), "u": (1, 1)}.items():
            for time in times:
                await store.append(log, event(time=NOW + time))
        assert await store.sweep("t/", NOW + 3, 0) == 2
        assert ids(await store.read("t/a", 0, 9)) == [3]
        assert ids(await store.read("t/b", 0, 9)) == [1, 2]
        assert ids(await store.read("u", 0, 9)) == [1, 2]

    @pytest_twisted.ensureDeferred
    async def test_sweep_by_count_keeps_the_newest(self, store: IStore) -> None:
        await fill(store, "a", 5)
        await fill(store, "b", 2)
        assert await store.sweep("", 0, 3) == 2
        assert await store.sweep("", 0, 3) == 0
        assert ids(await store.read("a", 0, 9)) == [3, 4, 5]
        assert ids(await store.read("b", 0, 9)) == [1, 2]

    @pytest_twisted.ensureDeferred
    async def test_sweep_by_both_takes_the_greater_part(self, store: IStore) -> None:
        await fill(store, "a", 4, time=NOW - 10)
        await fill(store, "a", 2)
        await fill(store, "b", 1, time=NOW - 10)
        await fill(store, "b", 5)
        assert await store.sweep("", NOW - 5, 4) == 4 + 2
        assert ids(await store.read("a", 0, 9)) == [5, 6]
        assert ids(await store.read("b", 0, 9)) == [3, 4, 5, 6]

    @pytest_twisted.ensureDeferred
    async def test_sweep_of_nothing_forgets_nothing(self, store: IStore) -> None:
        await fill(store, "log", 3)
        assert await store.sweep("", 0, 0) == 0
        assert await store.sweep("other", NOW + 1, 1) == 0
        assert ids(await store.read("log", 0, 9)) == [1, 2, 3]

    @pytest_twisted.ensureDeferred
    async def test_sweep_leaves_no_hole_where_times_fall(self, store: IStore) -> None:
        for time in (1, 5, 1):
            await store.append("log", event(time=NOW + time))
        assert await store.sweep("", NOW + 3, 0) == 1
        assert ids(await store.read("log", 0, 9)) == [2, 3]

    @pytest_twisted.ensureDeferred
    async def test_sweep_by_age_takes_times_that_no_clock_shows_for_old(self, store: IStore) -> None:
        for time in (1e308, float("inf"), -1.0, NOW - HOUR, NOW):
            await store.append("log", event(time=time))
        assert await store.sweep("", NOW - 60, 0) == 4
        assert ids(await store.read("log", 0, 9)) == [5]

    @pytest_twisted.ensureDeferred
    async def test_sweep_of_everything_never_gives_an_id_twice(self, store: IStore) -> None:
        await fill(store, "log", 3)
        assert await store.sweep("", NOW + 1, 0) == 3
        assert await store.head("log") == 3
        assert (await store.append("log", event())).id == 4

    @pytest_twisted.ensureDeferred
    async def test_a_log_without_events_is_forgotten_by_sweeping(self, store: IStore) -> None:
        await fill(store, "t/old", 3)
        await fill(store, "t/trimmed", 2)
        await fill(store, "t/young", 1, time=NOW + 5)
        await fill(store, "other", 1)
        await store.trim("t/trimmed", 2)
        await self.sweep_twice(store, "t/", NOW + 1)
        assert await store.logs("", "", 9) == ["other", "t/young"]
        assert [await store.read(log, 0, 9) for log in ("t/old", "t/trimmed")] == [[], []]

    async def sweep_twice(self, store: IStore, prefix: str = "", before: float = 0) -> None:
        """Sweep, and sweep again when what the first has hidden was deleted."""
        await store.sweep(prefix, before, 0)
        await gatherResults([store.set("space", "key", b"") for _ in range(2)])
        await store.sweep(prefix, before, 0)

    @pytest_twisted.ensureDeferred
    async def test_a_forgotten_log_never_gives_an_id_twice(self, store: IStore) -> None:
        for name in NAMES:
            await fill(store, name, 3)
        await self.sweep_twice(store, before=NOW + 1)
        assert await store.logs("", "", 99) == []
        for name in NAMES:
            head = await store.head(name)
            assert head >= 3
            assert (await store.append(name, event())).id == await store.head(name) == head + 1
            assert ids(await store.read(name, 3, 9)) == ids(await store.latest(name, 9)) == [head + 1]

    @pytest_twisted.ensureDeferred
    async def test_what_remains_of_forgotten_logs_is_bounded(self, store: IStore) -> None:
        # All names of one group: whichever was forgotten with the greatest id, a new one begins above it.
        names = [name for number in range(40000) if floor_group(name := f"log{number}") == "000"][:4]
        for count, name in enumerate(names[:3], 1):
            await fill(store, name, count)
        await self.sweep_twice(store, before=NOW + 1)
        assert (await store.append(names[3], event())).id == 4

    @pytest_twisted.ensureDeferred
    async def test_sweep_takes_keys_that_expired_an_hour_ago(self, store: IStore, clock: Clock) -> None:
        await store.set("a", "old", b"", expires=NOW + 1)
        await store.set("b", "young", b"", expires=NOW + HOUR)
        await store.set("b", "old", b"", expires=NOW + 1)
        clock.advance(1 + HOUR)
        assert await store.sweep("", 0, 0) == 0
        assert await store.expired("a", 9) == []
        assert await store.expired("b", 9) == ["young"]

    @pytest_twisted.ensureDeferred
    async def test_an_event_is_appended_only_behind_the_head_that_is_expected(self, store: IStore) -> None:
        assert (await store.append("log", event(), None, 0)).id == 1
        assert (await store.append("log", event(), None, 1)).id == 2
        answers = [store.append("log", event(b"%d" % head), None, head) for head in (0, 2, 2, 3, 5)]
        outcomes: Any = await DeferredList(answers, consumeErrors=True)
        found = [result.id if done else result.type for done, result in outcomes]
        assert found == [Conflict, 3, Conflict, 4, Conflict]
        with pytest.raises(Conflict):
            await store.append("other", event(), None, 1)
        assert await store.logs("", "", 9) == ["log"]
        await store.trim("log", 9)
        assert (await store.append("log", event(), None, 4)).id == 5

    @pytest_twisted.ensureDeferred
    async def test_sweep_leaves_expired_keys_that_are_announced(self, store: IStore, clock: Clock) -> None:
        await store.set("kv", "old", b"", expires=NOW + 1)
        clock.advance(3 * HOUR)
        assert await store.sweep("", 0, 0) == 0
        assert await store.expired("kv", 9) == ["old"]

    @pytest_twisted.ensureDeferred
    async def test_any_number_of_expired_keys_is_returned(self, store: IStore, clock: Clock) -> None:
        names = [f"{number:04}" for number in range(1000)]
        await gatherResults([store.set("s", name, b"", expires=NOW + 1) for name in names])
        clock.advance(2)
        found = [*await store.expired("s", 700), *await store.expired("s", 700)]
        assert sorted(found) == names

    @pytest_twisted.ensureDeferred
    async def test_logs_come_by_prefix_in_the_order_of_their_bytes(self, store: IStore) -> None:
        names = ["a", "a/", "a/\x00", "a/1", "a/é", "a/\uffff", "a/😀", "b"]
        await gatherResults([store.append(name, event()) for name in reversed(names)])
        assert await store.logs("", "", 99) == names
        assert await store.logs("a/", "", 99) == names[1:7]
        assert await store.logs("a/", "a/1", 2) == ["a/é", "a/\uffff"]
        assert await store.logs("a/", "b", 9) == []
        assert await store.logs("c", "", 9) == []
        assert await store.logs("", "", 0) == await store.logs("", "", -1) == []

    # A full store.

    @pytest_twisted.ensureDeferred
    async def test_a_full_store_refuses_what_makes_it_larger_and_recovers(self, make_full: MakeFull) -> None:
        store = await make_full()
        for _ in range(2):
            await self.assert_full(store)
            await store.delete("s", "large")
            await self.until_ready(store, True)
            await store.append("log", event())
            await store.set("s", "large", b"x" * LIMIT)
            await self.until_ready(store, False)
        await maybeDeferred(store.stopService)

    async def until_ready(self, store: IStore, ready: bool) -> None:
        """Wait until *store* has noticed how full it is, while it is used as the daemon uses it."""
        end = reactor.seconds() + TIMEOUT
        while (store.ready == "") != ready:
            assert reactor.seconds() < end, store.ready
            await store.expired("s", 9)
            await pause(0.01)

    async def assert_full(self, store: IStore) -> None:
        """Check what a full store refuses, and what it does all the same, on the keys of ``make_full``."""
        assert re.fullmatch(r"The store is full: \d+ of \d+ bytes are used \(TXBROKER_MAX_STORE_BYTES\)\.", store.ready)
        for refused in (
            lambda: store.append("log", event()),
            lambda: store.append("log", event(), key="k"),
            lambda: store.append_all([Addition("log", event())]),
            lambda: store.set("s", "new", b""),
            lambda: store.set("s", "small", b"x" * 100),
            lambda: store.patch("s", "new", b"x" * 100, join),
            lambda: store.increment("s", "new", b"1"),
        ):
            with pytest.raises(Unavailable, match=r"The store is full: ") as caught:
                await refused()
            assert caught.value.message == "The store is full."  # no numbers for clients
        assert (await store.set("s", "small", b"x" * 64)).value == b"x" * 64
        assert (await store.set("s", "large", b"y" * LIMIT)).value == b"y" * LIMIT
        for space in ESSENTIAL_SPACES:
            await store.set(space, "new", b"1")
        assert await store.head("log") == len(await store.read("log", 0, 9))
        await store.trim("log", 1)
        await store.sweep("", 0, 0)
        assert await store.expired("s", 9) == []

    # Quotas.

    @pytest_twisted.ensureDeferred
    async def test_a_quota_bounds_what_is_created_and_not_what_is_changed(self, store: IStore) -> None:
        quota = Quota("keys", "ann", 2)
        await store.set("s", "a", b"1", quota=quota)
        await store.increment("s", "b", b"1", quota=quota)
        for create in (
            lambda: store.set("s", "c", b"1", quota=quota),
            lambda: store.set("t", "a", b"1", quota=quota),
            lambda: store.patch("s", "c", b"1", join, quota=quota),
            lambda: store.increment("s", "c", b"1", quota=quota),
            lambda: store.increment("s", "c", b"1.5", quota=quota),
        ):
            with pytest.raises(RateLimited, match="limit keys"):
                await create()
        assert await store.get("s", "c") is None
        assert not (await store.set("s", "a", b"2", quota=quota)).created
        assert not (await store.patch("s", "a", b"2", join, quota=quota)).created
        assert not (await store.increment("s", "b", b"1", quota=quota)).created

    @pytest_twisted.ensureDeferred
    async def test_each_owner_and_each_kind_has_a_quota_of_its_own(self, store: IStore) -> None:
        for number, quota in enumerate([Quota("keys", "ann", 1), Quota("keys", "bob", 1), Quota("other", "ann", 1)]):
            await store.set("s", f"{number}", b"", quota=quota)
            with pytest.raises(RateLimited):
                await store.set("s", "more", b"", quota=quota)
        await store.set("s", "more", b"")
        await store.set("s", "and more", b"", quota=Quota("keys", "ann", 0))

    @pytest_twisted.ensureDeferred
    async def test_what_was_removed_counts_no_more_whoever_has_removed_it(self, store: IStore, clock: Clock) -> None:
        quota = Quota("keys", "ann", 3)
        await store.set("s", "deleted", b"", quota=quota)
        await store.set("s", "expired", b"", expires=NOW + 1, quota=quota)
        await store.set("t", "swept", b"", expires=NOW + 1, quota=quota)
        await store.delete("s", "deleted")
        clock.advance(HOUR + 1)
        assert await store.expired("s", 9) == ["expired"]
        await store.sweep("", 0, 0)
        for number in range(3):
            await store.set("u", f"{number}", b"", quota=quota)
        with pytest.raises(RateLimited):
            await store.set("u", "more", b"", quota=quota)

    @pytest_twisted.ensureDeferred
    async def test_a_key_that_has_expired_can_be_made_again_by_its_owner_or_another(
        self, store: IStore, clock: Clock
    ) -> None:
        ann, bob = Quota("keys", "ann", 1), Quota("keys", "bob", 1)
        await store.set("s", "k", b"", expires=NOW + 1, quota=ann)
        clock.advance(2)
        assert (await store.set("s", "k", b"", expires=NOW + 3, quota=ann)).created
        clock.advance(2)
        assert (await store.set("s", "k", b"", quota=bob)).created
        await store.set("s", "of ann", b"", quota=ann)
        with pytest.raises(RateLimited):
            await store.set("s", "of bob", b"", quota=bob)

    @pytest_twisted.ensureDeferred
    async def test_a_quota_bounds_the_logs_that_are_begun(self, store: IStore) -> None:
        quota = Quota("channels", "ann \ud83d", 2)
        for _ in range(2):
            for log in ("a", "b"):
                await store.append(log, event(), quota)
        with pytest.raises(RateLimited, match="limit channels"):
            await store.append("c", event(), quota)
        assert await store.logs("", "", 9) == ["a", "b"]
        await store.trim("a", 9)
        await self.sweep_twice(store)
        assert (await store.append("c", event(), quota)).id == 1
        with pytest.raises(RateLimited):
            await store.append("a", event(), quota)

    # Keys.

    @pytest_twisted.ensureDeferred
    async def test_the_revision_begins_at_one_and_rises_at_each_change(self, store: IStore) -> None:
        assert await store.get("s", "k") is None
        assert await store.set("s", "k", b"1") == Entry(b"1", 1)
        assert await store.set("s", "k", b"1") == Entry(b"1", 2)
        assert await store.patch("s", "k", b"2", join) == Entry(b"1,2", 3)
        assert await store.get("s", "k") == Entry(b"1,2", 3)
        assert await store.set("s", "k", b"4") == Entry(b"4", 4)
        assert await store.increment("s", "k", b"1") == Entry(b"5", 5)
        assert await store.get("s", "k") == Entry(b"5", 5)

    @pytest_twisted.ensureDeferred
    async def test_range_stops_behind_so_many_bytes(self, store: IStore) -> None:
        for key in "abc":
            await store.set("s", key, b"x" * 100)
        for max_bytes, count in ((0, 3), (1, 1), (100, 1), (150, 2), (1000, 3)):
            assert [key for key, _ in await store.range("s", "", "~", 9, max_bytes)] == list("abc"[:count])
        assert [key for key, _ in await store.range("s", "b", "~", 9, 1)] == ["b"]

    @pytest.mark.parametrize("value", [b"", b"\x00\xff", b"text", bytes(range(256)) * 4096])
    async def test_values_come_back_byte_for_byte(self, store: IStore, value: bytes) -> None:
        await store.set("s", "k", value)
        assert await store.get("s", "k") == Entry(value, 1)
        assert await store.range("s", "", "~", 9) == [("k", Entry(value, 1))]

    @pytest_twisted.ensureDeferred
    @pytest.mark.parametrize("key", TEXTS)
    async def test_a_key_may_be_any_string(self, store: IStore, key: str) -> None:
        await store.set("s", key, b"1", expires=NOW - 1)
        assert await store.expired("s", 9) == [key]
        entry = await store.set("s", key, b"1")
        await store.set("s", key + "'", b"other")
        assert await store.get("s", key) == entry
        assert await store.range("s", key, key, 9) == [(key, entry)]
        assert await store.delete("s", key)

    @pytest_twisted.ensureDeferred
    async def test_spaces_and_logs_are_separate(self, store: IStore) -> None:
        await store.set("a", "k", b"a")
        await store.set("b", "k", b"b")
        await store.append("k", event())
        assert await store.get("a", "k") == Entry(b"a", 1)
        assert await store.range("b", "", "~", 9) == [("k", Entry(b"b", 1))]
        assert await store.delete("a", "k")
        assert await store.get("b", "k") == Entry(b"b", 1)
        assert await store.logs("", "", 9) == ["k"]

    @pytest_twisted.ensureDeferred
    async def test_set_with_a_revision_needs_that_revision(self, store: IStore) -> None:
        with pytest.raises(Conflict):
            await store.set("s", "k", b"1", revision=1)
        assert await store.set("s", "k", b"1", revision=0) == Entry(b"1", 1)
        for wrong in (0, 2, -1, 2**70):
            with pytest.raises(Conflict):
                await store.set("s", "k", b"2", revision=wrong)
        assert await store.get("s", "k") == Entry(b"1", 1)
        assert await store.set("s", "k", b"2", revision=1) == Entry(b"2", 2)

    @pytest_twisted.ensureDeferred
    async def test_of_many_that_set_with_one_revision_one_wins(self, store: IStore) -> None:
        answers = [store.set("s", "k", b"%d" % number, revision=0) for number in range(5)]
        assert await answers[0] == Entry(b"0", 1)
        for answer in answers[1:]:
            with pytest.raises(Conflict):
                await answer
        assert await store.get("s", "k") == Entry(b"0", 1)

    @pytest_twisted.ensureDeferred
    async def test_delete_says_whether_the_key_was_there(self, store: IStore) -> None:
        assert await store.delete("s", "k") is False
        await store.set("s", "k", b"1")
        assert await store.delete("s", "k") is True
        assert await store.delete("s", "k") is False
        assert await store.get("s", "k") is None
        assert await store.range("s", "", "~", 9) == []

    @pytest_twisted.ensureDeferred
    async def test_no_two_contents_of_a_key_have_one_revision(self, store: IStore, clock: Clock) -> None:
        seen = [(await store.set("s", "k", b"1")).revision, (await store.set("s", "k", b"2")).revision]
        await store.delete("s", "k")
        seen.append((await store.set("s", "k", b"3", expires=NOW + 1)).revision)
        clock.advance(1)
        seen.append((await store.patch("s", "k", b"4", join)).revision)
        await store.delete("s", "k")
        seen.append((await store.increment("s", "k", b"5")).revision)
        assert seen == sorted(set(seen))
        for old in seen[:-1]:
            with pytest.raises(Conflict):
                await store.set("s", "k", b"6", revision=old)
            with pytest.raises(Conflict):
                await store.delete("s", "k", revision=old)

    @pytest_twisted.ensureDeferred
    async def test_each_change_of_any_key_raises_the_revision_by_one(self, store: IStore, clock: Clock) -> None:
        assert await store.revision("s") == 0
        changes = [store.set("s", f"k{number}", b"1", expires=NOW + 1) for number in range(3)]
        changes.append(store.increment("s", "k0", b"1"))
        changes += [store.patch("s", "k1", b"%d" % number, join) for number in range(3)]
        changes.append(store.set("s", "other", b"1"))
        assert [entry.revision for entry in await gatherResults(changes)] == list(range(1, 9))
        assert await store.delete("s", "other")
        assert await store.revision("s") == 9
        clock.advance(1)
        assert len(await store.expired("s", 9)) == 3
        assert await store.revision("s") == 12
        assert (await store.set("s", "k0", b"1")).revision == 13
        assert await store.revision("t") == 0

    @pytest_twisted.ensureDeferred
    async def test_what_changes_nothing_raises_no_revision(self, store: IStore) -> None:
        await store.set("s", "k", b"text")
        refused: list[Deferred[Any]] = [
            store.set("s", "k", b"2", revision=7),
            store.delete("s", "k", revision=7),
            store.increment("s", "k", b"1"),
            store.set("s", "n", b"2", revision=7),
        ]
        for each in refused:
            await each.addErrback(lambda failure: failure.trap(Conflict, Invalid))
        assert await store.delete("s", "missing") is False
        assert await store.expired("s", 9) == []
        assert await store.revision("s") == 1

    @pytest_twisted.ensureDeferred
    async def test_a_change_says_whether_the_key_was_missing(self, store: IStore, clock: Clock) -> None:
        for change in (
            lambda: store.set("s", "k", b"1", expires=NOW + 1),
            lambda: store.patch("s", "p", b"1", join),
            lambda: store.increment("s", "n", b"1"),
            lambda: store.increment("s", "f", b"0.5"),
        ):
            assert [(await change()).created, (await change()).created] == [True, False]
        several = await gatherResults([store.patch("s", "several", b"1", join) for _ in range(3)])
        assert [entry.created for entry in several] == [True, False, False]
        clock.advance(1)
        assert (await store.set("s", "k", b"1")).created
        found = await store.get("s", "k")
        assert found is not None
        assert not found.created

    @pytest_twisted.ensureDeferred
    async def test_delete_with_a_revision_needs_that_revision(self, store: IStore) -> None:
        assert await store.delete("s", "k", revision=0) is False
        with pytest.raises(Conflict):
            await store.delete("s", "k", revision=1)
        await store.set("s", "k", b"1")
        for wrong in (0, 2):
            with pytest.raises(Conflict):
                await store.delete("s", "k", revision=wrong)
        assert await store.get("s", "k") == Entry(b"1", 1)
        assert await store.delete("s", "k", revision=1) is True

    @pytest_twisted.ensureDeferred
    async def test_patch_creates_a_missing_key(self, store: IStore) -> None:
        assert await store.patch("s", "k", b"1", join) == Entry(b"1", 1)

    @pytest_twisted.ensureDeferred
    async def test_concurrent_patches_all_take_effect_in_order(self, store: IStore) -> None:
        answers = [store.patch("s", "k", b"%d" % number, join) for number in range(50)]
        await gatherResults(answers)
        assert await store.get("s", "k") == Entry(b",".join(b"%d" % number for number in range(50)), 50)

    @pytest_twisted.ensureDeferred
    @pytest.mark.parametrize("error", [Invalid("value"), ZeroDivisionError()])
    async def test_a_merge_that_raises_fails_its_caller_alone(self, store: IStore, error: Exception) -> None:
        def refuse(stored: bytes, value: bytes) -> bytes:
            raise error

        await store.set("s", "k", b"1")
        before, bad, after = (
            store.append("log", event(b"before")),
            store.patch("s", "k", b"2", refuse),
            store.append("log", event(b"after")),
        )
        with pytest.raises(type(error)):
            await bad
        assert ids(await gatherResults([before, after])) == [1, 2]
        assert await store.get("s", "k") == Entry(b"1", 1)

    @pytest_twisted.ensureDeferred
    @pytest.mark.parametrize(
        ("stored", "amount", "expected"),
        [
            (None, b"1", b"1"),
            (None, b"-0.5", b"-0.5"),
            (b"10", b"5", b"15"),
            (b"1", b"-3", b"-2"),
            (b"9007199254740993", b"2", b"9007199254740995"),
            (b"9" * 40, b"1", b"1" + b"0" * 40),
            (b"0.1", b"0.2", b"0.30000000000000004"),
            (b"1.5", b"1.5", b"3"),
            (b"-0.5", b"0.5", b"0"),
            (b"1e2", b"1", b"101"),
        ],
    )
    async def test_increment_adds_decimal_numbers(
        self, store: IStore, stored: bytes | None, amount: bytes, expected: bytes
    ) -> None:
        if stored is not None:
            await store.set("s", "k", stored)
        assert (await store.increment("s", "k", amount)).value == expected
        found = await store.get("s", "k")
        assert found is not None
        assert found.value == expected

    @pytest_twisted.ensureDeferred
    @pytest.mark.parametrize(
        ("stored", "amount"),
        [
            (b"text", b"1"),
            (b"", b"1"),
            (b"NaN", b"1"),
            (b"true", b"1"),
            (b"1", b"Infinity"),
            (b"1", b"one"),
            (b"1e308", b"1e308"),
            (b"1", b"1e999"),
            (b"1", b"9" * 400),
            (b"1", b"9" * 5000),
            (b"1", b"-" + b"9" * 309),
            (b"9" * 309, b"1"),
            (b"9" * 308, b"9" * 308 + b"0"),
            (b"1" + b"7" * 308, b"1" + b"7" * 308),
            (b"17976931348623157" + b"0" * 292, b"17976931348623157" + b"0" * 292),
        ],
    )
    async def test_increment_refuses_what_is_no_finite_number(
        self, store: IStore, stored: bytes, amount: bytes
    ) -> None:
        await store.set("s", "k", stored)
        with pytest.raises(Invalid):
            await store.increment("s", "k", amount)
        assert await store.get("s", "k") == Entry(stored, 1)

    @pytest_twisted.ensureDeferred
    async def test_concurrent_increments_all_count(self, store: IStore) -> None:
        answers = await gatherResults([store.increment("s", "k", b"2") for _ in range(100)])
        assert [entry.revision for entry in answers] == list(range(1, 101))
        assert answers[-1] == Entry(b"200", 100)

    @pytest_twisted.ensureDeferred
    async def test_range_includes_both_bounds_in_the_order_of_the_bytes(self, store: IStore) -> None:
        keys = ["a", "a\x00", "a1", "b", "z", "é", "\uffff", "😀"]
        await gatherResults([store.set("s", key, key.encode()) for key in reversed(keys)])
        everything = [(key, Entry(key.encode(), len(keys) - number)) for number, key in enumerate(keys)]
        assert await store.range("s", "", "\U0010ffff", 99) == everything
        assert await store.range("s", "a\x00", "b", 99) == everything[1:4]
        assert await store.range("s", "a", "😀", 3) == everything[:3]
        assert await store.range("s", "é", "😀", 99) == everything[5:]
        assert await store.range("s", "b", "a", 99) == []
        assert await store.range("s", "a", "z", 0) == await store.range("s", "a", "z", -1) == []

    # Expiry.

    @pytest_twisted.ensureDeferred
    async def test_an_expired_key_is_missing(self, store: IStore, clock: Clock) -> None:
        assert await store.set("s", "k", b"1", expires=NOW + 10) == Entry(b"1", 1, NOW + 10)
        await store.set("s", "other", b"2", expires=NOW + 20)
        clock.advance(9)
        assert await store.get("s", "k") == Entry(b"1", 1, NOW + 10)
        clock.advance(1)
        assert await store.get("s", "k") is None
        assert await store.range("s", "", "~", 1) == [("other", Entry(b"2", 2, NOW + 20))]
        assert await store.delete("s", "k") is False
        with pytest.raises(Conflict):
            await store.set("s", "k", b"1", revision=1)
        assert await store.expired("s", 9) == ["k"]

    @pytest_twisted.ensureDeferred
    async def test_each_expired_key_is_returned_once(self, store: IStore, clock: Clock) -> None:
        for number in range(5):
            await store.set("s", f"k{number}", b"", expires=NOW + 1 + number)
        await store.set("s", "stays", b"")
        await store.set("t", "elsewhere", b"", expires=NOW + 1)
        assert await store.expired("s", 9) == []
        clock.advance(4)
        first, second, third = await gatherResults(
            [store.expired("s", 3), store.expired("s", 3), store.expired("s", 3)]
        )
        assert (sorted(first), second, third) == (["k0", "k1", "k2"], ["k3"], [])
        assert await store.expired("s", 0) == await store.expired("s", -1) == []
        assert [key for key, _ in await store.range("s", "", "~", 9)] == ["k4", "stays"]

    @pytest_twisted.ensureDeferred
    async def test_writing_an_expired_key_creates_it_again(self, store: IStore, clock: Clock) -> None:
        for key in ("set", "patch", "increment"):
            await store.set("s", key, b"5", expires=NOW + 1)
            await store.set("s", key, b"6", expires=NOW + 1)
        clock.advance(1)
        assert await store.set("s", "set", b"1", revision=0) == Entry(b"1", 7)
        assert await store.patch("s", "patch", b"1", join) == Entry(b"1", 8)
        assert await store.increment("s", "increment", b"1") == Entry(b"1", 9)
        assert await store.expired("s", 9) == []

    @pytest_twisted.ensureDeferred
    async def test_patch_and_increment_keep_the_expiry_and_set_replaces_it(self, store: IStore, clock: Clock) -> None:
        await store.set("s", "k", b"1", expires=NOW + 10)
        assert await store.increment("s", "k", b"1") == Entry(b"2", 2, NOW + 10)
        assert await store.patch("s", "k", b"3", join) == Entry(b"2,3", 3, NOW + 10)
        assert await store.set("s", "k", b"4", expires=NOW + 20) == Entry(b"4", 4, NOW + 20)
        clock.advance(10)
        assert await store.expired("s", 9) == []
        assert await store.set("s", "k", b"5") == Entry(b"5", 5)
        clock.advance(10)
        assert await store.expired("s", 9) == []
        assert await store.get("s", "k") == Entry(b"5", 5)

    @pytest_twisted.ensureDeferred
    async def test_a_full_store_removes_keys_with_their_events_and_changes_none(self, make_full: MakeFull) -> None:
        store = await make_full()
        with pytest.raises(Unavailable):
            await store.set("s", "small", b"1", announcement=announcement(key="small"))
        assert await store.get("s", "small") == Entry(b"", 1)
        assert await store.delete("s", "small", announcement=announcement("delete", key="small"))
        assert bodies(await store.read("event/kv/small", 0, 9)) == [told(None, "small")]
        await maybeDeferred(store.stopService)


class DurableContract(StoreContract):
    """What holds for a store that keeps what it was given."""

    async def reopen(self, store: IStore, make: MakeStore) -> IStore:
        await maybeDeferred(store.stopService)
        again = make()
        again.startService()
        await again.head("")
        return again

    @pytest_twisted.ensureDeferred
    async def test_everything_is_there_after_closing_and_opening(self, make: MakeStore, clock: Clock) -> None:
        store = make()
        store.startService()
        given = [await store.append("log", event(body)) for body in (b"1", None, b"")]
        await store.set("s", "k", b"1", expires=NOW + 5)
        await store.set("s", "k", b"2", expires=NOW + 5)
        again = await self.reopen(store, make)
        assert again.epoch == store.epoch
        assert [facts(each) for each in await again.read("log", 0, 9)] == [facts(each) for each in given]
        assert await again.get("s", "k") == Entry(b"2", 2, NOW + 5)
        assert (await again.append("log", event())).id == 4
        clock.advance(5)
        assert await again.expired("s", 9) == ["k"]
        await maybeDeferred(again.stopService)

    @pytest_twisted.ensureDeferred
    async def test_no_revision_is_given_twice_after_opening(self, make: MakeStore) -> None:
        store = make()
        store.startService()
        await store.set("s", "k", b"1")
        await store.set("s", "gone", b"1")
        await store.delete("s", "gone")
        again = await self.reopen(store, make)
        assert await again.revision("s") == 3
        assert await again.set("s", "gone", b"2") == Entry(b"2", 4)
        assert await again.set("s", "k", b"2", revision=1) == Entry(b"2", 5)
        await maybeDeferred(again.stopService)

    @pytest_twisted.ensureDeferred
    async def test_no_id_is_given_twice_after_trimming_and_opening(self, make: MakeStore) -> None:
        store = make()
        store.startService()
        await fill(store, "trimmed", 3)
        await store.trim("trimmed", 3)
        await fill(store, "swept", 3)
        await store.sweep("swept", NOW + 1, 0)
        again = await self.reopen(store, make)
        assert await again.head("trimmed") == await again.head("swept") == 3
        assert await again.read("trimmed", 0, 9) == await again.read("swept", 0, 9) == []
        assert (await again.append("trimmed", event())).id == 4
        assert (await again.append("swept", event())).id == 4
        await maybeDeferred(again.stopService)

    @pytest_twisted.ensureDeferred
    async def test_ends_counts_and_floors_survive(self, store: IStore, make: MakeStore, clock: Clock) -> None:
        quota = Quota("keys", "ann", 1)
        await store.set("s", "k", b"", expires=NOW + 5, quota=quota)
        await fill(store, "forgotten", 3)
        await self.sweep_twice(store, before=NOW + 1)
        again = await self.reopen(store, make)
        assert (await again.append("forgotten", event())).id == 4
        with pytest.raises(RateLimited):
            await again.set("s", "more", b"", quota=quota)
        clock.advance(5)
        assert await again.expired("s", 9) == ["k"]
        await again.set("s", "more", b"", quota=quota)
        await maybeDeferred(again.stopService)

    @pytest_twisted.ensureDeferred
    async def test_keys_of_events_survive(self, store: IStore, make: MakeStore, clock: Clock) -> None:
        await keyed(store, "log", "k")
        clock.advance(KEPT - 1)
        again = await self.reopen(store, make)
        assert briefly([await keyed(again, "log", "k"), await keyed(again, "log", "l")]) == [(1, True), (2, False)]
        await maybeDeferred(again.stopService)

    @pytest_twisted.ensureDeferred
    async def test_one_store_can_be_stopped_and_started_again(self, make: MakeStore) -> None:
        store = make()
        for expected in (1, 2):
            store.startService()
            assert (await store.append("log", event())).id == expected
            await maybeDeferred(store.stopService)
