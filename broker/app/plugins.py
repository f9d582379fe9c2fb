"""What dialects do at the start and at the stop of the daemon, with a peer of their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.app.process import StartError
from broker.core.time_limits import within
from broker.interfaces import IPeer
from broker.messages import Identity
from broker.patterns import RESERVED_PREFIX

log = Logger()

STOP_TIMEOUT = 5.0  # seconds that a dialect has to end
KIND = "dialect"  # of the principal that one is


class PluginLife:
    """Starts and stops one dialect.

    Args:
        name: of the dialect.
        start, stop: see ``IDialectExtras``.
        attach: makes its peer.
        clock: the reactor, or a ``task.Clock``.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[IPeer], Awaitable[object] | None],
        stop: Callable[[], Awaitable[object] | None],
        attach: Callable[[str, str], Any],
        clock: IReactorTime,
    ) -> None:
        self._name = name
        self._on_start, self._on_stop = start, stop
        self._attach = attach
        self._clock = clock
        self._peer: Any = None
        self._starting: Deferred[Any] | None = None

    def start(self) -> None:
        """Call ``start`` with the peer of the dialect.

        Raises:
            StartError: it has raised something.
        """
        self._peer = peer = self._attach(self._name, "")
        peer.admit(Identity(KIND, self._name, f"{RESERVED_PREFIX}{KIND}.{self._name}"))
        try:
            starting: Any = self._on_start(peer)
        except Exception as error:
            log.failure("{dialect}: start failed", dialect=self._name)
            raise StartError(f"dialect {self._name}: {error}") from error
        if starting is not None:
            self._starting = maybeDeferred(lambda: starting).addErrback(self._failed, "start")

    async def stop(self) -> None:
        """Call ``stop``, wait for it, and close the peer."""
        if self._peer is None:
            return
        if self._starting is not None:
            self._starting.cancel()
        await within(STOP_TIMEOUT, self._clock, maybeDeferred(self._on_stop)).addErrback(self._failed, "stop")
        self._peer.close()
        self._peer = None

    def _failed(self, failure: Failure, what: str) -> None:
        if failure.check(TookTooLong):
            log.warn("{dialect}: stop has not ended in time", dialect=self._name)
        elif not failure.check(CancelledError):
            log.failure("{dialect}: {what} failed", failure, dialect=self._name, what=what)
