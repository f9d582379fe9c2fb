"""The reserved methods that publish and say what has become of it: one event, or several together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from broker.answers import milliseconds
from broker.errors import Gone, Invalid
from broker.interfaces import MAX_PUBLICATIONS, IPeer
from broker.messages import MAX_EXPIRY, Event, Publication
from broker.patterns import check_name
from protocols.owlmeans.history_methods import PositionFields
from protocols.owlmeans.methods import Answer, Method, Options
from protocols.owlmeans.wire import ABSENT

if TYPE_CHECKING:
    from protocols.owlmeans.session import Session


class PublishOptions(Options):
    """How an event is published.

    Attributes:
        durable: whether it is stored, whatever the topic.
        key: if the topic has got an event by it lately, this one is not stored.
        name: the kind of event; the topic when it is missing.
        expect: the last id that the topic must have, or its position; 0 for none.
        ttl: seconds after which it is delivered to nobody any more.
        content_type: what the payload is.
        encoding: "base64" if the payload is a string that encodes bytes, which are then published as they are.
        exclude: session and client ids that do not get it.
        retain: whether it is kept for who subscribes later, although it is not stored.
    """

    durable: bool = False
    key: str | None = None
    name: str | None = None
    expect: int | PositionFields | None = None
    ttl: float | None = None
    content_type: str | None = None
    encoding: Literal["base64"] | None = None
    exclude: list[str] | None = None
    retain: bool = False


NO_OPTIONS = PublishOptions()


class Draft(Options, kw_only=True):
    """One event of several; but for topic and payload as ``PublishOptions`` says."""

    topic: str
    payload: msgspec.Raw = msgspec.field(default_factory=lambda: ABSENT)  # a default would have to be described
    key: str | None = None
    name: str | None = None
    expect: int | PositionFields | None = None
    ttl: float | None = None
    content_type: str | None = None
    encoding: Literal["base64"] | None = None


class Publish(Method):
    """Publish an event, and learn whether it is stored or how many it was delivered to."""

    called = "publish"
    topic: str
    payload: msgspec.Raw = ABSENT
    options: PublishOptions | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with position and time of a stored event, or with how many sessions of this node have got it."""
        peer, topic, options = session.peer, self.topic, self.options or NO_OPTIONS
        expires, expect = _checked(session, options), options.expect
        if isinstance(expect, PositionFields):
            expect = await _head(peer, expect)
        event = await peer.publish(
            topic,
            topic if options.name is None else options.name,
            _body(self.payload, options),
            durable=options.durable,
            key=options.key or "",
            expect=expect,
            content_type=options.content_type or "",
            expires=expires,
            exclude=options.exclude or (),
            retain=options.retain,
            is_json=not options.encoding,
        )
        if not event.id:
            return {"delivered": peer.receivers(event)}
        return {
            "epoch": event.epoch,
            "id": event.id,
            "time": milliseconds(event.time),
            "duplicate": event.duplicate,
        }


class Batch(Method):
    """Store up to 1,000 events of several topics, all of them or none."""

    called = "batch"
    max_items = MAX_PUBLICATIONS
    events: list[Draft]

    async def run(self, session: Session) -> Answer:
        """Answer with the position of each."""
        peer, publications = session.peer, []
        for draft in self.events:
            expect = draft.expect
            if isinstance(expect, PositionFields):
                expect = await _head(peer, expect)
            publications.append(_publication(session, draft, expect))
        return {"events": [_stored(event) for event in await peer.publish_all(publications)]}


class TestamentOptions(Options):
    """How a testament is published, as ``PublishOptions`` says."""

    name: str | None = None
    retain: bool = False


class Testament(Method):
    """Leave an event behind for when this session ends without a clean close; a topic of null takes it back."""

    called = "testament"
    topic: str | None
    payload: msgspec.Raw = ABSENT
    options: TestamentOptions | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with the topic, or null."""
        options = self.options or TestamentOptions()
        if self.topic is None:
            session.peer.drop_testament()
        else:
            name = self.topic if options.name is None else check_name(options.name, "name")
            await session.peer.set_testament(self.topic, name, bytes(self.payload) or None, retain=options.retain)
        return {"testament": self.topic}


PUBLISH_METHODS = (Publish, Batch, Testament)


def _stored(event: Event) -> Answer:
    position = {"topic": event.topic, "epoch": event.epoch, "id": event.id}
    return {**position, "duplicate": True} if event.duplicate else position


def _publication(session: Session, draft: Draft, expect: int | None) -> Publication:
    """Return what is to be published.

    Raises:
        Invalid: an option has a value that it can not have.
    """
    expires = _checked(session, draft)
    name, body = draft.topic if draft.name is None else draft.name, _body(draft.payload, draft)
    told = draft.key or "", expect, draft.content_type or "", expires
    return Publication(draft.topic, name, body, *told, is_json=not draft.encoding)


async def _head(peer: IPeer, expect: PositionFields) -> int:
    """Return the id that a topic must have last.

    Raises:
        Gone: it is one of another epoch than the present one, which is in the error.
    """
    present = await peer.present_epoch(expect.epoch)
    if expect.epoch != present:
        raise Gone("epoch", present)
    return expect.id


def _body(payload: msgspec.Raw, options: PublishOptions | Draft) -> bytes | None:
    """Return the body that *payload* is, or stands for in base64.

    Raises:
        Invalid: it is no base64.
    """
    if not options.encoding:
        return bytes(payload) or None
    try:
        return msgspec.json.decode(payload, type=bytes)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Invalid("payload", message="the payload is no base64") from None


def _checked(session: Session, options: PublishOptions | Draft) -> float:
    """Return when what is published expires.

    Raises:
        Invalid: an option has a value that it can not have.
    """
    if options.key == "":
        raise Invalid("key")
    if options.name is not None:
        check_name(options.name, "name")
    if options.ttl is None:
        return 0.0
    expires = session.peer.wall.time() + options.ttl
    if not (options.ttl > 0 and expires <= MAX_EXPIRY):
        raise Invalid("ttl")
    return expires
