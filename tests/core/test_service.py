"""The broker as a whole, in memory: what its parts do for each other."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
from twisted.internet.defer import CancelledError, ensureDeferred, fail, succeed
from twisted.internet.task import Clock

from broker import __version__
from broker.access.tokens import CONTROL as REVOKED
from broker.buses.local import LocalBus
from broker.config.options import Retention
from broker.config.settings import Settings
from broker.core.jobs import LEASE_BYTES
from broker.core.members import PLACE_BYTES
from broker.core.memberships import CONTROL as LEFT
from broker.core.owners import CONTROL as OWNED
from broker.core.registry import NAME_BYTES
from broker.core.service import AGING, EXPIRY, MEASURE, SWEEP, SWEEPER, Broker
from broker.errors import Taken, Unauthenticated, Unavailable
from broker.messages import Event, Identity, Mail, Request
from broker.stores import open_store
from broker.testing import make_broker, value_of
from tests.support.logs import lines_of, logging


@attrs.define(eq=False)
class Listener:
    """A session that keeps the events it hears."""

    heard: list[tuple[Event, str]] = attrs.field(factory=list)

    def event(self, event, pattern):
        self.heard.append((event, pattern))

    def request(self, request):
        """It never answers."""

    def mail(self, mail):
        return True

    def accepts_jobs(self, all_left):
        return True

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
    stored = value_of(ann.post("news", "add", b'{"a":1}', client="svc", author="me"))
    assert (stored.id, stored.epoch, stored.time) == (1, broker.store.epoch, clock.seconds())
    (event, pattern) = bob.session.heard[0]
    assert (event.id, event.topic, event.name, event.body, pattern) == (1, "news", "add", b'{"a":1}', "news")
    assert (event.source, event.author) == ("svc", "me")


def test_a_posted_event_wakes_a_poll_and_a_live_one_does_not():
    broker = make_broker()
    ann = attach(broker)
    poll = ensureDeferred(ann.poll("news", 0, 10, 60.0))
    value_of(ann.publish("news", "live", b"1"))
    assert not poll.called
    value_of(ann.post("news", "stored", b"2"))
    assert [event.name for event in value_of(poll)] == ["stored"]


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


def test_a_sweep_takes_from_a_mailbox_what_is_too_old_and_no_more(clock):
    broker = make_broker(clock, retention=Retention(seconds=0.0, count=1), mailbox_seconds=2 * SWEEP)
    ann = attach(broker)
    for number in range(3):
        value_of(broker.queues.put(Mail("client:bob", "", b"%d" % number)))
        value_of(ann.enqueue("", b"%d" % number, recipient="queue:q"))
    value_of(ann.post("news", "add", b"1"))
    clock.advance(SWEEP)
    assert len(value_of(broker.store.read("mail/client:bob", 0, 10))) == 3
    assert value_of(broker.store.jobs.state("q")).ready == 3
    assert len(value_of(ann.read("news", 0, 10))) == 1
    clock.advance(2 * SWEEP)
    assert value_of(broker.store.read("mail/client:bob", 0, 10)) == []
    assert value_of(broker.store.jobs.state("q")).ready == 0


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


def test_a_backlog_of_expired_keys_is_told_at_once_and_however_old(clock):
    broker = make_broker(clock)
    ann = attach(broker)
    ann.watch(lambda key: True)
    broker.store.set("kv", "old", b"", expires=clock.seconds() + 0.5)
    clock.rightNow += 3 * 3600
    for number in range(2500):
        broker.store.set("kv", f"k{number}", b"", expires=clock.seconds() + 0.5)
    clock.advance(1.0)
    for _ in range(10):
        clock.advance(0)
    told = sorted(event.topic for event, _ in ann.session.heard)
    assert told == sorted(["kv/old", *(f"kv/k{number}" for number in range(2500))])


def test_that_a_key_has_expired_is_told_within_a_second(clock):
    broker = make_broker(clock)
    ann = attach(broker)
    ann.watch(lambda key: True)
    value_of(ann.set("k", b"v", expires=clock.seconds() + 0.5))
    clock.pump([0.5] * 3)
    assert [event.name for event, _ in ann.session.heard] == ["set", "expired"]


def test_a_key_change_is_an_event_on_its_topic():
    broker = make_broker()
    ann, bob = attach(broker), attach(broker)
    bob.subscribe("kv/k")
    value_of(ann.set("k", b"v"))
    value_of(ann.delete("k"))
    assert bob.session.topics == ["kv/k", "kv/k"]
    bodies = [json.loads(event.body) for event, _ in bob.session.heard]
    assert [(body["key"], body["value"]) for body in bodies] == [("k", "v"), ("k", None)]


def test_what_nodes_tell_each_other_is_for_no_client():
    broker = make_broker()
    ann, bob = attach(broker), attach(broker)
    bob.subscribe(">")
    value_of(ann.become("ann"))
    value_of(ann.join("a"))
    value_of(ann.part("a"))
    assert bob.session.topics == []


def test_presence_is_an_event():
    broker = make_broker()
    watcher, ann = attach(broker), attach(broker)
    watcher.subscribe("broker.client.*")
    value_of(ann.take_name("ann"))
    ann.appear()
    ann.close()
    assert watcher.session.topics == ["broker.client.online", "broker.client.offline"]
    assert json.loads(watcher.session.heard[0][0].body) == {"id": "ann", "session": ann.id}


def test_ready_gives_every_reason(clock, monkeypatch):
    broker = make_broker(clock)
    assert broker.ready() == []
    monkeypatch.setattr(type(broker.store), "ready", "disk full")
    broker.drain()
    assert broker.ready() == ["disk full", "draining"]
    broker.stopService()
    assert "not started" in broker.ready()


def test_about_tells_clients_no_address():
    broker = make_broker()
    broker.store.description = "Redis at 10.1.2.3:6379; version 7.0.15"
    assert broker.about()["store"] == "Redis"
    assert "10.1.2.3" not in json.dumps(broker.about())
    assert broker.about.details()["store"] == broker.store.description


def test_about_tells_operators_why_the_store_can_not_be_used(monkeypatch):
    broker = make_broker()
    monkeypatch.setattr(type(broker.store), "ready", "disk full")
    monkeypatch.setattr(type(broker.bus), "ready", "disk full")
    assert broker.about.details()["warnings"] == ["disk full"]
    assert "disk full" not in json.dumps(broker.about())


def test_about_tells_operators_what_to_change_at_a_store_that_nodes_share():
    broker: Any = make_broker()
    assert "warnings" not in broker.about.details()
    broker.store.shared, broker.store.warnings = True, ["set noeviction"]
    assert broker.about.details()["warnings"] == ["set noeviction"]
    assert "warnings" not in broker.about()


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


def test_a_timer_that_fails_says_why_unless_the_broker_stops(clock):
    broker = make_broker(clock)
    broker.store.expired = lambda *_: fail(Unavailable("store"))
    with logging() as events:
        clock.advance(EXPIRY)
        assert lines_of(events) == ["expiry waits: store"]
        broker.drain()
        clock.advance(EXPIRY)
    assert len(events) == 1


def test_a_timer_that_goes_on_failing_says_so_once_until_it_has_succeeded(clock):
    broker = make_broker(clock)
    with logging() as events:
        for _ in range(2):
            expired, broker.store.expired = broker.store.expired, lambda *_: fail(Unavailable("store"))
            clock.pump([EXPIRY] * 3)
            broker.store.expired = expired
            clock.advance(EXPIRY)
    assert lines_of(events) == ["expiry waits: store"] * 2


def test_one_reason_of_the_store_and_the_bus_is_told_once(clock, monkeypatch):
    broker = make_broker(clock)
    for part in ("store", "bus"):
        monkeypatch.setattr(broker, part, SimpleNamespace(ready="Redis is away"))
    assert broker.ready() == ["Redis is away"]
    assert broker.obstacles() == ["the store takes no writes", "the bus carries no events"]


class NodeBus(LocalBus):
    """A bus of several nodes that has no other; keeps what it was asked for."""

    shared = True
    address = "here"
    lease = 1
    nodes = ("node1", "node2")

    def __init__(self):
        super().__init__("test")
        self.listened, self.claims, self.begun = [], [], 0

    def listen(self, topic, *, prefix=False):
        self.listened.append(topic)

    def claim(self, name, *, shared=False):
        self.claims.append((name, shared))
        return fail(Taken("exists", name)) if name == SWEEPER else succeed(None)

    def release(self, name):
        return succeed(True)

    def lease_of(self, address):
        return 0

    def publish(self, event):
        super().publish(event)
        return succeed(None)

    def wiped(self):
        self.begun += 1

    def last_mark(self, epoch, server):
        return 7

    def lives(self, address):
        return True


@pytest.fixture
def clustered(clock):
    store: Any = open_store("memory:", clock=clock)
    store.publishes, store.on_answer = lambda origin: False, lambda call: None  # as one that several nodes share
    broker = Broker(Settings(retention=Retention(0.0, 1)), store, NodeBus(), clock)
    broker.startService()
    yield broker
    broker.stopService()


def test_a_shared_store_is_told_how_far_the_bus_has_come(clustered):
    assert clustered.store.witness("epoch", "server") == 7


def test_a_node_listens_to_what_the_nodes_tell_each_other(clustered):
    assert sorted(clustered.bus.listened) == [LEFT, OWNED, REVOKED]


def test_operators_are_told_which_nodes_there_are(clustered):
    assert clustered.about.details()["nodes"] == ("node1", "node2")
    assert "nodes" not in clustered.about()
    assert clustered.metrics.gauges["nodes"]() == 2
    assert make_broker().metrics.gauges["nodes"]() == 1


def test_a_node_sweeps_only_when_no_other_does(clustered, clock):
    ann = attach(clustered)
    for _ in range(2):
        value_of(ann.post("news", "add", b"1"))
    clock.advance(SWEEP)
    assert (SWEEPER, False) in clustered.bus.claims
    assert len(value_of(ann.read("news", 0, 10))) == 2


def test_a_store_that_has_lost_all_gets_what_the_node_knows(clustered):
    ann, bob, nobody = attach(clustered), attach(clustered), attach(clustered)
    value_of(ann.take_name("ann"))
    bob.admit(Identity("user", "bob", "bob"))
    for peer in (ann, bob, nobody):
        peer.appear()
    value_of(ann.become("ann"))
    value_of(ann.join("room"))
    token = value_of(ann.mint({}, 60))
    for space in ("client", "member", "token"):
        for key, _ in value_of(clustered.store.range(space, "", "\U0010ffff", 100)):
            value_of(clustered.store.delete(space, key))
    clustered.store.wiped()
    assert [key for key, _ in value_of(clustered.store.range("client", "", "\U0010ffff", 100))] == ["ann", "bob"]
    assert len(value_of(clustered.store.range("member", "", "\U0010ffff", 100))) == 1
    with pytest.raises(Unauthenticated):  # it was signed with a key that is lost
        value_of(attach(clustered).present(token))
    assert clustered.bus.begun == 1


def test_a_store_that_comes_back_empty_and_late_gets_what_the_node_knows(clustered, clock, monkeypatch):
    ann, keys = attach(clustered), {"client": "ann", "member": "8:test:annroom"}
    value_of(ann.take_name("ann"))
    ann.appear()
    value_of(ann.become("ann"))
    value_of(ann.join("room"))
    for space, key in keys.items():
        value_of(clustered.store.delete(space, key))
    with monkeypatch.context() as away:
        away.setattr(clustered.store, "set", lambda *words, **named: fail(Unavailable("redis")))
        clustered.store.wiped()
        clock.pump([1.0] * 5)
    assert [value_of(clustered.store.get(*pair)) for pair in keys.items()] == [None, None]
    assert value_of(attach(clustered).become("ann")) == ["room"]  # what the store has yet to get counts, too
    clock.pump([1.0] * 2)
    assert None not in [value_of(clustered.store.get(*pair)) for pair in keys.items()]


def test_gauges_count_what_there_is(clock):
    broker = make_broker(clock)
    ann, bob = attach(broker), attach(broker)
    bob.appear()
    ann.subscribe("a")
    ann.subscribe("b.*")
    ann.enter("a")
    value_of(bob.perform(["p", "q"]))
    value_of(bob.perform(["s"], as_service=True))
    ann.call("ref", Request("", "p", "", "", b"[]"))
    poll = ensureDeferred(ann.poll("news", 0, 10, 60.0))
    for number in range(4):
        value_of(ann.add_job("q", b"1", delay=60 * (number // 3)))
    bob.consume("q", ack=True)
    clock.advance(MEASURE)
    bob.stop_consuming("q")
    gauges = {name: read() for name, read in broker.metrics.gauges.items()}
    counted = {
        "calls_pending": 1,
        "polls_waiting": 1,
        "topics": 2,
        "services": 3,
        "sessions": 1,
        "members": 1,
        "subscriptions_behind": 0,
        "store_bytes": broker.store.used_bytes,
        "nodes": 1,
        "jobs_ready": 2,
        "jobs_delayed": 1,
        "jobs_in_flight": 1,
        "jobs_dead": 0,
        "jobs_oldest_seconds": MEASURE,
    }
    names = 3 * (NAME_BYTES + 1) + LEASE_BYTES + PLACE_BYTES
    held = {"memory_held_bytes": names, "send_queue_bytes": 0, "upload_bytes": 0, "held_bytes": names}
    state = {"ready": 1, "draining": 0, "store_ready": 1, "bus_ready": 1, "build_info": {__version__: 1}}
    limits = {"memory_limit_bytes": broker.settings.memory_limit_bytes, "store_limit_bytes": 0}
    unnamed = {name: None for name in gauges if name.startswith("queue_")}
    assert gauges == {**counted, **held, **state, **limits, **unnamed, "subscriptions": 2}
    poll.addErrback(lambda failure: failure.trap(CancelledError)).cancel()


def test_a_peer_that_closes_leaves_nothing_behind(clock):
    broker = make_broker(clock)
    ann = attach(broker)
    ann.subscribe("a")
    ann.subscribe("b.*")
    ann.watch(lambda key: True)
    value_of(broker.store.get("x", "y"))
    ann.acknowledge("*")
    ann.consume("work")
    value_of(ann.take_name("ann"))
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


def test_names_that_nobody_uses_any_more_are_forgotten(clock):
    broker = make_broker(clock, api_secret="secret")
    peers = [broker.attach("test", "127.0.0.1") for _ in range(2)]
    for number, peer in enumerate(peers):
        cast(Any, peer).bind(Listener())
        peer.identify("secret")
        value_of(peer.take_name(f"client{number}"))
        peer.appear()
        value_of(peer.post(f"topic{number}", "name", b"1"))
        value_of(peer.move_cursor(f"client{number}", f"topic{number}", 1))
    peers[0].close()
    clock.advance(AGING)
    assert len(broker.channels._heads) == len(broker.channels._moves) == 2
    clock.advance(AGING)
    assert len(broker.channels._heads) == len(broker.channels._moves) == 0
    assert [name for name in broker.parts.owners.known if name.startswith("client")] == ["client1"]
