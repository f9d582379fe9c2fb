"""Messages between nodes: what can not be understood or handled costs that message only."""

from typing import Any

import pytest
from twisted.internet.task import Clock

from broker.cluster.messages import BoolReply, encode
from broker.cluster.messenger import NodeMessenger
from tests.support.logs import failures_of, logging


class Bus:
    """A shared bus that sends nothing."""

    received: Any = None


@pytest.fixture
def messenger():
    bus: Any = Bus()
    return NodeMessenger(bus, Clock())


def test_a_message_that_is_none_is_passed_over(messenger):
    messenger.received("other", b"\xff")


def test_a_message_whose_handler_fails_is_passed_over(messenger):
    heard: list[object] = []

    def fail(sender, message):
        heard.append(message)
        raise ValueError("boom")

    messenger.on(BoolReply, fail)
    with logging() as events:
        for number in range(2):
            messenger.received("other", encode(BoolReply(number, yes=True)))
    assert len(heard) == 2
    assert [str(failure) for failure in failures_of(events)] == ["boom", "boom"]
