"""What a node listens to on Redis."""

from __future__ import annotations

import re
from collections.abc import Callable

import attrs

from broker.messages import Event
from broker.patterns import is_pattern, matches

UNKNOWN = -1
SPECIAL = re.compile(r"([*?\[\]\\])")


@attrs.define(eq=False)
class Subscription:
    """A topic, a pattern or a beginning of topics that somebody here listens to.

    Attributes:
        word: what Redis is asked for: a channel, or a glob over channels.
        glob: whether it is the latter; it may match more than ``covers`` does.
        covers: whether a topic belongs to it.
        count: how many listen.
        heard: whether Redis has confirmed that it is listened to.
        mark: the mark from which events may have been missed; None: none were;
            ``UNKNOWN``: that will be known soon.
        base: the mark from which on it wants events at all.
        bucket: its place among those nobody listens to any more, or 0.0.
    """

    word: str
    glob: bool
    covers: Callable[[str], bool]
    count: int = 0
    heard: bool = False
    mark: int | None = None
    base: int = UNKNOWN
    bucket: float = 0.0


def subscription_to(topic: str, prefix: bool) -> Subscription:
    """Return the interest that ``IBus.listen`` means."""
    if prefix:
        return Subscription(escaped(topic) + "*", True, lambda name: name.startswith(topic))
    if is_pattern(topic):
        # "*" of Redis goes over dots, too: it matches more, never less.
        tokens = ["*" if token in ("*", ">") else escaped(token) for token in topic.split(".")]
        return Subscription(".".join(tokens), True, lambda name: matches(topic, name))
    return Subscription(topic, False, lambda name: name == topic)


def escaped(text: str) -> str:
    """Return *text* so that a glob takes it for itself."""
    return SPECIAL.sub(r"\\\1", text)


@attrs.define(eq=False)
class Gap:
    """A topic of which something was missed, as long as that is being read.

    Attributes:
        mark: from which on it is to be read if nothing is known of the topic.
        waiting: what has come meanwhile.
    """

    mark: int
    waiting: list[Event]
