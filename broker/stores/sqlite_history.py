"""How far a SQLite store has come: a number in its file, and what a small file beside it remembers of that.

If the database is behind what the small file remembers, or is of another epoch, somebody has
put an older or another file in its place.  What clients have seen of the last events is then wrong, and a
new epoch begins, by which they are told.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from contextlib import closing, suppress
from time import monotonic

import attrs
from twisted.logger import Logger

from broker.stores.sqlite_copy import open_uri, own_like, remove, size_of, sync

log = Logger()

INTERVAL = 1.0  # seconds between two steps of the number at least
MAX_MEMORY_BYTES = 200  # of the small file
LOG_SEQUENCE = slice(12, 16)  # of the header of a write-ahead log: changes when it begins anew

_POSITION = "SELECT name, value FROM meta WHERE name IN ('epoch', 'generation')"
_PUT = "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)"


@attrs.frozen
class Position:
    """How far a store has come.

    Attributes:
        epoch: that of its events.
        generation: a number that rises by one with what is written, once a second at most.
        merged: the generation that the file has without its write-ahead log, or less; 0: not known.
    """

    epoch: str
    generation: int
    merged: int = 0


def memory_path(path: str) -> str:
    """Return the name of the small file of the store *path*.

    It does not begin as that of the store does: who copies ``txbroker.db*`` to and fro should not copy it, too.
    """
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.generation")


def recall(path: str) -> Position | None:
    """Return what is remembered of the store *path*; None for nothing."""
    try:
        with open(memory_path(path), "rb") as file:
            words = file.read(MAX_MEMORY_BYTES).partition(b"\n")[0].decode("ascii").split()
        epoch, generation, merged = words
        return Position(epoch, int(generation), int(merged))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        log.warn("{path} can not be read: whether the store went back is not known", path=memory_path(path))
        return None


def remember(path: str, position: Position, *, safely: bool = False) -> None:
    """Remember the *position* of the store *path*; *safely*: return when that is on the disk.

    Raises:
        OSError: it can not be written.
    """
    text = f"{position.epoch} {position.generation:020} {position.merged:020}\n"
    name = memory_path(path)
    new = not os.path.exists(name)
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, text.encode("ascii"), 0)
        if safely:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if new:
        own_like(name, path)
        if safely:
            sync(os.path.dirname(name))


def position_of(connection: sqlite3.Connection) -> Position | None:
    """Return how far the file of *connection* has come; None if it has no epoch yet."""
    found = dict(connection.execute(_POSITION).fetchall())
    return Position(str(found["epoch"]), int(found.get("generation", 0))) if "epoch" in found else None


def begin_epoch(connection: sqlite3.Connection, *above: Position | None) -> Position:
    """Begin a new epoch in the file of *connection*, with a generation above those of *above*."""
    generation = max((position.generation for position in above if position is not None), default=0)
    position = Position(secrets.token_hex(8), generation + 1)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(_PUT, ("epoch", position.epoch))
    connection.execute(_PUT, ("generation", position.generation))
    connection.execute("COMMIT")
    return position


def has_foreign_log(path: str, remembered: Position | None) -> bool:
    """Whether the write-ahead log beside the file *path*, which nobody has open, is that of a newer file.

    It is when the file alone is older than it has been known to be.  SQLite would mix the two.
    """
    if remembered is None or not remembered.merged or not size_of(f"{path}-wal"):
        return False
    alone = look(path, "immutable=1")
    if alone is None or (alone.epoch == remembered.epoch and alone.generation >= remembered.merged):
        return False
    both = look(path, "mode=ro")  # it does not write the log into the file when it is closed
    if both is None or both.epoch != alone.epoch or both.generation <= alone.generation:
        return True
    # Else it is the log of that older file itself, if what it has is not what was written last here.
    return both.epoch == remembered.epoch and both.generation >= remembered.generation


def look(path: str, options: str) -> Position | None:
    """Return how far the file *path* has come, opened with *options*; None if that can not be read."""
    try:
        with closing(open_uri(path, options)) as connection:
            return position_of(connection)
    except sqlite3.Error:
        return None


def set_log_aside(path: str) -> None:
    """Rename the write-ahead log of the store *path*, so that it is not written into the file."""
    kept = unused_name(f"{path}-wal.stale")
    os.rename(f"{path}-wal", kept)
    remove(f"{path}-shm")
    sync(os.path.dirname(path))
    log.error("the write-ahead log beside {path} was that of a newer file: it is kept as {kept}", path=path, kept=kept)


def merge_log(path: str) -> None:
    """Write the log of the store *path*, which this process has locked, into its file, so that it needs none.

    Raises:
        sqlite3.OperationalError: another program has it open.
        sqlite3.DatabaseError: it is damaged.
    """
    if has_foreign_log(path, recall(path)):
        set_log_aside(path)
    with closing(open_uri(path, "mode=rw")) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    if mode != "delete":
        raise sqlite3.OperationalError("database is locked")
    sync(os.path.dirname(path))  # a log that came back after a power cut would be applied to whatever is there then


def unused_name(name: str) -> str:
    """Return *name*, or that with a number behind it, if there is such a file."""
    number, found = 1, name
    while os.path.lexists(found):
        number += 1
        found = f"{name}-{number}"
    return found


class History:
    """Counts how far an open file has come; by the thread that writes, once that runs.

    Args:
        connection: the one that writes.
        path: the file.
        remembered: what was remembered when it was opened, None for nothing.

    Attributes:
        epoch: the present one.
        went_back: whether the file was behind what was remembered, so that the epoch is a new one.
        seen: the number of changes by the connection that are counted.
        due: when the next step may be, by the monotonic clock.
    """

    def __init__(self, connection: sqlite3.Connection, path: str, remembered: Position | None) -> None:
        self._connection, self._path = connection, path
        self._stale = False  # whether the number may be that of a transaction that was undone
        self.due = 0.0
        found = position_of(connection)
        self.went_back = remembered is not None and _behind(found, remembered)
        self._position = self._begin(found, remembered)
        self.epoch = self._position.epoch
        self.seen = connection.total_changes
        self._remembered = remembered
        self._looked, self._sequence = self._position.generation, _log_sequence(path)
        if remembered is not None:
            self._remember(safely=True)

    def _begin(self, found: Position | None, remembered: Position | None) -> Position:
        if found is not None and not self.went_back:
            position = found
        else:
            position = begin_epoch(self._connection, found, remembered)
        if self.went_back and remembered is not None:
            self._report(found, remembered, position)
        known = 0 if self.went_back or remembered is None else remembered.merged
        return attrs.evolve(position, merged=position.generation if self._merge() else known)

    def _report(self, found: Position | None, remembered: Position, now: Position) -> None:
        fields = {"path": self._path, "seen": remembered.generation, "before": remembered.epoch, "epoch": now.epoch}
        if found is None:
            log.warn(
                "{path} is new: the store before had come to generation {seen} of epoch {before}; the epoch is {epoch} "
                "now; see docs/operations/backup",
                **fields,
            )
            return
        log.error(
            "data of the store was lost: {path} has generation {kept} of epoch {other}, and had come to generation "
            "{seen} of epoch {before}; the epoch is {epoch} now; see docs/operations/backup",
            kept=found.generation,
            other=found.epoch,
            **fields,
        )

    @property
    def merged(self) -> int:
        """See ``Position.merged``."""
        return self._position.merged

    def attach(self, connection: sqlite3.Connection) -> None:
        """Use *connection* from now on, to the same file."""
        self._connection = connection
        self.seen = connection.total_changes
        self.undone()

    def _merge(self) -> bool:
        """Write the log that a kill has left into the file; say whether the file has everything now."""
        try:
            _, frames, written = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error:
            return False  # the disk may be full: that is told when something is written
        return bool(frames == written)

    def step(self) -> None:
        """Let the transaction that is about to be committed raise the number."""
        self._load()
        generation = self._position.generation + 1
        self._connection.execute(_PUT, ("generation", generation))
        self._position = attrs.evolve(self._position, generation=generation)
        self.seen = self._connection.total_changes
        self.due = monotonic() + INTERVAL

    def undone(self) -> None:
        """Notice that a transaction is, or will be, undone, perhaps with its step."""
        self._stale = True
        self.due = 0.0

    def save(self) -> None:
        """Remember how far it has come by what was committed; to be called about every second."""
        self._load()
        sequence = _log_sequence(self._path)
        if sequence != self._sequence:
            # The log has begun anew, so that the file has what was committed when this was called before.
            self._sequence = sequence
            self._position = attrs.evolve(self._position, merged=self._looked)
        self._looked = self._position.generation
        self._remember()

    def _load(self) -> None:
        if self._stale:
            found = position_of(self._connection)
            assert found is not None
            self._position = attrs.evolve(self._position, generation=found.generation)
            self._stale = False

    def _remember(self, *, safely: bool = False) -> None:
        if self._remembered != self._position:
            with suppress(OSError):  # it is tried again; the disk may be full
                remember(self._path, self._position, safely=safely)
                self._remembered = self._position

    def finish(self) -> None:
        """Count what was written last; when nobody writes any more."""
        with suppress(sqlite3.Error):
            if self._connection.total_changes != self.seen:
                self.step()
            self._load()

    def closed(self) -> None:
        """Remember how far it has come, when the connections were closed."""
        if self._stale:
            return
        if not size_of(f"{self._path}-wal"):
            self._position = attrs.evolve(self._position, merged=self._position.generation)
        self._remember(safely=True)


def _log_sequence(path: str) -> bytes:
    try:
        with open(f"{path}-wal", "rb") as file:
            return file.read(LOG_SEQUENCE.stop)[LOG_SEQUENCE]
    except FileNotFoundError:
        return b""


def _behind(found: Position | None, remembered: Position) -> bool:
    if found is None or found.epoch != remembered.epoch:
        return True
    return found.generation < remembered.generation
