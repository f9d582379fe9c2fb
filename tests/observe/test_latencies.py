"""What is timed, and what the times stand for."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.errors import Busy, Denied
from broker.interfaces import ISession
from broker.messages import Event, Request
from broker.observe.catalog import SAMPLE
from broker.observe.exposition import Exposition
from broker.observe.metrics import CallTimes, Histogram, PublishSampler, random_gap
from broker.patterns import RESERVED_PREFIX
from broker.testing import make_broker, value_of


class Answering:
    """A session that answers as it is told."""

    def __init__(self, peer: Any, error: Any = None, quiet: bool = False) -> None:
        self.peer, self.error, self.quiet = peer, error, quiet
        self.asked: list[Request] = []

    def request(self, request: Request) -> None:
        self.asked.append(request)
        if not self.quiet:
            self.peer.answer(request.id, b"1", self.error)

    def reply(self, reply: Any) -> None:
        """It does not look."""

    def event(self, event: Event, pattern: str) -> None:
        """It does not look."""


def two(broker, **options):
    caller, callee = (broker.attach("test", "127.0.0.1") for _ in range(2))
    caller.bind(Answering(caller))
    callee.bind(Answering(callee, **options))
    value_of(callee.perform(["p"]))
    return caller, callee


def results(broker):
    """Return how many calls have ended how."""
    histograms = broker.metrics.verbs_of("test").calls.histograms
    return {result: sum(each.counts) for result, each in histograms.items() if any(each.counts)}


def call(caller, timeout=60.0):
    caller.call("ref", Request("", "p", "", "", b"[]", timeout=timeout))


def test_a_value_counts_as_often_as_its_weight_says():
    histogram = Histogram((1.0, 2.0))
    histogram.observe(1.5, 7)
    assert (histogram.counts, histogram.total) == ([0, 7, 0], 10.5)


def test_the_first_are_all_timed_and_later_ones_stand_for_those_between():
    clock, timed = Clock(), 0
    sampler = PublishSampler(clock.seconds, lambda: 5)
    for _ in range(PublishSampler.all_timed + 24):
        sampler.left -= 1
        if not sampler.left:
            timed += 1
            sampler.publishes()(None)
    assert timed == PublishSampler.all_timed + 4
    assert sum(sampler.histogram.counts) == PublishSampler.all_timed + 20


def test_the_gaps_are_as_long_as_was_said_on_the_average():
    gaps = [random_gap() for _ in range(1000)]
    assert min(gaps) >= 1
    assert max(gaps) < 2 * SAMPLE


def test_failed_calls_are_all_counted_and_answered_ones_are_sampled():
    times = CallTimes(Clock().seconds, lambda: 7)
    for result in ("ok", "timeout", "lost") * 10:
        if result == "ok":
            times.left -= 1
        if not times.left or result != "ok":
            times.ended(0.0, result)
    counted = {result: sum(each.counts) for result, each in times.histograms.items()}
    assert counted == {
        **{"ok": 8, "error": 0, "timeout": 10, "lost": 10},
        **{"cancelled": 0, "abandoned": 0},
    }


@pytest.mark.parametrize(("error", "result"), [(None, "ok"), (Denied("call", "p"), "error")])
def test_a_call_is_counted_by_how_it_ends(error, result):
    broker = make_broker()
    caller, _ = two(broker, error=error)
    call(caller)
    assert results(broker) == {result: 1}


def test_the_time_of_a_call_is_that_until_its_answer():
    clock = Clock()
    broker = make_broker(clock)
    caller, callee = two(broker, quiet=True)
    call(caller)
    clock.advance(3.0)
    callee.answer(callee.session.asked[0].id, b"1")
    assert broker.metrics.verbs_of("test").calls.histograms["ok"].total == 3.0


def test_calls_that_are_not_answered_say_why():
    clock = Clock()
    broker = make_broker(clock)
    caller, callee = two(broker, quiet=True)
    call(caller, timeout=1.0)
    clock.advance(2.0)
    assert results(broker) == {"timeout": 1}
    call(caller)
    caller.cancel("ref")
    call(caller)
    callee.close()
    assert results(broker) == {"timeout": 1, "cancelled": 1, "lost": 1}


def test_the_calls_of_one_who_leaves_are_abandoned():
    broker = make_broker()
    caller, _ = two(broker, quiet=True)
    call(caller)
    caller.close()
    assert results(broker) == {"abandoned": 1}


def test_a_refused_call_is_an_error():
    broker = make_broker()
    caller, callee = two(broker)

    def refuse(request: Request) -> None:
        raise Busy("call", "p")

    callee.session.request = refuse
    with pytest.raises(Busy):
        call(caller)
    assert results(broker) == {"error": 1}


def test_a_publication_is_timed_until_it_is_acknowledged():
    clock = Clock()
    broker = make_broker(clock)
    peer, stored = broker.attach("test", "127.0.0.1"), Deferred[Event]()
    store: Any = broker.parts.store
    store.append = lambda log, event, quota: stored
    posted = peer.post("topic", "event", b"1")
    clock.advance(0.5)
    stored.callback(Event("topic", "event", b"1", "", 1.0, id=1))
    value_of(posted)
    histogram = broker.metrics.publish_seconds["test"]
    assert (sum(histogram.counts), histogram.total) == (1, 0.5)


@pytest.mark.parametrize("words", [{}, {"retain": True}, {"durable": True}])
def test_publications_and_deliveries_are_counted_by_dialect(words):
    broker = make_broker()
    ann, bob = broker.attach("ann", "127.0.0.1"), broker.attach("bob", "127.0.0.1")
    bob.bind(cast(ISession, Answering(bob)))
    bob.subscribe("topic")
    for _ in range(3):
        value_of(ann.publish("topic", "event", b"1", **words))
    counted = broker.metrics.publish_seconds, broker.metrics.deliver_seconds
    assert [{dialect: sum(each.counts) for dialect, each in kind.items()} for kind in counted] == [
        {"ann": 3, "bob": 0},
        {"ann": 3, "bob": 0},
    ]


def test_what_was_refused_is_not_counted_as_published():
    broker = make_broker()
    ann = broker.attach("ann", "127.0.0.1")
    with pytest.raises(Denied):
        ann.publish(RESERVED_PREFIX + "x", "event", b"1")
    assert sum(broker.metrics.publish_seconds["ann"].counts) == 0


def test_latencies_have_the_labels_of_the_catalog():
    broker = make_broker()
    caller, _ = two(broker)
    call(caller)
    exposed = Exposition(broker.metrics).text().decode()
    assert 'txbroker_call_seconds_bucket{dialect="test",result="ok",le="+Inf"} 1.0' in exposed
    assert 'txbroker_call_seconds_count{dialect="test",result="timeout"} 0.0' in exposed
    assert 'txbroker_publish_seconds_sum{dialect="test"} 0.0' in exposed
