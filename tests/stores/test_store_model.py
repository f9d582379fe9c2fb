"""Every store does what a small model does, whatever is asked in whatever order."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections import Counter
from typing import Any

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.errors import BrokerError
from broker.interfaces import IStore
from broker.messages import Addition, Entry, Event
from broker.stores import open_store
from tests.support.store_pump import Pump

pytestmark = pytest.mark.unmeasured  # others run the same code

NOW = 1_700_000_000
HOUR = 3600

logs = st.sampled_from(["a", "a/1", "a/é", "b\x00", "😀"])
prefixes = st.sampled_from(["", "a", "a/", "b"])
spaces = st.sampled_from(["s", "t"])
keys = st.sampled_from(["", "k", "k\x00", "l", "é", "\uffff", "😀"])
values = st.sampled_from([b"", b"1", b"-7", b"2.5", b"text", b"\xff"])
revisions = st.none() | st.integers(0, 9)
limits = st.integers(-1, 6)
heads = st.sampled_from([None, None, 0, 1])  # what is expected, beside the last id that there is
expiries = st.sampled_from([0, 0, 1, 5, 60])  # seconds from now; 0: never


def join(stored: bytes, value: bytes) -> bytes:
    return stored + b"," + value


def added(stored: bytes, amount: bytes) -> bytes | None:
    """Say independently of the stores what a sum is; halves are exact doubles."""
    try:
        total = float(stored) + float(amount)
    except ValueError:
        return None
    return b"%d" % total if total == int(total) else str(total).encode()


@attrs.define
class Model:
    """What a store should hold: plain lists and dictionaries."""

    events: dict[str, list[tuple[int, bytes, float]]] = attrs.field(factory=dict)
    heads: dict[str, int] = attrs.field(factory=dict)
    entries: dict[tuple[str, str], Entry] = attrs.field(factory=dict)
    revisions: Counter[str] = attrs.field(factory=Counter)
    firsts: dict[tuple[str, str], tuple[int, float, float]] = attrs.field(factory=dict)  # id, end of the key, time
    now: float = NOW

    def first(self, log: str, key: str) -> int:
        id, end, _ = self.firsts.get((log, key), (0, 0.0, 0.0))
        return id if key and end > self.now else 0

    def alive(self, space: str, key: str) -> Entry | None:
        entry = self.entries.get((space, key))
        return None if entry is None or 0 < entry.expires <= self.now else entry

    def put(self, space: str, key: str, value: bytes, expires: float) -> Entry:
        self.revisions[space] += 1
        entry = self.entries[space, key] = Entry(value, self.revisions[space], expires)
        return entry

    def remove(self, space: str, key: str) -> None:
        self.revisions[space] += 1
        del self.entries[space, key]

    def conflicts(self, space: str, key: str, revision: int | None) -> bool:
        entry = self.alive(space, key)
        return revision is not None and revision != (entry.revision if entry else 0)

    def cut(self, log: str, count: int) -> int:
        del self.events[log][:count]
        return count


def brief(found: Any) -> Any:
    """Return what the model knows of a result."""
    if isinstance(found, list):
        return [brief(each) for each in found]
    return (found.id, found.body, found.time) if isinstance(found, Event) else found


class StoreMachine(RuleBasedStateMachine):
    """Calls without waiting, and compares when it has waited."""

    durable = False

    def open(self) -> IStore:
        return open_store("memory:", clock=self.clock)

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp(prefix="txbroker-")
        self.clock = Clock()
        self.clock.advance(NOW)
        self.pump = Pump()
        self.model = Model()
        self.pending: list[tuple[Deferred[Any], Any]] = []
        self.count = 0
        self.store = self.open()
        self.store.startService()
        self.epoch = self.store.epoch

    def teardown(self) -> None:
        self.settle()
        self.pump.stop(self.store)
        shutil.rmtree(self.directory)

    def expect(self, answer: Deferred[Any], expected: Any) -> None:
        self.pending.append((answer, expected))

    @rule()
    def settle(self) -> None:
        pending, self.pending = self.pending, []
        for answer, expected in pending:
            try:
                found = brief(self.pump.result(answer))
            except BrokerError as error:
                found = error.code
            assert found == expected

    @rule(seconds=st.sampled_from([0.5, 1, 5, HOUR]))
    def time_passes(self, seconds: float) -> None:
        self.settle()  # a store looks at the clock when it does its work
        self.clock.advance(seconds)
        self.model.now += seconds

    # Logs.

    @rule(log=logs, times=st.lists(st.integers(-9, 0), min_size=1, max_size=6))
    def append(self, log: str, times: list[int]) -> None:
        for back in times:
            self.count += 1
            body, time = b"%d" % self.count, self.model.now + back
            head = self.model.heads[log] = self.model.heads.get(log, 0) + 1
            self.model.events.setdefault(log, []).append((head, body, time))
            self.expect(self.store.append(log, Event("topic", "kind", body, time=time)), (head, body, time))

    @rule(several=st.lists(st.tuples(logs, st.sampled_from(["", "", "k", "l"]), heads), min_size=1, max_size=5))
    def append_all(self, several: list[tuple[str, str, int | None]]) -> None:
        model, expected, additions = copy.deepcopy(self.model), [], []
        for log, key, beside in several:
            self.count += 1
            head, body = model.heads.get(log, 0), b"%d" % self.count
            wanted = None if beside is None else head + beside
            additions.append(Addition(log, Event("topic", "kind", body, time=model.now), None, wanted, key))
            first = model.first(log, key)
            if first:
                expected.append((first, body, model.firsts[log, key][2]))
            elif beside:
                self.expect(self.store.append_all(additions, 5.0), "CONFLICT")
                return
            else:
                model.heads[log] = head + 1
                model.events.setdefault(log, []).append((head + 1, body, model.now))
                model.firsts[log, key] = (head + 1, model.now + 5, model.now)
                expected.append((head + 1, body, model.now))
        self.model = model
        self.expect(self.store.append_all(additions, 5.0), expected)

    @rule(log=logs, after=st.integers(-1, 30), limit=limits)
    def read(self, log: str, after: int, limit: int) -> None:
        events = [each for each in self.model.events.get(log, []) if each[0] > after]
        self.expect(self.store.read(log, after, limit), events[: max(0, limit)])

    @rule(log=logs, limit=limits)
    def latest(self, log: str, limit: int) -> None:
        events = self.model.events.get(log, [])
        self.expect(self.store.latest(log, limit), events[-limit:] if limit > 0 else [])

    @rule(log=logs)
    def head(self, log: str) -> None:
        self.expect(self.store.head(log), self.model.heads.get(log, 0))

    @rule(log=logs, upto=st.integers(0, 30))
    def trim(self, log: str, upto: int) -> None:
        if log in self.model.events:
            self.model.cut(log, sum(each[0] <= upto for each in self.model.events[log]))
        self.expect(self.store.trim(log, upto), None)

    @rule(prefix=prefixes, age=st.sampled_from([None, 0, 1, 4, 30]), keep=st.integers(0, 4))
    def sweep(self, prefix: str, age: int | None, keep: int) -> None:
        before = 0 if age is None else self.model.now - age
        gone = 0
        for log, events in self.model.events.items():
            if log.startswith(prefix):
                gone += self.model.cut(log, max(0, len(events) - keep) if keep else 0)
                gone += self.model.cut(
                    log, next((n for n, each in enumerate(events) if each[2] >= before), len(events))
                )
        for name, entry in list(self.model.entries.items()):
            if 0 < entry.expires <= self.model.now - HOUR:
                self.model.remove(*name)
        # Sweeping works in steps, so that what comes right behind may see it half done.
        self.settle()
        self.expect(self.store.sweep(prefix, before, keep), gone)
        self.settle()

    @rule(prefix=prefixes, after=logs | st.just(""), limit=limits)
    def logs(self, prefix: str, after: str, limit: int) -> None:
        full = {log for log, events in self.model.events.items() if events}
        names = sorted(log for log in full if log.startswith(prefix) and log > after)
        # One without events may have been forgotten, or not yet.
        self.expect(
            self.store.logs(prefix, after, 99).addCallback(lambda found: [n for n in found if n in full]), names
        )
        if full == set(self.model.heads):
            self.expect(self.store.logs(prefix, after, limit), names[: max(0, limit)])

    # Keys.

    @rule(space=spaces)
    def revision(self, space: str) -> None:
        self.expect(self.store.revision(space), self.model.revisions[space])

    @rule(space=spaces, key=keys)
    def get(self, space: str, key: str) -> None:
        self.expect(self.store.get(space, key), self.model.alive(space, key))

    @rule(space=spaces, key=keys, value=values, revision=revisions, expires=expiries)
    def set(self, space: str, key: str, value: bytes, revision: int | None, expires: float) -> None:
        when = self.model.now + expires if expires else 0.0
        conflict = self.model.conflicts(space, key, revision)
        expected = "CONFLICT" if conflict else self.model.put(space, key, value, when)
        self.expect(self.store.set(space, key, value, revision=revision, expires=when), expected)

    @rule(space=spaces, key=keys, revision=revisions)
    def delete(self, space: str, key: str, revision: int | None) -> None:
        expected: object = "CONFLICT"
        if not self.model.conflicts(space, key, revision):
            expected = self.model.alive(space, key) is not None
            if expected:
                self.model.remove(space, key)
        self.expect(self.store.delete(space, key, revision=revision), expected)

    @rule(space=spaces, key=keys, value=values)
    def patch(self, space: str, key: str, value: bytes) -> None:
        before = self.model.alive(space, key)
        merged, expires = (join(before.value, value), before.expires) if before else (value, 0.0)
        self.expect(self.store.patch(space, key, value, join), self.model.put(space, key, merged, expires))

    @rule(space=spaces, key=keys, amount=st.sampled_from([b"1", b"-3", b"0.5", b"x"]))
    def increment(self, space: str, key: str, amount: bytes) -> None:
        before = self.model.alive(space, key)
        total = added(before.value if before else b"0", amount)
        expected: object = "INVALID"
        if total is not None:
            expected = self.model.put(space, key, total, before.expires if before else 0.0)
        self.expect(self.store.increment(space, key, amount), expected)

    @rule(space=spaces, first=keys, last=keys, limit=limits)
    def range(self, space: str, first: str, last: str, limit: int) -> None:
        names = sorted(key for owner, key in self.model.entries if owner == space and first <= key <= last)
        found = [(key, entry) for key in names if (entry := self.model.alive(space, key))]
        self.expect(self.store.range(space, first, last, limit), found[: max(0, limit)])

    @rule(space=spaces)
    def expired(self, space: str) -> None:
        due = sorted(
            key
            for (owner, key), entry in self.model.entries.items()
            if owner == space and 0 < entry.expires <= self.model.now
        )
        for key in due:
            self.model.remove(space, key)
        self.expect(self.store.expired(space, 99).addCallback(sorted), due)

    # The store itself.

    @precondition(lambda self: self.durable)
    @rule()
    def reopen(self) -> None:
        self.pump.stop(self.store)
        self.settle()
        self.store = self.open()
        self.store.startService()

    @invariant()
    def it_stays_the_same_store(self) -> None:
        assert self.store.epoch == self.epoch
        assert self.store.ready == ""


class SqliteMachine(StoreMachine):
    durable = True

    def open(self) -> IStore:
        return open_store("sqlite:", clock=self.clock, directory=self.directory, durability="os", reactor=self.pump)


TestMemoryModel = StoreMachine.TestCase
TestSqliteModel = SqliteMachine.TestCase
