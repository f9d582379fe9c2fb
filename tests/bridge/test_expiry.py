"""What the clients of each dialect notice when their credential ends, and when it says no end."""

from __future__ import annotations

import json
import time
from urllib.parse import quote

import jwt
import pytest
from twisted.internet.task import Clock

from broker.access.principals import Access
from broker.access.web_tokens import WebTokens, secret_key
from broker.errors import Refused
from broker.messages import HttpRequest
from broker.testing import connect, http_request, make_broker, value_of
from protocols.ganomede import dialect as ganomede
from protocols.hpkv import dialect as hpkv
from protocols.http import dialect as http
from protocols.microstream import MicroStream
from protocols.owlmeans import dialect as owlmeans
from protocols.thinws import dialect as thinws

SIGNING = "0123456789abcdef" * 2
LEEWAY = 60
WITHOUT_EXP = 'The token has no claim "exp"'


class Daemon:
    """A broker in memory whose clock agrees with what the library for tokens takes for the time."""

    def __init__(self, mode="required"):
        self.clock = Clock()
        self.clock.advance(int(time.time()) + 0.0)
        access = Access(mode, keys={"shop": "shop-key"}, web_tokens=WebTokens((secret_key(SIGNING),), leeway=LEEWAY))
        self.broker = make_broker(self.clock, access, auth=mode, error_delay_seconds=0.0)

    def token(self, seconds=100, **claims):
        """Return the token of bob that is good for *seconds*."""
        exp = int(self.clock.seconds()) + seconds - LEEWAY
        return jwt.encode({"sub": "bob", "exp": exp, **claims}, SIGNING, "HS256")

    def join(self, name, query, path="/"):
        """Return a WebSocket client of the dialect *name*."""
        make = {"owlmeans": owlmeans, "hpkv": hpkv, "thinws": thinws}.get(name)
        dialect = make(self.broker.settings) if make else MicroStream(self.broker.settings, self.clock)
        return connect(self.broker, dialect, HttpRequest("GET", path, query, {}))

    def request(self, make, method, target, body=b"", headers=None):
        """Return the Deferred of an answer of the HTTP dialect that *make* makes."""
        return http_request(self.broker, make(self.broker.settings), method, target, body, headers)


@pytest.fixture
def daemon():
    return Daemon()


def service(token):
    return f"EIO=4&transport=websocket&serviceName=bob&token={token}"


def greet(name, client):
    """Let *client* say what the shipped one says by itself."""
    if name == "microstream":
        assert client.say("40")[-1].startswith(b'40{"sid":')
    return client


QUERIES = {
    "owlmeans": "token={}",
    "thinws": "token={}",
    "microstream": service("{}"),
    "hpkv": "apiKey={}",
}
ENDS = {
    "owlmeans": (1008, "AuthManagerErrorAuthenFailed|||auth:manager:authen:credential expired|||"),
    "thinws": (1008, "credential expired"),
    "microstream": (1008, "credential expired"),
    "hpkv": (4001, "credential expired"),
}


@pytest.mark.parametrize("name", QUERIES)
def test_an_expired_token_closes_its_connections(daemon, name):
    client = greet(name, daemon.join(name, QUERIES[name].format(daemon.token(50))))
    other = greet(name, daemon.join(name, QUERIES[name].format("shop-key").replace("bob", "shop")))
    for _ in range(49):
        daemon.clock.advance(1)
        client.say("3" if name == "microstream" else " ")  # not only pings keep it alive
        other.say("3" if name == "microstream" else " ")
    assert client.link.closed is None
    daemon.clock.advance(1)
    assert client.link.closed == ENDS[name]
    assert other.link.closed is None


@pytest.mark.parametrize("name", QUERIES)
def test_a_connection_whose_key_is_gone_is_closed(daemon, name):
    client = greet(name, daemon.join(name, QUERIES[name].format("shop-key")))
    daemon.broker.access.keys = {"shop": "another-key"}
    assert daemon.broker.credentials_changed() == 1
    assert client.link.closed[0] == (4003 if name == "hpkv" else 1008)


@pytest.mark.parametrize("name", QUERIES)
def test_who_leaves_before_the_end_leaves_nothing(daemon, name):
    before = len(daemon.clock.getDelayedCalls())
    client = greet(name, daemon.join(name, QUERIES[name].format(daemon.token(50))))
    client.leave()
    assert len(daemon.broker.parts.lifetimes) == 0
    daemon.clock.advance(120)
    assert len(daemon.clock.getDelayedCalls()) <= before


