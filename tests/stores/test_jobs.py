"""Each store keeps the contract of jobs."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet import reactor
from twisted.internet.task import Clock

from broker.stores import open_store
from tests.stores.job_contract import DurableJobContract, JobContract
from tests.stores.made_store import MakeStore
from tests.support.redis_server import RedisServer

_numbers = count()


class TestMemoryJobs(JobContract):
    @pytest.fixture
    def make(self, clock: Clock) -> MakeStore:
        return lambda: open_store("memory:", clock=clock)


class TestSqliteJobs(DurableJobContract):
    @pytest.fixture
    def make(self, clock: Clock, tmp_path: Path) -> MakeStore:
        return lambda: open_store("sqlite:", clock=clock, directory=str(tmp_path))


class TestRedisJobs(DurableJobContract):
    @pytest.fixture
    def make(self, clock: Clock, shared_redis_server: RedisServer) -> MakeStore:
        prefix = f"jobs{next(_numbers)}:"
        return lambda: open_store(shared_redis_server.url, clock=clock, reactor=cast(Any, reactor), prefix=prefix)
