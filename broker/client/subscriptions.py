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
from broker.client.registrations import Registration
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
class Subscription(Registration):
    """A topic or a pattern, and all who read it.

    The broker has one subscription of a session to a name.  A reader that comes later lets it begin as that one wants,
    to learn where that is; then it begins for all of them where the last of them is, and each drops what it has had.
    Events that are not stored go to all of them at any time.

    Attributes:
        exact: whether wildcards are ordinary characters.
        echo: whether the client's own live events come, too.
        readers: them.
    """

    kind, method, undo = "subscription", "broker.subscribe", "broker.unsubscribe"

    exact: bool = False
    echo: bool = False
    readers: list[Reader] = attrs.field(factory=list, init=False)
    _newcomer: Reader | None = attrs.field(default=None, init=False)
    _asked_for: list[Reader] = attrs.field(factory=list, init=False)
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
        reader.on_change = lambda: self._reader_changed(reader)
        self.readers.append(reader)
        if len(self.readers) > 1:
            self._go_on()

    # For the registry: see ``Registration``.

    def begin(self) -> None:
        """Subscribe, for the next reader that has not begun, or for all of them; not for those that are paused."""
        reading = [reader for reader in self.readers if not reader.paused]
        self._newcomer = next((reader for reader in reading if not reader.is_placed), None)
        self._asked_for = [self._newcomer] if self._newcomer is not None else reading
        if reading:
            super().begin()

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
        for reader in self.readers:
            reader.following = reader in self._asked_for and not reader.paused
        for reader in [each for each in self._asked_for if not each.ended]:
            reader.begin(start, found if not reader.plain else None, gaps)
        return start

    def in_place(self, result: object) -> None:
        """Ask once more if that was not for all; else be in place."""
        if any(not each.paused and not (each.following and each.is_placed) for each in self.readers):
            self.begin()
        else:
            super().in_place(result)

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

    def on_refused(self, error: ClientError) -> None:
        """End those for whom it can not be had."""
        for reader in self._asked_for:
            reader.end(error)
        self.readers = [reader for reader in self.readers if not reader.ended]
        if self.readers:
            self.begin()
        else:
            self.end(error)

    def on_lost(self) -> None:
        """Notice that the connection was lost."""
        for reader in self.readers:
            reader.lost()

    def on_end(self, error: ClientError | None) -> None:
        """End all readers."""
        readers, self.readers = self.readers, []
        for reader in readers:
            reader.end(error)

    # For the dispatcher.

    def on_event(self, frame: Frame) -> None:
        """Give an event to the readers."""
        topic = frame.topic or self.name
        for reader in list(self.readers):
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

    def _reader_changed(self, reader: Reader) -> None:
        if self.ended:
            return
        if reader.ended and reader in self.readers:
            self.readers.remove(reader)
        if not self.readers:
            self.close()
        elif all(each.paused for each in self.readers):
            if self.context.is_ready:
                self.pause()
        elif not reader.ended and not reader.paused:
            self._go_on()

    def _go_on(self) -> None:
        """Ask for those who are not in place, unless that is under way."""
        self.active = False
        if self.context.is_ready and not self.asking:
            self.begin()
