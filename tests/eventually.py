"""Waiting for what other processes do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater

STEP = 0.01  # seconds between two looks


async def eventually(condition: Callable[[], Any], timeout: float = 10.0) -> Any:
    """Return what *condition* returns once that is true; fail when it is not within *timeout* seconds."""
    end = reactor.seconds() + timeout
    while not (found := condition()):
        assert reactor.seconds() < end, f"not within {timeout} s"
        await deferLater(reactor, STEP)
    return found


async def pause(seconds: float) -> None:
    """Let others work, where only time shows that nothing more comes."""
    await deferLater(reactor, seconds)
