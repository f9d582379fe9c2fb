"""What is done when work has ended, however it has, and takes a while itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def afterwards(work: Awaitable[T], clean_up: Callable[[], Awaitable[object]]) -> T:
    """Return what *work* returns, after *clean_up*, which is done when it fails or is cancelled, too.

    This is what an ``await`` in a ``finally`` is for, but for the end of a coroutine that nobody continues any more,
    above all that of the process: Python closes it then, and nothing can be awaited in one that is being closed.
    """
    try:
        result = await work
    except Exception:  # to be cancelled is one, to be closed is none
        await clean_up()
        raise
    await clean_up()
    return result
