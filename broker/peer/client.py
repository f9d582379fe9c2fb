"""What the core hands to a client."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.errors import BrokerError
from broker.messages import CloseCode, Event, Mail, Reply, Request
from broker.peer.gate import Gate

log = Logger()

T = TypeVar("T")


class Client(Gate):
    """The client itself: what is handed to it."""

    __slots__ = ()

    def probe(self, timeout: float) -> Deferred[bool]:
        """Fire with whether the client gives a sign of life within *timeout* seconds."""
        if self.session is None:
            return succeed(False)
        asked: Deferred[bool] = Deferred.fromCoroutine(_await(self.session.probe()))
        asked.addTimeout(timeout, self.broker.clock)
        return asked.addErrback(_silent)

    def on_event(self, event: Event, pattern: str) -> None:
        """Hand *event* to the session."""
        try:
            self.session.event(event, pattern)  # type: ignore[union-attr]
        except Exception:
            self.fail("an event")

    def on_request(self, request: Request) -> None:
        """Hand *request* to the session; a ``BrokerError`` of it refuses."""
        try:
            self.session.request(request)  # type: ignore[union-attr]
        except BrokerError:
            raise
        except Exception:
            self.fail("a request")

    def on_reply(self, reply: Reply) -> None:
        """Hand *reply* to the session."""
        try:
            self.session.reply(reply)  # type: ignore[union-attr]
        except Exception:
            self.fail("a reply")

    def post_mail(self, mail: Mail) -> bool:
        """Hand *mail* to the session, which may decline it."""
        try:
            return not self.closed and self.session is not None and self.session.mail(mail)
        except Exception:
            self.fail("mail")
            return False

    def fail(self, what: str) -> None:
        """Part with the client for a bug of ours; the others go on."""
        log.failure("{dialect} session {peer} failed at {what}", dialect=self.dialect, peer=self.id, what=what)
        self.disconnect(CloseCode.INTERNAL_ERROR, "internal error")

    def disconnect(self, code: int, reason: str) -> None:
        """Close the client's connection."""
        if self._disconnect is not None:
            self._disconnect(code, reason)


def _silent(failure: Failure) -> bool:
    # Cancelled is not silent: the one that asked has gone.
    if failure.check(CancelledError):
        failure.raiseException()
    return False


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable
