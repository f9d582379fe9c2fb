"""How WebSocket links are kept, and what they count."""

from __future__ import annotations

from typing import Protocol

import attrs

from broker.speedups import AUTO


class Traffic(Protocol):
    """What links count; ``broker.observe.metrics.Metrics`` provides it.

    Attributes:
        bytes_in: bytes that came over open connections, frame headers included.
        bytes_out: bytes of the payloads that were sent.
        messages_out: messages that were sent.
    """

    bytes_in: int
    bytes_out: int
    messages_out: int

    def slow_consumer(self, policy: str) -> None:
        """Count a client that reads too slowly, and what was done about it."""


@attrs.define(eq=False)
class TrafficCounter:
    """A :class:`Traffic` that nobody exports."""

    bytes_in: int = 0
    bytes_out: int = 0
    messages_out: int = 0
    slow_consumers: dict[str, int] = attrs.field(factory=dict)

    def slow_consumer(self, policy: str) -> None:
        """Count a client that reads too slowly under what was done about it."""
        self.slow_consumers[policy] = self.slow_consumers.get(policy, 0) + 1


@attrs.frozen
class WebSocketOptions:
    """How connections are kept; times in seconds.

    Attributes:
        max_message_bytes: of one incoming message; a larger one ends in 1009.
        send_queue_bytes: that may wait for a client for longer than *slow_grace*.
        slow_grace: for a slow client until the 1013, and from that to the cut.
        ping_interval: between two pings; 0 sends none.
        pong_timeout: without a byte from the client after a ping; then the cut.
        open_timeout: for the session to be ready; then 503.
        close_timeout: for the client's part of the closing handshake.
        finish_timeout: for what came before the end to be worked off; see ``ISession.closed``.
        fast_path: whether complete data frames are taken without Autobahn.
        speedups: whether the accelerator does that, see ``broker.speedups``.
        compression: whether permessage-deflate is agreed to.
        server: value of the ``Server`` header; "" sends none.
    """

    max_message_bytes: int = 1 << 20
    send_queue_bytes: int = 1 << 20
    slow_grace: float = 5.0
    ping_interval: float = 25.0
    pong_timeout: float = 20.0
    open_timeout: float = 10.0
    close_timeout: float = 1.0
    finish_timeout: float = 10.0
    fast_path: bool = True
    speedups: str = AUTO
    compression: bool = False
    server: str = "txbroker"
