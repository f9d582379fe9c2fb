"""What a client is registered for, which is made again with each connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import attrs

from broker.client import wire
from broker.client.context import Context
from broker.client.errors import ClientError, Closed, RateLimited, Taken, Timeout, Unavailable, is_rate
from broker.client.notices import Notice
from broker.client.outcomes import Outcome
from broker.client.timers import Timer

FIRST_RETRY, MAX_RETRY = 0.5, 10.0  # seconds


def _ignore(_: object) -> None:
    """Do nothing."""


@attrs.define(eq=False)
class Registration:
    """One of them; ``kind`` and ``name`` tell it from others.

    Attributes:
        context: of the client.
        name: what it is for.
        on_change: set by the client, which is told that it is in place, or has ended.
        ready: ends when it is in place for the first time.
        active: whether it is in place now.
        ended: whether the application does not want it any more, or it can not be had.
        asking: whether the broker was asked for it and has not answered.
    """

    kind: ClassVar[str]
    method: ClassVar[str]
    undo: ClassVar[str]

    context: Context
    name: str
    on_change: Callable[[Registration], object] = attrs.field(default=_ignore, init=False)
    ready: Outcome[object] = attrs.field(factory=Outcome, init=False)
    active: bool = attrs.field(default=False, init=False)
    ended: bool = attrs.field(default=False, init=False)
    asking: bool = attrs.field(default=False, init=False)
    _asked: int = attrs.field(default=0, init=False)  # which attempt is the present one
    _failures: int = attrs.field(default=0, init=False)
    _timer: Timer | None = attrs.field(default=None, init=False)

    # For those that are one.

    def arguments(self) -> list[object]:
        """Return the arguments of ``method``."""
        raise NotImplementedError

    def answered(self, payload: bytes) -> object:
        """Take note of the result of ``method``; return what ``ready`` ends with."""
        return None

    def on_end(self, error: ClientError | None) -> None:
        """Notice that there will be nothing more."""

    def on_lost(self) -> None:
        """Notice that the connection was lost."""

    def try_otherwise(self, error: ClientError) -> bool:
        """Ask in another way, as this one was refused; say whether there is one."""
        return False

    def on_refused(self, error: ClientError) -> None:
        """Notice that it can not be had; a failure that may pass is not told."""
        self.end(error)

    # For the core.

    def begin(self) -> None:
        """Register: there is a connection."""
        asked = self._forget_attempt()
        try:
            arguments = wire.arguments(self.arguments())
        except ClientError as error:
            self.on_refused(error)
            return
        self.asking = True
        outcome = self.context.control(self.method, arguments)
        outcome.listen(lambda payload: self._succeeded(asked, payload), lambda error: self._failed(asked, error))

    def lost(self) -> None:
        """Notice that the connection was lost: an answer that was on its way does not come."""
        self._forget_attempt()
        self.active = False
        self.on_lost()

    def close(self) -> None:
        """Have it no more."""
        if not self.ended:
            if self.context.is_ready:
                self.context.control(self.undo, wire.arguments([self.name]))
            self.end(None)

    def end(self, error: ClientError | None) -> None:
        """Forget it, because of *error* if there is one."""
        if self.ended:
            return
        self.ended, self.active = True, False
        self._forget_attempt()
        self.on_change(self)
        self.ready.fail(error or Closed())
        self.on_end(error)

    def pause(self) -> None:
        """Undo it at the broker, until ``begin``."""
        self._forget_attempt()
        self.active = False
        self.context.control(self.undo, wire.arguments([self.name]))

    def _succeeded(self, asked: int, payload: bytes) -> None:
        if asked != self._asked:
            return
        self.asking = False
        try:
            result = self.answered(payload)
        except wire.UNREADABLE as problem:
            self._failed(asked, Unavailable(f"an answer can not be read: {problem}"))
        else:
            self._failures = 0
            self.in_place(result)

    def in_place(self, result: object) -> None:
        """Notice that the broker has it; ``ready`` ends with *result*."""
        self.active = True
        self.ready.succeed(result)
        self.on_change(self)

    def _failed(self, asked: int, error: ClientError) -> None:
        if asked != self._asked:
            return
        self.asking = False
        passing = isinstance(error, Timeout | Unavailable) or is_rate(error)
        if self.ready.ended:  # it was in place before: who has its name now may be a connection that is dead
            passing = passing or isinstance(error, Taken | RateLimited)
        if not passing and self.try_otherwise(error):
            return
        self.context.notify(Notice("registration-failed", f"{self.kind} {self.name}", error=error))
        if not passing:
            self.on_refused(error)
            return
        delay = min(MAX_RETRY, FIRST_RETRY * 2.0 ** min(self._failures, 10)) * (0.5 + self.context.random() / 2)
        self._failures += 1
        if isinstance(error, RateLimited):
            delay += error.retry_after
        self._timer = self.context.timers.after(delay, self.begin)

    def _forget_attempt(self) -> int:
        """Let what the broker answers to the attempts until now be nothing; return the number of the next."""
        self.context.timers.cancel(self._timer)
        self._timer, self.asking = None, False
        self._asked += 1
        return self._asked
