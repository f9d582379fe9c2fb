"""``txbroker enqueue``, ``work`` and ``dead``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from broker.app.commands.console import WRONG, Group, Usage, fail, json_option
from broker.app.commands.durations import Duration
from broker.app.commands.options import WithNumbers, client_options

if TYPE_CHECKING:
    from broker.app.client.target import Target

MAX_CONCURRENCY = 1000


@click.command(cls=WithNumbers)
@click.argument("queue")
@click.argument("payload", default="")
@click.option("--key", metavar="KEY", help="Makes the job the only one of that name.")
@click.option("--delay", type=Duration(), metavar="TIME", help="When it is delivered at the earliest.")
@click.option("--order", metavar="NAME", help="Of those with the same, one goes at a time.")
@click.option("--ttl", type=Duration(), metavar="TIME", help="After that it is delivered to nobody any more.")
@click.option("--text", "as_text", is_flag=True, help="The payload is text, also if it is JSON.")
@client_options()
@json_option
def enqueue(target: Target, queue: str, payload: str, as_text: bool, as_json: bool, **given: Any) -> None:
    """Add a job to a work queue.

    PAYLOAD is JSON, or text if it is none; - stands for the standard input.  Without one it is null.  It ends when
    the job is stored.
    """
    from broker.app.client.payloads import payload_of
    from broker.app.client.queues import enqueue

    value = payload_of(payload, as_text=as_text) if payload else "" if as_text else None
    enqueue(target, queue, value, given, as_json=as_json)


@click.command(cls=Usage)
@click.argument("queue")
@click.argument("command", nargs=-1, required=True)
@click.option("--concurrency", type=click.IntRange(1, MAX_CONCURRENCY), default=1, metavar="N", help="Jobs at once; 1.")
@click.option(
    "--prefetch",
    type=click.IntRange(1, 10 * MAX_CONCURRENCY),
    metavar="N",
    help="How many jobs it has, those that wait included; by default as many as --concurrency.",
)
@click.option("--lease", type=Duration(), metavar="TIME", help="After that a silent worker has lost a job.")
@click.option("--timeout", type=Duration(), metavar="TIME", help="How long the command may take for a job.")
@click.option("--retry-after", type=Duration(), metavar="TIME", help="When a job that has failed comes again.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after so many jobs.")
@client_options(None)
@json_option
def work(
    target: Target,
    queue: str,
    command: tuple[str, ...],
    concurrency: int,
    prefetch: int | None,
    lease: float | None,
    count: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Let a command do the jobs of QUEUE, until it is interrupted.

    The command reads the payload on its standard input: text as it is, anything else as JSON.  The job is done if its
    exit status is 0; else it has failed, with the last line of its standard error as the reason, and comes again
    later.  One word alone is a line for the shell.  The environment has TXBROKER_JOB_ID, TXBROKER_JOB_DELIVERY, which
    is 1 the first time, and TXBROKER_QUEUE.

    At SIGTERM the jobs that have begun are finished, and the others go back; at SIGINT all go back.  With --json the
    command reads JSON in any case, and a line is printed for each job.
    """
    from broker.app.client.shell import Command
    from broker.app.client.working import Worker, work

    worker = Worker(queue, Command.of(command), concurrency, as_json=as_json, **given)
    work(target, worker, prefetch=max(prefetch or 0, concurrency), lease=lease, count=count)


@click.group(cls=Group)
def dead() -> None:
    """List, requeue and drop the jobs that have failed for good."""


@dead.command("list")
@click.argument("queue")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@client_options()
@json_option
def list_dead(target: Target, queue: str, limit: int, as_json: bool) -> None:
    """Show the dead jobs of a queue, and why they have failed."""
    from broker.app.client.queues import list_dead

    list_dead(target, queue, limit, as_json=as_json)


@dead.command()
@click.argument("queue")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All dead jobs of the queue.")
@client_options()
@json_option
def requeue(target: Target, queue: str, ids: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Let dead jobs be delivered as new ones."""
    from broker.app.client.queues import requeue

    requeue(target, queue, _chosen(ids, everything), as_json=as_json)


@dead.command()
@click.argument("queue")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All dead jobs of the queue.")
@client_options()
@json_option
def drop(target: Target, queue: str, ids: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Remove dead jobs."""
    from broker.app.client.queues import drop

    drop(target, queue, _chosen(ids, everything), as_json=as_json)


def _chosen(ids: tuple[str, ...], everything: bool) -> list[str] | None:
    """Return the ids, None for all; end with the status 2 if neither is said, or both."""
    if bool(ids) == everything:
        fail("say which jobs: their ids, or --all", WRONG)
    return None if everything else list(ids)
