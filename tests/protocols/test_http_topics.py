"""Topics over the HTTP API: publish, read, wait, follow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from time import process_time

import pytest

from broker.patterns import LOG_PREFIX
from broker.testing import UNREAD_BYTES, value_of
from protocols.http.streams import MAX_TOPICS, encode_positions, frame
from tests.protocols.http_api import STREAM, Api, bodies_of, events_of


@pytest.fixture
def api() -> Api:
    return Api()


def test_a_live_event_is_on_its_way(api: Api) -> None:
    stream = api.listen("/topics/news")
    answer = api.post("/topics/news?name=note", '{"a":1}')
    assert (answer.status, answer.json) == (202, {"delivered": 1})
    assert events_of(stream.take()) == [{"event": "note", "data": '{"a":1}'}]


def test_a_durable_event_is_stored_and_read(api: Api) -> None:
    (stored,) = api.store('{"a": 1}')
    assert (stored["id"], stored["duplicate"]) == (1, False)
    answer = api.get("/topics/news")
    assert answer.headers["ETag"] == f'"{stored["epoch"]}-1"'
    assert {name: answer.json[name] for name in ("epoch", "first", "head")} == {
        "epoch": stored["epoch"],
        "first": 1,
        "head": 1,
    }
    (event,) = answer.json["events"]
    assert (event["topic"], event["id"], event["name"], event["payload"]) == ("news", 1, "news", {"a": 1})
    assert b'{"a": 1}' in answer.text  # byte for byte


def test_what_is_sent_again_by_its_key_is_a_duplicate(api: Api) -> None:
    first = api.post("/topics/news?durable=1", "1", {"Idempotency-Key": "k"}).json
    again = api.post("/topics/news?durable=1", "2", {"Idempotency-Key": "k"}).json
    assert (again["id"], again["duplicate"]) == (first["id"], True)
    assert len(api.get("/topics/news").json["events"]) == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Match": '"{epoch}-1"'}, 201),
        ({"If-Match": '"1"'}, 201),
        ({"If-Match": "1"}, 201),
        ({"If-Match": '"{epoch}-2"'}, 412),
        ({"If-Match": '"other-1"'}, 412),
        ({"If-None-Match": "*"}, 412),
        ({"If-Match": '"x"'}, 412),
        ({"If-Match": '"1", "2"'}, 201),
        ({"If-Match": '"2", "3"'}, 412),
        ({"If-Match": 'W/"1"'}, 412),
        ({"If-Match": "*"}, 201),
        ({"If-Match": "x"}, 400),
        ({"If-Match": '"1'}, 400),
        ({"If-Match": ","}, 400),
        ({"If-None-Match": '"1"'}, 412),
        ({"If-None-Match": 'W/"{epoch}-1"'}, 412),
        ({"If-None-Match": '"7", "{epoch}-9"'}, 201),
        ({"If-Match": '"1"', "If-None-Match": "*"}, 400),
        ({"If-Match": ""}, 400),
        ({"Idempotency-Key": ""}, 400),
    ],
)
def test_an_event_may_have_to_follow_the_head(api: Api, headers: dict[str, str], status: int) -> None:
    (stored,) = api.store("1")
    said = {name: value.replace("{epoch}", stored["epoch"]) for name, value in headers.items()}
    assert api.post("/topics/news?durable=1", "2", said).status == status


def test_who_is_late_learns_the_head(api: Api) -> None:
    (stored,) = api.store("1")
    problem = api.post("/topics/news?durable=1", "2", {"If-Match": '"0"'}).json
    assert problem["code"] == "CONFLICT"
    assert problem["head"] == {"topic": "news", "epoch": stored["epoch"], "id": 1}


def test_a_batch_is_stored_as_a_whole_or_not_at_all(api: Api) -> None:
    answer = api.post("/batch", '[{"topic":"a","payload":1},{"topic":"b","payload":2,"name":"n"}]')
    assert (answer.status, [event["topic"] for event in answer.json["events"]]) == (201, ["a", "b"])
    assert api.post("/batch", '[{"topic":"a","payload":3},{"topic":"b","payload":4,"expect":7}]').status == 412
    assert api.get("/topics/a").json["head"] == 1


def test_a_batch_of_very_many_events_is_refused_before_they_are_decoded(api: Api) -> None:
    # The last is none: whoever decodes it says so.
    refusal = api.post("/batch", json.dumps([{"topic": "t"}] * 10_000 + [{"topic": 1}]))
    assert (refusal.status, refusal.json["detail"]) == (413, "there are more than 1000 events")
    long = [{"topic": "t", "payload": [1] * 2000}, {"topic": 1}]
    assert api.post("/batch", json.dumps(long)).status == 400


def test_a_batch_that_is_sent_again_by_its_key_is_stored_once(api: Api) -> None:
    batch, key = (
        '[{"topic":"a","payload":1,"expect":0},{"topic":"a","payload":2,"key":"own"}]',
        {"Idempotency-Key": "k"},
    )
    first = api.post("/batch", batch, key).json["events"]
    again = api.post("/batch", batch, key).json["events"]
    assert again == [{**event, "duplicate": True} for event in first]
    assert api.get("/topics/a").json["head"] == 2
    assert api.post("/topics/a?durable=1", "3", {"Idempotency-Key": "own"}).json["duplicate"] is True
    assert api.post("/batch", batch, {"Idempotency-Key": "k" * 255}).status == 400


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "detail"),
    [
        ("POST", "/topics/live", "1", {"Idempotency-Key": "k"}, "needs an event that is stored"),
        ("POST", "/topics/live", "1", {"If-Match": '"0"'}, "needs an event that is stored"),
        ("GET", "/topics/a?after=7", "", {}, "after is beyond the newest event, 0"),
        ("GET", "/topics/a?from=7", "", STREAM, "from is beyond the newest event of a, 0"),
        ("PUT", "/cursors/c/a", '{"id":7}', {}, "id is beyond the newest event"),
        ("POST", "/batch", "[]", {}, "there are no events"),
        ("POST", "/batch", '[{"topic":"a","kee":1}]', {}, "body kee: "),
        ("GET", "/topics/a?after=x-1", "", {}, "the position is of another epoch than the present one, "),
        ("GET", "/keys/none", "", {}, "there is no key none"),
        ("POST", "/topics/broker.x", "1", {}, "there is no permission to publish broker.x"),
        ("POST", "/topics/a%0A", "1", {}, "topic is malformed"),
    ],
)
def test_a_refusal_says_what_was_wrong(
    api: Api, method: str, path: str, body: str, headers: dict[str, str], detail: str
) -> None:
    answer = api.ask(method, path, body, headers)
    assert (answer.status >= 400, detail in answer.json["detail"]) == (True, True), answer.text


def test_a_body_is_no_longer_than_a_message() -> None:
    api = Api(max_message_bytes=100)
    assert api.post("/topics/a?durable=1", '"' + "x" * 98 + '"').status == 201
    for path in ("/topics/a?durable=1", "/queues/q", "/batch"):
        answer = api.post(path, '"' + "x" * 99 + '"')
        assert (answer.status, answer.json["code"]) == (413, "TOO_LARGE")


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", [1, 2, 3]),
        ("?after=1", [2, 3]),
        ("?after={epoch}-1", [2, 3]),
        ("?after=3", []),
        ("?before=3", [1, 2]),
        ("?before=3&limit=1", [2]),
        ("?last=2", [2, 3]),
        ("?limit=1", [1]),
    ],
)
def test_a_page_is_read(api: Api, query: str, ids: list[int]) -> None:
    epoch = api.store("1", "2", "3")[0]["epoch"]
    page = api.get("/topics/news" + query.replace("{epoch}", epoch)).json
    assert [event["id"] for event in page["events"]] == ids


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("?aftre=1", "aftre"),
        ("?after=1&after=2", "after"),
        ("?after=x", "after"),
        ("?after=4", "after"),
        ("?after=1&last=1", "last"),
        ("?last=0", "last"),
        ("?limit=1001", "limit"),
        ("?wait=x", "wait"),
        ("?cursor=", "cursor"),
        ("?last=null", "last"),
        ("?limit=%zz", "limit"),
        ("?token=x", "token"),
    ],
)
def test_a_wrong_parameter_is_named(api: Api, query: str, word: str) -> None:
    api.store("1", "2", "3")
    answer = api.get("/topics/news" + query)
    assert (answer.status, answer.json["code"]) == (400, "INVALID")
    assert word in answer.json["detail"]
    assert answer.response.content_type == "application/problem+json"


def test_a_position_of_another_epoch_is_gone(api: Api) -> None:
    epoch = api.store("1")[0]["epoch"]
    answer = api.get("/topics/news?after=other-1")
    assert (answer.status, answer.json["code"], answer.json["epoch"]) == (410, "GONE", epoch)


def test_a_poll_waits_for_an_event(api: Api) -> None:
    api.store("1")
    waiting = api.begin("GET", "/topics/news?after=1&wait=30")
    api.clock.advance(29)
    assert not waiting.called
    api.store("2")
    assert json.loads(value_of(waiting).body)["events"][0]["payload"] == 2


def test_a_poll_ends_with_nothing(api: Api) -> None:
    waiting = api.begin("GET", "/topics/news?wait=30")
    api.clock.advance(31)
    assert json.loads(value_of(waiting).body)["events"] == []


def test_reading_with_a_cursor_acknowledges_nothing(api: Api) -> None:
    api.store("1", "2")
    assert api.ask("PUT", "/cursors/me/news", '{"id":1}').json["back"] is False
    for _ in range(2):
        assert [event["id"] for event in api.get("/topics/news?cursor=me").json["events"]] == [2]
    assert api.get("/cursors/me/news").json["id"] == 1
    assert api.ask("PUT", "/cursors/me/news", '{"id":0}').json["back"] is True
    assert api.ask("PUT", "/cursors/me/news", '{"epoch":"other","id":0}').status == 410
    assert api.ask("PUT", "/cursors/me/news", '{"id":3}').status == 400


def test_a_cursor_that_is_removed_is_at_the_start_again(api: Api) -> None:
    api.store("1", "2")
    api.ask("PUT", "/cursors/me/news", '{"id":2}')
    assert api.ask("DELETE", "/cursors/me/news").status == 204
    assert api.ask("DELETE", "/cursors/me/news").status == 404
    assert len(api.get("/topics/news?cursor=me").json["events"]) == 2
    api.ask("PUT", "/cursors/me/news", '{"id":2}')
    assert api.get("/cursors/me/news").json["id"] == 2


def test_a_stream_begins_with_what_is_new(api: Api) -> None:
    epoch = api.store("1")[0]["epoch"]
    stream = api.listen("/topics/news")
    head = stream.take().decode()
    assert head.startswith("retry: ")
    assert f"id: {epoch}-1\n" in head  # so that what comes before the first event is not missed
    api.store('{"a":\r\n2}')
    assert events_of(stream.take()) == [{"id": f"{epoch}-2", "event": "news", "data": '{"a":\n2}'}]


def test_a_stream_goes_on_after_the_last_event_of_the_one_before(api: Api) -> None:
    epoch = api.store("1", "2", "3")[0]["epoch"]
    stream = api.listen("/topics/news?from=start&cursor=me", {"Last-Event-ID": f"{epoch}-1"})
    assert bodies_of(stream) == ["2", "3"]
    api.store("4")
    assert bodies_of(stream) == ["4"]
    assert api.get("/cursors/me/news").json["id"] == 1


def test_a_stream_by_a_cursor_begins_after_what_it_has_acknowledged(api: Api) -> None:
    api.store("1", "2", "3")
    assert bodies_of(api.listen("/topics/news?cursor=new")) == ["1", "2", "3"]
    api.ask("PUT", "/cursors/me/news", '{"id":2}')
    assert bodies_of(api.listen("/topics/news?cursor=me")) == ["3"]
    assert bodies_of(api.listen("/topics/news?cursor=me&from=1")) == ["2", "3"]


def test_a_last_event_of_another_epoch_is_told_as_a_gap(api: Api) -> None:
    api.store("1")
    first, second = events_of(api.listen("/topics/news", {"Last-Event-ID": "other-7"}).take())
    assert (first["event"], json.loads(first["data"])["why"]) == ("broker.gap", "epoch")
    assert second["data"] == "1"


@pytest.mark.parametrize("path", ["/topics/news", "/events?topic=news"])
def test_nobody_can_feign_a_gap(api: Api, path: str) -> None:
    stream = api.listen(path)
    api.post("/topics/news?durable=1&name=broker.gap", "1")
    api.post("/topics/news?name=news", "2")
    assert [event.get("event") for event in events_of(stream.take())] == [None, "news"]


def test_what_retention_has_removed_is_told_as_a_gap(api: Api) -> None:
    epoch = api.store("1", "2", "3", "4")[0]["epoch"]
    value_of(api.broker.store.trim(LOG_PREFIX + "news", 3))
    for path in ("/topics/news", "/topics/news?from=start"):
        gap, event = events_of(api.listen(path, {"Last-Event-ID": f"{epoch}-1"}).take())
        assert (gap["event"], json.loads(gap["data"])) == (
            "broker.gap",
            {"topic": "news", "epoch": epoch, "from": 2, "to": 3, "why": "retention"},
        )
        assert (event["id"], event["data"]) == (f"{epoch}-4", "4")


@pytest.mark.parametrize("path", ["/topics/news", "/events?topic=news&topic=others", "/events?pattern=*"])
def test_who_is_cut_off_before_it_was_told_of_a_gap_is_told_again(api: Api, path: str) -> None:
    stream = api.listen(path + ("&" if "?" in path else "?") + "from=start")
    api.store("1", "2")
    api.store("1", topic="others")
    shown = events_of(stream.take())[0]["id"]
    stream.leave()
    api.store("3", "4")
    for topic in ("news", "others"):
        value_of(api.broker.store.trim(LOG_PREFIX + topic, 3))
    blocks = api.listen(path, {"Last-Event-ID": shown}).take().decode().split("\n\n")
    gaps = [index for index, block in enumerate(blocks) if "event: broker.gap" in block]
    ids = [index for index, block in enumerate(blocks) if block.startswith("id: ") or "\nid: " in block]
    assert gaps[0] == 1
    assert ids[0] == gaps[-1]


def test_several_topics_tell_what_retention_has_removed(api: Api) -> None:
    stream = api.listen("/events?topic=a&topic=b")
    api.store("1", topic="a")
    shown = events_of(stream.take())[0]["id"]
    stream.leave()
    api.store("2", "3", topic="a")
    value_of(api.broker.store.trim(LOG_PREFIX + "a", 2))
    gap, event = events_of(api.listen("/events?topic=a&topic=b", {"Last-Event-ID": shown}).take())
    assert json.loads(gap["data"])["from"] == json.loads(gap["data"])["to"] == 2
    assert json.loads(event["data"])["id"] == 3


def test_a_silent_stream_has_a_comment_now_and_then(api: Api) -> None:
    stream = api.listen("/topics/news")
    stream.take()
    api.clock.advance(15)
    assert stream.take() == b":\n\n"


def test_nothing_remains_of_a_stream_that_has_ended(api: Api) -> None:
    for path in ("/topics/news", "/topics/news?from=start", "/events?topic=news", "/events?pattern=n.>"):
        api.listen(path).leave()
    assert len(api.broker.topics) == 0
    assert api.ask("HEAD", "/topics/news", headers=STREAM).status == 200
    assert len(api.broker.topics) == 0


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_each_line_of_an_event_is_a_line_of_data(line_end: bytes) -> None:
    assert frame("n", line_end.join((b"[1,", b"", b"2]"))) == b"event: n\ndata: [1,\ndata: \ndata: 2]\n\n"


@pytest.mark.parametrize("data", [b"\n" * 300_000 + b"1", b"\r\n" * 150_000 + b"1", b'"%b"' % (b"x" * 300_000)])
def test_many_line_ends_take_less_than_a_regular_expression(data: bytes) -> None:
    # Compared with what was done before, on the same machine in the same moment: nobody else is served meanwhile.
    def seconds(act: Callable[[], object]) -> float:
        began = process_time()
        act()
        return process_time() - began

    now = min(seconds(lambda: frame("n", data)) for _ in range(5))
    before = min(seconds(lambda: re.sub(rb"\r\n?|\n", b"\ndata: ", data)) for _ in range(3))
    assert now < before / 2


def test_the_name_of_an_event_can_not_end_its_line(api: Api) -> None:
    stream = api.listen("/topics/news")
    stream.take()
    value_of(api.broker.attach("test", "127.0.0.1").publish("news", "a\nid: 9\r\u2028x", b"1"))
    (event,) = events_of(stream.take())
    assert set(event) == {"event", "data"}


def test_stored_events_wait_in_the_store_for_a_slow_reader() -> None:
    api = Api(send_queue_bytes=100_000)
    stream = api.listen("/topics/news")
    sent = [json.dumps(f"{number}" + "x" * 5000) for number in range(100)]
    api.store(*sent)
    assert api.broker.memory.used < 200_000
    found: list[str] = []
    for _ in range(200):
        found += bodies_of(stream)
        api.clock.advance(1)
    assert not stream.broken
    assert found == sent


def test_of_live_events_a_slow_reader_misses_the_oldest_and_is_told() -> None:
    api = Api(send_queue_bytes=20_000)
    stream = api.listen("/topics/news")
    api.post("/topics/news", json.dumps("x" * (UNREAD_BYTES + 1)))
    for number in range(100):
        api.post("/topics/news", json.dumps(f"{number}" + "x" * 1000))
    events = []
    for _ in range(20):
        events += events_of(stream.take())
        api.clock.advance(1)
    gaps = [json.loads(event["data"]) for event in events if event["event"] == "broker.gap"]
    assert [(gap["topic"], gap["why"]) for gap in gaps] == [("news", "slow")]
    assert len(events) == 1 + 1 + 100 - gaps[0]["count"]
    assert events[-1]["data"].startswith('"99')


def test_several_topics_are_one_stream_with_one_id(api: Api) -> None:
    stream = api.listen("/events?topic=a&topic=b")
    api.store("1", "2", topic="a")
    api.store("3", topic="b")
    events = events_of(stream.take())
    assert [json.loads(event["data"])["payload"] for event in events] == [1, 2, 3]
    again = api.listen("/events?topic=a&topic=b", {"Last-Event-ID": events[1]["id"]})
    assert [json.loads(data)["payload"] for data in bodies_of(again)] == [3]


def test_a_pattern_is_a_stream_that_goes_on(api: Api) -> None:
    stream = api.listen("/events?pattern=a.*")
    api.store("1", topic="a.b")
    (event,) = events_of(stream.take())
    stream.leave()
    api.store("2", topic="a.b")
    api.store("3", topic="a.c")
    again = api.listen("/events?pattern=a.*", {"Last-Event-ID": event["id"]})
    assert sorted(json.loads(data)["payload"] for data in bodies_of(again)) == [2, 3]


def test_a_pattern_with_very_many_topics_has_no_ids_any_more(api: Api) -> None:
    stream = api.listen("/events?pattern=a.*")
    events = []
    for number in range(102):
        api.store("1", topic=f"a.{number}")
        events += events_of(stream.take())
    assert ["id" in event for event in events] == [True] * 100 + [False] * 2
    assert api.get("/events?pattern=a.*&from=start", STREAM).status == 413


@pytest.mark.parametrize("query", ["", "?topic=a&pattern=b", "?pattern=a*b", "?topic=a&from=7", "?topics=a"])
def test_a_stream_of_several_topics_that_can_not_be_is_refused(api: Api, query: str) -> None:
    assert api.get("/events" + query, STREAM).status == 400
    for shown in ("x y", encode_positions("e", {str(number): 1 for number in range(MAX_TOPICS + 1)})):
        assert api.get("/events?topic=a", {**STREAM, "Last-Event-ID": shown}).status == 400


def test_a_topic_is_a_segment_of_the_path(api: Api) -> None:
    api.store("1", topic="a%2Fb.%2A%20c")
    assert api.get("/topics/a%2Fb.%2A%20c").json["events"][0]["topic"] == "a/b.* c"
    assert api.get("/topics/%FF").status == 400
    assert api.get("/topics/a/b").status == 404
    assert api.post("/topics/broker.x", "1").status == 403


def test_a_lone_surrogate_passes(api: Api) -> None:
    api.store('["\\ud800"]')
    assert b'["\\ud800"]' in api.get("/topics/news").text


@pytest.mark.parametrize("body", ["{", "nul", "[1e999]", b"\xff", '"\n"', '{"\\ud800"', '["\\ud800", NaN]'])
def test_what_is_no_json_is_refused(api: Api, body: str | bytes) -> None:
    assert api.post("/topics/news", body).json["code"] == "INVALID"
