"""Work that goes on when nobody waits for it any more."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


def uncancelled(work: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
    """Begin *work*; return its outcome.  Cancelling that gives up the outcome, not the work: none is half done."""
    outcome = Deferred.fromCoroutine(work)
    if outcome.called:
        return outcome
    answer: Deferred[T] = Deferred()
    outcome.addCallbacks(answer.callback, answer.errback)
    return answer
