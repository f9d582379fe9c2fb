"""Indices: definitions, what matches, what a read answers."""

from __future__ import annotations

import json

import pytest

from broker.access.principals import Access
from broker.core.slices import SLICE, slices_of
from broker.messages import Event
from broker.testing import value_of
from protocols.ganomede import indices as ganomede_indices
from protocols.ganomede.indices import MAX_PARTS, MAX_PLACE, MAX_VALUE, path_of, text_at
from tests.protocols.ganomede_api import SECRET, Api, error

INDICES = "/events/v1/indices"


@pytest.fixture
def api():
    return Api()


def create(api, **fields):
    said = {"id": "by-user", "channel": "users", "field": "data.username", "secret": SECRET, **fields}
    return api.post_raw(json.dumps(said).encode(), INDICES)


def rows(api, value, index="by-user"):
    response = api.ask("GET", f"{INDICES}/{index}/{value}?secret=1234")
    assert response.status == 200, response.body
    return [row["id"] for row in json.loads(response.body)["rows"]]


def test_an_index_is_created_once(api):
    assert create(api).body == b'"OK"'
    assert create(api).body == b"null"
    assert create(api, channel="other", field="type").body == b"null"
    api.post("users", data={"username": "alice"})
    assert rows(api, "alice") == [1]


def test_a_read_answers_whole_events_the_newest_first(api):
    create(api)
    for n, name in enumerate(("alice", "bob", "alice"), 1):
        api.post("users", data={"username": name, "n": n})
    response = api.ask("GET", f"{INDICES}/by-user/alice?secret=1234")
    assert (response.status, response.content_type) == (200, "application/json")
    assert response.body == (
        b'{"id":"by-user","field":"data.username","value":"alice","rows":['
        b'{"id":3,"timestamp":1795211183941,"type":"T","from":"svc/v1","data":{"username": "alice", "n": 3}},'
        b'{"id":1,"timestamp":1795211183941,"type":"T","from":"svc/v1","data":{"username": "alice", "n": 1}}]}'
    )


def test_events_from_before_the_index_are_in_it_and_later_ones_too(api):
    api.post("users", data={"username": "alice"})
    create(api)
    assert rows(api, "alice") == [1]
    api.post("users", data={"username": "alice"})
    assert rows(api, "alice") == [2, 1]


def test_an_empty_channel_is_answered_at_once(api):
    create(api)
    response = api.ask("GET", f"{INDICES}/by-user/nobody?secret=1234")
    assert response.body == b'{"id":"by-user","field":"data.username","value":"nobody","rows":[]}'


def test_an_unknown_index_does_not_exist(api):
    response = api.ask("GET", f"{INDICES}/unknown/x?secret=1234")
    assert (response.status, response.plain) == (404, False)
    assert response.body == error("ResourceNotFound", "/events/v1/indices/unknown/x does not exist")


def test_empty_tokens_are_named(api):
    create(api)
    assert api.ask("GET", f"{INDICES}/by-user/?secret=1234").body == error("InvalidContent", "Invalid Index Value")
    assert api.ask("GET", f"{INDICES}//x?secret=1234").body == error("InvalidContent", "Invalid Index id")


def test_tokens_are_decoded(api):
    create(api, id="by/user ü")
    api.post("users", data={"username": "a/b&c%"})
    assert rows(api, "a%2Fb&c%25", "by%2Fuser%20%C3%BC") == [1]


def test_the_first_wrong_field_of_a_definition_is_named(api):
    assert create(api, id=1).body == error("InvalidContent", "Invalid index ID")
    assert create(api, id="x" * 256).body == error("InvalidContent", "Invalid index ID")
    assert create(api, id="", channel=None).body == error("InvalidContent", "Invalid index ID")
    assert create(api, channel=["users"], field="").body == error("InvalidContent", "Invalid Channel")
    assert create(api, field=0).body == error("InvalidContent", "Invalid field")
    assert create(api, field="x" * 1001).body == error("InvalidContent", "Invalid field")


def test_a_form_defines_an_index(api):
    body = b"id=i&channel=users&field=type&secret=1234"
    assert api.post_raw(body, INDICES, content_type="application/x-www-form-urlencoded").body == b'"OK"'


def test_names_of_indices_and_channels_do_not_collide(api):
    create(api, id="users", field="type")
    assert json.loads(api.post("users").body)["id"] == 1
    create(api, id="x", channel="users:y", field="type")
    assert rows(api, "T", "users") == [1]


