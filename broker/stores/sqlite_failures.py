"""What the errors of SQLite say of the file, and what callers and operators are told of them."""

from __future__ import annotations

import sqlite3

from broker.errors import Unavailable, with_detail

CANNOT_WRITE = "The store can not write."  # what clients are told of it
CANNOT_READ = "The store can not be read."

DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
UNREADABLE = frozenset(
    {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS}
)  # extended codes


class FileLost(Exception):
    """The files of the store are not those that it has opened, or not as it has left them.

    Attributes:
        reason: what has happened to which of them, for operators.
        keeps: whether the database file itself is still the store's.
        readable: whether what the open database file returns is still that of the store.
        logged: whether the same is true of the open log.
    """

    def __init__(self, reason: str, *, keeps: bool, readable: bool = True, logged: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.keeps, self.readable, self.logged = keeps, readable, logged


def is_damage(error: BaseException) -> bool:
    """Whether *error* says that pages of the file are not as SQLite has written them."""
    return _code(error) in DAMAGED


def is_unreadable(error: BaseException) -> bool:
    """Whether *error* says that a page can not be read from the disk."""
    return getattr(error, "sqlite_errorcode", 0) in UNREADABLE


def is_io_error(error: BaseException) -> bool:
    """Whether *error* leaves it open what of the last transaction is on the disk."""
    return _code(error) == sqlite3.SQLITE_IOERR


def lies_in_file(error: BaseException) -> bool:
    """Whether *error* has its reason in the file or the disk, not in an operation."""
    # DatabaseError itself, not its other children, tells of a damaged file.
    return isinstance(error, (sqlite3.OperationalError, OSError)) or type(error) is sqlite3.DatabaseError


def _code(error: BaseException) -> int:
    """Return the primary result code of SQLite; 0 for what is not from SQLite."""
    # The lower byte of the extended code.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def write_refusal(failure: str) -> Unavailable:
    """Return the refusal of a write for *failure*."""
    # A new one for each caller: whoever raises it adds its own traceback.
    return Unavailable("store", message=CANNOT_WRITE, detail=failure)


def read_refusal(failure: str) -> Unavailable:
    """Return the refusal of a read for *failure*."""
    return Unavailable("store", message=CANNOT_READ, detail=failure)


def cannot_write(failure: str) -> str:
    """Return the sentence that tells of *failure* to operators."""
    return with_detail(CANNOT_WRITE, failure)
