"""How long to wait before the next attempt."""

from __future__ import annotations

from collections.abc import Callable

import attrs


@attrs.define
class Backoff:
    """Exponential, with full jitter: many clients of one broker do not come back at the same moment.

    Attributes:
        first: seconds that the first wait takes at most.
        limit: seconds that any wait takes at most.
        random: gives a number from 0 up to 1.
        attempts: since the last success.
    """

    first: float
    limit: float
    random: Callable[[], float]
    attempts: int = 0

    def next(self, minimum: float = 0.0) -> float:
        """Return the seconds to wait now, *minimum* at least."""
        most_now = min(self.limit, self.first * 2.0 ** min(self.attempts, 60))
        self.attempts += 1
        return minimum + most_now * self.random()

    def reset(self) -> None:
        """Begin anew: it has worked."""
        self.attempts = 0
