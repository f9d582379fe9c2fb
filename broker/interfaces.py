"""What the parts promise each other.

A dialect implements :class:`IWebSocketDialect`, :class:`IHttpDialect` or both,
and makes an :class:`ISession` for each connection.  The front door implements
:class:`ILink`.  Stores and buses implement :class:`IStore` and :class:`IBus`;
their contracts are stated here and checked by one suite for all of them
(``tests/stores/store_contract.py``, ``tests/buses/bus_contract.py``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from broker.messages import CloseCode, Entry, Event, Frame, HttpRequest, Reply, Request, Response


class ILink(Interface):
    """The way out to one connected client.  Dialect to transport."""

    handshake: HttpRequest = Attribute("The HttpRequest that opened the connection.")
    open: bool = Attribute("Whether what is sent now goes out: from ``ISession.opened`` to the close by either side.")
    paused: bool = Attribute("True while more than a little waits to be sent.")

    def send(payload: bytes) -> None:
        """Send *payload*, which must be UTF-8, as one text message.

        After the close it does nothing.  When more than the send queue's limit
        waits for a client that does not read, the link is closed with 1013.
        """

    def send_binary(payload: bytes) -> None:
        """Send *payload* as one binary message."""

    def send_frame(frame: Frame) -> None:
        """Send a message that was built once for many receivers."""

    def close(code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close in good order; *reason* is cut to what a close frame holds."""

    def abort() -> None:
        """Drop the connection without a close frame: the peer sees 1006."""


class ISession(Interface):
    """One client of a dialect.  Called by the transport and by the core.

    A method that raises costs its own connection only: it is logged and the
    link is closed with 1011.
    """

    def opened() -> None:
        """The connection is open: from now on frames may be sent."""

    def received(data: bytes, binary: bool) -> None:
        """One whole message came; text is known to be UTF-8."""

    def event(event: Event, pattern: str) -> None:
        """An event came by the subscription to *pattern*.

        *pattern* equals ``event.topic`` for a plain subscription.  Key changes
        that ``Peer.watch`` asked for come here too, with pattern "".
        """

    def request(request: Request) -> None:
        """Take a call or a streamed request; answer it by ``Peer.answer``.

        Raising a ``BrokerError`` refuses it: the caller gets that error.
        """

    def reply(reply: Reply) -> None:
        """An answer came to a ``Peer.call`` or a ``Peer.request``."""

    def mail(mail: Any) -> bool:
        """Take a queued message (``messages.Mail``); False: not now, keep it."""

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


class IWebSocketDialect(Interface):
    """A dialect whose clients come over WebSocket."""

    name: str = Attribute("Short lower-case name; also the label in metrics.")
    websocket_paths: Sequence[str] = Attribute(
        "Paths it takes, longest match first; '/x/' also takes what is below it."
    )
    subprotocols: Sequence[str] = Attribute("WebSocket subprotocols it takes on any path.")

    def session(peer: Any, link: ILink) -> Awaitable[Any]:
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

    def answer(peer: Any, request: HttpRequest) -> Awaitable[Response]:
        """Return the answer to *request*.

        It is cancelled when the client goes away.  *peer* is closed after the
        answer, unless the dialect has bound a session to it (``Peer.bind``):
        then that session closes it.
        """


class IDialectExtras(Interface):
    """What a dialect of either kind may have besides; each is used where it is there.

    No dialect declares this interface: it would then need all of them.
    """

    example: str = Attribute(
        "A line for a shell that shows how to try it, logged at the start; ``{http}`` and ``{ws}`` stand "
        "for the URLs of the daemon, ``{websocket}`` for a WebSocket client."
    )
    any_origin: bool = Attribute("Whether its WebSockets may be opened by pages of any origin.")
    refusal_delay: float = Attribute("Seconds for which a refusal by ``session`` is held, for clients that come again.")

    def refusal(status: int, message: str, request: HttpRequest) -> Response:
        """Return how this dialect says *status* to *request*, which has not reached ``answer`` or has failed there."""

    def drain() -> None:
        """The daemon stops: answer the requests that wait, and let go of what outlives a connection.

        Called once.  Afterwards open WebSockets are closed with 1001, and
        requests that are still under way have ``TXBROKER_DRAIN_SECONDS``.
        """


