"""Watches of keys, which go on where their readers were."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec
from msgspec import UNSET, UnsetType

from broker.client import wire
from broker.client.errors import Invalid
from broker.client.notices import Gap, Notice
from broker.client.shared_registrations import SharedRegistration
from broker.client.values import Change, Entry
from broker.client.watchers import Watcher
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
class Watch(SharedRegistration[Watcher]):
    """A key or a pattern of keys, and all who read it.

    Attributes:
        exact: whether wildcards are ordinary characters.
    """

    kind, method, undo = "watch", "broker.watch", "broker.unwatch"

    exact: bool = False
    _epoch: str = attrs.field(default="", init=False)  # that the broker has named last

    def join(self, reader: Watcher, *, exact: bool) -> None:
        """Have one more *reader*.

        Raises:
            Invalid: it wants what another one does not.
        """
        if self.readers and exact != self.exact:
            raise Invalid(f"there is a watch of {self.name} with another exact")
        self.exact = exact
        reader.on_change = lambda: self.reader_changed(reader)
        self.add(reader)

    def arguments(self) -> list[object]:
        """Return the pattern, and where the last of those is that are asked for."""
        options: dict[str, Any] = {}
        if self._newcomer is None and all(reader.epoch == self._epoch for reader in self._asked_for):
            revision = min(reader.revision for reader in self._asked_for)
            options["from"] = {"epoch": self._epoch, "revision": revision}
        if any(reader.previous for reader in self.readers):
            options["previous"] = True
        if self.exact:
            options["exact"] = True
        return [self.name, options]

    def answered(self, payload: bytes) -> object:
        """Let the readers begin with what is there, or go on with what they have missed."""
        begun = _read_begun(payload)
        self._epoch = begun.epoch
        for reader in self.follow():
            if begun.snapshot:
                reader.begin(begun.epoch, begun.revision, begun.entries)
            else:
                reader.go_on()
        return None

    def has(self, frame: Frame) -> bool:
        """Whether *frame* has come by a watch, and not by a subscription to the topic of changes."""
        return _read_payload(frame.payload).revision > 0

    def on_event(self, frame: Frame) -> None:
        """Give a change to the readers."""
        said = _read_payload(frame.payload)
        change = Change(said.key, said.value, said.revision, frame.name, said.previous, said.timestamp)
        for reader in tuple(self.readers):
            reader.on_event(change)

    def on_gap(self, gap: Gap) -> None:
        """Ask for what is there now: changes were missed."""
        self.context.notify(Notice("gap", gap.why, gap=gap))
        self.active = False
        for reader in self.readers:
            reader.following = False
        self.begin()