def test_a_polling_service_is_told_of_a_close_and_not_of_a_disconnect(daemon):
    dialect = MicroStream(daemon.broker.settings, daemon.clock)

    def request(method, query, body=b""):
        return http_request(daemon.broker, dialect, method, f"/socket.io/?EIO=4&transport=polling&{query}", body)

    opened = value_of(request("GET", f"serviceName=bob&token={daemon.token(20)}")).body
    sid = json.loads(opened[1:])["sid"]
    value_of(request("POST", f"sid={sid}", b"40"))
    assert value_of(request("GET", f"sid={sid}")).body.startswith(b'40{"sid"')
    waiting = request("GET", f"sid={sid}")
    daemon.clock.advance(20)
    assert value_of(waiting).body == b"1"  # of Engine.IO: the client reconnects, after a "41" it never would
    assert value_of(request("GET", f"sid={sid}")).status == 400


@pytest.mark.parametrize(("method", "path"), [("GET", "/topics/ch?wait=30"), ("POST", "/queues/q/claim?wait=30")])
def test_who_waits_over_http_gets_401_at_the_end_of_the_token(daemon, method, path):
    bearer = {"Authorization": f"Bearer {daemon.token(2)}"}
    waiting = daemon.request(http, method, f"/v1{path}", headers=bearer)
    daemon.clock.pump([0.5] * 3)
    assert not waiting.called
    daemon.clock.pump([0.5] * 2)
    answer = value_of(waiting)
    assert (answer.status, json.loads(answer.body)["detail"]) == (401, "The credential has expired")


def test_who_comes_back_over_http_is_told_that_the_token_has_expired(daemon):
    bearer = {"Authorization": f"Bearer {daemon.token(-100)}"}
    answer = value_of(daemon.request(http, "GET", "/v1/topics/ch", headers=bearer))
    assert (answer.status, json.loads(answer.body)["detail"]) == (401, "The token has expired")


@pytest.mark.parametrize("path", ["/topics/ch", "/events?topic=ch", "/keys"])
def test_a_stream_over_http_ends_with_its_token(daemon, path):
    bearer = {"Authorization": f"Bearer {daemon.token(2)}", "Accept": "text/event-stream"}
    stream = value_of(daemon.request(http, "GET", f"/v1{path}", headers=bearer)).body
    daemon.clock.pump([0.5] * 3)
    assert not stream.ended
    daemon.clock.pump([0.5] * 2)
    assert stream.ended


def test_a_poll_of_an_expired_token_ends_with_401(daemon):
    target = f"/events/v1/events?clientId=c&channel=ch&secret={daemon.token(2)}"
    poll = daemon.request(ganomede, "GET", target)
    daemon.clock.pump([0.5] * 3)
    assert not poll.called
    daemon.clock.pump([0.5] * 2)
    answer = value_of(poll)
    assert (answer.status, json.loads(answer.body)["message"]) == (401, "The credential has expired")


def test_a_room_client_that_comes_back_with_the_expired_token_is_refused_and_kept(daemon):
    gone = jwt.encode({"sub": "bob", "exp": int(time.time()) - LEEWAY - 10}, SIGNING, "HS256")
    client = daemon.join("thinws", f"token={gone}")
    refusal = [b'{"type":"error","message":"Not authorized","messageID":1}']
    assert client.say('{"type":"connect","connectionID":"c","messageID":1}') == refusal
    assert client.link.closed is None
    assert client.say('{"type":"connect","connectionID":"c","messageID":2,"token":"%s"}' % daemon.token(70)) == [
        b'{"type":"ack","messageID":2}'
    ]
    daemon.clock.advance(70)
    assert client.link.closed == ENDS["thinws"]


def test_frames_that_come_behind_the_end_do_nothing(daemon):
    client = daemon.join("thinws", f"token={daemon.token(20)}")
    client.say('{"type":"connect","connectionID":"c","messageID":1}')
    daemon.clock.advance(20)
    client.leave(1006)
    assert client.peer.closed
    assert daemon.broker.presence.sessions("bob") == []


# The warning of the native dialect, and what the client may do then


