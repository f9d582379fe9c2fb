"""Watches of keys: what is there, and each change of it."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec
from msgspec import UNSET, UnsetType

from broker.client import wire
from broker.client.errors import ClientError
from broker.client.notices import Gap, Notice
from broker.client.registrations import Registration
from broker.client.streams import Stream
from broker.client.values import Change, Entry
from broker.client.wire import Frame


class _Begun(msgspec.Struct):
    entries: list[Entry]
    epoch: str
    revision: int
    snapshot: bool = True


class _Payload(msgspec.Struct):
    key: str = ""
    value: str | None = None
    timestamp: int = 0
    revision: int = 0
    previous: str | UnsetType | None = UNSET


_read_begun = wire.reader(_Begun)
_read_payload = wire.reader(_Payload)


@attrs.define(eq=False)
class Watch(Registration):
    """A key, or a pattern of keys.

    Attributes:
        stream: of the changes; what is there at first comes as changes, too.
        previous: whether the values before are wanted.
        exact: whether wildcards are ordinary characters.
    """

    kind, method, undo = "watch", "broker.watch", "broker.unwatch"

    stream: Stream[Change]
    previous: bool = False
    exact: bool = False
    _epoch: str = attrs.field(default="", init=False)
    _revision: int = attrs.field(default=0, init=False)  # the highest that has come
    _known: dict[str, int] = attrs.field(factory=dict, init=False)  # revisions of the keys that are there
    _paused: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.stream.on_drained = self._on_drained

    def arguments(self) -> list[object]:
        """Return the pattern, and where it was."""
        options: dict[str, Any] = {}
        if self._epoch:
            options["from"] = {"epoch": self._epoch, "revision": self._revision}
        if self.previous:
            options["previous"] = True
        if self.exact:
            options["exact"] = True
        return [self.name, options]

    def answered(self, payload: bytes) -> object:
        """Give the application what is there, as far as it does not know it."""
        begun = _read_begun(payload)
        same_epoch, self._epoch = begun.epoch == self._epoch, begun.epoch
        if not begun.snapshot:
            return None
        known = dict(self._known) if same_epoch else {}
        missing = self._known.keys() - {entry.key for entry in begun.entries}
        for key in sorted(missing):
            del self._known[key]
            self._push(Change(key, None, 0, "missed"))
        for entry in begun.entries:
            self._known[entry.key] = entry.revision
            if known.get(entry.key, 0) < entry.revision:
                self._push(Change(entry.key, entry.value, entry.revision, "present"))
        self._revision = begun.revision
        return None

    def has(self, frame: Frame) -> bool:
        """Whether *frame* has come by a watch, and not by a subscription to the topic of changes."""
        return _read_payload(frame.payload).revision > 0

    def on_event(self, frame: Frame) -> None:
        """Give a change to the application, unless it has had it."""
        if not self.active:
            return
        change = _read_payload(frame.payload)
        key, revision = change.key, change.revision
        if revision and revision <= self._known.get(key, 0):
            self.context.counts.duplicates += 1
            return
        self._revision = max(self._revision, revision)
        if change.value is None:
            self._known.pop(key, None)
        else:
            self._known[key] = revision
        self._push(Change(key, change.value, revision, frame.name, change.previous, change.timestamp))
        if self.stream.is_full:
            self._paused = True
            self.pause()

    def on_gap(self, gap: Gap) -> None:
        """Ask for what is there now: changes were missed."""
        self.context.notify(Notice("gap", gap.why, gap=gap))
        self.active = False
        self.begin()

    def on_end(self, error: ClientError | None) -> None:
        """End the stream."""
        self.stream.end(error)

    def begin(self) -> None:
        """Watch, unless there is too much to read; then that is done later."""
        if not self._paused:
            super().begin()

    def _push(self, change: Change) -> None:
        self.context.counts.events += 1
        self.stream.push(change)

    def _on_drained(self) -> None:
        if self._paused and not self.ended:
            self._paused = False
            if self.context.is_ready:
                self.begin()
