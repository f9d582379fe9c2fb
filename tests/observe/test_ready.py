"""What /ready says in each state, to everybody and to operators."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.task import Clock

from broker.messages import HttpRequest
from broker.observe.exposition import Exposition
from broker.testing import make_broker, value_of
from broker.web.pages import Pages


class Told:
    """A broker, asked at the public port, at the admin port, and by its metrics."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.broker = make_broker(self.clock, **settings)

    def reasons(self, ready: Any) -> list[str]:
        answer = Pages(ready, dict).answer(HttpRequest("GET", "/ready", "", {}))
        found = json.loads(answer.body)
        assert (answer.status == 200) == (found == {"ready": True})
        return [] if answer.status == 200 else found["error"]["data"]["reasons"]

    def all(self) -> tuple[list[str], list[str], bool]:
        shown = Exposition(self.broker.metrics).text().decode()
        return self.reasons(self.broker.obstacles), self.reasons(self.broker.ready), "\ntxbroker_ready 1.0\n" in shown

    def is_well(self) -> None:
        assert self.all() == ([], [], True)


@pytest.fixture
def told():
    return Told()


def patched(monkeypatch, part, name, value):
    monkeypatch.setattr(type(part), name, value, raising=False)


def test_a_store_that_can_not_write_is_told_until_it_can(told, monkeypatch):
    told.is_well()
    with monkeypatch.context() as patch:
        patched(patch, told.broker.store, "ready", "/data/txbroker.db: disk I/O error")
        assert told.all() == (["the store takes no writes"], ["/data/txbroker.db: disk I/O error"], False)
    told.is_well()


def test_a_log_that_is_not_written_back_is_told(told, monkeypatch):
    patched(monkeypatch, told.broker.store, "degraded", "the log has 99 bytes")
    assert told.all() == (["the store can not write back its log"], ["the log has 99 bytes"], False)


def test_a_broken_bus_is_told_until_it_is_mended(told):
    told.broker.bus.ready = "Redis at 10.0.0.1:6379: timeout"
    assert told.all() == (["the bus carries no events"], ["Redis at 10.0.0.1:6379: timeout"], False)
    told.broker.bus.ready = ""
    told.is_well()


def test_short_memory_is_told_until_it_is_there_again():
    told = Told(memory_limit_bytes=1000)
    told.broker.memory.change(900)
    (public,), (private,), ready = told.all()
    assert public == private
    assert (public.startswith("memory"), ready) == (True, False)
    told.broker.memory.change(-900)
    told.is_well()


def test_draining_is_told_to_the_end(told):
    told.broker.drain()
    assert told.all() == (["draining"], ["draining"], False)
    assert "txbroker_draining 1.0" in Exposition(told.broker.metrics).text().decode()


def test_a_blocked_loop_is_told(told):
    told.broker.loop_problem = lambda: "the reactor loop was blocked for 2.0 s"
    assert told.all() == (["the reactor loop was blocked for 2.0 s"],) * 2 + (False,)
    told.broker.loop_problem = str
    told.is_well()


def test_all_reasons_are_told_at_once(told, monkeypatch):
    patched(monkeypatch, told.broker.store, "ready", "full")
    told.broker.bus.ready = "away"
    told.broker.drain()
    assert told.all()[0] == ["the store takes no writes", "the bus carries no events", "draining"]


def test_what_has_stopped_is_not_ready(told):
    value_of(told.broker.stopService())
    public, _, ready = told.all()
    assert "not started" in public
    assert not ready
