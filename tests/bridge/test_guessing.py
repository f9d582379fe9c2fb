"""Wrong credentials: at every door only so many, and then none is looked at, a right one neither."""

from __future__ import annotations

import json

import pytest
from twisted.internet.task import Clock

from broker.errors import Refused
from broker.messages import HttpRequest
from broker.testing import connect, http_request, make_broker, value_of
from protocols import ganomede, hpkv, owlmeans, thinws
from protocols.microstream.hub import MicroStream

LIMIT = 3
RIGHT = "key-of-ann-is-this"
IN, WRONG, LIMITED = "in", "wrong", "limited"
STATUSES = {200: IN, 401: WRONG, 403: WRONG, 429: LIMITED}
ADDRESS = "192.0.2.7"


def a_broker(**settings):
    clock = Clock()
    clock.advance(1_000_000)
    return make_broker(
        clock, api_keys={"ann": RIGHT}, auth_failures_per_minute=LIMIT, error_delay_seconds=0.0, **settings
    )


def http(broker, dialect, method, target, body=b"", headers=None, address=ADDRESS):
    return value_of(http_request(broker, dialect, method, target, body, headers, address=address))


def ganomede_query(broker, key, address=ADDRESS):
    return STATUSES[http(broker, ganomede.dialect(broker.settings), "GET", f"/latest?channel=c&secret={key}",
                         address=address).status]  # fmt: skip


def ganomede_poll(broker, key, address=ADDRESS):
    target = f"/events/v1/events?channel=c&clientId=c&secret={key}"
    answer = http_request(broker, ganomede.dialect(broker.settings), "GET", target, address=address)
    broker.clock.advance(broker.settings.poll_timeout_seconds if not answer.called else 0.0)
    return STATUSES[value_of(answer).status]


def ganomede_body(broker, key, address=ADDRESS):
    body = json.dumps({"clientId": "c", "channel": "c", "from": "f", "type": "T", "secret": key}).encode()
    dialect = ganomede.dialect(broker.settings)
    headers = {"content-type": "application/json"}
    return STATUSES[http(broker, dialect, "POST", "/events/v1/events", body, headers, address).status]


def ganomede_query_of_post(broker, key, address=ADDRESS):
    body = b'{"id":"i","channel":"c","field":"type"}'
    dialect = ganomede.dialect(broker.settings)
    headers = {"content-type": "application/json"}
    return STATUSES[http(broker, dialect, "POST", f"/events/v1/indices?secret={key}", body, headers, address).status]


def token_endpoint(broker, key, address=ADDRESS):
    dialect = hpkv.dialect(broker.settings)
    headers = {"x-api-key": key}
    return STATUSES[http(broker, dialect, "POST", "/token/websocket", b"{}", headers, address).status]


def socket(broker, dialect, path, query="", headers=None, address=ADDRESS):
    """Return a client, or how its handshake was refused."""
    try:
        return connect(broker, dialect, HttpRequest("GET", path, query, headers or {}, address=address))
    except Refused as refused:
        return STATUSES[refused.status]


def hpkv_query(broker, key, address=ADDRESS):
    came = socket(broker, hpkv.dialect(broker.settings), "/ws", f"apiKey={key}", address=address)
    return came if isinstance(came, str) else IN


def hpkv_header(broker, key, address=ADDRESS):
    came = socket(broker, hpkv.dialect(broker.settings), "/ws", headers={"x-api-key": key}, address=address)
    return came if isinstance(came, str) else IN


def hpkv_token(broker, key, address=ADDRESS):
    token = key
    if key == RIGHT:
        minter = broker.attach("hpkv", "10.0.0.1")
        minter.identify(RIGHT)
        token = value_of(minter.mint({"keys": [], "patterns": [], "access": ""}, 1000.0))
    came = socket(broker, hpkv.dialect(broker.settings), "/ws", f"token={token}", address=address)
    return came if isinstance(came, str) else IN


def owlmeans_query(broker, key, address=ADDRESS):
    came = socket(broker, owlmeans.dialect(broker.settings), "/", f"token={key}", address=address)
    return came if isinstance(came, str) else IN


def owlmeans_header(broker, key, address=ADDRESS):
    headers = {"authorization": f"Bearer {key}"}
    came = socket(broker, owlmeans.dialect(broker.settings), "/", headers=headers, address=address)
    return came if isinstance(came, str) else IN


def owlmeans_frame(broker, key, address=ADDRESS):
    came = socket(broker, owlmeans.dialect(broker.settings), "/", address=address)
    (answer,) = came.say(json.dumps({"type": "auth", "stage": "authenticate", "payload": {"token": key}}))
    why = json.loads(answer)["payload"]
    return IN if isinstance(why, dict) else {"token": WRONG, "limit": LIMITED}[why.split(":")[-1].rstrip("|")]


def thinws_words(client, frame):
    answer = json.loads(client.say(json.dumps(frame))[-1])
    words = {"Not authorized": WRONG, "Rate limit exceeded": LIMITED}
    return IN if answer["type"] == "ack" else words[answer["message"]]


