"""Lets nothing be acknowledged that may not be in the file: after I/O errors, and when the file is lost."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable

from twisted.logger import Logger

from broker.stores.sqlite_checkpoints import Checkpoints
from broker.stores.sqlite_failures import FileLost, is_damage, is_io_error, is_unreadable
from broker.stores.sqlite_file import SqliteFile, closed_connection, give_up_pages
from broker.stores.sqlite_tables import TableReader, TableWriter
from broker.stores.sqlite_watch import TRY_INTERVAL, first_damage

RESTART = "nothing is written until the broker is started again"
MAX_COMPARED_KEYS = 1_000_000

# What must be the same before and after the file was opened anew.
_DIGEST = (
    "SELECT count(*), total(id), total(trimmed) FROM log",
    "SELECT max(rowid) FROM event",
    "SELECT total((SELECT max(e.id) FROM event e WHERE e.log = l.id)) FROM log l",
    f"SELECT count(*), total(revision), total(expires) FROM (SELECT * FROM entry LIMIT {MAX_COMPARED_KEYS})",
    "SELECT count(*), total(count) FROM account",
    f"SELECT count(*), total(id), total(expires) FROM (SELECT * FROM known_key LIMIT {MAX_COMPARED_KEYS})",
    "SELECT value FROM meta WHERE name = 'epoch'",
)


class FileGuard:
    """What the writer thread asks before and after its transactions; used by that thread alone, but where it is said.

    Args:
        file: the open file.
        tables: what the thread writes to.
        checkpoints: writes the log back.
        release: called with a function in the reactor thread: closes the connection that reads, then calls that.
        adopt: called with the new file in the reactor thread when it was opened anew.
        report: called, by any thread, when ``broken`` was set.
        call: calls a function in the reactor thread.

    Attributes:
        broken: why nothing can be written until the next start; "" for nothing.  Any thread may read it.
        readable: whether reads may go on then.
        suspect: whether an I/O error leaves it open what is on the disk.
    """

    log = Logger()

    def __init__(
        self,
        file: SqliteFile,
        tables: TableWriter,
        checkpoints: Checkpoints,
        release: Callable[[Callable[[], object]], object],
        adopt: Callable[[SqliteFile], object],
        report: Callable[[], object],
        call: Callable[..., object],
    ) -> None:
        self.file, self.checkpoints = file, checkpoints
        self.watch = file.watch
        self.broken = ""
        self.readable = True
        self.suspect = False
        self._tables = tables
        self._release, self._adopt, self._report, self._call = release, adopt, report, call
        self._closed = False  # whether it is to be opened again
        self._before: list[object] = []  # the digest of what was acknowledged, until it was compared
        self._inspecting = False

    def check(self) -> str:
        """Look at the files; return why nothing can be written, "" for nothing."""
        if self.broken or self._closed:
            return self.broken
        try:
            self.watch.check()
            if self.watch.log_shrank(self.watch.length_of_log()) and not self.checkpoints.run():
                raise self.watch.log_truncated()
        except (FileLost, OSError, sqlite3.Error) as error:
            return self.judge(error)
        if self.watch.changed and not self._inspecting:
            self.watch.changed, self._inspecting = False, True
            self._call(self.log.warn, "{file} was changed by another program: it is checked", file=self.watch.path)
            threading.Thread(target=self._inspect, name="txbroker check", daemon=True).start()
        return ""

    def _inspect(self) -> None:
        """Look for damage, in a thread of its own: it may take long."""
        found = first_damage(self.watch.path)
        self._inspecting = False
        if found and not self.broken:
            self._break(f"{self.watch.path} is damaged: {found}")

    def look(self) -> None:
        """Write the log back if it is time to."""
        if self.broken or self.suspect or self.watch.unsettled:
            return
        try:
            self.checkpoints.look()
        except (FileLost, OSError, sqlite3.Error) as error:
            self.judge(error)

    def write_back(self) -> None:
        """Write the log back however short it is: so the file ends where its last page does."""
        if self.broken or self.suspect or self.watch.unsettled:
            return
        try:
            self.checkpoints.run()
        except (OSError, sqlite3.Error) as error:
            self.judge(error)

    def rest(self) -> None:
        """Free the pages that the last transactions have left: there is none at the moment."""
        if not (self.broken or self.suspect or self._closed):
            give_up_pages(self.file.writes)

    def judge(self, error: BaseException, reading: bool = False) -> str:
        """Return what *error* of SQLite, or of looking at the files, means for operators.

        *reading* is whether a read has failed, not a transaction.
        """
        if isinstance(error, FileLost):
            return self._lose(error)
        if isinstance(error, OSError):
            return f"{self.watch.path}: {error.strerror or error}"
        if is_damage(error) or (reading and is_unreadable(error)):
            return self._break(f"{self.watch.path} is damaged: {error}")
        if is_io_error(error):
            self.suspect = True
        return str(error)

    def _lose(self, lost: FileLost) -> str:
        if self.broken:
            return self.broken
        if not lost.readable:
            self.readable = False
            TableReader.attach(self._tables, closed_connection())
        self._keep_log_out(lost)
        if not lost.keeps:
            return self._break(lost.reason)
        saved = "" if lost.logged and self._rescue() else "perhaps not all "
        return self._break(f"{lost.reason}; what was acknowledged is {saved}in {self.watch.path}")

    def _keep_log_out(self, lost: FileLost) -> None:
        """Let nothing of the log be written to the database file any more, if it does not belong there."""
        self.file.lost |= not (lost.keeps and lost.logged)
        if not lost.keeps:
            self.watch.set_log_aside()

    def end(self) -> None:
        """Look at the files a last time: closing would write the log into whatever has come since, damaged or not."""
        if not self.check() or self.broken:
            try:
                self.watch.check(thoroughly=bool(self.broken))
                while self.watch.unsettled:
                    time.sleep(TRY_INTERVAL)
                    self.watch.check()
            except FileLost as lost:
                self._keep_log_out(lost)
                self._lose(lost)
            except OSError:
                pass  # nothing is there, or it is as it was

    def _rescue(self) -> bool:
        """Write the log back, whose name is lost: so it is not needed at the next start."""
        try:
            return self.checkpoints.run()
        except (FileLost, OSError, sqlite3.Error):
            return False

    def _break(self, reason: str) -> str:
        if not self.broken:
            self.broken = f"{reason}; {RESTART}"
            self._call(self._report)
        return self.broken

    def recover(self) -> str:
        """After an I/O error, see whether writing is possible again, open the file anew, and compare.

        Whatever SQLite and the system have cached of the last transactions is read again
        from the file.  Returns why nothing can be written yet, "" when it can.
        """
        try:
            if not self._before:
                self._probe()
                if failure := self.check():
                    return failure
                if self.watch.unsettled:  # to close it would write the log back
                    return f"{self.watch.path} is being changed by another program"
                self._before = self._digest()
                self._close()
            if self._closed:
                self._open()
            found = self._digest()
        except (FileLost, OSError, sqlite3.Error) as error:
            return self.judge(error)
        if found != self._before:
            return self._break(f"{self.watch.path} lacks what was acknowledged before an I/O error")
        self.suspect, self._before = False, []
        self._call(self.log.info, "{file} was opened anew, and nothing is missing", file=self.watch.path)
        return ""

    def _probe(self) -> None:
        tables = self._tables
        try:
            tables.begin()
            tables.probe()
            tables.commit()
        except sqlite3.Error:
            tables.rollback()
            raise

    def _close(self) -> None:
        # With the last connection SQLite forgets its index of the log, and makes it anew from the log.
        released = threading.Event()
        self._call(self._release, released.set)
        released.wait()
        self.file.writes.close()
        self._closed = True

    def _open(self) -> None:
        self.watch.forget_cached()
        self.file.reopen()
        self._closed = False
        self._tables.attach(self.file.writes)
        self.checkpoints.attach(self.file.writes)
        self._call(self._adopt, self.file)

    def _digest(self) -> list[object]:
        execute = self.file.writes.execute
        return [execute(query).fetchone() for query in _DIGEST]
