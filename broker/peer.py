"""The only door into the broker: what a dialect may ask for, for one client.

Every verb begins with ``_allow``, the one gate: permission, rate, metric.  A
verb raises a ``BrokerError``, or returns something awaitable that fails with
one; the dialect turns its code into its own words.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import attrs
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.access import Bucket
from broker.calls import Call, Party
from broker.errors import BrokerError, Denied, Gone, NotFound, RateLimited, Taken, Unauthenticated
from broker.indices import Extract, Rows
from broker.interfaces import ISession
from broker.keys import TOPIC, Admits
from broker.messages import Entry, Event, Identity, Mail, Reply, Request
from broker.patterns import check_name, check_pattern
from broker.registry import Registry

if TYPE_CHECKING:
    from broker.service import Broker

log = Logger()

T = TypeVar("T")

RESERVED = "broker."  # names of the broker itself


# Every request of an HTTP client makes a peer: the shape of a UUID without its price.
_ID_PREFIX = str(uuid4())[:24]
_ids = count(1)


def _session_id() -> str:
    return f"{_ID_PREFIX}{next(_ids):012x}"


@attrs.define(eq=False)
class Peer:
    """One client, or one HTTP request of one, and all that it holds.

    ``close`` undoes everything it did.

    Attributes:
        id: the session id; other clients may learn it, it is no credential.
        dialect: the dialect it speaks.
        address: where it comes from.
        identity: who it is.
        admitted: whether it may do anything yet.
        member: whose memberships it has, or "".
        session: its ``ISession``, once bound.
    """

    broker: Broker = attrs.field(repr=False)
    dialect: str
    address: str
    identity: Identity
    admitted: bool
    _verbs: dict[str, int] = attrs.field(repr=False)
    _bucket: Bucket | None = None
    id: str = attrs.field(factory=_session_id)
    named: str = ""
    member: str = ""
    session: ISession | None = None
    closed: bool = False
    calling: dict[str, Call] = attrs.field(factory=dict, repr=False)
    serving: dict[str, Call] = attrs.field(factory=dict, repr=False)
    _topics: dict[tuple[str, bool], bool] | None = None
    _hang_up: Callable[[int, str], object] | None = attrs.field(default=None, repr=False)
    _tries: int = 0
    _paid: bool = False

    # Who it is

    @property
    def client(self) -> str:
        """Its client id: of the credential, else the name it took, else the session id."""
        return self.identity.name or self.named or self.id

    def bind(self, session: ISession, hang_up: Callable[[int, str], object] | None = None) -> None:
        """Let events, requests, replies and mail go to *session*.

        *hang_up* closes its connection; it is called with a close code and a
        reason when the core must part with the client.
        """
        self.session, self._hang_up = session, hang_up

    @property
    def clock(self) -> IReactorTime:
        """The broker's time."""
        return self.broker.clock

    def appear(self) -> None:
        """Be seen by others under the client id, and get the mail that waits for it."""
        self.broker.presence.enter(self)
        self._empty_mailbox()

    def identify(self, credential: object) -> Identity:
        """Become who shows *credential*.

        Raises:
            Unauthenticated: it is missing or wrong.
            Denied: this session is somebody else already.
            RateLimited: too many tries; the dialect may close.
        """
        self._verbs["identify"] += 1
        if self._tries >= self.broker.settings.auth_tries:
            raise RateLimited("limit", "tries")
        try:
            identity = self.broker.access.identify(credential)
        except Unauthenticated:
            self._tries += 1
            self.broker.metrics.auth_failures[self.dialect] += 1
            raise
        if self.identity.authenticated and identity.name != self.identity.name:
            raise Denied("identify", identity.name)
        self.admit(identity)
        return identity

    def admit(self, identity: Identity) -> None:
        """Become *identity*, which the dialect itself has verified."""
        self.identity = identity
        self.admitted = True
        self._tries = 0
        if identity.name:
            self.broker.remember(identity.name)
            self._bucket = self.broker.buckets.of(f"name:{identity.name}")

    async def mint(self, claims: Mapping[str, Any], seconds: float) -> str:
        """Return a token that speaks for this peer's identity for *seconds*; see ``present``.

        *claims* are JSON values; whoever has the token can read them.
        """
        self._allow("mint", self.identity.name)
        return await self.broker.tokens.mint(self.broker.access.remember(self.identity), claims, seconds)

    async def present(self, token: str) -> Mapping[str, Any]:
        """Become the one whom *token* speaks for; return its claims.

        When it expires or is revoked, the connection is closed with 4001 or 4003.

        Raises:
            Unauthenticated: it is not good, or no more.
        """
        self._verbs["identify"] += 1
        try:
            found = await self.broker.tokens.verify(token)
            self.admit(self.broker.access.recall(found.bearer))
        except Unauthenticated:
            self.broker.metrics.auth_failures[self.dialect] += 1
            raise
        if self.closed:
            raise Gone("lost")
        self._bucket = self.broker.buckets.of(f"token:{found.id}")
        self.broker.tokens.hold(self, found)
        return found.claims

    async def revoke(self, token: str) -> None:
        """Let *token* be good no more, and close the connections that live by it.

        Raises:
            Unauthenticated: it is none of ours.
        """
        self._allow("mint", self.identity.name)
        await self.broker.tokens.revoke(token)

    @property
    def tries_left(self) -> int:
        """How many wrong credentials may still be shown."""
        return max(0, self.broker.settings.auth_tries - self._tries)

    def take_name(self, name: str) -> None:
        """Take *name* as client id, where the credential names nobody; once.

        That needs a credential wherever clients may show one.

        Raises:
            Denied: it has another name already, or *name* belongs to a
                credential, to the broker or to a session.
        """
        self._allow("identify", name)
        check_name(name, "name")
        if name in (self.identity.name, self.named):
            return
        access = self.broker.access
        nobody = access.mode != "none" and not self.identity.authenticated
        if nobody or self.identity.name or self.named or access.knows(name) or self._is_another(name):
            raise Denied("identify", name)
        self.named = name
        self.broker.remember(name)

    def _is_another(self, name: str) -> bool:
        """Whether *name* would let the client pass for the broker, a queue or somebody's session."""
        if name == "broker" or name.startswith((RESERVED, "queue:")):
            return True
        return any(peer.id == name and peer is not self for peer in self.broker.presence.sessions(name))

    # Events

    def subscribe(self, topic: str, *, exact: bool = False, echo: bool = False) -> None:
        """Hear the events of *topic*, a name or a pattern, from now on.

        With *exact*, wildcards in it are ordinary characters.  With *echo* it
        hears its own publications too.
        """
        self._subscribe(topic, exact=exact, echo=echo)

    def _subscribe(self, topic: str, *, exact: bool, echo: bool, paced: bool = True) -> None:
        self._allow("subscribe", topic, paced=paced)
        check_name(topic) if exact else check_pattern(topic)
        topics = self._topics
        if topics is None:
            topics = self._topics = {}
        if (topic, exact) not in topics and len(topics) >= self.broker.settings.max_subscriptions:
            raise RateLimited("limit", "subscriptions")
        topics[topic, exact] = echo
        self.broker.topics.subscribe(self, topic, exact=exact, echo=echo)

    def unsubscribe(self, topic: str, *, exact: bool = False) -> None:
        """Hear *topic* no more; of nothing is nothing."""
        if self._topics is not None and self._topics.pop((topic, exact), None) is not None:
            self.broker.topics.unsubscribe(self, topic, exact=exact)

    @property
    def subscriptions(self) -> list[str]:
        """What it has subscribed to, in that order."""
        return [topic for topic, _ in self._topics or ()]

    def publish(
        self,
        topic: str,
        name: str,
        body: bytes | None,
        *,
        time: float = 0.0,
        source: str | None = None,
        original: bytes = b"",
    ) -> Deferred[Event]:
        """Publish an event; on a durable topic it is stored first.

        *source* is whom it is said to be from, by default the client id, "" for
        nobody.  *original* is the client's own frame, for receivers of this dialect.
        The Deferred fires when the event is on its way, and safe if stored.
        """
        self._allow("publish", topic)
        self._own(topic)
        event = self._event(topic, name, body, self.client if source is None else source, time)
        event.original = original
        broker = self.broker
        if broker.channels.is_durable(topic):
            # A client's clock must not decide how long its event is kept.
            event.time = broker.clock.seconds()
            return broker.channels.post(event)
        sent = broker.bus.publish(event)
        return succeed(event) if sent is None else sent.addCallback(lambda _: event)

    def post(self, topic: str, name: str, body: bytes | None, *, source: str = "") -> Deferred[Event]:
        """Publish an event and store it, whatever the topic.  Fires when it is safe."""
        self._allow("publish", topic)
        self._own(topic)
        return self.broker.channels.post(self._event(topic, name, body, source or self.client, 0.0))

    def _event(self, topic: str, name: str, body: bytes | None, source: str, time: float) -> Event:
        now = time or self.broker.clock.seconds()
        return Event(topic, name, body, source, now, origin=self.id, dialect=self.dialect)

    # Memberships: subscriptions that are stored under a name and come back with it

    async def become(self, member: str) -> list[str]:
        """Have the memberships of *member* from now on; return their topics.

        What was joined before is left, in this session only, if that was as
        another member; if it was as nobody, those become memberships too.

        Raises:
            Unavailable: the store is away; then nothing has changed.
        """
        self._allow("join", member, granted=False)
        memberships, member = self.broker.memberships, f"{self.dialect}:{member}"
        topics = await memberships.enter(member, self)
        try:
            for topic in [] if self.member else self._joined():
                await memberships.join(member, topic)
            if self.closed:
                raise Gone("lost", "session")
        except BrokerError:
            if member != self.member:
                memberships.exit(member, self)
            raise
        if self.member and self.member != member:
            self.part_all()
            memberships.exit(self.member, self)
        self.member = member
        for topic in topics:
            self._rejoin(topic)
        return self._joined()

    def _joined(self) -> list[str]:
        return [topic for topic, exact in self._topics or () if exact]

    def _rejoin(self, topic: str) -> None:
        try:
            self._subscribe(topic, exact=True, echo=True, paced=False)
        except (Denied, RateLimited) as error:
            log.info("a membership of {peer} was left out: {code}", peer=self.id, code=error.code)

    async def join(self, topic: str) -> None:
        """Subscribe to the plain name *topic*, its own events included; store that if it is a member.

        Raises:
            RateLimited: it has joined too many.
            Unavailable: the store is away; then nothing has changed.
        """
        joined = self.joined(topic)
        self.subscribe(topic, exact=True, echo=True)
        if not self.member:
            return
        try:
            await self.broker.memberships.join(self.member, topic)
        except BrokerError:
            if not joined:
                self.unsubscribe(topic, exact=True)
            raise

    async def part(self, topic: str) -> None:
        """Unsubscribe from *topic*, and every session of the member too, for good.

        Raises:
            Unavailable: the store is away; then nothing has changed.
        """
        self._allow("part", topic, granted=False)
        if self.member:
            await self.broker.memberships.leave(self.member, topic)
        self.unsubscribe(topic, exact=True)

    def part_all(self) -> None:
        """Hear no topic any more, in this session; stored memberships stay."""
        for topic, exact in list(self._topics or ()):
            self.unsubscribe(topic, exact=exact)

    def joined(self, topic: str) -> bool:
        """Whether it is subscribed to the plain name *topic*."""
        return self._topics is not None and (topic, True) in self._topics

    # Stored topics

    def read(self, topic: str, after: int, limit: int) -> Deferred[list[Event]]:
        """Return stored events newer than id *after*, oldest first."""
        self._allow("read", topic)
        return self.broker.channels.read(check_name(topic), after, limit)

    def latest(self, topic: str, limit: int) -> Deferred[list[Event]]:
        """Return the last *limit* stored events, oldest first."""
        self._allow("read", topic)
        return self.broker.channels.latest(check_name(topic), limit)

    def head(self, topic: str) -> Deferred[int]:
        """Return the id of the newest event there ever was; 0 for none."""
        self._allow("read", topic)
        return self.broker.channels.head(check_name(topic))

    async def poll(self, topic: str, after: int, limit: int, timeout: float) -> list[Event]:
        """Return stored events, waiting for them if there are none; see ``Channels.poll``."""
        self._allow("read", topic)
        return await self.broker.channels.poll(check_name(topic), after, limit, timeout)

    async def cursor(self, client: str, topic: str) -> int:
        """Return the id that *client* has acknowledged last; 0 for none."""
        self._allow("read", topic)
        return await self.broker.channels.cursor(client, topic)

    def move_cursor(self, client: str, topic: str, id: int) -> Deferred[None]:
        """Remember that *client* has all events up to *id*; it may go back."""
        self._allow("read", topic)
        return self.broker.channels.move_cursor(client, topic, id)

    async def create_index(self, id: str, topic: str, field: str) -> bool:
        """Define an index of *topic*; False when that id exists, unchanged."""
        self._allow("read", topic)
        return await self.broker.indices.create(id, check_name(topic), field)

    async def read_index(self, id: str, value: str, extract: Extract) -> Rows:
        """Return the events whose field is *value*, the newest first; see ``Indices.read``."""
        self._allow("index", id, granted=False)
        topic, _ = await self.broker.indices.definition(id)
        self._allow("read", topic, paced=False)
        return await self.broker.indices.read(id, value, extract)

    # Calls

    async def perform(
        self, names: Iterable[str], *, shared: bool = False, whole: bool = False, takeover: bool = False
    ) -> None:
        """Take the calls of *names*, all of them or none.

        Args:
            names: procedures, or services when *whole*: a service has every
                procedure that begins with its name and a dot.
            shared: take them in turn with others that share them.
            whole: see above.
            takeover: ask a present holder for a sign of life, and replace it
                when none comes in time.

        Raises:
            Taken: somebody else performs one of them.
        """
        names = list(names)
        for name in names:
            self._allow("register", name)
            self._own(name)
        registry = self.broker.calls.registry(whole)
        if len(registry.names_of(self)) + len(names) > self.broker.settings.max_registrations:
            raise RateLimited("limit", "registrations")
        for name in names:
            await self._vacate(registry, name, shared, takeover)
        await self._claim(names)
        try:
            # Others may have come while we waited.
            for name in names:
                registry.check(self, name, shared)
        except Taken:
            self.broker.unclaim(names)
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
                if not takeover or place is None or await self._lives(place.next()):
                    raise
            if self.closed:
                raise Gone("lost", name)

    async def _claim(self, names: list[str]) -> None:
        """Hold *names* among the nodes; all of them or none."""
        if not self.broker.bus.shared:
            return
        try:
            for name in names:
                await self.broker.bus.claim(name)
            if self.closed:
                raise Gone("lost", names[0])
        except BaseException:  # cancelled, too
            self.broker.unclaim(names)
            raise

    async def _lives(self, holder: Party) -> bool:
        """Ask *holder* for a sign of life; hang up on it when there is none."""
        assert isinstance(holder, Peer)
        alive: bool = await holder.probe(self.broker.settings.takeover_probe_seconds)
        if not alive:
            holder.hang_up(1001, "replaced")
            holder.close()
        return alive

    def probe(self, timeout: float) -> Deferred[bool]:
        """Fire with whether the client gives a sign of life within *timeout* seconds."""
        if self.session is None:
            return succeed(False)
        asked: Deferred[bool] = Deferred.fromCoroutine(_await(self.session.probe()))
        asked.addTimeout(timeout, self.broker.clock)
        return asked.addErrback(_silent)

    def release(self, name: str, *, whole: bool = False) -> bool:
        """Take calls of *name* no more; say whether it did."""
        released = self.broker.calls.registry(whole).remove(self, name)
        if released:
            self.broker.unclaim((name,))
        return released

    def performs(self, *, whole: bool = False) -> list[str]:
        """Return the names it performs."""
        return self.broker.calls.registry(whole).names_of(self)

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
            callee, service = calls.find_at(request.procedure, self._sessions(request.recipient))
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

    def ignore(self) -> None:
        """Count a message that asked for nothing."""
        self._verbs["ignore"] += 1

    def acknowledge(self, topic: str) -> None:
        """Take streamed requests of *topic*, in turn with others; "*" takes any other."""
        self._allow("acknowledge", topic)
        if topic != "*":
            check_name(topic)
        if len(self.acknowledged) >= self.broker.settings.max_registrations:
            raise RateLimited("limit", "registrations")
        self.broker.calls.takers.add(self, topic, shared=True)

    def unacknowledge(self, topic: str) -> None:
        """Take streamed requests of *topic* no more."""
        self.broker.calls.takers.remove(self, topic)

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
        takers = self.broker.calls.takers
        if request.recipient:
            target = self._sessions(request.recipient)[0]
        else:
            place = (takers.place(topic) if topic else None) or takers.place("*")
            if place is None:
                raise NotFound("request", topic or "*")
            target = place.next()  # type: ignore[assignment]
        request.streamed = True
        request.caller = self.client
        request.dialect = self.dialect
        self.broker.calls.open(self, target, ref, request)

    def _sessions(self, recipient: str) -> list[Peer]:
        sessions = self.broker.presence.sessions(recipient)
        if not sessions:
            raise Gone("recipient", recipient)
        return sessions  # type: ignore[return-value]

    # Queues

    def enqueue(self, ref: str, body: bytes, *, recipient: str = "", time: float = 0.0) -> Deferred[bool]:
        """Send a message to a client's mailbox, or to the work queue ``queue:<name>``.

        Without a recipient it goes to ``queue:default``.  Fires when it has been
        handed over or stored, with True if an older one was dropped for it.

        Raises:
            Gone: the recipient is unknown and has no mailbox.
        """
        queue = recipient or "queue:default"
        self._allow("send", queue)
        check_name(queue, "recipient")
        if not queue.startswith("queue:"):
            return ensureDeferred(self._send(queue, ref, body, time))
        return self.broker.queues.put(self._mail(queue, ref, body, time))

    async def _send(self, client: str, ref: str, body: bytes, time: float) -> bool:
        sessions = self.broker.presence.sessions(client)
        if sessions and sessions[0].client != client:  # a session id: it has no mailbox
            if not sessions[0].post_mail(self._mail(f"client:{client}", ref, body, time)):  # type: ignore[attr-defined]
                raise Gone("recipient", client)
            return False
        if not sessions and not await self.broker.has_mailbox(client) and not self._names_explicitly(client):
            raise Gone("recipient", client)
        return await self.broker.queues.put(self._mail(f"client:{client}", ref, body, time))

    def _names_explicitly(self, client: str) -> bool:
        grants = self.identity.grants
        return grants is not None and client in grants.names("send")

    def _mail(self, queue: str, ref: str, body: bytes, time: float) -> Mail:
        return Mail(queue, ref, body, self.client, time or self.broker.clock.seconds())

    def collect(self) -> None:
        """Get the mail that its session has declined before, or that nobody has taken."""
        self._empty_mailbox()
        for queue in self.consumed:
            self.broker.queues.drain(f"queue:{queue}")

    def _empty_mailbox(self) -> None:
        if self.identity.name or self.named:
            self.broker.queues.drain(f"client:{self.client}")

    def consume(self, queue: str) -> None:
        """Take messages of work queue *queue*, in turn with others."""
        self._allow("consume", f"queue:{queue}")
        check_name(queue, "queue")
        if len(self.consumed) >= self.broker.settings.max_registrations:
            raise RateLimited("limit", "registrations")
        self.broker.queues.consumers.add(self, f"queue:{queue}", shared=True)
        self.broker.queues.drain(f"queue:{queue}")

    def stop_consuming(self, queue: str) -> None:
        """Take messages of *queue* no more."""
        if self.broker.queues.consumers.remove(self, f"queue:{queue}"):
            self.broker.queues.left(f"queue:{queue}")

    @property
    def consumed(self) -> list[str]:
        """The work queues it takes from."""
        return [name.removeprefix("queue:") for name in self.broker.queues.consumers.names_of(self)]

    # Keys

    def get(self, key: str) -> Deferred[Entry | None]:
        """Return the entry of *key*, or None."""
        self._allow("read", TOPIC + key)
        return self.broker.keys.get(key)

    async def range(
        self, first: str, last: str, limit: int, *, admits: Admits | None = None, enough: int = 0
    ) -> list[tuple[str, Entry]]:
        """Return the entries with first <= key <= last that it may read; see ``Keys.range``."""
        self._allow("read", TOPIC + first, granted=False)
        return await self.broker.keys.range(first, last, limit, admits=self._may("read", admits), enough=enough)

    def set(self, key: str, value: bytes, *, revision: int | None = None, expires: float = 0.0) -> Deferred[Entry]:
        """Create or replace *key*; *revision* and *expires* as in ``IStore.set``."""
        self._allow("write", TOPIC + key)
        return self.broker.keys.set(key, value, revision=revision, expires=expires, origin=self.id)

    def patch(self, key: str, value: bytes) -> Deferred[Entry]:
        """Merge *value* into *key* in one step; see ``keys.merge``."""
        self._allow("write", TOPIC + key)
        return self.broker.keys.patch(key, value, origin=self.id)

    def increment(self, key: str, amount: bytes) -> Deferred[Entry]:
        """Add the decimal number *amount* to *key* in one step."""
        self._allow("write", TOPIC + key)
        return self.broker.keys.increment(key, amount, origin=self.id)

    def delete(self, key: str, *, revision: int | None = None) -> Deferred[bool]:
        """Remove *key*; fires with whether it was there."""
        self._allow("write", TOPIC + key)
        return self.broker.keys.delete(key, revision=revision, origin=self.id)

    def watch(self, admits: Admits | None = None, names: Iterable[str] = ()) -> None:
        """Hear the changes of the keys *names* and of all that *admits* says yes to; once each."""
        self._allow("watch", TOPIC, paced=False, granted=False)
        if self.identity.grants is None:
            self.broker.keys.watch(self, admits, names)
        else:
            may = self._may("subscribe", admits)
            self.broker.keys.watch(self, may if admits else None, filter(self._may("subscribe"), names))

    def unwatch(self) -> None:
        """Hear of keys no more."""
        self.broker.keys.unwatch(self)

    # The daemon

    def about(self) -> dict[str, Any]:
        """Return what the daemon is; no secrets."""
        self._verbs["about"] += 1
        return self.broker.about()

    def pause(self, seconds: float) -> Deferred[None]:
        """Fire in *seconds*."""
        return deferLater(self.broker.clock, seconds)

    def _may(self, verb: str, admits: Admits | None = None) -> Admits | None:
        """Return which keys it may *verb*, of those that *admits* says yes to; None: all."""
        grants = self.identity.grants
        if grants is None:
            return admits
        if admits is None:
            return lambda key: grants.may(verb, TOPIC + key)
        return lambda key: admits(key) and grants.may(verb, TOPIC + key)

    # What the core hands to the client

    def take(self, event: Event, pattern: str) -> None:
        """Hand *event* to the session."""
        try:
            self.session.event(event, pattern)  # type: ignore[union-attr]
        except Exception:
            self.fail("an event")

    def serve(self, request: Request) -> None:
        """Hand *request* to the session; a ``BrokerError`` of it refuses."""
        try:
            self.session.request(request)  # type: ignore[union-attr]
        except BrokerError:
            raise
        except Exception:
            self.fail("a request")

    def hear(self, reply: Reply) -> None:
        """Hand *reply* to the session."""
        try:
            self.session.reply(reply)  # type: ignore[union-attr]
        except Exception:
            self.fail("a reply")

    def post_mail(self, mail: Mail) -> bool:
        """Hand *mail* to the session, which may decline it."""
        try:
            return not self.closed and self.session is not None and self.session.mail(mail)
        except Exception:
            self.fail("mail")
            return False

    def fail(self, what: str) -> None:
        """Part with the client for a bug of ours; the others go on."""
        log.failure("{dialect} session {peer} failed at {what}", dialect=self.dialect, peer=self.id, what=what)
        self.hang_up(1011, "internal error")

    def hang_up(self, code: int, reason: str) -> None:
        """Close the client's connection."""
        if self._hang_up is not None:
            self._hang_up(code, reason)

    def close(self) -> None:
        """Undo everything this peer did.  Again is nothing."""
        if self.closed:
            return
        self.closed = True
        self.broker.tokens.release(self)
        self.undo()

    def undo(self) -> None:
        """Undo everything this peer did; it stays who it is and may begin again."""
        broker = self.broker
        for topic, exact in self._topics or ():
            broker.topics.unsubscribe(self, topic, exact=exact)
        self._topics = None
        if self.member:
            broker.memberships.exit(self.member, self)
            self.member = ""
        if self.session is not None:
            broker.leave(self)

    def pace(self) -> None:
        """Count a frame against the rate before it is looked at; its one verb is then free.

        Raises:
            RateLimited: there were too many.
        """
        if self._bucket is not None:
            self._paid = False
            self._pay()
            self._paid = True

    def _pay(self) -> None:
        if self._paid:
            self._paid = False
        elif not self._bucket.take():  # type: ignore[union-attr]
            self.broker.metrics.rate_limited += 1
            raise RateLimited("limit", "rate")

    def _allow(self, verb: str, name: str, *, paced: bool = True, granted: bool = True) -> None:
        """Let the client *verb* with *name*, or raise: the one gate.

        Args:
            verb: what it wants to do.
            name: with what.
            paced: whether that counts against its rate.
            granted: whether it needs a permission for *name*; otherwise the
                caller looks after the permission for each name it comes across.
        """
        self._verbs[verb] += 1
        if paced and self._bucket is not None:
            self._pay()
        if not self.admitted:
            raise Unauthenticated(verb)
        grants = self.identity.grants
        if granted and grants is not None and verb != "identify" and not grants.may(verb, name):
            raise Denied(verb, name)
        if self.closed:
            raise Gone("lost", name)

    def _own(self, name: str) -> None:
        """Refuse names of the broker itself and those that name nothing."""
        check_name(name)
        if name.startswith(RESERVED):
            raise Denied("reserved", name)


def _silent(failure: Failure) -> bool:
    # Cancelled is not silent: the one that asked has gone.
    if failure.check(CancelledError):
        failure.raiseException()
    return False


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable
