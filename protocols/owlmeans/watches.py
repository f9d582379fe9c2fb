"""The keys that a session watches: what is there, and then each change of it."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from broker.core.tree import PatternTree
from broker.errors import RateLimited, TooLarge
from broker.interfaces import ILink, IPeer
from broker.messages import CloseCode, Entry, Event, Frame
from broker.patterns import KEY_PREFIX, is_pattern, literal_beginning, matches

MAX_PATTERNS = 1000  # patterns of one session
MAX_HELD_BYTES = 1 << 23  # of changes that wait for snapshots
MAX_ENTRIES = 1000  # of one answer
MAX_ANSWER_BYTES = 1 << 19  # of the entries of one answer
HIGHEST = "\U0010ffff"  # nothing sorts after it


@attrs.define(eq=False)
class Watches:
    """The watched patterns of one session.

    Args:
        peer: the way into the broker.
        push: sends the frame of a change.
        link: counts what is kept.
    """

    _peer: IPeer
    _push: Callable[[Frame], object]
    _link: ILink
    _patterns: dict[str, None] = attrs.field(factory=dict)
    _tree: PatternTree[str, None] = attrs.field(factory=PatternTree)  # the same
    _waiting: dict[str, list[Frame]] = attrs.field(factory=dict)  # pattern → changes that follow its snapshot
    _held: int = 0  # bytes of them

    @property
    def patterns(self) -> list[str]:
        """What is watched, in that order."""
        return list(self._patterns)

    async def begin(self, pattern: str) -> list[tuple[str, Entry]]:
        """Watch *pattern*; return the entries there are.  Changes are kept until ``go_on``.

        Raises:
            RateLimited: too much is watched.
            TooLarge: there are too many entries, or they are too large.
        """
        fresh = pattern not in self._patterns
        if fresh and len(self._patterns) >= MAX_PATTERNS:
            raise RateLimited("limit", "watches")
        self._waiting.setdefault(pattern, [])
        if fresh:
            self._patterns[pattern] = None
            self._tree.insert(pattern)[pattern] = None
            self._peer.watch_pattern(pattern)
        try:
            return await self._snapshot(pattern)
        except BaseException:  # cancelled, too
            if fresh:
                self.end(pattern)
            else:
                self.go_on(pattern)
            raise

    async def _snapshot(self, pattern: str) -> list[tuple[str, Entry]]:
        # Watching before reading: a change in between must not be missed.
        await self._peer.listening()
        first, last = _bounds(pattern)
        found = await self._peer.range(
            first,
            last,
            MAX_ENTRIES + 1,
            predicate=lambda key: matches(pattern, key),
            max_bytes=MAX_ANSWER_BYTES,
            rate_limited=False,  # the frame has been counted
        )
        if len(found) > MAX_ENTRIES or size_of(found) > MAX_ANSWER_BYTES:
            raise TooLarge("snapshot", pattern)
        return found

    def go_on(self, pattern: str) -> None:
        """Send the changes that were kept, and the next ones at once."""
        for frame in self._release(pattern):
            self._push(frame)

    def end(self, pattern: str) -> None:
        """Watch *pattern* no more."""
        self._release(pattern)
        if pattern in self._patterns:
            del self._patterns[pattern]
            self._tree.remove(pattern, pattern)
            self._peer.unwatch_pattern(pattern)

    def matching(self, event: Event) -> list[str]:
        """Return the patterns that the key of *event* matches."""
        return [node.pattern for node in self._tree.matching(event.topic.removeprefix(KEY_PREFIX))]

    def notify(self, pattern: str, frame: Frame) -> None:
        """Send the change that came by *pattern*, or keep it."""
        if pattern not in self._waiting:
            self._push(frame)
            return
        if self._held + frame.size > MAX_HELD_BYTES:
            self._peer.disconnect(CloseCode.TRY_AGAIN_LATER, "too much before the snapshot")
        else:
            self._held += frame.size
            self._waiting[pattern].append(frame)
            self._link.hold(frame.size)

    def _release(self, pattern: str) -> list[Frame]:
        """Return the changes that were kept for *pattern*, and keep none."""
        frames = self._waiting.pop(pattern, [])
        size = sum(frame.size for frame in frames)
        if size:
            self._held -= size
            self._link.hold(-size)
        return frames


def size_of(entries: list[tuple[str, Entry]]) -> int:
    """Return how large *entries* are: characters of keys and bytes of values."""
    return sum(len(key) + len(entry.value) for key, entry in entries)


def _bounds(pattern: str) -> tuple[str, str]:
    """Return the first and the last key that *pattern* could match."""
    if not is_pattern(pattern):
        return pattern, pattern
    beginning = literal_beginning(pattern)
    return beginning, beginning + HIGHEST
