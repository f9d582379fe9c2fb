"""Long work in slices, between which the reactor gets to other work.

All long work of a process shares the same few milliseconds of each loop iteration, however many clients
ask for it: what has used them up goes on in a later iteration, first come, first served.  Whatever else can be
divided has slices of its own, which are short once the iteration has lasted for long.

Long messages of clients wait, too, while there is a backlog of what came of those before them: what is not
handled counts for its client, and TCP makes it wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from time import perf_counter
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorCore
from twisted.logger import Logger

log = Logger()

SLICE = 0.005  # seconds of one loop iteration
SHORT_SLICE = 0.001  # the same, when an iteration has lasted for ``ITERATION``
ITERATION = 0.015  # seconds; a request for the health of the daemon may have to wait for two
READ_SLICE = 0.006  # seconds in which one iteration reads: as long as hundreds of messages take that need no slices
BYTE = 30e-9  # seconds that a byte of a long message costs, at worst
ATTRIBUTE = "_txbroker_slices"  # of a clock


class Slices:
    """Says when work must pause, and lets it go on.

    Args:
        clock: the reactor, or a ``task.Clock``, whose time does not run while work is done.

    Attributes:
        end: when what runs now must pause; infinite outside of ``begin`` and ``finish``.
        iteration_end: when the present loop iteration has lasted for long; infinite where nobody says when it began.
        pauses: how often work has paused.
    """

    __slots__ = (
        "_backlogs",
        "_call",
        "_clock",
        "_held",
        "_running",
        "_waiting",
        "end",
        "iteration_end",
        "now",
        "pauses",
    )

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._waiting: deque[tuple[Callable[[], object], bool]] = deque()  # each with whether it is of a message
        self._held: deque[Callable[[], object]] = deque()  # those of messages, while there is a backlog
        self._backlogs: set[object] = set()  # who has one
        self._call: IDelayedCall | None = None
        self._running = False
        # The reactor's own time may jump.
        self.now: Callable[[], float] = perf_counter if IReactorCore.providedBy(clock) else clock.seconds
        self.end = self.iteration_end = inf
        self.pauses = 0

    def begin(self) -> None:
        """Begin a slice: what follows has to look at ``end``."""
        now = self.now()
        self.end = now + (SLICE if now < self.iteration_end else SHORT_SLICE)

    def finish(self) -> None:
        """End the slice that ``begin`` began."""
        self.end = inf

    def over(self) -> bool:
        """Whether what runs now must pause."""
        return self.now() >= self.end

    def allows(self, size: int) -> bool:
        """Whether a message of *size* bytes may be handled now; if not, ``add`` that.

        What may take longer than the rest of the slice needs one that ``add`` gives it, so that long messages
        that many connections have received in one loop iteration are handled one in each.
        """
        if self._backlogs:
            return False
        now = self.now()
        return now < self.end and (self._running or now + size * BYTE < self.end)

    def deadline(self) -> float:
        """Return until when work that begins now may go on: the end of this slice, at most ``SLICE`` from now."""
        now = self.now()
        return min(self.end, now + (SLICE if now < self.iteration_end else SHORT_SLICE))

    def add(self, go_on: Callable[[], object], *, message: bool = False) -> None:
        """Call *go_on* in a slice of a later loop iteration; work that is called so may ``add`` itself again.

        What handles a *message* of a client waits while there is a backlog.
        """
        self.pauses += 1
        if message and self._backlogs:
            self._held.append(go_on)
            return
        self._waiting.append((go_on, message))
        self._run_soon()

    def begin_backlog(self, owner: object) -> None:
        """Let long messages wait until ``end_backlog`` is called for *owner*, too; idempotent."""
        self._backlogs.add(owner)

    def end_backlog(self, owner: object) -> None:
        """Undo ``begin_backlog``; a no-op without one."""
        self._backlogs.discard(owner)
        if self._held and not self._backlogs:
            self._waiting.extend((go_on, True) for go_on in self._held)
            self._held.clear()
            self._run_soon()

    def _run_soon(self) -> None:
        if self._call is None and not self._running:
            self._call = self._clock.callLater(0, self._run)

    def pause(self) -> Deferred[None]:
        """Return what fires in a slice of a later loop iteration."""
        paused: Deferred[None] = Deferred(lambda _: self._drop(go_on))

        def go_on() -> None:
            paused.callback(None)

        self.add(go_on)
        return paused

    async def checked(self, end: float) -> float:
        """Pause if *end*, a ``deadline``, is over; return until when to go on."""
        if self.now() < end:
            return end
        await self.pause()
        return self.deadline()

    def _drop(self, go_on: Callable[[], object]) -> None:
        self._waiting.remove((go_on, False))
        if not self._waiting and self._call is not None:
            self._call.cancel()
            self._call = None

    def _run(self) -> None:
        self._call, self._running = None, True
        self.begin()
        waiting = self._waiting
        # What is added meanwhile has to wait for the next iteration.
        for _ in range(len(waiting)):
            if not waiting:  # what ran just now has dropped it
                break
            go_on, message = waiting.popleft()
            if message and self._backlogs:
                self._held.append(go_on)
                continue
            try:
                go_on()
            except Exception:
                log.failure("work in slices has failed")
            if self.over():
                break
        overrun = self.now() - self.end
        self._running = False
        self.finish()
        if waiting:
            # Who was kept waiting by what can not be divided has as long for itself.
            self._call = self._clock.callLater(overrun if overrun > SLICE else 0, self._run)


def slices_of(clock: Any) -> Slices:
    """Return the slices that all work on *clock* shares."""
    # Kept with the clock, so that they end together.
    found: Slices | None = getattr(clock, ATTRIBUTE, None)
    if found is None:
        found = Slices(clock)
        setattr(clock, ATTRIBUTE, found)
    return found
