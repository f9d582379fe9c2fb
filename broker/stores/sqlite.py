"""The embedded store: one SQLite file, and one thread that writes to it.

All operations that are submitted while a commit runs are the next transaction, and
their callers are answered together, so that one flush to the disk serves many.
What does not depend on a write that is under way is read at once, on the
reactor thread, by a second connection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Hashable, Sequence
from operator import itemgetter
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from zope.interface import implementer

from broker.core.clocks import monotonic_time_of, wall_clock_of
from broker.errors import Unavailable
from broker.interfaces import IStore, IWallClock
from broker.messages import Addition, Announce, Announcement, Entry, Event, Quota, encode_text
from broker.patterns import LOG_PREFIX
from broker.stores.embedded_jobs import EmbeddedJobs
from broker.stores.entries import ANNOUNCED_SPACES, EXPIRED_KEPT
from broker.stores.expiry import Expiry
from broker.stores.room import ROW_BYTES, full_text
from broker.stores.sqlite_checkpoints import MAX_LOG_BYTES, CheckpointHealth, Checkpoints, CheckpointState
from broker.stores.sqlite_failures import cannot_write, is_damage
from broker.stores.sqlite_file import SqliteFile, closed_connection, open_file
from broker.stores.sqlite_guard import FileGuard
from broker.stores.sqlite_space import FileSpace
from broker.stores.sqlite_tables import TableReader, TableWriter
from broker.stores.sqlite_writer import GroupCommit
from broker.stores.states import NOT_RUNNING, STOPPING, refused

LOCK_TIMEOUT = 5.0  # seconds to wait while another program holds the file's write lock
EVERY_LOG = ("every log",)  # what an operation touches that may change any of them


@implementer(IStore)
class SqliteStore(Service):
    """A store in one file, for one daemon.

    Args:
        path: the file; made when it is missing.
        clock: times the attempts to write again after a failure.
        reactor: where the writer thread's answers are delivered.
        durability: ``fsync``, or ``os``: then a power cut may take the last
            events, and their ids are given again.
        observe: called with the operations and the seconds of each commit.
        failed: called with the number of operations that a failure took.
        checkpoint_failed: called when the write-ahead log could not be written back.
        timeout: seconds to wait while another program holds the write lock.
        max_bytes: what the file and its write-ahead log may use; 0: any number.
        min_free_bytes: how much of the disk is left free.
        wall: its time is that of events and of expiry; by default the one that goes with *clock*.
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
        checkpoint_failed: Callable[[], object] | None = None,
        timeout: float = LOCK_TIMEOUT,
        max_bytes: int = 0,
        min_free_bytes: int = 0,
        wall: IWallClock | None = None,
    ) -> None:
        self.epoch = ""
        self.wall = wall or wall_clock_of(clock)
        self._expiry = Expiry(self.wall, monotonic_time_of(clock))
        survives = "a power cut" if durability == "fsync" else "the end of the process but perhaps not a power cut"
        self.description = f"SQLite; what was answered survives {survives}"
        self._path = path
        self._clock = clock
        self._reactor = reactor
        self._durability = durability
        self._observe = observe or _ignore
        self._failed = failed or _ignore
        self._checkpoint_failed = checkpoint_failed or _ignore
        self._timeout = timeout
        self._max_bytes, self._min_free_bytes = max_bytes, min_free_bytes
        self._file: SqliteFile | None = None
        self._stopped_reason = NOT_RUNNING
        self.jobs = EmbeddedJobs(self._do_jobs, lambda epoch: epoch == self.epoch, self._before_commit)
        self.wiped: Callable[[], object] = _ignore

    def startService(self) -> None:
        """Open the file.

        Raises:
            Unavailable: it can not be used; the message says why.
        """
        file = open_file(self._path, self._durability, self._timeout, self._max_bytes)
        try:
            self._open(file)
        except sqlite3.Error as error:
            file.close()
            raise Unavailable("store", message=f"The store {self._path} can not be opened: {error}.") from error
        self._file = file
        self.epoch = file.epoch
        self._commits.start()
        self._stopped_reason = ""
        super().startService()
        if file.history.went_back:
            self.wiped()

    def _open(self, file: SqliteFile) -> None:
        self._expiry = Expiry(self.wall, monotonic_time_of(self._clock), noted=file.noted)
        self._reader = TableReader(file.reads, file.epoch)
        self._space = FileSpace(file.writes, self._path, self._max_bytes, self._min_free_bytes)
        writer = TableWriter(file.writes, file.epoch, self._space, file.history, self._expiry)
        self._revisions = writer.revisions
        limit = min(MAX_LOG_BYTES, self._max_bytes // 8) if self._max_bytes else MAX_LOG_BYTES
        self._checkpoints = CheckpointHealth(self._checkpoint_failed, file.watch.length_of_log, limit)
        call = self._reactor.callFromThread

        def checkpointed(state: CheckpointState) -> None:
            call(self._checkpoints.note, state)

        guard = FileGuard(
            file,
            writer,
            Checkpoints(file.writes, file.watch, file.log_pages, checkpointed),
            self._release,
            self._adopt,
            self._file_lost,
            call,
        )
        self._guard = guard
        self._commits = GroupCommit(
            writer, guard, self._clock, self._reactor, self._observe, self._failed, self._bytes_of
        )
        writer.measure()

    def _release(self, released: Callable[[], object]) -> None:
        """Close the connection that reads: what is read until ``_adopt`` waits for the writer thread."""
        assert self._file is not None
        self._file.reads.close()
        released()

    def _adopt(self, file: SqliteFile) -> None:
        self._reader.attach(file.reads)

    def _file_lost(self) -> None:
        if not self._guard.readable:
            self._reader.attach(closed_connection())
        self._commits.file_lost()

    def stopService(self) -> Deferred[None]:
        """Refuse what is new, write what waits, close the file."""
        super().stopService()
        if self._stopped_reason:
            return succeed(None)
        self._stopped_reason = STOPPING
        return self._commits.stop().addCallback(self._close)

    def _close(self, _: None) -> None:
        assert self._file is not None
        if not self._file.lost:
            self._revisions.settle()
        self._file.close()
        self._file = None
        self._stopped_reason = NOT_RUNNING

    @property
    def ready(self) -> str:
        """Why writes are not accepted now; "" when they are."""
        if self._stopped_reason:
            return self._stopped_reason
        failure = self._commits.broken or self._commits.failure
        if failure:
            return cannot_write(failure)
        return full_text(self._commits.shortage) if self._commits.shortage else ""

    @property
    def degraded(self) -> str:
        """See ``IStore.degraded``."""
        return "" if self._stopped_reason else self._checkpoints.problem

    @property
    def used_bytes(self) -> int:
        """See ``IStore.used_bytes``."""
        return 0 if self._file is None else self._space.used_bytes

    def gauges(self) -> dict[str, Callable[[], float]]:
        """Return what reads the gauges of this kind of store."""
        return {"store_wal_bytes": lambda: 0 if self._file is None else self._file.watch.length_of_log()}

    # Logs.

    def append(
        self,
        log: str,
        event: Event,
        quota: Quota | None = None,
        head: int | None = None,
        key: str = "",
        key_seconds: float = 0.0,
    ) -> Deferred[Event]:
        """See ``IStore.append``."""
        if self._stopped_reason:
            return refused(self._stopped_reason)
        if head is not None or key:
            return self.append_all([Addition(log, event, quota, head, key)], key_seconds).addCallback(itemgetter(0))
        time = event.time or self.wall.time()
        return self._commits.submit(TableWriter.append, (log, event, time, quota), len(event.body or b""), log)

    def append_all(self, additions: Sequence[Addition], key_seconds: float = 0.0) -> Deferred[list[Event]]:
        """See ``IStore.append_all``."""
        size = sum(len(each.event.body or b"") + ROW_BYTES for each in additions)
        arguments = (additions, self.wall.time(), key_seconds, self._expiry)
        return self._change(TableWriter.append_all, arguments, size, *{each.log for each in additions})

    def read(self, log: str, after: int, limit: int, max_bytes: int = 0) -> Deferred[list[Event]]:
        """See ``IStore.read``."""
        return self._query(TableReader.read, (log, after, limit, max_bytes), log, EVERY_LOG)

    def latest(self, log: str, limit: int, max_bytes: int = 0) -> Deferred[list[Event]]:
        """See ``IStore.latest``."""
        return self._query(TableReader.latest, (log, limit, max_bytes), log, EVERY_LOG)

    def head(self, log: str) -> Deferred[int]:
        """See ``IStore.head``."""
        return self._query(TableReader.head, (log,), log, EVERY_LOG)

    def logs(self, prefix: str, after: str, limit: int) -> Deferred[list[str]]:
        """See ``IStore.logs``."""
        if not self._stopped_reason and not self._commits.idle:
            return self._commits.submit(TableReader.logs, (prefix, after, limit), 0)  # any write may make a log
        return self._query(TableReader.logs, (prefix, after, limit))

    def trim(self, log: str, upto: int) -> Deferred[None]:
        """See ``IStore.trim``."""
        return self._change(TableWriter.trim, (log, upto), 0, log)

    def sweep(self, prefix: str, before: float, keep: int) -> Deferred[int]:
        """See ``IStore.sweep``; in steps, between which other operations are done."""
        return Deferred.fromCoroutine(self._sweep(prefix, before, keep))

    def oldest(self, seconds: float) -> float:
        """See ``IStore.oldest``."""
        return self._expiry.oldest(seconds)

    async def _sweep(self, prefix: str, before: float, keep: int) -> int:
        removed = 0
        start: bytes | None = encode_text(prefix)
        while start is not None:
            count, start = await self._change(TableWriter.sweep_logs, (prefix, start, before, keep), 0, EVERY_LOG)
            removed += count
        due = self.oldest(EXPIRED_KEPT)
        space: str | None = ""
        while space is not None:
            space = await self._change(TableWriter.sweep_keys, (space, due), 0)
        while await self._change(TableWriter.forget_keys, (self._expiry,), 0):
            pass
        return removed

    # Keys.

    def get(self, space: str, key: str) -> Deferred[Entry | None]:
        """See ``IStore.get``."""
        large = (space, key) if space in ANNOUNCED_SPACES else None
        return self._query(TableReader.get, (space, key, self._expiry), (space, key), key=large)

    def range(
        self, space: str, first: str, last: str, limit: int, max_bytes: int = 0
    ) -> Deferred[list[tuple[str, Entry]]]:
        """See ``IStore.range``."""
        return self._query(TableReader.range, (space, first, last, limit, self._expiry, max_bytes), (space,))

    def set(
        self,
        space: str,
        key: str,
        value: bytes,
        *,
        revision: int | None = None,
        expires: float = 0.0,
        quota: Quota | None = None,
        announcement: Announcement | None = None,
    ) -> Deferred[Entry]:
        """See ``IStore.set``."""
        arguments = (space, key, value, revision, expires, self._expiry, quota)
        if announcement is None and space not in ANNOUNCED_SPACES:  # such as a cursor, of which there are many at once
            return self._change(TableWriter.set, (*arguments, None), len(value), (space,), (space, key))
        return self._change_key(TableWriter.set, arguments, len(value), announcement)

    def delete(
        self, space: str, key: str, *, revision: int | None = None, announcement: Announcement | None = None
    ) -> Deferred[bool]:
        """See ``IStore.delete``."""
        return self._change_key(TableWriter.delete, (space, key, revision, self._expiry), 0, announcement)

    def patch(
        self,
        space: str,
        key: str,
        value: bytes,
        merge: Callable[[bytes, bytes], bytes],
        *,
        quota: Quota | None = None,
        announcement: Announcement | None = None,
    ) -> Deferred[Entry]:
        """See ``IStore.patch``; *merge* is called in the writer thread."""
        arguments = (space, key, value, merge, self._expiry, quota)
        return self._change_key(TableWriter.patch, arguments, len(value), announcement)

    def increment(
        self,
        space: str,
        key: str,
        amount: bytes,
        *,
        quota: Quota | None = None,
        announcement: Announcement | None = None,
    ) -> Deferred[Entry]:
        """See ``IStore.increment``."""
        arguments = (space, key, amount, self._expiry, quota)
        return self._change_key(TableWriter.increment, arguments, len(amount), announcement)

    def expired(self, space: str, limit: int, announce: Announce | None = None) -> Deferred[list[str]]:
        """See ``IStore.expired``; *announce* is called in the writer thread."""
        self._expiry.report()
        return self._change(TableWriter.expired, (space, limit, self._expiry, announce), 0)

    def revision(self, space: str) -> Deferred[int]:
        """See ``IStore.revision``."""
        if self._stopped_reason:
            return refused(self._stopped_reason)
        return self._commits.submit(TableWriter.revision, (space,), 0)

    # Submitting.

    def _before_commit(self, work: Callable[[], object]) -> None:
        self._commits.before_batch(work)

    def _do_jobs(self, verb: Callable[..., Any], arguments: tuple[Any, ...], size: int, reads: bool) -> Deferred[Any]:
        if self._stopped_reason:
            return refused(self._stopped_reason)
        return self._commits.submit(
            TableWriter.read_jobs if reads else TableWriter.change_jobs, (verb, arguments), size
        )

    def _change_key(
        self, verb: Callable[..., Any], arguments: tuple[Any, ...], size: int, announcement: Announcement | None
    ) -> Deferred[Any]:
        """Change the key that the first of *arguments* name, and append its event if that is to be stored."""
        space, key, *_ = arguments
        large = (space, key) if space in ANNOUNCED_SPACES else None  # what clients set may be large
        if announcement is None or not announcement.stored:
            return self._change(verb, (*arguments, announcement), size, (space,), (space, key), key=large)
        log = LOG_PREFIX + announcement.topic
        return self._change(
            TableWriter.change_announced,
            (verb, (*arguments, announcement), announcement),
            2 * size,
            (space,),
            (space, key),
            log,
            key=large,
        )

    def _bytes_of(self, space: str, key: str) -> int:
        """Return how many bytes a key has, as far as it is written."""
        try:
            return self._reader.bytes_of(space, key)
        except sqlite3.Error:
            return 0  # whoever reads or writes it finds out

    def _change(
        self,
        verb: Callable[..., Any],
        arguments: tuple[Any, ...],
        size: int,
        *touched: Hashable,
        key: tuple[str, str] | None = None,
    ) -> Deferred[Any]:
        if self._stopped_reason:
            return refused(self._stopped_reason)
        return self._commits.submit(verb, arguments, size, *touched, key=key)

    def _query(
        self,
        verb: Callable[..., Any],
        arguments: tuple[Any, ...],
        *touched: Hashable,
        key: tuple[str, str] | None = None,
    ) -> Deferred[Any]:
        """Read at once, or after the writes that are under way if one of them may change *touched*."""
        if self._stopped_reason:
            return refused(self._stopped_reason)
        if not any(map(self._commits.outstanding, touched)):
            try:
                return succeed(verb(self._reader, *arguments))
            except sqlite3.Error as error:
                # Another program holds the file, and the writer thread may wait for it; or it is being opened anew.
                if is_damage(error):
                    self._commits.damaged(error)
        return self._commits.submit(verb, arguments, 0, key=key, after=touched)


def _ignore(*_: object) -> None:
    """The callback where none was given."""
