"""Keys: read, write under a condition, list, and follow their changes as a stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeAlias

import attrs
import msgspec

from broker.answers import milliseconds
from broker.core.keys import merge
from broker.core.slices import slices_of
from broker.errors import Conflict, Invalid, NotFound, TooLarge
from broker.jsontext import ERRORS
from broker.messages import EVENT_BYTES, MAX_EXPIRY, MAX_TIME, Entry, Event, Response, revision_of
from broker.patterns import KEY_PREFIX
from broker.streams import StreamSession
from protocols.http.answers import Refusal, answer, encode, etag, problem
from protocols.http.conditions import IF_MATCH, IF_NONE_MATCH, check_unchanged, read_tags
from protocols.http.operations import Call, Operation
from protocols.http.requests import Strict, json_body, position, read_json
from protocols.http.streams import beginning, frame, stream_answer

MAX_LIMIT = 1000  # entries of one answer
MAX_BYTES = 1 << 19  # of the entries of one answer
MAX_HELD_BYTES = 1 << 22  # of changes that wait for what comes before them
HIGHEST = "\U0010ffff"  # nothing sorts after it
TRIES = 100  # of a conditional change, while others change the key
JSON, TEXT = "application/json", "text/plain; charset=utf-8"

Change: TypeAlias = Callable[[int | None], Awaitable[Any]]  # of a key that must be at a revision; None: at any

_any_json = msgspec.json.Decoder(msgspec.Raw)


class LifeQuery(Strict):
    """``ttl``: seconds after which the key expires."""

    ttl: Annotated[float, msgspec.Meta(gt=0)] | None = None


class ListQuery(Strict):
    """Which keys: those that begin with ``prefix``, behind ``after``."""

    prefix: str = ""
    after: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = 100


class WatchQuery(Strict):
    """Which keys: those that begin with ``prefix``; ``since``: ``epoch-revision``, the changes after that."""

    prefix: str = ""
    since: str | None = msgspec.field(name="from", default=None)


class Amount(Strict):
    """What is added."""

    amount: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"1"))


async def read(call: Call) -> Response:
    """Answer with the value as it is."""
    key, peer = call.name, call.peer
    entry = await peer.get(key)
    if entry is None:
        raise NotFound("key", key)
    headers = await check_unchanged(call, entry.revision)
    return Response(200, entry.value, _kind_of(entry.value), (*headers, *_expires(entry)))


async def write(call: Call) -> Response:
    """Create or replace the key."""
    key, peer, value = call.name, call.peer, _text(call)
    expires = 0.0
    if call.query.ttl is not None:
        expires = peer.wall.time() + call.query.ttl
        if not expires <= MAX_EXPIRY:
            raise Invalid("parameter", "ttl")
    entry = await _under_condition(call, key, lambda at: peer.set(key, value, revision=at, expires=expires))
    return _changed(call, key, entry)


async def patch(call: Call) -> Response:
    """Merge an object into the key's one level deep, or append to another value."""
    key, peer, value = call.name, call.peer, _text(call)
    if not (call.header("if-match") or call.header("if-none-match")):
        return _changed(call, key, await peer.patch(key, value))

    async def change(at: int | None) -> Entry:
        before = await peer.get(key)
        if (before.revision if before else 0) != at:
            raise Conflict("revision", key)
        merged = value if before is None else merge(before.value, value)
        return await peer.set(key, merged, revision=at, expires=before.expires if before else 0.0)

    return _changed(call, key, await _under_condition(call, key, change))


async def remove(call: Call) -> Response:
    """Remove the key."""
    key, peer = call.name, call.peer
    if not await _under_condition(call, key, lambda at: peer.delete(key, revision=at)):
        raise NotFound("key", key)
    return Response(204, content_type="")


async def increment(call: Call) -> Response:
    """Add a number to the key; a missing one counts as 0."""
    key = call.name
    body = json_body(call.request).strip() or b"1"
    if body[:1] == b"{":
        body = bytes(read_json(Amount, body).amount)
    if body[:1] not in b"-0123456789":
        raise Invalid("amount")
    entry = await call.peer.increment(key, body)
    return answer(_entry(key, entry), headers=(etag(call.peer.epoch, entry.revision),))


async def listed(call: Call) -> Response:
    """Answer with entries in the order of their keys."""
    query = call.query
    found, more = await _entries(call.peer, query.prefix, query.after, query.limit)
    return answer({"entries": [_entry(key, entry) for key, entry in found], "more": more})


