"""Making the file of a SQLite store as small as what it has, while no daemon uses it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing

from broker.stores.sqlite_backup import check_kind
from broker.stores.sqlite_copy import (
    CopyError,
    check_room,
    finish_restoring,
    new_file,
    open_uri,
    own_like,
    publish,
    size_of,
    use_log,
)
from broker.stores.sqlite_file import lock_file
from broker.stores.sqlite_history import merge_log


def compact(path: str) -> tuple[int, int]:
    """Write the store *path* anew, without what is not used; it gives back by itself what is removed from then on.

    It is as before, or whole in its new form, also when this is killed.

    Returns the bytes that it had and has.

    Raises:
        CopyError: it can not be done; nothing was changed.
        Unavailable: a daemon is using the store.
    """
    subject = f"The store {path} can not be compacted"
    if not os.path.exists(path):
        raise CopyError(subject, "there is no such file; STATE_DIRECTORY or TXBROKER_STORE says where it is")
    lock = lock_file(path)
    try:
        finish_restoring(path)
        with new_file(path) as part:
            with closing(open_uri(path, "mode=ro")) as store:
                check_kind(store, subject)
            merge_log(path)
            before = size_of(path)
            with closing(open_uri(path, "mode=rw")) as store:
                check_room(store, os.path.dirname(path), subject)
                store.execute("PRAGMA auto_vacuum = INCREMENTAL")
                store.execute("VACUUM INTO ?", (part,))
            with closing(open_uri(part, "mode=rw")) as compacted:
                use_log(compacted)
            shutil.copymode(path, part)
            own_like(part, path)
            publish(part, path, overwrite=True)
        return before, size_of(path)
    except (OSError, sqlite3.Error) as error:
        raise CopyError(subject, error) from error
    finally:
        os.close(lock)
