"""Virtual time for several nodes: what is due happens in an order that the seed decides, and a frozen node is late."""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import attrs
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

START = 1_700_000_000.0  # seconds since the epoch
MAX_AT_ONCE = 3_000  # things that happen at one moment


class Endless(Exception):
    """Things go on happening at one moment: time stands still."""


@implementer(IDelayedCall)
class Timer:
    """One call that is due; its owner is a clock, or None for what belongs to the network or the run itself."""

    __slots__ = ("arguments", "call", "clock", "done", "named", "net", "when")

    def __init__(self, clock: NodeClock | None, when: float, call: Callable[..., Any], arguments: Any, named: Any):
        self.clock, self.when, self.call = clock, when, call
        self.arguments, self.named = arguments, named
        self.net = False  # whether it is something that the node receives
        self.done = ""

    def getTime(self) -> float:
        return self.when

    def active(self) -> bool:
        return not self.done

    def cancel(self) -> None:
        if self.done:
            raise AlreadyCalled if self.done == "called" else AlreadyCancelled
        self.done = "cancelled"
        if self.clock is not None:
            self.clock.timers.pop(self, None)

    def reset(self, secondsFromNow: float) -> None:
        assert self.clock is not None
        self._move(self.clock.seconds() + secondsFromNow)

    def delay(self, secondsLater: float) -> None:
        self._move(self.when + secondsLater)

    def _move(self, when: float) -> None:
        if self.done:
            raise AlreadyCalled if self.done == "called" else AlreadyCancelled
        assert self.clock is not None
        moved = Timer(self.clock, when, self._again, (), {})
        self.when = when
        # The old entry of the heap finds that it is not due any more.
        self.clock.world.push(moved)

    def _again(self) -> None:
        if not self.done and self.clock is not None and self.clock.seconds() >= self.when:
            self.run()

    def run(self) -> None:
        self.done = "called"
        if self.clock is not None:
            self.clock.timers.pop(self, None)
        self.call(*self.arguments, **self.named)


@implementer(IReactorTime)
class NodeClock:
    """The time of one node: that of the world, but what is due while it is frozen happens when it thaws.

    Attributes:
        timers: what was asked for by ``callLater`` and is due some time.
        frozen, dead: as its process is.
        late: what became due while it was frozen.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.timers: dict[Timer, None] = {}
        self.frozen = self.dead = False
        self.late: list[Timer] = []

    def seconds(self) -> float:
        return self.world.now

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kw: object) -> Timer:  # noqa: A002
        assert delay >= 0, delay
        timer = Timer(self, self.world.now + delay, callable, args, kw)
        if not self.dead:
            self.timers[timer] = None
            self.world.push(timer)
        return timer

    def getDelayedCalls(self) -> list[Timer]:
        return list(self.timers)

    def receive(self, call: Callable[..., Any], *arguments: object) -> None:
        """Let the process do what has reached it from outside: now, or when it thaws."""
        if self.dead:
            return
        if self.frozen:
            timer = Timer(self, self.world.now, call, arguments, {})
            timer.net = True
            self.late.append(timer)
        else:
            call(*arguments)

    def thaw(self, net_first: bool) -> None:
        """Do all that is late: each kind in its order, what was received before or after the timers."""
        self.frozen = False
        late, self.late = self.late, []
        late.sort(key=lambda timer: (timer.net is not net_first, timer.when))
        for timer in late:
            # One after the other, as single iterations of the event loop that nothing else comes between.
            self.world.push(timer, self.world.now)

    def die(self) -> None:
        """Forget everything."""
        self.dead = True
        self.late.clear()
        for timer in list(self.timers):
            timer.cancel()


@attrs.define
class Violation:
    """What must not happen; *kind* is the same for all of the same promise."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class World:
    """The time of everything, and what has happened.

    Args:
        seed: decides all that is left to chance.

    Attributes:
        now: seconds since the epoch.
        trace: what has happened, a line each, if *keep_trace*.
        violations: what must not happen and has.
    """

    def __init__(self, seed: int, *, keep_trace: bool = False) -> None:
        self.seed, self.now = seed, START
        self.trace: list[str] = []
        self.keep_trace = keep_trace
        self.violations: list[Violation] = []
        self.steps = 0
        self._heap: list[tuple[float, int, Timer]] = []
        self._number = 0

    def chance(self, *names: object) -> random.Random:
        """Return a source of chance of its own for what *names* say, so that others change nothing in it."""
        return random.Random(f"{self.seed} {' '.join(map(str, names))}")

    def push(self, timer: Timer, when: float | None = None) -> None:
        self._number += 1
        heappush(self._heap, (timer.when if when is None else when, self._number, timer))

    def at(self, when: float, call: Callable[..., Any], *arguments: object) -> Timer:
        """Let something happen outside of all nodes."""
        timer = Timer(None, max(when, self.now), call, arguments, {})
        self.push(timer)
        return timer

    def after(self, delay: float, call: Callable[..., Any], *arguments: object) -> Timer:
        return self.at(self.now + delay, call, *arguments)

    def run_until(self, end: float) -> None:
        """Let everything happen that is due until then."""
        heap, began = self._heap, self.steps
        while heap and heap[0][0] <= end:
            when, _, timer = heappop(heap)
            if when > self.now:
                self.now, began = when, self.steps
            if timer.done or timer.when > when:
                continue
            clock = timer.clock
            if clock is not None:
                if clock.dead:
                    continue
                if clock.frozen:
                    clock.late.append(timer)
                    continue
            self.steps += 1
            if self.steps - began > MAX_AT_ONCE:
                self.violate("a loop without end", f"{timer.call!r}")
                raise Endless
            try:
                timer.run()
            except Exception as error:
                self.violate("exception", f"{type(error).__name__}: {error} in {timer.call!r}", error)
        self.now = max(self.now, end)

    def log(self, text: str) -> None:
        if self.keep_trace:
            self.trace.append(f"{self.now - START:9.4f} {text}")

    def violate(self, kind: str, text: str, error: BaseException | None = None) -> None:
        self.log(f"VIOLATION {kind}: {text}")
        if self.keep_trace and error is not None:
            import traceback

            self.trace += [line.rstrip() for line in traceback.format_exception(error)]
        self.violations.append(Violation(kind, f"at {self.now - START:.3f} s, {text}"))
