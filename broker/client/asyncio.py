"""The client for programs on asyncio, by ``websockets``: what has to be waited for is a ``Future``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import wraps
from random import random
from time import monotonic
from types import TracebackType
from typing import Concatenate, ParamSpec, TypeVar, Unpack

from broker.client.asyncio_driver import AsyncioDriver
from broker.client.client import BaseClient
from broker.client.driver import Token
from broker.client.options import Options, Settings
from broker.client.outcomes import Outcome
from broker.client.verbs import Verbs

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["Client"]


def _future(
    build: Callable[Concatenate[Verbs, P], Outcome[T]],
) -> Callable[Concatenate[Client, P], asyncio.Future[T]]:
    """Return the method that asks what *build* asks, and returns a Future."""

    @wraps(build)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        return self._driver.wait(build(self._verbs, *args, **kwargs))

    return method


class Client(BaseClient[AsyncioDriver]):
    """A client of the broker; ``async with`` connects and closes it.

    Args:
        url: of the native dialect, as in ``ws://localhost:8000/owlmeans``; or those of several nodes.
        token: the credential, or a function that returns it, or something to await; it is asked with each attempt.
        settings: those of ``Options``, by their names.
    """

    def __init__(self, url: str | Sequence[str], *, token: Token = None, **settings: Unpack[Settings]) -> None:
        super().__init__(AsyncioDriver(token, monotonic), Options(url, **settings), monotonic, random)

    connect = _future(Verbs.connect)
    settled = _future(Verbs.settled)
    whoami = _future(Verbs.whoami)
    publish = _future(Verbs.publish)
    batch = _future(Verbs.batch)
    read = _future(Verbs.read)
    ack = _future(Verbs.ack)
    cursors = _future(Verbs.cursors)
    members = _future(Verbs.members)
    call = _future(Verbs.call)
    procedures = _future(Verbs.procedures)
    enqueue = _future(Verbs.enqueue)
    queue = _future(Verbs.queue)
    retry = _future(Verbs.retry)
    drop = _future(Verbs.drop)
    get = _future(Verbs.get)
    set = _future(Verbs.set)
    patch = _future(Verbs.patch)
    increment = _future(Verbs.increment)
    delete = _future(Verbs.delete)
    range = _future(Verbs.range)

    async def close(self) -> None:
        """Close the connection; what is under way ends with ``Closed``."""
        await self._driver.wait(self._verbs.close())
        await self._driver.end()

    def refresh(self, token: str) -> asyncio.Future[None]:
        """Show another credential of the same principal, which says when the connection ends."""
        return self._driver.wait(self._core.refresh(token))

    async def __aenter__(self) -> Client:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
