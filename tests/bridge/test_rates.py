"""Every frame and request of every dialect counts against the rate, whatever it says."""

from __future__ import annotations

import json

import pytest
from twisted.internet.task import Clock

from broker.messages import HttpRequest
from broker.testing import connect, http_request, make_broker, value_of
from protocols import ganomede, hpkv, owlmeans, thinws
from protocols.microstream.hub import MicroStream
from protocols.microstream.sessions import Session

BURST = 5


def a_broker():
    return make_broker(Clock(), rate=0.001, rate_burst=BURST)


def owl(broker):
    return connect(broker, owlmeans.dialect(broker.settings))


def thin(broker):
    return connect(broker, thinws.dialect(broker.settings))


def keys(broker):
    return connect(broker, hpkv.dialect(broker.settings), HttpRequest("GET", "/ws", "apiKey=any", {}))


def service(broker):
    """Return a client that is not registered yet: to register takes a token as well."""
    request = HttpRequest("GET", "/socket.io/", "EIO=4&transport=websocket&serviceName=s", {})
    client = connect(broker, MicroStream(broker.settings, broker.clock), request)
    client.link.take()
    return client


def call(method, *args, id="1"):
    return json.dumps({"type": "call", "id": id, "method": method, "payload": args})


ASK = {
    owl: call("broker.get", "k"),
    thin: '{"type":"connect","connectionID":"me"}',
    keys: '{"op":1,"key":"k"}',
}
REFUSED = {
    owl: b"socket:message:limit:rate",
    thin: b'"Rate limit exceeded"',
    keys: b'{"code":429,"error":"Rate limit exceeded"}',
}
FRAMES = {
    owl: [
        '{"type":"ping"}',
        '{"type":"result","id":"nobodys","payload":1}',
        '{"type":"response","id":"nobodys","payload":1}',
        '{"type":"error","id":"nobodys","payload":"no"}',
        '{"type":"result","payload":1}',
        '{"type":"auth","stage":"init"}',
        '{"type":"auth","stage":null}',
        '{"type":"auth","stage":"authenticate","payload":{"token":"any"}}',
        '{"type":"nosuch"}',
        '{"type":"call","payload":[]}',
        '{"type":"event","event":5}',
        "[1]",
        '"text"',
        "{",
        (b"binary",),
        call("broker.whoami"),
        call("broker.methods"),
        call("broker.nosuch"),
        call("broker.unsubscribe", "a"),
        call("broker.unregister", "a"),
        call("broker.unacknowledge"),
        call("broker.release"),
        call("broker.unwatch", "a"),
        call("broker.range", 5),
    ],
    thin: ['{"type":"ack"}', '{"type":"nosuch"}', "{}", "[", "5", (b"binary",), '{"type":"disconnect"}'],
    keys: ["[]", "{", "5", '{"op":9}', '{"op":1}', '{"op":5,"key":"a"}'],
}


