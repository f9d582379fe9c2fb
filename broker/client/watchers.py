"""Who reads a watch: what it has had of each key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from msgspec import UNSET

from broker.client.context import Context
from broker.client.errors import ClientError
from broker.client.streams import Stream
from broker.client.values import Change, Entry


def _ignore() -> None:
    """Do nothing."""


@attrs.define(eq=False)
class Watcher:
    """One iterator over the changes of a key or a pattern of keys.

    Attributes:
        context: of the client.
        name: the key or the pattern.
        stream: of the changes; what is there at first comes as changes, too.
        previous: whether the values before are wanted.
        on_change: is called when it has paused, can go on, or wants no more.
        following: whether the changes that come follow those that it has had.
        paused: whether it has as many as it should.
        ended: whether it gets no more.
        epoch: of its revision; "": it has had nothing.
        revision: the highest that has come.
    """

    context: Context
    name: str
    stream: Stream[Change]
    previous: bool = False
    on_change: Callable[[], object] = attrs.field(default=_ignore, init=False)
    following: bool = attrs.field(default=False, init=False)
    paused: bool = attrs.field(default=False, init=False)
    ended: bool = attrs.field(default=False, init=False)
    epoch: str = attrs.field(default="", init=False)
    revision: int = attrs.field(default=0, init=False)
    _known: dict[str, int] = attrs.field(factory=dict, init=False)  # revisions of the keys that are there
    _had: int = attrs.field(default=0, init=False)  # all changes up to this revision

    def __attrs_post_init__(self) -> None:
        self.stream.on_drained = self._on_drained

    @property
    def is_placed(self) -> bool:
        """Whether it has got what was there."""
        return bool(self.epoch)

    def beginning(self) -> dict[str, Any]:
        """Return nothing: all begin in the same way."""
        return {}

    def go_on(self) -> None:
        """Notice that the changes come which it has not had, and perhaps some that it has."""
        self._had = self.revision

    def begin(self, epoch: str, revision: int, entries: Sequence[Entry]) -> None:
        """Give the application what is there, as far as it does not know it."""
        known = dict(self._known) if epoch == self.epoch else {}
        for key in sorted(self._known.keys() - {entry.key for entry in entries}):
            del self._known[key]
            self._push(Change(key, None, 0, "missed"))
        for entry in entries:
            self._known[entry.key] = entry.revision
            if known.get(entry.key, 0) < entry.revision:
                self._push(Change(entry.key, entry.value, entry.revision, "present"))
        self.epoch, self.revision, self._had = epoch, revision, 0

    def on_event(self, change: Change) -> None:
        """Give *change* to the application, unless it has had it."""
        if not self.following:
            return
        key, revision = change.key, change.revision
        if revision and (revision <= self._had or revision <= self._known.get(key, 0)):
            self.context.counts.duplicates += 1
            return
        self.revision = max(self.revision, revision)
        if change.value is None:
            self._known.pop(key, None)
        else:
            self._known[key] = revision
        self._push(change if self.previous else Change(key, change.value, revision, change.kind, UNSET, change.time))
        if self.stream.is_full:
            self.paused, self.following = True, False
            self.on_change()

    def lost(self) -> None:
        """Notice that the connection was lost."""
        self.following = False

    def close(self) -> None:
        """Want no more changes."""
        if not self.ended:
            self.end(None)
            self.on_change()

    def end(self, error: ClientError | None) -> None:
        """Get no more changes, because of *error* if there is one."""
        self.ended, self.following = True, False
        self.stream.end(error)

    def _push(self, change: Change) -> None:
        self.context.counts.events += 1
        self.stream.push(change)

    def _on_drained(self) -> None:
        if self.paused and not self.ended:
            self.paused = False
            self.on_change()
