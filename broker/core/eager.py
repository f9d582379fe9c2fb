"""Coroutines that most often need not wait."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


def eager_start(work: Coroutine[Deferred[Any], Any, T]) -> T | Deferred[T]:
    """Run *work* until it waits for something; return its result if it does not, else what fires with that.

    What it raises before it waits, this raises.  A ``Deferred`` for each would cost more than what most do.
    """
    try:
        awaited = work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    return Deferred.fromCoroutine(_rest(work, awaited))


@coroutine
def _rest(work: Coroutine[Deferred[Any], Any, T], awaited: Deferred[Any]) -> Generator[Deferred[Any], Any, T]:
    """Go on with *work*, which waits for *awaited*."""
    while True:
        try:
            try:
                result = yield awaited
            except BaseException as error:
                awaited = work.throw(error)
            else:
                awaited = work.send(result)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
