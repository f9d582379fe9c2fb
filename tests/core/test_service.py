"""The broker as a whole, in memory: what its parts do for each other."""

from __future__ import annotations

import json

import attrs
import pytest
from twisted.internet.task import Clock

from broker.config.options import Retention
from broker.core.service import EXPIRY, SWEEP
from broker.errors import Unavailable
from broker.messages import Event
from broker.testing import make_broker, value_of


@attrs.define(eq=False)
class Listener:
    """A session that keeps the events it hears."""

    heard: list[tuple[Event, str]] = attrs.field(factory=list)

    def event(self, event, pattern):
        self.heard.append((event, pattern))

    @property
    def topics(self):
        return [event.topic for event, _ in self.heard]


def attach(broker, dialect="test"):
    peer = broker.attach(dialect, "127.0.0.1")
    peer.bind(Listener())
    return peer


@pytest.fixture
def clock():
    clock = Clock()
    clock.advance(1_000_000_000)
    return clock


def test_a_posted_event_is_stored_and_heard(clock):
    broker = make_broker(clock)
    ann, bob = attach(broker), attach(broker)
    bob.subscribe("news")
    stored = value_of(ann.post("news", "add", b'{"a":1}', source="svc"))
    assert (stored.id, stored.epoch, stored.time) == (1, broker.store.epoch, clock.seconds())
    (event, pattern) = bob.session.heard[0]
    assert (event.id, event.topic, event.name, event.body, event.source, pattern) == (
        1,
        "news",
        "add",
        b'{"a":1}',
        "svc",
        "news",
    )


def test_a_live_event_is_stored_only_on_a_durable_topic():
    broker = make_broker(durable_topics=("kept.>",))
    ann = attach(broker)
    assert value_of(ann.publish("gone.a", "x", b"1")).id == 0
    assert value_of(ann.publish("kept.a", "x", b"1")).id == 1
    assert value_of(ann.latest("gone.a", 10)) == []
    assert [event.id for event in value_of(ann.latest("kept.a", 10))] == [1]


def test_old_events_go_and_their_ids_do_not_come_back(clock):
    broker = make_broker(clock, retention=Retention(seconds=100.0, count=2))
    ann = attach(broker)
    for _ in range(4):
        value_of(ann.post("news", "add", b"1"))
    clock.advance(SWEEP)
    assert [event.id for event in value_of(ann.read("news", 0, 10))] == [3, 4]
    clock.advance(SWEEP)
    clock.advance(SWEEP)
    assert value_of(ann.read("news", 0, 10)) == []
    assert value_of(ann.post("news", "add", b"1")).id == 5


def test_without_retention_everything_stays(clock):
    broker = make_broker(clock, retention=Retention(seconds=0.0, count=0))
    ann = attach(broker)
    value_of(ann.post("news", "add", b"1"))
    clock.advance(SWEEP * 100)
    assert len(value_of(ann.read("news", 0, 10))) == 1


def test_a_key_that_expires_tells_its_watchers_once(clock):
    broker = make_broker(clock)
    ann = attach(broker)
    ann.watch(lambda key: key == "k")
    value_of(ann.set("k", b"v", expires=clock.seconds() + 2.0))
    clock.pump([EXPIRY] * 6)
    assert [event.name for event, _ in ann.session.heard] == ["set", "expired"]
    assert value_of(ann.get("k")) is None


def test_a_key_change_is_an_event_on_its_topic():
    broker = make_broker()
    ann, bob = attach(broker), attach(broker)
    bob.subscribe("kv/k")
    value_of(ann.set("k", b"v"))
    value_of(ann.delete("k"))
    assert bob.session.topics == ["kv/k", "kv/k"]
    bodies = [json.loads(event.body) for event, _ in bob.session.heard]
    assert [(body["key"], body["value"]) for body in bodies] == [("k", "v"), ("k", None)]


def test_presence_is_an_event():
    broker = make_broker()
    watcher, ann = attach(broker), attach(broker)
    watcher.subscribe("broker.client.*")
    ann.take_name("ann")
    ann.appear()
    ann.close()
    assert watcher.session.topics == ["broker.client.online", "broker.client.offline"]
    assert json.loads(watcher.session.heard[0][0].body) == {"id": "ann", "session": ann.id}


def test_ready_gives_every_reason(clock):
    broker = make_broker(clock)
    assert broker.ready() == []
    broker.store.ready = "disk full"
    broker.drain()
    assert broker.ready() == ["disk full", "draining"]
    broker.stopService()
    assert "not started" in broker.ready()


def test_about_tells_no_secret():
    about = make_broker(api_secret="hush").about()
    assert about["name"] == "txbroker"
    assert "hush" not in json.dumps(about)


def test_a_store_that_is_away_costs_a_log_line_and_the_timers_go_on(clock, monkeypatch):
    broker = make_broker(clock)
    ann = attach(broker)
    ann.watch(lambda key: True)

    def away(*args):
        raise Unavailable("store")

    with monkeypatch.context() as patch:
        patch.setattr(broker.store, "expired", away)
        patch.setattr(broker.store, "sweep", away)
        value_of(ann.set("k", b"v", expires=clock.seconds() + 1.0))
        clock.pump([EXPIRY] * 3)
        clock.advance(SWEEP)
    clock.pump([EXPIRY] * 3)
    assert [event.name for event, _ in ann.session.heard] == ["set", "expired"]


def test_a_peer_that_closes_leaves_nothing_behind(clock):
    broker = make_broker(clock)
    ann = attach(broker)
    ann.subscribe("a")
    ann.subscribe("b.*")
    ann.watch(lambda key: True)
    value_of(broker.store.get("x", "y"))
    ann.acknowledge("*")
    ann.consume("work")
    ann.take_name("ann")
    ann.appear()
    ann.close()
    ann.close()
    assert len(broker.topics) == 0
    assert len(broker.presence) == 0
    assert len(broker.queues) == 0
    assert broker.calls.takers.names() == []
    assert broker.keys._watchers == {}


def test_stopping_leaves_no_timer(clock):
    broker = make_broker(clock)
    value_of(broker.stopService())
    assert clock.getDelayedCalls() == []
