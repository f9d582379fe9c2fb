"""Publishing events, reading those that are stored, and cursors."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import attrs
import msgspec

from broker.client import wire
from broker.client.base_verbs import BaseVerbs
from broker.client.outcomes import Operation
from broker.client.values import Acknowledged, CursorState, Event, Member, Page, Position, Published, Stored
from broker.client.wire import options


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


_published = wire.reader(Published)
_batch = wire.reader(_Batch)
_page = wire.reader(_Page)
_acknowledged = wire.reader(Acknowledged)
_cursors = wire.reader(_Cursors)
_members = wire.reader(_Members)


@attrs.frozen(kw_only=True)
class Draft:
    """One event of a batch; see ``publish``."""

    topic: str
    payload: Any
    key: str | None = None
    name: str | None = None
    expect: int | None = None
    ttl: float | None = None
    content_type: str | None = None


@attrs.define(eq=False)
class TopicVerbs(BaseVerbs):
    """Of topics."""

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
