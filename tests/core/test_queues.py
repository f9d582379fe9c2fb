"""Mailboxes: order, limits, and nothing lost in between."""

from __future__ import annotations

from typing import Any, cast

import attrs
import pytest
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock

from broker.core import queues as queues_module
from broker.core.queues import Queues
from broker.errors import Timeout, Unavailable
from broker.messages import Mail
from broker.stores import open_store
from broker.testing import value_of


@attrs.define(eq=False)
class Taker:
    willing: bool = True
    got: list[Mail] = attrs.field(factory=list)

    def post_mail(self, mail):
        if self.willing:
            self.got.append(mail)
        return self.willing

    @property
    def bodies(self):
        return [mail.body for mail in self.got]


@pytest.fixture
def clock():
    clock = Clock()
    clock.advance(1_000_000)
    return clock


@pytest.fixture
def store(clock):
    store = open_store("memory:", clock=clock)
    store.startService()
    return store


@pytest.fixture
def takers():
    return {}


@pytest.fixture
def queues(store, clock, takers):
    return Queues(store, clock, lambda queue: takers.get(queue, []), limit=5, max_age=100.0)


def put(queues, number, queue="client:bob", time=1.0):
    return value_of(queues.put(Mail(queue, f"ref{number}", b"%d" % number, "ann", time)))


def test_mail_goes_to_the_taker_at_once(queues, takers):
    bob = Taker()
    takers["client:bob"] = [bob]
    queues.drain("client:bob")
    assert put(queues, 1) is False
    (mail,) = bob.got
    assert (mail.queue, mail.ref, mail.body, mail.source, mail.time) == ("client:bob", "ref1", b"1", "ann", 1.0)


def test_mail_that_is_taken_at_once_is_not_stored(queues, store, takers, monkeypatch):
    takers["client:bob"] = [bob := Taker()]
    queues.drain("client:bob")
    monkeypatch.setattr(store, "append", lambda *_: fail(Unavailable("store")))
    for number in range(3):
        assert put(queues, number) is False
    assert bob.bodies == [b"0", b"1", b"2"]


def test_mail_waits_as_it_was_sent(queues, takers):
    bob = Taker()
    put(queues, 1, time=5.25)
    takers["client:bob"] = [bob]
    queues.drain("client:bob")
    (mail,) = bob.got
    assert (mail.queue, mail.ref, mail.body, mail.source, mail.time) == ("client:bob", "ref1", b"1", "ann", 5.25)


def test_body_is_kept_byte_for_byte(queues, takers):
    bob = Taker()
    body = b'{"a" : "\\ud800", "b":\n1e999 }'
    value_of(queues.put(Mail("client:bob", '"\n\\', body)))
    takers["client:bob"] = [bob]
    queues.drain("client:bob")
    assert (bob.got[0].ref, bob.got[0].body) == ('"\n\\', body)


def test_waiting_mail_comes_once_and_in_order(queues, takers, monkeypatch):
    monkeypatch.setattr(queues_module, "MESSAGES_PER_READ", 2)
    bob = Taker()
    for number in range(5):
        put(queues, number)
    takers["client:bob"] = [bob]
    queues.drain("client:bob")
    put(queues, 5)
    assert bob.bodies == [b"0", b"1", b"2", b"3", b"4", b"5"]
    takers.clear()
    queues.left("client:bob")
    assert len(queues) == 0
    takers["client:bob"] = [again := Taker()]
    queues.drain("client:bob")
    assert again.bodies == []


def test_taker_that_declines_gets_it_later(queues, takers):
    bob = Taker(willing=False)
    takers["client:bob"] = [bob]
    queues.drain("client:bob")
    for number in range(3):
        put(queues, number)
    assert bob.got == []
    bob.willing = True
    queues.drain("client:bob")
    assert bob.bodies == [b"0", b"1", b"2"]


def test_nothing_overtakes_what_was_declined(queues, takers):
    class Picky(Taker):
        def post_mail(self, mail):
            self.willing = mail.body != b"1"
            return super().post_mail(mail)

    for number in range(4):
        put(queues, number)
    takers["client:bob"] = [picky := Picky()]
    queues.drain("client:bob")
    assert picky.bodies == [b"0"]
    takers["client:bob"] = [bob := Taker()]
    queues.drain("client:bob")
    assert bob.bodies == [b"1", b"2", b"3"]


def test_next_one_takes_what_the_first_declines(queues, takers):
    bob, second = Taker(willing=False), Taker()
    takers["client:bob"] = [bob, second]
    queues.drain("client:bob")
    put(queues, 1)
    assert second.bodies == [b"1"]


def test_oldest_mail_is_dropped_over_the_limit(queues, takers):
    assert [put(queues, number) for number in range(8)] == [False] * 5 + [True] * 3
    takers["client:bob"] = [bob := Taker()]
    queues.drain("client:bob")
    assert bob.bodies == [b"3", b"4", b"5", b"6", b"7"]
    takers.clear()
    queues.left("client:bob")
    assert [put(queues, number) for number in range(5)] == [False] * 5


