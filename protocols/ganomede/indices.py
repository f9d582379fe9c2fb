"""Indices: the events of a channel by the text at some place in them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from broker.core.slices import Slices, slices_of
from broker.interfaces import IPeer
from broker.messages import Event, HttpRequest, Response
from broker.remembered import remembered
from protocols.ganomede.answers import Refusal, invalid, missing, quote
from protocols.ganomede.events import authenticate, encode
from protocols.ganomede.requests import Bodies, channel_of, name_of, read_query, unquote, whole_number

if TYPE_CHECKING:
    from broker.config.settings import Settings

MAX_FIELD = 1000  # characters
MAX_PLACE = 64  # of an item that is found without a look at those behind it
MAX_PARTS = 20_000  # of what is looked through all the same; in a larger one nothing is found
MAX_VALUE = 10000  # characters; a longer one fits into no path that asks for it
PART = re.compile(r"""\[(?:(["'])(?P<quoted>.*?)\1|(?P<bracketed>[^\]]*))\]|(?P<plain>[^.\[\]]+)""")
CREATED, EXISTS = Response(200, b'"OK"'), Response(200, b"null")

NULL = msgspec.Raw(b"null")

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode


class Definition(msgspec.Struct, gc=False):
    """What the body of a POST says; "" is missing or wrong."""

    id: str = ""
    channel: str = ""
    field: str = ""
    secret: str | msgspec.UnsetType = msgspec.UNSET


class Indices:
    """The handlers of ``/indices``."""

    def __init__(self, settings: Settings) -> None:
        self._bodies = Bodies(Definition, settings.max_message_bytes)

    async def create(self, peer: IPeer, request: HttpRequest) -> Response:
        """Define an index; one that exists stays as it is."""
        said = self._bodies.read(request)
        authenticate(peer, said.secret, request)
        id = name_of(said.id, "Invalid index ID")
        channel = channel_of(said.channel)
        if not 0 < len(said.field) <= MAX_FIELD:
            raise invalid("Invalid field")
        return CREATED if await peer.create_index(id, channel, said.field) else EXISTS

    async def read(self, peer: IPeer, request: HttpRequest) -> Response:
        """Answer the events that have a value, the newest first."""
        id, value = map(unquote, request.path.split("/")[-2:])
        if id is None or value is None:
            raise Refusal(missing(request))
        authenticate(peer, read_query(request.query).get("secret", msgspec.UNSET))
        if not id:
            raise invalid("Invalid Index id")
        if not value:
            raise invalid("Invalid Index Value")
        rows = await peer.read_index(id, value, text_at)
        body = b'{"id":%b,"field":%b,"value":%b,"rows":%b}' % (
            quote(rows.id),
            quote(rows.field),
            quote(rows.value),
            await _listed(rows.events, slices_of(peer.clock)),
        )
        return Response(200, body)


async def _listed(events: list[Event], slices: Slices) -> bytes:
    """Return *events* as a JSON array; of thousands in slices."""
    items: list[bytes] = []
    end = slices.deadline()
    for event in events:
        end = await slices.checked(end)
        items.append(event.render(encode))
    return b"[%b]" % b",".join(items)


def text_at(event: Event, field: str) -> str | None:
    """Return the text at *field* of *event*: ``type``, ``from`` or a path below ``data``.

    None when there is none, or something else than text: that is not indexed.
    """
    first, *rest = path_of(field)
    found = None
    if first == "data":
        found = None if event.binary else _text_at(event.body, rest)
    elif not rest:
        found = {"type": event.name, "from": event.author or event.source}.get(first)
    return found if found is not None and len(found) <= MAX_VALUE else None


@remembered(1024)
def path_of(field: str) -> tuple[str, ...]:
    """Return the steps of a path: ``data.deep.a[0].b`` has five."""
    steps = [match["quoted"] or match["bracketed"] or match["plain"] or "" for match in PART.finditer(field)]
    return tuple(steps) or ("",)


def _text_at(body: bytes | None, path: list[str]) -> str | None:
    """Return the text at *path* of the JSON *body*; what lies beside the path is skipped, not decoded."""
    found = body or b"null"
    try:
        for step in path:
            found = _item(found, whole_number(step)) if found.lstrip()[:1] == b"[" else _member(found, step)
        return _text(found)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # no text, or of another dialect, with what this one would not have taken


def _member(text: bytes, name: str) -> bytes:
    """Return the member *name* of the JSON object *text*, or ``null``."""
    decoder = _member_decoder(name)
    if decoder is not None:
        return bytes(decoder.decode(text).value)
    return bytes(_members(text).get(name, b"null")) if text.count(b",") <= MAX_PARTS else b"null"


def _item(text: bytes, place: int | None) -> bytes:
    """Return the item at *place* of the JSON array *text*, or ``null``."""
    if place is None:
        return b"null"
    if place < MAX_PLACE:
        return bytes(getattr(_item_decoder(place).decode(text), f"item{place}"))
    items = _items(text) if text.count(b",") <= MAX_PARTS else []
    return bytes(items[place]) if place < len(items) else b"null"


# A struct skips what it has no field for, of which a list or a dict would make an object each.


@remembered(1024)
def _member_decoder(name: str) -> msgspec.json.Decoder[Any] | None:
    """Return what reads the member *name* of an object; None where there can be none."""
    try:
        kind = msgspec.defstruct("Member", [("value", msgspec.Raw, NULL)], rename={"value": name})
    except ValueError:  # a quote, a backslash or a control character
        return None
    return msgspec.json.Decoder(kind)


@lru_cache(maxsize=MAX_PLACE)
def _item_decoder(place: int) -> msgspec.json.Decoder[Any]:
    """Return what reads the items of an array up to the one at *place*."""
    fields = [(f"item{number}", msgspec.Raw, NULL) for number in range(place + 1)]
    return msgspec.json.Decoder(msgspec.defstruct("Items", fields, array_like=True))
