"""A client of the HTTP API, in a broker without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.config.settings import Settings
from broker.messages import Response
from broker.testing import FakeStream, http_request, make_broker, value_of
from protocols.http import dialect

STREAM = {"Accept": "text/event-stream"}


@attrs.define
class Answer:
    """What was answered."""

    response: Response

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def text(self) -> bytes:
        body: bytes = self.response.body
        return body

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.response.headers)

    @property
    def stream(self) -> FakeStream:
        body: FakeStream = self.response.body
        return body


class Api:
    """Asks a broker that has the settings *settings*."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.broker = make_broker(self.clock, **settings)
        self.dialect = dialect(Settings(**settings))
        self.headers: dict[str, str] = {}

    def begin(
        self, method: str, path: str, body: bytes | str = b"", headers: Mapping[str, str] | None = None
    ) -> Deferred[Response]:
        return http_request(self.broker, self.dialect, method, "/v1" + path, body, {**self.headers, **(headers or {})})

    def ask(self, method: str, path: str, body: bytes | str = b"", headers: Mapping[str, str] | None = None) -> Answer:
        return Answer(value_of(self.begin(method, path, body, headers)))

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, body: bytes | str = b"", headers: Mapping[str, str] | None = None) -> Answer:
        return self.ask("POST", path, body, headers)

    def listen(self, path: str, headers: Mapping[str, str] | None = None) -> FakeStream:
        """Return the stream at *path*."""
        answer = self.get(path, {**STREAM, **(headers or {})})
        assert answer.status == 200, answer.text
        return answer.stream

    def store(self, *bodies: str, topic: str = "news") -> list[dict[str, Any]]:
        """Store events; return the answers."""
        answers = [self.post(f"/topics/{topic}?durable=1", body) for body in bodies]
        assert {answer.status for answer in answers} == {201}
        return [answer.json for answer in answers]


def events_of(data: bytes) -> list[dict[str, str]]:
    """Return the server-sent events of *data*, as an ``EventSource`` has them; those without data are left out."""
    found = []
    for block in data.decode().split("\n\n"):
        fields: dict[str, list[str]] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            fields.setdefault(name, []).append(value)
        if "data" in fields:
            found.append({name: "\n".join(values) for name, values in fields.items() if name})
    return found


def bodies_of(stream: FakeStream) -> list[str]:
    """Return the data of the events that have come by *stream* since the last time."""
    return [event["data"] for event in events_of(stream.take())]
