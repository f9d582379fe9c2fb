"""Who performs what, and the calls that wait for an answer.

A call has one owner on each side and ends exactly once: by the answer, the
deadline, the callee's leaving or the caller's.  A streamed request is a call
that may be answered many times, until it has been idle for too long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from uuid import uuid4

from twisted.internet.interfaces import IReactorTime

from broker.core.back_pressure import BackPressure
from broker.core.call import Call, Party, Times
from broker.core.call_limits import Terms
from broker.core.deadlines import Deadlines
from broker.core.memory import Account
from broker.core.performers import Performers
from broker.core.registry import Registry, text_bytes
from broker.core.shares import Share
from broker.core.slices import slices_of
from broker.errors import BrokerError, Cancelled, Gone, Invalid, NotFound, RateLimited, Timeout
from broker.messages import MAX_TIME, Reply, Request
from broker.patterns import BROKER

MAX_KEPT_LENGTH = 1024  # characters of what a call keeps: the caller's own id of it, and the procedure
LONG = 128  # characters of the two, from which on their bytes are counted
MIN_GRACE = 1.0  # seconds for which anybody may read nothing of a stream
MAX_KEPT_BYTES = 1 << 21  # of those of the calls of one caller


class Calls:
    """Finds the callee, keeps the call, brings the answer back.

    Args:
        clock: gives the time and the deadlines.
        pending_limit: how many calls of one caller may wait at once.
        idle: seconds after which a streamed request without answers ends.
        share_limit: how many calls that count in one share may wait at once.
        total_limit: how many calls may wait at once in all.
        account: counts the bytes of calls that no performer may have yet; None: nobody does.
        grace: seconds for which a caller may read nothing of its streams while others wait for who answers them.
    """

    def __init__(
        self,
        clock: IReactorTime,
        pending_limit: int = 10000,
        idle: float = 60.0,
        *,
        share_limit: int = 50_000,
        total_limit: int = 100_000,
        account: Account | None = None,
        grace: float = 5.0,
    ) -> None:
        self.performers = Performers(hold_for, self._fail, clock, account)
        self.services: Registry[Party] = Registry("exists", hold_for)
        self.takers: Registry[Party] = Registry("exists", hold_for)
        self._slices = slices_of(clock)
        self._idle = idle
        self._limit, self._share_limit, self._total_limit = pending_limit, share_limit, total_limit
        self._deadlines: Deadlines[Call] = Deadlines(clock, self._expired)
        self._pressure = BackPressure(clock, self._tell_pause, max(MIN_GRACE, grace))
        self._numbers = count(1)
        # Ids are sent to clients: the random part makes them unique over
        # nodes and restarts, and only the callee can use one anyway.
        self._prefix = uuid4().hex[:16] + "-"
        self._kept: dict[Party, int] = {}  # bytes of the long texts of a caller's calls
        self.pending = 0

    def stop(self) -> None:
        """Drop all deadlines."""
        self._deadlines.stop()
        self._pressure.stop()

    def registry(self, as_service: bool) -> Registry[Party]:
        """Return the registry of procedures, or, *as_service*, of services with all below them."""
        return self.services if as_service else self.performers

    def check(self, party: Party, name: str, shared: bool, terms: Terms, as_service: bool) -> None:
        """Raise ``Taken`` when *party* can not perform *name*; *terms* are of procedures only."""
        if as_service:
            self.services.check(party, name, shared)
        else:
            self.performers.check(party, name, shared, terms)

    def perform(self, party: Party, name: str, shared: bool, terms: Terms, as_service: bool) -> None:
        """Let *party* perform *name*; see ``check``."""
        if as_service:
            self.services.add(party, name, shared)
        else:
            self.performers.add(party, name, shared, terms)

    def find(self, procedure: str, service: str = "") -> tuple[Party, str]:
        """Return who is called for *procedure* now, and the registered name.

        "Lookup: the exact procedure, else the longest registered service that
        is a prefix followed by '.'."

        For a caller that names a *service*: "service T if registered, else
        procedure T.E", and no service of another name.

        Raises:
            NotFound: there is none.
        """
        entry = self.services.get(service) if service else None
        if entry is not None:
            return entry.next(), service
        entry = self.performers.get(procedure)
        if entry is not None:
            only = entry.only  # the usual one, that is alone, for the price of a look
            return entry.choose() if only is None else only, procedure
        if service:
            raise NotFound("service", service)
        for name in self._services_of(procedure):
            entry = self.services.get(name)
            if entry is not None:
                return entry.next(), name
        raise NotFound("method", procedure)

    def find_at(self, procedure: str, recipients: Iterable[Party]) -> tuple[Party, str]:
        """Return the first of *recipients* that performs *procedure*, and under which name.

        Raises:
            NotFound: none of them does.
        """
        for party in recipients:
            if self.performers.has(party, procedure):
                return self.performers.addressed(procedure, party), procedure
            for name in self._services_of(procedure):
                if self.services.has(party, name):
                    return party, name
        raise NotFound("method", procedure)

    def find_taker(self, topic: str) -> Party:
        """Return who gets a streamed request of *topic* now, else one that takes any.

        Raises:
            NotFound: there is none.
        """
        entry = (self.takers.get(topic) if topic else None) or self.takers.get("*")
        if entry is None:
            raise NotFound("request", topic or "*")
        return entry.next()

    def find_remote(self, names: Iterable[str], error: BrokerError) -> Party:
        """Return a stand-in for a callee on another node, known there by one of *names*; alone, raise *error*."""
        raise error

    def _services_of(self, procedure: str) -> Iterator[str]:
        """Yield the names of services that *procedure* could be of, the longest first.

        "S owns every procedure that begins with S.": the name alone is none.
        """
        name = procedure.rpartition(".")[0] if len(self.services) else ""
        while name:
            yield name
            name = name.rpartition(".")[0]

    def open(
        self,
        caller: Party,
        callee: Party,
        ref: str,
        request: Request,
        quiet: bool = False,
        share: Share | None = None,
        times: Times | None = None,
    ) -> None:
        """Send *request* to *callee* and keep the call.  Sets ``request.id``.

        Its end comes as a reply to ``caller.on_reply``; with *quiet*, the deadline
        ends it without one.  Until then it counts in *share*; then *times* is told of it.

        Raises:
            Invalid: *ref* or the procedure is too long to be kept.
            Invalid: its time or its timeout is no time that a clock shows.
            RateLimited: too many calls are waiting: of the caller, in its share or in all.
            Busy: who performs it may not have one more, and no more may wait.
            BrokerError: the callee refuses it.
        """
        procedure, kept = request.procedure, 0
        if len(ref) + len(procedure) > LONG:
            kept = self._check_texts(caller, ref, procedure)
        # Floats, as what they are compared with: that is faster.
        if not (0.0 <= request.timeout <= MAX_TIME and 0.0 <= request.time <= MAX_TIME):
            raise Invalid("time" if 0.0 <= request.timeout <= MAX_TIME else "timeout")
        calling = caller.calling
        if len(calling) >= self._limit:
            raise RateLimited("limit", "pending")
        if self.pending >= self._total_limit or (share is not None and share.calls >= self._share_limit):
            raise RateLimited("limit", "calls")
        request.id = key = f"{self._prefix}{next(self._numbers)}"
        began = 0.0 if times is None else times.now()
        streamed = request.streamed
        call = Call(key, ref, caller, callee, procedure, streamed, quiet, None, 0, share, kept, None, times, began)
        delay = self._idle if streamed else request.timeout
        if delay > 0:
            call.bucket = self._deadlines.add(call, delay)
        calling[key] = callee.serving[key] = call
        self.pending += 1
        if share is not None:
            share.calls += 1
        if kept:
            self._keep(caller, kept)
        try:
            callee.on_request(request)
        except BrokerError:
            self._end(call, "error")
            raise

    def _check_texts(self, caller: Party, ref: str, procedure: str) -> int:
        """Return the bytes of *ref* and *procedure*, which are long enough to be counted.

        Raises:
            Invalid: one is too long to be kept.
            RateLimited: the calls of *caller* have too many of them.
        """
        if len(ref) > MAX_KEPT_LENGTH or len(procedure) > MAX_KEPT_LENGTH:
            raise Invalid("id" if len(ref) > MAX_KEPT_LENGTH else "method")
        kept = text_bytes(ref) + text_bytes(procedure)
        if self._kept.get(caller, 0) + kept > MAX_KEPT_BYTES:
            raise RateLimited("limit", "pending")
        return kept

    def answer(
        self,
        callee: Party,
        key: str,
        body: bytes,
        error: BrokerError | None = None,
        time: float = 0.0,
        attachments: tuple[bytes, ...] = (),
    ) -> bool:
        """Bring *callee*'s answer to the caller; say whether it was awaited.

        Answers are taken only from the one the call was sent to: unknown,
        foreign, late and second ones are dropped.
        """
        call = callee.serving.get(key)
        if call is None:
            return False
        if call.streamed:
            self._answer_once(call, Reply(call.ref, body, error, callee.client, time, True, attachments))
            return True
        if error is None:
            self.finish(call)
        else:
            self._end(call, "error")
        call.caller.on_reply(Reply(call.ref, body, error, callee.client, time, False, attachments))
        return True

    def finish(self, call: Call) -> None:
        """End *call*, which is answered: what ``_end`` does, for most of all calls, in half of the time."""
        if call.limiter is not None or call.kept:
            self._end(call, "ok")
            return
        key, share, times, bucket = call.id, call.share, call.times, call.bucket
        del call.callee.serving[key], call.caller.calling[key]
        self.pending -= 1
        if share is not None:
            share.calls -= 1
        if times is not None:
            times.left -= 1
            if not times.left:
                times.ended(call.began, "ok")
        if bucket is not None:
            bucket.pop(call, None)

    def _answer_once(self, call: Call, reply: Reply) -> None:
        """Bring *reply*, one of perhaps many, to the caller of a streamed request."""
        call.answers += 1
        if call.bucket is not None:
            call.bucket.pop(call, None)
            call.bucket = self._deadlines.add(call, self._idle)
        call.caller.on_reply(reply)
        flow = call.caller.flow
        if flow is not None and flow.paused:
            self._pressure.add(call.callee, call.caller)

    def _tell_pause(self, callee: Party, paused: bool) -> None:
        """Let *callee* wait, or go on, if it is on another node; here, its connection does."""

    def cancel(self, caller: Party, ref: str) -> None:
        """End the calls of *caller* that it knows by *ref*, and tell their callees.

        Raises:
            NotFound: none is under way.
        """
        found = [call for call in caller.calling.values() if call.ref == ref]
        if not found:
            raise NotFound("call", ref)
        for call in found:
            if call.id in call.callee.serving:  # else it has ended meanwhile
                self._cancel(call)

    def _cancel(self, call: Call) -> None:
        call.callee.on_cancel(call.id)
        if call.id not in call.callee.serving:
            return  # it was answered at once
        self._end(call, "cancelled")
        call.caller.on_reply(Reply(call.ref, b"null", Cancelled("call", call.name), BROKER, streamed=call.streamed))

    def leave(self, party: Party) -> None:
        """End every call of *party* on either side, and its registrations."""
        for registry in (self.performers, self.services, self.takers):
            registry.leave(party)
        self._pressure.leave(party)
        self._end_all(iter(list(party.calling.values())), self._leave_call)
        self._end_all(iter(list(party.serving.values())), lambda call: self._fail(call, Gone("lost", call.name)))

    def _leave_call(self, call: Call) -> None:
        """End *call*, whose caller has left; a no-op when it has ended."""
        if call.id in call.caller.calling:
            self._end(call, "abandoned")

    def _end_all(self, calls: Iterator[Call], end_one: Callable[[Call], object]) -> None:
        """Call *end_one* with each of *calls*, in slices if there are many."""
        now, end = self._slices.now, self._slices.deadline()
        for call in calls:
            end_one(call)
            if now() >= end:
                self._slices.add(lambda: self._end_all(calls, end_one))
                return

    def _expired(self, call: Call) -> None:
        if call.quiet:
            self._end(call, "timeout")
        elif call.streamed and call.callee in self._pressure:
            call.bucket = self._deadlines.add(call, self._idle)  # it was not listened to meanwhile
        else:
            self._fail(call, Timeout("request" if call.streamed else "call", message="There was no answer in time"))

    def _fail(self, call: Call, error: BrokerError) -> None:
        """End *call* with *error*; a no-op when it has ended."""
        if call.id not in call.callee.serving:
            return
        self._end(call, result_of(error))
        # A stream that was answered has simply come to its end.
        if not (call.streamed and call.answers):
            call.caller.on_reply(Reply(call.ref, b"null", error, BROKER, streamed=call.streamed))

    def _end(self, call: Call, result: str) -> None:
        key, bucket, times = call.id, call.bucket, call.times
        if call.callee.serving.pop(key, None) is not None:
            self.pending -= 1
            if call.share is not None:
                call.share.calls -= 1
        if call.caller.calling.pop(key, None) is not None:
            if call.kept:
                self._keep(call.caller, -call.kept)
            if times is not None:
                if result == "ok":
                    times.left -= 1
                if not times.left or result != "ok":
                    times.ended(call.began, result)
        if bucket is not None:
            bucket.pop(call, None)
        if call.limiter is not None:
            call.limiter.ended(call)

    def _keep(self, caller: Party, change: int) -> None:
        kept = self._kept.pop(caller, 0) + change
        if kept:
            self._kept[caller] = kept
        caller.hold(change)


def result_of(error: BrokerError) -> str:
    """Return how a call has ended with *error*, for the metrics."""
    if isinstance(error, Timeout):
        return "timeout"
    return "lost" if isinstance(error, Gone) else "error"


def hold_for(party: Party, change: int) -> None:
    """Count how many bytes more are kept for *party*, or fewer."""
    party.hold(change)
