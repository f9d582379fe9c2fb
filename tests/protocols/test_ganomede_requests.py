"""Routes, errors, bodies, secrets: what comes before a handler does its work."""

from __future__ import annotations

import gzip
import json
import random
import socket
from base64 import b64encode
from hashlib import md5
from time import thread_time
from types import SimpleNamespace
from typing import Any

import pytest

from broker.access.permissions import Permissions, Rule
from broker.access.principals import Access
from broker.errors import Unavailable
from broker.messages import HttpRequest
from broker.testing import value_of
from protocols.ganomede.requests import MAX_ESCAPES, read_query, unquote, whole_number
from protocols.ganomede.server import preferred
from tests.protocols.ganomede_api import EVENTS, SECRET, Api, error

GOOD = b'{"clientId":"w1","channel":"ch1","secret":"1234","from":"svc/v1","type":"ARR","data":[1,2,3]}'
FORM = "application/x-www-form-urlencoded"


@pytest.fixture
def api():
    return Api()


# Routes

ROUTES = [
    ("/events/v1/events", "GET, POST"),
    ("/events/v1/latest", "GET"),
    ("/latest", "GET"),
    ("/events/v1/indices", "POST"),
    ("/events/v1/indices/by-user/alice", "GET"),
    ("/events/v1/ping/ruok", "GET, HEAD"),
    ("/events/v1/about", "GET"),
    ("/about", "GET"),
]


@pytest.mark.parametrize(("path", "allowed"), ROUTES)
@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"])
def test_other_methods_of_a_known_path_are_not_allowed(api, path, allowed, method):
    if method in allowed:
        return
    response = api.ask(method, path)
    assert (response.status, response.plain) == (405, True)
    assert response.body == error("MethodNotAllowed", f"{method} is not allowed")
    assert response.headers == (("Allow", allowed),)


@pytest.mark.parametrize(
    "path",
    [
        "/events/v1/events/",
        "/events/v1/nothing",
        "/events/v1/",
        "/events/v1/ping",
        "/events/v1/ping/a/b",
        "/events/v1/indices/x",
        "/events/v1/indices/x/y/z",
        "/events/v1/ping/%zz",
        "/events/v1/ping/%ff",
        "/events/v1/indices/%zz/y",
        "/events/v1/indices/x/%zz",
    ],
)
def test_other_paths_do_not_exist(api, path):
    response = api.ask("GET", path + "?secret=1234")
    assert (response.status, response.plain) == (404, True)
    assert response.body == error("ResourceNotFound", f"{path} does not exist")


def test_the_public_port_refuses_in_the_words_of_the_dialect(api):
    request = HttpRequest("PUT", "/events/v1/events", "secret=1234", {})
    said = {status: api.dialect.refusal(status, "So it is.", request) for status in (400, 404, 405, 413, 499, 500)}
    assert said[400].body == error("BadRequest", "So it is.")
    assert said[404].body == error("ResourceNotFound", "/events/v1/events does not exist")
    assert said[405].body == error("MethodNotAllowed", "PUT is not allowed")
    assert said[405].headers == (("Allow", "GET, POST"),)
    assert said[413].body == error("RequestEntityTooLarge", "So it is.")
    assert said[499].body == error("BadRequest", "So it is.")
    assert said[500].body == error("Internal", "So it is.")
    assert [status for status in said if not said[status].plain] == [500]


# Ping and about


@pytest.mark.parametrize(
    ("token", "said"),
    [("ruok", "pong/ruok"), ("", "pong/"), ("a%2Fb%20c", "pong/a/b c"), ("_health_check", "pong/_health_check")],
)
def test_ping_answers_its_token_decoded_once(api, token, said):
    response = api.ask("GET", f"/events/v1/ping/{token}")
    assert (response.status, response.content_type, response.plain) == (200, "application/json", False)
    assert json.loads(response.body) == said


