"""Whether the broker is still there, when it says nothing."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from broker.client import wire
from broker.client.context import Context
from broker.client.timers import Timer


@attrs.define(eq=False)
class Liveness:
    """Of one client's connection: after some silence a ping must be answered.

    Attributes:
        context: of the client.
        on_timeout: is called when it was not.
    """

    context: Context
    on_timeout: Callable[[], object]
    _heard_at: float = attrs.field(default=0.0, init=False)
    _asked: bool = attrs.field(default=False, init=False)  # whether the broker has said nothing since a ping
    _timer: Timer | None = attrs.field(default=None, init=False)

    def start(self) -> None:
        """Look after the connection from now on."""
        self.heard()
        self._timer = self.context.timers.after(self.context.options.ping_interval, self._check)

    def stop(self) -> None:
        """Look after it no more."""
        self.context.timers.cancel(self._timer)
        self._timer = None

    def heard(self) -> None:
        """Notice that the broker has said something."""
        self._heard_at, self._asked = self.context.clock(), False

    def _check(self) -> None:
        context, interval = self.context, self.context.options.ping_interval
        if context.clock() - self._heard_at < interval:
            self._timer = context.timers.at(self._heard_at + interval, self._check)
            return
        self._asked = True
        self._timer = context.timers.after(context.options.ping_timeout, self._pong_timeout)
        context.send(wire.PING)

    def _pong_timeout(self) -> None:
        if self._asked:
            self.on_timeout()
        else:
            self._check()