def test_mail_too_old_is_dropped_by_the_brokers_clock(queues, takers, clock):
    put(queues, 1, time=1.0)
    clock.advance(60)
    put(queues, 2, time=1e12)
    clock.advance(60)
    takers["client:bob"] = [bob := Taker()]
    queues.drain("client:bob")
    assert bob.bodies == [b"2"]


# While the store is at work


class SlowStore:
    """A store whose appends take until they are let go; reads see what was called before."""

    def __init__(self, store):
        self._store = store
        self.waiting = []

    def __getattr__(self, name):
        return getattr(self._store, name)

    def append(self, log, event, quota=None):
        stored = value_of(self._store.append(log, event, quota))
        answer = Deferred()
        self.waiting.append(lambda: answer.callback(stored))
        return answer

    def go(self):
        for answer in self.waiting:
            answer()
        self.waiting.clear()


def test_mail_does_not_overtake_what_is_being_stored(store, clock, takers):
    slow = SlowStore(store)
    queues = Queues(cast(Any, slow), clock, lambda queue: takers.get(queue, []))
    first = queues.put(Mail("client:bob", "", b"1"))
    takers["client:bob"] = [bob := Taker(willing=False)]
    queues.drain("client:bob")
    bob.willing = True
    second = queues.put(Mail("client:bob", "", b"2"))
    slow.go()
    third = queues.put(Mail("client:bob", "", b"3"))
    slow.go()
    assert [value_of(sent) for sent in (first, second, third)] == [False] * 3
    assert bob.bodies == [b"1", b"2", b"3"]


def test_taker_that_comes_while_mail_is_stored_gets_it(store, clock, takers):
    slow = SlowStore(store)
    queues = Queues(cast(Any, slow), clock, lambda queue: takers.get(queue, []))
    sent = queues.put(Mail("client:bob", "", b"1"))
    takers["client:bob"] = [bob := Taker()]
    queues.drain("client:bob")
    slow.go()
    assert value_of(sent) is False
    assert bob.bodies == [b"1"]


def test_taker_that_can_take_again_while_a_position_is_stored_gets_the_rest(queues, store, takers, monkeypatch):
    class Small(Taker):
        def post_mail(self, mail):
            self.willing = bool(not self.got or room)
            return super().post_mail(mail)

    room, held, original = [], Deferred(), store.set

    def set_later(*words, **options):
        return held.addCallback(lambda _: original(*words, **options))

    for number in range(3):
        put(queues, number)
    takers["client:bob"] = [bob := Small()]
    monkeypatch.setattr(store, "set", set_later)
    queues.drain("client:bob")
    room.append(True)
    queues.drain("client:bob")
    assert bob.bodies == [b"0"]
    monkeypatch.undo()
    held.callback(None)
    assert bob.bodies == [b"0", b"1", b"2"]


def test_position_moved_by_another_is_looked_at_again(queues, store, monkeypatch):
    original = store.set
    interfering = [True]

    def set_late(space, key, value, **options):
        if interfering and space == queues_module.POSITION:
            interfering.clear()
            value_of(original(space, key, b"1"))
        return original(space, key, value, **options)

    monkeypatch.setattr(store, "set", set_late)
    assert [put(queues, number) for number in range(7)] == [False] * 5 + [False, True]


def test_store_that_is_away_fails_the_sender(queues, store, monkeypatch):
    monkeypatch.setattr(store, "append", lambda *_: fail(Unavailable("store")))
    with pytest.raises(Unavailable):
        put(queues, 1)


@pytest.mark.parametrize("error", [Unavailable("store"), ZeroDivisionError()])
def test_failed_delivery_is_logged_and_tried_again(queues, store, takers, monkeypatch, error):
    put(queues, 1)
    takers["client:bob"] = [bob := Taker()]
    lines = []
    for level in ("warn", "error"):
        monkeypatch.setattr(queues_module.log, level, lambda text, **_: lines.append(text), raising=False)
    with monkeypatch.context() as broken:
        broken.setattr(store, "read", lambda *_: fail(error))
        queues.drain("client:bob")
    assert len(lines) == 1
    queues.drain("client:bob")
    assert bob.bodies == [b"1"]


def test_drain_during_a_drain_looks_again(store, clock, takers):
    queues = Queues(store, clock, lambda queue: takers.get(queue, []))

    class Busy(Taker):
        def post_mail(self, mail):
            if len(self.got) == 0:
                queues.drain("client:bob")
            return super().post_mail(mail)

    takers["client:bob"] = [bob := Busy()]
    value_of(queues.put(Mail("client:bob", "", b"1")))
    queues.drain("client:bob")
    value_of(queues.put(Mail("client:bob", "", b"2")))
    assert bob.bodies == [b"1", b"2"]


