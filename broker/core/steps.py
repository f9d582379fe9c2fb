"""Long work in steps: in the order in which it came, and in slices."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from twisted.logger import Logger

from broker.core.slices import Slices

log = Logger()

MAX_WAITING = 10_000  # works; if there are more, the oldest are done at once


class Steps:
    """Works that are done one after the other.

    Each is an iterator, which does a step of it when it is asked for the next item.  What can be done within the
    present slice is done at once, unless other work waits.

    Args:
        slices: give the time.
    """

    def __init__(self, slices: Slices) -> None:
        self._slices = slices
        self._waiting: deque[Iterator[object]] = deque()
        self._running = False  # or it waits for a slice
        self._in_step = False
        self._stopped = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, work: Iterator[object]) -> None:
        """Do *work* when all that was added before is done."""
        if self._stopped:
            return
        self._waiting.append(work)
        if not self._running:
            self._running = True
            self._run()
        elif len(self._waiting) > MAX_WAITING and not self._in_step:
            while self._next():
                pass

    def stop(self) -> None:
        """Do nothing any more."""
        self._stopped = True
        self._waiting.clear()

    def _run(self) -> None:
        now, end = self._slices.now, self._slices.deadline()
        while self._waiting:
            self._next()
            if now() >= end and self._waiting:
                self._slices.add(self._run)
                return
        self._running = False

    def _next(self) -> bool:
        """Do the next step; return whether the work goes on."""
        work = self._waiting[0]
        self._in_step = True
        try:
            next(work)
            return True
        except StopIteration:
            pass
        except Exception:
            log.failure("work in steps has failed")
        finally:
            self._in_step = False
        if self._waiting and self._waiting[0] is work:
            self._waiting.popleft()
        return False
