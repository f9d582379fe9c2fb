"""Clients that are not admitted yet: few, for a short time, and the oldest make room for the newest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from broker.core.deadlines import Deadlines

TOTAL = "TXBROKER_MAX_UNADMITTED"
PER_ADDRESS = "TXBROKER_MAX_UNADMITTED_PER_ADDRESS"


class Unadmitted(Protocol):
    """A connection, or what stands for one, whose client has not been admitted when it came."""

    @property
    def admitted(self) -> bool:
        """Whether its client has been admitted meanwhile."""

    @property
    def evictable(self) -> bool:
        """Whether it may be dropped now to make room for its own address."""

    def evict(self) -> object:
        """Drop it."""

    def overdue(self, seconds: float) -> bool:
        """End it, since its client was not admitted for so long; return True to let it stay as long again."""


Clients = dict[Unadmitted, dict[Unadmitted, float] | None]  # of one address, each with its bucket of the deadlines


class UnadmittedClients:
    """The clients that are not admitted yet, in the order in which they came.

    When there are too many, the newest is not refused: who shows its credential at once
    gets in, whatever strangers do meanwhile.  The oldest of the address that has most is dropped,
    one that is ``evictable`` if there is one: only its own address is limited by those that are not.

    Attributes:
        evicted: how many were dropped to make room.

    Args:
        clock: the reactor, or a ``task.Clock``.
        total: how many there may be; 0: any number.
        per_address: how many of one address; 0: any number.  Those without (""), are not limited by it.
        deadline: seconds that a client has to be admitted; 0: any time.
    """

    def __init__(self, clock: IReactorTime, total: int = 0, per_address: int = 0, deadline: float = 0.0) -> None:
        self.evicted = 0
        self._limit = total
        self._per_address = per_address
        self._deadline = deadline
        self._deadlines: Deadlines[Unadmitted] = Deadlines(clock, self._expired)
        self._addresses: dict[Unadmitted, str] = {}
        self._clients: dict[str, Clients] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def objection(self, address: str) -> str:
        """Make room for one more of *address*; return the setting that does not allow it, or ""."""
        limit, total = self._per_address, self._limit
        own = self._clients.get(address, {}) if address else {}
        if 0 < limit <= len(own) and not self._drop([own], lambda: len(own) < limit):
            return PER_ADDRESS
        if 0 < total <= len(self) and not self._drop_any(lambda: len(self) < total):
            return TOTAL
        return ""

    def evict(self, address: str = "") -> bool:
        """Drop one of *address*, or of the one that has most; return False when none can be dropped."""
        wanted = self.evicted + 1
        if not address:
            return self._drop_any(lambda: self.evicted == wanted)
        return self._drop([self._clients.get(address, {})], lambda: self.evicted == wanted)

    def enter(self, client: Unadmitted, address: str) -> None:
        """Add *client*, for which ``objection`` had none."""
        self._addresses[client] = address
        self._clients.setdefault(address, {})[client] = self._due(client)

    def leave(self, client: Unadmitted) -> None:
        """Forget *client*: it is admitted, or has gone; idempotent."""
        address = self._addresses.pop(client, None)
        if address is not None:
            clients = self._clients[address]
            self._deadlines.drop(client, clients.pop(client))
            if not clients:
                del self._clients[address]

    def stop(self) -> None:
        """Enforce no deadline any more."""
        self._deadlines.stop()

    def _due(self, client: Unadmitted) -> dict[Unadmitted, float] | None:
        return self._deadlines.add(client, self._deadline) if self._deadline else None

    def _expired(self, client: Unadmitted) -> None:
        if client not in self._addresses:  # another that was due at the same time has ended it
            return
        if not client.admitted and client.overdue(self._deadline) and client in self._addresses:
            self._clients[self._addresses[client]][client] = self._due(client)
        else:
            self.leave(client)

    def _largest_first(self) -> list[Clients]:
        return sorted(self._clients.values(), key=len, reverse=True)

    def _drop_any(self, done: Callable[[], bool]) -> bool:
        """Drop clients of any address until it is *done*; return whether it is."""
        # A refusal that is held back, or an answer that is due, must not be a way to keep others out.
        return self._drop(self._largest_first(), done) or self._drop(self._largest_first(), done, spare=False)

    def _drop(self, groups: Iterable[Clients], done: Callable[[], bool], *, spare: bool = True) -> bool:
        """Drop the oldest of each group, one after the other, until it is *done*; return whether it is.

        *spare* those that are not evictable.
        """
        for clients in groups:
            while not done():
                client = next((each for each in clients if not spare or each.admitted or each.evictable), None)
                if client is None:
                    break
                # That it was admitted is noticed here, so that nobody has to tell.
                admitted = client.admitted
                self.leave(client)
                if not admitted:
                    self.evicted += 1
                    client.evict()
        return done()
