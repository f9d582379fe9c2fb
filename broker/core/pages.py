"""Reading a log page by page, so that what is held at once has a bound, whatever its events hold.

Up to where somebody has read is an id in decimal digits.
"""

from __future__ import annotations

from broker.interfaces import MAX_PAGE_BYTES, IStore
from broker.messages import MAX_ID, Entry, Event

MAX_DIGITS = len(str(MAX_ID))
STEP = 32  # events read in one go, since each may be as large as a message
READ_BYTES = 1 << 20  # bytes after which one read of a store returns no more


def position_of(entry: Entry | None) -> int:
    """Return the id that *entry* keeps; 0 without one."""
    return 0 if entry is None else id_of(entry.value)


def id_of(value: bytes) -> int:
    """Return the id that *value* is in decimal digits; 0 for what is none, whoever has stored it."""
    if not value.isdigit() or len(value) > MAX_DIGITS:
        return 0
    number = int(value)
    return number if number <= MAX_ID else 0


async def read_page(
    store: IStore, log: str, after: int, limit: int, max_bytes: int = MAX_PAGE_BYTES, page_bytes: int = 0
) -> list[Event]:
    """Return events of *log* with id > *after*, oldest first.

    There are at most *limit* of them, and their bodies have at most *max_bytes* bytes
    together; the first is returned however long it is.  With *page_bytes*, there is none behind the one with which
    they have so many: a page of less, and of fewer than *limit*, is the last.
    """
    page: list[Event] = []
    size = 0
    read_bytes = min(READ_BYTES, page_bytes or READ_BYTES)
    while len(page) < limit:
        step = min(STEP, limit - len(page))
        events = await store.read(log, after, step, read_bytes)
        for event in events:
            size += len(event.body or b"")
            if size > max_bytes and page:
                return page
            page.append(event)
            if 0 < page_bytes <= size:
                return page
        if is_last(events, step, read_bytes):
            break
        after = events[-1].id
    return page


def is_last(events: list[Event], limit: int, read_bytes: int = READ_BYTES) -> bool:
    """Whether a read of *limit* events has returned all there are, rather than *read_bytes*."""
    # The greatest size: six bytes stand for a control character in JSON.
    return (
        len(events) < limit
        and sum(
            len(event.body or b"") + 6 * (len(event.topic) + len(event.name) + len(event.source)) + 100
            for event in events
        )
        < read_bytes
    )


async def read_last_page(store: IStore, log: str, limit: int, max_bytes: int = MAX_PAGE_BYTES) -> list[Event]:
    """Return the last events of *log*, oldest first, within the same bounds."""
    page: list[Event] = []  # newest first
    size = 0
    events = await store.latest(log, min(STEP, limit), READ_BYTES)
    while events:
        for event in reversed(events):
            size += len(event.body or b"")
            if size > max_bytes and page:
                return page[::-1]
            page.append(event)
        first, step = page[-1].id, min(STEP, limit - len(page))
        if step <= 0 or first <= 1:
            break
        events = await read_before(store, log, first, step)
    return page[::-1]


async def read_before(store: IStore, log: str, first: int, step: int) -> list[Event]:
    """Return up to *step* of the events right before that with the id *first*, as far as they are kept."""
    while True:
        # "Ids of a log rise by one", so these are the ones before it.
        events = await store.read(log, max(0, first - 1 - step), step, READ_BYTES)
        before = [event for event in events if event.id < first]
        if step == 1 or is_last(events, step) or not before or before[-1].id == first - 1:
            return before
        step = (step + 1) // 2  # they are too large for one read