async def _entries(peer: Any, prefix: str, after: str | None, limit: int) -> tuple[list[tuple[str, Entry]], bool]:
    """Return entries whose keys begin with *prefix*, behind the key *after*; and whether there may be more."""
    last = prefix + HIGHEST
    first = prefix if after is None else max(prefix, after, key=lambda text: text.encode("utf-8", "surrogatepass"))
    skip = after is not None and first == after
    found = await peer.range(
        first,
        last,
        limit + 1 + skip,
        predicate=lambda key: key.startswith(prefix) and key != after,
        max_bytes=MAX_BYTES,
    )
    size = sum(len(key) + len(entry.value) for key, entry in found)
    return found[:limit], len(found) > limit or size >= MAX_BYTES


def _text(call: Call) -> bytes:
    """Return the body, which is the value as it is.

    Raises:
        Invalid: it is no UTF-8.
    """
    try:
        call.request.body.decode()
    except UnicodeDecodeError:
        raise Invalid("body", message="a value is UTF-8 text") from None
    return call.request.body


def _kind_of(value: bytes) -> str:
    try:
        value.decode()
        _any_json.decode(value)
    except ERRORS:
        return TEXT
    return JSON


def _expires(entry: Entry) -> tuple[tuple[str, str], ...]:
    return (("X-Expires", str(milliseconds(entry.expires))),) if 0 < entry.expires <= MAX_TIME else ()


def _entry(key: str, entry: Entry) -> dict[str, Any]:
    said = {"key": key, "value": entry.value.decode("utf-8", "replace"), "revision": entry.revision}
    return {**said, "expires": milliseconds(entry.expires)} if 0 < entry.expires <= MAX_TIME else said


def _changed(call: Call, key: str, entry: Entry) -> Response:
    said = {"key": key, "revision": entry.revision}
    return answer(said, 201 if entry.created else 200, headers=(etag(call.peer.epoch, entry.revision),))


async def _under_condition(call: Call, key: str, change: Change) -> Any:
    """Return ``await change(revision)``, with the revision that the request says it must be; None: any.

    Raises:
        Refusal: it is another one.
    """
    match, none_match = read_tags(call, IF_MATCH), read_tags(call, IF_NONE_MATCH)
    if match is not None and none_match is not None:
        raise Invalid(IF_NONE_MATCH, message=f"{IF_MATCH} and {IF_NONE_MATCH} exclude each other")
    try:
        if match is not None:
            wanted = await match.numbers(call.peer) - {0}  # it must match something
            if len(wanted) == 1:
                return await change(wanted.pop())
            return await _where(call, key, change, lambda at: at > 0 if match.any else at in wanted)
        if none_match is not None and not none_match.any:
            unwanted = await none_match.numbers(call.peer, weak=True)
            return await _where(call, key, change, lambda at: at not in unwanted)
        return await change(None if none_match is None else 0)
    except Conflict:
        raise Refusal(problem(412, "the key has another revision", code="CONFLICT")) from None


async def _where(call: Call, key: str, change: Change, fits: Callable[[int], bool]) -> Any:
    """Return ``await change(revision)`` of the revision that there is, 0 for none, if it *fits*.

    Raises:
        Conflict: it does not, or is another one again and again.
    """
    for _ in range(TRIES):
        entry = await call.peer.get(key)
        at = 0 if entry is None else entry.revision
        if not fits(at):
            break
        try:
            return await change(at)
        except Conflict:
            continue
    raise Conflict("revision", key)


@attrs.define(eq=False)
class KeyStream(StreamSession):
    """The changes of the keys that begin with *prefix*, after what is there or after a revision.

    Attributes:
        prefix: of the keys.
        waiting_changes: those that wait for the entries; None when they are sent at once.
        began: up to which revision the client has what has changed.
        included: the keys whose later changes it has, too, with their revisions.
        newest: the highest of those.
    """

    heartbeat = b":\n\n"

    prefix: str = ""
    waiting_changes: list[Event] | None = attrs.field(factory=list)
    began: int = 0
    included: dict[str, int] = attrs.field(factory=dict)
    newest: int = 0
    _size: int = 0

    def event(self, event: Event, pattern: str) -> None:
        """Send the change of a key, or keep it until the entries are sent."""
        if self.waiting_changes is None:
            self.change(event)
            return
        size = len(event.body or b"") + EVENT_BYTES
        if self._size + size > MAX_HELD_BYTES:
            self.disconnect(1013, "too much before the entries")
            return
        self.waiting_changes.append(event)
        self._hold(size)

    def change(self, event: Event) -> None:
        """Send the change of a key, unless it is of another, or the client has it."""
        revision = revision_of(event)
        key = event.topic.removeprefix(KEY_PREFIX)
        if not key.startswith(self.prefix):
            return
        if revision and (revision <= self.began or revision <= self.included.get(key, 0)):
            return
        if self.included and revision > self.newest:
            self.included = {}  # those that come after it are new, too
        self.send(event.render(change_frame, self.peer.epoch))

    async def changes(self, events: list[Event]) -> None:
        """Send the changes of keys, and take them off the list: to drop thousands at once takes its time, too."""
        slices = slices_of(self.peer.clock)
        end = slices.deadline()
        events.reverse()
        while events:
            end = await slices.checked(end)
            self.change(events.pop())

    async def go_on(self) -> None:
        """Send what has waited, and from then on at once what comes."""
        while waiting := self.waiting_changes:
            self.waiting_changes = []
            self._hold(-self._size)
            await self.changes(waiting)
        self.waiting_changes = None

    def closed(self, code: int, reason: str) -> None:
        """Keep nothing any more."""
        self.waiting_changes = None
        self._hold(-self._size)

    def _hold(self, change: int) -> None:
        self._size += change
        self.peer.hold(change)


