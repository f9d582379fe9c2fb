"""HPKV clients over a link without a network, for the tests of the dialect."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred

from broker.messages import HttpRequest, Response
from broker.testing import Connected, connect, value_of


def frame(op: object = None, key: object = None, value: object = None, **members: object) -> str:
    """Return a frame as the client writes it, without what is None."""
    said = {"op": op, "key": key, "value": value, **members}
    return json.dumps({name: value for name, value in said.items() if value is not None}, separators=(",", ":"))


class Bench:
    """A broker and the dialect, and clients at both."""

    def __init__(self, broker: Any, dialect: Any) -> None:
        self.broker, self.dialect = broker, dialect

    def enter(self, query: str, **headers: str) -> Connected:
        """Return a client that came with *query*."""
        return connect(self.broker, self.dialect, HttpRequest("GET", "/ws", query, headers))

    def api(self, key: str = "any-key") -> Connected:
        """Return a client with an API key."""
        return self.enter(f"apiKey={key}")

    def ask(self, body: Any, method: str = "POST", **headers: str) -> Response:
        """Return the answer to a request for a token."""
        request = HttpRequest(method, "/token/websocket", "", {"x-api-key": "any-key", **headers})
        request.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        peer = self.broker.attach("hpkv", "127.0.0.1")
        answer: Response = value_of(Deferred.fromCoroutine(self.dialect.answer(peer, request)))
        peer.close()
        return answer

    def token(self, *, keys: Any = None, patterns: Any = None, access: Any = None, key: str = "any-key") -> str:
        """Return a token."""
        wanted = {"subscribeKeys": keys, "subscribePatterns": patterns, "accessPattern": access}
        answer = self.ask({name: value for name, value in wanted.items() if value is not None}, **{"x-api-key": key})
        assert answer.status == 200, answer
        return str(json.loads(answer.body)["token"])

    def holder(self, **wanted: Any) -> Connected:
        """Return a client with a token."""
        return self.enter(f"token={self.token(**wanted)}")


def say(client: Connected, text: str) -> dict[str, Any]:
    """Let *client* say something; return its one answer."""
    (answer,) = client.say(text)
    decoded: dict[str, Any] = json.loads(answer)
    return decoded


def told(client: Connected) -> list[tuple[str, str | None]]:
    """Return the notifications that came meanwhile, as (key, value)."""
    notifications = [json.loads(text) for text in client.link.take()]
    assert all(one["type"] == "notification" for one in notifications)
    return [(one["key"], one["value"]) for one in notifications]
