"""The HTTP API as a whole: who may ask, what is refused, and its description."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from broker.config.settings import Settings
from broker.testing import value_of
from protocols.http import dialect
from tests.protocols.http_api import STREAM, Answer, Api, events_of


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


@pytest.mark.parametrize("path", ["/topics/a", "/keys", "/events?topic=a"])
def test_a_stream_that_goes_on_is_told_to_come_again_by_its_end(path: str) -> None:
    api = Api(rate=1, rate_burst=1)
    api.get("/topics/a")
    assert api.get(path, STREAM).status == 429
    api.clock.advance(1)
    api.get("/topics/a")
    answer = api.get(path, {**STREAM, "Last-Event-ID": "e-1"})
    assert (answer.status, answer.response.content_type) == (200, "text/event-stream")
    assert re.fullmatch(rb"retry: [2-4]\d{3}\n\n", answer.text)


def test_a_stream_that_can_never_go_on_is_told_so(api: Api) -> None:
    assert api.get("/topics/a", {**STREAM, "Last-Event-ID": "e-x"}).status == 400
    assert Api(api_secret="s").get("/topics/a", {**STREAM, "Last-Event-ID": "e-1"}).status == 401


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


@pytest.fixture
def limited(tmp_path: Path) -> Api:
    """Return the API for somebody who may listen to *news*, and read no stored topic."""
    file = tmp_path / "permissions.toml"
    may: dict[str, list[str]] = {"subscribe": ["news", "n.*"], "consume": ["queue:mine"]}
    may |= {verb: [] for verb in ("read", "write", "call", "manage")}
    file.write_text("".join(f"[anonymous.{verb}]\nallow = {json.dumps(names)}\n" for verb, names in may.items()))
    return Api(permissions_file=str(file))


def test_who_may_only_listen_has_a_stream_without_ids(limited: Api) -> None:
    stream = limited.listen("/topics/news")
    limited.post("/topics/news?durable=1", "1")
    data = stream.take()
    assert [event["data"] for event in events_of(data)] == ["1"]
    assert b"id: " not in data  # who comes back with one must be permitted to read
    limited.listen("/events?pattern=n.*").leave()
    for path in ("/topics/news?from=start", "/topics/news?cursor=me", "/topics/other"):
        assert limited.get(path, STREAM).status == 403
    assert limited.get("/topics/news", {**STREAM, "Last-Event-ID": "1"}).status == 403


def test_each_verb_has_its_permission(limited: Api) -> None:
    limited.post("/queues/mine", "1")
    (job,) = limited.post("/queues/mine/claim").json
    assert limited.post(f"/queues/mine/jobs/{job['id']}/done").status == 200
    for method, path in (
        ("POST", "/queues/other/claim"),
        ("GET", "/queues/mine/dead"),
        ("POST", "/queues/mine/dead/retry"),
        ("GET", "/topics/news"),
        ("GET", "/topics/other/members"),
        ("GET", "/keys/a"),
        ("PUT", "/keys/a"),
        ("POST", "/call/p"),
        ("PUT", "/cursors/me/news"),
        ("DELETE", "/cursors/me/news"),
    ):
        assert limited.ask(method, path, '{"all":true}' if "retry" in path else '{"id":0}').status == 403, path
