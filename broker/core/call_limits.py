"""Procedures whose performers take a limited number of calls at once: who has how many, and which ones wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeAlias

import attrs
from twisted.internet.interfaces import IReactorTime

from broker.core.call import Call, Party
from broker.core.memory import Account
from broker.errors import BrokerError, Busy, Gone
from broker.messages import Reply, Request
from broker.patterns import BROKER

MAX_WAITING = 10_000  # calls of one procedure, whatever the queues of its performers
MIN_TIMEOUT = 0.001  # seconds: 0 would be without limit

Predicate: TypeAlias = Callable[[Party], bool]


@attrs.frozen
class Terms:
    """On which terms somebody performs a procedure.

    Attributes:
        least_busy: whether a call goes to whoever has the fewest to answer, instead of round-robin.
        max_in_flight: how many calls of it the performer may have at once; 0: any number.
        queue: how many more may wait.
    """

    least_busy: bool = False
    max_in_flight: int = 0
    queue: int = 0


PLAIN = Terms()


@attrs.define(eq=False)
class Slots:
    """The calls that one performer may have.

    Attributes:
        terms: on which it performs the procedure.
        used: how many it has.
        filling: whether it is being handed those that wait.
    """

    terms: Terms
    used: int = 0
    filling: bool = False

    @property
    def free(self) -> bool:
        """Whether it may have one more."""
        return not self.terms.max_in_flight or self.used < self.terms.max_in_flight


class LimitedProcedure:
    """Stands for the performers of a procedure: hands a call to one who may have it, or keeps it until one may.

    Those who wait are handed on in the order in which they came.  All performers have one queue, which is as long as
    theirs together.

    Args:
        name: of the procedure.
        pick: returns the next performer for whom a predicate holds, or None.
        fail: ends a call with an error.
        clock: says how much time a call has left when it is handed on.
        account: counts the bytes of what waits, or None.

    Attributes:
        serving: the calls that wait, by their ids.
    """

    id = ""
    client = BROKER
    address = ""  # for the account of memory: it is no client, and has no share
    calling: ClassVar[dict[str, Call]] = {}  # it calls nobody
    flow = None

    def __init__(
        self,
        name: str,
        pick: Callable[[Predicate], Party | None],
        fail: Callable[[Call, BrokerError], object],
        clock: IReactorTime,
        account: Account | None,
    ) -> None:
        self.name = name
        self.serving: dict[str, Call] = {}
        self._pick, self._fail, self._clock, self._account = pick, fail, clock, account
        self._slots: dict[Party, Slots] = {}
        self._waiting: dict[str, tuple[Request, Party | None]] = {}  # by id: the request, and who alone may have it
        self._bytes = 0  # of them

    # Performers.

    def join(self, performer: Party, terms: Terms) -> None:
        """Let *performer* have calls on *terms*, perhaps instead of others before; those that it has count."""
        slots = self._slots.get(performer)
        if slots is None:
            slots = self._slots[performer] = Slots(terms)
            for call in performer.serving.values():
                if call.name == self.name and not call.streamed:
                    call.limiter = self
                    slots.used += 1
        slots.terms = terms
        self._fill(performer, slots)

    def leave(self, performer: Party) -> None:
        """Let *performer* have none any more; what waits for it alone, or for nobody now, fails."""
        self._slots.pop(performer, None)
        for id, (_, target) in list(self._waiting.items()):
            if (target is performer or not self._slots) and id in self.serving:
                self._fail(self.serving[id], Gone("lost", self.name))

    def can(self, performer: Party) -> bool:
        """Whether *performer* may have one more call."""
        slots = self._slots.get(performer)
        return slots is not None and slots.free

    @property
    def full(self) -> bool:
        """Whether nobody may have one more call."""
        return not any(slots.free for slots in self._slots.values())

    # Calls; ``Calls.open`` and ``Calls.answer`` take this for the callee.

    def hold(self, change: int) -> None:
        """Never called: it calls nobody."""

    def on_reply(self, reply: Reply) -> None:
        """Never called: it calls nobody."""

    def on_cancel(self, id: str) -> None:
        """Do nothing: nobody has been handed that call."""

    def on_request(self, request: Request) -> None:
        """Hand *request* to a performer, or keep it."""
        self.request(request, None)

    def request(self, request: Request, target: Party | None) -> None:
        """Hand *request* to a performer, to *target* alone if that is not None, or keep it.

        Raises:
            Busy: too many wait.
            BrokerError: the performer refuses it.
        """
        call = self.serving[request.id]
        call.limiter = self
        performer = self._pick(self.can) if target is None else (target if self.can(target) else None)
        if performer is not None:
            self._hand(call, request, performer)
        elif self._queue_is_full(target):
            raise Busy("call", self.name)
        else:
            self._waiting[request.id] = request, target
            self._count(len(request.body))

    def _queue_is_full(self, target: Party | None) -> bool:
        if target is not None:
            slots = self._slots.get(target)
            waiting = sum(each is target for _, each in self._waiting.values())
            if slots is None or waiting >= slots.terms.queue:
                return True
        queue = sum(slots.terms.queue for slots in self._slots.values())
        return len(self._waiting) >= min(queue, MAX_WAITING)

    def _hand(self, call: Call, request: Request, performer: Party) -> None:
        self._slots[performer].used += 1
        del self.serving[call.id]
        call.callee = performer
        performer.serving[call.id] = call
        performer.on_request(request)

    def ended(self, call: Call) -> None:
        """See ``Limiter.ended``: the next may have its place."""
        waited = self._waiting.pop(call.id, None)
        if waited is not None:
            self._count(-len(waited[0].body))
            return
        slots = self._slots.get(call.callee)
        if slots is not None:
            slots.used -= 1
            self._fill(call.callee, slots)

    def _fill(self, performer: Party, slots: Slots) -> None:
        """Hand to *performer* what waits, as far as it may have it."""
        if slots.filling:  # it has answered at once
            return
        slots.filling = True
        try:
            while slots.free and (call := self._next_for(performer)) is not None:
                request, _ = self._waiting.pop(call.id)
                self._count(-len(request.body))
                if call.bucket is not None:
                    request.timeout = max(MIN_TIMEOUT, call.bucket[call] - self._clock.seconds())
                try:
                    self._hand(call, request, performer)
                except BrokerError as error:
                    self._fail(call, error)
        finally:
            slots.filling = False

    def _next_for(self, performer: Party) -> Call | None:
        """Return the call that has waited longest of those that *performer* may have."""
        for id, (_, target) in self._waiting.items():
            if target is None or target is performer:
                return self.serving[id]
        return None

    def addressed(self, performer: Party) -> Party:
        """Return what stands for *performer* alone."""
        return Addressed(self, performer, self.serving)

    # What waits.

    def _count(self, change: int) -> None:
        self._bytes += change
        if self._account is not None:
            self._account.hold(self, self._bytes)

    def shed(self) -> None:
        """Let all that waits fail: too much memory is used."""
        for id in list(self._waiting):
            if id in self.serving:
                self._fail(self.serving[id], Busy("call", self.name))


@attrs.define(eq=False)
class Addressed:
    """Stands for one performer of a limited procedure, in a call that is addressed to it."""

    procedure: LimitedProcedure
    performer: Party
    serving: dict[str, Call]

    id: ClassVar[str] = ""
    client: ClassVar[str] = BROKER
    flow: ClassVar[None] = None
    calling: ClassVar[dict[str, Call]] = {}

    def hold(self, change: int) -> None:
        """Never called: it calls nobody."""

    def on_reply(self, reply: Reply) -> None:
        """Never called: it calls nobody."""

    def on_cancel(self, id: str) -> None:
        """Do nothing: nobody has been handed that call."""

    def on_request(self, request: Request) -> None:
        """Hand *request* to the performer, or keep it."""
        self.procedure.request(request, self.performer)
