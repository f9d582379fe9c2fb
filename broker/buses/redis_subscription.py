"""What a node is subscribed to on Redis.

What somebody listens to, a *subscription*, and what Redis is asked for because of it, its *target*, are two
things: the patterns ``a.*`` and ``a.>`` need the same target, but do not match the same topics.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import attrs

from broker.core.tree import PatternTree
from broker.messages import encode_text
from broker.patterns import is_pattern, matches

UNKNOWN_MARK = -1
GLOB_CHARACTERS = re.compile(r"([*?\[\]\\])")

# What a subscription covers, besides its text.
EXACT, PATTERN, PREFIX = "exact", "pattern", "prefix"


@attrs.define(eq=False)
class Target:
    """A channel, or a glob over channels, that Redis is asked for.

    Attributes:
        word: how Redis is asked.
        glob: whether it is a glob; it may match more than the subscriptions do.
        subscriptions: those that need it.
        subscribed: whether the present connection was told so: by the last command for it.
        asked: how many commands to subscribe were sent to the present connection and are not confirmed yet.
    """

    word: bytes
    glob: bool
    subscriptions: dict[Subscription, None] = attrs.field(factory=dict)
    subscribed: bool = False
    asked: int = 0

    @property
    def confirmed(self) -> bool:
        """Whether the present connection surely gets what it matches: an earlier command may have been undone since."""
        return self.subscribed and not self.asked

    def ask(self) -> bytes:
        """Return its word, which the present connection is sent to subscribe."""
        self.subscribed = True
        self.asked += 1
        return self.word


@attrs.define(eq=False)
class Subscription:
    """A topic, a pattern or a prefix of topics that somebody on this node listens to.

    Attributes:
        kind: ``EXACT``, ``PATTERN`` or ``PREFIX``.
        text: the topic, the pattern, or what the topics begin with.
        predicate: whether a topic belongs to it.
        target: what Redis is asked for; others may need the same.
        count: how many listen.
        mark: the mark after which events may have been missed; None: none were;
            ``UNKNOWN_MARK``: not yet known.
        base: the mark at which it began: no earlier event is wanted.
        bucket: its bucket among the deadlines of unused subscriptions, or None.
    """

    kind: str
    text: str
    predicate: Callable[[str], bool]
    target: Target
    count: int = 0
    mark: int | None = None
    base: int = UNKNOWN_MARK
    bucket: dict[Subscription, float] | None = None

    @property
    def confirmed(self) -> bool:
        """Whether Redis has confirmed it on the present connection."""
        return self.target.confirmed


def kind_of(topic: str, prefix: bool) -> str:
    """Return the kind of subscription that the arguments of ``IBus.listen`` mean."""
    if prefix:
        return PREFIX
    return PATTERN if is_pattern(topic) else EXACT


def escape_glob(text: str) -> str:
    """Return the glob that matches *text* alone."""
    return GLOB_CHARACTERS.sub(r"\\\1", text)


def _glob(kind: str, text: str) -> str:
    if kind == PREFIX:
        return escape_glob(text) + "*"
    # "*" of Redis goes over dots, too: it matches more, never less.
    *tokens, last = text.split(".")
    end = escape_glob(last[:-1]) + "*" if last == ">" or last[-1:] == "*" else escape_glob(last)
    return ".".join([*("*" if token == "*" else escape_glob(token) for token in tokens), end])


def _predicate(kind: str, text: str) -> Callable[[str], bool]:
    if kind == PREFIX:
        return lambda name: name.startswith(text)
    if kind == PATTERN:
        return lambda name: matches(text, name)
    return lambda name: name == text


class Subscriptions:
    """All subscriptions of a node by what they cover, and their targets.

    Args:
        channels: what the channels of topics begin with.
    """

    def __init__(self, channels: str) -> None:
        self._channels = channels
        self._exact: dict[str, Subscription] = {}
        self._others: dict[tuple[str, str], Subscription] = {}
        self._patterns: PatternTree[Subscription, None] = PatternTree()  # of them
        self._prefixes: dict[Subscription, None] = {}  # the rest of them, which are few
        self._targets: dict[tuple[bool, bytes], Target] = {}

    def __len__(self) -> int:
        return len(self._exact) + len(self._others)

    def __iter__(self) -> Iterator[Subscription]:
        yield from self._exact.values()
        yield from self._others.values()

    @property
    def targets(self) -> list[Target]:
        """What Redis is to be asked for."""
        return [target for target in self._targets.values() if target.subscriptions]

    def get(self, kind: str, text: str) -> Subscription | None:
        """Return the subscription of *kind* to *text*, or None."""
        return self._exact.get(text) if kind == EXACT else self._others.get((kind, text))

    def add(self, kind: str, text: str) -> Subscription:
        """Make the subscription of *kind* to *text*, which is new."""
        if kind == EXACT:
            glob, word = False, encode_text(self._channels + text)
        else:
            glob, word = True, encode_text(escape_glob(self._channels) + _glob(kind, text))
        target = self._targets.setdefault((glob, word), Target(word, glob))
        subscription = Subscription(kind, text, _predicate(kind, text), target)
        target.subscriptions[subscription] = None
        if kind == EXACT:
            self._exact[text] = subscription
        else:
            self._others[kind, text] = subscription
            (self._patterns.insert(text) if kind == PATTERN else self._prefixes)[subscription] = None
        return subscription

    def remove(self, subscription: Subscription) -> bool:
        """Remove *subscription*, which was added; return whether no other one needs its target."""
        if subscription.kind == EXACT:
            del self._exact[subscription.text]
        else:
            del self._others[subscription.kind, subscription.text]
            if subscription.kind == PATTERN:
                self._patterns.remove(subscription.text, subscription)
            else:
                del self._prefixes[subscription]
        target = subscription.target
        del target.subscriptions[subscription]
        if target.subscriptions:
            return False
        target.subscribed = False
        self._drop_unused(target)
        return True

    def on_confirmation(self, glob: bool, word: bytes) -> Target | None:
        """Note that Redis has confirmed a command for *word*; return the target if it is in force now."""
        target = self._targets.get((glob, word))
        if target is None:
            return None
        target.asked = max(0, target.asked - 1)
        self._drop_unused(target)
        return target if target.confirmed else None

    def disconnected(self) -> None:
        """Note that there is no connection that has confirmed anything."""
        for target in list(self._targets.values()):
            target.subscribed, target.asked = False, 0
            self._drop_unused(target)

    def _drop_unused(self, target: Target) -> None:
        # As long as a confirmation is on its way, it must not be taken for that of a later command.
        if not (target.subscriptions or target.asked):
            del self._targets[target.glob, target.word]

    def matching(self, topic: str) -> Iterator[Subscription]:
        """Yield the subscriptions that *topic* belongs to."""
        exact = self._exact.get(topic)
        if exact is not None:
            yield exact
        for node in self._patterns.matching(topic) if self._patterns.count else ():
            yield from node.listeners
        yield from (subscription for subscription in self._prefixes if subscription.predicate(topic))

    def match(self, topic: str) -> bool:
        """Whether *topic* belongs to any subscription."""
        return any(True for _ in self.matching(topic))
