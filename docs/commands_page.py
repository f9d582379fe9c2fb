"""Writes the reference of ``txbroker`` from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from broker.app.command import txbroker


def commands(group: click.Group = txbroker, prefix: str = "txbroker") -> Iterator[tuple[str, click.Command]]:
    """Yield each command with the words by which it is given."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def page() -> str:
    """Return all commands as reStructuredText."""
    lines: list[str] = []
    for words, command in commands():
        context = click.Context(command, info_name=words)
        usage = " ".join(command.collect_usage_pieces(context))
        lines += [words, "~" * len(words), "", "::", "", f"    {words} {usage}", ""]
        lines += [*inspect.cleandoc(command.help or "").replace("TXBROKER_….", "").splitlines(), ""]
        for parameter in command.params:
            record = parameter.get_help_record(context)
            if record is not None and record[1]:
                lines += [f"``{record[0]}``", f"   {record[1]}", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")
