"""Limits of connections, in all and by address, and of the refusals that are held back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import attrs

from broker.access.addresses import TrustedProxies
from broker.access.limits import network_of

TOTAL = "TXBROKER_MAX_CONNECTIONS"
PER_ADDRESS = "TXBROKER_MAX_CONNECTIONS_PER_ADDRESS"


@attrs.frozen
class Admission:
    """Who may connect.

    Attributes:
        connections: how many at once; 0: any number.
        per_address: how many of them from one address; 0: any number.
        unadmitted: how many of them may be of clients that are not admitted yet; 0: any number.
        unadmitted_per_address: how many of those from one address; 0: any number.
        deadline: seconds that a client has to be admitted; 0: any time.
        proxies: that are believed when they say whom they speak for.
    """

    connections: int = 10000
    per_address: int = 0
    unadmitted: int = 0
    unadmitted_per_address: int = 0
    deadline: float = 0.0
    proxies: TrustedProxies = attrs.field(factory=TrustedProxies)

    @classmethod
    def of(cls, settings: Any, proxies: TrustedProxies) -> Admission:
        """Return what *settings* say of each port, with *proxies*."""
        return cls(
            settings.max_connections,
            settings.max_connections_per_address,
            settings.max_unadmitted,
            settings.max_unadmitted_per_address,
            settings.auth_deadline_seconds,
            proxies,
        )


class ConnectionCounter:
    """Counts connections, or what stands for one, in all and by address.

    Args:
        total: how many there may be at once; 0: any number.
        per_address: how many of them from one address, or from one /64 of IPv6; 0: any number.
            Clients of a unix socket have no address (""), and are not limited by it.
        emptied: called whenever the last one has left.
        exempt: says which addresses are not limited either.
    """

    def __init__(
        self,
        total: int = 0,
        per_address: int = 0,
        emptied: Callable[[], object] = lambda: None,
        exempt: Callable[[str], bool] = lambda address: False,
    ) -> None:
        self._limit = total
        self._per_address = per_address
        self._emptied = emptied
        self._exempt = exempt
        self._addresses: Counter[str] = Counter()
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def objection(self, address: str) -> str:
        """Return the setting that keeps one more client of *address* out, or ""."""
        if self._limit and self._total >= self._limit:
            return TOTAL
        return PER_ADDRESS if self.has_most(address) else ""

    def has_most(self, address: str) -> bool:
        """Whether there are as many clients of *address* as there may be."""
        limit = self._per_address
        return 0 < limit <= self._addresses[network_of(address)] and address != "" and not self._exempt(address)

    def enter(self, address: str) -> None:
        """Count a client that came."""
        self._total += 1
        self._addresses[network_of(address)] += 1

    def leave(self, address: str) -> None:
        """Count a client that went."""
        network = network_of(address)
        self._total -= 1
        self._addresses[network] -= 1
        if not self._addresses[network]:
            del self._addresses[network]
        if not self._total:
            self._emptied()


class HeldRefusals:
    """Refusals that are held back, since some clients come again the moment they are refused.

    Each costs a connection for as long as it is held: there is a bound, beyond
    which whoever would hold one does something cheaper.

    Args:
        total: how many may be held at once.
        per_address: how many of them for one address; 0: any number.
    """

    def __init__(self, total: int, per_address: int = 0) -> None:
        self._counter = ConnectionCounter(total, per_address)

    def __len__(self) -> int:
        return len(self._counter)

    async def hold(self, address: str, wait: Callable[[], Awaitable[object]]) -> bool:
        """Wait for what *wait* returns; return False at once when too many are held.

        It may be cancelled, and then holds nothing any more.
        """
        if not self.enter(address):
            return False
        try:
            await wait()
        finally:
            self.leave(address)
        return True

    def enter(self, address: str) -> bool:
        """Count one that is held until ``leave``; return False when too many are."""
        if self._counter.objection(address):
            return False
        self._counter.enter(address)
        return True

    def leave(self, address: str) -> None:
        """Count one less."""
        self._counter.leave(address)
