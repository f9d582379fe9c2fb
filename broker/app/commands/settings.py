"""``txbroker check`` and ``txbroker config``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from broker.app.commands.console import WRONG, Usage, json_option, read_settings, show, table, write

if TYPE_CHECKING:
    from broker.app.verification import Verified
    from broker.config.settings import Settings


@click.command(cls=Usage)
@json_option
def check(as_json: bool) -> None:
    """Say whether a daemon could start with these settings.

    Reads all settings and the files that they name, and loads the dialects; nothing is opened and nothing listens.
    The status is 2 if anything is wrong, and everything that is stands on standard error.
    """
    from broker.app.settings import read_settings
    from broker.config.environment import Environment

    settings, found = read_settings(Environment(os.environ))
    verified = _verified(settings, found)
    problems, warnings = verified.problems, verified.warnings
    if as_json:
        show({"ok": not problems, "problems": problems, "warnings": warnings})
    elif not problems:
        write("the settings can be used")
    for text in () if as_json else (*problems, *(f"warning: {warning}" for warning in warnings)):
        print(f"txbroker: {text}", file=sys.stderr)
    raise SystemExit(WRONG if problems else 0)


def _verified(settings: Settings, found: list[str]) -> Verified:
    """Return what is found of *settings*, of which the problems *found* are known."""
    # Imported here: they bring what the other commands do without.
    from twisted.internet import reactor

    from broker.app.verification import verify

    return verify(reactor, settings, found)


@click.command(cls=Usage)
@click.option("--env", "as_env", is_flag=True, help="Print a file of all settings with their help, as .env.example is.")
@click.option("--changed", is_flag=True, help="Leave out what has its default.")
@json_option
def config(as_env: bool, changed: bool, as_json: bool) -> None:
    """Show the value of each setting, and where it comes from; secrets are masked.

    With --env, what is set stands there as it is in effect, but for secrets, and the rest is commented out.
    """
    from broker.config.example import env_text

    settings = read_settings()
    rows = [{"name": name, "value": value, "source": source} for name, value, source in settings.describe()]
    if changed:
        rows = [row for row in rows if row["source"] != "default"]
    if as_env:
        print(env_text(rows), end="")
    elif as_json:
        show(rows)
    else:
        table(rows, ("name", "value", "source"))
