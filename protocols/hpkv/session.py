"""One connection: what each operation does.

Operations are begun in the order in which they came, and the store keeps that
order; answers go out as they are ready.  A RANGE reads in several steps, so that
what comes behind it waits for its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
from msgspec import UNSET, Raw, UnsetType
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.errors import BrokerError, Denied, Invalid, NotFound, RateLimited
from broker.interfaces import ILink, ISession
from broker.jsontext import members
from broker.messages import Entry, Event, Mail, Reply, Request
from protocols.hpkv import answers
from protocols.hpkv.patterns import Rights

if TYPE_CHECKING:
    from broker.peer import Peer

log = Logger()

KEY_BYTES = 1024  # of a key
LIMIT = 100  # records of a RANGE that names no limit
MOST = 1000  # records of any RANGE
BACKLOG = 1 << 20  # bytes of frames that may wait for a RANGE to end


class Operation(msgspec.Struct, gc=False):
    """One frame of the client; what it does not say has its default."""

    op: int = 0
    key: str = ""
    value: Raw = Raw(b"")  # immutable
    endKey: str | UnsetType = UNSET
    limit: int | UnsetType = UNSET
    messageId: Raw = Raw(b"")

    @property
    def id(self) -> bytes:
        """The messageId as the client wrote it."""
        return bytes(self.messageId)


_decode = msgspec.json.Decoder(Operation).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_integer = msgspec.json.Decoder(int).decode


@implementer(ISession)
@attrs.define(eq=False)
class Session:
    """One HPKV client; *rights* are None for one with an API key, which may do everything."""

    _peer: Peer
    _link: ILink
    _rights: Rights | None = None
    _reading: bool = False
    _pumping: bool = False
    _backlog: deque[bytes] = attrs.field(factory=deque)
    _backlog_bytes: int = 0

    # What the transport calls

    def opened(self) -> None:
        """Watch the keys of the token: "Subscriptions exist from the handshake on"."""
        rights = self._rights
        if rights is not None and (rights.names or rights.admits):
            self._peer.watch(rights.admits, rights.names)

    def received(self, data: bytes, binary: bool) -> None:
        """Take one frame."""
        if binary:
            self._link.close(1003, "text frames only")
        elif not self._reading:
            self._take(data)
        elif self._backlog_bytes + len(data) > BACKLOG and self._backlog:
            operation = _read(data)
            self._fail(RateLimited("limit", "backlog"), operation.id if operation else b"")
        else:
            self._backlog.append(data)
            self._backlog_bytes += len(data)

    def closed(self, code: int, reason: str) -> None:
        """Forget what waits."""
        self._backlog.clear()
        self._backlog_bytes = 0

    # What the core calls

    def event(self, event: Event, pattern: str) -> None:
        """Tell of the change of a key."""
        self._link.send_frame(event.render(answers.notification))

    def request(self, request: Request) -> None:
        """Refuse: HPKV has no calls."""
        raise NotFound("method", request.procedure)

    def reply(self, reply: Reply) -> None:
        """Never called: this dialect does not call."""

    def mail(self, mail: Mail) -> bool:
        """Decline: HPKV has no mailboxes."""
        return False

    async def probe(self) -> bool:
        """Say nothing of the client: it holds no name that could be taken over."""
        return False

    # Operations

    def _take(self, data: bytes) -> None:
        operation = _read(data)
        if operation is None:
            self._fail(Invalid("frame", message="Invalid message"), b"")
            return
        try:
            # "Check order: parse → rate → op → key → access → value → existence."
            self._peer.pace()
            begin = OPERATIONS.get(operation.op)
            if begin is None:
                raise Invalid("op", message="Invalid operation")
            _check_key(operation.key)
            answer = begin(self, operation)
        except BrokerError as error:
            self._fail(error, operation.id)
            return
        answer.addCallbacks(self._link.send, self._failed, errbackArgs=(operation,))
        answer.addErrback(self._broken)
        if self._reading:
            answer.addBoth(self._read_on)

    def _read_on(self, _: object) -> None:
        """Take what came while a RANGE was being read."""
        self._reading = False
        if self._pumping:
            return
        self._pumping = True
        while self._backlog and not self._reading:
            data = self._backlog.popleft()
            self._backlog_bytes -= len(data)
            self._take(data)
        self._pumping = False

    def _get(self, operation: Operation) -> Deferred[bytes]:
        self._admit(operation.key)
        return self._peer.get(operation.key).addCallback(_value, operation)

    def _set(self, operation: Operation) -> Deferred[bytes]:
        self._admit(operation.key)
        return self._peer.set(operation.key, _text_value(operation)).addCallback(answers.written, operation.id)

    def _patch(self, operation: Operation) -> Deferred[bytes]:
        self._admit(operation.key)
        return self._peer.patch(operation.key, _text_value(operation)).addCallback(answers.written, operation.id)

    def _delete(self, operation: Operation) -> Deferred[bytes]:
        self._admit(operation.key)
        return self._peer.delete(operation.key).addCallback(_deleted, operation)

    def _atomic(self, operation: Operation) -> Deferred[bytes]:
        self._admit(operation.key)
        increased = self._peer.increment(operation.key, _number_value(operation))
        return increased.addCallbacks(_counted, _not_numeric, callbackArgs=(operation,))

    def _range(self, operation: Operation) -> Deferred[bytes]:
        # "The bounds themselves need not match the pattern."
        if operation.endKey is UNSET:
            raise Invalid("endKey", message="Invalid range")
        limit = LIMIT if operation.limit is UNSET else min(operation.limit, MOST)
        if limit < 1:
            raise Invalid("limit", message="Invalid limit")
        admits = None if self._rights is None else self._rights.may
        reading = self._peer.range(
            operation.key, operation.endKey, limit + 1, admits=admits, enough=answers.ANSWER_BYTES
        )
        self._reading = True
        return Deferred.fromCoroutine(reading).addCallback(answers.records, limit, operation.id)

    def _admit(self, key: str) -> None:
        if self._rights is not None and not self._rights.may(key):
            raise Denied("key", key)

    def _failed(self, failure: Failure, operation: Operation) -> None:
        failure.trap(BrokerError)
        self._fail(failure.value, operation.id)  # type: ignore[arg-type]

    def _fail(self, error: BrokerError, id: bytes) -> None:
        self._link.send(answers.error(error, id))

    def _broken(self, failure: Failure) -> None:
        """Part with the client for a bug of ours."""
        log.failure("hpkv session {conn} failed", failure, conn=self._peer.id)
        self._link.close(1011, "internal error")


Begin = Callable[[Session, Operation], Deferred[bytes]]
OPERATIONS: Mapping[int, Begin] = {
    1: Session._get,
    2: Session._set,
    3: Session._patch,
    4: Session._delete,
    5: Session._range,
    6: Session._atomic,
}


def _read(data: bytes) -> Operation | None:
    """Return the operation of a frame, or None when it is no JSON object.

    Members of a wrong type count as those that are not there.
    """
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        found = members(data, numbers=True)
    except Invalid:
        return None
    return Operation(
        op=_as(_decode_integer, found.get("op"), 0),
        key=_as(_decode_text, found.get("key"), ""),
        value=found.get("value", Raw(b"")),
        endKey=_as(_decode_text, found.get("endKey"), UNSET),
        limit=_as(_decode_integer, found["limit"], 0) if "limit" in found else UNSET,
        messageId=found.get("messageId", Raw(b"")),
    )


def _as(decode: Callable[[Raw], Any], raw: Raw | None, otherwise: Any) -> Any:
    try:
        return otherwise if raw is None else decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return otherwise


def _check_key(key: str) -> None:
    if not key:
        raise Invalid("key", message="Key is required")
    # No character has more than four bytes.
    if len(key) * 4 > KEY_BYTES and len(key.encode()) > KEY_BYTES:
        raise Invalid("key", message="Key too large")


def _text_value(operation: Operation) -> bytes:
    """Return the value of a SET or PATCH, "non-empty strings"."""
    value: str = _as(_decode_text, operation.value, "")
    if not value:
        raise Invalid("value", message="Value is required")
    return value.encode()


def _number_value(operation: Operation) -> bytes:
    """Return the value of an ATOMIC, a number, as the client wrote it."""
    value = bytes(operation.value)
    if not value or value[0] not in b"-0123456789":
        raise Invalid("value", message="Value is not numeric")
    return value


def _value(entry: Entry | None, operation: Operation) -> bytes:
    if entry is None:
        raise NotFound("key", operation.key)
    return answers.value(operation.key, entry, operation.id)


def _deleted(was_there: bool, operation: Operation) -> bytes:
    if not was_there:
        raise NotFound("key", operation.key)
    return answers.deleted(operation.id)


def _counted(entry: Entry, operation: Operation) -> bytes:
    return answers.counted(operation.key, entry, operation.id)


def _not_numeric(failure: Failure) -> Failure:
    if failure.check(Invalid):
        return Failure(Invalid("value", message="Value is not numeric"))
    return failure
