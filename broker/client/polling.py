"""A client of the ganomede HTTP API, without its input and output: events by long polls, with stored cursors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from random import random
from typing import Any
from urllib.parse import urlencode

import attrs
import msgspec

from broker.client import wire
from broker.client.backoff import Backoff
from broker.client.errors import (
    ClientError,
    Closed,
    ConnectionLost,
    Denied,
    Gone,
    Invalid,
    NotFound,
    RateLimited,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from broker.client.notices import Gap

EVENTS, LATEST = "/events/v1/events", "/events/v1/latest"
ERRORS: dict[int, type[ClientError]] = {
    400: Invalid,
    401: Unauthenticated,
    403: Denied,
    404: NotFound,
    410: Gone,
    413: TooLarge,
    429: RateLimited,
    503: Unavailable,
}
PASSING = (ConnectionLost, RateLimited, Unavailable)  # what a poll is tried again after


class PolledEvent(msgspec.Struct, frozen=True, rename={"sender": "from"}):
    """An event of a channel.

    Attributes:
        id: rises within the channel.
        timestamp: milliseconds since 1970.
        type: its name.
        sender: ``from``, a text of who has posted it.
        data: an object or an array, if it has any.
    """

    id: int
    timestamp: int
    type: str
    sender: str = ""
    data: Any = None


_events = wire.reader(list[PolledEvent])
_event = wire.reader(PolledEvent)


@attrs.frozen
class Answer:
    """An HTTP response; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@attrs.define(eq=False)
class Channels:
    """Writes requests and reads responses.

    Attributes:
        url: of the broker, ``http://`` or ``https://``.
        client_id: whose cursors are used.
        secret: the credential; "": none.
    """

    url: str
    client_id: str
    secret: str = ""

    def posting(self, channel: str, type: str, data: Any, sender: str) -> tuple[str, bytes]:  # noqa: A002
        """Return URL and body of what posts an event.

        Raises:
            Invalid: *data* can not be written as JSON.
        """
        fields = {"clientId": self.client_id, "channel": channel, "type": type, "from": sender or self.client_id}
        if data is not None:
            fields["data"] = data
        if self.secret:
            fields["secret"] = self.secret
        return self.url.rstrip("/") + EVENTS, wire.encode(fields)

    def address(self, path: str, channel: str, **parameters: object) -> str:
        """Return the URL of a read."""
        given = {"clientId": self.client_id, "channel": channel, "secret": self.secret or None, **parameters}
        query = urlencode({name: value for name, value in given.items() if value is not None})
        return f"{self.url.rstrip('/')}{path}?{query}"


def check(answer: Answer) -> Answer:
    """Return *answer* if it is a success.

    Raises:
        ClientError: it is none.
    """
    if answer.status == 200:
        return answer
    try:
        told = wire.value_of(answer.body)
        message = str(told.get("message") or told.get("code"))
    except (msgspec.DecodeError, AttributeError):
        message = f"HTTP status {answer.status}"
    if answer.status == 429:
        wait = answer.headers.get("retry-after", "")
        raise RateLimited(message, float(wait) if wait.isdecimal() else 1.0)
    raise ERRORS.get(answer.status, Unavailable if answer.status >= 500 else ClientError)(message)


class BasePollingClient(ABC):
    """What is the same for all drivers."""

    def __init__(
        self, url: str, client_id: str, *, secret: str = "", timeout: float = 60.0, max_wait: float = 30.0
    ) -> None:
        """Use the cursors of *client_id* at *url*; *timeout* is that of one request, *max_wait* after a failure."""
        self._channels = Channels(url, client_id, secret)
        self._timeout = timeout
        self._max_wait = max_wait
        self._closed = False

    @abstractmethod
    def _fetch(self, method: str, url: str, body: bytes | None) -> Awaitable[Answer]:
        """Make a request; ``ConnectionLost``: there was no whole answer."""

    @abstractmethod
    def _sleep(self, seconds: float) -> Awaitable[None]:
        """Wait."""

    async def _post(self, channel: str, type: str, data: Any = None, sender: str = "") -> PolledEvent:  # noqa: A002
        """Post an event; it ends when the event is stored.

        Args:
            channel: its name.
            type: the kind of event.
            data: an object or an array, if any.
            sender: the text ``from``; the client id when it is missing.
        """
        url, body = self._channels.posting(channel, type, data, sender)
        return _event(check(await self._fetch("POST", url, body)).body)

    async def _read(self, channel: str, after: int | None = None, limit: int | None = None) -> list[PolledEvent]:
        """Poll once: the events after the cursor, or after *after*, which moves it there; perhaps none."""
        url = self._channels.address(EVENTS, channel, after=after, limit=limit)
        return _events(check(await self._fetch("GET", url, None)).body)

    async def _latest(self, channel: str, limit: int | None = None) -> list[PolledEvent]:
        """Read the last events of *channel*, oldest first."""
        url = self._channels.address(LATEST, channel, limit=limit)
        return _events(check(await self._fetch("GET", url, None)).body)

    def follow(
        self, channel: str, *, after: int | None = None, limit: int = 100, on_gap: Callable[[Gap], object] | None = None
    ) -> PolledEvents:
        """Return the events of *channel* as they come, from the stored cursor on, or after *after*.

        Each poll acknowledges what the application has asked the next one after; what it had not comes again when it
        is started anew.  What fails is tried again, at growing intervals.

        Args:
            channel: its name.
            after: the id to begin after; None: the cursor.
            limit: events of one poll.
            on_gap: is told when the store was wiped, and ids begin anew.
        """
        return PolledEvents(self, channel, after, limit, on_gap)


@attrs.define(eq=False)
class PolledEvents:
    """An async iterator over the events of one channel.

    Attributes:
        after: the id of the last event that was given.
        retries: polls that have failed and were made again.
    """

    _client: BasePollingClient
    _channel: str
    after: int | None
    _limit: int
    _on_gap: Callable[[Gap], object] | None
    retries: int = attrs.field(default=0, init=False)
    _epoch: str = attrs.field(default="", init=False)
    _waiting: deque[PolledEvent] = attrs.field(factory=deque, init=False)
    _ended: bool = attrs.field(default=False, init=False)
    _backoff: Backoff = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._backoff = Backoff(0.2, self._client._max_wait, random)

    def __aiter__(self) -> PolledEvents:
        return self

    async def __anext__(self) -> PolledEvent:
        while not self._waiting:
            if self._ended or self._client._closed:
                raise StopAsyncIteration
            await self._poll()
        event = self._waiting.popleft()
        self.after = event.id
        return event

    def close(self) -> None:
        """Poll no more."""
        self._ended = True

    async def _poll(self) -> None:
        client = self._client
        url = client._channels.address(EVENTS, self._channel, after=self.after, limit=self._limit, epoch=self._epoch)
        try:
            answer = check(await client._fetch("GET", url, None))
        except Closed:
            self._ended = True
        except Gone:
            lost, self.after, self._epoch = (self.after or 0) + 1, 0, ""
            if self._on_gap is not None:
                self._on_gap(Gap(self._channel, "epoch", lost))
        except PASSING as error:
            self.retries += 1
            await client._sleep(self._backoff.next(error.retry_after if isinstance(error, RateLimited) else 0.0))
        else:
            self._backoff.reset()
            self._epoch = answer.headers.get("x-epoch", "")
            self._waiting.extend(_events(answer.body))
