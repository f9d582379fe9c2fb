"""Who answers streamed requests waits for who does not read the answers."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from broker.core.call import Party
from broker.messages import CloseCode

log = Logger()

INTERVAL = 0.005  # seconds between two looks at who had to be waited for
AGAIN = 1.0  # seconds after which a callee is paused again, while its caller reads slowly


@attrs.define
class Stall:
    """What a caller had not read, since when it is as much, and when its callee was paused last.

    ``drains`` is that of its connection at the beginning.
    """

    drains: int
    unsent: int
    since: float
    paused: float


class BackPressure:
    """Receives nothing from callees while their callers do not keep up, so that little waits for these.

    A caller that reads nothing at all for *grace* seconds is closed, if others wait for that callee.

    Args:
        clock: gives the time.
        notify: told of each callee that has to wait, or may go on; again and again while its callers read slowly.
        grace: see above.
    """

    def __init__(
        self,
        clock: IReactorTime,
        notify: Callable[[Party, bool], object],
        grace: float,
    ) -> None:
        self._clock, self._notify, self._grace = clock, notify, grace
        self._callees: dict[Party, dict[Party, Stall]] = {}  # by callee: the callers that it waits for
        self._timer: IDelayedCall | None = None

    def __contains__(self, callee: Party) -> bool:
        return callee in self._callees

    def add(self, callee: Party, caller: Party) -> None:
        """Let *callee* wait until *caller* has read what it was sent; idempotent."""
        callers = self._callees.get(callee)
        if callers is None:
            callers = self._callees[callee] = {}
            self._notify(callee, True)
        if callee.flow is not None:
            callee.flow.pause_receiving()  # perhaps again: a session may have resumed it for reasons of its own
        if caller not in callers and caller.flow is not None:
            now = self._clock.seconds()
            callers[caller] = Stall(caller.flow.drains, caller.flow.unsent, now, now)
        if self._timer is None:
            self._timer = self._clock.callLater(INTERVAL, self._look)

    def leave(self, callee: Party) -> None:
        """Forget *callee*: it has gone, or has nothing to answer any more."""
        if self._callees.pop(callee, None) is not None:
            self._notify(callee, False)
            if callee.flow is not None:
                callee.flow.resume_receiving()

    def stop(self) -> None:
        """Forget all."""
        self._callees.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        for callee, callers in list(self._callees.items()):
            for caller, stall in list(callers.items()):
                if not self._is_slow(callee, caller, stall):
                    del callers[caller]
            if not callers:
                self.leave(callee)
        if self._callees:
            self._timer = self._clock.callLater(INTERVAL, self._look)

    def _is_slow(self, callee: Party, caller: Party, stall: Stall) -> bool:
        flow, now = caller.flow, self._clock.seconds()
        # Others may send it so much that it is paused again at once each time.
        if flow is None or not (flow.open and flow.paused) or flow.drains != stall.drains:
            return False
        if not any(call.streamed and call.callee is callee for call in caller.calling.values()):
            return False  # the request has ended
        if flow.unsent != stall.unsent:
            stall.unsent, stall.since = flow.unsent, now
            if now - stall.paused >= AGAIN:
                stall.paused = now
                self._notify(callee, True)  # some was read
        elif now - stall.since >= self._grace and self._is_in_the_way(callee, caller):
            log.warn("{caller} does not read the answers to its request, and others wait: closing", caller=caller.id)
            flow.close(CloseCode.TRY_AGAIN_LATER, "reading too slowly")
            return False
        return True

    def _is_in_the_way(self, callee: Party, caller: Party) -> bool:
        """Whether anybody else waits for *callee*, or *caller* itself has to wait for somebody."""
        return caller in self._callees or any(call.caller is not caller for call in callee.serving.values())
