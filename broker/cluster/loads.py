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
        matters: whether one of them has said that it matters.
        new: whether it was not known before.
        then: to be called with that at the end.
        timer: ends it.
    """

    missing: set[str]
    known: Known
    then: list[Callable[[Known], object]]
    timer: IDelayedCall
    new: bool
    matters: bool = False


class Loads:
    """Asks the nodes, and answers them.

    Args:
        messenger: leads to them.
        loads_of: returns what this node says of a name.

    Attributes:
        names: of which nodes are asked with each call, as far as is known.
    """

    def __init__(self, messenger: NodeMessenger, loads_of: Callable[[str], Load]) -> None:
        self.names: BoundedDict[str, None] = BoundedDict(MAX_NAMES)
        self._messenger, self._loads_of = messenger, loads_of
        self._questions: dict[str, Question] = {}
        self._places = count()
        messenger.on(LoadAsked, lambda address, message: self.notify(address, message.name))
        messenger.on(Load, self._answered)
        messenger.on_break(lambda address, _: self._gone(address))

    def notify(self, address: str, name: str) -> None:
        """Tell a node how busy the performers of *name* are here."""
        self._messenger.send(address, self._loads_of(name))

    def ask(self, name: str, addresses: Sequence[str], then: Callable[[Known], object]) -> None:
        """Call *then* with what the nodes at *addresses* say of *name*, or {} if it does not matter.

        Nodes that do not answer in time are missing there.  A question that is under way is not asked again.
        """
        question = self._questions.get(name)
        if question is not None:
            question.then.append(then)
            return
        timer = self._messenger.clock.callLater(TIMEOUT, self._end, name)
        self._questions[name] = Question(set(addresses), {}, [then], timer, name not in self.names)
        self.names[name] = None  # those that are called meanwhile wait for the answers, too
        for address in addresses:
            if address == self._messenger.bus.address:
                self._answered(address, self._loads_of(name))
            elif not self._messenger.send(address, LoadAsked(name)):
                self._gone(address)

    def rotated(self, addresses: tuple[str, ...]) -> tuple[str, ...]:
        """Return *addresses* beginning with another one each time: the first of those that are as busy is used."""
        place = next(self._places) % len(addresses)
        return addresses[place:] + addresses[:place]

    def _answered(self, address: str, message: Load) -> None:
        if message.matters:
            self.names[message.name] = None
        question = self._questions.get(message.name)
        if question is not None and address in question.missing:
            question.missing.discard(address)
            question.known[address] = message.loads
            question.matters |= message.matters
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
        if not question.matters and (question.known or question.new):
            self.names.pop(name, None)
        for then in question.then:
            then(question.known if question.matters else {})

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
