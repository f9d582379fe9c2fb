"""The contract of ``IStore.append`` under conditions, and of ``append_all``; a part of ``store_contract``."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock

from broker.errors import Conflict, RateLimited
from broker.interfaces import IStore
from broker.messages import Addition, Event, Quota

NOW = 1_700_000_000.0  # seconds since the epoch
KEPT = 300.0  # seconds


def event(body: bytes = b"1", **more: object) -> Event:
    return Event("topic", "kind", body, "me", **more)  # type: ignore[arg-type]


def adding(log: str, body: bytes = b"1", *, head: int | None = None, key: str = "", **more: object) -> Addition:
    return Addition(log, event(body, **more), None, head, key)


def keyed(store: IStore, log: str, key: str, body: bytes = b"1", head: int | None = None) -> Deferred[Event]:
    return store.append(log, event(body), None, head, key, KEPT)


def briefly(events: list[Event]) -> list[tuple[int, bool]]:
    return [(each.id, each.duplicate) for each in events]


async def bodies(store: IStore, log: str) -> list[bytes | None]:
    return [each.body for each in await store.read(log, 0, 99)]


def described(event: Event) -> tuple[Any, ...]:
    return event.author, event.content_type, event.expires, event.binary, event.body


class AdditionContract:
    """What holds for events that are stored under conditions."""

    @pytest_twisted.ensureDeferred
    async def test_content_type_and_expiry_are_stored(self, store: IStore) -> None:
        given = [event(content_type="image/png", expires=NOW + 5), event(content_type="ä\ud83d"), event(expires=0.5)]
        given += [event(author="ann", content_type="text/plain"), event(author="ann")]
        octets = bytes(range(256))
        given += [event(body=octets, content_type="image/png", binary=True), event(body=b"", binary=True)]
        given += [event(body=octets, binary=True, exclude=("ann",))]
        stored = [await store.append("log", each) for each in given]
        for events in (stored, await store.read("log", 0, 9), await store.latest("log", 9)):
            assert [described(each) for each in events] == [described(each) for each in given]

    @pytest_twisted.ensureDeferred
    async def test_whom_an_event_excludes_is_stored(self, store: IStore) -> None:
        given = [event(exclude=("ann", "\ud83d")), event(author="ann", exclude=("bob",), expires=NOW + 5), event()]
        stored = [await store.append("log", each) for each in given]
        stored += await store.append_all([Addition("log", each, None, None, "") for each in given])
        for events in (stored, await store.read("log", 0, 9), await store.latest("log", 9)):
            assert [(each.author, each.exclude) for each in events] == [
                (each.author, each.exclude) for each in given
            ] * 2

    @pytest_twisted.ensureDeferred
    async def test_what_comes_again_by_its_key_is_the_first_event(self, store: IStore, clock: Clock) -> None:
        first = await keyed(store, "log", "k", b"1")
        clock.advance(7)
        again = await keyed(store, "log", "k", b"2")
        assert (again.id, again.epoch, again.time, again.duplicate) == (1, store.epoch, NOW, True)
        assert (first.duplicate, again.body) == (False, b"2")
        others = await gatherResults([keyed(store, "log", "l"), keyed(store, "lo", "gk"), store.append("log", event())])
        assert briefly(others) == [(2, False), (1, False), (3, False)]
        assert await bodies(store, "log") == [b"1", b"1", b"1"]

    @pytest_twisted.ensureDeferred
    async def test_of_many_with_one_key_at_once_one_is_stored(self, store: IStore) -> None:
        stored = await gatherResults([keyed(store, "log", f"k{number % 5}", b"%d" % number) for number in range(50)])
        assert briefly(stored[:5]) == [(id, False) for id in range(1, 6)]
        assert briefly(stored[5:]) == [(id, True) for id in range(1, 6)] * 9
        assert await bodies(store, "log") == [b"0", b"1", b"2", b"3", b"4"]

    @pytest_twisted.ensureDeferred
    async def test_a_key_counts_for_its_time_whatever_becomes_of_the_event(self, store: IStore, clock: Clock) -> None:
        await keyed(store, "log", "k")
        await store.trim("log", 1)
        clock.advance(KEPT - 1)
        assert briefly([await keyed(store, "log", "k")]) == [(1, True)]
        clock.advance(1)
        assert briefly([await keyed(store, "log", "k"), await keyed(store, "log", "k")]) == [(2, False), (2, True)]

    @pytest_twisted.ensureDeferred
    @pytest.mark.parametrize("key", ["ä", "half \ud83d", "nul\x00inside", "1:k", " ", "x" * 255])
    async def test_a_key_may_be_any_string(self, store: IStore, key: str) -> None:
        answers = [keyed(store, log, each) for each in (key, key + "'") for log in ("log", "log" + key, "log")]
        stored = await gatherResults(answers)
        assert briefly(stored) == [(1, False), (1, False), (1, True), (2, False), (2, False), (2, True)]

    @pytest_twisted.ensureDeferred
    async def test_a_conflict_tells_the_present_head(self, store: IStore) -> None:
        await keyed(store, "log", "k", head=0)
        with pytest.raises(Conflict) as caught:
            await keyed(store, "log", "l", head=0)
        assert (caught.value.what, caught.value.name) == ("head", "1")
        assert json.loads(caught.value.data or b"") == {"topic": "topic", "epoch": store.epoch, "id": 1}
        # Who has not got the answer asks again with the head that he knew.
        assert briefly([await keyed(store, "log", "k", head=0)]) == [(1, True)]
        assert briefly([await keyed(store, "log", "l", head=1)]) == [(2, False)]

    @pytest_twisted.ensureDeferred
    async def test_several_are_stored_in_their_order(self, store: IStore) -> None:
        await store.append("a", event())
        stored = await store.append_all([adding("a", b"2"), adding("b", b"1", expires=NOW + 1), adding("a", b"3")])
        assert [(each.id, each.body, each.epoch) for each in stored] == [
            (2, b"2", store.epoch),
            (1, b"1", store.epoch),
            (3, b"3", store.epoch),
        ]
        assert (await bodies(store, "a"), await bodies(store, "b")) == ([b"1", b"2", b"3"], [b"1"])
        assert await store.append_all([]) == []

    @pytest_twisted.ensureDeferred
    async def test_of_several_all_are_stored_or_none(self, store: IStore) -> None:
        await store.append("a", event(b"before"))
        refused = [adding("a", key="k"), adding("new"), adding("b", key="k"), adding("a", head=1)]
        with pytest.raises(Conflict) as caught:
            await store.append_all(refused, KEPT)
        assert caught.value.name == "2"
        assert await bodies(store, "a") == [b"before"]
        assert await store.logs("", "", 9) == ["a"]
        assert briefly(await store.append_all(refused[:3], KEPT)) == [(2, False), (1, False), (1, False)]

    @pytest_twisted.ensureDeferred
    async def test_later_ones_see_what_earlier_ones_leave(self, store: IStore) -> None:
        several = [
            adding("a", b"1", head=0, key="k"),
            adding("a", b"2", head=1),
            adding("a", b"3", head=0, key="k"),
            adding("b", b"4", head=0, key="k"),
            adding("a", b"5", head=2),
        ]
        stored = await store.append_all(several, KEPT)
        assert briefly(stored) == [(1, False), (2, False), (1, True), (1, False), (3, False)]
        assert stored[2].time == stored[0].time > 0
        assert (await bodies(store, "a"), await bodies(store, "b")) == ([b"1", b"2", b"5"], [b"4"])

    @pytest_twisted.ensureDeferred
    async def test_new_logs_of_several_count_together(self, store: IStore) -> None:
        ann, bob = Quota("channels", "ann", 2), Quota("channels", "bob", 9)
        several = [Addition(log, event(), ann) for log in ("a", "b", "a", "c")]
        with pytest.raises(RateLimited, match="limit channels"):
            await store.append_all(several)
        assert await store.logs("", "", 9) == []
        await store.append_all(several[:3])
        with pytest.raises(RateLimited):
            await store.append_all([Addition("c", event(), bob), Addition("d", event(), ann)])
        assert await store.logs("", "", 9) == ["a", "b"]

    @pytest_twisted.ensureDeferred
    async def test_several_keep_their_place_among_others(self, store: IStore) -> None:
        answers: list[Deferred[Any]] = []
        for number in range(20):
            new, body = f"new{number}", b"%d" % number
            answers.append(store.append(new, event()))
            answers.append(store.append_all([adding("a", body), adding("b", body)]))
            answers += [store.append("a", event(body)), keyed(store, "b", f"k{number}", body)]
            answers.append(store.append_all([adding("a", body, head=3 * number + 2), adding(new, head=1)]))
            # What is computed here goes its own way in the batches of Redis.
            answers.append(store.patch("s", "k", body, lambda stored, value: stored + value))
        await gatherResults(answers)
        assert await bodies(store, "a") == [b"%d" % (place // 3) for place in range(60)]
        assert await bodies(store, "b") == [b"%d" % (place // 2) for place in range(40)]

    @pytest_twisted.ensureDeferred
    async def test_times_do_not_go_back_among_several(self, store: IStore) -> None:
        await store.append("a", event(time=NOW + 50))
        stored = await store.append_all([adding("a"), adding("a", time=NOW - 5), adding("b"), adding("a", key="k")], 9)
        assert [each.time for each in stored] == [NOW + 50, NOW - 5, NOW, NOW]
        assert (await store.append("a", event(), None, None, "k", KEPT)).time == NOW
