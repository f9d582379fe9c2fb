"""Work queues with acknowledgement, as the native dialect has them."""

from __future__ import annotations

from typing import Any

import pytest

from broker.messages import Delivery
from broker.testing import make_broker
from protocols.owlmeans import wire
from tests.protocols.owlmeans_emulator import Failed, Member, Room

MALFORMED = "SocketErrorMessageMalformed"


@pytest.fixture
def room() -> Room:
    return Room()


def jobs(member: Member) -> list[dict[str, Any]]:
    return [frame for frame in member.client.frames if frame["type"] == "message"]


def worker(room: Room, name: str | None = None, **options: Any) -> Member:
    member = room.join(name) if name else room.join()
    assert room.ask(member, "broker.consume", "q", {"ack": True, **options}) == {"consuming": ["q"]}
    return member


def refused(room: Room, member: Member, method: str, *args: Any) -> str:
    with pytest.raises(Failed) as caught:
        room.ask(member, method, *args)
    return f"{caught.value.type} {caught.value.message}"


def test_a_job_is_enqueued_delivered_and_done(room: Room) -> None:
    alice, bob = room.join("alice"), worker(room, "bob")
    added = room.ask(alice, "broker.enqueue", "q", {"n": 1})
    assert (added["duplicate"], set(added)) == (False, {"id", "duplicate"})
    (job,) = jobs(bob)
    assert job == {
        "type": "message",
        "id": job["id"],
        "queue": "q",
        "delivery": 1,
        "lease": 30,
        "payload": {"n": 1},
        "sender": "alice",
        "dt": job["dt"],
    }
    assert job["id"].startswith(added["id"])
    assert room.ask(bob, "broker.queue", "q")["in_flight"] == 1
    assert room.ask(bob, "broker.done", job["id"]) == {}
    assert refused(room, bob, "broker.done", job["id"]).startswith("SocketErrorConnectionUnsupported")
    assert room.ask(bob, "broker.queue", "q") == {"depth": 0, "delayed": 0, "in_flight": 0, "dead": 0, "oldest": 0}


def test_a_message_frame_is_a_job_and_keeps_the_id_of_its_sender(room: Room) -> None:
    alice, bob = room.join("alice"), worker(room, lease=2.5)
    alice.client.enqueue({"n": 1}, "mine", recipient="queue:q", dt=7)
    room.pump()
    (job,) = jobs(bob)
    assert (job["ref"], job["dt"], job["lease"], job["sender"]) == ("mine", 7, 2.5, "alice")


def test_a_key_makes_one_job_of_many(room: Room) -> None:
    alice = room.join("alice")
    first = room.ask(alice, "broker.enqueue", "q", 1, {"key": "k"})
    assert room.ask(alice, "broker.enqueue", "q", 2, {"key": "k"}) == {"id": first["id"], "duplicate": True}
    assert room.ask(alice, "broker.queue", "q")["depth"] == 1


def test_a_delay_a_ttl_and_an_order_key_hold(room: Room) -> None:
    alice = room.join("alice")
    room.ask(alice, "broker.enqueue", "q", "late", {"delay": 5})
    room.ask(alice, "broker.enqueue", "q", "short", {"ttl": 1})
    for text in ("first", "second"):
        room.ask(alice, "broker.enqueue", "q", text, {"order": "k"})
    assert room.ask(alice, "broker.queue", "q")["delayed"] == 1
    room.advance(2)
    bob = worker(room, prefetch=9)
    assert [job["payload"] for job in jobs(bob)] == ["first"]
    room.ask(bob, "broker.done", jobs(bob)[0]["id"])
    room.advance(5)
    assert [job["payload"] for job in jobs(bob)] == ["first", "second", "late"]


