"""The whole daemon as one service: the order in which it starts and stops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from broker.app.process import StartError
from broker.errors import BrokerError

log = Logger()


class Core(Protocol):
    """What the daemon needs of ``broker.core.service.Broker``, which is a service."""

    def drain(self) -> None:
        """Begin to stop."""

    def setServiceParent(self, parent: Any) -> None:
        """Start and stop with *parent*."""


class Site(Protocol):
    """What the daemon needs of ``broker.web.site.Site``."""

    def drain(self, seconds: float) -> Deferred[None]:
        """Close all connections; those left after *seconds* are dropped."""

    def stop_now(self) -> None:
        """Drop those that are left now, if it drains already."""


class Daemon(MultiService):
    """Store and bus, then the endpoints; at the end the other way round.

    Args:
        broker: the core; it starts the store and the bus.
        site: what listens.
        listen: listens on one endpoint string with the site.
        endpoints: endpoint strings.
        drain_seconds: how long a stop waits for what is under way.
        announce: called with the ports once everything runs.
        others: services that start last and stop first.
        observer: takes the log lines, when twistd is to leave them to us.
    """

    def __init__(
        self,
        broker: Core,
        site: Site,
        listen: Callable[[str], Deferred[IListeningPort]],
        endpoints: Sequence[str],
        *,
        drain_seconds: float,
        announce: Callable[[list[tuple[str, IListeningPort]]], object],
        others: Iterable[IService] = (),
        observer: ILogObserver | None = None,
    ) -> None:
        super().__init__()
        self.drain_seconds = drain_seconds
        self._broker = broker
        self._site = site
        self._listen = listen
        self._endpoints = endpoints
        self._announce = announce
        self._others = tuple(others)
        self._observer = observer
        self._ports: list[tuple[str, IListeningPort]] = []
        broker.setServiceParent(self)

    def setServiceParent(self, parent: Any) -> None:
        """Become part of an application, and take over its log."""
        if self._observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)

    def startService(self) -> None:
        """Start store and bus, then listen.

        Raises:
            StartError: with the reason in plain words.
        """
        try:
            super().startService()
        except BrokerError as error:
            raise StartError(str(error)) from error
        for endpoint in self._endpoints:
            self._open(endpoint)
        for other in self._others:
            other.startService()

    def _open(self, endpoint: str) -> None:
        try:
            listening = self._listen(endpoint)
        except ValueError as error:
            raise StartError(f"TXBROKER_LISTEN: {endpoint} is no endpoint: {error}") from error
        failures: list[Failure] = []
        listening.addCallback(self._listens, endpoint).addErrback(failures.append)
        if failures:
            raise StartError(f"TXBROKER_LISTEN: {failures[0].getErrorMessage()}")
        # Those of some plugins take their time.
        listening.addErrback(lambda failure: log.failure("{endpoint} failed", failure, endpoint=endpoint))

    def _listens(self, port: IListeningPort, endpoint: str) -> None:
        self._ports.append((endpoint, port))
        if len(self._ports) == len(self._endpoints):
            self._announce(self._ports)

    def stop_now(self) -> None:
        """Let a stop, perhaps one under way, wait for nothing."""
        self.drain_seconds = 0.0
        self._site.stop_now()

    def stopService(self) -> Deferred[None]:
        """Let go of the clients, then of bus and store."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        log.info("stopping")
        for other in self._others:
            await maybeDeferred(other.stopService)
        # Ready no more, and waiting polls end with nothing, before connections are closed.
        self._broker.drain()
        ports, self._ports = self._ports, []
        await gatherResults([maybeDeferred(port.stopListening) for _, port in ports])
        await self._site.drain(self.drain_seconds)
        await super().stopService()
        log.info("stopped")
