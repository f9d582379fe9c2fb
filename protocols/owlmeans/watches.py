"""What keys a session watches, and the changes that must wait for a snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from broker.errors import RateLimited
from broker.interfaces import IPeer
from broker.messages import Event, Frame
from broker.patterns import is_pattern, matches

TOPIC = "kv/"  # what the topic of a key begins with
MAX_PATTERNS = 1000  # patterns of one session
HELD = 1 << 23  # bytes of changes that may wait for snapshots


@attrs.define(eq=False)
class Watches:
    """The watched patterns of one session."""

    _peer: IPeer
    _push: Callable[[Frame], object]
    _patterns: dict[str, None] = attrs.field(factory=dict)
    _waiting: dict[str, list[Frame]] = attrs.field(factory=dict)
    _held: int = 0

    @property
    def patterns(self) -> list[str]:
        """What is watched, in that order."""
        return list(self._patterns)

    def begin(self, pattern: str) -> bool:
        """Watch *pattern*; its changes are kept until ``go_on``.  Say whether it is a new one.

        Raises:
            RateLimited: too much is watched.
        """
        fresh = pattern not in self._patterns
        if fresh and len(self._patterns) >= MAX_PATTERNS:
            raise RateLimited("limit", "watches")
        self._waiting.setdefault(pattern, [])
        if fresh:
            self._patterns[pattern] = None
            self._ask()
        return fresh

    def go_on(self, pattern: str) -> None:
        """Tell the changes that were kept, and the next ones at once."""
        for frame in self._taken(pattern):
            self._push(frame)

    def end(self, pattern: str) -> None:
        """Watch *pattern* no more."""
        self._taken(pattern)
        if pattern in self._patterns:
            del self._patterns[pattern]
            self._ask()

    def admitting(self, event: Event) -> Iterator[str]:
        """Yield the patterns that the key of *event* matches."""
        key = event.topic.removeprefix(TOPIC)
        return (pattern for pattern in self.patterns if matches(pattern, key))

    def notify(self, pattern: str, frame: Frame) -> None:
        """Send the change that came by *pattern*, or keep it."""
        if pattern not in self._waiting:
            self._push(frame)
            return
        self._held += len(frame.payload)
        if self._held > HELD:
            self._peer.disconnect(1013, "too much before the snapshot")
        else:
            self._waiting[pattern].append(frame)

    def _taken(self, pattern: str) -> list[Frame]:
        """Return the changes that were kept for *pattern*, and keep none."""
        frames = self._waiting.pop(pattern, [])
        self._held -= sum(len(frame.payload) for frame in frames)
        return frames

    def _ask(self) -> None:
        names = [pattern for pattern in self._patterns if not is_pattern(pattern)]
        some = len(names) < len(self._patterns)
        self._peer.watch(self._admits if some else None, names)

    def _admits(self, key: str) -> bool:
        return any(matches(pattern, key) for pattern in self._patterns)
