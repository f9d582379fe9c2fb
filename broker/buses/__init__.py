"""Buses, which carry events and names between nodes: ``local:`` or ``redis://``."""

from __future__ import annotations

from typing import Any

from broker.buses.local import LocalBus
from broker.config.addresses import is_redis
from broker.errors import Invalid
from broker.interfaces import IBus

__all__ = ["LocalBus", "open_bus"]


def open_bus(
    url: str, node: str, *, reactor: Any = None, prefix: str = "txbroker:", lease: float | None = None
) -> IBus:
    """Return the bus that *url* names, not yet started.

    Args:
        url: ``local:``, or that of a Redis (``broker.redis.address``).
        node: the name of this node.
        reactor: connects, and gives others their turn; only a bus between nodes needs it.
        prefix: what all keys and channels in Redis begin with.
        lease: seconds for which the names of a silent node are kept.

    Raises:
        Invalid: there is no such bus, or Redis support is not installed.
    """
    scheme = url.partition(":")[0]
    if url == "local:":
        return LocalBus(node, reactor)
    if is_redis(url):
        # Imported where it is chosen: a daemon pays for the bus it uses only.
        from broker.buses.redis import LEASE, RedisBus

        return RedisBus(url, node, prefix=prefix, reactor=reactor, lease=LEASE if lease is None else lease)
    raise Invalid("bus", message=f"no such bus: {scheme[:20]}: (there are local: and redis://)")
