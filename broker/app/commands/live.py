"""The commands that ask a running daemon: lists, ``kick``, ``drain`` and ``status``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from broker.app.commands.console import (
    FAILED,
    WRONG,
    Usage,
    admin_option,
    ask,
    cell,
    fail,
    json_option,
    show,
    table,
    write,
)

PAGE = 1000  # rows that are asked for at once

# The columns of each list, whether it can be sorted, and what it shows.
LISTS: dict[str, tuple[Sequence[str], bool, str]] = {
    "connections": (
        ("id", "dialect", "address", "client", "queue", "rate", "bytes_in", "bytes_out", "seconds"),
        True,
        "List the connections of the node, the slowest readers first.",
    ),
    "sessions": (
        ("id", "dialect", "client", "principal", "address", "subscriptions", "calling", "serving", "seconds"),
        True,
        "List the sessions of the node: who is connected.",
    ),
    "topics": (("topic", "pattern", "subscribers"), True, "List topics and patterns that somebody listens to."),
    "channels": (
        ("channel", "head", "cursors", "lag", "subscribers"),
        False,
        "List stored topics, with the lag of the slowest cursor.",
    ),
    "services": (
        ("name", "kind", "performers", "in_flight", "waiting", "shared"),
        True,
        "List what clients of the node perform.",
    ),
    "queues": (
        ("queue", "ready", "delayed", "in_flight", "dead", "oldest_seconds", "consumers"),
        False,
        "List the work queues, and what they have.",
    ),
    "keys": (("key", "bytes", "revision", "expires"), False, "List keys, without their values."),
}


def list_commands() -> list[click.Command]:
    """Return a command for each list."""
    return [_list_command(name, *about) for name, about in LISTS.items()]


def _list_command(name: str, columns: Sequence[str], sortable: bool, text: str) -> click.Command:
    def run(
        search: str, limit: int, admin: str | None, as_json: bool, sort: str = "", order: str | None = None
    ) -> None:
        rows, complete = _rows(admin, name, limit, q=search, sort=sort, order=order)
        if as_json:
            show(rows)
        else:
            table(rows, columns)
        if not complete:
            print(f"txbroker: there are more than these {len(rows)}; see --limit and --search", file=sys.stderr)

    what = "Only those that have TEXT in them." if sortable else "Only those whose names begin with TEXT."
    if name == "queues":
        what = "Only those that have TEXT in their names."
    options = [
        click.Option(["--search"], metavar="TEXT", default="", help=what),
        click.Option(["--limit"], type=click.IntRange(1, 100_000), default=100, show_default=True, help="How many."),
    ]
    if sortable:
        options += [
            click.Option(["--sort"], metavar="COLUMN", default="", help="By which column or other member."),
            click.Option(["--order"], type=click.Choice(["asc", "desc"]), help="In which order."),
        ]
    return json_option(admin_option(Usage(name, callback=run, params=list(options), help=text)))


def _rows(admin: str | None, name: str, limit: int, **query: Any) -> tuple[list[Any], bool]:
    """Return at most *limit* rows of a list, and whether those are all."""
    rows: list[Any] = []
    after = ""
    while True:
        page = ask(admin, name, limit=min(PAGE, limit - len(rows)), after=after, **query)
        rows += page["items"]
        after = page["next"]
        if not after or len(rows) >= limit:
            return rows, not after and page["complete"]


@click.command(cls=Usage)
@click.argument("session", required=False)
@click.option("--client", default="", metavar="ID", help="All sessions of a client id instead.")
@click.option("--reason", default="", help="Told to the client, if its dialect can.")
@admin_option
@json_option
def kick(session: str | None, client: str, reason: str, admin: str | None, as_json: bool) -> None:
    """Disconnect the session SESSION of the node; it may come back."""
    if bool(session) == bool(client):
        fail("name a session, or a client id by --client", WRONG)
    body = {"client": client} if client else {"session": session}
    done = ask(admin, "kick", body | ({"reason": reason} if reason else {}))
    if as_json:
        show(done)
    else:
        write(f"sessions disconnected: {done['disconnected']}")


@click.command(cls=Usage)
@admin_option
@json_option
def drain(admin: str | None, as_json: bool) -> None:
    """Let the node be not ready, and its clients go to others; it runs on until it is stopped."""
    done = ask(admin, "drain", {})
    if as_json:
        show(done)
    else:
        write("the node drains")


@click.command(cls=Usage)
@admin_option
@json_option
def status(admin: str | None, as_json: bool) -> None:
    """Show what the daemon is and does; the status is 1 if it is not ready."""
    found = ask(admin, "status")
    if as_json:
        show(found)
    else:
        for name, value in _told(found):
            write(f"{name:<16}{value}")
    for reason in found["ready"]:
        print(f"txbroker: not ready: {reason}", file=sys.stderr)
    raise SystemExit(FAILED if found["ready"] else 0)


def _told(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of ``status``."""
    lines = [(name, cell(name, found.get(name))) for name in ("node", "pid", "version", "started", "store", "dialects")]
    if "nodes" in found:
        lines.append(("nodes", cell("nodes", found["nodes"])))
    lines.append(("ready", "yes" if not found["ready"] else "no"))
    lines += [(name, cell(name, found["totals"][name])) for name in ("connections", "messages_in", "messages_out")]
    lines += [
        (name, cell(name, found["gauges"].get(name)))
        for name in ("sessions", "topics", "services", "jobs_ready", "jobs_dead", "store_bytes")
    ]
    lines += [("warning", warning) for warning in found.get("warnings", ())]
    return lines
