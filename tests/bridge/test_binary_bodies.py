"""Bodies that are no JSON: kept byte for byte, and shown in base64, with a mark, where JSON is written."""

from __future__ import annotations

import base64
import json

import pytest

from broker.messages import Publication
from broker.sessions import BaseSession
from broker.testing import connect, http_request, make_broker, value_of
from protocols import ganomede, thinws
from protocols.http import dialect as http
from tests.protocols.http_api import Api, events_of
from tests.protocols.owlmeans_emulator import Failed, Room
from tests.support.examples import load_example

PNG = b"\x89PNG\r\n\x1a\n\x00\xff"
SHOWN = base64.b64encode(PNG).decode()
MARK = {"encoding": "base64", "content_type": "image/png"}


def published(broker, body=PNG, content_type="image/png", **options):
    peer = broker.attach("camera", "")
    return value_of(peer.publish("pictures", "taken", body, content_type=content_type, **options))


def marks(shown):
    return {name: shown[name] for name in MARK if name in shown}


def test_owlmeans_shows_the_live_and_the_stored_event():
    room = Room()
    bob = room.join("bob")
    bob.client.observe("pictures")
    room.ask(bob, "broker.subscribe", "pictures")
    published(room.broker, durable=True)
    (stored,) = room.ask(bob, "broker.read", "pictures")["events"]
    (live,) = bob.client.of("event")
    for event in (live, stored):
        assert (event["payload"], marks(event)) == (SHOWN, MARK)


def test_owlmeans_publishes_what_it_says_in_base64():
    room = Room()
    bob = room.join("bob")
    room.ask(bob, "broker.publish", "pictures", SHOWN, {"durable": True, "encoding": "base64", **MARK})
    room.ask(bob, "broker.batch", [{"topic": "pictures", "payload": SHOWN, "encoding": "base64"}])
    first, second = value_of(bob.connected.peer.read("pictures", 0, 9))
    assert (first.body, first.binary, first.content_type) == (PNG, True, "image/png")
    assert (second.body, second.binary, second.content_type) == (PNG, True, "application/octet-stream")


@pytest.mark.parametrize("payload", ["no base64!", 5, None, {"a": 1}])
def test_what_is_no_base64_is_refused(payload):
    room = Room()
    with pytest.raises(Failed, match="payload"):
        room.ask(room.join("bob"), "broker.publish", "t", payload, {"encoding": "base64"})


def test_json_of_another_content_type_stays_json():
    room = Room()
    bob = room.join("bob")
    room.ask(bob, "broker.publish", "t", "hello", {"durable": True, "content_type": "text/plain"})
    (event,) = room.ask(bob, "broker.read", "t")["events"]
    assert (event["payload"], event["content_type"], "encoding" in event) == ("hello", "text/plain", False)


@pytest.mark.parametrize(
    ("content_type", "binary"),
    [
        ("", False),
        ("application/json", False),
        ("Application/JSON; charset=utf-8", False),
        ("application/cloudevents+json", False),
        ("text/plain", True),
        ("application/jsonl", True),
        ("application/octet-stream", True),
    ],
)
def test_the_content_type_says_whether_a_body_is_json(content_type, binary):
    assert published(make_broker(), b"1", content_type).binary is binary
    assert published(make_broker(), b"1", content_type, is_json=False).binary
    assert not published(make_broker(), b"1", content_type, is_json=True).binary
    peer = make_broker().attach("camera", "")
    (event,) = value_of(peer.publish_all([Publication("t", "n", b"1", content_type=content_type)]))
    assert event.binary is binary


def test_ganomede_shows_it():
    broker = make_broker()
    published(broker, durable=True)
    target = "/events/v1/events?channel=pictures&clientId=c&after=0"
    answer = value_of(http_request(broker, ganomede.dialect(broker.settings), "GET", target))
    (event,) = json.loads(answer.body)
    assert (event["data"], marks(event)) == (SHOWN, MARK)


def test_an_index_leaves_it_out():
    broker = make_broker()
    dialect, headers = ganomede.dialect(broker.settings), {"content-type": "application/json"}
    body = json.dumps({"id": "i", "channel": "pictures", "field": "data.a"})
    assert value_of(http_request(broker, dialect, "POST", "/events/v1/indices", body, headers)).status < 300
    published(broker, durable=True)
    published(broker, b'{"a":"x"}', "", durable=True)
    answer = value_of(http_request(broker, dialect, "GET", "/events/v1/indices/i/x"))
    assert [row["id"] for row in json.loads(answer.body)["rows"]] == [2]


