"""Bodies that are asynchronous iterators of bytes, as sources that are paused and stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from broker.core.afterwards import afterwards
from broker.core.slices import Slices

END = object()


class PulledBody:
    """Writes the pieces of an asynchronous iterator; each is asked for when the client has taken those before it.

    However it ends, and also if it has not begun, the iterator is closed by ``aclose``, where it has that.  While
    it waits for something, that is cancelled when the client goes away.

    Args:
        pieces: of the body, as bytes.
        slices: let others have their turn while there is always another piece.
    """

    def __init__(self, pieces: AsyncIterator[bytes], slices: Slices) -> None:
        self._pieces = pieces
        self._slices = slices
        self._coroutines: list[Coroutine[Any, Any, Any]] = []  # the one that writes, and the one it waits for
        self._done: Deferred[None] | None = None  # what the first of them returns
        self._closed: Deferred[None] = Deferred()
        self._room: Deferred[None] | None = None  # while the client has to read first
        self._paused = self._stopped = False

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """Write all pieces to *consumer*; fire when that is done, and the iterator is closed."""
        self._coroutines = [self._write_all(consumer)]
        self._done = Deferred.fromCoroutine(self._coroutines[0])
        return self._done

    def pauseProducing(self) -> None:
        """Ask for no piece for now."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Go on."""
        self._paused = False
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    def stopProducing(self) -> Deferred[None]:
        """Close the iterator; fire when that is done."""
        self._stopped = True
        if not self._coroutines:
            return Deferred.fromCoroutine(close(self._pieces))
        self._cancel()
        return self._closed

    def _cancel(self) -> None:
        """Cancel what is awaited, when it is: code that runs now can not be cancelled."""
        if self._closed.called:
            return
        if self._done is None or any(coroutine.cr_running for coroutine in self._coroutines):  # type: ignore[attr-defined]
            self._slices.add(self._cancel)
        else:
            self._done.cancel()

    async def _write_all(self, consumer: Any) -> None:
        try:
            await afterwards(self._write_pieces(consumer), partial(close, self._pieces))
        finally:
            self._closed.callback(None)

    async def _write_pieces(self, consumer: Any) -> None:
        try:
            end = self._slices.deadline()
            while not self._stopped:
                asking = self._next()
                self._coroutines[1:] = [asking]
                asked = Deferred.fromCoroutine(asking)
                waits = not asked.called
                piece = await asked
                if piece is END or self._stopped:
                    break
                consumer.write(piece)
                del piece, asked  # which has it, too: the consumer keeps it, as long as it must
                if self._paused:
                    self._room = Deferred()
                    await self._room
                    waits = True
                end = self._slices.deadline() if waits else await self._slices.checked(end)
        except CancelledError as error:
            self._end(error)

    async def _next(self) -> Any:
        """Return the next piece, or ``END``."""
        try:
            return await self._pieces.__anext__()
        except StopAsyncIteration:
            return END
        except CancelledError as error:
            self._end(error)
            return END

    def _end(self, error: CancelledError) -> None:
        """End well if *error* comes of ``stopProducing``, else raise it."""
        if not self._stopped:
            raise error
        # By its traceback, what it has passed would wait for the garbage collector: the iterator, the connection.
        error.__traceback__ = None


async def close(pieces: AsyncIterator[bytes]) -> None:
    """Close *pieces*, if that is of a kind that can be closed."""
    aclose = getattr(pieces, "aclose", None)
    if aclose is not None:
        await aclose()
