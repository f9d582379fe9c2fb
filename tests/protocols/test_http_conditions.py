"""Conditions by entity tags, and what else a request says of what it takes."""

from __future__ import annotations

from time import thread_time
from typing import Any

import pytest

from broker.testing import value_of
from protocols.http.conditions import MAX_TAGS
from tests.protocols.http_api import STREAM, Api


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def tag(api: Api) -> str:
    """Return the entity tag of the key *k*, without quotes."""
    return api.ask("PUT", "/keys/k", "1").headers["ETag"].strip('"')


READS = [
    ({"If-None-Match": '"{tag}"'}, 304),
    ({"If-None-Match": 'W/"{tag}"'}, 304),
    ({"If-None-Match": '"x", W/"y", "{tag}"'}, 304),
    ({"If-None-Match": '"x",,"{tag}" ,'}, 304),
    ({"If-None-Match": "*"}, 304),
    ({"If-None-Match": '"x"'}, 200),
    ({"If-None-Match": '"other-1"'}, 200),
    ({"If-None-Match": '"a,b"'}, 200),
    ({"If-None-Match": "x"}, 400),
    ({"If-None-Match": '"'}, 400),
    ({"If-None-Match": '*, "x"'}, 400),
    ({"If-None-Match": ""}, 400),
    ({"If-Match": '"{tag}"'}, 200),
    ({"If-Match": "*"}, 200),
    ({"If-Match": '"x"'}, 412),
    ({"If-Match": 'W/"{tag}"'}, 412),
]


@pytest.mark.parametrize(("headers", "status"), READS)
def test_a_key_is_read_under_a_condition(api: Api, tag: str, headers: dict[str, str], status: int) -> None:
    answer = api.ask("HEAD", "/keys/k", headers={name: value.format(tag=tag) for name, value in headers.items()})
    assert answer.status == status
    if status in (200, 304, 412):
        assert answer.headers["ETag"] == f'"{tag}"'


@pytest.mark.parametrize(("headers", "status"), READS)
def test_a_topic_is_read_under_a_condition(api: Api, headers: dict[str, str], status: int) -> None:
    epoch = api.store("1")[0]["epoch"]
    said = {name: value.format(tag=f"{epoch}-1") for name, value in headers.items()}
    answer = api.get("/topics/news?limit=1", said)
    assert answer.status == status
    assert bool(answer.text) is (status != 304)


def test_a_poll_for_what_is_unchanged_waits_first(api: Api) -> None:
    epoch = api.store("1")[0]["epoch"]
    waiting = api.begin("GET", "/topics/news?after=1&wait=9", headers={"If-None-Match": f'"{epoch}-1"'})
    assert not waiting.called
    api.store("2")
    assert value_of(waiting).status == 200


WRITES = [
    ({"If-Match": '"{tag}"'}, True),
    ({"If-Match": '"x", "{tag}"'}, True),
    ({"If-Match": '"1", "{tag}", "99"'}, True),
    ({"If-Match": 'W/"{tag}"'}, False),
    ({"If-Match": '"98", "99"'}, False),
    ({"If-Match": '"0"'}, False),
    ({"If-None-Match": '"98", "99"'}, True),
    ({"If-None-Match": '"98", W/"{tag}"'}, False),
    ({"If-None-Match": "*"}, False),
]


@pytest.mark.parametrize(("method", "body"), [("PUT", "2"), ("PATCH", "2"), ("DELETE", "")])
@pytest.mark.parametrize(("headers", "done"), WRITES)
def test_a_key_is_changed_under_a_condition(
    api: Api, tag: str, method: str, body: str, headers: dict[str, str], done: bool
) -> None:
    api.ask("PUT", "/keys/another", "1")
    said = {name: value.format(tag=tag) for name, value in headers.items()}
    answer = api.ask(method, "/keys/k", body, said)
    assert answer.status == ((204 if method == "DELETE" else 200) if done else 412)
    assert (api.get("/keys/k").text == b"1") is not done


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_missing_key_is_created_under_a_condition(api: Api, method: str) -> None:
    assert api.ask(method, "/keys/new", "1", {"If-Match": "*"}).status == 412
    assert api.ask(method, "/keys/new", "1", {"If-Match": '"1", "2"'}).status == 412
    assert api.ask(method, "/keys/new", "1", {"If-None-Match": '"1", "2"'}).status == 201


def test_many_entity_tags_ask_the_store_once_and_too_many_are_refused(api: Api, tag: str, monkeypatch: Any) -> None:
    asked: list[str] = []
    head = api.broker.store.head
    monkeypatch.setattr(api.broker.store, "head", lambda topic: asked.append(topic) or head(topic))
    others = [f'"other-{number}"' for number in range(MAX_TAGS - 1)]
    assert api.get("/keys/k", {"If-None-Match": ",".join([*others, f'"{tag}"'])}).status == 304
    assert len(asked) == 1
    refused = api.get("/keys/k", {"If-None-Match": "0," * (MAX_TAGS + 1)})
    assert refused.status == 400
    assert refused.json["detail"] == f"If-None-Match has more than {MAX_TAGS} entity tags"


