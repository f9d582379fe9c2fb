"""``GET /admin/api/live``: server-sent events, a sample every two seconds."""

from __future__ import annotations

from typing import ClassVar

import attrs
import msgspec

from broker.errors import RateLimited
from broker.interfaces import IPeer
from broker.messages import Response
from broker.observe.admin.history import History, Sample
from broker.observe.admin.problems import NO_STORE
from broker.streams import StreamSession

MAX_STREAMS = 20  # at once

_encode = msgspec.json.encode


@attrs.define(eq=False)
class LiveStream(StreamSession):
    """Sends samples to one operator.

    Attributes:
        history: takes them.
    """

    heartbeat: ClassVar[bytes] = b":\n\n"

    history: History

    def begin(self) -> None:
        """Send the samples that there are as one event, and those that come one by one."""
        self.send(_event("history", self.history.samples))
        self.history.listeners.add(self.sample)

    def sample(self, sample: Sample) -> None:
        """Send a sample, unless the operator does not read."""
        if not self.paused:
            self.send(_event("sample", sample))

    def closed(self, code: int, reason: str) -> None:
        """Send no more."""
        self.history.listeners.discard(self.sample)


def live(peer: IPeer, history: History) -> Response:
    """Return the stream for *peer*.

    Raises:
        RateLimited: there are too many.
    """
    if len(history.listeners) >= MAX_STREAMS:
        raise RateLimited("limit", "streams", message=f"There are {MAX_STREAMS} streams already.")
    stream = LiveStream(peer, history)
    peer.bind(stream)
    stream.begin()
    return Response(200, stream, "text/event-stream", (NO_STORE,))


def _event(name: str, data: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(data))
