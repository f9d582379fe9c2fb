"""Putting a backup in the place of a SQLite store, while no daemon uses it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from contextlib import closing, suppress

from broker.stores.sqlite_backup import check_kind
from broker.stores.sqlite_copy import (
    RESTORED,
    SIDE_FILES,
    CopyError,
    check_pages,
    check_room,
    copy_pages,
    finish_restoring,
    new_file,
    open_uri,
    own_like,
    publish,
    remove,
    size_of,
    sync,
    use_log,
)
from broker.stores.sqlite_file import lock_file
from broker.stores.sqlite_history import (
    Position,
    begin_epoch,
    merge_log,
    position_of,
    recall,
    remember,
    unused_name,
)


def restore(path: str, source: str) -> str:
    """Put what the backup *source* has in the place of the store *path*, in a new epoch.

    It is in place as a whole or not at all, also when this is killed; *source* stays as it is.

    Returns the name under which the file is kept that was replaced, "" if there was none.

    Raises:
        CopyError: *source* can not be used, or another program uses the store; nothing was changed.
        Unavailable: a daemon uses the store.
    """
    subject, source = f"The backup {source} can not be restored", os.path.realpath(source)
    if not os.path.isfile(source):
        raise CopyError(subject, "there is no such file")
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise CopyError(subject, f"there is no directory {directory}; STATE_DIRECTORY or TXBROKER_STORE says where")
    lock = lock_file(path)
    try:
        finish_restoring(path)
        if os.path.exists(path) and os.path.samefile(source, path):
            raise CopyError(subject, "it is the store itself")
        with new_file(path) as part:
            position = _prepare(source, part, path, subject)
            publish(part, path + RESTORED, overwrite=True)
        kept = _replace(path, subject)
        with suppress(OSError):  # it is in place; of what is remembered the next start sees that it is another one
            remember(path, position, safely=True)
        return kept
    except (OSError, sqlite3.Error) as error:
        raise CopyError(subject, error) from error
    finally:
        finish_restoring(path)
        os.close(lock)


def _prepare(source: str, part: str, path: str, subject: str) -> Position:
    """Make of the empty file *part* what the store *path* shall be; return how far that has come."""
    log = size_of(f"{source}-wal")  # somebody may have copied a file together with its log
    with closing(open_uri(source, "mode=ro" if log else "immutable=1")) as backup:
        check_kind(backup, subject)
        _check_length(backup, source, subject)
        check_room(backup, os.path.dirname(path), subject)
        copy_pages(backup, part)
    check_pages(part, "integrity_check", subject)
    with closing(sqlite3.connect(part, isolation_level=None)) as connection:
        position = begin_epoch(connection, position_of(connection), recall(path))
        use_log(connection)
    if os.path.exists(path):
        shutil.copymode(path, part)
    own_like(part, path if os.path.exists(path) else os.path.dirname(path))
    return Position(position.epoch, position.generation, position.generation)


def _check_length(connection: sqlite3.Connection, path: str, subject: str) -> None:
    """Raise ``CopyError`` if the end of the file *path* is missing: SQLite would read zeros there."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    size = size_of(path)
    if size % page_size or (size < pages * page_size and not size_of(f"{path}-wal")):
        raise CopyError(subject, f"it is truncated: of {pages} pages of {page_size} bytes, {size} bytes are there")


def _replace(path: str, subject: str) -> str:
    """Give the file that was prepared its name; return the new name of the one that had it."""
    kept = ""
    if os.path.exists(path):
        kept = unused_name(time.strftime(f"{path}.replaced-%Y%m%dT%H%M%SZ", time.gmtime()))
        if _is_damaged(path):
            with suppress(FileNotFoundError):
                os.rename(f"{path}-wal", f"{kept}-wal")  # it is kept as it is
        else:
            try:
                merge_log(path)
            except sqlite3.Error as error:
                raise CopyError(subject, f"{path} can not be set aside: {error}") from error
        os.rename(path, kept)
    remove(*(path + suffix for suffix in SIDE_FILES))
    sync(os.path.dirname(path))
    os.rename(path + RESTORED, path)
    sync(os.path.dirname(path))
    return kept


def _is_damaged(path: str) -> bool:
    try:
        with closing(open_uri(path, "mode=ro")) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        return False  # it can not be opened, which may have other reasons
    except sqlite3.DatabaseError:
        return True
    return False
