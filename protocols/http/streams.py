"""Streams of server-sent events: those of topics, each stored event once and in order.

An ``EventSource`` that comes back shows by ``Last-Event-ID`` what it has.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import deque
from random import uniform
from typing import Annotated

import attrs
import msgspec

from broker.errors import Invalid
from broker.interfaces import IFollower, IPeer
from broker.messages import MAX_ID, START, Event, HttpRequest, Loss, Origin, Position, Response
from broker.patterns import is_pattern
from broker.streams import StreamSession
from protocols.http.answers import encode, event_of
from protocols.http.requests import accepts_stream

CONTROL = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029]")
RETRY_SECONDS = 1.0, 3.0  # by chance: after a restart not all come back at once
EVENT_BYTES = 200  # that an event takes besides its body, about
MAX_TOPICS = 100  # with stored events, of one stream
MAX_COUNTED = 1000  # topics whose dropped events are counted apart
GAP = "broker.gap"

Id = Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)]


def frame(name: str, data: bytes, id: str = "") -> bytes:
    """Return one server-sent event; *data* is JSON text."""
    head = f"id: {id}\n" if id else ""
    head += f"event: {CONTROL.sub(' ', name)}\n" if name else ""
    return b"%bdata: %b\n\n" % (head.encode("utf-8", "replace"), _lines(data))


def _lines(data: bytes) -> bytes:
    """Return JSON text with each line end, which may be another between two tokens, as the end of a line of data.

    There may be a million, and a regular expression would take a second for them.
    """
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data.replace(b"\n", b"\ndata: ")


def payload_frame(event: Event) -> bytes:
    """Return *event* of a topic that the client has named: its payload, and its position for an id."""
    return frame(_name_of(event), payload_of(event), f"{event.epoch}-{event.id}" if event.id else "")


def _name_of(event: Event) -> str:
    """Return the name of *event*; none where it is that by which the broker tells of a loss: nobody may feign one."""
    return "" if event.name == GAP else event.name


def payload_of(event: Event) -> bytes:
    """Return what stands for the body of *event*: if that is no JSON, an object that says what it is."""
    if not event.binary:
        return event.body or b"null"
    shown = event_of(event)
    return encode({name: shown[name] for name in ("payload", "encoding", "content_type")})


def whole_event(event: Event) -> bytes:
    """Return *event* as JSON."""
    return encode(event_of(event))


def stream_answer(session: StreamSession) -> Response:
    """Return the answer whose body is *session*."""
    headers = (("Cache-Control", "no-store"), ("X-Accel-Buffering", "no"))
    return Response(200, session, "text/event-stream", headers)


def comes_back(request: HttpRequest) -> bool:
    """Whether the client goes on with a stream that it had before."""
    return request.method == "GET" and "last-event-id" in request.headers and accepts_stream(request)


def later_stream(refusal: Response) -> Response:
    """Return a stream that ends at once, in the place of *refusal*, which holds for some seconds only.

    An ``EventSource`` never comes back from any other answer, but from the end of a stream, with the id that it has.
    """
    seconds = float(dict(refusal.headers).get("Retry-After", "1"))
    retry = b"retry: %d\n\n" % int(1000 * (seconds + uniform(*RETRY_SECONDS)))
    return Response(200, retry, "text/event-stream", (("Cache-Control", "no-store"),))


def beginning(id: str = "") -> bytes:
    """Return what a stream begins with: when to come back, and the id to come back with."""
    retry = b"retry: %d\n" % int(1000 * uniform(*RETRY_SECONDS))
    return retry + (b"id: %b\n\n" % id.encode() if id else b"\n")


@attrs.define(eq=False)
class EventStream(StreamSession):
    """The events of some topics.

    Stored events wait in the store while the client does not read; of others the newest are kept, and it is told how
    many were dropped.

    Attributes:
        several: whether events say which topic they are of, and ids cover all topics.
        numbered: whether stored events have ids.
        positions: with *several*, the id of the last event of each topic that was sent.
        epoch: theirs.
    """

    heartbeat = b":\n\n"  # a comment, every 15 seconds

    several: bool = False
    numbered: bool = True
    positions: dict[str, int] = attrs.field(factory=dict, init=False)
    epoch: str = attrs.field(default="", init=False)
    _followers: list[IFollower] = attrs.field(factory=list, init=False)
    _live: deque[tuple[str, bytes]] = attrs.field(factory=deque, init=False, repr=False)
    _live_bytes: int = attrs.field(default=0, init=False)
    _dropped: dict[str, int] = attrs.field(factory=dict, init=False)

    async def follow(self, topics: list[str], origin: Origin | None, *, cursor: str = "", exact: bool = True) -> None:
        """Follow *topics* from *origin* on; see ``IPeer.follow``."""
        for topic in topics:
            found: Origin | None = origin
            if exact and isinstance(origin, dict):
                found = origin.get(topic, START)
            follower = await self.peer.follow(
                topic, found, self._offer, self._lose, cursor=cursor, exact=exact, echo=True
            )
            self._followers.append(follower)

    def subscribe(self, topics: list[str], *, exact: bool = True) -> None:
        """Get what comes from now on to *topics*, without ids: the client may not read what is stored."""
        self.numbered = False
        for topic in topics:
            self.peer.subscribe(topic, exact=exact, echo=True)

    def begin(self) -> None:
        """Send where it begins, and let the events follow."""
        starts = [start for follower in self._followers for start in follower.starts]
        self.epoch = self.peer.epoch
        self.positions = {start.topic: start.position.id for start in starts}
        if self.several or not starts:
            id = self._id() if self._followers else ""
        else:
            id = f"{starts[0].position.epoch}-{starts[0].position.id}"
        losses = [start.loss for start in starts if start.loss is not None]
        # Who has the id has been told of all that is lost: one that is cut off in between is told again.
        self.send(beginning("" if losses else id))
        for loss in losses:
            self._lose(loss, id if loss is losses[-1] else "")
        for follower in self._followers:
            follower.start()

    def event(self, event: Event, pattern: str) -> None:
        """Send an event that has come by a plain subscription."""
        if not self._offer(event):
            self.peer.fall_behind(event, pattern, self._offer, self._lose)

    def drained(self) -> None:
        """Send what has waited."""
        dropped, self._dropped = self._dropped, {}
        for topic, count in dropped.items():
            self.send(frame(GAP, encode({"topic": topic, "count": count, "why": "slow"})))
        while self._live and not self.paused:
            _, data = self._live.popleft()
            self._hold_live(-len(data))
            self.send(data)
        if not self.paused:
            self.peer.resume()

    def closed(self, code: int, reason: str) -> None:
        """Keep nothing any more."""
        self._live.clear()
        self._hold_live(-self._live_bytes)

    def _offer(self, event: Event) -> bool:
        """Send *event*, if there is room for it; else, if it is stored, it comes again."""
        if self.ended:
            return False
        size = len(event.body or b"") + EVENT_BYTES
        full = self.paused and self.waiting + size > self.peer.send_queue_bytes // 2
        if event.id:
            if full:
                return False
            self.send(self._frame(event))
        elif full or self._live:
            self._keep_live(event.topic, self._frame(event))
        else:
            self.send(self._frame(event))
        return True

    def _frame(self, event: Event) -> bytes:
        if not self.numbered:
            return frame(_name_of(event), event.render(whole_event) if self.several else payload_of(event))
        if not self.several:
            data: bytes = event.render(payload_frame)
            return data
        if event.id:
            if event.epoch != self.epoch:
                self.epoch, self.positions = event.epoch, {}
            if event.topic not in self.positions and len(self.positions) >= MAX_TOPICS:
                self.numbered, self.positions = False, {}  # an id would be too long, and nobody can come back with it
                return self._frame(event)
            self.positions[event.topic] = event.id
        return frame(_name_of(event), event.render(whole_event), self._id() if event.id else "")

    def _id(self) -> str:
        return encode_positions(self.epoch or self.peer.epoch, self.positions)

    def _lose(self, loss: Loss, id: str = "") -> None:
        """Tell of stored events that can not be had any more."""
        said = {"topic": loss.topic, "epoch": loss.epoch, "from": loss.first, "to": loss.last, "why": loss.why}
        self.send(frame(GAP, encode(said), id))

    def _keep_live(self, topic: str, data: bytes) -> None:
        """Keep an event that is not stored, and drop the oldest if that is too much."""
        self._live.append((topic, data))
        self._hold_live(len(data))
        limit = self.peer.send_queue_bytes // 2
        if self._live_bytes > limit and not self._dropped:
            self.peer.slow_consumer("drop")
        while self._live_bytes > limit:
            oldest, old = self._live.popleft()
            self._hold_live(-len(old))
            counted = oldest if oldest in self._dropped or len(self._dropped) < MAX_COUNTED else ""
            self._dropped[counted] = self._dropped.get(counted, 0) + 1

    def _hold_live(self, change: int) -> None:
        self._live_bytes += change
        self.peer.hold(change)


@attrs.define(eq=False)
class LastValueStream(EventStream):
    """An ``EventStream`` that begins with the event that is kept of its topic although it is not stored.

    Attributes:
        newest: when the newest event was published that has come and is not stored.
    """

    newest: float = -1.0

    def offer_kept(self, event: Event) -> None:
        """Send *event*, which is kept, unless it or a newer one has come while it was read."""
        if event.time > self.newest:
            self._offer(event)

    def _offer(self, event: Event) -> bool:
        if not event.id:
            self.newest = max(self.newest, event.time)
        return super()._offer(event)


def encode_positions(epoch: str, positions: dict[str, int]) -> str:
    """Return an id that says how far a stream of several topics has got."""
    return urlsafe_b64encode(encode([epoch, positions])).rstrip(b"=").decode()


def decode_positions(text: str) -> dict[str, Position]:
    """Return the position of each topic that is in an id.

    Raises:
        Invalid: it is none of ours.
    """
    try:
        packed = urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
        epoch, positions = msgspec.json.decode(packed, type=tuple[str, dict[str, Id]])
    except (ValueError, msgspec.DecodeError):
        raise Invalid("Last-Event-ID") from None
    if len(positions) > MAX_TOPICS:
        raise Invalid("Last-Event-ID")
    return {topic: Position(epoch, id) for topic, id in positions.items()}


def may_read(peer: IPeer, topic: str, *, exact: bool = True) -> bool:
    """Whether the client may read what is stored of *topic*, a name or, unless *exact*, a pattern."""
    grants = peer.identity.grants
    if grants is None:
        return True
    may: bool = grants.may("read", topic) if exact or not is_pattern(topic) else grants.may_all("read", topic)
    return may
