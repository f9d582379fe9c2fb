"""What the parts of a client have of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import attrs

from broker.client.errors import ClientError
from broker.client.notices import Notice
from broker.client.options import Options
from broker.client.outcomes import Operation
from broker.client.timers import Timers
from broker.client.values import Identity

T = TypeVar("T")


@attrs.define
class Counts:
    """See ``Statistics``."""

    connections: int = 0
    losses: int = 0
    started: int = 0
    succeeded: int = 0
    failed: int = 0
    timed_out: int = 0
    cancelled: int = 0
    resent: int = 0
    late: int = 0
    events: int = 0
    duplicates: int = 0
    jobs: int = 0
    served: int = 0
    rate_limited: int = 0


class Context(Protocol):
    """One client, as its parts see it.

    Attributes:
        options: how it behaves.
        clock: gives seconds that never go back.
        random: gives a number from 0 up to 1.
        timers: what is to be done later.
        counts: for the statistics.
    """

    options: Options
    clock: Callable[[], float]
    random: Callable[[], float]
    timers: Timers
    counts: Counts

    @property
    def is_ready(self) -> bool:
        """Whether there is a connection by which the application can send."""

    @property
    def is_open(self) -> bool:
        """Whether there is a connection at all."""

    @property
    def end(self) -> ClientError | None:
        """Why nothing can be asked any more; None: something can."""

    def send(self, data: bytes) -> None:
        """Send a frame."""

    def notify(self, notice: Notice) -> None:
        """Tell the application."""

    def control(self, method: str, arguments: bytes) -> Operation[bytes]:
        """Call *method* for the client itself, now; a loss ends it with ``ConnectionLost``."""

    def ask(
        self,
        method: str,
        arguments: list[object],
        read: Callable[[bytes], T],
        *,
        again: bool = False,
        timeout: float | None = None,
        wait: bool | None = None,
        recipient: str = "",
        on_late: Callable[[T], object] | None = None,
    ) -> Operation[T]:
        """Call *method*; see ``Operation``.

        Raises:
            Invalid: an argument can not be written as JSON.
        """


class Owner(Context, Protocol):
    """The client that has the connection."""

    def on_open(self) -> None:
        """There is a connection: ask who the client is."""

    def on_ready(self, identity: Identity) -> None:
        """The broker has said who the client is."""

    def on_too_big(self, reason: str) -> None:
        """Something that was sent was too big for the broker."""

    def on_lost(self, error: ClientError) -> None:
        """The connection has ended; it may come back."""

    def on_end(self, error: ClientError) -> None:
        """It does not come back: end everything with *error*."""
