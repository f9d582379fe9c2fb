"""How fast a client asks: as fast as it can, until the broker says that this is too fast."""

from __future__ import annotations

import attrs

MIN_RATE = 1.0  # operations per second
DECREASE = 0.5  # what a refusal leaves of the rate
RECOVERY = 0.1  # of the rate at the refusal that comes back each second
FREE = 4.0  # times that rate at which there is no limit any more, if none was set


@attrs.define
class Throttle:
    """Additive increase, multiplicative decrease.

    Attributes:
        limit: operations per second at most; None: no limit of its own.  May be changed at any time.
        now: the time when it was last looked at, in seconds.
    """

    limit: float | None = None
    now: float = 0.0
    _rate: float | None = None  # that the broker has taught; None: nothing
    _refused_rate: float = 0.0
    _tokens: float = 1.0
    _blocked_until: float = 0.0
    _count: float = 0.0  # of those that passed lately: half of it is forgotten each second

    @property
    def rate(self) -> float | None:
        """Operations per second that pass now; None: all."""
        rates = [each for each in (self.limit, self._rate) if each is not None]
        return min(rates) if rates else None

    def acquire(self, now: float) -> bool:
        """Let one pass, if the rate allows it."""
        self._advance(now)
        rate = self.rate
        if rate is None:
            self._count += 1.0
            return True
        if now < self._blocked_until or self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        self._count += 1.0
        return True

    def next(self, now: float) -> float:
        """Return when the next one may pass."""
        self._advance(now)
        rate = self.rate
        wait = 0.0 if rate is None else max(0.0, 1.0 - self._tokens) / rate
        return max(self._blocked_until, now + wait)

    def refused(self, now: float, retry_after: float) -> None:
        """Slow down: the broker has refused one for the rate."""
        self._advance(now)
        if now < self._blocked_until:
            return  # one of those that had been sent before it was known
        known = self.rate if self.rate is not None else max(MIN_RATE, self._count * 0.7)
        self._refused_rate = known
        self._rate = max(MIN_RATE, known * DECREASE)
        self._tokens = 0.0
        self._blocked_until = now + retry_after

    def _advance(self, now: float) -> None:
        passed, self.now = max(0.0, now - self.now), now
        self._count *= 0.5 ** min(passed, 60.0)
        open_for = min(passed, now - self._blocked_until)
        if self._rate is not None and open_for > 0:
            self._rate += self._refused_rate * RECOVERY * open_for
            if self._rate >= self._refused_rate * FREE:
                self._rate = None
        rate = self.rate
        # A tenth of a second's worth may go at once: timers are not exact.
        self._tokens = 1.0 if rate is None else min(max(2.0, rate / 10), self._tokens + rate * passed)
