"""What has ended by now, although the clock may jump.

Ends are dates: a clock that is set a week ahead by mistake would end, at once, all that lives for less.  So a jump
forward is skipped until it has lasted an hour: what would have ended in the time that was jumped over goes on
to live, and ends when that much time has really passed.  What is stored meanwhile has ends after the jump, and ends in
time.  After a jump back nothing ends too early.

A jump is noticed by comparing the clock with one that can not be set, or with what was noted before a restart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from twisted.logger import Logger

from broker.interfaces import IWallClock

log = Logger()

MAX_STEP = 60.0  # seconds by which a clock may be set forward while the daemon runs, without being a jump
MAX_DOWNTIME = 86400.0  # seconds for which a daemon may have been down, without seeming to be a jump
SKIPPED_FOR = 3600.0  # seconds after which a jump counts
NOTE_INTERVAL = 60.0  # seconds between two notes of the time in the store


class Moment(NamedTuple):
    """The present, as the last look at both clocks has shown it.

    Attributes:
        now: the wall clock.
        elapsed: the other clock.
        skipped: seconds of jumps that do not count yet.
        after: where the last of them has led.
        since: when that was, by the other clock.
    """

    now: float
    elapsed: float
    skipped: float = 0.0
    after: float = 0.0
    since: float = 0.0

    @property
    def passed(self) -> float:
        """The time without the jumps that are skipped."""
        return self.now - self.skipped

    def spans(self) -> list[tuple[float, float]]:
        """Return in which times the ends are that have come: after the first of each two, up to the other."""
        return [(0.0, self.passed), (self.after, self.now)] if self.skipped else [(0.0, self.now)]


class Expiry:
    """Says which ends have come.  Several threads may ask.

    Args:
        wall: the clock by which they are written.
        elapsed: gives seconds that can not be set.
        noted: the time ``passed`` when it was noted last, in an earlier run; 0.0: never.
    """

    def __init__(self, wall: IWallClock, elapsed: Callable[[], float], noted: float = 0.0) -> None:
        self._wall, self._elapsed = wall, elapsed
        now, began = wall.time(), elapsed()
        jumped = now - noted if noted and now - noted > MAX_DOWNTIME else 0.0
        self._moment = Moment(now, began, jumped, now, began)
        self._next_note = began
        self._logged = 0.0  # what was skipped when it was logged

    def is_over(self, end: float) -> bool:
        """Whether the *end* of something, in seconds since 1970, has come; 0.0 never does."""
        if not 0.0 < end <= self._wall.time():
            return False
        moment = self.look()
        return end <= moment.passed or (moment.skipped > 0.0 and moment.after < end <= moment.now)

    def left(self, end: float) -> float:
        """Return the seconds until *end*, after which ``is_over`` says so if no clock is set; 0.0: it has come."""
        if self.is_over(end):
            return 0.0
        moment = self.look()
        return end - (moment.passed if end <= moment.now else moment.now)

    def oldest(self, seconds: float) -> float:
        """Return the time before which what is kept for *seconds* is too old."""
        return self.look().passed - seconds

    def look(self) -> Moment:
        """Look at the clocks."""
        before, now, elapsed = self._moment, self._wall.time(), self._elapsed()
        _, _, skipped, after, since = before
        step = now - before.now - (elapsed - before.elapsed)
        if step > MAX_STEP:
            skipped, after, since = skipped + step, before.now + step, elapsed
        elif step < -MAX_STEP:
            skipped, after = max(0.0, skipped + step), min(after, before.now + step)
        if skipped <= MAX_STEP or elapsed - since >= SKIPPED_FOR:
            skipped = 0.0
        # One assignment: whatever another thread has seen meanwhile, it is seen again by the next look.
        self._moment = moment = Moment(now, elapsed, skipped, after, since)
        return moment

    def note_due(self) -> float:
        """Return the time ``passed`` when it is to be noted in the store again, else 0.0."""
        moment = self.look()
        if moment.elapsed < self._next_note:
            return 0.0
        self._next_note = moment.elapsed + NOTE_INTERVAL
        return moment.passed

    def report(self) -> None:
        """Log a jump that was not logged yet."""
        self._logged = log_jump(self._logged, self.look().skipped)


def log_jump(logged: float, skipped: float) -> float:
    """Log that *skipped* seconds are skipped, unless that many were *logged*; return how many are now."""
    if skipped > logged + MAX_STEP:
        log.warn(
            "the clock was set {seconds} s ahead, or was that much behind when it was last seen: what would end by "
            "that is kept for an hour, or until the clock is set back",
            seconds=round(skipped),
        )
    elif logged and not skipped:
        log.info("ends are those of the clock again")
    return skipped
