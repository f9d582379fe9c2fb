"""One connection: what each operation does.

Operations are begun in the order in which they came, and the store keeps that
order; answers go out as they are ready.  A RANGE reads in several steps, so that
what comes behind it waits for its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.errors import BrokerError, Denied, Invalid, RateLimited
from broker.interfaces import ILink, IPeer
from broker.messages import CloseCode, Event, Frame
from broker.sessions import BaseSession
from protocols.hpkv import answers
from protocols.hpkv.operation import Operation, check_key, end_key, number_value, read, record_limit, text_value
from protocols.hpkv.patterns import Rights

log = Logger()

RANGE = 5  # the operation that reads in several steps
BACKLOG = 1 << 20  # bytes of frames that may wait for a RANGE to end
FRAME = 64  # bytes that each of them costs besides its own


@attrs.define(eq=False)
class Session(BaseSession):
    """One HPKV client; *rights* are None for one with an API key, which may do everything."""

    _peer: IPeer
    _link: ILink
    _rights: Rights | None = None
    _reading: bool = False
    _pumping: bool = False
    _beginning: bool = False
    _held: list[Frame] = attrs.field(factory=list)
    _backlog: deque[bytes] = attrs.field(factory=deque)
    _backlog_bytes: int = 0

    def watch(self) -> None:
        """Watch the keys of the token."""
        rights = self._rights
        if rights is not None and (rights.names or rights.predicate):
            self._peer.watch(rights.predicate, rights.names)

    # What the transport calls

    def received(self, data: bytes, binary: bool) -> None:
        """Take one frame."""
        if binary:
            self._link.close(CloseCode.UNSUPPORTED_DATA, "text frames only")
        elif not self._reading:
            self._take(data)
        elif self._backlog_bytes + len(data) + FRAME > BACKLOG and self._backlog:
            operation = read(data)
            self._fail(RateLimited("limit", "backlog"), operation.id if operation else b"")
        else:
            self._backlog.append(data)
            self._backlog_bytes += len(data) + FRAME

    def closed(self, code: int, reason: str) -> None:
        """Forget what waits."""
        self._backlog.clear()
        self._backlog_bytes = 0

    # What the core calls

    def event(self, event: Event, pattern: str) -> None:
        """Tell of the change of a key."""
        frame = event.render(answers.notification)
        if self._beginning:
            # A store that writes at once: "the writer's answer goes out before its own notification".
            self._held.append(frame)
        else:
            self._link.send_frame(frame)

    async def probe(self) -> bool:
        """Say nothing of the client: it holds no name that could be taken over."""
        return False

    # Operations

    def _take(self, data: bytes) -> None:
        operation = read(data)
        if operation is None:
            self._fail(Invalid("frame", message="Invalid message"), b"")
            return
        try:
            # "Check order: parse → rate → op → key → access → value → existence."
            self._peer.pace()
            begin = OPERATIONS.get(operation.op)
            if begin is None:
                raise Invalid("op", message="Invalid operation")
            check_key(operation.key)
            self._beginning = True
            begin(self, operation)
        except BrokerError as error:
            self._fail(error, operation.id)
        self._beginning = False
        if self._held:
            held, self._held = self._held, []
            for frame in held:
                self._link.send_frame(frame)

    def _answer(self, doing: Deferred[Any], operation: Operation, build: Callable[[Any, Operation], bytes]) -> None:
        """Send what *build* makes of the result of *doing*, once there is one."""
        doing.addCallbacks(self._done, self._failed, (operation, build), errbackArgs=(operation,))

    def _done(self, result: Any, operation: Operation, build: Callable[[Any, Operation], bytes]) -> None:
        try:
            self._link.send(build(result, operation))
        except BrokerError as error:
            self._fail(error, operation.id)
        except Exception:
            self._peer.fail("an answer")
        if operation.op == RANGE:
            self._read_on()

    def _failed(self, failure: Failure, operation: Operation) -> None:
        if isinstance(failure.value, BrokerError):
            self._fail(failure.value, operation.id)
        else:
            log.failure("hpkv session {conn} failed", failure, conn=self._peer.id)
            self._link.close(CloseCode.INTERNAL_ERROR, "internal error")
        if operation.op == RANGE:
            self._read_on()

    def _fail(self, error: BrokerError, id: bytes) -> None:
        self._link.send(answers.error(error, id))

    def _read_on(self) -> None:
        """Take what came while a RANGE was being read."""
        self._reading = False
        if self._pumping:
            return
        self._pumping = True
        while self._backlog and not self._reading:
            data = self._backlog.popleft()
            self._backlog_bytes -= len(data) + FRAME
            self._take(data)
        self._pumping = False

    def _get(self, operation: Operation) -> None:
        self._admit(operation.key)
        self._answer(self._peer.get(operation.key), operation, answers.value)

    def _set(self, operation: Operation) -> None:
        self._admit(operation.key)
        self._answer(self._peer.set(operation.key, text_value(operation)), operation, answers.written)

    def _patch(self, operation: Operation) -> None:
        self._admit(operation.key)
        self._answer(self._peer.patch(operation.key, text_value(operation)), operation, answers.written)

    def _delete(self, operation: Operation) -> None:
        self._admit(operation.key)
        self._answer(self._peer.delete(operation.key), operation, answers.deleted)

    def _atomic(self, operation: Operation) -> None:
        self._admit(operation.key)
        increased = self._peer.increment(operation.key, number_value(operation))
        self._answer(increased.addErrback(_not_numeric), operation, answers.counted)

    def _range(self, operation: Operation) -> None:
        # "The bounds themselves need not match the pattern."
        last, limit = end_key(operation), record_limit(operation)
        predicate = None if self._rights is None else self._rights.may
        reading = self._peer.range(operation.key, last, limit + 1, predicate=predicate, max_bytes=answers.ANSWER_BYTES)
        self._reading = True
        self._answer(Deferred.fromCoroutine(reading), operation, answers.records)

    def _admit(self, key: str) -> None:
        if self._rights is not None and not self._rights.may(key):
            raise Denied("key", key)


Begin = Callable[[Session, Operation], None]
OPERATIONS: Mapping[int, Begin] = {
    1: Session._get,
    2: Session._set,
    3: Session._patch,
    4: Session._delete,
    RANGE: Session._range,
    6: Session._atomic,
}


def _not_numeric(failure: Failure) -> Failure:
    if failure.check(Invalid):
        return Failure(Invalid("value", message="Value is not numeric"))
    return failure
