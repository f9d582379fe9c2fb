"""Who reads a subscription: where it is, and what it has missed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from broker.client import wire
from broker.client.context import Context
from broker.client.errors import ClientError, Closed, Invalid
from broker.client.notices import Gap, Notice
from broker.client.outcomes import Outcome
from broker.client.streams import Stream
from broker.client.values import Event, Origin, Position, Start
from broker.client.wire import Frame

MAX_GAPS = 100  # of one reader that are kept


def _ignore() -> None:
    """Do nothing."""


@attrs.define(eq=False)
class Reader:
    """One iterator over the events of a topic or a pattern.

    Attributes:
        context: of the client.
        name: the topic or the pattern.
        stream: of the events.
        origin: where it begins; None: with what is new, stored or not.
        cursor: whose last acknowledged event it begins after; "": none.
        last: how many of the newest events that are kept come first.
        presence: what the client says of itself as a member of the topic; None: it is none.
        is_pattern: whether *name* stands for several topics.
        on_change: is called when it has paused, can go on, or wants no more.
        ready: ends when it is in place for the first time.
        gaps: what could not be had, the latest of it.
        plain: whether it may not read what is stored, and so can not go on where it was.
        following: whether the stored events that come follow those that it has had.
        paused: whether it has as many as it should.
        ended: whether it gets no more.
        positions: the last event of each topic that it has had; of a pattern, topics without one are at the start.
    """

    context: Context
    name: str
    stream: Stream[Event]
    origin: Origin | None = None
    cursor: str = ""
    last: int | None = None
    presence: Any = None
    is_pattern: bool = False
    on_change: Callable[[], object] = attrs.field(default=_ignore, init=False)
    ready: Outcome[Start] = attrs.field(factory=Outcome, init=False)
    gaps: deque[Gap] = attrs.field(factory=lambda: deque(maxlen=MAX_GAPS), init=False)
    plain: bool = attrs.field(default=False, init=False)
    following: bool = attrs.field(default=False, init=False)
    paused: bool = attrs.field(default=False, init=False)
    ended: bool = attrs.field(default=False, init=False)
    positions: dict[str, Position] = attrs.field(factory=dict, init=False)
    _begun: bool = attrs.field(default=False, init=False)
    _mapped: bool = attrs.field(default=False, init=False)  # whether the positions are those of all topics
    _live: bool = attrs.field(default=False, init=False)  # whether events have come that are not stored
    _beyond: bool = attrs.field(default=False, init=False)  # whether the broker has less than it has had
    _away: bool = attrs.field(default=False, init=False)  # whether the connection was lost since it was in place

    def __attrs_post_init__(self) -> None:
        check_origin(self.origin)
        self.stream.on_drained = self._on_drained

    @property
    def is_strict(self) -> bool:
        """Whether it must have all stored events, rather than those that it can get."""
        return self.origin is not None or bool(self.cursor)

    @property
    def is_placed(self) -> bool:
        """Whether it needs no beginning any more."""
        return self.plain or self._mapped

    @property
    def position(self) -> Position | None:
        """Of the last event that has come, of a single topic."""
        return self.positions.get(self.name)

    def beginning(self) -> dict[str, Any]:
        """Return the options by which the broker lets it begin."""
        options: dict[str, Any] = {}
        if self._beyond:
            return {"from": "new"}
        if self.last is not None:
            options["last"] = self.last
        if self.cursor:
            options["cursor"] = self.cursor
        if self.origin is not None:
            options["from"] = self.origin
        elif not options and not self.plain:
            options["from"] = "new"  # it is the position that is wanted, to come back to
        return options

    def begin(self, start: Start, found: Mapping[str, Position] | None, losses: list[Gap]) -> None:
        """Notice that the broker has let it begin, or go on.

        Args:
            start: what it has said.
            found: where that is, by topic; None: what is stored does not count.
            losses: what can not be had.
        """
        for loss in losses:
            self._lose(loss, start.epoch)
        for topic, position in (found or {}).items():
            known = self.positions.get(topic)
            if known is None or known.epoch != position.epoch or known.id < position.id:
                self.positions[topic] = position
        # Topics that are not among them any more may come again, with ids that begin anew in another epoch.
        self._mapped = self._mapped or found is not None
        self.last = None
        if self._beyond:
            self.on_gap(Gap(self.name, "missed"))
        elif self._away and not self._is_all_stored:
            self.on_gap(Gap(self.name, "away"))
        self._begun, self._away, self._beyond = True, False, False
        self.ready.succeed(start)

    def lost(self) -> None:
        """Notice that the connection was lost."""
        self.following = False
        self._away = self._begun and not self.is_strict

    def restart(self) -> None:
        """Begin anew with what is new: the broker does not know where it was, as events were lost there."""
        self._beyond, self._mapped, self.positions = True, False, {}

    def become_plain(self) -> None:
        """Have what comes, as what is stored can not be had."""
        self.plain, self._beyond, self._mapped, self.positions = True, False, False, {}

    def on_event(self, topic: str, frame: Frame) -> None:
        """Give an event to the application, unless it has had it."""
        if not self._begun or self.paused or self.ended:
            return
        number = frame.id if frame.epoch and isinstance(frame.id, int) else 0
        if not number:
            self._live = True
        elif not self.following or not self._advance(topic, Position(frame.epoch, number)):
            return
        payload, cursor = wire.payload_of(frame), self.cursor if number else ""
        named = frame.name or topic, payload, frame.sender, frame.dt, number, frame.epoch, cursor
        self.context.counts.events += 1
        self.stream.push(Event(topic, *named, frame.content_type))
        if self.stream.is_full:
            self._overflow(topic, bool(number))

    def on_gap(self, gap: Gap) -> None:
        """Tell the application that something can not be had."""
        self.gaps.append(gap)
        self.context.notify(Notice("gap", gap.why, gap=gap))

    def close(self) -> None:
        """Want no more events."""
        if not self.ended:
            self.end(None)
            self.on_change()

    def end(self, error: ClientError | None) -> None:
        """Get no more events, because of *error* if there is one."""
        self.ended, self.following = True, False
        self.ready.fail(error or Closed())
        self.stream.end(error)

    @property
    def _is_all_stored(self) -> bool:
        """Whether nothing is known to come that is not stored."""
        return not self.plain and not self._live and any(position.id for position in self.positions.values())

    def _advance(self, topic: str, position: Position) -> bool:
        """Be at *position* of *topic*; say whether that is new."""
        known = self.positions.get(topic)
        if known is not None and known.epoch == position.epoch and position.id <= known.id:
            self.context.counts.duplicates += 1
            return False
        if self._mapped or not self.is_pattern:
            self.positions[topic] = position
        return True

    def _lose(self, loss: Gap, epoch: str) -> None:
        """Tell of what is lost, unless it has had that."""
        known = self.positions.get(loss.topic)
        if known is not None and loss.why != "epoch" and loss.first is not None and loss.last is not None:
            if known.id >= loss.last:
                return
            loss = attrs.evolve(loss, first=max(loss.first, known.id + 1))
        elif known is not None and known.epoch == epoch:
            return
        self.on_gap(loss)

    def _overflow(self, topic: str, stored: bool) -> None:
        """Have no more than the application reads: what is stored is asked for again, of others the oldest go."""
        if stored and not self.plain:
            self.paused, self.following = True, False
            if self._live and not self.is_strict:
                self.on_gap(Gap(self.name, "slow"))
            self.on_change()
        elif len(self.stream) > self.stream.limit:
            # Not one that is stored, and would not come again.
            newest = self.stream.first().id and not self.plain
            dropped = self.stream.drop_newest() if newest else self.stream.drop_oldest()
            self.on_gap(Gap(dropped.topic, "slow", dropped.id or None, dropped.id or None, count=1))

    def _on_drained(self) -> None:
        if self.paused and not self.ended:
            self.paused = False
            self.on_change()


def check_origin(origin: object) -> None:
    """Refuse what can be no beginning of a subscription.

    Raises:
        Invalid: it is none.
    """
    fine = origin in (None, "start", "new") if isinstance(origin, str | None) else True
    if not fine or not isinstance(origin, str | int | Position | Mapping | None):
        raise Invalid('from_ is a position, a position by topic, "start" or "new"')
