"""What an application can ask a client to do, by names and types; drivers make Deferreds and Futures of it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import msgspec

from broker.client import wire
from broker.client.core import Core
from broker.client.errors import Invalid
from broker.client.outcomes import Operation, Outcome
from broker.client.values import (
    Acknowledged,
    CursorState,
    Enqueued,
    Entry,
    Event,
    Identity,
    Member,
    Page,
    Position,
    Published,
    QueueState,
    Stored,
)
from broker.client.wire import options

T = TypeVar("T")


class _StoredEvent(msgspec.Struct):
    topic: str
    id: int
    epoch: str
    name: str
    payload: msgspec.Raw
    sender: str = ""
    time: int = 0
    content_type: str = ""
    encoding: str = ""


class _Page(msgspec.Struct):
    events: list[_StoredEvent]
    epoch: str
    first: int
    head: int


class _Batch(msgspec.Struct):
    events: list[Stored]


class _Cursors(msgspec.Struct):
    cursors: list[CursorState]


class _Members(msgspec.Struct):
    members: list[Member]


class _Methods(msgspec.Struct):
    methods: list[str]


class _Entries(msgspec.Struct):
    entries: list[Entry]


class _Deleted(msgspec.Struct):
    deleted: bool


class _Number(msgspec.Struct):
    retried: int = 0
    dropped: int = 0


_published = wire.reader(Published)
_batch = wire.reader(_Batch)
_page = wire.reader(_Page)
_entry = wire.reader(Entry)
_entries = wire.reader(_Entries)
_number = wire.reader(_Number)
_acknowledged = wire.reader(Acknowledged)
_cursors = wire.reader(_Cursors)
_members = wire.reader(_Members)
_methods = wire.reader(_Methods)
_deleted = wire.reader(_Deleted)
_enqueued = wire.reader(Enqueued)
_queue_state = wire.reader(QueueState)


def _nothing(_: object) -> None:
    """Return nothing."""


@attrs.frozen(kw_only=True)
class Draft:
    """One event of a batch; see ``Verbs.publish``."""

    topic: str
    payload: Any
    key: str | None = None
    name: str | None = None
    expect: int | None = None
    ttl: float | None = None
    content_type: str | None = None


@attrs.define(eq=False)
class Verbs:
    """What is asked of the broker and answered once.

    What changes nothing, or is known to the broker by a key, is asked again after a loss; other things end with
    ``ConnectionLost`` then.  ``timeout`` is in seconds, 0 for none; ``wait`` says whether it waits for a connection.
    """

    core: Core

    def connect(self) -> Outcome[Identity]:
        """Connect, and stay connected until ``close``.  Ends when it is ready, or has given up."""
        return self.core.start()

    def close(self) -> Outcome[None]:
        """Close the connection; what is under way ends with ``Closed``."""
        return self.core.close()

    def settled(self) -> Outcome[None]:
        """Wait until everything that is subscribed to, watched, consumed and performed is so at the broker."""
        return self.core.settled()

    def whoami(self) -> Operation[Identity]:
        """Ask who the client is to the broker."""
        return self.core.ask("broker.whoami", [], wire.reader(Identity), again=True)

    # Topics.

    def publish(
        self,
        topic: str,
        payload: Any,
        *,
        durable: bool = False,
        key: str | None = None,
        name: str | None = None,
        expect: int | None = None,
        ttl: float | None = None,
        retain: bool = False,
        exclude: Sequence[str] | None = None,
        content_type: str | None = None,
        timeout: float | None = None,
        wait: bool | None = None,
    ) -> Operation[Published]:
        """Publish an event; it ends when the event is safe, or was delivered.

        Args:
            topic: its name.
            payload: any JSON, or bytes.
            durable: whether it is stored.
            key: the topic stores one event by it; a durable publication with a key is sent again after a loss.
            name: the kind of event; the topic when it is missing.
            expect: the newest id that the topic must have, 0 for none, else ``Conflict``.
            ttl: seconds after which it is delivered to nobody any more.
            retain: whether it is kept for who subscribes later, although it is not stored.
            exclude: session and client ids that do not get it.
            content_type: of the payload.
            timeout: seconds that it may take.
            wait: whether it waits for a connection.
        """
        body, encoding = _body(payload)
        given = options(
            durable=durable or None,
            key=key,
            name=name,
            expect=expect,
            ttl=ttl,
            retain=retain or None,
            exclude=list(exclude) if exclude is not None else None,
            content_type=content_type,
            encoding=encoding,
        )
        again = durable and key is not None
        return self.core.ask(
            "broker.publish", [topic, body, *given], _published, again=again, timeout=timeout, wait=wait
        )

    def batch(self, events: Sequence[Draft], *, timeout: float | None = None) -> Operation[list[Stored]]:
        """Store up to 1,000 events, all of them or none; asked again after a loss if each has a key."""
        drafts = []
        for draft in events:
            body, encoding = _body(draft.payload)
            fields = attrs.asdict(draft, filter=lambda _, value: value is not None)
            drafts.append({**fields, "payload": body, **({"encoding": encoding} if encoding else {})})
        again = all(draft.key is not None for draft in events)
        return self.core.ask("broker.batch", [drafts], lambda data: _batch(data).events, again=again, timeout=timeout)

    def read(
        self,
        topic: str,
        *,
        after: Position | int | None = None,
        before: Position | int | None = None,
        last: int | None = None,
        limit: int | None = None,
    ) -> Operation[Page]:
        """Read stored events: from the oldest on, those ``after`` or ``before`` a position, or the ``last``."""
        given = options(after=after, before=before, last=last, limit=limit)
        return self.core.ask("broker.read", [topic, *given], _read_page, again=True)

    def ack(self, cursor: str, topic: str, position: Position | int) -> Operation[Acknowledged]:
        """Acknowledge the events of *topic* up to *position*: a subscription by *cursor* begins after it."""
        return self.core.ask("broker.ack", [cursor, topic, position], _acknowledged, again=True)

    def cursors(self, topic: str | None = None) -> Operation[list[CursorState]]:
        """List your own cursors."""
        arguments: list[object] = [] if topic is None else [topic]
        return self.core.ask("broker.cursors", arguments, lambda data: _cursors(data).cursors, again=True)

    def members(self, topic: str) -> Operation[list[Member]]:
        """Ask who is present on *topic*."""
        return self.core.ask("broker.members", [topic], lambda data: _members(data).members, again=True)

    # Calls.

    def call(
        self,
        procedure: str,
        *arguments: Any,
        timeout: float | None = None,
        recipient: str = "",
        wait: bool | None = None,
        on_late: Callable[[Any], object] | None = None,
    ) -> Operation[Any]:
        """Call *procedure*; to cancel what is returned cancels the call.

        Args:
            procedure: its name.
            arguments: any JSON.
            timeout: seconds until it ends with ``Timeout``.
            recipient: the client, or session, that is to perform it; "": whoever does.
            wait: whether it waits for a connection.
            on_late: is called with the result if that comes after the deadline.
        """
        return self.core.ask(
            procedure, list(arguments), wire.value_of, timeout=timeout, recipient=recipient, wait=wait, on_late=on_late
        )

    def procedures(self, pattern: str = ">") -> Operation[list[str]]:
        """List the procedures that you may call."""
        return self.core.ask("broker.methods", [pattern], lambda data: _methods(data).methods, again=True)

    # Work queues.

    def enqueue(
        self,
        queue: str,
        payload: Any,
        *,
        key: str | None = None,
        delay: float | None = None,
        order: str | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
        wait: bool | None = None,
    ) -> Operation[Enqueued]:
        """Add a job; with a key it is asked again after a loss.

        Args:
            queue: its name.
            payload: any JSON.
            key: makes it the only one of that name.
            delay: seconds until it is delivered.
            order: of those with the same, one goes at a time.
            ttl: seconds after which it is delivered to nobody.
            timeout: seconds that this may take.
            wait: whether it waits for a connection.
        """
        given = options(key=key, delay=delay, order=order, ttl=ttl)
        return self.core.ask(
            "broker.enqueue", [queue, payload, *given], _enqueued, again=key is not None, timeout=timeout, wait=wait
        )

    def queue(self, queue: str) -> Operation[QueueState]:
        """Ask how many jobs *queue* has."""
        return self.core.ask("broker.queue", [queue], _queue_state, again=True)

    def retry(self, queue: str, ids: Sequence[str] | None = None) -> Operation[int]:
        """Let dead jobs be delivered as new ones, all of them without *ids*; ends with how many there were."""
        chosen = "all" if ids is None else list(ids)
        return self.core.ask("broker.retry", [queue, chosen], lambda data: _number(data).retried)

    def drop(self, queue: str, ids: Sequence[str] | None = None) -> Operation[int]:
        """Remove dead jobs, all of them without *ids*; ends with how many there were."""
        chosen = "all" if ids is None else list(ids)
        return self.core.ask("broker.drop", [queue, chosen], lambda data: _number(data).dropped)

    # Keys.

    def get(self, key: str) -> Operation[Entry]:
        """Read a key."""
        return self.core.ask("broker.get", [key], _entry, again=True)

    def set(self, key: str, value: str, *, ttl: float | None = None, revision: int | None = None) -> Operation[Entry]:
        """Create or replace a key, if *revision* is the stored one (0: there is none), else ``Conflict``."""
        given = options(ttl=ttl, revision=revision)
        return self.core.ask("broker.set", [key, value, *given], _entry)

    def patch(self, key: str, value: str) -> Operation[Entry]:
        """Merge an object into a key's object, one level deep, or append to another value."""
        return self.core.ask("broker.patch", [key, value], _entry)

    def increment(self, key: str, amount: float = 1) -> Operation[Entry]:
        """Add a number to a key."""
        return self.core.ask("broker.increment", [key, amount], _entry)

    def delete(self, key: str, *, revision: int | None = None) -> Operation[bool]:
        """Remove a key; ends with whether it was there."""
        given = options(revision=revision)
        return self.core.ask("broker.delete", [key, *given], lambda data: _deleted(data).deleted)

    def range(self, first: str, last: str, *, limit: int | None = None) -> Operation[list[Entry]]:
        """Read the keys from *first* to *last*, both included."""
        given = options(limit=limit)
        return self.core.ask("broker.range", [first, last, *given], lambda data: _entries(data).entries, again=True)


def _body(payload: Any) -> tuple[object, str | None]:
    """Return what stands on the wire for *payload*, and its encoding."""
    if isinstance(payload, bytes | bytearray | memoryview):
        return b64encode(payload).decode(), "base64"
    return payload, None


def _read_page(data: bytes) -> Page:
    page = _page(data)
    return Page([_event(each) for each in page.events], page.epoch, page.first, page.head)


def _event(stored: _StoredEvent) -> Event:
    reads = msgspec.json.Decoder(bytes).decode if stored.encoding else wire.value_of
    return Event(
        stored.topic,
        stored.name,
        reads(stored.payload),
        stored.sender,
        stored.time,
        stored.id,
        stored.epoch,
        content_type=stored.content_type,
    )


def check_origin(origin: object) -> None:
    """Refuse what can be no beginning of a subscription.

    Raises:
        Invalid: it is none.
    """
    fine = origin in (None, "start", "new") if isinstance(origin, str | None) else True
    if not fine or not isinstance(origin, str | int | Position | Mapping | None):
        raise Invalid('from_ is a position, a position by topic, "start" or "new"')
