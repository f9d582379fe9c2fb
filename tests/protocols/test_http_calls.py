"""Calls over the HTTP API."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import attrs
import msgspec
import pytest
from twisted.internet.defer import CancelledError

from broker.errors import Busy, CalleeFailed
from broker.messages import Request
from broker.sessions import BaseSession
from broker.testing import value_of
from tests.protocols.http_api import Api


@attrs.define(eq=False)
class Callee(BaseSession):
    """Performs ``p``; what it is called with waits until the test answers."""

    api: Api
    peer: Any = None
    requests: list[Request] = attrs.field(factory=list)
    cancels: list[str] = attrs.field(factory=list)
    refuses: Exception | None = None

    def __attrs_post_init__(self) -> None:
        self.peer = self.api.broker.attach("test", "127.0.0.1")
        if not self.peer.admitted:
            self.peer.identify("key-of-ann")
        self.peer.bind(self)
        value_of(self.peer.perform(["p"]))

    def request(self, request: Request) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.requests.append(request)

    def cancelled(self, id: str) -> None:
        self.cancels.append(id)

    def answer(self, body: bytes = b'{"a": 1}', error: Any = None) -> None:
        self.peer.answer(self.requests[-1].id, body, error)


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def callee(api: Api) -> Callee:
    return Callee(api)


@pytest.mark.parametrize(
    ("body", "arguments"), [("", b"[]"), ("[1,2]", b"[1,2]"), ('{"x": 1}', b'[{"x": 1}]'), ("null", b"[null]")]
)
def test_the_body_has_the_arguments_and_the_result_is_the_answer(
    api: Api, callee: Callee, body: str, arguments: bytes
) -> None:
    waiting = api.begin("POST", "/call/p", body)
    assert callee.requests[0].body == arguments
    callee.answer()
    answer = value_of(waiting)
    assert (answer.status, answer.body) == (200, b'{"a": 1}')


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(CalleeFailed("MINE", "broken"), 502, "MINE"), (CalleeFailed("NOT_FOUND", ""), 502, "NOT_FOUND")],
)
def test_the_error_of_the_callee_is_a_bad_gateway(
    api: Api, callee: Callee, error: Exception, status: int, code: str
) -> None:
    waiting = api.begin("POST", "/call/p")
    callee.answer(error=error)
    answer = value_of(waiting)
    assert (answer.status, json.loads(answer.body)["code"]) == (status, code)


def test_a_callee_that_goes_is_a_bad_gateway(api: Api, callee: Callee) -> None:
    waiting = api.begin("POST", "/call/p")
    callee.peer.close()
    assert value_of(waiting).status == 502
    assert api.post("/call/p").status == 404


def test_a_busy_callee_is_unavailable(api: Api, callee: Callee) -> None:
    callee.refuses = Busy("method", "p")
    answer = api.post("/call/p")
    assert (answer.status, answer.json["code"], answer.headers["Retry-After"]) == (503, "BUSY", "1")


def test_a_call_has_a_deadline(api: Api, callee: Callee) -> None:
    waiting = api.begin("POST", "/call/p?timeout=2")
    api.clock.advance(3)
    assert value_of(waiting).status == 504
    assert api.post("/call/p?timeout=0").status == 400
    assert api.post("/call/p?timeout=1e9").status == 400


def test_nothing_remains_of_a_client_that_has_gone(api: Api, callee: Callee) -> None:
    waiting = api.begin("POST", "/call/p")
    waiting.addErrback(lambda _: None)
    waiting.cancel()
    assert not callee.peer.answer(callee.requests[0].id, b"1")


def test_a_call_by_a_key_is_made_once(api: Api, callee: Callee) -> None:
    key = {"Idempotency-Key": "k"}
    waiting = api.begin("POST", "/call/p", "1", key)
    assert api.post("/call/p", "1", key).status == 409
    callee.answer(b"7")
    assert value_of(waiting).body == b"7"
    again = api.post("/call/p", "1", key)
    assert (again.text, again.headers["Idempotent-Replayed"], len(callee.requests)) == (b"7", "true", 1)
    assert api.post("/call/p", "2", key).status == 422
    api.clock.advance(301)
    api.begin("POST", "/call/p", "1", key)
    assert len(callee.requests) == 2


def test_who_has_gone_without_the_answer_gets_it_by_the_same_key(api: Api, callee: Callee) -> None:
    key = {"Idempotency-Key": "k"}
    waiting = api.begin("POST", "/call/p", "1", key)
    waiting.addErrback(lambda failure: failure.trap(CancelledError))
    waiting.cancel()
    assert callee.cancels == []
    assert api.post("/call/p", "1", key).status == 409
    callee.answer(b"7")
    again = api.post("/call/p", "1", key)
    assert (again.text, again.headers["Idempotent-Replayed"], len(callee.requests)) == (b"7", "true", 1)


def test_a_call_that_was_never_answered_can_be_made_again_after_its_timeout(api: Api, callee: Callee) -> None:
    key = {"Idempotency-Key": "k"}
    peer = api.broker.attach("http", "127.0.0.1")
    under_way = msgspec.msgpack.encode([hashlib.sha256(b"p\0[1]").digest()])
    value_of(peer.note("k", under_way, 10.0))  # by a node that is lost
    assert api.post("/call/p", "1", key).status == 409
    api.clock.advance(11)
    api.begin("POST", "/call/p", "1", key)
    assert len(callee.requests) == 1


def test_an_answer_is_shown_to_nobody_else() -> None:
    api = Api(api_keys={"ann": "key-of-ann", "bob": "key-of-bob"})
    callee, key = Callee(api), {"Idempotency-Key": "k"}
    for number, name in enumerate(("ann", "bob")):
        waiting = api.begin("POST", "/call/p", "1", {**key, "Authorization": f"Bearer key-of-{name}"})
        callee.answer(b"%d" % number)
        assert value_of(waiting).body == b"%d" % number


def test_a_failed_answer_is_repeated_and_what_was_not_begun_is_not(api: Api) -> None:
    key = {"Idempotency-Key": "k"}
    assert api.post("/call/p", "1", key).status == 404
    callee = Callee(api)
    waiting = api.begin("POST", "/call/p", "1", key)
    callee.answer(error=CalleeFailed("MINE", "broken"))
    assert value_of(waiting).status == 502
    again = api.post("/call/p", "1", key)
    assert (again.status, again.headers["Idempotent-Replayed"]) == (502, "true")
