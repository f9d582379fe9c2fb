"""The tables of the SQLite store: reading them, and changing them within a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from broker.messages import Entry, Event, decode_text, encode_text
from broker.stores.entries import alive, check_revision, increased, merged, replaced

MAX_INTEGER = 2**63 - 1  # of SQLite
MAX_CACHED_LOGS = 100_000  # logs whose last id is kept in memory
PURGED_ROWS = 1000  # events deleted in one transaction
SWEPT_ROWS = 2000  # logs, events or keys looked at in one transaction
PROBE_BYTES = 65536  # what must fit on the disk before the store says again that it can write

AUTHOR = b"\xff"  # between source and author of an event in one column, which no text holds

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
_HEAD = (
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


class TableReader:
    """The queries, by one connection.

    Args:
        connection: in the writer thread the one that writes, so that what was
            written before is seen; in the reactor thread another.
        epoch: that of the events that are read.
    """

    def __init__(self, connection: sqlite3.Connection, epoch: str) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._epoch = epoch

    def flush(self) -> None:
        """Write the events that are buffered: none here."""

    def read(self, log: str, after: int, limit: int) -> list[Event]:
        """See ``IStore.read``."""
        self.flush()
        return self._events(log, self._execute(_READ, (encode_text(log), _fit(after), _fit(limit))).fetchall())

    def latest(self, log: str, limit: int) -> list[Event]:
        """See ``IStore.latest``."""
        self.flush()
        return self._events(log, self._execute(_LATEST, (encode_text(log), _fit(limit))).fetchall()[::-1])

    def _events(self, log: str, rows: list[tuple[int, bytes | int, bytes, bytes | None, bytes, float]]) -> list[Event]:
        epoch = self._epoch
        return [
            Event(
                decode_text(topic) if isinstance(topic, bytes) else log[topic:],
                decode_text(name),
                body,
                decode_text((said := source.partition(AUTHOR))[0]),
                time,
                number,
                epoch,
                author=decode_text(said[2]),
            )
            for number, topic, name, body, source, time in rows
        ]

    def head(self, log: str) -> int:
        """See ``IStore.head``."""
        self.flush()
        row = self._execute(_HEAD, (encode_text(log),)).fetchone()
        return 0 if row is None else int(row[1])

    def logs(self, prefix: str, after: str, limit: int) -> list[str]:
        """See ``IStore.logs``."""
        self.flush()
        first = encode_text(prefix)
        rows = self._execute(_LOGS, (first, after_prefix(first), encode_text(after), _fit(limit))).fetchall()
        return [decode_text(name) for (name,) in rows]

    def get(self, space: str, key: str, now: float) -> Entry | None:
        """See ``IStore.get``; *now* is in seconds since the epoch."""
        row = self._execute(_GET, (space, encode_text(key))).fetchone()
        return None if row is None else alive(Entry(*row), now)

    def range(self, space: str, first: str, last: str, limit: int, now: float) -> list[tuple[str, Entry]]:
        """See ``IStore.range``; *now* is in seconds since the epoch."""
        rows = self._execute(_RANGE, (space, encode_text(first), encode_text(last), now, _fit(limit))).fetchall()
        return [(decode_text(key), Entry(*entry)) for key, *entry in rows]


class TableWriter(TableReader):
    """The changes.  Each either happens as a whole or raises before its first statement.

    Appended events are buffered until something needs them or the
    transaction ends, so that a run of them is one statement.

    Attributes:
        to_purge: whether trimmed events are still to be deleted.
    """

    def __init__(self, connection: sqlite3.Connection, epoch: str) -> None:
        super().__init__(connection, epoch)
        self._executemany = connection.executemany
        self._heads: dict[str, list[int]] = {}  # by the name of the log: its row id and its last event id
        self._buffer: list[tuple[int, int, float, bytes, bytes, bytes | None, bytes | int]] = []  # rows of "event"
        self.to_purge = self._execute(_TO_PURGE).fetchone() is not None  # the rest of an earlier run

    def begin(self) -> None:
        """Begin a transaction, of which there is one at a time."""
        if len(self._heads) > MAX_CACHED_LOGS:
            self._heads.clear()
        self._execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Commit everything since ``begin``."""
        self.flush()
        self._execute("COMMIT")

    def rollback(self) -> None:
        """Undo everything since ``begin``, also the ids that were given."""
        self._buffer.clear()
        self._heads.clear()
        self.to_purge = True
        if self._connection.in_transaction:
            self._execute("ROLLBACK")

    def flush(self) -> None:
        """Write the events that are buffered."""
        if self._buffer:
            rows, self._buffer = self._buffer, []
            self._executemany(_APPEND, rows)

    def append(self, log: str, event: Event, time: float) -> Event:
        """See ``IStore.append``; *time* is that of the stored event."""
        head = self._heads.get(log) or self._load_head(log)
        number = head[1] + 1
        topic = event.topic
        self._buffer.append(
            (
                head[0],
                number,
                time,
                # As ``encode_text`` does, without the price of the call.
                _said_by(event) if event.author else event.source.encode("utf-8", "surrogatepass"),
                event.name.encode("utf-8", "surrogatepass"),
                event.body,
                len(log) - len(topic) if log.endswith(topic) else encode_text(topic),
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
            event.author,
        )

    def _load_head(self, log: str) -> list[int]:
        row = self._execute(_HEAD, (encode_text(log),)).fetchone()
        if row is None:
            number = self._execute(_NEW_LOG, (encode_text(log),)).lastrowid
            assert number is not None
            row = (number, 0)
        head = self._heads[log] = [row[0], row[1]]
        return head

    def trim(self, log: str, upto: int) -> None:
        """See ``IStore.trim``; the events are hidden at once and deleted by ``purge``."""
        self.flush()
        row = self._execute(_HEAD, (encode_text(log),)).fetchone()
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
        """Delete some of the events that are hidden.

        The ids of a log have no hole, so that a span of ids bounds the work.
        """
        row = self._execute(_TO_PURGE).fetchone()
        if row is not None:
            number, purged, trimmed = row
            upto = min(trimmed, purged + PURGED_ROWS)
            self._execute("DELETE FROM event WHERE log = ? AND id <= ?", (number, upto))
            self._execute("UPDATE log SET purged = ? WHERE id = ?", (upto, number))
        self.to_purge = self._execute(_TO_PURGE).fetchone() is not None

    def sweep_logs(self, prefix: str, start: bytes, before: float, keep: int) -> tuple[int, bytes | None]:
        """Do one step of ``IStore.sweep``, from the log *start* on.

        Returns how many events were hidden and the log to go on with, None at the end.
        """
        self.flush()
        rows = self._execute(_SWEEP, (start, after_prefix(encode_text(prefix)), SWEPT_ROWS)).fetchall()
        hidden, budget = 0, SWEPT_ROWS
        for number, name, trimmed in rows:
            if budget <= 0:
                return hidden, name
            upto, looked = trimmed, 0
            if keep > 0:
                upto = max(upto, self._execute(_HEAD, (name,)).fetchone()[1] - keep)
            if before > 0:
                upto, looked = self._last_old(number, upto, before, budget)
            hidden += self._hide(number, trimmed, upto)
            if looked == budget:
                return hidden, name  # there may be more of it
            budget -= looked + 1
        return hidden, rows[-1][1] if len(rows) == SWEPT_ROWS else None

    def _last_old(self, number: int, upto: int, before: float, budget: int) -> tuple[int, int]:
        """Return the id up to which all events are older than *before*, and how many were looked at.

        The first younger event ends it: removing an old one behind that would leave a hole.
        """
        looked = 0
        for id_, time in self._execute(_TIMES, (number, upto, budget)):
            if time >= before:
                break
            upto = id_
            looked += 1
        return upto, looked

    def sweep_keys(self, space: str, due: float) -> str | None:
        """Remove some keys of *space* that had expired at *due*, in seconds since the epoch.

        Returns the space to go on with, None at the end.
        """
        if len(self.expired(space, SWEPT_ROWS, due)) == SWEPT_ROWS:
            return space
        following: str | None = self._execute(_NEXT_SPACE, (space,)).fetchone()[0]
        return following

    def set(self, space: str, key: str, value: bytes, revision: int | None, expires: float, now: float) -> Entry:
        """See ``IStore.set``; *now* is in seconds since the epoch."""
        stored = self.get(space, key, now)
        check_revision(stored, revision, key)
        return self._put(space, key, replaced(stored, value, expires))

    def _put(self, space: str, key: str, entry: Entry) -> Entry:
        self._execute(_PUT, (space, encode_text(key), entry.value, entry.revision, entry.expires))
        return entry

    def delete(self, space: str, key: str, revision: int | None, now: float) -> bool:
        """See ``IStore.delete``; a key that has expired at *now* is left to ``expired``."""
        stored = self.get(space, key, now)
        check_revision(stored, revision, key)
        if stored is None:
            return False
        self._execute(_DELETE, (space, encode_text(key)))
        return True

    def patch(self, space: str, key: str, value: bytes, merge: Callable[[bytes, bytes], bytes], now: float) -> Entry:
        """See ``IStore.patch``; *now* is in seconds since the epoch."""
        return self._put(space, key, merged(self.get(space, key, now), value, merge))

    def increment(self, space: str, key: str, amount: bytes, now: float) -> Entry:
        """See ``IStore.increment``; *now* is in seconds since the epoch."""
        return self._put(space, key, increased(self.get(space, key, now), amount))

    def expired(self, space: str, limit: int, now: float) -> list[str]:
        """See ``IStore.expired``; *now* is in seconds since the epoch."""
        keys = self._execute(_DUE, (space, now, max(0, limit))).fetchall()
        self._executemany(_DELETE, [(space, key) for (key,) in keys])
        return [decode_text(key) for (key,) in keys]

    def probe(self) -> None:
        """Write ``PROBE_BYTES`` and remove them again, which fails when the disk is full."""
        self._execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('probe', zeroblob(?))", (PROBE_BYTES,))
        self._execute("DELETE FROM meta WHERE name = 'probe'")


def after_prefix(prefix: bytes) -> bytes:
    """Return what sorts after every UTF-8 text that begins with *prefix*."""
    return prefix + b"\xff"


def _said_by(event: Event) -> bytes:
    """Return source and author of *event* as they are stored."""
    return encode_text(event.source) + AUTHOR + encode_text(event.author)


def _fit(number: int) -> int:
    """Return *number* cut to 0 and the largest integer of SQLite, where it has the same meaning."""
    return max(0, min(number, MAX_INTEGER))