def test_a_client_is_warned_and_may_show_another_token(daemon):
    client = daemon.join("owlmeans", f"token={daemon.token(100)}")
    client.say('{"type":"ping"}')
    daemon.clock.advance(89.5)
    assert client.link.take() == []
    daemon.clock.advance(0.5)
    expires = int(daemon.clock.seconds() * 1000) + 10_000
    assert [json.loads(frame) for frame in client.link.take()] == [
        {"type": "system", "event": "broker.expiring", "payload": {"expires": expires, "left": 10_000}}
    ]
    (answer,) = client.say(
        json.dumps({"type": "auth", "stage": "authenticate", "payload": {"token": daemon.token(80)}})
    )
    assert json.loads(answer)["stage"] == "authenticated"
    daemon.clock.advance(79)
    assert client.link.closed is None
    daemon.clock.advance(1)
    assert client.link.closed == ENDS["owlmeans"]


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"sub": "eve"}, "identity"),
        ({"sub": None}, "identity"),
        ({"exp": 1}, "token"),
        ({"exp": None}, f"token:{WITHOUT_EXP}"),
    ],
)
def test_another_credential_does_not_prolong_a_connection(daemon, claims, why):
    client = daemon.join("owlmeans", f"token={daemon.token(100)}")
    shown = {"type": "auth", "stage": "authenticate", "payload": {"token": daemon.token(900, **claims)}}
    (answer,) = client.say(json.dumps(shown))
    assert json.loads(answer) == {
        "type": "auth",
        "stage": None,
        "payload": f"AuthManagerErrorAuthenFailed|||auth:manager:authen:{why}|||",
    }
    daemon.clock.advance(100)
    assert client.link.closed == ENDS["owlmeans"]


def test_a_token_that_is_shown_where_none_is_required_ends_the_connection_too():
    daemon = Daemon("optional")
    client = daemon.join("owlmeans", "")
    client.say(json.dumps({"type": "auth", "stage": "authenticate", "payload": {"token": daemon.token(100)}}))
    daemon.clock.advance(100)
    assert client.link.closed == ENDS["owlmeans"]


def test_the_warning_waits_until_a_client_has_its_handlers_in_place(daemon):
    client = daemon.join("owlmeans", f"token={daemon.token(1)}")
    daemon.clock.advance(0.1)
    assert client.link.take() == []
    daemon.clock.advance(0.85)
    assert [json.loads(frame)["event"] for frame in client.link.take()] == ["broker.expiring"]


# A token that has no end


def endless():
    return jwt.encode({"sub": "bob"}, SIGNING, "HS256")


def refused(daemon, name):
    with pytest.raises(Refused) as caught:
        daemon.join(name, QUERIES[name].format(endless()))
    return caught.value.status, caught.value.body.decode()


def test_each_dialect_says_that_a_token_has_no_end(daemon):
    assert refused(daemon, "hpkv") == (403, json.dumps({"error": WITHOUT_EXP}, separators=(",", ":")))
    assert refused(daemon, "owlmeans") == (
        401,
        f"AuthManagerErrorAuthenFailed|||auth:manager:authen:token:{WITHOUT_EXP}|||",
    )
    room = daemon.join("thinws", f"token={endless()}")
    (answer,) = room.say('{"type":"connect","connectionID":"c"}')
    assert json.loads(answer) == {"type": "error", "message": f"Not authorized: {WITHOUT_EXP}"}
    hub = daemon.join("microstream", service(endless()))
    assert json.loads(hub.say("40")[-1][2:])["data"]["message"] == WITHOUT_EXP


def test_each_http_dialect_says_that_a_token_has_no_end(daemon):
    target = f"/events/v1/latest?channel=ch&secret={quote(endless())}"
    answer = value_of(daemon.request(ganomede, "GET", target))
    assert (answer.status, json.loads(answer.body)["message"]) == (401, WITHOUT_EXP)
    answer = value_of(daemon.request(hpkv, "POST", "/token/websocket", "{}", {"x-api-key": endless()}))
    assert (answer.status, json.loads(answer.body)["error"]) == (401, WITHOUT_EXP)


def test_a_wrong_credential_is_answered_as_before(daemon):
    answer = value_of(daemon.request(ganomede, "GET", "/events/v1/latest?channel=ch&secret=wrong"))
    assert json.loads(answer.body)["message"] == ""
    assert refused_with(daemon, "apiKey=wrong") == (403, b'{"error":"Invalid API key"}')


def refused_with(daemon, query):
    with pytest.raises(Refused) as caught:
        daemon.join("hpkv", query)
    return caught.value.status, caught.value.body
