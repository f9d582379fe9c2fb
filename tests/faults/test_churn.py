"""What clients create and abandon, again and again, leaves nothing in the store: SQLite and Redis alike."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
import txredisapi
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.task import Clock

from broker.buses import open_bus
from broker.config.options import Retention
from broker.config.settings import Settings
from broker.core.service import SWEEP, Broker
from broker.interfaces import IStore
from broker.stores import open_store
from tests.support.eventually import TIMEOUT, pause
from tests.support.redis_server import RedisServer

LIFE = 3600.0  # seconds
EACH = 10  # of each kind in one round

Count = Callable[[], Awaitable[int]]


class Session:
    """Takes nothing."""

    def event(self, *_: object) -> None:
        """Ignore it."""

    def mail(self, *_: object) -> bool:
        return False


def settings() -> Settings:
    lives = {f"{kind}_seconds": LIFE for kind in ("cursor", "index", "membership", "client", "mailbox")}
    return Settings(retention=Retention(LIFE, 0), **lives)  # type: ignore[arg-type]


async def visit(broker: Broker, number: int) -> None:
    """Create one of each kind, and go."""
    peer: Any = broker.attach("test", "127.0.0.1")
    peer.bind(Session())
    await peer.take_name(f"client{number}")
    peer.appear()
    await peer.post(f"channel{number}", f"value{number}", b"1" * 100)
    await peer.move_cursor(f"client{number}", f"channel{number}", 1)
    await peer.create_index(f"index{number}", f"channel{number}", "field")
    await peer.read_index(f"index{number}", "x", lambda event, field: event.name)
    await peer.become(f"member{number}")
    await peer.join(f"room{number}")
    await peer.enqueue("", b"1" * 100, recipient=f"queue:queue{number}")
    await peer.enqueue("", b"1" * 100, recipient=f"client{number}")
    await peer.set(f"key{number}", b"1" * 100, expires=broker.store.wall.time() + LIFE)
    peer.close()


async def churn(store: IStore, clock: Clock, count: Count, rounds: int) -> None:
    broker = Broker(settings(), store, open_bus("local:", "test"), clock)
    broker.startService()
    await store.head("")
    before = await count()
    for number in range(rounds):
        await gatherResults([Deferred.fromCoroutine(visit(broker, number * EACH + each)) for each in range(EACH)])
        assert await count() >= before + 10 * EACH
        clock.advance(2 * LIFE)
        end = cast(Any, reactor).seconds() + TIMEOUT
        while (left := await count()) > before:
            assert cast(Any, reactor).seconds() < end, (before, left)
            clock.advance(SWEEP)
            await pause(0.01)
    await maybeDeferred(broker.stopService)


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(1_700_000_000)
    return clock


@pytest.fixture
def rounds(soak: bool) -> int:
    return 100 if soak else 2


@pytest_twisted.ensureDeferred
async def test_abandoned_things_leave_no_row_in_sqlite(tmp_path: Path, clock: Clock, rounds: int) -> None:
    store = open_store("sqlite:", clock=clock, directory=str(tmp_path), durability="os", reactor=cast(Any, reactor))

    async def count() -> int:
        connection = sqlite3.connect(tmp_path / "txbroker.db")
        tables = ("log", "event", "entry", "account")
        found = [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]
        connection.close()
        return sum(found)

    await churn(store, clock, count, rounds)
    size = (tmp_path / "txbroker.db").stat().st_size
    assert size < 1_000_000, size  # of which the floors of forgotten ids are 4096 rows at most


@pytest_twisted.ensureDeferred
async def test_abandoned_things_leave_no_key_in_redis(redis_server: RedisServer, clock: Clock, rounds: int) -> None:
    store = open_store(redis_server.url, clock=clock, reactor=cast(Any, reactor), prefix="own:")
    redis = await txredisapi.Connection("127.0.0.1", redis_server.port)
    hashes = ["heads", "accounts", "opened"]
    spaces = ["cursor", "index", "index-at", "member", "client", "mail-at", "kv"]
    hashes += [f"{kind}:{space}" for space in spaces for kind in ("keys", "owned")]
    sorted_sets = ["logs", "changes", *(f"{kind}:{space}" for space in spaces for kind in ("order", "due"))]

    async def count() -> int:
        found = [await redis.hlen(f"own:{name}") for name in hashes]
        found += [await redis.zcard(f"own:{name}") for name in sorted_sets]
        streams = await redis.keys("own:log:*")
        return sum(found) + len(streams)

    await churn(store, clock, count, rounds)
    await redis.disconnect()
