"""Names and their holders; holders that share a name are used round-robin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import attrs

from broker.errors import Taken

H = TypeVar("H")

NAME_BYTES = 200  # that a name costs besides its text


@attrs.define(eq=False)
class Registration(Generic[H]):
    """The holders of one name.

    Attributes:
        shared: whether there may be several.
        holders: in the order in which they registered.
        position: of the holder that ``next`` has returned last.
        only: who gets all that comes, since he is alone; None: ask ``choose``.
    """

    shared: bool
    holders: list[H] = attrs.field(factory=list)
    position: int = 0
    only: H | None = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.changed()

    def changed(self) -> None:
        """Notice that the holders are others now."""
        self.only = self.holders[0] if len(self.holders) == 1 else None

    def choose(self) -> H:
        """Return who gets what comes next."""
        return self.next()

    def next(self) -> H:
        """Return the next holder, round-robin."""
        holders = self.holders
        if len(holders) == 1:
            return holders[0]
        self.position = (self.position + 1) % len(holders)
        return holders[self.position]


class Registry(dict[str, Registration[H]]):
    """Names held by one holder, or by several that share them: the registration of each.

    It is read as a dict, and changed by its methods.

    Args:
        what: the word for such a name in an error.
        hold: counts how many more bytes are kept for a holder, or fewer.
    """

    def __init__(self, what: str, hold: Callable[[H, int], object] = lambda holder, change: None) -> None:
        super().__init__()
        self._what = what
        self._hold = hold
        self._names: dict[H, set[str]] = {}
        self._alone: dict[H, Registration[H]] = {}  # of each that shares no name: all those are the same

    def has(self, holder: H, name: str) -> bool:
        """Whether *holder* has *name*, however many others have it, too."""
        return name in self._names.get(holder, ())

    def check(self, holder: H, name: str, shared: bool = False) -> None:
        """Raise ``Taken`` when *holder* can not have *name*."""
        entry = self.get(name)
        if entry is None or self.has(holder, name):
            return
        if not (entry.shared and shared):
            raise Taken(self._what, name)

    def add(self, holder: H, name: str, shared: bool = False) -> None:
        """Register *name* for *holder*; idempotent.

        Raises:
            Taken: somebody else holds it, and not both of them share.
        """
        self.check(holder, name, shared)
        entry = self.get(name)
        if entry is None:
            entry = self[name] = Registration(True) if shared else self._alone_with(holder)
        self._join(entry, holder, name)

    def _join(self, entry: Registration[H], holder: H, name: str) -> None:
        names = self._names.setdefault(holder, set())
        if name in names:
            return
        names.add(name)
        if entry.shared:
            entry.holders.append(holder)
            entry.changed()
        self._hold(holder, NAME_BYTES + text_bytes(name))

    def _alone_with(self, holder: H) -> Registration[H]:
        """Return the registration of every name that *holder* has alone: clients have thousands."""
        entry = self._alone.get(holder)
        if entry is None:
            entry = self._alone[holder] = Registration(False, [holder])
        return entry

    def remove(self, holder: H, name: str) -> bool:
        """Undo ``add``; say whether *holder* had *name*."""
        entry = self.get(name)
        if entry is None or not self.has(holder, name):
            return False
        if entry.shared:
            entry.holders.remove(holder)
            entry.changed()
        if not entry.shared or not entry.holders:
            del self[name]
        names = self._names[holder]
        names.discard(name)
        self._hold(holder, -NAME_BYTES - text_bytes(name))
        if not names:
            del self._names[holder]
            self._alone.pop(holder, None)
        if not self:
            self.clear()  # else it keeps the room for as many as there ever were
        return True

    def leave(self, holder: H) -> list[str]:
        """Remove *holder* from every name and return those, sorted."""
        names = sorted(self._names.get(holder, ()))
        for name in names:
            self.remove(holder, name)
        return names

    def in_turn(self, name: str) -> list[H]:
        """Return the holders of *name*, beginning with the one that ``next`` has returned last."""
        entry = self.get(name)
        if entry is None:
            return []
        position = entry.position % len(entry.holders)
        return entry.holders[position:] + entry.holders[:position]

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self)

    def names_of(self, holder: H) -> list[str]:
        """Return the names of *holder*, sorted."""
        return sorted(self._names.get(holder, ()))


def text_bytes(text: str) -> int:
    """Return at most how many bytes *text* takes in memory; once written, a text keeps its UTF-8, too."""
    return len(text) if text.isascii() else 8 * len(text)
