"""The client for programs on Twisted's reactor, by Autobahn: what has to be waited for is a ``Deferred``.

Those can be awaited in ``async def`` under ``Deferred.fromCoroutine``, and yielded in ``inlineCallbacks``; items
come by ``async for``, or one by one by ``next_of``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from random import random
from time import monotonic
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar, Unpack, cast
from urllib.parse import urlsplit

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from broker.client.core import ABNORMAL
from broker.client.driving import BaseClient, Driver, Token
from broker.client.handles import Items
from broker.client.options import Options, Settings
from broker.client.outcomes import Outcome
from broker.client.values import Notice
from broker.client.verbs import Verbs

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["Client", "next_of"]


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

    def open(self, url: str, headers: dict[str, str]) -> None:
        """Open a connection."""
        factory = WebSocketClientFactory(url, headers=headers, useragent=None, reactor=self._reactor)
        factory.protocol = self._make  # type: ignore[assignment]  # it is only called
        # The core has its own limits of time.
        factory.setProtocolOptions(
            openHandshakeTimeout=0, closeHandshakeTimeout=0, autoPingInterval=0, tcpNoDelay=True, failByDrop=False
        )
        split = urlsplit(url)
        host, port = split.hostname or "localhost", split.port or (443 if factory.isSecure else 80)
        endpoint: Any = HostnameEndpoint(self._reactor, host, port)
        if factory.isSecure:
            from twisted.internet.ssl import optionsForClientTLS

            endpoint = wrapClientTLS(optionsForClientTLS(host), endpoint)
        connecting = self._connecting = endpoint.connect(factory)
        connecting.addErrback(self._failed, connecting)

    def send(self, data: bytes) -> None:
        """Send a text frame."""
        if self._connection is not None:
            self._connection.sendMessage(data, isBinary=False)

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

    def spawn(self, work: Coroutine[Any, Any, object]) -> Callable[[], object]:
        """Run *work*."""
        running = Deferred.fromCoroutine(cast("Coroutine[Deferred[Any], Any, object]", work))
        running.addErrback(self._report)
        return running.cancel

    def wait(self, outcome: Outcome[T], /) -> Deferred[T]:
        """Return a Deferred of *outcome*."""
        deferred: Deferred[T] = Deferred(lambda _: outcome.cancel())
        outcome.listen(deferred.callback, lambda error: deferred.errback(Failure(error)))
        return deferred

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
        due = self.core.tick()
        if due is not None:
            self.wake(due)

    def _report(self, failure: Failure) -> None:
        from twisted.internet.defer import CancelledError

        if not failure.check(CancelledError, GeneratorExit):
            self.notify(Notice("error", "work of the client has failed", error=failure.value))


def _deferring(
    build: Callable[Concatenate[Verbs, P], Outcome[T]],
) -> Callable[Concatenate[Client, P], Deferred[T]]:
    """Return the method that asks what *build* asks, and returns a Deferred."""

    @wraps(build)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return self._driver.wait(build(self._verbs, *args, **kwargs))

    return method


class Client(BaseClient[TwistedDriver]):
    """A client of the broker; ``async with`` connects and closes it.

    Args:
        url: of the native dialect, as in ``ws://localhost:8000/owlmeans``.
        token: the credential, or a function that returns it, or something to await; it is asked with each attempt.
        reactor: the one to use, else the one that is installed.
        settings: those of ``Options``, by their names.
    """

    def __init__(self, url: str, *, token: Token = None, reactor: Any = None, **settings: Unpack[Settings]) -> None:
        if reactor is None:
            from twisted.internet import reactor
        driver = TwistedDriver(token, reactor, monotonic)
        super().__init__(driver, Options(url, **settings), monotonic, random)

    connect = _deferring(Verbs.connect)
    close = _deferring(Verbs.close)
    settled = _deferring(Verbs.settled)
    whoami = _deferring(Verbs.whoami)
    publish = _deferring(Verbs.publish)
    batch = _deferring(Verbs.batch)
    read = _deferring(Verbs.read)
    ack = _deferring(Verbs.ack)
    cursors = _deferring(Verbs.cursors)
    members = _deferring(Verbs.members)
    call = _deferring(Verbs.call)
    procedures = _deferring(Verbs.procedures)
    enqueue = _deferring(Verbs.enqueue)
    queue = _deferring(Verbs.queue)
    retry = _deferring(Verbs.retry)
    drop = _deferring(Verbs.drop)
    get = _deferring(Verbs.get)
    set = _deferring(Verbs.set)
    patch = _deferring(Verbs.patch)
    increment = _deferring(Verbs.increment)
    delete = _deferring(Verbs.delete)
    range = _deferring(Verbs.range)

    def refresh(self, token: str) -> Deferred[None]:
        """Show another credential of the same principal, which says when the connection ends."""
        return self._driver.wait(self._core.refresh(token))

    async def __aenter__(self) -> Client:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def next_of(items: Items[T]) -> Deferred[T]:
    """Return the next of *items*; fails with ``StopAsyncIteration`` when there are no more."""
    return Deferred.fromCoroutine(cast("Coroutine[Deferred[Any], Any, T]", items.__anext__()))
