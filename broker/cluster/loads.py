"""How busy the performers of a procedure are on each node, for one whose next performer depends on that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapreplace
from itertools import count
from typing import TypeAlias

import attrs
from twisted.internet.interfaces import IDelayedCall

from broker.cluster.messages import Load, LoadAsked
from broker.cluster.messenger import NodeMessenger
from broker.core.bounded import BoundedDict

MAX_NAMES = 10_000  # of such procedures that are remembered
TIMEOUT = 0.25  # seconds after which a node that does not answer is taken to be the busiest
UNKNOWN = 1 << 60  # its load

Known: TypeAlias = dict[str, list[int]]  # by address: how many calls the least busy performers there have, rising


@attrs.define(eq=False)
class Question:
    """What all nodes are asked about one procedure.

    Attributes:
        missing: addresses of those that have not answered yet.
        known: what the others have said.
        then: to be called with that at the end.
        timer: ends it.
    """

    missing: set[str]
    known: Known
    then: list[Callable[[Known], object]]
    timer: IDelayedCall


class Loads:
    """Asks the nodes, and answers them.

    Args:
        messenger: leads to them.
        loads_of: returns how many calls the least busy performers of a name here have; [] if that does not matter.
    """

    def __init__(self, messenger: NodeMessenger, loads_of: Callable[[str], list[int]]) -> None:
        self._names: BoundedDict[str, None] = BoundedDict(MAX_NAMES)  # of which it matters, as far as it is known
        self._messenger, self._loads_of = messenger, loads_of
        self._questions: dict[str, Question] = {}
        self._places = count()
        messenger.on(LoadAsked, lambda address, message: self.notify(address, message.name))
        messenger.on(Load, self._answered)
        messenger.on_break(lambda address, _: self._gone(address))

    def __contains__(self, name: str) -> bool:
        """Whether nodes are asked of *name* with each call, as far as is known."""
        return name in self._names or name in self._questions

    def notify(self, address: str, name: str) -> None:
        """Tell a node how busy the performers of *name* are here."""
        self._messenger.send(address, Load(name, self._loads_of(name)))

    def ask(self, name: str, addresses: Sequence[str], then: Callable[[Known], object]) -> None:
        """Call *then* with what the nodes at *addresses* say of *name*, as far as they answer in time.

        A question that is under way is not asked again.
        """
        question = self._questions.get(name)
        if question is not None:
            question.then.append(then)
            return
        timer = self._messenger.clock.callLater(TIMEOUT, self._end, name)
        self._questions[name] = Question(set(addresses), {}, [then], timer)
        for address in addresses:
            if address == self._messenger.bus.address:
                self._answered(address, Load(name, self._loads_of(name)))
            elif not self._messenger.send(address, LoadAsked(name)):
                self._gone(address)

    def rotated(self, addresses: tuple[str, ...]) -> tuple[str, ...]:
        """Return *addresses* beginning with another one each time: the first of those that are as busy is used."""
        place = next(self._places) % len(addresses)
        return addresses[place:] + addresses[:place]

    def _answered(self, address: str, message: Load) -> None:
        if message.loads:
            self._names[message.name] = None
        question = self._questions.get(message.name)
        if question is not None and address in question.missing:
            question.missing.discard(address)
            question.known[address] = message.loads
            if not question.missing:
                self._end(message.name)

    def _gone(self, address: str) -> None:
        for name, question in list(self._questions.items()):
            question.missing.discard(address)
            if not question.missing and name in self._questions:
                self._end(name)

    def _end(self, name: str) -> None:
        question = self._questions.pop(name)
        if question.timer.active():
            question.timer.cancel()
        if question.known and not any(question.known.values()):
            self._names.pop(name, None)
        for then in question.then:
            then(question.known)

    def stop(self) -> None:
        """Ask nothing more; those who wait are not told."""
        for question in self._questions.values():
            question.timer.cancel()
        self._questions.clear()


def distribute(known: Known, addresses: Sequence[str], calls: int) -> list[tuple[str, ...]]:
    """Return for each of *calls* which of *addresses* to try, the least busy one first.

    That has one more afterwards, in *known*, whose lists are heaps.
    """
    for address in addresses:
        known[address] = known.get(address) or [UNKNOWN]
    orders = []
    for _ in range(calls):
        order = sorted(addresses, key=lambda address: known[address][0])
        orders.append(tuple(order))
        heapreplace(known[order[0]], known[order[0]][0] + 1)
    return orders