def test_ping_heeds_accept(api):
    plain = api.ask("GET", "/events/v1/ping/x", accept="text/plain")
    assert (plain.status, plain.content_type, plain.body) == (200, "text/plain", b"pong/x")
    none = api.ask("GET", "/events/v1/ping/x", accept="text/html")
    assert (none.status, none.body, none.content_type) == (406, b"", "")
    assert api.ask("HEAD", "/events/v1/ping/x").status == 200


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/html, */*;q=0.1", "application/json"),
        ("application/json;q=0.2, text/plain", "text/plain"),
        ("TEXT/*", "text/plain"),
        ("image/png", None),
        ("application/json;q=0", None),
        ("application/json;q=.", "application/json"),
        ("application/json;q=0, */*", "text/plain"),
        ("*/*, application/json; Q=0.0", "text/plain"),
        ("application/*;q=0, */*;q=0.1", "text/plain"),
        ("text/plain;q=0, text/*, application/json;q=0.1", "application/json"),
        ("text/plain;q=0, text/*", None),
        ("*/*;q=0", None),
        ("*/*;q=0, text/plain", "text/plain"),
        ("text/*;q=0.5, */*;q=0.9, application/json;q=0.6", "application/json"),
        ("text/*;q=0.9, text/plain;q=0.1, application/json;q=0.2", "application/json"),
        ('text/html;x="a, application/json", text/plain', "text/plain"),
        ("text/plain, application/json", "text/plain"),
        (" , ", "application/json"),
        ("gibberish", None),
        ('text/html;x="a, application/json', None),
        ('text/plain, text/html;x="a\\', "text/plain"),
    ],
)
def test_the_preferred_type(accept, kind):
    assert preferred(accept) == kind


@pytest.mark.parametrize("accept", ['"' + '\\"' * 16_000, 'a"\\' * 10_000, '"' * 32_001, "; " * 16_000, ";q=" * 10_000])
def test_no_field_of_a_request_takes_long_to_read(accept):
    began = thread_time()
    preferred(accept)
    assert thread_time() - began < 1  # it takes some milliseconds; to look for each end of a string took 10


@pytest.mark.parametrize("path", ["/about", "/events/v1/about"])
def test_about_names_the_original_as_its_type(api, path):
    response = api.ask("GET", path)
    assert (response.status, response.content_type) == (200, "application/json; charset=UTF-8")
    about = json.loads(response.body)
    assert about["type"] == "ganomede-events"
    assert about["startDate"] == "2026-11-20T21:46:23.941Z"
    assert {"hostname", "version", "description", "store", "epoch"} <= set(about)
    assert socket.gethostname() not in response.body.decode()
    assert SECRET not in response.body.decode()


# The order of the checks, and the words

PROTECTED = [
    ("GET", "/events/v1/events"),
    ("POST", "/events/v1/events"),
    ("GET", "/events/v1/latest"),
    ("GET", "/latest"),
    ("POST", "/events/v1/indices"),
    ("GET", "/events/v1/indices/a/b"),
    ("GET", "/events/v1/indices/a/"),
]


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize(
    "query", ["", "secret=", "secret=wrong", "secret=1234&secret=1234", "secret[]=1234", "Secret=1234"]
)
def test_without_a_good_secret_nothing_else_is_looked_at(api, method, path, query):
    response = api.ask(method, f"{path}?{query}")
    assert (response.status, response.plain) == (401, False)
    assert response.body == error("InvalidCredentialsError", "")
    assert response.headers == (("WWW-Authenticate", 'Secret realm="ganomede-events"'),)


@pytest.mark.parametrize(
    "secret",
    [b"1234", b"null", b'""', b'["1234"]', b'{"a":"1234"}', b'"12345"', b'"\\u00e9"', b"true"],
)
def test_a_secret_that_is_not_the_text_is_refused(api, secret):
    response = api.post_raw(GOOD.replace(b'"1234"', secret))
    assert (response.status, response.body) == (401, error("InvalidCredentialsError", ""))