def test_thinws_shows_it():
    broker = make_broker()
    client = connect(broker, thinws.dialect(broker.settings))
    client.peer.subscribe("pictures")
    published(broker)
    shown = json.loads(client.link.take()[-1])
    assert shown == {"type": "message", "roomID": "pictures", "message": SHOWN, **MARK}


def test_http_shows_it_in_pages_and_streams():
    api = Api()
    one, several = api.listen("/topics/pictures"), api.listen("/events?topic=pictures")
    published(api.broker, durable=True)
    (page,) = api.get("/topics/pictures").json["events"]
    (first,), (second,) = events_of(one.take()), events_of(several.take())
    assert json.loads(first["data"]) == {"payload": SHOWN, **MARK}
    for event in (page, json.loads(second["data"])):
        assert (event["payload"], marks(event)) == (SHOWN, MARK)
    one.leave()
    several.leave()


def test_http_takes_and_gives_a_body_as_it_is():
    api = Api()
    stored = api.post("/topics/pictures/events?durable=1", PNG, {"Content-Type": "image/png"})
    assert (stored.status, stored.json["id"]) == (201, 1)
    for position in ("1", f"{stored.json['epoch']}-1"):
        answer = api.get(f"/topics/pictures/events/{position}")
        assert (answer.status, answer.text, answer.response.content_type) == (200, PNG, "image/png")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["ETag"] == f'"{stored.json["epoch"]}-1"'


@pytest.mark.parametrize(
    ("body", "content_type", "shown"),
    [
        (b'{"a": 1}', "application/json", "application/json"),
        (b'{"a": 1}', "application/cloudevents+json", "application/cloudevents+json"),
        (b"<p>", "text/html", "text/html"),
        (b"x", "no type", "application/octet-stream"),
        (b"x", "", "application/octet-stream"),
        (b"", "text/plain", "text/plain"),
    ],
)
def test_http_gives_the_content_type_that_was_said(body, content_type, shown):
    api = Api()
    assert api.post("/topics/t/events?durable=1", body, {"Content-Type": content_type}).status == 201
    answer = api.get("/topics/t/events/1")
    assert (answer.status, answer.text, answer.response.content_type) == (200, body, shown)


def test_http_has_no_body_where_there_is_none():
    api = Api()
    api.store("", "1")
    assert [api.get(f"/topics/news/events/{id}").status for id in (1, 2)] == [204, 200]
    assert [api.get(f"/topics/news/events/{id}").status for id in (0, 3, "x", "other-1")] == [404, 404, 400, 410]
    assert api.post("/topics/news/events", "{", {"Content-Type": "application/json"}).status == 400
    assert api.post("/topics/news/events", "x", {"Content-Encoding": "gzip"}).status == 415


def test_what_is_kept_as_the_last_one_is_still_what_it_was():
    broker = make_broker()
    for body in (PNG, b"null"):
        published(broker, body, retain=True)
        (event,) = value_of(broker.attach("camera", "").last("pictures"))
        assert (event.body, event.binary, event.content_type) == (body, True, "image/png")


def test_what_a_session_leaves_behind_is_still_what_it_was():
    broker = make_broker()
    peer = broker.attach("camera", "")
    peer.bind(BaseSession())
    value_of(peer.set_testament("pictures", "last", PNG, retain=True, content_type="image/png"))
    peer.close()
    (event,) = value_of(broker.attach("camera", "").last("pictures"))
    assert (event.body, event.binary, event.content_type) == (PNG, True, "image/png")


@pytest.mark.parametrize(("name", "begin"), [("lines", ""), ("telnet", "\n")])
def test_dialects_of_the_documentation_show_it(name, begin):
    broker = make_broker()
    client = connect(broker, load_example(name).dialect(None))
    client.say("SUB pictures" + begin)
    published(broker)
    assert client.link.take() == [f'EVENT pictures "{SHOWN}"{begin}'.encode()]


def test_the_interface_of_http_says_what_there_is():
    operations = {(each.method, each.path) for each in http(make_broker().settings).operations}
    assert {("POST", "/topics/{topic}/events"), ("GET", "/topics/{topic}/events/{position}")} <= operations
