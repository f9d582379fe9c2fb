"""``txbroker``: the command line for operators, beside ``twistd broker``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from broker import __version__
from broker.app.store import make_store
from broker.config.settings import Settings, SettingsError
from broker.errors import BrokerError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that *arguments* name.

    Exits with the status 0, 1 when it has failed, or 2 for wrong arguments or settings.
    """
    chosen = _parser().parse_args(arguments)
    try:
        settings = Settings.from_environ(os.environ)
    except SettingsError as error:
        print("txbroker:", *error.problems, sep="\n  ", file=sys.stderr)
        raise SystemExit(2) from None
    react(lambda reactor: Deferred.fromCoroutine(_import(reactor, settings, chosen.url)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="txbroker", description="Settings are the environment variables TXBROKER_….")
    parser.add_argument("--version", action="version", version=f"txbroker {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    importing = commands.add_parser(
        "import-ganomede",
        help="import the events, cursors and indices of a ganomede-events server",
        description="Copies what a ganomede-events server has stored in its Redis into the store that TXBROKER_STORE "
        "names.  It can be run again: what was imported already stays as it is.",
    )
    importing.add_argument("url", help="of the original's Redis, such as redis://localhost:6379")
    return parser


async def _import(reactor: Any, settings: Settings, url: str) -> None:
    # Imported here: the other commands do without the libraries of Redis.
    from broker.app.importer import import_ganomede

    try:
        report = await import_ganomede(
            url,
            make_store(reactor, settings),
            reactor,
            _print_error,
            cursor_seconds=settings.cursor_seconds,
            index_seconds=settings.index_seconds,
        )
    except BrokerError as error:
        _print_error(str(error))
        raise SystemExit(1) from None
    print(report)


def _print_error(text: str) -> None:
    print(f"txbroker: {text}", file=sys.stderr)
