"""What an application waits for: it ends once, with a result or an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import attrs

from broker.client.errors import ClientError
from broker.client.timers import Timer

T = TypeVar("T")


@attrs.define(eq=False)
class Outcome(Generic[T]):
    """Something that will end; a driver makes a Deferred or a Future of it.

    Attributes:
        ended: whether it has.
        cancelled: is called when the application does not want it any more.
    """

    ended: bool = attrs.field(default=False, init=False)
    cancelled: Callable[[], object] | None = attrs.field(default=None, init=False)
    _listeners: list[tuple[Callable[[T], object], Callable[[ClientError], object]]] = attrs.field(
        factory=list, init=False
    )
    _result: T | None = attrs.field(default=None, init=False)
    _error: ClientError | None = attrs.field(default=None, init=False)

    def listen(self, on_result: Callable[[T], object], on_error: Callable[[ClientError], object]) -> None:
        """Call one of the two when it ends, or now if it has."""
        if not self.ended:
            self._listeners.append((on_result, on_error))
        elif self._error is not None:
            on_error(self._error)
        else:
            on_result(self._result)  # type: ignore[arg-type]  # a T, unless there is an error

    def succeed(self, result: T) -> None:
        """End with *result*; a no-op when it has ended."""
        if not self.ended:
            self.ended, self._result = True, result
            listeners, self._listeners = self._listeners, []
            for on_result, _ in listeners:
                on_result(result)

    def fail(self, error: ClientError) -> None:
        """End with *error*; a no-op when it has ended."""
        if not self.ended:
            self.ended, self._error = True, error
            listeners, self._listeners = self._listeners, []
            for _, on_error in listeners:
                on_error(error)

    def cancel(self) -> None:
        """End it: nobody wants it any more."""
        if not self.ended and self.cancelled is not None:
            self.cancelled()


@attrs.define(eq=False)
class Operation(Outcome[T]):
    """A call of the broker, or through it.

    Attributes:
        id: of its frame, which stays when it is sent again.
        data: the frame.
        read: makes the result of the payload.
        timeout: seconds from its beginning to its deadline; 0: it has none.
        again: whether it may be sent again after a loss: the broker knows it by a key, or it changes nothing.
        wait: whether it waits for a connection.
        control: whether it is the client's own, which neither waits nor is counted.
        remote: whether another client is to answer it, and would be told that it was cancelled.
        on_late: is called with a result that comes after the deadline.
        sent_at: when it was sent first, or None.
        timer: of the deadline.
    """

    id: str
    data: bytes
    read: Callable[[bytes], T]
    timeout: float
    again: bool = False
    wait: bool = True
    control: bool = False
    remote: bool = False
    on_late: Callable[[T], object] | None = None
    sent_at: float | None = attrs.field(default=None, init=False)
    timer: Timer | None = attrs.field(default=None, init=False)


class EndOfStream(ClientError):
    """There are no more items."""

    code = "END"
