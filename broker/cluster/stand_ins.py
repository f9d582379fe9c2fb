"""Those who stand for the other side of a call between nodes, on each of the two."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from broker.core.calls import Call
from broker.errors import BrokerError
from broker.messages import Reply, Request
from broker.patterns import BROKER


@attrs.define(eq=False)
class Callee:
    """Stands for a callee on another node, in one call.

    Attributes:
        names: to look for it by, the best first.
        error: what the caller gets when there is none.
        client: the client id that has answered last.
        address: the node that the request was sent to; "" while it is looked for, and when that node knows of the end.
        orphaned: whether the caller left while the callee was looked for.
    """

    names: tuple[str, ...]
    error: BrokerError
    _forward: Callable[[Callee], None]
    id: str = ""
    client: str = BROKER
    address: str = ""
    name: str = ""  # the one by which it was found
    request: Request | None = None
    call: Call | None = None
    untried: list[str] = attrs.field(factory=list)
    fresh: bool = False
    orphaned: bool = False
    calling: dict[str, Call] = attrs.field(factory=dict)
    serving: dict[str, Call] = attrs.field(factory=dict)

    def hold(self, change: int) -> None:
        """Never called: it calls nobody."""

    def on_request(self, request: Request) -> None:
        """Begin to look for the callee."""
        self.request, self.call = request, self.serving[request.id]
        self._forward(self)

    def on_reply(self, reply: Reply) -> None:
        """Never called: it calls nobody."""


@attrs.define(eq=False)
class Caller:
    """Stands for a caller on another node, in one call, by whose id there it goes.

    Attributes:
        told: whether its node knows of the end.
    """

    address: str
    id: str
    client: str
    _reply: Callable[[Caller, Reply], object]
    told: bool = False
    calling: dict[str, Call] = attrs.field(factory=dict)
    serving: dict[str, Call] = attrs.field(factory=dict)

    def hold(self, change: int) -> None:
        """Do nothing: its own node counts what is kept for it."""

    def on_request(self, request: Request) -> None:
        """Never called: it performs nothing."""

    def on_reply(self, reply: Reply) -> None:
        """Send *reply* to the caller's node."""
        self._reply(self, reply)
