"""The HTTP API as a whole: who may ask, what is refused, and its description."""

from __future__ import annotations

import re
from typing import Any

import pytest

from broker.config.settings import Settings
from broker.testing import value_of
from protocols.http import dialect
from tests.protocols.http_api import STREAM, Answer, Api


@pytest.fixture
def api() -> Api:
    return Api()


def test_a_credential_is_wanted() -> None:
    api = Api(api_secret="s")
    answer = api.get("/keys/a")
    assert (answer.status, answer.json["code"]) == (401, "UNAUTHENTICATED")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert api.get("/keys/a", {"Authorization": "Bearer wrong"}).status == 401
    assert api.get("/keys/a", {"Authorization": "bearer s"}).status == 404


def test_only_a_stream_takes_its_credential_from_the_query() -> None:
    api = Api(api_secret="s")
    assert api.get("/keys/a?token=s").status == 400
    assert api.get("/topics/a?token=wrong", STREAM).status == 401
    answer = api.get("/topics/a?token=s", STREAM)
    assert answer.status == 200
    answer.stream.leave()


def test_a_page_of_an_event_source_may_send_a_header_instead() -> None:
    api = Api(api_secret="s")
    api.listen("/events?topic=a", {"Authorization": "Bearer s"}).leave()


def test_what_is_not_there_is_not_found(api: Api) -> None:
    for path in ("", "/nix", "/keys/", "/keys/a/b", "/queues/q/jobs/1"):
        answer = api.get(path or "/")
        assert (answer.status, answer.response.content_type) == (404, "application/problem+json")


def test_other_methods_are_told(api: Api) -> None:
    answer = api.ask("PUT", "/topics/a")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST, GET, HEAD, OPTIONS")
    assert api.ask("OPTIONS", "/keys/a").headers["Allow"] == "GET, HEAD, PUT, PATCH, DELETE, OPTIONS"


def test_a_preflight_is_left_to_the_port(api: Api) -> None:
    assert api.ask("OPTIONS", "/keys/a", headers={"Access-Control-Request-Method": "PUT"}).status == 405


def test_a_request_is_counted_once() -> None:
    api = Api(rate=1, rate_burst=3)
    statuses = [api.get("/topics/a?cursor=me").status for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    assert api.get("/nix").status == 429


def test_a_packed_body_is_refused(api: Api) -> None:
    assert api.post("/topics/a", b"x", {"Content-Encoding": "gzip"}).status == 415


def test_the_description_needs_no_credential_and_has_every_operation() -> None:
    api = Api(api_secret="s")
    document = api.get("/openapi.json").json
    assert document["openapi"] == "3.1.0"
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert described == {(each.method, each.path) for each in dialect(Settings()).operations}
    ids = [each["operationId"] for item in document["paths"].values() for each in item.values()]
    assert len(ids) == len(set(ids))


def test_the_description_names_what_is_in_the_paths(api: Api) -> None:
    for path, item in api.get("/openapi.json").json["paths"].items():
        for operation in item.values():
            found = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
            assert found == set(re.findall(r"\{(\w+)\}", path))


def test_the_description_refers_to_what_it_has(api: Api) -> None:
    document = api.get("/openapi.json").json

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if "$ref" in value else []
            return own + [each for item in value.values() for each in references(item)]
        return [each for item in value for each in references(item)] if isinstance(value, list) else []

    assert {*references(document)} == {"#/components/schemas/Problem"}


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/topics/a?wait=30"), ("POST", "/queues/q/claim?wait=30")], ids=["poll", "claim"]
)
def test_who_waits_is_told_that_the_broker_stops(api: Api, method: str, path: str) -> None:
    waiting = api.begin(method, path)
    api.dialect.drain()
    answer = Answer(value_of(waiting))
    assert (answer.status, answer.json["code"], answer.headers["Retry-After"]) == (503, "UNAVAILABLE", "1")
