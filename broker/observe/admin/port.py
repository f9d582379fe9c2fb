"""The port for operators as a service of the daemon."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.config.addresses import url_of

log = Logger()

PRIVATE = ":mode=600"  # of a unix socket


class Drainable(Protocol):
    """What a port needs of ``broker.web.site.Site`` to stop."""

    def drain(self, seconds: float) -> Deferred[None]:
        """Close all connections; those left after *seconds* are dropped."""


class AdminPort(Service):
    """Serves *site* to operators.  When it can not listen, that is logged and the daemon goes on.

    Args:
        site: answers the requests.
        listen: listens on one endpoint string with *site*.
        endpoints: endpoint strings; a unix socket without a mode is for its owner alone.
        bind: binds the socket of one of them.
    """

    def __init__(
        self,
        site: Drainable,
        listen: Callable[[str], Deferred[IListeningPort]],
        endpoints: Iterable[str],
        bind: Callable[[str], object] = lambda endpoint: None,
    ) -> None:
        self._site = site
        self._listen, self._bind = listen, bind
        self._endpoints = tuple(map(private, endpoints))
        self._ports: list[IListeningPort] = []

    def privilegedStartService(self) -> None:
        """Bind the sockets, before ``twistd --uid`` becomes another user; what can not be had is told later."""
        for endpoint in self._endpoints:
            with suppress(ValueError, CannotListenError):
                self._bind(endpoint)

    def startService(self) -> None:
        """Listen on the endpoints."""
        super().startService()
        for endpoint in self._endpoints:
            listening = maybeDeferred(self._listen, endpoint)
            listening.addCallbacks(self._on_listening, self._on_failure, (endpoint,), errbackArgs=(endpoint,))

    def stopService(self) -> Deferred[Any]:
        """Close the ports and their connections."""
        super().stopService()
        ports, self._ports = self._ports, []
        return gatherResults([self._site.drain(0.0), *(maybeDeferred(port.stopListening) for port in ports)])

    def _on_listening(self, port: IListeningPort, endpoint: str) -> None:
        self._ports.append(port)
        log.info("metrics are at {metrics}/metrics", metrics=url_of(endpoint, port.getHost()))

    def _on_failure(self, failure: Failure, endpoint: str) -> None:
        log.warn("no metrics: TXBROKER_ADMIN_LISTEN={endpoint}: {reason}", endpoint=endpoint, reason=str(failure.value))


def private(endpoint: str) -> str:
    """Return *endpoint*; a unix socket gets a mode that lets only its owner connect, if it has no mode."""
    # A backslash makes a colon a part of the path.
    named = endpoint.startswith("unix:") and not re.search(r"(?<!\\):mode=", endpoint)
    return endpoint + PRIVATE if named else endpoint
