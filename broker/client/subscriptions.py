"""Subscriptions to topics and patterns, which go on where they were."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec

from broker.client import wire
from broker.client.errors import ClientError
from broker.client.registrations import Registration
from broker.client.streams import Stream
from broker.client.values import Event, Gap, Notice, Origin, Position, Start
from broker.client.wire import Frame
from broker.patterns import is_pattern, matches

_read_start = wire.reader(Start)


class _Lost(msgspec.Struct):
    topic: str = ""
    epoch: str = ""
    first: int | None = msgspec.field(name="from", default=None)
    last: int | None = msgspec.field(name="to", default=None)
    count: int | None = None
    why: str = "slow"


@attrs.define(eq=False)
class Subscription(Registration):
    """A topic or a pattern.

    Attributes:
        stream: of its events.
        origin: where it begins the first time; None: it is live, and begins anew with each connection.
        cursor: whose last acknowledged event it begins after; "": none.
        options: further ones.
        exact: whether wildcards are ordinary characters.
        gaps: what could not be had, the latest of it.
    """

    kind, method, undo = "subscription", "broker.subscribe", "broker.unsubscribe"

    stream: Stream[Event]
    origin: Origin | None = None
    cursor: str = ""
    exact: bool = False
    options: dict[str, Any] = attrs.field(factory=dict)
    gaps: list[Gap] = attrs.field(factory=list, init=False)
    _positions: dict[str, Position] = attrs.field(factory=dict, init=False)
    _begun: bool = attrs.field(default=False, init=False)
    _paused: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.stream.on_drained = self._on_drained

    @property
    def resumes(self) -> bool:
        """Whether it goes on where it was after a loss."""
        return self.origin is not None or bool(self.cursor)

    @property
    def is_pattern(self) -> bool:
        """Whether it stands for several topics."""
        return not self.exact and is_pattern(self.name)

    @property
    def position(self) -> Position | None:
        """Where the subscription to a topic is: of the last event that has come."""
        return self._positions.get(self.name)

    def covers(self, topic: str) -> bool:
        """Whether events of *topic* come by it."""
        return topic == self.name or (self.is_pattern and matches(self.name, topic))

    def arguments(self) -> list[object]:
        """Return the pattern, and the options, with the place where it goes on."""
        options: dict[str, Any] = dict(self.options)
        if self._begun:
            options.pop("last", None)
        if self.exact:
            options["exact"] = True
        if self.cursor:
            options["cursor"] = self.cursor
        origin = self._resumed() if self._begun and self.resumes else self.origin
        if origin is not None:
            options["from"] = origin
        return [self.name, options] if options else [self.name]

    def answered(self, payload: bytes) -> Start:
        """Take note of where it begins, and of what is lost."""
        start = _read_start(payload)
        self._begun = True
        if self.resumes:
            found = start.positions if self.is_pattern else {self.name: Position(start.epoch, start.id)}
            # A topic that is not among them any more may come again, with ids that begin anew in another epoch.
            self._positions = {**self._positions, **found}
        if start.lost:
            for each in msgspec.convert(start.lost if isinstance(start.lost, list) else [start.lost], list[_Lost]):
                self.on_gap(Gap(each.topic or self.name, each.why, each.first, each.last))
        return start

    def on_event(self, frame: Frame) -> None:
        """Give an event to the application, unless it has had it."""
        if not self.active:
            return
        topic = frame.topic or self.name
        number = frame.id if frame.epoch and isinstance(frame.id, int) else 0
        if number and self.resumes:
            known = self._positions.get(topic)
            if known is not None and known.epoch == frame.epoch and number <= known.id:
                self.context.counts.duplicates += 1
                return
            self._positions[topic] = Position(frame.epoch, number)
        payload = wire.payload_of(frame)
        named = frame.name or topic, payload, frame.sender, frame.dt, number, frame.epoch, frame.cursor
        self.context.counts.events += 1
        self.stream.push(Event(topic, *named, frame.content_type))
        if self.stream.is_full:
            self._overflow(topic)

    def on_gap(self, gap: Gap) -> None:
        """Tell the application that something can not be had."""
        self.gaps = [*self.gaps[-99:], gap]
        self.context.notify(Notice("gap", gap.why, gap=gap))

    def on_end(self, error: ClientError | None) -> None:
        """End the stream."""
        self.stream.end(error)

    def _resumed(self) -> Origin | None:
        if self.is_pattern:
            return self._positions or self.origin
        return self.position or self.origin

    def _overflow(self, topic: str) -> None:
        """Have no more than the application reads: what is stored is asked for again, of others the oldest go."""
        if self.resumes:
            self._paused = True
            self.pause()
        elif len(self.stream) > self.stream.limit:
            self.stream.drop_oldest()
            self.on_gap(Gap(topic, "slow", count=1))

    def _on_drained(self) -> None:
        if self._paused and not self.ended:
            self._paused = False
            if self.context.is_ready:
                self.begin()

    def begin(self) -> None:
        """Subscribe, unless there is too much to read; then that is done later."""
        if not self._paused:
            super().begin()
