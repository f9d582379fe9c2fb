"""The options that the commands for application developers share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import wraps
from itertools import takewhile
from typing import Any

import click

from broker.app.commands.console import WRONG, F, Usage, fail
from broker.app.commands.durations import Duration
from broker.errors import Invalid

OPTION = re.compile(r"-[^\d.]")  # what looks like one


class WithNumbers(Usage):
    """A command among whose arguments negative numbers may be, which are no options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse *args*.

        Raises:
            click.NoSuchOption: one of them looks like an option, but is none.
        """
        ctx.ignore_unknown_options = True
        options = {name: each for each in self.get_params(ctx) for name in each.opts if name.startswith("-")}
        awaited = False  # whether the next word is the value of an option
        for word in takewhile(lambda word: word != "--", args):
            name, equals, _ = word.partition("=")
            found = options.get(name)
            if found is None and not awaited and OPTION.match(word):
                raise click.NoSuchOption(name, ctx=ctx)
            awaited = not (awaited or equals) and isinstance(found, click.Option) and not found.is_flag
        return super().parse_args(ctx, args)


def client_options(timeout: float | None = 10.0) -> Callable[[F], F]:
    """Return what lets a command say which broker it speaks to; it gets a ``Target`` as its first argument.

    Args:
        timeout: seconds that it may take if ``--timeout`` says nothing else; None: it has no such option.
    """

    def decorate(command: F) -> F:
        @wraps(command)
        def run(url: str, credential_file: str, ca_file: str, client: str, **others: Any) -> Any:
            from broker.app.client.target import find_target

            own = {"ca_file": ca_file, "client": client}
            if timeout is not None:
                own["timeout"] = others.pop("timeout")
            try:
                return command(find_target(os.environ, url, credential_file, **own), **others)
            except Invalid as error:
                fail(error.message, WRONG)

        return _with_options(run, timeout)  # type: ignore[return-value]  # it is one of the same kind

    return decorate


def _with_options(run: Callable[..., Any], timeout: float | None) -> Callable[..., Any]:
    texts = {
        "url": ("URL", "Of the broker; by default TXBROKER_URL, or that of this machine."),
        "credential-file": (
            "FILE",
            "With the secret, key or token; by default TXBROKER_CREDENTIAL or TXBROKER_CREDENTIAL_FILE.",
        ),
        "ca-file": ("FILE", "With the certificates to trust; by default TXBROKER_CA_FILE, or those of the system."),
        "client": ("NAME", "The client id to have; by default none of your own."),
    }
    if timeout is not None:
        text = f"How long it may take, such as 90s or 5m; {timeout:g}s."
        run = click.option("--timeout", type=Duration(), metavar="TIME", default=timeout, help=text)(run)
    for name, (metavar, text) in reversed(texts.items()):
        run = click.option(f"--{name}", metavar=metavar, default="", help=text)(run)
    return run
