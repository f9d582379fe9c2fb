"""``txbroker bench``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.app.commands.console import Usage, json_option
from broker.app.commands.durations import Duration
from broker.app.commands.options import client_options

if TYPE_CHECKING:
    from broker.app.client.target import Target

WORKLOADS = ("relay", "pipelined", "fan-out", "durable", "jobs", "keys")


@click.command(cls=Usage)
@click.option(
    "--workload", "names", multiple=True, type=click.Choice(WORKLOADS), help="Measure this one; may be repeated."
)
@click.option("--seconds", type=Duration(), default=3.0, metavar="TIME", help="How long each is measured; 3s.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1000),
    default=64,
    show_default=True,
    help="How many operations are under way, but for relay and fan-out, where that is one.",
)
@click.option(
    "--clients", type=click.IntRange(1, 1000), default=20, show_default=True, help="Subscribers of the fan-out."
)
@click.option("--size", type=click.IntRange(0, 1 << 20), default=128, show_default=True, help="Bytes of a payload.")
@client_options()
@json_option
def bench(
    target: Target,
    names: tuple[str, ...],
    seconds: float,
    concurrency: int,
    clients: int,
    size: int,
    as_json: bool,
) -> None:
    """Measure how many operations a broker does in a second, and how long each takes.

    Relay and pipelined are events from one client to another, one after the other or many under way; fan-out is an
    event to many clients, counted by deliveries; durable, jobs and keys are events that are stored, jobs that are
    added and done, and keys that are written.  All clients are in this one process, which uses a processor: with
    several at once a fast broker does more.  Events that were stored stay as TXBROKER_RETENTION says; of all else
    nothing does.  --timeout is for each operation.
    """
    from broker.app.client.benching import bench
    from broker.app.client.workloads import Load

    bench(target, names or WORKLOADS, seconds, Load(concurrency, clients, size), as_json=as_json)
