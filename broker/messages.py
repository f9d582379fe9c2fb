"""The values that travel through the broker.

A body is opaque: the exact bytes of a JSON text, as the sender wrote them, or of something else that its content
type names.  The core never decodes one.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from enum import IntEnum
from operator import methodcaller
from typing import Any, ClassVar, Protocol, TypeAlias

import attrs
import msgspec
from msgspec.structs import replace
from twisted.internet.defer import Deferred

from broker.errors import BrokerError
from broker.remembered import remembered

__all__ = [
    "EVENT_BYTES",
    "MAX_EXPIRY",
    "MAX_ID",
    "MAX_TIME",
    "Addition",
    "Announce",
    "Announcement",
    "BodyProducer",
    "CloseCode",
    "CursorState",
    "Delivery",
    "Entry",
    "Event",
    "Frame",
    "HttpRequest",
    "Identity",
    "IndexRows",
    "KeyAnnouncement",
    "Loss",
    "Mail",
    "Page",
    "Position",
    "Publication",
    "Quota",
    "Reply",
    "Request",
    "Response",
    "Start",
    "quota_of",
    "text_frame",
]

_encode = msgspec.json.Encoder().encode

SHARED = "shared"  # who owns what principals use that name nobody
MIN_RENDERINGS = 4  # of one event that are kept, however large it is: one for each dialect
EVENT_BYTES = 450  # that an event takes in memory besides its body and what it is rendered to, about
MAX_RENDERED_BYTES = 1 << 20  # of one event's bodies in them, if there are more
# In seconds since the epoch.
MAX_TIME = 8.64e12  # the last moment that a Date of JavaScript can hold
MAX_EXPIRY = 253402300799.0  # the last second of the year 9999: RFC 3339, and most libraries, can name no later one
MAX_ID = 2**53  # of events, and of revisions: what every client and every store has exactly

MAX_REVISION_LENGTH = 20  # digits, and one character
NO_VALUE, VALUE = b"-", b"="  # what follows the revision in ``Event.original`` of the change of a key
# Where a subscription begins that is no position.
START = "start"  # with the oldest event that is kept
NEW = "new"  # with what comes from now on

# Why stored events can not be had any more.
RETENTION = "retention"  # they were too old, or too many
EPOCH = "epoch"  # the store was wiped or restored, or has gone back
MISSED = "missed"  # they were changes of keys, while the node was not connected to the others


class CloseCode(IntEnum):
    """Why a connection ends: the status code of its close frame (RFC 6455, 7.4.1).

    What a shipped client does on each is in its dialect's page of the docs.
    """

    NORMAL = 1000
    GOING_AWAY = 1001  #: somebody else has taken the client's name, or the daemon stops
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003  #: a binary frame where the dialect has text only
    NO_STATUS = 1005  #: never sent: the close frame of the other side held no code
    ABNORMAL = 1006  #: never sent: the connection ended without a close frame
    POLICY_VIOLATION = 1008  #: not authenticated in time, or too many wrong credentials
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011  #: a bug of ours, which costs this connection only
    SERVICE_RESTART = 1012  #: the daemon stops, and clients of this dialect come back by themselves
    TRY_AGAIN_LATER = 1013  #: it reads too slowly, or more waits for it than its limit
    TOKEN_EXPIRED = 4001
    TOKEN_REVOKED = 4003


@attrs.frozen
class Identity:
    """Who a peer is: a principal, as its credential proves it.

    Attributes:
        kind: of the principal: "anonymous" (no credential was shown), "secret" (the shared
            secret, which names nobody), "key" (an API key), "user" (a JSON web token) or
            "operator" (who has the admin port).
        name: of the key or the user, unique within its kind; "" where there is none, as for a token
            that names nobody, or a word that is reserved.
        client: the client id that is its own by its name; "" where it has no name.
        roles: of a user, by which it has further permissions.
        grants: what it may do (``access.Grants``), or None for everything.
        expires: when its credential ends, in seconds since the epoch; 0.0: never.
        fingerprint: of the key that its credential is good by; it changes with the key, and is "" without one.
        details: claims of its credential that a dialect may show to the client.
        owner: who owns the ids that it uses: itself by its name, all nameless ones together, or "": nobody.
    """

    kind: str = "anonymous"
    name: str = ""
    client: str = ""
    roles: tuple[str, ...] = ()
    grants: Any = None
    expires: float = 0.0
    fingerprint: str = attrs.field(default="", repr=False)
    details: Mapping[str, Any] = attrs.field(factory=dict)
    # Not a property: it is asked for with every post and poll.
    owner: str = attrs.field(init=False, repr=False, eq=False)

    @owner.default
    def _owner(self) -> str:
        if self.name:
            return f"{self.kind}:{self.name}"
        return "" if self.kind == "user" else SHARED

    @property
    def authenticated(self) -> bool:
        """Whether a valid credential was shown."""
        return self.kind != "anonymous"

    @property
    def principal(self) -> str:
        """How permissions and logs write it: "user:bob", "secret"; "user" for one without a name."""
        return f"{self.kind}:{self.name}" if self.name else self.kind


class Position(msgspec.Struct, frozen=True, gc=False):  # see Event
    """Where an event stands in the log of its topic.

    Attributes:
        epoch: of the store; positions of two epochs have no order, and are never compared.
        id: of the event; 0: before the first.
    """

    epoch: str
    id: int


# What is made for every message costs a fourth as a struct.  They are not assigned to, and can be part of no cycle:
# the garbage collector need not look at the thousands of them that a client may make the broker keep.
class Event(msgspec.Struct, eq=False, gc=False):
    """Something that happened on a topic; stored and live events are one type.

    Attributes:
        topic: the one flat namespace of all dialects.
        name: the kind of event (ganomede's ``type``).
        body: JSON text, or None when there is none; what *content_type* says if it is *binary*.
        source: the client id of the publisher, stamped by the broker, or "".
        time: seconds since the epoch.
        id: 1, 2, 3 … within the topic when stored, 0 when live only.
        epoch: the store's epoch when stored.
        origin: session id of the publishing peer, for "no echo".
        dialect: which dialect *original* is written in.
        original: the publisher's own frame, for receivers of the same dialect
            that pass it on verbatim; b"" when there is none.  Of the change of a key, which has no dialect,
            the revision and the value before: see ``revision_of`` and ``previous_value``.
        author: what the publisher's application says of whom it is from (ganomede's ``from``);
            nobody has checked that.  "" when it says nothing.
        content_type: what the body is, if the publisher says it; "" for JSON.
        binary: whether the body is no JSON text: dialects that write JSON show ``json`` with a mark.
        expires: when it is good for nothing any more, in seconds since the epoch; 0.0: never.  Who reads a log
            leaves out those whose time has come, as ``core/pages.py`` does; their ids stay used.
        exclude: session and client ids that it is not delivered to; what is stored may be read by them all the same.
        duplicate: whether this is what a store has returned for an event whose key it knew already.
    """

    topic: str
    name: str
    body: bytes | None
    source: str = ""
    time: float = 0.0
    id: int = 0
    epoch: str = ""
    origin: str = ""
    dialect: str = ""
    original: bytes = b""
    author: str = ""
    content_type: str = ""
    expires: float = 0.0
    duplicate: bool = False
    exclude: tuple[str, ...] = ()
    binary: bool = False
    _rendered: dict[Any, Any] | None = None

    @property
    def json(self) -> bytes:
        """The body as JSON text: ``null`` for none, and a string in base64 if it is ``binary``."""
        if self.binary:
            return b'"%b"' % b64encode(self.body or b"")
        return b"null" if self.body is None else self.body

    def stored_as(self, id: int, epoch: str, time: float, *, duplicate: bool = False) -> Event:
        """Return this event as a store has it: with its id, the epoch, and the time that it was given there."""
        return replace(self, id=id, epoch=epoch, time=time, duplicate=duplicate, _rendered=None)

    def render(self, encode: Callable[..., Any], *words: str) -> Any:
        """Return ``encode(self, *words)``, computed once for all receivers.

        Of very many or large renderings the first are kept only: each receiver that waits keeps its own anyway.
        """
        key = (encode, *words)
        rendered = self._rendered
        if rendered is None:
            rendered = self._rendered = {}
        try:
            return rendered[key]
        except KeyError:
            made = encode(self, *words)
            if len(rendered) < MIN_RENDERINGS or len(rendered) * len(self.body or b"") < MAX_RENDERED_BYTES:
                rendered[key] = made
            return made


@attrs.frozen
class Publication:
    """What a client publishes to a stored topic, with others or alone.

    Attributes:
        topic: of the event, as are name, body, content type and expiry.
        is_json: see ``IPeer.publish``.
        key: if the topic has got an event by this key lately, that is the result; "": every one is new.
        expect: the last id that the topic must have, 0 for none; None: any.
    """

    topic: str
    name: str
    body: bytes | None
    key: str = ""
    expect: int | None = None
    content_type: str = ""
    expires: float = 0.0
    is_json: bool | None = None


@attrs.frozen
class Addition:
    """An event that is to be appended to a log, and under which conditions; see ``IStore.append``.

    Attributes:
        log: as the others, an argument of ``append``.
    """

    log: str
    event: Event
    quota: Quota | None = None
    head: int | None = None
    key: str = ""


# Made for every call: a Struct is made in a third of the time of an attrs class.
class Request(msgspec.Struct, array_like=True, eq=False):  # as it travels between nodes
    """A call or a streamed request on its way to the one that answers.

    Attributes:
        id: made by the broker for this hop; give it to ``Peer.answer``.
        procedure: the whole name that was called; "" for a streamed request.
        service: the registered name that took it.
        method: what follows the service in *procedure*, perhaps "".
        body: a call's arguments as a JSON array; a streamed request's payload.
        caller: client id of the caller.
        recipient: the client or session id it was addressed to, or "".
        timeout: seconds the caller will wait; 0 is without limit.
        time: the caller's own clock in seconds, or the broker's.
        streamed: whether any number of answers is expected.
        dialect: which dialect *original* is written in.
        original: the caller's own payload, for a callee of the same dialect.
        attachments: binary parts that *original* refers to.
    """

    id: str
    procedure: str
    service: str
    method: str
    body: bytes
    caller: str = ""
    recipient: str = ""
    timeout: float = 0.0
    time: float = 0.0
    streamed: bool = False
    dialect: str = ""
    original: bytes = b""
    attachments: tuple[bytes, ...] = ()


class Reply(msgspec.Struct, tag="answer", array_like=True, eq=False):  # as it travels between nodes
    """The end of a call, or one answer of a streamed request.

    Attributes:
        ref: the caller's own id of the call, as it gave it.
        body: the result as JSON text; meaningless when *error* is set.
        error: why it failed, or None.
        source: client id of the one that answered; "broker" for the broker.
        time: the answerer's own clock in seconds, or 0.
        streamed: whether this answers a streamed request.
        attachments: binary parts that *body* refers to.
    """

    ref: str
    body: bytes
    error: BrokerError | None = None
    source: str = ""
    time: float = 0.0
    streamed: bool = False
    attachments: tuple[bytes, ...] = ()


class Mail(msgspec.Struct, eq=False, gc=False):  # see Event
    """A queued message: of a client's mailbox or of a work queue.

    Attributes:
        queue: ``"client:<id>"`` or ``"queue:<name>"``.
        ref: the sender's own id of it, or "".
        body: JSON text.
        source: client id of the sender.
        time: the sender's clock in seconds, or the broker's.
    """

    queue: str
    ref: str
    body: bytes
    source: str = ""
    time: float = 0.0


class Delivery(Mail, eq=False, gc=False):
    """A job of a work queue, for a consumer that acknowledges.

    Attributes:
        id: of this delivery, by which it is finished; no other one has it.
        delivery: how many deliveries there were of the job, this one included.
        lease: seconds for which the consumer has it.
    """

    id: str = ""
    delivery: int = 1
    lease: float = 0.0


class Entry(msgspec.Struct, eq=False, gc=False):  # see Event
    """A stored key.

    Attributes:
        value: the bytes that were set.
        revision: the number of its last change; those of all keys of a space rise together, see ``IStore``.
        expires: when it expires, in seconds since the epoch; 0: never.  At most ``MAX_EXPIRY``, but an
            older version may have stored any number.
        created: in the answer to a change, whether the key was missing before.
    """

    value: bytes
    revision: int
    expires: float = 0.0
    created: bool = False

    def __eq__(self, other: object) -> bool:
        """Whether the key is in the same state."""
        if not isinstance(other, Entry):
            return NotImplemented
        return (self.value, self.revision, self.expires) == (other.value, other.revision, other.expires)

    __hash__ = None  # type: ignore[assignment]


@attrs.define(eq=False)
class Announcement:
    """An event that is made in one step with a change of a key; see ``IStore``.

    Attributes:
        topic: of the event, as are name, time, body, source and origin.
        stored: whether the event is stored in the log of its topic, too.
        published: set when the store is given it: whether that publishes it by itself.
        event: set with the answer of the store, if that has stored the event and does not publish: with its id.
        original: set with the answer of a store that does not publish: that of the event, see ``Event``.
    """

    numbered: ClassVar[bool] = False  # whether its event says the revision of the change

    topic: str
    name: str
    time: float
    body: bytes | None = None
    source: str = ""
    origin: str = ""
    stored: bool = False
    published: bool = attrs.field(default=False, init=False)
    event: Event | None = attrs.field(default=None, init=False)
    original: bytes = attrs.field(default=b"", init=False, repr=False)

    def made(self, revision: int, before: bytes | None, *, known: bool = True) -> None:
        """Note the *revision* of the change, and the value *before* if it is *known*; None: the key was missing."""
        if before is not None:
            self.original = b"%d=%b" % (revision, before)
        else:
            self.original = b"%d-" % revision if known else b"%d" % revision

    def event_of(self, value: bytes | None) -> Event:
        """Return the event of a change that leaves *value*; None: the key is missing then."""
        return Event(self.topic, self.name, self.body, self.source, self.time, origin=self.origin)


@attrs.define(eq=False)
class KeyAnnouncement(Announcement):
    """The event that notifies those who watch a key of its change.

    Attributes:
        key: that changes.
    """

    numbered: ClassVar[bool] = True

    key: str = attrs.field(kw_only=True)

    def event_of(self, value: bytes | None) -> Event:
        """Return the event, whose body has the key, *value* as text, and the time in milliseconds."""
        text = None if value is None else value.decode("utf-8", "replace")
        body = _encode({"key": self.key, "value": text, "timestamp": int(self.time * 1000)})
        return Event(self.topic, self.name, body, "", self.time, 0, "", self.origin, "", self.original)


def previous_value(change: Event) -> tuple[bool, bytes | None]:
    """Return whether the *change* of a key says what its value was before, and that; None: the key was missing."""
    original = change.original
    begin = original.find(VALUE, 0, MAX_REVISION_LENGTH) + 1
    return bool(begin) or original.endswith(NO_VALUE), original[begin:] if begin else None


def revision_of(change: Event) -> int:
    """Return the revision that the *change* of a key has left; 0 for one of an older version, which has none."""
    return revision_in(change.original)


def revision_in(original: bytes) -> int:
    """Return the revision in the ``Event.original`` of the change of a key."""
    number = original[:MAX_REVISION_LENGTH].partition(VALUE)[0].removesuffix(NO_VALUE)
    return int(number) if number.isdigit() else 0


Announce: TypeAlias = Callable[[str], Announcement | None]  # how to announce the change of a key; None: to nobody


@attrs.frozen
class Quota:
    """How many things of one kind a store keeps for one owner.

    Attributes:
        kind: the word for the things, such as "cursors".
        owner: the principal whom they count for.
        limit: how many there may be; 0: any number, which are counted all the same.
        account: the name under which a store counts them.
        words: limit and account, with a blank between them, as the scripts of Redis read them.
    """

    kind: str
    owner: str
    limit: int = 0
    account: str = attrs.field(init=False, repr=False, default=attrs.Factory("{0.kind} {0.owner}".format, True))
    words: bytes = attrs.field(init=False, repr=False)

    @words.default
    def _words(self) -> bytes:
        return b"%d %b" % (self.limit, self.account.encode("utf-8", "surrogatepass"))


@remembered(4096)  # the same ones are asked for with every post
def quota_of(things: str, kind: str, name: str, limit: int) -> Quota:
    """Return the quota of *things* of the principal that has the kind and the name of an ``Identity``."""
    return Quota(things, Identity(kind, name).principal, limit)


class Frame(msgspec.Struct, frozen=True, gc=False):  # see Event
    """One message in both shapes: for a WebSocket and for other transports.

    Attributes:
        wire: the finished server-to-client WebSocket frame.
        header_size: bytes at its start that are not of the payload.
    """

    wire: bytes
    header_size: int

    @property
    def payload(self) -> bytes:
        """What the message says; a copy."""
        return self.wire[self.header_size :]

    @property
    def size(self) -> int:
        """Bytes of the payload."""
        return len(self.wire) - self.header_size


def _header(opcode: int, size: int) -> bytes:
    """Return the header of one unmasked frame.

    RFC 6455, 5.2: "The length of the 'Payload data', in bytes: if 0-125, that is
    the payload length.  If 126, the following 2 bytes interpreted as a 16-bit
    unsigned integer are the payload length.  If 127, the following 8 bytes".
    """
    first = 0x80 | opcode
    if size < 126:
        return bytes((first, size))
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2, "big")
    return bytes((first, 127)) + size.to_bytes(8, "big")


# Headers of short text frames, by payload length: most frames are such.
TEXT_HEADERS = tuple(_header(1, size) for size in range(1024))
SHORT = len(TEXT_HEADERS)


def wire_frame(payload: bytes, binary: bool = False) -> bytes:
    """Return *payload* as one finished, unmasked WebSocket frame."""
    size = len(payload)
    if size < SHORT and not binary:
        return TEXT_HEADERS[size] + payload
    return _header(2 if binary else 1, size) + payload


def text_frame(payload: bytes) -> Frame:
    """Return *payload*, which must be UTF-8, as a text :class:`Frame`."""
    wire = wire_frame(payload)
    return Frame(wire, len(wire) - len(payload))


def long_text_frame(*parts: bytes) -> Frame:
    """As ``text_frame`` of *parts* in a row, but each is copied only once."""
    header = _header(1, sum(map(len, parts)))
    return Frame(b"".join((header, *parts)), len(header))


@attrs.frozen
class IndexRows:
    """What an index has for one value.

    Attributes:
        id: of the index.
        field: which it is made by.
        value: of the field.
        events: the newest first.
    """

    id: str
    field: str
    value: str
    events: list[Event]


@attrs.frozen
class Page:
    """Some stored events of a topic, and what there is besides.

    Attributes:
        events: in rising order of their ids.
        epoch: of the store.
        first: the id of the oldest event that is kept; ``head + 1`` if there is none.
        head: the id of the newest event that there ever was; 0 for none.
    """

    events: list[Event]
    epoch: str
    first: int
    head: int


@attrs.frozen
class Loss:
    """Stored events that somebody who reads them in order can not get any more.

    Attributes:
        topic: theirs.
        epoch: theirs, too.
        first: the id of the first of them.
        last: the id of the last; None: nobody knows, the epoch is another one now.
        why: ``RETENTION`` or ``EPOCH``.
    """

    topic: str
    epoch: str
    first: int
    last: int | None
    why: str


@attrs.frozen
class Start:
    """Where a subscription begins in one topic.

    Attributes:
        topic: a name.
        position: the first event is the one after that.
        loss: what it was to begin with and can not be had any more, or None.
    """

    topic: str
    position: Position
    loss: Loss | None = None


Origin: TypeAlias = "Position | str | Mapping[str, Position]"  # START, NEW, or for a pattern the position by topic


@attrs.frozen
class CursorState:
    """How far a client has acknowledged a topic.

    Attributes:
        client: the client id that the cursor belongs to.
        topic: a name.
        id: of the last event that it has acknowledged; 0 for none.
        lag: how many there are after that.
        moved: when it was moved last, in seconds since the epoch; 0.0: nobody knows.
    """

    client: str
    topic: str
    id: int
    lag: int
    moved: float


@attrs.define(eq=False)
class HttpRequest:
    """A request as it came: of an HTTP dialect, or the WebSocket handshake.

    Attributes:
        method: upper case.
        path: as sent, still percent-encoded, without the query.
        query: as sent, still encoded, without the question mark.
        headers: by lower-case name; repeated ones joined by ", ".
        body: the whole body, b"" without one.
        address: the client's IP address or socket path.
        secure: whether it came over TLS, if need be to a trusted proxy.
        id: the ``X-Request-Id`` of the answer.
        peer: of the client that asks, once there is one.  A dialect whose sessions outlive
            their requests puts that of the session here.
        version: of HTTP: "1.1" or "1.0".
        forwarded_host: what the client has sent as ``Host`` when a trusted proxy says so, since it sends another; "".
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes = b""
    address: str = ""
    secure: bool = False
    id: str = ""
    peer: Any = attrs.field(default=None, repr=False)
    version: str = "1.1"
    forwarded_host: str = ""


