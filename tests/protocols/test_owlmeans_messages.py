"""Queued messages: mailboxes of clients, and work queues."""

from __future__ import annotations

import pytest

from tests.protocols.owlmeans_emulator import Room


@pytest.fixture
def room():
    return Room()


def consumed(member):
    return [message["payload"] for message in member.client.queue]


def test_message_reaches_a_connected_client(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.advance(0.3)
    alice.client.enqueue({"t": "alert"}, "id-1", recipient="bob", dt=7)
    room.pump()
    assert bob.client.frames == [
        {"type": "message", "payload": {"t": "alert"}, "id": "id-1", "sender": "alice", "dt": 7}
    ]
    assert bob.client.consume() == ({"t": "alert"}, "id-1", 0)
    assert alice.client.notices == []


def test_messages_for_a_client_that_is_away_wait_in_order_and_come_once(room):
    alice, bob = room.join("alice"), room.join("bob")
    bob.leave()
    for number in range(100):
        alice.client.enqueue(number, recipient="bob", dt=1)
    room.pump()
    back = room.join("bob")
    room.pump()
    assert consumed(back) == []
    back.client.ping()
    room.advance(1)
    assert consumed(back) == list(range(100))
    back.leave()
    again = room.join("bob")
    room.advance(1)
    assert consumed(again) == []


def test_waiting_messages_come_after_a_quarter_of_a_second_of_silence(room):
    alice, bob = room.join("alice"), room.join("bob")
    bob.leave()
    alice.client.enqueue(1, recipient="bob")
    room.pump()
    back = room.join("bob")
    room.advance(0.2)
    assert back.client.frames == []
    room.advance(0.1)
    assert consumed(back) == [1]


def test_message_for_a_connection_that_closes_waits_for_the_next_one(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.advance(0.3)
    bob.connected.link.close(1001, "leaving")  # the client has not answered the close yet
    alice.client.enqueue(1, recipient="bob")
    room.pump()
    bob.leave()
    back = room.join("bob")
    room.advance(0.3)
    assert consumed(bob) == []
    assert consumed(back) == [1]


def test_oldest_message_is_dropped_with_a_notice():
    room = Room(max_mailbox=3)
    alice, bob = room.join("alice"), room.join("bob")
    bob.leave()
    for number in range(5):
        alice.client.enqueue(number, f"id{number}", recipient="bob")
    room.pump()
    assert alice.client.notices == ["SocketErrorMessage|||socket:message:limit:mailbox|||"] * 2
    assert alice.client.of("system")[0]["payload"]["ref"] == {"type": "message", "id": "id3"}
    back = room.join("bob")
    room.advance(0.3)
    assert consumed(back) == [2, 3, 4]


def test_messages_too_old_are_dropped():
    room = Room(mailbox_seconds=100.0)
    alice, bob = room.join("alice"), room.join("bob")
    bob.leave()
    alice.client.enqueue("old", recipient="bob")
    room.pump()
    room.clock.advance(99)
    alice.client.enqueue("young", recipient="bob")
    room.pump()
    room.clock.advance(2)
    back = room.join("bob")
    room.advance(0.3)
    assert consumed(back) == ["young"]


def test_message_goes_to_the_latest_session_of_a_client(room):
    alice, first, second = room.join("alice"), room.join("bob"), room.join("bob")
    room.advance(0.3)
    alice.client.enqueue(1, recipient="bob")
    alice.client.enqueue(2, recipient=first.id)
    room.pump()
    assert (consumed(first), consumed(second)) == ([2], [1])


def test_message_to_an_unknown_client_is_told_by_a_notice(room):
    alice = room.join("alice")
    alice.client.enqueue(1, recipient="nobody")
    room.pump()
    assert alice.client.notices == ["SocketErrorConnection|||socket:connection:recipient:nobody|||"]


def test_session_without_a_name_has_no_mailbox(room):
    alice, guest = room.join("alice"), room.join()
    guest.leave()
    alice.client.enqueue(1, recipient=guest.id)
    room.pump()
    assert len(alice.client.notices) == 1


def test_work_queue_gives_each_message_to_one_consumer_in_turn(room):
    alice, bob, carol = room.join("alice"), room.join("bob"), room.join("carol")
    for member in (bob, carol):
        assert room.ask(member, "broker.consume", "jobs") == {"consuming": ["jobs"]}
    for number in range(10):
        alice.client.enqueue(number, recipient="queue:jobs")
    room.pump()
    assert sorted(consumed(bob) + consumed(carol)) == list(range(10))
    assert len(consumed(bob)) == 5


def test_work_waits_for_a_consumer(room):
    alice, bob = room.join("alice"), room.join("bob")
    alice.client.enqueue({"job": 1}, "j1")
    alice.client.raw('{"plain":1}')
    alice.client.raw("[1,2]")
    alice.client.send({"type": "message", "id": "bare"})
    room.pump()
    assert room.ask(bob, "broker.consume") == {"consuming": ["default"]}
    jobs = consumed(bob)
    assert jobs[:3] == [{"job": 1}, {"plain": 1}, [1, 2]]
    assert jobs[3]["id"] == "bare"
    assert bob.client.queue[0]["id"] == "j1"
    assert "id" not in bob.client.queue[1]


def test_released_queue_gives_no_more(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.ask(bob, "broker.consume", "a")
    room.ask(bob, "broker.consume", "b")
    assert room.ask(bob, "broker.release", "a") == {"consuming": ["b"]}
    alice.client.enqueue(1, recipient="queue:a")
    room.pump()
    assert consumed(bob) == []


def test_consumer_that_leaves_loses_nothing_that_was_not_sent(room):
    alice, bob, carol = room.join("alice"), room.join("bob"), room.join("carol")
    room.ask(bob, "broker.consume")
    bob.leave()
    for number in range(3):
        alice.client.enqueue(number)
    room.pump()
    room.ask(carol, "broker.consume")
    assert consumed(carol) == [0, 1, 2]


def test_slow_reader_gets_its_mail_when_it_has_read(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.ask(bob, "broker.consume")
    room.advance(0.3)
    bob.connected.link.paused = True
    for number in range(3):
        alice.client.enqueue(number, recipient="bob")
        alice.client.enqueue(10 + number)
    room.advance(0.5)
    assert consumed(bob) == []
    bob.connected.link.paused = False
    room.advance(0.2)
    assert sorted(consumed(bob)) == [0, 1, 2, 10, 11, 12]


def test_slow_reader_without_a_name_gets_its_mail_when_it_has_read(room):
    alice, nobody = room.join("alice"), room.join()
    room.advance(0.3)
    nobody.connected.link.paused = True
    alice.client.enqueue(1, recipient=nobody.connected.peer.id)
    room.advance(0.5)
    assert consumed(nobody) == []
    nobody.connected.link.paused = False
    room.advance(0.2)
    assert consumed(nobody) == [1]


def test_large_mailbox_comes_in_bursts(room):
    alice, bob = room.join("alice"), room.join("bob")
    bob.leave()
    for number in range(10):
        alice.client.enqueue([number, "x" * 100000], recipient="bob")
    room.pump()
    back = room.join("bob")
    back.client.ping()
    room.pump()
    assert 0 < len(consumed(back)) < 10
    room.advance(1)
    assert [number for number, _ in consumed(back)] == list(range(10))


def test_lone_surrogates_pass_through_a_mailbox(room):
    alice, bob = room.join("alice"), room.join("bob")
    bob.leave()
    alice.client.raw('{"type":"message","recipient":"bob","id":"1","payload":{"text":"\\ud83d half"}}')
    room.pump()
    back = room.join("bob")
    room.advance(0.3)
    assert consumed(back) == [{"text": "\ud83d half"}]


def test_client_leaving_with_mail_declined_leaves_no_timer(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.advance(0.3)
    bob.connected.link.paused = True
    alice.client.enqueue(1, recipient="bob")
    room.pump()
    timers = len(room.clock.getDelayedCalls())
    bob.leave()
    assert len(room.clock.getDelayedCalls()) == timers - 1
