"""How many clients there are, and whether one more may come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import attrs


@attrs.frozen
class Admission:
    """Who may connect.

    Attributes:
        connections: how many at once; 0: any number.
        per_address: how many of them from one address; 0: any number.
        origins: of the web pages that may open WebSockets; see ``Origins``.
    """

    connections: int = 10000
    per_address: int = 0
    origins: tuple[str, ...] = ()


class ConnectionCounter:
    """Counts the connections, in all and by address.

    Args:
        admission: how many there may be.
        emptied: called whenever the last one has left.
    """

    def __init__(self, admission: Admission, emptied: Callable[[], object]) -> None:
        self._admission = admission
        self._emptied = emptied
        self._addresses: Counter[str] = Counter()
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def objection(self, address: str) -> str:
        """Return the setting that keeps one more client of *address* out, or ""."""
        admission = self._admission
        if admission.connections and self._total >= admission.connections:
            return "TXBROKER_MAX_CONNECTIONS"
        # Clients of a unix socket have no address to tell them apart by.
        if admission.per_address and address and self._addresses[address] >= admission.per_address:
            return "TXBROKER_MAX_CONNECTIONS_PER_ADDRESS"
        return ""

    def enter(self, address: str) -> None:
        """Count a client that came."""
        self._total += 1
        self._addresses[address] += 1

    def leave(self, address: str) -> None:
        """Count a client that went."""
        self._total -= 1
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]
        if not self._total:
            self._emptied()
