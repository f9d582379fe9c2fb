"""``txbroker call`` and ``serve``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from broker.app.commands.console import Usage, json_option
from broker.app.commands.durations import Duration
from broker.app.commands.options import WithNumbers, client_options

if TYPE_CHECKING:
    from broker.app.client.target import Target

CONCURRENCY = click.IntRange(1, 1000)


@click.command(cls=WithNumbers)
@click.argument("method")
@click.argument("payload", nargs=-1)
@click.option("--text", "as_text", is_flag=True, help="The payload is text, also if it is JSON.")
@click.option("--recipient", default="", metavar="NAME", help="The client that is to perform it; else who does.")
@click.option("--stream", is_flag=True, help="METHOD is the action of a request with any number of replies.")
@click.option("--replies", type=click.IntRange(1), metavar="N", help="With --stream: end after so many.")
@click.option(
    "--idle",
    type=Duration(),
    default=60.0,
    metavar="TIME",
    help="With --stream: end so long after a reply; 60s.",
)
@client_options()
@json_option
def call(
    target: Target,
    method: str,
    payload: tuple[str, ...],
    as_text: bool,
    recipient: str,
    stream: bool,
    replies: int | None,
    idle: float,
    as_json: bool,
) -> None:
    """Call a method, and print the result.

    Each PAYLOAD is an argument: JSON, or text if it is none; - stands for the standard input.  With --stream, PAYLOAD
    is an object, each reply is a line, and --timeout is for the first of them.
    """
    from broker.app.client.calling import call, request
    from broker.app.client.payloads import payload_of

    values = [payload_of(each, as_text=as_text) for each in payload]
    if stream:
        request(target, method, values, recipient, replies=replies, idle=idle, as_json=as_json)
    else:
        call(target, method, values, recipient, as_json=as_json)


@click.command("serve", cls=Usage)
@click.argument("method")
@click.argument("command", nargs=-1, required=True)
@click.option("--concurrency", type=CONCURRENCY, default=1, metavar="N", help="Calls at once; 1.")
@click.option(
    "--mode",
    type=click.Choice(["single", "roundrobin", "leastbusy"]),
    help="Share the method with other clients, by turns or by who has the fewest; by default it is yours alone.",
)
@click.option("--text", "as_text", is_flag=True, help="The result is text, also if it is JSON.")
@click.option("--timeout", type=Duration(), metavar="TIME", help="How long the command may take; else as callers say.")
@client_options(None)
@json_option
def serve_command(
    target: Target,
    method: str,
    command: tuple[str, ...],
    concurrency: int,
    mode: Any,
    as_text: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Let a command perform the calls of METHOD, until it is interrupted.

    The command reads the argument of the call on its standard input: text as it is, anything else as JSON, several as
    an array.  What it prints is the result: JSON, or text if it is none.  If its exit status is not 0, the caller gets
    an error with the last line of its standard error.  One word alone is a line for the shell.

    When the caller does not wait any more, the command is ended with all processes that it has started.  SIGTERM ends
    the program when the calls that have begun are answered.  With --json the command reads JSON in any case, and a
    line is printed for each call.
    """
    from broker.app.client.performing import Performer, perform
    from broker.app.client.shell import Command

    performer = Performer(method, Command.of(command), timeout, as_text, as_json)
    perform(target, performer, mode, concurrency)