def test_the_secret_is_taken_from_the_body_and_else_from_the_query(api):
    without = GOOD.replace(b'"secret":"1234",', b"")
    assert api.post_raw(without, EVENTS + "?secret=1234").status == 200
    assert api.post_raw(GOOD.replace(b'"1234"', b'"wrong"'), EVENTS + "?secret=1234").status == 200
    assert api.post_raw(GOOD, EVENTS + "?secret=wrong").status == 200
    assert api.post_raw(GOOD.replace(b'"1234"', b'"wrong"'), EVENTS + "?secret=wrong").status == 401


def test_where_no_credential_is_asked_for_any_secret_will_do_and_none_too():
    api = Api(Access())
    assert api.post_raw(GOOD).status == 200
    assert api.post_raw(GOOD.replace(b'"1234"', b'"other"')).status == 200
    assert api.post_raw(GOOD.replace(b'"secret":"1234",', b"")).status == 200
    assert api.post_raw(GOOD.replace(b'"1234"', b"1234")).status == 401
    assert api.ask("GET", "/latest?channel=ch1").status == 200
    assert api.ask("GET", "/latest?channel=ch1&secret=").status == 401


def test_a_named_key_is_a_secret_with_permissions_of_its_own():
    rules = Permissions({"key:alice": {"read": Rule(allow=("news",))}})
    api = Api(Access(mode="required", secrets=(SECRET,), keys={"alice": "al1ce"}, permissions=rules))
    assert api.ask("GET", "/latest?channel=news&secret=al1ce").status == 200
    refused = api.ask("GET", "/latest?channel=other&secret=al1ce")
    assert (refused.status, refused.body) == (403, error("Forbidden", "read other"))


def test_a_secret_may_have_blanks():
    api = Api(Access(mode="required", secrets=(" two  words ",)))
    assert api.ask("GET", "/latest?channel=ch&secret=+two++words+").status == 200
    assert api.ask("GET", "/latest?channel=ch&secret=words").status == 401


CHECKS = [
    (b'"clientId":"w1",', b"", "Invalid Client ID"),
    (b'"w1"', b'""', "Invalid Client ID"),
    (b'"w1"', b"7", "Invalid Client ID"),
    (b'"ch1"', b"null", "Invalid Channel"),
    (b'"ch1"', b'""', "Invalid Channel"),
    (b'"ch1"', b'["ch1"]', "Invalid Channel"),
    (b'"ch1"', b'"a\\u0000b"', "Invalid Channel: it has a control character"),
    (b'"ch1"', b'"%b"' % (b"x" * 256), "Invalid Channel: longer than 255 characters"),
    (b'"svc/v1"', b"{}", "Invalid from"),
    (b'"from"', b'"From"', "Invalid from"),
    (b'"ARR"', b'""', "Invalid type"),
    (b'"ARR"', b"0.5", "Invalid type"),
    (b"[1,2,3]", b"null", "Invalid data"),
    (b"[1,2,3]", b"0", "Invalid data"),
    (b"[1,2,3]", b'"text"', "Invalid data"),
    (b"[1,2,3]", b"true", "Invalid data"),
    (b"[1,2,3]", b"12", "Invalid data"),
    (b"[1,2,3]", b"[1e309]", "Invalid data"),
    (b"[1,2,3]", b'{"a":[-%b]}' % (b"9" * 309), "Invalid data"),
]


@pytest.mark.parametrize(("part", "by", "message"), CHECKS)
def test_a_field_that_is_wrong_is_named(api, part, by, message):
    response = api.post_raw(GOOD.replace(part, by))
    assert (response.status, response.plain) == (400, False)
    assert response.body == error("InvalidContent", message)


def test_the_first_wrong_field_is_named(api):
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "Invalid Client ID"),
        ({"clientId": "w"}, "Invalid Channel"),
        ({"clientId": "w", "channel": "c", "data": None}, "Invalid from"),
        ({"clientId": "w", "channel": "c", "from": "f", "data": None}, "Invalid type"),
        ({"clientId": "w", "channel": "c", "from": "f", "type": "t", "data": None}, "Invalid data"),
    ]
    for said, message in cases:
        response = api.post_raw(json.dumps({"secret": SECRET, **said}).encode())
        assert response.body == error("InvalidContent", message)


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b'"s"', b"null", b"{}", b"true", b'[{"clientId":"w"}]', b" [1] "])
def test_a_body_that_is_no_object_has_no_fields(api, body):
    assert api.post_raw(body).status == 401
    response = api.post_raw(body, EVENTS + "?secret=1234&clientId=w&channel=c&from=f&type=t")
    assert (response.status, response.body) == (400, error("InvalidContent", "Invalid Client ID"))


