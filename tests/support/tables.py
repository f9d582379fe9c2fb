"""What a broker holds of its clients: the tables of its parts, and those that have something in them.

Run as a program it is ``twistd broker`` that tells, each time it gets SIGUSR2, which of its tables are not
empty: one line, ``left`` and a JSON array of texts.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs

from broker.core.registry import Registry
from broker.core.service import Broker
from broker.interfaces import IStore
from broker.web.site import Site

SIGN = "left "  # what the line begins with
# What the broker remembers of those who were there, up to a limit that it keeps itself.
REMEMBERED = {"_heads", "_moves", "_opened", "_buckets"}
COUNTS = {"waiting", "pending", "_patterns", "_total"}
SETTLED = {  # which never are empty
    *("Server.websocket_paths", "MicroStream.websocket_paths", "Memory.accounts"),
    *("Daemon.services", "Daemon._ports", "About.facts", "About.private"),
}


def tables(part: Any) -> Iterator[tuple[str, int]]:
    """Yield the names of the tables of *part*, and how much is in each."""
    names = [field.name for field in attrs.fields(type(part))] if attrs.has(type(part)) else vars(part)
    for name in names:
        value = getattr(part, name)
        if isinstance(value, (dict, set, list, Counter, Registry)) and name not in REMEMBERED:
            yield f"{type(part).__name__}.{name}", len(value)
        elif isinstance(value, (int, float)) and name in COUNTS:
            yield f"{type(part).__name__}.{name}", int(value)


@attrs.define(eq=False)
class Everything:
    """A daemon of this process, so that its tables can be looked into."""

    broker: Broker
    site: Any

    def left(self) -> list[str]:
        """Return the tables that have something in them."""
        broker, site = self.broker, self.site
        parts = [part for part in vars(broker).values() if type(part).__module__.startswith("broker.")]
        parts = [
            part for part in parts if not IStore.providedBy(part) and part not in (broker.settings, broker.metrics)
        ]
        parts += [site._counter, site._unadmitted, site._upgrader, broker.calls._deadlines, broker.channels._deadlines]
        parts += [*broker.memory.accounts.values(), broker.memory.unadmitted]
        for dialect in site.routes.dialects:
            if dialect.name == "microstream":
                parts += [dialect, dialect._counter, dialect._unadmitted]
        found = dict(table for part in parts for table in tables(part))
        found |= {
            "Site.deadlines": len(site.deadlines),
            "Site._channels": len(site._channels),
            "Site._late": len(site._late),
        }
        found |= {f"connections of {name}": count for name, count in broker.metrics.connections.items()}
        return [f"{name}: {count}" for name, count in found.items() if count and name not in SETTLED]


def remember(kind: type, made: dict[type, Any]) -> None:
    """Note in *made* what is made of *kind* from now on: the garbage collector does not know what was frozen."""
    init = kind.__init__  # type: ignore[misc]

    def noted(self: Any, *arguments: Any, **named: Any) -> None:
        made[kind] = self
        init(self, *arguments, **named)

    setattr(kind, "__init__", noted)  # noqa: B010 # mypy knows that one assigns to no method


def report(made: dict[type, Any]) -> None:
    """Print what is left in the broker of this process."""
    left = Everything(made[Broker], made[Site]).left()
    os.write(1, f"{SIGN}{json.dumps(left)}\n".encode())  # what is printed would become a log line


def main() -> None:
    """Run the daemon as ``twistd -n`` does."""
    from twisted.internet import reactor
    from twisted.scripts import twistd

    later: Any = reactor
    made: dict[type, Any] = {}
    for kind in (Broker, Site):
        remember(kind, made)
    signal.signal(signal.SIGUSR2, lambda *_: later.callFromThread(report, made))
    sys.argv[:1] = ["twistd", "-n", "--pidfile="]
    twistd.run()


if __name__ == "__main__":
    main()
