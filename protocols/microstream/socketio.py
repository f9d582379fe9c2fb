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

from protocols.microstream.engineio import Malformed
from protocols.microstream.exact import ERRORS, NotExact, decode

CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR, BINARY_EVENT, BINARY_ACK = range(7)
RESERVED = frozenset(("connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"))
MAX_ATTACHMENTS = 10
MAX_NAMESPACE = 255  # characters; it is told back to the client when it is unknown
HEAD = re.compile(rb"([0-6])(?:(\d{1,4})-)?(?:(/[^,]*),?)?(\d{1,15})?")

_items = msgspec.json.Decoder(list[Raw])
_plain_event = msgspec.json.Decoder(tuple[str, Raw]).decode
_object = msgspec.json.Decoder(dict[str, Raw])
_name = msgspec.json.Decoder(str | int | float)
_json_name = msgspec.json.Encoder().encode

T = TypeVar("T")
Packet = tuple[bytes, bool]  # an Engine.IO message; whether it is a binary one


@attrs.frozen
class Connect:
    """The client wants to be in *namespace*; *auth* is the JSON text of an object, or b""."""

    namespace: str
    auth: bytes = b""


@attrs.frozen
class Disconnect:
    """The client has left *namespace*."""

    namespace: str


# Made for every message: not frozen, which would triple their price.
@attrs.define(eq=False)
class Emit:
    """An event came.

    Attributes:
        namespace: where.
        name: which.
        args: its further arguments, each with its exact text.
        id: asks for an acknowledgement under this number; None: for none.
        attachments: what ``{"_placeholder":true,"num":i}`` in *args* stands for.
    """

    namespace: str
    name: str
    args: list[Raw]
    id: int | None = None
    attachments: tuple[bytes, ...] = ()


@attrs.define(eq=False)
class Ack:
    """An acknowledgement came, with its arguments."""

    namespace: str
    id: int
    args: list[Raw]
    attachments: tuple[bytes, ...] = ()


Event = Connect | Disconnect | Emit | Ack


# Packets out


def connect_packet(namespace: str, sid: str) -> bytes:
    """Return the answer to a CONNECT that is accepted."""
    return b'0%b{"sid":%b}' % (_prefix(namespace), _json_name(sid))


def connect_error_packet(namespace: str, error: bytes) -> bytes:
    """Return the answer to a CONNECT that is refused; *error* is ``{"message"[,"data"]}``."""
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
    """What one client says, over all its namespaces.

    ``receive`` raises ``engineio.Malformed`` when the connection must be closed.
    A CONNECT must be answered by ``accept`` or ``refuse``, at once or later.
    """

    __slots__ = ("_asked", "_binaries", "_head", "joined")

    def __init__(self) -> None:
        self.joined: set[str] = set()
        self._asked: set[str] = set()
        self._head: _Head | None = None
        self._binaries: list[bytes] = []

    def receive(self, data: bytes, binary: bool) -> Event | None:
        """Take a message; return the event it completes, or None."""
        if binary:
            return self._attach(data)
        if self._head is not None:
            raise Malformed("text while attachments are due")
        if data[:2] == b"2[" and "/" in self.joined:
            # The short way, for nearly all: an event of the root namespace with one argument.
            try:
                name, argument = _plain_event(data[1:])
            except ERRORS:
                return self._event("/", None, data[1:], ())
            if name not in RESERVED:
                return Emit("/", name, [argument])
        return self._packet(_head(data))

    def accept(self, namespace: str, sid: str) -> bytes:
        """Let the client into *namespace*; return the packet that says so."""
        self._asked.discard(namespace)
        self.joined.add(namespace)
        return connect_packet(namespace, sid)

    def refuse(self, namespace: str, error: bytes) -> bytes:
        """Keep the client out of *namespace*; return the packet that says so."""
        self._asked.discard(namespace)
        return connect_error_packet(namespace, error)

    def _packet(self, head: _Head) -> Event | None:
        namespace = head.namespace
        if head.kind == CONNECT:
            return self._connect(head)
        if namespace not in self.joined:
            raise Malformed("not connected to that namespace")
        if head.attachments:
            self._head = head
            return None
        if head.kind == DISCONNECT:
            if head.rest:
                raise Malformed("a payload of DISCONNECT")
            self.joined.discard(namespace)
            return Disconnect(namespace)
        return self._whole(head, ())

    def _connect(self, head: _Head) -> Connect:
        namespace = head.namespace
        if namespace in self.joined or namespace in self._asked:
            raise Malformed("connected already")
        if head.rest:
            _decoded(_object, head.rest)
        self._asked.add(namespace)
        return Connect(namespace, head.rest)

    def _attach(self, data: bytes) -> Event | None:
        head = self._head
        if head is None:
            raise Malformed("binary without a header")
        self._binaries.append(data)
        if len(self._binaries) < head.attachments:
            return None
        attachments, self._binaries, self._head = tuple(self._binaries), [], None
        _check_placeholders(head.rest, len(attachments))
        if head.namespace not in self.joined:
            return None
        return self._whole(head, attachments)

    def _whole(self, head: _Head, attachments: tuple[bytes, ...]) -> Event:
        if head.kind in (EVENT, BINARY_EVENT):
            return self._event(head.namespace, head.id, head.rest, attachments)
        if head.id is None:
            raise Malformed("an acknowledgement of nothing")
        return Ack(head.namespace, head.id, _decoded(_items, head.rest), attachments)

    def _event(self, namespace: str, id: int | None, rest: bytes, attachments: tuple[bytes, ...]) -> Emit:
        items: list[Raw] = _decoded(_items, rest)
        if not items:
            raise Malformed("an event without a name")
        return Emit(namespace, _event_name(items.pop(0)), items, id, attachments)


def _head(data: bytes) -> _Head:
    match = HEAD.match(data)
    if match is None:
        raise Malformed("unknown type")
    kind = int(match[1])
    attachments = 0
    if match[2] is not None:
        attachments = int(match[2])
    if (match[2] is not None) != (kind in (BINARY_EVENT, BINARY_ACK)) or attachments > MAX_ATTACHMENTS:
        raise Malformed("attachments")
    if kind == CONNECT_ERROR or (match[4] and kind in (CONNECT, DISCONNECT)):
        raise Malformed("unexpected packet")
    namespace = match[3].decode() if match[3] else "/"
    if len(namespace) > MAX_NAMESPACE:
        raise Malformed("namespace too long")
    return _Head(kind, namespace, int(match[4]) if match[4] else None, data[match.end() :], attachments)


def _event_name(text: Raw) -> str:
    try:
        name = decode(_name, text)
    except NotExact:
        if not bytes(text).startswith(b'"'):
            raise Malformed("the name of an event") from None
        return ""  # half a character in it: that is legal, and the name of nothing
    if name in RESERVED:
        raise Malformed("a reserved event")
    return str(name)


def _check_placeholders(text: bytes, attachments: int) -> None:
    """Raise Malformed when *text* refers to an attachment that is not there."""
    try:
        waiting = [json.loads(text)]
    except (ValueError, RecursionError):
        raise Malformed("payload") from None
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            if value.get("_placeholder") is True:
                number = value.get("num")
                if type(number) is not int or not 0 <= number < attachments:
                    raise Malformed("illegal attachments")
            else:
                waiting += value.values()


def _decoded(decoder: msgspec.json.Decoder[T], text: bytes) -> T:
    try:
        return decode(decoder, text)
    except NotExact as error:
        raise Malformed(f"payload: {error}") from None
