"""Backing up a SQLite store, while a daemon may be using it."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing

from broker.stores.sqlite_copy import (
    RESTORED,
    SIDE_FILES,
    CopyError,
    check_pages,
    check_room,
    copy_pages,
    new_file,
    open_uri,
    publish,
    size_of,
)
from broker.stores.sqlite_file import is_locked, judge_version, schema_steps
from broker.stores.sqlite_history import has_foreign_log, memory_path, recall

LOCK_TIMEOUT = 5.0  # seconds to wait for another program that has the whole file locked
EXISTS = "there is a file of that name, which only --overwrite replaces"


def back_up(path: str, target: str, *, overwrite: bool = False) -> int:
    """Write all that the store *path* has at this moment into the file *target*; return its size in bytes.

    The store may be in use, and whoever writes to it goes on.  *target* is for its owner only; when this returns it
    is on the disk, and it has its name as a whole or not at all.

    Raises:
        CopyError: it can not be made, or there is a file of that name and it should not *overwrite* that.
    """
    subject, target = f"The backup {target} can not be made", os.path.realpath(target)
    problem = _target_problem(path, target, overwrite) or _store_problem(path)
    if problem:
        raise CopyError(subject, problem)
    try:
        with new_file(target) as part:
            with closing(open_uri(path, "mode=rw", LOCK_TIMEOUT)) as store:
                check_kind(store, subject)
                check_room(store, os.path.dirname(target), subject)
                copy_pages(store, part)
            check_pages(part, "quick_check", subject)
            publish(part, target, overwrite=overwrite)
            return size_of(target)
    except FileExistsError:
        raise CopyError(subject, EXISTS) from None
    except (OSError, sqlite3.Error) as error:
        raise CopyError(subject, error) from error


def check_kind(connection: sqlite3.Connection, subject: str) -> None:
    """Raise ``CopyError`` unless the file of *connection* is a store of ours, and of no newer version."""
    version, problem = judge_version(connection, len(schema_steps()))
    if problem or not version:
        raise CopyError(subject, problem or "it is no store of txbroker")


def _target_problem(path: str, target: str, overwrite: bool) -> str:
    own = [path, f"{path}.lock", path + RESTORED, memory_path(path), *(path + suffix for suffix in SIDE_FILES)]
    if target in own or (os.path.exists(target) and os.path.exists(path) and os.path.samefile(target, path)):
        return "it is a file of the store itself"
    if os.path.isdir(target):
        return "it is a directory"
    if os.path.exists(target) and not os.path.isfile(target):
        return "it is no regular file"
    return EXISTS if os.path.exists(target) and not overwrite else ""


def _store_problem(path: str) -> str:
    if not os.path.exists(path):
        return f"there is no store {path}; STATE_DIRECTORY or TXBROKER_STORE says where it is"
    if not os.access(path, os.R_OK):
        return f"{path} can not be read: {os.strerror(errno.EACCES)}"
    # Opening and closing the store would write that log into the file.  Of a file in use, that look may be wrong.
    if has_foreign_log(path, recall(path)) and not is_locked(path):
        return f"the write-ahead log beside {path} is that of a newer file: start the broker once, which sets it aside"
    return ""
