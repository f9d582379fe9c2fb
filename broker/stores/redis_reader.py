"""Reading from Redis in steps, so that no call of the script returns more than some MiB."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from broker.messages import Entry, Event, decode_text, encode_text
from broker.redis.event_codec import decode_stored
from broker.redis.operations import Operation
from broker.stores.redis_swap import KeyOperation, LogOperation, Range, decode_entry

MAX_ID = 2**53  # beyond it Lua's numbers are not exact
MAX_LIMIT = 2**31  # entries in one answer
MIN_REPLY_BYTES = 16384  # of a read, for what is known of it before
STEP_BYTES = 1 << 20  # of one reply; longer reads have several
ENTRY_BYTES = 100  # that an event counts besides its record, as in ``logs.lua``
FIRST_STEP = 16  # events that the script looks at before it knows how large those of the log are
NAMES_STEP = 1000  # names of logs in one reply

Found = tuple[list[Event], int]  # events, and how many bytes they have as the script counts them
Pairs = list[tuple[str, Entry]]


class RedisReader:
    """The verbs of ``RedisStore`` that read.

    Attributes:
        epoch: that of the events that are read.
    """

    def __init__(self) -> None:
        self.epoch = ""
        self._reply_bytes = MIN_REPLY_BYTES  # that a read is expected to have: of many large ones, few are one call
        self._record_bytes = 0  # that a large record had lately

    def _submit(self, operation: Operation) -> Deferred[Any]:
        raise NotImplementedError

    def _nothing(self) -> Deferred[Any]:
        """Return no entries, or the reason why the store can not be used."""
        raise NotImplementedError

    def _sized(self, size: int) -> None:
        """Expect the next replies to be about as large as one of *size* bytes."""
        self._reply_bytes = max(size, MIN_REPLY_BYTES, self._reply_bytes * 7 // 8)

    # Logs.

    def read(self, log: str, after: int, limit: int, max_bytes: int = 0) -> Deferred[list[Event]]:
        """See ``IStore.read``."""
        if limit <= 0 or after >= MAX_ID:
            return self._nothing()
        return self._pages(b"read", encode_text(log), max(0, after) + 1, limit, max_bytes)

    def latest(self, log: str, limit: int, max_bytes: int = 0) -> Deferred[list[Event]]:
        """See ``IStore.latest``."""
        if limit <= 0:
            return self._nothing()
        return self._pages(b"latest", encode_text(log), MAX_ID, limit, max_bytes).addCallback(_reversed)

    def _pages(self, verb: bytes, log: bytes, start: int, limit: int, max_bytes: int) -> Deferred[list[Event]]:
        """Return events from the id *start* on, in steps where that is long."""
        bound = min(max_bytes or STEP_BYTES, STEP_BYTES)
        page = self._page(verb, log, start, limit, bound)

        def paged(found: Found) -> Any:
            events, size = found
            if size < bound or len(events) >= limit or 0 < max_bytes <= size:
                return events
            return Deferred.fromCoroutine(
                self._more_pages(verb, log, events, limit, max_bytes - size if max_bytes else 0)
            )

        return page.addCallback(paged)

    async def _more_pages(
        self, verb: bytes, log: bytes, events: list[Event], limit: int, max_bytes: int
    ) -> list[Event]:
        """Return *events* and those that follow, until there are *limit* or as many more bytes."""
        step = 1 if verb == b"read" else -1
        while True:
            bound = min(max_bytes or STEP_BYTES, STEP_BYTES)
            start = events[-1].id + step
            more, size = await self._page(verb, log, start, limit - len(events), bound)
            if more and more[0].id != start:
                events = []  # they were trimmed meanwhile, and there is never a hole
            events += more
            if size < bound or len(events) >= limit or 0 < max_bytes <= size:
                return events
            max_bytes = max_bytes and max_bytes - size

    def _page(self, verb: bytes, log: bytes, start: int, limit: int, bound: int) -> Deferred[Found]:
        first = b"%d" % start
        look = max(1, min(FIRST_STEP, bound // (self._record_bytes + ENTRY_BYTES)))
        words = (verb, log, first, b"%d" % min(limit, MAX_LIMIT), b"%d" % bound, b"%d" % look)
        return self._submit(LogOperation(words, self._events, 0, True, "", self._reply_bytes))

    def _events(self, found: list[Any]) -> Found:
        epoch = self.epoch
        events = [decode_stored(int(id[:-2]), epoch, *fields[1::2]) for id, fields in found]
        sizes = [len(fields[1]) for _, fields in found]
        size = sum(sizes)
        self._sized(size)
        self._record_bytes = max(max(sizes, default=0), self._record_bytes * 7 // 8)
        return events, size + ENTRY_BYTES * len(sizes)

    def head(self, log: str) -> Deferred[int]:
        """See ``IStore.head``."""
        return self._submit(LogOperation((b"head", encode_text(log)), int, reads=True))

    def logs(self, prefix: str, after: str, limit: int) -> Deferred[list[str]]:
        """See ``IStore.logs``."""
        if limit <= 0:
            return self._nothing()
        first, last = encode_text(prefix), encode_text(after)
        return Deferred.fromCoroutine(self._logs(b"[" + first if first > last else b"(" + last, end_of(first), limit))

    async def _logs(self, start: bytes, end: bytes, limit: int) -> list[str]:
        found: list[bytes] = []
        while True:
            step = min(limit - len(found), NAMES_STEP)
            some = await self._submit(Operation((b"logs", start, end, b"%d" % step), reads=True, reply=MIN_REPLY_BYTES))
            found += some
            if len(some) < step or len(found) >= limit:
                return list(map(decode_text, found))
            start = b"(" + some[-1]

    # Keys.

    def get(self, space: str, key: str) -> Deferred[Entry | None]:
        """See ``IStore.get``."""
        words = (b"get", encode_text(space), encode_text(key))
        return self._submit(KeyOperation(words, self._entry, 0, True, "", self._reply_bytes))

    def _entry(self, found: bytes | None) -> Entry | None:
        if found is None:
            return None
        self._sized(len(found))
        return decode_entry(found)

    def range(self, space: str, first: str, last: str, limit: int, max_bytes: int = 0) -> Deferred[Pairs]:
        """See ``IStore.range``."""
        if limit <= 0:
            return self._nothing()
        bounds = b"[" + encode_text(first), b"[" + encode_text(last)
        return Deferred.fromCoroutine(self._range(encode_text(space), *bounds, limit, max_bytes))

    async def _range(self, space: bytes, start: bytes, end: bytes, limit: int, max_bytes: int) -> Pairs:
        pairs: Pairs = []
        size = 0
        while True:
            bound = min(max_bytes - size, STEP_BYTES) if max_bytes > 0 else STEP_BYTES
            words = (b"range", space, start, end, b"%d" % min(limit - len(pairs), MAX_LIMIT), b"%d" % bound)
            start, *found = await self._submit(Range(words, reads=True, reply=self._reply_bytes))
            self._sized(sum(map(len, found)))
            for key, stored in zip(found[::2], found[1::2], strict=True):
                pairs.append((decode_text(key), decode_entry(stored)))
                size += len(pairs[-1][1].value)
            if not start or len(pairs) >= limit or 0 < max_bytes <= size:
                return pairs


def end_of(prefix: bytes) -> bytes:
    """Return the upper bound of what begins with *prefix*: no UTF-8 has the byte 0xFF."""
    return b"[" + prefix + b"\xff"


def _reversed(events: list[Event]) -> list[Event]:
    return events[::-1]
