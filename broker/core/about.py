"""What the daemon is, for people and tools that ask.

Clients are not told what the machine is called, nor where its store is: ``details`` is for operators.
"""

from __future__ import annotations

from typing import Any, cast

import attrs

from broker import __version__
from broker.interfaces import IBus, ISharedBus, ISharedStore, IStore


@attrs.define(eq=False)
class About:
    """Returns, when called, the daemon's name, version, kind of store and more, for everybody.

    Attributes:
        started: when, in seconds since the epoch.
        facts: what others add.
        private: what others add for operators; without secrets.
    """

    _store: IStore
    _bus: IBus
    started: float
    facts: dict[str, Any] = attrs.field(factory=dict)
    private: dict[str, Any] = attrs.field(factory=dict)

    def __call__(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "name": "txbroker",
            "version": __version__,
            "started": self.started,
            "store": self._store.description.split()[0].rstrip(";"),
            "epoch": self._store.epoch,
            **self.facts,
        }

    def details(self) -> dict[str, Any]:
        """Return it with the names of the node and the machine and the whole description of the store; no secrets.

        "nodes" are those that share the store and have a lease, by this node's knowledge.
        "warnings" is what an operator should change at a store that nodes share, if there is anything, and why
        the store or the bus can not be used now.
        """
        lasting = cast(ISharedStore, self._store).warnings if self._store.shared else ()
        present = filter(None, (self._store.ready, self._bus.ready))
        warnings = list(dict.fromkeys((*lasting, *present)))  # both may have the same
        return {
            **self(),
            "node": self._bus.node,
            "store": self._store.description,
            **({"nodes": cast(ISharedBus, self._bus).nodes} if self._bus.shared else {}),
            **({"warnings": warnings} if warnings else {}),
            **self.private,
        }
