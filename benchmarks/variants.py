"""The broker with what an operator may switch on, beside the plain one: ``python -m benchmarks --with guarded``.

* ``guarded``: permissions for each verb, a rate for each client, and a scrape of the metrics each second.
* ``asyncio``: Twisted's reactor on asyncio, whose loop reads and writes as any transport does.
"""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread
from urllib.request import urlopen

import attrs

from benchmarks.goals import GOALS, Goal
from benchmarks.servers import Broker, free_port

VERBS = ("publish", "subscribe", "call", "register", "request", "acknowledge", "send", "read", "act")
RULES = "".join(f'[anonymous.{verb}]\nallow = [">"]\ndeny = ["secret.>"]\n' for verb in VERBS)
RULES += '[anonymous.consume]\nallow = ["queue:*"]\ndeny = ["queue:secret"]\n'
RATE = "1000000"  # requests of a client in a second: each is counted, none refused
SCRAPED = 1.0  # seconds between two scrapes


class GuardedBroker(Broker):
    """Permissions, limits and metrics are in use."""

    name = "guarded"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.admin_port = free_port()
        self._stopping = Event()

    def start(self) -> None:
        rules = self.directory / "permissions.toml"
        rules.write_text(RULES, "utf-8")
        self.more = {
            "TXBROKER_PERMISSIONS_FILE": str(rules),
            "TXBROKER_RATE": RATE,
            "TXBROKER_RATE_BURST": RATE,
            "TXBROKER_ADMIN_LISTEN": f"tcp:{self.admin_port}:interface=127.0.0.1",
        }
        super().start()
        Thread(target=self._scrape, daemon=True).start()

    def _scrape(self) -> None:
        while not self._stopping.wait(SCRAPED):
            try:
                with urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=5) as answer:
                    answer.read()
            except OSError:
                continue  # it may be busy, or stop

    def stop(self) -> None:
        self._stopping.set()
        super().stop()


class AsyncioBroker(Broker):
    """The reactor is asyncio's."""

    name = "asyncio"

    def command(self) -> list[str]:
        twistd, *words = super().command()
        return [twistd, "--reactor=asyncio", *words]


VARIANTS: dict[str, tuple[type[Broker], float]] = {  # each with how many times what the plain broker takes it may take
    "guarded": (GuardedBroker, 1.15),
    "asyncio": (AsyncioBroker, 2.0),
}


def goals_with(variant: str) -> list[Goal]:
    """Return the goals for one of ``VARIANTS``, beside the plain broker."""
    server, limit = VARIANTS[variant]
    return [
        Goal(
            goal.name,
            f"{goal.text}, {variant}",
            attrs.evolve(goal.ours, server=server),
            goal.ours,
            limit,
            figure=goal.figure,
        )
        for goal in GOALS
        if goal.ours.server is Broker
    ]
