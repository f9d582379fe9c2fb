"""Socket.IO v5 without I/O: messages in, events out.

A packet is the data of an Engine.IO message,
``<type>[<n attachments>-][<namespace>,][<ack id>][<JSON>]``, with n binary messages
directly after it.  Types: 0 CONNECT, 1 DISCONNECT, 2 EVENT, 3 ACK, 4 CONNECT_ERROR,
5 BINARY_EVENT, 6 BINARY_ACK.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TypeVar

import attrs
import msgspec
from msgspec import Raw

from broker.arrays import has_more_than
from broker.errors import Invalid
from broker.jsontext import ERRORS, decode, without_strings
from protocols.microstream.engineio import Packet, ProtocolError

CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR, BINARY_EVENT, BINARY_ACK = range(7)
RESERVED_EVENTS = frozenset(
    ("connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener")
)
MAX_ATTACHMENTS = 10
MAX_PARTS = 20_000  # of the JSON of an event with attachments, all of which are looked at
MAX_ARGUMENTS = 1000  # of an event or an acknowledgement, its name included
MAX_NAMESPACE = 255  # characters; an unknown one is repeated in the CONNECT_ERROR
HEAD = re.compile(rb"([0-6])(?:(\d{1,4})-)?(?:(/[^,]*),?)?(\d{1,15})?")

_items = msgspec.json.Decoder(list[Raw])
_plain_event = msgspec.json.Decoder(tuple[str, Raw]).decode
_name = msgspec.json.Decoder(str | int | float)
_json_name = msgspec.json.Encoder().encode

T = TypeVar("T")


class _Object(msgspec.Struct):
    """Any object: what is in it is skipped."""


_object = msgspec.json.Decoder(_Object)


@attrs.frozen
class Connect:
    """The client asks to join *namespace*; *auth* is the JSON text of an object, or b""."""

    namespace: str
    auth: bytes = b""


@attrs.frozen
class Disconnect:
    """The client has left *namespace*."""

    namespace: str


# Made for every message: a frozen attrs class takes three times as long to make.
@attrs.define(eq=False)
class Emit:
    """An event was received.

    Attributes:
        namespace: it was emitted in.
        name: of the event.
        args: its arguments after the name, each as its exact JSON text.
        id: of the acknowledgement it asks for, or None.
        attachments: binary parts; ``{"_placeholder":true,"num":i}`` in *args* stands for number i.
    """

    namespace: str
    name: str
    args: list[Raw]
    id: int | None = None
    attachments: tuple[bytes, ...] = ()


@attrs.define(eq=False)
class Ack:
    """An acknowledgement was received; its attributes are those of :class:`Emit`."""

    namespace: str
    id: int
    args: list[Raw]
    attachments: tuple[bytes, ...] = ()


Event = Connect | Disconnect | Emit | Ack


# Packets out


def connect_packet(namespace: str, sid: str) -> bytes:
    """Return the packet that accepts a CONNECT."""
    return b'0%b{"sid":%b}' % (_prefix(namespace), _json_name(sid))


def connect_error_packet(namespace: str, error: bytes) -> bytes:
    """Return the packet that refuses a CONNECT; *error* is the JSON object ``{"message"[,"data"]}``."""
    return b"4%b%b" % (_prefix(namespace), error)


def event_packets(
    namespace: str, items: bytes, *, id: int | None = None, attachments: Sequence[bytes] = ()
) -> list[Packet]:
    """Return an event as messages; *items* is the JSON array of its name and arguments."""
    return _packets(EVENT, namespace, id, items, attachments)


def ack_packets(namespace: str, id: int, items: bytes, *, attachments: Sequence[bytes] = ()) -> list[Packet]:
    """Return the acknowledgement *id* as messages; *items* is the JSON array of its arguments."""
    return _packets(ACK, namespace, id, items, attachments)


def _packets(kind: int, namespace: str, id: int | None, items: bytes, attachments: Sequence[bytes]) -> list[Packet]:
    number = b"" if id is None else b"%d" % id
    if not attachments:
        return [(b"%d%b%b%b" % (kind, _prefix(namespace), number, items), False)]
    head = b"%d%d-%b%b%b" % (kind + 3, len(attachments), _prefix(namespace), number, items)
    return [(head, False), *((data, True) for data in attachments)]


def _prefix(namespace: str) -> bytes:
    return b"" if namespace == "/" else namespace.encode() + b","


# Packets in


@attrs.define
class _Head:
    """A packet whose attachments are still to come."""

    kind: int
    namespace: str
    id: int | None
    rest: bytes
    attachments: int


class Connection:
    """The protocol state of one client, over all its namespaces.

    ``receive`` raises ``engineio.ProtocolError`` when the connection must be closed.
    A :class:`Connect` must be followed by ``accept`` or ``refuse``, at once or later.

    Attributes:
        joined: the namespaces whose CONNECT was accepted.
    """

    __slots__ = ("_asked", "_binaries", "_head", "joined")

    def __init__(self) -> None:
        self.joined: set[str] = set()
        self._asked: set[str] = set()
        self._head: _Head | None = None
        self._binaries: list[bytes] = []

    def receive(self, data: bytes, binary: bool) -> Event | None:
        """Return the event that an Engine.IO message completes, or None while attachments are due."""
        if binary:
            return self._attach(data)
        if self._head is not None:
            raise ProtocolError("text while attachments are due")
        if data[:2] == b"2[" and "/" in self.joined:
            # Fast path for nearly every packet: an event of the root namespace with one argument.
            try:
                name, argument = _plain_event(data[1:])
            except ERRORS:
                return self._event("/", None, data[1:], ())
            if name not in RESERVED_EVENTS:
                return Emit("/", name, [argument])
        return self._packet(_head(data))

    def accept(self, namespace: str, sid: str) -> bytes:
        """Add *namespace* to those joined; return the packet that accepts the CONNECT."""
        self._asked.discard(namespace)
        self.joined.add(namespace)
        return connect_packet(namespace, sid)

    def refuse(self, namespace: str, error: bytes) -> bytes:
        """Return the packet that refuses the CONNECT; see ``connect_error_packet``."""
        self._asked.discard(namespace)
        return connect_error_packet(namespace, error)

    def _packet(self, head: _Head) -> Event | None:
        namespace = head.namespace
        if head.kind == CONNECT:
            return self._connect(head)
        if namespace not in self.joined:
            raise ProtocolError("namespace not connected")
        if head.attachments:
            self._head = head
            return None
        if head.kind == DISCONNECT:
            if head.rest:
                raise ProtocolError("a DISCONNECT with a payload")
            self.joined.discard(namespace)
            return Disconnect(namespace)
        return self._completed(head, ())

    def _connect(self, head: _Head) -> Connect:
        namespace = head.namespace
        if namespace in self.joined or namespace in self._asked:
            raise ProtocolError("connected already")
        if head.rest:
            _decoded(_object, head.rest)
        self._asked.add(namespace)
        return Connect(namespace, head.rest)

    def _attach(self, data: bytes) -> Event | None:
        head = self._head
        if head is None:
            raise ProtocolError("binary without a header")
        self._binaries.append(data)
        if len(self._binaries) < head.attachments:
            return None
        attachments, self._binaries, self._head = tuple(self._binaries), [], None
        _check_placeholders(head.rest, len(attachments))
        if head.namespace not in self.joined:
            return None
        return self._completed(head, attachments)

    def _completed(self, head: _Head, attachments: tuple[bytes, ...]) -> Event:
        if head.kind in (EVENT, BINARY_EVENT):
            return self._event(head.namespace, head.id, head.rest, attachments)
        if head.id is None:
            raise ProtocolError("an acknowledgement without an id")
        return Ack(head.namespace, head.id, _arguments(head.rest), attachments)

    def _event(self, namespace: str, id: int | None, rest: bytes, attachments: tuple[bytes, ...]) -> Emit:
        items = _arguments(rest)
        if not items:
            raise ProtocolError("an event without a name")
        return Emit(namespace, _event_name(items.pop(0)), items, id, attachments)


def _head(data: bytes) -> _Head:
    match = HEAD.match(data)
    if match is None:
        raise ProtocolError("unknown type")
    kind = int(match[1])
    attachments = 0
    if match[2] is not None:
        attachments = int(match[2])
    if (match[2] is not None) != (kind in (BINARY_EVENT, BINARY_ACK)) or attachments > MAX_ATTACHMENTS:
        raise ProtocolError("attachments")
    if kind == CONNECT_ERROR or (match[4] and kind in (CONNECT, DISCONNECT)):
        raise ProtocolError("unexpected packet")
    try:
        namespace = match[3].decode() if match[3] else "/"
    except UnicodeDecodeError:
        raise ProtocolError("namespace") from None
    if len(namespace) > MAX_NAMESPACE:
        raise ProtocolError("namespace too long")
    return _Head(kind, namespace, int(match[4]) if match[4] else None, data[match.end() :], attachments)


def _event_name(text: Raw) -> str:
    try:
        name = decode(_name, text)
    except Invalid:
        if not bytes(text).startswith(b'"'):
            raise ProtocolError("event name") from None
        return ""  # a lone surrogate: legal, and the name of no event
    if name in RESERVED_EVENTS:
        raise ProtocolError("reserved event name")
    return str(name)


def _check_placeholders(text: bytes, attachments: int) -> None:
    """Raise ProtocolError when *text* refers to an attachment that is not there, or has too many parts to tell."""
    marks = without_strings(text)
    if marks.count(b",") + marks.count(b"[") + marks.count(b"{") > MAX_PARTS:
        raise ProtocolError("payload too complex")
    try:
        pending = [json.loads(text)]
    except (ValueError, RecursionError):
        raise ProtocolError("payload") from None
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            if value.get("_placeholder") is True:
                number = value.get("num")
                if type(number) is not int or not 0 <= number < attachments:
                    raise ProtocolError("illegal attachments")
            else:
                pending += value.values()


def _arguments(text: bytes) -> list[Raw]:
    if has_more_than(text, MAX_ARGUMENTS):  # half a million take 0.1 s
        raise ProtocolError("too many arguments")
    return _decoded(_items, text)


def _decoded(decoder: msgspec.json.Decoder[T], text: bytes) -> T:
    try:
        return decode(decoder, text)
    except Invalid as error:
        raise ProtocolError(f"payload: {error}") from None
