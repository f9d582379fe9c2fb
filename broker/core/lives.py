"""How long what clients create lives without use."""

from __future__ import annotations

STEPS = 10  # a life is prolonged in steps of this part of it


def life_end(now: float, seconds: float) -> float:
    """Return when what is used at *now* ends, if it lives for *seconds* without use; 0.0: never, as 0 seconds mean.

    It is up to a tenth later.  Until a tenth has passed, each use has the same
    end: so a use costs a write only when the end has changed.
    """
    if not seconds:
        return 0.0
    step = seconds / STEPS
    return (now // step + STEPS + 1) * step
