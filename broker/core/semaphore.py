"""A semaphore: so much of some work at once; what is more waits, up to a limit."""

from __future__ import annotations

from math import inf
from types import TracebackType

from twisted.internet.defer import Deferred, succeed

from broker.core.slices import Slices
from broker.errors import RateLimited


class Semaphore:
    """Lets some work begin and the rest wait, in the order in which it came: ``async with semaphore.permit():``.

    Unlike ``DeferredSemaphore``, it lets the next begin when the one before has returned, not within it: a
    thousand that end at once, because their client has left, are no recursion.

    Args:
        at_once: how many may be at work.
        waiting: how many more may wait.
        what: the word for them in the refusal of one more.
        slices: those in which what waits begins; None: at once, however long that takes.
    """

    __slots__ = ("_at_once", "_free", "_limit", "_releasing", "_slices", "_waiting", "_what")

    def __init__(self, at_once: int, waiting: int, what: str, slices: Slices | None = None) -> None:
        self._slices = slices
        self._at_once = self._free = at_once
        self._limit, self._what = waiting, what
        self._waiting: dict[Deferred[None], None] = {}  # in their order
        self._releasing = False

    @property
    def unused(self) -> bool:
        """Whether nobody is at work, and nobody waits."""
        return self._free == self._at_once and not self._waiting

    def permit(self) -> Permit:
        """Return a permit, which is had once it is entered.

        Raises:
            RateLimited: too many wait.
        """
        if len(self._waiting) >= self._limit:
            raise RateLimited("limit", self._what)
        return Permit(self)

    def acquire(self) -> Deferred[None]:
        """Fire when work may begin; ``release`` must follow."""
        if self._free and not self._waiting:
            self._free -= 1
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._forget)
        self._waiting[waiting] = None
        return waiting

    def release(self) -> None:
        """Let the next begin."""
        self._free += 1
        if not self._releasing:
            self._releasing = True
            self._begin_next()

    def _begin_next(self) -> None:
        slices = self._slices
        end = inf if slices is None else slices.deadline()
        while self._free and self._waiting:
            if slices is not None and slices.now() >= end:
                slices.add(self._begin_next)
                return
            self._free -= 1
            waiting = next(iter(self._waiting))
            del self._waiting[waiting]
            waiting.callback(None)
        self._releasing = False

    def _forget(self, waiting: Deferred[None]) -> None:
        self._waiting.pop(waiting, None)


class Permit:
    """One permit, as a context."""

    __slots__ = ("_semaphore",)

    def __init__(self, semaphore: Semaphore) -> None:
        self._semaphore = semaphore

    async def __aenter__(self) -> None:
        await self._semaphore.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._semaphore.release()
