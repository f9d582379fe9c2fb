"""What a node does when the store has lost everything: it stores again what it knows, until that is done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.errors import Unavailable

log = Logger()

RETRY_DELAY = 1.0  # seconds until a step that was refused is tried again


class Restoration:
    """Takes some steps, one after the other; what the store refuses, because it is not back yet, again.

    Args:
        clock: times the attempts.
        steps: each with what it stores, in a word.
    """

    def __init__(self, clock: IReactorTime, steps: Sequence[tuple[str, Callable[[], Awaitable[object]]]]) -> None:
        self._clock, self._steps = clock, steps
        self._work: Deferred[None] | None = None
        self._stopped = False

    def begin(self) -> None:
        """Take all steps, from the first if they are under way; a no-op after ``stop``."""
        if self._stopped:
            return  # that the store went back may be noticed while the daemon stops
        self._cancel()
        self._work = Deferred.fromCoroutine(self._run()).addErrback(_ignore_cancelled)

    def stop(self) -> None:
        """Take no further step, ever."""
        self._stopped = True
        self._cancel()

    def _cancel(self) -> None:
        if self._work is not None:
            self._work.cancel()

    async def _run(self) -> None:
        for what, step in self._steps:
            await self._until_done(what, step)

    async def _until_done(self, what: str, step: Callable[[], Awaitable[object]]) -> None:
        refused = False
        while True:
            try:
                await step()
            except Unavailable as error:
                if not refused:
                    log.warn("{what} are to be stored again: {reason}", what=what, reason=str(error))
                refused = True
            except CancelledError:
                raise
            except Exception:
                log.failure("{what} were not stored again", what=what)
                return  # the others may be
            else:
                if refused:
                    log.info("{what} were stored again", what=what)
                return
            await deferLater(self._clock, RETRY_DELAY)


def _ignore_cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)