def change_frame(event: Event, epoch: str) -> bytes:
    """Return the change of a key as a server-sent event, named ``set`` or ``delete``."""
    revision, body = revision_of(event), event.body or b"{}"
    if not revision:
        return frame(event.name, body)
    return frame(event.name, b'%b,"revision":%d}' % (body[:-1], revision), f"{epoch}-{revision}")


async def follow(call: Call) -> Response:
    """Answer with the entries that are there, or what has changed since a revision, and then with each change."""
    peer, prefix = call.peer, call.query.prefix
    shown = call.header("last-event-id") or call.query.since
    since = position(shown, await peer.present_epoch(), "Last-Event-ID") if shown else None
    session = KeyStream(peer, prefix=prefix)
    peer.bind(session)
    # Watching before reading: a change in between must not be missed.
    peer.watch(lambda key: key.startswith(prefix))
    await peer.listening()
    await peer.keep_changes()
    missed = None if since is None else await peer.changes(">", since.epoch, since.id)
    if missed is not None and since is not None:
        session.send(beginning(f"{since.epoch}-{since.id}"))
        session.began = since.id
        newest = revision_of(missed[-1]) if missed else since.id
        await session.changes(missed)
        session.began = newest
    else:
        await _send_entries(session, prefix)
    await session.go_on()
    return stream_answer(session)


async def _send_entries(session: KeyStream, prefix: str) -> None:
    """Send what is there, each key as a ``set``; before them ``broker.snapshot``: what the client had is over.

    The id comes behind them: who is cut off before gets them again.

    Raises:
        TooLarge: they are more than may wait for a client.
    """
    peer = session.peer
    revision = await peer.revision()
    epoch = peer.epoch  # after that: before the first answer of the store nobody knows it
    session.began = revision
    session.send(beginning())
    session.send(frame("broker.snapshot", encode({"epoch": epoch, "revision": revision})))
    after, more, size = None, True, 0
    slices = slices_of(peer.clock)
    end = slices.deadline()
    while more:
        found, more = await _entries(peer, prefix, after, MAX_LIMIT)
        for key, entry in found:
            end = await slices.checked(end)
            if entry.revision > revision:
                session.included[key] = entry.revision
                session.newest = max(session.newest, entry.revision)
            data = frame("set", encode(_entry(key, entry)))
            size += len(data)
            session.send(data)
        if size > peer.send_queue_bytes:
            raise TooLarge("snapshot", prefix)
        more = more and bool(found)
        after = found[-1][0] if found else after
    session.send(f"id: {epoch}-{revision}\n\n".encode())


KEY = "/keys/{key}"
VALUE = (JSON, TEXT.partition(";")[0])
CONDITIONS = (IF_MATCH, IF_NONE_MATCH)
KEY_OPERATIONS = (
    Operation(
        "GET",
        KEY,
        "Read a key.",
        read,
        headers=CONDITIONS,
        results={200: "The value.", 304: "As it was."},
        media=VALUE,
        errors=(412,),
    ),
    Operation(
        "PUT",
        KEY,
        "Create or replace a key.",
        write,
        LifeQuery,
        headers=CONDITIONS,
        body=Any,
        body_media=VALUE,
        results={200: "It is replaced.", 201: "It is created."},
        errors=(412,),
    ),
    Operation(
        "PATCH",
        KEY,
        "Merge an object into a key's object, one level deep, or append to another value.",
        patch,
        headers=CONDITIONS,
        body=Any,
        body_media=VALUE,
        results={200: "It is changed.", 201: "It is created."},
        errors=(412,),
    ),
    Operation(
        "DELETE", KEY, "Remove a key.", remove, headers=CONDITIONS, results={204: "It is removed."}, errors=(412,)
    ),
    Operation(
        "POST",
        KEY + "/increment",
        "Add a number to a key; a missing one counts as 0.",
        increment,
        body=float | Amount,
        results={200: "The new value."},
    ),
    Operation(
        "GET",
        "/keys",
        "List keys, or follow their changes as a stream.",
        listed,
        ListQuery,
        results={200: "The entries, in the order of their keys."},
        stream=follow,
        stream_query=WatchQuery,
    ),
)
