"""What one client has of that which all have together, however many connections it makes."""

from __future__ import annotations

import sys
from weakref import WeakValueDictionary

from broker.core.semaphore import Semaphore
from broker.core.slices import Slices

READS_AT_ONCE = 8  # of what may be long, as pages of events: each may hold some that are as large as a message
READS_OF_ALL = 16  # of all clients together
MAX_READS = 5000  # that wait
MAX_LISTINGS = 100  # that wait


class Share:
    """What one principal, or the nameless clients of one address, have at present.

    Attributes:
        calls: that wait for an answer.
        polls: that wait.
        listing: of looking through all names: each look keeps all of them.
        reading: of reading what may be long: a range of keys, stored events, dead letters.
    """

    __slots__ = ("__weakref__", "calls", "listing", "polls", "reading")

    def __init__(self, slices: Slices | None = None) -> None:
        self.calls = 0
        self.polls = 0
        self.listing = Semaphore(1, MAX_LISTINGS, "procedures")
        self.reading = Semaphore(READS_AT_ONCE, MAX_READS, "ranges", slices)


class Shares:
    """The share of each client that has something; it ends with the last who holds it.

    Args:
        slices: those in which reads begin that have waited.

    Attributes:
        reading: what all clients together may read at once of events and jobs; ``Keys.reading`` is that of keys.
    """

    def __init__(self, slices: Slices | None = None) -> None:
        self._slices = slices
        self.reading = Semaphore(READS_OF_ALL, sys.maxsize, "reads", slices)
        self._shares: WeakValueDictionary[str, Share] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._shares)

    def of(self, client: str) -> Share:
        """Return the share of *client*, new when nobody holds it."""
        share = self._shares.get(client)
        if share is None:
            share = self._shares[client] = Share(self._slices)
        return share