def test_the_cursor_of_a_client_named_like_the_index_changes_nothing(api):
    create(api)
    api.post("users", data={"username": "alice"})
    assert api.ids("by-user", "users", after=1) == []
    assert rows(api, "alice") == [1]


def test_who_may_not_read_the_channel_may_not_read_its_index(api):
    from broker.access.permissions import Permissions, Rule

    rules = Permissions({"key:bob": {"read": Rule(allow=("news",))}})
    access = Access(mode="required", secrets=(SECRET,), keys={"bob": "b0b"}, permissions=rules)
    api = Api(access)
    assert create(api, channel="news", secret="b0b").body == b'"OK"'
    assert create(api, id="other", channel="users", secret="b0b").status == 403


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ("type", "T"),
        ("from", "svc"),
        ("data.username", "alice"),
        ("data.deep.a[0].b", "B"),
        ("data.deep.a.0.b", "B"),
        ('data["user name"]', "quoted"),
        ("data['user name']", "quoted"),
        ("data.empty", ""),
        ("data.number", None),
        ("data.null", None),
        ("data.deep", None),
        ("data.deep.a", None),
        ("data.deep.a[1]", None),
        ("data.deep.a[-1].b", None),
        ("data.deep.a[00].b", None),
        ("data.deep.a[99999999999999999999]", None),
        ("data.username.length", None),
        ("data.constructor.name", None),
        ("data.__proto__", None),
        ("data", None),
        ("id", None),
        ("timestamp", None),
        ("type.length", None),
        ("toString", None),
        (".", None),
        ("[", None),
    ],
)
def test_the_text_at_a_path(field, found):
    body = b'{"username":"alice","user name":"quoted","empty":"","number":42,"null":null,"deep":{"a":[{"b":"B"}]}}'
    assert text_at(Event("users", "T", body, "svc", id=1), field) == found


@pytest.mark.parametrize(
    ("body", "field", "found"),
    [
        (b'["x",%s1]' % (b"[]," * 30_000), "data[0]", "x"),
        (b'{%s"a":"x"}' % b"".join(b'"%d":1,' % number for number in range(30_000)), "data.a", "x"),
        (b'{"a":"x","a":"y"}', "data.a", "y"),
        (b'{"a\\"b":"x"}', 'data[a"b]', "x"),
        (b"[%s]" % b",".join(b'"%d"' % number for number in range(200)), "data[199]", "199"),
        (b"[%s]" % b",".join(b'"%d"' % number for number in range(MAX_PARTS + 2)), f"data[{MAX_PLACE}]", None),
        (b"[%s]" % b",".join(b'"%d"' % number for number in range(MAX_PARTS + 2)), "data[63]", "63"),
        (b'{%s"a\\"b":"x"}' % b"".join(b'"%d":1,' % number for number in range(30_000)), 'data[a"b]', None),
        (b'["x"]', "data.a", None),
        (b"{}", "data[0]", None),
    ],
    ids=range(10),
)
def test_the_text_at_a_path_of_a_large_body(body, field, found):
    assert text_at(Event("users", "T", body, "svc", id=1), field) == found


def test_the_text_at_a_path_into_an_array():
    event = Event("users", "T", b'["zero",["one"]]')
    assert [text_at(event, field) for field in ("data[0]", "data.0", "data[1][0]", "data.1.0", "data.x")] == [
        "zero",
        "zero",
        "one",
        "one",
        None,
    ]


@pytest.mark.parametrize("body", [None, b"[" * 5000 + b"]" * 5000, b'{"a":"\\ud800"}', b'"text"', b"1"])
def test_bodies_without_a_text_to_find(body):
    assert text_at(Event("users", "T", body), "data.a") is None


def test_a_text_nobody_can_ask_for_is_not_indexed():
    event = Event("users", "x" * (MAX_VALUE + 1), None)
    assert text_at(event, "type") is None


def test_paths():
    assert path_of("data.deep.a[0].b") == ("data", "deep", "a", "0", "b")
    assert path_of("") == ("",)


def test_many_rows_are_rendered_in_slices(api, monkeypatch):
    create(api)
    for _ in range(4):
        api.post("users", data={"username": "alice"})

    def slowly(event):
        api.clock.rightNow += SLICE
        return b"%d" % event.id

    monkeypatch.setattr(ganomede_indices, "encode", slowly)
    answer = api.start("GET", f"{INDICES}/by-user/alice?secret=1234")
    api.clock.pump([0] * 5)
    assert slices_of(api.clock).pauses >= 3
    assert value_of(answer).body.endswith(b'"rows":[4,3,2,1]}')
