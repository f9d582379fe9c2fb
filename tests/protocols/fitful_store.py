"""A store that is slow, or away, when a test says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail

from broker.errors import Unavailable


class FitfulStore:
    """Does what *store* does; ``slow``: the test gives the answers; ``away``: there are none."""

    def __init__(self, store: Any) -> None:
        self.slow = self.away = False
        self.waiting: list[Callable[[], object]] = []
        self._store, self.wall = store, store.wall

    def __getattr__(self, name: str) -> Callable[..., Deferred[Any]]:
        method = getattr(self._store, name)

        def call(*arguments: Any, **options: Any) -> Deferred[Any]:
            if self.away:
                return fail(Unavailable("store"))
            result: Deferred[Any] = method(*arguments, **options)
            if not self.slow:
                return result
            answer: Deferred[Any] = Deferred()
            self.waiting.append(lambda: result.chainDeferred(answer))
            return answer

        return call

    def answer(self) -> None:
        """Give the answers that wait, and those that these make wait."""
        while self.waiting:
            self.waiting.pop(0)()
