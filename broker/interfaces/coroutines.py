"""What a verb returns that has to wait."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeAlias, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")
Coro: TypeAlias = Coroutine[Deferred[Any], Any, T]  # await it, or hand it to Deferred.fromCoroutine
