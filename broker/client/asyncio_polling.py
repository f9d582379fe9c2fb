"""The client of the ganomede API for programs on asyncio, by ``aiohttp``: the extra ``client`` installs it.

Of asyncio's HTTP clients that is the one that many keep; it keeps connections, and needs neither threads nor urllib3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import aiohttp

from broker.client.errors import Closed, ConnectionLost
from broker.client.polling import Answer, BasePollingClient, PolledEvent

__all__ = ["PollingClient"]


class PollingClient(BasePollingClient):
    """A client of the ganomede API; see ``BasePollingClient``."""

    def __init__(self, url: str, client_id: str, **settings: Any) -> None:
        super().__init__(url, client_id, **settings)
        self._session: aiohttp.ClientSession | None = None

    async def post(self, channel: str, type: str, data: Any = None, sender: str = "") -> PolledEvent:  # noqa: A002
        """Post an event; it ends when the event is stored.  *sender* is the text ``from``."""
        return await self._post(channel, type, data, sender)

    async def read(self, channel: str, after: int | None = None, limit: int | None = None) -> list[PolledEvent]:
        """Poll once: the events after the cursor, or after *after*, which moves it there; perhaps none."""
        return await self._read(channel, after, limit)

    async def latest(self, channel: str, limit: int | None = None) -> list[PolledEvent]:
        """Read the last events of *channel*, oldest first."""
        return await self._latest(channel, limit)

    async def close(self) -> None:
        """End what is under way, and close the connections."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def __aenter__(self) -> PollingClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _fetch(self, method: str, url: str, body: bytes | None) -> Answer:
        if self._closed:
            raise Closed()
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._timeout))
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            async with self._session.request(method, url, data=body, headers=headers) as response:
                content = await response.read()
                told = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status, told, content)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            if self._closed:
                raise Closed() from None
            raise ConnectionLost(str(error) or type(error).__name__) from None

    def _sleep(self, seconds: float) -> Awaitable[None]:
        return asyncio.sleep(seconds)
