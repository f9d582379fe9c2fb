"""What a node is subscribed to on Redis."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import attrs

from broker.patterns import is_pattern, matches

UNKNOWN_MARK = -1
GLOB_CHARACTERS = re.compile(r"([*?\[\]\\])")


@attrs.define(eq=False)
class Subscription:
    """A topic, a pattern or a prefix of topics that somebody on this node listens to.

    Attributes:
        target: what Redis is asked for: a channel, or a glob over channels.
        glob: whether it is the latter; it may match more than *predicate* does.
        predicate: whether a topic belongs to it.
        count: how many listen.
        confirmed: whether Redis has confirmed the subscription on the present connection.
        mark: the mark after which events may have been missed; None: none were;
            ``UNKNOWN_MARK``: not yet known.
        base: the mark at which it began: no earlier event is wanted.
        bucket: its bucket among the deadlines of unused subscriptions, or None.
    """

    target: str
    glob: bool
    predicate: Callable[[str], bool]
    count: int = 0
    confirmed: bool = False
    mark: int | None = None
    base: int = UNKNOWN_MARK
    bucket: dict[Subscription, float] | None = None


def subscription_to(topic: str, prefix: bool) -> Subscription:
    """Return a new subscription to what the arguments of ``IBus.listen`` mean."""
    if prefix:
        return Subscription(escape_glob(topic) + "*", True, lambda name: name.startswith(topic))
    if is_pattern(topic):
        # "*" of Redis goes over dots, too: it matches more, never less.
        tokens = ["*" if token in ("*", ">") else escape_glob(token) for token in topic.split(".")]
        return Subscription(".".join(tokens), True, lambda name: matches(topic, name))
    return Subscription(topic, False, lambda name: name == topic)


def escape_glob(text: str) -> str:
    """Return the glob that matches *text* alone."""
    return GLOB_CHARACTERS.sub(r"\\\1", text)


class Subscriptions:
    """All subscriptions of a node, by target."""

    def __init__(self) -> None:
        self._by_target: dict[str, Subscription] = {}
        self._globs: list[Subscription] = []

    def __len__(self) -> int:
        return len(self._by_target)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._by_target.values())

    def get(self, target: str) -> Subscription | None:
        """Return the subscription to *target*, or None."""
        return self._by_target.get(target)

    def add(self, subscription: Subscription) -> None:
        """Add *subscription*, whose target is new."""
        self._by_target[subscription.target] = subscription
        if subscription.glob:
            self._globs.append(subscription)

    def remove(self, subscription: Subscription) -> None:
        """Remove *subscription*, which was added."""
        del self._by_target[subscription.target]
        if subscription.glob:
            self._globs.remove(subscription)

    def matching(self, topic: str) -> Iterator[Subscription]:
        """Yield the subscriptions that *topic* belongs to."""
        exact = self._by_target.get(topic)
        if exact is not None and not exact.glob:
            yield exact
        yield from (subscription for subscription in self._globs if subscription.predicate(topic))

    def match(self, topic: str) -> bool:
        """Whether *topic* belongs to any subscription."""
        return any(True for _ in self.matching(topic))
