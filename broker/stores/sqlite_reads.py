"""What is asked of the tables of the SQLite store."""

from __future__ import annotations

import sqlite3

from broker.messages import Entry, Event
from broker.stores.entries import alive

LARGEST = 2**63 - 1  # of SQLite's integers

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


def pack(text: str) -> bytes:
    """Return any string, even one with half a surrogate pair, as UTF-8."""
    return text.encode("utf-8", "surrogatepass")


def unpack(data: bytes) -> str:
    """Undo :func:`pack`."""
    return data.decode("utf-8", "surrogatepass")


def beyond(prefix: bytes) -> bytes:
    """Return what sorts after every UTF-8 text that begins with *prefix*."""
    return prefix + b"\xff"


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


def _fit(number: int) -> int:
    """Return *number* within SQLite's integers; below zero it means none."""
    return max(0, min(number, LARGEST))
