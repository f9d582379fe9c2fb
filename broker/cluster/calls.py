"""Calls between nodes.

A call to somebody who is not here is opened with a stand-in for the callee, which
finds the callee's node and sends the request there; that node opens it a second time, with a
stand-in for the caller.  So each node knows the call as one of its own: the deadline
is the caller's node's, and what ends the call on one side ends it on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.cluster.claims import LAPSED
from broker.cluster.messages import Answered, Called, Ended, Message, NotHere, WireError
from broker.cluster.messenger import NodeMessenger
from broker.core.bounded import BoundedDict
from broker.core.calls import Call, Calls, Party
from broker.core.registry import Registry
from broker.errors import BrokerError, Gone, NotFound, Unavailable
from broker.messages import Reply, Request
from broker.patterns import BROKER, CLIENT, PROCEDURE, SERVICE, SESSION, TAKER, split_kind

log = Logger()

MAX_KNOWN = 10000  # callees whose nodes are remembered


@attrs.define(eq=False)
class Callee:
    """Stands for a callee on another node, in one call.

    Attributes:
        names: to look for it by, the best first.
        error: what the caller gets when there is none.
        client: the client id that has answered last.
        address: the node that the request was sent to.
        orphaned: whether the caller left while the callee was looked for.
    """

    names: tuple[str, ...]
    error: BrokerError
    _forward: Callable[[Callee], None]
    id: str = ""
    client: str = BROKER
    address: str = ""
    name: str = ""  # the one by which it was found
    request: Request | None = None
    call: Call | None = None
    untried: list[str] = attrs.field(factory=list)
    fresh: bool = False
    orphaned: bool = False
    calling: dict[str, Call] = attrs.field(factory=dict)
    serving: dict[str, Call] = attrs.field(factory=dict)

    def hold(self, change: int) -> None:
        """Never called: it calls nobody."""

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
    _send: Callable[[str, Message], object]
    calling: dict[str, Call] = attrs.field(factory=dict)
    serving: dict[str, Call] = attrs.field(factory=dict)

    def hold(self, change: int) -> None:
        """Do nothing: its own node counts what is kept for it."""

    def on_request(self, request: Request) -> None:
        """Never called: it performs nothing."""

    def on_reply(self, reply: Reply) -> None:
        """Send *reply* to the caller's node."""
        self._send(self.address, Answered.of(reply))


