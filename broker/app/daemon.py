"""The daemon as one service: the order in which its parts start and stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from twisted.application.service import IService
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure

from broker.app.logged import LoggedService
from broker.app.process import StartError
from broker.errors import BrokerError

log = Logger()


class DrainableService(Protocol):
    """What the daemon needs of ``broker.core.service.Broker``."""

    def drain(self) -> None:
        """Refuse what is new, and answer the polls that wait."""

    def reached(self) -> Deferred[None] | None:
        """Fire when the store and the bus were reached, or have not been for a while; None: they are here."""

    def setServiceParent(self, parent: Any) -> None:
        """See ``IService.setServiceParent``."""


class PublicPort(Protocol):
    """What the daemon needs of ``broker.web.site.Site``."""

    def drain(self, seconds: float, *, spread: bool = False) -> Deferred[None]:
        """Close all connections, one after the other if *spread*; those left after *seconds* are dropped."""

    def stop_now(self) -> None:
        """Drop the connections that are left, if it drains already."""


class Life(Protocol):
    """What the daemon needs of ``broker.app.plugins.PluginLife``."""

    def start(self) -> None:
        """Begin; it may raise ``StartError``."""

    async def stop(self) -> None:
        """End."""


class Daemon(LoggedService):
    """Starts the store and the bus, then the endpoints; stops them in reverse order.

    Those who connect before the store and the bus were reached wait for a moment until they are accepted.

    Args:
        broker: the core; it starts the store and the bus.
        site: serves the connections of the endpoints.
        listen: listens on one endpoint string with *site*.
        endpoints: endpoint strings.
        drain_seconds: how long a stop waits for what is under way.
        announce: called with each endpoint string and its port, once everything runs.
        ports: other ports of clients: services that start when all else listens, and stop with the endpoints.
        others: services that start last, and stop when the last client has gone.
        plugins: what starts when the store and the bus have, and stops when the last client has gone.
        observer: of the log, or None when twistd writes it.
        bind: binds the socket of one endpoint string.
        settle: returns a Deferred that fires when who has connected last has sent its request.
        accept: lets the ports accept connections.
        withdraw: leaves new connections to other processes that have the same ports, if there are some.

    Attributes:
        binds_first: whether it binds before it starts, since the process becomes another user then.
    """

    def __init__(
        self,
        broker: DrainableService,
        site: PublicPort,
        listen: Callable[[str], Deferred[IListeningPort]],
        endpoints: Sequence[str],
        *,
        drain_seconds: float,
        announce: Callable[[list[tuple[str, IListeningPort]]], object],
        ports: Iterable[IService] = (),
        others: Iterable[IService] = (),
        plugins: Iterable[Life] = (),
        observer: ILogObserver | None = None,
        bind: Callable[[str], object] = lambda endpoint: None,
        settle: Callable[[], Deferred[None]] = lambda: succeed(None),
        accept: Callable[[], object] = lambda: None,
        withdraw: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(observer)
        self.drain_seconds = drain_seconds
        self.binds_first = False
        self._broker = broker
        self._site = site
        self._listen = listen
        self._endpoints = endpoints
        self._announce = announce
        self._client_ports = tuple(ports)
        self._others = tuple(others)
        self._plugins = tuple(plugins)
        self._bind = bind
        self._settle = settle
        self._accept, self._withdraw = accept, withdraw
        self._opening: Deferred[None] | None = None  # fires when the ports are to accept
        self._accepting = False
        self._ports: list[tuple[str, IListeningPort]] = []
        self._drained: Deferred[None] | None = None  # fires when its clients have gone
        broker.setServiceParent(self)

    def privilegedStartService(self) -> None:
        """Bind the sockets, before ``twistd --uid`` becomes another user.

        Raises:
            StartError: one can not be bound.
        """
        if self.binds_first:
            bind_endpoints("TXBROKER_LISTEN", self._endpoints, self._bind)
            for other in (*self._client_ports, *self._others):
                other.privilegedStartService()
        super().privilegedStartService()

    def startService(self) -> None:
        """Start store and bus, then listen.

        Raises:
            StartError: the store can not be opened, or an endpoint can not be listened on.
        """
        try:
            super().startService()
        except BrokerError as error:
            raise StartError(str(error)) from error
        reached = self._broker.reached()
        for plugin in self._plugins:
            plugin.start()
        for endpoint in self._endpoints:
            self._listen_on(endpoint)
        for other in (*self._client_ports, *self._others):
            other.startService()
        self._opening = reached or succeed(None)
        self._opening.addCallback(self._open)

    def _open(self, _: object) -> None:
        if self._opening is not None:  # else it stops already
            self._accepting = True
            self._accept()
            self._announce_start()

    def _announce_start(self) -> None:
        if self._accepting and self._ports and len(self._ports) == len(self._endpoints):
            self._announce(self._ports)

    def _listen_on(self, endpoint: str) -> None:
        try:
            listening = self._listen(endpoint)
        except ValueError as error:
            raise StartError(f"TXBROKER_LISTEN: {endpoint} is no endpoint: {error}") from error
        failures: list[Failure] = []
        listening.addCallback(self._on_listening, endpoint).addErrback(failures.append)
        if failures:
            raise StartError(f"TXBROKER_LISTEN: {failures[0].getErrorMessage()}")
        # Endpoints of plugins may take longer than this call.
        listening.addErrback(lambda failure: log.failure("{endpoint} failed", failure, endpoint=endpoint))

    def _on_listening(self, port: IListeningPort, endpoint: str) -> None:
        self._ports.append((endpoint, port))
        self._announce_start()

    def drain(self) -> None:
        """Let the clients go to other nodes, one after the other, and take no new ones; a no-op if it does so already.

        It goes on to run, and to say that it is alive but not ready, until it is stopped.
        """
        if self._drained is not None or not self.running:
            return
        log.info("draining: clients are closed within {seconds:g} s, and none is taken", seconds=self.drain_seconds)
        self._withdraw()
        self._broker.drain()
        self._drained = self._site.drain(self.drain_seconds, spread=True)
        self._drained.addCallback(lambda _: log.info("drained: no client is left; SIGTERM stops the daemon"))

    def stop_now(self) -> None:
        """Do not wait for what is under way when it stops, or if it is stopping already."""
        self.drain_seconds = 0.0
        self._site.stop_now()

    def stopService(self) -> Deferred[None]:
        """Disconnect the clients, then stop the bus and the store."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        log.info("stopping")
        opening, self._opening, self._accepting = self._opening, None, False
        if opening is not None:
            opening.cancel()
        # ``/ready`` says no, and waiting polls are answered, before connections are closed.
        self._withdraw()
        self._broker.drain()
        ports, self._ports = self._ports, []
        for _, port in ports:
            accept_rest(port)
        closing = [port.stopListening for _, port in ports] + [port.stopService for port in self._client_ports]
        await gatherResults([maybeDeferred(close) for close in closing])
        await self._settle()
        await (self._drained or self._site.drain(self.drain_seconds))
        # Not before: operators watch how it drains.
        for other in self._others:
            await maybeDeferred(other.stopService)
        for plugin in reversed(self._plugins):
            await plugin.stop()
        await super().stopService()
        log.info("stopped")


def bind_endpoints(setting: str, endpoints: Iterable[str], bind: Callable[[str], object]) -> None:
    """Bind the sockets of the *endpoints* that *setting* names.

    Raises:
        StartError: one can not be bound.
    """
    for endpoint in endpoints:
        try:
            bind(endpoint)
        except (ValueError, CannotListenError) as error:
            raise StartError(f"{setting}: {error}") from error


def accept_rest(port: Any) -> None:
    """Accept whoever has connected to *port*: to be dropped with it would lose what they ask."""
    # Endpoints of plugins may have ports of another kind.
    accept = getattr(port, "accept_rest", None) or getattr(port, "doRead", None)
    if accept is not None:
        accept()
