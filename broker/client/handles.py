"""What an application holds: items that come, and jobs; the same for all drivers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from broker.client.consumers import Delivery
from broker.client.errors import ClientError
from broker.client.notices import Gap, Notice
from broker.client.outcomes import EndOfStream, Outcome
from broker.client.readers import Reader
from broker.client.streams import Stream
from broker.client.values import Event, Position, Start

S = TypeVar("S")
T = TypeVar("T")


def _same(item: T) -> T:
    return item


class Library(Protocol):
    """What a driver has for what the application holds."""

    def wait(self, outcome: Outcome[T], /) -> Awaitable[T]:
        """Return what ends as *outcome* does; to cancel it cancels that."""

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call *function* soon, where the client lives; from any thread."""

    def notify(self, notice: Notice) -> None:
        """Tell the application."""

    def is_cancelled(self, error: BaseException) -> bool:
        """Whether *error* says that the application itself has cancelled its work."""


class Items(Generic[T]):
    """An async iterator; it ends with ``close``, or with the error for which nothing more can come.

    One that was asked for an item and cancelled has lost none.  One that nobody holds any more is closed.
    """

    def __init__(
        self, library: Library, stream: Stream[S], make: Callable[[S], T], close: Callable[[], object]
    ) -> None:
        """Give what *make* makes of the items of *stream*."""
        self._library = library
        self._stream: Stream[Any] = stream
        self._make: Callable[[Any], T] = make
        self._close = close

    def __aiter__(self) -> Items[T]:
        return self

    async def __anext__(self) -> T:
        while True:
            try:
                await self._library.wait(self._stream.available())
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

    def __del__(self) -> None:
        if not self._stream.ended and self._only_items:
            self._library.call_soon(self._close)

    @property
    def _only_items(self) -> bool:
        """Whether it is for nothing but its items."""
        return True


class EventItems(Items[Event]):
    """The events of a subscription."""

    def __init__(self, library: Library, reader: Reader) -> None:
        """Be those of *reader*."""
        super().__init__(library, reader.stream, _same, reader.close)
        self._reader = reader

    def ready(self) -> Awaitable[Start]:
        """Wait until it is in place for the first time; ends with where it begins."""
        self._reader.ready.listen(self._hold, self._hold)  # so that it is held until then
        return self._library.wait(self._reader.ready)

    def _hold(self, _: object) -> None:
        """Do nothing."""

    @property
    def gaps(self) -> Sequence[Gap]:
        """What could not be had, the latest hundred."""
        return tuple(self._reader.gaps)

    @property
    def position(self) -> Position | None:
        """Where the subscription to a topic is: of the last event that has come."""
        return self._reader.position

    @property
    def _only_items(self) -> bool:
        return self._reader.presence is None  # a member stays one without reading


class Job:
    """A job of a work queue, or a message of the mailbox.

    In ``async with`` it is done when the block returns; when that raises, the job has failed, with the exception
    as the reason, which ends there.  When the block is cancelled, as by the end of the program, the job is released.
    Its lease is extended until then.

    Attributes:
        payload: decoded.
        queue: its name.
        id: of this delivery.
        delivery: 1 for the first.
        ref: the sender's own id, or "".
        sender: the client id of who has added it.
        time: when it was added, in milliseconds since 1970.
    """

    def __init__(self, library: Library, delivery: Delivery) -> None:
        """Be the job that *delivery* has brought."""
        self._library, self._delivery = library, delivery
        self.payload: Any = delivery.payload
        self.queue, self.id, self.delivery = delivery.queue, delivery.id, delivery.delivery
        self.ref, self.sender, self.time = delivery.ref, delivery.sender, delivery.time

    def done(self) -> Awaitable[None]:
        """Say that it is done; ``NotFound``: somebody else has got it meanwhile."""
        return self._library.wait(self._delivery.done())

    def fail(self, reason: str = "", delay: float | None = None) -> Awaitable[None]:
        """Say that it has failed: it comes again, after *delay* seconds if that is given."""
        return self._library.wait(self._delivery.fail(reason, delay))

    def release(self) -> Awaitable[None]:
        """Give it back: it comes again at once, to whoever consumes the queue, and that counts for nothing."""
        return self._library.wait(self._delivery.release())

    def extend(self, seconds: float) -> Awaitable[None]:
        """Keep it for so many seconds from now on."""
        return self._library.wait(self._delivery.extend(seconds))

    async def __aenter__(self) -> Job:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._delivery.settled:
            return False
        if error is not None and self._library.is_cancelled(error):
            self._delivery.release()  # nothing can be awaited any more
            return False
        try:
            if error is None:
                await self.done()
            else:
                self._library.notify(Notice("job-failed", f"{self.queue} {self.id}", error=error))
                await self.fail(str(error) or type(error).__name__)
        except ClientError as problem:
            self._library.notify(Notice("job-lost", f"{self.queue} {self.id}", error=problem))
        return True
