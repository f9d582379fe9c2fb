"""How events travel between nodes; one module for each way."""

from __future__ import annotations

from broker.buses.local import LocalBus
from broker.errors import Invalid
from broker.interfaces import IBus

__all__ = ["LocalBus", "open_bus"]


def open_bus(url: str, node: str) -> IBus:
    """Return the bus that *url* names, not yet started.

    Raises:
        Invalid: there is no such bus.
    """
    if url.partition(":")[0] == "local":
        return LocalBus(node)
    raise Invalid("bus", message=f"no such bus: {url.partition(':')[0]}: (there is local:)")
