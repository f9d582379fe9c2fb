"""A call under way, and what it needs of those on either side of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from broker.core.shares import Share
from broker.messages import Reply, Request


class Flow(Protocol):
    """What is needed of the connection of a peer; ``ILink`` has it."""

    @property
    def open(self) -> bool:
        """Whether what is sent now goes out."""

    @property
    def paused(self) -> bool:
        """Whether more than a little waits to be sent."""

    @property
    def unsent(self) -> int:
        """How many bytes do."""

    @property
    def drains(self) -> int:
        """How often all that waited was sent."""

    def pause_receiving(self) -> None:
        """Receive nothing more until ``resume_receiving``."""

    def resume_receiving(self) -> None:
        """Receive again."""

    def close(self, code: int, reason: str) -> None:
        """Close the connection."""


class Party(Protocol):
    """What calls need of a peer, on either side."""

    @property
    def id(self) -> str:
        """The session id."""

    @property
    def flow(self) -> Flow | None:
        """Its connection; None: there is none that could be waited for."""

    @property
    def calling(self) -> dict[str, Call]:
        """The calls that it has made, by their ids."""

    @property
    def serving(self) -> dict[str, Call]:
        """Those that it has to answer."""

    @property
    def client(self) -> str:
        """Its client id."""

    def hold(self, change: int) -> None:
        """Count how many bytes more are kept for it, or fewer."""

    def on_request(self, request: Request) -> None:
        """Hand *request* to the client; a ``BrokerError`` refuses it."""

    def on_cancel(self, id: str) -> None:
        """Tell the client that the request *id* was cancelled by who has made it; never raises."""

    def on_reply(self, reply: Reply) -> None:
        """Hand *reply* to the client; never raises."""


class Limiter(Protocol):
    """What a call needs of a procedure whose performers have limits."""

    def ended(self, call: Call) -> None:
        """Notice that *call*, which was with one of them or has waited for one, has ended."""


class Times(Protocol):
    """What is noted of the calls of one dialect; ``broker.observe.metrics.CallTimes`` has it."""

    left: int  # how many that are answered are to come until one is counted

    @property
    def now(self) -> Callable[[], float]:
        """Returns seconds that only rise."""

    def ended(self, began: float, result: str) -> None:
        """Count a call that has begun when ``now`` was *began*, and how it has ended."""


class Call(msgspec.Struct, eq=False):
    """One call under way.

    ``bucket`` is what its deadline is to be dropped from; None: it has none.  ``share`` is that of
    the caller, in which it counts, or None.  ``kept`` are the bytes of
    its texts where they are long.  ``limiter`` is told of its end, unless that is None, and ``times``,
    with ``began``, when it has begun.
    """

    id: str
    ref: str
    caller: Party
    callee: Party
    name: str
    streamed: bool = False
    quiet: bool = False
    bucket: dict[Call, float] | None = None
    answers: int = 0
    share: Share | None = None
    kept: int = 0
    limiter: Limiter | None = None
    times: Times | None = None
    began: float = 0.0
