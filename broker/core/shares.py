"""What one client has of that which all have together, however many connections it makes."""

from __future__ import annotations

from weakref import WeakValueDictionary

from broker.core.semaphore import Semaphore

READS_AT_ONCE = 8  # of ranges of keys and pages of events: each may hold some that are as large as a message
MAX_READS = 5000  # that wait
MAX_LISTINGS = 100  # that wait


class Share:
    """What one principal, or the nameless clients of one address, have at present.

    Attributes:
        calls: that wait for an answer.
        polls: that wait.
        listing: of looking through all names: each look keeps all of them.
        reading: of reading a range of keys, or stored events.
    """

    __slots__ = ("__weakref__", "calls", "listing", "polls", "reading")

    def __init__(self) -> None:
        self.calls = 0
        self.polls = 0
        self.listing = Semaphore(1, MAX_LISTINGS, "procedures")
        self.reading = Semaphore(READS_AT_ONCE, MAX_READS, "ranges")


class Shares:
    """The share of each client that has something; it ends with the last who holds it."""

    def __init__(self) -> None:
        self._shares: WeakValueDictionary[str, Share] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._shares)

    def of(self, client: str) -> Share:
        """Return the share of *client*, new when nobody holds it."""
        share = self._shares.get(client)
        if share is None:
            share = self._shares[client] = Share()
        return share