class RemoteCalls(Calls):
    """Calls to whoever performs them, on this node or another.

    *use* must be called before the first call.
    """

    def use(
        self, nodes: NodeMessenger, sessions_of: Callable[[str], Sequence[Party]], holds: Callable[[str], bool]
    ) -> None:
        """Send by *nodes*.

        *sessions_of* returns the sessions here of a client or session id; *holds* says whether this node holds
        a name now.
        """
        self._messenger, self._sessions_of, self._holds = nodes, sessions_of, holds
        self._out: dict[str, Callee] = {}  # by the id of the call here
        self._in: dict[tuple[str, str], Caller] = {}  # by the caller's node and its id of the call
        self._known: BoundedDict[tuple[str, ...], tuple[str, list[str]]] = BoundedDict(MAX_KNOWN)
        nodes.on(Called, self._called)
        nodes.on(Answered, self._answered)
        nodes.on(NotHere, self._not_here)
        nodes.on(Ended, self._ended)
        nodes.on_departure(self._departed)

    def registry_of(self, kind: str) -> Registry[Party]:
        """Return who holds the names of *kind* here; see ``ClusterNames``."""
        return {PROCEDURE: self.performers, SERVICE: self.services, TAKER: self.takers}[kind]

    # The caller's side.

    def find(self, procedure: str, service: str = "") -> tuple[Party, str]:
        """Return who is called for *procedure*, or a stand-in that will find out."""
        entry = self.services.get(service) if service else self.performers.get(procedure)
        if entry is not None:
            if not entry.shared:
                self._check_held(SERVICE + service if service else PROCEDURE + procedure)
            return entry.next(), service or procedure
        names = [SERVICE + service] if service else []
        names.append(PROCEDURE + procedure)
        if service:
            return self.find_remote(names, NotFound("service", service)), service
        name = procedure.rpartition(".")[0]
        while name:
            names.append(SERVICE + name)
            name = name.rpartition(".")[0]
        return self.find_remote(names, NotFound("method", procedure)), ""

    def _check_held(self, name: str) -> None:
        """Raise ``Unavailable`` when another node may hold *name*, since this one has lost its lease."""
        if not self._holds(name):
            raise Unavailable("call", split_kind(name)[1], message=LAPSED)

    def find_taker(self, topic: str) -> Party:
        """Return who gets streamed requests of *topic*, or a stand-in that will find out."""
        entry = self.takers.get(topic) if topic else None
        if entry is not None:
            return entry.next()
        topics = (topic, "*") if topic else ("*",)
        return self.find_remote([TAKER + name for name in topics], NotFound("request", topic or "*"))

    def find_remote(self, names: Iterable[str], error: BrokerError) -> Party:
        """Return a stand-in for whoever holds one of *names*."""
        return Callee(tuple(names), error, self._forward)

    def _forward(self, callee: Callee) -> None:
        assert callee.call is not None
        self._out[callee.call.id] = callee
        known = None if callee.fresh else self._known.get(callee.names)
        if known is not None:
            self._try(callee, known)
            return
        callee.fresh = True
        search = Deferred.fromCoroutine(self._messenger.holders(*callee.names))
        search.addCallback(self._found, callee).addErrback(self._not_found, callee)

    def _found(self, found: tuple[str, list[str]], callee: Callee) -> None:
        known = self._known.get(callee.names)
        if known is not None and known[0] == found[0] and set(known[1]) == set(found[1]):
            found = known  # another call has looked, too: keep its round-robin order
        elif found[1]:
            self._known[callee.names] = found
        self._try(callee, found)

    def _try(self, callee: Callee, found: tuple[str, list[str]]) -> None:
        callee.name, addresses = found
        callee.untried = list(addresses)
        if len(addresses) > 1:
            # Nodes that share the name are used round-robin.
            addresses.append(addresses.pop(0))
        self._try_next(callee)

    def _not_found(self, failure: Failure, callee: Callee) -> None:
        if failure.check(BrokerError) is None:
            log.failure("looking for a callee failed", failure)
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
            message = Called(call.id, callee.name, request, call.quiet)
            self._messenger.send(callee.address, message).addCallback(self._sent, callee, callee.address)
            return
        known = self._known.pop(callee.names, None)
        if known is not None and not callee.fresh:
            self._forward_again(callee)
        else:
            self._give_up(callee, callee.error)

    def _send_orphan(self, received: bool, callee: Callee, call: Call, request: Request) -> None:
        """Send the request all the same: alone, the callee would have got it before the caller left."""
        if not received and callee.untried:
            address = callee.untried.pop(0)
            message = Called(call.id, callee.name, request, call.quiet)
            self._messenger.send(address, message).addCallback(self._send_orphan, callee, call, request)
            self._messenger.send(address, Ended(call.id))

    def _forward_again(self, callee: Callee) -> None:
        callee.fresh = True
        self._forward(callee)

    def _sent(self, received: bool, callee: Callee, address: str) -> None:
        if not received and callee.address == address:
            self._try_next(callee)

    def _give_up(self, callee: Callee, error: BrokerError) -> None:
        assert callee.call is not None
        callee.address = ""  # it has ended there, too
        self._fail(callee.call, error)

    def _answered(self, address: str, answer: Answered) -> None:
        callee = self._out.get(answer.id)
        if callee is None or callee.address != address:
            return
        error = None if answer.wire_error is None else answer.wire_error.error()
        if error is not None and answer.source == BROKER:
            self._give_up(callee, error)
            return
        callee.client = answer.source
        if not answer.streamed:
            callee.address = ""
        self.answer(callee, answer.id, answer.body, error, answer.time, answer.attachments)

    def _not_here(self, address: str, message: NotHere) -> None:
        callee = self._out.get(message.id)
        if callee is not None and callee.address == address:
            if callee.name.startswith((CLIENT, SESSION)):
                callee.error = message.wire_error.error()  # the recipient is connected, but does not perform it
            self._try_next(callee)

    # The callee's side.

    def _called(self, address: str, message: Called) -> None:
        request = message.request
        try:
            callee, request.service = self._at(message.name, request)
        except (NotFound, Gone) as error:
            self._messenger.send(address, NotHere(message.id, WireError.of(error)))
            return
        except Unavailable as error:
            self._messenger.send(address, _refusal(message.id, error))
            return
        request.method = request.procedure[len(request.service) + 1 :] if request.procedure else ""
        caller = Caller(address, message.id, request.caller, self._messenger.send)
        self._in[address, message.id] = caller
        try:
            self.open(caller, callee, message.id, request, quiet=message.quiet)
        except BrokerError as error:
            self._messenger.send(address, _refusal(message.id, error))

    def _at(self, name: str, request: Request) -> tuple[Party, str]:
        """Return who is known here under the *name* of the bus, and the service or procedure it performs."""
        kind, rest = split_kind(name)
        if kind in (CLIENT, SESSION):
            sessions = self._sessions_of(rest)
            if not sessions:
                raise Gone("recipient", rest)
            return (sessions[0], "") if request.streamed else self.find_at(request.procedure, sessions)
        entry = self.registry_of(kind).get(rest)
        if entry is None:
            raise NotFound("method", rest)
        if not entry.shared:
            self._check_held(name)
        return entry.next(), "" if kind == TAKER else rest

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
        caller = call.caller
        if isinstance(caller, Caller):
            self._in.pop((caller.address, caller.id), None)


def _refusal(id: str, error: BrokerError) -> Answered:
    return Answered(id, b"null", WireError.of(error), BROKER, 0.0, False, ())
