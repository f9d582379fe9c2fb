"""A Redis with much to do: calls are bounded, nobody waits for others' work, and the order stays."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.task import Clock

from broker.core.indices import Indices, rows_log
from broker.core.slices import SLICE, slices_of
from broker.errors import BrokerError, Conflict, Invalid, RateLimited, Unavailable
from broker.messages import Entry, Event, Quota
from broker.redis.batcher import MAX_BATCH_BYTES
from broker.redis.chains import Chain
from broker.redis.operations import Operation
from broker.stores import open_store
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer

MakeRedisStore = Callable[..., Any]


@pytest_twisted.async_yield_fixture
async def make_store(redis_server: RedisServer) -> AsyncIterator[MakeRedisStore]:
    """Makes started stores on a Redis of the test's own."""
    made: list[Any] = []

    def make(**options: Any) -> Any:
        store = open_store(redis_server.url, prefix="own:", **{"clock": reactor, "reactor": reactor, **options})
        made.append(store)
        store.startService()
        return store

    yield make
    for store in made:
        await maybeDeferred(store.stopService)


@pytest.fixture(autouse=True)
def endless_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no slice of the reactor end, however busy the machine is: how many calls there are depends on that."""
    monkeypatch.setattr(slices_of(reactor), "now", lambda: 0.0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let calls carry and return little."""
    monkeypatch.setattr("broker.redis.batcher.MAX_BATCH_BYTES", 40_000)
    monkeypatch.setattr("broker.stores.redis.MAX_REPLY_BYTES", 40_000)
    monkeypatch.setattr("broker.stores.redis_reader.STEP_BYTES", 10_000)
    monkeypatch.setattr("broker.stores.redis_reader.MIN_REPLY_BYTES", 100)


class Meter:
    """What a Redis has been asked since the last ``read``: calls of scripts, bytes in and bytes out."""

    def __init__(self, redis: RedisServer) -> None:
        self._redis = redis
        self._before = [0, 0, 0]

    async def read(self) -> list[int]:
        text = str(await self._redis.command("INFO", "all"))
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        calls = fields["cmdstat_evalsha"].split(",")[0].removeprefix("calls=")
        now = [int(calls), int(fields["total_net_input_bytes"]), int(fields["total_net_output_bytes"])]
        found = [after - before for after, before in zip(now, self._before, strict=True)]
        self._before = now
        return found


def event(body: bytes = b"1") -> Event:
    return Event("topic", "kind", body)


def joined(stored: bytes, value: bytes) -> bytes:
    return stored + value


# Reads.


@pytest_twisted.ensureDeferred
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("verb", ["read", "latest", "get", "range"])
async def test_a_small_write_does_not_wait_behind_large_reads(make_store: MakeRedisStore, verb: str) -> None:
    store = make_store()
    for number in range(10):
        await gatherResults([store.append("big", event(b"x" * 5000)), store.set("big", f"{number}", b"x" * 5000)])
    read = {
        "read": lambda number: store.read("big", 0, 10),
        "latest": lambda number: store.latest("big", 10, 10_000),
        "get": lambda number: store.get("big", f"{number % 10}"),
        "range": lambda number: store.range("big", "", "~", 10),
    }[verb]
    answered: list[Any] = []
    reads = [read(number).addCallback(answered.append) for number in range(100)]
    written = [store.append("small", event()), store.set("small", "key", b""), store.set("big", "new", b"")]
    if verb in ("read", "latest"):
        written.append(store.append("big", event()))
    await gatherResults(written)
    assert len(answered) <= 30
    await gatherResults(reads)
    assert len(answered) == 100


@pytest_twisted.ensureDeferred
@pytest.mark.usefixtures("small")
async def test_a_read_of_any_size_comes_in_steps_and_whole(
    make_store: MakeRedisStore, redis_server: RedisServer
) -> None:
    store, meter = make_store(), Meter(redis_server)
    for number in range(100):
        await gatherResults([store.append("log", event(b"x" * 1000)), store.set("s", f"{number:03}", b"x" * 1000)])
    await meter.read()
    assert [each.id for each in await store.read("log", 0, 1000)] == list(range(1, 101))
    assert [each.id for each in await store.latest("log", 50)] == list(range(51, 101))
    assert [each.id for each in await store.latest("log", 50, 20_000)] == list(range(83, 101))
    assert [key for key, _ in await store.range("s", "", "~", 1000)] == [f"{number:03}" for number in range(100)]
    calls, _, _ = await meter.read()
    assert calls >= 25


