"""Who performs which procedures, and who of those that share one gets the next call."""

from __future__ import annotations

from collections.abc import Callable
from heapq import nsmallest
from itertools import islice

import attrs
from twisted.internet.interfaces import IReactorTime

from broker.core.call import Call, Party
from broker.core.call_limits import PLAIN, LimitedProcedure, Predicate, Terms
from broker.core.memory import Account
from broker.core.registry import Registration, Registry
from broker.errors import BrokerError, Taken

MAX_COMPARED = 1000  # performers of whom the least busy one is chosen
FULL = 1 << 30  # the load of performers who have all that they may have: beyond that of any who has not


@attrs.define(eq=False)
class Performance(Registration[Party]):
    """The performers of a procedure, some of them on terms of their own.

    Attributes:
        least_busy: see ``Terms``.
        limits: who may have how many calls, and those that wait; None: nobody has a limit.
    """

    least_busy: bool = attrs.field(default=False, kw_only=True)
    limits: LimitedProcedure | None = attrs.field(default=None, kw_only=True)

    def changed(self) -> None:
        """See ``Registration.changed``: with limits, nobody gets all that comes."""
        super().changed()
        if self.limits is not None:
            self.only = None

    def choose(self) -> Party:
        """Return who gets the next call, or what hands it on."""
        if self.limits is not None:
            return self.limits
        return self.pick(_anybody) or self.next()

    def pick(self, can: Predicate) -> Party | None:
        """Return the next of the performers who *can* have a call, or the least busy one; None: nobody can."""
        count = min(len(self.holders), MAX_COMPARED) if self.least_busy else len(self.holders)
        chosen, fewest = -1, 0
        for step in range(1, count + 1):
            position = (self.position + step) % len(self.holders)
            performer = self.holders[position]
            if not can(performer):
                continue
            calls = len(performer.serving) if self.least_busy else 0
            if chosen < 0 or calls < fewest:
                chosen, fewest = position, calls
            if not calls:
                break
        if chosen < 0:
            return None
        self.position = chosen
        return self.holders[chosen]

    @property
    def by_load(self) -> bool:
        """Whether it depends on how many calls each has who gets the next one."""
        return self.shared and (self.least_busy or self.limits is not None)

    def loads(self, count: int) -> list[int]:
        """Return how many calls the *count* least busy performers have, rising; beyond ``FULL`` if none may have one.

        Where they are called in turn, whoever may have one more counts as idle.
        """
        can = _anybody if self.limits is None else self.limits.can
        free = (each for each in self.holders[:MAX_COMPARED] if can(each))
        if not self.least_busy:
            found = [0 for _ in islice(free, count)]
        else:
            found = nsmallest(count, (len(each.serving) for each in free))
        return found or [FULL + (0 if self.limits is None else len(self.limits.serving))]


class Performers(Registry[Party]):
    """The performers of each procedure.

    Args:
        hold: counts how many more bytes are kept for one of them, or fewer.
        fail: ends a call with an error.
        clock: says how much time a call has left that has waited.
        account: counts the bytes of what waits, or None.

    Attributes:
        by_load: the shared procedures whose next performer depends on how many calls each has: on other nodes, too.
    """

    def __init__(
        self,
        hold: Callable[[Party, int], object],
        fail: Callable[[Call, BrokerError], object],
        clock: IReactorTime,
        account: Account | None,
    ) -> None:
        super().__init__("exists", hold)
        self._fail, self._clock, self._account = fail, clock, account
        self.by_load: set[str] = set()

    def check(self, holder: Party, name: str, shared: bool = False, terms: Terms = PLAIN) -> None:
        """See ``Registry.check``: those who share a name agree on whether the least busy one gets the next call."""
        super().check(holder, name, shared)
        entry = self.get(name)
        if entry is not None and entry.holders != [holder] and least_busy(entry) != terms.least_busy:
            raise Taken("exists", name)

    def add(self, holder: Party, name: str, shared: bool = False, terms: Terms = PLAIN) -> None:
        """See ``Registry.add``; whoever has *name* already has it on these *terms* from now on."""
        self.check(holder, name, shared, terms)
        entry = self.get(name)
        if terms == PLAIN and not isinstance(entry, Performance):
            super().add(holder, name, shared)
            return
        performance = self._performance(entry, holder, name, shared)
        performance.least_busy = terms.least_busy
        self._join(performance, holder, name)
        if terms.max_in_flight and performance.limits is None:
            limits = LimitedProcedure(name, performance.pick, self._fail, self._clock, self._account)
            performance.limits = limits
            performance.changed()
            for other in performance.holders:
                limits.join(other, PLAIN)
        if performance.limits is not None:
            performance.limits.join(holder, terms)
        (self.by_load.add if performance.by_load else self.by_load.discard)(name)

    def _performance(self, entry: Registration[Party] | None, holder: Party, name: str, shared: bool) -> Performance:
        """Return the registration of *name* with room for terms, in the place of *entry*."""
        if isinstance(entry, Performance):
            return entry
        if entry is None:
            performance = Performance(shared, [] if shared else [holder])
        else:  # a list of its own: all names that a holder has alone have one
            performance = Performance(entry.shared, list(entry.holders), entry.position)
        self[name] = performance
        return performance

    def remove(self, holder: Party, name: str) -> bool:
        """See ``Registry.remove``."""
        entry = self.get(name)
        removed = super().remove(holder, name)
        if name not in self:
            self.by_load.discard(name)
        if removed and isinstance(entry, Performance) and entry.limits is not None:
            entry.limits.leave(holder)
            if name not in self:
                entry.limits = None  # it refers to this entry: both would have to wait for the garbage collector
        return removed

    def addressed(self, name: str, performer: Party) -> Party:
        """Return who gets a call of *name* that is addressed to *performer*, or what hands it on."""
        entry = self[name]
        limits = entry.limits if isinstance(entry, Performance) else None
        return performer if limits is None else limits.addressed(performer)


def least_busy(entry: Registration[Party]) -> bool:
    """Whether the least busy of the performers of *entry* gets the next call."""
    return isinstance(entry, Performance) and entry.least_busy


def loads_of(entry: Registration[Party], count: int) -> list[int]:
    """Return ``entry.loads(count)``; where there are no terms, everybody counts as idle."""
    return entry.loads(count) if isinstance(entry, Performance) else [0] * min(count, len(entry.holders))


def _anybody(_: Party) -> bool:
    return True