class IStore(IService):
    """Where stored topics and keys live.

    Logs and keys are separate: a log is named by any string but the empty one,
    a key by a *space* (a short fixed word) and any string.

    Every method returns a Deferred.  It fails with ``Unavailable`` when the
    store is away, not started, stopped, or can not keep up, and then nothing has
    changed.  Cancelling gives up the answer, not the operation.

    Operations of one caller take effect in the order in which they were called,
    whether or not it waited in between; a read sees every write called before
    it.  When a write has answered, it survives ``kill -9`` of the daemon and, with
    the durability "fsync", a power cut (but for the memory store, which forgets
    at its stop).  Bodies and values come back byte for byte.

    ``startService`` raises ``Unavailable``, saying why, when the store can not be
    opened; ``stopService`` answers when all that was called before is done.
    """

    epoch: str = Attribute("Changes when the store was wiped; known once started.")
    shared: bool = Attribute("Whether several nodes may use this store at once.")
    announces: bool = Attribute("Whether append itself publishes the event on the bus.")
    ready: str = Attribute("Why writes can not be taken now; '' when they can.")
    description: str = Attribute("What it is and what it promises; without secrets.")

    def append(log: str, event: Event) -> Deferred[Event]:
        """Store *event* at the end of *log*; return a copy with ``id`` and ``epoch`` set.

        Topic, name, body (None and b"" are two things), source and time are
        stored; an event whose time is 0 gets the store's.

        Ids of a log rise by one, from 1, without a hole as any reader sees
        them, and none is ever used twice, whatever has been trimmed.  An event
        is visible with its id and its body at once, or not at all.
        """

    def read(log: str, after: int, limit: int) -> Deferred[list[Event]]:
        """Return at most *limit* events with id > *after*, in rising order."""

    def latest(log: str, limit: int) -> Deferred[list[Event]]:
        """Return the last *limit* events, in rising order."""

    def head(log: str) -> Deferred[int]:
        """Return the last id given in *log*, trimmed or not; 0 for none."""

    def trim(log: str, upto: int) -> Deferred[None]:
        """Forget the events of *log* with id <= *upto*, however large that is."""

    def sweep(prefix: str, before: float, keep: int) -> Deferred[int]:
        """Forget old events of every log whose name begins with *prefix*.

        Those with a time before *before* (0: none for its age) and those beyond
        the newest *keep* (0: none for their count) go.  The oldest go first, and
        an old one behind a young one stays: there is never a hole.  Keys of
        any space that expired an hour ago go too; until then they are left to
        ``expired``.  It may work in steps that others see.  Returns how many
        events went.
        """

    def get(space: str, key: str) -> Deferred[Entry | None]:
        """Return the entry of *key*, or None if it is missing or has expired."""

    def set(
        space: str, key: str, value: bytes, *, revision: int | None = None, expires: float = 0.0
    ) -> Deferred[Entry]:
        """Create or replace *key*.

        With *revision*, only if the stored revision equals it (0: is missing).
        A key that has expired is missing, for every method but ``expired``.

        Raises:
            Conflict: *revision* was given and is not the stored one.
        """

    def delete(space: str, key: str, *, revision: int | None = None) -> Deferred[bool]:
        """Remove *key*; say whether it was there.  *revision* as in set.

        If it is created again, its revision begins again at 1.
        """

    def patch(space: str, key: str, value: bytes, merge: Callable[[bytes, bytes], bytes]) -> Deferred[Entry]:
        """Replace the value by ``merge(stored, value)`` in one step.

        A missing key is created with *value*; a present one keeps its expiry.
        *merge* is a pure function known to every store (``broker.core.keys.merge``); it may
        be called in another thread, and more than once, and a store may do
        the same work elsewhere.  If it raises, the caller gets that and nothing changes.
        """

    def increment(space: str, key: str, amount: bytes) -> Deferred[Entry]:
        """Add the decimal number *amount* to the stored one, in one step.

        A missing key counts as 0; a present one keeps its expiry.  Integers stay
        integers, exact to 2^53 and beyond; otherwise the shortest decimal text
        of the double, without a fraction when it is whole.

        Raises:
            Invalid: one of the two is no number, or the sum is not finite.
        """

    def range(space: str, first: str, last: str, limit: int) -> Deferred[list[tuple[str, Entry]]]:
        """Return the entries with first <= key <= last, by the keys' UTF-8 bytes.

        At most *limit*, in rising order.
        """

    def expired(space: str, limit: int) -> Deferred[list[str]]:
        """Remove and return at most *limit* keys of *space* whose time has come.

        Each is returned by exactly one such call, over all nodes, unless it was
        set again or swept before.
        """

    def logs(prefix: str, after: str, limit: int) -> Deferred[list[str]]:
        """Return names of logs that begin with *prefix* and sort after *after*.

        At most *limit*, in rising order of their UTF-8 bytes; a log that was
        trimmed empty is still one.
        """


