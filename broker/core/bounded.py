"""A cache that forgets the oldest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedDict(OrderedDict[K, V]):
    """A dict of at most *size* entries: one more evicts the oldest.

    Entries are as old as their first assignment; ``move_to_end`` makes one the newest.
    """

    # An OrderedDict, since the first entry of a plain dict is slow to find once many before it were deleted.

    #: Replaces the value of a key that is there: nothing is to be evicted, so that this costs no call of ours.
    replace = OrderedDict.__setitem__

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self._aged: list[K] = []  # what was there when it was aged last

    def age(self, kept: Callable[[K], bool] = lambda key: False) -> None:
        """Forget what was there at the last call already, apart from what is *kept*: who needs it puts it in again."""
        for key in self._aged:
            if key in self and not kept(key):
                del self[key]
        self._aged = list(self)

    def __setitem__(self, key: K, value: V) -> None:
        OrderedDict.__setitem__(self, key, value)
        if len(self) > self.size:
            self.popitem(last=False)