@pytest.mark.parametrize("name", ["__proto__", "constructor", "toString", "a:b", "ünï ✓", "*", ">", "a.>", " "])
def test_any_name_is_a_name(api, name):
    assert json.loads(api.post(name, clientId=name).body)["id"] == 1
    assert api.ids(name, name, after=0) == [1]


@pytest.mark.parametrize("name", ["\x00", "a\x00b", "\n", "\x7f", "x" * 256, "x" * (1 << 20)])
def test_what_can_name_no_topic_can_name_no_channel(api, name):
    for response in (
        api.post(name),
        api.ask("GET", api.target(clientId="c", channel=name)),
        api.ask("GET", api.target("/latest", channel=name)),
    ):
        if response.status != 413:
            why = "it has a control character" if len(name) < 256 else "longer than 255 characters"
            assert (response.status, response.body) == (400, error("InvalidContent", f"Invalid Channel: {why}"))


def test_a_client_id_is_bounded(api):
    assert api.post(clientId="x" * 255).status == 200
    assert api.post(clientId="x" * 256).body == error("InvalidContent", "Invalid Client ID")
    assert api.ids("a : é\u2028", after=0) == [1]


def test_a_client_id_has_no_control_characters(api):
    polls = [api.poll("a\nb"), api.poll("a\x7f", after=1)]
    api.clock.advance(1)
    refused = [api.post(clientId="a\0b"), *map(value_of, polls)]
    assert {response.body for response in refused} == {error("InvalidContent", "Invalid Client ID")}


# Bodies

MALFORMED = [
    (b"{bad json", "Unexpected token b in JSON at position 1"),
    (b"{", "Unexpected end of JSON input"),
    (b'{"a', "Unexpected end of JSON input"),
    (b" ", "Unexpected end of JSON input"),
    (b"[1,", "Unexpected end of JSON input"),
    (b'{"clientId":7,', "Unexpected end of JSON input"),
    (b"{1:2}", "Unexpected number in JSON at position 1"),
    (b'{"a":1 "b"}', "Unexpected string in JSON at position 7"),
    (b"{} x", "Unexpected token x in JSON at position 3"),
    (b'{"a":tru}', "Unexpected token t in JSON at position 5"),
    (b'{"a":"\xff"}', "the text is not UTF-8"),
    (b'{"data":["\xff"]}', "the text is not UTF-8"),
    (b"\xff", "the text is not UTF-8"),
    (b"\xef\xbb\xbf{}", "Unexpected token \ufeff in JSON at position 0"),
    (b'{"data":[NaN]}', "Unexpected token NaN in JSON"),
    (b'{"data":' + b"1" * 5000 + b",}", "Unexpected token } in JSON at position 5009"),
    (b"[" * 100000, "nested too deeply"),
    (b"[" * 100000 + b"]" * 100000, "nested too deeply"),
    (b'{"data":' + b"[" * 100000 + b"]" * 100000 + b"}", "nested too deeply"),
]


@pytest.mark.parametrize(("body", "message"), MALFORMED)
def test_malformed_json_is_told_even_without_a_secret(api, body, message):
    response = api.post_raw(body)
    assert (response.status, response.plain) == (400, True)
    assert response.body == error("InvalidContent", f"Invalid JSON: {message}")


def test_lone_surrogate_is_fine_in_data_and_no_text_elsewhere(api):
    half = b'"\\ud800"'
    response = api.post_raw(GOOD.replace(b"[1,2,3]", b'{ "a": ' + half + b"}"))
    assert response.body.endswith(b',"data":{ "a": "\\ud800"}}')
    assert api.post_raw(GOOD.replace(b'"ARR"', half)).body == error("InvalidContent", "Invalid type")
    assert api.post_raw(GOOD.replace(b'"ch1"', half)).body == error("InvalidContent", "Invalid Channel")


