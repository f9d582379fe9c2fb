"""Memory that is free again is given back to the operating system."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections import deque
from collections.abc import Callable
from importlib import import_module
from time import thread_time

from twisted.application.internet import TimerService

from broker.arenas import arenas
from broker.remembered import forget_results

_msgspec = import_module("msgspec._core")
VISITS = 10  # of the garbage collector after which msgspec lets go of the names that it keeps


class MemoryTrimmer(TimerService):
    """Gives memory back to the operating system that was used and is free again.

    The C library keeps what was freed between what is still in use: after a burst of large messages, all of it.
    Something is done when the process has grown, when it has become quiet after much that came and went, and
    when many objects have gone, as those of clients that left.  It is done once more, and thoroughly, when nothing
    comes and goes any more: what is left of a burst by then may be a few objects, each of which keeps a page or more.

    Args:
        moved: returns how many bytes have come and gone since the start.
    """

    INTERVAL = 0.5  # seconds between two looks
    GROWTH = 4 << 20  # bytes by which the process may grow, or that may come and go, before something is done
    QUIET = 1 << 20  # bytes that come and go between two looks, while it is quiet; or that it may have grown by then
    FREED = 10_000  # blocks of memory, one for each small object, that have become free before something is done
    STILL = 1000  # blocks that come or go between two looks, while nothing happens
    MAX_BLOCKS = 50_000  # more than at the start, which the collector may have to look at: it takes some milliseconds
    LASTING = 60  # looks: what was there at all of them lasts
    MAX_LOAD = 0.005  # of the time may be spent with it
    QUIET_SHARE = 4  # times as much of it, while it is quiet

    def __init__(self, moved: Callable[[], int]) -> None:
        super().__init__(self.INTERVAL, self.look)
        self._moved = moved
        self._seen = self._trimmed = 0  # what *moved* has said at the last look, and at the last trim
        self._trim: Callable[[int], int] | None = None
        self._lowest = 0  # resident bytes, since the last trim
        self._skip = 0  # looks, since the last one has taken long
        self._again = False  # whether there may be more of what the last trim has found
        self._blocks = 0  # the most that were in use since the last trim
        self._before = 0  # blocks that were in use at the last look
        self._first = 0  # and at the start
        self._held: deque[int] = deque(maxlen=self.LASTING)  # and at the last looks
        self._active = False  # whether blocks have come or gone since all was still
        self._unsettled = False  # whether something was done since then
        self._left = 0  # blocks that were in use after the last look at all objects

    def startService(self) -> None:
        """Begin to look, where the C library can be asked for it."""
        try:
            self._trim = ctypes.CDLL(None).malloc_trim
        except (OSError, AttributeError):
            return  # not the GNU C library
        self._before = self._first = sys.getallocatedblocks()
        super().startService()

    def look(self) -> None:
        """Trim if that is worth it now."""
        resident, moved = resident_bytes(), self._moved()
        self._lowest = min(self._lowest or resident, resident)
        grown = resident - self._lowest
        quiet, self._seen = moved - self._seen < self.QUIET, moved
        blocks = sys.getallocatedblocks()
        self._held.append(blocks)
        arenas.look(self._lasting - self._first)
        self._blocks = max(self._blocks, blocks)
        freed = self._blocks - blocks > self.FREED
        still = abs(blocks - self._before) < self.STILL
        self._before, self._active = blocks, self._active or not still
        settled = quiet and still and (self._unsettled or (self._active and not self._skip))
        if self._skip and not settled:  # which comes once for each burst
            self._skip = max(0, self._skip - (self.QUIET_SHARE if quiet else 1))
        elif self._trim is not None and (
            self._again
            or freed
            or settled
            or grown > self.GROWTH
            or (quiet and (grown > self.QUIET or moved - self._trimmed > self.GROWTH))
        ):
            self._unsettled = not settled
            self._active = self._active and not settled
            self._give_back(self._trim, resident, moved, freed or settled)

    def _give_back(self, trim: Callable[[int], int], resident: int, moved: int, thorough: bool) -> None:
        """Trim; if *thorough*, the interpreter gives up what it keeps for its next objects, too."""
        began = thread_time()
        forget_results()
        _forget_names()
        self._collect(thorough)  # last: what goes before it is kept in the free lists that it clears
        trim(0)
        self._lowest, self._trimmed, self._blocks = resident_bytes(), moved, 0
        self._again = resident - self._lowest > self.QUIET
        self._skip = int((thread_time() - began) / self.MAX_LOAD / self.INTERVAL)

    @property
    def _lasting(self) -> int:
        """Blocks that last, about; those of the start until that is known."""
        return min(self._held) if len(self._held) == self.LASTING else self._first

    def _collect(self, thorough: bool) -> None:
        """Let garbage go, as what failed and is kept by its own traceback, where that is quick: not in a burst.

        All is looked at, too, when twice as much lasts as the last time has left: a pile of garbage must not keep
        itself by its size.
        """
        if thorough:
            _forget_attributes()
        piled = self._lasting - self._first > max(2 * (self._left - self._first), self.MAX_BLOCKS)
        if piled or sys.getallocatedblocks() - self._first < self.MAX_BLOCKS:
            gc.collect(2 if piled or thorough else 1)
            if piled or thorough:
                self._left = sys.getallocatedblocks()


def _forget_names() -> None:
    """Let msgspec let go of the short member names that it keeps, the last 512 by their hashes.

    Those of a large text lie between thousands of objects that are free, and each keeps a
    megabyte of them from the operating system.  msgspec drops them when the garbage collector visits
    it for the tenth time, which never happens to what was made before ``gc.freeze``.
    """
    for _ in range(VISITS):
        gc.get_referents(_msgspec)


# It holds names that C code has made anew for each look at an attribute.
_forget_attributes: Callable[[], object] = getattr(sys, "_clear_internal_caches", sys._clear_type_cache)


def resident_bytes() -> int:
    """Return how much memory the process has; 0 where that is not known."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