@pytest_twisted.ensureDeferred
@pytest.mark.usefixtures("small")
async def test_a_read_in_steps_has_no_hole_where_it_was_trimmed(make_store: MakeRedisStore) -> None:
    store, other = make_store(), make_store()
    await gatherResults([store.append("log", event(b"x" * 1000)) for _ in range(50)])
    reading = store.read("log", 0, 50)
    await other.trim("log", 30)
    found = [each.id for each in await reading]
    assert found == list(range(found[0], 51))
    assert found[0] in (1, 31)


@pytest_twisted.ensureDeferred
async def test_an_index_of_names_of_any_length_comes_in_steps(make_store: MakeRedisStore) -> None:
    store = make_store()
    names = [f"log/{number:04}" for number in range(2500)]
    await gatherResults([store.append(name, event()) for name in names])
    assert await store.logs("log/", "", 10_000) == names
    assert await store.logs("log/", "log/0100", 1500) == names[101:1601]


@pytest_twisted.ensureDeferred
async def test_redis_holds_little_for_many_readers_of_much(
    make_store: MakeRedisStore, redis_server: RedisServer
) -> None:
    store = make_store()
    await gatherResults([store.append("big", event(b"x" * 500_000)) for _ in range(8)])
    await redis_server.command("CONFIG", "RESETSTAT")  # the peak of its memory, too
    before = await used_memory(redis_server, "used_memory")
    reads = [store.read("big", 0, 8).addCallback(lambda found: None) for _ in range(20)]
    await store.append("small", event())
    await gatherResults(reads)
    assert await used_memory(redis_server, "used_memory_peak") - before < 30_000_000


async def used_memory(redis: RedisServer, field: str) -> int:
    text = str(await redis.command("INFO", "memory"))
    return int(dict(line.split(":", 1) for line in text.splitlines() if ":" in line)[field])


# Changes that are computed here.


