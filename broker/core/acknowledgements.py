"""The answers that one session is yet to give to messages and jobs: whether its client has them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.core.time_limits import within
from broker.errors import Timeout

log = Logger()

MAX_AWAITED = 256  # answers of one session; while there are so many, it is handed nothing

# Whether a client has what its session was handed; None: the session has gone, and nobody knows.
Taken: TypeAlias = "bool | Deferred[bool | None]"


@attrs.define(eq=False)
class Acknowledgements:
    """Waits for answers, each for some seconds.

    Args:
        clock: times that.
        again: called when there is room for more, after there was none.
    """

    _clock: IReactorTime
    _again: Callable[[], object]
    _awaited: set[Deferred[Any]] = attrs.field(factory=set)
    _full: bool = False
    _ended: bool = False

    def __len__(self) -> int:
        return len(self._awaited)

    def has_room(self) -> bool:
        """Whether one more may be awaited."""
        self._full = self._full or len(self._awaited) >= MAX_AWAITED
        return not self._full

    def add(self, answer: Deferred[Any] | Coroutine[Deferred[Any], Any, Any], seconds: float) -> Deferred[bool | None]:
        """Return what fires with the *answer*: True, or False for anything else; None when ``end`` was called.

        It fails with ``Timeout`` when there is none in so many *seconds*, or what is answered is a failure.
        """
        waiting = within(seconds, self._clock, answer)
        taken: Deferred[bool | None] = Deferred()
        self._awaited.add(waiting)
        waiting.addBoth(self._answered, waiting, taken)
        return taken

    def _answered(self, answer: Any, waiting: Deferred[Any], taken: Deferred[bool | None]) -> None:
        self._awaited.discard(waiting)
        if self._ended:
            taken.callback(None)
        elif isinstance(answer, Failure):
            if not answer.check(CancelledError, TookTooLong):
                log.failure("a session has not taken a message", answer)
            taken.errback(Timeout("mail", message="It was not acknowledged"))
        else:
            taken.callback(answer is True)
        if self._full and len(self._awaited) < MAX_AWAITED // 2:
            self._full = False
            if not self._ended:
                self._again()

    def end(self) -> None:
        """Wait no more: the session has gone."""
        self._ended = True
        for waiting in list(self._awaited):
            waiting.cancel()
