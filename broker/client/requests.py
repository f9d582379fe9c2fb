"""Requests with any number of responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from broker.client import wire
from broker.client.context import Context
from broker.client.errors import Cancelled, ClientError, NotConnected, Timeout, TooLarge, error_of
from broker.client.streams import Stream
from broker.client.timers import Timer

# Nobody can ask a responder to wait: a stream may have so many times its limit, which one read of the socket may bring.
UNREAD_FACTOR = 10


@attrs.define(eq=False)
class StreamedRequest:
    """One request.

    Attributes:
        id: of its frame.
        stream: of the responses.
        replies: after how many it ends; None: that is not known.
        idle: seconds after the last response at which it ends.
        timeout: seconds until the first response.
    """

    requests: Requests
    id: str
    stream: Stream[Any]
    replies: int | None
    idle: float
    timeout: float
    _count: int = attrs.field(default=0, init=False)
    _timer: Timer | None = attrs.field(default=None, init=False)

    def begin(self) -> None:
        """Wait for the first response."""
        self._timer = self.requests.context.timers.after(self.timeout, lambda: self.end(Timeout()))

    def on_response(self, payload: bytes) -> None:
        """Give a response to the application."""
        value = wire.value_of(payload) if payload else None
        if isinstance(value, dict) and list(value) == ["error"] and "|||" in str(value["error"]):
            self.end(error_of(str(value["error"])))
            return
        self._count += 1
        self.stream.push(value)
        timers = self.requests.context.timers
        timers.cancel(self._timer)
        if self._count == self.replies:
            self.end(None)
        elif len(self.stream) >= UNREAD_FACTOR * self.stream.limit:
            self.close(Cancelled(f"{len(self.stream)} responses were not read"))
        else:
            self._timer = timers.after(self.idle, lambda: self.end(None))

    def close(self, error: ClientError | None = None) -> None:
        """Want no more responses, because of *error* if there is one."""
        if not self.stream.ended:
            context = self.requests.context
            if context.is_ready:
                context.control("broker.cancel", wire.arguments([self.id]))
            self.end(error)

    def end(self, error: ClientError | None) -> None:
        """Notice that nothing more comes."""
        self.requests.context.timers.cancel(self._timer)
        self.requests.forget(self.id)
        self.stream.end(error)


@attrs.define(eq=False)
class Requests:
    """All requests of one client that are under way."""

    context: Context
    new_id: Callable[[], str]
    _pending: dict[str, StreamedRequest] = attrs.field(factory=dict)

    def __len__(self) -> int:
        return len(self._pending)

    def ask(
        self, payload: object, recipient: str, *, replies: int | None, idle: float, timeout: float | None
    ) -> StreamedRequest:
        """Send *payload* to who takes it.

        Raises:
            Invalid: it can not be written as JSON.
            TooLarge: it is.
            NotConnected: there is no connection.
        """
        context, id = self.context, self.new_id()
        seconds = context.options.timeout if timeout is None else timeout
        data = wire.request(id, wire.encode(payload), recipient)
        if len(data) > context.options.max_message_bytes:
            raise TooLarge(f"{len(data)} bytes")
        stream: Stream[Any] = Stream(context.options.max_unread)
        asked = StreamedRequest(self, id, stream, replies, idle, seconds)
        if not context.is_ready:
            raise NotConnected()
        context.send(data)
        self._pending[id] = asked
        asked.begin()
        return asked

    def on_response(self, id: str, payload: bytes) -> None:
        """Give a response to the request that it answers."""
        asked = self._pending.get(id)
        if asked is not None:
            asked.on_response(payload)

    def forget(self, id: str) -> None:
        """Expect no response to *id* any more."""
        self._pending.pop(id, None)

    def lost(self, error: ClientError) -> None:
        """End all: the connection was lost."""
        for asked in list(self._pending.values()):
            asked.end(error)
