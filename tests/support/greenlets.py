"""How a test waits for a Deferred, such that coverage can follow with one stack for all greenlets."""

from __future__ import annotations

from typing import Any

import greenlet
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


def blockon(waited: Deferred[Any]) -> Any:
    """Return the result of *waited*, or raise its failure; meanwhile the greenlet of the reactor runs.

    That of pytest-twisted, but that it comes back from a turn of the reactor of its own, not from within
    what fired *waited*: then no frame of the broker is left unfinished in the one greenlet while the other
    runs.  Coverage could follow them by ``concurrency = ["greenlet"]`` only, which makes each call of a
    function half as slow again.
    """
    current = greenlet.getcurrent()
    assert current is not pytest_twisted._instances.gr_twisted, "within the greenlet of the reactor"
    results: list[Any] = []

    def fired(result: Any) -> None:
        results.append(result)
        if greenlet.getcurrent() is not current:
            reactor.callLater(0, current.switch)

    waited.addBoth(fired)
    if not results:
        pytest_twisted._instances.gr_twisted.switch()
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]
