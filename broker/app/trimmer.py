"""Memory that is free again is given back to the operating system."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from time import thread_time

import msgspec
from twisted.application.internet import TimerService

NAMES = b"{%s}" % b",".join(b'"~%d~":0' % number for number in range(4096))
_decode = msgspec.json.Decoder(dict[str, int]).decode


class MemoryTrimmer(TimerService):
    """Gives memory back to the operating system that was used and is free again.

    The C library keeps what was freed between what is still in use: after a burst of large messages, all of it.
    Something is done when the process has grown, and when it has become quiet after much that came and went.

    Args:
        moved: returns how many bytes have come and gone since the start.
    """

    INTERVAL = 0.5  # seconds between two looks
    GROWTH = 4 << 20  # bytes by which the process may grow, or that may come and go, before something is done
    QUIET = 1 << 20  # bytes that come and go between two looks, while it is quiet; or that it may have grown by then
    MAX_LOAD = 0.005  # of the time may be spent with it

    def __init__(self, moved: Callable[[], int]) -> None:
        super().__init__(self.INTERVAL, self.look)
        self._moved = moved
        self._seen = self._trimmed = 0  # what *moved* has said at the last look, and at the last trim
        self._trim: Callable[[int], int] | None = None
        self._lowest = 0  # resident bytes, since the last trim
        self._skip = 0  # looks, since the last one has taken long
        self._again = False  # whether there may be more of what the last trim has found

    def startService(self) -> None:
        """Begin to look, where the C library can be asked for it."""
        try:
            self._trim = ctypes.CDLL(None).malloc_trim
        except (OSError, AttributeError):
            return  # not the GNU C library
        super().startService()

    def look(self) -> None:
        """Trim if that is worth it now."""
        resident, moved = resident_bytes(), self._moved()
        self._lowest = min(self._lowest or resident, resident)
        grown = resident - self._lowest
        quiet, self._seen = moved - self._seen < self.QUIET, moved
        if self._skip:
            self._skip -= 1
        elif self._trim is not None and (
            self._again
            or grown > self.GROWTH
            or (quiet and (grown > self.QUIET or moved - self._trimmed > self.GROWTH))
        ):
            began = thread_time()
            gc.collect(0)  # what failed may be kept by its traceback
            _forget_names()
            self._trim(0)
            self._lowest, self._trimmed = resident_bytes(), moved
            self._again = resident - self._lowest > self.QUIET
            self._skip = int((thread_time() - began) / self.MAX_LOAD / self.INTERVAL)


def _forget_names() -> None:
    """Replace the short member names that msgspec keeps, the last 512 by their hashes.

    Those of a large text lie between thousands of objects that are free, and each keeps a
    megabyte of them from the operating system.
    """
    _decode(NAMES)


def resident_bytes() -> int:
    """Return how much memory the process has; 0 where that is not known."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
