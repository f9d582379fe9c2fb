"""Writes the log of the SQLite store back into the database file, on a schedule of its own.

SQLite would try it at each commit while the log is long, all of it again, say nothing when that
fails, and let every commit wait for it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

import attrs
from twisted.logger import Logger

from broker.errors import with_detail
from broker.stores.sqlite_failures import is_damage
from broker.stores.sqlite_watch import FileWatch

MIN_DELAY, MAX_DELAY = 1.0, 30.0  # seconds until it is tried again; doubled with each failure
MAX_LOG_BYTES = 1 << 24  # of a log that is not written back, before it is a reason not to be ready
READER = 16  # times as long may it be while another program reads, which may be a backup
NOT_WRITTEN_BACK = "The write-ahead log can not be written back into the database file."
INCOMPLETE = "another program reads an old state of it"


@attrs.frozen
class CheckpointState:
    """How the last attempt has ended.

    Attributes:
        failure: why the log could not be written back, or not all of it; "" when it was.
        failed: whether it has failed, and does not only wait for another program.
    """

    failure: str = ""
    failed: bool = False


class CheckpointHealth:
    """Tells operators of checkpoints that fail; used by the reactor thread.

    Args:
        failed: called for each that has failed.
        log_bytes: returns how long the log is.
        limit: bytes of the log from which on its length is a problem; ``READER`` times as many while
            another program reads.
    """

    log = Logger()

    def __init__(self, failed: Callable[[], object], log_bytes: Callable[[], int], limit: int) -> None:
        self._failed, self._log_bytes, self._limit = failed, log_bytes, limit
        self._state = CheckpointState()

    def note(self, state: CheckpointState) -> None:
        """Notice how the last attempt has ended."""
        before, self._state = self._state, state
        if state.failed:
            self._failed()
            if not before.failed:
                self.log.error("{reason}", reason=with_detail(NOT_WRITTEN_BACK, state.failure))
        elif before.failed:
            self.log.info("The write-ahead log can be written back again.")

    @property
    def problem(self) -> str:
        """What is wrong, when the log has become long by that; "" for nothing."""
        limit = self._limit if self._state.failed else self._limit * READER
        if not self._state.failure or (size := self._log_bytes()) <= limit:
            return ""
        return with_detail(NOT_WRITTEN_BACK, f"{self._state.failure}; it has {size} bytes")


class Checkpoints:
    """Decides when to write the log back, and does it; used by the writer thread alone.

    Args:
        connection: the one that writes.
        watch: knows how long the log is.
        pages: from how many on the log is written back.
        report: called with the state after each attempt that has failed, and the first that has not.
        now: returns seconds that only rise.

    Attributes:
        failing: whether the last attempt has failed, or has not written all of the log.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        watch: FileWatch,
        pages: int,
        report: Callable[[CheckpointState], object],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._execute = connection.execute
        self._watch = watch
        self.pages = pages
        self._report = report
        self._now = now
        self.failing = False
        self._delay = 0.0  # before the next attempt
        self._next = 0.0  # when it may be tried again

    def attach(self, connection: sqlite3.Connection) -> None:
        """Use *connection* from now on."""
        self._execute = connection.execute

    def look(self) -> None:
        """Write the log back if it is long, and that has not failed just now.

        Raises:
            FileLost: the log is not as the store has left it.
            sqlite3.Error: the file is damaged.
            OSError: the log can not be looked at.
        """
        if self.failing and self._now() < self._next:
            return
        if self._watch.log_has(self.pages):
            self.run()
        elif self.failing:
            self._succeeded()

    def run(self) -> bool:
        """Write the log back; return whether all of it was.

        Raises:
            sqlite3.Error: the file is damaged.
        """
        try:
            _, frames, written = self._execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            self._watch.accept()  # some of it may be written
            self._failed(str(error), True)
            if is_damage(error):
                raise
            return False
        self._watch.accept()
        if written < frames:
            self._failed(INCOMPLETE, False)
            return False
        self._succeeded()
        return True

    def _failed(self, failure: str, failed: bool) -> None:
        self._delay = min(max(2 * self._delay, MIN_DELAY), MAX_DELAY) if failed else MIN_DELAY
        self._next = self._now() + self._delay
        self.failing = True
        self._report(CheckpointState(failure, failed))

    def _succeeded(self) -> None:
        self._delay = 0.0
        if self.failing:
            self.failing = False
            self._report(CheckpointState())
