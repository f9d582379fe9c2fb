"""Presence and last values over the HTTP API."""

from __future__ import annotations

import json

import pytest

from broker.core.members import GRACE
from broker.sessions import BaseSession
from broker.testing import value_of
from tests.protocols.http_api import STREAM, Api, bodies_of, events_of


@pytest.fixture
def api() -> Api:
    return Api()


def test_who_is_present_is_shown(api: Api) -> None:
    assert api.get("/topics/chat/members").json == {"members": [], "count": 0}
    peer = api.broker.attach("test", "127.0.0.1")
    peer.subscribe("chat")
    peer.enter("chat", b'{"nick":"Ann"}')
    members = [{"id": peer.client, "sessions": 1, "info": {"nick": "Ann"}}]
    assert api.get("/topics/chat/members").json == {"members": members, "count": 1}
    assert api.ask("HEAD", "/topics/chat/members").status == 200
    assert api.post("/topics/chat/members").headers["Allow"] == "GET, HEAD, OPTIONS"


def test_of_very_many_members_the_first_are_shown_and_all_counted() -> None:
    api = Api(send_queue_bytes=20_000)
    for _ in range(5):
        peer = api.broker.attach("test", "127.0.0.1")
        peer.subscribe("chat")
        peer.enter("chat", json.dumps("x" * 4000).encode())
    answer = api.get("/topics/chat/members").json
    assert (len(answer["members"]), answer["count"]) == (2, 5)


def test_members_are_shown_in_pages_by_their_ids(api: Api) -> None:
    for _ in range(3):
        peer = api.broker.attach("test", "127.0.0.1")
        peer.subscribe("chat")
        peer.enter("chat")
    first = api.get("/topics/chat/members?limit=2").json
    assert (len(first["members"]), first["count"], first["more"]) == (2, 3, True)
    last = api.get(f"/topics/chat/members?after={first['members'][-1]['id']}").json
    assert (len(last["members"]), last["more"]) == (1, False)
    ids = [member["id"] for page in (first, last) for member in page["members"]]
    assert ids == sorted(ids)
    assert api.get("/topics/chat/members?limit=0").status == 400


def test_that_somebody_comes_and_goes_is_followed_as_a_topic(api: Api) -> None:
    stream = api.listen("/topics/broker.presence.chat")
    peer = api.broker.attach("test", "127.0.0.1")
    peer.bind(BaseSession())
    peer.subscribe("chat")
    peer.enter("chat")
    peer.close()
    api.clock.advance(GRACE)
    assert [(event["event"], json.loads(event["data"])) for event in events_of(stream.take())] == [
        ("join", {"id": peer.client}),
        ("leave", {"id": peer.client}),
    ]


def test_a_stream_may_begin_with_the_last_value_of_a_live_topic(api: Api) -> None:
    assert api.post("/topics/temperature?retain=1", "20").status == 202
    api.post("/topics/temperature?retain=1&name=degrees", "21.5")
    stream = api.listen("/topics/temperature?last=3")
    (event,) = events_of(stream.take())
    assert event == {"event": "degrees", "data": "21.5"}
    api.post("/topics/temperature", "22")
    assert bodies_of(stream) == ["22"]
    api.post("/topics/temperature?retain=1", "null")
    assert bodies_of(api.listen("/topics/temperature?last=1")) == []


def test_the_topics_of_the_setting_keep_their_last_value() -> None:
    api = Api(retained_topics=("temperature.*",))
    api.post("/topics/temperature.a", "20")
    assert bodies_of(api.listen("/topics/temperature.a?last=1")) == ["20"]
    assert bodies_of(api.listen("/topics/temperature.a")) == []


def test_a_stream_may_begin_with_the_newest_stored_events(api: Api) -> None:
    epoch = api.store("1", "2", "3")[0]["epoch"]
    stream = api.listen("/topics/news?last=2")
    assert [(event["id"], event["data"]) for event in events_of(stream.take())] == [
        (f"{epoch}-2", "2"),
        (f"{epoch}-3", "3"),
    ]
    api.store("4")
    assert bodies_of(stream) == ["4"]


def test_who_comes_back_gets_what_it_has_missed_instead(api: Api) -> None:
    epoch = api.store("1", "2", "3")[0]["epoch"]
    assert bodies_of(api.listen("/topics/news?last=1", {"Last-Event-ID": f"{epoch}-1"})) == ["2", "3"]
    api.post("/topics/live?retain=1", '"now"')
    assert bodies_of(api.listen("/topics/live?last=1", {"Last-Event-ID": f"{epoch}-0"})) == ['"now"']


def test_an_older_value_does_not_come_after_a_newer_one(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.post("/topics/t?retain=1", "1")
    peer_class = type(api.broker.attach("test", "127.0.0.1"))
    last = peer_class.last

    async def late(peer, topic, limit=1):
        kept = await last(peer, topic, limit)
        if peer.session is not None:  # it is followed by now: another one comes while the store is read
            value_of(api.broker.attach("test", "127.0.0.1").publish("t", "t", b"2"))
        return kept

    monkeypatch.setattr(peer_class, "last", late)
    api.clock.advance(1)
    assert bodies_of(api.listen("/topics/t?last=1")) == ["2"]


@pytest.mark.parametrize("query", ["last=0", "last=1001", "last=1&from=start", "last=1&cursor=me", "last=x"])
def test_a_wrong_last_is_named(api: Api, query: str) -> None:
    answer = api.get(f"/topics/news?{query}", STREAM)
    assert (answer.status, answer.json["code"]) == (400, "INVALID")
    assert "last" in answer.json["detail"]
