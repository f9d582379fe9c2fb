"""Reading a log page by page, so that what is held at once has a bound, whatever its events hold.

Events that have expired are left out.  Up to where somebody has read is an id in decimal digits; a cursor may
have two more words behind that: when it was moved, in milliseconds, and in which epoch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from broker.core.slices import Slices
from broker.errors import Gone, Invalid
from broker.interfaces import MAX_PAGE_BYTES, IStore
from broker.messages import MAX_ID, Entry, Event, Page, Position

MAX_DIGITS = len(str(MAX_ID))
STEP = 32  # events read in one go, since each may be as large as a message
MAX_STEP = 1000  # the same, where many have expired, or a page is one read: nothing of it waits for the rest
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


def encode_cursor(id: int, time: float, epoch: str) -> bytes:
    """Return what is stored of a cursor that is moved to *id* at *time*."""
    return b"%d %d %b" % (id, time * 1000, epoch.encode())


def decode_cursor(value: bytes, epoch: str) -> tuple[Position, float]:
    """Return where a cursor is, and when it was moved there; 0.0: nobody knows.

    One that does not say its epoch is taken to be of the present one, *epoch*.
    """
    id, _, rest = value.partition(b" ")
    time, _, moved_in = rest.partition(b" ")
    return Position(moved_in.decode("utf-8", "replace") or epoch, id_of(id)), id_of(time) / 1000


def is_over(store: IStore, event: Event) -> bool:
    """Whether *event* has expired."""
    # After a jump of the clock nothing ends too early, see ``stores/expiry.py``.
    return 0.0 < event.expires <= store.oldest(0.0)


async def read_page(
    store: IStore,
    log: str,
    after: int,
    limit: int,
    max_bytes: int = MAX_PAGE_BYTES,
    slices: Slices | None = None,
    page_bytes: int = 0,
) -> list[Event]:
    """Return events of *log* with id > *after*, oldest first, without those that have expired.

    There are at most *limit* of them, and their bodies have at most *max_bytes* bytes
    together; the first is returned however long it is.  With *page_bytes*, there is none behind the one with which
    they have so many: a page of less, and of fewer than *limit*, is the last.  What has expired is passed over
    in *slices*.
    """
    page: list[Event] = []
    size = skipped = 0
    read_bytes = min(READ_BYTES, page_bytes or READ_BYTES)
    events_at_once = MAX_STEP if page_bytes else STEP
    end = slices.deadline() if slices else 0.0
    while len(page) < limit:
        step = max(min(events_at_once, limit - len(page)), min(skipped, MAX_STEP))
        events = await store.read(log, after, step, read_bytes)
        for event in events:
            if event.expires and is_over(store, event):
                skipped += 1
                continue
            skipped = 0
            size += len(event.body or b"")
            if len(page) == limit or (size > max_bytes and page):
                return page
            page.append(event)
            if 0 < page_bytes <= size:
                return page
        if is_last(events, step, read_bytes):
            break
        after = events[-1].id
        if slices and skipped:
            end = await slices.checked(end)
    return page


def is_last(events: list[Event], limit: int, read_bytes: int = READ_BYTES) -> bool:
    """Whether a read of *limit* events has returned all there are, rather than *read_bytes*."""
    return len(events) < limit and sum(map(_max_size, events)) < read_bytes


def _max_size(event: Event) -> int:
    """Return how many bytes *event* has in a store at most."""
    texts = len(event.topic) + len(event.name) + len(event.source) + len(event.author) + len(event.content_type)
    if event.exclude:
        texts += sum(map(len, event.exclude)) + len(event.exclude)
    # Six bytes stand for a control character in JSON.
    return len(event.body or b"") + 6 * texts + 100


async def read_last_page(
    store: IStore,
    log: str,
    limit: int,
    max_bytes: int = MAX_PAGE_BYTES,
    slices: Slices | None = None,
    *,
    before: int | None = None,
) -> list[Event]:
    """Return the last events of *log*, oldest first, within the same bounds; with *before*, of those below that id."""
    page: list[Event] = []  # newest first
    size = 0
    async for event in _newest_first(store, log, limit, slices, before):
        size += len(event.body or b"")
        if size > max_bytes and page:
            break
        page.append(event)
    return page[::-1]


async def id_before_last(store: IStore, log: str, limit: int, slices: Slices | None = None) -> int | None:
    """Return the id that the last *limit* events of *log* follow, none of which is kept; None: there are none."""
    id: int | None = None
    async for event in _newest_first(store, log, limit, slices):
        id = event.id - 1
    return id


async def _newest_first(
    store: IStore, log: str, limit: int, slices: Slices | None, before: int | None = None
) -> AsyncIterator[Event]:
    """Yield the last *limit* events of *log*, or of those below the id *before*, without those that have expired."""
    left, skipped = limit, 0
    end = slices.deadline() if slices else 0.0
    step = min(STEP, limit)
    events = await (store.latest(log, step, READ_BYTES) if before is None else read_before(store, log, before, step))
    while events:
        first = events[0].id
        while events and left:
            event = events.pop()
            if event.expires and is_over(store, event):
                skipped += 1
                continue
            left, skipped = left - 1, 0
            yield event
        if not left or first <= 1:
            break
        if slices and skipped:
            end = await slices.checked(end)
        step = max(min(STEP, left), min(skipped, MAX_STEP))
        events = await read_before(store, log, first, step)


async def find_page(
    store: IStore,
    log: str,
    *,
    after: Position | None = None,
    before: Position | None = None,
    last: bool = False,
    limit: int,
    max_bytes: int = MAX_PAGE_BYTES,
    slices: Slices | None = None,
) -> Page:
    """Return events of *log* within the bounds of ``read_page``: those after a position, or from the oldest on.

    With *before*, they are the last ones before that; with *last*, the newest.

    Raises:
        Gone: the position is of another epoch than the present one, which is in the error.
        Invalid: it is beyond the newest event.
    """
    head = await store.head(log)
    epoch = store.epoch  # after that: before the first answer of the store nobody knows it
    for what, position, end in (("after", after, head), ("before", before, head + 1)):
        if position is not None and position.epoch != epoch:
            raise Gone("epoch", epoch)
        if position is not None and not 0 <= position.id <= end:
            raise Invalid(what, message=f"{what} is beyond the newest event, {head}")
    if last or before is not None:
        events = await read_last_page(
            store, log, limit, max_bytes, slices, before=None if before is None else before.id
        )
    else:
        events = await read_page(store, log, 0 if after is None else after.id, limit, max_bytes, slices)
    first = await first_id(store, log)
    if store.epoch != epoch:
        raise Gone("epoch", store.epoch)
    return Page(events, epoch, first, max(head, events[-1].id if events else 0))


async def first_id(store: IStore, log: str) -> int:
    """Return the id of the oldest event of *log* that is kept; if there is none, that which the next one gets."""
    head = await store.head(log)  # before: what is appended between the two is read
    events = await store.read(log, 0, 1)
    return events[0].id if events else head + 1


async def read_before(store: IStore, log: str, first: int, step: int) -> list[Event]:
    """Return up to *step* of the events right before that with the id *first*, as far as they are kept."""
    while True:
        # "Ids of a log rise by one", so these are the ones before it.
        events = await store.read(log, max(0, first - 1 - step), step, READ_BYTES)
        before = [event for event in events if event.id < first]
        if step == 1 or is_last(events, step) or not before or before[-1].id == first - 1:
            return before
        step = (step + 1) // 2  # they are too large for one read