@pytest_twisted.ensureDeferred
async def test_increments_of_a_fraction_are_computed_in_one_go(
    make_store: MakeRedisStore, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.redis.batcher.MAX_SENT_BYTES", MAX_BATCH_BYTES)
    store, meter = make_store(), Meter(redis_server)
    await store.set("kv", "k", b"0.5")
    await meter.read()
    sums = [store.increment("kv", "k", b"1") for _ in range(400)]
    appended = [store.append("log", event(b"x" * 20_000)) for _ in range(95)]
    other = store.get("kv", "other")
    found = await gatherResults(sums)
    await gatherResults([*appended, other])
    assert [(entry.value, entry.revision) for entry in found] == [
        (b"%d.5" % number, number + 1) for number in range(1, 401)
    ]
    calls, sent, _ = await meter.read()
    assert calls <= 4
    assert sent < 1.2 * 95 * 20_000


@pytest_twisted.ensureDeferred
async def test_conflicts_of_many_keys_are_solved_in_one_go(
    make_store: MakeRedisStore, redis_server: RedisServer
) -> None:
    store, meter = make_store(), Meter(redis_server)
    await gatherResults([store.set("kv", f"{number}", b"0.5") for number in range(200)])
    await meter.read()
    found = await gatherResults([store.increment("kv", f"{number % 200}", b"2") for number in range(400)])
    assert [entry.value for entry in found] == [b"2.5"] * 200 + [b"4.5"] * 200
    calls, _, _ = await meter.read()
    assert calls <= 3


@pytest_twisted.ensureDeferred
async def test_patches_between_other_changes_of_their_key_are_computed_in_one_go(
    make_store: MakeRedisStore, redis_server: RedisServer
) -> None:
    store, meter = make_store(), Meter(redis_server)
    await store.set("kv", "k", b"0.5")
    await meter.read()
    answers = []
    for number in range(40):
        text = b"%d" % number
        answers += [
            store.set("kv", "k", text),
            store.patch("kv", "k", b".25", joined),
            store.get("kv", "k"),
            store.increment("kv", "k", b"1"),
            store.patch("kv", "k", b"0", joined),
            store.delete("kv", "k"),
        ]
    found = await gatherResults(answers)
    for number in range(40):
        _, patched, read, increased, last, deleted = found[number * 6 : number * 6 + 6]
        assert read == patched
        assert patched.value == b"%d.25" % number
        assert (increased.value, last.value) == (b"%d.25" % (number + 1), b"%d.250" % (number + 1))
        assert deleted is True
    calls, _, _ = await meter.read()
    assert calls <= 3


@pytest_twisted.ensureDeferred
@pytest.mark.usefixtures("small")
async def test_patches_of_a_large_value_send_it_once_for_each_call(
    make_store: MakeRedisStore, redis_server: RedisServer
) -> None:
    store, meter = make_store(), Meter(redis_server)
    await store.set("kv", "k", b"x" * 10_000)
    await meter.read()
    patched = [store.patch("kv", "k", b"y", joined) for _ in range(100)]
    written = [store.append("log", event(b"x" * 400)) for _ in range(90)]
    await gatherResults(written)
    assert not patched[-1].called
    await gatherResults(patched)
    assert (await store.get("kv", "k")).value == b"x" * 10_000 + b"y" * 100
    calls, sent, _ = await meter.read()
    assert calls <= 60
    assert sent < 30 * 11_000 + 2 * 90 * 600


# Changes of large values.


def patched(store: Any, count: int, keys: int = 1) -> list[Deferred[Entry]]:
    return [store.patch("kv", f"large{number % keys}", b"%d" % (number % 10), joined) for number in range(count)]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("keys", [1, 40])
async def test_nobody_waits_for_many_changes_of_large_values(
    make_store: MakeRedisStore, monkeypatch: pytest.MonkeyPatch, known: bool, keys: int
) -> None:
    monkeypatch.setattr("broker.redis.heavy.CALL_BYTES", 25_000)
    monkeypatch.setattr("broker.redis.batcher.MAX_BATCH", 50)
    monkeypatch.setattr("broker.redis.batcher.MAX_LOOKED", 200)
    store = make_store()
    await gatherResults([store.set("kv", f"large{number}", bytes(5000)) for number in range(keys)])
    if known:
        await gatherResults(patched(store, keys, keys))
    answers = patched(store, 300, keys)
    others = [store.set("kv", "a", b"1"), store.patch("kv", "b", b"1", joined), store.increment("kv", "c", b"0.5")]
    await gatherResults([*others, store.get("kv", "none"), store.append("log", event())])
    assert sum(answer.called for answer in answers) < 150
    await gatherResults(answers)
    assert (await store.get("kv", "large0")).value[:5000] == bytes(5000)


@pytest_twisted.ensureDeferred
async def test_what_concerns_a_large_value_comes_after_what_was_sent_before(make_store: MakeRedisStore) -> None:
    store = make_store()
    await store.set("kv", "large0", bytes(200_000))
    answers = patched(store, 30)
    seen, gone, found = store.get("kv", "large0"), store.delete("kv", "large0"), store.range("kv", "a", "z", 10)
    assert (await seen).value[-30:] == b"0123456789" * 3
    assert all(answer.called for answer in answers)
    assert await gone is True
    assert await found == []


@pytest_twisted.ensureDeferred
async def test_more_changes_of_large_values_than_wait_at_most_are_refused_and_others_are_not(
    make_store: MakeRedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.redis.heavy.MAX_BYTES", 1_000_000)
    store = make_store()
    await store.set("kv", "large0", bytes(20_000))
    await gatherResults(patched(store, 2))
    answers = patched(store, 200)
    other = store.patch("kv", "small", b"1", joined)
    refused: list[Any] = []
    for answer in answers:
        answer.addErrback(lambda failure: refused.append(failure.value))
    await gatherResults([*answers, other])
    assert 100 < len(refused) < 160
    assert {type(error).__name__ for error in refused} == {"NotDone"}
    assert "too many large values" in str(refused[0])
    assert len((await store.get("kv", "large0")).value) == 20_002 + 200 - len(refused)


@pytest_twisted.ensureDeferred
async def test_large_values_that_are_no_numbers_are_not_read_to_find_that_out(
    make_store: MakeRedisStore, redis_server: RedisServer
) -> None:
    store, meter = make_store(), Meter(redis_server)
    await gatherResults([store.set("kv", f"{number}", b"x" * 200_000) for number in range(25)])
    await meter.read()
    answers = [store.increment("kv", f"{number}", b"1") for number in range(25)]
    other = store.increment("kv", "other", b"1")
    for answer in answers:
        answer.addErrback(lambda failure: failure.trap(Invalid))
    assert (await other).value == b"1"
    _, _, returned = await meter.read()
    assert returned < 1_500_000
    await gatherResults(answers)


@pytest_twisted.ensureDeferred
async def test_only_one_of_those_that_would_create_a_key_is_refused_for_its_quota(make_store: MakeRedisStore) -> None:
    store = make_store()
    none, one = Quota("keys", "none", 1), Quota("keys", "one", 1)
    await store.patch("kv", "first", b"1", joined, quota=none)
    patched = [store.patch("kv", "k", b"1", joined, quota=quota) for quota in (none, one, none)]
    with pytest.raises(RateLimited):
        await patched[0]
    assert [(await each).value for each in patched[1:]] == [b"1", b"11"]


@pytest_twisted.ensureDeferred
async def test_a_change_that_fails_changes_nothing_for_those_after_it(make_store: MakeRedisStore) -> None:
    store = make_store()
    await store.set("kv", "k", b"1.5")
    amounts = [store.increment("kv", "k", amount) for amount in (b"1", b"no number", b"2")]
    with pytest.raises(Invalid):
        await amounts[1]
    assert [(await amounts[index]).value for index in (0, 2)] == [b"2.5", b"4.5"]


# The order.


class Script:
    """Random operations, the same on any store, all submitted before the first has answered."""

    def __init__(self, seed: int, store: Any) -> None:
        self._random, self._store = random.Random(seed), store
        self.answers: list[Deferred[Any]] = []

    def run(self, count: int) -> None:
        for _ in range(count):
            self.answers.append(self._one(self._random.choice("gsrdpiianlthc")))

    def _one(self, verb: str) -> Deferred[Any]:
        choose, store = self._random.choice, self._store
        key, log = choose("abc"), choose(("log/a", "log/b"))
        filler = b"1" * choose((1, 3, 3000))
        match verb:
            case "g":
                return store.get("kv", key)
            case "s":
                return store.set("kv", key, choose((b"1", b"0.5", filler)), revision=choose((None, None, None, 0)))
            case "r":
                return store.set("other", key, filler)
            case "d":
                return store.delete("kv", key, revision=choose((None, None, 0)))
            case "p":
                return store.patch("kv", key, filler, joined)
            case "i":
                return store.increment("kv", key, choose((b"1", b"-2", b"0.25", b"x")))
            case "a":
                return store.append(log, Event("t", "n", filler, time=1.0))
            case "n":
                return store.append(log, Event("t", "n", b"small", time=1.0))
            case "l":
                return store.latest(log, 3).addCallback(lambda found: None)
            case "t":
                return store.trim(log, self._random.randrange(20))
            case "h":
                return store.head(log)
            case _:
                return store.read(log, self._random.randrange(10), 4).addCallback(lambda found: None)


def comparable(result: Any) -> Any:
    if isinstance(result, BrokerError):
        return type(result)
    if isinstance(result, Entry):
        return result.value, result.created  # operations on several keys may change places
    if isinstance(result, list):
        return [comparable(each) for each in result]
    if isinstance(result, tuple):
        return tuple(comparable(each) for each in result)
    return (result.id, result.body) if isinstance(result, Event) else result


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("seed", range(6))
async def test_operations_that_wait_for_nothing_take_effect_in_their_order(
    make_store: MakeRedisStore, monkeypatch: pytest.MonkeyPatch, small: None, seed: int
) -> None:
    if seed % 2:
        monkeypatch.setattr("broker.redis.batcher.MAX_BATCH_BYTES", 9_000)
        monkeypatch.setattr("broker.stores.redis.MAX_REPLY_BYTES", 3_000)
    if seed >= 3:
        monkeypatch.setattr("broker.redis.heavy.LARGE", 2_000)
        monkeypatch.setattr("broker.redis.heavy.CALL_BYTES", 4_000)
    memory = open_store("memory:", clock=Clock())
    memory.startService()  # type: ignore[no-untyped-call]
    results = []
    for store in (memory, make_store()):
        script = Script(seed, store)
        script.run(300)
        for answer in script.answers:
            answer.addErrback(lambda failure: failure.value)
        results.append([comparable(result) for result in await gatherResults(script.answers)])
    assert Conflict in results[0]
    assert Invalid in results[0]
    assert results[1] == results[0]


# Sweeping and trimming.


@pytest_twisted.ensureDeferred
async def test_a_sweep_of_much_goes_in_steps(make_store: MakeRedisStore, redis_server: RedisServer) -> None:
    store, meter = make_store(announce=False), Meter(redis_server)
    await fill(redis_server, store, 3000)
    await meter.read()
    assert await store.sweep("log", 5.0, 0) == 2999
    by_age, _, _ = await meter.read()
    assert by_age >= 2999 / 500
    assert [each.id for each in await store.read("log", 0, 9)] == [3000]


@pytest_twisted.ensureDeferred
async def test_a_sweep_by_number_goes_in_steps(make_store: MakeRedisStore, redis_server: RedisServer) -> None:
    store, meter = make_store(announce=False), Meter(redis_server)
    await fill(redis_server, store, 3000)
    await meter.read()
    assert await store.sweep("log", 0, 10) == 2990
    by_number, _, _ = await meter.read()
    assert by_number >= 2990 / 500
    assert [each.id for each in await store.read("log", 0, 1)] == [2991]


@pytest_twisted.ensureDeferred
async def test_a_trim_of_much_goes_in_steps_for_which_its_log_waits(
    make_store: MakeRedisStore, redis_server: RedisServer
) -> None:
    store, meter = make_store(announce=False), Meter(redis_server)
    await fill(redis_server, store, 3000)
    await meter.read()
    trimmed, read = store.trim("log", 2990), store.read("log", 0, 1)
    other = await store.append("other", event())
    assert other.id == 1
    assert not trimmed.called
    await trimmed
    assert [each.id for each in await read] == [2991]
    steps, _, _ = await meter.read()
    assert steps >= 2990 / 500
    await store.trim("log", 2**60)
    assert (await store.read("log", 0, 1), (await store.append("log", event())).id) == ([], 3001)


@pytest_twisted.ensureDeferred
async def test_what_came_after_a_mark_is_found_with_few_looks(
    make_store: MakeRedisStore, redis_server: RedisServer
) -> None:
    store = make_store(announce=True)
    marks = []
    for _ in range(40):
        await gatherResults([store.append("event/a", event()) for _ in range(50)])
        marks.append(await store.mark())
    await redis_server.command("CONFIG", "RESETSTAT")
    for number, mark in enumerate(marks[:-1], 1):
        assert await store.since("event/a", mark) == number * 50 + 1
    assert await store.since("event/a", 0) == 1
    assert await store.since("event/a", marks[-1]) == 0
    text = str(await redis_server.command("INFO", "commandstats"))
    looks = int(text.partition("cmdstat_xrange:calls=")[2].partition(",")[0])
    assert looks < 41 * 25
    assert "cmdstat_xrevrange" not in text


async def fill(redis: RedisServer, store: Any, count: int) -> None:
    """Let ``log`` have *count* events, all but the last of them from the second 1.0."""
    await redis.command("CONFIG", "SET", "appendfsync", "no")
    old = Event("t", "n", b"x" * 50, time=1.0)
    await gatherResults([store.append("log", old) for _ in range(count - 1)])
    await store.append("log", Event("t", "n", b"", time=9.0))


# Several nodes.


@pytest_twisted.ensureDeferred
async def test_nodes_that_read_an_index_at_once_write_one_row_of_each_event(make_store: MakeRedisStore) -> None:
    clock = cast(Any, reactor)
    nodes = [Indices(make_store(), clock) for _ in range(3)]
    store = make_store()
    await gatherResults([store.append("event/t", Event("t", "ab"[number % 2], None)) for number in range(600)])
    await nodes[0].create("i", "t", "name")

    def name(event: Event, field: str) -> str:
        return event.name

    reads = [Deferred.fromCoroutine(node.read("i", value, name)) for node in nodes * 2 for value in "ab"]
    for number, rows in enumerate(await gatherResults(reads)):
        assert [event.id for event in rows.events] == list(range(599 + number % 2, 0, -2))
    assert [await store.head(rows_log("i", value)) for value in "ab"] == [300, 300]


# Slices.


def each_look_takes_a_slice(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the reactor's slices end at each look at the time."""
    slices = slices_of(reactor)
    monkeypatch.setattr(slices, "now", count(0.0, SLICE).__next__)  # a pause is as long as what was too much
    return slices


@pytest_twisted.ensureDeferred
async def test_those_who_wait_for_one_call_are_answered_in_slices_and_in_order(
    make_store: MakeRedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    store = make_store(observe=lambda operations, seconds: calls.append(operations))
    await store.head("log")
    slices = each_look_takes_a_slice(monkeypatch)
    before = slices.pauses
    answered: list[int] = []
    waiting = [store.append("log", event()).addCallback(lambda each: answered.append(each.id)) for _ in range(10)]
    later: list[Any] = []
    waiting[0].addCallback(lambda _: later.append(store.append("log", event())))
    await gatherResults(waiting)
    assert answered == list(range(1, 11))
    assert slices.pauses - before >= 9
    assert (await later[0]).id == 11
    assert calls[1:] == [10]  # and that of the last is told when it is answered


@pytest_twisted.ensureDeferred
async def test_changes_that_take_long_to_compute_are_not_all_made_in_one_slice(
    make_store: MakeRedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, batches = make_store(), []
    await store.set("s", "k", b"")
    link = Chain.link

    def spy(chain: Chain, *arguments: Any) -> Any:
        left = link(chain, *arguments)
        batches.append(len(chain.operations()))
        return left

    monkeypatch.setattr(Chain, "link", spy)
    each_look_takes_a_slice(monkeypatch)
    await gatherResults([store.patch("s", "k", b"%d" % number, joined) for number in range(5)])
    assert batches == [1] * 5
    assert (await store.get("s", "k")).value == b"01234"


# A backlog.


@pytest_twisted.ensureDeferred
async def test_messages_wait_while_much_waits_for_redis(
    make_store: MakeRedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.redis.batcher.BACKLOG_BYTES", 10_000)
    monkeypatch.setattr("broker.redis.batcher.RESUME_BYTES", 2_000)
    monkeypatch.setattr("broker.redis.batcher.MAX_SENT_BYTES", 2_000)
    store, slices = make_store(), slices_of(reactor)
    waiting = [store.set("s", f"{number}", b"x" * 1000) for number in range(10)]
    assert slices.allows(1)
    waiting.append(store.set("s", "last", b"x"))
    assert not slices.allows(1)
    done: list[int] = []
    slices.add(lambda: done.append(sum(each.called for each in waiting)), message=True)
    await gatherResults(waiting)
    await eventually(lambda: done)
    assert 6 <= done[0] < 11
    assert slices.allows(1)


@pytest_twisted.ensureDeferred
async def test_messages_do_not_wait_for_a_redis_that_is_given_up(
    make_store: MakeRedisStore, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.redis.batcher.BACKLOG_BYTES", 1_000)
    store = make_store()
    await store.head("log")
    await redis_server.kill()
    await eventually(lambda: store.ready)
    lost = store.set("s", "k", b"x" * 2000)
    assert not slices_of(reactor).allows(1)
    with pytest.raises(Unavailable):
        await lost
    assert slices_of(reactor).allows(1)


@pytest_twisted.ensureDeferred
async def test_what_is_sent_at_once_is_bounded_by_its_bytes(
    make_store: MakeRedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.redis.batcher.MAX_SENT_BYTES", 2_500)
    calls: list[int] = []
    store = make_store(observe=lambda operations, seconds: calls.append(operations))
    await gatherResults([store.set("s", f"{number}", b"x" * 1000) for number in range(10)])
    assert max(calls) == 3


# Memory.


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("verb", ["append", "get", "set", "patch", "increment", "of a fraction"])
async def test_what_was_answered_is_gone_without_the_garbage_collector(
    make_store: MakeRedisStore, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    store = make_store()
    await store.set("s", "k", b"1")
    submitted: list[weakref.ref[Operation]] = []
    submit = store._batcher.submit

    def spy(operation: Operation) -> Deferred[Any]:
        submitted.append(weakref.ref(operation))
        return submit(operation)

    monkeypatch.setattr(store._batcher, "submit", spy)
    act = {
        "append": lambda: store.append("log", event()),
        "get": lambda: store.get("s", "k"),
        "set": lambda: store.set("s", "k", b"2"),
        "patch": lambda: store.patch("s", "k", b"2", joined),
        "increment": lambda: store.increment("s", "k", b"2"),
        "of a fraction": lambda: store.increment("s", "k", b"0.5"),
    }[verb]
    gc.collect()
    gc.disable()
    try:
        await gatherResults([act() for _ in range(3)])
        await store.head("log")  # the batch of these has ended
        assert [each() for each in submitted[:3]] == [None] * 3
    finally:
        gc.enable()
