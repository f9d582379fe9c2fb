"""``txbroker``: the command line for operators, beside ``twistd broker``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import click

from broker import __version__
from broker.app.commands import bench, calls, doctor, importing, jobs, kv, live, maintenance, settings, tokens, topics
from broker.app.commands.console import FAILED, WRONG, Group, Usage, json_option, show, write
from broker.app.interrupts import INTERRUPTED

COMMANDS: tuple[click.Command, ...] = (
    settings.check,
    settings.config,
    live.status,
    *live.list_commands(),
    live.kick,
    live.drain,
    tokens.token,
    maintenance.backup,
    maintenance.restore,
    maintenance.compact,
    importing.import_ganomede,
    topics.publish,
    topics.tail,
    topics.read,
    calls.call,
    calls.serve_command,
    jobs.enqueue,
    jobs.work,
    jobs.dead,
    kv.kv,
    bench.bench,
    doctor.doctor,
)


class Root(Group):
    """Shows its commands in the order of ``COMMANDS``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return their names."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; SIGINT ends it without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None


@click.group("txbroker", cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="txbroker", message="%(prog)s %(version)s")
def txbroker() -> None:
    """Settings are the environment variables TXBROKER_….

    The status is 0, 1 when a command has failed, or 2 for wrong arguments or settings.
    """


@txbroker.command(cls=Usage)
@json_option
def version(as_json: bool) -> None:
    """Print the version."""
    if as_json:
        show({"name": "txbroker", "version": __version__})
    else:
        write(f"txbroker {__version__}")


for command in COMMANDS:
    txbroker.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that *arguments* name.

    Exits with the status 0, 1 when it has failed, or 2 for wrong arguments or settings.
    """
    _open_streams()
    try:
        try:
            _run(arguments)
        finally:
            sys.stdout.flush()
    except OSError as error:  # nobody reads what it prints, or the disk is full
        with suppress(OSError, ValueError):  # else the interpreter tries again when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"txbroker: {error}", file=sys.stderr)
        raise SystemExit(FAILED) from None


def _open_streams() -> None:
    """Have all standard streams: the number of one that is closed would be that of a connection or a file."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _run(arguments: Sequence[str] | None) -> None:
    try:
        txbroker.main(None if arguments is None else list(arguments), prog_name="txbroker", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        raise SystemExit(WRONG) from None
    except click.UsageError as error:
        if error.ctx is not None:
            print(error.ctx.get_usage(), file=sys.stderr)
        print(f"txbroker: {error.format_message()}", file=sys.stderr)
        raise SystemExit(WRONG) from None
    except click.Abort:
        raise SystemExit(1) from None