class ISharedStore(IStore):
    """What a store that several nodes use at once offers besides.

    ``startService`` never fails: a server that is away may come later.  When the
    connection breaks while an operation is under way, that fails with
    ``Unavailable`` although it may have been done: its answer is what was lost.

    Some logs are *marked*, those of topics.  A mark is a number that rises as
    they are appended to; by it a node finds what it has missed.
    """

    wiped: Callable[[], object] = Attribute("Called when ``epoch`` has changed while running.")

    def mark() -> Deferred[int]:
        """Return the present mark."""

    def changes(mark: int) -> Deferred[dict[str, int]]:
        """Return the logs that were appended to after *mark*, each with the mark of the last time."""

    def since(log: str, mark: int) -> Deferred[int]:
        """Return the id of the first event of *log* after *mark*; 0 for none."""

    def publishes(origin: str) -> bool:
        """Whether an append of an event of that *origin* is under way."""

    def on_answer(call: Callable[[], object]) -> None:
        """Let *call* be called whenever appends were answered."""


class IBus(IService):
    """Carries events and service names between nodes; alone, within one.

    ``deliver`` and ``delivered_request`` are set by the service before start.
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
        """Fire when all that was listened to so far is heard from every node, or that takes too long.

        None: it is heard already.
        """

    def claim(name: str, *, shared: bool = False) -> Deferred[None]:
        """Hold *name* for this node until ``release``; repeated claims are fine.

        With *shared*, together with other nodes that share it.

        Raises:
            Taken: another living node holds it, and not both share.
        """

    def release(name: str) -> None:
        """Give *name* back."""


class IEventSource(Interface):
    """Where a bus finds the stored events that it has missed; see ``ISharedStore``."""

    def mark() -> Deferred[int]:
        """Return the present mark."""

    def changes(mark: int) -> Deferred[dict[str, int]]:
        """Return the topics that have got events after *mark*, each with the mark of the last time."""

    def since(topic: str, mark: int) -> Deferred[int]:
        """Return the id of the first event of *topic* after *mark*; 0 for none."""

    def read(topic: str, after: int, limit: int) -> Deferred[list[Event]]:
        """Return at most *limit* events with id > *after*, in rising order."""

    def publishes(origin: str) -> bool:
        """Whether an event of that *origin* is being stored: its publisher is to be answered before it is heard."""

    def on_answer(call: Callable[[], object]) -> None:
        """Let *call* be called whenever such publishers were answered."""


class ISharedBus(IBus):
    """What a bus between several nodes offers besides.

    A node has an *address* of its own at each start.  It holds its names by a lease,
    which it renews: those of a node that has ended without notice are free after that.
    The attributes below the first are set by the service before start.
    """

    address: str = Attribute("Where other nodes reach this one.")
    source: IEventSource = Attribute("Where missed events are read.")
    received: Callable[[str, bytes], object] = Attribute("Called with the address of a node and its message.")
    lost: Callable[[str], object] = Attribute("Called with a name that was held here and is another node's now.")
    departed: Callable[[str], object] = Attribute(
        "Called with the address of a node that has gone, or that may have missed messages."
    )

    def wiped() -> None:
        """Begin anew: the source has lost everything."""

    def send(address: str, message: bytes) -> Deferred[bool]:
        """Send *message* to one node, at most once; fire with whether that node is listening."""

    def holders(names: Sequence[str]) -> Deferred[tuple[str, list[str]]]:
        """Return the first of *names* that is held, and the addresses of its living holders; "" and none."""

    def seize(name: str) -> Deferred[None]:
        """Hold *name*, whoever held it before; that one is told that it is lost."""

    def lives(address: str) -> bool:
        """Whether that node has renewed its lease, as far as this one knows."""
