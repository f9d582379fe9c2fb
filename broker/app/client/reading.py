"""What ``txbroker read`` does."""

from __future__ import annotations

from broker.app.client.output import emit, emit_json, event_as_dict, event_as_line, note
from broker.app.client.payloads import position_of
from broker.app.client.running import once
from broker.app.client.target import Target
from broker.client import Page, Position
from broker.client.asyncio import Client
from broker.errors import Invalid

MAX_PAGE = 1000  # events that the broker reads at once


def read(
    target: Target,
    topic: str,
    *,
    after: str | None,
    before: str | None,
    last: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """Print stored events of *topic*; say on standard error if there are more.

    Raises:
        Invalid: options that do not go together.
    """
    if sum(each is not None for each in (after, before, last)) > 1:
        raise Invalid(message="--after, --before and --last each say which events: give one of them")
    if before is not None or last is not None:
        many = min(MAX_PAGE, limit if last is None else min(last, limit))
        place = position_of(before) if before is not None else None
        wanted = None if last is None else many
        page: Page = once(target, lambda client: client.read(topic, before=place, last=wanted, limit=many))
        _show(page, as_json)
        return
    start = position_of(after) if after is not None else None
    more: Position | None = once(target, lambda client: _read_on(client, topic, start, limit, as_json))
    if more is not None:
        note(f"there are more, after {more.epoch}:{more.id}; see --after and --limit")


async def _read_on(
    client: Client, topic: str, after: Position | int | None, limit: int, as_json: bool
) -> Position | None:
    """Print up to *limit* events; return the place of the last one if there are more."""
    left = limit
    while True:
        page = await client.read(topic, after=after, limit=min(left, MAX_PAGE))
        _show(page, as_json)
        left -= len(page.events)
        if not page.events or page.events[-1].id >= page.head:
            return None
        after = page.events[-1].position
        if left <= 0:
            return after


def _show(page: Page, as_json: bool) -> None:
    for event in page.events:
        if as_json:
            emit_json(event_as_dict(event))
        else:
            emit(event_as_line(event))
