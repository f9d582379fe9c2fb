"""Keys over the HTTP API."""

from __future__ import annotations

import json
from itertools import count

import pytest

from broker.core.slices import SLICE, slices_of
from broker.testing import value_of
from tests.protocols.http_api import STREAM, Answer, Api, events_of


@pytest.fixture
def api() -> Api:
    return Api()


def put(api: Api, key: str, value: str, **headers: str) -> tuple[int, str]:
    answer = api.ask("PUT", f"/keys/{key}", value, {name.replace("_", "-"): said for name, said in headers.items()})
    return answer.status, answer.headers.get("ETag", "")


def test_a_value_comes_back_as_it_is(api: Api) -> None:
    status, tag = put(api, "a", "wörter, no JSON")
    assert status == 201
    answer = api.get("/keys/a")
    assert (answer.text.decode(), answer.headers["ETag"]) == ("wörter, no JSON", tag)
    assert answer.response.content_type == "text/plain; charset=utf-8"
    assert put(api, "a", '{"x": 1}')[0] == 200
    assert api.get("/keys/a").response.content_type == "application/json"
    assert api.get("/keys/none").status == 404
    assert api.ask("PUT", "/keys/a", b"\xff").status == 400


def test_a_change_may_depend_on_the_revision(api: Api) -> None:
    _, first = put(api, "a", "1", If_None_Match="*")
    assert put(api, "a", "2", If_None_Match="*")[0] == 412
    _, second = put(api, "a", "2", If_Match=first)
    assert put(api, "a", "3", If_Match=first)[0] == 412
    assert put(api, "a", "3", If_Match="*")[0] == 200
    assert put(api, "none", "3", If_Match="*")[0] == 412
    assert put(api, "none", "3", If_Match=second)[0] == 412
    assert put(api, "a", "3", If_Match='"other-3"')[0] == 412
    assert put(api, "a", "3", If_Match='"x"')[0] == 412
    assert api.ask("DELETE", "/keys/a", headers={"If-Match": second}).status == 412
    assert api.get("/keys/a").text == b"3"


def test_a_tag_of_before_a_removal_does_not_match_again(api: Api) -> None:
    _, tag = put(api, "a", "1")
    assert api.ask("DELETE", "/keys/a", headers={"If-Match": tag}).status == 204
    assert api.ask("DELETE", "/keys/a").status == 404
    put(api, "a", "1")
    assert put(api, "a", "2", If_Match=tag)[0] == 412


def test_what_is_unchanged_is_not_sent_again(api: Api) -> None:
    _, tag = put(api, "a", "1")
    answer = api.get("/keys/a", {"If-None-Match": f'"x", {tag}'})
    assert (answer.status, answer.text) == (304, b"")
    assert api.get("/keys/a", {"If-None-Match": '"x"'}).status == 200


def test_a_key_may_expire(api: Api) -> None:
    api.ask("PUT", "/keys/a?ttl=10", "1")
    api.clock.advance(11)
    assert api.get("/keys/a").status == 404
    assert api.ask("PUT", "/keys/a?ttl=0", "1").status == 400
    assert api.ask("PUT", "/keys/a?tll=5", "1").status == 400


def test_objects_are_merged(api: Api) -> None:
    assert api.ask("PATCH", "/keys/o", '{"x":1}').status == 201
    tag = api.ask("PATCH", "/keys/o", '{"y":2}').headers["ETag"]
    assert api.ask("PATCH", "/keys/o", '{"y":3}', {"If-Match": tag}).status == 200
    assert api.ask("PATCH", "/keys/o", '{"y":4}', {"If-Match": tag}).status == 412
    assert api.get("/keys/o").json == {"x": 1, "y": 3}


@pytest.mark.parametrize(("body", "value"), [("", "1"), ("2", "2"), ("-1.5", "-1.5"), ('{"amount": 3}', "3")])
def test_a_number_is_added(api: Api, body: str, value: str) -> None:
    answer = api.post("/keys/n/increment", body)
    assert (answer.status, answer.json["value"]) == (200, value)
    assert answer.headers["ETag"].strip('"').endswith(f"-{answer.json['revision']}")


@pytest.mark.parametrize("body", ['"1"', "[]", '{"amount":"x"}', '{"amonut":1}', "1 2"])
def test_what_is_no_number_is_not_added(api: Api, body: str) -> None:
    assert api.post("/keys/n/increment", body).status == 400


