"""Opening the file of the SQLite store: its lock, its settings and its schema."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from importlib import resources

import attrs

from broker.errors import Unavailable
from broker.stores.sqlite_copy import finish_restoring, own_like
from broker.stores.sqlite_history import History, has_foreign_log, recall, set_log_aside
from broker.stores.sqlite_space import let_shrink

APPLICATION_ID = 0x74786272  # "txbr": marks the file as one of ours
MAX_WAL_BYTES = 64 * 1024 * 1024  # a write-ahead log that has grown beyond is truncated
CACHE_KIB = 1000  # of each of the two connections
MIN_WAL_PAGES, MAX_WAL_PAGES = 16, 1000  # after which the log is written back into the file
SYNCHRONOUS = {"fsync": "FULL", "os": "NORMAL"}


def schema_steps() -> tuple[str, ...]:
    """Return the SQL scripts that lead from an empty file to the newest version of the schema.

    The n-th leads from version n-1 to n.  A released one is never changed.
    """
    folder = resources.files("broker.stores")
    return tuple(folder.joinpath(name).read_text("utf-8") for name in ("schema.sql", "schema_2.sql"))


@attrs.define(eq=False)
class SqliteFile:
    """An open file, locked by this process.

    Attributes:
        writes: the connection of the writer thread.
        reads: a second connection, which sees what was committed.
        history: knows how far it has come, and its epoch.
    """

    writes: sqlite3.Connection
    reads: sqlite3.Connection
    history: History
    _lock: int

    @property
    def epoch(self) -> str:
        """Made at random when the file was made, restored, or found to lack what it had."""
        return self.history.epoch

    def close(self) -> None:
        """Close and unlock the file; the last connection writes the log back into it."""
        self.history.finish()
        self.reads.close()
        self.writes.close()
        self.history.closed()
        os.close(self._lock)


def open_file(path: str, durability: str, timeout: float, max_bytes: int = 0) -> SqliteFile:
    """Open the file at *path*, creating or upgrading it if need be.

    Args:
        path: the database file; another beside it is the lock.
        durability: ``fsync`` or ``os``.
        timeout: seconds to wait while another program holds its write lock.
        max_bytes: what it may grow to; 0: any number.

    Raises:
        Unavailable: it can not be used; the message says why.
    """
    lock = lock_file(path)
    connections: list[sqlite3.Connection] = []
    try:
        finish_restoring(path)
        remembered = recall(path)
        if has_foreign_log(path, remembered):
            set_log_aside(path)
        _create(path)
        writes = _connect(path, timeout, connections)
        upgrade(writes, path, schema_steps())
        writes.execute("PRAGMA journal_mode = WAL")
        writes.execute(f"PRAGMA synchronous = {SYNCHRONOUS[durability]}")
        _limit_log(writes, max_bytes)
        let_shrink(writes, path)
        history = History(writes, path, remembered)
        reads = _connect(path, 0.0, connections)
        reads.execute("PRAGMA query_only = ON")
        return SqliteFile(writes, reads, history, lock)
    except (OSError, sqlite3.Error, Unavailable) as error:
        for connection in connections:
            connection.close()
        os.close(lock)
        if isinstance(error, Unavailable):
            raise
        raise _refusal(path, error) from error


def _refusal(path: str, error: Exception | str) -> Unavailable:
    reason = error.strerror if isinstance(error, OSError) else error
    return Unavailable("store", message=f"The store {path} can not be opened: {reason}.")


def lock_file(path: str) -> int:
    """Return the descriptor that holds the lock of *path*.

    A file of its own: closing any descriptor of the database would release the
    locks that SQLite has on it.  The kernel releases it when the process is killed.

    Raises:
        Unavailable: another process holds it, or there can be none.
    """
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        own_like(f"{path}.lock", path if os.path.exists(path) else os.path.dirname(path))
    except OSError as error:
        raise _refusal(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise _refusal(path, f"process {holder} is using it") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor


def is_locked(path: str) -> bool:
    """Whether a process has the lock of *path*, as far as this one may know."""
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _create(path: str) -> None:
    """Create the file, for its owner only; SQLite gives its side files the same mode."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _connect(path: str, timeout: float, connections: list[sqlite3.Connection]) -> sqlite3.Connection:
    # No isolation level: no statement begins or ends a transaction implicitly.
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    connections.append(connection)
    # What is read again is in the cache of the operating system: its own must not hold what a burst has left.
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    return connection


def upgrade(connection: sqlite3.Connection, path: str, scripts: Sequence[str]) -> None:
    """Bring the file to the newest version, each step whole or not at all.

    Raises:
        Unavailable: it is newer than the newest, or another program's.
    """
    version, problem = judge_version(connection, len(scripts))
    if problem:
        raise _refusal(path, problem)
    if not version:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    for number, script in enumerate(scripts[version:], version + 1):
        try:
            connection.executescript(
                f"BEGIN EXCLUSIVE; {script}; PRAGMA application_id = {APPLICATION_ID}; "
                f"PRAGMA user_version = {number}; COMMIT;"
            )
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def judge_version(connection: sqlite3.Connection, newest: int) -> tuple[int, str]:
    """Return the version of the schema of a file, 0 for an empty one, and why it can not be used, or ""."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (version or application or tables):
        return version, "it is a SQLite file of another program"
    if version > newest:
        return version, (
            f"it was written by a newer version (its schema is {version}, the newest known here is {newest})"
        )
    return version, ""


def _limit_log(connection: sqlite3.Connection, max_bytes: int) -> None:
    """Let the write-ahead log keep an eighth of *max_bytes* at most, or ``MAX_WAL_BYTES``; 0: the latter."""
    kept = min(MAX_WAL_BYTES, max_bytes // 8) if max_bytes else MAX_WAL_BYTES
    connection.execute(f"PRAGMA journal_size_limit = {kept}")
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    # What is committed is written back into the file before the log is longer than that, if nobody reads.
    connection.execute(f"PRAGMA wal_autocheckpoint = {max(MIN_WAL_PAGES, min(MAX_WAL_PAGES, kept // page_size))}")
