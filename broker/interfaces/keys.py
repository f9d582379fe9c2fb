"""Keys: values, and their changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred
from zope.interface import Interface

from broker.interfaces.coroutines import Coro
from broker.messages import Entry, Event


class IKeyVerbs(Interface):
    """To read, write and watch keys."""

    def get(key: str) -> Deferred[Entry | None]:
        """Return the entry of *key*, or None."""

    def range(
        first: str,
        last: str,
        limit: int,
        *,
        predicate: Callable[[str], bool] | None = None,
        max_bytes: int = 0,
        rate_limited: bool = True,
    ) -> Coro[list[tuple[str, Entry]]]:
        """Return at most *limit* entries with first <= key <= last that it may read, by the keys' UTF-8 bytes.

        *predicate* says which keys count; None: all.  With *max_bytes* it stops
        once keys and values have as many; two entries are returned however long they are.
        *rate_limited* is false where the frame has been counted before.
        """

    def set(key: str, value: bytes, *, revision: int | None = None, expires: float = 0.0) -> Deferred[Entry]:
        """Create or replace *key*; *revision* and *expires* as in ``IStore.set``.

        Raises:
            Invalid: *expires* is no moment up to ``MAX_EXPIRY``, or *revision* no number up to ``MAX_ID``.
            Denied: the key is one of the broker's own: ``broker``, or with ``broker.`` before it.
            Conflict: *revision* was given and is not the stored one.
            TooLarge: the value is over its limit.
        """

    def patch(key: str, value: bytes) -> Deferred[Entry]:
        """Merge *value* into *key* in one step: JSON objects one level deep, anything else is appended.

        Raises:
            TooLarge: the merged value is over its limit.
        """

    def increment(key: str, amount: bytes) -> Deferred[Entry]:
        """Add the decimal number *amount* to *key* in one step; see ``IStore.increment``.

        Raises:
            Invalid: one of the two is no number, or one or the sum is not finite as a double.
        """

    def delete(key: str, *, revision: int | None = None) -> Deferred[bool]:
        """Remove *key*; fire with whether it was there.

        Raises:
            Conflict: *revision* was given and is not the stored one.
        """

    def watch(predicate: Callable[[str], bool] | None = None, names: Iterable[str] = ()) -> None:
        """Get the changes of the keys *names* and of all for which *predicate* holds, each once.

        They come to ``ISession.event`` with pattern "".  It replaces what was watched before.
        """

    def unwatch() -> None:
        """Undo ``watch``; a no-op without one."""

    def watch_pattern(pattern: str, *, exact: bool = False) -> None:
        """Get the changes of the keys that *pattern* matches as well, each once; idempotent.

        They come as those of ``watch`` do.  With *exact*, wildcards in it are ordinary characters.

        Raises:
            Invalid: it is neither a name nor a pattern that can match one.
        """

    def unwatch_pattern(pattern: str, *, exact: bool = False) -> None:
        """Undo ``watch_pattern`` of the same *pattern* and *exact*; a no-op without one."""

    def revision() -> Deferred[int]:
        """Return the revision of the last change of any key: a later read of a key shows that one, or a later one."""

    def keep_changes(*, previous: bool = False) -> Coro[None]:
        """Return when changes are kept for ``changes``: as long as this peer watches anything, and five minutes longer.

        With *previous* they say the value before, too, in ``Event.original``, as long as it watches.
        """

    def changes(pattern: str, epoch: str, after: int, *, exact: bool = False) -> Coro[list[Event] | None]:
        """Return the changes after the revision *after* of *epoch*, in their order, as ``watch_pattern`` brings them.

        The last 10,000 changes of all keys are kept, for five minutes and within 16 MiB.  None: some may be missing,
        or there is another epoch.  Those that come later are not among them: watch before.

        Raises:
            Invalid: *after* is no revision that was given, or *pattern* is none that can match.
        """
