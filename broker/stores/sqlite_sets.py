"""Small values of many keys, set by two statements.

At each statement the writer thread lets the others go on, and then waits until they let it: that takes longer than the
statement itself.  The cursors of hundreds of polls that were answered at once are set together.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from broker.errors import BrokerError
from broker.messages import Announcement, Entry, Quota, encode_text
from broker.stores.entries import alive
from broker.stores.expiry import Expiry
from broker.stores.revisions import FileRevisions
from broker.stores.room import SMALL_VALUE

SIZES = (32, 8)  # of keys in one statement: so there are few different ones, which the connection keeps prepared

# Space, key, value, revision, expiry, clock, quota and announcement: see ``TableWriter.set``.
SetArguments: TypeAlias = tuple[str, str, bytes, int | None, float, Expiry, Quota | None, Announcement | None]


def _looking(size: int) -> str:
    keys = ", ".join("?" * size)
    return f"SELECT key, revision, expires FROM entry WHERE space = ? AND key IN ({keys})"


def _setting(size: int) -> str:
    rows = ", ".join(["(?, ?, ?, ?, ?)"] * size)
    return (
        f"INSERT INTO entry (space, key, value, revision, expires) VALUES {rows} ON CONFLICT (space, key)"
        " DO UPDATE SET value = excluded.value, revision = excluded.revision, expires = excluded.expires"
    )


LOOKING = {size: _looking(size) for size in SIZES}
SETTING = {size: _setting(size) for size in SIZES}


def leading(calls: Sequence[SetArguments]) -> int:
    """Return how many of *calls*, from the first on, can be set together; 0 if that are too few.

    They set small values of different keys in one space: all that can refuse them is the quota of a new key.
    """
    keys: set[str] = set()
    for space, key, value, revision, _, _, _, announcement in calls:
        alike = space == calls[0][0] and revision is None and announcement is None
        if not alike or key in keys or len(value) > SMALL_VALUE:
            break
        keys.add(key)
    return next((size for size in SIZES if len(keys) >= size), 0)


class KeySets:
    """Sets keys together, within a transaction.

    Args:
        connection: the one that writes.
        revisions: gives those of keys.
        set_one: ``TableWriter.set``.
    """

    def __init__(self, connection: sqlite3.Connection, revisions: FileRevisions, set_one: Callable[..., Entry]) -> None:
        self._revisions, self._set_one = revisions, set_one
        self.attach(connection)

    def attach(self, connection: sqlite3.Connection) -> None:
        """Use *connection* from now on."""
        self._execute = connection.execute

    def set(self, calls: Sequence[SetArguments]) -> list[Any]:
        """Do *calls*, one of ``SIZES`` of which ``leading`` counts all; return for each its entry, or its refusal."""
        space, expiry = calls[0][0], calls[0][5]
        keys = [encode_text(key) for _, key, *_ in calls]
        stored = {
            key: revision
            for key, revision, expires in self._execute(LOOKING[len(calls)], (space, *keys))
            if alive(Entry(b"", revision, expires), expiry)
        }
        if len(stored) < len(calls):
            return [self._outcome(arguments) for arguments in calls]
        entries: list[Any] = []
        rows: list[Any] = []
        for key, (_, _, value, _, expires, *_) in zip(keys, calls, strict=True):
            revision = self._revisions.next(space, stored[key])
            entries.append(Entry(value, revision, expires))
            rows += (space, key, value, revision, expires)
        self._execute(SETTING[len(calls)], rows)
        return entries

    def _outcome(self, arguments: SetArguments) -> Any:
        try:
            return self._set_one(*arguments)
        except BrokerError as error:
            return error.with_traceback(None)  # it would keep this frame, and so all others
