"""Tests of the dialect of badges; run them with pytest."""

import pytest
from badge import dialect

from broker.errors import Refused, Unauthenticated
from broker.messages import HttpRequest
from broker.testing import connect, make_broker

ANN, BOB, SECRET = "key-of-ann-is-long", "key-of-bob-is-long", "the-secret-of-all"


def a_broker():
    return make_broker(api_keys={"ann": ANN, "bob": BOB}, api_secret=SECRET)


def enter(broker, token):
    return connect(broker, dialect(None), HttpRequest("GET", "/badge", f"token={token}", {}))


def test_a_client_is_who_its_credential_says():
    broker = a_broker()
    assert enter(broker, ANN).link.take() == [b'{"you":"ann"}']
    header = HttpRequest("GET", "/badge", "", {"authorization": f"Bearer {BOB}"})
    assert connect(broker, dialect(None), header).link.take() == [b'{"you":"bob"}']


def test_who_has_no_credential_is_refused():
    for token in ("", "wrong"):
        with pytest.raises(Unauthenticated):
            enter(a_broker(), token)


def test_who_has_no_name_is_refused():
    with pytest.raises(Refused):
        enter(a_broker(), SECRET)


def test_what_one_says_the_other_gets_even_later():
    broker = a_broker()
    enter(broker, BOB).leave()
    ann = enter(broker, ANN)
    ann.say("bob hello")
    assert enter(broker, BOB).link.take() == [b'{"you":"bob"}', b'{"from":"ann","text":"hello"}']


def test_who_is_unknown_gets_nothing():
    assert enter(a_broker(), ANN).say("eve hello")[-1:] == [b'{"error":"GONE"}']
