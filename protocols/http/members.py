"""Presence: who is on a topic.  That somebody comes or goes is an event of ``broker.presence.<topic>``."""

from __future__ import annotations

from typing import Any

import msgspec

from broker.core.members import shown_members
from broker.messages import Response
from protocols.http.answers import answer
from protocols.http.operations import Call, Operation


class Member(msgspec.Struct):
    """A client that is present, by how many sessions, and what it says of itself."""

    id: str
    sessions: int
    info: Any = None


class Members(msgspec.Struct):
    """Who is present, and how many there are: of very many, only the first are shown."""

    members: list[Member]
    count: int


async def read(call: Call) -> Response:
    """Answer with the members of the topic, on all nodes."""
    members = call.peer.members(call.name)
    return answer({"members": shown_members(members, call.peer.send_queue_bytes // 2), "count": len(members)})


MEMBER_OPERATIONS = (
    Operation(
        "GET",
        "/topics/{topic}/members",
        "Ask who is present on a topic, on all nodes.",
        read,
        results={200: "The members, in the order of their joins."},
        result=Members,
    ),
)
