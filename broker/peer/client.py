"""A client as every verb knows it: who it is, what it may do, what the core hands to it, and its end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, cast

import attrs
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.access.failures import MISSING
from broker.access.lifetimes import Holder
from broker.access.limits import Bucket, network_of
from broker.core.acknowledgements import Acknowledgements, Taken
from broker.core.call import Call
from broker.core.epochs import epoch_of
from broker.core.followers import Follower
from broker.core.id_series import IdSeries
from broker.core.keys import Predicate
from broker.core.memberships import Session
from broker.core.owners import MEMBER
from broker.core.parts import Parts
from broker.core.semaphore import Semaphore
from broker.core.shares import Share
from broker.core.testaments import Left
from broker.core.time_limits import within
from broker.errors import BrokerError, Denied, Gone, RateLimited, Unauthenticated
from broker.interfaces import ILink, ISession, IWallClock
from broker.messages import SHARED, CloseCode, Delivery, Event, Identity, Mail, Reply, Request, quota_of
from broker.observe.metrics import VerbCounts
from broker.patterns import (
    BROKER,
    CONTROL_PREFIX,
    KEY_PREFIX,
    QUEUE,
    SESSION_VERSION,
    belongs_to_broker,
    check_text,
    is_of_broker,
)
from broker.peer.held import HeldForPeer

log = Logger()

STARTS_OF_RESERVED = (BROKER, QUEUE, KEY_PREFIX)  # a name that begins otherwise needs no second look

# Verbs that make the daemon hold more, for a store, a callee or those who read: refused while memory is short.
CROWDING = frozenset(("publish", "call", "request", "send", "write"))
# The setting of how many polls may wait, by whether it is that of one client.
MAX_ROLES, MAX_ROLE = 3, 40  # that a refusal names, and characters of one
POLL_LIMITS = ("TXBROKER_MAX_WAITING_POLLS", "TXBROKER_MAX_WAITING_POLLS_PER_CLIENT")

# Every request of an HTTP client makes a peer: the shape of a UUID without its price.
_series = IdSeries(SESSION_VERSION)


@attrs.define(eq=False)
class Client:
    """One client as far as every verb needs to know it.

    Attributes:
        id: the session id; other clients may learn it, it is no credential.
        client: the client id, see ``IPeer.client``.
        dialect: the dialect it speaks.
        address: where it comes from.
        identity: who it is.
        admitted: whether it may do anything yet.
        named: the client id it took: its credential names nobody, or lets it act as that one.
        token: the id of the minted token that it lives by, or "".
        member: whose memberships it has, or "".
        session: its ``ISession``, once bound.
        flow: its ``ILink``, once bound, if it has one.
        closed: whether ``close`` was called.
        calling, serving: the calls it has made, and those it has to answer.
        refused: whether it was refused something, which then stands in the log.
        since: when its session was bound, by the monotonic clock.
    """

    _parts: Parts = attrs.field(repr=False)
    dialect: str
    address: str
    identity: Identity = attrs.field(init=False)
    admitted: bool = attrs.field(init=False)
    _verbs: VerbCounts = attrs.field(init=False, repr=False)
    _bucket: Bucket | None = attrs.field(init=False)
    id: str = attrs.field(init=False)
    client: str = attrs.field(init=False)
    named: str = ""
    token: str = ""
    member: str = ""
    session: ISession | None = None
    flow: ILink | None = attrs.field(default=None, repr=False)
    closed: bool = False
    calling: dict[str, Call] = attrs.field(factory=dict, repr=False)
    serving: dict[str, Call] = attrs.field(factory=dict, repr=False)
    refused: bool = False
    since: float = 0.0
    # By topic and whether that is exact: whether it gets its own events, too, or the subscription from a position.
    _topics: dict[tuple[str, bool], bool | Follower] | None = None
    _tokens: int = 0  # of the patterns among them
    _beginning: list[Follower] | None = None  # those whose beginning is looked for
    _disconnect: Callable[[int, str], object] | None = attrs.field(default=None, repr=False)
    _share: Share | None = attrs.field(default=None, repr=False)  # of its principal, once that was asked for
    _warn: Callable[[float], object] | None = attrs.field(default=None, repr=False)
    _left: Left | None = attrs.field(default=None, repr=False)  # its testament
    _ended: tuple[int, str] | None = None  # how it is to be disconnected, once it can be
    _tries: int = 0
    _token_taken: bool = False
    _held: HeldForPeer | None = None
    _timed: bool = False  # whether ``lifetimes`` holds it
    _awaited: Acknowledgements | None = None

    def __attrs_post_init__(self) -> None:
        parts = self._parts
        self.id = next(_series.ids)
        self.identity = parts.access.anonymous
        self._see_to_name()
        self.admitted = parts.access.mode != "required"
        metrics = parts.metrics
        self._verbs = metrics.verbs.get(self.dialect) or metrics.verbs_of(self.dialect)
        self._bucket = self._find_bucket() if parts.buckets.limited else None

    def _see_to_name(self) -> None:
        """Find ``client`` anew: what it follows from has changed."""
        self.client = self.named or self.identity.client or self.id

    @property
    def clock(self) -> IReactorTime:
        """See ``IPeer.clock``."""
        return self._parts.clock

    @property
    def wall(self) -> IWallClock:
        """See ``IPeer.wall``."""
        return self._parts.store.wall

    def pace(self) -> None:
        """See ``IPeer.pace``."""
        if self._bucket is not None:
            self._token_taken = False
            self._take_token("frame")
            self._token_taken = True

    def take_token(self) -> None:
        """See ``IPeer.take_token``."""
        if self._bucket is not None:
            self._token_taken = False
            self._take_token("frame")

    @property
    def epoch(self) -> str:
        """See ``IPeer.epoch``."""
        return self._parts.store.epoch

    def present_epoch(self, shown: str | None = None) -> Coroutine[Any, Any, str]:
        """See ``IPeer.present_epoch``."""
        return epoch_of(self._parts.store, shown)

    @property
    def send_queue_bytes(self) -> int:
        """See ``IPeer.send_queue_bytes``."""
        return self._parts.settings.send_queue_bytes

    @property
    def slow_grace_seconds(self) -> float:
        """See ``IPeer.slow_grace_seconds``."""
        return self._parts.settings.slow_grace_seconds

    def take_one_token(self) -> None:
        """Count all that this peer does from now on once against the rate: it makes one HTTP request.

        Raises:
            RateLimited: there were too many.
        """
        if self._bucket is not None:
            try:
                self._take_token("request")
            finally:
                self._bucket = None

    def _find_bucket(self) -> Bucket | None:
        buckets = self._parts.buckets
        return buckets.of(self._owner) if buckets.limited else None

    @property
    def _owner(self) -> str:
        """Whose rate and share are its own: its principal's, if that is somebody, else its address's."""
        return self.identity.principal if self.identity.name else network_of(self.address)

    def _take_share(self) -> Share:
        """Return what all clients of its principal have together."""
        self._share = share = self._parts.shares.of(self._owner)
        return share

    @asynccontextmanager
    async def _reading(self, verb: str, what: str, of_all: Semaphore | None = None) -> AsyncIterator[None]:
        """Let the client read *what* may be long, once others have what they read before; see ``Share.reading``.

        What was read is to be answered at once then: it counts nowhere before it is.  *of_all* bounds how many read
        that together; None: ``Shares.reading`` does.

        Raises:
            RateLimited: it waits for too much.
            Gone: its session has ended meanwhile.
        """
        try:
            permit = (self._share or self._take_share()).reading.permit()
        except RateLimited as error:
            raise self._log(error, verb, "") from None
        async with permit, (of_all or self._parts.shares.reading).permit():
            if self.closed:  # thousands may have waited, for whom nobody waits any more
                raise Gone("lost", what)
            yield

    def _take_token(self, verb: str) -> None:
        if self._token_taken:
            self._token_taken = False
        elif not self._bucket.take_token():  # type: ignore[union-attr]
            raise self._over_rate(verb)

    def _over_rate(self, verb: str) -> BrokerError:
        self._parts.metrics.rate_limited += 1
        wait = self._bucket.wait()  # type: ignore[union-attr]  # it is its bucket that has no token
        return self._log(RateLimited("limit", "rate", retry_after=wait), verb, "TXBROKER_RATE")

    def deny(self, verb: str, name: str, setting: str = "TXBROKER_PERMISSIONS_FILE") -> BrokerError:
        """See ``IPeer.deny``."""
        return self._log(Denied(verb, name), verb, setting, name)

    def unauthenticated(self, verb: str, explanation: str = "") -> BrokerError:
        """See ``IPeer.unauthenticated``."""
        return self._log(Unauthenticated(verb, message=explanation), verb, "TXBROKER_AUTH")

    def _log(self, error: BrokerError, verb: str, setting: str, name: str = "", note: str = "") -> BrokerError:
        """Return *error*, a refusal, when it has been logged."""
        self.refused = True
        principal = self.identity.principal
        self._parts.refusals.add(self.dialect, self.address, principal, verb, error.code, setting, name, note=note)
        return error

    def _log_polls(self, error: RateLimited, share: Share, verb: str) -> BrokerError:
        """Return *error*, which says that too much waits, in all or of those with *share*, when it has been logged."""
        of_client = share.polls >= self._parts.settings.max_waiting_polls_per_client
        return self._log(error, verb, POLL_LIMITS[of_client])

    def _allow(self, verb: str, name: str, *, rate_limited: bool = True, check_permission: bool = True) -> None:
        """Check that the client may *verb* with *name*, and count it; every verb begins with this.

        Args:
            verb: the name of the verb, as permissions and metrics have it.
            name: the topic, procedure, queue or key.
            rate_limited: whether that counts against its rate.
            check_permission: whether *name* needs a permission; otherwise the caller
                checks each name it comes across.
        """
        self._verbs[verb] += 1
        if rate_limited and self._bucket is not None:
            self._take_token(verb)
        if not self.admitted:
            raise self.unauthenticated(verb)
        grants = self.identity.grants
        if check_permission and grants is not None and verb != "identify" and not grants.may(verb, name):
            raise self.deny(verb, name)
        if self.closed:
            raise Gone("lost", name)
        if self._parts.memory.crowded and verb in CROWDING:
            self._parts.metrics.rate_limited += 1
            raise self._log(RateLimited("limit", "memory"), verb, "TXBROKER_MEMORY_LIMIT_BYTES")

    def _check_permission(self, verb: str, name: str) -> None:
        """Check that the client has the permission to *verb* *name*, where ``_allow`` could not know the name."""
        grants = self.identity.grants
        if grants is not None and not grants.may(verb, name):
            raise self.deny(verb, name)

    def _own(self, verb: str, name: str) -> None:
        """Check that *name* is well formed and not one of the broker itself.

        Raises:
            Invalid: it is malformed.
            Denied: it is reserved.
        """
        check_text(name)
        if name.startswith(STARTS_OF_RESERVED) and belongs_to_broker(name):
            raise self.deny(verb, name, "")

    def _shown(self, topic: str) -> str:
        """Return *topic* if clients may read what was stored of it.

        Raises:
            Invalid: it is malformed.
            Denied: it belongs to the nodes.
        """
        if topic.startswith(CONTROL_PREFIX):
            raise self.deny("read", topic, "")
        return check_text(topic)

    def _may(self, verb: str, predicate: Predicate | None = None) -> Predicate | None:
        """Return which keys it may *verb*, of those for which *predicate* holds; None: all."""
        grants = self.identity.grants
        if grants is None:
            return predicate
        if predicate is None:
            return lambda key: grants.may_name(verb, KEY_PREFIX + key)
        return lambda key: predicate(key) and grants.may_name(verb, KEY_PREFIX + key)

    def _may_name(self, verb: str, name: str) -> bool:
        """Whether it may *verb* with *name*, whose wildcards are ordinary characters."""
        grants = self.identity.grants
        return grants is None or grants.may_name(verb, name)

    def _own_key(self, key: str) -> str:
        """Return what stands in the store for *key*, by which this principal sends something again; "" if it is "".

        Another principal's is another one: it can neither take the place of what this one sends, nor find out about it.

        Raises:
            Invalid: it is too long, or holds control characters.
        """
        if not key:
            return ""
        identity = self.identity
        whose = "" if identity.owner == SHARED else f"{identity.principal}\0"
        return whose + check_text(key, "key")

    def ignore(self, messages: int = 1) -> None:
        """See ``IPeer.ignore``."""
        self._verbs["ignore"] += messages
        if self._bucket is not None:
            self._bucket.spend(messages)

    def about(self) -> dict[str, Any]:
        """See ``IPeer.about``."""
        self._verbs["about"] += 1
        return self._parts.about()

    def pause(self, seconds: float) -> Deferred[None]:
        """See ``IPeer.pause``."""
        return deferLater(self._parts.clock, seconds)

    # Who it is.

    def hold(self, change: int) -> None:
        """See ``IPeer.hold``."""
        if self.closed:
            return
        if self._held is None:
            self._held = HeldForPeer(self, self._parts.memory.held)
        self._held.change(change)

    def slow_consumer(self, policy: str = "close") -> None:
        """See ``IPeer.slow_consumer``."""
        self._parts.metrics.slow_consumer(policy)
        if policy != "close":
            return
        log.warn(
            "{dialect}: {address} reads too slowly: more than TXBROKER_SEND_QUEUE_BYTES waited for it",
            dialect=self.dialect,
            address=self.address,
            conn=self.id,
        )

    def bind(
        self,
        session: ISession,
        disconnect: Callable[[int, str], object] | None = None,
        warn: Callable[[float], object] | None = None,
        link: ILink | None = None,
    ) -> None:
        """See ``IPeer.bind``."""
        self.session, self._disconnect, self._warn, self.flow = session, disconnect, warn, link
        self.since = self._parts.clock.seconds()
        if self._ended is not None:
            self.disconnect(*self._ended)
        else:
            self._hold()

    def _hold(self) -> None:
        """Let the client be disconnected when its credential ends."""
        if not self.closed:
            self._timed = True
            self._parts.lifetimes.hold(cast(Holder, self))

    def identify(self, credential: object) -> Identity:
        """See ``IPeer.identify``."""
        parts = self._parts
        self._verbs["identify"] += 1
        # A handshake is no frame: its client may come again at once, and what it shows has a limit of its own.
        if self.session is not None and self._bucket is not None and not self._token_taken:
            self._take_token("identify")
        if self._tries >= parts.settings.auth_tries:
            raise self._log(RateLimited("limit", "tries"), "identify", "TXBROKER_AUTH_TRIES")
        if parts.failures.addresses:
            self._check_failures()
        try:
            identity = parts.access.identify(credential)
        except Unauthenticated as error:
            self._tries += 1
            self._count_failure(credential, error, parts.settings.credentials)
            raise
        reason = self.identity.authenticated and _not_renewed(self.identity, identity)
        if reason:
            raise self._log(Denied("identify", identity.name), "identify", "", identity.name, reason)
        self.admit(identity)
        return identity

    def _check_failures(self) -> None:
        """Check that a credential may be looked at.

        Raises:
            RateLimited: too many wrong ones came from its address.
        """
        if not self._parts.access.configured:
            return  # there is nothing to guess
        try:
            self._parts.failures.check(self.dialect, self.address, self.identity.principal)
        except RateLimited:
            self.refused = True
            raise

    def _count_failure(self, shown: object, error: Unauthenticated, setting: str) -> None:
        parts = self._parts
        self.refused = True
        parts.metrics.auth_failures[self.dialect] += 1
        setting = setting if shown else MISSING
        guessed = bool(shown) and parts.access.configured and error.guessed
        principal, why = self.identity.principal, error.reason
        parts.failures.count(self.dialect, self.address, setting, principal, guessed=guessed, why=why)

    def admit(self, identity: Identity) -> None:
        """See ``IPeer.admit``."""
        if identity.client and identity.principal != self.identity.principal:
            self.named = ""
        self.identity = identity
        self._see_to_name()
        self.admitted = True
        self.token = ""
        self._tries = 0
        self._share = None
        if identity.client:
            self._parts.owners.claim_name(identity)
            self.keep_mailbox()
        if identity.name:
            self._bucket = self._find_bucket()
        if self.session is not None:
            self._hold()

    def keep_mailbox(self) -> None:
        """Let the mailbox of its client id be there, if it has one by its credential or took it."""
        if self.identity.client or self.named:
            quota = quota_of("clients", self.identity.kind, self.identity.name, self._parts.settings.max_clients)
            self._parts.mailboxes.open(self.client, quota)

    def _see_to_id(self, kind: str, id: str, verb: str, *, only_check: bool = False) -> Deferred[None] | None:
        """Fire when this peer may use *id*, which is its principal's from now on if it was nobody's; None: it may.

        The Deferred fails with ``Denied`` of *verb* when it is another's; see ``Owners.claim``.
        """
        owners = self._parts.owners
        kinds = owners.known.get(id)
        if kinds is not None and kinds.get(kind) == self.identity.owner:
            return None
        claim = ensureDeferred(owners.claim(kind, id, self.identity, verb, only_check=only_check))
        return claim.addErrback(self._log_denied, verb, id, kind)

    def may_be(self, client: str, owner: str | None = None) -> bool:
        """Whether it may use the client id *client*: it is the *owner*, or may act as others."""
        identity = self.identity
        return identity.owner == owner or (identity.grants is not None and identity.grants.may_act(client))

    def _check_id(self, id: str, verb: str) -> None:
        """Check that nobody has come who is called *id* since it was found that this peer may use it.

        Raises:
            Denied: somebody has.
        """
        owner = self._parts.owners.called(id)
        if owner and not self.may_be(id, owner):
            raise self.deny(verb, id)

    def _log_denied(self, failure: Failure, verb: str, id: str, kind: str) -> Failure:
        if isinstance(failure.value, RateLimited):
            return Failure(self._log(failure.value, verb, "TXBROKER_MAX_IDS"))
        # No permission opens a name that is reserved.
        setting = "" if is_of_broker(id) else "TXBROKER_PERMISSIONS_FILE"
        if not failure.check(Denied):
            return failure
        # Whoever knows the id of a member of rooms, and shows no credential, has its rooms.
        return Failure(self._log(Denied(verb, id), verb, setting, "" if kind == MEMBER else id))

    # What the core calls.

    def probe(self, timeout: float) -> Deferred[bool]:
        """Fire with whether the client responds within *timeout* seconds."""
        if self.session is None:
            return succeed(False)
        return within(timeout, self._parts.clock, _asked(self.session)).addErrback(_no_response)

    def on_event(self, event: Event, pattern: str) -> None:
        """Hand *event* to the session."""
        try:
            self.session.event(event, pattern)  # type: ignore[union-attr]
        except Exception:
            self.fail("an event")

    def on_request(self, request: Request) -> None:
        """Hand *request* to the session; a ``BrokerError`` of it refuses."""
        if self._parts.topics.late.waiting:  # events that were published before it
            self._parts.topics.late.catch_up(self)
        try:
            self.session.request(request)  # type: ignore[union-attr]
        except BrokerError:
            raise
        except Exception:
            if self.closed:
                raise Gone("lost", request.procedure) from None
            self.fail("a request")

    def on_cancel(self, id: str) -> None:
        """Tell the session that the request *id* was cancelled by its caller."""
        try:
            cancelled = getattr(self.session, "cancelled", None)
            if cancelled is not None:
                cancelled(id)
        except Exception:
            self.fail("a cancellation")

    def on_reply(self, reply: Reply) -> None:
        """Hand *reply* to the session."""
        if self._parts.topics.late.waiting:  # events that were published before it
            self._parts.topics.late.catch_up(self)
        try:
            self.session.reply(reply)  # type: ignore[union-attr]
        except Exception:
            self.fail("a reply")

    def accepts_jobs(self, all_left: bool) -> bool:
        """Whether the session can send a job now; see ``ISession.accepts_jobs``."""
        try:
            return not self.closed and self.session is not None and self.session.accepts_jobs(all_left)
        except Exception:
            self.fail("a look for room")
            return False

    def post_mail(self, mail: Mail) -> Taken:
        """Hand *mail* to the session; False when that declines it; a Deferred when it says later whether it has it."""
        try:
            if self.closed or self.session is None or not (self._awaited is None or self._awaited.has_room()):
                return False
            taken = self.session.mail(mail)
        except Exception:
            self.fail("mail")
            return False
        return taken if isinstance(taken, bool) else self._await(taken, mail)

    def _await(self, taken: Any, mail: Mail) -> Taken:
        if not isinstance(taken, Deferred | Coroutine):
            return bool(taken)
        if self._awaited is None:
            self._awaited = Acknowledgements(self._parts.clock, cast(Any, self).collect)  # every client is a whole peer
        lease = mail.lease if isinstance(mail, Delivery) else self._parts.settings.lease_seconds
        return self._awaited.add(taken, lease)

    def on_gap(self, topic: str, why: str) -> None:
        """Tell the session that events of *topic* were missed, or changes of the keys it watches if that is "".

        One that has no word for that is disconnected.
        """
        try:
            told = getattr(self.session, "gap", None)
            if told is not None:
                told(topic, why)
            else:
                self.disconnect(CloseCode.TRY_AGAIN_LATER, "events were missed")
        except Exception:
            self.fail("a notice")

    def fail(self, what: str) -> None:
        """See ``IPeer.fail``."""
        if self.closed:  # it has no session any more
            return
        log.failure("{dialect} session {peer} failed at {what}", dialect=self.dialect, peer=self.id, what=what)
        self.disconnect(CloseCode.INTERNAL_ERROR, "internal error")

    def disconnect(self, code: int, reason: str) -> None:
        """See ``IPeer.disconnect``."""
        # Looked up late: a bound method kept for each client would be memory of each.
        disconnect = self._disconnect or getattr(self.session, "disconnect", None)
        if disconnect is not None:
            disconnect(code, reason)
        else:
            self._ended = code, reason

    def warn(self, seconds: float) -> None:
        """Tell the session that the client's credential ends in *seconds*."""
        try:
            warn = self._warn or getattr(self.session, "warn", None)
            if warn is not None:
                warn(seconds)
        except Exception:
            self.fail("a warning")

    # The end.

    def close(self) -> None:
        """See ``IPeer.close``."""
        if self.closed:
            return
        self.closed = True
        if self._held is not None:
            self._held.end()
            self._held = None
        if self._timed:
            self._parts.lifetimes.release(cast(Holder, self))
        self.undo()
        left, self._left = self._left, None
        if left is not None and left.kept is not None:
            self._parts.testaments.execute(self.id)
        # Those refer to this peer: all would have to wait for the garbage collector.
        self.session = self._disconnect = self._warn = self.flow = None

    async def lives(self, timeout: float) -> bool:
        """Say whether the client responds within *timeout* seconds; if not, disconnect and close it."""
        alive: bool = await self.probe(timeout)
        if not alive:
            self.disconnect(CloseCode.GOING_AWAY, "replaced")
            self.close()
        return alive

    def undo(self) -> None:
        """See ``IPeer.undo``."""
        parts = self._parts
        for (topic, exact), subscription in (self._topics or {}).items():
            if isinstance(subscription, Follower):
                subscription.stop()
            else:
                parts.topics.unsubscribe(self, topic, exact=exact)
        for follower in self._beginning or ():
            follower.stop()
        self._topics = self._beginning = None
        self._tokens = 0
        if self.member:
            parts.memberships.exit(self.member, cast(Session, self))  # every client is a whole peer
            self.member = ""
        if self.session is not None:
            held = parts.cluster.names_of(self)
            parts.calls.leave(self)
            parts.keys.leave(self)
            parts.jobs.leave(self)
            parts.members.leave(self.id)
            parts.presence.leave(self)
            # Others may hold the same: only now it is known what nobody here holds.
            parts.cluster.release(held)
        awaited, self._awaited = self._awaited, None
        if awaited is not None:
            awaited.end()


def _not_renewed(before: Identity, now: Identity) -> str:
    """Return why *now* may not take the place of *before*; "" if it may.

    It is the same principal, which has lost no role: what it has subscribed to by one must not outlive that.
    """
    if now.principal != before.principal:
        return "a connection that has shown a credential takes none of another principal"
    kept = set(now.roles)
    lost = [role for role in before.roles if role not in kept]
    if not lost:
        return ""
    # The issuer of the token has chosen them: as JSON nothing in them reaches the terminal as it is.
    named = ", ".join(json.dumps(role[:MAX_ROLE]) for role in lost[:MAX_ROLES])
    more = f" and {len(lost) - MAX_ROLES} more" if len(lost) > MAX_ROLES else ""
    return f"the new credential lacks {named}{more} of the roles of the old one, which goes on: connect again with it"


def _no_response(failure: Failure) -> bool:
    # A cancelled probe says nothing of the client.
    if failure.check(CancelledError):
        failure.raiseException()
    return False


async def _asked(session: ISession) -> bool:
    return await session.probe()  # in here, so that what it raises is a failure, too