def test_large_numbers_that_a_double_can_hold_pass_unchanged(api):
    data = b"[%b,1e308,1E-999]" % (b"9" * 308)
    assert api.post_raw(GOOD.replace(b"[1,2,3]", data)).body.endswith(b',"data":' + data + b"}")


def test_infinite_number_beside_a_lone_surrogate_is_refused(api):
    response = api.post_raw(GOOD.replace(b"[1,2,3]", b'["\\ud800",1e309]'))
    assert response.body == error("InvalidContent", "Invalid JSON: a number is out of range")


def test_the_last_of_duplicate_keys_counts(api):
    response = api.post_raw(GOOD[:-1] + b',"type":"LAST","data":{"b":2}}')
    assert response.body == b'{"id":1,"timestamp":1795211183941,"type":"LAST","from":"svc/v1","data":{"b":2}}'
    assert api.post_raw(GOOD[:-1] + b',"type":3}').body == error("InvalidContent", "Invalid type")


@pytest.mark.parametrize(
    "media", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.ganomede+json; v=1"]
)
def test_json_has_several_media_types(api, media):
    assert api.post_raw(GOOD, content_type=media).status == 200


@pytest.mark.parametrize("media", ["text/plain", "", "application/octet-stream", "multipart/form-data; boundary=x"])
def test_other_media_types_have_no_fields(api, media):
    response = api.post_raw(GOOD, EVENTS + "?secret=1234", content_type=media)
    assert (response.status, response.body) == (400, error("InvalidContent", "Invalid Client ID"))


def test_multipart_needs_a_boundary(api):
    response = api.post_raw(GOOD, content_type="multipart/form-data")
    assert (response.status, response.plain) == (400, True)
    assert response.body == error("BadRequest", "bad content-type header, no multipart boundary")


def test_a_form_has_some_thousand_escapes_at_most(api):
    body = b"clientId=w&channel=c&secret=1234&from=x&type=" + b"%41" * (MAX_ESCAPES - 9)
    assert api.post_raw(body, content_type=FORM).status == 200
    refusal = api.post_raw(body + b"%41" * 10, content_type=FORM)
    assert (refusal.status, b"at most 20000 percent escapes" in refusal.body) == (413, True)


def test_a_field_of_a_wrong_type_beside_very_many_others_is_refused(api):
    other = ",".join(f'"{number}":1' for number in range(30_000))
    refusal = api.post_raw(b'{"clientId":1,%b}' % other.encode())
    assert (refusal.status, b"too many members" in refusal.body) == (400, True)


def test_a_form_is_taken(api):
    body = b"clientId=w&channel=c%2F1+x&secret=1234&from=x&type=form"
    response = api.post_raw(body, content_type=FORM)
    assert response.body == b'{"id":1,"timestamp":1795211183941,"type":"form","from":"x"}'
    assert api.ids(channel="c/1 x") == [1]
    assert api.post_raw(body + b"&data=x", content_type=FORM).body == error("InvalidContent", "Invalid data")
    assert api.post_raw(body + b"&type=y", content_type=FORM).body == error("InvalidContent", "Invalid type")
    assert api.post_raw(b"\xff=%zz", content_type=FORM).status == 401


def test_a_gzipped_body_is_unpacked_within_the_limit():
    api = Api(max_message_bytes=1000)
    assert api.post_raw(gzip.compress(GOOD), content_encoding="gzip").status == 200
    bomb = api.post_raw(gzip.compress(b" " * 1001), content_encoding="gzip")
    assert (bomb.status, bomb.plain) == (413, True)
    assert bomb.body == error("RequestEntityTooLarge", "Request body size exceeds 1000")
    for broken in (gzip.compress(GOOD)[:-9], GOOD, b""):
        response = api.post_raw(broken, content_encoding="gzip")
        assert (response.status, response.body) == (400, error("BadRequest", "the body is no whole gzip stream"))
    assert api.post_raw(gzip.compress(b""), EVENTS + "?secret=1234", content_encoding="gzip").status == 400


