"""Notices when another program deletes, replaces or changes the files of the SQLite store.

SQLite goes on with the files that it has opened, whatever becomes of their names: what it then
writes is gone when the process ends.  The database file is written by checkpoints only, so that
its size and time tell of every change that is not the store's own.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import time
from contextlib import closing, suppress

from broker.stores.sqlite_copy import open_uri, size_of
from broker.stores.sqlite_failures import FileLost
from broker.stores.sqlite_history import History, look, unused_name

SIDE_FILES = ("-wal", "-shm", ".lock")
STALE = "-wal.stale"  # what a log is renamed to that belongs to no file any more
# https://www.sqlite.org/fileformat.html: 1.3 The Database Header, 4.1 WAL File Format
MAGIC = b"SQLite format 3\0"
LOG_MAGIC = (0x377F0682, 0x377F0683)
LOG_HEADER, FRAME_HEADER = 32, 24  # bytes
TRIES, TRY_INTERVAL = 3, 0.02  # another program's checkpoint may be writing a page that is looked at
SETTLE = 0.5  # seconds until what another program has written to the file is taken for the whole of it

FileState = tuple[int, int, int, int]


class FileWatch:
    """Compares the files at the paths of the store with those that it has opened; used by the writer thread alone.

    Args:
        path: the database file.
        history: knows its epoch, and how far the database has come.
        page_size: bytes of a page of the database.
        log_limit: bytes below which SQLite does not shorten the log.

    Attributes:
        main: what ``state_of`` returns of the database file, as the store has left it.
        log: device and inode of the write-ahead log.
        log_path: its path.
        log_bytes: how long it was when it was looked at last.
        side: device and inode of each file beside the database, by path.
        changed: whether another program has written to the database file, which is still the store's.
        unsettled: whether another program writes to it, so that it may still become another database.
    """

    def __init__(self, path: str, history: History, page_size: int, log_limit: int) -> None:
        self.path, self.log_path = path, f"{path}-wal"
        self.changed = self.unsettled = False
        self._settled = 0.0  # when what it writes now is taken for the whole of it
        self._history, self._page_size, self._log_limit = history, page_size, log_limit
        # Not to be closed before SQLite has closed the file: that would end the locks of SQLite.
        self._descriptor = os.open(path, os.O_RDONLY)
        self.main: FileState = (0, 0, 0, 0)
        self.log = (0, 0)
        self.side: dict[str, tuple[int, int]] = {}
        self.log_bytes = 0
        self._header = b""
        self.begin()

    def begin(self) -> None:
        """Take the files that are at the paths now for those that are open.

        Raises:
            FileLost: the database file is another one.
            OSError: they can not be looked at.
        """
        ours = os.fstat(self._descriptor)
        if (ours.st_dev, ours.st_ino) != state_of(os.stat(self.path))[:2]:
            raise FileLost(f"{self.path} was replaced by another file", keeps=False)
        self.side = {self.path + suffix: identity(self._stat(suffix)) for suffix in SIDE_FILES}
        self.log = self.side[self.log_path]
        self.accept()

    def accept(self) -> None:
        """Remember the files as they are now, after the store itself has changed them."""
        self.main = state_of(os.fstat(self._descriptor))
        self.log_bytes = self.length_of_log()
        self._header = self._read_header()

    def close(self) -> None:
        """Let go of the file, after SQLite has closed it."""
        os.close(self._descriptor)

    def check(self, *, thoroughly: bool = False) -> None:
        """Look at all files; *thoroughly*: at the contents of the database although its time is the same.

        Raises:
            FileLost: one of them is not the store's any more.
            OSError: they can not be looked at.
        """
        main = self._stat("", keeps=False)
        if identity(main) != self.main[:2]:
            raise FileLost(f"{self.path} was replaced by another file", keeps=False)
        if thoroughly or self.unsettled or state_of(main) != self.main:
            self._examine()
        for suffix in SIDE_FILES:
            if identity(self._stat(suffix)) != self.side[self.path + suffix]:
                raise FileLost(f"{self.path}{suffix} was replaced by another file", keeps=True)

    def _stat(self, suffix: str, *, keeps: bool = True) -> os.stat_result:
        try:
            return os.stat(self.path + suffix)
        except (FileNotFoundError, NotADirectoryError):
            raise FileLost(f"{self.path}{suffix} was deleted", keeps=keeps) from None

    def _examine(self) -> None:
        """Accept that another program has written to the database file, unless it is not the store's any more."""
        for attempt in range(TRIES):
            state = state_of(os.fstat(self._descriptor))
            reason = self._reason_to_doubt()
            if not reason:
                self._accept_if_settled(state)
                return
            if attempt < TRIES - 1:
                time.sleep(TRY_INTERVAL)
        raise FileLost(f"{self.path} was {reason} by another program", keeps=False, readable=False)

    def _accept_if_settled(self, state: FileState) -> None:
        """Accept what was looked at in this *state*, when the program that has written it must have come to its end.

        The system notes the time of a write before its first byte, so that the rest of it does not show.
        """
        if not self.unsettled:
            self.unsettled, self._settled = True, time.monotonic() + SETTLE
        elif time.monotonic() >= self._settled:
            self.unsettled, self.changed = False, True
            self.accept()
            self.main = state

    def _reason_to_doubt(self) -> str:
        header, before = self._read_header(), self._header
        size, pages = os.fstat(self._descriptor).st_size, _number(header, 28)
        if size < min(self.main[2], pages * self._page_size or self._page_size):
            return "truncated"
        # Page size, application id and version are for good, and the counter of changes never falls.
        same = all(header[first:last] == before[first:last] for first, last in ((0, 18), (68, 72), (60, 64)))
        # SQLite does not raise the counter each time; a database that has fewer pages is an older one as a rule.
        if not same or any(_number(header, place) < _number(before, place) for place in (24, 28)):
            return "overwritten"
        alone, history = look(self.path, "immutable=1"), self._history
        # None: it is damaged, perhaps.
        ours = alone is None or (alone.epoch == history.epoch and alone.generation >= history.merged)
        return "" if ours else "overwritten"

    def _read_header(self) -> bytes:
        return os.pread(self._descriptor, 100, 0).ljust(100, b"\0")

    def log_has(self, frames: int) -> bool:
        """Whether so many pages, or more, were written to the log since it began anew.

        Raises:
            FileLost: it was truncated.
            OSError: it can not be looked at.
        """
        try:
            descriptor = os.open(self.log_path, os.O_RDONLY)
        except FileNotFoundError:
            raise FileLost(f"{self.log_path} was deleted", keeps=True) from None
        try:
            size = os.fstat(descriptor).st_size
            header = os.pread(descriptor, LOG_HEADER, 0)
            place = LOG_HEADER + (frames - 1) * (FRAME_HEADER + self._page_size)
            frame = os.pread(descriptor, FRAME_HEADER, place)
        finally:
            os.close(descriptor)
        if size and _number(header, 0) not in LOG_MAGIC:
            raise self.log_truncated()
        # Frames of before it began anew have other salts.
        return len(frame) == FRAME_HEADER and frame[8:16] == header[16:24]

    def log_shrank(self, size: int) -> bool:
        """Whether the log, of *size* bytes now, is shorter than it was, and not because SQLite has shortened it."""
        shrank = size < min(self.log_bytes, self._log_limit)
        self.log_bytes = size
        return shrank

    def log_truncated(self) -> FileLost:
        """Return the error that says so of the log."""
        return FileLost(f"{self.log_path} was truncated by another program", keeps=True, logged=False)

    def forget_cached(self) -> None:
        """Let the system read database and log from the disk again, as far as it can."""
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        with suppress(FileNotFoundError):
            descriptor = os.open(self.log_path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)

    def length_of_log(self) -> int:
        """Return how long the log is; 0 when it is gone."""
        return size_of(self.log_path)

    def set_log_aside(self) -> None:
        """Rename the log if it is the store's: at its next start SQLite would apply it to whatever file is there."""
        with suppress(OSError, FileLost):
            if identity(self._stat("-wal")) == self.log:
                os.rename(self.log_path, unused_name(self.path + STALE))


def identity(status: os.stat_result) -> tuple[int, int]:
    """Return what another file has otherwise."""
    return status.st_dev, status.st_ino


def state_of(status: os.stat_result) -> FileState:
    """Return device, inode, bytes and time of the last change of contents in nanoseconds."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def first_damage(path: str) -> str:
    """Return the first thing that is wrong with the structure of the database at *path*; "" for nothing.

    It reads the whole file.
    """
    with closing(open_uri(path, "mode=ro")) as connection:
        try:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.Error as error:
            return str(error)
    return "" if found == "ok" else " ".join(str(found).split())


def _number(data: bytes, place: int) -> int:
    """Return the big-endian integer of four bytes at *place*; 0 where *data* ends before."""
    return int(struct.unpack_from(">I", data, place)[0]) if len(data) >= place + 4 else 0
