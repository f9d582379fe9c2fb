"""Tests of the dialect of lines; run them with pytest."""

import pytest
from lines import dialect

from broker.errors import Denied
from broker.testing import connect, http_request, make_broker, value_of
from protocols.ganomede import dialect as ganomede


def test_what_one_publishes_the_other_gets():
    broker = make_broker()
    ann, bob = connect(broker, dialect(None)), connect(broker, dialect(None))
    assert bob.say("SUB news") == [b"OK"]
    assert ann.say("PUB news 1") == [b"OK"]
    assert bob.link.take() == [b"EVENT news 1"]


def test_each_line_of_a_stream_has_its_answer():
    client = connect(make_broker(), dialect(None))
    assert client.stream(["SUB a", "FLY", "PUB a 1"]) == [[b"OK"], [b"ERR INVALID line"], [b"OK"]]


def test_a_client_must_show_the_secret():
    client = connect(make_broker(api_secret="s"), dialect(None))
    assert client.say("SUB news") == [b"ERR UNAUTHENTICATED subscribe"]
    assert client.say("AUTH guessed")[0].startswith(b"ERR UNAUTHENTICATED")
    assert client.stream(["AUTH s", "SUB news", "PUB news 1"]) == [[b"OK"], [b"OK"], [b"OK"]]


def test_a_verb_can_be_awaited():
    peer = connect(make_broker(), dialect(None)).peer
    stored = value_of(peer.post("news", "line", b"1"))
    assert (stored.id, stored.body) == (1, b"1")
    with pytest.raises(Denied):
        peer.publish("broker.news", "line", b"1")


def test_an_event_that_is_posted_over_http_arrives():
    broker = make_broker(api_secret="s", auth="optional")
    client = connect(broker, dialect(None))
    client.stream(["AUTH s", "SUB news"])
    body = '{"clientId": "me", "channel": "news", "from": "me", "type": "line", "secret": "s", "data": {"a":1}}'
    headers = {"Content-Type": "application/json"}
    answer = http_request(broker, ganomede(broker.settings), "POST", "/events/v1/events", body, headers)
    assert value_of(answer).status == 200
    assert client.link.take() == [b'EVENT news {"a":1}']
