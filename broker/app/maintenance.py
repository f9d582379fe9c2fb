"""The commands for the file of a SQLite store: ``txbroker backup``, ``restore`` and ``compact``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from broker.config.addresses import is_redis
from broker.config.settings import Settings
from broker.errors import BrokerError, Invalid
from broker.stores import database_path


def add_commands(commands: Any) -> None:
    """Add the commands to *commands*, the subparsers of ``txbroker``."""
    backing = commands.add_parser(
        "backup",
        help="copy the store into a file, also while the daemon runs",
        description="Writes all that the SQLite store of TXBROKER_STORE has at this moment into FILE. The daemon may "
        "run, and goes on writing. FILE is for its owner only, and has its name when it is on the disk as a whole.",
    )
    backing.add_argument("file", metavar="FILE", help="to be made")
    backing.add_argument("--overwrite", action="store_true", help="replace FILE if there is one")
    backing.set_defaults(run=_back_up)
    restoring = commands.add_parser(
        "restore",
        help="put a backup in the place of the store; the daemon must be stopped",
        description="Puts what FILE has, which txbroker backup has made, in the place of the SQLite store of "
        "TXBROKER_STORE, in a new epoch: clients that show an older one are told. The file that it replaces is kept.",
    )
    restoring.add_argument("file", metavar="FILE", help="the backup; it stays as it is")
    restoring.set_defaults(run=_restore)
    compacting = commands.add_parser(
        "compact",
        help="make the file of the store as small as it can be; the daemon must be stopped",
        description="Writes the file of the SQLite store of TXBROKER_STORE anew, without what is not used. From then "
        "on it gives back by itself what is removed.",
    )
    compacting.set_defaults(run=_compact)


def _back_up(settings: Settings, chosen: argparse.Namespace) -> None:
    from broker.stores.sqlite_backup import back_up

    path = _store_path(settings)
    size = _run(lambda: back_up(path, chosen.file, overwrite=chosen.overwrite))
    _print(f"{size} bytes of {path} are saved in {chosen.file}")


def _restore(settings: Settings, chosen: argparse.Namespace) -> None:
    from broker.stores.sqlite_restore import restore

    path = _store_path(settings)
    kept = _run(lambda: restore(path, chosen.file))
    _print(f"{path} is what {chosen.file} has, in a new epoch")
    if kept:
        _print(f"what it was before is kept as {kept}")


def _compact(settings: Settings, chosen: argparse.Namespace) -> None:
    from broker.stores.sqlite_compact import compact

    path = _store_path(settings)
    before, after = _run(lambda: compact(path))
    _print(f"{path} had {before} bytes, and has {after}")


def _store_path(settings: Settings) -> str:
    """Return the file of the store; end with the status 2 if it has none."""
    scheme, _, rest = settings.store.partition(":")
    if is_redis(settings.store):
        _exit(
            "TXBROKER_STORE is a Redis: save and restore the files of that instead, its snapshot (RDB) or its "
            "append-only file, as docs/operations/backup says",
            2,
        )
    if settings.store == "memory:":
        _exit("TXBROKER_STORE is memory: and has no file", 2)
    if scheme != "sqlite":
        _exit(f"TXBROKER_STORE: there is no store {settings.store!r}: use sqlite: or sqlite:/path", 2)
    try:
        return database_path(rest, settings.state_directory)
    except Invalid as error:
        _exit(str(error), 2)


def _run(work: Callable[[], Any]) -> Any:
    """Return what *work* returns; end with the status 1 if it fails or is interrupted, with everything in order."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return work()
    except BrokerError as error:
        _exit(str(error), 1)
    except KeyboardInterrupt:
        _exit("interrupted", 1)
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def _print(text: str) -> None:
    """Print *text*, which may have names of files that are no UTF-8."""
    print(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _exit(text: str, status: int) -> NoReturn:
    print(f"txbroker: {text}", file=sys.stderr)
    raise SystemExit(status)
