"""What a worker is told when it is started, in a variable of its environment."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import attrs

from broker.config.settings import Settings

VARIABLE = "TXBROKER_WORKER"  # not a setting: it is removed as soon as it was read
# Of what systemd tells the daemon, that is not for its workers: it hears from the supervisor alone.
SUPERVISOR_ALONE = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
LIMITS = (
    *("max_connections", "max_connections_per_address", "max_unadmitted", "max_unadmitted_per_address"),
    *("max_calls", "max_calls_per_client", "max_waiting_polls", "max_waiting_polls_per_client"),
    *("memory_limit_bytes", "memory_per_address_bytes", "auth_failures_per_minute"),
)


@attrs.frozen
class BoundPlace:
    """A socket that is bound.

    Attributes:
        host: as the endpoint names it; of a unix socket its path.
        port: as the endpoint names it; of a unix socket 0.
        descriptor: in the worker.
    """

    host: str
    port: int
    descriptor: int


@attrs.frozen
class WorkerPlan:
    """What one worker has to know.

    Attributes:
        number: of the worker, from 1.
        count: how many there are.
        supervisor: the id of the process that has started it.
        link: the descriptor of the socket that leads to that.
        counts: the descriptor of the numbers of connections.
        places: the sockets to listen on.
    """

    number: int
    count: int
    supervisor: int
    link: int
    counts: int
    places: tuple[BoundPlace, ...] = ()

    def text(self) -> str:
        """Return it as text."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def pop_from(cls, environ: MutableMapping[str, str]) -> WorkerPlan:
        """Remove it from *environ* and return it."""
        told = json.loads(environ.pop(VARIABLE))
        places = tuple(BoundPlace(**place) for place in told.pop("places"))
        return cls(**told, places=places)

    def sockets(self) -> list[tuple[tuple[str, int], socket.socket]]:
        """Return the sockets to listen on, each behind its place."""
        return [((place.host, place.port), socket.socket(fileno=place.descriptor)) for place in self.places]

    def settings(self, settings: Settings) -> Settings:
        """Return what of *settings*, which are those of the whole daemon, is this worker's."""
        shares: dict[str, Any] = {name: share(getattr(settings, name), self.count) for name in LIMITS}
        return attrs.evolve(settings, **shares, node=node_name(settings.node, self.number))


def share(limit: int, count: int) -> int:
    """Return what each of *count* may have of *limit*, of which 0 is none."""
    return -(-limit // count)


def node_name(node: str, number: int) -> str:
    """Return the name of a worker of the daemon *node*, as one of the nodes that share the store."""
    return f"{node}-{number}"


def inherited_sockets(environ: Mapping[str, str]) -> int:
    """Return how many sockets systemd has handed to this process, by sd_listen_fds(3).

    Twisted, which has read that when it was imported, has left their names alone.
    """
    names = environ.get("LISTEN_FDNAMES", "")
    return len(names.split(":")) if names and "LISTEN_PID" not in environ else 0


def worker_environ(
    environ: Mapping[str, str], node: str, plan: WorkerPlan, paths: Iterable[str], inherited: int = 0
) -> dict[str, str]:
    """Return the environment of a worker.

    Args:
        environ: that of the supervisor.
        node: the name of the daemon, which may be a random one.
        plan: for the worker.
        paths: where modules are looked for.
        inherited: how many sockets of systemd it is handed.
    """
    kept = {name: text for name, text in environ.items() if name not in SUPERVISOR_ALONE}
    if inherited:
        kept |= {"LISTEN_FDS": f"{inherited}", "LISTEN_PID": "0"}  # which the worker makes its own
    # The first is the directory of the script, or the one that ``python -m`` was started in.
    found = os.pathsep.join(str(Path(path).absolute()) for path in paths)
    return {**kept, "PYTHONPATH": found, "TXBROKER_NODE": node, VARIABLE: plan.text()}
