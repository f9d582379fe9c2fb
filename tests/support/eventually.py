"""Waiting for what others do, and how long at most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater

# Seconds that any wait of a test may take.  It is only ever used up by a test that fails: on a
# busy machine a process may get its turn late, and that says nothing of what is tested.
TIMEOUT = 60.0
STEP = 0.01  # seconds between two looks


async def eventually(condition: Callable[[], Any], timeout: float = TIMEOUT) -> Any:
    """Return what *condition* returns once that is true; fail when it is not within *timeout* seconds."""
    end = reactor.seconds() + timeout
    while not (found := condition()):
        assert reactor.seconds() < end, f"not within {timeout} s"
        await deferLater(reactor, STEP)
    return found


async def pause(seconds: float) -> None:
    """Let others work between two looks at what is waited for; never instead of a look."""
    await deferLater(reactor, seconds)
