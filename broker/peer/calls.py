"""The verbs of calls and streamed requests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, cast

from broker.core.call import Party
from broker.core.call_limits import MAX_WAITING, PLAIN, Terms
from broker.core.owners import SERVICE_NAME
from broker.core.shares import Share
from broker.core.slices import slices_of
from broker.errors import BrokerError, Gone, Invalid, NotFound, RateLimited, Taken
from broker.messages import MAX_TIME, Request
from broker.patterns import CLIENT, PROCEDURE, SERVICE, SESSION, TAKER, check_name, check_pattern, matches
from broker.peer.client import Client

MAX_PROCEDURES = 10_000  # names of one answer, unless it asks for another number
NAMES_PER_LOOK = 100  # names looked at between two looks at the clock
# The setting of how many calls may wait, by whether it is that of one client.
CALL_LIMITS = ("TXBROKER_MAX_CALLS", "TXBROKER_MAX_CALLS_PER_CLIENT")


class Holder(Protocol):
    """What a takeover needs of the peer that holds a name."""

    async def lives(self, timeout: float) -> bool:
        """Say whether its client responds within *timeout* seconds; if not, disconnect and close it."""


class CallVerbs(Client):
    """Call and be called."""

    __slots__ = ()

    async def perform(
        self,
        names: Iterable[str],
        *,
        shared: bool = False,
        as_service: bool = False,
        takeover: bool = False,
        least_busy: bool = False,
        max_in_flight: int = 0,
        queue: int = 0,
    ) -> None:
        """See ``IPeer.perform``."""
        names, calls = list(names), self._parts.calls
        terms = _terms(least_busy, max_in_flight, queue)
        if terms != PLAIN and (as_service or (least_busy and not shared)):
            raise Invalid("mode")
        for name in names:
            self._allow("register", name, rate_limited=name is names[0])  # one request, one token
            self._own("register", name)
        if len(calls.registry(as_service).names_of(self)) + len(names) > self._parts.settings.max_registrations:
            raise self._log(RateLimited("limit", "registrations"), "register", "TXBROKER_MAX_REGISTRATIONS")
        for name in names if as_service else ():
            waiting = self._see_to_id(SERVICE_NAME, name, "register")
            if waiting is not None:
                await waiting
        for name in names:
            await self._vacate(name, shared, terms, as_service, takeover)
        kind = SERVICE if as_service else PROCEDURE
        with self._parts.cluster.claimant() as claimant:
            for name in names:
                await claimant.claim(kind + name, shared=shared, takeover=takeover)
            if self.closed:
                raise Gone("lost", names[0])
            # Others may have registered while we waited, or who is called so may have come.
            claimant.check()
            for name in names:
                calls.check(self, name, shared, terms, as_service)
                if as_service:
                    self._check_id(name, "register")
            for name in names:
                calls.perform(self, name, shared, terms, as_service)

    async def _vacate(self, name: str, shared: bool, terms: Terms, as_service: bool, takeover: bool) -> None:
        """Return when this peer can have *name*, perhaps after the disconnect of a holder that does not respond."""
        calls = self._parts.calls
        while True:
            try:
                return calls.check(self, name, shared, terms, as_service)
            except Taken:
                entry = calls.registry(as_service).get(name)
                seconds = self._parts.settings.takeover_probe_seconds
                if not takeover or entry is None or await cast(Holder, entry.next()).lives(seconds):
                    raise
            if self.closed:
                raise Gone("lost", name)

    def _unclaim(self, names: Iterable[str], as_service: bool) -> None:
        """Give those of *names* back to the other nodes that nobody performs here."""
        kind = SERVICE if as_service else PROCEDURE
        self._parts.cluster.release([kind + name for name in names])

    def release(self, name: str, *, as_service: bool = False) -> bool:
        """See ``IPeer.release``."""
        released = self._parts.calls.registry(as_service).remove(self, name)
        if released:
            self._unclaim((name,), as_service)
        return released

    def procedures(self) -> list[str]:
        """See ``IPeer.procedures``."""
        self._allow("procedures", "", check_permission=False)
        calls, grants = self._parts.calls, self.identity.grants
        names = sorted({*calls.performers, *calls.services})
        return [name for name in names if grants is None or grants.may("call", name)]

    async def matching_procedures(self, pattern: str, limit: int = MAX_PROCEDURES) -> list[str]:
        """See ``IPeer.matching_procedures``."""
        self._allow("procedures", "", check_permission=False)
        check_pattern(pattern)
        share = self._share or self._take_share()
        try:
            permit = share.listing.permit()
        except RateLimited as error:
            raise self._log(error, "procedures", "") from None
        async with permit:
            return await self._list(pattern, limit)

    async def _list(self, pattern: str, limit: int) -> list[str]:
        calls, grants, slices = self._parts.calls, self.identity.grants, slices_of(self._parts.clock)
        found: set[str] = set()
        end = slices.deadline()
        for number, name in enumerate([*calls.performers, *calls.services]):
            if number % NAMES_PER_LOOK == 0:
                end = await slices.checked(end)
                if self.closed:
                    raise Gone("lost", pattern)
                if len(found) > 2 * limit:
                    found = set(sorted(found)[:limit])
            if (pattern == ">" or matches(pattern, name)) and (grants is None or grants.may("call", name)):
                found.add(name)
        return sorted(found)[:limit]

    def call(self, ref: str, request: Request, *, quiet: bool = False, service: str = "") -> None:
        """See ``IPeer.call``."""
        self._allow("call", request.procedure)
        calls = self._parts.calls
        if request.recipient:
            callee, service = self._callee_at(request.recipient, request.procedure)
        else:
            callee, service = calls.find(request.procedure, service)
        request.service = service
        request.method = request.procedure[len(service) + 1 :]
        request.caller = self.client
        request.dialect = self.dialect
        share = self._share or self._take_share()
        try:
            calls.open(self, callee, ref, request, quiet, share, self._verbs.calls)
        except RateLimited as error:
            raise self._log_calls(error, "call", share) from None

    def answer(
        self,
        id: str,
        body: bytes,
        error: BrokerError | None = None,
        *,
        time: float = 0.0,
        attachments: tuple[bytes, ...] = (),
    ) -> bool:
        """See ``IPeer.answer``."""
        self._verbs["answer"] += 1
        if not 0.0 <= time <= MAX_TIME:
            time = 0.0  # no time that a clock shows: the caller must get its answer all the same
        within_rate = self._bucket is None or self._bucket.take_token()
        # What somebody waits for is brought at any rate: that it was asked for has been counted.
        awaited = self._parts.calls.answer(self, id, body, error, time, attachments)
        if not awaited:
            self._parts.metrics.answers_dropped += 1
            if not within_rate:
                raise self._over_rate("answer")
        return awaited

    def cancel(self, ref: str) -> None:
        """See ``IPeer.cancel``."""
        self._allow("cancel", ref, check_permission=False)
        self._parts.calls.cancel(self, ref)

    def acknowledge(self, topic: str) -> None:
        """See ``IPeer.acknowledge``."""
        self._allow("acknowledge", topic)
        if topic != "*":
            check_name(topic)
            self._own("acknowledge", topic)
        if len(self.acknowledged) >= self._parts.settings.max_registrations:
            raise self._log(RateLimited("limit", "registrations"), "acknowledge", "TXBROKER_MAX_REGISTRATIONS")
        self._parts.calls.takers.add(self, topic, shared=True)
        self._parts.cluster.hold(TAKER + topic)

    def unacknowledge(self, topic: str) -> None:
        """See ``IPeer.unacknowledge``."""
        if self._parts.calls.takers.remove(self, topic):
            self._parts.cluster.release((TAKER + topic,))

    @property
    def acknowledged(self) -> list[str]:
        """See ``IPeer.acknowledged``."""
        return self._parts.calls.takers.names_of(self)

    def request(self, ref: str, request: Request, topic: str = "") -> None:
        """See ``IPeer.request``."""
        self._allow("request", request.recipient or topic or "*")
        calls = self._parts.calls
        target = self._session(request.recipient) if request.recipient else calls.find_taker(topic)
        request.streamed = True
        request.caller = self.client
        request.dialect = self.dialect
        share = self._share or self._take_share()
        try:
            calls.open(self, target, ref, request, False, share)
        except RateLimited as error:
            raise self._log_calls(error, "request", share) from None

    def _log_calls(self, error: RateLimited, verb: str, share: Share) -> BrokerError:
        """Return *error*; log it, unless it is the callee's own."""
        if error.name == "pending":
            return self._log(error, verb, "TXBROKER_MAX_PENDING_CALLS")
        if error.name == "calls":
            of_client = share.calls >= self._parts.settings.max_calls_per_client
            return self._log(error, verb, CALL_LIMITS[of_client])
        return error

    def _session(self, recipient: str) -> Party:
        try:
            return self._sessions(recipient)[0]
        except Gone as error:
            return self._parts.calls.find_remote(_names_of(recipient), error)

    def _callee_at(self, recipient: str, procedure: str) -> tuple[Party, str]:
        calls = self._parts.calls
        try:
            return calls.find_at(procedure, self._sessions(recipient))
        except (Gone, NotFound) as error:
            return calls.find_remote(_names_of(recipient), error), ""

    def _sessions(self, recipient: str) -> list[Party]:
        sessions = self._parts.presence.sessions(recipient)
        if not sessions:
            raise Gone("recipient", recipient)
        return sessions


def _terms(least_busy: bool, max_in_flight: int, queue: int) -> Terms:
    """Return those terms.

    Raises:
        Invalid: one of the numbers is none that there can be, or there is a queue for what never waits.
    """
    if max_in_flight < 0:
        raise Invalid("max_in_flight")
    if not 0 <= queue <= MAX_WAITING or (queue and not max_in_flight):
        raise Invalid("queue")
    return Terms(least_busy, max_in_flight, queue)


def _names_of(recipient: str) -> tuple[str, str]:
    """Return the names by which other nodes know a client or a session."""
    return CLIENT + recipient, SESSION + recipient
