"""Work that goes on when nobody waits for it any more."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


def uncancelled(work: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
    """Begin *work*; return its outcome.  Cancelling that gives up the outcome, not the work: none is half done."""
    return outcome_of(Deferred.fromCoroutine(work))


def outcome_of(work: Deferred[T]) -> Deferred[T]:
    """Return the outcome of *work*, which nobody else asks for.  Cancelling that gives up the outcome, not the work."""
    if work.called:
        return work
    outcome: Deferred[T] = Deferred()
    work.addCallbacks(outcome.callback, outcome.errback)
    return outcome
