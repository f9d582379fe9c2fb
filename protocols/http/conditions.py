"""Conditions of requests: ``If-Match`` and ``If-None-Match`` with entity tags (RFC 9110, 13.1)."""

from __future__ import annotations

import re

import attrs

from broker.errors import Invalid
from broker.interfaces import IPeer
from broker.messages import MAX_ID, Response
from protocols.http.answers import Headers, Refusal, etag, problem
from protocols.http.operations import Call

# RFC 9110, 8.8.3: an opaque tag holds no blank and no quote.  A bare number is a tag, too: it is easily typed.
TAG = re.compile(r'[ \t,]*(?:(W/)?"([\x21\x23-\x7e\x80-\xff]*)"|([0-9]{1,16}))[ \t]*(?:,|$)')
NUMBER = re.compile("[0-9]{1,16}")
MAX_TAGS = 500  # of one field; a cache sends one for each answer of a URL that it keeps
IF_MATCH, IF_NONE_MATCH = "If-Match", "If-None-Match"


@attrs.frozen
class Tags:
    """The entity tags that a header field has.

    Attributes:
        any: whether that is ``*``.
        strong: those that may only stand for exactly the same.
        weak: those with ``W/``.
    """

    any: bool = False
    strong: tuple[str, ...] = ()
    weak: tuple[str, ...] = ()

    async def numbers(self, peer: IPeer, *, weak: bool = False) -> set[int]:
        """Return the numbers of the tags of the present epoch; one that names none is of that.

        Raises:
            Unavailable: the store is away, and it is not known which epoch that is.
        """
        found, epoch, asked = set(), peer.epoch, False
        for tag in (*self.strong, *self.weak) if weak else self.strong:
            before, dash, number = tag.rpartition("-")
            if not NUMBER.fullmatch(number) or int(number) > MAX_ID:
                continue
            if dash and before != epoch and not asked:  # once: the other tags name whatever their client likes
                epoch, asked = await peer.present_epoch(before), True
            if not dash or before == epoch:
                found.add(int(number))
        return found


def read_tags(call: Call, name: str) -> Tags | None:
    """Return what the header field *name* of a request says, or None without one.

    Raises:
        Invalid: it is malformed, or has more than ``MAX_TAGS`` tags.
    """
    field = call.header(name.lower())
    if not field:
        return None
    text = field.strip(" \t,")
    if text == "*":
        return Tags(any=True)
    strong: list[str] = []
    weak: list[str] = []
    place = 0
    while place < len(text) or not text:
        found = TAG.match(text, place)
        if found is None:
            raise Invalid(name, message=f"{name} is no entity tag, list of entity tags, or *")
        if len(strong) + len(weak) == MAX_TAGS:
            raise Invalid(name, message=f"{name} has more than {MAX_TAGS} entity tags")
        (weak if found[1] else strong).append(found[2] if found[2] is not None else found[3])
        place = found.end()
    return Tags(False, tuple(strong), tuple(weak))


async def check_unchanged(call: Call, number: int) -> Headers:
    """Return the ``ETag`` for the answer to a GET of what is at *number* now.

    Raises:
        Refusal: the client has it, or does not want it.
    """
    tag = etag(call.peer.epoch, number)
    match, none_match = read_tags(call, IF_MATCH), read_tags(call, IF_NONE_MATCH)
    if match is not None and not (match.any or number in await match.numbers(call.peer)):
        raise Refusal(problem(412, "it has another entity tag", code="CONFLICT", headers=(tag,)))
    # RFC 9110, 13.1.2: "A recipient MUST use the weak comparison function when comparing entity tags".
    if none_match is not None and (none_match.any or number in await none_match.numbers(call.peer, weak=True)):
        raise Refusal(Response(304, content_type="", headers=(tag,)))
    return (tag,)
