"""``txbroker kv``: the commands for keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.app.commands.console import Group, json_option
from broker.app.commands.durations import Duration
from broker.app.commands.options import WithNumbers, client_options

if TYPE_CHECKING:
    from broker.app.client.target import Target


@click.group(cls=Group)
def kv() -> None:
    """Read, write and watch keys."""


@kv.command()
@click.argument("key")
@client_options()
@json_option
def get(target: Target, key: str, as_json: bool) -> None:
    """Print the value of a key; the status is 1 if there is none."""
    from broker.app.client.entries import get

    get(target, key, as_json=as_json)


@kv.command("set", cls=WithNumbers)
@click.argument("key")
@click.argument("value")
@click.option("--ttl", type=Duration(), metavar="TIME", help="After that the key is gone.")
@click.option("--revision", type=click.IntRange(0), metavar="N", help="Only if it has that revision; 0: if it is new.")
@client_options()
@json_option
def set_key(target: Target, key: str, value: str, ttl: float | None, revision: int | None, as_json: bool) -> None:
    """Create or replace a key; - stands for the standard input.  Prints its revision."""
    from broker.app.client.entries import set_key

    set_key(target, key, value, ttl=ttl, revision=revision, as_json=as_json)


@kv.command(cls=WithNumbers)
@click.argument("key")
@click.argument("value")
@client_options()
@json_option
def patch(target: Target, key: str, value: str, as_json: bool) -> None:
    """Merge an object into a key's object, or append to another value; - stands for the standard input."""
    from broker.app.client.entries import patch

    patch(target, key, value, as_json=as_json)


@kv.command(cls=WithNumbers)
@click.argument("key")
@click.argument("amount", type=float, default=1.0)
@client_options()
@json_option
def increment(target: Target, key: str, amount: float, as_json: bool) -> None:
    """Add a number, by default 1, to a key, and print what it is then."""
    from broker.app.client.entries import increment

    increment(target, key, amount, as_json=as_json)


@kv.command()
@click.argument("key")
@click.option("--revision", type=click.IntRange(1), metavar="N", help="Only if it has that revision.")
@client_options()
@json_option
def delete(target: Target, key: str, revision: int | None, as_json: bool) -> None:
    """Remove a key, and say whether it was there."""
    from broker.app.client.entries import delete

    delete(target, key, revision, as_json=as_json)


@kv.command("range")
@click.argument("first")
@click.argument("last")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="At most so many.")
@client_options()
@json_option
def range_of_keys(target: Target, first: str, last: str, limit: int, as_json: bool) -> None:
    """Show the keys from FIRST to LAST, both included."""
    from broker.app.client.entries import show_range

    show_range(target, first, last, limit, as_json=as_json)


@kv.command()
@click.argument("pattern", metavar="KEY|PATTERN")
@click.option("--previous", is_flag=True, help="Show the value before, too.")
@click.option("--exact", is_flag=True, help="Wildcards are ordinary characters.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after so many lines.")
@client_options(None)
@json_option
def watch(target: Target, pattern: str, previous: bool, exact: bool, count: int | None, as_json: bool) -> None:
    """Show what keys have, and each change of them, until it is interrupted.

    It comes back for ever when the connection or the broker was away, and shows what is different then.
    """
    from broker.app.client.entries import watch

    watch(target, pattern, previous=previous, exact=exact, count=count, as_json=as_json)