def test_a_missing_key_is_not_removed(api: Api) -> None:
    assert api.ask("DELETE", "/keys/no", headers={"If-None-Match": '"1"'}).status == 404
    assert api.ask("DELETE", "/keys/no", headers={"If-None-Match": "*"}).status == 404
    assert api.ask("DELETE", "/keys/no", headers={"If-Match": "*"}).status == 412


def test_a_topic_without_events_has_no_tag_to_match(api: Api) -> None:
    assert api.post("/topics/new?durable=1", "1", {"If-Match": "*"}).status == 412
    assert api.post("/topics/new?durable=1", "1", {"If-None-Match": "*"}).status == 201


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("text/event-stream", 200),
        ("*/*", 200),
        ("text/*;q=0.1", 200),
        ("application/json", 406),
        ("text/event-stream;q=0", 406),
        ("*/*, text/event-stream;q=0", 406),
        ("text/event-stream; q=0.0, application/json", 406),
    ],
)
def test_what_is_only_a_stream_is_no_other_thing(api: Api, accept: str, status: int) -> None:
    answer = api.get("/events?topic=a", {"Accept": accept})
    assert answer.status == status
    assert (answer.response.content_type == "text/event-stream") is (status == 200)


@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        ("text/event-stream", True),
        ("application/json, text/event-stream", True),
        ("Text/Event-Stream;q=0.5, */*;q=0.1", True),
        ("application/json, text/event-stream;q=0.9", False),
        ("text/event-stream;q=0", False),
        ("text/*", False),
        ("*/*", False),
    ],
)
def test_a_topic_is_a_stream_for_who_prefers_that(api: Api, accept: str, streams: bool) -> None:
    answer = api.get("/topics/a", {"Accept": accept})
    assert (answer.response.content_type == "text/event-stream") is streams


@pytest.mark.parametrize("parameters", [";" + " " * 100_000, "; q" * 30_000, "; q=1." + "1" * 100_000])
def test_no_accepted_type_takes_long_to_read(api: Api, parameters: str) -> None:
    began = thread_time()
    assert api.get("/events?topic=a", {"Accept": "text/event-stream" + parameters}).status == 200
    assert thread_time() - began < 1  # it takes some milliseconds; to begin anew at each space took 10


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/topics/a"), ("PUT", "/keys/a"), ("PATCH", "/keys/a"), ("POST", "/call/p"), ("PUT", "/cursors/c/t")],
)
@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip"])
def test_a_packed_body_is_refused_everywhere(api: Api, method: str, path: str, coding: str) -> None:
    answer = api.ask(method, path, '{"id":0}', {"Content-Encoding": coding})
    assert (answer.status, answer.headers["Accept-Encoding"]) == (415, "identity")


@pytest.mark.parametrize(
    "path",
    ["/topics/{}", "/topics/{}/members", "/cursors/c/{}", "/cursors/{}/t", "/queues/{}", "/queues/{}/dead"],
)
def test_what_can_be_no_name_is_refused_everywhere(api: Api, path: str) -> None:
    for name in ("x" * 256, "%00", "a%0Ab", "%7F", "%ED%A0%80", "%zz", "%"):
        assert api.get(path.format(name)).status == 400, name
        assert api.ask("HEAD", path.format(name)).status == 400, name
    assert api.get(path.format("%2E%2E%2Fa%20%C3%A9%3F%23")).status in (200, 404)


def test_a_key_has_any_characters_and_a_kilobyte(api: Api) -> None:
    for key in ("x" * 1025, "%C3%A9" * 513, "%ED%A0%80", "%zz", "%"):
        assert api.get(f"/keys/{key}").status == 400, key
        assert api.ask("HEAD", f"/keys/{key}").status == 400, key
    for key in ("x" * 1024, "%C3%A9" * 512, "%00", "a%0Ab", "%7F", "%2E%2E%2Fa%20%C3%A9%3F%23"):
        assert api.get(f"/keys/{key}").status == 404, key


def test_a_name_that_is_too_long_is_refused_before_it_is_looked_up(api: Api) -> None:
    assert api.post(f"/call/{'x' * 256}").status == 400
    assert api.post(f"/queues/q/jobs/{'x' * 256}/done").status == 400
    assert api.get("/topics/" + "x" * 256, STREAM).status == 400


def test_a_job_has_one_key(api: Api) -> None:
    assert api.post("/queues/q?key=a", "1", {"Idempotency-Key": "a"}).status == 201
    assert api.post("/queues/q?key=a", "1", {"Idempotency-Key": "b"}).status == 400
    assert api.post("/queues/q?key=a", "1", {"Idempotency-Key": "x" * 256}).status == 400
    assert api.post("/queues/q", "1", {"Idempotency-Key": "a"}).json["duplicate"] is True
