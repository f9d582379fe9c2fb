"""Presence: who is on a topic.  That somebody comes or goes is an event of ``broker.presence.<topic>``."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from broker.core.members import shown_members, shown_page
from broker.messages import Response
from protocols.http.answers import answer
from protocols.http.operations import Call, Operation
from protocols.http.requests import Strict

MAX_LIMIT = 1000  # members of one page


class MembersQuery(Strict):
    """For a page of them, in the order of their ids: ``limit``: how many at most; ``after``: the id they follow."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] | None = None
    after: str | None = None


class Member(msgspec.Struct):
    """A client that is present, by how many sessions, and what it says of itself."""

    id: str
    sessions: int
    info: Any = None


class Members(msgspec.Struct, omit_defaults=True):
    """Who is present, how many there are, and, of a page, whether more follow; else the first of very many."""

    members: list[Member]
    count: int
    more: bool | None = None


async def read(call: Call) -> Response:
    """Answer with the members of the topic, on all nodes."""
    peer, query = call.peer, call.query
    max_bytes = peer.send_queue_bytes // 2
    if query.limit is None and query.after is None:
        members = peer.members(call.name)
        return answer({"members": shown_members(members, max_bytes), "count": len(members)})
    page = peer.page_of_members(call.name, query.after or "", query.limit or MAX_LIMIT)
    return answer(shown_page(page, max_bytes))


MEMBER_OPERATIONS = (
    Operation(
        "GET",
        "/topics/{topic}/members",
        "Ask who is present on a topic, on all nodes.",
        read,
        MembersQuery,
        results={200: "The members, in the order of their joins, or, of a page, of their ids."},
        result=Members,
    ),
)
