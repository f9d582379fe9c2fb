"""The reasons of ``/ready``: each once, with one full stop, whoever has it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.task import Clock

from broker.buses.redis import RedisBus
from broker.core.memory import Memory
from broker.core.service import Broker
from broker.errors import with_detail
from broker.messages import HttpRequest
from broker.redis.connection import NOT_CONNECTED_YET
from broker.stores.memory import MemoryStore
from broker.stores.redis import RedisStore
from broker.stores.room import full_text
from broker.stores.sqlite_checkpoints import NOT_WRITTEN_BACK
from broker.stores.sqlite_failures import cannot_write
from broker.stores.states import NOT_RUNNING, STOPPING
from broker.testing import make_broker
from broker.web.pages import Pages

LOST = "the connection was lost: Connection was closed cleanly."


def told(*reasons: str) -> tuple[str, list[str]]:
    """Return the message and the reasons of the page."""
    response = Pages(lambda: list(reasons), dict).answer(HttpRequest("GET", "/ready", "", {}))
    assert response.status == 503
    error = json.loads(response.body)["error"]
    return error["message"], error["data"]["reasons"]


def crowded() -> str:
    memory = Memory(1000)
    memory.change(999)
    return memory.reason


def of_redis(part: Any) -> str:
    part._stopped_reason = ""  # as if it was started
    for connection in (part._batcher.connection, getattr(part, "_subscriber_connection", None)):
        if connection is not None:
            connection.problem = LOST
    reason: str = part.ready
    return reason


def of_broker(broker: Broker) -> str:
    broker.drain()
    (reason,) = broker.ready()
    return reason


def not_started(broker: Broker) -> str:
    broker.stopService()
    return broker.ready()[-1]


SOURCES = {
    "a disk": lambda: cannot_write("disk I/O error"),
    "a library that ends its sentence": lambda: cannot_write("database or disk is full."),
    "a log that is not written back": lambda: with_detail(NOT_WRITTEN_BACK, "disk I/O error"),
    "a full store": lambda: full_text("9 of 8 bytes are used (TXBROKER_MAX_STORE_BYTES)"),
    "a store of no daemon": lambda: NOT_RUNNING,
    "a store that stops": lambda: STOPPING,
    "a store in memory": lambda: MemoryStore(Clock()).ready,
    "a store in Redis": lambda: of_redis(RedisStore("redis://host", prefix="x:", clock=Clock(), reactor=Clock())),
    "a bus": lambda: of_redis(RedisBus("redis://host", "node", prefix="x:", reactor=Clock())),
    "no connection": lambda: f"Redis at host:6379: {NOT_CONNECTED_YET}",
    "memory": crowded,
    "a daemon that stops": lambda: of_broker(make_broker()),
    "a daemon that does not run": lambda: not_started(make_broker()),
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_reason_of_any_source_stands_once_and_ends_in_one_full_stop(source: str) -> None:
    reason = SOURCES[source]()
    assert reason
    words = reason.rstrip(".")
    message, reasons = told(reason, reason, words, f"{words}.", f"{words}..", "something else")
    assert message == f"Not ready: {words}; something else."
    assert reasons in ([words, "something else"], [f"{words}.", "something else"])


@pytest.mark.parametrize(("reason", "shown"), [("The disk is full..", "The disk is full."), ("draining", "draining")])
def test_a_reason_keeps_its_own_form_but_for_what_is_too_much(reason: str, shown: str) -> None:
    assert told(reason)[1] == [shown]
