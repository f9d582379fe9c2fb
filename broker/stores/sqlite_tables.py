"""The tables of the SQLite store: reading them, and changing them within a transaction."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, TypeAlias

from broker.messages import MAX_TIME, Addition, Announce, Announcement, Entry, Event, Quota, decode_text, encode_text
from broker.patterns import LOG_PREFIX
from broker.stores.additions import First, Plan, add_all
from broker.stores.entries import ANNOUNCED_SPACES, Content, alive, check_revision, increased, merged
from broker.stores.expiry import Expiry
from broker.stores.revisions import FileRevisions
from broker.stores.room import ROW_BYTES, check_quota, fits_when_full, floor_group, full_refusal
from broker.stores.sqlite_history import History
from broker.stores.sqlite_jobs import JobTables
from broker.stores.sqlite_sets import KeySets
from broker.stores.sqlite_space import FileSpace

MAX_INTEGER = 2**63 - 1  # of SQLite
MAX_CACHED_LOGS = 100_000  # logs whose last id is kept in memory
MAX_KEPT_LOGS = 1000  # the same, when the store is swept: it is read again for those that are appended to
PURGED_ROWS = 1000  # events deleted in one transaction
SWEPT_ROWS = 2000  # logs, events or keys looked at in one transaction
KNOWN_BYTES = 16384  # of the value of a key that expires, up to which its event says what it was
NO_FIRST = (0, 0.0, 0.0)  # what is remembered by an unknown key
PROBE_BYTES = 65536  # what must fit on the disk before the store says again that it can write

BINARY = b"\xff"  # before the content type of a body that is no JSON; no text holds it
NEXT = b"\xff"  # between source, author and whom an event excludes, which are in one column; no text holds it

_EVENT = "e.id, e.topic, e.name, e.body, e.source, e.time, e.content_type, e.expires"
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
_BYTES = "SELECT length(value) FROM entry WHERE space = ? AND key = ?"
_RANGE = (
    "SELECT key, value, revision, expires FROM entry WHERE space = ? AND key >= ? AND key <= ?"
    " AND (expires <= 0 OR expires > ? OR (expires > ? AND expires <= ?)) ORDER BY key LIMIT ?"
)
_NEW_LOG = "INSERT INTO log (name, account, trimmed, purged) VALUES (?, ?, ?, ?)"
_FLOOR = "SELECT id FROM floor WHERE hash = ?"
_RAISE_FLOOR = "INSERT INTO floor (hash, id) VALUES (?, ?) ON CONFLICT (hash) DO UPDATE SET id = max(id, excluded.id)"
_COUNT = "SELECT count FROM account WHERE name = ?"
_ADD = "INSERT INTO account (name, count) VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET count = count + 1"
_SUBTRACT = "UPDATE account SET count = count - ? WHERE name = ?"
_CLOSE = "DELETE FROM account WHERE name = ? AND count <= 0"
_LAST_TIME = "SELECT time FROM event WHERE log = ? ORDER BY id DESC LIMIT 1"
_APPEND = "INSERT INTO event (log, id, time, source, name, body, topic) VALUES (?, ?, ?, ?, ?, ?, ?)"
_DESCRIBE = "UPDATE event SET content_type = ?, expires = ? WHERE log = ? AND id = ?"
_FIRST = "SELECT id, time, expires FROM known_key WHERE log = ? AND key = ?"
_REMEMBER = "INSERT OR REPLACE INTO known_key (log, key, id, time, expires) VALUES (?, ?, ?, ?, ?)"
_ENDED_KEYS = "SELECT log, key FROM known_key WHERE expires > ? AND expires <= ? ORDER BY expires LIMIT ?"
_FORGET_KEY = "DELETE FROM known_key WHERE log = ? AND key = ?"
_TRIM = "UPDATE log SET trimmed = ? WHERE id = ?"
_TO_PURGE = "SELECT id, purged, trimmed FROM log WHERE purged < trimmed LIMIT 1"
_SWEEP = "SELECT id, name, trimmed, purged, account FROM log WHERE name >= ? AND name < ? ORDER BY name LIMIT ?"
_TIMES = "SELECT id, time FROM event WHERE log = ? AND id > ? ORDER BY id LIMIT ?"
_LOOK = "SELECT value, revision, expires, account FROM entry WHERE space = ? AND key = ?"
_PUT = "INSERT OR REPLACE INTO entry (space, key, value, revision, expires, account) VALUES (?, ?, ?, ?, ?, ?)"
_REPLACE = "UPDATE entry SET value = ?, revision = ?, expires = ? WHERE space = ? AND key = ?"
_DELETE = "DELETE FROM entry WHERE space = ? AND key = ?"
_DUE = (
    f"SELECT key, account, CASE WHEN length(value) <= {KNOWN_BYTES} THEN value END FROM entry"
    " WHERE space = ? AND expires > 0 AND expires > ? AND expires <= ? ORDER BY expires LIMIT ?"
)
_NOTE_TIME = "INSERT OR REPLACE INTO meta (name, value) VALUES ('time', ?)"
_NEXT_SPACE = "SELECT min(space) FROM entry WHERE space > ?"

# Of an event: id, topic, name, body, source (with the author and whom it excludes), time, content type and expiry.
EventRow: TypeAlias = tuple[int, bytes | int, bytes, bytes | None, bytes, float, bytes | None, float | None]


class TableReader:
    """The queries, by one connection.

    Args:
        connection: in the writer thread the one that writes, so that what was
            written before is seen; in the reactor thread another.
        epoch: that of the events that are read.
    """

    def __init__(self, connection: sqlite3.Connection, epoch: str) -> None:
        self.attach(connection)
        self._epoch = epoch

    def attach(self, connection: sqlite3.Connection) -> None:
        """Use *connection* from now on."""
        self._connection = connection
        self._execute = connection.execute

    def flush(self) -> None:
        """Write the events that are buffered: none here."""

    def read(self, log: str, after: int, limit: int, max_bytes: int = 0) -> list[Event]:
        """See ``IStore.read``."""
        self.flush()
        found = self._execute(_READ, (encode_text(log), _fit(after), _fit(limit)))
        return self._events(log, _rows(found, 3, max_bytes))

    def latest(self, log: str, limit: int, max_bytes: int = 0) -> list[Event]:
        """See ``IStore.latest``."""
        self.flush()
        return self._events(log, _rows(self._execute(_LATEST, (encode_text(log), _fit(limit))), 3, max_bytes)[::-1])

    def _events(self, log: str, rows: list[EventRow]) -> list[Event]:
        epoch = self._epoch
        return [
            Event(
                decode_text(topic) if isinstance(topic, bytes) else log[topic:],
                decode_text(name),
                body,
                decode_text((said := source.split(NEXT))[0]),
                time,
                number,
                epoch,
                author=decode_text(said[1]) if len(said) > 1 else "",
                content_type=decode_text(content_type.removeprefix(BINARY)) if content_type else "",
                expires=expires or 0.0,
                exclude=tuple(map(decode_text, said[2:])) if len(said) > 2 else (),
                binary=content_type is not None and content_type.startswith(BINARY),
            )
            for number, topic, name, body, source, time, content_type, expires in rows
        ]

    def head(self, log: str) -> int:
        """See ``IStore.head``."""
        self.flush()
        row = self._execute(_HEAD, (encode_text(log),)).fetchone()
        return self._floor(log) if row is None else int(row[1])

    def _floor(self, log: str) -> int:
        row = self._execute(_FLOOR, (floor_group(log),)).fetchone()
        return 0 if row is None else int(row[0])

    def logs(self, prefix: str, after: str, limit: int) -> list[str]:
        """See ``IStore.logs``."""
        self.flush()
        first = encode_text(prefix)
        rows = self._execute(_LOGS, (first, after_prefix(first), encode_text(after), _fit(limit))).fetchall()
        return [decode_text(name) for (name,) in rows]

    def get(self, space: str, key: str, expiry: Expiry) -> Entry | None:
        """See ``IStore.get``."""
        row = self._execute(_GET, (space, encode_text(key))).fetchone()
        return None if row is None else alive(Entry(*row), expiry)

    def bytes_of(self, space: str, key: str) -> int:
        """Return how many bytes the value of *key* has, without reading it."""
        row = self._execute(_BYTES, (space, encode_text(key))).fetchone()
        return 0 if row is None else int(row[0])

    def range(
        self, space: str, first: str, last: str, limit: int, expiry: Expiry, max_bytes: int = 0
    ) -> list[tuple[str, Entry]]:
        """See ``IStore.range``."""
        moment, keys = expiry.look(), (encode_text(first), encode_text(last))
        found = self._execute(_RANGE, (space, *keys, moment.now, moment.passed, moment.after, _fit(limit)))
        rows = _rows(found, 1, max_bytes)
        return [(decode_text(key), Entry(*entry)) for key, *entry in rows]


class TableWriter(TableReader):
    """The changes.  Each either happens as a whole or raises before its first statement.

    Appended events are buffered until something needs them or the
    transaction ends, so that a run of them is one statement.

    Args:
        connection: the one that writes.
        epoch: that of the events.
        space: measures the file; None: it may have any size, and keeps it.
        history: counts how far it has come; None: nobody does.
        expiry: says what has ended; None: there are no jobs.

    Attributes:
        jobs: the tables of jobs.
        to_purge: whether trimmed events are still to be deleted, or unused pages to be given back.
        shortage: why nothing may be added; "" when it may.
        revisions: gives those of keys.
        sets: sets many keys at once.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        epoch: str,
        space: FileSpace | None = None,
        history: History | None = None,
        expiry: Expiry | None = None,
    ) -> None:
        self.jobs = (
            None if expiry is None else JobTables(connection, expiry, self._count, self._uncount, self._check_room)
        )
        self.space = space
        self._history = history
        self.shortage = ""
        self._damaged = False  # whether the index of what is to be purged is; nothing else depends on it
        # By the name of the log: its row id, the id and the time of its last event.
        self._heads: dict[str, list[Any]] = {}
        self.revisions = FileRevisions(connection.execute)
        self.sets = KeySets(connection, self.revisions, self.set)
        super().__init__(connection, epoch)
        self._buffer: list[tuple[int, int, float, bytes, bytes, bytes | None, bytes | int]] = []  # rows of "event"
        self._described: list[tuple[bytes | None, float | None, int, int]] = []  # what few of them have besides
        self.to_purge = self._execute(_TO_PURGE).fetchone() is not None  # the rest of an earlier run

    def attach(self, connection: sqlite3.Connection) -> None:
        """Use *connection* from now on, for the file as it is now."""
        super().attach(connection)
        self._executemany = connection.executemany
        self._heads = {}
        self.revisions.attach(connection.execute)
        for part in (self.space, self._history, self.jobs, self.sets):
            if part is not None:
                part.attach(connection)

    def begin(self, operations: int = 1, size: int = 0) -> None:
        """Begin a transaction of so many operations and bytes, of which there is one at a time."""
        if len(self._heads) > MAX_CACHED_LOGS:
            self._heads.clear()
        self._execute("BEGIN IMMEDIATE")
        space = self.space
        if space is not None:
            size += operations * ROW_BYTES
            space.allowance -= size
            if space.allowance < 0 or self.shortage:
                self.measure(size)

    def measure(self, size: int = 0) -> None:
        """Measure the file before *size* bytes are added."""
        if self.space is not None:
            self.shortage = self.space.measure(size)
            self.to_purge = self.to_purge or self.space.reclaimable

    def commit(self) -> None:
        """Commit everything since ``begin``."""
        self.flush()
        history = self._history
        if history is not None and self._connection.total_changes != history.seen and monotonic() >= history.due:
            history.step()
        self._execute("COMMIT")

    def rollback(self) -> None:
        """Undo everything since ``begin``, also the ids that were given."""
        self._buffer.clear()
        self._described.clear()
        self._heads.clear()
        self.revisions.undone()
        if self.jobs is not None:
            self.jobs.forget()
        self.to_purge = True
        if self._history is not None:
            self._history.undone()
        if self._connection.in_transaction:
            self._execute("ROLLBACK")

    def flush(self) -> None:
        """Write the events that are buffered."""
        if self._buffer:
            rows, self._buffer = self._buffer, []
            self._executemany(_APPEND, rows)
        if self._described:
            described, self._described = self._described, []
            self._executemany(_DESCRIBE, described)

    def append(self, log: str, event: Event, time: float, quota: Quota | None = None) -> Event:
        """See ``IStore.append``; *time* is the event's own or the store's."""
        if self.shortage:
            raise full_refusal(self.shortage)
        head = self._heads.get(log) or self._load_head(log, quota)
        number = head[1] + 1
        topic = event.topic
        if time < head[2] <= MAX_TIME and not event.time:
            time = head[2]  # the clock was set back
        self._buffer.append(
            (
                head[0],
                number,
                time,
                # As ``encode_text`` does, without the price of the call.
                _said_by(event) if event.author or event.exclude else event.source.encode("utf-8", "surrogatepass"),
                event.name.encode("utf-8", "surrogatepass"),
                event.body,
                len(log) - len(topic) if log.endswith(topic) else encode_text(topic),
            )
        )
        if event.content_type or event.expires or event.binary:
            content_type = encode_text(event.content_type) if event.content_type else None
            if event.binary:
                content_type = BINARY + (content_type or b"")
            self._described.append((content_type, event.expires or None, head[0], number))
        head[1] = number
        head[2] = time
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
            event.content_type,
            event.expires,
            exclude=event.exclude,
            binary=event.binary,
        )

    def _check_room(self) -> None:
        if self.shortage:
            raise full_refusal(self.shortage)

    def change_jobs(self, verb: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Call *verb*, a method of ``JobTables``."""
        return verb(self.jobs, *arguments)

    def read_jobs(self, verb: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """As ``change_jobs``, for one that only reads."""
        return verb(self.jobs, *arguments)

    def append_all(self, additions: Sequence[Addition], time: float, key_seconds: float, expiry: Expiry) -> list[Event]:
        """See ``IStore.append_all``; *time* is the store's."""

        def first(log: str, key: str) -> First | None:
            id, date, end = self._execute(_FIRST, (encode_text(log), encode_text(key))).fetchone() or NO_FIRST
            return (id, date) if id and not expiry.is_over(end) else None

        def add(addition: Addition) -> Event:
            log, event = addition.log, addition.event
            stored = self.append(log, event, event.time or time, addition.quota)
            if addition.key:
                names = encode_text(log), encode_text(addition.key)
                self._execute(_REMEMBER, (*names, stored.id, stored.time, time + key_seconds))
            return stored

        decisions = Plan(self._epoch, self._found_head, first, self._counted).decide(additions)
        results = add_all(additions, decisions, self._epoch, add)
        if keys := sum(each.key != "" for each in additions):
            self.forget_keys(expiry, 1 + keys)
        return results

    def _found_head(self, log: str) -> tuple[int, bool]:
        """Return the last id of *log*, and whether there is such a log."""
        if head := self._heads.get(log):
            return head[1], True
        # What is buffered is of logs whose heads are known.
        row = self._execute(_HEAD, (encode_text(log),)).fetchone()
        return (self._floor(log), False) if row is None else (row[1], True)

    def _counted(self, quota: Quota) -> int:
        row = self._execute(_COUNT, (encode_text(quota.account),)).fetchone()
        return row[0] if row else 0

    def forget_keys(self, expiry: Expiry, limit: int = SWEPT_ROWS) -> bool:
        """Forget keys of ``append`` that count no more; return whether there may be more than *limit* of them."""
        for after, upto in expiry.look().spans():
            rows = self._execute(_ENDED_KEYS, (after, upto, limit)).fetchall()
            self._executemany(_FORGET_KEY, rows)
            if len(rows) == limit:
                return True
        return False

    def _load_head(self, log: str, quota: Quota | None) -> list[Any]:
        row, time = self._execute(_HEAD, (encode_text(log),)).fetchone(), 0.0
        if row is not None:
            last = self._execute(_LAST_TIME, (row[0],)).fetchone()
            time = last[0] if last is not None else 0.0
        else:
            account, floor = self._count(quota), self._floor(log)
            number = self._execute(_NEW_LOG, (encode_text(log), account, floor, floor)).lastrowid
            assert number is not None
            row = (number, floor)
        head = self._heads[log] = [row[0], row[1], time]
        return head

    def _count(self, quota: Quota | None) -> bytes | None:
        """Count one more row for *quota*, and return its account."""
        if quota is None:
            return None
        account = encode_text(quota.account)
        check_quota(quota, self._counted(quota))
        self._execute(_ADD, (account,))
        return account

    def _uncount(self, account: bytes | None, rows: int = 1) -> None:
        if account is not None:
            self._execute(_SUBTRACT, (rows, account))
            self._execute(_CLOSE, (account,))

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
        """Delete some of the events that are hidden; when none are left, give back some of the pages they had.

        The ids of a log have no hole, so that a span of ids bounds the work.
        """
        budget = PURGED_ROWS
        if self._damaged:
            self.to_purge = False
            return
        while budget > 0 and (row := self._execute(_TO_PURGE).fetchone()) is not None:
            number, purged, trimmed = row
            upto = min(trimmed, purged + budget)
            if upto <= purged:
                self._damaged = True  # it would be found again and again
                raise sqlite3.DatabaseError("the index log_to_purge is damaged")
            self._execute("DELETE FROM event WHERE log = ? AND id <= ?", (number, upto))
            self._execute("UPDATE log SET purged = ? WHERE id = ?", (upto, number))
            budget -= upto - purged
        if budget == PURGED_ROWS and self.space is not None:
            self.space.vacuum()
        reclaimable = self.space is not None and self.space.reclaimable
        self.to_purge = reclaimable or self._execute(_TO_PURGE).fetchone() is not None

    def sweep_logs(self, prefix: str, start: bytes, before: float, keep: int) -> tuple[int, bytes | None]:
        """Do one step of ``IStore.sweep``, from the log *start* on.

        Returns how many events were hidden and the log to go on with, None at the end.
        """
        self.flush()
        if len(self._heads) > MAX_KEPT_LOGS:
            self._heads.clear()  # most may be of logs that nobody appends to any more
        rows = self._execute(_SWEEP, (start, after_prefix(encode_text(prefix)), SWEPT_ROWS)).fetchall()
        hidden, budget = 0, SWEPT_ROWS
        for number, name, trimmed, purged, account in rows:
            if budget <= 0:
                return hidden, name
            upto, looked = trimmed, 0
            if purged == trimmed and self._forget(number, name, trimmed, account):
                budget -= 1
                continue
            if keep > 0:
                upto = max(upto, self._execute(_HEAD, (name,)).fetchone()[1] - keep)
            if before > 0:
                upto, looked = self._last_old(number, upto, before, budget)
            hidden += self._hide(number, trimmed, upto)
            if looked == budget:
                return hidden, name  # there may be more of it
            budget -= looked + 1
        return hidden, rows[-1][1] if len(rows) == SWEPT_ROWS else None

    def _forget(self, number: int, name: bytes, trimmed: int, account: bytes | None) -> bool:
        """Remove a log whose events were all deleted; say whether it is one."""
        if self._execute("SELECT 1 FROM event WHERE log = ? LIMIT 1", (number,)).fetchone() is not None:
            return False
        log = decode_text(name)
        self._execute(_RAISE_FLOOR, (floor_group(log), trimmed))
        self._execute("DELETE FROM log WHERE id = ?", (number,))
        self._uncount(account)
        self._heads.pop(log, None)
        return True

    def _last_old(self, number: int, upto: int, before: float, budget: int) -> tuple[int, int]:
        """Return the id up to which all events are older than *before*, and how many were looked at.

        The first younger event ends it: removing an old one behind that would leave a hole.
        """
        looked = 0
        for id_, time in self._execute(_TIMES, (number, upto, budget)):
            if before <= time <= MAX_TIME:  # what no clock shows is old: it must not keep all behind it for ever
                break
            upto = id_
            looked += 1
        return upto, looked

    def sweep_keys(self, space: str, due: float) -> str | None:
        """Remove some keys of *space* that had expired at *due*, in seconds since the epoch.

        Returns the space to go on with, None at the end.
        """
        if space not in ANNOUNCED_SPACES and len(self._remove_due(space, SWEPT_ROWS, 0.0, due)) == SWEPT_ROWS:
            return space
        following: str | None = self._execute(_NEXT_SPACE, (space,)).fetchone()[0]
        return following

    def set(
        self,
        space: str,
        key: str,
        value: bytes,
        revision: int | None,
        expires: float,
        expiry: Expiry,
        quota: Quota | None = None,
        announcement: Announcement | None = None,
    ) -> Entry:
        """See ``IStore.set``."""
        stored, account = self._look(space, key, expiry)
        check_revision(stored, revision, key)
        return self._put(space, key, stored, (value, expires), account, quota, announcement)

    def _look(self, space: str, key: str, expiry: Expiry) -> tuple[Entry | None, bytes | None]:
        """Return the entry of *key*, and the account of the row, which may be one that has expired."""
        row = self._execute(_LOOK, (space, encode_text(key))).fetchone()
        if row is None:
            return None, None
        value, revision, expires, account = row
        return alive(Entry(value, revision, expires), expiry), account

    def _put(
        self,
        space: str,
        key: str,
        stored: Entry | None,
        content: Content,
        account: bytes | None,
        quota: Quota | None,
        announcement: Announcement | None,
    ) -> Entry:
        value, expires = content
        if self.shortage and not fits_when_full(space, stored, len(value)):
            raise full_refusal(self.shortage)
        if stored is None:
            account = self._recount(account, quota)
            revision = self.revisions.next(space)
            self._execute(_PUT, (space, encode_text(key), value, revision, expires, account))
        else:
            revision = self.revisions.next(space, stored.revision)
            self._execute(_REPLACE, (value, revision, expires, space, encode_text(key)))
        if announcement is not None:
            announcement.made(revision, stored.value if stored else None)
        return Entry(value, revision, expires, stored is None)

    def revision(self, space: str) -> int:
        """See ``IStore.revision``."""
        return self.revisions.last(space)

    def _recount(self, expired: bytes | None, quota: Quota | None) -> bytes | None:
        """Count a new key for *quota*, in the place of one that has expired; return its account."""
        if quota is not None and expired == encode_text(quota.account):
            return expired
        account = self._count(quota)
        self._uncount(expired)
        return account

    def delete(
        self, space: str, key: str, revision: int | None, expiry: Expiry, announcement: Announcement | None = None
    ) -> bool:
        """See ``IStore.delete``; a key that has expired is left to ``expired``."""
        stored, account = self._look(space, key, expiry)
        check_revision(stored, revision, key)
        if stored is None:
            return False
        self._execute(_DELETE, (space, encode_text(key)))
        self._uncount(account)
        revision = self.revisions.next(space, stored.revision)
        if announcement is not None:
            announcement.made(revision, stored.value)
        return True

    def patch(
        self,
        space: str,
        key: str,
        value: bytes,
        merge: Callable[[bytes, bytes], bytes],
        expiry: Expiry,
        quota: Quota | None = None,
        announcement: Announcement | None = None,
    ) -> Entry:
        """See ``IStore.patch``."""
        stored, account = self._look(space, key, expiry)
        return self._put(space, key, stored, merged(stored, value, merge), account, quota, announcement)

    def increment(
        self,
        space: str,
        key: str,
        amount: bytes,
        expiry: Expiry,
        quota: Quota | None = None,
        announcement: Announcement | None = None,
    ) -> Entry:
        """See ``IStore.increment``."""
        stored, account = self._look(space, key, expiry)
        return self._put(space, key, stored, increased(stored, amount), account, quota, announcement)

    def change_announced(
        self, change: Callable[..., Any], arguments: tuple[Any, ...], announcement: Announcement
    ) -> Any:
        """Make a change of a key by a method of this class, and append its event."""
        if self.shortage and change is not TableWriter.delete:
            raise full_refusal(self.shortage)
        result = change(self, *arguments)
        if result:
            self._append_event(announcement, result.value if isinstance(result, Entry) else None)
        return result

    def _append_event(self, announcement: Announcement, value: bytes | None) -> None:
        # Even if the file is full: a key has gone then, which is more than the event takes.
        shortage, self.shortage = self.shortage, ""
        try:
            event = announcement.event_of(value)
            time, event.time = event.time, 0.0  # the store's, which does not go back
            announcement.event = self.append(LOG_PREFIX + event.topic, event, time)
        finally:
            self.shortage = shortage

    def expired(self, space: str, limit: int, expiry: Expiry, announce: Announce | None = None) -> list[str]:
        """See ``IStore.expired``.

        The daemon calls it every second, which is often enough to look how large the file is, what time it is, and to
        remember how far it has come.
        """
        self.measure()
        if self._history is not None:
            self._history.save()
        self._note_time(expiry)
        removed: list[tuple[str, int, bytes | None]] = []
        for after, upto in expiry.look().spans():
            removed += self._remove_due(space, limit - len(removed), after, upto)
        for key, revision, value in removed if announce else ():
            announcement = announce(key) if announce else None
            if announcement is not None:
                announcement.made(revision, value, known=value is not None)
                if announcement.stored:
                    self._append_event(announcement, None)
        return [key for key, _, _ in removed]

    def _note_time(self, expiry: Expiry) -> None:
        noted = 0.0 if self.shortage else expiry.note_due()
        if noted:
            self._execute(_NOTE_TIME, (noted,))
            if self._history is not None:
                self._history.seen += 1  # it is no data that could be missed

    def _remove_due(self, space: str, limit: int, after: float, upto: float) -> list[tuple[str, int, bytes | None]]:
        """Remove at most *limit* keys that expire after *after* and up to *upto*, the earliest first.

        Returns each with the revision of its end, and its value if that is small.
        """
        rows = self._execute(_DUE, (space, after, upto, max(0, limit))).fetchall()
        self._executemany(_DELETE, [(space, key) for key, _, _ in rows])
        for account, count in Counter(account for _, account, _ in rows).items():
            self._uncount(account, count)
        first = self.revisions.next(space, count=len(rows)) - len(rows) + 1 if rows else 0
        return [(decode_text(key), revision, value) for revision, (key, _, value) in enumerate(rows, first)]

    def probe(self) -> None:
        """Write ``PROBE_BYTES`` and remove them again, which fails when the disk is full."""
        self._execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('probe', zeroblob(?))", (PROBE_BYTES,))
        self._execute("DELETE FROM meta WHERE name = 'probe'")


def after_prefix(prefix: bytes) -> bytes:
    """Return what sorts after every UTF-8 text that begins with *prefix*."""
    return prefix + b"\xff"


def _rows(found: sqlite3.Cursor, column: int, max_bytes: int) -> list[Any]:
    """Return the rows of *found*, no more once their *column* has *max_bytes* bytes in all; 0: all of them."""
    if not max_bytes:
        return found.fetchall()
    rows, size = [], 0
    for row in found:
        rows.append(row)
        size += len(row[column] or b"")
        if size >= max_bytes:
            found.close()  # it would go on reading
            break
    return rows


def _said_by(event: Event) -> bytes:
    """Return source and author of *event*, and whom it excludes, as they are stored."""
    # As ``encode_text`` does, without the price of the calls.
    said = event.source.encode("utf-8", "surrogatepass") + NEXT + event.author.encode("utf-8", "surrogatepass")
    return NEXT.join((said, *map(encode_text, event.exclude))) if event.exclude else said


def _fit(number: int) -> int:
    """Return *number* cut to 0 and the largest integer of SQLite, where it has the same meaning."""
    return max(0, min(number, MAX_INTEGER))