def test_a_failed_job_is_dead_in_the_end_and_may_be_retried_or_dropped(room: Room) -> None:
    alice, bob = room.join("alice"), worker(room, "bob")
    for number in range(2):
        room.ask(alice, "broker.enqueue", "q", number)
    for _ in range(10):
        room.ask(bob, "broker.fail", jobs(bob)[-1]["id"], {"delay": 0, "reason": "no"})
    assert len(jobs(bob)) == 10
    dead = room.ask(alice, "broker.dead", "q")["jobs"]
    assert [job["payload"] for job in dead] == [0, 1]
    assert dead[0] == {**dead[0], "deliveries": 5, "reason": "no", "worker": "bob"}
    assert set(dead[0]) == {"id", "payload", "deliveries", "reason", "worker", "time"}
    assert abs(dead[0]["time"] - room.clock.seconds() * 1000) < 10_000
    assert room.ask(alice, "broker.dead", "q", {"limit": 1})["jobs"] == dead[:1]
    assert room.ask(alice, "broker.dead", "q", {"after": dead[0]["id"]})["jobs"] == dead[1:]
    assert room.ask(alice, "broker.retry", "q", [dead[0]["id"], "other"]) == {"retried": 1}
    assert (jobs(bob)[-1]["payload"], jobs(bob)[-1]["delivery"]) == (0, 1)
    assert room.ask(alice, "broker.drop", "q", "all") == {"dropped": 1}
    assert room.ask(alice, "broker.drop", "q", "all") == {"dropped": 0}


def test_a_lease_is_extended_and_ends(room: Room) -> None:
    alice, bob = room.join("alice"), worker(room, lease=10)
    room.ask(alice, "broker.enqueue", "q", 1)
    (job,) = jobs(bob)
    room.advance(8)
    assert room.ask(bob, "broker.extend", job["id"], 20) == {}
    room.advance(15)
    assert room.ask(alice, "broker.queue", "q")["in_flight"] == 1
    room.advance(10)
    assert [job["delivery"] for job in jobs(bob)] == [1, 2]


def test_the_job_of_a_worker_that_goes_goes_to_the_next(room: Room) -> None:
    alice = room.join("alice")
    for number in range(100):
        room.ask(alice, "broker.enqueue", "q", number)
    bob = worker(room)
    assert [job["payload"] for job in jobs(bob)] == [0]
    bob.leave()
    carol = worker(room, prefetch=200)
    assert [job["payload"] for job in jobs(carol)] == list(range(100))
    assert [job["delivery"] for job in jobs(carol)] == [2] + [1] * 99


def test_a_worker_with_a_name_comes_back_and_finishes(room: Room) -> None:
    alice, bob, carol = room.join("alice"), worker(room, "bob"), room.join("carol")
    room.ask(alice, "broker.enqueue", "q", 1)
    (job,) = jobs(bob)
    bob.leave()
    room.ask(carol, "broker.consume", "q", {"ack": True})
    room.advance(3)
    back = room.join("bob")
    room.advance(10)
    assert room.ask(back, "broker.done", job["id"]) == {}
    assert jobs(carol) == []


def test_a_consumer_filters(room: Room) -> None:
    alice = room.join("alice")
    bob = worker(room, filter={"type": "system-alert"}, prefetch=9)
    for kind in ("other", "system-alert", "other", "system-alert"):
        room.ask(alice, "broker.enqueue", "q", {"type": kind, "n": 1})
    room.pump()
    assert [job["payload"]["type"] for job in jobs(bob)] == ["system-alert"] * 2
    assert room.ask(alice, "broker.queue", "q")["depth"] == 2


def test_a_consumer_that_does_not_read_is_sent_no_more(room: Room) -> None:
    alice, bob = room.join("alice"), room.join("bob")
    room.ask(bob, "broker.consume", "q", {"prefetch": 3})
    bob.connected.link.unsent = 1
    for number in range(10):
        alice.client.enqueue(number, recipient="queue:q")
    room.pump()
    assert len(jobs(bob)) == 3
    room.advance(1)
    assert len(jobs(bob)) == 3
    bob.connected.link.unsent = 0
    room.advance(1)
    assert [job["payload"] for job in jobs(bob)] == list(range(10))


def test_a_full_queue_refuses(room: Room) -> None:
    room = Room(make_broker(max_jobs=2))
    alice = room.join("alice")
    for number in range(3):
        alice.client.enqueue(number, recipient="queue:q")
    room.pump()
    assert alice.client.notices == ["SocketErrorMessage|||socket:message:limit:jobs|||"]
    assert refused(room, alice, "broker.enqueue", "q", 1) == "SocketErrorMessage socket:message:limit:jobs"


