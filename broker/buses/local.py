"""The bus of a node that is alone: what is published arrives at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from broker.core.slices import Slices, slices_of
from broker.interfaces import IBus
from broker.messages import Event

MAX_DEPTH = 32  # events that are published in answer to one another and delivered within one call


def _ignore(event: Event) -> None:
    """The callback until the service sets one."""


@implementer(IBus)
class LocalBus(Service):
    """Calls ``deliver`` with each event within ``publish``.

    Those that sessions go on to publish in answer to one another wait for a later loop iteration, and all
    others behind them: else there would be no end.

    Args:
        node: the name of this node.
        clock: the reactor; None: nothing waits.
    """

    shared = False
    ready = ""

    def __init__(self, node: str, clock: Any = None) -> None:
        self.node = node
        self._depth = 0
        self._waiting: deque[Event] = deque()
        self._slices: Slices | None = None if clock is None else slices_of(clock)
        self.deliver: Callable[[Event], object] = _ignore

    def publish(self, event: Event) -> None:
        """See ``IBus.publish``."""
        if self._waiting or self._depth == MAX_DEPTH:
            self._publish_later(event)
            return
        self._depth += 1
        try:
            self.deliver(event)
        finally:
            self._depth -= 1

    def _publish_later(self, event: Event) -> None:
        if self._slices is None:
            self.deliver(event)
            return
        self._waiting.append(event)
        if len(self._waiting) == 1:
            self._slices.add(self._deliver_waiting)

    def _deliver_waiting(self) -> None:
        waiting, slices = self._waiting, self._slices
        assert slices is not None
        over = False
        try:
            while waiting and not over:
                try:
                    self.deliver(waiting[0])
                finally:
                    waiting.popleft()  # not before: what is published in answer goes behind the others
                over = slices.over()
        finally:
            if waiting:
                slices.add(self._deliver_waiting)

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
