"""The names this node holds among the nodes, and what their holders are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.cluster.calls import RemoteCalls
from broker.cluster.claims import LAPSED, Claim, Claims
from broker.cluster.jobs import SharedJobs
from broker.cluster.links import LinkAccount
from broker.cluster.members import SharedMembers
from broker.cluster.messages import BoolReply, Deliver, Drain, Probe
from broker.cluster.messenger import NodeMessenger
from broker.cluster.operators import OperatorLink
from broker.cluster.queues import SharedQueues
from broker.core.names import Claimant, LocalNames
from broker.core.presence import Presence
from broker.core.registry import Registration
from broker.errors import NotDone, Taken, Unavailable
from broker.interfaces import ISharedBus
from broker.messages import CloseCode, Mail
from broker.patterns import CLIENT, PROCEDURE, QUEUE, SERVICE, SESSION, TAKER, split_kind

log = Logger()

LEARNING = 1.5  # seconds after the end of a lease in which every node learns of it: they look every second
KINDS = (PROCEDURE, SERVICE, TAKER)  # of names that calls look for
DELIVERY = 5.0  # seconds for handing over a message
PAUSE = 0.1  # seconds between two attempts to get a name whose holder does not respond


class ClusterNames(LocalNames):
    """Holds names among the nodes, asks other nodes about their holders and answers for its own.

    A name begins with its kind: ``procedure:``, ``service:``, ``taker:`` (of streamed
    requests), ``queue:`` (consumed here), ``client:`` and ``session:`` (connected here).

    Args:
        bus: leads to the other nodes.
        clock: times their replies.
        calls: those of this node.
        queues: the mailboxes of this node.
        jobs: those of this node.
        members: those of all nodes.
        presence: who is connected here.
        recover: called when a node has gone, or this one has a lease again: to do what sessions of lost nodes have
            left to be done.
        probe: seconds in which the holder of a name must respond.
        account: counts what is kept for other nodes.
    """

    def __init__(
        self,
        bus: ISharedBus,
        clock: IReactorTime,
        calls: RemoteCalls,
        queues: SharedQueues,
        jobs: SharedJobs,
        members: SharedMembers,
        presence: Presence[Any],
        recover: Callable[[], object],
        probe: float,
        account: LinkAccount | None = None,
    ) -> None:
        self._bus, self._calls, self._queues, self._presence = bus, calls, queues, presence
        self._jobs = jobs
        self._probe = probe
        self._messenger = NodeMessenger(bus, clock, account)
        self._claims = Claims(
            bus, clock, lambda name: bool(self._holders_here(name)), self._lost, self._on_new_name, self._wake_all
        )
        bus.found = self._found
        self._messenger.on_lapse(self._claims.lapsed)
        self._messenger.on_lease(self._claims.leased)
        calls.use(self._messenger, presence.sessions, self._claims.holds)
        queues.use(bus, self._wake_others)
        jobs.use(bus, self._wake_others)
        members.use(bus, self._messenger)
        self.operators = OperatorLink(self._messenger)
        self._messenger.on_lease(jobs.leased)
        self._messenger.on(Probe, self._probed)
        self._messenger.on(Deliver, self._delivered)
        self._messenger.on(Drain, lambda _, message: self._wake(message.queue))
        self._messenger.on_departure(lambda _: queues.wake_all())
        self._messenger.on_departure(jobs.departed)
        self._messenger.on_departure(lambda _: recover())
        self._messenger.on_lease(recover)
        self._messenger.on_break(lambda *_: self._wake_all())  # a message that something waits may be lost

    def on_miss(self, handler: Callable[[], object]) -> None:
        """See ``NodeMessenger.on_miss``."""
        self._messenger.on_miss(handler)

    # Names.

    def claimant(self) -> ClusterClaimant:
        """See ``LocalNames.claimant``."""
        return ClusterClaimant(self._claims, self._bus, self._messenger)

    def hold(self, name: str) -> None:
        """See ``LocalNames.hold``."""
        self._claims.hold(name)

    def _on_new_name(self, name: str) -> None:
        if name.startswith((QUEUE, CLIENT)):
            # What was put there just before was announced to those who held it then.
            self._wake(name)

    def _wake(self, queue: str) -> None:
        """Hand out what waits in *queue*, named with its kind."""
        if queue.startswith(QUEUE):
            self._jobs.wake(queue.removeprefix(QUEUE))
        else:
            self._queues.wake(queue)

    def _wake_all(self) -> None:
        self._queues.wake_all()
        self._jobs.wake_all()

    def settled(self) -> Deferred[None] | None:
        """See ``LocalNames.settled``."""
        return self._claims.settled()

    def release(self, names: Iterable[str]) -> None:
        """See ``LocalNames.release``."""
        for name in names:
            self._claims.release(name)

    def stop(self) -> None:
        """See ``LocalNames.stop``."""
        self._claims.stop()
        self._messenger.stop()

    def names_of(self, peer: Any) -> list[str]:
        """See ``LocalNames.names_of``."""
        names = [kind + name for kind in KINDS for name in self._calls.registry_of(kind).names_of(peer)]
        return names + self._jobs.consumers.names_of(peer)

    def _holders_here(self, name: str) -> list[Any]:
        """Return who holds *name* here."""
        kind, rest = split_kind(name)
        if kind in (CLIENT, SESSION):
            sessions: list[Any] = self._presence.sessions(rest)
            return [peer for peer in sessions if rest == (peer.client if kind == CLIENT else peer.id)]
        registration: Registration[Any] | None = (
            self._jobs.consumers.get(name) if kind == QUEUE else self._calls.registry_of(kind).get(rest)
        )
        return [] if registration is None else list(registration.holders)

    def _found(self, name: str) -> None:
        if name.startswith((*KINDS, QUEUE, CLIENT, SESSION)):  # others are claimed without the table
            self._claims.found(name)

    def _lost(self, name: str) -> None:
        """Disconnect whoever held *name* here: another node holds it now."""
        if not name.startswith(KINDS):
            return
        log.warn("another node holds {name} now", name=name)
        for peer in self._holders_here(name):
            peer.disconnect(CloseCode.GOING_AWAY, "replaced")
            peer.close()

    def _probed(self, address: str, message: Probe) -> None:
        asked = Deferred.fromCoroutine(self._probe_here(message.name))
        asked.addErrback(_failed, "a probe").addCallback(
            lambda alive: self._messenger.send(address, BoolReply(message.id, bool(alive)), urgent=True)
        )

    async def _probe_here(self, name: str) -> bool:
        if self._claims.is_pending(name):
            return True  # somebody has just got it
        for peer in self._holders_here(name):
            if await peer.lives(self._probe):
                return True
        self._found(name)  # if it is still to be given back
        return False

    # Who is connected.

    def present(self, change: str, client: str, session: str) -> None:
        """See ``LocalNames.present``."""
        names = [SESSION + session] if client == session else [SESSION + session, CLIENT + client]
        if change == "online":
            for name in names:
                self.hold(name)
        else:
            self.release(names)

    async def is_elsewhere(self, client: str) -> bool:
        """See ``LocalNames.is_elsewhere``."""
        _, addresses = await self._messenger.holders(CLIENT + client)
        return any(address != self._bus.address for address in addresses)

    # Mail.

    async def deliver(self, session: str, mail: Mail) -> bool:
        """See ``LocalNames.deliver``."""
        _, addresses = await self._messenger.holders(SESSION + session)
        if not addresses:
            return False
        message = (session, mail.ref, mail.body, mail.source, mail.time)
        taken = await self._messenger.ask(addresses[0], lambda number: Deliver(number, *message), DELIVERY)
        if taken is None:
            raise Unavailable("bus", message="The node of that session has not answered.")
        return taken

    def _delivered(self, address: str, message: Deliver) -> None:
        mail = Mail(CLIENT + message.session, message.ref, message.body, message.source, message.time)
        sessions: list[Any] = self._presence.sessions(message.session)
        taken = bool(sessions) and sessions[0].post_mail(mail)
        self._messenger.send(address, BoolReply(message.id, taken), urgent=True)

    async def _wake_others(self, queue: str) -> bool:
        """Notify the other nodes that something waits in *queue*; return whether that was begun for all of them."""
        _, addresses = await self._messenger.holders(queue)
        others = [address for address in addresses if address != self._bus.address]
        return all(self._messenger.send(address, Drain(queue)) for address in others)


class ClusterClaimant(Claimant):
    """One who is about to hold names among several nodes.

    Args:
        claims: the table of this node.
        bus: says for how long a node that is silent holds its names.
        messenger: asks their holders.
    """

    def __init__(self, claims: Claims, bus: ISharedBus, messenger: NodeMessenger) -> None:
        self._claims, self._bus, self._messenger = claims, bus, messenger
        self._joined: list[Claim] = []

    def __exit__(self, *_: object) -> None:
        """See ``Claimant``."""
        for claim in self._joined:
            self._claims.leave(claim)

    async def claim(self, name: str, *, shared: bool, takeover: bool) -> None:
        """See ``Claimant.claim``."""
        try:
            await self._claim(name, shared, takeover)
        except Taken as error:
            raise Taken(error.what, split_kind(name)[1]) from None

    async def _claim(self, name: str, shared: bool, takeover: bool) -> None:
        clock = self._messenger.clock
        end = clock.seconds() + self._bus.lease_seconds + LEARNING
        while True:
            try:
                return await self._join(name, shared)
            except Taken:
                if not takeover or clock.seconds() >= end or await self._lives(name, end):
                    raise

    async def _join(self, name: str, shared: bool) -> None:
        claim, held = self._claims.join(name, shared)
        try:
            await held
        except BaseException:  # cancelled, too
            self._claims.leave(claim)
            raise
        self._joined.append(claim)

    async def _lives(self, name: str, end: float) -> bool:
        """Say whether a holder of *name* responds; False, after a pause: not, or nobody holds it, or nobody knows."""
        try:
            _, addresses = await self._messenger.holders(name)
        except NotDone as error:
            if not error.retry_after:
                raise
            addresses = []
        alive = bool(addresses) and await self._ask(addresses[0], name, end)
        if not alive:
            await deferLater(self._messenger.clock, PAUSE)
        return alive

    async def _ask(self, holder: str, name: str, end: float) -> bool:
        """Ask a node whether its holder of *name* responds, until it answers, its lease ends, or it is *end*.

        When it says no, it has disconnected that one, and gives the name back.  A node that does not answer may be
        frozen, cut off, or about to subscribe again: as long as its lease lasts, it serves *name*, or will again.
        """
        messenger, clock = self._messenger, self._messenger.clock
        lease = messenger.lease_of(holder)
        while clock.seconds() < end and self._bus.lease and messenger.lease_of(holder) == lease:
            alive = await messenger.ask(holder, lambda number: Probe(number, name), end - clock.seconds())
            if alive is not None:
                return alive
            await deferLater(clock, PAUSE)
        return False

    def check(self) -> None:
        """See ``Claimant.check``."""
        for claim in self._joined:
            if not self._claims.holds(claim.name):
                if not self._bus.lease:
                    raise NotDone("lease", message=LAPSED)
                raise Taken("exists", split_kind(claim.name)[1])


def _failed(failure: Failure, what: str) -> None:
    log.failure("{what} of another node failed", failure, what=what)