@pytest.mark.parametrize(
    ("come", "frame"),
    [(come, frame) for come, frames in FRAMES.items() for frame in frames],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_frame_counts_whatever_it_says(come, frame):
    client = come(a_broker())
    client.stream([frame] * BURST)
    assert REFUSED[come] in client.say(ASK[come])[0]
    assert client.link.closed is None


@pytest.mark.parametrize("come", FRAMES, ids=lambda come: come.__name__)
def test_as_many_frames_as_the_rate_allows_are_answered(come):
    client = come(a_broker())
    answers = [client.say(ASK[come])[0] for _ in range(BURST + 1)]
    assert [REFUSED[come] in answer for answer in answers] == [False] * BURST + [True]


@pytest.mark.parametrize(
    "frame",
    [
        "3", "6", "5", '42["nosuch"]', '42["heartbeat"]', '42["request",{}]', '42["response",{"id":"x","response":1}]',
        '42["request",{"targetService":"x","payload":{"id":"1","event":"e","data":1e999}}]', "431[]", "40/other,",
    ],
)  # fmt: skip
def test_a_packet_counts_whatever_it_says(frame):
    broker = a_broker()
    client = service(broker)
    assert client.say("40")[0].startswith(b"40")  # takes a name and registers: two tokens
    client.stream([frame] * BURST)
    asked = client.say('42["request",{"targetService":"x","payload":{"id":"2","event":"e"}}]')
    assert b"RATE_LIMITED" in asked[-1]
    assert client.link.closed is None


def test_the_packets_of_a_post_count_each():
    broker = a_broker()
    dialect = MicroStream(broker.settings, broker.clock)
    opened = value_of(http_request(broker, dialect, "GET", "/socket.io/?EIO=4&transport=polling&serviceName=s"))
    sid = json.loads(opened.body[1:])["sid"]
    url = f"/socket.io/?transport=polling&sid={sid}"
    assert value_of(http_request(broker, dialect, "POST", url, b"40")).status == 200
    assert value_of(http_request(broker, dialect, "POST", url, b"\x1e".join([b"3"] * 100))).status == 200
    request = b'42["request",{"targetService":"x","payload":{"id":"2","event":"e"}}]'
    assert value_of(http_request(broker, dialect, "POST", url, request)).status == 200
    session = dialect.sessions[sid]
    assert isinstance(session, Session)
    assert b"RATE_LIMITED" in value_of(http_request(broker, dialect, "GET", url)).body


def test_requests_that_belong_to_no_session_count():
    broker = a_broker()
    dialect = MicroStream(broker.settings, broker.clock)
    url = "/socket.io/?EIO=4&transport=polling&sid=nosuch"
    answers = [value_of(http_request(broker, dialect, "GET", url)) for _ in range(BURST + 1)]
    assert [answer.status for answer in answers] == [400] * BURST + [429]
    assert b'"code"' in answers[-1].body


def test_a_watch_takes_one_token():
    client = owl(a_broker())
    for _ in range(BURST - 1):
        client.say(call("broker.watch", "a.>"))
    assert b'"value":null' in client.say(ASK[owl])[0]
    assert REFUSED[owl] in client.say(ASK[owl])[0]


def test_an_awaited_answer_is_brought_at_any_rate():
    broker = make_broker(Clock(), rate=0.001, rate_burst=BURST)
    callee = broker.attach("owlmeans", "10.0.0.1")
    performer = connect(broker, owlmeans.dialect(broker.settings), HttpRequest("GET", "/", "", {}, address="10.0.0.1"))
    caller = connect(broker, owlmeans.dialect(broker.settings), HttpRequest("GET", "/", "", {}, address="10.0.0.2"))
    performer.say(call("broker.register", "m"))
    performer.stream(['{"type":"ping"}'] * BURST)
    caller.say(call("m"))
    (asked,) = [frame for frame in performer.link.take() if b'"call"' in frame]
    answer = json.dumps({"type": "result", "id": json.loads(asked)["id"], "payload": 7})
    assert performer.say(answer) == []
    assert b'"payload":7' in caller.link.take()[0]
    assert REFUSED[owl] in performer.say(answer)[0]  # it is not awaited any more
    callee.close()


REQUESTS = [
    ("GET", "/events/v1/ping/x", b""),
    ("GET", "/events/v1/nosuch", b""),
    ("DELETE", "/events/v1/events", b""),
    ("GET", "/events/v1/events", b""),
    ("GET", "/events/v1/latest", b""),
    ("POST", "/events/v1/events", b"{"),
    ("POST", "/events/v1/indices", b"{}"),
    ("GET", "/events/v1/indices/nosuch/x", b""),
]


@pytest.mark.parametrize(("method", "target", "body"), REQUESTS)
def test_a_request_counts_whatever_it_asks_for(method, target, body):
    broker = make_broker(Clock(), rate=0.001, rate_burst=BURST, error_delay_seconds=0.0)
    dialect = ganomede.dialect(broker.settings)
    for _ in range(BURST):
        value_of(http_request(broker, dialect, method, target, body))
    refused = value_of(http_request(broker, dialect, "GET", "/events/v1/latest?channel=c"))
    assert (refused.status, dict(refused.headers)["Retry-After"]) == (429, "1000")  # at 0.001 a second


@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("OPTIONS", b""), ("POST", b"{"), ("POST", b"{}")])
def test_a_request_for_a_token_counts_whatever_it_says(method, body):
    broker = a_broker()
    dialect = hpkv.dialect(broker.settings)
    headers = {"x-api-key": "any"}
    for _ in range(BURST):
        value_of(http_request(broker, dialect, method, "/token/websocket", body, headers))
    refused = value_of(http_request(broker, dialect, "POST", "/token/websocket", b"{}", headers))
    assert refused.status == 429


def test_a_request_counts_once_and_for_whom_it_authenticates():
    broker = make_broker(Clock(), api_keys={"ann": "key-of-ann", "bob": "key-of-bob"}, rate=0.001, rate_burst=BURST)
    dialect = ganomede.dialect(broker.settings)

    def ask(key):
        return value_of(http_request(broker, dialect, "GET", f"/latest?channel=c&secret={key}")).status

    assert [ask("key-of-ann") for _ in range(BURST + 1)] == [200] * BURST + [429]
    assert ask("key-of-bob") == 200
    assert [ask("wrong") for _ in range(BURST + 1)] == [401] * BURST + [429]
    assert ask("key-of-bob") == 200
