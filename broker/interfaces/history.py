"""Stored topics: pages, polls, cursors and indices."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from zope.interface import Interface

from broker.interfaces.coroutines import Coro
from broker.interfaces.stores import MAX_PAGE_BYTES
from broker.messages import CursorState, Event, IndexRows, Page, Position


class IHistoryVerbs(Interface):
    """To read what is stored of topics."""

    def read(
        topic: str, after: int, limit: int, *, max_bytes: int = MAX_PAGE_BYTES, page_bytes: int = 0
    ) -> Deferred[list[Event]]:
        """Return at most *limit* stored events with id > *after*, oldest first.

        It stops when their bodies have *max_bytes* bytes; the first is returned however long it is.

        With *page_bytes* it stops also with the event with which they have so many or more: for reading page by page.
        A page that has fewer bytes, and fewer events than *limit*, is the last.
        """

    def latest(topic: str, limit: int, *, max_bytes: int = MAX_PAGE_BYTES) -> Deferred[list[Event]]:
        """Return the last *limit* stored events, oldest first, within the bounds of ``read``."""

    def head(topic: str) -> Deferred[int]:
        """Return the id of the newest event there ever was; 0 for none."""

    def present_epoch(shown: str | None = None) -> Coro[str]:
        """Return the present epoch, to be compared with the one that a client has *shown*, if it has.

        While ``epoch`` is another one, or none is known yet, the store is asked.

        Raises:
            Unavailable: the store is away.
        """

    def page(
        topic: str,
        *,
        after: Position | None = None,
        before: Position | None = None,
        last: bool = False,
        limit: int = 100,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> Coro[Page]:
        """Return stored events of *topic* with what there is besides: those after a position, or from the oldest on.

        With *before*, they are the last ones before that; with *last*, the newest; within the bounds of
        ``read``, and at most 1000.

        Raises:
            Gone: the position is of another epoch than the present one, which is the name in the error.
            Invalid: it is beyond the newest event, or *limit* is no number up to 1000.
        """

    def poll(
        topic: str,
        after: int,
        limit: int,
        timeout: float,
        *,
        max_bytes: int = MAX_PAGE_BYTES,
        page_bytes: int = 0,
        client: str = "",
    ) -> Coro[list[Event]]:
        """Return stored events as ``read`` does, waiting up to *timeout* seconds if there are none.

        Then it returns what has arrived, perhaps nothing.  Cancelling leaves no trace.

        With *client*, the cursor of that client id is moved to *after*, as by ``move_cursor``, and is stored when this
        returns; while the store takes no writes, it is not.

        Raises:
            RateLimited: too many polls are waiting.
            Unauthenticated: the credential of the client has expired meanwhile.
        """

    def cursor(client: str, topic: str) -> Coro[int]:
        """Return the id that *client* has acknowledged last; 0 for none.

        A client id belongs to the principal that first used it, see ``act_as``.
        """

    def move_cursor(client: str, topic: str, id: int) -> Deferred[None]:
        """Remember that *client* has all events up to *id*; it may go back.

        A client id belongs to the principal that first used it, see ``act_as``.

        Raises:
            Invalid: *id* is negative.
        """

    def acknowledge_events(cursor: str, topic: str, position: Position) -> Coro[bool]:
        """Move the cursor of the client id *cursor* to *position*; return whether that was back.

        Raises:
            Gone: the position is of another epoch than the present one, which is the name in the error.
            Invalid: it is beyond the newest event.
        """

    def forget_cursor(cursor: str, topic: str) -> Coro[bool]:
        """Remove what the client id *cursor* has acknowledged of *topic*; return whether there was anything."""

    def cursors(topic: str = "") -> Coro[tuple[list[CursorState], bool]]:
        """Return the cursors of all client ids that it may use, and whether there may be more.

        With *topic*, those of that alone.
        """

    def create_index(id: str, topic: str, field: str) -> Coro[bool]:
        """Define an index of *topic* by *field*; False when that id exists, which stays as it is.

        Its *id* belongs to the principal that first defined it, as a client id does to who
        used it first; whoever may read *topic* may read it.
        """

    def read_index(id: str, value: str, extract: Callable[[Event, str], str | None]) -> Coro[IndexRows]:
        """Return the events of an index whose field is *value*, the newest first.

        *extract* returns the text at the field of an event, or None.

        Raises:
            NotFound: there is no such index.
        """
