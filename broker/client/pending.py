"""What was asked and has not ended: every operation ends once, with a result or an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from broker.client import wire
from broker.client.context import Context
from broker.client.errors import (
    Cancelled,
    ClientError,
    NotConnected,
    RateLimited,
    Timeout,
    TooLarge,
    error_of,
    is_rate,
)
from broker.client.notices import Notice
from broker.client.outbox import Outbox
from broker.client.outcomes import Operation
from broker.client.throttle import Throttle
from broker.client.timers import Timer
from broker.client.wire import Frame

T = TypeVar("T")


def _raw(payload: bytes) -> bytes:
    return payload


@attrs.define(eq=False)
class Pending:
    """The operations of one client: those that wait to be sent, and those that wait for their answers."""

    context: Context
    throttle: Throttle = attrs.field(init=False)
    outbox: Outbox = attrs.field(init=False)
    _sent: dict[str, Operation[Any]] = attrs.field(factory=dict, init=False)
    _controls: dict[str, Operation[bytes]] = attrs.field(factory=dict, init=False)
    _late: dict[str, Operation[Any]] = attrs.field(factory=dict, init=False)
    _number: int = attrs.field(default=0, init=False)
    _flush_timer: Timer | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        options = self.context.options
        self.throttle = Throttle(options.rate, self.context.clock())
        self.outbox = Outbox(options.max_buffered, options.max_buffered_bytes)

    def __len__(self) -> int:
        return len(self._sent) + len(self.outbox)

    def new_id(self) -> str:
        """Return an id that no other frame of this client has."""
        self._number += 1
        return str(self._number)

    def ask(
        self,
        method: str,
        arguments: list[object],
        read: Callable[[bytes], T],
        *,
        again: bool = False,
        timeout: float | None = None,
        wait: bool | None = None,
        recipient: str = "",
        on_late: Callable[[T], object] | None = None,
    ) -> Operation[T]:
        """See ``Context.ask``."""
        options = self.context.options
        seconds = options.timeout if timeout is None else timeout
        told = seconds + options.late_window if on_late is not None and seconds else seconds
        id = self.new_id()
        data = wire.call(id, method, wire.arguments(arguments), told, recipient)
        waits = options.wait if wait is None else wait
        remote = not method.startswith("broker.")
        operation = Operation(id, data, read, seconds, again, waits, remote=remote, on_late=on_late)
        self.submit(operation)
        return operation

    def submit(self, operation: Operation[Any]) -> None:
        """Send *operation* as soon as that can be done."""
        context = self.context
        context.counts.started += 1
        operation.listen(self._count_success, self._count_failure)
        operation.cancelled = lambda: self._cancel(operation)
        if context.end is not None:
            operation.fail(context.end)
        elif len(operation.data) > context.options.max_message_bytes:
            operation.fail(TooLarge(f"{len(operation.data)} bytes"))
        elif context.is_ready and not len(self.outbox) and self.throttle.acquire(context.clock()):
            self._set_deadline(operation)
            self._send(operation)
        elif context.is_ready or operation.wait:
            self._buffer(operation)
        else:
            operation.fail(NotConnected())

    def control(self, method: str, arguments: bytes) -> Operation[bytes]:
        """See ``Context.control``."""
        id, seconds = self.new_id(), self.context.options.timeout
        data = wire.call(id, method, arguments, seconds)
        operation: Operation[bytes] = Operation(id, data, _raw, seconds, control=True)
        if self.context.is_open:
            self._controls[id] = operation
            self._set_deadline(operation)
            self.context.send(data)
        else:
            operation.fail(NotConnected())
        return operation

    def set_rate(self, limit: float | None) -> None:
        """Let so many operations pass in a second at most; None: as many as the broker lets."""
        self.throttle.limit = limit
        self.flush()

    def flush(self) -> None:
        """Send what waits, as fast as that may be done."""
        self._stop_flush()
        while self.context.is_ready and (operation := self.outbox.first()) is not None:
            if not self.throttle.acquire(self.context.clock()):
                self._schedule_flush()
                return
            self.outbox.remove(operation)
            self._send(operation)

    def on_answer(self, frame: Frame) -> None:
        """End the operation that *frame* answers."""
        id, error = str(frame.id), None
        if frame.type == "error":
            error = error_of(str(wire.value_of(frame.payload or b'""')), frame.retry_after)
        operation = self._controls.pop(id, None) or self._sent.pop(id, None)
        if operation is None:
            self._on_late(id, frame, error)
        elif isinstance(error, RateLimited) and is_rate(error) and self._slow_down(operation, error):
            return
        else:
            self._end_timer(operation)
            self._finish(operation, frame.payload, error)

    def lost(self, error: ClientError) -> None:
        """Keep what may be sent again, and end the rest with *error*: the connection was lost."""
        self._stop_flush()
        sent, self._sent = self._sent, {}
        controls, self._controls = self._controls, {}
        oldest = self.context.clock() - self.context.options.resend_window
        again = {id: each for id, each in sent.items() if each.again and (each.sent_at or 0.0) >= oldest}
        self.outbox.put_back(again.values())
        for operation in (*sent.values(), *controls.values()):
            if operation.id not in again:
                self._end_timer(operation)
                operation.fail(error)

    def give_up_largest(self, reason: str) -> None:
        """End the largest of what was sent: it is what was too big, and would be again and again."""
        largest = max(self._sent.values(), key=lambda each: len(each.data), default=None)
        if largest is not None:
            del self._sent[largest.id]
            self._end_timer(largest)
            largest.fail(TooLarge(reason))

    def end(self, error: ClientError) -> None:
        """End everything with *error*."""
        self._stop_flush()
        operations = (*self._sent.values(), *self._controls.values(), *self.outbox)
        for late in self._late.values():
            self._end_timer(late)
        self._sent, self._controls, self._late = {}, {}, {}
        for operation in operations:
            self.outbox.remove(operation)
            self._end_timer(operation)
        for operation in operations:
            operation.fail(error)

    # One operation.

    def _buffer(self, operation: Operation[Any]) -> None:
        try:
            self.outbox.add(operation)
        except ClientError as error:
            operation.fail(error)
        else:
            self._set_deadline(operation)
            self._schedule_flush()

    def _send(self, operation: Operation[Any]) -> None:
        if operation.sent_at is None:
            operation.sent_at = self.context.clock()
        else:
            self.context.counts.resent += 1
        self._sent[operation.id] = operation
        self.context.send(operation.data)

    def _finish(self, operation: Operation[Any], payload: bytes, error: ClientError | None) -> None:
        if error is not None:
            operation.fail(error)
            return
        try:
            result = operation.read(payload or b"null")
        except Exception as problem:
            operation.fail(ClientError(f"an answer can not be read: {problem}"))
        else:
            operation.succeed(result)

    def _slow_down(self, operation: Operation[Any], error: RateLimited) -> bool:
        """Ask less often; say whether *operation*, of which nothing was done, is sent once more."""
        context = self.context
        context.counts.rate_limited += 1
        self.throttle.refused(context.clock(), error.retry_after)
        context.notify(Notice("rate-limited", error.message, delay=error.retry_after, error=error))
        if operation.control or not (operation.again and operation.wait):
            return False
        operation.sent_at = None
        self.outbox.put_back([operation])
        self._schedule_flush()
        return True

    def _on_late(self, id: str, frame: Frame, error: ClientError | None) -> None:
        late = self._late.pop(id, None)
        if late is not None:
            self._end_timer(late)
            self.context.counts.late += 1
            if error is None and late.on_late is not None:
                late.on_late(late.read(frame.payload or b"null"))

    def _set_deadline(self, operation: Operation[Any]) -> None:
        if operation.timeout and operation.timer is None:
            operation.timer = self.context.timers.after(operation.timeout, lambda: self._time_out(operation))

    def _end_timer(self, operation: Operation[Any]) -> None:
        self.context.timers.cancel(operation.timer)
        operation.timer = None

    def _time_out(self, operation: Operation[Any]) -> None:
        operation.timer = None
        self._controls.pop(operation.id, None)
        self.outbox.remove(operation)
        if self._sent.pop(operation.id, None) is not None and operation.on_late is not None:
            window = self.context.options.late_window
            self._late[operation.id] = operation
            operation.timer = self.context.timers.after(window, lambda: self._late.pop(operation.id, None))
        operation.fail(Timeout())

    def _cancel(self, operation: Operation[Any]) -> None:
        """End it, and tell the broker."""
        self._end_timer(operation)
        self.outbox.remove(operation)
        if self._sent.pop(operation.id, None) is not None and operation.remote and self.context.is_ready:
            self.control("broker.cancel", wire.arguments([operation.id]))
        operation.fail(Cancelled())

    def _count_success(self, _: object) -> None:
        self.context.counts.succeeded += 1

    def _count_failure(self, error: ClientError) -> None:
        counts = self.context.counts
        if isinstance(error, Timeout):
            counts.timed_out += 1
        elif isinstance(error, Cancelled):
            counts.cancelled += 1
        else:
            counts.failed += 1

    # The outbox.

    def _schedule_flush(self) -> None:
        context = self.context
        if context.is_ready and self._flush_timer is None:
            self._flush_timer = context.timers.at(self.throttle.next(context.clock()), self.flush)

    def _stop_flush(self) -> None:
        self.context.timers.cancel(self._flush_timer)
        self._flush_timer = None
