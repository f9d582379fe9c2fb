"""The broker as one service: makes the parts, joins them, starts and stops them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

from twisted.application.internet import TimerService
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from broker import __version__
from broker.access.limits import Buckets
from broker.access.principals import Access
from broker.access.tokens import CONTROL as REVOKED
from broker.access.tokens import Tokens
from broker.cluster import ClusterNames, RemoteCalls, SharedQueues
from broker.config.settings import Settings
from broker.core.calls import Calls
from broker.core.channels import Channels, StoreEventSource
from broker.core.indices import ROWS, Indices
from broker.core.keys import Keys
from broker.core.memberships import CONTROL as LEFT
from broker.core.memberships import Memberships
from broker.core.names import LocalNames
from broker.core.presence import Presence
from broker.core.queues import LOG as MAIL
from broker.core.queues import Queues
from broker.core.topics import Topics
from broker.errors import BrokerError, Taken
from broker.interfaces import IBus, ISharedBus, ISharedStore, IStore
from broker.messages import Event
from broker.observe.metrics import Metrics
from broker.patterns import BROKER, CLIENT, KEY_PREFIX, LOG_PREFIX, PROCEDURE, RESERVED_PREFIX, SERVICE
from broker.peer import Peer

log = Logger()

SWEEP = 60.0  # seconds between two sweeps of what is too old
EXPIRY = 1.0  # seconds between two looks at expired keys
SWEEPER = "sweeper"  # name that the node holds which sweeps for all
KNOWN = "client"  # space: the client ids that have been seen, which have a mailbox


class Broker(MultiService):
    """All parts of the core; a dialect reaches them through :meth:`attach` only.

    Args:
        settings: the limits and times.
        store: started before, stopped after the bus.
        bus: carries what is published.
        clock: gives the time.
        access: knows the credentials; by default nobody is asked.
    """

    def __init__(
        self, settings: Settings, store: IStore, bus: IBus, clock: IReactorTime, access: Access | None = None
    ) -> None:
        super().__init__()
        self.settings, self.store, self.bus, self.clock = settings, store, bus, clock
        self.access = access or Access()
        self.metrics = Metrics()
        self.started = clock.seconds()
        self.draining = False
        self.facts: dict[str, Any] = {}  # more for ``about``
        self.topics = Topics(bus.listen, bus.forget)
        calls, queues = (RemoteCalls, SharedQueues) if bus.shared else (Calls, Queues)
        self.calls = calls(clock, settings.max_pending_calls, settings.request_idle_seconds)
        self.channels = Channels(
            store, bus, clock, settings.durable_topics, settings.max_waiting_polls, settings.retention.seconds
        )
        self.indices = Indices(store)
        self.keys = Keys(store, self._publish, clock, settings.max_value_bytes, bus)
        self.memberships = Memberships(store, self._notify, settings.max_subscriptions)
        self.tokens = Tokens(store, self._notify, clock)
        self.presence = Presence(self._presence_changed)
        self.queues = queues(store, clock, self._takers_of, settings.max_mailbox, settings.mailbox_seconds)
        self.buckets = Buckets(clock, settings.rate, settings.rate_burst)
        self.cluster = LocalNames()
        self._remembered: set[str] = set()
        self._controls = {LEFT: self.memberships.left, REVOKED: self.tokens.revoked}
        bus.deliver = self.arrived
        if bus.shared:
            self._share(cast(ISharedStore, store), cast(ISharedBus, bus))
        for topic in self._controls:
            bus.listen(topic)
        for part in (store, bus):
            part.setServiceParent(self)
        for delay, work in ((SWEEP, self._sweep), (EXPIRY, self._expire)):
            timer = TimerService(delay, work)
            timer.clock = clock
            timer.setServiceParent(self)
        self._name_gauges()

    def _share(self, store: ISharedStore, bus: ISharedBus) -> None:
        """Be one of several nodes."""
        bus.source = StoreEventSource(store)
        store.wiped = self._wiped
        self.cluster = ClusterNames(
            bus,
            self.clock,
            cast(RemoteCalls, self.calls),
            cast(SharedQueues, self.queues),
            self.presence,
            self.settings.takeover_probe_seconds,
        )

    def attach(self, dialect: str, address: str) -> Peer:
        """Return a new peer for a client of *dialect* at *address*."""
        return Peer(
            self,
            dialect,
            address,
            self.access.anonymous,
            self.access.mode != "required",
            self.metrics.verbs_of(dialect),
            self.buckets.of(address),
        )

    def arrived(self, event: Event) -> None:
        """Deliver an event that the bus has brought.  The only way out."""
        control = self._controls.get(event.topic)
        if control is not None:
            control(event)
            return
        if event.id:
            self.channels.arrived(event)
        self.topics.deliver(event)
        # Only the broker itself tells of keys: what a client publishes there is an event like any other.
        if event.topic.startswith(KEY_PREFIX) and not event.dialect:
            self.keys.arrived(event)

    def leave(self, peer: Peer) -> None:
        """Undo what *peer* did, its subscriptions apart."""
        names = self.cluster.names_of(peer)
        self.calls.leave(peer)
        self.keys.unwatch(peer)
        queues = self.queues.consumers.leave(peer)
        self.presence.leave(peer)
        for queue in queues:
            self.queues.left(queue)
        self.cluster.release(names)

    def unclaim(self, names: Iterable[str], as_service: bool) -> None:
        """Give those of *names* back to the other nodes that nobody performs here any more."""
        kind = SERVICE if as_service else PROCEDURE
        self.cluster.release([kind + name for name in names])

    def remember(self, client: str) -> None:
        """Give *client* a mailbox from now on."""
        if client in self._remembered:
            return
        if len(self._remembered) >= 10000:
            self._remembered.clear()
        self._remembered.add(client)
        self.store.set(KNOWN, client, b"").addErrback(self._not_remembered, client)

    def _not_remembered(self, failure: Any, client: str) -> None:
        self._remembered.discard(client)  # its next coming tries again
        log.warn("client not remembered: {reason}", reason=str(failure.value))

    async def has_mailbox(self, client: str) -> bool:
        """Whether *client* is an identity that is known, connected or not."""
        if client in self._remembered or self.access.knows(client):
            return True
        return await self.store.get(KNOWN, client) is not None

    def ready(self) -> list[str]:
        """Return why the daemon can not do its work now; [] when it can."""
        reasons = [reason for reason in (self.store.ready, self.bus.ready) if reason]
        if self.draining:
            reasons.append("draining")
        if not self.running:
            reasons.append("not started")
        return reasons

    def about(self) -> dict[str, Any]:
        """Return what the daemon is; no secrets."""
        return {
            "name": "txbroker",
            "version": __version__,
            "node": self.bus.node,
            "started": self.started,
            "store": self.store.description,
            "epoch": self.store.epoch,
            **self.facts,
        }

    def drain(self) -> None:
        """Begin to stop: waiting polls end with nothing, and ``ready`` says no."""
        self.draining = True
        self.channels.drain()

    def stopService(self) -> Deferred[None]:
        """Stop the parts, the store last."""
        self.drain()
        self.calls.stop()
        self.channels.stop()
        self.tokens.stop()
        if isinstance(self.queues, SharedQueues):
            self.queues.stop()
        return ensureDeferred(self._stop())

    async def _stop(self) -> None:
        await super().stopService()

    def _publish(self, event: Event) -> Deferred[Any] | None:
        """Publish for the broker itself; fire when that is done, or has failed and was logged."""
        if self.channels.is_durable(event.topic):
            sent: Deferred[Any] | None = self.channels.post(event)
        else:
            sent = self.bus.publish(event)
        return None if sent is None else sent.addErrback(self._lost, event.topic)

    def _notify(self, event: Event) -> None:
        """Tell the parts like the one that calls, on every node; those that are away now hear of it later."""
        if self.bus.shared:
            self.channels.post(event).addErrback(self._lost, event.topic)
        else:
            self.bus.publish(event)

    def _lost(self, failure: Any, topic: str) -> None:
        failure.trap(BrokerError)
        log.error("an event on {topic} was lost: {reason}", topic=topic, reason=str(failure.value))

    def _wiped(self) -> None:
        """Store again what is known here: the store has lost everything."""
        self._remembered.clear()
        self.tokens.forget_key()
        for peer in self.presence:
            if peer.identity.name or peer.named:
                self.remember(peer.client)
        ensureDeferred(self.memberships.restore()).addErrback(self._lost, LEFT)
        cast(ISharedBus, self.bus).wiped()

    def _presence_changed(self, change: str, client: str, session: str) -> None:
        self.cluster.present(change, client, session)
        if change == "offline":
            self.queues.left(CLIENT + client)
        topic = f"{RESERVED_PREFIX}client.{change}"
        if self.topics.heard(topic) or self.bus.shared:
            body = json.dumps({"id": client, "session": session}).encode()
            self._publish(Event(topic, change, body, BROKER, self.clock.seconds(), origin=session))

    def _takers_of(self, queue: str) -> list[Any]:
        if queue.startswith(CLIENT):
            name = queue.removeprefix(CLIENT)
            return [peer for peer in self.presence.sessions(name) if peer.client == name]
        place = self.queues.consumers.place(queue)
        if place is None:
            return []
        turn = place.turn % len(place.holders)
        return place.holders[turn:] + place.holders[:turn]

    def _sweep(self) -> Deferred[None]:
        return ensureDeferred(self._swept()).addErrback(self._timer_failed, "retention")

    async def _swept(self) -> None:
        if self.bus.shared:
            try:
                await self.bus.claim(SWEEPER)
            except Taken:
                return  # another node does it
        kept, now = self.settings.retention, self.clock.seconds()
        if kept.seconds or kept.count:
            for logs in (LOG_PREFIX, ROWS):
                await self.store.sweep(logs, now - kept.seconds if kept.seconds else 0.0, kept.count)
        await self.store.sweep(MAIL, now - self.settings.mailbox_seconds, 0)

    def _expire(self) -> Deferred[Any]:
        return ensureDeferred(self.keys.expire()).addErrback(self._timer_failed, "expiry")

    def _timer_failed(self, failure: Any, what: str) -> None:
        if not self.draining:  # the store may have stopped in the middle
            log.warn("{what} waits: {reason}", what=what, reason=str(failure.value))

    def _name_gauges(self) -> None:
        gauge = self.metrics.gauge
        gauge("calls_pending", "Calls that wait for an answer.", lambda: self.calls.pending)
        gauge("polls_waiting", "Long polls that wait.", lambda: self.channels.waiting)
        gauge("topics", "Topics and patterns somebody listens to.", lambda: len(self.topics))
        gauge("services", "Procedures and services that are performed.", self._services)
        gauge("sessions", "Sessions that others can see.", lambda: len(self.presence))

    def _services(self) -> float:
        return len(self.calls.performers) + len(self.calls.services)