@pytest.mark.parametrize(
    "coding", ["gzip", "GZIP", "x-gzip", "X-Gzip", " gzip ", "identity, gzip", "gzip,", "Identity , GZip"]
)
def test_content_codings_are_named_in_any_case(api, coding):
    assert api.post_raw(gzip.compress(GOOD), content_encoding=coding).status == 200


@pytest.mark.parametrize("coding", ["", "identity", "IDENTITY", "identity, identity"])
def test_no_coding_may_be_named_too(api, coding):
    assert api.post_raw(GOOD, content_encoding=coding).status == 200


def test_codings_are_taken_off_one_after_the_other(api):
    twice = gzip.compress(gzip.compress(GOOD))
    assert api.post_raw(twice, content_encoding="gzip, x-gzip").status == 200
    assert api.post_raw(twice, content_encoding="gzip").status == 400
    assert api.post_raw(twice, content_encoding=", ".join(["gzip"] * 4)).status == 415


def test_members_of_a_gzip_stream_are_one_body():
    api = Api(max_message_bytes=1000)
    halves = gzip.compress(GOOD[:40]), gzip.compress(b""), gzip.compress(GOOD[40:])
    assert api.post_raw(b"".join(halves), content_encoding="gzip").status == 200
    assert api.post_raw(b"".join(halves[:2]), content_encoding="gzip").status == 400
    assert api.post_raw(b"".join(halves) + b"x", content_encoding="gzip").status == 400
    assert api.post_raw(b"".join(halves)[:-1], content_encoding="gzip").status == 400
    large = gzip.compress(b" " * 600)
    assert api.post_raw(large + large, content_encoding="gzip").status == 413


def test_members_of_a_gzip_stream_are_bounded(api):
    empty = gzip.compress(b"")
    assert api.post_raw(empty * 999 + gzip.compress(GOOD), content_encoding="gzip").status == 200
    assert api.post_raw(empty * 50_000, content_encoding="gzip").status == 400


def test_large_body_comes_out_whole_however_it_is_packed():
    api = Api(max_message_bytes=1 << 20)
    text = b64encode(random.Random(1).randbytes(100_000))
    body = GOOD.replace(b"[1,2,3]", b'["%b"]' % text)
    for cut in (1, 4095, 4096, 50_000):
        packed = gzip.compress(body[:cut]) + gzip.compress(body[cut:])
        answer = api.post_raw(packed, content_encoding="gzip")
        assert answer.status == 200
        assert text in answer.body


def test_other_content_codings_are_not_supported(api):
    assert api.post_raw(gzip.compress(GOOD), content_encoding="gzip, br").status == 415
    response = api.post_raw(GOOD, content_encoding="br")
    assert (response.status, response.headers) == (415, (("Accept-Encoding", "gzip"),))
    assert response.body == error("UnsupportedMediaType", "content encoding not supported")


def test_a_body_over_the_limit_is_refused():
    api = Api(max_message_bytes=len(GOOD))
    assert api.post_raw(GOOD).status == 200
    assert api.post_raw(GOOD + b" ").status == 413


def test_a_digest_is_compared(api):
    digest = b64encode(md5(GOOD).digest()).decode()
    assert api.post_raw(GOOD, content_md5=digest).status == 200
    packed = gzip.compress(GOOD)
    of_packed = b64encode(md5(packed).digest()).decode()
    assert api.post_raw(packed, content_md5=of_packed, content_encoding="gzip").status == 200
    response = api.post_raw(GOOD, content_md5="bm9uZQ==")
    assert (response.status, response.plain) == (400, True)
    assert response.body == error("BadDigest", f"Content-MD5 'bm9uZQ==' didn't match '{digest}'")
    assert api.post_raw(b"", content_md5="bm9uZQ==").status == 401


# Parameters


