"""The embedded store: one SQLite file, one thread that writes to it.

Everything that is called while a commit runs is the next transaction, and all
its callers are answered together, so that one flush to the disk serves many.
What does not depend on a write that is under way is read at once, on the
reactor thread, through a second connection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Hashable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from zope.interface import implementer

from broker.errors import Unavailable
from broker.interfaces import IStore
from broker.messages import Entry, Event
from broker.stores.entries import GRACE
from broker.stores.sqlite_file import SqliteFile, open_file
from broker.stores.sqlite_tables import Reads, Writes, pack
from broker.stores.sqlite_writer import Commits

TIMEOUT = 5.0  # seconds for another program that holds the file's write lock
EVERY_LOG = ("every log",)  # touched by what may change any of them


@implementer(IStore)
class SqliteStore(Service):
    """A store in one file, for one daemon.

    Args:
        path: the file; made when it is missing.
        clock: tells the time of events and of expiry.
        reactor: where the writer thread's answers are delivered.
        durability: ``fsync``, or ``os``: then a power cut may take the last
            events, and their ids are given again.
        observe: called with the operations and the seconds of each commit.
        failed: called with the number of operations that a failure took.
        timeout: seconds for another program that holds the write lock.
    """

    shared = False
    announces = False

    def __init__(
        self,
        path: str,
        *,
        clock: IReactorTime,
        reactor: IReactorFromThreads,
        durability: str = "fsync",
        observe: Callable[[int, float], object] | None = None,
        failed: Callable[[int], object] | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self.epoch = ""
        survives = "a power cut" if durability == "fsync" else "the end of the process but perhaps not a power cut"
        self.description = f"SQLite; what was answered survives {survives}"
        self._path = path
        self._clock = clock
        self._reactor = reactor
        self._durability = durability
        self._observe = observe or _ignore
        self._failed = failed or _ignore
        self._timeout = timeout
        self._file: SqliteFile | None = None
        self._away = "The store is not running."

    def startService(self) -> None:
        """Open the file.

        Raises:
            Unavailable: it can not be used; the message says why.
        """
        file = self._file = open_file(self._path, self._durability, self._timeout)
        self.epoch = file.epoch
        self._reads = Reads(file.reads, file.epoch)
        writes = Writes(file.writes, file.epoch)
        self._commits = Commits(writes, self._clock, self._reactor, self._observe, self._failed)
        self._commits.start()
        self._away = ""
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Refuse what is new, write what waits, close the file."""
        super().stopService()
        if self._away:
            return succeed(None)
        self._away = "The store is stopping."
        return self._commits.stop().addCallback(self._close)

    def _close(self, _: None) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None
        self._away = "The store is not running."

    @property
    def ready(self) -> str:
        """Why writes can not be taken now; "" when they can."""
        if self._away:
            return self._away
        failure = self._commits.failure
        return f"The store can not write: {failure}." if failure else ""

    # Logs.

    def append(self, log: str, event: Event) -> Deferred[Event]:
        """Store *event* at the end of *log*."""
        if self._away:
            return self._refuse()
        time = event.time or self._clock.seconds()
        return self._commits.submit(Writes.append, (log, event, time), len(event.body or b""), log)

    def read(self, log: str, after: int, limit: int) -> Deferred[list[Event]]:
        """Return at most *limit* events with id > *after*."""
        return self._ask(Reads.read, (log, after, limit), log, EVERY_LOG)

    def latest(self, log: str, limit: int) -> Deferred[list[Event]]:
        """Return the last *limit* events."""
        return self._ask(Reads.latest, (log, limit), log, EVERY_LOG)

    def head(self, log: str) -> Deferred[int]:
        """Return the last id given in *log*."""
        return self._ask(Reads.head, (log,), log, EVERY_LOG)

    def logs(self, prefix: str, after: str, limit: int) -> Deferred[list[str]]:
        """Return names of logs that begin with *prefix*."""
        if not self._away and not self._commits.idle:
            return self._commits.submit(Reads.logs, (prefix, after, limit), 0)  # any write may make a log
        return self._ask(Reads.logs, (prefix, after, limit))

    def trim(self, log: str, upto: int) -> Deferred[None]:
        """Forget the events of *log* with id <= *upto*."""
        return self._change(Writes.trim, (log, upto), 0, log)

    def sweep(self, prefix: str, before: float, keep: int) -> Deferred[int]:
        """Forget old events, in steps between which others get their turn."""
        return Deferred.fromCoroutine(self._sweep(prefix, before, keep))

    async def _sweep(self, prefix: str, before: float, keep: int) -> int:
        gone = 0
        start: bytes | None = pack(prefix)
        while start is not None:
            some, start = await self._change(Writes.sweep_logs, (prefix, start, before, keep), 0, EVERY_LOG)
            gone += some
        due = self._clock.seconds() - GRACE
        space: str | None = ""
        while space is not None:
            space = await self._change(Writes.sweep_keys, (space, due), 0)
        return gone

    # Keys.

    def get(self, space: str, key: str) -> Deferred[Entry | None]:
        """Return the entry of *key*."""
        return self._ask(Reads.get, (space, key, self._clock.seconds()), (space, key))

    def range(self, space: str, first: str, last: str, limit: int) -> Deferred[list[tuple[str, Entry]]]:
        """Return the entries with first <= key <= last."""
        return self._ask(Reads.range, (space, first, last, limit, self._clock.seconds()), (space,))

    def set(
        self, space: str, key: str, value: bytes, *, revision: int | None = None, expires: float = 0.0
    ) -> Deferred[Entry]:
        """Create or replace *key*."""
        arguments = (space, key, value, revision, expires, self._clock.seconds())
        return self._change(Writes.set, arguments, len(value), (space,), (space, key))

    def delete(self, space: str, key: str, *, revision: int | None = None) -> Deferred[bool]:
        """Remove *key*."""
        return self._change(Writes.delete, (space, key, revision, self._clock.seconds()), 0, (space,), (space, key))

    def patch(self, space: str, key: str, value: bytes, merge: Callable[[bytes, bytes], bytes]) -> Deferred[Entry]:
        """Replace the value by ``merge(stored, value)``, in the writer thread."""
        arguments = (space, key, value, merge, self._clock.seconds())
        return self._change(Writes.patch, arguments, len(value), (space,), (space, key))

    def increment(self, space: str, key: str, amount: bytes) -> Deferred[Entry]:
        """Add *amount* to the stored number."""
        arguments = (space, key, amount, self._clock.seconds())
        return self._change(Writes.increment, arguments, len(amount), (space,), (space, key))

    def expired(self, space: str, limit: int) -> Deferred[list[str]]:
        """Remove and return keys whose time has come."""
        return self._change(Writes.expired, (space, limit, self._clock.seconds()), 0)

    # How both come to the file.

    def _change(
        self, verb: Callable[..., Any], arguments: tuple[Any, ...], size: int, *touched: Hashable
    ) -> Deferred[Any]:
        return self._refuse() if self._away else self._commits.submit(verb, arguments, size, *touched)

    def _ask(self, verb: Callable[..., Any], arguments: tuple[Any, ...], *touched: Hashable) -> Deferred[Any]:
        """Answer at once, or behind the writes if one of them may change *touched*."""
        if self._away:
            return self._refuse()
        if not any(map(self._commits.outstanding, touched)):
            try:
                return succeed(verb(self._reads, *arguments))
            except sqlite3.Error:
                pass  # another program holds the file: the writer thread has the time to wait
        return self._commits.submit(verb, arguments, 0)

    def _refuse(self) -> Deferred[Any]:
        return fail(Unavailable("store", message=self._away))


def _ignore(*_: object) -> None:
    """Stand in for an observer that was not given."""
