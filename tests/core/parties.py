"""Parties of calls that keep what the core hands to them."""

from __future__ import annotations

import attrs

from broker.core.call import Call
from broker.messages import Reply, Request


@attrs.define(eq=False)
class FakeFlow:
    """A connection that is as slow as the test says."""

    open: bool = True
    paused: bool = False
    unsent: int = 0
    drains: int = 0
    receiving: bool = True
    closed: tuple[int, str] | None = None

    def pause_receiving(self):
        self.receiving = False

    def resume_receiving(self):
        self.receiving = True

    def close(self, code, reason):
        self.closed, self.open = (code, reason), False


@attrs.define(eq=False, slots=False)
class Party:
    client: str
    refuses: Exception | None = None
    served: list[Request] = attrs.field(factory=list)
    heard: list[Reply] = attrs.field(factory=list)
    cancelled: list[str] = attrs.field(factory=list)
    calling: dict[str, Call] = attrs.field(factory=dict)
    serving: dict[str, Call] = attrs.field(factory=dict)
    flow: FakeFlow = attrs.field(factory=FakeFlow)
    held: int = 0

    @property
    def id(self):
        return f"session of {self.client}"

    def hold(self, change):
        self.held += change

    def on_request(self, request):
        self.served.append(request)
        if self.refuses:
            raise self.refuses

    def on_cancel(self, id):
        self.cancelled.append(id)

    def on_reply(self, reply):
        self.heard.append(reply)

    @property
    def errors(self):
        return [reply.error and reply.error.code for reply in self.heard]


def request(procedure="m", timeout=5.0, **more):
    return Request("", procedure, "", "", b"[]", timeout=timeout, **more)


def nothing_is_left(calls, *parties):
    return calls.pending == 0 and not any(party.calling or party.serving for party in parties)
