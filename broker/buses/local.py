"""The bus of a node that is alone: publishing is arriving."""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from broker.interfaces import IBus
from broker.messages import Event


def _nobody(event: Event) -> None:
    """Hear nothing, before the service has said who does."""


@implementer(IBus)
class LocalBus(Service):
    """Hands each event straight to ``deliver``."""

    shared = False
    ready = ""

    def __init__(self, node: str) -> None:
        self.node = node
        self.deliver: Callable[[Event], object] = _nobody

    def publish(self, event: Event) -> None:
        """Deliver *event* at once."""
        self.deliver(event)

    def listen(self, topic: str, *, prefix: bool = False) -> None:
        """Everything arrives anyway."""

    def forget(self, topic: str, *, prefix: bool = False) -> None:
        """Everything arrives anyway."""

    def listening(self) -> None:
        """Say that everything is heard already."""

    def claim(self, name: str, *, shared: bool = False) -> Deferred[None]:
        """Hold *name*: there is nobody else."""
        return succeed(None)

    def release(self, name: str) -> None:
        """Give *name* back."""
