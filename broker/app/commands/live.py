"""The commands that ask a running daemon: lists, ``kick``, ``drain`` and ``status``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

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
    node_option,
    request,
    show,
    table,
    write,
)

T = TypeVar("T")

PAGE = 1000  # rows that are asked for at once
WHOLE = 10_000  # characters of what stands in a line of its own

# The columns of each list, whether it can be sorted, and what it shows.
LISTS: dict[str, tuple[Sequence[str], bool, str]] = {
    "connections": (
        ("id", "dialect", "address", "client", "queue", "rate", "bytes_in", "bytes_out", "seconds"),
        True,
        "List the connections of all nodes, the slowest readers first.",
    ),
    "sessions": (
        ("id", "dialect", "client", "principal", "address", "subscriptions", "calling", "serving", "seconds"),
        True,
        "List the sessions of all nodes: who is connected.",
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
        "List what clients of all nodes perform.",
    ),
    "queues": (
        ("queue", "ready", "delayed", "in_flight", "dead", "oldest_seconds", "consumers"),
        False,
        "List the work queues, and what they have.",
    ),
    "keys": (("key", "bytes", "revision", "expires"), False, "List keys, without their values."),
}


OF_A_NODE = ("connections", "sessions", "topics", "services")  # lists that each node has of its own


def list_commands() -> list[click.Command]:
    """Return a command for each list."""
    return [_list_command(name, *about) for name, about in LISTS.items()]


def _list_command(name: str, columns: Sequence[str], sortable: bool, text: str) -> click.Command:
    def run(
        search: str,
        limit: int,
        admin: str | None,
        as_json: bool,
        sort: str = "",
        order: str | None = None,
        node: str = "",
    ) -> None:
        nodes = _nodes(admin, node) if name in OF_A_NODE else [""]
        found, problems = _of_nodes(nodes, lambda one: _rows(admin, name, limit, one, q=search, sort=sort, order=order))
        rows = [row for some, _ in found for row in some]
        if as_json and found:
            show(rows)
        elif found:
            table(rows, columns if len(nodes) == 1 else ("node", *columns))
        if not all(complete for _, complete in found):
            problems.append(f"there are more than these {len(rows)}; see --limit and --search")
        for problem in problems:
            print(f"txbroker: {problem}", file=sys.stderr)
        if len(found) < len(nodes):
            raise SystemExit(FAILED)

    what = "Only those that have TEXT in them." if sortable else "Only those whose names begin with TEXT."
    if name == "queues":
        what = "Only those that have TEXT in their names."
    many = "How many, of each node." if name in OF_A_NODE else "How many."
    options = [
        click.Option(["--search"], metavar="TEXT", default="", help=what),
        click.Option(["--limit"], type=click.IntRange(1, 100_000), default=100, show_default=True, help=many),
    ]
    if name in OF_A_NODE:
        options.append(click.Option(["--node"], metavar="NAME", default="", help="Of the node that is called so only."))
    if sortable:
        options += [
            click.Option(["--sort"], metavar="COLUMN", default="", help="By which column or other member."),
            click.Option(["--order"], type=click.Choice(["asc", "desc"]), help="In which order."),
        ]
    return json_option(admin_option(Usage(name, callback=run, params=list(options), help=text)))


def _nodes(admin: str | None, node: str) -> list[str]:
    """Return the names of the nodes to be asked: *node*, or all; "" for the only one."""
    if node:
        return [node]
    found = [row["node"] for row in ask(admin, "nodes", limit=PAGE, sort="node")["items"]]
    return found if len(found) > 1 else [""]


def _rows(admin: str | None, name: str, limit: int, node: str = "", **query: Any) -> tuple[list[Any], bool]:
    """Return at most *limit* rows of a list of *node*, each with its name, and whether those are all.

    Raises:
        AdminError: it has not answered, or says no.
    """
    rows: list[Any] = []
    after = ""
    while True:
        page = request(admin, name, limit=min(PAGE, limit - len(rows)), after=after, node=node, **query)
        rows += [{"node": page["node"], **row} for row in page["items"]]
        after = page["next"]
        if not after or len(rows) >= limit:
            return rows, not after and page["complete"]


def _of_nodes(nodes: Sequence[str], read: Callable[[str], T]) -> tuple[list[T], list[str]]:
    """Return what *read* returns for each of *nodes* that answers, and a sentence for each that does not."""
    from broker.app.admin_client import AdminError

    found, problems = [], []
    for node in nodes:
        try:
            found.append(read(node))
        except AdminError as error:
            problems.append(str(error))
    return found, problems


@click.command(cls=Usage)
@click.argument("session", required=False)
@click.option("--client", default="", metavar="ID", help="All sessions of a client id instead.")
@click.option("--connection", default="", metavar="ID", help="A connection without a session instead, of one node.")
@click.option("--reason", default="", help="Told to the client, if its dialect can.")
@node_option
@admin_option
@json_option
def kick(
    session: str | None, client: str, connection: str, reason: str, node: str, admin: str | None, as_json: bool
) -> None:
    """Disconnect the session SESSION, at whatever node; it may come back."""
    given = {"session": session or "", "client": client, "connection": connection}
    if sum(map(bool, given.values())) != 1:
        fail("name a session, a client id by --client, or a connection by --connection", WRONG)
    body = {name: value for name, value in {**given, "reason": reason}.items() if value}
    done = ask(admin, "kick", body, node=node)
    if as_json:
        show(done)
    else:
        write(f"sessions disconnected: {done['disconnected']}")
    for silent in done.get("silent", ()):
        print(f"txbroker: node {silent} has not answered", file=sys.stderr)
    raise SystemExit(FAILED if done.get("silent") else 0)


@click.command(cls=Usage)
@node_option
@admin_option
@json_option
def drain(node: str, admin: str | None, as_json: bool) -> None:
    """Let the node be not ready, and its clients go to others; it runs on until it is stopped."""
    done = ask(admin, "drain", {}, node=node)
    if as_json:
        show(done)
    else:
        write("the node drains")


@click.command(cls=Usage)
@node_option
@admin_option
@json_option
def status(node: str, admin: str | None, as_json: bool) -> None:
    """Show what the daemon is and does; the status is 1 if it is not ready."""
    found = ask(admin, "status", node=node)
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
    about = ("node", "pid", "version", "started", "store", "dialects", "nodes")
    lines = [(name, cell(name, found.get(name), WHOLE)) for name in about if name in found]
    lines.append(("ready", "yes" if not found["ready"] else "no"))
    lines += [(name, cell(name, found["totals"][name])) for name in ("connections", "messages_in", "messages_out")]
    lines += [
        (name, cell(name, found["gauges"].get(name)))
        for name in ("sessions", "topics", "services", "jobs_ready", "jobs_dead", "store_bytes")
    ]
    lines += [("warning", warning) for warning in found.get("warnings", ())]
    return lines
