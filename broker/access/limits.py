"""Rate limits: token buckets that say how often a client may ask."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

from twisted.internet.interfaces import IReactorTime

from broker.remembered import remembered


class Bucket:
    """A token bucket: *rate* a second, at most *burst* at once."""

    __slots__ = ("_burst", "_clock", "_level", "_rate", "_when")

    def __init__(self, clock: IReactorTime, rate: float, burst: float) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = self._level = max(burst, 1.0)
        self._when = clock.seconds()

    def take_token(self) -> bool:
        """Take one token if there is one."""
        now = self._clock.seconds()
        self._level = min(self._burst, self._level + (now - self._when) * self._rate)
        self._when = now
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True

    def wait(self) -> float:
        """Return the seconds until the next token is there; 0: one is."""
        passed = self._clock.seconds() - self._when
        return max(0.0, (1.0 - self._level) / self._rate - passed)

    def spend(self, tokens: int) -> None:
        """Take as many of *tokens* as there are."""
        self.take_token()
        self._level = max(0.0, self._level - (tokens - 1))


class Buckets:
    """A bucket for each key that was seen lately; at most *size* of them.

    Attributes:
        limited: whether there is a rate at all.
    """

    def __init__(self, clock: IReactorTime, rate: float, burst: float, size: int = 10000) -> None:
        self._clock = clock
        self._rate, self._burst, self._size = rate, burst or rate, size
        self.limited = rate > 0
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def of(self, key: str) -> Bucket | None:
        """Return the bucket of *key*, or None where nothing is limited."""
        if not self.limited:
            return None
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self._clock, self._rate, self._burst)
            if len(self._buckets) > self._size:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket


@remembered(4096)
def network_of(address: str) -> str:
    """Return what stands for one client of all the addresses that it may have.

    That is the /64 of an IPv6 address, of which the client chooses the other half itself (RFC 4291, 2.5.1),
    and the IPv4 address of a mapped one; any other text, such as the path of a unix socket, is itself.
    """
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return f"{IPv6Address(int(found) >> 64 << 64)}/64"
    return str(found)
