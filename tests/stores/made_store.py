"""How the store of a contract is made."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_twisted
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock

from broker.interfaces import IStore

NOW = 1_700_000_000.0  # seconds since the epoch

MakeStore = Callable[[], IStore]


class MadeStore:
    """The fixtures of a contract: a subclass overrides ``make``."""

    @pytest.fixture
    def clock(self) -> Clock:
        clock = Clock()
        clock.advance(NOW)
        return clock

    @pytest.fixture
    def make(self, clock: Clock) -> MakeStore:
        """Return a function that makes a store, not yet started, on the same data each time."""
        raise AssertionError("the module of tests says how")

    @pytest_twisted.async_yield_fixture
    async def store(self, make: MakeStore) -> AsyncIterator[IStore]:
        store = make()
        store.startService()
        await store.head("")  # the epoch of one elsewhere is known once that has answered
        yield store
        await maybeDeferred(store.stopService)
