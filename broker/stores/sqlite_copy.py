"""Whole copies of the file of a SQLite store: of one moment, on the disk, and in place under their names at once."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from urllib.parse import quote

from broker.errors import Unavailable

PAGES_PER_STEP = 1000  # copied between two looks for signals
SIDE_FILES = ("-wal", "-shm", "-journal")  # what SQLite has beside a file that is open; left behind by a kill
RESTORED = ".restored"  # behind the name of the store: what is to be renamed to it


class CopyError(Unavailable):
    """A copy of the store can not be made, or not be used.

    Args:
        subject: what can not be done, as the beginning of a sentence.
        reason: why.
    """

    def __init__(self, subject: str, reason: Exception | str) -> None:
        text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        super().__init__("store", message=f"{subject}: {text.removesuffix('.')}.")


def open_uri(path: str, options: str, timeout: float = 0.0) -> sqlite3.Connection:
    """Return a connection to the file *path*, which must exist, with *options* of SQLite's URIs."""
    name = quote(os.fsencode(path))  # which need not be UTF-8
    return sqlite3.connect(f"file:{name}?{options}", timeout=timeout, uri=True, isolation_level=None)


def size_of(path: str) -> int:
    """Return how many bytes the file *path* has; 0 if there is none, or it can not be looked at."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def sync(path: str) -> None:
    """Return when the file, or the directory, *path* is on the disk."""
    descriptor = os.open(path or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(*paths: str) -> None:
    """Remove those of *paths* that there are."""
    for path in paths:
        with suppress(FileNotFoundError):
            os.unlink(path)


@contextmanager
def new_file(target: str) -> Iterator[str]:
    """Create an empty file in the directory of *target*, for its owner only; remove what has its name at the end."""
    folder, name = os.path.split(target)
    descriptor, path = tempfile.mkstemp(".part", f".{name}.", folder or ".")
    os.close(descriptor)
    try:
        yield path
    finally:
        remove(path, *(path + suffix for suffix in SIDE_FILES))


def copy_pages(source: sqlite3.Connection, path: str) -> None:
    """Copy what *source* sees at this moment into the empty file *path*, which needs no side files then.

    Others go on writing meanwhile; only their write-ahead log is not shortened.

    Raises:
        sqlite3.Error: the one can not be read, or the other not be written.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as copy:
        copy.execute("PRAGMA synchronous = OFF")  # it is synced as a whole, before it gets its name
        source.execute("BEGIN")
        try:
            source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # with the first read begins the moment
            source.backup(copy, pages=PAGES_PER_STEP, progress=_pass_signals)
        finally:
            source.execute("ROLLBACK")
        copy.execute("PRAGMA journal_mode = DELETE")


def use_log(connection: sqlite3.Connection) -> None:
    """Let the file of *connection* have a write-ahead log from now on.

    A daemon that finds it without one would have to wait until nobody reads it, which a backup may for long.
    """
    connection.execute("PRAGMA journal_mode = WAL").fetchone()


def _pass_signals(status: int, remaining: int, total: int) -> None:
    """Do nothing: that Python is entered lets signals interrupt the copying."""


def check_pages(path: str, check: str, subject: str) -> None:
    """Raise ``CopyError`` if the *check*, ``quick_check`` or ``integrity_check``, finds something wrong with a copy."""
    with closing(open_uri(path, "immutable=1")) as connection:
        try:
            (found,) = connection.execute(f"PRAGMA {check}(1)").fetchone()
        except sqlite3.Error as error:
            found = str(error)
    if found != "ok":
        raise CopyError(subject, f"it is damaged: {' '.join(str(found).split())}")


def check_room(source: sqlite3.Connection, folder: str, subject: str) -> None:
    """Raise ``CopyError`` if the disk of *folder* has no room for what *source* has."""
    (pages,) = source.execute("PRAGMA page_count").fetchone()
    (page_size,) = source.execute("PRAGMA page_size").fetchone()
    disk, size = os.statvfs(folder or "."), pages * page_size
    free = disk.f_bavail * disk.f_frsize
    if free < size:
        raise CopyError(subject, f"that needs {size} bytes, and {free} are free on the disk")


def own_like(path: str, model: str) -> None:
    """Give the file *path* to the owner of *model*, when root does what is that user's: the daemon must open it."""
    if os.geteuid() == 0:
        owner = os.stat(model or ".")
        with suppress(PermissionError):  # root of a container may have no right to
            os.chown(path, owner.st_uid, owner.st_gid)


def publish(part: str, target: str, *, overwrite: bool) -> None:
    """Give the file *part* the name *target*, on the disk.

    Raises:
        FileExistsError: that name is taken, and it should not *overwrite*.
    """
    sync(part)
    if overwrite:
        os.replace(part, target)
    else:
        _rename_new(part, target)
    sync(os.path.dirname(target))


def _rename_new(part: str, target: str) -> None:
    try:
        os.link(part, target)  # unlike a rename, it never replaces
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(target):
            raise FileExistsError(target) from None
        os.rename(part, target)


def finish_restoring(path: str) -> None:
    """End what a restoring of the store *path* has left that was killed; by whom holds the lock of the store."""
    restored = path + RESTORED
    if not os.path.lexists(restored):
        return
    if os.path.lexists(path):
        remove(restored)  # it had not begun to replace anything
        return
    os.rename(restored, path)
    sync(os.path.dirname(path))
