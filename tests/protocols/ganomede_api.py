"""The ganomede dialect on a broker in memory, asked without a network."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.access.principals import Access
from broker.messages import HttpRequest, Response
from broker.testing import make_broker, value_of
from protocols.ganomede import dialect

NOW = 1795211183.941
SECRET = "1234"
EVENTS = "/events/v1/events"


class Api:
    """Asks as the public port would; ``secret`` is the only credential there is."""

    def __init__(self, access: Access | None = None, **settings: Any) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.access = Access(mode="required", secrets=(SECRET,)) if access is None else access
        self.broker = make_broker(self.clock, self.access, **settings)
        self.dialect = dialect(self.broker.settings)

    def start(self, method: str, target: str, body: bytes = b"", **headers: str) -> Deferred[Response]:
        """Send a request; cancel the Deferred and the client is gone."""
        path, _, query = target.partition("?")
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        request = HttpRequest(method, path, query, fields, body, "127.0.0.1", id="an-id")
        peer = self.broker.attach("ganomede", request.address)

        async def answered() -> Response:
            try:
                return await self.dialect.answer(peer, request)
            finally:
                assert peer.session is None
                peer.close()

        return Deferred.fromCoroutine(answered())

    def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Response:
        """Send a request whose answer comes at once, or after the delay of an error."""
        answer = self.start(method, target, body, **headers)
        if not answer.called and not self.broker.channels.waiting:
            self.clock.advance(self.broker.settings.error_delay_seconds)
        response: Response = value_of(answer)
        return response

    def post_raw(self, body: bytes, path: str = EVENTS, **headers: str) -> Response:
        """POST *body* as JSON."""
        return self.ask("POST", path, body, **{"content_type": "application/json", **headers})

    def post(self, channel: str = "ch", type: str = "T", **fields: Any) -> Response:  # noqa: A002
        """Publish an event."""
        said = {"clientId": "w", "secret": SECRET, "channel": channel, "from": "svc/v1", "type": type, **fields}
        return self.post_raw(json.dumps(said).encode())

    def target(self, path: str = EVENTS, **fields: Any) -> str:
        """Return *path* with a query that has the secret and *fields*."""
        return f"{path}?{urlencode({'secret': SECRET, **fields})}"

    def poll(self, client: str = "c", channel: str = "ch", **fields: Any) -> Deferred[Response]:
        """Begin a GET of events."""
        return self.start("GET", self.target(clientId=client, channel=channel, **fields))

    def ids(self, client: str = "c", channel: str = "ch", **fields: str | int) -> list[int]:
        """Return the ids that a GET of events answers with; nothing is answered at the timeout."""
        answer = self.poll(client, channel, **fields)
        if not answer.called:
            for _ in range(60):
                self.clock.advance(0.1)
        response = value_of(answer)
        assert response.status == 200, response.body
        return [event["id"] for event in json.loads(response.body)]

    def cursor(self, client: str = "c", channel: str = "ch") -> int:
        """Return the stored cursor."""
        stored: int = value_of(Deferred.fromCoroutine(self.broker.channels.cursor(client, channel)))
        return stored


def error(code: str, message: str) -> bytes:
    """Return the body of an error."""
    return json.dumps({"code": code, "message": message}, separators=(",", ":"), ensure_ascii=False).encode()
