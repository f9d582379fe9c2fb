"""What all commands share: how they are declared, what they print, and how they fail."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

# What a command needs is imported when it runs: for the help of all, nothing of it is.
if TYPE_CHECKING:
    from broker.config.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

FAILED, WRONG = 1, 2  # exit statuses: it did not work; the arguments or settings can not be used
MAX_WIDTH = 60  # characters of a cell
MAX_HELP = 100  # and of what a list of commands says of each


class Usage(click.Command):
    """A command whose usage begins as that of most programs does."""

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage."""
        formatter.write_usage(ctx.command_path, " ".join(self.collect_usage_pieces(ctx)), "usage: ")

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return the first sentence of the help, however long a list of commands usually lets it be."""
        return super().get_short_help_str(max(limit, MAX_HELP))


class Group(Usage, click.Group):
    """The same for a group of commands."""

    command_class = Usage
    group_class = type


def json_option(command: F) -> F:
    """Let *command* take ``--json``, as its parameter ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def admin_option(command: F) -> F:
    """Let *command* take ``--admin``, the URL of the admin port."""
    text = "Of the admin port, or unix:/path; by default that of TXBROKER_ADMIN_LISTEN."
    return click.option("--admin", metavar="URL", help=text)(command)


def read_settings() -> Settings:
    """Return the settings of the environment; end with the status 2 if they can not be used."""
    from broker.app.settings import read_settings
    from broker.config.environment import Environment

    settings, problems = read_settings(Environment(os.environ))
    if problems:
        print("txbroker:", *problems, sep="\n  ", file=sys.stderr)
        raise SystemExit(WRONG)
    return settings


def node_option(command: F) -> F:
    """Let *command* take ``--node``, the name of another node, which the one that is asked asks."""
    text = "Of the node that is called so; by default the one that is asked."
    return click.option("--node", metavar="NAME", default="", help=text)(command)


def ask(admin: str | None, path: str, body: Any = None, **query: Any) -> Any:
    """Return what the admin API answers, or end with the status 1; the arguments are those of ``request``."""
    from broker.app.admin_client import AdminError

    try:
        return request(admin, path, body, **query)
    except AdminError as error:
        fail(str(error))


def request(admin: str | None, path: str, body: Any = None, **query: Any) -> Any:
    """Return what the admin API answers to *path*.

    Args:
        admin: its URL, or None for that of the settings.
        path: what is asked for, behind ``/admin/api/``.
        body: of an action; None: a list is asked for.
        query: its parameters; None and "" are left out.

    Raises:
        AdminError: there was no answer, or it says no.
    """
    from broker.app.admin_client import AdminClient
    from broker.app.ports import url_of_port

    settings = read_settings()
    client = AdminClient(admin or url_of_port(settings.admin_listen), settings.admin_secret)
    given = {name: value for name, value in query.items() if value not in (None, "")}
    if body is None:
        return client.get("/admin/api/" + path, given)
    return client.post("/admin/api/" + path, body, given)


def show(value: Any) -> None:
    """Print *value* as JSON."""
    write(json.dumps(value, ensure_ascii=False, indent=2))


def write(text: str) -> None:
    """Print *text*, which may have names that are no UTF-8."""
    print(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def fail(text: str, status: int = FAILED) -> NoReturn:
    """Print on standard error what went wrong, and end."""
    print(f"txbroker: {text.encode('utf-8', 'backslashreplace').decode('utf-8')}", file=sys.stderr)
    raise SystemExit(status)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print *rows* under the names of *columns*; numbers stand at the right."""
    cells = [[cell(name, row.get(name)) for name in columns] for row in rows]
    lines = [list(columns), *cells]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    right = [bool(rows) and all(_is_number(row.get(name)) for row in rows) for name in columns]
    for line in lines:
        padded = (
            text.rjust(width) if at_right else text.ljust(width)
            for text, width, at_right in zip(line, widths, right, strict=True)
        )
        write("  ".join(padded).rstrip())


def cell(name: str, value: Any, width: int = MAX_WIDTH) -> str:
    """Return *value* in one line of at most *width* characters, as tables show it."""
    if value is None or value == "":
        return "-"
    if name in ("time", "expires", "died", "moved", "started") and isinstance(value, (int, float)):
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else f"{value:.1f}"
    if isinstance(value, list):
        value = ", ".join(map(str, value)) or "-"
    text = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in str(value))
    return text if len(text) <= width else text[: width - 1] + "…"


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