def thinws_query(broker, key, address=ADDRESS):
    client = socket(broker, thinws.dialect(broker.settings), "/thinws", f"token={key}", address=address)
    return thinws_words(client, {"type": "connect", "connectionID": "me"})


def thinws_header(broker, key, address=ADDRESS):
    client = socket(broker, thinws.dialect(broker.settings), "/thinws", "", {"authorization": key}, address)
    return thinws_words(client, {"type": "connect", "connectionID": "me"})


def thinws_frame(broker, key, address=ADDRESS):
    client = socket(broker, thinws.dialect(broker.settings), "/thinws", address=address)
    return thinws_words(client, {"type": "connect", "connectionID": "me", "token": key})


def microstream(broker, query, frame, address, headers=None):
    dialect = MicroStream(broker.settings, broker.clock)
    query = f"EIO=4&transport=websocket&serviceName=ann{query}"
    client = socket(broker, dialect, "/socket.io/", query, headers, address)
    client.link.take()
    answers = client.say(frame)
    if client.link.closed:  # the shipped client comes back later, which it never does after a CONNECT_ERROR
        assert client.link.closed == (1013, "RATE_LIMITED")
        return LIMITED
    client.leave()
    return IN if answers[0].startswith(b"40") else WRONG


def microstream_query(broker, key, address=ADDRESS):
    return microstream(broker, f"&token={key}", "40", address)


def microstream_header(broker, key, address=ADDRESS):
    return microstream(broker, "", "40", address, {"authorization": key})


def microstream_connect(broker, key, address=ADDRESS):
    return microstream(broker, "", "40" + json.dumps({"token": key}), address)


DOORS = [
    ganomede_query, ganomede_poll, ganomede_body, ganomede_query_of_post, token_endpoint, hpkv_query, hpkv_header,
    hpkv_token, owlmeans_query, owlmeans_header, owlmeans_frame, thinws_query, thinws_header, thinws_frame,
    microstream_query, microstream_header, microstream_connect,
]  # fmt: skip


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_after_too_many_wrong_credentials_none_is_looked_at(door):
    broker = a_broker()
    assert door(broker, RIGHT) == IN
    assert [door(broker, f"wrong-{number}") for number in range(LIMIT)] == [WRONG] * LIMIT
    assert [door(broker, "wrong"), door(broker, RIGHT)] == [LIMITED, LIMITED]
    assert door(broker, RIGHT, address="192.0.2.8") == IN
    broker.clock.advance(60)
    assert door(broker, RIGHT) == IN


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_the_doors_share_one_count(door):
    broker = a_broker()
    for number in range(LIMIT):
        owlmeans_query(broker, f"wrong-{number}")
    assert door(broker, RIGHT) == LIMITED


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_a_right_credential_buys_no_further_guesses(door):
    broker = a_broker()
    for number in range(LIMIT):
        assert door(broker, f"wrong-{number}") == WRONG
        if number < LIMIT - 1:
            assert door(broker, RIGHT) == IN
    assert door(broker, RIGHT) == LIMITED


def test_a_thinws_client_whose_token_waited_is_let_in_without_coming_again():
    broker = a_broker()
    for number in range(LIMIT):
        owlmeans_query(broker, f"wrong-{number}")
    client = socket(broker, thinws.dialect(broker.settings), "/thinws", f"token={RIGHT}")
    frame = {"type": "connect", "connectionID": "me"}
    assert thinws_words(client, frame) == LIMITED
    broker.clock.advance(60)
    assert thinws_words(client, frame) == IN
    assert client.link.closed is None


def test_a_refusal_over_http_tells_when_to_come_again():
    broker = a_broker()
    events, tokens = ganomede.dialect(broker.settings), hpkv.dialect(broker.settings)
    for _ in range(LIMIT):
        http(broker, events, "GET", "/latest?channel=c&secret=wrong")
    broker.clock.advance(20)
    polled = http(broker, events, "GET", f"/latest?channel=c&secret={RIGHT}")
    minted = http(broker, tokens, "POST", "/token/websocket", b"{}", {"x-api-key": RIGHT})
    for answer in (polled, minted):
        assert (answer.status, dict(answer.headers)["Retry-After"]) == (429, "40")


def test_those_who_show_nothing_are_not_limited():
    broker = a_broker()
    dialect = ganomede.dialect(broker.settings)
    answers = [http(broker, dialect, "GET", "/latest?channel=c").status for _ in range(LIMIT + 2)]
    assert answers == [401] * (LIMIT + 2)
    assert ganomede_query(broker, RIGHT) == IN


def test_where_no_credential_is_configured_there_is_nothing_to_guess():
    broker = make_broker(auth_failures_per_minute=LIMIT)
    for number in range(2 * LIMIT):
        assert hpkv_token(broker, f"wrong-{number}") == WRONG
    assert hpkv_query(broker, "any") == IN
    assert token_endpoint(broker, "any") == IN
