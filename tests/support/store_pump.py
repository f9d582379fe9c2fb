"""Waits for a store whose answers come from a thread, without a reactor."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorFromThreads
from zope.interface import implementer

from broker.interfaces import IStore
from tests.support.eventually import STEP, TIMEOUT

T = TypeVar("T")


@implementer(IReactorFromThreads)
class Pump:
    """Calls what threads ask for while somebody waits for a result."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:  # noqa: A002
        self._calls.put(partial(callable, *args, **kwargs))

    def result(self, answer: Deferred[T]) -> T:
        """Return what *answer* ends with, or raise it."""
        while not answer.called:
            call = self._calls.get(timeout=TIMEOUT)
            call()
        found: list[T] = []
        failures: list[BaseException] = []
        answer.addCallbacks(found.append, lambda failure: failures.append(failure.value))
        if failures:
            raise failures[0]
        return found[0]

    def until(self, condition: Callable[[], object]) -> None:
        """Return once *condition* holds, which threads bring about."""
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < end, f"not within {TIMEOUT} s"
            with suppress(Empty):
                self._calls.get(timeout=STEP)()

    def stop(self, store: IStore) -> None:
        """Stop *store* and wait for it."""
        self.result(maybeDeferred(store.stopService))
