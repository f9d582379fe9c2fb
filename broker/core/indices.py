"""Indices: channels derived from a channel by the value of one field.

The rows of one value are a log of the ids of its events.  An index is brought
up to date when it is read, from where it was left, so that a read costs what
has been posted since the last one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from broker.core.bounded import BoundedDict
from broker.core.lives import life_end
from broker.core.pages import READ_BYTES, STEP, id_of, is_over, position_of, read_before
from broker.core.semaphore import Semaphore
from broker.core.slices import slices_of
from broker.errors import Conflict, NotFound, Unavailable
from broker.interfaces import MAX_PAGE_BYTES, IStore
from broker.messages import MAX_ID, Entry, Event, IndexRows, Quota, encode_text
from broker.patterns import LOG_PREFIX, pair_key

DEFINITION = "index"  # space: id -> channel and field
POSITION = "index-at"  # space: id -> id of the last event that was indexed
ROWS = "index/"  # the logs of rows begin with it
KNOWN_TAILS = 10_000  # logs of rows whose last row a node remembers
MAX_READERS = 10_000  # of one index, that wait
LOGS_PER_STEP = 500  # looked at, or trimmed, before the reactor gets to other work
ROWS_PER_READ = 256  # of one value, before the reactor gets to other work
EVENTS_PER_READ = 64  # events that are indexed before the position is stored
BYTES_PER_READ = 1 << 20  # of their bodies

LAST = "\U0010ffff" * 8  # nearly all values sort before it


T = TypeVar("T")


class Definition(msgspec.Struct):
    """What is stored of an index."""

    channel: str
    field: str


_definition = msgspec.json.Decoder(Definition).decode

Extract = Callable[[Event, str], str | None]
Reading = Callable[[], AbstractAsyncContextManager[None]]


def rows_log(id: str, value: str) -> str:
    """Return the name of the log of one value's rows."""
    return ROWS + pair_key(id, value)


def definition_text(topic: str, field: str) -> bytes:
    """Return what is stored of an index."""
    return json.dumps({"channel": topic, "field": field}).encode()


