"""Which client ids have a mailbox."""

from __future__ import annotations

import pytest
from twisted.internet.defer import fail
from twisted.internet.task import Clock

from broker.core.mailboxes import RETRIES, RETRY_DELAY, Mailboxes
from broker.errors import Unavailable
from broker.messages import Quota
from broker.stores import open_store
from broker.testing import value_of

LIFE = 100.0  # seconds


@pytest.fixture
def clock():
    clock = Clock()
    clock.advance(1_000_000_000)
    return clock


@pytest.fixture
def store(clock):
    store = open_store("memory:", clock=clock)
    store.startService()
    return store


@pytest.fixture
def mailboxes(store, clock):
    return Mailboxes(store, {"configured"}.__contains__, clock, LIFE)


def has(mailboxes, client):
    return value_of(mailboxes.has(client))


def test_a_client_has_one_from_the_first_time_it_is_seen(mailboxes):
    assert not has(mailboxes, "ann")
    mailboxes.open("ann")
    assert has(mailboxes, "ann")


def test_an_identity_of_the_configuration_has_one(mailboxes):
    assert has(mailboxes, "configured")


def test_the_store_knows_those_of_a_former_run(mailboxes, store, clock):
    mailboxes.open("ann")
    assert has(Mailboxes(store, lambda _: False, clock, LIFE), "ann")


def test_one_that_could_not_be_stored_is_tried_again(mailboxes, store, monkeypatch):
    monkeypatch.setattr(store, "set", lambda *words, **named: fail(Unavailable("store")))
    mailboxes.open("ann")
    monkeypatch.undo()
    assert not has(mailboxes, "ann")
    mailboxes.open("ann")
    assert has(mailboxes, "ann")


def test_one_that_could_not_be_stored_is_stored_by_itself(mailboxes, store, clock, monkeypatch):
    with monkeypatch.context() as away:
        away.setattr(store, "set", lambda *words, **named: fail(Unavailable("store")))
        for number in range(RETRIES + 1):
            mailboxes.open(f"client {number}")
        clock.pump([RETRY_DELAY] * 3)
    clock.pump([RETRY_DELAY, 0.0])
    assert all(has(mailboxes, f"client {number}") for number in (0, RETRIES))
    assert clock.getDelayedCalls() == []


def test_stopping_leaves_no_timer(mailboxes, store, clock, monkeypatch):
    monkeypatch.setattr(store, "set", lambda *words, **named: fail(Unavailable("store")))
    mailboxes.open("ann")
    mailboxes.stop()
    mailboxes.open("bob")
    assert clock.getDelayedCalls() == []


def test_one_that_is_not_used_ends(mailboxes, clock):
    mailboxes.open("ann")
    clock.advance(LIFE)
    assert has(mailboxes, "ann")
    clock.advance(LIFE / 10)
    assert not has(mailboxes, "ann")


def test_one_that_is_used_lives_on_and_that_costs_few_writes(mailboxes, store, clock):
    writes = []
    set_ = store.set
    store.set = lambda *words, **named: writes.append(words) or set_(*words, **named)
    for _ in range(300):
        mailboxes.open("ann")
        clock.advance(1.0)
    assert has(mailboxes, "ann")
    assert len(writes) == 30


def test_one_too_many_is_not_kept_and_the_others_are(mailboxes):
    for client in ("ann", "bob", "ann"):
        mailboxes.open(client, Quota("clients", "secret", 1))
    assert has(mailboxes, "ann")
    assert not has(mailboxes, "bob")


def test_a_wiped_store_gets_them_again(mailboxes, store):
    mailboxes.open("ann")
    value_of(store.delete("client", "ann"))
    mailboxes.forget()
    assert not has(mailboxes, "ann")
    mailboxes.open("ann")
    assert value_of(store.get("client", "ann")) is not None


def test_what_is_remembered_is_bounded(mailboxes):
    mailboxes._opened.size = 2
    for client in "abcde":
        mailboxes.open(client)
    assert len(mailboxes._opened) == 2
    assert has(mailboxes, "a")
