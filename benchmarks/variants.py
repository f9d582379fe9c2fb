"""The broker with what an operator may switch on, beside the plain one: ``python -m benchmarks --with guarded``.

* ``guarded``: permissions for each verb, a rate for each client, and a scrape of the metrics each second.
* ``asyncio``: Twisted's reactor on asyncio, whose loop reads and writes as any transport does.
* ``tls``: a certificate.  The load speaks no TLS: HAProxy does it on the load's core.  The plain broker is
  behind HAProxy, too, so that both read the same.
"""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread
from urllib.request import urlopen

import attrs

from benchmarks.goals import GOALS, Goal
from benchmarks.servers import LOAD_CORE, Broker, Missing, Server, free_port, program

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


class Haproxy(Server):
    """Accepts on a port of its own, and passes everything on to a broker."""

    name = "haproxy"
    core = LOAD_CORE

    def __init__(self, directory: Path, target: str) -> None:
        super().__init__(directory)
        self._target = target  # an address and its options, as HAProxy writes them

    def command(self) -> list[str]:
        file = self.directory / "haproxy.cfg"
        file.write_text(
            "defaults\n    mode tcp\n    maxconn 20000\n"
            "    timeout connect 10s\n    timeout client 10m\n    timeout server 10m\n"
            f"listen broker\n    bind 127.0.0.1:{self.port}\n    server broker {self._target}\n",
            "utf-8",
        )
        return [program("haproxy"), "-db", "-f", str(file)]


class ProxiedBroker(Broker):
    """Behind HAProxy, whose CPU time does not count."""

    name = "plain, proxied"
    speaks = ""  # to the broker; an option of HAProxy

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.proxy = Haproxy(self.directory, f"127.0.0.1:{self.port} {self.speaks}")

    def start(self) -> None:
        super().start()
        self.proxy.start()
        self.port = self.proxy.port

    def stop(self) -> None:
        self.proxy.stop()
        super().stop()


class TlsBroker(ProxiedBroker):
    """All that comes and goes is encrypted."""

    name = "tls"
    speaks = "ssl verify none"

    def start(self) -> None:
        try:
            from trustme import CA
        except ImportError:
            raise Missing("a certificate is made by trustme: pip install '.[test]'") from None
        file = self.directory / "certificate.pem"
        CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(file))
        self.more = {"TXBROKER_TLS_CERTIFICATE_FILE": str(file)}
        super().start()


@attrs.frozen
class Variant:
    """A broker beside another.

    Attributes:
        server: what is measured.
        limit: how many times what *beside* takes it may take.
        beside: the plain broker.
    """

    server: type[Broker]
    limit: float
    beside: type[Broker] = Broker


VARIANTS = {
    "guarded": Variant(GuardedBroker, 1.15),
    "asyncio": Variant(AsyncioBroker, 2.0),
    "tls": Variant(TlsBroker, 3.0, ProxiedBroker),
}


def goals_with(variant: str) -> list[Goal]:
    """Return the goals for one of ``VARIANTS``, beside the plain broker."""
    measured = VARIANTS[variant]
    return [
        Goal(
            goal.name,
            f"{goal.text}, {variant}",
            attrs.evolve(goal.ours, server=measured.server),
            attrs.evolve(goal.ours, server=measured.beside),
            measured.limit,
            figure=goal.figure,
        )
        for goal in GOALS
        if goal.ours.server is Broker
    ]
