"""A site that answers as the test says, and the requests that tests send to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock

from broker.core.clocks import wall_clock_of
from broker.core.deadlines import Deadlines
from broker.core.memory import Memory
from broker.core.slices import slices_of
from broker.messages import HttpRequest, Response
from broker.web.http.channel import HttpChannel, Times
from broker.web.http.parser import Limits
from broker.web.http.response import Dates

GET = b"GET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n"
UPGRADE = b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
BIG = Limits(head_bytes=1000, body_bytes=1000)


def get(path: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: h", *lines, "", "")).encode()


def post(body: bytes, *lines: str) -> bytes:
    return get("/p", f"Content-Length: {len(body)}", *lines, method="POST") + body


class FakeSite:
    """Answers by what the test says; keeps what it was requests."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(784111777.0)
        self.limits = BIG
        self.slices = slices_of(self.clock)
        self.times = Times(silent=10.0, head=10.0, body=20.0, idle=30.0, stalled=60.0, linger=2.0)
        self.dates = Dates(wall_clock_of(self.clock))
        self.memory = Memory()
        self.deadlines: Deadlines[HttpChannel] = Deadlines(self.clock, HttpChannel.expired)
        self.requests: list[HttpRequest] = []
        self.waiting: list[Deferred[Response]] = []
        self.cancelled: list[str] = []
        self.lost: list[HttpChannel] = []
        self.admitted: list[HttpChannel] = []
        self.released: list[str] = []
        self.upgraded: list[tuple[HttpRequest, bytes]] = []
        self.refuse_upgrade: Response | None = None
        self.reply: Callable[[HttpRequest], Any] = lambda request: Response(body=request.path.encode())

    async def answer(self, request: HttpRequest) -> Response:
        self.requests.append(request)
        response = self.reply(request)
        if isinstance(response, Deferred):
            self.waiting.append(response)
            try:
                response = await response
            except CancelledError:
                self.cancelled.append(request.path)
                raise
        answer: Response = response
        return answer

    def upgrade(self, request: HttpRequest, channel: HttpChannel, rest: bytes) -> Response | None:
        self.upgraded.append((request, rest))
        if self.refuse_upgrade is None:
            channel.transport.unregisterProducer()
            channel.transport.server = Protocol()
        return self.refuse_upgrade

    def streaming(self, request: HttpRequest, channel: HttpChannel) -> Callable[[], object]:
        return lambda: self.released.append(request.path)

    def serves_half_closed(self, request: HttpRequest) -> bool:
        return request.path != "/whole"

    def refusal(self, status: int, message: str, request: HttpRequest | None) -> Response:
        return Response(status, f"{message} {request and request.path}".encode(), "text/plain")

    def on_admitted(self, channel: HttpChannel) -> None:
        self.admitted.append(channel)

    def gone(self, channel: HttpChannel) -> None:
        self.lost.append(channel)

    def wait(self, _: HttpRequest) -> Deferred[Response]:
        return Deferred()
