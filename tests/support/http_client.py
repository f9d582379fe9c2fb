"""A small HTTP client for tests."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Mapping
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from tests.support.eventually import TIMEOUT


@attrs.frozen
class Answer:
    """What came back; header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return jsonlib.loads(self.body)


@implementer(IBodyProducer)
class _Body:
    def __init__(self, body: bytes) -> None:
        self.body = body
        self.length = len(body)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self.body)
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        pass


class _Reader(Protocol):
    """Collects a body; cancelling ``done`` closes the connection."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.done: Deferred[bytes] = Deferred(lambda _: self.transport.stopProducing())

    def dataReceived(self, data: bytes) -> None:
        self.parts.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if reason.check(ResponseDone):
            self.done.callback(b"".join(self.parts))
        else:
            self.done.errback(reason)


def request(
    method: str,
    url: str,
    *,
    json: Any = None,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
    pool: HTTPConnectionPool | None = None,
) -> Deferred[Answer]:
    """Send one request on a connection of its own, or one of *pool*; cancelling the result closes the connection."""
    fields = Headers({name: [value] for name, value in (headers or {}).items()})
    if json is not None:
        body = jsonlib.dumps(json).encode()
        fields.setRawHeaders("content-type", ["application/json"])
    agent = Agent(reactor, pool=pool or HTTPConnectionPool(reactor, persistent=False))
    producer = None if body is None else _Body(body)
    sent = agent.request(method.encode(), url.encode("ascii"), fields, producer)

    async def answered() -> Answer:
        response = await sent
        reader = _Reader()
        response.deliverBody(reader)
        named = {
            name.decode().lower(): b", ".join(values).decode() for name, values in response.headers.getAllRawHeaders()
        }
        return Answer(response.code, named, await reader.done)

    return Deferred.fromCoroutine(answered()).addTimeout(timeout, reactor)


def get(url: str, **options: Any) -> Deferred[Answer]:
    return request("GET", url, **options)


def post(url: str, json: Any = None, **options: Any) -> Deferred[Answer]:
    return request("POST", url, json=json, **options)
