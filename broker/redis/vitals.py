"""What an operator watches of a Redis server: its role, its replicas, its memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.defer import TimeoutError as NotInTime
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from txredisapi import RedisError

from broker.redis.connection import Connection
from broker.redis.server import read_info

TIMEOUT = 0.5  # seconds that who asks may have to wait for the server
NAMES = (
    *("redis_connected", "redis_master", "redis_replicas", "redis_replica_lag_seconds", "redis_replica_lag_bytes"),
    *("redis_memory_bytes", "redis_memory_limit_bytes", "redis_memory_ratio"),
)


class Vitals:
    """Asks a server when somebody wants to know, and keeps what it has said.

    Args:
        connection: leads to it.
        clock: limits how long that may take.
        prefix: what all keys of the broker begin with.
    """

    def __init__(self, connection: Connection, clock: IReactorTime, prefix: bytes) -> None:
        self._connection, self._clock, self._prefix = connection, clock, prefix
        self._known: Mapping[str, float] = {}
        self._asked: Any = None  # the protocol whose answer is awaited

    def read(self, name: str) -> float | None:
        """Return one of ``NAMES`` as it was when the server was asked last; None: it is not known."""
        if name == "redis_connected":
            return float(self._connection.protocol is not None)
        return None if self._connection.protocol is None else self._known.get(name)

    def refresh(self) -> Deferred[None]:
        """Ask the server; fires, and never fails, when it has answered, or has not in time."""
        protocol = self._connection.protocol
        if protocol is None or protocol is self._asked:
            return succeed(None)
        self._asked = protocol
        asking = Deferred.fromCoroutine(self._ask(protocol))
        waiting: Deferred[None] = Deferred()
        asking.addErrback(self._not_told).addBoth(self._answered, waiting)
        waiting.addTimeout(TIMEOUT, self._clock)
        return waiting.addErrback(self._late)

    async def _ask(self, protocol: Any) -> None:
        info = await read_info(protocol, b"memory", prefix=self._prefix)
        if "role" not in info:  # else INFO is not permitted, and that is all
            # Of several sections at once Redis 6 tells nothing.
            info |= await read_info(protocol, b"replication", prefix=self._prefix)
        self._known = vitals_of(info)

    def _not_told(self, failure: Failure) -> None:
        failure.trap(RedisError)  # the connection is lost, perhaps
        self._known = {}

    def _answered(self, result: object, waiting: Deferred[None]) -> object:
        self._asked = None
        if not waiting.called:
            waiting.callback(None)
        return result

    def _late(self, failure: Failure) -> None:
        failure.trap(NotInTime)
        self._known = {}  # what it was long ago is not what it is


def vitals_of(info: Mapping[str, str]) -> dict[str, float]:
    """Return what *info*, the fields of INFO, says, by ``NAMES``; what it does not say is left out."""
    found: dict[str, float] = {}
    if "role" in info:
        found["redis_master"] = float(info["role"] == "master")
    replicas = _number(info, "connected_slaves")
    if replicas is not None:
        found |= {"redis_replicas": replicas, **_lags_of(info)}
    memory, limit = _number(info, "used_memory"), _number(info, "maxmemory")
    if memory is not None:
        found["redis_memory_bytes"] = memory
    if limit is not None:
        found["redis_memory_limit_bytes"] = limit
    if memory is not None and limit:
        found["redis_memory_ratio"] = memory / limit
    return found


def _lags_of(info: Mapping[str, str]) -> dict[str, float]:
    """Return how far the replicas are behind that Redis knows of; nothing where there is none."""
    replicas = [
        dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)
        for name, text in info.items()
        if name.startswith("slave") and name[5:].isdecimal()
    ]
    offset = _number(info, "master_repl_offset")
    seconds = [lag for each in replicas if (lag := _number(each, "lag")) is not None]
    offsets = [there for each in replicas if (there := _number(each, "offset")) is not None]
    found = {"redis_replica_lag_seconds": max(seconds)} if seconds else {}
    if offsets and offset is not None:
        found["redis_replica_lag_bytes"] = max(0.0, offset - min(offsets))
    return found


def _number(fields: Mapping[str, str], name: str) -> float | None:
    try:
        return float(fields[name])
    except (KeyError, ValueError):
        return None
