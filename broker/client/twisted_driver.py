"""The input and output of a client on Twisted's reactor, by Autobahn."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from autobahn.exception import Disconnected
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from broker.client.connection import ABNORMAL
from broker.client.driver import Driver, Token
from broker.client.errors import ClientError, Invalid
from broker.client.notices import Notice
from broker.client.outcomes import Outcome

T = TypeVar("T")

PEM = re.compile(b"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def _distrust(error: BaseException | None) -> str:
    """Return what is wrong with the certificate, if it is that for which a connection has ended; else ""."""
    kind = type(error).__module__
    if kind.startswith("service_identity."):
        return f"the certificate is that of another host: {error}"
    told = error.args[0] if kind == "OpenSSL.SSL" and error is not None and error.args else None
    reasons = " ".join(str(part[-1]) for part in told) if isinstance(told, list) else ""
    return reasons if "certificate" in reasons else ""


class _Connection(WebSocketClientProtocol):
    """One connection; without a driver when nobody wants it any more."""

    driver: TwistedDriver | None = None
    opened = False

    def onOpen(self) -> None:
        self.opened = True
        if self.driver is not None:
            self.driver.core.connected()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.driver is not None and not isBinary:
            self.driver.received(payload)

    def failHandshake(self, reason: str) -> None:
        words = str(getattr(self, "http_status_line", "")).split()
        driver, self.driver = self.driver, None
        super().failHandshake(reason)
        if driver is None:
            return
        if len(words) > 1 and words[1].isdigit() and words[1] != "101":
            body = bytes(self.data).partition(b"\r\n\r\n")[2].decode("utf-8", "replace")
            wait = str(self.http_headers.get("retry-after", ""))
            driver.core.refused(int(words[1]), body or reason, float(wait) if wait.isdecimal() else 0.0)
        else:
            driver.core.disconnected(ABNORMAL, reason)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        told = "" if self.opened else _distrust(reason.value)
        if told:
            driver, self.driver = self.driver, None
            if driver is not None:
                driver.untrusted(told)
        super().connectionLost(reason)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        driver, self.driver = self.driver, None
        if driver is not None:
            driver.connection_ended(code or ABNORMAL, reason or "")


class TwistedDriver(Driver):
    """Does the input and output of one client on a reactor."""

    def __init__(self, token: Token, reactor: Any, clock: Callable[[], float]) -> None:
        """Use *reactor*, and *clock*, which the core goes by, too."""
        super().__init__(token)
        self._reactor = reactor
        self._clock = clock
        self._connection: _Connection | None = None
        self._connecting: Deferred[Any] | None = None
        self._timer: IDelayedCall | None = None
        self._due = 0.0
        self._trusted: Any = None

    def open(self, url: str, headers: dict[str, str]) -> None:
        """Open a connection."""
        factory = WebSocketClientFactory(url, headers=headers, useragent=None, reactor=self._reactor)
        factory.protocol = self._make  # type: ignore[assignment]  # it is only called
        # The core has its own limits of time.
        factory.setProtocolOptions(
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            autoPingInterval=0,
            tcpNoDelay=True,
            failByDrop=False,
            maxFramePayloadSize=self.core.options.max_received_bytes,
            maxMessagePayloadSize=self.core.options.max_received_bytes,
        )
        split = urlsplit(url)
        host, port = split.hostname or "localhost", split.port or (443 if factory.isSecure else 80)
        endpoint: Any = HostnameEndpoint(self._reactor, host, port)
        if factory.isSecure:
            endpoint = wrapClientTLS(self._tls(host), endpoint)
        connecting = self._connecting = endpoint.connect(factory)
        connecting.addErrback(self._failed, connecting)

    def prepare(self) -> None:
        """Read the certificates that are trusted."""
        name, found = self.core.options.ca_file, []
        try:
            from OpenSSL.crypto import Error as Unreadable
            from twisted.internet.ssl import Certificate, trustRootFromCertificates
        except ImportError:
            raise Invalid("wss:// needs pyOpenSSL: pip install twisted[tls]") from None
        try:
            if name:
                found = [Certificate.loadPEM(each) for each in PEM.findall(Path(name).read_bytes())]
                self._trusted = trustRootFromCertificates(found)
        except (OSError, Unreadable) as error:
            raise Invalid(f"ca_file: {error}") from None
        if name and not found:
            raise Invalid(f"ca_file: there is no certificate in {name}")

    def _tls(self, host: str) -> Any:
        """Return how the certificate of *host* is checked."""
        from twisted.internet.ssl import optionsForClientTLS

        return optionsForClientTLS(host, **({"trustRoot": self._trusted} if self._trusted is not None else {}))

    def send(self, data: bytes) -> None:
        """Send a text frame."""
        if self._connection is not None:
            try:
                self._connection.sendMessage(data, isBinary=False)
            except Disconnected:
                return  # that will be told presently

    def close(self) -> None:
        """Close the connection in good order."""
        if self._connection is not None:
            self._connection.sendClose(1000)

    def drop(self) -> None:
        """Drop the connection, or the attempt."""
        connection, self._connection = self._connection, None
        connecting, self._connecting = self._connecting, None
        if connection is not None:
            connection.driver = None
            if connection.transport is not None:
                connection.transport.abortConnection()  # type: ignore[attr-defined]  # it is TCP or TLS
        if connecting is not None:
            connecting.cancel()

    def connection_ended(self, code: int, reason: str) -> None:
        """The connection has ended by itself."""
        self._connection = None
        self.core.disconnected(code, reason)

    def untrusted(self, reason: str) -> None:
        """The broker has shown a certificate that is not trusted."""
        self._connection = None
        self.core.untrusted(reason)

    def wake(self, when: float) -> None:
        """Call ``core.tick`` then or earlier."""
        if self._timer is not None:
            if self._due <= when:
                return
            self._timer.cancel()
        self._due = when
        clock = cast(IReactorTime, self._reactor)
        self._timer = clock.callLater(max(0.0, when - self._clock()), self._tick)

    def rest(self) -> None:
        """Call ``core.tick`` no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def run(self, work: Coroutine[Any, Any, object], ended: Callable[[], object]) -> Callable[[], object]:
        """Run *work*."""
        running = Deferred.fromCoroutine(cast("Coroutine[Deferred[Any], Any, object]", work))
        running.addErrback(self._report)
        running.addCallback(lambda _: ended())
        return running.cancel

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call *function* soon, in the thread of the reactor."""
        self._reactor.callFromThread(function)

    def wait(self, outcome: Outcome[T], /) -> Deferred[T]:
        """Return a Deferred of *outcome*."""
        deferred: Deferred[T] = Deferred(lambda _: outcome.cancel())

        def fail(error: ClientError) -> None:
            if deferred.called:
                return  # what can not be cancelled goes on without it
            failure = Failure(error)
            deferred.errback(failure)
            if self.core.end is not None and getattr(deferred, "result", None) is failure:
                # Nobody has to ask what has become of it, now that the client has ended: to ask keeps it from the log.
                with suppress(ClientError):
                    next(iter(deferred))

        outcome.listen(lambda result: None if deferred.called else deferred.callback(result), fail)
        return deferred

    def is_cancelled(self, error: BaseException) -> bool:
        """Whether *error* says that the application itself has cancelled its work."""
        return isinstance(error, CancelledError) or super().is_cancelled(error)

    async def wait_at_most(self, outcome: Outcome[None], seconds: float) -> None:
        """Wait until *outcome* has ended, or for so many seconds."""
        outcome.cancelled = lambda: outcome.succeed(None)
        await self.wait(outcome).addTimeout(seconds, self._reactor)

    def _make(self) -> _Connection:
        connection = self._connection = _Connection()
        connection.driver = self
        return connection

    def _failed(self, failure: Failure, connecting: Deferred[Any]) -> None:
        if self._connecting is connecting:
            self._connecting = self._connection = None
            self.core.disconnected(ABNORMAL, failure.getErrorMessage())

    def _tick(self) -> None:
        self._timer = None
        self.tick()

    def _report(self, failure: Failure) -> None:
        if not failure.check(CancelledError, GeneratorExit):
            self.notify(Notice("error", "work of the client has failed", error=failure.value))
