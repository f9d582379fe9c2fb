"""A client that reads slowly: stored events wait in the store, of others the newest are kept."""

from __future__ import annotations

import pytest

from protocols.owlmeans.backlog import BURST_LIMIT
from tests.protocols.owlmeans_emulator import Room

LIMIT = 1 << 20  # bytes: the default of TXBROKER_SEND_QUEUE_BYTES


@pytest.fixture
def room():
    return Room(durable_topics=("log.>",))


def joined(room, *topics):
    """Return a client that has subscribed to *topics*, and one that publishes."""
    alice, bob = room.join("alice"), room.join("bob")
    room.ask(alice, "broker.subscribe", list(topics))
    return alice, bob


def block(member, unsent=LIMIT):
    """Let *member* read nothing, with *unsent* bytes waiting for it."""
    member.connected.link.paused, member.connected.link.unsent = True, unsent


def drain(room, member):
    member.connected.link.drain()
    room.pump()


def publish(room, member, topic, count, size=1):
    for number in range(count):
        member.client.notify(topic, [number, "x" * size])
    room.pump()


def numbers(member):
    return [event["payload"][0] for event in member.client.of("event")]


def gaps(member):
    return [(gap["payload"]["topic"], gap["payload"]["count"]) for gap in member.client.of("system")]


def test_stored_events_wait_in_the_store(room):
    alice, bob = joined(room, "log.a", "log.>")
    block(alice)
    publish(room, bob, "log.a", 300, 10_000)
    assert (alice.client.of("event"), alice.connected.link.held) == ([], 0)
    assert room.broker.parts.followers.behind == 2
    drain(room, alice)
    room.advance(1)
    publish(room, bob, "log.a", 1)
    for pattern in ("log.a", "log.>"):
        ids = [event["id"] for event in alice.client.of("event") if event["event"] == pattern]
        assert ids == list(range(1, 302))
    assert (gaps(alice), alice.closed, room.broker.parts.followers.behind) == ([], None, 0)


def test_a_little_may_wait_in_the_queue(room):
    alice, bob = joined(room, "log.a", "live")
    block(alice, LIMIT // 2)
    publish(room, bob, "log.a", 1)
    publish(room, bob, "live", 1)
    assert len(alice.client.of("event")) == 2


def test_the_oldest_of_other_events_are_dropped_and_counted(room):
    alice, bob = joined(room, "live.*")
    block(alice)
    publish(room, bob, "live.a", 2 * BURST_LIMIT, LIMIT // 2)
    publish(room, bob, "live.b", 4, LIMIT // 2)
    assert alice.connected.link.held <= BURST_LIMIT * LIMIT
    drain(room, alice)
    kept = len(alice.client.of("event"))
    assert gaps(alice) == [("live.a", 2 * BURST_LIMIT + 4 - kept)]
    assert numbers(alice)[-4:] == [0, 1, 2, 3]
    assert alice.client.frames[-kept - 1]["type"] == "system"
    assert (alice.connected.link.held, alice.closed) == (0, None)


def test_less_is_kept_once_the_grace_is_over(room):
    alice, bob = joined(room, "live")
    block(alice)
    publish(room, bob, "live", 8, LIMIT // 2)
    room.advance(5.1)
    publish(room, bob, "live", 1, LIMIT // 2)
    assert alice.connected.link.held <= LIMIT
    drain(room, alice)
    assert gaps(alice) == [("live", 8)]
    assert room.broker.metrics.slow_consumers["drop"] == 1


def test_events_keep_their_order_around_a_pause(room):
    alice, bob = joined(room, "live")
    for number in range(5):
        if number == 1:
            block(alice)
        bob.client.notify("live", [number, "x" * 1000])
        room.pump()
    drain(room, alice)
    bob.client.notify("live", [5])
    room.pump()
    assert numbers(alice) == [0, 1, 2, 3, 4, 5]


def test_no_more_than_a_number_of_missed_events_go_out_at_once():
    room = Room(durable_topics=("log.>",), resume_events=10)
    alice, bob = room.join("alice"), room.join("bob")
    publish(room, bob, "log.a", 25)
    block(alice, 100)
    room.ask(alice, "broker.subscribe", "log.a", {"from": "start"})
    sent = [len(alice.client.of("event"))]
    for _ in range(2):
        link = alice.connected.link
        link.drain()
        room.pump()
        sent.append(len(alice.client.of("event")))
    assert sent[0] == 10
    assert sent[-1] == 25


def test_replies_never_wait(room):
    alice, _ = joined(room, "log.a")
    block(alice)
    assert room.ask(alice, "broker.whoami")["id"] == "alice"


def test_too_much_before_the_first_frame_waits_in_the_store():
    room = Room(durable_topics=("log.>",), send_queue_bytes=1000)
    alice, bob = room.join(query="subscribe=log.a"), room.join("bob")
    for number in range(5):
        bob.client.notify("log.a", [number, "x" * 300])
    bob.pump()
    alice.client.ping()
    room.pump()
    assert (numbers(alice), alice.closed) == ([0, 1, 2, 3, 4], None)


def test_a_client_that_goes_leaves_nothing_behind(room):
    alice, bob = joined(room, "log.a", "live")
    block(alice)
    publish(room, bob, "log.a", 10)
    publish(room, bob, "live", 10)
    link = alice.connected.link
    alice.leave()
    assert link.held == 0
    assert len(room.broker.parts.followers) == 0
