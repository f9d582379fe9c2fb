"""A WebSocket whose client is not admitted yet."""

from __future__ import annotations

from typing import Any, Protocol

import attrs
from twisted.internet.interfaces import IReactorTime

from broker.interfaces import ILink
from broker.messages import CloseCode, HttpRequest


class Owner(Protocol):
    """What has sockets."""

    def closed(self, socket: UnadmittedSocket, code: int) -> None:
        """Forget *socket*, which has ended with *code*."""


@attrs.define(eq=False)
class UnadmittedSocket:
    """A WebSocket from its handshake on, as ``UnadmittedClients`` knows it.

    Its link calls it at its end: to do so by a function of each connection takes twice the memory.

    Attributes:
        dialect: its name.
        peer: of the handshake, which may have become part of another's session since; None: it is refused.
        over: whether it has ended.
        since: when it came.

    Args:
        request: the handshake, whose ``peer`` tells whether its client is admitted.
        owner: is told of its end.
        clock: the reactor, or a ``task.Clock``.
        delay: seconds that it can not be dropped, as its client would be back at once.
    """

    dialect: str
    _request: HttpRequest
    _owner: Owner
    _clock: IReactorTime
    _delay: float
    peer: Any = None
    over: bool = False
    _link: ILink | None = None
    since: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.since = self._clock.seconds()

    def __call__(self, code: int, reason: str) -> None:
        """End with *code*."""
        self._owner.closed(self, code)

    @property
    def address(self) -> str:
        """Of its client."""
        return self._request.address

    def began(self, link: ILink) -> None:
        """Note what the socket is."""
        self._link = link

    def ended(self) -> None:
        """Forget the link and the peer: it has ended."""
        self.over = True
        self._link = self.peer = self._request.peer = None

    @property
    def seconds(self) -> float:
        """For how long it is there."""
        return self._clock.seconds() - self.since

    @property
    def transferred(self) -> tuple[int, int] | None:
        """How many bytes have come and gone, once it has ended; None: that is not known."""
        return getattr(self._link, "transferred", None)

    @property
    def admitted(self) -> bool:
        """Whether its client is admitted."""
        peer = self._request.peer
        return peer is not None and peer.admitted

    @property
    def evictable(self) -> bool:
        """Whether its client may come back now."""
        return self.seconds >= self._delay

    def evict(self) -> None:
        """Drop it."""
        if self._link is not None:
            self._link.abort()

    def overdue(self, seconds: float) -> bool:
        """Close it with 1008."""
        if self._link is not None:
            self._link.close(CloseCode.POLICY_VIOLATION, f"no credential within {seconds:g} s")
        return False
