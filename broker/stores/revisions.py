"""The revisions of keys: of each space one number, which rises with each change of any of its keys."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any

RESERVED = 1000  # revisions that are given between two writes of how far they have come
HIGHEST_STORED = 2**52  # what an older version has counted beyond is no revision

_LOAD = "SELECT value FROM meta WHERE name = ?"
_RESERVE = "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)"


class Revisions:
    """Gives the revisions of a store that forgets."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def last(self, space: str) -> int:
        """Return the last one that was given in *space*; 0 for none."""
        return self._last.get(space, 0)

    def next(self, space: str, stored: int = 0, count: int = 1) -> int:
        """Give the next *count* of *space* and return the last of them.

        They are above *stored* too, the one of the key that changes: an older version may have counted otherwise.
        """
        last = self._last.get(space)
        if last is None:
            last = self.last(space)
        if last < stored <= HIGHEST_STORED:
            last = stored
        self._last[space] = last = last + count
        return last


class FileRevisions(Revisions):
    """Gives those of a SQLite file, by the thread that writes, within its transactions.

    The file holds a number that none is above which was given.  After a kill they go on behind it, so that
    most changes need not write how far they have come.

    Args:
        execute: does a statement.
    """

    def __init__(self, execute: Callable[..., Any]) -> None:
        super().__init__()
        self._execute = execute
        self._reserved: dict[str, int] = {}

    def attach(self, execute: Callable[..., Any]) -> None:
        """Use *execute* from now on, and what the file holds."""
        self._execute = execute
        self.undone()

    def undone(self) -> None:
        """Notice that a transaction was undone."""
        self._last.clear()
        self._reserved.clear()

    def last(self, space: str) -> int:
        """See ``Revisions.last``."""
        last = self._last.get(space)
        if last is None:
            row = self._execute(_LOAD, (_name(space),)).fetchone()
            last = self._last[space] = self._reserved[space] = row[0] if row else 0
        return last

    def next(self, space: str, stored: int = 0, count: int = 1) -> int:
        """See ``Revisions.next``."""
        last = super().next(space, stored, count)
        if last > self._reserved[space]:
            self._write(space, last + RESERVED)
        return last

    def settle(self) -> None:
        """Write how far they have come, when nobody writes any more; without that some are left out."""
        unsettled = [(space, last) for space, last in self._last.items() if last != self._reserved[space]]
        if not unsettled:
            return
        with suppress(sqlite3.Error):
            self._execute("BEGIN IMMEDIATE")
            for space, last in unsettled:
                self._write(space, last)
            self._execute("COMMIT")

    def _write(self, space: str, number: int) -> None:
        self._execute(_RESERVE, (_name(space), number))
        self._reserved[space] = number


def _name(space: str) -> str:
    return f"revision {space}"