@pytest.mark.parametrize(
    ("method", "arguments", "what"),
    [
        ("enqueue", ["", 1], "queue"),
        ("enqueue", ["q\n", 1], "queue"),
        ("enqueue", ["q", 1, {"delay": -1}], "delay"),
        ("enqueue", ["q", 1, {"delay": 1e12}], "delay"),
        ("enqueue", ["q", 1, {"ttl": 0}], "ttl"),
        ("enqueue", ["q", 1, {"ttl": -1}], "ttl"),
        ("enqueue", ["q", 1, {"ttl": 5, "delay": 5}], "ttl"),
        ("enqueue", ["q", 1, {"key": "x" * 300}], "key"),
        ("enqueue", ["q", 1, {"order": "a\x00"}], "order"),
        ("consume", ["@me", {"ack": True, "lease": 5}], "lease"),
        ("consume", ["@me", {"ack": True, "filter": {}}], "filter"),
        ("consume", ["@me", {"ack": True, "prefetch": 65}], "prefetch"),
        ("consume", ["q", {"prefetch": 0}], "prefetch"),
        ("consume", ["q", {"prefetch": -1}], "prefetch"),
        ("consume", ["q", {"prefetch": 100000}], "prefetch"),
        ("consume", ["q", {"lease": 0}], "lease"),
        ("consume", ["q", {"lease": 1e9}], "lease"),
        ("fail", ["{id}", {"delay": -1}], "delay"),
        ("extend", ["{id}", 0], "seconds"),
        ("extend", ["{id}", -1], "seconds"),
        ("dead", ["q", {"limit": 0}], "limit"),
        ("dead", ["q", {"limit": 1001}], "limit"),
        ("dead", ["q", {"after": "x"}], "after"),
    ],
)
def test_what_makes_no_sense_is_malformed(room: Room, method: str, arguments: list[Any], what: str) -> None:
    alice, bob = room.join("alice"), worker(room)
    room.ask(alice, "broker.enqueue", "q", 1)
    arguments = [jobs(bob)[0]["id"] if each == "{id}" else each for each in arguments]
    assert refused(room, bob, f"broker.{method}", *arguments) == f"{MALFORMED} socket:message:malformed:{what}"


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("enqueue", ["q", 1, {"keey": "k"}]),
        ("consume", ["q", {"akc": True}]),
        ("fail", ["1-1-1", {"reasno": "x"}]),
        ("dead", ["q", {"limt": 1}]),
    ],
)
def test_an_unknown_option_is_refused_with_its_name(room: Room, method: str, arguments: list[Any]) -> None:
    (name,) = arguments[-1]
    assert refused(room, room.join("alice"), f"broker.{method}", *arguments).endswith(f":{name}")


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("enqueue", ["q", 1, {"key": ""}]),
        ("enqueue", ["q", 1, {"order": ""}]),
        ("subscribe", ["t", {"cursor": ""}]),
    ],
)
def test_an_option_that_names_something_is_not_empty(room: Room, method: str, arguments: list[Any]) -> None:
    assert refused(room, room.join("alice"), f"broker.{method}", *arguments).rstrip("|").endswith(":options")


@pytest.mark.parametrize("name", ["q.dead", "broker", "broker.x", "queue:q", "kv/k", "@me"])
def test_the_names_of_the_broker_are_no_queues(room: Room, name: str) -> None:
    alice = room.join("alice")
    for method, arguments in (("enqueue", [1]), ("consume", []), ("queue", []), ("dead", []), ("retry", ["all"])):
        if (method, name) == ("consume", "@me"):
            continue  # its own mailbox
        assert refused(room, alice, f"broker.{method}", name, *arguments).startswith("ForbiddenAuthorizationError")
    alice.client.enqueue(1, recipient=f"queue:{name}")
    room.pump()
    assert len(alice.client.notices) == 1


def test_a_lease_of_whole_seconds_has_no_fraction() -> None:
    job = Delivery("queue:q", "", b"1", "ann", 1.0, id="i", delivery=2, lease=30.0)
    assert wire.job(job) == (
        b'{"type":"message","id":"i","queue":"q","delivery":2,"lease":30,"payload":1,"sender":"ann","dt":1000}'
    )


