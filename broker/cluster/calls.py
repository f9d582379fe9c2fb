"""Calls between nodes.

A call to somebody who is not here is opened with a stand-in for the callee, which
finds the callee's node and sends the request there; that node opens it a second time, with a
stand-in for the caller.  So each node knows the call as one of its own: the deadline
is the caller's node's, and what ends the call on one side ends it on the other.

What the nodes tell each other of it goes over a link, and so arrives once and in order, or the
link breaks: then the call ends on both nodes.  A request that has surely not arrived is sent
elsewhere, any other never.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.cluster.claims import LAPSED
from broker.cluster.loads import Known, Loads, distribute
from broker.cluster.messages import PLAIN_CALLS, Called, Ended, Load, NotHere, Paused, PlainCall, WireError
from broker.cluster.messenger import NodeMessenger
from broker.cluster.stand_ins import MAX_LENGTH, Callee, Caller, Callers, looked_up, lookup
from broker.core.bounded import BoundedDict
from broker.core.call import Call, Party
from broker.core.call_limits import Addressed, LimitedProcedure
from broker.core.calls import Calls, result_of
from broker.core.performers import loads_of
from broker.core.registry import Registration, Registry
from broker.errors import BrokerError, Busy, Gone, NotDone, NotFound, RateLimited, Unavailable
from broker.messages import Reply, Request
from broker.patterns import BROKER, CLIENT, PROCEDURE, SERVICE, SESSION, TAKER, split_kind
from broker.remembered import remembered
from broker.versions import messages_of

log = Logger()

CALL_BYTES = 400  # that a request takes besides its body, about
MAX_KNOWN = 10000  # callees whose nodes are remembered
MAX_NAMES = 1000  # of callees here whose kinds are remembered
MAX_LOADS = 16  # performers of one procedure here, of whose load another node is told
NO_LEASE = "This node has no lease at the moment: it can not reach the others."
TOO_MUCH = "Too much waits for that node."


@attrs.define
class Route:
    """Where a callee was found.

    Attributes:
        name: by which it was.
        nodes: addresses of the nodes that have it, and the numbers of their leases.
        untried: those addresses, the next to be used first.
        period: in which one it was looked for last, see ``RemoteCalls.review_routes``.
        plain: whether calls can go there as ``PlainCall``: to a procedure, on one other node that understands it.
    """

    name: str
    nodes: list[tuple[str, int]]
    untried: tuple[str, ...]
    period: int
    plain: bool


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
        self._lease_of, self._send, self._post = nodes.lease_of, nodes.send, nodes.post
        self._registries = {PROCEDURE: self.performers, SERVICE: self.services, TAKER: self.takers}
        self._out: dict[str, Call] = {}  # those whose callees are elsewhere, by their ids
        self._callers: dict[str, Callers] = {}  # by the address of their node: those of calls with one answer
        self._in: dict[str, Caller] = {}  # the others, by the id of the call at their node, which no other node uses
        self._known: BoundedDict[tuple[str, ...], Route] = BoundedDict(MAX_KNOWN)
        self._period = 0
        self._loads = Loads(nodes, self._loads_of)
        self._by_load, self._is_crowded = self._loads.names, nodes.is_crowded
        self._searches: dict[tuple[str, ...], list[Callee]] = {}  # who waits for the result of each
        nodes.on(Called, self._called)
        nodes.on_many(PlainCall, self._called_plainly)
        nodes.on_many(Reply, self._answered)
        nodes.on(NotHere, self._not_here)
        nodes.on(Ended, self._ended)
        nodes.on(Paused, self._paused)
        nodes.on_departure(self._forget)
        nodes.on_lapse(self._lapsed)
        nodes.on_break(self._broken)
        nodes.on_refusal(self._refused)

    def stop(self) -> None:
        """See ``Calls.stop``."""
        super().stop()
        self._loads.stop()

    def review_routes(self) -> None:
        """Let each callee that is known be looked for again when it is called next: others may share its name by now.

        To be called every few seconds.
        """
        self._period += 1

    def registry_of(self, kind: str) -> Registry[Party]:
        """Return who holds the names of *kind* here; see ``ClusterNames``."""
        return self._registries[kind]

    # The caller's side.

    def find(self, procedure: str, service: str = "") -> tuple[Party, str]:
        """Return who is called for *procedure*, or a stand-in that will find out."""
        entry = self.services.get(service) if service else self.performers.get(procedure)
        if entry is not None:
            name = SERVICE + service if service else PROCEDURE + procedure
            if not (entry.shared or self._holds(name)):
                raise _not_held(name)
            only = entry.only  # see ``Calls.find``
            if procedure not in self.performers.by_load:
                return entry.choose() if only is None else only, service or procedure
            if not self._others_may_be_less_busy(entry):
                return entry.choose(), service or procedure
        # Not by ``lookup``, if that can be spared: each call to another node comes by here.
        names, missing = lookup(procedure, service) if service or len(procedure) > MAX_LENGTH else looked_up(procedure)
        return Callee(names, missing, self._forward, self._out), service

    def _others_may_be_less_busy(self, entry: Registration[Party]) -> bool:
        # Also while no other node is known: one may have come since the last renewal of the lease.
        return loads_of(entry, 1)[0] > 0 and self._messenger.bus.lease > 0

    def find_taker(self, topic: str) -> Party:
        """Return who gets streamed requests of *topic*, or a stand-in that will find out."""
        entry = self.takers.get(topic) if topic else None
        if entry is not None:
            return entry.next()
        topics = (topic, "*") if topic else ("*",)
        return self.find_remote([TAKER + name for name in topics], NotFound("request", topic or "*"))

    def find_remote(self, names: Iterable[str], error: BrokerError) -> Party:
        """Return a stand-in for whoever holds one of *names*."""
        return Callee(tuple(names), lambda: error, self._forward, self._out)

    def _forward(self, callee: Callee) -> None:
        route = self._known.get(callee.names)
        if (
            route is None
            or route.period != self._period
            or not route.plain
            or callee.fresh
            or self._lease_of(route.untried[0]) != route.nodes[0][1]
            or route.name in self._by_load
        ):
            self._forward_slowly(callee)
            return
        # The usual case, in a third of the time.
        request: Any = callee.request  # that of who is called; a ``cast`` is a call, for each
        id, body, caller = request.id, request.body, request.caller
        if request.original or request.attachments or not caller.isascii() or self._out[id].quiet:
            self._try(callee, route)
            return
        callee.name, callee.address = route.name, route.untried[0]
        call = PlainCall(id, request.procedure, body, caller, request.timeout, request.time, request.dialect)
        if not self._post(callee.address, call, len(body) + CALL_BYTES, callee):
            self._give_up(callee, self._not_sent())

    def _forward_slowly(self, callee: Callee) -> None:
        """Send the request of *callee* where that is known to be, or look for it."""
        route = None if callee.fresh else self._route(callee.names)
        if route is None or route.name in self._by_load:
            callee.fresh = True
            self._look_for([callee])
        else:
            self._try(callee, route)

    def _look_for(self, callees: list[Callee]) -> None:
        """Look for *callees*, which have the same names; behind those that are looked for by these already."""
        waiting = self._searches.get(callees[0].names)
        if waiting is None:
            self._search(callees)
        else:
            waiting += callees

    def _search(self, callees: list[Callee]) -> None:
        """Look for *callees*; those that come meanwhile wait for the result."""
        names = callees[0].names
        self._searches[names] = []
        search = Deferred.fromCoroutine(self._messenger.holders(*names))
        search.addCallback(self._found, callees).addErrback(self._not_found, callees)

    def _route(self, names: tuple[str, ...]) -> Route | None:
        """Return where one of *names* was found, if all those nodes have had their leases since."""
        route = self._known.get(names)
        if route is not None:
            for address, lease in route.nodes:
                if self._lease_of(address) != lease:
                    del self._known[names]
                    return None
            if route.period != self._period:
                route.period = self._period
                # This call goes where the last one went: it need not wait.
                Deferred.fromCoroutine(self._review(names, route)).addErrback(_review_failed)
        return route

    async def _review(self, names: tuple[str, ...], route: Route) -> None:
        name, addresses = await self._messenger.holders(*names)
        if self._known.get(names) is route and (name, set(addresses)) != (
            route.name,
            {node for node, _ in route.nodes},
        ):
            del self._known[names]

    def _found(self, found: tuple[str, list[str]], callees: list[Callee]) -> None:
        name, addresses = found
        names = callees[0].names
        later = _not_sent_yet(self._searches.pop(names))
        callees = _not_sent_yet(callees)
        nodes = [(address, self._lease_of(address)) for address in addresses]
        plain = self._is_plain(name, addresses)
        route = Route(name, nodes, tuple(addresses), self._period, plain)
        if addresses:
            self._known[names] = route
            callees += later
            later = []
        if len(addresses) > 1 and name.startswith(PROCEDURE):
            self._loads.ask(name, addresses, lambda known: self._distribute(callees, route, known))
        else:
            for callee in callees:
                self._try(callee, route)
        if later:  # they may have come after somebody began to perform it, and that after the search
            self._look_for(later)

    def _is_plain(self, name: str, addresses: list[str]) -> bool:
        alone = len(addresses) == 1 and addresses[0] != self._messenger.bus.address
        return alone and name.startswith(PROCEDURE) and name.isascii() and messages_of(addresses[0]) >= PLAIN_CALLS

    def _try(self, callee: Callee, route: Route) -> None:
        callee.name, callee.untried = route.name, route.untried
        if len(route.untried) > 1:
            # Nodes that share the name are used round-robin.
            route.untried = (*route.untried[1:], route.untried[0])
        self._try_next(callee)

    def _distribute(self, callees: list[Callee], route: Route, known: Known) -> None:
        """Send the requests of *callees* to those who are least busy, if that matters, as far as it is known."""
        callees = _not_sent_yet(callees)
        if not known:
            for callee in callees:
                self._try(callee, route)
            return
        orders = distribute(known, self._loads.rotated(route.untried), len(callees))
        for callee, untried in zip(callees, orders, strict=True):
            callee.name, callee.untried = route.name, untried
            self._try_next(callee)

    def _loads_of(self, name: str) -> Load:
        """Return how busy the performers of *name* are here; see ``Loads``."""
        procedure = name.removeprefix(PROCEDURE)
        entry = self.performers.get(procedure)
        return Load(name, [] if entry is None else loads_of(entry, MAX_LOADS), procedure in self.performers.by_load)

    def _not_found(self, failure: Failure, callees: list[Callee]) -> None:
        if failure.check(BrokerError) is None:
            log.failure("looking for a callee failed", failure)
        error = failure.value if isinstance(failure.value, BrokerError) else BrokerError("call")
        for callee in _not_sent_yet(callees + self._searches.pop(callees[0].names, [])):
            self._stay_here(callee, error)

    def _stay_here(self, callee: Callee, error: BrokerError) -> None:
        """Let whoever performs it here have the call, however busy, since others can not be found; else end it."""
        name = callee.names[0]
        if name.startswith(PROCEDURE) and name.removeprefix(PROCEDURE) in self.performers.by_load:
            callee.name, callee.untried = name, (self._messenger.bus.address,)
            self._try_next(callee)
        else:
            self._give_up(callee, error)

    def _try_next(self, callee: Callee) -> None:
        request = callee.request
        assert request is not None
        call = self._out.get(request.id)
        if call is None:  # it has ended meanwhile
            if callee.orphaned:
                self._send_orphan(callee, request.id)
            return
        if callee.untried:
            if not self._send_call(callee, request, call.quiet):
                self._give_up(callee, self._not_sent())
            return
        self._known.pop(callee.names, None)
        if not callee.fresh:  # where it was remembered to be it is not; others may have found that out before
            self._forward_again(callee)
        else:
            self._give_up(callee, callee.error or callee.missing())

    def _send_call(self, callee: Callee, request: Request, quiet: bool) -> bool:
        """Send *request* to the next node that was not tried."""
        callee.address, callee.untried = callee.untried[0], callee.untried[1:]
        return self._send(callee.address, Called(callee.name, request, quiet), callee)

    def _not_sent(self) -> BrokerError:
        return NotDone("call", message=TOO_MUCH if self._messenger.bus.lease else NO_LEASE)

    def _send_orphan(self, callee: Callee, id: str) -> None:
        """Send the request all the same: alone, the callee would have got it before the caller left."""
        if callee.untried and callee.request is not None and self._send_call(callee, callee.request, False):
            self._send(callee.address, Ended(id), urgent=True)

    def _forward_again(self, callee: Callee) -> None:
        callee.fresh = True
        callee.address = ""
        self._forward(callee)

    def _refused(self, callee: Callee) -> bool:
        """Send a request elsewhere that has surely not arrived; False: there is no other node."""
        over = self._call_of(callee) is None
        if over and not (callee.orphaned and callee.untried):
            return False
        if callee.fresh and not callee.untried:
            return False  # its node may begin to listen again, and else its lease will end
        callee.address = ""
        self._try_next(callee)
        return True

    def _call_of(self, callee: Callee) -> Call | None:
        """Return the call of *callee*; None: it has ended."""
        return self._out.get(callee.request.id) if callee.request is not None else None

    def _give_up(self, callee: Callee, error: BrokerError) -> None:
        """End the call of *callee* with *error*, whether or not some of its answers have come; its node knows."""
        call = self._call_of(callee)
        if call is not None:
            callee.address = ""
            self._end(call, result_of(error))
            call.caller.on_reply(Reply(call.ref, b"null", error, BROKER, streamed=call.streamed))

    def _answered(self, address: str, replies: Iterator[Reply]) -> None:
        """Bring *replies* of the node *address* to the callers."""
        out = self._out
        for reply in replies:
            call = out.get(reply.ref)
            if call is None:
                continue
            callee: Any = call.callee
            if callee.address != address:
                continue
            if reply.error is None and not call.streamed:
                callee.address = ""  # it has ended there, too
                self.finish(call)
                reply.ref = call.ref
                call.caller.on_reply(reply)
            else:
                self._answered_otherwise(call, callee, reply)

    def _answered_otherwise(self, call: Call, callee: Callee, reply: Reply) -> None:
        """Take an answer of many, or an error."""
        if reply.error is not None and reply.source == BROKER:
            if isinstance(reply.error, Busy) and self._others_may_take(callee):
                callee.error = reply.error
                self._try_next(callee)  # it was not begun there
                return
            self._give_up(callee, reply.error)
        elif call.streamed:
            callee.client = reply.source
            self.answer(callee, reply.ref, reply.body, reply.error, reply.time, reply.attachments)
        else:
            callee.address = ""  # it has ended there, too
            Calls._end(self, call, "error")
            reply.ref = call.ref
            call.caller.on_reply(reply)

    def _others_may_take(self, callee: Callee) -> bool:
        """Whether nodes are left to try, or may have come since those were looked for."""
        return bool(callee.untried) or (not callee.fresh and callee.name in self._by_load)

    def _callee_at(self, address: str, id: str) -> Callee | None:
        """Return who performs the call *id* at the node *address*, or None."""
        call = self._out.get(id)
        if call is None:
            return None
        callee = cast(Callee, call.callee)
        return callee if callee.address == address else None

    def _tell_pause(self, callee: Party, paused: bool) -> None:
        """See ``Calls._tell_pause``."""
        if isinstance(callee, Callee) and callee.address and callee.request is not None:
            self._send(callee.address, Paused(callee.request.id, paused), urgent=True)

    def _paused(self, address: str, message: Paused) -> None:
        """Let those who answer a streamed request of another node wait, or go on."""
        caller = self._in.get(message.id)
        if caller is not None and caller.address == address:
            caller.halted, caller.unsent = message.paused, caller.unsent + 1
            caller.drains += not message.paused
            for call in caller.calling.values() if message.paused else ():
                self._pressure.add(call.callee, caller)

    def _not_here(self, address: str, message: NotHere) -> None:
        callee = self._callee_at(address, message.id)
        if callee is not None:
            if callee.name.startswith((CLIENT, SESSION)):
                callee.error = message.wire_error.error()  # the recipient is connected, but does not perform it
            self._try_next(callee)

    # The callee's side.

    def _called_plainly(self, address: str, calls: Iterator[PlainCall]) -> None:
        """Hand each of *calls* to who performs the procedure, where nothing else is to be seen to."""
        performers, callers = self.performers, self._callers_at(address)
        held = None  # which procedure this node has the right to perform: they take less time than a lease has to spare
        for asked in calls:
            name = asked.procedure
            entry = performers.get(name)
            if entry is None or type(entry) is not Registration:
                self._called(address, asked.called())
                continue
            if name != held and not entry.shared:
                if not self._holds(PROCEDURE + name):
                    self._called(address, asked.called())
                    continue
                held = name
            only = entry.only  # see ``Calls.find``
            request = Request(
                asked.id,
                name,
                name,
                "",
                asked.body,
                asked.caller,
                "",
                asked.timeout,
                asked.time,
                False,
                asked.dialect,
            )
            self._begin(callers, entry.next() if only is None else only, request)

    def _callers_at(self, address: str) -> Callers:
        """Return who stands for the callers of the node *address*."""
        callers = self._callers.get(address)
        if callers is None:
            post = None if address == self._messenger.bus.address else self._post
            callers = self._callers[address] = Callers(address, post, self._send, self._refuse_unsent)
        return callers

    def _begin(self, callers: Callers, callee: Party, request: Request) -> None:
        """Hand *request* of another node, which gets one answer, to *callee*.

        It keeps its id, and its deadline is that node's, which tells when that is over; if it can not, the link breaks.
        """
        id = request.id
        if self.pending >= self._total_limit:
            self._send(callers.address, _refusal(id, RateLimited("limit", "calls")), urgent=True)
            return
        call = Call(id, id, callers, callee, request.procedure)
        callers.calling[id] = callee.serving[id] = call
        self.pending += 1
        try:
            callee.on_request(request)
        except BrokerError as error:
            self._end(call, "error")
            self._send(callers.address, _refusal(id, error), urgent=True)

    def _refuse_unsent(self, address: str, id: str) -> None:
        """Let a call there fail whose answer can not be sent."""
        self._send(address, _refusal(id, self._not_sent()), urgent=True)

    def _called(self, address: str, message: Called) -> None:
        request = message.request
        id = request.id
        try:
            callee, request.service = self._at(message.name, request)
        except (NotFound, Gone) as error:
            self._send(address, NotHere(id, WireError.of(error)), urgent=True)
            return
        except Unavailable as error:
            self._send(address, _refusal(id, error), urgent=True)
            return
        request.method = request.procedure[len(request.service) + 1 :] if request.procedure else ""
        if not (request.streamed or isinstance(callee, LimitedProcedure | Addressed)):
            self._begin(self._callers_at(address), callee, request)
            self._notify_load(address, message.name)
            return
        caller = self._in[id] = Caller(address, id, request.caller, self._send, self._not_answered, self._is_crowded)
        refusal = None
        try:
            self.open(caller, callee, id, request, message.quiet)
        except BrokerError as error:
            self._in.pop(id, None)  # it may not have been opened at all
            refusal = error
        self._notify_load(address, message.name)  # before it is told of a refusal: others may be less busy
        if refusal is not None:
            self._refuse(caller, refusal)

    def _notify_load(self, address: str, name: str) -> None:
        """Tell the node of a caller how busy those are who perform *name* here, if that matters."""
        if self.performers.by_load and name.removeprefix(PROCEDURE) in self.performers.by_load:
            self._loads.notify(address, name)

    def _refuse(self, caller: Caller, error: BrokerError) -> None:
        """Let the call of *caller* fail there."""
        caller.told = True
        self._send(caller.address, _refusal(caller.id, error), urgent=True)

    def _not_answered(self, caller: Caller) -> None:
        """End the call of *caller*, whose answer can not be sent: not without a word, and never with a hole in it."""
        self._refuse(caller, self._not_sent())
        for call in list(caller.calling.values()):
            self._end(call, "error")

    def _at(self, name: str, request: Request) -> tuple[Party, str]:
        """Return who is known here under the *name* of the bus, and the service or procedure it performs."""
        kind, rest = _split(name)
        registry = self._registries.get(kind)
        if registry is None:
            sessions = self._sessions_of(rest)
            if not sessions:
                raise Gone("recipient", rest)
            return (sessions[0], "") if request.streamed else self.find_at(request.procedure, sessions)
        entry = registry.get(rest)
        if entry is None:
            raise NotFound("method", rest)
        if not (entry.shared or self._holds(name)):
            raise _not_held(name)
        return entry.choose(), "" if kind == TAKER else rest

    # Both.

    def leave(self, party: Party) -> None:
        """End every call of *party*; the requests whose callees are still looked for are sent all the same."""
        for key in party.calling:
            call = self._out.get(key)
            if call is not None:
                callee = cast(Callee, call.callee)
                callee.orphaned = not callee.address
        super().leave(party)

    def _ended(self, address: str, message: Ended) -> None:
        """End a call that has ended at the other node, whichever side that is."""
        callers, caller = self._callers.get(address), self._in.get(message.id)
        begun = None if callers is None else callers.calling.get(message.id)
        if begun is not None:
            self._abandon(begun, message.cancelled)
        elif caller is not None and caller.address == address:
            self._end_caller(caller, message.cancelled)
        callee = self._callee_at(address, message.id)
        if callee is not None:
            callee.address = ""
            self._end(self._out[message.id], "lost")

    def _end_caller(self, caller: Caller, cancelled: bool = False) -> None:
        caller.told = True
        for call in list(caller.calling.values()):
            self._abandon(call, cancelled)

    def _abandon(self, call: Call, cancelled: bool = False) -> None:
        """End *call* of another node, where it has ended."""
        if cancelled:
            call.callee.on_cancel(call.id)
        if call.id in call.callee.serving:  # else it was answered at once
            self._end(call, "abandoned")

    def _forget(self, address: str) -> None:
        """Forget what was found on a node whose lease has ended."""
        lease = self._lease_of(address)
        for names, route in list(self._known.items()):
            if any(each == address and number != lease for each, number in route.nodes):
                del self._known[names]

    def _lapsed(self) -> None:
        """End what is still looked for; the rest has ended with the links."""
        self._known.clear()
        for callee, _ in self._callees(""):
            self._stay_here(callee, self._not_sent())

    def _callees(self, address: str) -> list[tuple[Callee, Call]]:
        """Return those who are asked at the node *address*; with "", those who are looked for."""
        found = [(cast(Callee, call.callee), call) for call in self._out.values()]
        return [(callee, call) for callee, call in found if callee.address == address]

    def _broken(self, address: str, unsent: list[Callee]) -> None:
        """End what was under way with a node; send requests elsewhere that have surely not arrived there."""
        for caller in [each for each in self._in.values() if each.address == address]:
            self._end_caller(caller)
        callers = self._callers.pop(address, None)
        for begun in [] if callers is None else list(callers.calling.values()):
            self._abandon(begun)
        again = set(unsent)
        for callee, call in self._callees(address):
            if callee in again and self._messenger.bus.lease:
                self._forward_again(callee)
            elif callee in again:
                self._give_up(callee, self._not_sent())
            else:
                self._give_up(callee, Gone("lost", call.name))

    def _end(self, call: Call, result: str) -> None:
        Calls._end(self, call, result)  # each call comes by here: not by ``super``, which takes longer than the rest
        callee, caller = call.callee, call.caller
        if isinstance(callee, Callee) and callee.address:
            address, callee.address = callee.address, ""
            self._send(address, Ended(call.id, callee.cancelled), urgent=True)
        if isinstance(caller, Caller):
            self._in.pop(caller.id, None)
            if call.streamed and call.answers and not caller.told:
                self._send(caller.address, Ended(caller.id), urgent=True)


def _not_sent_yet(callees: list[Callee]) -> list[Callee]:
    """Return those of *callees* whose calls have not stayed here, while others were looked for or asked."""
    return [callee for callee in callees if not callee.address]


def _review_failed(failure: Failure) -> None:
    if not failure.check(BrokerError):  # else the next period will do
        log.failure("looking for a callee again failed", failure)


_split = remembered(MAX_NAMES)(split_kind)


def _refusal(id: str, error: BrokerError) -> Reply:
    return Reply(id, b"null", error, BROKER)


def _not_held(name: str) -> Unavailable:
    """Return the error for *name*, which another node may hold since this one has lost its lease."""
    return Unavailable("call", split_kind(name)[1], message=LAPSED)
