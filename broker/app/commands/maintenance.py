"""The commands for the file of a SQLite store: ``txbroker backup``, ``restore`` and ``compact``."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import click

from broker.app.commands.console import FAILED, WRONG, Usage, fail, json_option, read_settings, show, write
from broker.app.interrupts import raise_interrupts
from broker.errors import BrokerError, Invalid

if TYPE_CHECKING:
    from broker.config.settings import Settings


@click.command(cls=Usage)
@click.argument("file")
@click.option("--overwrite", is_flag=True, help="Replace FILE if there is one.")
@json_option
def backup(file: str, overwrite: bool, as_json: bool) -> None:
    """Copy the store into FILE, also while the daemon runs.

    Writes all that the SQLite store of TXBROKER_STORE has at this moment into FILE.  The daemon may run, and goes on
    writing.  FILE is for its owner only, and has its name when it is on the disk as a whole.
    """
    path = _store_path(read_settings())
    from broker.stores.sqlite_backup import back_up

    size = _run(lambda: back_up(path, file, overwrite=overwrite))
    if as_json:
        show({"store": path, "file": file, "bytes": size})
    else:
        write(f"{size} bytes of {path} are saved in {file}")


@click.command(cls=Usage)
@click.argument("file")
@json_option
def restore(file: str, as_json: bool) -> None:
    """Put the backup FILE in the place of the store; the daemon must be stopped.

    Puts what FILE has, which txbroker backup has made, in the place of the SQLite store of TXBROKER_STORE, in a new
    epoch: clients that show an older one are told.  FILE stays as it is, and the file that it replaces is kept.
    """
    path = _store_path(read_settings())
    from broker.stores.sqlite_restore import restore

    kept = _run(lambda: restore(path, file))
    if as_json:
        show({"store": path, "file": file, "kept": kept or None})
        return
    write(f"{path} is what {file} has, in a new epoch")
    if kept:
        write(f"what it was before is kept as {kept}")


@click.command(cls=Usage)
@json_option
def compact(as_json: bool) -> None:
    """Make the file of the store as small as it can be; the daemon must be stopped.

    Writes the file of the SQLite store of TXBROKER_STORE anew, without what is not used.  From then on it gives back
    by itself what is removed.
    """
    path = _store_path(read_settings())
    from broker.stores.sqlite_compact import compact

    before, after = _run(lambda: compact(path))
    if as_json:
        show({"store": path, "before": before, "after": after})
    else:
        write(f"{path} had {before} bytes, and has {after}")


def _store_path(settings: Settings) -> str:
    """Return the file of the store; end with the status 2 if it has none."""
    from broker.config.addresses import is_redis
    from broker.stores import database_path

    scheme, _, rest = settings.store.partition(":")
    if is_redis(settings.store):
        fail(
            "TXBROKER_STORE is a Redis: save and restore the files of that instead, its snapshot (RDB) or its "
            "append-only file, as docs/operations/backup says",
            WRONG,
        )
    if settings.store == "memory:":
        fail("TXBROKER_STORE is memory: and has no file", WRONG)
    if scheme != "sqlite":
        fail(f"TXBROKER_STORE: there is no store {settings.store!r}: use sqlite: or sqlite:/path", WRONG)
    try:
        return database_path(rest, settings.state_directory)
    except Invalid as error:
        fail(str(error), WRONG)


def _run(work: Callable[[], Any]) -> Any:
    """Return what *work* returns; end with the status 1 if it fails or is interrupted, with everything in order."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        raise_interrupts()
        return work()
    except BrokerError as error:
        fail(str(error), FAILED)
    except KeyboardInterrupt:
        fail("interrupted", FAILED)
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt
