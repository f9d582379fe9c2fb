"""The contracts between dialects, transports, the core, stores and buses.

A dialect implements one or more of :class:`IWebSocketDialect`, :class:`IHttpDialect` and :class:`IStreamDialect`,
and makes an :class:`ISession` for each connection.  It asks for everything by
an :class:`IPeer` and sends by an :class:`ILink`.  Stores and buses implement
:class:`IStore` and :class:`IBus`; their contracts are stated here and checked by one suite for all of them
(``tests/stores/store_contract.py``, ``tests/buses/bus_contract.py``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import Attribute, Interface

from broker.errors import BrokerError
from broker.jobs import IJobStore, Job, QueueState
from broker.messages import (
    Addition,
    Announce,
    Announcement,
    CloseCode,
    CursorState,
    Delivery,
    Entry,
    Event,
    Frame,
    HttpRequest,
    Identity,
    IndexRows,
    Loss,
    Mail,
    Origin,
    Page,
    Position,
    Publication,
    Quota,
    Reply,
    Request,
    Response,
    Start,
)
from broker.plugins import OwnMetric

T = TypeVar("T")
Coro: TypeAlias = Coroutine[Deferred[Any], Any, T]  # await it, or hand it to Deferred.fromCoroutine

MAX_PAGE_BYTES = 1 << 23  # bytes of bodies that one read of a stored topic returns


class IWallClock(Interface):
    """The time of day, for dates: of events, of ends that are stored, of credentials.

    It can be set at any moment, forward or back.  How long something takes, and when it is due, is
    asked of the monotonic clock of an ``IReactorTime`` instead, whose ``seconds`` are no date.
    """

    time: Callable[[], float] = Attribute("Returns the seconds since 1970.")


class ILink(Interface):
    """The connection to one client, as a dialect sends by it.

    That of a stream dialect has no messages: what is sent by any of its methods is written as it is.
    """

    handshake: HttpRequest = Attribute(
        "The HttpRequest that opened the connection; for a stream dialect one without method and path."
    )
    max_message_bytes: int = Attribute("How long a message of the client may be.")
    open: bool = Attribute("Whether what is sent now goes out: from ``ISession.opened`` to the close by either side.")
    paused: bool = Attribute("True while more than a little waits to be sent.")
    unsent: int = Attribute("How many bytes wait to be sent, of which the system has not taken any yet.")
    drains: int = Attribute("How often all that waited was sent, after it was ``paused``.")
    on_drained: Callable[[], object] | None = Attribute(
        "Called once, as soon as nothing waits any more; None: nobody.  Set it while ``paused``."
    )

    def allow_messages(max_bytes: int) -> None:
        """Receive messages of up to *max_bytes*, instead of ``TXBROKER_MAX_MESSAGE_BYTES``.

        For a dialect whose encoding makes more of what is allowed; called while the session is made.
        """

    def pause_receiving() -> None:
        """Receive nothing more until ``resume_receiving``: the client's network makes it wait.  Idempotent."""

    def resume_receiving() -> None:
        """Receive again, soon.  Idempotent; the close of the connection does it too."""

    def send(payload: bytes) -> None:
        """Send *payload*, which must be UTF-8, as one text message.

        After the close it does nothing.  When more than the send queue's limit
        waits for a client for longer than the grace of slow readers, the link is
        closed with 1013.
        """

    def send_binary(payload: bytes) -> None:
        """Send *payload* as one binary message."""

    def send_frame(frame: Frame) -> None:
        """Send a message that was built once for many receivers."""

    def hold(change: int) -> None:
        """Count *change* bytes more that the session keeps for this client, or fewer when it is negative.

        A session that keeps frames or events for later tells it here, for the bounds of memory; a client for which
        too much is kept is closed with 1013.
        """

    def close(code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close with a close frame; *reason* is cut to the 123 bytes that one holds.

        For a stream dialect, what ``IStreamSession.last_words`` returns stands for that frame.
        """

    def abort() -> None:
        """Drop the connection without a close frame: the peer sees 1006."""


class ISession(Interface):
    """One client of a dialect.  Called by the transport and by the core.

    A method that raises costs its own connection only: it is logged and the
    link is closed with 1011.

    A session may have another one, ``gap(topic, why)``, which is called when changes of keys were missed that can
    not be had any more: on a topic or pattern, or, if that is "", of all keys that it watches; *why* is
    ``MISSED`` or ``EPOCH``.  Without that it is disconnected with 1013.
    """

    def opened() -> None:
        """The connection is open: from now on frames may be sent."""

    def received(data: bytes, binary: bool) -> None:
        """One whole message came; text is known to be UTF-8.

        In a stream dialect: some bytes came, where the network has cut them; see ``broker.sessions.FramedSession``.
        """

    def event(event: Event, pattern: str) -> None:
        """An event came by the subscription to *pattern*.

        *pattern* equals ``event.topic`` for a plain subscription.  Key changes
        that ``Peer.watch`` asked for come here too, with pattern "".
        """

    def request(request: Request) -> None:
        """Take a call or a streamed request; answer it by ``Peer.answer``.

        Raising a ``BrokerError`` refuses it: the caller gets that error.
        """

    def cancelled(id: str) -> None:
        """The caller has cancelled request *id*: an answer is not awaited any more.

        A session that has no such method is not told.
        """

    def reply(reply: Reply) -> None:
        """An answer came to a ``Peer.call`` or a ``Peer.request``."""

    def mail(mail: Mail) -> bool | Deferred[bool] | Coro[bool]:
        """Take a queued message, or a job as a ``Delivery``; False: not now, keep it until ``IPeer.collect``.

        With a Deferred, or a coroutine, the answer comes later: True when the client has acknowledged it; only then it
        is removed, and a job is finished.  What fails, or does not fire within ``TXBROKER_LEASE_SECONDS`` (of a
        ``Delivery``: its lease) and is cancelled then, is delivered again after a while: a message of a mailbox with
        those that were handed out behind it, in their order; for a job that is a failure.  When the session ends it is
        cancelled, too, and what it had is given back.

        A mailbox hands out at most 64 messages before it waits for the answers to them, a work queue as many jobs as
        the consumer has asked for, and a session with 256 answers due gets nothing more.  A job that is consumed
        without ``ack`` is not in the store while it is with a client: then a lost node may lose it.
        """

    def accepts_jobs(all_left: bool) -> bool:
        """Whether a job of a work queue could be sent now: little waits to leave for the client.

        *all_left*: whether nothing may wait.  After False, the session calls ``IPeer.collect`` when it may be true.
        """

    def probe() -> Awaitable[bool]:
        """Say whether the client is still alive, asking it if need be."""

    def closed(code: int, reason: str) -> Awaitable[object] | None:
        """The connection has ended, and nothing more can be sent.

        Frames that came whole before the end take effect, however it ended.  While
        some wait, return a Deferred or a coroutine that ends when they are done; the peer
        is closed then, otherwise right after this.  After ten seconds, and when the
        daemon stops, it is cancelled and the peer closed all the same.

        Only a client that the broker itself disconnects (``IPeer.disconnect``: it was
        kicked, or its credential has ended) may do nothing more.
        """


class IStreamSession(ISession):
    """A session of a stream dialect that has words for its end."""

    def last_words(code: int, reason: str) -> bytes:
        """Return what the client is sent before the broker closes its connection, perhaps b"".

        *code* is a close code of WebSocket, see ``CloseCode``.
        """


class IFollower(Interface):
    """A subscription that begins at a position, see ``IPeer.follow``.  ``IPeer.unsubscribe`` ends it."""

    topic: str = Attribute("The name or the pattern that it follows.")
    starts: Sequence[Start] = Attribute(
        "Where it begins: in its topic, or in each that its pattern has matched so far."
    )

    def start() -> None:
        """Begin to deliver: the client has been told where it begins."""

    def resume() -> None:
        """Go on: the client has room for events again."""


class IPeer(Interface):
    """One client, or one HTTP request of one: the client API of the broker.

    A dialect is handed one for each client and asks for everything by it.  What
    a verb has done is undone when the peer is closed.  None blocks: one that has
    to wait returns a Deferred or a coroutine.

    Any verb may raise these at once, or fail with them later:

    Raises:
        Unauthenticated: the client has shown no credential and must.
        Denied: the client has no permission for this name.
        RateLimited: the client asks too often, or has too much of something.
        Invalid: a name is malformed.
        Gone: the peer is closed.
        Unavailable: the store or the bus is away; nothing has changed.
    """

    id: str = Attribute("The session id; other clients may learn it, it is no credential.")
    dialect: str = Attribute("The name of the dialect it speaks.")
    address: str = Attribute("The IP address or socket path it comes from.")
    identity: Identity = Attribute("Who it is, as its credential says.")
    admitted: bool = Attribute("Whether it may do anything yet; not before ``identify`` where that is required.")
    client: str = Attribute("Its client id: of the credential, else the name it took, else the session id.")
    named: str = Attribute("The client id it took by ``take_name``, or ''.")
    member: str = Attribute("Whose stored memberships it has, see ``become``; '' for nobody's.")
    session: ISession | None = Attribute("The session that events, requests, replies and mail go to, once bound.")
    closed: bool = Attribute("Whether ``close`` was called.")
    clock: IReactorTime = Attribute("For timers, and for how long something takes; a ``task.Clock`` in tests.")
    wall: IWallClock = Attribute("For dates, and for until when a key lives: the time of day, as the store has it.")
    epoch: str = Attribute("As known last; it changes when the store was wiped: ids of before mean nothing then.")
    refused: bool = Attribute("Whether it was refused anything by permission, rate or credential: that is logged.")
    tries_left: int = Attribute("How many wrong credentials may still be shown.")
    send_queue_bytes: int = Attribute("How many bytes may wait for it: ``TXBROKER_SEND_QUEUE_BYTES``.")
    slow_grace_seconds: float = Attribute("For how long more may: ``TXBROKER_SLOW_GRACE_SECONDS``.")
    subscriptions: Sequence[str] = Attribute("The topics and patterns it has subscribed to, in that order.")
    acknowledged: Sequence[str] = Attribute("The topics whose streamed requests it takes, sorted.")
    consumed: Sequence[str] = Attribute("The work queues it takes messages from, sorted.")
    serving: Mapping[str, object] = Attribute("The requests it has not answered yet, by ``Request.id``.")

    # The connection.

    def hold(change: int) -> None:
        """As ``ILink.hold``, for a session that has no link; beyond the bounds it is disconnected with 1013."""

    def slow_consumer(policy: str = "close") -> None:
        """Count it as a client that reads too slowly; *policy* says what is done about it.

        A session that has no link and ends for it calls this before; that is logged.
        """

    def bind(
        session: ISession,
        disconnect: Callable[[int, str], object] | None = None,
        warn: Callable[[float], object] | None = None,
        link: ILink | None = None,
    ) -> None:
        """Let events, requests, replies and mail go to *session*.

        *disconnect* closes its connection; it is called with a close code and a
        reason when the broker must disconnect the client: with 1008 when its credential
        has expired or is not configured any more.  *warn* is called with the seconds that
        are left, at most 30, before a credential expires.  Without them, the methods of the session
        that are called so are used, if it has them.  By *link* the broker notices that the client does not
        read the answers to its streamed requests, and lets who sends them wait.

        The port does this for a WebSocket, with ``ILink.close``, when the dialect has not.
        """

    def appear() -> None:
        """Be visible to others under the client id, and get the mail that waits for it."""

    def disconnect(code: int, reason: str) -> None:
        """Close the client's connection; a no-op without one."""

    def fail(what: str) -> None:
        """Log the exception being handled as a bug in *what*, and disconnect with 1011."""

    def undo() -> None:
        """Undo everything it did; it stays who it is and may begin again."""

    def close() -> None:
        """Undo everything it did, for good.  Idempotent."""

    def ignore(messages: int = 1) -> None:
        """Count *messages* that asked for nothing, in the metrics and against the rate; never raises."""

    def take_token() -> None:
        """Count a message that no verb follows, such as a ping, against the rate.

        Raises:
            RateLimited: there were too many.
        """

    def unauthenticated(verb: str, explanation: str = "") -> BrokerError:
        """Return the error for what a client may not do before it has shown a credential, and log it.

        *explanation* is what was wrong with one that it has shown, if it may be told that.
        """

    def deny(verb: str, name: str, setting: str = "TXBROKER_PERMISSIONS_FILE") -> BrokerError:
        """Return the error for what the dialect itself does not permit, and log it as every refusal is.

        *setting* is what the operator could change, or "".
        """

    def pace() -> None:
        """Count a frame against the rate before it is decoded; its first verb is then not counted again.

        Raises:
            RateLimited: there were too many.
        """

    def take_one_token() -> None:
        """Count all that this peer does from now on once against the rate: it makes one HTTP request.

        Raises:
            RateLimited: there were too many.
        """

    def pause(seconds: float) -> Deferred[None]:
        """Fire in *seconds*."""

    def about() -> dict[str, Any]:
        """Return what the daemon is: name, version, kind of store, epoch and more; nothing confidential."""

    # Who the client is.

    def identify(credential: object) -> Identity:
        """Become who shows *credential*: the text of a secret, an API key or a JSON web token.

        The same principal may show another one, which then says when it ends.

        Raises:
            Unauthenticated: it is missing or wrong.
            Denied: this session is somebody else already, or has a role that the new credential lacks.
            RateLimited: too many tries, the dialect may close; or too many wrong credentials came from
                its address, so that this one was not looked at.
        """

    def admit(identity: Identity) -> None:
        """Become *identity*, which the dialect itself has verified."""

    def take_name(name: str) -> Coro[None]:
        """Take *name* as client id, where the credential names nobody or lets it ``act`` as that one; once.

        That needs a credential wherever clients may show one.

        Raises:
            Denied: it has another name already, or *name* belongs to another
                principal, to the broker or to a session.
        """

    def act_as(client: str) -> Deferred[None] | None:
        """See whether the peer may use the client id *client* in what it does next; None: it may, and need not wait.

        An id belongs to the principal that first used it, for as long as something is kept
        under it.  The verbs that take one see to that themselves: this is for a dialect
        that has to refuse early.

        Raises:
            Denied: it is reserved or another's, and the permissions do not let this one ``act`` as that.
        """

    def note(name: str, value: bytes, seconds: float, *, revision: int | None = None) -> Deferred[Entry]:
        """Keep *value* under *name* for *seconds*, for this dialect at all nodes to look up: see ``noted``.

        Each principal has its own, up to 100,000 of them.  *revision* as in ``IStore.set``: 0 if there must be none.

        Raises:
            Conflict: *revision* was given, and it is another one.
        """

    def noted(name: str) -> Deferred[Entry | None]:
        """Return what was noted for the principal under *name*, if it is still there."""

    def forget_note(name: str, *, revision: int | None = None) -> Deferred[bool]:
        """Undo ``note``; say whether it was there.

        Raises:
            Conflict: *revision* was given, and it is another one.
        """

    def mint(claims: Mapping[str, Any], seconds: float) -> Coro[str]:
        """Return a token that speaks for this peer's identity for *seconds*; see ``present``.

        It ends with the credential of the peer, if that is sooner, and when the key of that is replaced.
        *claims* are JSON values; whoever has the token can read them.
        """

    def present(token: str) -> Coro[Mapping[str, Any]]:
        """Become the one whom *token* speaks for; return its claims.

        When it expires or is revoked, the connection is closed with 4001 or 4003.

        Raises:
            Unauthenticated: it is not one of ours, has expired or was revoked.
            RateLimited: too many wrong credentials came from its address.
        """

    def revoke(token: str) -> Coro[None]:
        """Revoke *token*, and close the connections that live by it, on every node.

        Raises:
            Unauthenticated: it is not one of ours.
        """

    # Events.

    def subscribe(topic: str, *, exact: bool = False, echo: bool = False, rate_limited: bool = True) -> None:
        """Get the events of *topic*, a name or a pattern, from now on, by ``ISession.event``.

        With *exact*, wildcards in it are ordinary characters.  With *echo* it
        gets its own publications too.  *rate_limited* is false for all but the
        first of several topics that one frame names.

        Raises:
            RateLimited: it has too many subscriptions.
        """

    def unsubscribe(topic: str, *, exact: bool = False) -> None:
        """Undo ``subscribe`` of the same *topic* and *exact*, and ``enter``; a no-op without one."""

    def enter(topic: str, info: bytes = b"") -> None:
        """Be present on *topic*, a name that it has subscribed to, until ``exit``, ``unsubscribe`` or the end.

        All nodes know it.  They tell it on the topic ``broker.presence.<topic>``, by events ``join`` and ``leave`` of
        the client: one each, however many of its sessions are present, and the leave after 2 seconds in which
        none has come back.  Who may subscribe to a topic may subscribe to this, and ask for the ``members``.

        Args:
            topic: where.
            info: what it says of itself, JSON text of up to 4 KiB, or b"".

        Raises:
            NotFound: it has not subscribed to it.
            Denied: the topic is one of the broker.
        """

    def exit(topic: str) -> None:
        """Undo ``enter``; a no-op without one."""

    def set_testament(
        topic: str,
        name: str,
        body: bytes | None,
        *,
        retain: bool = False,
        content_type: str = "",
        is_json: bool | None = None,
    ) -> Coro[None]:
        """Leave an event behind, in the place of one before: it is published when this peer is closed.

        It is kept in the store: when this node is lost, another publishes it, or itself when it starts again.  When
        something fails meanwhile it may be published twice; on a durable topic it is stored once.
        A dialect calls ``drop_testament`` before that, when its client has said goodbye.  The arguments are as
        those of ``publish``, whose permission it needs now; it is stored if its topic is durable.
        """

    def drop_testament() -> None:
        """Undo ``set_testament``; a no-op without one."""

    def members(topic: str, *, rate_limited: bool = True) -> list[Any]:
        """Return who is present on *topic*, on all nodes: see ``core.members.Member``."""

    def follow(
        topic: str,
        origin: Origin | None,
        deliver: Callable[[Event], bool],
        lost: Callable[[Loss], object],
        *,
        cursor: str = "",
        exact: bool = False,
        echo: bool = False,
        rate_limited: bool = True,
    ) -> Coro[IFollower]:
        """Get the events of *topic*, a name or a pattern, from *origin* on, each stored one once and in order.

        Those that are stored already come first, read from the store as the client has room for them;
        then those that are new.  It takes the place of ``subscribe`` to the same topic.

        Args:
            topic: of a pattern, 100 stored topics may match.
            origin: a position (the first event is the one after it), ``START`` or ``NEW``; for a pattern one of
                those words, or the position of each topic: a topic without one begins at its start.
                None: as *cursor* says.
            deliver: hands one event to the client.  False: it has no room now; the event comes again after
                ``resume``, of the follower or of the peer, if it is stored.
            lost: called with what can not be had any more, when that is noticed after the beginning.
            cursor: a client id; "": none.  Without *origin*, each topic begins after what that has acknowledged,
                or at its start.
            exact: as in ``subscribe``.
            echo: as in ``subscribe``; what is read from the store comes whoever has published it.
            rate_limited: as in ``subscribe``.

        Nothing is delivered before ``IFollower.start``.  It needs the permissions to subscribe and to read.

        Raises:
            Invalid: *origin* does not fit the topic, or a position is beyond the newest event.
            TooLarge: the pattern matches too many topics.
        """

    def fall_behind(
        event: Event, pattern: str, deliver: Callable[[Event], bool], lost: Callable[[Loss], object]
    ) -> bool:
        """Follow the topic or *pattern* by which *event* has come, from that on: the client has no room for it.

        It goes on with ``resume``; *deliver* and *lost* as in ``follow``.  False: *event* is not stored, or it
        did not come by a plain subscription.
        """

    def resume() -> None:
        """Let all that it follows go on: the client has room again."""

    def listening() -> Coro[None]:
        """Return when its subscriptions are in force on all nodes, and they know what it takes and consumes.

        That is at once, or within a few seconds.
        """

    def publish(
        topic: str,
        name: str,
        body: bytes | None,
        *,
        time: float = 0.0,
        named: bool = True,
        original: bytes = b"",
        durable: bool = False,
        key: str = "",
        expect: int | None = None,
        content_type: str = "",
        expires: float = 0.0,
        exclude: Sequence[str] = (),
        retain: bool = False,
        is_json: bool | None = None,
    ) -> Deferred[Event]:
        """Publish an event; on a durable topic it is stored first.

        Args:
            topic: where; not one of the broker's own, which are ``broker`` and those that begin with
                ``broker.``, ``queue:`` or ``kv/``.
            name: the kind of event.
            body: JSON text, passed on byte for byte, or None; any bytes if *is_json* says so.
            time: the client's clock in seconds since the epoch; 0: the broker's.
            named: whether others are told the client id of the publisher.
            original: the client's own frame, for receivers of this dialect.
            durable: whether it is stored whatever the topic.
            key: 1 to 255 characters; if the topic has got an event by it in the last ``TXBROKER_DEDUP_SECONDS``,
                this one is dropped, and the result is a ``duplicate`` with id and time of that one.
            expect: the last id that the topic must have, 0 for none.
            content_type: see ``Event``.
            expires: see ``Event``.
            exclude: see ``Event``; at most 1000.
            retain: whether it is kept for ``last`` although it is not stored, in the place of the one before; as it
                is anyway on the topics of ``TXBROKER_RETAINED_TOPICS``.  Without a body, or with null, none is kept.
            is_json: whether the body is JSON text; None: as *content_type* says, where ``application/json``,
                what ends in ``+json``, and none are JSON.  Dialects that write JSON show any other body in base64.

        The Deferred fires with the event when it is on its way, and safe if stored.

        Raises:
            Invalid: *key* or *expect* was given, and the event is not to be stored; or one of the values is
                malformed.
            Conflict: *expect* was given, and the topic has another last id: see ``IStore.append``.
        """

    def last(topic: str, limit: int = 1) -> Coro[list[Event]]:
        """Return the newest events of *topic* that are kept, oldest first, at most *limit*.

        These are stored ones, if the client may ``read`` them, and the last live one that was retained.
        """

    def publish_all(publications: Sequence[Publication]) -> Deferred[list[Event]]:
        """Store 1 to 1000 events, of several topics perhaps, all or none, and publish them.

        They are visible together.  The Deferred fires with them, as those of ``publish``, when they are safe.

        Raises:
            TooLarge: there are more.
            Conflict: as for ``publish``; what a later one expects counts those before it.
        """

    def receivers(event: Event) -> int:
        """Return how many sessions of this node listen to the topic of *event*, which it has published."""

    def post(
        topic: str,
        name: str,
        body: bytes | None,
        *,
        client: str = "",
        author: str = "",
        key: str = "",
        expect: int | None = None,
        content_type: str = "",
        expires: float = 0.0,
        is_json: bool | None = None,
    ) -> Deferred[Event]:
        """Publish an event and store it, whatever the topic.

        Args:
            topic: as that of ``publish``.
            name: as that of ``publish``.
            body: as that of ``publish``.
            client: the client id that it is from, see ``act_as``; "": the peer's own.
            author: what the application says of whom it is from, see ``Event.author``.
            key: as that of ``publish``.
            expect: as that of ``publish``.
            content_type: see ``Event``.
            expires: see ``Event``.
            is_json: as that of ``publish``.

        The Deferred fires with the event, its id set, when it is safe.
        """

    # Stored topics.

    def read(
        topic: str, after: int, limit: int, *, max_bytes: int = MAX_PAGE_BYTES, page_bytes: int = 0
    ) -> Deferred[list[Event]]:
        """Return at most *limit* stored events with id > *after*, oldest first.

        It stops when their bodies have *max_bytes* bytes; the first is returned however long it is.

        With *page_bytes* it stops also with the event with which they have so many or more: for reading page by page.
        A page that has fewer bytes, and fewer events than *limit*, is the last.
        """

    def latest(topic: str, limit: int, *, max_bytes: int = MAX_PAGE_BYTES) -> Deferred[list[Event]]:
        """Return the last *limit* stored events, oldest first, within the bounds of ``read``."""

    def head(topic: str) -> Deferred[int]:
        """Return the id of the newest event there ever was; 0 for none."""

    def present_epoch(shown: str | None = None) -> Coro[str]:
        """Return the present epoch, to be compared with the one that a client has *shown*, if it has.

        While ``epoch`` is another one, or none is known yet, the store is asked.

        Raises:
            Unavailable: the store is away.
        """

    def page(
        topic: str,
        *,
        after: Position | None = None,
        before: Position | None = None,
        last: bool = False,
        limit: int = 100,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> Coro[Page]:
        """Return stored events of *topic* with what there is besides: those after a position, or from the oldest on.

        With *before*, they are the last ones before that; with *last*, the newest; within the bounds of
        ``read``, and at most 1000.

        Raises:
            Gone: the position is of another epoch than the present one, which is the name in the error.
            Invalid: it is beyond the newest event, or *limit* is no number up to 1000.
        """

    def poll(
        topic: str, after: int, limit: int, timeout: float, *, max_bytes: int = MAX_PAGE_BYTES, page_bytes: int = 0
    ) -> Coro[list[Event]]:
        """Return stored events as ``read`` does, waiting up to *timeout* seconds if there are none.

        Then it returns what has arrived, perhaps nothing.  Cancelling leaves no trace.

        Raises:
            RateLimited: too many polls are waiting.
            Unauthenticated: the credential of the client has expired meanwhile.
        """

    def cursor(client: str, topic: str) -> Coro[int]:
        """Return the id that *client* has acknowledged last; 0 for none.

        A client id belongs to the principal that first used it, see ``act_as``.
        """

    def move_cursor(client: str, topic: str, id: int) -> Deferred[None]:
        """Remember that *client* has all events up to *id*; it may go back.

        A client id belongs to the principal that first used it, see ``act_as``.

        Raises:
            Invalid: *id* is negative.
        """

    def acknowledge_events(cursor: str, topic: str, position: Position) -> Coro[bool]:
        """Move the cursor of the client id *cursor* to *position*; return whether that was back.

        Raises:
            Gone: the position is of another epoch than the present one, which is the name in the error.
            Invalid: it is beyond the newest event.
        """

    def forget_cursor(cursor: str, topic: str) -> Coro[bool]:
        """Remove what the client id *cursor* has acknowledged of *topic*; return whether there was anything."""

    def cursors(topic: str = "") -> Coro[tuple[list[CursorState], bool]]:
        """Return the cursors of all client ids that it may use, and whether there may be more.

        With *topic*, those of that alone.
        """

    def create_index(id: str, topic: str, field: str) -> Coro[bool]:
        """Define an index of *topic* by *field*; False when that id exists, which stays as it is.

        Its *id* belongs to the principal that first defined it, as a client id does to who
        used it first; whoever may read *topic* may read it.
        """

    def read_index(id: str, value: str, extract: Callable[[Event, str], str | None]) -> Coro[IndexRows]:
        """Return the events of an index whose field is *value*, the newest first.

        *extract* returns the text at the field of an event, or None.

        Raises:
            NotFound: there is no such index.
        """

    # Stored subscriptions.

    def become(member: str) -> Coro[list[str]]:
        """Have the memberships of *member* from now on; return their topics.

        A member belongs to the principal that first was it, as a client id does.

        What was joined before is left, in this session only, if that was as
        another member; if it was as nobody, those become memberships too.
        """

    def join(topic: str, *, rate_limited: bool = True) -> Coro[None]:
        """Subscribe to the plain name *topic*, own events included; a member's is stored.

        *rate_limited* is false where the frame has been counted by another verb, such as ``become``.

        Raises:
            RateLimited: it has joined too many.
        """

    def part(topic: str, *, rate_limited: bool = True) -> Coro[None]:
        """Unsubscribe from *topic*, in every session of the member, and forget the membership.

        *rate_limited* as for ``join``.
        """

    def part_all() -> None:
        """Unsubscribe from everything, in this session; stored memberships stay."""

    def joined(topic: str) -> bool:
        """Whether it is subscribed to the plain name *topic*."""

    # Calls.

    def perform(
        names: Iterable[str],
        *,
        shared: bool = False,
        as_service: bool = False,
        takeover: bool = False,
        least_busy: bool = False,
        max_in_flight: int = 0,
        queue: int = 0,
    ) -> Coro[None]:
        """Get the calls of *names*, all of them or none, by ``ISession.request``.

        Args:
            names: procedures, or services when *as_service*: a service has every
                procedure that begins with its name and a dot.
            shared: each call goes to one of those that share the name, round-robin.
            as_service: see *names*.
            takeover: probe a present holder, and replace it when it does not respond in time.
            least_busy: each call goes to who has the fewest requests to answer, of those that share the name.
            max_in_flight: how many calls of each of the names this peer may have at once; 0: any number.
                One that has ended for its caller does not count, whether or not it was answered.
            queue: how many more calls may wait for that; callers get ``Busy`` when the queues of all who
                perform it are full.

        What a peer performs already it performs on the new terms.

        Raises:
            Taken: somebody else performs one of them, alone or not *least_busy* as this one.
            Invalid: it is one that performs services, or alone, on terms that are not for these; or *queue*
                is too large, or is for what never waits.
            RateLimited: it has too many registrations.
        """

    def release(name: str, *, as_service: bool = False) -> bool:
        """Undo ``perform`` of *name*; say whether it performed it."""

    def procedures() -> list[str]:
        """Return every procedure and service of this node that the client may call, sorted.

        With many of them this takes long: ``matching_procedures`` lets others have their turn meanwhile.
        """

    def matching_procedures(pattern: str, limit: int = 10_000) -> Coro[list[str]]:
        """Return those of ``procedures`` that *pattern* matches, or that it names; the first *limit* of them.

        Raises:
            Invalid: *pattern* is neither a name nor a pattern.
        """

    def call(ref: str, request: Request, *, quiet: bool = False, service: str = "") -> None:
        """Call ``request.procedure``; its one end comes to ``ISession.reply`` with *ref*.

        ``request.recipient`` narrows it to one client or session; ``timeout``
        bounds it, and with *quiet* the deadline ends it without a reply.  With
        *service*, that one takes it before anybody who performs the procedure.
        The broker sets ``id``, ``service``, ``method``, ``caller`` and ``dialect``.

        Raises:
            NotFound: nobody performs it, or not the recipient.
            Gone: the recipient is not connected.
            RateLimited: too many calls are waiting.
            Busy: who performs it has as many as it takes; see ``perform``.
            BrokerError: the callee refuses it.
        """

    def cancel(ref: str) -> None:
        """End its calls and streamed requests that it has made with *ref*: the callees are told.

        Each ends with ``Cancelled``.

        Raises:
            NotFound: none is under way.
        """

    def answer(
        id: str,
        body: bytes,
        error: BrokerError | None = None,
        *,
        time: float = 0.0,
        attachments: tuple[bytes, ...] = (),
    ) -> bool:
        """Answer request *id* with *body* or *error*; say whether it was still awaited.

        Needs no permission: that the request was sent here is the permission.
        """

    def request(ref: str, request: Request, topic: str = "") -> None:
        """Send a streamed request; each answer comes to ``ISession.reply`` with *ref*.

        It goes to ``request.recipient`` when there is one, else to a taker of
        *topic*, else to one of "*".

        Raises:
            Gone: the recipient is not connected.
            NotFound: nobody takes it.
        """

    def acknowledge(topic: str) -> None:
        """Take streamed requests of *topic*, round-robin with others; "*" takes any other.

        Raises:
            RateLimited: it has too many registrations.
        """

    def unacknowledge(topic: str) -> None:
        """Undo ``acknowledge``; a no-op without one."""

    # Mailboxes and work queues.

    def enqueue(ref: str, body: bytes, *, recipient: str = "", time: float = 0.0) -> Deferred[bool]:
        """Send a message to a client's mailbox, or to the work queue ``queue:<name>``.

        Without a recipient it goes to ``queue:default``.  Fires when it has been
        handed over or stored, with True if an older one of a mailbox was dropped for it.

        Raises:
            Gone: the recipient is unknown and has no mailbox.
            RateLimited: the work queue has as many jobs as it may.
        """

    def add_job(
        queue: str,
        body: bytes,
        *,
        ref: str = "",
        key: str = "",
        order: str = "",
        delay: float = 0.0,
        ttl: float = 0.0,
        time: float = 0.0,
    ) -> Deferred[tuple[str, bool]]:
        """Store a job of the work queue *queue*; return its id, and whether there was one with that *key* already.

        Args:
            queue: without ``queue:``, as in all verbs of jobs.
            body: JSON text.
            ref: the client's own id of it.
            key: makes it the only one for ``TXBROKER_DEDUP_SECONDS``: the first one's id is returned.
            order: jobs with the same one go one at a time; one that has failed is waited for.
            delay: seconds until it may be delivered.
            ttl: seconds after which it is not delivered any more; 0: the queue's own.
            time: the client's clock, in seconds since 1970.

        Raises:
            RateLimited: the queue has as many jobs as it may, or is one too many.
        """

    def consume(
        queue: str,
        *,
        ack: bool = False,
        prefetch: int = 0,
        lease: float = 0.0,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        """Take jobs of work queue *queue* by ``ISession.mail``, or take them otherwise from now on.

        The next job goes to the consumer with the most room.

        Args:
            queue: which.
            ack: whether each is a ``Delivery``, which comes again, here or elsewhere, until ``finish_job`` is called.
                Otherwise each comes at most once.
            prefetch: how many jobs it may have at once, by default 1; without *ack*, how many that were sent may
                wait to leave for the client, by default 64.
            lease: seconds in which one must be finished, failed or extended; 0: ``TXBROKER_LEASE_SECONDS``.
            members: take only jobs whose body is an object with exactly these values of these members.

        Raises:
            RateLimited: it has too many registrations.
        """

    def claim_jobs(
        queue: str,
        limit: int = 1,
        *,
        lease: float = 0.0,
        wait: float = 0.0,
        members: Mapping[str, Any] | None = None,
    ) -> Coro[list[Delivery]]:
        """Return up to *limit* jobs of *queue*, waiting up to *wait* seconds if there are none.

        For a client without a session, which may come by another connection each time: it has the jobs by its
        principal, until their leases end, and settles them by peers without a session, on any node.  *lease* and
        *members* as in ``consume``.  Cancelling returns them to the queue.

        Raises:
            RateLimited: too many requests wait, as for ``poll``, or too many jobs are in flight in this way.
            Unauthenticated: the credential of the client has expired meanwhile.
            Unavailable: nobody knows whether there are any.
        """

    def stop_consuming(queue: str) -> None:
        """Undo ``consume``; a no-op without one.  What is in flight stays the client's."""

    def finish_job(id: str) -> Deferred[None]:
        """Say that the job of the delivery *id* is done: it is removed.

        Raises:
            NotFound: it was delivered to another since, or is gone.
        """

    def fail_job(id: str, *, reason: str = "", delay: float | None = None) -> Deferred[None]:
        """Say that the job has failed: it comes again in *delay* seconds, by default in 1, 5, 30 and 120, or is dead.

        Raises:
            NotFound: see ``finish_job``.
        """

    def extend_job(id: str, seconds: float) -> Deferred[None]:
        """Let the lease end in so many *seconds* from now on.

        Raises:
            NotFound: see ``finish_job``.
        """

    def queue_state(queue: str) -> Deferred[QueueState]:
        """Return how many jobs a queue has."""

    def dead_jobs(queue: str, limit: int, after: str = "") -> Coro[list[tuple[str, Job]]]:
        """Return dead jobs of *queue* with their ids: those after the id *after*, at most *limit*, at most 1000."""

    def retry_jobs(queue: str, ids: Sequence[str] | None) -> Coro[int]:
        """Let dead jobs of these ids, None: all, be delivered as new ones; return how many there were."""

    def drop_jobs(queue: str, ids: Sequence[str] | None) -> Coro[int]:
        """Remove dead jobs of these ids, None: all; return how many there were."""

    def collect() -> None:
        """Get the mail that its session has declined before, or that no consumer accepted."""

    # Keys.

    def get(key: str) -> Deferred[Entry | None]:
        """Return the entry of *key*, or None."""

    def range(
        first: str,
        last: str,
        limit: int,
        *,
        predicate: Callable[[str], bool] | None = None,
        max_bytes: int = 0,
        rate_limited: bool = True,
    ) -> Coro[list[tuple[str, Entry]]]:
        """Return at most *limit* entries with first <= key <= last that it may read, by the keys' UTF-8 bytes.

        *predicate* says which keys count; None: all.  With *max_bytes* it stops
        once keys and values have as many; two entries are returned however long they are.
        *rate_limited* is false where the frame has been counted before.
        """

    def set(key: str, value: bytes, *, revision: int | None = None, expires: float = 0.0) -> Deferred[Entry]:
        """Create or replace *key*; *revision* and *expires* as in ``IStore.set``.

        Raises:
            Invalid: *expires* is no moment up to ``MAX_EXPIRY``, or *revision* no number up to ``MAX_ID``.
            Denied: the key is one of the broker's own: ``broker``, or with ``broker.`` before it.
            Conflict: *revision* was given and is not the stored one.
            TooLarge: the value is over its limit.
        """

    def patch(key: str, value: bytes) -> Deferred[Entry]:
        """Merge *value* into *key* in one step: JSON objects one level deep, anything else is appended.

        Raises:
            TooLarge: the merged value is over its limit.
        """

    def increment(key: str, amount: bytes) -> Deferred[Entry]:
        """Add the decimal number *amount* to *key* in one step; see ``IStore.increment``.

        Raises:
            Invalid: one of the two is no number, or one or the sum is not finite as a double.
        """

    def delete(key: str, *, revision: int | None = None) -> Deferred[bool]:
        """Remove *key*; fire with whether it was there.

        Raises:
            Conflict: *revision* was given and is not the stored one.
        """

    def watch(predicate: Callable[[str], bool] | None = None, names: Iterable[str] = ()) -> None:
        """Get the changes of the keys *names* and of all for which *predicate* holds, each once.

        They come to ``ISession.event`` with pattern "".  It replaces what was watched before.
        """

    def unwatch() -> None:
        """Undo ``watch``; a no-op without one."""

    def watch_pattern(pattern: str, *, exact: bool = False) -> None:
        """Get the changes of the keys that *pattern* matches as well, each once; idempotent.

        They come as those of ``watch`` do.  With *exact*, wildcards in it are ordinary characters.

        Raises:
            Invalid: it is neither a name nor a pattern that can match one.
        """

    def unwatch_pattern(pattern: str, *, exact: bool = False) -> None:
        """Undo ``watch_pattern`` of the same *pattern* and *exact*; a no-op without one."""

    def revision() -> Deferred[int]:
        """Return the revision of the last change of any key: a later read of a key shows that one, or a later one."""

    def keep_changes(*, previous: bool = False) -> Coro[None]:
        """Return when changes are kept for ``changes``: as long as this peer watches anything, and five minutes longer.

        With *previous* they say the value before, too, in ``Event.original``, as long as it watches.
        """

    def changes(pattern: str, epoch: str, after: int, *, exact: bool = False) -> Coro[list[Event] | None]:
        """Return the changes after the revision *after* of *epoch*, in their order, as ``watch_pattern`` brings them.

        The last 10,000 changes of all keys are kept, for five minutes and within 16 MiB, or 2 MiB where nobody has
        watched lately.  None: some may be missing, or there is another epoch.  Those that come later are not among
        them: watch before.

        Raises:
            Invalid: *after* is no revision that was given, or *pattern* is none that can match.
        """


class IWebSocketDialect(Interface):
    """A dialect whose clients come over WebSocket."""

    name: str = Attribute("Short lower-case name; also the label in metrics.")
    websocket_paths: Sequence[str] = Attribute(
        "Paths it takes, longest match first; '/x/' also takes what is below it."
    )
    subprotocols: Sequence[str] = Attribute("WebSocket subprotocols it takes on any path.")

    def session(peer: IPeer, link: ILink) -> Awaitable[ISession]:
        """Return the ISession for a client that asks to be connected.

        Called before the upgrade is answered, with the request in
        ``link.handshake``; it may wait, and must not send.

        Raises:
            Refused: answer with this HTTP status instead of the upgrade.
            BrokerError: answer with the HTTP status of its code.
        """


class IHttpDialect(Interface):
    """A dialect whose clients come over plain HTTP."""

    name: str = Attribute("Short lower-case name; also the label in metrics.")
    http_paths: Sequence[str] = Attribute("Paths it takes, longest match first; '/x/' also takes what is below it.")

    def answer(peer: IPeer, request: HttpRequest) -> Awaitable[Response]:
        """Return the answer to *request*.

        It is cancelled when the client goes away.  *peer* is closed after the
        answer, unless the dialect has bound a session to it (``Peer.bind``):
        then that session closes it.

        Where the body is sent while it is made (see ``Response``), *peer* is closed when that has ended, whoever
        is bound to it; if nobody is, the port binds it, so that the connection ends with the credential of its client.
        """


class IStreamDialect(Interface):
    """A dialect whose clients come by connections of their own kind, to endpoints of its own: TCP, TLS, unix sockets.

    Its factory has settings, see ``broker.plugins.with_settings``, among them one that is called ``listen`` and made by
    ``broker.plugins.listen_option``: the endpoints are those of ``TXBROKER_<NAME>_LISTEN``.

    Its connections count as those of the public port do: against the same limits, in all, of an address and of
    clients that are not admitted yet; they are drained with them; and what waits for a client is bounded likewise.
    """

    name: str = Attribute("Short lower-case name; also the label in metrics.")

    def session(peer: IPeer, link: ILink) -> Awaitable[ISession]:
        """Return the ISession for a client that has connected; it may wait, and must not send.

        What the client sends meanwhile comes to the session afterwards.  A ``BrokerError`` closes the connection.
        """


class IDialectExtras(Interface):
    """What a dialect of any kind may have besides, each for itself.

    A dialect does not declare this interface, which would need all of them:
    ``web.extras.DialectExtras`` reads what is there once, at the start, and
    fills in the defaults.
    """

    example: str = Attribute(
        "A shell command by which to try it, logged at the start; ``{http}`` and ``{ws}`` stand "
        "for the URLs of the daemon, ``{websocket}`` for a WebSocket client."
    )
    any_origin: bool = Attribute(
        "Whether its WebSockets may be opened by pages of any origin, for a credential that no browser adds by itself; "
        "False.  Not where ``TXBROKER_ALLOWED_ORIGINS`` names some, and without a credential only by pages of this "
        "machine."
    )
    refusal_delay: float = Attribute(
        "Seconds for which refused handshakes are held, and requests that are refused for their origin or host, for "
        "clients that come again at once; 0."
    )
    half_close: bool = Attribute(
        "Whether a request that waits goes on when its client shuts down its side of the connection; True.  "
        "Otherwise it is cancelled, for clients of which a waiting request shows that they are there."
    )
    comes_back: bool = Attribute(
        "Whether its clients connect again by themselves after any close; False.  Their WebSockets are closed with "
        "1012 when the daemon stops, the others with 1001."
    )

    metrics: Sequence[OwnMetric] = Attribute(
        "Its own metrics, ``broker.plugins.Counter`` and ``Gauge``: ``txbroker_<dialect>_<name>`` in ``/metrics``; ()."
    )

    def start(peer: IPeer) -> Awaitable[object] | None:
        """The daemon starts: do what is to be done without a client.

        *peer* is for the dialect itself: it may do everything, is called ``broker.dialect.<name>``, and lasts until it
        has stopped; bind a session to it, where events, calls and mail are to come.  Clients are let in when this has
        returned; what it returns is not waited for.  A shared store may not be reached yet: verbs fail with
        ``Unavailable`` then.  What it raises stops the daemon; what it returns and fails is logged.
        """

    def stop() -> Awaitable[object] | None:
        """The daemon stops, and the last client has gone: end what ``start`` has begun.

        What it returns is waited for, for at most five seconds.  Then *peer* is closed.
        """

    def refusal(status: int, message: str, request: HttpRequest) -> Response | None:
        """Return how this dialect says *status* to *request*, which has not reached ``answer`` or has failed there.

        None, which is the default: in the form of the port, ``{"error": …}``.
        """

    def drain() -> None:
        """The daemon stops: answer the requests that wait, and end what outlives a connection.

        Called once.  Afterwards open WebSockets are closed, one after the other where other nodes
        share the store, and requests that are still under way have ``TXBROKER_DRAIN_SECONDS``.
        """


class IStore(IService):
    """Where stored topics and keys live.

    Logs and keys are separate: a log is named by any string but the empty one,
    a key by a *space* (a short fixed word) and any string.

    Every method returns a Deferred.  It fails with ``Unavailable`` when the
    store is away, not started, stopped, or can not keep up, and then nothing has
    changed; or when it fails or is lost while it writes, and then that may have been done
    all the same.  Cancelling gives up the answer, not the operation.

    Operations of one caller take effect in the order in which they were called,
    whether or not it waited in between; a read sees every write called before
    it.  Of a log or a range it may also see what was appended or set after it was called,
    for small writes do not wait behind large reads.  When a write has answered, it survives
    ``kill -9`` of the daemon and, with the durability "fsync", a power cut (but for the memory
    store, which forgets at its stop).  Bodies and values come back byte for byte.

    ``startService`` raises ``Unavailable``, saying why, when the store can not be
    opened; ``stopService`` answers when all that was called before is done.

    Each change of a key (it is set, patched or increased, removed, or its time is over) gets a *revision*: a number of
    its space, which rises by one with each change of any of its keys, and goes on when a key is removed or the store
    is opened again.  So no two contents of a key have the same.  After a kill of the daemon some may be left out.
    A store of an older version, where each key had its own, is converted: those that are given are above all there are.

    What a write creates, a log or a key, counts against its *quota* until it is removed
    or forgotten: the store has one count for each kind and owner, which it keeps as safely
    as the rest.  A write that changes what is there counts nothing, whoever made that.

    A store that is *full*, by a limit of its own or because the disk nearly is, refuses what
    makes it larger with ``Unavailable``.  It goes on to read, to remove, and to ``set`` keys that
    exist to values of up to 64 bytes, or no longer than before.

    A change of a key and the event of its *announcement* are one step: either both are there or none
    is, also when the answer was lost.  A store that announces publishes the event in that step, so that
    those of one key arrive everywhere in the order of the changes; any other
    leaves that to the caller, and answers in the order of the changes.  An event that is to be stored is
    appended in that step in either case: then a store that is full refuses all but removals.
    """

    epoch: str = Attribute("Changes when the store was wiped or has gone back; known once started.")
    jobs: IJobStore = Attribute("Keeps the jobs of work queues.")
    wall: IWallClock = Attribute("Its time: of what it stores, and of when that ends; the same for all nodes.")
    shared: bool = Attribute("Whether several nodes may use this store at once.")
    announces: bool = Attribute("Whether append, and what changes keys, itself publishes the event on the bus.")
    ready: str = Attribute("Why writes can not be taken now; '' when they can.")
    degraded: str = Attribute("What is wrong although writes are taken; '' for nothing.")
    description: str = Attribute("Its kind as one word, then where it is and what it promises; without secrets.")
    used_bytes: int = Attribute("How large it is, as far as it knows; 0: it does not.")
    wiped: Callable[[], object] = Attribute(
        "Called when ``epoch`` has changed since the store was seen last, as soon as operations are possible."
    )

    def append(
        log: str,
        event: Event,
        quota: Quota | None = None,
        head: int | None = None,
        key: str = "",
        key_seconds: float = 0.0,
    ) -> Deferred[Event]:
        """Store *event* at the end of *log*; return a copy with ``id`` and ``epoch`` set.

        With *head*, only if that is what ``head`` returns.  With *key*, only if *log* has got no event by
        that key in the last *key_seconds*: else what is returned is a ``duplicate``, with id and time of the
        first event, whatever has become of that; *head* does not matter then.

        Topic, name, body (None and b"" are two things), whether that is binary, source, author, content type, expiry
        and time are stored; an event whose time is 0 gets the store's, or that of the last event of the log if
        that is later, because the clock was set back.

        Ids of a log rise by one, from 1, without a hole as any reader sees
        them, and none is ever used twice, whatever has been trimmed.  An event
        is visible with its id and its body at once, or not at all.  Where logs were
        forgotten (``sweep``), a new one may begin with a later id than 1.
        What has expired is read all the same: its reader leaves it out.

        Raises:
            Conflict: *head* was given and is not the last id; its ``data`` is the ``Position`` of that as JSON, and
                its name the id.
            RateLimited: it would be the first of a log, and *quota* is used up.
        """

    def append_all(additions: Sequence[Addition], key_seconds: float = 0.0) -> Deferred[list[Event]]:
        """Append all events of *additions*, in their order, or none; return what ``append`` would, for each.

        They are visible together.  Conditions of a later one see what the earlier ones leave: its *head* counts
        them, and a key that an earlier one has brought makes a duplicate.

        Raises:
            Conflict: as for ``append``.
            RateLimited: as for ``append``, with all new logs together.
        """

    def read(log: str, after: int, limit: int, max_bytes: int = 0) -> Deferred[list[Event]]:
        """Return at most *limit* events with id > *after*, in rising order.

        With *max_bytes* it may return fewer, but for the first: it reads no more once those that it has
        read have as many bytes, counting texts as UTF-8 and at most 100 more for each; 0: any number.
        """

    def latest(log: str, limit: int, max_bytes: int = 0) -> Deferred[list[Event]]:
        """Return the last *limit* events, in rising order; with *max_bytes* perhaps fewer, as in read."""

    def head(log: str) -> Deferred[int]:
        """Return the last id given in *log*, trimmed or not; 0 for none.

        Of a log that was forgotten it is that or a later one, which the next event follows.
        """

    def trim(log: str, upto: int) -> Deferred[None]:
        """Forget the events of *log* with id <= *upto*, however large that is."""

    def sweep(prefix: str, before: float, keep: int) -> Deferred[int]:
        """Forget old events of every log whose name begins with *prefix*.

        Those with a time before *before* (0: none for its age) and those beyond
        the newest *keep* (0: none for their count) go.  The oldest go first, and
        an old one behind a young one stays: there is never a hole.  Keys that
        expired an hour ago go too; until then they are left to ``expired``, and those of the
        space ``kv`` always, since they are announced.  It may work in steps that others see.
        Returns how many events went.

        A log of that prefix that has no event left is forgotten, now or by a later
        sweep: it is none any more, but for its ids.
        """

    def oldest(seconds: float) -> float:
        """Return the time before which what is kept for *seconds* is too old.

        A jump of the store's clock counts for this, and for the expiry of keys, when it has lasted an hour only.
        """

    def get(space: str, key: str) -> Deferred[Entry | None]:
        """Return the entry of *key*, or None if it is missing or has expired."""

    def set(
        space: str,
        key: str,
        value: bytes,
        *,
        revision: int | None = None,
        expires: float = 0.0,
        quota: Quota | None = None,
        announcement: Announcement | None = None,
    ) -> Deferred[Entry]:
        """Create or replace *key*.

        With *revision*, only if the stored revision equals it (0: is missing).  The answer says whether it was
        ``created``.
        A key that has expired is missing, for every method but ``expired``.

        Raises:
            Conflict: *revision* was given and is not the stored one.
            RateLimited: it would create *key*, and *quota* is used up.
        """

    def delete(
        space: str, key: str, *, revision: int | None = None, announcement: Announcement | None = None
    ) -> Deferred[bool]:
        """Remove *key*; say whether it was there.  *revision* as in set."""

    def patch(
        space: str,
        key: str,
        value: bytes,
        merge: Callable[[bytes, bytes], bytes],
        *,
        quota: Quota | None = None,
        announcement: Announcement | None = None,
    ) -> Deferred[Entry]:
        """Replace the value by ``merge(stored, value)`` in one step.

        A missing key is created with *value*; a present one keeps its expiry.
        *merge* is a pure function known to every store (``broker.core.keys.merge``); it may
        be called in another thread, and more than once, and a store may do
        the same work elsewhere.  If it raises, the caller gets that and nothing changes.

        Raises:
            RateLimited: it would create *key*, and *quota* is used up.
        """

    def increment(
        space: str, key: str, amount: bytes, *, quota: Quota | None = None, announcement: Announcement | None = None
    ) -> Deferred[Entry]:
        """Add the decimal number *amount* to the stored one, in one step.

        A missing key counts as 0; a present one keeps its expiry.  Integers stay
        integers, exact to 2^53 and beyond; otherwise the shortest decimal text
        of the double, without a fraction when it is whole.

        Raises:
            Invalid: one of the two is no number, or one or the sum is not finite as a double.
            RateLimited: it would create *key*, and *quota* is used up.
        """

    def range(space: str, first: str, last: str, limit: int, max_bytes: int = 0) -> Deferred[list[tuple[str, Entry]]]:
        """Return the entries with first <= key <= last, by the keys' UTF-8 bytes.

        At most *limit*, in rising order.  With *max_bytes* there may be fewer: none
        follows when the values have as many; the first is returned however long it is.
        """

    def expired(space: str, limit: int, announce: Announce | None = None) -> Deferred[list[str]]:
        """Remove and return at most *limit* keys of *space* that have expired.

        Each is returned by exactly one such call, over all nodes, unless it was
        set again or swept before.  *announce* is called with each key; it may be called in another
        thread, and for keys that are not removed then.
        """

    def revision(space: str) -> Deferred[int]:
        """Return the last revision that was given in *space*, or a later one; 0 for none."""

    def logs(prefix: str, after: str, limit: int) -> Deferred[list[str]]:
        """Return names of logs that begin with *prefix* and sort after *after*.

        At most *limit*, in rising order of their UTF-8 bytes; a log that was
        trimmed empty is still one until a sweep forgets it.
        """


class ISharedStore(IStore):
    """What a store that several nodes use at once offers besides.

    ``startService`` never fails: a server that is away may come later.  When the
    connection breaks while an operation is under way, that fails with
    ``Unavailable`` although it may have been done: its answer is what was lost.

    Some logs are *marked*, those of topics.  A mark is a number that rises with what is
    written; by it a node finds what it has missed.

    The data may *go back*: a replica that lacks what was acknowledged last becomes the server, or a server is
    started from a snapshot, or with nothing.  A node that has seen more than there is, in its answers or by
    ``witness``, begins another epoch, and those that share the store get the same one.  That is
    noticed on each new connection before anything is written by it, and by each operation, which takes
    effect in the new epoch then; so no id is given twice in one epoch, unless a node that alone has seen it
    could not be waited for.  What only nodes have seen that have gone since is lost in silence.
    """

    server: str = Attribute("Which server it is connected to, another word each time one is started; '' for none yet.")
    kept: int = Attribute(
        "The mark up to which what was stored before the present epoch is still there; 0: nothing is."
    )
    witness: Callable[[str, str], int] = Attribute(
        "Called with an epoch and a server: returns the highest mark of it that came to this node from there by the "
        "bus."
    )
    warnings: Sequence[str] = Attribute("What an operator should change at the server, a sentence each.")

    def mark() -> Deferred[int]:
        """Return the present mark."""

    def changes(mark: int) -> Deferred[dict[str, int]]:
        """Return the logs that were appended to after *mark*, each with the mark of the last time."""

    def since(log: str, mark: int) -> Deferred[int]:
        """Return the id of the first event of *log* after *mark*; 0 for none."""

    def keep_changes(seconds: int, previous: int) -> Deferred[None]:
        """Let the changes of keys be kept for so many *seconds*, or longer, for ``key_changes``.

        And let the events of changes, on all nodes, say the value before for *previous* seconds, or longer.
        """

    def key_changes(space: str, after: int, seconds: float) -> Deferred[tuple[int, list[Event] | None]]:
        """Return the last revision of *space*, and the events of the changes after the revision *after* in their order.

        The last 10,000 that were announced while ``keep_changes`` held are there, fewer if they are long.  None: some
        may be missing, or are older than so many seconds; or *after* was not given yet.
        """

    def publishes(origin: str) -> bool:
        """Whether an append of an event of that *origin* is under way."""

    def on_answer(call: Callable[[], object]) -> None:
        """Let *call* be called once, when the appends that are under way were answered; idempotent until then."""


class IBus(IService):
    """Carries events and service names between nodes; alone, within one.

    ``deliver`` is set by the service before start.
    """

    node: str = Attribute("The name of this node, unique among those that share the bus.")
    shared: bool = Attribute("Whether there may be other nodes.")
    ready: str = Attribute("Why events can not be carried now; '' when they can.")
    deliver: Callable[[Event], object] = Attribute("Called with each event that arrives.")

    def publish(event: Event) -> Deferred[None] | None:
        """Give *event* to every node that listens, this one included.

        Events of one caller on one topic arrive in order.  Live events (id 0)
        arrive at most once; stored ones at least once, in the order of their ids, for as
        long as somebody listens.  On a local bus they have arrived when this returns.
        """

    def listen(topic: str, *, prefix: bool = False) -> None:
        """Begin to receive events of *topic*, a name or a pattern.  Counted.

        With *prefix*, it is what the topics begin with.  Events of other topics may come, too.
        """

    def forget(topic: str, *, prefix: bool = False) -> None:
        """Undo one ``listen``."""

    def listening() -> Deferred[None] | None:
        """Fire when all ``listen`` so far are in force for every node, or that takes too long.

        What is stored from then on comes in either case, perhaps late; unless this node has had no contact yet.
        None: they are already.
        """

    def claim(name: str, *, shared: bool = False) -> Deferred[None]:
        """Hold *name* for this node until ``release``; repeated claims are fine.

        With *shared*, together with other nodes that share it.

        Raises:
            Taken: another living node holds it, and not both share.
        """

    def release(name: str) -> object:
        """Give *name* back."""


class IEventSource(Interface):
    """Where a bus finds the stored events that it has missed; see ``ISharedStore``."""

    epoch: str = Attribute("That of the events that it reads; changes when everything was lost.")

    server: str = Attribute("That of the store, when ``mark`` has answered; see ``ISharedStore``.")

    def mark() -> Deferred[int]:
        """Return the present mark."""

    def changes(mark: int) -> Deferred[dict[str, int]]:
        """Return the topics that have got events after *mark*, each with the mark of the last time."""

    def since(topic: str, mark: int) -> Deferred[int]:
        """Return the id of the first event of *topic* after *mark*; 0 for none."""

    def read(topic: str, after: int, limit: int, max_bytes: int = 0) -> Deferred[list[Event]]:
        """Return at most *limit* events with id > *after*, in rising order; *max_bytes* as in ``IStore.read``."""

    kept: int = Attribute("The mark up to which what the node has received of it is still there; see ``ISharedStore``.")

    def publishes(origin: str) -> bool:
        """Whether an event of that *origin* is being stored: its publisher is to be answered before it is delivered."""

    def on_answer(call: Callable[[], object]) -> None:
        """Let *call* be called once, when such publishers were answered; idempotent until then."""


class ISharedBus(IBus):
    """What a bus between several nodes offers besides.

    A node has an *address* of its own at each start, and a *lease* with a number, which it renews.  It holds
    names under the number of its lease: when that ends, they are free for others, and nobody can take one from a
    node that has a lease.  It gets another, higher number with each new lease.  A node takes its own lease for
    ended before the others do: so no two nodes hold a name that is not shared, however long one of them was frozen
    or cut off.  Whatever is done by a node whose lease has ended is refused (``NotDone``).

    The callbacks below are set by the service before start.
    """

    address: str = Attribute("Where other nodes reach this one.")
    source: IEventSource = Attribute("Where missed events are read.")
    lease: int = Attribute("The number of this node's lease; 0 while it has none.")
    lease_seconds: float = Attribute("How long a lease lasts that is not renewed.  The others know a second later.")
    unbroken_since: int = Attribute(
        "The number of the first of this node's leases since which it has always had one: no other node can have got "
        "what it has held since that one."
    )
    nodes: list[str] = Attribute(
        "The names of the nodes that have a lease, this one included, as far as it knows; none while it has no lease."
    )
    others: list[str] = Attribute("The addresses of the other nodes that have a lease, as far as it knows.")
    received: Callable[[str, bytes], object] = Attribute("Called with the address of a node and its message.")
    found: Callable[[str], object] = Attribute(
        "Called, after names may have been forgotten, with each that this node holds as far as the others know: it may "
        "have given it back, and that was forgotten too."
    )
    departed: Callable[[str], object] = Attribute(
        "Called with the address of a node whose lease has ended; one that comes back under a new number departs "
        "first.  Also with that of a node that may have missed messages, be it this one."
    )
    lapsed: Callable[[], object] = Attribute("Called when this node's lease has ended: it holds no names any more.")
    leased: Callable[[], object] = Attribute(
        "Called when this node has a new lease, so that all names are to be claimed again; under the same "
        "number, too, when names may have been forgotten."
    )

    def wiped() -> None:
        """Begin anew: the source has lost everything after its mark ``kept``."""

    def last_mark(epoch: str, server: str) -> int:
        """Return the mark of the last stored event of *epoch* that has arrived from *server*, see ``ISharedStore``.

        0: none has, or its mark is not known.  As messages come in the order of their marks, none is higher.
        """

    def received_all() -> Deferred[None]:
        """Fire when all that this node listens to and that was published before now has arrived.

        Raises:
            Unavailable: it is not connected, or was not all the while.
        """

    def lease_of(address: str) -> int:
        """Return the number of the lease of that node, as far as this one knows; 0 for none."""

    def lives(address: str) -> bool:
        """Whether that node has a lease, as far as this one knows."""

    def may_live(address: str) -> Deferred[bool]:
        """Return whether that node has a lease, though it be new, or is still expected to renew one that has ended.

        That is so for a while after a time in which no node could renew its lease.
        """

    def send(address: str, message: bytes) -> Deferred[bool]:
        """Send *message* to one node, at most once, from this node's lease to that node's.

        It fires with True when that node listens and was handed the message, and with False when the message was
        surely not sent: that node has no lease or does not listen, this one has none, or
        nothing can be sent now.  What arrives at a node whose lease has ended meanwhile is dropped there.

        Raises:
            Unavailable: it is not known whether the message was sent.
        """

    def holders(names: Sequence[str]) -> Deferred[tuple[str, list[str]]]:
        """Return the first of *names* that is held, and the addresses of its holders; "" and none.

        After a time in which no node could renew its lease, there may be some among them that have no lease at the
        moment, and are waited for.
        """

    def claim(name: str, *, shared: bool = False) -> Deferred[None]:
        """See ``IBus.claim``; claims of a node and its releases take effect in their order.

        Raises:
            Taken: another node holds it, and not both share.
            NotDone: this node has no lease, or, with ``retry_after``, nodes that hold names are waited for.
            Unavailable: it is not known whether it was claimed.
        """

    def claim_all(names: Mapping[str, bool], new: Container[str] = ()) -> Deferred[dict[str, str]]:
        """Claim names that this node has held, each with whether it is shared; one operation for some hundreds.

        Those that are in *new*, too, it may not have held all the while: another node may hold them, although the
        server does not know it.

        Return those that were refused, each with the address of a holder; "" when it can not be had yet, and is
        to be claimed again.  When it fails, some may have been claimed.
        """

    def release(*names: str) -> Deferred[bool]:
        """Give *names* back, some hundreds at most; fire with whether this node surely holds none of them any more.

        It does not fail.
        """
