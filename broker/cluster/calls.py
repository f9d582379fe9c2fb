"""Calls between nodes.

A call to somebody who is not here is opened with a stand-in for the callee, which
finds the callee's node and sends the request there; that node opens it a second time, with a
stand-in for the caller.  So each node knows the call as one of its own: the deadline
is the caller's node's, and what ends the call on one side ends it on the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.cluster.messages import Answered, Called, Ended, NotHere, WireError
from broker.cluster.messenger import NodeMessenger
from broker.core.calls import Call, Calls, Party
from broker.core.registry import Registry
from broker.errors import BrokerError, Gone, NotFound
from broker.messages import Reply, Request

log = Logger()

KNOWN = 10000  # names whose nodes are remembered


@attrs.define(eq=False)
class Callee:
    """Stands for a callee on another node, in one call.

    Attributes:
        places: the names to look for it, the best first.
        error: what the caller is told when it is nowhere.
        client: who has answered last.
        address: the node that the request was sent to.
        orphaned: whether the caller left while the callee was looked for.
    """

    places: tuple[str, ...]
    error: BrokerError
    _forward: Any
    id: str = ""
    client: str = "broker"
    address: str = ""
    place: str = ""
    request: Request | None = None
    call: Call | None = None
    untried: list[str] = attrs.field(factory=list)
    fresh: bool = False
    orphaned: bool = False
    calling: dict[str, Call] = attrs.field(factory=dict)
    serving: dict[str, Call] = attrs.field(factory=dict)

    def on_request(self, request: Request) -> None:
        """Begin to look for the callee."""
        self.request, self.call = request, self.serving[request.id]
        self._forward(self)

    def on_reply(self, reply: Reply) -> None:
        """Never called: it calls nobody."""


@attrs.define(eq=False)
class Caller:
    """Stands for a caller on another node, in one call, by whose id there it goes."""

    address: str
    id: str
    client: str
    _send: Any
    calling: dict[str, Call] = attrs.field(factory=dict)
    serving: dict[str, Call] = attrs.field(factory=dict)

    def on_request(self, request: Request) -> None:
        """Never called: it performs nothing."""

    def on_reply(self, reply: Reply) -> None:
        """Send *reply* to the caller's node."""
        self._send(self.address, Answered.of(reply))


