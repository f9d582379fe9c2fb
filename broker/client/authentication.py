"""Credentials that are shown while a client is connected."""

from __future__ import annotations

from collections import deque

import attrs

from broker.client import wire
from broker.client.context import Context
from broker.client.errors import ClientError, Closed, NotConnected, error_of
from broker.client.notices import Notice
from broker.client.outcomes import Outcome
from broker.client.wire import Frame


@attrs.define(eq=False)
class Authentication:
    """Those of one client that were not answered yet: ``auth`` frames have no id, but keep their order."""

    context: Context
    _waiting: deque[Outcome[None]] = attrs.field(factory=deque, init=False)

    def show(self, token: str) -> Outcome[None]:
        """Show *token*, another credential of the same principal."""
        outcome: Outcome[None] = Outcome()
        outcome.cancelled = lambda: outcome.fail(Closed())
        if self.context.is_ready:
            self._waiting.append(outcome)
            outcome.listen(lambda _: self.context.notify(Notice("refreshed")), self._failed)
            self.context.send(wire.auth(token))
        else:
            outcome.fail(NotConnected())
        return outcome

    def on_answer(self, frame: Frame) -> None:
        """End the oldest of them."""
        if not self._waiting:
            return
        outcome = self._waiting.popleft()
        if frame.stage is None:
            outcome.fail(error_of(str(wire.value_of(frame.payload or b'""'))))
        else:
            outcome.succeed(None)

    def lost(self, error: ClientError) -> None:
        """End all: there will be no answer."""
        waiting, self._waiting = self._waiting, deque()
        for outcome in waiting:
            outcome.fail(error)

    def _failed(self, error: ClientError) -> None:
        self.context.notify(Notice("auth-failed", error.message, error=error))
