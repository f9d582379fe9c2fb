"""Who takes what: names and their holders, in turn."""

from __future__ import annotations

from typing import Generic, TypeVar

import attrs

from broker.errors import Taken

H = TypeVar("H")


@attrs.define(eq=False)
class Place(Generic[H]):
    """The holders of one name; with several, each takes in its turn."""

    shared: bool
    holders: list[H] = attrs.field(factory=list)
    turn: int = 0

    def next(self) -> H:
        """Return the holder whose turn it is."""
        holders = self.holders
        if len(holders) == 1:
            return holders[0]
        self.turn = (self.turn + 1) % len(holders)
        return holders[self.turn]


class Registry(Generic[H]):
    """Names held by one holder, or by several that share them.

    Args:
        what: the word for such a name in an error.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._places: dict[str, Place[H]] = {}
        self._names: dict[H, set[str]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def check(self, holder: H, name: str, shared: bool = False) -> None:
        """Raise ``Taken`` when *holder* can not have *name*."""
        place = self._places.get(name)
        if place is None or holder in place.holders:
            return
        if not (place.shared and shared):
            raise Taken(self._what, name)

    def add(self, holder: H, name: str, shared: bool = False) -> None:
        """Give *name* to *holder*; again for the same holder changes nothing.

        Raises:
            Taken: somebody else holds it, and not both of them share.
        """
        self.check(holder, name, shared)
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = Place(shared)
        if holder not in place.holders:
            place.holders.append(holder)
            self._names.setdefault(holder, set()).add(name)

    def remove(self, holder: H, name: str) -> bool:
        """Take *name* from *holder*; say whether it had it."""
        place = self._places.get(name)
        if place is None or holder not in place.holders:
            return False
        place.holders.remove(holder)
        if not place.holders:
            del self._places[name]
        names = self._names[holder]
        names.discard(name)
        if not names:
            del self._names[holder]
        return True

    def leave(self, holder: H) -> list[str]:
        """Take every name from *holder* and return them."""
        names = sorted(self._names.get(holder, ()))
        for name in names:
            self.remove(holder, name)
        return names

    def place(self, name: str) -> Place[H] | None:
        """Return who holds *name*, or None."""
        return self._places.get(name)

    def in_turn(self, name: str) -> list[H]:
        """Return who holds *name*, beginning with the one whose turn it is."""
        place = self._places.get(name)
        if place is None:
            return []
        turn = place.turn % len(place.holders)
        return place.holders[turn:] + place.holders[:turn]

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self._places)

    def names_of(self, holder: H) -> list[str]:
        """Return the names of *holder*, sorted."""
        return sorted(self._names.get(holder, ()))
