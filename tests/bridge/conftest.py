"""Clients that are gone after the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest_twisted

from tests.bridge.clients import Client
from tests.support.daemon import Daemon

Join = Callable[..., Awaitable[Any]]


@pytest_twisted.async_yield_fixture
async def join(shared_daemon: Daemon) -> AsyncIterator[Join]:
    """``await join(OwlMeans, client="alice")``, ``await join(Hpkv.watcher, "key")``."""
    joined: list[Client] = []

    async def connect(kind: Any, *words: str, **query: str) -> Any:
        make = getattr(kind, "join", kind)  # a class, or another way to make one
        joined.append(await make(shared_daemon, *words, **query))
        return joined[-1]

    yield connect
    for client in joined:
        await client.socket.close()
