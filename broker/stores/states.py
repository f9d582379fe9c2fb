"""Why a store takes no operations, and the refusal of one."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail

from broker.errors import Unavailable

NOT_RUNNING = "The store is not running."
STOPPING = "The store is stopping."


def refused(reason: str) -> Deferred[Any]:
    """Return a Deferred that has failed with ``Unavailable``, whose message is *reason*."""
    return fail(Unavailable("store", message=reason))
