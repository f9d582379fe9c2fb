"""Indices: channels derived from a channel by the value of one field.

The rows of one value are a log of the ids of its events.  An index is brought
up to date when it is read, from where it was left, so that a read costs what
has been posted since the last one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, DeferredList, DeferredLock
from twisted.python.failure import Failure

from broker.core.pages import STEP, id_of, position_of
from broker.errors import Conflict, NotFound
from broker.interfaces import MAX_PAGE_BYTES, IStore
from broker.messages import Event, IndexRows
from broker.patterns import LOG_PREFIX, pair_key

DEFINITION = "index"  # space: id -> channel and field
POSITION = "index-at"  # space: id -> id of the last event that was indexed
ROWS = "index/"  # the logs of rows begin with it
EVENTS_PER_READ = 64  # events read at once, since each may be as large as a message


class Definition(msgspec.Struct):
    """What is stored of an index."""

    channel: str
    field: str


_definition = msgspec.json.Decoder(Definition).decode

Extract = Callable[[Event, str], str | None]


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
        rows_limit: how many rows a read returns at most.
        max_bytes: bytes of their bodies after which it returns no more.
    """

    def __init__(self, store: IStore, rows_limit: int = 10000, max_bytes: int = MAX_PAGE_BYTES) -> None:
        self._store = store
        self._limit = rows_limit
        self._max_bytes = max_bytes
        self._locks: dict[str, DeferredLock] = {}

    async def create(self, id: str, topic: str, field: str) -> bool:
        """Define index *id*; False when there is one of that id, which stays as it is."""
        try:
            await self._store.set(DEFINITION, id, definition_text(topic, field), revision=0)
        except Conflict:
            return False
        return True

    async def definition(self, id: str) -> tuple[str, str]:
        """Return the topic and the field of index *id*.

        Raises:
            NotFound: there is no such index.
        """
        entry = await self._store.get(DEFINITION, id)
        if entry is None:
            raise NotFound("index", id)
        try:
            found = _definition(entry.value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise NotFound("index", id) from None  # stored by another program
        return found.channel, found.field

    async def read(self, id: str, value: str, extract: Extract) -> IndexRows:
        """Return the events of the index whose field is *value*.

        *extract* returns the text at the field of an event, or None.

        Raises:
            NotFound: there is no such index.
        """
        topic, field = await self.definition(id)
        lock = self._locks.setdefault(id, DeferredLock())
        await lock.acquire()
        try:
            await self._advance(id, topic, field, extract)
        finally:
            lock.release()
            if not lock.locked and not lock.waiting:
                self._locks.pop(id, None)
        refs = await self._store.latest(rows_log(id, value), self._limit)
        # A crash between the rows and the position may have written one twice.
        ids = sorted({id_of(ref.body or b"") for ref in refs}, reverse=True)
        return IndexRows(id, field, value, await self._events(topic, ids))

    async def _advance(self, id: str, topic: str, field: str, extract: Extract) -> None:
        entry = await self._store.get(POSITION, id)
        position = position_of(entry)
        while events := await self._store.read(LOG_PREFIX + topic, position, EVENTS_PER_READ):
            writes = [
                self._store.append(rows_log(id, value), Event(topic, "", b"%d" % event.id, time=event.time))
                for event in events
                if (value := extract(event, field))
            ]
            await _done(writes)
            position = events[-1].id
            await self._store.set(POSITION, id, b"%d" % position)

    async def _events(self, topic: str, ids: list[int]) -> list[Event]:
        found: list[Event] = []
        size = 0
        for first, last in _runs(ids):
            events = await self._store.read(LOG_PREFIX + topic, first - 1, last - first + 1)
            for event in reversed(events):
                if event.id > last:
                    continue  # retention took some: a read then returns later ones instead
                size += len(event.body or b"")
                if size > self._max_bytes and found:
                    return found
                found.append(event)
        return found


async def _done(writes: list[Deferred[Any]]) -> None:
    """Return when all of *writes* are done; raise what one of them has failed with."""
    for _, outcome in await DeferredList(writes, consumeErrors=True):
        if isinstance(outcome, Failure):
            outcome.raiseException()


def _runs(ids: list[int]) -> Iterator[tuple[int, int]]:
    """Yield (lowest, highest) of each stretch of *ids*, which fall; of a long one piece by piece."""
    start = 0
    for index in range(1, len(ids) + 1):
        if index == len(ids) or ids[index] != ids[index - 1] - 1 or index - start == STEP:
            yield ids[index - 1], ids[start]
            start = index
