"""Opening the file of the SQLite store: its lock, its settings and its schema."""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from importlib import resources

import attrs

from broker.errors import Unavailable

APPLICATION_ID = 0x74786272  # "txbr": marks the file as one of ours
MAX_WAL_BYTES = 64 * 1024 * 1024  # a write-ahead log that has grown beyond is truncated
CACHE_KIB = 1000  # of each of the two connections
MIN_WAL_PAGES, MAX_WAL_PAGES = 16, 1000  # after which the log is written back into the file
NOTE_TIME = "INSERT OR REPLACE INTO meta (name, value) VALUES ('time', ?)"
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
        epoch: made at random when the file was made.
        noted: the time that was noted last, in seconds since 1970; 0.0: none.
    """

    writes: sqlite3.Connection
    reads: sqlite3.Connection
    epoch: str
    _lock: int
    noted: float = 0.0

    def note_time(self, now: float) -> None:
        """Note the time, for the next start; the writer thread must be at rest.  It can be done without."""
        with suppress(sqlite3.Error):
            self.writes.execute(NOTE_TIME, (now,))

    def close(self) -> None:
        """Close and unlock the file; the last connection writes the log back into it."""
        self.reads.close()
        self.writes.close()
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
    lock = _lock(path)
    connections: list[sqlite3.Connection] = []
    try:
        _create(path)
        writes = _connect(path, timeout, connections)
        upgrade(writes, path, schema_steps())
        writes.execute("PRAGMA journal_mode = WAL")
        writes.execute(f"PRAGMA synchronous = {SYNCHRONOUS[durability]}")
        _limit_log(writes, max_bytes)
        reads = _connect(path, 0.0, connections)
        reads.execute("PRAGMA query_only = ON")
        return SqliteFile(writes, reads, _epoch(writes), lock, _noted_time(reads))
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


def _lock(path: str) -> int:
    """Return the descriptor that holds the lock of *path*.

    A file of its own: closing any descriptor of the database would release the
    locks that SQLite has on it.  The kernel releases it when the process is killed.
    """
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
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
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (version or application or tables):
        raise _refusal(path, "it is a SQLite file of another program")
    if version > len(scripts):
        reason = f"it was written by a newer version (its schema is {version}, the newest known here is {len(scripts)})"
        raise _refusal(path, reason)
    if not tables:
        # One with tables would need a VACUUM, which takes long and twice the space.
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


def _limit_log(connection: sqlite3.Connection, max_bytes: int) -> None:
    """Let the write-ahead log keep an eighth of *max_bytes* at most, or ``MAX_WAL_BYTES``; 0: the latter."""
    kept = min(MAX_WAL_BYTES, max_bytes // 8) if max_bytes else MAX_WAL_BYTES
    connection.execute(f"PRAGMA journal_size_limit = {kept}")
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    # What is committed is written back into the file before the log is longer than that, if nobody reads.
    connection.execute(f"PRAGMA wal_autocheckpoint = {max(MIN_WAL_PAGES, min(MAX_WAL_PAGES, kept // page_size))}")


def _epoch(connection: sqlite3.Connection) -> str:
    connection.execute("INSERT OR IGNORE INTO meta (name, value) VALUES ('epoch', ?)", (secrets.token_hex(8),))
    (epoch,) = connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
    return str(epoch)


def _noted_time(connection: sqlite3.Connection) -> float:
    row = connection.execute("SELECT value FROM meta WHERE name = 'time'").fetchone()
    return float(row[0]) if row else 0.0
