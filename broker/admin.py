"""The port for operators: ``/metrics``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.addresses import url_of

log = Logger()


class AdminPort(Service):
    """Serves the metrics.  When it can not listen, it says so and the daemon goes on.

    Args:
        reactor: the reactor.
        endpoints: where to listen.
        registry: the metrics.
    """

    def __init__(self, reactor: Any, endpoints: Iterable[str], registry: CollectorRegistry) -> None:
        self._reactor = reactor
        self._endpoints = tuple(endpoints)
        self._registry = registry
        self._ports: list[IListeningPort] = []

    def startService(self) -> None:
        """Listen."""
        super().startService()
        if not self._endpoints:
            return
        # Imported here: a daemon without this port need not wait for it.
        from twisted.web.resource import Resource
        from twisted.web.server import Request, Site

        registry = self._registry

        class Metrics(Resource):
            isLeaf = True

            def render_GET(self, request: Request) -> bytes:
                request.setHeader(b"Content-Type", CONTENT_TYPE_LATEST.encode())
                return generate_latest(registry)

        root = Resource()
        root.putChild(b"metrics", Metrics())
        site = Site(root)
        site.noisy = False
        for endpoint in self._endpoints:
            try:
                listening = serverFromString(self._reactor, endpoint).listen(site)
            except ValueError:
                self._failed(Failure(), endpoint)
            else:
                listening.addCallbacks(self._listens, self._failed, (endpoint,), errbackArgs=(endpoint,))

    def stopService(self) -> Deferred[Any]:
        """Listen no more."""
        super().stopService()
        ports, self._ports = self._ports, []
        return gatherResults([maybeDeferred(port.stopListening) for port in ports])

    def _listens(self, port: IListeningPort, endpoint: str) -> None:
        self._ports.append(port)
        log.info("metrics are at {metrics}/metrics", metrics=url_of(endpoint, port.getHost()))

    def _failed(self, failure: Failure, endpoint: str) -> None:
        log.warn("no metrics: TXBROKER_ADMIN_LISTEN={endpoint}: {reason}", endpoint=endpoint, reason=str(failure.value))
