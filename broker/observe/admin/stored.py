"""What is stored, as rows: channels with their heads and cursors, cursors with their lag, keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import attrs
import msgspec

from broker.core.channels import CURSOR
from broker.core.gathering import gather
from broker.core.keys import SPACE
from broker.core.pages import decode_cursor
from broker.core.parts import Parts
from broker.core.slices import slices_of
from broker.observe.admin.paging import Page, Query, Row, check_order, stored_page
from broker.patterns import CONTROL_PREFIX, LOG_PREFIX, pair_key, split_pair

HIGHEST = "\U0010ffff"  # no name sorts after it
MAX_CURSORS = 10_000  # that are looked at for the lag of channels
CURSORS_PER_READ = 1000
MAX_HEADS = 1000  # channels whose newest event is asked for, for one lag
KEPT_SECONDS = 5.0  # for which what was found of all cursors is used again
MAX_VALUE_BYTES = 1 << 20  # of values that one answer reads, to tell how long they are
END = HIGHEST * 1000


class CursorQuery(Query, kw_only=True):
    """``topic`` and ``client``: of which cursors are shown."""

    topic: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    client: Annotated[str, msgspec.Meta(max_length=1000)] = ""


@attrs.define
class Behind:
    """The cursors of one channel: how many there are, and where the one is that is farthest behind."""

    count: int = 0
    lowest: int = 1 << 60

    def add(self, id: int) -> None:
        """Count a cursor at *id*."""
        self.count += 1
        self.lowest = min(self.lowest, id)


class Lags:
    """Finds out how far the cursors of each channel are, by a look at at most ``MAX_CURSORS`` of them.

    Args:
        parts: of the core.

    Attributes:
        complete: whether the last look was at all cursors.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._slices = slices_of(parts.clock)
        self._channels: dict[str, Behind] = {}
        self._looked = -KEPT_SECONDS
        self.complete = True

    async def look(self, limit: int = MAX_CURSORS) -> dict[str, Behind]:
        """Return what is known of the cursors of each channel, at most ``KEPT_SECONDS`` old."""
        now = self._parts.clock.seconds()
        if now - self._looked < KEPT_SECONDS:
            return self._channels
        self._looked = now
        found: dict[str, Behind] = {}
        store, first, left = self._parts.store, "", limit
        while left > 0:
            end = self._slices.deadline()
            entries = await store.range(CURSOR, first, END, min(left, CURSORS_PER_READ))
            for key, entry in entries:
                position, _ = decode_cursor(entry.value, store.epoch)
                topic = split_pair(key)[1]
                found.setdefault(topic, Behind()).add(position.id if position.epoch == store.epoch else 0)
                end = await self._slices.checked(end)
            left -= len(entries)
            if len(entries) < CURSORS_PER_READ:
                break
            first = entries[-1][0] + "\0"
        self._channels, self.complete = found, left > 0
        return found

    async def greatest(self) -> int:
        """Return by how many events the slowest cursor is behind, of ``MAX_HEADS`` channels; 0 without any."""
        found = list((await self.look(CURSORS_PER_READ)).items())[:MAX_HEADS]
        heads = await self.heads(topic for topic, _ in found)
        return max((max(0, head - behind.lowest) for (_, behind), head in zip(found, heads, strict=True)), default=0)

    async def heads(self, topics: Iterable[str]) -> list[int]:
        """Return the ids of the newest events of *topics*."""
        return await gather(topics, self._parts.channels.head)


class Stored:
    """Shows what is in the store.

    Args:
        parts: of the core.
        lags: of the channels.
    """

    def __init__(self, parts: Parts, lags: Lags) -> None:
        self._parts, self._lags = parts, lags

    async def channels(self, query: Query) -> Page:
        """Return stored topics, by their names."""
        check_order(query)
        names = await self._names(query)
        known = await self._lags.look()
        heads = await self._lags.heads(names[: query.limit])
        rows = []
        for name, head in zip(names, heads, strict=False):
            behind = known.get(name)
            rows.append(
                {
                    "channel": name,
                    "head": head,
                    "cursors": behind.count if behind else 0,
                    "lag": max(0, head - behind.lowest) if behind else 0,
                    "subscribers": self._parts.topics.listeners(name),
                }
            )
        page = stored_page(rows, names, query.limit, epoch=self._parts.store.epoch)
        return attrs.evolve(page, complete=self._lags.complete)

    async def _names(self, query: Query) -> list[str]:
        """Return one name of a channel more than is asked for; those by which nodes notify each other are none."""
        found: list[str] = []
        start, after = LOG_PREFIX + query.q, LOG_PREFIX + query.after
        while True:
            wanted = query.limit + 1 - len(found)
            logs = await self._parts.store.logs(start, after, wanted)
            names = [log.removeprefix(LOG_PREFIX) for log in logs]
            found += [name for name in names if not name.startswith(CONTROL_PREFIX)]
            if len(logs) < wanted or len(found) > query.limit:
                return found
            after = logs[-1]

    async def cursors(self, query: CursorQuery) -> Page:
        """Return cursors with their lag, those of ``client`` or all; of a page, what ``topic`` and ``q`` match."""
        check_order(query)
        store = self._parts.store
        start = pair_key(query.client, "") if query.client else ""
        entries = await store.range(CURSOR, max(start, query.after + "\0"), start + END, query.limit + 1)
        shown = []
        for key, entry in entries[: query.limit]:
            client, topic = split_pair(key)
            if query.topic in ("", topic) and (query.q in client or query.q in topic):
                shown.append((client, topic, *decode_cursor(entry.value, store.epoch)))
        heads = await self._lags.heads(topic for _, topic, _, _ in shown)
        rows: list[Row] = []
        for (client, topic, position, moved), head in zip(shown, heads, strict=True):
            id = position.id if position.epoch == store.epoch else 0
            row = {"client": client, "topic": topic, "id": id, "head": head, "lag": max(0, head - id)}
            rows.append(row | {"moved": moved or None})
        page = stored_page(rows, [key for key, _ in entries], query.limit, epoch=store.epoch)
        return attrs.evolve(page, items=rows)

    async def keys(self, query: Query) -> Page:
        """Return keys with the lengths of their values, by their names."""
        check_order(query)
        first = max(query.q, query.after + "\0") if query.after else query.q
        found = await self._parts.store.range(SPACE, first, query.q + END, query.limit + 1, MAX_VALUE_BYTES)
        rows = [
            {"key": key, "bytes": len(entry.value), "revision": entry.revision, "expires": entry.expires or None}
            for key, entry in found
        ]
        size = sum(len(entry.value) for _, entry in found)
        names = [key for key, _ in found]
        if size >= MAX_VALUE_BYTES and len(found) <= query.limit:
            return Page(rows, names[-1])  # there may be more behind so many bytes
        return stored_page(rows, names, query.limit)
