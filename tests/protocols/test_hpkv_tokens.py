"""Who gets into HPKV, and with what: the handshake and the token endpoint."""

from __future__ import annotations

import json

import pytest
from twisted.internet.task import Clock

from broker.access.permissions import Permissions, Rule
from broker.access.principals import Access
from broker.config.settings import Settings
from broker.errors import Refused, Unavailable
from broker.messages import HttpRequest
from broker.testing import make_broker
from protocols.hpkv import dialect
from protocols.hpkv.patterns import MAX_PATTERNS
from tests.protocols.hpkv_client import Bench, frame, say, told

KEYS = {"shop": "shop-key", "till": "till-key"}


@pytest.fixture
def clock():
    clock = Clock()
    clock.advance(1_000_000_000)
    return clock


@pytest.fixture
def bench(clock):
    access = Access("required", secrets=("shared-secret",), keys=dict(KEYS))
    return Bench(make_broker(clock, access), dialect(Settings(api_keys=KEYS, token_seconds=100.0)))


@pytest.fixture
def open_bench(clock):
    return Bench(make_broker(clock), dialect(Settings()))


def refused(bench, query, **headers):
    with pytest.raises(Refused) as caught:
        bench.enter(query, **headers)
    return caught.value.status, json.loads(caught.value.body)["error"]


# The handshake


@pytest.mark.parametrize(
    "query", ["apiKey=shop-key", "apiKey=shared-secret", "x=1&apiKey=till-key&y", "apiKey=shop%2Dkey"]
)
def test_a_key_lets_in(bench, query):
    assert say(bench.enter(query), frame(2, "k", "v"))["code"] == 200


def test_a_key_may_come_in_a_header(bench):
    assert bench.enter("", **{"x-api-key": "shop-key"}).peer.identity.name == "shop"


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", "Invalid token"),
        ("apiKey=wrong", "Invalid API key"),
        ("apiKey=", "Invalid token"),
        ("token=", "Invalid token"),
        ("token=invalid-token", "Invalid token"),
        ("token=shop-key", "Invalid token"),
        ("apikey=shop-key", "Invalid token"),
    ],
)
def test_whatever_else_is_refused_with_403(bench, query, text):
    assert refused(bench, query) == (403, text)


def test_without_any_credential_configured_any_key_will_do(open_bench):
    assert say(open_bench.api("anything"), frame(2, "k", "v"))["code"] == 200
    assert refused(open_bench, "")[0] == refused(open_bench, "token=x")[0] == 403


def test_of_both_the_key_decides(bench):
    token = bench.token(key="shop-key")
    assert say(bench.enter(f"apiKey=shop-key&token={token}"), frame(1, "k"))["code"] == 404
    assert refused(bench, f"apiKey=wrong&token={token}") == (403, "Invalid API key")


def test_a_plus_in_a_key_is_a_plus(clock):
    bench = Bench(make_broker(clock, Access("required", keys={"a": "k+1&"})), dialect(Settings(api_keys={"a": "k+1&"})))
    assert bench.enter("apiKey=k+1%26").peer.identity.name == "a"


def test_while_the_store_is_away_nobody_is_told_that_the_token_is_wrong(bench):
    bench.broker.tokens._key = b""
    bench.broker.stopService()
    with pytest.raises(Unavailable):
        bench.enter("token=x")


def test_a_key_has_no_notifications(bench):
    client = bench.api("shop-key")
    say(client, frame(2, "k", "v"))
    say(bench.api("till-key"), frame(2, "k", "v"))
    assert client.link.take() == []


# Asking for a token


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"subscribeKeys": ["k"]},
        {"subscribePatterns": ["k*"], "accessPattern": "^k"},
        {"subscribeKeys": ["k"], "subscribePatterns": ["k"], "accessPattern": "", "other": 1},
        {"subscribeKeys": None, "subscribePatterns": None, "accessPattern": None},
    ],
)
def test_a_token_is_given(bench, body):
    answer = bench.ask(body, **{"x-api-key": "shop-key"})
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert list(json.loads(answer.body)) == ["token"]
    assert ("Cache-Control", "no-store") in answer.headers


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "Invalid request"),
        (b"{", "Invalid request"),
        (b"[]", "Invalid request"),
        (b"null", "Invalid request"),
        (b"[" * 100_000, "Invalid request"),
        (b'{"subscribeKeys":"k"}', "Invalid request"),
        (b'{"subscribeKeys":[1]}', "Invalid request"),
        (b'{"subscribePatterns":{}}', "Invalid request"),
        (b'{"accessPattern":5}', "Invalid request"),
        (b'{"accessPattern":"\\ud800"}', "Invalid request"),
        (b'{"accessPattern":"\xff"}', "Invalid request"),
        (b'{"subscribeKeys":[""]}', "Invalid subscribe pattern"),
        (b'{"subscribePatterns":[""]}', "Invalid subscribe pattern"),
        (b'{"subscribePatterns":["(a+)+"]}', "Invalid subscribe pattern"),
        (b'{"accessPattern":"(a+)+"}', "Invalid access pattern"),
        (b'{"accessPattern":"%b"}' % (b"x" * 257), "Invalid access pattern"),
    ],
)
def test_a_bad_request_is_refused_with_400(bench, body, text):
    answer = bench.ask(body, **{"x-api-key": "shop-key"})
    assert (answer.status, json.loads(answer.body)) == (400, {"error": text})


