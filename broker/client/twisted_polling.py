"""The client of the ganomede API for programs on Twisted's reactor, by ``twisted.web.client``.

That is Twisted's own and is there: treq would bring requests and urllib3 along, for a request of one line.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from twisted.internet import defer, error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, PartialDownloadError, ResponseDone, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer
from zope.interface import implementer

from broker.client.errors import Closed, ConnectionLost
from broker.client.polling import Answer, BasePollingClient

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["PollingClient"]
FAILURES = (
    error.ConnectError,
    error.ConnectionClosed,
    error.DNSLookupError,
    defer.TimeoutError,
    ResponseFailed,
    PartialDownloadError,
)


@implementer(IBodyProducer)
class _Body:
    """A body that is there."""

    def __init__(self, body: bytes) -> None:
        """Have *body*."""
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self._body)
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    def pauseProducing(self) -> None:
        """It was written at once."""

    def resumeProducing(self) -> None:
        """It was written at once."""

    def stopProducing(self) -> None:
        """It was written at once."""


class _Content(Protocol):
    """Collects the body of a response, until its end."""

    def __init__(self) -> None:
        """Have none of it."""
        self._parts: list[bytes] = []
        self.collected: Deferred[bytes] = Deferred(self._cancel)

    def dataReceived(self, data: bytes) -> None:
        self._parts.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.collected.called:
            return
        if reason.check(ResponseDone):
            self.collected.callback(b"".join(self._parts))
        else:
            self.collected.errback(reason)

    def _cancel(self, _: Deferred[bytes]) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


def _deferring(
    build: Callable[Concatenate[PollingClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[PollingClient, P], Deferred[T]]:
    @wraps(build)
    def method(self: PollingClient, /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return Deferred.fromCoroutine(cast("Coroutine[Deferred[Any], Any, T]", build(self, *args, **kwargs)))

    return method


class PollingClient(BasePollingClient):
    """A client of the ganomede API; see ``BasePollingClient``."""

    def __init__(self, url: str, client_id: str, *, reactor: Any = None, **settings: Any) -> None:
        super().__init__(url, client_id, **settings)
        if reactor is None:
            from twisted.internet import reactor
        self._reactor = reactor
        self._pool = HTTPConnectionPool(reactor)
        self._agent: IAgent = Agent(reactor, connectTimeout=self._timeout, pool=self._pool)
        self._under_way: set[Deferred[Any]] = set()

    post = _deferring(BasePollingClient._post)
    read = _deferring(BasePollingClient._read)
    latest = _deferring(BasePollingClient._latest)

    def close(self) -> Deferred[None]:
        """End what is under way, and close the connections."""
        self._closed = True
        for deferred in list(self._under_way):
            deferred.cancel()
        closed: Deferred[Any] = self._pool.closeCachedConnections()
        return closed.addCallback(lambda _: None)

    async def __aenter__(self) -> PollingClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _fetch(self, method: str, url: str, body: bytes | None) -> Answer:
        asked = Deferred.fromCoroutine(self._answer(method, url, body))
        self._under_way.add(asked)
        try:
            return await asked.addTimeout(self._timeout, self._reactor)
        except FAILURES as problem:
            raise ConnectionLost(str(problem)) from None
        except CancelledError:
            if self._closed:
                raise Closed() from None
            raise
        finally:
            self._under_way.discard(asked)

    async def _answer(self, method: str, url: str, body: bytes | None) -> Answer:
        headers = Headers({"Content-Type": ["application/json"]} if body is not None else {})
        producer = None if body is None else _Body(body)
        response: Any = await self._agent.request(method.encode(), url.encode(), headers, producer)
        content = _Content()
        response.deliverBody(content)
        received = await content.collected
        told = {name.decode().lower(): values[0].decode() for name, values in response.headers.getAllRawHeaders()}
        return Answer(response.code, told, received)

    def _sleep(self, seconds: float) -> Awaitable[None]:
        return deferLater(self._reactor, seconds)