class BodyProducer(Protocol):
    """What makes a body while it is sent: the part of ``twisted.web.iweb.IBodyProducer`` that is called."""

    def startProducing(self, consumer: Any) -> Deferred[Any]:
        """Call ``consumer.write`` with each piece; fire when that is done."""

    def pauseProducing(self) -> object:
        """Write no more until ``resumeProducing``: the client has to read first."""

    def resumeProducing(self) -> object:
        """Go on."""

    def stopProducing(self) -> Any:
        """End: the client has gone.  It may return a Deferred that fires when it has ended."""


@attrs.define  # made for every request: see Event
class Response:
    """An answer to an :class:`HttpRequest`.

    ``Date``, ``Content-Length`` or ``Transfer-Encoding``, ``Connection`` and, unless
    *plain* is set, ``X-Request-Id`` are added by the transport.

    A body can be sent while it is made: then it is an asynchronous iterator of bytes, such as an
    ``async def`` with ``yield``, or an ``IBodyProducer`` of Twisted.  The next piece is asked for when the
    client has taken those before it.  When it goes away, the iterator is closed (``aclose``), or the
    producer stopped.  What fails while it is sent ends the connection, so ask for what may be refused before.

    Attributes:
        status: the HTTP status.
        body: the whole body, or what makes it; left out of the answer to a HEAD.
        content_type: "" for none.
        headers: further fields, as pairs of name and value.
        reason: the reason phrase; "": that of the status.
        plain: whether to leave ``X-Request-Id`` out.
        close: whether the connection is closed after it.
        length: how many bytes a body has that is sent while it is made; None: that is not known before.
    """

    status: int = 200
    body: Any = b""  # bytes, AsyncIterable[bytes] or BodyProducer: who made it knows which
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    reason: str = ""
    plain: bool = False
    close: bool = False
    length: int | None = None


# Not functions of ours: the call of a method of ``str`` is all they are, and they are called for every message.

#: Returns any string, even one with a lone surrogate, as UTF-8, for a store or another node.
encode_text: Callable[[str], bytes] = methodcaller("encode", "utf-8", "surrogatepass")

#: Returns the string of which its argument is the ``encode_text``.
decode_text: Callable[[bytes], str] = methodcaller("decode", "utf-8", "surrogatepass")
