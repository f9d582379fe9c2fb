"""The endpoints of stream dialects as services of the daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.app.daemon import bind_endpoints
from broker.app.process import StartError
from broker.config.addresses import place_of
from broker.config.own import LISTEN, own_prefix
from broker.config.settings import ENV_PREFIX, Settings
from broker.core.service import Broker
from broker.interfaces import IStreamDialect
from broker.web.net.listening import Listener
from broker.web.site import Site
from broker.web.ws.options import WebSocketOptions

log = Logger()


class StreamPort(Service):
    """Listens for the clients of a stream dialect.  The public port's site ends their connections.

    Args:
        dialect: its name.
        setting: the name of the environment variable that has *endpoints*.
        listen: listens on one endpoint string.
        endpoints: endpoint strings.
        bind: binds the socket of one of them.
    """

    def __init__(
        self,
        dialect: str,
        setting: str,
        listen: Callable[[str], Deferred[IListeningPort]],
        endpoints: Iterable[str],
        bind: Callable[[str], object] = lambda endpoint: None,
    ) -> None:
        self._dialect, self._setting = dialect, setting
        self._listen, self._bind = listen, bind
        self._endpoints = tuple(endpoints)
        self._ports: list[IListeningPort] = []

    def privilegedStartService(self) -> None:
        """Bind the sockets, before ``twistd --uid`` becomes another user.

        Raises:
            StartError: one can not be bound.
        """
        bind_endpoints(self._setting, self._endpoints, self._bind)

    def startService(self) -> None:
        """Listen on the endpoints.

        Raises:
            StartError: one can not be listened on.
        """
        super().startService()
        for endpoint in self._endpoints:
            failures: list[Failure] = []
            listening = maybeDeferred(self._listen, endpoint)
            listening.addCallback(self._on_listening).addErrback(failures.append)
            if failures:
                raise StartError(f"{self._setting}: {failures[0].getErrorMessage()}")
            # Endpoints of plugins may take longer than this call.
            listening.addErrback(lambda failure: log.failure("an endpoint failed", failure))

    def stopService(self) -> Deferred[Any]:
        """Take no new connections."""
        super().stopService()
        ports, self._ports = self._ports, []
        return gatherResults([maybeDeferred(port.stopListening) for port in ports])

    def _on_listening(self, port: IListeningPort) -> None:
        self._ports.append(port)
        log.info("{dialect} is at {place}", dialect=self._dialect, place=place_of(port.getHost()))


def stream_ports(
    reactor: Any, settings: Settings, options: WebSocketOptions, broker: Broker, site: Site, listener: Listener
) -> list[StreamPort]:
    """Return the ports of the stream dialects of *site*, by which their connections are counted and drained."""
    dialects = [dialect for dialect in site.routes.dialects if IStreamDialect.providedBy(dialect)]
    if not dialects:
        return []
    # Most daemons have none, and start without these.
    from broker.web.raw.link import raw_link_class
    from broker.web.raw.site import RawSite

    link = raw_link_class(options, reactor, broker.metrics, site.links, broker.memory)
    ports = []
    for dialect in dialects:
        own = RawSite(dialect, broker.attach, reactor, link, broker.metrics, site)
        setting = f"{own_prefix(ENV_PREFIX, dialect.name)}{LISTEN.upper()}"
        start = partial(listener.listen, factory=own)
        endpoints = settings.own_endpoints[dialect.name]
        ports.append(StreamPort(dialect.name, setting, start, endpoints, listener.bind))
    return ports
