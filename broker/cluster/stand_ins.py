"""Those who stand for the other side of a call between nodes, on each of the two."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import msgspec

from broker.core.call import Call, Flow
from broker.errors import BrokerError, NotFound
from broker.messages import Reply, Request
from broker.patterns import BROKER, PROCEDURE, SERVICE
from broker.remembered import remembered

MAX_LOOKUPS = 10_000  # procedures whose names are remembered
MAX_LENGTH = 128  # characters of each
REPLY_BYTES = 300  # that an answer takes besides its body, about

# Both are made for every call: a struct costs a quarter of what an attrs class does.


class Callee(msgspec.Struct, eq=False):
    """Stands for a callee on another node, in one call.

    It does not refer to the call, which refers to it: else both would have to wait for the garbage collector.

    Attributes:
        names: to look for it by, the best first.
        missing: makes the error that the caller gets when there is none.
        forward: begins to look for it.
        serving: the calls of all that are elsewhere.
        client: the client id that has answered last.
        address: the node that the request was sent to; "" while it is looked for, and when that node knows of the end.
        name: the one by which it was found.
        request: what is asked, with the id of the call.
        untried: addresses of the nodes that can still be asked.
        error: what the caller gets instead, since somebody has said so; or None.
        fresh: whether it was looked for since the call began.
        orphaned: whether the caller left while the callee was looked for.
        cancelled: whether the caller has cancelled the call.
    """

    names: tuple[str, ...]
    missing: Callable[[], BrokerError]
    forward: Callable[[Callee], None]
    serving: dict[str, Call]
    id: str = ""
    client: str = BROKER
    address: str = ""
    name: str = ""
    request: Request | None = None
    untried: tuple[str, ...] = ()
    error: BrokerError | None = None
    fresh: bool = False
    orphaned: bool = False
    cancelled: bool = False

    calling: ClassVar[dict[str, Call]] = {}  # it calls nobody
    flow: ClassVar[None] = None

    def hold(self, change: int) -> None:
        """Never called: it calls nobody."""

    def on_request(self, request: Request) -> None:
        """Begin to look for the callee."""
        self.request = request
        self.forward(self)

    def on_cancel(self, id: str) -> None:
        """Let its node be told, when the call ends, which is now."""
        self.cancelled = True

    def on_reply(self, reply: Reply) -> None:
        """Never called: it calls nobody."""


class Caller(msgspec.Struct, eq=False):
    """Stands for a caller on another node, in one call, by whose id there it goes.

    Attributes:
        address: of that node.
        id: of the call there.
        client: the client id of the caller.
        send: sends a message to a node; says whether that was begun.
        refuse: lets the call fail there, since that could not be.
        is_crowded: whether much waits to be sent to a node.
        told: whether its node knows of the end.
        halted: whether the caller has too much to read at present.
        unsent: another number whenever it has read some of that.
        drains: how often it had no more than a little to read afterwards.
    """

    address: str
    id: str
    client: str
    send: Callable[[str, Reply], bool]
    refuse: Callable[[Caller], object]
    is_crowded: Callable[[str], bool]
    told: bool = False
    halted: bool = False
    unsent: int = 0
    drains: int = 0
    calling: dict[str, Call] = {}

    serving: ClassVar[dict[str, Call]] = {}  # it performs nothing
    open: ClassVar[bool] = True

    @property
    def flow(self) -> Flow:
        """It stands for the connection of the caller, too."""
        return self

    @property
    def paused(self) -> bool:
        """Whether more than a little waits to be sent, there or here."""
        return self.halted or self.is_crowded(self.address)

    def pause_receiving(self) -> None:
        """Never called: it performs nothing."""

    def resume_receiving(self) -> None:
        """Never called: it performs nothing."""

    def close(self, code: int, reason: str) -> None:
        """Let the call fail there."""
        self.refuse(self)

    def hold(self, change: int) -> None:
        """Do nothing: its own node counts what is kept for it."""

    def on_request(self, request: Request) -> None:
        """Never called: it performs nothing."""

    def on_cancel(self, id: str) -> None:
        """Never called: it performs nothing."""

    def on_reply(self, reply: Reply) -> None:
        """Send *reply* to the caller's node."""
        if not self.send(self.address, reply):
            self.refuse(self)


class Callers:
    """Stands for all callers of another node whose calls get one answer, which go by the ids that they have there.

    What their node does not leave to this one has no place here: deadlines, limits, and what else a caller has.

    Attributes:
        address: of that node.
        calling: those calls.
    """

    id = client = ""
    flow: ClassVar[None] = None
    serving: ClassVar[dict[str, Call]] = {}  # they perform nothing

    def __init__(
        self,
        address: str,
        post: Callable[[str, Reply, int], bool] | None,
        send: Callable[[str, Reply], bool],
        refuse: Callable[[str, str], object],
    ) -> None:
        self.address = address
        self.calling: dict[str, Call] = {}
        self._post, self._send, self._refuse = post, send, refuse

    def hold(self, change: int) -> None:
        """Do nothing: their own node counts what is kept for them."""

    def on_request(self, request: Request) -> None:
        """Never called: they perform nothing."""

    def on_cancel(self, id: str) -> None:
        """Never called: they perform nothing."""

    def on_reply(self, reply: Reply) -> None:
        """Send *reply* to their node."""
        post = self._post
        if post is not None and reply.error is None and not reply.attachments and reply.source.isascii():
            sent = post(self.address, reply, len(reply.body) + REPLY_BYTES)
        else:
            sent = self._send(self.address, reply)
        if not sent:
            self._refuse(self.address, reply.ref)


def lookup(procedure: str, service: str) -> tuple[tuple[str, ...], Callable[[], BrokerError]]:
    """Return the names by which other nodes may know the callee of *procedure*, and what makes the error if none does.

    They are those that ``Calls.find`` looks at, in that order.
    """
    if len(procedure) + len(service) > MAX_LENGTH:
        return _lookup(procedure, service)
    return looked_up(procedure, service)


def _lookup(procedure: str, service: str = "") -> tuple[tuple[str, ...], Callable[[], BrokerError]]:
    if service:
        return (SERVICE + service, PROCEDURE + procedure), partial(NotFound, "service", service)
    names = [PROCEDURE + procedure]
    name = procedure.rpartition(".")[0]
    while name:
        names.append(SERVICE + name)
        name = name.rpartition(".")[0]
    return tuple(names), partial(NotFound, "method", procedure)


looked_up = remembered(MAX_LOOKUPS)(_lookup)
