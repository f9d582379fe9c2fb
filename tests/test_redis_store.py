"""The Redis store keeps the contract, and what is special about it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock

from broker.interfaces import ISharedStore, IStore
from broker.stores import open_store
from tests.redis_server import RedisServer
from tests.store_contract import DurableContract, MakeStore

_numbers = count()


class TestRedisStore(DurableContract):
    """What every durable store does, on a real redis-server."""

    @pytest.fixture
    def make(self, clock: Clock, shared_redis_server: RedisServer) -> MakeStore:
        prefix = f"test{next(_numbers)}:"
        return lambda: open_store(shared_redis_server.url, clock=clock, reactor=reactor, prefix=prefix)

    @pytest_twisted.async_yield_fixture
    async def store(self, make: MakeStore) -> AsyncIterator[IStore]:
        store = make()
        store.startService()
        await store.head("")  # its epoch is known once Redis has answered
        yield store
        await maybeDeferred(store.stopService)

    async def reopen(self, store: ISharedStore, make: MakeStore) -> IStore:
        again = await super().reopen(store, make)
        await again.head("")
        return again
