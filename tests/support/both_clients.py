"""The same scenario for both drivers of the Python client: on the reactor, and on asyncio in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from broker.client.asyncio import Client as AsyncioClient
from broker.client.twisted import Client as TwistedClient
from tests.support.eventually import TIMEOUT

Scenario = Callable[["Library"], Coroutine[Any, Any, Any]]


@attrs.frozen
class Library:
    """What a scenario needs of one of the two."""

    name: str
    client: Callable[..., Any]
    gather: Callable[..., Awaitable[Any]]
    sleep: Callable[[float], Awaitable[Any]]
    start: Callable[[Coroutine[Any, Any, Any]], Any]  # has ``cancel``

    async def until(self, predicate: Callable[[], object], timeout: float = TIMEOUT) -> None:
        """Return when *predicate* is true."""
        end = reactor.seconds() + timeout
        while not predicate():
            assert reactor.seconds() < end, f"not within {timeout} s"
            await self.sleep(0.01)

    async def run(self, scenario: Scenario, timeout: float = TIMEOUT) -> Any:
        """Run *scenario*; nothing of it may be left then."""
        if self.name == "twisted":
            return await Deferred.fromCoroutine(scenario(self)).addTimeout(timeout, reactor)

        async def limited() -> Any:
            result = await asyncio.wait_for(scenario(self), timeout)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, left
            return result

        return await deferToThread(asyncio.run, limited())


def _gather(*work: Any) -> Deferred[list[Any]]:
    begun = [Deferred.fromCoroutine(each) if asyncio.iscoroutine(each) else each for each in work]
    return gatherResults(begun, consumeErrors=True)


LIBRARIES = {
    "twisted": Library(
        "twisted", TwistedClient, _gather, lambda seconds: deferLater(reactor, seconds), Deferred.fromCoroutine
    ),
    "asyncio": Library("asyncio", AsyncioClient, asyncio.gather, asyncio.sleep, asyncio.ensure_future),
}
