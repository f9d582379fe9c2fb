"""``txbroker``: what operators do beside running the daemon."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from broker import __version__
from broker.app.importer import import_ganomede
from broker.config.settings import Settings, SettingsError
from broker.errors import BrokerError
from broker.stores import open_store


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what *arguments* say; exit with 0, or 1 when it went wrong, or 2 when it could not be begun."""
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
        help="take over the events, cursors and indices of a ganomede-events server",
        description="Copies what a ganomede-events server has kept in its Redis into the store that TXBROKER_STORE "
        "names.  It can be run again: what was taken over already stays as it is.",
    )
    importing.add_argument("url", help="of the original's Redis, such as redis://localhost:6379")
    return parser


async def _import(reactor: Any, settings: Settings, url: str) -> None:
    try:
        store = open_store(
            settings.store,
            clock=reactor,
            directory=settings.state_directory,
            durability=settings.durability,
            prefix=settings.redis_prefix,
        )
        report = await import_ganomede(url, store, reactor, _note)
    except BrokerError as error:
        _note(str(error))
        raise SystemExit(1) from None
    print(report)


def _note(text: str) -> None:
    print(f"txbroker: {text}", file=sys.stderr)
