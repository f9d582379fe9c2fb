"""Peers with a session that keeps what the core hands to it."""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred, succeed

from broker.messages import Request
from broker.testing import value_of


@attrs.define(eq=False, slots=False)
class Session:
    heard: list = attrs.field(factory=list)
    served: list = attrs.field(factory=list)
    replies: list = attrs.field(factory=list)
    mails: list = attrs.field(factory=list)
    willing: bool = True
    alive: Deferred | bool = True
    broken: bool = False

    def event(self, event, pattern):
        self._break()
        self.heard.append((event, pattern))

    def request(self, request):
        self._break()
        self.served.append(request)

    def reply(self, reply):
        self._break()
        self.replies.append(reply)

    def mail(self, mail):
        self._break()
        self.mails.append(mail)
        return self.willing

    def accepts_jobs(self, all_left):
        return self.willing

    def probe(self):
        return self.alive if isinstance(self.alive, Deferred) else succeed(self.alive)

    def _break(self):
        if self.broken:
            raise ZeroDivisionError("a bug")


def attach(broker, name="", dialect="test", address="127.0.0.1"):
    peer = broker.attach(dialect, address)
    peer.bind(Session())
    if name:
        value_of(peer.take_name(name))
    peer.appear()
    return peer


def closings_of(peer):
    """Return the list to which each closing of the connection of *peer* is added."""
    closings = []
    peer.bind(peer.session, lambda code, reason: closings.append((code, reason)))
    return closings


def perform(peer, *names, **options):
    return value_of(Deferred.fromCoroutine(peer.perform(names, **options)))


def call(peer, procedure, **options):
    request = Request("", procedure, "", "", b"[]", timeout=5.0, **options)
    peer.call("ref", request)
    return request
