"""The store that several nodes share: one Redis.

All that is asked of it in one turn of the reactor is one call of one script
(``redis_scripts``), which does each operation as a whole.  The script also tells
the nodes of what was appended, so that an event is stored and announced in one step.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from broker.errors import Conflict, Unavailable
from broker.interfaces import ISharedStore
from broker.messages import Entry, Event
from broker.patterns import LOG_PREFIX
from broker.redis import RedisAddress
from broker.redis.batches import Batches, Operation
from broker.redis.connection import Connection
from broker.redis.events import news, pack, record, stored_event, unpack
from broker.redis.script import Script
from broker.redis.server import Server
from broker.stores.entries import GRACE, increased, replaced
from broker.stores.redis_merges import Addition, Merge, entry_of

log = Logger()

LARGEST = 2**53  # beyond it Lua's numbers are not exact
MAX_ENTRIES = 2**31  # entries in one answer
STEP = 100  # logs that are swept in one call
SMALL = re.compile(rb"0|-?[1-9][0-9]{0,13}")  # what the script adds exactly


@implementer(ISharedStore)
class RedisStore(Service):
    """A store in Redis.

    Args:
        url: see ``RedisAddress``.
        prefix: what all keys begin with.
        clock: tells the time of events and of expiry.
        reactor: connects, and times how long operations wait.
        marked: what the names of the logs begin with whose appends ``changes`` tells of.
        announce: whether appends to those publish the event, too.
        observe: called with the operations and the seconds of each call.
        failed: called with the number of operations that a failure took.
    """

    shared = True

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        clock: IReactorTime,
        reactor: Any,
        marked: str = LOG_PREFIX,
        announce: bool = True,
        observe: Callable[[int, float], object] | None = None,
        failed: Callable[[int], object] | None = None,
    ) -> None:
        self.epoch = ""
        self.announces = announce
        self.wiped: Callable[[], object] = _nobody
        self._address = RedisAddress.parse(url)
        self._prefix = pack(prefix)
        self._channels = pack(f"{prefix}{self._address.db}/")
        self._clock = clock
        self._marked = marked
        self._server = Server()
        self._away = "The store is not running."
        self._connection = Connection(
            self._address, reactor, prepare=self._prepare, opened=self._opened, closed=self._closed
        )
        self._script = Script("broker.stores.redis_scripts", "state", "logs", "keys")
        self._batches = Batches(
            self._connection,
            self._script,
            reactor,
            preamble=self._preamble,
            renew=self._learn_epoch,
            probe=(b"probe",),
            observe=observe,
            failed=failed,
        )

    def publishes(self, origin: str) -> bool:
        """Whether an append of that session is under way."""
        return origin in self._batches.publishing

    def on_answer(self, call: Callable[[], object]) -> None:
        """Let *call* be called whenever appends were answered."""
        self._batches.answered = call

    @property
    def description(self) -> str:
        """What it is, and what Redis says of itself."""
        return f"Redis at {self._address}; {self._server.promise}"

    @property
    def ready(self) -> str:
        """Why writes can not be taken now; "" when they can."""
        if self._away:
            return self._away
        trouble = self._batches.trouble
        return f"Redis at {self._address}: {trouble}" if trouble else ""

    def startService(self) -> None:
        """Begin to connect.  A Redis that is away now may come later."""
        super().startService()
        self._away = ""
        self._batches.start()
        self._connection.start()

    def stopService(self) -> Deferred[Any]:
        """Refuse what is new, do what waits, disconnect."""
        super().stopService()
        if self._away:
            return succeed(None)
        self._away = "The store is stopping."
        return self._batches.stop().addCallback(self._disconnect)

    def _disconnect(self, _: None) -> Deferred[Any]:
        self._away = "The store is not running."
        return self._connection.stop()

    # The connection.

    async def _prepare(self, protocol: Any) -> None:
        self._server = await Server.ask(protocol)
        self._server.check()
        await self._script.load(protocol)
        await self._learn_epoch(protocol)

    def _opened(self) -> None:
        log.info("{store}", store=self.description)
        for warning in self._server.warnings():
            log.warn("{warning}", warning=warning)
        self._batches.opened()

    def _closed(self) -> None:
        self._batches.closed()

    async def _learn_epoch(self, protocol: Any) -> None:
        key = self._prefix + b"epoch"
        found = await protocol.execute_command(b"GET", key)
        if found is None:
            await protocol.execute_command(b"SET", key, secrets.token_hex(8).encode(), b"NX")
            found = await protocol.execute_command(b"GET", key)
        epoch = found.decode()
        before, self.epoch = self.epoch, epoch
        if before and before != epoch:
            log.error("the data of Redis was lost: epoch {before} is now {epoch}", before=before, epoch=epoch)
            self.wiped()

    def _preamble(self) -> list[bytes]:
        return [self._prefix, self.epoch.encode(), self._channels, repr(self._clock.seconds()).encode()]

    # Logs.

    def append(self, log: str, event: Event) -> Deferred[Event]:
        """Store *event* at the end of *log*, and announce it."""
        time = event.time or self._clock.seconds()
        mark = b""
        if log.startswith(self._marked):
            mark = news(event) if self.announces else b"-"
        stored = record(event, time)
        words = (b"append", pack(log), stored, mark)
        return self._submit(
            Operation(words, partial(self._appended, event, time), len(stored), origin=event.origin if mark else "")
        )

    def _appended(self, event: Event, time: float, id: int) -> Event:
        return Event(
            event.topic,
            event.name,
            event.body,
            event.source,
            time,
            id,
            self.epoch,
            event.origin,
            event.dialect,
            event.original,
        )

    def read(self, log: str, after: int, limit: int) -> Deferred[list[Event]]:
        """Return at most *limit* events with id > *after*."""
        if limit <= 0 or after >= LARGEST:
            return self._nothing()
        return self._ask((b"read", pack(log), b"%d" % (max(0, after) + 1), _most(limit)), self._events)

    def latest(self, log: str, limit: int) -> Deferred[list[Event]]:
        """Return the last *limit* events."""
        if limit <= 0:
            return self._nothing()
        return self._ask((b"latest", pack(log), _most(limit)), lambda found: self._events(found)[::-1])

    def _events(self, found: list[Any]) -> list[Event]:
        return [stored_event(int(id[:-2]), self.epoch, *fields[1::2]) for id, fields in found]

    def head(self, log: str) -> Deferred[int]:
        """Return the last id given in *log*."""
        return self._ask((b"head", pack(log)), int)

    def trim(self, log: str, upto: int) -> Deferred[None]:
        """Forget the events of *log* with id <= *upto*."""
        return self._change((b"trim", pack(log), b"%d" % (max(0, min(upto, LARGEST)) + 1)), _none)

    def sweep(self, prefix: str, before: float, keep: int) -> Deferred[int]:
        """Forget old events, in steps between which others get their turn."""
        return Deferred.fromCoroutine(self._sweep(pack(prefix), before, keep))

    async def _sweep(self, prefix: bytes, before: float, keep: int) -> int:
        gone = 0
        start = b"[" + prefix
        while start:
            words = (b"sweep", start, _end(prefix), repr(before).encode(), b"%d" % keep, b"%d" % STEP)
            some, start = await self._change(words)
            gone += some
        due = repr(self._clock.seconds() - GRACE).encode()
        for space in await self._ask((b"spaces",)):
            while len(await self._change((b"expire", space, due, b"%d" % STEP))) == STEP:
                pass
        return gone

    def logs(self, prefix: str, after: str, limit: int) -> Deferred[list[str]]:
        """Return names of logs that begin with *prefix*."""
        if limit <= 0:
            return self._nothing()
        first, last = pack(prefix), pack(after)
        start = b"[" + first if first > last else b"(" + last
        return self._ask((b"logs", start, _end(first), _most(limit)), lambda found: list(map(unpack, found)))

    def mark(self) -> Deferred[int]:
        """Return a number that rises with the appends to marked logs."""
        return self._ask((b"mark",), int)

    def changes(self, mark: int) -> Deferred[dict[str, int]]:
        """Return the marked logs that were appended to after *mark*, and the mark of the last time."""
        return Deferred.fromCoroutine(self._changes(mark))

    async def _changes(self, mark: int) -> dict[str, int]:
        found: dict[str, int] = {}
        while True:
            # Twice as many as one call can have appended to: each step gets on.
            some = await self._ask((b"changes", b"%d" % mark, b"1000"))
            found.update((unpack(log), int(score)) for log, score in zip(some[::2], some[1::2], strict=True))
            if len(some) < 2000:
                return found
            mark = int(some[-1]) - 1

    def since(self, log: str, mark: int) -> Deferred[int]:
        """Return the id of the first event of *log* after *mark*; 0 for none."""
        return self._ask((b"since", pack(log), b"%d" % mark), int)

    # Keys.

    def get(self, space: str, key: str) -> Deferred[Entry | None]:
        """Return the entry of *key*."""
        return self._ask((b"get", pack(space), pack(key)), lambda found: None if found is None else entry_of(found))

    def set(
        self, space: str, key: str, value: bytes, *, revision: int | None = None, expires: float = 0.0
    ) -> Deferred[Entry]:
        """Create or replace *key*."""

        def done(found: int | None) -> Entry:
            if found is None:
                raise Conflict("revision", key)
            return Entry(value, found, expires)

        when = repr(expires).encode()
        return self._change((b"set", pack(space), pack(key), _expected(revision), when, value), done, len(value))

    def delete(self, space: str, key: str, *, revision: int | None = None) -> Deferred[bool]:
        """Remove *key*."""

        def done(found: int | None) -> bool:
            if found is None:
                raise Conflict("revision", key)
            return found == 1

        return self._change((b"delete", pack(space), pack(key), _expected(revision)), done)

    def patch(self, space: str, key: str, value: bytes, merge: Callable[[bytes, bytes], bytes]) -> Deferred[Entry]:
        """Replace the value by ``merge(stored, value)``."""

        def change(stored: Entry | None) -> Entry:
            if stored is None:
                return replaced(None, value, 0.0)
            return replaced(stored, merge(stored.value, value), stored.expires)

        return self._submit(Merge(space, key, change, len(value)))

    def increment(self, space: str, key: str, amount: bytes) -> Deferred[Entry]:
        """Add *amount* to the stored number."""

        def change(stored: Entry | None) -> Entry:
            return increased(stored, amount)

        if SMALL.fullmatch(amount):
            return self._submit(Addition(space, key, amount, change))
        return self._submit(Merge(space, key, change, len(amount)))

    def range(self, space: str, first: str, last: str, limit: int) -> Deferred[list[tuple[str, Entry]]]:
        """Return the entries with first <= key <= last."""
        if limit <= 0:
            return self._nothing()

        def pairs(found: list[bytes]) -> list[tuple[str, Entry]]:
            return [(unpack(key), entry_of(stored)) for key, stored in zip(found[::2], found[1::2], strict=True)]

        return self._ask((b"range", pack(space), b"[" + pack(first), b"[" + pack(last), _most(limit)), pairs)

    def expired(self, space: str, limit: int) -> Deferred[list[str]]:
        """Remove and return keys whose time has come."""
        if limit <= 0:
            return self._nothing()
        words = (b"expire", pack(space), repr(self._clock.seconds()).encode(), _most(limit))
        return self._change(words, lambda found: list(map(unpack, found)))

    # How all come to Redis.

    def _change(
        self, words: tuple[bytes, ...], decode: Callable[[Any], Any] = lambda found: found, size: int = 0
    ) -> Deferred[Any]:
        return self._submit(Operation(words, decode, size))

    def _ask(self, words: tuple[bytes, ...], decode: Callable[[Any], Any] = lambda found: found) -> Deferred[Any]:
        return self._submit(Operation(words, decode, 0, True))

    def _nothing(self) -> Deferred[Any]:
        return fail(self._refusal()) if self._away else succeed([])

    def _submit(self, operation: Operation) -> Deferred[Any]:
        return fail(self._refusal()) if self._away else self._batches.submit(operation)

    def _refusal(self) -> Unavailable:
        return Unavailable("store", message=self._away)


def _nobody() -> None:
    """Hear nothing, before the service has said who does."""


def _none(_: object) -> None:
    return None


def _most(limit: int) -> bytes:
    return b"%d" % min(limit, MAX_ENTRIES)


def _end(prefix: bytes) -> bytes:
    """Return the upper bound of what begins with *prefix*: no UTF-8 has the byte 0xFF."""
    return b"[" + prefix + b"\xff"


def _expected(revision: int | None) -> bytes:
    return b"" if revision is None else b"%d" % revision