def with_mailbox(room: Room, **options: Any) -> Member:
    bob = room.join("bob")
    assert room.ask(bob, "broker.consume", "@me", {"ack": True, **options}) == {"consuming": ["@me"]}
    return bob


def send(room: Room, member: Member, *payloads: Any) -> None:
    for payload in payloads:
        member.connected.peer.enqueue("", wire.encode(payload), recipient="bob")
    room.pump()


def test_a_message_of_the_mailbox_is_kept_until_it_is_done(room: Room) -> None:
    alice, bob = room.join("alice"), with_mailbox(room)
    send(room, alice, 1, 2)
    (first,) = jobs(bob)
    assert (first["queue"], first["payload"], first["sender"]) == ("@me", 1, "alice")
    assert room.ask(bob, "broker.done", first["id"]) == {}
    bob.connected.leave(1006)
    again = with_mailbox(room, prefetch=2)
    assert [(job["queue"], job["payload"]) for job in jobs(again)] == [("@me", 2)]
    assert refused(room, again, "broker.done", first["id"]).startswith("SocketErrorConnectionUnsupported")


def test_a_message_of_the_mailbox_that_has_failed_comes_again(room: Room) -> None:
    alice, bob = room.join("alice"), with_mailbox(room, prefetch=2)
    send(room, alice, 1)
    (first,) = jobs(bob)
    assert room.ask(bob, "broker.fail", first["id"]) == {}
    room.advance(1.5)
    _, second = jobs(bob)
    assert (second["payload"], second["id"] == first["id"]) == (1, False)


def test_a_client_may_go_back_to_messages_that_it_does_not_acknowledge(room: Room) -> None:
    alice, bob = room.join("alice"), with_mailbox(room)
    assert room.ask(bob, "broker.release", "@me") == {"consuming": []}
    send(room, alice, 1)
    (message,) = jobs(bob)
    assert "queue" not in message


def test_jobs_that_were_not_begun_go_back_with_the_end_of_consuming(room: Room) -> None:
    alice = room.join("alice")
    room.ask(alice, "broker.enqueue", "q", 1)
    room.ask(alice, "broker.enqueue", "q", 2)
    bob = worker(room, "bob", prefetch=2)
    first, second = jobs(bob)
    eve = worker(room, "eve", prefetch=2)
    assert room.ask(eve, "broker.release", "q", {"not_begun": [second["id"], "none"]}) == {"consuming": []}
    assert room.ask(alice, "broker.queue", "q")["in_flight"] == 2
    assert room.ask(bob, "broker.release", "q", {"not_begun": [second["id"], "none"]}) == {"consuming": []}
    assert room.ask(bob, "broker.done", first["id"]) == {}
    ann = worker(room, "ann", prefetch=2)
    assert [(job["payload"], job["delivery"]) for job in jobs(ann)] == [(2, 1)]
    assert refused(room, ann, "broker.release", "q", {"not_begun": ["x"] * 1001}).startswith(MALFORMED)


@pytest.mark.parametrize("is_done", [True, False])
def test_a_message_of_the_mailbox_is_settled_after_the_end_of_consuming(room: Room, is_done: bool) -> None:
    alice, bob = room.join("alice"), with_mailbox(room)
    send(room, alice, 1)
    (first,) = jobs(bob)
    returned = {} if is_done else {"not_begun": [first["id"]]}
    assert room.ask(bob, "broker.release", "@me", returned) == {"consuming": []}
    if is_done:
        assert room.ask(bob, "broker.done", first["id"]) == {}
    send(room, alice, 2)
    room.advance(1.5)
    assert [(job.get("queue"), job["payload"]) for job in jobs(bob)[1:]] == [(None, n) for n in (1, 2)[is_done:]]


def test_messages_of_the_mailbox_are_settled_after_it_is_consumed_otherwise(room: Room) -> None:
    alice, bob = room.join("alice"), with_mailbox(room, prefetch=1)
    send(room, alice, 1, 2)
    (first,) = jobs(bob)
    room.ask(bob, "broker.consume", "@me", {"ack": True, "prefetch": 2})
    assert room.ask(bob, "broker.done", first["id"]) == {}
    room.advance(1.5)
    assert [job["payload"] for job in jobs(bob)] == [1, 2]