@pytest.mark.parametrize("error", [Unavailable("store"), ZeroDivisionError()])
def test_delivery_that_has_failed_is_tried_again_by_itself(queues, store, takers, clock, monkeypatch, error):
    put(queues, 1)
    takers["client:bob"] = [bob := Taker()]
    monkeypatch.setattr(queues_module.log, "error", lambda text, **_: None, raising=False)
    with monkeypatch.context() as broken:
        broken.setattr(store, "read", lambda *_: fail(error))
        queues.drain("client:bob")
        clock.pump([queues_module.RETRY_DELAY] * 10)
    clock.advance(queues_module.MAX_RETRY_DELAY)
    assert bob.bodies == [b"1"]
    assert clock.getDelayedCalls() == []


def test_mail_that_was_stored_although_that_failed_is_delivered(queues, store, takers, monkeypatch):
    takers["client:bob"] = [bob := Taker()]
    original = store.append

    def append(*words):
        value_of(original(*words))
        return fail(Unavailable("store"))

    monkeypatch.setattr(store, "append", append)
    with pytest.raises(Unavailable):
        put(queues, 1)
    assert bob.bodies == [b"1"]


def test_a_sender_that_goes_while_its_mail_is_stored_keeps_nobody_waiting(store, clock, takers):
    slow = SlowStore(store)
    queues = Queues(cast(Any, slow), clock, lambda queue: takers.get(queue, []))
    takers["client:bob"] = [bob := Taker()]
    sent = queues.put(Mail("client:bob", "", b"1"))
    sent.cancel()
    slow.go()
    with pytest.raises(CancelledError):
        value_of(sent)
    assert bob.bodies == [b"1"]


def test_stopping_leaves_no_timer(queues, store, takers, clock, monkeypatch):
    put(queues, 1)
    takers["client:bob"] = [Taker()]
    monkeypatch.setattr(store, "read", lambda *_: fail(Unavailable("store")))
    queues.drain("client:bob")
    queues.stop()
    queues.drain("client:bob")
    assert clock.getDelayedCalls() == []


@attrs.define(eq=False)
class Acknowledging(Taker):
    """Says later whether it has a message."""

    answers: list[Deferred[Any]] = attrs.field(factory=list)

    def post_mail(self, mail):
        self.got.append(mail)
        self.answers.append(Deferred())
        return self.answers[-1]


@pytest.fixture
def later(queues, takers):
    takers["client:bob"] = [bob := Acknowledging()]
    queues.drain("client:bob")
    return bob


def kept(queues, store, queue="client:bob"):
    """Return the bodies of what is kept."""
    return [event.body.partition(b"\n")[2] for event in value_of(store.read("mail/" + queue, 0, 100))]


def test_mail_is_kept_until_it_is_acknowledged(queues, store, later):
    for number in range(3):
        put(queues, number)
    assert (later.bodies, kept(queues, store)) == ([b"0"], [b"0", b"1", b"2"])
    later.answers.pop().callback(True)
    assert (later.bodies, kept(queues, store)) == ([b"0", b"1", b"2"], [b"1", b"2"])
    for answer in later.answers:
        answer.callback(True)
    assert kept(queues, store) == []


@pytest.mark.parametrize("first", [0, 1])
def test_what_is_not_acknowledged_comes_again_with_what_is_behind_it(queues, clock, store, takers, first):
    for number in range(3):
        put(queues, number)
    takers["client:bob"] = [bob := Acknowledging()]
    queues.drain("client:bob")
    for number, answer in enumerate(bob.answers):
        answer.callback(True) if number != first else answer.errback(Timeout("mail"))
    assert kept(queues, store) == [b"0", b"1", b"2"][first:]
    assert len(bob.got) == 3
    clock.advance(1.0)
    assert bob.bodies[3:] == [b"0", b"1", b"2"][first:]


def test_what_is_declined_later_waits_until_it_is_collected(queues, clock, store, later):
    put(queues, 1)
    later.answers[0].callback(False)
    clock.advance(100.0)
    assert (later.bodies, kept(queues, store)) == ([b"1"], [b"1"])
    queues.drain("client:bob")
    assert later.bodies == [b"1", b"1"]


def test_what_a_session_had_goes_to_the_other_when_it_has_gone(queues, store, takers, later):
    put(queues, 1)
    takers["client:bob"] = [other := Taker()]
    later.answers[0].callback(None)
    assert (other.bodies, kept(queues, store)) == ([b"1"], [])


def test_so_many_wait_for_their_answers_at_once(queues, takers, monkeypatch):
    monkeypatch.setattr(queues_module, "MESSAGES_PER_READ", 2)
    for number in range(4):
        put(queues, number)
    takers["client:bob"] = [bob := Acknowledging()]
    queues.drain("client:bob")
    assert bob.bodies == [b"0", b"1"]
    for answer in bob.answers[:2]:
        answer.callback(True)
    assert bob.bodies == [b"0", b"1", b"2", b"3"]