class Indices:
    """Creates indices and reads them.

    Args:
        store: keeps definitions, positions and rows.
        clock: gives the time.
        life: seconds that an index lives without being read; 0: for ever.
        rows_limit: how many rows a read returns at most.
        max_bytes: bytes of their bodies after which it returns no more.
    """

    def __init__(
        self,
        store: IStore,
        clock: IReactorTime,
        life: float = 0.0,
        rows_limit: int = 10000,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> None:
        self._store, self._clock, self._life = store, clock, life
        self._slices = slices_of(clock)
        self._limit = rows_limit
        self._max_bytes = max_bytes
        self._semaphores: dict[str, Semaphore] = {}
        self._tails: BoundedDict[str, tuple[int, int]] = BoundedDict(KNOWN_TAILS)

    async def create(self, id: str, topic: str, field: str, quota: Quota | None = None) -> bool:
        """Define index *id*, which counts against *quota*; False when there is one of that id, which stays as it is."""
        if await self._store.get(DEFINITION, id) is not None:
            return False
        await self._forget_rows(id)  # of one that has ended
        text, end = definition_text(topic, field), self._end()
        try:
            await self._store.set(DEFINITION, id, text, revision=0, expires=end, quota=quota)
        except Conflict:
            return False
        return True

    def _end(self) -> float:
        return life_end(self._store.wall.time(), self._life)

    async def forget_ended(self) -> None:
        """Trim the rows of indices that have ended; sweeping forgets their logs."""
        seen, after = 0, ""
        while found := await self._store.logs(ROWS, after, 1):
            id = _index_of(found[0])
            if await self._store.get(DEFINITION, id) is None:
                await self._forget_rows(id)
            # Past all that begins like this; a log that is not, by its strange value, is looked at by itself.
            after = max(found[0], rows_log(id, LAST), key=encode_text)
            seen += 1
            if seen % LOGS_PER_STEP == 0:
                await deferLater(self._clock, 0)

    async def _forget_rows(self, id: str) -> None:
        await self._store.delete(POSITION, id)
        after = ""
        while logs := await self._store.logs(rows_log(id, ""), after, LOGS_PER_STEP):
            await _done([self._store.trim(log, MAX_ID) for log in logs])
            after = logs[-1]
            if len(logs) < LOGS_PER_STEP:
                return
            await deferLater(self._clock, 0)

    async def definition(self, id: str) -> tuple[str, str]:
        """Return the topic and the field of index *id*.

        Raises:
            NotFound: there is no such index.
        """
        entry = await self._definition(id)
        try:
            found = _definition(entry.value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise NotFound("index", id) from None  # stored by another program
        return found.channel, found.field

    async def _definition(self, id: str) -> Entry:
        entry = await self._store.get(DEFINITION, id)
        if entry is None:
            raise NotFound("index", id)
        return entry

    async def _prolong(self, id: str) -> None:
        """Let the index live on: it is used."""
        entry, end = await self._definition(id), self._end()
        if entry.expires == end:
            return
        try:
            await self._store.set(DEFINITION, id, entry.value, revision=entry.revision, expires=end)
            position = await self._store.get(POSITION, id)
            if position is not None:
                await self._store.set(POSITION, id, position.value, revision=position.revision, expires=end)
        except (Conflict, Unavailable):
            pass  # another node has done so, or nothing can be stored now: the next use tries again

    async def read(self, id: str, value: str, extract: Extract, reading: Reading = nullcontext) -> IndexRows:
        """Return the events of the index whose field is *value*.

        *extract* returns the text at the field of an event, or None.  In *reading*, which may wait, the events are
        read that are returned, but not those that are indexed.

        Raises:
            NotFound: there is no such index.
        """
        topic, field = await self.definition(id)
        semaphore = self._semaphores.get(id)
        if semaphore is None:
            semaphore = self._semaphores[id] = Semaphore(1, MAX_READERS, "index")
        try:
            async with semaphore.permit():
                await self._prolong(id)
                await self._advance(id, topic, field, extract)
        finally:
            if semaphore.unused:
                self._semaphores.pop(id, None)
        ids = await self._ids(rows_log(id, value))
        async with reading():
            return IndexRows(id, field, value, await self._events(topic, ids))

    async def _ids(self, log: str) -> list[int]:
        """Return the ids of the last events whose rows *log* has, the latest first."""
        found: set[int] = set()  # there may be several rows of an event that were written by a version before this
        step = min(ROWS_PER_READ, self._limit)
        end = self._slices.deadline()
        refs = await self._store.latest(log, step)
        complete = len(refs) < step
        while refs:
            found.update([id_of(ref.body or b"") for ref in refs])
            if complete or len(found) >= self._limit:
                break
            end = await self._slices.checked(end)
            refs = await read_before(self._store, log, refs[0].id, step)
        return sorted(found - {0}, reverse=True)[: self._limit]

    async def _advance(self, id: str, topic: str, field: str, extract: Extract) -> None:
        entry = await self._store.get(POSITION, id)
        while events := await self._store.read(LOG_PREFIX + topic, position_of(entry), EVENTS_PER_READ, READ_BYTES):
            position, revision = b"%d" % events[-1].id, entry.revision if entry else 0
            try:
                await self._add_rows(id, topic, field, events, extract)
                entry = await self._store.set(POSITION, id, position, revision=revision, expires=self._end())
            except Conflict:
                entry = await self._store.get(POSITION, id)  # another node indexes it, too

    async def _add_rows(self, id: str, topic: str, field: str, events: list[Event], extract: Extract) -> None:
        """Add the rows of *events*, but for those that there are.

        Raises:
            Conflict: another node has added some at the same time.
        """
        rows: dict[str, list[Event]] = {}
        end = self._slices.deadline()
        for event in events:
            if value := extract(event, field):
                row = Event(topic, "", b"%d" % event.id, time=event.time)
                rows.setdefault(rows_log(id, value), []).append(row)
            end = await self._slices.checked(end)
        try:
            tails = await _done([Deferred.fromCoroutine(self._tail(log, events[0].id)) for log in rows])
            await _done(self._append_missing(rows, tails))
        except BaseException:
            for log in rows:
                self._tails.pop(log, None)
            raise

    def _append_missing(self, rows: dict[str, list[Event]], tails: list[tuple[int, int]]) -> list[Deferred[Event]]:
        """Append those of *rows* that come after the *tails* of their logs.

        Each only if what is before it is what is expected: so there are no two rows of an event, and none is
        missing, whatever becomes of the writes.
        """
        writes: list[Deferred[Event]] = []
        for (log, new), (head, last) in zip(rows.items(), tails, strict=True):
            missing = [row for row in new if id_of(row.body or b"") > last]
            self._tails[log] = head + len(missing), max(last, id_of(new[-1].body or b""))
            writes += [self._store.append(log, row, None, head + index) for index, row in enumerate(missing)]
        return writes

    async def _tail(self, log: str, first: int) -> tuple[int, int]:
        """Return the last id of *log*, and the id of the event whose row that is; 0 for none.

        *first* is the id of the first event that is to be indexed.
        """
        known = self._tails.get(log)
        # One beyond that may be of an index that has ended since.
        if known is not None and known[1] < first:
            return known
        # The head first: if it is that of no row, then none is added in between without a conflict.
        reads: list[Deferred[Any]] = [self._store.head(log), self._store.latest(log, 1)]
        head, rows = await _done(reads)
        return (rows[0].id, id_of(rows[0].body or b"")) if rows else (head, 0)

    async def _events(self, topic: str, ids: list[int]) -> list[Event]:
        found: list[Event] = []
        size = 0
        end = self._slices.deadline()
        for first, last in _runs(ids):
            while last >= first:
                end = await self._slices.checked(end)
                events = await read_before(self._store, LOG_PREFIX + topic, last + 1, last - first + 1)
                for event in reversed(events):
                    if event.expires and is_over(self._store, event):
                        continue
                    size += len(event.body or b"")
                    if size > self._max_bytes and found:
                        return found
                    found.append(event)
                # Fewer than asked for when they are large; none when retention took them.
                last = events[0].id - 1 if events else 0
        return found


def _index_of(log: str) -> str:
    """Return the id of the index whose rows *log* has: the first of its ``pair_key``."""
    length, _, rest = log.removeprefix(ROWS).partition(":")
    return rest[: int(length)]


async def _done(operations: list[Deferred[T]]) -> list[T]:
    """Return the results when all of *operations* are done; raise what one of them has failed with."""
    results: list[T] = []
    for _, outcome in await DeferredList(operations, consumeErrors=True):
        if isinstance(outcome, Failure):
            outcome.raiseException()
        results.append(outcome)
    return results


def _runs(ids: list[int]) -> Iterator[tuple[int, int]]:
    """Yield (lowest, highest) of each stretch of *ids*, which fall; of a long one piece by piece."""
    start = 0
    for index in range(1, len(ids) + 1):
        if index == len(ids) or ids[index] != ids[index - 1] - 1 or index - start == STEP:
            yield ids[index - 1], ids[start]
            start = index
