"""``txbroker import-ganomede``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from broker.app.commands.console import FAILED, WRONG, Usage, fail, json_option, read_settings, show
from broker.app.interrupts import raise_interrupts
from broker.errors import BrokerError, Invalid

if TYPE_CHECKING:
    from broker.config.settings import Settings


@click.command("import-ganomede", cls=Usage)
@click.argument("url")
@json_option
def import_ganomede(url: str, as_json: bool) -> None:
    """Import the events, cursors and indices of a ganomede-events server.

    Copies what a ganomede-events server has stored in its Redis, at URL, such as redis://localhost:6379, into the
    store that TXBROKER_STORE names.  It can be run again: what was imported already stays as it is.
    """
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react

    settings = read_settings()
    raise_interrupts()  # the reactor has a handler of its own then
    react(lambda reactor: Deferred.fromCoroutine(_import(reactor, settings, url, as_json)))


async def _import(reactor: Any, settings: Settings, url: str, as_json: bool) -> None:
    import attrs

    from broker.app.checks import NOT_INSTALLED
    from broker.app.importer import import_ganomede
    from broker.app.store import make_store
    from broker.core.clocks import use_monotonic_time

    use_monotonic_time(reactor)

    try:
        store = make_store(reactor, settings)
    except Invalid as error:
        fail(str(error), FAILED if error.what == NOT_INSTALLED else WRONG)
    try:
        report = await import_ganomede(
            url,
            store,
            reactor,
            lambda text: click.echo(f"txbroker: {text}", err=True),
            cursor_seconds=settings.cursor_seconds,
            index_seconds=settings.index_seconds,
        )
    except BrokerError as error:
        fail(str(error))
    if as_json:
        show(attrs.asdict(report))
    else:
        print(report)
