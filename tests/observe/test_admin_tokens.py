"""Minted tokens are revoked by the admin port."""

import json

import pytest
from twisted.internet.defer import Deferred

from broker.access.principals import Access
from broker.errors import Unauthenticated
from broker.observe.admin.tokens import REVOKE, TokenPage
from broker.testing import http_request, make_broker, value_of

HEADERS = {"content-type": "application/json"}


def do(coroutine):
    return value_of(Deferred.fromCoroutine(coroutine))


@pytest.fixture
def broker():
    return make_broker(access=Access("required", keys={"ann": "ann-key"}), auth="required", api_keys={"ann": "ann-key"})


def minted(broker):
    peer = broker.attach("test", "127.0.0.1")
    peer.identify("ann-key")
    return do(peer.mint({}, 100))


def ask(broker, body, method="POST", headers=HEADERS):
    return value_of(http_request(broker, TokenPage(), method, REVOKE, body, headers))


@pytest.mark.parametrize("media", ["application/json", "Application/JSON; charset=utf-8"])
def test_a_token_is_revoked_as_often_as_that_is_asked_for(broker, media):
    token = minted(broker)
    for _ in range(2):
        answer = ask(broker, json.dumps({"token": token}), headers={"content-type": media})
        assert (answer.status, answer.body) == (200, b'{"revoked":true}')
    with pytest.raises(Unauthenticated):
        do(broker.attach("test", "").present(token))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"token":1}', b'{"token":"\xff"}', b"[" * 100_000])
def test_a_body_that_holds_no_token_is_refused(broker, body):
    answer = ask(broker, body)
    assert answer.status == 400
    assert json.loads(answer.body)["error"]["code"] == "INVALID"


def test_a_member_that_is_not_known_is_refused_by_its_name(broker):
    token = minted(broker)
    answer = ask(broker, json.dumps({"token": token, "reasn": "lost"}))
    assert answer.status == 400
    assert "`reasn`" in json.loads(answer.body)["error"]["message"]
    do(broker.attach("test", "").present(token))


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "ann-key", "ä", "\ud800"])
def test_what_is_no_token_of_this_broker_is_refused(broker, token):
    answer = ask(broker, json.dumps({"token": token}))
    assert answer.status == 400
    assert json.loads(answer.body)["error"]["message"]


def test_a_token_of_another_broker_is_refused(broker):
    other = make_broker(access=broker.access)
    assert ask(broker, json.dumps({"token": minted(other)})).status == 400


def test_a_token_in_the_url_is_not_taken(broker):
    token = minted(broker)
    answer = value_of(http_request(broker, TokenPage(), "POST", f"{REVOKE}?token={token}", b"", HEADERS))
    assert answer.status == 400
    do(broker.attach("test", "").present(token))


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS"])
def test_only_a_post_revokes(broker, method):
    answer = ask(broker, json.dumps({"token": minted(broker)}), method)
    assert (answer.status, dict(answer.headers)["Allow"]) == (405, "POST")


@pytest.mark.parametrize("headers", [{}, {"content-type": "text/plain"}, {"content-type": "multipart/form-data"}])
def test_what_a_page_may_send_without_asking_is_refused(broker, headers):
    answer = ask(broker, json.dumps({"token": minted(broker)}), headers=headers)
    assert answer.status == 415


def test_while_the_store_is_away_the_token_is_not_said_to_be_wrong(broker):
    token = minted(broker)
    broker.tokens.forget_key()
    broker.stopService()
    answer = ask(broker, json.dumps({"token": token}))
    assert answer.status == 503
