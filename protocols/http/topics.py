"""Topics: publish, read, wait for more, follow as a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from broker.answers import milliseconds
from broker.arrays import has_more_than
from broker.errors import Conflict, Invalid, TooLarge
from broker.interfaces import MAX_PAGE_BYTES, MAX_PUBLICATIONS
from broker.messages import MAX_ID, NEW, START, Event, Origin, Page, Position, Publication, Response
from broker.patterns import check_name
from protocols.http.answers import Refusal, answer, etag, event_of, problem
from protocols.http.conditions import IF_MATCH, IF_NONE_MATCH, check_unchanged, read_tags
from protocols.http.operations import Call, Operation
from protocols.http.requests import Strict, json_body, position, read_json
from protocols.http.streams import MAX_TOPICS, EventStream, LastValueStream, decode_positions, may_read, stream_answer

if TYPE_CHECKING:
    from broker.config.settings import Settings

MAX_LIMIT = 1000  # events of one answer
CONDITIONS = (IF_MATCH, IF_NONE_MATCH)
MAX_WAIT = 60.0  # seconds that a poll may wait; more is as much as that

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Id = Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
PositionText = Annotated[str, msgspec.Meta(pattern="^([^-]+-)?[0-9]{1,16}$")]


class PublishQuery(Strict):
    """``durable``: store it whatever the topic; ``retain``: keep it as the last one; ``name``: the kind of event."""

    durable: bool = False
    retain: bool = False
    name: Name | None = None


class ReadQuery(Strict):
    """Which events: after a position, before one, the last ones, or after what ``cursor`` has acknowledged."""

    after: PositionText | None = None
    before: PositionText | None = None
    last: Limit | None = None
    limit: Limit = 100
    wait: Seconds = 0.0
    cursor: Name | None = None


class StreamQuery(Strict):
    """``since``: a position, ``start`` or ``new``; ``cursor``: after what that has acknowledged; ``last``: so many."""

    since: str | None = msgspec.field(name="from", default=None)
    cursor: Name | None = None
    last: Limit | None = None


class EventsQuery(Strict):
    """The topics of a stream, or a pattern, and ``since``: ``start`` or ``new``."""

    topic: list[Name] | None = None
    pattern: Name | None = None
    since: str | None = msgspec.field(name="from", default=None)
    cursor: Name | None = None


class Draft(Strict):
    """One event of several."""

    topic: Name
    payload: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b""))
    name: Name | None = None
    key: Name | None = None
    expect: Id | None = None


class Stored(msgspec.Struct, omit_defaults=True):
    """Where an event is, or how many sessions of this node have got it."""

    epoch: str | None = None
    id: int | None = None
    time: int | None = None
    duplicate: bool | None = None
    delivered: int | None = None


class Topics:
    """The operations of topics."""

    def __init__(self, settings: Settings) -> None:
        # An answer that its client does not read must not be more than may wait for a client.
        self._max_bytes = min(MAX_PAGE_BYTES, settings.send_queue_bytes)

    def operations(self) -> tuple[Operation, ...]:
        """Return them."""
        return (
            Operation(
                "POST",
                "/topics/{topic}",
                "Publish an event.",
                self.publish,
                PublishQuery,
                headers=("Idempotency-Key", *CONDITIONS),
                body=Any,
                results={201: "It is stored.", 202: "It is on its way; the topic is not durable."},
                result=Stored,
                errors=(412,),
            ),
            Operation(
                "GET",
                "/topics/{topic}",
                "Read stored events, wait for more, or follow the topic as a stream.",
                self.read,
                ReadQuery,
                headers=CONDITIONS,
                results={200: "The events, in the order of their ids.", 304: "As it was."},
                errors=(410, 412),
                stream=self.follow,
                stream_query=StreamQuery,
            ),
            Operation(
                "POST",
                "/batch",
                "Store up to 1000 events of several topics, all or none.",
                self.batch,
                headers=("Idempotency-Key",),
                body=list[Draft],
                body_needed=True,
                results={201: "They are stored."},
                errors=(412,),
            ),
            Operation(
                "GET",
                "/events",
                "Follow several topics, or a pattern, as a stream.",
                self.follow_several,
                EventsQuery,
                stream=self.follow_several,
                stream_query=EventsQuery,
                errors=(406,),
                only_stream=True,
            ),
        )

    async def publish(self, call: Call) -> Response:
        """Publish an event; answer with where it is stored."""
        peer, query, topic = call.peer, call.query, call.name
        expect = await _expected(call)
        key = call.header("idempotency-key")
        if key:
            check_name(key, "Idempotency-Key")
        name = check_name(query.name if query.name is not None else topic, "name")
        body = json_body(call.request) or None
        try:
            event = await peer.publish(
                topic, name, body, durable=query.durable, key=key, expect=expect, retain=query.retain
            )
        except Conflict as conflict:
            raise Refusal(_behind(conflict)) from None
        if not event.id:
            return answer({"delivered": peer.receivers(event)}, 202)
        said = {
            "epoch": event.epoch,
            "id": event.id,
            "time": milliseconds(event.time),
            "duplicate": event.duplicate,
        }
        return answer(said, 201, headers=(etag(event.epoch, event.id),))

    async def batch(self, call: Call) -> Response:
        """Store several events; answer with the position of each."""
        body = json_body(call.request)
        if has_more_than(body, MAX_PUBLICATIONS):  # a hundred thousand would be decoded first
            raise TooLarge("events", message=f"there are more than {MAX_PUBLICATIONS} events")
        drafts: list[Draft] = read_json(list[Draft], body)
        shown = call.header("idempotency-key")
        keys = [draft.key or (shown and f"{shown}/{index}") for index, draft in enumerate(drafts)]
        if shown:
            check_name(f"{shown}/{MAX_LIMIT}", "Idempotency-Key")
        publications = [_publication(draft, key) for draft, key in zip(drafts, keys, strict=True)]
        try:
            events = await call.peer.publish_all(publications)
        except Conflict as conflict:
            raise Refusal(_behind(conflict)) from None
        return answer({"events": [_stored(event) for event in events]}, 201)

    async def read(self, call: Call) -> Response:
        """Answer with stored events; wait for some if there are none and that is asked for."""
        query, peer = call.query, call.peer
        chosen = [name for name in ("after", "before", "last", "cursor") if getattr(query, name) is not None]
        if len(chosen) > 1:
            raise Invalid("parameter", chosen[1], message=f"{chosen[0]} and {chosen[1]} exclude each other")
        after = None if query.after is None else position(query.after, await peer.present_epoch(), "after")
        if query.cursor is not None:
            after = await _acknowledged(call)
        page = await self._page(call, after)
        waits = query.wait > 0 and not page.events and query.before is None and call.request.method == "GET"
        if waits:
            known = page.head if after is None else after.id
            await peer.poll(call.name, known, 1, min(query.wait, MAX_WAIT))
            page = await self._page(call, after)
        headers = await check_unchanged(call, page.head)
        said = {
            "events": [event_of(event) for event in page.events],
            "epoch": page.epoch,
            "first": page.first,
            "head": page.head,
        }
        return answer(said, headers=headers)

    async def _page(self, call: Call, after: Position | None) -> Page:
        query, peer = call.query, call.peer
        return await peer.page(
            call.name,
            after=after,
            before=None if query.before is None else position(query.before, await peer.present_epoch(), "before"),
            last=query.last is not None,
            limit=query.last or query.limit,
            max_bytes=self._max_bytes,
        )

    async def follow(self, call: Call) -> Response:
        """Answer with the events of a topic as they come, and with those before that the client has not got."""
        peer, query, topic = call.peer, call.query, call.name
        shown, cursor = call.header("last-event-id"), query.cursor or ""
        if query.last is not None:
            return await self._follow_last(call, shown)
        session = EventStream(peer)
        origin: Origin | None = NEW
        if shown:
            origin = position(shown, await peer.present_epoch(), "Last-Event-ID")
            if cursor:
                await _acknowledge(call, cursor, topic, origin)
        elif query.since is not None:
            named = query.since in (START, NEW)
            origin = query.since if named else position(query.since, await peer.present_epoch(), "from")
        elif cursor:
            origin = None
        await _open(session, [topic], origin, cursor, exact=True)
        return stream_answer(session)

    async def _follow_last(self, call: Call, shown: str) -> Response:
        """Answer as ``follow``, first with the newest events that are kept, or those after *shown* if that is said."""
        peer, query, topic = call.peer, call.query, call.name
        if query.since is not None or query.cursor is not None:
            raise Invalid("parameter", "last", message="last excludes from and cursor")
        origin: Origin = NEW
        if shown:
            origin = position(shown, peer.epoch, "Last-Event-ID")
        else:
            place, _ = await peer.place_of_last(topic, query.last)
            origin = place or NEW
        session = LastValueStream(peer)
        await _open(session, [topic], origin, "", exact=True)
        for event in await peer.last(topic):  # what is published from now on comes by itself
            if not event.id:
                session.offer_kept(event)
        return stream_answer(session)

    async def follow_several(self, call: Call) -> Response:
        """Answer with the events of several topics as they come, each as a whole."""
        peer, query = call.peer, call.query
        topics, cursor = list(dict.fromkeys(query.topic or ())), query.cursor or ""
        if bool(topics) is (query.pattern is not None):
            raise Invalid("parameter", "topic", message="either topics or a pattern must be given")
        if len(topics) > MAX_TOPICS:
            raise Invalid("parameter", "topic", message=f"there are more than {MAX_TOPICS} topics")
        origin: Origin | None = None if cursor else NEW
        shown = call.header("last-event-id")
        if shown:
            positions = decode_positions(shown)
            origin = positions
            for topic, reached in positions.items() if cursor else ():
                await _acknowledge(call, cursor, topic, reached)
        elif query.since is not None:
            if query.since not in (START, NEW):
                raise Invalid("parameter", "from", message="from is start or new where there are several topics")
            origin = query.since
        session = EventStream(peer, several=True)
        await _open(session, topics or [query.pattern], origin, cursor, exact=query.pattern is None)
        return stream_answer(session)


async def _open(session: EventStream, topics: list[str], origin: Origin | None, cursor: str, *, exact: bool) -> None:
    """Let *session* have the events of *topics*.

    What may be refused comes first: once the answer has begun, an error is the end of the connection.
    """
    peer = session.peer
    if origin == NEW and not cursor and not all(may_read(peer, topic, exact=exact) for topic in topics):
        session.subscribe(topics, exact=exact)
        await peer.listening()
    else:
        await session.follow(topics, origin, cursor=cursor, exact=exact)
    peer.bind(session)
    session.begin()


async def _acknowledged(call: Call) -> Position:
    """Return what the cursor of the query has acknowledged; the start for one that is new or of another epoch."""
    peer = call.peer
    id = await peer.cursor(call.query.cursor, call.name)
    return Position(peer.epoch, min(id, await peer.head(call.name)) if id else 0)


async def _acknowledge(call: Call, cursor: str, topic: str, reached: Position) -> None:
    """Move *cursor* on to *reached*, which the client has shown as what it has got; never back."""
    peer = call.peer
    present = await peer.present_epoch(reached.epoch)
    if reached.epoch == present and reached.id > await peer.cursor(cursor, topic):  # else that is told as a gap
        await peer.acknowledge_events(cursor, topic, reached)


async def _expected(call: Call) -> int | None:
    """Return the id that the topic must have last, or None.

    Raises:
        Refusal: it has another one.
    """
    peer, match, none_match = call.peer, read_tags(call, IF_MATCH), read_tags(call, IF_NONE_MATCH)
    if match is not None and none_match is not None:
        raise Invalid(IF_NONE_MATCH, message=f"{IF_MATCH} and {IF_NONE_MATCH} exclude each other")
    if match is not None:
        wanted = await match.numbers(peer)
        if len(wanted) == 1:
            return wanted.pop()
        head = await peer.head(call.name) if wanted or match.any else 0
        if head in wanted or (match.any and head):
            return head if wanted else None
        raise Refusal(problem(412, "the topic has another head", code="CONFLICT", epoch=peer.epoch))
    if none_match is None or none_match.any:
        return None if none_match is None else 0
    head = await peer.head(call.name)
    if head in await none_match.numbers(peer, weak=True):
        raise Refusal(problem(412, "the topic has this head", code="CONFLICT", epoch=peer.epoch))
    return head


def _behind(conflict: Conflict) -> Response:
    """Return the answer for an event that does not follow the head."""
    more: dict[str, Any] = {} if conflict.data is None else {"head": msgspec.Raw(conflict.data)}
    return problem(412, "the topic has another head", code=conflict.code, **more)


def _publication(draft: Draft, key: str) -> Publication:
    name = check_name(draft.name if draft.name is not None else draft.topic, "name")
    return Publication(draft.topic, name, bytes(draft.payload) or None, key, draft.expect)


def _stored(event: Event) -> dict[str, Any]:
    said = {"topic": event.topic, "epoch": event.epoch, "id": event.id}
    return {**said, "duplicate": True} if event.duplicate else said
