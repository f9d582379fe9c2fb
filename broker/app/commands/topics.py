"""``txbroker publish``, ``tail`` and ``read``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from broker.app.commands.console import Usage, json_option
from broker.app.commands.durations import Duration
from broker.app.commands.options import WithNumbers, client_options

if TYPE_CHECKING:
    from broker.app.client.target import Target


@click.command(cls=WithNumbers)
@click.argument("topic")
@click.argument("payload", default="")
@click.option("--durable", is_flag=True, help="Store it.")
@click.option("--key", metavar="KEY", help="The topic stores one event by it: what is published again is a duplicate.")
@click.option("--name", metavar="NAME", help="The kind of event; by default the topic.")
@click.option("--expect", type=click.IntRange(0), metavar="ID", help="The newest id that the topic must have; 0: none.")
@click.option("--retain", is_flag=True, help="Keep it for who subscribes later, although it is not stored.")
@click.option("--ttl", type=Duration(), metavar="TIME", help="After that it is delivered to nobody any more.")
@click.option("--content-type", metavar="TYPE", help="Of the payload.")
@click.option("--text", "as_text", is_flag=True, help="The payload is text, also if it is JSON.")
@click.option("--lines", is_flag=True, help="Publish each line of the standard input.")
@client_options()
@json_option
def publish(target: Target, topic: str, payload: str, lines: bool, as_text: bool, as_json: bool, **given: Any) -> None:
    """Publish an event.

    PAYLOAD is JSON, or text if it is none; - stands for the standard input.  Without one it is null.  It ends when
    the event is delivered, or is stored with --durable, --key or --expect.
    """
    from broker.app.client.publishing import publish

    publish(target, topic, payload, given, as_text=as_text, lines=lines, as_json=as_json)


@click.command(cls=Usage)
@click.argument("topic", metavar="TOPIC|PATTERN")
@click.option(
    "--from",
    "origin",
    metavar="PLACE",
    default="",
    help="start, new, or the place after which to begin: an id, or EPOCH:ID; by default new.",
)
@click.option("--cursor", default="", metavar="NAME", help="Go on after what it has acknowledged, and acknowledge.")
@click.option("--last", type=click.IntRange(1), metavar="N", help="Begin with the newest so many that are kept.")
@click.option("--exact", is_flag=True, help="Wildcards are ordinary characters.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after so many events.")
@client_options(None)
@json_option
def tail(target: Target, topic: str, as_json: bool, **given: Any) -> None:
    """Show events as they come, until it is interrupted.

    It comes back for ever when the connection or the broker was away, and shows what was stored meanwhile: nothing
    is missing or comes twice.  With --cursor it also goes on where it was when it is started again.
    """
    from broker.app.client.following import follow

    follow(target, topic, as_json=as_json, **given)


@click.command(cls=Usage)
@click.argument("topic")
@click.option("--after", metavar="PLACE", help="Those after an id, or EPOCH:ID.")
@click.option("--before", metavar="PLACE", help="The last ones before it.")
@click.option("--last", type=click.IntRange(1), metavar="N", help="The newest so many.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@client_options()
@json_option
def read(
    target: Target,
    topic: str,
    after: str | None,
    before: str | None,
    last: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show stored events of a topic, from the oldest on."""
    from broker.app.client.reading import read

    read(target, topic, after=after, before=before, last=last, limit=limit, as_json=as_json)
