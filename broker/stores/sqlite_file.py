"""Opening the file of the SQLite store: its lock, its settings and its schema."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from importlib import resources

import attrs

from broker.errors import Unavailable
from broker.remembered import forget_with_results
from broker.stores.sqlite_copy import finish_restoring, own_like
from broker.stores.sqlite_failures import FileLost, is_io_error
from broker.stores.sqlite_history import History, Position, has_foreign_log, recall, set_log_aside
from broker.stores.sqlite_space import let_shrink
from broker.stores.sqlite_watch import FileWatch

APPLICATION_ID = 0x74786272  # "txbr": marks the file as one of ours
MAX_WAL_BYTES = 64 * 1024 * 1024  # a write-ahead log that has grown beyond is truncated
CACHE_KIB = 1000  # of each of the two connections
MIN_WAL_PAGES, MAX_WAL_PAGES = 16, 1000  # after which the log is written back into the file
SCHEMAS = ("schema.sql", "schema_2.sql", "schema_3.sql", "schema_jobs.sql", "schema_5.sql", "schema_6.sql")
SYNCHRONOUS = {"fsync": "FULL", "os": "NORMAL"}


def schema_steps() -> tuple[str, ...]:
    """Return the SQL scripts that lead from an empty file to the newest version of the schema.

    The n-th leads from version n-1 to n.  A released one is never changed.
    """
    folder = resources.files("broker.stores")
    return tuple(folder.joinpath(name).read_text("utf-8") for name in SCHEMAS)


@attrs.frozen
class Opening:
    """How the file is opened.

    Attributes:
        path: the database file; another beside it is the lock.
        durability: ``fsync`` or ``os``.
        timeout: seconds to wait while another program holds its write lock.
        max_bytes: what it may grow to; 0: any number.
    """

    path: str
    durability: str
    timeout: float
    max_bytes: int

    @property
    def log_limit(self) -> int:
        """Bytes that the write-ahead log keeps: an eighth of what there may be, or ``MAX_WAL_BYTES``."""
        return min(MAX_WAL_BYTES, self.max_bytes // 8) if self.max_bytes else MAX_WAL_BYTES

    def connect(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """Return the connection that writes and the one that reads, to a file of the newest version.

        Raises:
            Unavailable: the file is newer, or another program's.
            sqlite3.Error: it can not be opened.
        """
        connections: list[sqlite3.Connection] = []
        try:
            writes = _connect(self.path, self.timeout, connections)
            upgrade(writes, self.path, schema_steps())
            writes.execute("PRAGMA journal_mode = WAL")
            writes.execute(f"PRAGMA synchronous = {SYNCHRONOUS[self.durability]}")
            writes.execute(f"PRAGMA journal_size_limit = {self.log_limit}")
            writes.execute("PRAGMA wal_autocheckpoint = 0")  # see ``Checkpoints``
            reads = _connect(self.path, 0.0, connections, ReadingConnection)
            reads.execute("PRAGMA query_only = ON")
            # Both have opened the log from here on: later its name may lead to another file.
            reads.execute("SELECT count(*) FROM meta").fetchone()
        except (OSError, sqlite3.Error, Unavailable):
            for connection in connections:
                connection.close()
            raise
        return writes, reads


@attrs.define(eq=False)
class SqliteFile:
    """An open file, locked by this process.

    Attributes:
        writes: the connection of the writer thread.
        reads: a second connection, which sees what was committed.
        history: knows how far it has come, and its epoch.
        noted: the time that was noted last, in seconds since 1970; 0.0: none.
        watch: knows the files that are open.
        log_pages: how long the write-ahead log becomes before it is written back into the file.
        lost: whether other files are at its path now.
    """

    writes: sqlite3.Connection
    reads: sqlite3.Connection
    history: History
    watch: FileWatch
    log_pages: int
    _opening: Opening
    _lock: int
    noted: float
    lost: bool = False

    @property
    def epoch(self) -> str:
        """Made at random when the file was made, restored, or found to lack what it had."""
        return self.history.epoch

    def reopen(self) -> None:
        """Open it again, after both connections were closed.

        Raises:
            FileLost: it is another file.
            sqlite3.Error, OSError: it can not be opened.
        """
        try:
            self.writes, self.reads = self._opening.connect()
        except Unavailable as error:
            raise FileLost(str(error).removesuffix("."), keeps=False) from error
        self.watch.begin()

    def close(self) -> None:
        """Close and unlock the file; the last connection writes the log back into it."""
        if self.lost:
            # SQLite would write its log into what is another file by now, and delete what has the name of the log.
            for connection in (self.reads, self.writes):
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
        else:
            self.history.finish()
            self.reads.close()
            self.writes.close()
            self.watch.close()
            self.history.closed()
        os.close(self._lock)


def open_file(path: str, durability: str, timeout: float, max_bytes: int = 0) -> SqliteFile:
    """Open the file at *path*, creating or upgrading it if need be; the arguments are those of ``Opening``.

    Raises:
        Unavailable: it can not be used; the message says why.
    """
    opening = Opening(path, durability, timeout, max_bytes)
    lock = lock_file(path)
    try:
        finish_restoring(path)
        remembered = recall(path)
        if has_foreign_log(path, remembered):
            set_log_aside(path)
        _create(path)
        return _opened(opening, lock, remembered)
    except (OSError, sqlite3.Error, FileLost, Unavailable) as error:
        os.close(lock)
        if isinstance(error, Unavailable):
            raise
        raise _refusal(path, error) from error


def _opened(opening: Opening, lock: int, remembered: Position | None) -> SqliteFile:
    writes, reads = opening.connect()
    try:
        let_shrink(writes, opening.path)
        history = History(writes, opening.path, remembered)
        (page_size,) = writes.execute("PRAGMA page_size").fetchone()
        watch = FileWatch(opening.path, history, page_size, opening.log_limit)
        pages = max(MIN_WAL_PAGES, min(MAX_WAL_PAGES, opening.log_limit // page_size))
        return SqliteFile(writes, reads, history, watch, pages, opening, lock, _noted_time(reads))
    except (OSError, sqlite3.Error, FileLost):
        reads.close()
        writes.close()
        raise


def _refusal(path: str, error: Exception | str) -> Unavailable:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    if isinstance(error, sqlite3.Error) and is_io_error(error):
        reason = f"{error} ({error.sqlite_errorname})"
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


class ForgetfulConnection(sqlite3.Connection):
    """A connection that lets go of its old cursors when memory is given back.

    A connection has a reference to each of the last 200 cursors, though they have ended: each lies between
    what else was made then, and keeps a megabyte of it from the operating system.
    """

    CURSORS = 200

    def cache_clear(self) -> None:
        """Drop the references, as is done once there have been so many cursors."""
        with suppress(sqlite3.ProgrammingError):  # it is closed
            for _ in range(self.CURSORS + 1):
                before = self._references()
                self.cursor()
                if self._references() <= before:
                    return

    def _references(self) -> int:
        return sum(len(each) for each in gc.get_referents(self) if isinstance(each, list))


class ReadingConnection(ForgetfulConnection):
    """The connection of the thread that also gives memory back: the pages that it keeps go, too."""

    def cache_clear(self) -> None:
        """Drop what is kept, but for the pages of a statement under way."""
        with suppress(sqlite3.Error):
            give_up_pages(self)
        super().cache_clear()


def give_up_pages(connection: sqlite3.Connection) -> None:
    """Let *connection* free the pages that it keeps: those of a burst, up to ``CACHE_KIB``.

    Raises:
        sqlite3.Error: it is closed.
    """
    connection.execute("PRAGMA shrink_memory")


def _connect(
    path: str,
    timeout: float,
    connections: list[sqlite3.Connection],
    factory: type[ForgetfulConnection] = ForgetfulConnection,
) -> sqlite3.Connection:
    # No isolation level: no statement begins or ends a transaction implicitly.
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False, factory=factory)
    forget_with_results(connection)
    connections.append(connection)
    # What is read again is in the cache of the operating system: its own must not hold what a burst has left.
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    return connection


def closed_connection() -> sqlite3.Connection:
    """Return a connection by which nothing can be done: each attempt raises ``sqlite3.ProgrammingError``."""
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.close()
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


def _noted_time(connection: sqlite3.Connection) -> float:
    row = connection.execute("SELECT value FROM meta WHERE name = 'time'").fetchone()
    return float(row[0]) if row else 0.0
