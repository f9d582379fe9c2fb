"""One connection: what each operation does.

Operations are begun in the order in which they came, and the store keeps that
order; answers go out as they are ready.  A RANGE reads in several steps, so that
the frames behind it wait for its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.access.lifetimes import HAS_EXPIRED, WAS_WITHDRAWN
from broker.errors import BrokerError, Invalid, RateLimited
from broker.interfaces import IPeer
from broker.messages import CloseCode, Event
from broker.patterns import KEY_PREFIX
from broker.sessions import OrderedSession
from protocols.hpkv import frames
from protocols.hpkv.frames import Operation, check_key, end_key, number_value, read, record_limit, text_value
from protocols.hpkv.patterns import Rights

log = Logger()

LONG = 4096  # bytes of a frame that is not kept until its answer goes out

# "4001 token expired …; 4003 token revoked": of keys, too, which may be JSON web tokens.
CODES = {HAS_EXPIRED: CloseCode.TOKEN_EXPIRED, WAS_WITHDRAWN: CloseCode.TOKEN_REVOKED}


@attrs.define(eq=False)
class Session(OrderedSession):
    """One HPKV client.

    A frame may be longer than *max_frame_bytes* by its value, which has a limit of
    its own and is refused by itself; any other ends the connection with 1009.
    *rights* are None for a client with an API key, which may do everything.
    """

    holds_events = False  # a RANGE may be long, and what is notified meanwhile is no answer to it

    _peer: IPeer
    _max_frame_bytes: int
    _rights: Rights | None = None

    def begin(self) -> None:
        """Watch the keys of the token; the memory that its patterns need is counted from now on."""
        rights = self._rights
        if rights is None:
            return
        for program in rights.programs:
            program.join(self._peer)
        if rights.names or rights.predicate:
            self._peer.watch(rights.predicate, rights.names)

    # What the core calls

    def disconnect(self, code: int, reason: str) -> None:
        """Close the connection because the broker says so, with the code that this dialect has for it."""
        OrderedSession.disconnect(self, CODES.get((code, reason), code), reason)

    def event(self, event: Event, pattern: str) -> None:
        """Notify the client of the change of a key."""
        frame = event.render(frames.notification)
        if self.holding:
            # A store that writes at once: "the writer's answer goes out before its own notification".
            self.hold(event.topic, frame)
        else:
            self._link.send_frame(frame)

    def ended(self) -> None:
        """Let go of the patterns of the token."""
        for program in self._rights.programs if self._rights is not None else ():
            program.leave(self._peer)

    async def probe(self) -> bool:
        """Say no: the client holds no name that could be taken over."""
        return False

    # Operations

    def frame(self, data: bytes, binary: bool) -> Deferred[Any] | None:
        """Begin the operation of a frame; one that reads in several steps returns a Deferred."""
        if binary:
            self._link.close(CloseCode.UNSUPPORTED_DATA, "text frames only")
            return None
        operation = read(data)
        try:
            # "Check order: parse → rate → op → key → access → value → existence."
            self._peer.pace()
        except BrokerError as error:
            self._refuse(error, operation.id if operation is not None else b"")
            return None
        if len(data) > self._max_frame_bytes and not self._is_long_by_value(data, operation):
            self._link.close(CloseCode.MESSAGE_TOO_BIG, "message too big")
            return None
        if operation is None:
            self._refuse(Invalid("frame", message="Invalid message"), b"")
            return None
        try:
            begin = OPERATIONS.get(operation.op)
            if begin is None:
                raise Invalid("op", message="Invalid operation")
            check_key(operation.key)
            doing = begin(self, operation)
            if len(data) > LONG:
                operation.forget_value()
            return doing
        except BrokerError as error:
            self._refuse(error, operation.id)
            return None

    def _is_long_by_value(self, data: bytes, operation: Operation | None) -> bool:
        return operation is not None and len(data) - len(bytes(operation.value)) <= self._max_frame_bytes

    def overrun(self, data: bytes, binary: bool) -> None:
        """Refuse a frame because too much waits for a RANGE to end."""
        self._peer.ignore()
        operation = None if binary else read(data)
        self._refuse(RateLimited("limit", "backlog"), operation.id if operation else b"")

    def _answer(self, doing: Deferred[Any], operation: Operation, build: Callable[[Any, Operation], bytes]) -> None:
        """Send what *build* makes of the result of *doing*, once there is one."""
        doing.addCallbacks(self._done, self._failed, (operation, build), errbackArgs=(operation,))

    def _done(self, result: Any, operation: Operation, build: Callable[[Any, Operation], bytes]) -> None:
        try:
            self._link.send(build(result, operation))
        except BrokerError as error:
            self._refuse(error, operation.id)
        except Exception:
            self._peer.fail("an answer")

    def _failed(self, failure: Failure, operation: Operation) -> None:
        if isinstance(failure.value, BrokerError):
            self._refuse(failure.value, operation.id)
        else:
            log.failure("hpkv session {conn} failed", failure, conn=self._peer.id)
            self._link.close(CloseCode.INTERNAL_ERROR, "internal error")

    def _refuse(self, error: BrokerError, id: bytes) -> None:
        self._link.send(frames.error(error, id))

    def _get(self, operation: Operation) -> None:
        self._check_access("read", operation.key)
        self._answer(self._peer.get(operation.key), operation, frames.value)

    def _set(self, operation: Operation) -> None:
        self._check_access("write", operation.key)
        self._answer(self._peer.set(operation.key, text_value(operation)), operation, frames.written)

    def _patch(self, operation: Operation) -> None:
        self._check_access("write", operation.key)
        self._answer(self._peer.patch(operation.key, text_value(operation)), operation, frames.written)

    def _delete(self, operation: Operation) -> None:
        self._check_access("write", operation.key)
        self._answer(self._peer.delete(operation.key), operation, frames.deleted)

    def _atomic(self, operation: Operation) -> None:
        self._check_access("write", operation.key)
        increased = self._peer.increment(operation.key, number_value(operation))
        self._answer(increased.addErrback(_not_numeric), operation, frames.counted)

    def _range(self, operation: Operation) -> Deferred[Any]:
        # "The bounds themselves need not match the pattern."
        last, limit = end_key(operation), record_limit(operation)
        predicate = None if self._rights is None else self._rights.may
        reading = self._peer.range(
            operation.key, last, limit + 1, predicate=predicate, max_bytes=frames.MAX_ANSWER_BYTES
        )
        doing = Deferred.fromCoroutine(reading)
        self._answer(doing, operation, frames.records)
        return doing

    def _check_access(self, verb: str, key: str) -> None:
        if self._rights is not None and not self._rights.may(key):
            raise self._peer.deny(verb, KEY_PREFIX + key, "")


Begin = Callable[[Session, Operation], Deferred[Any] | None]
OPERATIONS: Mapping[int, Begin] = {
    1: Session._get,
    2: Session._set,
    3: Session._patch,
    4: Session._delete,
    5: Session._range,
    6: Session._atomic,
}


def _not_numeric(failure: Failure) -> Failure:
    if failure.check(Invalid):
        return Failure(Invalid("value", message="Value is not numeric"))
    return failure
