"""Work queues: who gets a job, until when, and what becomes of it then."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, cast

import attrs
import pytest
from twisted.internet.defer import Deferred, ensureDeferred, fail
from twisted.internet.task import Clock

from broker.core import job_filters
from broker.core.job_filters import job_filter
from broker.core.jobs import Jobs
from broker.core.slices import SLICE, slices_of
from broker.errors import NotDone, NotFound, RateLimited, TooLarge, Unavailable
from broker.interfaces import IStore
from broker.jobs import QueueState, Worker
from broker.messages import Delivery, Mail
from broker.stores import open_store
from broker.testing import value_of

NOW = 1_000_000.0


@attrs.define(eq=False)
class Peer:
    id: str
    client: str = ""
    room: bool = True
    left: bool = True
    got: list[Mail] = attrs.field(factory=list)
    held: int = 0

    def post_mail(self, mail: Mail) -> bool:
        if self.room:
            self.got.append(mail)
        return self.room

    def accepts_jobs(self, all_left: bool) -> bool:
        return self.room and (self.left or not all_left)

    def hold(self, change: int) -> None:
        self.held += change

    @property
    def worker(self) -> Worker:
        return Worker(self.client or self.id, "node", named=bool(self.client))

    @property
    def bodies(self) -> list[bytes]:
        return [mail.body for mail in self.got]

    @property
    def last(self) -> Delivery:
        return cast(Delivery, self.got[-1])


@attrs.define(eq=False)
class House:
    """The jobs of one node, and who works for it."""

    store: IStore
    clock: Clock
    back: set[str] = attrs.field(factory=set)
    node: str = "node"
    jobs: Jobs = attrs.field(init=False)
    told: list[str] = attrs.field(factory=list)
    max_failures: int = 5

    def __attrs_post_init__(self) -> None:
        self.begin(self.node)

    def begin(self, node: str) -> None:
        async def came_back(client: str, session: str) -> bool:
            return client in self.back

        self.jobs = Jobs(self.store, self.clock, lambda: node, came_back, max_failures=self.max_failures, limit=1000)
        self.jobs.notify = self.told.append  # type: ignore[method-assign, assignment]

    def add(self, *bodies: int, queue: str = "q", **options: Any) -> None:
        for body in bodies:
            value_of(self.jobs.add(Mail(queue, f"ref{body}", b"%d" % body, "ann", NOW), **options))

    def put(self, *bodies: int, queue: str = "q") -> None:
        for body in bodies:
            value_of(self.jobs.put(Mail(queue, f"ref{body}", b"%d" % body, "ann", NOW)))

    def consume(self, peer: Peer, queue: str = "q", *, ack: bool = True, prefetch: int = 1, **options: Any) -> Peer:
        words = {"lease": 30.0, **options}
        self.jobs.consume(peer, queue, peer.worker, ack=ack, prefetch=prefetch, **words)
        return peer

    def done(self, peer: Peer, id: str = "") -> None:
        value_of(self.jobs.leases.finish(id or peer.last.id, peer.worker))

    def fail(self, peer: Peer, reason: str = "", delay: float | None = None) -> None:
        value_of(self.jobs.leases.fail(peer.last.id, peer.worker, reason, delay))

    def state(self, queue: str = "q") -> tuple[int, int, int, int]:
        found: QueueState = value_of(self.store.jobs.state(queue))
        return found.ready, found.delayed, found.in_flight, found.dead


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(NOW)
    return clock


@pytest.fixture
def house(clock: Clock) -> House:
    store = open_store("memory:", clock=clock)
    store.startService()
    return House(store, clock)


# Who gets a job.


def test_a_job_goes_to_a_consumer_as_it_was_added(house: House) -> None:
    bob = house.consume(Peer("1"))
    house.add(7)
    job = bob.last
    assert (job.queue, job.ref, job.body, job.source, job.time) == ("queue:q", "ref7", b"7", "ann", NOW)
    assert (job.delivery, job.lease) == (1, 30.0)
    assert house.state() == (0, 0, 1, 0)


def test_what_waits_goes_to_the_consumer_that_comes_in_order(house: House) -> None:
    house.add(*range(200))
    bob = house.consume(Peer("1"), prefetch=1000)
    assert bob.bodies == [b"%d" % number for number in range(200)]


def test_a_consumer_has_no_more_jobs_than_its_prefetch(house: House) -> None:
    bob = house.consume(Peer("1"), prefetch=2)
    house.add(1, 2, 3, 4)
    assert bob.bodies == [b"1", b"2"]
    house.done(bob)
    assert bob.bodies == [b"1", b"2", b"3"]


def test_the_next_job_goes_to_the_one_with_the_most_room(house: House) -> None:
    house.add(*range(10))
    small = house.consume(Peer("1"), prefetch=2)
    large = house.consume(Peer("2"), prefetch=6)
    assert (len(small.got), len(large.got)) == (2, 6)
    busy, idle = house.consume(Peer("3"), "r", prefetch=3), house.consume(Peer("4"), "r", prefetch=3)
    house.add(*range(4), queue="r")
    assert (len(busy.got), len(idle.got)) == (2, 2)
    for _ in range(2):
        house.done(idle, cast(Delivery, idle.got.pop(0)).id)
    house.add(4, 5, queue="r")
    assert (len(busy.got), len(idle.got)) == (2, 2)


def test_those_with_as_much_room_are_served_by_turns(house: House) -> None:
    ann, bob = house.consume(Peer("1"), ack=False, prefetch=64), house.consume(Peer("2"), ack=False, prefetch=64)
    house.put(*range(10))
    assert (len(ann.got), len(bob.got)) == (5, 5)


def test_a_consumer_without_room_gets_nothing_until_it_has(house: House) -> None:
    bob = house.consume(Peer("1", room=False), prefetch=9)
    house.add(1, 2)
    assert (bob.got, house.state()) == ([], (2, 0, 0, 0))
    bob.room = True
    house.jobs.collect(bob)
    assert bob.bodies == [b"1", b"2"]


def test_who_stops_to_consume_keeps_what_it_has(house: House) -> None:
    bob = house.consume(Peer("1"))
    house.add(1, 2)
    assert house.jobs.stop_consuming(bob, "q")
    assert not house.jobs.stop_consuming(bob, "q")
    house.done(bob)
    assert house.state() == (1, 0, 0, 0)
    assert len(house.jobs) == 0


def test_consuming_otherwise_counts_what_one_has(house: House) -> None:
    bob = house.consume(Peer("1"), prefetch=2)
    house.add(*range(5))
    house.consume(bob, prefetch=3)
    assert bob.bodies == [b"0", b"1", b"2"]
    house.done(bob)
    assert len(bob.got) == 4
    assert house.jobs.consumed(bob) == ["q"]


def test_a_job_that_was_not_begun_goes_back_as_often_as_one_likes(house: House) -> None:
    house.add(1)
    for _ in range(50):
        bob = house.consume(Peer("1"))
        assert bob.last.delivery == 1
        house.jobs.stop_consuming(bob, "q")
        value_of(house.jobs.leases.give_back(bob.last.id, bob.worker, bob.id))
        assert (house.state(), bob.held) == ((1, 0, 0, 0), 0)


def test_a_job_that_was_not_begun_goes_back_from_the_node_that_had_it(house: House, clock: Clock) -> None:
    house.add(1)
    bob = house.consume(Peer("1", client="bob"))
    other = House(house.store, clock, node="other")
    eve = Peer("2", client="eve")
    with pytest.raises(NotFound):
        value_of(other.jobs.leases.give_back(bob.last.id, eve.worker, eve.id))
    assert house.state() == (0, 0, 1, 0)
    value_of(other.jobs.leases.give_back(bob.last.id, Worker("bob", "other", named=True), "3"))
    assert (house.state(), len(other.jobs.leases)) == ((1, 0, 0, 0), 0)
    house.jobs.stop_consuming(bob, "q")
    clock.advance(60.0)
    assert house.state() == (1, 0, 0, 0)


def test_a_delayed_job_comes_when_it_is_due(house: House, clock: Clock) -> None:
    bob = house.consume(Peer("1"), prefetch=9)
    house.add(1, delay=10.0)
    clock.advance(9.9)
    assert bob.got == []
    clock.advance(0.2)
    assert bob.bodies == [b"1"]


def test_a_consumer_that_comes_later_knows_when_the_next_job_is_due(house: House, clock: Clock) -> None:
    house.add(1, delay=10.0)
    bob = house.consume(Peer("1"))
    clock.advance(10.1)
    assert bob.bodies == [b"1"]


def test_jobs_of_one_order_key_go_one_at_a_time(house: House) -> None:
    ann, bob = house.consume(Peer("1")), house.consume(Peer("2"))
    house.add(1, 2, 3, order="k")
    assert len(ann.got) + len(bob.got) == 1
    for number in range(2, 4):
        has = ann if ann.got else bob
        house.done(has)
        has.got.clear()
        assert ann.bodies + bob.bodies == [b"%d" % number]


def test_a_full_queue_takes_no_more(house: House) -> None:
    house.add(*range(1000))
    with pytest.raises(RateLimited):
        house.add(1000)


# Those that filter.


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"type":"a","n":1,"more":[]}', True),
        (b'{"n":1.0,"type":"a"}', True),
        (b'{"type":"a","n":true}', False),
        (b'{"type":"a"}', False),
        (b'{"type":"b","n":1}', False),
        (b"[1]", False),
        (b'"type"', False),
        (b'{"type":"\\ud800","n":1}', False),
    ],
)
def test_a_filter_looks_for_exact_members(payload: bytes, expected: bool) -> None:
    assert job_filter({"type": "a", "n": 1})(payload) is expected


def test_a_filter_compares_whole_values() -> None:
    matches = job_filter({"a": {"b": [1, None]}})
    assert matches(b'{"a":{"b":[1,null]}}')
    assert not matches(b'{"a":{"b":[1,null],"c":1}}')
    assert not matches(b'{"a":{"b":[true,null]}}')


@pytest.mark.parametrize(
    ("name", "payload", "expected"),
    [
        ('a"b', b'{"c":0,"a\\"b":1}', True),
        ('a"b', b'{"c":1}', False),
        ("a", b'{"a":2,"a": 1.000 }', True),
        ("a", b'{"a":1.%b}' % (b"0" * 5000), False),
        ("a", b'{"a":[%b1]}' % (b"[]," * 300_000), False),
        ('a"b', b'{"c":[%b1],"a\\"b":1}' % (b"1," * 300_000), False),
    ],
)
def test_what_takes_much_more_room_than_a_filter_asks_for_is_not_decoded(
    name: str, payload: bytes, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    decode = job_filters._value
    monkeypatch.setattr(job_filters, "_value", lambda text: decoded.append(len(text)) or decode(text))
    assert job_filter({name: 1})(payload) is expected
    assert all(size < 2000 for size in decoded)


def test_an_escaped_text_is_the_same() -> None:
    escaped = json.dumps("é😀" * 100, ensure_ascii=True)
    assert job_filter({"a": "é😀" * 100})(f'{{"a":{escaped}}}'.encode())


def test_a_large_filter_is_refused() -> None:
    with pytest.raises(TooLarge):
        job_filter({"a": "b" * 5000})


def test_each_that_filters_gets_its_jobs(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.core.jobs.LOOKED_AT", 3)
    for number in range(20):
        value_of(house.jobs.add(Mail("q", "", b'{"kind":%d}' % (number % 2))))
    even = house.consume(Peer("1"), prefetch=4, matches=job_filter({"kind": 0}))
    odd = house.consume(Peer("2"), prefetch=100, matches=job_filter({"kind": 1}))
    assert even.bodies == [b'{"kind":0}'] * 4
    assert odd.bodies == [b'{"kind":1}'] * 10
    house.done(even)
    value_of(house.jobs.add(Mail("q", "", b'{"kind":1}')))
    assert (len(even.got), len(odd.got)) == (5, 11)


def test_a_returned_job_is_found_by_one_that_filters(house: House) -> None:
    matches = job_filter({"a": 1})
    ann = house.consume(Peer("1"), matches=matches)
    bob = house.consume(Peer("2"), matches=matches)
    value_of(house.jobs.add(Mail("q", "", b'{"a":1}')))
    value_of(house.jobs.add(Mail("q", "", b'{"a":1}')))
    value_of(house.jobs.add(Mail("q", "", b"2")))
    house.done(bob)
    house.jobs.leave(ann)
    assert bob.got[-1].body == b'{"a":1}'
    assert bob.last.delivery == 2


def test_very_many_that_filter_are_asked_in_slices(house: House, clock: Clock) -> None:
    asked = []

    def slowly(name: str) -> Callable[[bytes], bool]:
        def matches(body: bytes) -> bool:
            asked.append((name, body))
            clock.rightNow += SLICE
            return body == b"2"

        return matches

    house.add(1, 2)
    ann = house.consume(Peer("1"), prefetch=2, matches=slowly("ann"))
    bob = house.consume(Peer("2"), matches=slowly("bob"))
    assert asked == [("ann", b"1")]
    house.jobs.stop_consuming(ann, "q")
    clock.pump([0] * 9)
    assert (ann.bodies, bob.bodies) == ([], [b"2"])
    assert asked == [("ann", b"1"), ("bob", b"1"), ("bob", b"2")]


def test_what_is_returned_while_those_that_filter_are_asked_is_looked_at(house: House, clock: Clock) -> None:
    def slowly(body: bytes) -> bool:
        clock.rightNow += SLICE
        return body == b"1"

    house.add(1, 2, 3)
    ann = house.consume(Peer("1"))
    bob = house.consume(Peer("2"), matches=slowly)
    assert (ann.bodies, bob.bodies) == ([b"1"], [])
    house.jobs.leave(ann)
    clock.pump([0] * 9)
    assert bob.bodies == [b"1"]


def test_a_long_queue_is_looked_through_now_and_then_only(house: House, clock: Clock) -> None:
    looks: list[int] = []
    ready = house.store.jobs.ready

    def look(queue: str, after: int, *words: int) -> Deferred[Any]:
        looks.append(after)
        clock.rightNow += 1.0  # it takes long
        return cast(Deferred[Any], ready(queue, after, *words))

    cast(Any, house.store.jobs).ready = look
    house.add(1, 2)
    ann = house.consume(Peer("1"), matches=job_filter({"a": 1}))
    house.jobs.wake("q")
    assert looks.count(0) == 1
    value_of(house.jobs.add(Mail("q", "", b'{"a":1}')))
    assert len(ann.got) == 1
    house.done(ann)
    clock.advance(20.0)
    assert looks.count(0) == 2


@pytest.mark.parametrize("first", ["jobs", "consumer"])
def test_without_ack_jobs_of_one_order_key_go_one_after_the_other(house: House, first: str) -> None:
    bob = Peer("1")
    if first == "consumer":
        house.consume(bob, ack=False, prefetch=9)
    house.add(1, 2, 3, order="k")
    if first == "jobs":
        house.consume(bob, ack=False, prefetch=9)
    assert bob.bodies == [b"1", b"2", b"3"]


# What becomes of a delivery.


def test_a_job_that_is_done_is_gone(house: House) -> None:
    bob = house.consume(Peer("1"))
    house.add(1)
    house.done(bob)
    assert house.state() == (0, 0, 0, 0)
    with pytest.raises(NotFound):
        house.done(bob)
    assert bob.held == 0


@pytest.mark.parametrize("id", ["", "x", "1-2-3", "-1-1", "{epoch}-1", "{epoch}-1-x", "{epoch}-²-1", "{epoch}-99-1"])
def test_what_is_no_delivery_is_not_found(house: House, id: str) -> None:
    house.add(1)
    bob = house.consume(Peer("1"))
    with pytest.raises(NotFound):
        value_of(house.jobs.leases.finish(id.format(epoch=house.store.epoch), bob.worker))


def test_nobody_else_finishes_a_job(house: House) -> None:
    bob = house.consume(Peer("1", "bob"))
    house.add(1)
    for other in (Peer("2"), Peer("3", "ann")):
        with pytest.raises(NotFound):
            house.done(other, bob.last.id)
    assert house.state() == (0, 0, 1, 0)


def test_a_job_that_fails_comes_after_a_while_and_is_dead_after_the_fifth_time(house: House, clock: Clock) -> None:
    bob = house.consume(Peer("1"))
    house.add(1)
    for number, delay in enumerate((1.0, 5.0, 30.0, 120.0), 1):
        assert (len(bob.got), bob.last.delivery) == (number, number)
        house.fail(bob, "no")
        clock.advance(delay - 0.1)
        assert len(bob.got) == number
        clock.advance(0.2)
    assert bob.last.delivery == 5
    house.fail(bob, "at last")
    assert house.state() == (0, 0, 0, 1)
    (dead,) = value_of(house.store.jobs.dead("q", 0, 9, 0))
    assert (dead.body, dead.deliveries, dead.reason) == (b"1", 5, "at last")


@pytest.mark.parametrize(("failures", "dead"), [(0, 1), (1, 1), (2, 2), (7, 7)])
def test_a_job_is_dead_after_as_many_failures_as_are_set(house: House, clock: Clock, failures: int, dead: int) -> None:
    house.max_failures = failures
    house.begin("node")
    bob = house.consume(Peer("1"))
    house.add(1)
    for _ in range(dead):
        assert house.state()[3] == 0
        house.fail(bob)
        clock.advance(200.0)
    assert house.state()[3] == 1


def test_a_failure_may_say_when_the_job_comes_again(house: House, clock: Clock) -> None:
    bob = house.consume(Peer("1"))
    house.add(1)
    house.fail(bob, delay=0.0)
    assert len(bob.got) == 2
    house.fail(bob, delay=60.0)
    clock.advance(59.0)
    assert len(bob.got) == 2
    clock.advance(1.1)
    assert len(bob.got) == 3


def test_a_lease_that_ends_is_a_failure(house: House, clock: Clock) -> None:
    bob = house.consume(Peer("1"), lease=10.0)
    house.add(1, 2)
    clock.advance(10.1)
    assert bob.bodies == [b"1", b"2"]
    assert house.state() == (0, 1, 1, 0)
    clock.advance(1.0)
    house.done(bob)
    assert (bob.last.body, bob.last.delivery) == (b"1", 2)


def test_a_job_may_be_done_after_its_lease_until_another_has_it(house: House, clock: Clock) -> None:
    bob = house.consume(Peer("1"), lease=10.0)
    house.add(1)
    first = bob.last.id
    clock.advance(10.1)
    house.jobs.stop_consuming(bob, "q")
    ann = house.consume(Peer("2"))
    clock.advance(1.0)
    with pytest.raises(NotFound):
        house.done(bob, first)
    house.done(ann)
    house.add(2)
    clock.advance(30.1)
    house.done(ann)
    assert house.state() == (0, 0, 0, 0)


def test_a_lease_is_extended(house: House, clock: Clock) -> None:
    bob = house.consume(Peer("1"), lease=10.0)
    house.add(1)
    for _ in range(5):
        clock.advance(9.0)
        value_of(house.jobs.leases.extend(bob.last.id, bob.worker, bob.id, 10.0))
    assert house.state() == (0, 0, 1, 0)
    clock.advance(10.1)
    assert house.state() == (0, 1, 0, 0)
    assert bob.held == 0


# Workers that go.


def test_the_jobs_of_one_that_goes_are_the_first_again(house: House) -> None:
    house.add(1, 2, 3)
    ann = house.consume(Peer("1"), prefetch=2)
    house.jobs.leave(ann)
    assert house.state() == (3, 0, 0, 0)
    bob = house.consume(Peer("2"), prefetch=9)
    assert [(job.body, cast(Delivery, job).delivery) for job in bob.got] == [(b"1", 2), (b"2", 2), (b"3", 1)]
    with pytest.raises(NotFound):
        house.done(ann)


@pytest.mark.parametrize("client", ["", "ann"])
def test_the_jobs_of_one_that_goes_are_returned_in_slices(house: House, clock: Clock, client: str) -> None:
    house.add(1, 2, 3)
    ann = house.consume(Peer("1", client), prefetch=3)
    slices = slices_of(clock)
    slices.now = cast(Any, partial(next, count(clock.seconds(), SLICE)))  # each job takes a slice
    house.jobs.leave(ann)
    assert house.state() == ((0, 0, 3, 0) if client else (1, 0, 2, 0))
    house.done(ann)  # its client is back, and may do that, or what it has said comes late
    clock.pump([0] * 3)
    assert house.state() == ((0, 0, 2, 0) if client else (2, 0, 0, 0))
    assert slices.pauses >= 2
    clock.advance(30)
    assert house.state() == (2, 0, 0, 0)
    assert not len(house.jobs.leases)


def test_one_with_a_client_id_has_five_seconds_to_come_back(house: House, clock: Clock) -> None:
    ann = house.consume(Peer("1", "ann"))
    house.add(1)
    house.jobs.leave(ann)
    bob = house.consume(Peer("2"))
    clock.advance(4.9)
    assert bob.got == []
    clock.advance(0.2)
    assert [(job.body, cast(Delivery, job).delivery) for job in bob.got] == [(b"1", 2)]


def test_one_that_came_back_may_finish_what_it_had(house: House, clock: Clock) -> None:
    ann = house.consume(Peer("1", "ann"))
    house.add(1)
    house.jobs.leave(ann)
    bob = house.consume(Peer("2"))
    house.back.add("ann")
    clock.advance(20.0)
    house.done(Peer("3", "ann"), ann.last.id)
    assert (bob.got, house.state()) == ([], (0, 0, 0, 0))


def test_what_one_that_came_back_does_not_finish_is_returned_without_a_failure(house: House, clock: Clock) -> None:
    ann = house.consume(Peer("1", "ann"))
    house.add(1)
    house.jobs.leave(ann)
    house.back.add("ann")
    for _ in range(301):
        clock.advance(0.1)
    assert house.state() == (1, 0, 0, 0)
    ((job),) = value_of(house.store.jobs.ready("q", 0, 9, 0))
    assert (job.deliveries, job.failures) == (1, 0)


def test_one_that_came_back_may_extend_what_it_had(house: House, clock: Clock) -> None:
    ann = house.consume(Peer("1", "ann"), lease=8.0)
    house.add(1)
    house.jobs.leave(ann)
    again = Peer("3", "ann")
    value_of(house.jobs.leases.extend(ann.last.id, again.worker, again.id, 60.0))
    clock.advance(59.0)
    assert house.state() == (0, 0, 1, 0)
    house.jobs.leave(again)
    clock.advance(1.1)
    assert house.state() == (1, 0, 0, 0)


def test_a_job_that_was_delivered_twenty_times_is_dead(house: House) -> None:
    house.add(1)
    for number in range(20):
        ann = house.consume(Peer(f"{number}"))
        assert ann.last.delivery == number + 1
        house.jobs.leave(ann)
    assert house.state() == (0, 0, 0, 1)


def test_the_next_run_returns_what_the_last_has_left_in_flight(house: House, clock: Clock) -> None:
    ann = house.consume(Peer("1", "ann"), prefetch=1)
    eve = house.consume(Peer("2"), prefetch=1)
    house.add(1, 2)
    house.jobs.stop()
    house.begin("again")
    value_of(house.jobs.recover())
    assert house.state() == (1, 0, 1, 0)
    bob = house.consume(Peer("3"), prefetch=9)
    assert [job.body for job in bob.got] == eve.bodies
    house.back.add("ann")
    clock.advance(10.0)
    house.done(Peer("4", "ann"), ann.last.id)
    assert house.state() == (0, 0, 1, 0)


# At most once.


def test_without_ack_a_job_that_was_sent_is_gone(house: House) -> None:
    house.add(1, 2)
    bob = house.consume(Peer("1"), ack=False, prefetch=64)
    assert [type(mail) for mail in bob.got] == [Mail, Mail]
    assert house.state() == (0, 0, 0, 0)


def test_without_ack_what_finds_room_is_not_stored(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    bob = house.consume(Peer("1"), ack=False, prefetch=2)
    monkeypatch.setattr(house.store.jobs, "add", lambda *_, **__: fail(Unavailable("store")))
    house.put(1, 2, 3)
    assert bob.bodies == [b"1", b"2", b"3"]
    bob.left = False
    house.put(4)
    with pytest.raises(Unavailable):
        house.put(5)


def test_without_ack_no_more_than_the_prefetch_waits_to_leave(house: House) -> None:
    bob = house.consume(Peer("1", left=False), ack=False, prefetch=3)
    house.put(*range(10))
    assert len(bob.got) == 3
    bob.left = True
    house.jobs.collect(bob)
    assert bob.bodies == [b"%d" % number for number in range(10)]


def test_without_ack_what_is_declined_is_kept(house: House) -> None:
    class Picky(Peer):
        def post_mail(self, mail: Mail) -> bool:
            return mail.body != b"1" and super().post_mail(mail)

    house.add(0, 1, 2)
    picky = house.consume(Picky("1"), ack=False, prefetch=1)
    assert picky.bodies == [b"0"]
    bob = house.consume(Peer("2"), ack=False, prefetch=9)
    assert bob.bodies == [b"1", b"2"]


# What is claimed together.


class Committing:
    """Jobs of a store that commits when it is told to, and the claims that it has got."""

    def __init__(self, jobs: Any) -> None:
        self._jobs = jobs
        self._before: list[Callable[[], object]] = []
        self.claims: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jobs, name)

    def before_commit(self, work: Callable[[], object]) -> None:
        self._before.append(work)

    def claim(self, queue: str, slots: Any, **options: Any) -> Any:
        self.claims.append(len(slots))
        return self._jobs.claim(queue, slots, **options)

    def commit(self) -> list[int]:
        """Return for how many slots each claim was."""
        before, self._before, self.claims = self._before, [], []
        for work in before:
            work()
        return self.claims


@pytest.fixture
def committing(house: House) -> Committing:
    house.store.jobs = committing = Committing(house.store.jobs)  # type: ignore[assignment]
    return committing


def test_all_slots_that_are_free_before_a_commit_are_claimed_in_one_operation(
    house: House, committing: Committing
) -> None:
    peers = [house.consume(Peer(str(number)), prefetch=2) for number in range(5)]
    house.add(*range(10))
    assert committing.commit() == [10]
    for peer in peers[:3]:
        house.done(peer)
    house.add(10, 11)
    assert committing.commit() == [3]
    assert sorted(mail.body for peer in peers for mail in peer.got) == sorted(b"%d" % number for number in range(12))


def test_what_finds_a_slot_that_is_asked_for_already_needs_no_other_node(house: House, committing: Committing) -> None:
    bob = house.consume(Peer("1"), prefetch=2)
    house.add(1, 2, 3)
    assert house.told == ["q"]
    committing.commit()
    assert bob.bodies == [b"1", b"2"]


def test_very_many_slots_are_claimed_in_several_operations(house: House, committing: Committing) -> None:
    house.consume(Peer("1"), prefetch=64)
    assert committing.commit() == [64]
    house.consume(Peer("2"), prefetch=100)
    house.add(*range(70))
    assert committing.commit() == [64, 6]


# When the store is away.


class Refusing:
    """Jobs of a store whose calls named in *broken* fail, perhaps although they are done."""

    def __init__(self, jobs: Any) -> None:
        self._jobs = jobs
        self.broken: dict[str, Exception] = {}
        self.done_all_the_same = False

    def __getattr__(self, name: str) -> Any:
        def call(*words: Any, **named: Any) -> Deferred[Any]:
            error = self.broken.get(name)
            if error is None:
                return cast(Deferred[Any], getattr(self._jobs, name)(*words, **named))
            if self.done_all_the_same:
                getattr(self._jobs, name)(*words, **named)
            return fail(error)

        return call


@pytest.fixture
def refusing(house: House) -> Refusing:
    house.store.jobs = refusing = Refusing(house.store.jobs)  # type: ignore[assignment]
    return refusing


def test_a_claim_that_fails_is_tried_again(house: House, refusing: Refusing, clock: Clock) -> None:
    refusing.broken["claim"] = NotDone("store")
    house.add(1)
    bob = house.consume(Peer("1"))
    clock.advance(0.5)
    refusing.broken.clear()
    assert bob.got == []
    clock.advance(0.6)
    assert bob.bodies == [b"1"]


@pytest.mark.parametrize("reason", ["another consumer", "another job", "a lease"])
def test_a_claim_that_failed_is_tried_again_at_once_for_a_reason(
    house: House, refusing: Refusing, clock: Clock, reason: str
) -> None:
    refusing.broken["claim"] = NotDone("store")
    house.add(1)
    bob = house.consume(Peer("1"))
    clock.pump([1.0] * 20)
    refusing.broken.clear()
    if reason == "another consumer":
        house.consume(Peer("2"))
    elif reason == "another job":
        house.add(2)
    else:
        house.jobs.wake_all()
    assert bob.bodies == [b"1"]


def test_a_claim_that_was_done_although_that_failed_is_undone(house: House, refusing: Refusing, clock: Clock) -> None:
    refusing.broken["claim"], refusing.done_all_the_same = Unavailable("store"), True
    house.add(1)
    bob = house.consume(Peer("1"))
    refusing.broken.clear()
    clock.pump([0.5] * 6)
    assert [(job.body, cast(Delivery, job).delivery) for job in bob.got] == [(b"1", 1)]


@pytest.mark.parametrize("name", ["release", "fail"])
def test_a_job_is_returned_when_the_store_is_back(house: House, refusing: Refusing, clock: Clock, name: str) -> None:
    bob = house.consume(Peer("1"), lease=10.0)
    house.add(1)
    refusing.broken[name] = Unavailable("store")
    if name == "release":
        house.jobs.leave(bob)
    else:
        clock.advance(10.1)
    clock.advance(2.0)
    refusing.broken.clear()
    assert house.state() == (0, 0, 1, 0)
    clock.pump([1.0] * 5)
    assert house.state()[2] == (0 if name == "release" else 1)


def test_a_job_that_could_not_be_said_to_be_done_stays_the_workers(
    house: House, refusing: Refusing, clock: Clock
) -> None:
    bob = house.consume(Peer("1"), lease=10.0)
    house.add(1)
    refusing.broken["finish"] = Unavailable("store")
    with pytest.raises(Unavailable):
        house.done(bob)
    refusing.broken.clear()
    house.done(bob)
    assert house.state() == (0, 0, 0, 0)


@pytest.mark.parametrize("done", [True, False])
def test_a_lease_is_kept_that_was_extended_on_another_node_although_that_failed(
    house: House, refusing: Refusing, clock: Clock, done: bool
) -> None:
    bob = house.consume(Peer("1", "bob"))
    house.add(1)
    house.jobs.stop()
    house.begin("other")
    house.back.add("bob")
    refusing.broken["extend"], refusing.done_all_the_same = Unavailable("store"), done
    with pytest.raises(Unavailable):
        value_of(house.jobs.leases.extend(bob.last.id, Worker("bob", "other", True), "2", 20.0))
    house.jobs.leases.check()
    clock.pump([1.0] * 10)
    assert len(house.jobs.leases) == done
    clock.pump([1.0] * 12)
    assert house.state() == ((1, 0, 0, 0) if done else (0, 0, 1, 0))


def test_jobs_that_were_adopted_although_that_failed_are_returned(
    house: House, refusing: Refusing, clock: Clock
) -> None:
    house.consume(Peer("1"))
    house.add(1)
    house.jobs.stop()
    house.begin("again")
    refusing.broken["adopt"], refusing.done_all_the_same = Unavailable("store"), True
    with pytest.raises(Unavailable):
        value_of(house.jobs.recover())
    refusing.broken.clear()
    clock.advance(1.1)
    bob = house.consume(Peer("2"))
    assert bob.last.delivery == 2


def test_a_job_that_may_have_been_added_is_looked_for(house: House, refusing: Refusing) -> None:
    bob = house.consume(Peer("1"))
    refusing.broken["add"], refusing.done_all_the_same = Unavailable("store"), True
    with pytest.raises(Unavailable):
        house.add(1)
    assert bob.bodies == [b"1"]


# Other nodes, and the end.


def test_other_nodes_are_told_of_what_finds_no_room_here(house: House) -> None:
    house.add(1)
    assert house.told == ["q"]
    house.consume(Peer("1"), prefetch=2)
    house.add(2)
    assert house.told == ["q"]
    house.add(3)
    assert house.told == ["q", "q"]


def test_a_count_that_takes_long_is_not_begun_again_soon(
    house: House, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Deferred[QueueState]] = []
    monkeypatch.setattr(house.store.jobs, "totals", lambda: answers.append(Deferred()) or answers[-1])
    for passed, begun in ((0.0, 1), (99.0, 1), (2.0, 2)):
        clock.advance(passed)
        counting = ensureDeferred(house.jobs.measure())
        assert len(answers) == begun
        if not counting.called:
            clock.advance(1.0)
            answers[-1].callback(QueueState(begun))
    assert house.jobs.counted == QueueState(2)


def test_stopping_leaves_no_timer(house: House, clock: Clock) -> None:
    house.consume(Peer("1", "ann"))
    house.add(1)
    house.add(2, delay=5.0)
    house.jobs.stop()
    assert clock.getDelayedCalls() == []


def test_nothing_stays_of_those_that_have_gone(house: House, clock: Clock) -> None:
    for number in range(3):
        peer = house.consume(Peer(f"{number}"), f"q{number}")
        house.add(1, queue=f"q{number}")
        house.done(peer)
        house.jobs.leave(peer)
    clock.advance(1.0)
    assert (len(house.jobs), len(house.jobs.leases), house.jobs._consumers) == (0, 0, {})
    clock.advance(60.0)
    assert clock.getDelayedCalls() == []


def test_a_queue_is_forgotten_whose_last_consumer_had_gone_when_a_claim_failed(
    house: House, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Deferred[Any] = Deferred()
    monkeypatch.setattr(house.store.jobs, "claim", lambda *_, **__: asked)
    house.jobs.leave(house.consume(Peer("1")))
    asked.errback(NotDone("store"))
    house.jobs.wake_all()  # before another attempt was due
    assert (len(house.jobs), clock.getDelayedCalls()) == (0, [])
