"""The verbs of stored topics: reads, long polls, cursors, indices."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from broker.core.indices import Extract
from broker.interfaces import MAX_PAGE_BYTES
from broker.messages import Event, IndexRows
from broker.peer.client import Client


class ChannelVerbs(Client):
    """Read what is stored."""

    __slots__ = ()

    def read(self, topic: str, after: int, limit: int, *, max_bytes: int = MAX_PAGE_BYTES) -> Deferred[list[Event]]:
        """See ``IPeer.read``."""
        self._allow("read", topic)
        return self._parts.channels.read(self._shown(topic), after, limit, max_bytes)

    def latest(self, topic: str, limit: int, *, max_bytes: int = MAX_PAGE_BYTES) -> Deferred[list[Event]]:
        """See ``IPeer.latest``."""
        self._allow("read", topic)
        return self._parts.channels.latest(self._shown(topic), limit, max_bytes)

    def head(self, topic: str) -> Deferred[int]:
        """See ``IPeer.head``."""
        self._allow("read", topic)
        return self._parts.channels.head(self._shown(topic))

    async def poll(
        self, topic: str, after: int, limit: int, timeout: float, *, max_bytes: int = MAX_PAGE_BYTES
    ) -> list[Event]:
        """See ``IPeer.poll``."""
        self._allow("read", topic)
        return await self._parts.channels.poll(self._shown(topic), after, limit, timeout, max_bytes)

    async def cursor(self, client: str, topic: str) -> int:
        """See ``IPeer.cursor``."""
        self._allow("read", topic)
        return await self._parts.channels.cursor(client, topic)

    def move_cursor(self, client: str, topic: str, id: int) -> Deferred[None]:
        """See ``IPeer.move_cursor``."""
        self._allow("read", topic)
        return self._parts.channels.move_cursor(client, topic, id)

    async def create_index(self, id: str, topic: str, field: str) -> bool:
        """See ``IPeer.create_index``."""
        self._allow("read", topic)
        return await self._parts.indices.create(id, self._shown(topic), field)

    async def read_index(self, id: str, value: str, extract: Extract) -> IndexRows:
        """See ``IPeer.read_index``."""
        self._allow("index", id, check_permission=False)
        topic, _ = await self._parts.indices.definition(id)
        self._allow("read", topic, rate_limited=False)
        return await self._parts.indices.read(id, value, extract)
