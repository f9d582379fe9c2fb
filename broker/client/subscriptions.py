"""Subscriptions to topics and patterns, which go on where their readers were."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs
import msgspec

from broker.client import wire
from broker.client.errors import ClientError, Denied, Invalid, TooLarge
from broker.client.notices import Gap
from broker.client.readers import Reader
from broker.client.shared_registrations import SharedRegistration
from broker.client.values import Origin, Position, Start
from broker.client.wire import Frame
from broker.patterns import is_pattern, matches

_read_start = wire.reader(Start)


class _Lost(msgspec.Struct):
    topic: str = ""
    first: int | None = msgspec.field(name="from", default=None)
    last: int | None = msgspec.field(name="to", default=None)
    why: str = "slow"


@attrs.define(eq=False)
class Subscription(SharedRegistration[Reader]):
    """A topic or a pattern, and all who read it.  Events that are not stored go to all of them at any time.

    Attributes:
        exact: whether wildcards are ordinary characters.
        echo: whether the client's own live events come, too.
    """

    kind, method, undo = "subscription", "broker.subscribe", "broker.unsubscribe"

    exact: bool = False
    echo: bool = False
    _behind: list[Reader] = attrs.field(factory=list, init=False)  # who gets the stored event that comes next
    _ahead: list[Reader] = attrs.field(factory=list, init=False)  # who has had it; the one that has had most is first
    _epoch: str = attrs.field(default="", init=False)  # that the broker has named last

    @property
    def is_pattern(self) -> bool:
        """Whether it stands for several topics."""
        return not self.exact and is_pattern(self.name)

    def covers(self, topic: str) -> bool:
        """Whether events of *topic* come by it."""
        return topic == self.name or (self.is_pattern and matches(self.name, topic))

    def join(self, reader: Reader, *, exact: bool, echo: bool) -> None:
        """Have one more *reader*.

        Raises:
            Invalid: it wants what another one does not.
        """
        if self.readers and (exact, echo) != (self.exact, self.echo):
            what = "exact" if exact != self.exact else "echo"
            raise Invalid(f"there is a subscription to {self.name} with another {what}")
        self.exact, self.echo = exact, echo
        reader.is_pattern = self.is_pattern
        reader.on_change = lambda: self.reader_changed(reader)
        self.add(reader)

    # For the registry: see ``Registration``.

    def arguments(self) -> list[object]:
        """Return the pattern, and the options, with the place where it begins."""
        options: dict[str, Any] = {}
        if self.echo:
            options["echo"] = True
        if self.exact:
            options["exact"] = True
        presence = [reader.presence for reader in self.readers if reader.presence is not None]
        if presence:
            options["presence"] = presence[-1]
        if self._newcomer is not None:
            options.update(self._newcomer.beginning())
        else:
            cursor, origin = next((each.cursor for each in self._asked_for if each.cursor), ""), self._furthest_behind()
            options.update({"cursor": cursor} if cursor else {}, **({"from": origin} if origin is not None else {}))
        return [self.name, options] if options else [self.name]

    def answered(self, payload: bytes) -> Start:
        """Take note of where it begins, and of what is lost."""
        start = _read_start(payload)
        losses = start.lost if isinstance(start.lost, list) else [start.lost] if start.lost else []
        told = msgspec.convert(losses, list[_Lost])
        gaps = [Gap(each.topic or self.name, each.why, each.first, each.last) for each in told]
        found: dict[str, Position] | None = None
        if start.epoch:
            self._epoch = start.epoch
            found = start.positions if self.is_pattern else {self.name: Position(start.epoch, start.id)}
        for reader in self.follow():
            reader.begin(start, found if not reader.plain else None, gaps)
        self._place(start.id)
        return start

    def try_otherwise(self, error: ClientError) -> bool:
        """Begin anew for those whose place is unknown, and do without what is stored for those who need it not."""
        placed = [reader for reader in self._asked_for if not reader.plain] if self._newcomer is None else []
        if placed and isinstance(error, Invalid):
            for reader in placed:
                reader.restart()
            self.begin()
            return True
        willing = [reader for reader in self._asked_for if not reader.is_strict and not reader.plain]
        if not willing or not isinstance(error, Denied | TooLarge | Invalid):
            return False
        for reader in willing:
            reader.become_plain()
        self.begin()
        return True

    # For the dispatcher.

    def on_event(self, frame: Frame) -> None:
        """Give an event to the readers, one that is stored only to those who have not had it."""
        topic, readers = frame.topic or self.name, self.readers
        if frame.epoch and isinstance(frame.id, int):
            while self._ahead and (frame.epoch != self._epoch or self._id_of(self._ahead[-1]) < frame.id):
                self._behind.append(self._ahead.pop())
            readers = self._behind
        for reader in tuple(readers):
            reader.on_event(topic, frame)

    def on_gap(self, gap: Gap) -> None:
        """Tell the readers that something can not be had."""
        for reader in list(self.readers):
            reader.on_gap(gap)

    # Several readers.

    def _furthest_behind(self) -> Origin | None:
        """Return where the last of those is that are asked for; None: what is stored can not be had."""
        maps = [reader.positions for reader in self._asked_for if not reader.plain]
        if not maps:
            return None
        if not self.is_pattern:
            return self._lowest(positions[self.name] for positions in maps)
        # A topic that is not among the positions of one is at its start for that one.
        topics = set(maps[0]).intersection(*maps[1:])
        return {topic: self._lowest(positions[topic] for positions in maps) for topic in sorted(topics)}

    def _lowest(self, positions: Iterable[Position]) -> Position:
        """Return the first of *positions*: one of another epoch is lost, and that must be told."""
        return min(positions, key=lambda position: (position.epoch == self._epoch, position.id))

    def _place(self, begun: int) -> None:
        """Tell those who have had more than what was stored until *begun*, where the broker begins, from the others."""
        following = [reader for reader in self.readers if reader.following]
        self._ahead = []
        if not self.is_pattern:
            self._ahead = [reader for reader in following if self._id_of(reader) > begun]
            self._ahead.sort(key=self._id_of, reverse=True)
        ahead = set(self._ahead)
        self._behind = [reader for reader in following if reader not in ahead]

    def _id_of(self, reader: Reader) -> int:
        """Return the id of the last event that *reader* has had; 0 if it is of another epoch."""
        position = reader.position
        return position.id if position is not None and position.epoch == self._epoch else 0

    def remove(self, reader: Reader) -> None:
        """Forget *reader*."""
        for readers in (self.readers, self._behind, self._ahead):
            if reader in readers:
                readers.remove(reader)
