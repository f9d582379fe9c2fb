"""Results that functions remember, until memory is given back to the operating system.

What is remembered of thousands of names that came in a burst lies between what else the burst has made, in a
few bytes of each of its megabytes: none of them can be given back before it is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import _lru_cache_wrapper, lru_cache
from typing import Protocol, TypeVar
from weakref import WeakSet

R = TypeVar("R")


class Forgetful(Protocol):
    """What keeps something that it can do without."""

    def cache_clear(self) -> object:
        """Let go of it."""


_all: WeakSet[Forgetful] = WeakSet()


def remembered(size: int) -> Callable[[Callable[..., R]], _lru_cache_wrapper[R]]:
    """Remember the last *size* results of a pure function that is quick even without, as ``lru_cache`` does."""

    def remember(function: Callable[..., R]) -> _lru_cache_wrapper[R]:
        found = lru_cache(size)(function)
        _all.add(found)
        return found

    return remember


def forget_with_results(owner: Forgetful) -> None:
    """Let *owner* forget, too, whenever results are forgotten."""
    _all.add(owner)


def forget_results() -> None:
    """Forget all results that are ``remembered``."""
    for each in list(_all):
        each.cache_clear()
