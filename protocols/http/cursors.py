"""Cursors: how far a client has acknowledged a topic."""

from __future__ import annotations

from typing import Annotated

import msgspec

from broker.errors import NotFound
from broker.messages import MAX_ID, Position, Response
from protocols.http.answers import answer
from protocols.http.operations import Call, Operation
from protocols.http.requests import Strict, members


class Reached(Strict):
    """A position; without ``epoch`` it is of the present one."""

    id: Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)]
    epoch: str | None = None


async def read(call: Call) -> Response:
    """Answer with the id that the cursor has acknowledged in the present epoch; 0 for none."""
    cursor, topic = call.names
    id = await call.peer.cursor(cursor, topic)
    return answer({"cursor": cursor, "topic": topic, "epoch": call.peer.epoch, "id": id})


async def move(call: Call) -> Response:
    """Acknowledge events up to a position."""
    cursor, topic = call.names
    reached: Reached = members(Reached, call.request)
    position = Position(reached.epoch if reached.epoch is not None else await call.peer.present_epoch(), reached.id)
    back = await call.peer.acknowledge_events(cursor, topic, position)
    return answer({"cursor": cursor, "topic": topic, "epoch": position.epoch, "id": position.id, "back": back})


async def remove(call: Call) -> Response:
    """Remove the cursor: it begins at the start of the topic again."""
    cursor, topic = call.names
    if not await call.peer.forget_cursor(cursor, topic):
        raise NotFound("cursor", cursor)
    return Response(204, content_type="")


PATH = "/cursors/{cursor}/{topic}"
CURSOR_OPERATIONS = (
    Operation("GET", PATH, "Ask how far a cursor has got.", read, results={200: "Its position."}),
    Operation("PUT", PATH, "Acknowledge up to a position.", move, body=Reached, body_needed=True, errors=(410,)),
    Operation("DELETE", PATH, "Remove a cursor.", remove, results={204: "It is removed."}),
)
