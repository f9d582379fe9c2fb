"""Lists in pages: what may be asked of one, and how much work one request makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nlargest, nsmallest
from itertools import islice
from operator import getitem
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl

import attrs
import msgspec

from broker.core.slices import Slices
from broker.errors import Invalid

T = TypeVar("T")
Row = dict[str, Any]

MAX_LIMIT = 1000  # rows of one answer
MAX_LOOKED_AT = 100_000  # things in memory that one request looks at
MAX_OFFSET = 10_000  # rows of the pages before: so many have to be sorted
BUFFER = 500  # rows that are made before those that come too late in the order are dropped
MAX_FIELDS = 20  # of one query


class Query(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What every list may be asked.

    Attributes:
        limit: how many rows at most.
        after: ``next`` of the answer before; "": from the beginning.
        q: what a row must have in its texts; of what is stored, what its name begins with.
        sort: the name of a member; "": the usual one.
        order: "asc" or "desc"; "": as is usual for that member.
    """

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = 50
    after: str = ""
    q: Annotated[str, msgspec.Meta(max_length=200)] = ""
    sort: str = ""
    order: Literal["", "asc", "desc"] = ""


@attrs.frozen
class Page:
    """One page of a list.

    Attributes:
        items: the rows.
        next: what ``after`` is for the next page; "": there is none.
        total: how many rows there are in all; None: that is not known.
        complete: whether all was looked at; false where there is too much for one request.
        more: further members of the answer.
    """

    items: Sequence[Row]
    next: str = ""
    total: int | None = None
    complete: bool = True
    more: Mapping[str, Any] = attrs.field(factory=dict)

    def content(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "items": self.items,
            "next": self.next or None,
            "total": self.total,
            "complete": self.complete,
            **self.more,
        }


def read_query(kind: type[T], text: str) -> T:
    """Return what the *text* of a query asks, as a struct *kind*.

    Raises:
        Invalid: it has a parameter twice, too many, or one that is unknown or malformed.
    """
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise Invalid("query", message=f"The query is malformed: {error}.") from None
    if len(dict(pairs)) < len(pairs):
        raise Invalid("query", message="A parameter is given twice.")
    try:
        return msgspec.convert(dict(pairs), kind, strict=False)
    except msgspec.ValidationError as error:
        raise Invalid("query", message=f"A parameter is wrong: {error}.") from None


async def page_of(
    found: Iterable[T],
    row: Callable[[T], Row | None],
    query: Query,
    sorts: Mapping[str, bool],
    texts: Sequence[str],
    slices: Slices,
    member: Callable[[T, str], Any] | None = None,
) -> Page:
    """Return a page of what is in memory, sorted.

    Args:
        found: the things; looked at before anything else may change.
        row: makes the row of one; None: it has gone.
        query: what is asked for.
        sorts: the members it may be sorted by, the usual one first, each with whether the largest usually comes first.
        texts: the members in which ``q`` is looked for; the first one tells rows apart.
        slices: for the pauses.
        member: returns one member of the row of a thing, for less than the whole row costs: then rows are made of
            the things of the page alone; None: of all.

    Raises:
        Invalid: it can not be sorted so, or ``after`` is none of ours.
    """
    by, largest_first, offset = _order(query, sorts)
    things = list(islice(found, MAX_LOOKED_AT + 1))
    choose, wanted = nlargest if largest_first else nsmallest, offset + query.limit
    word, total, end = query.q.lower(), 0, slices.deadline()
    make: Callable[[T], Any] = row if member is None else _itself
    read: Callable[[Any, str], Any] = member or getitem
    kept: list[Any] = []

    def key(made: Any) -> tuple[Any, ...]:
        return _sortable(read(made, by)), str(read(made, texts[0]))

    for thing in things[:MAX_LOOKED_AT]:
        made = make(thing)
        if made is not None and (not word or any(word in str(read(made, name)).lower() for name in texts)):
            kept.append(made)
            total += 1
            if len(kept) > 2 * wanted + BUFFER:
                kept = choose(wanted, kept, key=key)
        end = await slices.checked(end)
    chosen = choose(wanted, kept, key=key)[offset:]
    items = chosen if member is None else await _rows(chosen, row, slices)
    following = str(wanted) if wanted < min(total, MAX_OFFSET) else ""
    return Page(items, following, total, len(things) <= MAX_LOOKED_AT)


async def _rows(things: Iterable[T], row: Callable[[T], Row | None], slices: Slices) -> list[Row]:
    """Return the rows of those of *things* that have not gone, made in slices: one may take 50 microseconds."""
    rows, end = [], slices.deadline()
    for thing in things:
        made = row(thing)
        if made is not None:
            rows.append(made)
        end = await slices.checked(end)
    return rows


def _itself(thing: T) -> T:
    return thing


def _order(query: Query, sorts: Mapping[str, bool]) -> tuple[str, bool, int]:
    by = query.sort or next(iter(sorts))
    if by not in sorts:
        raise Invalid("sort", message=f"It can be sorted by {', '.join(sorts)}, not by {by[:50]}.")
    if query.after and not (query.after.isascii() and query.after.isdecimal() and int(query.after) <= MAX_OFFSET):
        raise Invalid("after", message="after must be what next was in the answer before.")
    largest_first = sorts[by] if not query.order else query.order == "desc"
    return by, largest_first, int(query.after or 0)


def _sortable(value: Any) -> tuple[int, Any]:
    """Return what values of one member are compared by: what is not known is the least."""
    return (0, 0) if value is None else (1, value)


def stored_page(items: Sequence[Row], names: Sequence[str], limit: int, **more: Any) -> Page:
    """Return the page of what the store has, whose rows are called *names*, of which one more was asked for.

    The next page begins behind the last row.
    """
    return Page(items[:limit], names[limit - 1] if len(names) > limit else "", more=more)


def check_order(query: Query) -> None:
    """Check that *query* asks for no order but that of the store.

    Raises:
        Invalid: it does.
    """
    if query.sort or query.order:
        raise Invalid("sort", message="What is stored comes in its own order.")
