"""``txbroker doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.app.commands.console import FAILED, Usage, json_option
from broker.app.commands.durations import Duration
from broker.app.commands.options import client_options

if TYPE_CHECKING:
    from broker.app.client.target import Target

DIALECTS = ("owlmeans", "ganomede", "thinws", "hpkv", "microstream", "http")


@click.command(cls=Usage)
@click.option("--origin", default="", metavar="URL", help="Ask as a web page of that origin, https://app.example.")
@click.option(
    "--dialect", "dialects", multiple=True, type=click.Choice(DIALECTS), help="Try this one; may be repeated."
)
@click.option("--idle", type=Duration(), metavar="TIME", help="See whether a silent connection stays for so long.")
@client_options(5.0)
@json_option
def doctor(target: Target, origin: str, dialects: tuple[str, ...], idle: float | None, as_json: bool) -> None:
    """Say what keeps clients from a broker, and what to change.

    Connects as a client of each dialect would, with the credential, and says for each step what is wrong and which
    setting, of the broker, of the proxy before it or of the client, is to be changed.  --timeout is for each step.
    The status is 1 if anything is wrong.
    """
    from broker.app.client.doctor import examine
    from broker.app.client.reaching import Reach

    reach = Reach(target, target.timeout or 5.0, origin.rstrip("/"))
    if not examine(reach, dialects, idle or 0.0, as_json=as_json):
        raise SystemExit(FAILED)
