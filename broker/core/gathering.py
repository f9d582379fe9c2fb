"""The outcomes of many pieces of work of one kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults

AT_ONCE = 100  # that are under way

S = TypeVar("S")
T = TypeVar("T")


async def gather(items: Iterable[S], begin: Callable[[S], Deferred[T]]) -> list[T]:
    """Return what the Deferreds fire with that *begin* returns for *items*, in their order.

    Only ``AT_ONCE`` are under way at once: what others ask for is done in between.  The first that fails, or is
    cancelled, ends it with its own error; that of ``gatherResults`` hides whether a client has gone, or what it may
    be told.
    """
    found: list[T] = []
    left = iter(items)
    while group := list(islice(left, AT_ONCE)):
        try:
            found += await gatherResults(list(map(begin, group)), consumeErrors=True)
        except FirstError as error:
            error.subFailure.raiseException()
    return found
