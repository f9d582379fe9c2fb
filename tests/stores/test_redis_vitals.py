"""What the metrics tell of a Redis server."""

from __future__ import annotations

from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from txredisapi import ConnectionError as NotConnected
from txredisapi import ResponseError

from broker.observe.catalog import CATALOG, REDIS
from broker.redis.vitals import NAMES, TIMEOUT, Vitals, vitals_of
from broker.stores import open_store
from tests.support.eventually import eventually

MEMORY = b"# Memory\r\nused_memory:512\r\nmaxmemory:2048\r\n"
REPLICATION = (
    b"role:master\r\nconnected_slaves:2\r\n"
    b"slave0:ip=10.0.0.2,port=6379,state=online,offset=90,lag=1\r\n"
    b"slave1:ip=10.0.0.3,port=6379,state=online,offset=60,lag=4\r\n"
    b"master_repl_offset:100\r\n"
)


class Protocol:
    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def execute_command(self, command: bytes, section: bytes) -> Deferred[bytes]:
        answer = self.answers[section.decode()]
        return answer if isinstance(answer, Deferred) else succeed(answer)


class Connection:
    protocol: Any = None


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def vitals(clock):
    connection: Any = Connection()
    connection.protocol = Protocol(memory=MEMORY, replication=REPLICATION)
    return Vitals(connection, clock, b"txbroker:")


def told(vitals):
    return {name: value for name in NAMES if (value := vitals.read(name)) is not None}


def test_role_replicas_and_memory_are_told(vitals):
    assert told(vitals) == {"redis_connected": 1}
    assert vitals.refresh().called
    assert told(vitals) == {
        "redis_connected": 1,
        "redis_master": 1,
        "redis_replicas": 2,
        "redis_replica_lag_seconds": 4,
        "redis_replica_lag_bytes": 40,
        "redis_memory_bytes": 512,
        "redis_memory_limit_bytes": 2048,
        "redis_memory_ratio": 0.25,
    }


def test_a_replica_without_replicas_and_limit():
    info = {"role": "slave", "connected_slaves": "0", "master_repl_offset": "7", "used_memory": "1", "maxmemory": "0"}
    assert vitals_of(info) == {
        "redis_master": 0,
        "redis_replicas": 0,
        "redis_memory_bytes": 1,
        "redis_memory_limit_bytes": 0,
    }


def test_odd_answers_tell_nothing():
    assert vitals_of({}) == {}
    assert vitals_of({"role": "master", "slave0": "x", "slave_x": "lag=1", "used_memory": "much"}) == {
        "redis_master": 1
    }


def test_a_user_who_may_not_use_info_is_told_the_role_and_the_memory():
    """See ``read_unprivileged``."""
    assert vitals_of({"redis_version": "7.0", "role": "master", "run_id": "", "used_memory": "5"}) == {
        "redis_master": 1,
        "redis_memory_bytes": 5,
    }


def test_without_a_connection_nothing_is_known(vitals):
    vitals.refresh()
    vitals._connection.protocol = None
    assert vitals.refresh().called
    assert told(vitals) == {"redis_connected": 0}


@pytest.mark.parametrize("error", [ResponseError("ERR no"), NotConnected("Lost connection")])
def test_a_server_that_does_not_tell_leaves_it_unknown(vitals, error):
    vitals.refresh()
    vitals._connection.protocol.answers["memory"] = fail(error)
    assert vitals.refresh().called
    assert told(vitals) == {"redis_connected": 1}


def test_a_frozen_server_does_not_hold_up_who_asks(vitals, clock):
    vitals.refresh()
    late: Deferred[bytes] = Deferred()
    vitals._connection.protocol.answers["memory"] = late
    asked = vitals.refresh()
    assert vitals.refresh().called  # one question is enough
    clock.advance(TIMEOUT)
    assert asked.called
    assert told(vitals) == {"redis_connected": 1}
    late.callback(MEMORY)
    assert vitals.read("redis_memory_bytes") == 512
    assert not clock.getDelayedCalls()


def test_the_names_are_those_of_the_catalog():
    assert set(NAMES) == {metric.name for metric in CATALOG.values() if metric.when == REDIS}


@pytest.mark.processes
@pytest_twisted.ensureDeferred
async def test_a_real_server_tells_its_state(shared_redis_server):
    store: Any = open_store(shared_redis_server.url, clock=reactor, reactor=cast(Any, reactor), prefix="vitals:")
    store.startService()
    await eventually(lambda: not store.ready)
    await store.refresh()
    found = {name: read() for name, read in store.gauges().items()}
    assert set(found) == set(NAMES)
    assert (found["redis_connected"], found["redis_master"], found["redis_replicas"]) == (1, 1, 0)
    assert found["redis_memory_bytes"] > 0
    assert (found["redis_memory_limit_bytes"], found["redis_memory_ratio"]) == (0, None)
    await store.stopService()
    assert store.gauges()["redis_connected"]() == 0