def test_keys_are_listed_by_their_prefix_page_by_page(api: Api) -> None:
    for key in ("job:1", "job:2", "job:3", "jobs", "x"):
        put(api, key, "v")
    first = api.get("/keys?prefix=job:&limit=2").json
    assert ([entry["key"] for entry in first["entries"]], first["more"]) == (["job:1", "job:2"], True)
    second = api.get("/keys?prefix=job:&limit=2&after=job:2").json
    assert ([entry["key"] for entry in second["entries"]], second["more"]) == (["job:3"], False)
    assert [entry["key"] for entry in api.get("/keys?after=job:3").json["entries"]] == ["jobs", "x"]
    assert set(first["entries"][0]) == {"key", "value", "revision"}


def test_a_stream_has_the_entries_and_then_the_changes(api: Api) -> None:
    put(api, "job:1", "a")
    put(api, "x", "b")
    stream = api.listen("/keys?prefix=job:")
    snapshot, entry = events_of(stream.take())
    assert (snapshot["event"], json.loads(entry["data"])["key"]) == ("broker.snapshot", "job:1")
    put(api, "job:2", "c")
    put(api, "y", "d")
    api.ask("DELETE", "/keys/job:1")
    found = [(event["event"], json.loads(event["data"])["key"]) for event in events_of(stream.take())]
    assert found == [("set", "job:2"), ("delete", "job:1")]


def test_a_stream_of_keys_goes_on_where_it_was(api: Api) -> None:
    stream = api.listen("/keys?prefix=job.")
    put(api, "job.1", "a")
    id = events_of(stream.take())[-1]["id"]
    stream.leave()
    put(api, "job.2", "b")
    put(api, "x", "c")
    again = api.listen("/keys?prefix=job.", {"Last-Event-ID": id})
    assert [json.loads(event["data"])["key"] for event in events_of(again.take())] == ["job.2"]
    put(api, "job.3", "d")
    assert [json.loads(event["data"])["key"] for event in events_of(again.take())] == ["job.3"]


def test_who_was_away_for_too_long_gets_the_entries_again(api: Api) -> None:
    put(api, "a", "1")
    events = events_of(api.listen("/keys", {"Last-Event-ID": "other-1"}).take())
    assert [event["event"] for event in events] == ["broker.snapshot", "set"]


def test_thousands_of_changes_that_a_client_has_missed_are_sent_in_slices(api: Api) -> None:
    """Each takes its time, and the others wait no longer than for some of them."""
    stream = api.listen("/keys?prefix=k")
    put(api, "k0", "a")
    id = events_of(stream.take())[-1]["id"]
    stream.leave()
    for number in range(1, 30):
        put(api, f"k{number}", "a")
    slices = slices_of(api.clock)
    pauses, slices.now = slices.pauses, count(0.0, SLICE / 2).__next__
    answer = api.begin("GET", "/keys?prefix=k", headers={**STREAM, "Last-Event-ID": id})
    for _ in range(20):
        api.clock.advance(0)
    assert not answer.called
    put(api, "k30", "while it is under way")
    api.clock.pump([SLICE] * 200)
    assert answer.called
    assert slices.pauses > pauses + 20
    again = Answer(value_of(answer)).stream
    put(api, "k31", "behind it")
    found = [json.loads(event["data"])["key"] for event in events_of(again.take())]
    assert found == [f"k{number}" for number in range(1, 32)]


def test_who_leaves_while_changes_are_sent_leaves_nothing(api: Api) -> None:
    stream = api.listen("/keys")
    put(api, "k0", "a")
    id = events_of(stream.take())[-1]["id"]
    stream.leave()
    for number in range(1, 30):
        put(api, f"k{number}", "a")
    slices = slices_of(api.clock)
    slices.now = count(0.0, SLICE / 2).__next__
    answer = api.begin("GET", "/keys", headers={**STREAM, "Last-Event-ID": id})
    api.clock.advance(0)
    put(api, "k30", "b")
    answer.addErrback(lambda _: None).cancel()
    api.clock.pump([SLICE] * 20)
    assert (api.broker.memory.used, api.broker.keys.is_watched) == (0, False)
