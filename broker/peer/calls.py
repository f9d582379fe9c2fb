"""Calls and streamed requests: make them, take them, answer them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from broker.core.calls import Party
from broker.core.registry import Registry
from broker.errors import BrokerError, Gone, NotFound, RateLimited, Taken
from broker.messages import Request
from broker.patterns import check_name
from broker.peer.client import Client

if TYPE_CHECKING:
    from broker.peer.peer import Peer


class CallVerbs(Client):
    """Call and be called."""

    __slots__ = ()

    async def perform(
        self, names: Iterable[str], *, shared: bool = False, as_service: bool = False, takeover: bool = False
    ) -> None:
        """Take the calls of *names*, all of them or none.

        Args:
            names: procedures, or services when *as_service*: a service has every
                procedure that begins with its name and a dot.
            shared: take them in turn with others that share them.
            as_service: see above.
            takeover: ask a present holder for a sign of life, and replace it
                when none comes in time.

        Raises:
            Taken: somebody else performs one of them.
        """
        names = list(names)
        for name in names:
            self._allow("register", name, rate_limited=name is names[0])  # one request, one token
            self._own("register", name)
        registry = self.broker.calls.registry(as_service)
        if len(registry.names_of(self)) + len(names) > self.broker.settings.max_registrations:
            raise RateLimited("limit", "registrations")
        for name in names:
            await self._vacate(registry, name, shared, takeover)
        await self._claim(names, shared, as_service, takeover)
        try:
            # Others may have come while we waited.
            for name in names:
                registry.check(self, name, shared)
        except Taken:
            self.broker.unclaim(names, as_service)
            raise
        for name in names:
            registry.add(self, name, shared)

    async def _vacate(self, registry: Registry[Party], name: str, shared: bool, takeover: bool) -> None:
        """Return when this peer can have *name*, perhaps in the place of a silent holder."""
        while True:
            try:
                return registry.check(self, name, shared)
            except Taken:
                place = registry.place(name)
                seconds = self.broker.settings.takeover_probe_seconds
                if not takeover or place is None or await cast("Peer", place.next()).lives(seconds):
                    raise
            if self.closed:
                raise Gone("lost", name)

    async def _claim(self, names: list[str], shared: bool, as_service: bool, takeover: bool) -> None:
        """Hold *names* among the nodes; all of them or none."""
        cluster = self.broker.cluster
        if cluster is None:
            return
        kind = "service:" if as_service else "procedure:"
        try:
            for name in names:
                await cluster.claim(kind + name, shared=shared, takeover=takeover)
            if self.closed:
                raise Gone("lost", names[0])
        except BaseException:  # cancelled, too
            self.broker.unclaim(names, as_service)
            raise

    def release(self, name: str, *, as_service: bool = False) -> bool:
        """Take calls of *name* no more; say whether it did."""
        released = self.broker.calls.registry(as_service).remove(self, name)
        if released:
            self.broker.unclaim((name,), as_service)
        return released

    def performs(self, *, as_service: bool = False) -> list[str]:
        """Return the names it performs."""
        return self.broker.calls.registry(as_service).names_of(self)

    def procedures(self) -> list[str]:
        """Return every procedure and service this peer may call."""
        self._verbs["procedures"] += 1
        calls, grants = self.broker.calls, self.identity.grants
        names = sorted({*calls.performers.names(), *calls.services.names()})
        return [name for name in names if grants is None or grants.may("call", name)]

    def call(self, ref: str, request: Request, *, quiet: bool = False, service: str = "") -> None:
        """Call ``request.procedure``; its end comes to ``session.reply`` with *ref*.

        ``request.recipient`` narrows it to one client or session; ``timeout``
        bounds it, and with *quiet* the deadline ends it without a reply.  With
        *service*, that one takes it before anybody who performs the procedure.

        Raises:
            NotFound: nobody performs it, or not the recipient.
            Gone: the recipient is not connected.
            RateLimited: too many calls are waiting.
        """
        self._allow("call", request.procedure)
        calls = self.broker.calls
        if request.recipient:
            callee, service = self._callee_at(request.recipient, request.procedure)
        else:
            callee, service = calls.find(request.procedure, service)
        request.service = service
        request.method = request.procedure[len(service) + 1 :]
        request.caller = self.client
        request.dialect = self.dialect
        calls.open(self, callee, ref, request, quiet=quiet)

    def answer(
        self,
        id: str,
        body: bytes,
        error: BrokerError | None = None,
        *,
        time: float = 0.0,
        attachments: tuple[bytes, ...] = (),
    ) -> bool:
        """Answer request *id*; say whether it was still awaited.

        Needs no permission: that the request was sent here is the permission.
        """
        self._verbs["answer"] += 1
        awaited = self.broker.calls.answer(self, id, body, error, time, attachments)
        if not awaited:
            self.broker.metrics.answers_dropped += 1
        return awaited

    def acknowledge(self, topic: str) -> None:
        """Take streamed requests of *topic*, in turn with others; "*" takes any other."""
        self._allow("acknowledge", topic)
        if topic != "*":
            check_name(topic)
        if len(self.acknowledged) >= self.broker.settings.max_registrations:
            raise RateLimited("limit", "registrations")
        self.broker.calls.takers.add(self, topic, shared=True)
        if self.broker.cluster is not None:
            self.broker.cluster.hold(f"taker:{topic}")

    def unacknowledge(self, topic: str) -> None:
        """Take streamed requests of *topic* no more."""
        if self.broker.calls.takers.remove(self, topic) and self.broker.cluster is not None:
            self.broker.cluster.release((f"taker:{topic}",))

    @property
    def acknowledged(self) -> list[str]:
        """The topics whose streamed requests it takes."""
        return self.broker.calls.takers.names_of(self)

    def request(self, ref: str, request: Request, topic: str = "") -> None:
        """Send a streamed request; each answer comes to ``session.reply`` with *ref*.

        It goes to ``request.recipient`` when there is one, else to a taker of
        *topic*, else to one of "*".

        Raises:
            Gone: the recipient is not connected.
            NotFound: nobody takes it.
        """
        self._allow("request", request.recipient or topic or "*")
        calls = self.broker.calls
        target = self._session(request.recipient) if request.recipient else calls.find_taker(topic)
        request.streamed = True
        request.caller = self.client
        request.dialect = self.dialect
        calls.open(self, target, ref, request)

    def _session(self, recipient: str) -> Party:
        try:
            return self._sessions(recipient)[0]
        except Gone as error:
            return self.broker.calls.elsewhere(_places(recipient), error)

    def _callee_at(self, recipient: str, procedure: str) -> tuple[Party, str]:
        calls = self.broker.calls
        try:
            return calls.find_at(procedure, self._sessions(recipient))
        except (Gone, NotFound) as error:
            return calls.elsewhere(_places(recipient), error), ""

    def _sessions(self, recipient: str) -> list[Peer]:
        sessions = self.broker.presence.sessions(recipient)
        if not sessions:
            raise Gone("recipient", recipient)
        return sessions  # type: ignore[return-value]


def _places(recipient: str) -> tuple[str, str]:
    """Return the names by which other nodes know a client or a session."""
    return f"client:{recipient}", f"session:{recipient}"
