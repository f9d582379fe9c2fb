"""Imports what a ganomede-events server has stored in its Redis.

Its keys: ``indices:<channel>`` is the last id of a channel, or the definition of
an index of that name; ``<channel>:keys`` sorts the keys of the channel's events, ``<channel>:<id>``
is one as JSON; ``last-fetched:<clientId>:<channel>`` is a cursor.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred

from broker.core.afterwards import afterwards
from broker.core.channels import CURSOR, cursor_key
from broker.core.indices import DEFINITION, definition_text
from broker.core.lives import life_end
from broker.errors import Conflict, Unavailable, with_detail
from broker.interfaces import IStore
from broker.messages import MAX_ID, MAX_TIME, Event
from broker.patterns import LOG_PREFIX
from broker.redis import RedisAddress
from broker.redis.connection import Connection

PAGE_SIZE = 500  # keys read, or events stored, in one step
MAX_CURSOR_DIGITS = 20  # more than those of ``MAX_ID``
FIRST_CONNECTION_TIMEOUT = 10.0  # seconds


class OriginalEvent(msgspec.Struct, rename={"source": "from", "name": "type"}):
    """An event as the original stores it."""

    id: int
    timestamp: float = 0
    name: str = ""
    source: str = ""
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class OriginalIndex(msgspec.Struct):
    """An index as the original stores it."""

    id: str
    channel: str
    field: str


_decode_event = msgspec.json.Decoder(OriginalEvent).decode
_decode_index = msgspec.json.Decoder(OriginalIndex).decode


@attrs.define
class Report:
    """What was imported.

    Attributes:
        events: how many events were stored, by channel.
        cursors: how many cursors were stored.
        indices: how many indices were defined.
        notes: what an operator should know, a sentence each.
    """

    events: dict[str, int] = attrs.field(factory=dict)
    cursors: int = 0
    indices: int = 0
    notes: list[str] = attrs.field(factory=list)

    def __str__(self) -> str:
        total = sum(self.events.values())
        return f"{total} events of {len(self.events)} channels, {self.cursors} cursors, {self.indices} indices"


class Importer:
    """Copies from the original's Redis into a store.

    It can be run again: what was imported already stays as it is.

    Args:
        url: of the original's Redis.
        store: started.
        reactor: connects.
        cursor_seconds: how long a cursor lives without use; 0: for ever.
        index_seconds: how long an index does.

    Attributes:
        report: what was imported so far.

    Raises:
        Invalid: *url* is not that of a Redis, or Redis support is not installed.
    """

    def __init__(
        self, url: str, store: IStore, reactor: Any, cursor_seconds: float = 0.0, index_seconds: float = 0.0
    ) -> None:
        self._store, self._reactor = store, reactor
        self._cursor_seconds, self._index_seconds = cursor_seconds, index_seconds
        self._opened: Deferred[None] = Deferred()
        self._connection = Connection(
            RedisAddress.parse(url),
            reactor,
            purpose="the import",
            prepare=_nothing,
            opened=self._on_opened,
            closed=lambda: None,
        )
        self._ids: dict[str, list[int]] = {}  # by channel: the ids of the original, in the order of ours
        self.report = Report()

    async def run(self) -> Report:
        """Copy everything.

        Raises:
            Unavailable: one of the two can not be reached, or was lost on the way.
        """
        self._connection.start()
        await afterwards(self._import(), self._connection.stop)
        return self.report

    async def _import(self) -> None:
        await self._opened.addTimeout(FIRST_CONNECTION_TIMEOUT, self._reactor, self._timed_out)
        await self._import_channels_and_indices()
        await self._import_cursors()

    def _on_opened(self) -> None:
        if not self._opened.called:
            self._opened.callback(None)

    def _timed_out(self, *_: object) -> None:
        raise Unavailable("redis", message=with_detail("Redis can not be used", self._connection.problem))

    async def _import_channels_and_indices(self) -> None:
        async for key in self._scan(b"indices:*"):
            name, value = key.removeprefix(b"indices:").decode(), await self._execute(b"GET", key)
            if value is None:
                continue
            if value.isdigit():
                await self._import_channel(name)
            else:
                await self._import_index(value)

    async def _import_channel(self, channel: str) -> None:
        ids, done = self._ids.setdefault(channel, []), await self._store.head(LOG_PREFIX + channel)
        stored = 0
        async for events in self._read_events(channel):
            fresh = events[max(0, done - len(ids)) :]
            ids += [event.id for event in events]
            await gatherResults(
                [self._store.append(LOG_PREFIX + channel, _imported(channel, event)) for event in fresh]
            )
            stored += len(fresh)
        self.report.events[channel] = stored
        if done > len(ids):
            self.report.notes.append(f"channel {channel!r} has events of its own here: nothing was added")
        elif ids != list(range(1, len(ids) + 1)):
            self.report.notes.append(f"channel {channel!r} had holes among its ids: its events have new ones from 1 on")

    async def _read_events(self, channel: str) -> AsyncIterator[list[OriginalEvent]]:
        start = 0
        while keys := await self._execute(b"ZRANGE", f"{channel}:keys", start, start + PAGE_SIZE - 1):
            texts = await self._execute(b"MGET", *keys)
            found = []
            for key, text in zip(keys, texts, strict=True):
                try:
                    found.append(_decode_event(text or b""))
                except msgspec.DecodeError:
                    self.report.notes.append(f"{key.decode('utf-8', 'replace')!r} is no event: it was skipped")
            yield found
            start += len(keys)

    async def _import_index(self, value: bytes) -> None:
        definition = _decode_index(value)
        text = definition_text(definition.channel, definition.field)
        try:
            end = life_end(self._store.wall.time(), self._index_seconds)
            await self._store.set(DEFINITION, definition.id, text, revision=0, expires=end)
        except Conflict:
            return
        self.report.indices += 1

    async def _import_cursors(self) -> None:
        prefix = b"last-fetched:"
        async for key in self._scan(prefix + b"*"):
            value, rest = await self._execute(b"GET", key), key.removeprefix(prefix).decode("utf-8", "replace")
            # Names may hold colons: every channel that fits, and the rest is the client.
            fitting = [channel for channel in self._ids if rest.endswith(":" + channel)]
            if len(fitting) > 1:
                self.report.notes.append(f"the cursor {rest!r} can be read in {len(fitting)} ways: all were imported")
            for channel in fitting if value is not None and value.isdigit() else ():
                after = int(value[:MAX_CURSOR_DIGITS])  # of more, only that it is beyond every event counts
                await self._import_cursor(rest[: -len(channel) - 1], channel, min(after, MAX_ID))

    async def _import_cursor(self, client: str, channel: str, after: int) -> None:
        # Ours of the last event that was acknowledged; beyond the end it stays what it was.
        ids = self._ids[channel]
        ours = sum(id <= after for id in ids) if not ids or after <= ids[-1] else after
        try:
            end = life_end(self._store.wall.time(), self._cursor_seconds)
            await self._store.set(CURSOR, cursor_key(client, channel), b"%d" % ours, revision=0, expires=end)
        except Conflict:
            return
        self.report.cursors += 1

    async def _scan(self, pattern: bytes) -> AsyncIterator[bytes]:
        cursor = b"0"
        while True:
            cursor, keys = await self._execute(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", PAGE_SIZE)
            for key in keys:
                yield key
            if cursor == b"0":
                return

    async def _execute(self, *words: Any) -> Any:
        protocol = self._connection.protocol
        if protocol is None:
            raise Unavailable("redis", message=with_detail("Redis was lost", self._connection.problem))
        return await protocol.execute_command(*words)


def _imported(channel: str, event: OriginalEvent) -> Event:
    body = None if event.data is msgspec.UNSET else bytes(event.data)
    time = event.timestamp / 1000
    # 0.0: that of the import.  A time that no clock shows could not be told to any client.
    return Event(channel, event.name, body, time=time if 0 <= time <= MAX_TIME else 0.0, author=event.source)


async def _nothing(_: object) -> None:
    """Prepare nothing: the connection needs no script."""


async def import_ganomede(
    url: str, store: IStore, reactor: Any, print_note: Callable[[str], object], **lives: float
) -> Report:
    """Start *store*, copy what is in the Redis at *url* into it, and stop it.

    Args:
        url: of the original's Redis.
        store: not yet started.
        reactor: connects.
        print_note: called with each note of the report.
        lives: ``cursor_seconds`` and ``index_seconds`` of ``Importer``.

    Raises:
        Invalid: *url* is not that of a Redis, or Redis support is not installed.
        Unavailable: one of the two can not be reached, or was lost on the way.
    """
    importer = Importer(url, store, reactor, **lives)
    store.startService()
    report = await afterwards(importer.run(), partial(maybeDeferred, store.stopService))
    for note in report.notes:
        print_note(note)
    return report
