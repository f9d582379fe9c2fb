"""``txbroker``: the command line for operators, beside ``twistd broker``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from broker import __version__
from broker.app.checks import NOT_INSTALLED, read_settings
from broker.app.maintenance import add_commands
from broker.app.store import make_store
from broker.config.environment import Environment
from broker.config.settings import Settings
from broker.core.clocks import use_monotonic_time
from broker.errors import BrokerError, Invalid


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that *arguments* name.

    Exits with the status 0, 1 when it has failed, or 2 for wrong arguments or settings.
    """
    chosen = _parser().parse_args(arguments)
    settings, problems = read_settings(Environment(os.environ))
    if problems:
        print("txbroker:", *problems, sep="\n  ", file=sys.stderr)
        raise SystemExit(2)
    chosen.run(settings, chosen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="txbroker", description="Settings are the environment variables TXBROKER_….")
    parser.add_argument("--version", action="version", version=f"txbroker {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    add_commands(commands)
    importing = commands.add_parser(
        "import-ganomede",
        help="import the events, cursors and indices of a ganomede-events server",
        description="Copies what a ganomede-events server has stored in its Redis into the store that TXBROKER_STORE "
        "names.  It can be run again: what was imported already stays as it is.",
    )
    importing.add_argument("url", metavar="URL", help="of the original's Redis, such as redis://localhost:6379")
    importing.set_defaults(run=_import_ganomede)
    tokens = commands.add_parser("token", help="revoke a minted token").add_subparsers(metavar="ACTION", required=True)
    revoking = tokens.add_parser(
        "revoke",
        help="revoke a minted token, and close what lives by it, on every node",
        description="Reads the token from the standard input or a file, since others can see the arguments of a "
        "program, and gives it to the admin port of a daemon.  TXBROKER_ADMIN_SECRET is what that may ask for.",
    )
    revoking.add_argument("token", nargs="*", help=argparse.SUPPRESS)  # to be refused without being repeated
    revoking.add_argument("--file", type=Path, help="with the token; by default the standard input")
    revoking.add_argument("--admin", metavar="URL", help="of the admin port; by default that of TXBROKER_ADMIN_LISTEN")
    revoking.set_defaults(run=_revoke_token)
    return parser


def _import_ganomede(settings: Settings, chosen: argparse.Namespace) -> None:
    react(lambda reactor: Deferred.fromCoroutine(_import(reactor, settings, chosen.url)))


async def _import(reactor: Any, settings: Settings, url: str) -> None:
    use_monotonic_time(reactor)
    # Imported here: the other commands do without the libraries of Redis.
    from broker.app.importer import import_ganomede

    try:
        store = make_store(reactor, settings)
    except Invalid as error:
        _print_error(str(error))
        raise SystemExit(1 if error.what == NOT_INSTALLED else 2) from None
    try:
        report = await import_ganomede(
            url,
            store,
            reactor,
            _print_error,
            cursor_seconds=settings.cursor_seconds,
            index_seconds=settings.index_seconds,
        )
    except BrokerError as error:
        _print_error(str(error))
        raise SystemExit(1) from None
    print(report)


def _revoke_token(settings: Settings, chosen: argparse.Namespace) -> None:
    from broker.app.admin_client import AdminClient, AdminError, url_of_port
    from broker.observe.admin.tokens import REVOKE

    if chosen.token:
        _print_error("give the token on the standard input or by --file: others can see the arguments of a program")
        raise SystemExit(2)
    try:
        token = (chosen.file.read_text("utf-8") if chosen.file else sys.stdin.read()).strip()
        if not token:
            raise AdminError("there is no token to revoke")
        client = AdminClient(chosen.admin or url_of_port(settings.admin_listen), settings.admin_secret)
        client.post(REVOKE, {"token": token})
    except (AdminError, OSError, UnicodeDecodeError) as error:
        _print_error(str(error))
        raise SystemExit(1) from None
    print("the token is revoked")


def _print_error(text: str) -> None:
    print(f"txbroker: {text}", file=sys.stderr)
