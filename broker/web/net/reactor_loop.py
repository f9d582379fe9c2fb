"""An iteration of the epoll reactor that reads every ready connection, then sends.

Twisted's own iteration wraps each read in a logging context and looks three times
at what kind of event it was.  Here a connection that has something to read is
read, and nothing else is done for it; every other kind of event takes Twisted's
slow path.  What all those reads have caused leaves at the end of the iteration, so
that a service that many call gets one ``send`` for all of them.
"""

from __future__ import annotations

import sys
from select import EPOLLIN
from typing import Any

from twisted.logger import Logger
from twisted.python.log import callWithLogger

from broker.web.net.transport import FrameTransport, Outbox

log = Logger()

# Of Twisted's EPollReactor, tested with the versions that transport.py names.
PRIVATE_NAMES = ("_poller", "_selectables", "_doReadOrWrite", "_disconnectSelectable")


class ReactorLoop:
    """Replaces one reactor's ``doIteration`` between ``install`` and ``remove``.

    Args:
        reactor: a Twisted ``EPollReactor``; any other is left alone.
        outbox: flushed at the end of each iteration.
    """

    def __init__(self, reactor: Any, outbox: Outbox) -> None:
        self._reactor = reactor
        self._outbox = outbox

    def install(self) -> bool:
        """Replace ``doIteration``; return whether the reactor is of a kind that allows it."""
        reactor = self._reactor
        if type(reactor).__name__ != "EPollReactor" or not all(hasattr(reactor, name) for name in PRIVATE_NAMES):
            log.info("the reactor loop is Twisted's own: {kind} is not supported", kind=type(reactor).__name__)
            return False
        reactor.doIteration = self.poll
        return True

    def remove(self) -> None:
        """Restore the reactor's own ``doIteration``; idempotent."""
        if vars(self._reactor).get("doIteration") == self.poll:
            del self._reactor.doIteration

    def poll(self, timeout: float | None) -> None:
        """Wait up to *timeout* seconds (None: without limit), then handle every ready descriptor."""
        reactor, outbox = self._reactor, self._outbox
        selectables = reactor._selectables
        # PEP 475: a signal does not end the wait, unless its handler raises.
        events = reactor._poller.poll(-1 if timeout is None else timeout, len(selectables))
        outbox.busy = True
        try:
            for descriptor, event in events:
                selectable = selectables.get(descriptor)
                if event == EPOLLIN and type(selectable) is FrameTransport:
                    try:
                        end = selectable.doRead()
                    except Exception:
                        # As Twisted does: a fault of one connection's protocol ends that connection.
                        log.failure("a connection failed")
                        end = sys.exc_info()[1]
                    if end:
                        reactor._disconnectSelectable(selectable, end, True)
                elif selectable is not None:
                    callWithLogger(selectable, reactor._doReadOrWrite, selectable, descriptor, event)
        finally:
            outbox.busy = False
            outbox.flush()
