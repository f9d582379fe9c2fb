"""The lease of a node, and those of the others, as the answers to its renewals say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import attrs
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from broker.core.bounded import BoundedDict
from broker.core.clocks import monotonic_time_of

log = Logger()

MARGIN = 0.02  # of the lease: this node takes it for ended sooner than Redis does
NAMESAKE_LEASES = 2  # so many times its length a node that was killed and started again may seem to be there twice
MAX_ENDED = 1000  # leases of others that are known to have ended


@attrs.frozen
class Other:
    """Another node that has a lease.

    Attributes:
        number: of its lease.
        generation: how often it has begun to listen; "" while that is not known.
        seen: when it was known to have it.
    """

    number: int
    generation: str
    seen: float


class Lease:
    """Whether this node has a lease, and which other nodes have one.

    It lasts from the sending of a renewal that was answered, by a clock that can not be set.

    Args:
        address: of this node.
        seconds: its length.
        reactor: calls when it ends, and tells the time where it is a ``task.Clock``.
        lapsed: called when it has ended.
        leased: called when there is a new one, or when all names are to be claimed again.
        departed: called with the address of a node whose lease has ended, or that may have missed messages.

    Attributes:
        last: the highest number that this node has had.
        names: of the nodes that have one.
        confirmed: when the renewal was sent that was answered last, by ``now``; None: none was.
        unbroken_since: the number of the first of its leases since which it has always had one.
    """

    def __init__(
        self,
        address: str,
        seconds: float,
        reactor: Any,
        *,
        lapsed: Callable[[], object],
        leased: Callable[[], object],
        departed: Callable[[str], object],
    ) -> None:
        self.seconds = seconds
        self.last = 0
        self.unbroken_since = 0
        self.confirmed: float | None = None
        self._address, self._reactor = address, reactor
        self._lapsed, self._leased, self._departed = lapsed, leased, departed
        self._now = monotonic_time_of(reactor)
        self._number = 0
        self._end = 0.0
        self._others: dict[str, Other] = {}
        self._ended: BoundedDict[str, int] = BoundedDict(MAX_ENDED)  # the highest number of each that has ended
        self._namesakes: dict[str, float] = {}  # other nodes of the same name: when each was noticed
        self._timer: IDelayedCall | None = None

    @property
    def names(self) -> list[str]:
        """The names of the nodes that have a lease, as far as is known, in order; none while this node has none."""
        return sorted(map(name_of, (self._address, *self._others))) if self.number else []

    @property
    def others(self) -> list[str]:
        """The addresses of the other nodes that have a lease, as far as is known."""
        return list(self._others)

    @property
    def number(self) -> int:
        """The number of this node's lease; 0 when it has none."""
        return self._number if self._now() < self._end else 0

    def number_of(self, address: str) -> int:
        """Return the number of the lease of a node, as far as it is known; 0 for none."""
        other = self._others.get(address)
        if other is not None:
            return other.number
        return self.number if address == self._address else 0

    def now(self) -> float:
        """Return the time of this clock, to be handed to ``renewed``."""
        return self._now()

    def stop(self) -> None:
        """Have no lease any more, without a word."""
        self._number = 0
        self._cancel()

    def end(self) -> None:
        """Note that this node has no lease; idempotent."""
        if self._number:
            log.warn(
                "this node has lost its lease {number}: it was frozen, could not renew it at Redis, or Redis has lost "
                "it; calls to other nodes are refused until it has one again",
                number=self._number,
            )
            self._number = 0
            self._cancel()
            self._lapsed()

    def renewed(self, sent: float, number: int, others: Iterable[tuple[str, int, str]], *, moved: bool) -> None:
        """Take the answer to a renewal that was sent at *sent*.

        Args:
            sent: see ``now``.
            number: of the lease that this node has.
            others: address, number and generation of each node.
            moved: whether Redis may have forgotten names: it is another server than before, or has older data.
        """
        now, end = self._now(), sent + self.seconds * (1 - MARGIN)
        self.confirmed = sent
        if now >= self._end:
            self.end()
        if now >= end:
            return  # it came so late that the lease may have ended again
        if not self._number and number <= self.last:
            return  # it has ended here, of which the others have not heard: the next renewal gives another
        if not self._number:
            self.unbroken_since = number
        if number != self._number:
            self.end()
            if self.last:
                log.info("this node has a lease again: {number}", number=number)
            self._number = self.last = number
            moved = True
        self._end = end
        if self._timer is None:
            self._timer = self._reactor.callLater(self._end - now, self._look)
        living = {address: Other(each, generation, sent) for address, each, generation in others if each}
        living.pop(self._address, None)
        self._compare(living, sent)
        self._warn_of_namesakes(now)
        if moved:
            self._leased()

    def _look(self) -> None:
        """End the lease when it is over."""
        self._timer = None
        left = self._end - self._now()
        if left <= 0:
            self.end()
        else:
            self._timer = self._reactor.callLater(left, self._look)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _compare(self, found: dict[str, Other], sent: float) -> None:
        before, self._others = self._others, found
        for address, old in before.items():
            new = found.get(address)
            if old.seen > sent and (new is None or new.number < old.number):
                found[address] = old  # it has come after this was asked for
            elif new is None or new.number != old.number:
                if new is None:
                    log.warn(
                        "node {other} is gone: it was stopped or killed, is frozen, or can not renew its lease",
                        other=name_of(address),
                    )
                self._note_ended(address, old.number)
                self._departed(address)
            elif old.generation and new.generation != old.generation:
                self._departed(address)
        for address in sorted(found.keys() - before.keys()):
            log.info("node {other} is there", other=name_of(address))
            if found[address].number == self._ended.get(address):
                del self._ended[address]  # data that were lost came back, and with them a lease that had not ended

    def _warn_of_namesakes(self, now: float) -> None:
        """Warn once of each other node that has the name of this one for longer than one that has died would."""
        name = name_of(self._address)
        namesakes = [address for address in self._others if name_of(address) == name]
        self._namesakes = {address: self._namesakes.get(address, now) for address in namesakes}
        for address, noticed in self._namesakes.items():
            if now - noticed > NAMESAKE_LEASES * self.seconds:
                self._namesakes[address] = math.inf
                log.warn("another node is called {name}, too: give each node a TXBROKER_NODE of its own", name=name)

    def _note_ended(self, address: str, number: int) -> None:
        self._ended.pop(address, None)
        self._ended[address] = number

    def learn(self, address: str, number: int) -> bool:
        """Note that a node has shown the *number* of its lease; False when that one has ended."""
        if address == self._address:
            return True
        known = self._others.get(address)
        if number <= self._ended.get(address, 0) or (known is not None and number < known.number):
            return False
        if known is None:
            log.info("node {other} is there", other=name_of(address))
        if known is None or number > known.number:
            self._others[address] = Other(number, "", self._now())
            if known is not None:
                self._note_ended(address, known.number)
                self._departed(address)
        return True

    def is_for_us(self, number: int) -> bool:
        """Whether a message to the lease of that *number* is one to this node as it is now."""
        # A higher one was given by an answer that has not come yet.
        return number > self.last or (number == self.last and bool(self.number))


def name_of(address: str) -> str:
    """Return the name of the node at *address*."""
    return address.rpartition("/")[0]
