"""The last event of live topics, kept in the store for whoever subscribes later."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from broker.core.pages import is_over
from broker.interfaces import IStore
from broker.messages import Event, Quota
from broker.patterns import matches

SPACE = "retained"  # of the store: a key for each topic
CLEARS = (None, b"null")  # bodies after which nothing is kept


class Kept(msgspec.Struct, array_like=True):
    """An event in the store; each member is that of ``Event``."""

    name: str
    body: bytes
    source: str
    time: float
    author: str = ""
    content_type: str = ""
    expires: float = 0.0
    exclude: tuple[str, ...] = ()
    binary: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Kept).decode


class Retained:
    """The last events.

    Args:
        store: keeps them.
        patterns: of the topics whose last event is kept whoever publishes it.

    Attributes:
        patterns: these.
    """

    def __init__(self, store: IStore, patterns: Iterable[str] = ()) -> None:
        self._store, self.patterns = store, tuple(patterns)

    def applies(self, topic: str) -> bool:
        """Whether the last event of *topic* is always kept."""
        return any(matches(pattern, topic) for pattern in self.patterns)

    async def keep(self, event: Event, quota: Quota | None = None) -> None:
        """Keep *event* in the place of the one before, or nothing if it has no body, or null.

        The first of a topic counts against *quota*.
        """
        body = event.body
        if body is None or (body in CLEARS and not event.binary):
            await self._store.delete(SPACE, event.topic)
            return
        described = event.author, event.content_type, event.expires, event.exclude, event.binary
        kept = Kept(event.name, body, event.source, event.time, *described)
        await self._store.set(SPACE, event.topic, _encode(kept), expires=event.expires, quota=quota)

    async def last(self, topic: str) -> Event | None:
        """Return the event that is kept of *topic*, if there is one."""
        entry = await self._store.get(SPACE, topic)
        if entry is None:
            return None
        kept = _decode(entry.value)
        event = Event(topic, kept.name, kept.body, kept.source, kept.time, author=kept.author)
        event.content_type, event.expires, event.exclude = kept.content_type, kept.expires, kept.exclude
        event.binary = kept.binary
        return None if is_over(self._store, event) else event
