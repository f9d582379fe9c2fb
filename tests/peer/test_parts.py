"""A peer needs the parts of the core, and no broker."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from broker.access.principals import Access
from broker.buses import open_bus
from broker.config.settings import Settings
from broker.core.service import make_parts
from broker.messages import Request
from broker.observe.metrics import Metrics
from broker.peer import Peer
from broker.sessions import BaseSession
from broker.stores import open_store
from broker.testing import value_of


class Session(BaseSession):
    def __init__(self, peer):
        self.peer = peer
        self.heard = []
        self.replies = []

    def event(self, event, pattern):
        self.heard.append(event.body)

    def request(self, request):
        self.peer.answer(request.id, b"[%b]" % request.body)

    def reply(self, reply):
        self.replies.append(reply.body)


@pytest.fixture
def parts():
    clock = Clock()
    bus = open_bus("local:", "test")
    parts = make_parts(Settings(), open_store("memory:", clock=clock), bus, clock, Access(), Metrics())
    bus.deliver = parts.topics.deliver
    parts.store.startService()
    return parts


def attach(parts):
    peer = Peer(parts, "test", "127.0.0.1")
    peer.bind(Session(peer))
    peer.appear()
    return peer


def test_an_event_reaches_a_subscriber(parts):
    ann, bob = attach(parts), attach(parts)
    bob.subscribe("news")
    ann.publish("news", "x", b"1")
    assert bob.session.heard == [b"1"]


def test_a_call_is_answered(parts):
    ann, bob = attach(parts), attach(parts)
    value_of(bob.perform(["echo"]))
    ann.call("ref", Request("", "echo", "", "", b"1"))
    assert ann.session.replies == [b"[1]"]


def test_a_peer_that_closes_leaves_no_part_with_anything(parts):
    ann = attach(parts)
    ann.subscribe("news")
    ann.consume("work")
    value_of(ann.perform(["echo"]))
    ann.close()
    assert (len(parts.topics), len(parts.presence), len(parts.queues), len(parts.calls.performers)) == (0, 0, 0, 0)
