"""Messages between nodes: what can not be understood or handled costs that message only."""

from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.cluster.link import Frame
from broker.cluster.messages import BoolReply, Drain, encode
from broker.cluster.messenger import NodeMessenger
from tests.support.logs import failures_of, logging


class Bus:
    """A shared bus that keeps what it is to send."""

    def __init__(self) -> None:
        self.address, self.lease = "here", 1
        self.sent: list[bytes] = []
        self.received: Any = None

    def lease_of(self, address: str) -> int:
        return 2

    def send(self, address: str, frame: bytes) -> Deferred[bool]:
        self.sent.append(frame)
        return Deferred()


@pytest.fixture
def messenger():
    bus: Any = Bus()
    return NodeMessenger(bus, Clock())


def frame(*messages: bytes) -> bytes:
    array = msgspec.msgpack.encode([msgspec.Raw(message) for message in messages])
    return msgspec.msgpack.encode(Frame(2, 1, 1, 0, 0, 1, 0, msgspec.Raw(array)))


@pytest.mark.parametrize(
    "message", [b"\xff", b"\xc1 of a later version", frame(b"\x01", encode(BoolReply(1, yes=True)))]
)
def test_a_message_that_is_none_is_passed_over(messenger, message):
    messenger.received("other", message)


def test_a_message_whose_handler_fails_is_passed_over(messenger):
    heard: list[object] = []

    def fail(sender, message):
        heard.append(message)
        raise ValueError("boom")

    messenger.on(BoolReply, fail)
    with logging() as events:
        messenger.received("other", frame(*(encode(BoolReply(number, yes=True)) for number in range(2))))
    assert len(heard) == 2
    assert [str(failure) for failure in failures_of(events)] == ["boom", "boom"]


def test_messages_of_one_kind_in_a_row_are_handled_together(messenger):
    heard: list[list[object]] = []
    messenger.on_many(Drain, lambda _, messages: heard.append([message.queue for message in messages]))
    messenger.on(BoolReply, lambda _, message: heard.append([message.id]))
    said = (Drain("a"), Drain("b"), BoolReply(1, yes=True), Drain("c"))
    messenger.received("other", frame(*map(encode, said)))
    assert heard == [["a", "b"], [1], ["c"]]


def test_behind_one_for_which_it_fails_a_handler_gets_the_rest(messenger):
    heard: list[str] = []

    def hear(sender, messages):
        for message in messages:
            heard.append(message.queue)
            if message.queue == "b":
                raise ValueError("boom")

    messenger.on_many(Drain, hear)
    with logging() as events:
        messenger.received("other", frame(*(encode(Drain(queue)) for queue in "abc")))
    assert heard == ["a", "b", "c"]
    assert [str(failure) for failure in failures_of(events)] == ["boom"]


def test_nothing_is_handled_any_more_when_the_link_was_broken_meanwhile(messenger):
    heard: list[str] = []

    def hear(sender, messages):
        for message in messages:
            heard.append(message.queue)
            messenger.departed("other")

    messenger.on_many(Drain, hear)
    messenger.lease_of = lambda address: 0
    messenger.received("other", frame(encode(Drain("a")), encode(Drain("b")), encode(BoolReply(1, yes=True))))
    assert heard == ["a"]


def test_a_question_ends_when_the_link_is_broken(messenger):
    asked = Deferred.fromCoroutine(messenger.ask("other", lambda number: BoolReply(number, yes=True), 60.0))
    messenger.clock.advance(0)
    assert not asked.called
    messenger.bus.lease = 0
    messenger.lapsed()
    assert asked.result is None
    assert messenger.clock.getDelayedCalls() == []


def test_what_this_node_sends_itself_arrives_in_order_without_the_bus(messenger):
    heard: list[str] = []
    messenger.on(Drain, lambda _, message: heard.append(message.queue))
    for queue in "ab":
        messenger.send("here", Drain(queue))
    assert heard == []
    messenger.clock.advance(0)
    assert (heard, messenger.bus.sent) == (["a", "b"], [])


def test_what_waits_is_sent_when_the_node_stops(messenger):
    messenger.send("other", Drain("a"))
    messenger.stop()
    assert len(messenger.bus.sent) == 1
    assert messenger.clock.getDelayedCalls() == []
    assert not messenger.send("other", Drain("b"))
