"""The tables of the SQLite store: what is asked of them, and what is changed in them within a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from broker.messages import Entry, Event
from broker.stores.entries import alive, check_revision, increased, replaced

LARGEST = 2**63 - 1  # of SQLite's integers
HEADS = 100_000  # logs whose last id is kept in memory
PURGE = 1000  # events deleted in one transaction
SWEEP = 2000  # logs and events looked at in one transaction
ROOM = 65536  # bytes that must be free before we call ourselves ready again

_EVENT = "e.id, e.topic, e.name, e.body, e.source, e.time"
# max() and not a second condition: only one lower bound steers the index.
_READ = (
    f"SELECT {_EVENT} FROM log l JOIN event e ON e.log = l.id"
    " WHERE l.name = ? AND e.id > max(l.trimmed, ?) ORDER BY e.id LIMIT ?"
)
_LATEST = (
    f"SELECT {_EVENT} FROM log l JOIN event e ON e.log = l.id"
    " WHERE l.name = ? AND e.id > l.trimmed ORDER BY e.id DESC LIMIT ?"
)
HEAD = (
    "SELECT l.id, max(l.trimmed, coalesce((SELECT max(e.id) FROM event e WHERE e.log = l.id), 0)), l.trimmed"
    " FROM log l WHERE l.name = ?"
)
_LOGS = "SELECT name FROM log WHERE name >= ? AND name < ? AND name > ? ORDER BY name LIMIT ?"
_GET = "SELECT value, revision, expires FROM entry WHERE space = ? AND key = ?"
_RANGE = (
    "SELECT key, value, revision, expires FROM entry WHERE space = ? AND key >= ? AND key <= ?"
    " AND (expires = 0 OR expires > ?) ORDER BY key LIMIT ?"
)
_NEW_LOG = "INSERT INTO log (name) VALUES (?)"
_APPEND = "INSERT INTO event (log, id, time, source, name, body, topic) VALUES (?, ?, ?, ?, ?, ?, ?)"
_TRIM = "UPDATE log SET trimmed = ? WHERE id = ?"
_TO_PURGE = "SELECT id, purged, trimmed FROM log WHERE purged < trimmed LIMIT 1"
_SWEEP = "SELECT id, name, trimmed FROM log WHERE name >= ? AND name < ? ORDER BY name LIMIT ?"
_TIMES = "SELECT id, time FROM event WHERE log = ? AND id > ? ORDER BY id LIMIT ?"
_PUT = (
    "INSERT INTO entry (space, key, value, revision, expires) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (space, key) DO UPDATE"
    " SET value = excluded.value, revision = excluded.revision, expires = excluded.expires"
)
_DELETE = "DELETE FROM entry WHERE space = ? AND key = ?"
_DUE = "SELECT key FROM entry WHERE space = ? AND expires > 0 AND expires <= ? ORDER BY expires LIMIT ?"
_NEXT_SPACE = "SELECT min(space) FROM entry WHERE space > ?"


class Reads:
    """The questions, each answered from one connection.

    Args:
        connection: in the writer thread the one that writes, so that what was
            written before is seen; in the reactor thread another.
        epoch: what the events that are read shall bear.
    """

    def __init__(self, connection: sqlite3.Connection, epoch: str) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._epoch = epoch

    def flush(self) -> None:
        """Write what is kept back: nothing here."""

    def read(self, log: str, after: int, limit: int) -> list[Event]:
        """Answer ``IStore.read``."""
        self.flush()
        return self._events(log, self._execute(_READ, (pack(log), _fit(after), _fit(limit))).fetchall())

    def latest(self, log: str, limit: int) -> list[Event]:
        """Answer ``IStore.latest``."""
        self.flush()
        return self._events(log, self._execute(_LATEST, (pack(log), _fit(limit))).fetchall()[::-1])

    def _events(self, log: str, rows: list[tuple[int, bytes | int, bytes, bytes | None, bytes, float]]) -> list[Event]:
        epoch = self._epoch
        return [
            Event(
                unpack(topic) if isinstance(topic, bytes) else log[topic:],
                unpack(name),
                body,
                unpack(source),
                time,
                number,
                epoch,
            )
            for number, topic, name, body, source, time in rows
        ]

    def head(self, log: str) -> int:
        """Answer ``IStore.head``."""
        self.flush()
        row = self._execute(HEAD, (pack(log),)).fetchone()
        return 0 if row is None else int(row[1])

    def logs(self, prefix: str, after: str, limit: int) -> list[str]:
        """Answer ``IStore.logs``."""
        self.flush()
        first = pack(prefix)
        rows = self._execute(_LOGS, (first, beyond(first), pack(after), _fit(limit))).fetchall()
        return [unpack(name) for (name,) in rows]

    def get(self, space: str, key: str, now: float) -> Entry | None:
        """Answer ``IStore.get`` at the time *now*."""
        row = self._execute(_GET, (space, pack(key))).fetchone()
        return None if row is None else alive(Entry(*row), now)

    def range(self, space: str, first: str, last: str, limit: int, now: float) -> list[tuple[str, Entry]]:
        """Answer ``IStore.range`` at the time *now*."""
        rows = self._execute(_RANGE, (space, pack(first), pack(last), now, _fit(limit))).fetchall()
        return [(unpack(key), Entry(*entry)) for key, *entry in rows]


class Writes(Reads):
    """The changes.  Each either happens as a whole or raises before its first statement.

    Appended events are kept back until something asks for them or the
    transaction ends, so that a run of them is one statement.
    """

    def __init__(self, connection: sqlite3.Connection, epoch: str) -> None:
        super().__init__(connection, epoch)
        self._executemany = connection.executemany
        self._heads: dict[str, list[int]] = {}  # log -> [its number, its last id]
        self._rows: list[tuple[int, int, float, bytes, bytes, bytes | None, bytes | int]] = []
        self.to_purge = self._execute(_TO_PURGE).fetchone() is not None  # the rest of an earlier run

    def begin(self) -> None:
        """Begin a transaction, alone."""
        if len(self._heads) > HEADS:
            self._heads.clear()
        self._execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make everything since ``begin`` last."""
        self.flush()
        self._execute("COMMIT")

    def rollback(self) -> None:
        """Undo everything since ``begin``, also the ids that were given."""
        self._rows.clear()
        self._heads.clear()
        self.to_purge = True
        if self._connection.in_transaction:
            self._execute("ROLLBACK")

    def flush(self) -> None:
        """Write the events that are kept back."""
        if self._rows:
            rows, self._rows = self._rows, []
            self._executemany(_APPEND, rows)

    def append(self, log: str, event: Event, time: float) -> Event:
        """Give *event* the next id of *log*."""
        head = self._heads.get(log) or self._head(log)
        number = head[1] + 1
        topic = event.topic
        self._rows.append(
            (
                head[0],
                number,
                time,
                event.source.encode("utf-8", "surrogatepass"),
                event.name.encode("utf-8", "surrogatepass"),
                event.body,
                len(log) - len(topic) if log.endswith(topic) else pack(topic),
            )
        )
        head[1] = number
        return Event(
            topic,
            event.name,
            event.body,
            event.source,
            time,
            number,
            self._epoch,
            event.origin,
            event.dialect,
            event.original,
        )

    def _head(self, log: str) -> list[int]:
        row = self._execute(HEAD, (pack(log),)).fetchone()
        if row is None:
            number = self._execute(_NEW_LOG, (pack(log),)).lastrowid
            assert number is not None
            row = (number, 0)
        head = self._heads[log] = [row[0], row[1]]
        return head

    def trim(self, log: str, upto: int) -> None:
        """Do ``IStore.trim``: hide at once, delete later."""
        self.flush()
        row = self._execute(HEAD, (pack(log),)).fetchone()
        if row is None:
            return
        number, head, trimmed = row
        self._hide(number, trimmed, min(upto, head))

    def _hide(self, number: int, trimmed: int, upto: int) -> int:
        if upto <= trimmed:
            return 0
        self._execute(_TRIM, (upto, number))
        self.to_purge = True
        return upto - trimmed

    def purge(self) -> None:
        """Delete a few of the events that trimming hid.

        Within a log ids have no hole, so that a span of ids bounds the work.
        """
        row = self._execute(_TO_PURGE).fetchone()
        if row is not None:
            number, purged, trimmed = row
            upto = min(trimmed, purged + PURGE)
            self._execute("DELETE FROM event WHERE log = ? AND id <= ?", (number, upto))
            self._execute("UPDATE log SET purged = ? WHERE id = ?", (upto, number))
        self.to_purge = self._execute(_TO_PURGE).fetchone() is not None

    def sweep_logs(self, prefix: str, start: bytes, before: float, keep: int) -> tuple[int, bytes | None]:
        """Do a part of ``IStore.sweep``, from the log *start* on.

        Returns how many events went and the log to go on with, None at the end.
        """
        self.flush()
        rows = self._execute(_SWEEP, (start, beyond(pack(prefix)), SWEEP)).fetchall()
        gone, budget = 0, SWEEP
        for number, name, trimmed in rows:
            if budget <= 0:
                return gone, name
            upto, looked = trimmed, 0
            if keep > 0:
                upto = max(upto, self._execute(HEAD, (name,)).fetchone()[1] - keep)
            if before > 0:
                upto, looked = self._old(number, upto, before, budget)
            gone += self._hide(number, trimmed, upto)
            if looked == budget:
                return gone, name  # there may be more of it
            budget -= looked + 1
        return gone, rows[-1][1] if len(rows) == SWEEP else None

    def _old(self, number: int, upto: int, before: float, budget: int) -> tuple[int, int]:
        """Return the last id before which all is old, and how many were looked at.

        It ends at the first event that is young: taking one behind that would
        leave a hole.
        """
        looked = 0
        for id_, time in self._execute(_TIMES, (number, upto, budget)):
            if time >= before:
                break
            upto = id_
            looked += 1
        return upto, looked

    def sweep_keys(self, space: str, due: float) -> str | None:
        """Remove some keys of *space* that had expired at *due*.

        Returns the space to go on with, None at the end.
        """
        if len(self.expired(space, SWEEP, due)) == SWEEP:
            return space
        following: str | None = self._execute(_NEXT_SPACE, (space,)).fetchone()[0]
        return following

    def set(self, space: str, key: str, value: bytes, revision: int | None, expires: float, now: float) -> Entry:
        """Do ``IStore.set`` at the time *now*."""
        stored = self.get(space, key, now)
        check_revision(stored, revision, key)
        return self._put(space, key, replaced(stored, value, expires))

    def _put(self, space: str, key: str, entry: Entry) -> Entry:
        self._execute(_PUT, (space, pack(key), entry.value, entry.revision, entry.expires))
        return entry

    def delete(self, space: str, key: str, revision: int | None, now: float) -> bool:
        """Do ``IStore.delete`` at the time *now*.

        A key that has expired is missing; it stays for ``expired``.
        """
        stored = self.get(space, key, now)
        check_revision(stored, revision, key)
        if stored is None:
            return False
        self._execute(_DELETE, (space, pack(key)))
        return True

    def patch(self, space: str, key: str, value: bytes, merge: Callable[[bytes, bytes], bytes], now: float) -> Entry:
        """Do ``IStore.patch`` at the time *now*."""
        stored = self.get(space, key, now)
        if stored is None:
            return self._put(space, key, replaced(None, value, 0.0))
        return self._put(space, key, replaced(stored, merge(stored.value, value), stored.expires))

    def increment(self, space: str, key: str, amount: bytes, now: float) -> Entry:
        """Do ``IStore.increment`` at the time *now*."""
        return self._put(space, key, increased(self.get(space, key, now), amount))

    def expired(self, space: str, limit: int, now: float) -> list[str]:
        """Do ``IStore.expired`` at the time *now*."""
        keys = self._execute(_DUE, (space, now, max(0, limit))).fetchall()
        self._executemany(_DELETE, [(space, key) for (key,) in keys])
        return [unpack(key) for (key,) in keys]

    def probe(self) -> None:
        """Find out whether there is room to write."""
        self._execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('probe', zeroblob(?))", (ROOM,))
        self._execute("DELETE FROM meta WHERE name = 'probe'")


def pack(text: str) -> bytes:
    """Return any string, even one with half a surrogate pair, as UTF-8."""
    return text.encode("utf-8", "surrogatepass")


def unpack(data: bytes) -> str:
    """Undo :func:`pack`."""
    return data.decode("utf-8", "surrogatepass")


def beyond(prefix: bytes) -> bytes:
    """Return what sorts after every UTF-8 text that begins with *prefix*."""
    return prefix + b"\xff"


def _fit(number: int) -> int:
    """Return *number* within SQLite's integers; below zero it means none."""
    return max(0, min(number, LARGEST))
