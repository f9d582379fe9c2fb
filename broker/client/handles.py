"""What an application holds: items that come, and jobs; the same for all drivers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from broker.client.consumers import Delivery
from broker.client.errors import ClientError
from broker.client.outcomes import EndOfStream, Outcome
from broker.client.streams import Stream
from broker.client.values import Notice

S = TypeVar("S")
T = TypeVar("T")


class Wait(Protocol):
    """Makes something of a driver's library that can be awaited."""

    def __call__(self, outcome: Outcome[T], /) -> Awaitable[T]:
        """Return what ends as *outcome* does; to cancel it cancels that."""


class Items(Generic[T]):
    """An async iterator; it ends with ``close``, or with the error for which nothing more can come.

    One that was asked for an item and cancelled has lost none.
    """

    def __init__(self, wait: Wait, stream: Stream[S], make: Callable[[S], T], close: Callable[[], object]) -> None:
        """Give what *make* makes of the items of *stream*."""
        self._wait = wait
        self._stream: Stream[Any] = stream
        self._make: Callable[[Any], T] = make
        self._close = close

    def __aiter__(self) -> Items[T]:
        return self

    async def __anext__(self) -> T:
        while True:
            try:
                await self._wait(self._stream.available())
                item = self._stream.pop()
            except EndOfStream:
                raise StopAsyncIteration from None
            except IndexError:
                continue  # another one was faster
            return self._make(item)

    def __len__(self) -> int:
        """How many have come and were not asked for."""
        return len(self._stream)

    def close(self) -> None:
        """Have no more of them."""
        self._close()

    async def __aenter__(self) -> Items[T]:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class Job:
    """A job of a work queue, or a message of the mailbox.

    In ``async with`` it is done when the block returns; when that raises, the job has failed, with the exception
    as the reason, which ends there.  Its lease is extended until then.

    Attributes:
        payload: decoded.
        queue: its name.
        id: of this delivery.
        delivery: 1 for the first.
        ref: the sender's own id, or "".
        sender: the client id of who has added it.
        time: when it was added, in milliseconds since 1970.
    """

    def __init__(self, wait: Wait, notify: Callable[[Notice], object], delivery: Delivery) -> None:
        """Be the job that *delivery* has brought."""
        self._wait, self._notify, self._delivery = wait, notify, delivery
        self.payload: Any = delivery.payload
        self.queue, self.id, self.delivery = delivery.queue, delivery.id, delivery.delivery
        self.ref, self.sender, self.time = delivery.ref, delivery.sender, delivery.time

    def done(self) -> Awaitable[None]:
        """Say that it is done; ``NotFound``: somebody else has got it meanwhile."""
        return self._wait(self._delivery.done())

    def fail(self, reason: str = "", delay: float | None = None) -> Awaitable[None]:
        """Say that it has failed: it comes again, after *delay* seconds if that is given."""
        return self._wait(self._delivery.fail(reason, delay))

    def extend(self, seconds: float) -> Awaitable[None]:
        """Keep it for so many seconds from now on."""
        return self._wait(self._delivery.extend(seconds))

    async def __aenter__(self) -> Job:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._delivery.settled:
            return False
        if error is not None and not isinstance(error, Exception):
            self._delivery.fail("cancelled", 0.0)  # nothing can be awaited any more
            return False
        try:
            if error is None:
                await self.done()
            else:
                self._notify(Notice("job-failed", f"{self.queue} {self.id}", error=error))
                await self.fail(str(error) or type(error).__name__)
        except ClientError as problem:
            self._notify(Notice("job-lost", f"{self.queue} {self.id}", error=problem))
        return True
