"""Whatever a client of the HTTP API asks, the answer is one that the description has."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from twisted.internet.defer import CancelledError

from broker.testing import value_of
from tests.protocols.http_api import STREAM, Api

pytestmark = pytest.mark.unmeasured  # others run the same code

ROUNDS = 40  # of each operation
NAMES = [
    *(
        "a",
        "news",
        "q.dead",
        "broker",
        "broker.x",
        "kv/a",
        "*",
        "a.>",
        "..",
        " ",
        "é",
        "\x00",
        "\n",
        "x" * 300,
        "queue:a",
    ),
]
VALUES = [
    *("", "0", "1", "-1", "1.5", "1e400", "nan", "true", "null", "x", "*", "a.*", "start", "new", "epoch-1", "-1-1"),
    *("9" * 16, "9" * 40, "[]", "{}", '{"a":1}', "é", "\x00", "\ud800", "x" * 300),
]
BODIES = [
    *(b"", b"1", b"-1.5", b'"x"', b"null", b"[]", b"{}", b"[1,2]", b'{"id":1}', b'{"id":-1}', b'{"id":1e99}'),
    *(b'{"ids":["a-1"]}', b'{"ids":[]}', b'{"all":true}', b'{"seconds":1}', b'{"seconds":"1"}', b'{"delay":1}'),
    *(b'{"amount":5}', b'{"amount":"5"}', b'{"amount":1e999}', b"1e400", b"\xff", b"{", b'"\\ud800"', b"[" * 5000),
    *(b'[{"topic":"a","payload":1}]', b'[{"topic":""}]', b'[{"topic":"a","expect":9}]', b'[{"topic":"\\ud800"}]'),
]
HEADERS = ["If-Match", "If-None-Match", "Idempotency-Key", "Last-Event-ID"]
TAGS = ["*", '"1"', "1", '"x-1"', '"epoch-99"', '""', '"1", "2"', 'W/"1"', "x" * 300, "é", "WyJhIix7fV0"]


def requests(document: dict[str, Any], chance: random.Random) -> Iterator[tuple[str, str, bytes, dict[str, str]]]:
    """Yield method, target, body and header fields of odd requests for each operation of *document*."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            known = [each["name"] for each in operation["parameters"] if each["in"] == "query"]
            for _ in range(ROUNDS):
                target = re.sub(r"\{\w+\}", lambda _: encoded(chance.choice(NAMES)), path)
                chosen = [name for name in known if chance.random() < 0.3]
                query = [f"{name}={encoded(chance.choice(VALUES))}" for name in chosen]
                headers = {name: chance.choice(TAGS) for name in HEADERS if chance.random() < 0.2}
                if chance.random() < 0.3:
                    headers |= STREAM
                yield method.upper(), "?".join(filter(None, [target, "&".join(query)])), chance.choice(BODIES), headers


def encoded(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


@pytest.mark.parametrize("seed", range(3))
def test_every_answer_is_one_that_is_described(seed: int) -> None:
    api = Api()
    document = api.get("/openapi.json").json
    statuses = {}
    for method, target, body, headers in requests(document, random.Random(seed)):
        waiting = api.begin(method, target, body, headers)
        if not waiting.called:
            waiting.addErrback(lambda failure: failure.trap(CancelledError))
            api.clock.advance(100)
        response = value_of(waiting)
        operation = _operation(document, method, target)
        assert str(response.status) in operation["responses"], (method, target, body, headers, response)
        assert response.status != 500, (method, target, body, headers, response)
        described = operation["responses"][str(response.status)].get("content", {})
        if response.status not in (204, 304):
            assert response.content_type.partition(";")[0] in described, (method, target, body, headers, response)
        if not isinstance(response.body, bytes):
            response.body.take()
            response.body.leave()
        statuses[response.status] = target
    assert {200, 201, 202, 204, 400, 403, 404, 412} <= set(statuses)
    assert len(api.broker.topics) == 0


def _operation(document: dict[str, Any], method: str, target: str) -> dict[str, Any]:
    parts = target.partition("?")[0].split("/")
    fitting = [
        item[method.lower()]
        for path, item in document["paths"].items()
        if method.lower() in item and len(own := path.split("/")) == len(parts)
        if all(a[:1] == "{" or a == b for a, b in zip(own, parts, strict=True))
    ]
    found: dict[str, Any] = fitting[0]
    return found