@pytest.mark.parametrize(
    "text",
    ["", "abc", "-1", "1.5", "01", "+1", "-0", "9007199254740992", "1e3", "0x1", "99999999999999999", "١", " 1", "1 "],
)
def test_only_the_canonical_form_is_a_number(text):
    assert whole_number(text) is None


@pytest.mark.parametrize("number", [0, 1, 10, 2**53 - 1])
def test_canonical_numbers(number):
    assert whole_number(str(number)) == number


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("a=1&b=2", {"a": "1", "b": "2"}),
        ("a=x%2Fy+z", {"a": "x/y z"}),
        ("a=100%25%zz+x", {"a": "100%25%zz x"}),
        ("a=%ff", {"a": "%ff"}),
        ("a=%2541", {"a": "%41"}),
        ("a", {"a": ""}),
        ("a=b=c", {"a": "b=c"}),
        ("a=1&a=2", {"a": ""}),
        ("a[]=1", {"a": ""}),
        ("a%5B0%5D=1", {"a": ""}),
        ("cl%69ent=x", {"client": "x"}),
        ("__proto__=x", {"__proto__": "x"}),
    ],
)
def test_queries(query, fields):
    assert read_query(query) == fields


def test_a_form_has_at_most_a_thousand_parameters():
    assert len(read_query("&".join(f"{n}=x" for n in range(5000)))) == 1000


def test_path_escapes_are_decoded_once():
    assert (unquote("a%2Fb%2520"), unquote("%zz"), unquote("%c3"), unquote("x")) == ("a/b%20", None, None, "x")


# Failures of the core


class Away:
    """Stands for a store that is not there."""

    wall, epoch, shared = SimpleNamespace(time=lambda: 0.0), "epoch", False

    def __getattr__(self, name):
        def refuse(*args, **kwargs):
            raise Unavailable("store")

        return refuse


def test_a_store_that_is_away_is_unavailable_in_the_shape_of_the_dialect(api, monkeypatch):
    monkeypatch.setattr(api.broker.channels, "_store", Away())
    for response in (api.post(), api.ask("GET", api.target(clientId="c", channel="ch", after=1))):
        assert (response.status, response.headers) == (503, (("Retry-After", "1"),))
        assert response.body == error("ServiceUnavailable", "store")


def test_a_rate_over_the_limit_is_told_with_the_time_to_wait():
    api = Api(rate=1.0, rate_burst=1)
    assert api.post().status == 200
    response = api.post()
    assert (response.status, response.headers) == (429, (("Retry-After", "1"),))
    assert response.body == error("TooManyRequests", "limit rate")


@pytest.mark.parametrize(
    "request_of",
    [
        lambda api: api.post(),
        lambda api: api.ask("GET", api.target(clientId="c", channel="ch")),
        lambda api: api.ask("GET", api.target(clientId="c", channel="ch", after=0)),
        lambda api: api.ask("GET", api.target(clientId="c", channel="ch", epoch="")),
        lambda api: api.ids("c", "quiet") or api.ask("GET", "/about"),
        lambda api: api.ids("c", "quiet", after=7) or api.ask("GET", "/about"),  # beyond the end: looks at the head
        lambda api: api.ask("GET", api.target("/latest", channel="ch")),
        lambda api: api.post_raw(b'{"secret":"1234","id":"j","channel":"ch","field":"type"}', "/events/v1/indices"),
        lambda api: api.ask("GET", "/events/v1/indices/i/T?secret=1234"),
    ],
)
def test_one_request_takes_one_token(request_of):
    api = Api(rate=0.001, rate_burst=4)
    api.post()
    api.post_raw(b'{"secret":"1234","id":"i","channel":"ch","field":"type"}', "/events/v1/indices")
    assert request_of(api).status == 200
    assert api.post().status == 200
    assert api.post().status == 429


@pytest.mark.parametrize("channel", ["broker", "broker.client.connected", "kv/k", "kv/"])
def test_names_of_the_broker_itself_can_not_be_posted_to(api, channel):
    response = api.post(channel)
    assert (response.status, json.loads(response.body)["code"]) == (403, "Forbidden")
