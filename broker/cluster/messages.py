"""The messages between nodes, as bytes (MessagePack arrays).

The answer to a call is the ``Reply`` itself, whose ``ref`` is the id of the call at the caller's node.

During an update, nodes of two versions send each other messages.  What is added at the end of a message, with a
default, does no harm: who does not know it passes over it.  A new kind of message raises ``MESSAGES`` of
``broker.versions``, and is sent only to nodes that understand so many, by ``messages_of``; others get what they know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
from twisted.logger import Logger

from broker import errors
from broker.errors import BrokerError, CalleeFailed
from broker.messages import Reply, Request
from broker.patterns import PROCEDURE

log = Logger()

PLAIN_CALLS = 2  # by ``messages_of``: understands ``PlainCall``


class WireError(msgspec.Struct, array_like=True):
    """A ``BrokerError`` on its way; ``kind`` is the name of its class."""

    kind: str
    code: str
    what: str
    name: str
    message: str
    data: bytes | None

    @classmethod
    def of(cls, error: BrokerError) -> WireError:
        """Return *error* as it travels."""
        message = error.message if isinstance(error, CalleeFailed) else error.explanation
        return cls(type(error).__name__, error.code, error.what, error.name, message, error.data)

    def error(self) -> BrokerError:
        """Return the error again."""
        if self.kind == CalleeFailed.__name__:
            return CalleeFailed(self.code, self.message, self.data)
        kind = getattr(errors, self.kind, BrokerError)
        error: BrokerError = kind(self.what, self.name, message=self.message, data=self.data)
        return error


class Called(msgspec.Struct, tag="call", array_like=True):
    """A call or a streamed request for somebody on the node that gets it.

    Attributes:
        name: under which the callee was found, as the bus knows it.
        request: what is asked, with the id of the call at the caller's node.
        quiet: whether the deadline ends it without a reply.
    """

    name: str
    request: Request
    quiet: bool


class PlainCall(msgspec.Struct, tag="plain", array_like=True, gc=False):
    """A call of a procedure, as most are: what ``Called`` says, without what is as usual.

    The attributes are those of ``Request``.
    """

    id: str
    procedure: str
    body: bytes
    caller: str
    timeout: float
    time: float
    dialect: str

    def called(self) -> Called:
        """Return the same as ``Called``."""
        name = self.procedure
        asked = Request(self.id, name, "", "", self.body, self.caller, "", self.timeout, self.time, False, self.dialect)
        return Called(PROCEDURE + name, asked, False)


class NotHere(msgspec.Struct, tag="elsewhere", array_like=True):
    """The callee of ``Called`` is not here, or not any more."""

    id: str
    wire_error: WireError


class Ended(msgspec.Struct, tag="end", array_like=True):
    """The call of that id has ended at the caller's node.

    Attributes:
        id: of the call there.
        cancelled: whether the caller has cancelled it, so that the callee is told.
    """

    id: str
    cancelled: bool = False


class Paused(msgspec.Struct, tag="pause", array_like=True):
    """Whether the caller of the streamed request of that id, at its node, has too much to read at present."""

    id: str
    paused: bool


class LoadAsked(msgspec.Struct, tag="load?", array_like=True):
    """The question how busy those are who perform *name* on the node that gets this."""

    name: str


class Load(msgspec.Struct, tag="load", array_like=True):
    """How busy the performers of *name* are on the node that sends this.

    Attributes:
        name: of the procedure, as the bus knows it.
        loads: how many calls those have that have the fewest, rising; [] when nobody performs it there.
        matters: whether it depends on that who gets the next call.
    """

    name: str
    loads: list[int]
    matters: bool


class Probe(msgspec.Struct, tag="probe", array_like=True):
    """Does the holder of *name* respond?  If not, it is to be disconnected."""

    id: int
    name: str


class Deliver(msgspec.Struct, tag="deliver", array_like=True):
    """Hand a message to a session that has no mailbox."""

    id: int
    session: str
    ref: str
    body: bytes
    source: str
    time: float


class BoolReply(msgspec.Struct, tag="verdict", array_like=True):
    """The answer to ``Probe`` and ``Deliver``."""

    id: int
    yes: bool


class Drain(msgspec.Struct, tag="drain", array_like=True):
    """Something waits in *queue*, which has consumers on the node that gets this."""

    queue: str


class MemberChanged(msgspec.Struct, tag="member", array_like=True):
    """A session of the node that sends this is present on a topic, or says something else of itself there, or left it.

    Attributes:
        topic: where.
        client: id of the client.
        session: id of the session.
        info: what it says of itself, JSON text or b""; None: it is not present any more.
    """

    topic: str
    client: str
    session: str
    info: bytes | None


class MemberList(msgspec.Struct, tag="members", array_like=True):
    """Some of all sessions of the node that sends this which are present on topics.

    Attributes:
        members: topic, client id, session id, and what it says of itself, of each.
        first: whether there are none before these.
        last: whether there are none after these.
    """

    members: list[tuple[str, str, str, bytes]]
    first: bool
    last: bool


class MembersAsked(msgspec.Struct, tag="members?", array_like=True):
    """The question for all sessions of the node that gets this which are present on topics."""


class OperatorAsked(msgspec.Struct, tag="operator?", array_like=True):
    """What an operator asks of the node that gets this, by the admin API of the node that sends it.

    Attributes:
        id: of the question, at the node that sends it.
        method: of HTTP.
        name: of a list or an action.
        query: of the URL.
        body: of the request.
    """

    id: int
    method: str
    name: str
    query: str
    body: bytes


class OperatorReply(msgspec.Struct, tag="operator", array_like=True):
    """The answer to ``OperatorAsked``.

    Attributes:
        id: of the question.
        status: of HTTP.
        body: JSON text.
    """

    id: int
    status: int
    body: bytes


Message: TypeAlias = (
    Called
    | PlainCall
    | Reply
    | NotHere
    | Ended
    | Paused
    | LoadAsked
    | Load
    | Probe
    | Deliver
    | BoolReply
    | Drain
    | MemberChanged
    | MemberList
    | MembersAsked
    | OperatorAsked
    | OperatorReply
)


def _wire_error(error: BrokerError) -> WireError:
    return WireError.of(error)


def _error(_: type[BrokerError], fields: list[Any]) -> BrokerError:
    return msgspec.convert(fields, WireError).error()


encode = msgspec.msgpack.Encoder(enc_hook=_wire_error).encode
decode: Callable[[msgspec.Raw | bytes], Message] = msgspec.msgpack.Decoder(Message, dec_hook=_error).decode
ENCODED_AS_NOTHING = msgspec.Raw(b"\xc0")  # nil: no message
_decode_all = msgspec.msgpack.Decoder(list[Message], dec_hook=_error).decode
_divide = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


def encode_all(messages: list[Any]) -> bytes:
    """Return the array of *messages*; those that were encoded before are ``msgspec.Raw``."""
    try:
        return encode(messages)
    except Exception:  # one of them can not be encoded, for which the others must not be lost
        return encode([_encoded(message) for message in messages])


def _encoded(message: Any) -> msgspec.Raw:
    try:
        return msgspec.Raw(encode(message))
    except Exception:
        log.failure("a message to another node can not be encoded")
        return ENCODED_AS_NOTHING


def decode_all(messages: msgspec.Raw) -> list[Message | msgspec.DecodeError]:
    """Return the messages of an array; an error in the place of each that can not be understood.

    Raises:
        msgspec.DecodeError: it is no array.
    """
    try:
        return _decode_all(messages)  # type: ignore[return-value]
    except msgspec.DecodeError:
        return [_decoded(message) for message in _divide(messages)]


def _decoded(message: msgspec.Raw) -> Message | msgspec.DecodeError:
    try:
        return decode(message)
    except msgspec.DecodeError as error:
        return error
