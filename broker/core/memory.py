"""What clients make the daemon hold, counted by classes of holders, each with a bound.

A client that does not read, or does not end what it has begun, makes the daemon keep
bytes for it.  Who keeps them counts them here, where it keeps more than a little.
When a bound is crossed, those who hold the most lose their connections, until there is room again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from twisted.logger import Logger

log = Logger()

HIGH = 0.8  # of the limit: above, nobody may publish
UNADMITTED_BYTES = 16 << 20  # that clients may make the daemon hold before they are admitted
SHED_TO = 0.75  # of a bound that was crossed: so each search for the largest holders is worth its price
SPARED = 65536  # bytes of a send queue that count for no share: many who are sent the same keep it once only
PARTS = {"send_queue": 1, "upload": 2, "held": 2}  # a class may have the limit divided by this


class Holder(Protocol):
    """Somebody for whom bytes are kept."""

    @property
    def address(self) -> str:
        """Where the client comes from; "" for a unix socket: then it has no share of its own."""

    def shed(self) -> None:
        """Let go of all that is kept, and end the connection."""


class Account:
    """The bytes of one class of holders.

    Args:
        memory: what it is a part of.
        name: of the class.
        limit: bytes of all holders; 0: any number.
        share: bytes of the holders of one address; 0: any number.
        spared: bytes up to which a holder counts for no share.

    Attributes:
        used: the bytes that are held now.
    """

    def __init__(self, memory: Memory, name: str, limit: int = 0, share: int = 0, spared: int = 0) -> None:
        self.name = name
        self.limit, self.share, self.spared = limit, share, spared
        self.used = 0
        self._memory = memory
        self._sizes: dict[Holder, int] = {}
        self._addresses: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._sizes)

    def of(self, holder: Holder) -> int:
        """Return how many bytes *holder* holds."""
        return self._sizes.get(holder, 0)

    def of_address(self, address: str) -> int:
        """Return how many bytes of its share the holders of *address* hold."""
        return self._addresses.get(address, 0)

    def hold(self, holder: Holder, size: int) -> None:
        """Note that *holder* holds *size* bytes now; 0: nothing.  It may be shed at once."""
        before = self._sizes.get(holder, 0)
        more = size - before
        if not more:
            return
        address, spared = self._memory.network(holder.address), self.spared
        if size:
            self._sizes[holder] = size
        else:
            del self._sizes[holder]
        self.used += more
        self._memory.change(more)
        if address:
            now = self._addresses.get(address, 0)
            now += (size if size > spared else 0) - (before if before > spared else 0)
            if now:
                self._addresses[address] = now
            else:
                self._addresses.pop(address, None)
        if more > 0:
            self._enforce(address)

    def items(self, address: str = "") -> list[tuple[int, Account, Holder]]:
        """Return the holders, those of *address* alone if there is one, with their bytes."""
        network = self._memory.network
        return [
            (size, self, holder)
            for holder, size in self._sizes.items()
            if not address or network(holder.address) == address
        ]

    def _enforce(self, address: str) -> None:
        share, limit = self.share, self.limit
        if address and 0 < share < self._addresses.get(address, 0):
            self._memory.shed(self.items(address), lambda: self._addresses.get(address, 0), share, self.name)
        if 0 < limit < self.used:
            self._memory.shed(self.items(), lambda: self.used, limit, self.name)
        self._memory.enforce()


class UnadmittedBytes:
    """What clients that are not admitted have sent of requests and messages that are not complete.

    It is counted elsewhere, too; here it has a small bound of its own.  When that is crossed, the
    oldest of the address that holds most is shed: they are those that will never be complete.

    Args:
        limit: bytes of all of them.
        network: as for ``Memory``.

    Attributes:
        used: the bytes that are held now.
    """

    def __init__(self, limit: int = UNADMITTED_BYTES, network: Callable[[str], str] = str) -> None:
        self.used = 0
        self._network = network
        self._limit = limit
        self._sizes: dict[Holder, int] = {}
        self._addresses: Counter[str] = Counter()

    def hold(self, holder: Holder, size: int) -> None:
        """Note that *holder* holds *size* bytes now; 0: nothing, or it is admitted.  It may be shed at once."""
        more = size - self._sizes.get(holder, 0)
        if not more:
            return
        if size:
            self._sizes[holder] = size
        else:
            del self._sizes[holder]
        self.used += more
        address = self._network(holder.address)
        self._addresses[address] += more
        if not self._addresses[address]:
            del self._addresses[address]
        if more > 0:
            while self.used > self._limit:
                self._shed_one()

    def _shed_one(self) -> None:
        address = max(self._addresses, key=self._addresses.__getitem__)
        oldest = next(holder for holder in self._sizes if self._network(holder.address) == address)
        oldest.shed()
        self.hold(oldest, 0)


class Memory:
    """The accounts of all classes, and the limit of them together.

    Args:
        limit: bytes; 0: any number.
        share: bytes of one class for the clients of one address; 0: any number.
        on_shed: called for each holder that was shed.
        network: returns what stands for one client of all the addresses that it may have.

    Attributes:
        used: the bytes that are held now.
        crowded: whether that is so much that nobody may publish.
        freed: bytes that are held no more, since ``trimmed`` was called last.
        send_queue: what waits for clients that do not read it.
        upload: requests and messages that have come in part, or are being answered.
        held: what sessions keep for later.
        unadmitted: what of the uploads is of clients that are not admitted.
    """

    def __init__(
        self,
        limit: int = 0,
        share: int = 0,
        on_shed: Callable[[], object] = lambda: None,
        network: Callable[[str], str] = str,
    ) -> None:
        self.limit = limit
        self.network = network
        self.used = 0
        self.freed = 0
        self.crowded = False
        self._high = int(limit * HIGH)
        self._on_shed = on_shed
        self.accounts = {name: Account(self, name, limit // part, share) for name, part in PARTS.items()}
        self.send_queue, self.upload, self.held = (self.accounts[name] for name in PARTS)
        self.send_queue.spared = SPARED
        self.unadmitted = UnadmittedBytes(network=network)

    @property
    def reason(self) -> str:
        """Why the daemon can not do its work now; "" when it can."""
        return "memory: publishing is refused, see TXBROKER_MEMORY_LIMIT_BYTES" if self.crowded else ""

    def change(self, more: int) -> None:
        """Count *more* bytes, or fewer when it is negative."""
        self.used += more
        if more < 0:
            self.freed -= more
        if self.limit and (self.used > self._high) is not self.crowded:
            self.crowded = not self.crowded
            if self.crowded:
                log.warn(
                    "clients make the daemon hold {used} bytes, TXBROKER_MEMORY_LIMIT_BYTES is {limit}: "
                    "publishing is refused",
                    used=self.used,
                    limit=self.limit,
                )
            else:
                log.info("publishing is allowed again: {used} bytes are held", used=self.used)

    def enforce(self) -> None:
        """Shed the largest holders if there is more than the limit."""
        if 0 < self.limit < self.used:
            everybody = [item for account in self.accounts.values() for item in account.items()]
            self.shed(everybody, lambda: self.used, self.limit, "all")

    def shed(
        self, items: Iterable[tuple[int, Account, Holder]], used: Callable[[], int], limit: int, what: str
    ) -> None:
        """Shed of *items* the largest, until *used* returns well below *limit*."""
        before, count = used(), 0
        # Of two that are as large, the one that has been there for longer.
        for _, account, holder in sorted(items, key=lambda item: -item[0]):
            if used() <= limit * SHED_TO:
                break
            if not account.of(holder):  # it has gone with one before it
                continue
            count += 1
            try:
                holder.shed()
            except Exception:
                log.failure("a connection could not be ended")
                account.hold(holder, 0)
            self._on_shed()
        log.warn(
            "{before} bytes were held ({what}), of which {limit} may be: {count} connections were closed; "
            "see TXBROKER_MEMORY_LIMIT_BYTES and TXBROKER_MEMORY_PER_ADDRESS_BYTES",
            before=before,
            what=what,
            limit=limit,
            count=count,
        )
