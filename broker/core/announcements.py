"""Publishes the events of changes in the order in which those were made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from broker.core.slices import Slices
from broker.messages import Event


class Announcer:
    """Publishes events of which a store has answered in the order of its changes.

    Args:
        publish: called with each event; between nodes, it returns a Deferred that fires when the event is on its
            way, or lost.
        slices: in which many events are published.
        waits: whether who has made a change is answered when its event is on its way, instead of before.
    """

    def __init__(self, publish: Callable[[Event], Any], slices: Slices, waits: bool) -> None:
        self._publish, self._slices, self._waits = publish, slices, waits
        # Each with the answer to the one who has made the change, or None, and its result.
        self._waiting: deque[tuple[Event, Deferred[Any] | None, Any]] = deque()

    def publish(self, event: Event, answer: Deferred[Any], result: Any) -> None:
        """Fire *answer* with *result* and publish *event*, after all events that wait."""
        if self._waiting:
            self._waiting.append((event, answer, result))
        else:
            self._publish_one(event, answer, result)

    async def publish_all(self, events: Iterable[Event]) -> None:
        """Publish *events* in slices; what is published meanwhile comes after them.

        It ends when they are all on their way.
        """
        waiting = self._waiting
        waiting.extend((event, None, None) for event in events)
        sent: list[Deferred[Any] | None] = []
        end = self._slices.deadline()
        try:
            while waiting:
                end = await self._slices.checked(end)
                if waiting:  # else another call has published the rest
                    sent.append(self._publish_one(*waiting.popleft()))
        finally:
            while waiting:
                self._publish_one(*waiting.popleft())
        await DeferredList([each for each in sent if each is not None], consumeErrors=True)

    def _publish_one(self, event: Event, answer: Deferred[Any] | None, result: Any) -> Deferred[Any] | None:
        if answer is None:
            return self._publish(event)  # type: ignore[no-any-return]
        if not self._waits:
            answer.callback(result)
            return self._publish(event)  # type: ignore[no-any-return]
        # Who reads the key after this answer, on whatever node, must not get the event of the change any more.
        sent: Deferred[Any] = self._publish(event)
        return sent.addBoth(lambda _: answer.callback(result))
