"""Work that may be cancelled, as when it takes too long, and leaves nothing to the garbage collector then."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

T = TypeVar("T")


def within(seconds: float, clock: IReactorTime, work: Coroutine[Deferred[Any], Any, T] | Deferred[T]) -> Deferred[T]:
    """Return the outcome of *work*; if there is none within *seconds*, it is cancelled and fails with TimeoutError.

    That is ``twisted.internet.defer.TimeoutError``, as of ``Deferred.addTimeout``.
    """
    found = work.addErrback(_without_frames) if isinstance(work, Deferred) else cancellable(work)
    return found.addTimeout(seconds, clock).addErrback(_without_frames)


def cancellable(work: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
    """Return the outcome of *work*, as ``Deferred.fromCoroutine``, which leaves a cycle when it is cancelled.

    A failure knows the frames that it has passed, with all that they have read, and one of those knows it.
    """
    return Deferred.fromCoroutine(work).addErrback(_without_frames)


def _without_frames(failure: Failure) -> Failure:
    error = failure.value
    if isinstance(error, CancelledError | TookTooLong):  # another is a fault, of which the log shows where it was
        failure.tb = error.__traceback__ = None
    return failure
