"""The bus of a node that is alone: what is published arrives at once."""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from broker.interfaces import IBus
from broker.messages import Event


def _ignore(event: Event) -> None:
    """The callback until the service sets one."""


@implementer(IBus)
class LocalBus(Service):
    """Calls ``deliver`` with each event within ``publish``.

    Args:
        node: the name of this node.
    """

    shared = False
    ready = ""

    def __init__(self, node: str) -> None:
        self.node = node
        self.deliver: Callable[[Event], object] = _ignore

    def publish(self, event: Event) -> None:
        """See ``IBus.publish``."""
        self.deliver(event)

    def listen(self, topic: str, *, prefix: bool = False) -> None:
        """See ``IBus.listen``; a no-op, since everything arrives."""

    def forget(self, topic: str, *, prefix: bool = False) -> None:
        """See ``IBus.forget``; a no-op."""

    def listening(self) -> None:
        """See ``IBus.listening``; nothing is ever to be waited for."""

    def claim(self, name: str, *, shared: bool = False) -> Deferred[None]:
        """See ``IBus.claim``; no other node can hold *name*."""
        return succeed(None)

    def release(self, name: str) -> None:
        """See ``IBus.release``; a no-op."""
