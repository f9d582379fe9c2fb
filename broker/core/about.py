"""What the daemon is, for people and tools that ask."""

from __future__ import annotations

from typing import Any

import attrs

from broker import __version__
from broker.interfaces import IBus, IStore


@attrs.define(eq=False)
class About:
    """Returns, when called, the daemon's name, version, node, store and more; no secrets.

    Attributes:
        started: when, in seconds since the epoch.
        facts: what others add.
    """

    _store: IStore
    _bus: IBus
    started: float
    facts: dict[str, Any] = attrs.field(factory=dict)

    def __call__(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "name": "txbroker",
            "version": __version__,
            "node": self._bus.node,
            "started": self.started,
            "store": self._store.description,
            "epoch": self._store.epoch,
            **self.facts,
        }
