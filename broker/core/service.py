"""The broker as one service: makes the parts, joins them, starts and stops them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from twisted.application.internet import TimerService
from twisted.application.service import MultiService
from twisted.internet.defer import CancelledError, Deferred, DeferredList, ensureDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.access.failures import AuthFailures
from broker.access.lifetimes import Lifetimes
from broker.access.limits import Buckets, network_of
from broker.access.principals import Access
from broker.access.refusals import RefusalLog
from broker.access.tokens import CONTROL as REVOKED
from broker.access.tokens import Tokens
from broker.config.settings import Settings
from broker.core.about import About
from broker.core.calls import Calls
from broker.core.channels import Channels, StoreEventSource
from broker.core.cursors import Cursors
from broker.core.followers import Followers
from broker.core.gauges import core_gauges
from broker.core.indices import Indices
from broker.core.job_claims import end_claims
from broker.core.jobs import Jobs
from broker.core.keys import SPACE as KEYS
from broker.core.keys import Keys
from broker.core.lives import life_end
from broker.core.mailboxes import Mailboxes
from broker.core.members import Members
from broker.core.memberships import CONTROL as LEFT
from broker.core.memberships import Memberships
from broker.core.memory import Memory
from broker.core.missed_changes import MissedChanges
from broker.core.named_queues import NamedQueues
from broker.core.names import LocalNames
from broker.core.old_jobs import move_old_jobs
from broker.core.owners import CLIENT_ID, INDEX, MEMBER, SERVICE_NAME, Owners
from broker.core.owners import CONTROL as OWNED
from broker.core.parts import Parts
from broker.core.presence import Presence
from broker.core.queues import Queues
from broker.core.restoration import Restoration
from broker.core.retained import Retained
from broker.core.shares import Shares
from broker.core.slices import Slices, slices_of
from broker.core.sweeper import Sweeper
from broker.core.testaments import Testaments
from broker.core.topics import Delivery, Topics
from broker.errors import Taken
from broker.interfaces import MAX_PAGE_BYTES, IBus, ISharedBus, ISharedStore, IStore
from broker.messages import EPOCH, MISSED, CloseCode, Event
from broker.observe.metrics import Metrics
from broker.patterns import BROKER, CLIENT, KEY_PREFIX, PRESENCE_PREFIX, RESERVED_PREFIX
from broker.peer import Peer

if TYPE_CHECKING:
    # Else they are imported where they are made: a node that is alone has neither their time nor their memory.
    from broker.cluster import ClusterNames, RemoteCalls, SharedJobs, SharedMembers, SharedQueues

log = Logger()

SWEEP = 60.0  # seconds between two sweeps of what is too old
AGING = 300.0  # seconds for which names of clients and topics are remembered at least that nobody asks for
EXPIRY = 1.0  # seconds between two searches for expired keys
MEASURE = 5.0  # seconds between two counts of all jobs
REVIEW = 5.0  # seconds until one who performs what others perform, too, gets calls of all nodes
JOBS_REVIEW = 10.0  # seconds between two looks for jobs of nodes that are no more
BEAT = 1.0  # seconds between two looks for nodes that do not know the members here
PEERS_PER_STEP = 1000  # whose mailboxes are prolonged before the reactor gets to other work
START_TIMEOUT = 2.0  # seconds for which clients wait until the store and the bus were reached for the first time
SWEEPER = "sweeper"  # the name held by the node that sweeps for all


class Broker(MultiService):
    """All parts of the core; a dialect reaches them through the peers that ``attach`` makes only.

    Attributes:
        attach: returns a new peer for a client of a dialect at an address.
        arrived: delivers an event that the bus has brought; nothing is delivered otherwise.
        loop_problem: returns why the reactor loop is too late; "" when it is not.

    Args:
        settings: the limits and times.
        store: started before, stopped after the bus.
        bus: carries what is published.
        clock: for timers, and for how long something takes.
        access: knows the credentials; by default nobody is asked.
        metrics: counts.
    """

    loop_problem: Callable[[], str] = staticmethod(str)

    def __init__(
        self,
        settings: Settings,
        store: IStore,
        bus: IBus,
        clock: IReactorTime,
        access: Access | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        super().__init__()
        self.settings, self.store, self.bus, self.clock = settings, store, bus, clock
        metrics = metrics or Metrics(slices_of(clock).now)
        self.parts = parts = make_parts(settings, store, bus, clock, access or Access(), metrics)
        self.access, self.metrics, self.tokens = parts.access, parts.metrics, parts.tokens
        self.topics, self.channels, self.keys = parts.topics, parts.channels, parts.keys
        self.calls, self.queues, self.presence = parts.calls, parts.queues, parts.presence
        self.jobs = parts.jobs
        self.memberships, self.about, self.memory = parts.memberships, parts.about, parts.memory
        self.draining = False
        self._timers_failing: set[str] = set()  # of which it was logged
        self._mailboxes_end = -1.0  # as it was when they were last prolonged
        self._restoration = Restoration(
            clock,
            (
                ("owners of ids", parts.owners.restore),
                ("mailboxes", self._open_mailboxes),
                ("memberships", self.memberships.restore),
                ("testaments", self._keep_testaments),
            ),
        )
        self._sweeper = Sweeper(
            store, clock, parts.indices, settings.retention, settings.mailbox_seconds, parts.jobs.max_age
        )
        controls = {LEFT: self.memberships.left, REVOKED: self.tokens.revoked, OWNED: parts.owners.moved}
        self.attach: Callable[[str, str], Peer] = partial(Peer, parts)
        deliver = self.metrics.deliver
        delivery = Delivery(self.topics, self.channels, self.keys, controls, self.presence.excluded, deliver)
        self.arrived = bus.deliver = delivery.arrived
        if bus.shared:
            cast(ISharedBus, bus).source = StoreEventSource(cast(ISharedStore, store))
            cast(ISharedBus, bus).missed = self._tell_missed
            cast(ISharedStore, store).witness = cast(ISharedBus, bus).last_mark
            self._find_missed_changes(delivery)
        store.wiped = self._wiped
        for topic in controls:
            bus.listen(topic)
        for part in (store, bus):
            part.setServiceParent(self)
        self._add_timers()
        self._add_gauges()

    def _add_timers(self) -> None:
        timers: tuple[tuple[float, Callable[[], object]], ...] = (
            (SWEEP, self._sweep),
            (AGING, self._age),
            (EXPIRY, self._expire),
            (MEASURE, self._measure),
            (BEAT, self._beat),
        )
        if self.bus.shared:
            timers += (
                (REVIEW, cast("RemoteCalls", self.calls).review_routes),
                (JOBS_REVIEW, cast("SharedJobs", self.jobs).review),
            )
        for delay, work in timers:
            timer = TimerService(delay, work)
            timer.clock = self.clock
            timer.setServiceParent(self)

    def _add_gauges(self) -> None:
        self._named_queues = NamedQueues(self.store, self.settings.metrics_queues, self.clock)
        own: dict[str, Callable[[], Any]] = {"ready": lambda: not self.ready(), "draining": lambda: self.draining}
        for name, read in {**core_gauges(self.parts, self._named_queues), **own}.items():
            self.metrics.gauge(name, read)

    def _find_missed_changes(self, delivery: Delivery) -> None:
        keys, store, bus = self.keys, cast(ISharedStore, self.store), cast(ISharedBus, self.bus)
        lost = partial(self._tell_gaps, MISSED)
        keys.missed = missed = MissedChanges(store, bus, KEYS, self.clock, keys.is_stored, delivery.arrived, lost)
        delivery.is_next = keys.is_next
        cast("ClusterNames", self.parts.cluster).on_miss(lambda: missed.missed() if keys.is_watched else None)

    def _tell_gaps(self, why: str) -> None:
        """Tell all who get changes of keys that some were missed."""
        told: list[tuple[object, str]] = [(watcher, "") for watcher in self.keys.watchers]
        self._notify([*told, *self.topics.listening(KEY_PREFIX)], "changes of keys were missed", why)

    def _tell_missed(self, texts: list[str]) -> None:
        """Tell all who subscribed to *texts* before Redis was reached that events may have been missed."""
        wanted = set(texts)
        told = [(listener, topic) for listener, topic in self.topics.listening("") if topic in wanted]
        self._notify(told, "events may have been missed before Redis was reached", MISSED)
        if any(text.startswith(KEY_PREFIX) for text in texts):
            self._notify(
                [(watcher, "") for watcher in self.keys.watchers], "changes of keys may have been missed", MISSED
            )

    def _notify(self, told: Sequence[tuple[object, str]], what: str, why: str) -> None:
        peers = [(peer, topic) for peer, topic in told if isinstance(peer, Peer)]
        if peers:
            log.warn("{what} ({why}): {count} subscriptions are told so", what=what, why=why, count=len(peers))
        for peer, topic in peers:
            peer.on_gap(topic, why)

    def ready(self) -> list[str]:
        """Return why the daemon can not do its work now, for operators; [] when it can."""
        return list(dict.fromkeys(reason for reason, _ in self._obstacles()))  # the store and the bus may have the same

    def obstacles(self) -> list[str]:
        """Return the same for everybody: without addresses, paths and texts of errors."""
        return [public for _, public in self._obstacles()]

    def _obstacles(self) -> Iterator[tuple[str, str]]:
        if self.store.ready:
            yield self.store.ready, "the store takes no writes"
        elif self.store.degraded:
            yield self.store.degraded, "the store can not write back its log"
        if self.bus.ready:
            yield self.bus.ready, "the bus carries no events"
        if self.loop_problem():
            yield self.loop_problem(), self.loop_problem()
        if self.memory.reason:
            yield self.memory.reason, self.memory.reason
        if self.draining:
            yield "draining", "draining"
        if not self.running:
            yield "not started", "not started"

    def drain(self) -> None:
        """Begin to stop: waiting polls end with nothing, and ``ready`` says no."""
        self.draining = True
        self.channels.drain()

    def credentials_changed(self) -> int:
        """Let everybody have the rights of today; return how many are disconnected since they have lost some.

        To be called when the credentials or permissions of ``access`` were replaced.  Polls and claims
        that wait are answered with nothing: whoever may not come again is refused when he does.
        """
        self.channels.end_polls()
        end_claims(self.jobs)
        self.parts.owners.known.clear()  # an id may be somebody's name now
        return self.parts.lifetimes.renew(self.access.renewed)

    def startService(self) -> None:
        """Start the parts, and see to the jobs that the last run has left in flight."""
        super().startService()
        self.jobs.leases.until_done(self._begin_jobs)

    def reached(self) -> Deferred[None] | None:
        """Fire, without failing, when the shared store and bus were reached, or have not been for two seconds.

        None: there are none.
        """
        asked: list[Deferred[Any] | None] = []
        if self.store.shared:
            asked += [cast(ISharedStore, self.store).mark()]
        if self.bus.shared:
            asked += [cast(ISharedBus, self.bus).holders([SWEEPER]), self.bus.listening()]
        if not asked:
            return None
        reached: Deferred[None] = Deferred()
        answers = DeferredList([each for each in asked if each is not None], consumeErrors=True)
        answers.addCallback(lambda _: None if reached.called else reached.callback(None))
        reached.addTimeout(START_TIMEOUT, self.clock)
        return reached.addCallbacks(self._warn_unless_ready, self._not_reached)

    def _not_reached(self, failure: Failure) -> None:
        failure.trap(CancelledError, DeferredTimeout)
        if failure.check(DeferredTimeout):
            self._warn_unless_ready("no answer yet")

    def _warn_unless_ready(self, reason: str | None = None) -> None:
        reasons = "; ".join(dict.fromkeys(self.ready())) or reason
        if reasons:
            log.warn("clients are accepted, but /ready says that this node can not serve: {reasons}", reasons=reasons)

    async def _begin_jobs(self) -> None:
        await self.jobs.recover()
        await self.parts.testaments.recover()
        await move_old_jobs(self.store, self.queues, self.jobs)

    def stopService(self) -> Deferred[None]:
        """Stop the parts, the store last."""
        self.drain()
        self.calls.stop()
        self.channels.stop()
        self.topics.late.stop()
        self.parts.followers.stop()
        if self.keys.missed is not None:
            self.keys.missed.stop()
        self.parts.lifetimes.stop()
        self.queues.stop()
        self.jobs.stop()
        self.parts.members.stop()
        self.parts.cluster.stop()
        self.parts.mailboxes.stop()
        self._restoration.stop()
        return ensureDeferred(self._stop())

    async def _stop(self) -> None:
        await super().stopService()

    def _wiped(self) -> None:
        """Store again what is known here: the store has lost everything, or what was written last."""
        self.metrics.store_went_back += 1
        self.channels.end_polls()  # what they wait for may never come: whoever comes again is told
        self.parts.followers.restart()
        self.parts.mailboxes.forget()
        self.memberships.lost()
        self.tokens.forget_key()
        if self.keys.missed is not None:
            self.keys.missed.forget()
            self._tell_gaps(EPOCH)
        if self.bus.shared:
            cast("SharedQueues", self.queues).lost()
            cast("SharedJobs", self.jobs).lost()
        self._restoration.begin()
        if self.bus.shared:
            cast(ISharedBus, self.bus).wiped()

    def _sweep(self) -> Deferred[None]:
        return ensureDeferred(self._swept()).addCallbacks(
            self._timer_done, self._timer_failed, ("retention",), errbackArgs=("retention",)
        )

    async def _swept(self) -> None:
        if self.parts.owners.sweep():
            for peer in {*self.presence, *self.memberships.sessions()}:
                await peer.keep_ids()  # to be connected is to use them
        await self._keep_mailboxes()
        await self.memberships.prolong()
        await self._begin_jobs()
        self.jobs.wake_all()
        try:
            await self.bus.claim(SWEEPER)
        except Taken:
            return  # another node sweeps
        await self._sweeper.sweep()

    def _age(self) -> None:
        """Forget names that were used once, of which there may be very many in a day."""
        self.channels.age()
        users = self.presence.sessions_of, self.memberships.sessions_of, self.calls.services.in_turn
        self.parts.owners.age(lambda id: any(found(id) for found in users))

    async def _keep_mailboxes(self) -> None:
        """Let the mailboxes of all who are connected here live on; for most of the time there is nothing to do."""
        end = life_end(self.store.wall.time(), self.settings.client_seconds)
        if end != self._mailboxes_end:
            self._mailboxes_end = end
            await self._open_mailboxes()

    async def _open_mailboxes(self) -> None:
        for number, peer in enumerate(self.presence, 1):
            peer.keep_mailbox()
            if number % PEERS_PER_STEP == 0:
                await deferLater(self.clock, 0)

    async def _keep_testaments(self) -> None:
        for peer in self.presence:
            await peer.keep_testament()

    def _expire(self) -> Deferred[Any]:
        expired = self.keys.expire(go_on=lambda: not self.draining)
        return ensureDeferred(expired).addCallbacks(
            self._timer_done, self._timer_failed, ("expiry",), errbackArgs=("expiry",)
        )

    def _measure(self) -> Deferred[Any]:
        return ensureDeferred(self._measured()).addCallbacks(
            self._timer_done, self._timer_failed, ("counts of jobs",), errbackArgs=("counts of jobs",)
        )

    async def _measured(self) -> None:
        await self.jobs.measure()
        await self._named_queues.measure()

    def _beat(self) -> None:
        self.parts.members.beat()
        self.keys.beat()

    def _timer_done(self, _: object, what: str) -> None:
        self._timers_failing.discard(what)

    def _timer_failed(self, failure: Any, what: str) -> None:
        # Once, not each second while the store is away; and it may have stopped in the middle.
        if not self.draining and what not in self._timers_failing:
            self._timers_failing.add(what)
            log.warn("{what} waits: {reason}", what=what, reason=str(failure.value))


def make_parts(
    settings: Settings, store: IStore, bus: IBus, clock: IReactorTime, access: Access, metrics: Metrics
) -> Parts:
    """Return the parts of the core, joined: those of one of several nodes when *bus* is shared."""
    memory = make_memory(settings, metrics)
    make_calls, make_queues = _kinds_of(bus)
    calls = make_calls(
        clock,
        settings.max_pending_calls,
        settings.request_idle_seconds,
        share_limit=settings.max_calls_per_client,
        total_limit=settings.max_calls,
        account=memory.held,
        grace=settings.slow_grace_seconds,
    )
    channels = make_channels(settings, store, bus, clock)
    topics = _make_topics(bus, slices_of(clock), lambda change: parts.keys.subscribed(change))
    lifetimes, refusals = Lifetimes(clock, store.wall), RefusalLog(clock, metrics)
    presence: Presence[Any] = Presence(lambda *change: _presence_changed(parts, *change))
    queues = make_queues(
        store, clock, lambda queue: _takers_of(parts, queue), settings.max_mailbox, settings.mailbox_seconds
    )
    node = _node_of(bus)
    jobs = _make_jobs(settings, store, node, bus.shared, clock, lambda *gone: _came_back(parts, *gone))
    parts = Parts(
        settings=settings,
        store=store,
        bus=bus,
        clock=clock,
        access=access,
        metrics=metrics,
        buckets=Buckets(clock, settings.rate, settings.rate_burst),
        shares=Shares(slices_of(clock)),
        refusals=refusals,
        failures=AuthFailures(clock, settings.auth_failures_per_minute, refusals),
        lifetimes=lifetimes,
        tokens=Tokens(store, channels.notify, lifetimes.revoke),
        topics=topics,
        channels=channels,
        cursors=Cursors(store, channels, slices_of(clock)),
        followers=Followers(store, topics, clock, presence.excluded, settings.send_queue_bytes),
        indices=Indices(store, clock, settings.index_seconds, max_bytes=min(MAX_PAGE_BYTES, settings.send_queue_bytes)),
        retained=Retained(store, settings.retained_topics),
        keys=_make_keys(settings, store, bus, channels, clock, topics),
        members=make_members(store.wall.time, topics, bus, clock, memory),
        memberships=Memberships(store, channels.notify, settings.max_subscriptions, clock, settings.membership_seconds),
        owners=_make_owners(settings, store, access, channels, clock, jobs, lambda *new: _replaced(parts, *new)),
        presence=presence,
        calls=calls,
        queues=queues,
        jobs=jobs,
        testaments=_make_testaments(store, bus, node, jobs, lambda *left: _publish_left(parts, *left)),
        mailboxes=Mailboxes(store, access.knows, clock, settings.client_seconds),
        cluster=LocalNames(),
        about=About(store, bus, store.wall.time()),
        memory=memory,
    )
    if bus.shared:
        parts.cluster = _cluster_names(parts)
    return parts


def _kinds_of(bus: IBus) -> tuple[type[Calls], type[Queues]]:
    if not bus.shared:
        return Calls, Queues
    from broker.cluster import RemoteCalls, SharedQueues

    return RemoteCalls, SharedQueues


def _make_keys(
    settings: Settings, store: IStore, bus: IBus, channels: Channels, clock: IReactorTime, topics: Topics
) -> Keys:
    # What waits for a client, of topics and of keys, comes in one order.
    return Keys(store, bus, channels.announce, clock, settings.max_value_bytes, settings.durable_topics, topics.late)


def _make_topics(bus: IBus, slices: Slices, key_subscribed: Callable[[int], object]) -> Topics:
    def listen(topic: str) -> None:
        bus.listen(topic)
        if topic.startswith(KEY_PREFIX):
            key_subscribed(1)

    def forget(topic: str) -> None:
        bus.forget(topic)
        if topic.startswith(KEY_PREFIX):
            key_subscribed(-1)

    return Topics(listen, forget, slices)


def make_members(now: Callable[[], float], topics: Topics, bus: IBus, clock: IReactorTime, memory: Memory) -> Members:
    """Return who is present on topics."""

    def deliver(event: Event) -> None:
        topics.deliver_named(event, PRESENCE_PREFIX)

    if not bus.shared:
        return Members(clock, now, deliver)
    from broker.cluster import SharedMembers

    return SharedMembers(clock, now, deliver, memory.change)


def _cluster_names(parts: Parts) -> ClusterNames:
    from broker.cluster import ClusterNames

    return ClusterNames(
        cast(ISharedBus, parts.bus),
        parts.clock,
        cast("RemoteCalls", parts.calls),
        cast("SharedQueues", parts.queues),
        cast("SharedJobs", parts.jobs),
        cast("SharedMembers", parts.members),
        parts.presence,
        parts.testaments.recover_soon,
        parts.settings.takeover_probe_seconds,
        parts.memory.held,
    )


def make_channels(settings: Settings, store: IStore, bus: IBus, clock: IReactorTime) -> Channels:
    """Return the stored topics."""
    return Channels(
        store,
        bus,
        clock,
        settings.durable_topics,
        settings.max_waiting_polls,
        settings.cursor_seconds,
        settings.max_waiting_polls_per_client,
        settings.dedup_seconds,
    )


def _node_of(bus: IBus) -> Callable[[], str]:
    """Return what returns the address of this node, or what stands for it where there is no other."""
    run = secrets.token_hex(8)
    return (lambda: cast(ISharedBus, bus).address) if bus.shared else (lambda: run)


def _make_testaments(
    store: IStore,
    bus: IBus,
    node: Callable[[], str],
    jobs: Jobs,
    publish: Callable[[Event, bool, str], Awaitable[None]],
) -> Testaments:
    return Testaments(store, node, partial(_knows_nodes, bus), jobs.lives, jobs.leases.until_done, publish)


def _knows_nodes(bus: IBus) -> bool:
    """Whether this node knows which others there are: it has a lease, or is alone."""
    return not bus.shared or bool(cast(ISharedBus, bus).lease)


async def _publish_left(parts: Parts, event: Event, retain: bool, key: str) -> None:
    """Publish *event*, which a session has left behind; if it is stored, by *key*."""
    if parts.channels.is_durable(event.topic):
        await parts.channels.post(event, key=key)
        return
    if retain or parts.retained.applies(event.topic):
        await parts.retained.keep(event)
    sent = parts.bus.publish(event)
    if sent is not None:
        await sent


def _make_jobs(
    settings: Settings,
    store: IStore,
    node: Callable[[], str],
    shared: bool,
    clock: IReactorTime,
    came_back: Callable[[str, str], Awaitable[bool]],
) -> Jobs:
    kind = Jobs
    if shared:
        from broker.cluster import SharedJobs

        kind = SharedJobs
    return kind(
        store,
        clock,
        node,
        came_back,
        max_failures=settings.max_deliveries,
        limit=settings.max_jobs,
        max_age=settings.mailbox_seconds,
    )


def make_memory(settings: Settings, metrics: Metrics) -> Memory:
    """Return the accounts of what clients make the daemon hold."""
    shed = partial(metrics.slow_consumer, "memory")
    return Memory(settings.memory_limit_bytes, settings.memory_per_address_bytes, shed, network_of)


def _takers_of(parts: Parts, queue: str) -> list[Any]:
    """Return the sessions that would take from the mailbox *queue* now."""
    return parts.presence.sessions_of(queue.removeprefix(CLIENT)) if queue.startswith(CLIENT) else []


async def _came_back(parts: Parts, client: str, session: str) -> bool:
    """Whether *client* has come again since its *session* has gone, here or to another node."""
    if any(peer.id > session for peer in parts.presence.sessions_of(client)):  # later ones have higher ids
        return True
    return await parts.cluster.is_elsewhere(client)


def _make_owners(
    settings: Settings,
    store: IStore,
    access: Access,
    channels: Channels,
    clock: IReactorTime,
    jobs: Jobs,
    replaced: Callable[[str, str], object],
) -> Owners:
    of_client = settings.cursor_seconds, settings.client_seconds, settings.mailbox_seconds
    lives = {
        CLIENT_ID: max(of_client) if all(of_client) else 0.0,
        MEMBER: settings.membership_seconds,
        SERVICE_NAME: settings.client_seconds,
        INDEX: settings.index_seconds,
    }
    return Owners(store, access, channels.notify, clock, replaced, jobs.leases.until_done, lives, settings.max_ids)


def _replaced(parts: Parts, client: str, owner: str) -> None:
    """Disconnect those who use the client id of *owner*, for whatever, and may not any more.

    Until he came, it was theirs: as client id, as member or as the name of a service.
    """
    users = [
        *parts.presence.sessions_of(client),
        *parts.memberships.sessions_of(client),
        *parts.calls.services.in_turn(client),
    ]
    for peer in cast(list[Peer], users):
        if not peer.may_be(client, owner):
            peer.disconnect(CloseCode.GOING_AWAY, "replaced")
            peer.close()


def _presence_changed(parts: Parts, change: str, client: str, session: str) -> None:
    """Tell the other nodes, the client's mailbox and whoever subscribed that a session came or went."""
    parts.cluster.present(change, client, session)
    if change == "online":
        parts.members.rename(session, client)
    else:
        parts.queues.left(CLIENT + client)
    topic = f"{RESERVED_PREFIX}client.{change}"
    if parts.topics.has_listeners(topic) or parts.bus.shared:
        body = json.dumps({"id": client, "session": session}).encode()
        parts.channels.announce(Event(topic, change, body, BROKER, parts.store.wall.time(), origin=session))
