"""How large the file of the SQLite store is, and giving back what it does not need."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable

from twisted.logger import Logger

from broker.stores.room import Room
from broker.stores.sqlite_copy import size_of

log = Logger()

MAX_UNMEASURED_BYTES = 1 << 24  # written after which it is measured again; less when less is left
FREE_PAGES_KEPT = 256  # unused pages that the file keeps for what comes next ...
FREE_PART_KEPT = 8  # ... or this part of all its pages, if that is more
VACUUMED_PAGES = 64  # given back in one transaction
INCREMENTAL = 2  # of PRAGMA auto_vacuum
MAX_CONVERTED_BYTES = 32 << 20  # in use of a file that is made to shrink when it is opened: that takes up to a second


class FileSpace:
    """Measures the file, and shrinks it; used by the writer thread alone.

    Args:
        connection: the one that writes.
        path: the file.
        max_bytes: what may be used of it; 0: any number.
        min_free_bytes: how much of the disk is left free.

    Attributes:
        allowance: bytes that may still be written before it is measured again.
        used_bytes: its pages that are in use, and the write-ahead log, when it was measured last.
        reclaimable: whether it has more unused pages than it keeps.
        shrunk: whether pages were given back that the file has until the write-ahead log is written into it.
    """

    def __init__(self, connection: sqlite3.Connection, path: str, max_bytes: int, min_free_bytes: int) -> None:
        self.attach(connection)
        self._path = path
        self._room = Room(max_bytes)
        self._min_free_bytes = min_free_bytes
        self._page_size: int = self._number("page_size")
        self._shrinks = self._number("auto_vacuum") == INCREMENTAL
        self.allowance = 0
        self.used_bytes = 0
        self.reclaimable = False
        self.shrunk = False

    def attach(self, connection: sqlite3.Connection) -> None:
        """Use *connection* from now on."""
        self._execute = connection.execute

    def measure(self, size: int) -> str:
        """Measure it before *size* bytes are added; return why nothing can be, or ""."""
        pages, free = self._number("page_count"), self._number("freelist_count")
        self.reclaimable = self._shrinks and free > max(FREE_PAGES_KEPT, pages // FREE_PART_KEPT)
        self.used_bytes = (pages - free) * self._page_size + size_of(f"{self._path}-wal")
        left = self._room.max_bytes - self.used_bytes if self._room.max_bytes else MAX_UNMEASURED_BYTES
        self.allowance = min(left // 4, MAX_UNMEASURED_BYTES) - size
        return self._room.judge(self.used_bytes) or self._disk_shortage(size)

    def _disk_shortage(self, size: int) -> str:
        if not self._min_free_bytes:
            return ""
        try:
            disk = os.statvfs(os.path.dirname(self._path) or ".")
        except OSError:
            return ""  # the directory is gone, or not to be looked at: ``FileWatch`` says so
        free = disk.f_bavail * disk.f_frsize
        if free - size >= self._min_free_bytes:
            return ""
        return f"{free} bytes are free on its disk (TXBROKER_MIN_FREE_BYTES is {self._min_free_bytes})"

    def vacuum(self) -> None:
        """Give some unused pages back to the disk, if there are more than are kept."""
        if not self.reclaimable:
            return
        before = self._number("freelist_count")
        # Each row that is fetched is one page.
        self._execute(f"PRAGMA incremental_vacuum({VACUUMED_PAGES})").fetchall()
        free, pages = self._number("freelist_count"), self._number("page_count")
        self.reclaimable = before > free > max(FREE_PAGES_KEPT, pages // FREE_PART_KEPT)
        self.shrunk = not self.reclaimable

    def _number(self, name: str) -> int:
        return pragma(self._execute, name)


def pragma(execute: Callable[[str], sqlite3.Cursor], name: str) -> int:
    """Return the number that the pragma *name* has."""
    (number,) = execute(f"PRAGMA {name}").fetchone()
    return int(number)


def let_shrink(connection: sqlite3.Connection, path: str) -> None:
    """Let the file of *connection* give back what it does not need; one of before that, only if it is small.

    Args:
        connection: in no transaction.
        path: the file, for the log.
    """
    execute = connection.execute
    if pragma(execute, "auto_vacuum") == INCREMENTAL:
        return
    used = (pragma(execute, "page_count") - pragma(execute, "freelist_count")) * pragma(execute, "page_size")
    if used > MAX_CONVERTED_BYTES:
        log.warn("{path} does not shrink when events are removed: stop the broker, and run txbroker compact", path=path)
        return
    try:
        execute("PRAGMA auto_vacuum = INCREMENTAL")
        execute("PRAGMA temp_store = MEMORY")
        execute("VACUUM")
        execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        log.warn("{path} does not shrink when events are removed: {error}", path=path, error=error)
    finally:
        execute("PRAGMA temp_store = DEFAULT")