def test_a_token_says_no_more_than_a_url_holds(bench):
    answer = bench.ask({"subscribeKeys": ["x" * 1000] * 5}, **{"x-api-key": "shop-key"})
    assert (answer.status, json.loads(answer.body)) == (413, {"error": "Too many patterns"})
    assert len(bench.token(keys=["x" * 1000] * 4, key="shop-key")) < 8000


def test_a_token_has_so_many_patterns(bench):
    patterns = [f"p{number}*" for number in range(MAX_PATTERNS + 1)]
    answer = bench.ask({"subscribePatterns": patterns}, **{"x-api-key": "shop-key"})
    assert (answer.status, json.loads(answer.body)) == (413, {"error": "Too many patterns"})
    assert bench.token(patterns=[*patterns[1:], "plain"], keys=["k"], key="shop-key")


@pytest.mark.parametrize("key", ["", "wrong"])
def test_without_a_good_key_there_is_no_token(bench, key):
    answer = bench.ask({}, **{"x-api-key": key})
    assert (answer.status, json.loads(answer.body)) == (401, {"error": "Invalid API key"})


def test_a_key_may_be_forbidden_to_make_tokens(clock):
    permissions = Permissions(
        {"key:till": {"read": Rule((">",))}, "key:shop": {"mint": Rule((">",)), "read": Rule((">",))}}
    )
    bench = Bench(
        make_broker(clock, Access("required", keys=KEYS, permissions=permissions)), dialect(Settings(api_keys=KEYS))
    )
    answer = bench.ask({}, **{"x-api-key": "till-key"})
    assert (answer.status, json.loads(answer.body)) == (403, {"error": "This key may not make tokens"})
    holder = bench.enter("token=" + bench.token(access="k", key="shop-key"))
    assert say(holder, frame(1, "k"))["code"] == 404
    assert say(holder, frame(2, "k", "v")) == {"code": 403, "error": "Access denied"}


def test_too_many_requests_are_told_when_to_come_again(clock):
    bench = Bench(make_broker(clock, rate=0.1, rate_burst=1), dialect(Settings()))
    bench.token()
    answer = bench.ask({})
    assert (answer.status, dict(answer.headers)["Retry-After"]) == (429, "10")


def test_while_the_store_is_away_there_is_no_token(bench):
    bench.broker.stopService()
    answer = bench.ask({}, **{"x-api-key": "shop-key"})
    assert (answer.status, json.loads(answer.body)) == (500, {"error": "Internal server error"})


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_not_allowed(bench, method):
    answer = bench.ask(b"", method)
    assert (answer.status, dict(answer.headers)["Allow"]) == (405, "POST, OPTIONS")


def test_a_browser_may_ask_first(bench):
    answer = bench.ask(b"", "OPTIONS", origin="https://anywhere.example")
    assert (answer.status, answer.body) == (204, b"")
    assert dict(answer.headers) == {
        "Access-Control-Allow-Methods": "POST",
        "Access-Control-Allow-Headers": "content-type, x-api-key",
        "Access-Control-Max-Age": "86400",
    }


def test_what_the_transport_refuses_has_the_same_shape(bench):
    request = HttpRequest("POST", "/token/websocket", "", {})
    for known in (request, None):
        answer = bench.dialect.refusal(413, "The body is over 5 bytes.", known)
        assert (answer.status, json.loads(answer.body)) == (413, {"error": "The body is over 5 bytes."})


# A token's life


def test_a_token_is_good_more_than_once(bench):
    token = bench.token(keys=["k"], key="shop-key")
    first, second = bench.enter(f"token={token}"), bench.enter(f"token={token}")
    say(bench.api("shop-key"), frame(2, "k", "v"))
    assert told(first) == told(second) == [("k", "v")]
    first.leave()
    again = bench.enter(f"token={token}")
    say(bench.api("shop-key"), frame(2, "k", "w"))
    assert told(again) == [("k", "w")]


def test_at_its_end_the_connection_is_closed_and_refused_from_then_on(bench, clock):
    token = bench.token(keys=["k"], key="shop-key")
    client = bench.enter(f"token={token}")
    clock.advance(99.0)
    assert client.link.closed is None
    clock.advance(1.0)
    assert client.link.closed == (4001, "token expired")
    assert refused(bench, f"token={token}") == (403, "Invalid token")


def test_a_token_speaks_for_its_key(bench):
    assert bench.enter("token=" + bench.token(key="till-key")).peer.identity.name == "till"