class RemoteCalls(Calls):
    """Calls to whoever performs them, here or elsewhere.

    *use* must be called before the first call.
    """

    def use(self, nodes: NodeMessenger, sessions_of: Any) -> None:
        """Speak with *nodes*; *sessions_of* returns the sessions here of a client or session id."""
        self._messenger, self._sessions_of = nodes, sessions_of
        self._out: dict[str, Callee] = {}  # by the id of the call here
        self._in: dict[tuple[str, str], Caller] = {}  # by the caller's node and its id of the call
        self._known: dict[tuple[str, ...], tuple[str, list[str]]] = {}
        nodes.on(Called, self._called)
        nodes.on(Answered, self._answered)
        nodes.on(NotHere, self._elsewhere)
        nodes.on(Ended, self._ended)
        nodes.on_departure(self._departed)

    def registry_of(self, kind: str) -> Registry[Party]:
        """Return who holds the names of *kind* here; see ``ClusterNames``."""
        return {"procedure": self.performers, "service": self.services, "taker": self.takers}[kind]

    # The caller's side.

    def find(self, procedure: str, service: str = "") -> tuple[Party, str]:
        """Return who takes *procedure*, or a stand-in that will find out."""
        place = self.services.place(service) if service else self.performers.place(procedure)
        if place is not None:
            return place.next(), service or procedure
        places = [f"service:{service}"] if service else []
        places.append(f"procedure:{procedure}")
        if service:
            return self.elsewhere(places, NotFound("service", service)), service
        name = procedure.rpartition(".")[0]
        while name:
            places.append(f"service:{name}")
            name = name.rpartition(".")[0]
        return self.elsewhere(places, NotFound("method", procedure)), ""

    def find_taker(self, topic: str) -> Party:
        """Return who takes streamed requests of *topic*, or a stand-in that will find out."""
        place = self.takers.place(topic) if topic else None
        if place is not None:
            return place.next()
        topics = (topic, "*") if topic else ("*",)
        return self.elsewhere([f"taker:{name}" for name in topics], NotFound("request", topic or "*"))

    def elsewhere(self, places: Iterable[str], error: BrokerError) -> Party:
        """Return a stand-in for whoever holds one of *places*."""
        return Callee(tuple(places), error, self._forward)

    def _forward(self, callee: Callee) -> None:
        assert callee.call is not None
        self._out[callee.call.id] = callee
        known = None if callee.fresh else self._known.get(callee.places)
        if known is not None:
            self._try(callee, known)
            return
        callee.fresh = True
        looked = Deferred.fromCoroutine(self._messenger.holders(*callee.places))
        looked.addCallback(self._found, callee).addErrback(self._not_found, callee)

    def _found(self, found: tuple[str, list[str]], callee: Callee) -> None:
        known = self._known.get(callee.places)
        if known is not None and known[0] == found[0] and set(known[1]) == set(found[1]):
            found = known  # others have looked, too: their turns go on
        elif found[1]:
            if len(self._known) >= KNOWN:
                self._known.clear()
            self._known[callee.places] = found
        self._try(callee, found)

    def _try(self, callee: Callee, found: tuple[str, list[str]]) -> None:
        callee.place, addresses = found
        callee.untried = list(addresses)
        if len(addresses) > 1:
            # Those that share the name take their turns.
            addresses.append(addresses.pop(0))
        self._try_next(callee)

    def _not_found(self, failure: Failure, callee: Callee) -> None:
        if failure.check(BrokerError) is None:
            log.failure("a callee could not be looked for", failure)
        error = failure.value if isinstance(failure.value, BrokerError) else BrokerError("call")
        self._give_up(callee, error)

    def _try_next(self, callee: Callee) -> None:
        call, request = callee.call, callee.request
        assert call is not None
        assert request is not None
        if call.id not in self._out:
            if callee.orphaned:
                self._send_orphan(False, callee, call, request)
            return  # it has ended meanwhile
        if callee.untried:
            callee.address = callee.untried.pop(0)
            message = Called(call.id, callee.place, request, call.quiet)
            self._messenger.send(callee.address, message).addCallback(self._sent, callee, callee.address)
            return
        known = self._known.pop(callee.places, None)
        if known is not None and not callee.fresh:
            self._forward_again(callee)
        else:
            self._give_up(callee, callee.error)

    def _send_orphan(self, heard: bool, callee: Callee, call: Call, request: Request) -> None:
        """Send the request all the same: alone, the callee would have got it before the caller left."""
        if not heard and callee.untried:
            address = callee.untried.pop(0)
            message = Called(call.id, callee.place, request, call.quiet)
            self._messenger.send(address, message).addCallback(self._send_orphan, callee, call, request)
            self._messenger.send(address, Ended(call.id))

    def _forward_again(self, callee: Callee) -> None:
        callee.fresh = True
        self._forward(callee)

    def _sent(self, heard: bool, callee: Callee, address: str) -> None:
        if not heard and callee.address == address:
            self._try_next(callee)

    def _give_up(self, callee: Callee, error: BrokerError) -> None:
        assert callee.call is not None
        callee.address = ""  # it is over there, too
        self._fail(callee.call, error)

    def _answered(self, address: str, answer: Answered) -> None:
        callee = self._out.get(answer.id)
        if callee is None or callee.address != address:
            self.dropped += 1
            return
        error = None if answer.wire_error is None else answer.wire_error.error()
        if error is not None and answer.source == "broker":
            self._give_up(callee, error)
            return
        callee.client = answer.source
        if not answer.streamed:
            callee.address = ""
        self.answer(callee, answer.id, answer.body, error, answer.time, answer.attachments)

    def _elsewhere(self, address: str, message: NotHere) -> None:
        callee = self._out.get(message.id)
        if callee is not None and callee.address == address:
            if callee.place.startswith(("client:", "session:")):
                callee.error = message.wire_error.error()  # the recipient is there, but does not perform it
            self._try_next(callee)

    # The callee's side.

    def _called(self, address: str, message: Called) -> None:
        request = message.request
        try:
            callee, request.service = self._at(message.place, request)
        except (NotFound, Gone) as error:
            self._messenger.send(address, NotHere(message.id, WireError.of(error)))
            return
        request.method = request.procedure[len(request.service) + 1 :] if request.procedure else ""
        caller = Caller(address, message.id, request.caller, self._messenger.send)
        self._in[address, message.id] = caller
        try:
            self.open(caller, callee, message.id, request, quiet=message.quiet)
        except BrokerError as error:
            refusal = Answered(message.id, b"null", WireError.of(error), "broker", 0.0, False, ())
            self._messenger.send(address, refusal)

    def _at(self, name: str, request: Request) -> tuple[Party, str]:
        """Return who is known here under the *name* of the bus, and the service or procedure it performs."""
        kind, _, rest = name.partition(":")
        if kind in ("client", "session"):
            sessions = self._sessions_of(rest)
            if not sessions:
                raise Gone("recipient", rest)
            return (sessions[0], "") if request.streamed else self.find_at(request.procedure, sessions)
        place = self.registry_of(kind).place(rest)
        if place is None:
            raise NotFound("method", rest)
        return place.next(), "" if kind == "taker" else rest

    def _ended(self, address: str, message: Ended) -> None:
        caller = self._in.get((address, message.id))
        for call in list(caller.calling.values()) if caller is not None else ():
            self._end(call)

    # Both.

    def leave(self, party: Party) -> None:
        """End every call of *party*; the requests whose callees are still looked for are sent all the same."""
        for key in party.calling:
            callee = self._out.get(key)
            if callee is not None:
                callee.orphaned = not callee.address
        super().leave(party)

    def _departed(self, address: str) -> None:
        """End what was under way with a node that has gone; of this one's own address, with any."""
        ours = address == self._messenger.bus.address
        for callee in [each for each in self._out.values() if each.address == address or (ours and each.address)]:
            assert callee.call is not None
            self._fail(callee.call, Gone("lost", callee.call.name))
        for caller in [each for each in self._in.values() if each.address == address and not ours]:
            for call in list(caller.calling.values()):
                self._end(call)

    def _end(self, call: Call) -> None:
        super()._end(call)
        callee = self._out.pop(call.id, None)
        if callee is not None and callee.address:
            self._messenger.send(callee.address, Ended(call.id))
        caller: Any = call.caller
        if isinstance(caller, Caller):
            self._in.pop((caller.address, caller.id), None)
