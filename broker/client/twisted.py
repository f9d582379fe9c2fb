"""The client for programs on Twisted's reactor, by Autobahn: what has to be waited for is a ``Deferred``.

Those can be awaited in ``async def`` under ``Deferred.fromCoroutine``, and yielded in ``inlineCallbacks``; items
come by ``async for``, or one by one by ``next_of``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from random import random
from time import monotonic
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar, Unpack, cast

from twisted.internet.defer import Deferred

from broker.client.client import BaseClient
from broker.client.driver import Token
from broker.client.handles import Items
from broker.client.options import Options, Settings
from broker.client.outcomes import Outcome
from broker.client.twisted_driver import TwistedDriver
from broker.client.verbs import Verbs

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["Client", "next_of"]


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
        url: of the native dialect, as in ``ws://localhost:8000/owlmeans``; or those of several nodes.
        token: the credential, or a function that returns it, or something to await; it is asked with each attempt.
        reactor: the one to use, else the one that is installed.
        settings: those of ``Options``, by their names.
    """

    def __init__(
        self, url: str | Sequence[str], *, token: Token = None, reactor: Any = None, **settings: Unpack[Settings]
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        driver = TwistedDriver(token, reactor, monotonic)
        super().__init__(driver, Options(url, **settings), monotonic, random)

    connect = _deferring(Verbs.connect)
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

    def close(self) -> Deferred[None]:
        """Close the connection; what is under way ends with ``Closed``."""
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        await self._driver.wait(self._verbs.close())
        await self._driver.finish()

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
