"""What ``txbroker tail`` does."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Literal

import attrs

from broker.app.client.output import emit, emit_json, event_as_dict, event_as_line
from broker.app.client.payloads import position_of
from broker.app.client.running import forever, on_terminate
from broker.app.client.target import Target
from broker.client import ClientError, Event, Invalid, Items, Position
from broker.client.asyncio import Client
from broker.errors import Invalid as Wrong
from broker.patterns import is_pattern

ACKNOWLEDGE_EVERY = 0.5  # seconds


def follow(
    target: Target,
    topic: str,
    *,
    origin: str,
    cursor: str,
    last: int | None,
    exact: bool,
    count: int | None,
    as_json: bool,
) -> None:
    """Print the events of *topic* as they come.

    Raises:
        broker.errors.Invalid: options that do not go together.
    """
    if last and (origin or cursor):
        raise Wrong(message="--last says where to begin, as --from and --cursor do: give one of them")
    given = {"from_": _origin(origin), "cursor": cursor, "exact": exact, "last": last, "echo": True}
    forever(target, lambda client: _follow(client, topic, given, origin, count, as_json))


def _origin(text: str) -> Position | int | Literal["start", "new"] | None:
    match text:
        case "":
            return None  # what is new, or what the cursor says
        case "start" | "new":
            return text
    return position_of(text)


async def _follow(
    client: Client, topic: str, given: dict[str, Any], origin: str, count: int | None, as_json: bool
) -> None:
    items = client.subscribe(topic, **given)
    on_terminate(items.close)
    try:
        async with Acknowledger(client) as acknowledger:
            await _show(items, acknowledger, count, as_json)
    except Invalid as error:
        if origin and error.message.endswith(":from"):
            raise Invalid(f"--from {origin}: {await _explain(client, topic, exact=given['exact'])}") from None
        raise


async def _explain(client: Client, topic: str, *, exact: bool) -> str:
    """Return why a subscription to *topic* can not begin where it is asked to: the broker says only that."""
    if not exact and is_pattern(topic):
        return f"{topic} is a pattern, and an id is a place in one topic"
    try:
        newest = (await client.read(topic, last=1)).head
    except ClientError:
        return "there is no such place"
    return f"the newest event of {topic} is {newest}" if newest else f"{topic} has no stored events"


async def _show(items: Items[Event], acknowledger: Acknowledger, count: int | None, as_json: bool) -> None:
    shown = 0
    async for event in items:
        if as_json:
            emit_json(event_as_dict(event))
        else:
            emit(event_as_line(event))
        acknowledger.add(event)
        shown += 1
        if shown == count:
            return


@attrs.define(eq=False)
class Acknowledger:
    """Acknowledges what was printed, now and then, and at the end."""

    client: Client
    _places: dict[tuple[str, str], Position] = attrs.field(factory=dict, init=False)
    _task: asyncio.Task[None] | None = attrs.field(default=None, init=False)

    def add(self, event: Event) -> None:
        """Acknowledge *event* soon, if it has come by a cursor."""
        if event.cursor and event.id:
            self._places[event.cursor, event.topic] = event.position
            if self._task is None:
                self._task = asyncio.create_task(self._later())

    async def _later(self) -> None:
        await asyncio.sleep(ACKNOWLEDGE_EVERY)
        self._task = None
        with suppress(ClientError):  # what was not acknowledged comes again
            await self._acknowledge()

    async def _acknowledge(self) -> None:
        places, self._places = self._places, {}
        for (cursor, topic), place in places.items():
            await self.client.ack(cursor, topic, place)

    async def __aenter__(self) -> Acknowledger:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
        if self.client.state == "ready":
            await self._acknowledge()
