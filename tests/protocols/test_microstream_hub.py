"""The hub in memory: what services say to each other, and what hostile ones can not do."""

from __future__ import annotations

import json
from typing import Any, cast

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.access.permissions import Permissions, Rule
from broker.access.principals import Access
from broker.config.settings import Settings
from broker.errors import CalleeFailed, Invalid, NotFound, Refused
from broker.messages import HttpRequest, Reply, Request
from broker.testing import FakeLink, make_broker, value_of
from protocols.microstream import MicroStream, dialect
from protocols.microstream.engineio import Times

DUPLICATE = (
    b'44{"message":"DUPLICATE_SERVICE_REGISTRATION","data":{"code":"DUPLICATE_SERVICE_REGISTRATION",'
    b'"message":"Duplicate Service Registration Name! A service with the same name is already registered.",'
    b'"errorData":{"serviceName":"dup"}}}'
)


class Hub:
    """A hub with a broker and a clock of its own."""

    def __init__(self, access=None, **settings):
        self.clock = Clock()
        self.broker = make_broker(self.clock, access, **settings)
        self.dialect = MicroStream(self.broker.settings, self.clock)

    def open(self, query, headers=None):
        """Return a WebSocket that has heard the open packet."""
        request = HttpRequest("GET", "/socket.io/", f"EIO=4&transport=websocket&{query}", headers or {})
        link = FakeLink(request)
        peer = self.broker.attach("microstream", "127.0.0.1")
        session = value_of(Deferred.fromCoroutine(self.dialect.session(peer, link)))
        session.opened()
        assert link.take()[0].startswith(b'0{"sid":')
        return Client(peer, link, session)

    def connect(self, name):
        """Return a service that is registered."""
        client = self.open(f"serviceName={name}")
        assert client.say("40")[0].startswith(b'40{"sid":')
        return client

    def foreign(self):
        """Return a client of another dialect."""
        peer = self.broker.attach("other", "127.0.0.1")
        peer.bind(cast(Any, Foreigner()))
        return peer

    def stop(self):
        """End everything; nothing may be left of it."""
        self.dialect.drain()
        assert self.dialect.sessions == {}
        assert len(self.broker.calls.services) == 0
        assert self.broker.calls.pending == 0
        assert len(self.dialect.timers) == 0
        assert len(self.broker.presence) == 0
        self.broker.stopService()
        assert self.clock.getDelayedCalls() == []


@attrs.define(eq=False)
class Client:
    peer: Any
    link: FakeLink
    session: Any

    def say(self, *frames):
        """Say *frames*, bytes as binary ones; return what is sent here meanwhile."""
        for frame in frames:
            binary = isinstance(frame, bytes)
            self.session.received(frame if binary else frame.encode(), binary)
        return self.link.take()

    def emit(self, name, *args):
        return self.say("42" + json.dumps([name, *args]))

    def ask(self, target, id, event="echo", **data):
        return self.emit("request", {"targetService": target, "payload": {"id": id, "event": event, **data}})

    def heard(self):
        """Return the events that were sent here, decoded."""
        return [json.loads(frame[2:]) for frame in self.link.take()]

    def disconnect(self):
        self.session.closed(1006, "")
        self.peer.close()


@attrs.define(eq=False)
class Foreigner:
    requests: list = attrs.field(factory=list)
    replies: list = attrs.field(factory=list)

    def request(self, request):
        self.requests.append(request)

    def reply(self, reply: Reply):
        self.replies.append(reply)


@pytest.fixture
def hub():
    hub = Hub()
    yield hub
    hub.stop()


# Registration


def test_a_name_is_registered_by_connect_and_given_back_at_the_end(hub):
    service = hub.connect("svc")
    assert service.peer.client == "svc"
    assert hub.broker.calls.services.names_of(service.peer) == ["svc"]
    service.disconnect()
    assert hub.broker.calls.services.names() == []
    hub.connect("svc")


def test_a_living_holder_keeps_its_name(hub):
    holder = hub.connect("dup")
    second = hub.open("serviceName=dup")
    assert second.say("40") == []
    assert holder.say("3") == [b"2"]
    assert second.link.take() == [DUPLICATE]
    assert second.link.closed is None
    assert holder.ask("dup", "1")[0].startswith(b"42")


def test_a_silent_holder_is_replaced(hub):
    holder = hub.connect("dup")
    second = hub.open("serviceName=dup")
    assert second.say("40") == []
    hub.clock.advance(1.0)
    assert second.link.take()[0].startswith(b'40{"sid":')
    assert holder.link.closed == (1001, "replaced")
    assert hub.broker.calls.services.names_of(second.peer) == ["dup"]


def test_any_packet_of_the_holder_shows_that_it_lives(hub):
    holder = hub.connect("dup")
    second = hub.open("serviceName=dup")
    second.say("40")
    holder.emit("heartbeat", {"serviceName": "dup"})
    assert second.link.take() == [DUPLICATE]


def test_of_two_that_want_the_name_of_a_dead_one_one_gets_it(hub):
    hub.connect("dup")
    rivals = [hub.open("serviceName=dup"), hub.open("serviceName=dup")]
    for rival in rivals:
        rival.say("40")
    hub.clock.advance(1.0)
    winner, loser = sorted(rivals, key=lambda rival: not hub.broker.calls.services.names_of(rival.peer))
    assert [frame[:2] for frame in winner.link.take()] == [b"40", b"2"]
    winner.say("3")
    assert loser.link.take() == [DUPLICATE]


def test_one_that_leaves_while_it_waits_takes_nothing_over(hub):
    holder = hub.connect("dup")
    second = hub.open("serviceName=dup")
    second.say("40")
    second.disconnect()
    hub.clock.advance(2.0)
    assert holder.link.closed is None
    assert hub.broker.calls.services.names_of(holder.peer) == ["dup"]


@pytest.mark.parametrize("query", ["", "serviceName=", "serviceName=undefined", "serviceName=a&serviceName=b"])
def test_no_name_or_two_are_refused(hub, query):
    (answer,) = hub.open(query).say("40")
    assert json.loads(answer[2:])["data"]["code"] == "INVALID_SERVICE_NAME"
    assert hub.broker.calls.services.names() == []


@pytest.mark.parametrize("name", ["broker", "broker.x", "kv/x", "queue:x"])
def test_names_of_the_broker_itself_are_refused(hub, name):
    (answer,) = hub.open(f"serviceName={name}").say("40")
    assert json.loads(answer[2:])["message"] == "FORBIDDEN"


def test_names_with_control_characters_are_refused(hub):
    (answer,) = hub.open("serviceName=a%0Ab").say("40")
    assert json.loads(answer[2:])["message"] == "INVALID_REQUEST"


def test_names_are_exact_strings(hub):
    hub.connect("a.b%20%C3%A9")
    assert hub.broker.calls.services.names() == ["a.b é"]


def test_other_namespaces_are_unknown(hub):
    assert hub.open("serviceName=a").say("40/random") == [b'44/random,{"message":"Invalid namespace"}']


def test_no_connect_in_time_closes(hub):
    client = hub.open("serviceName=a")
    refused = hub.open("")
    refused.say("40")
    joined = hub.connect("b")
    for _ in range(2):
        hub.clock.advance(22.6)
        for each in (client, refused, joined):
            each.say("3")
    assert client.link.closed == (1008, "no namespace")
    assert refused.link.closed == (1008, "no namespace")
    assert joined.link.closed is None


def test_after_disconnect_the_connection_stays_and_may_connect_again(hub):
    asker, service = hub.connect("asker"), hub.connect("svc")
    asker.ask("svc", "1")
    assert service.say("41")[1:] == []
    assert asker.heard()[0][1]["response"]["error"]["code"] == "TARGET_SERVICE_DISCONNECTED"
    assert hub.broker.calls.services.names() == ["asker"]
    assert service.say("40")[0].startswith(b"40")
    service.link.take()
    asker.ask("svc", "1")
    assert len(service.link.take()) == 1
    assert service.link.closed is None


def test_leaving_with_own_calls_open_is_quiet(hub):
    service = hub.connect("svc")
    service.ask("svc", "1")
    assert service.say("41") == []


# Tokens


def secured(**grants):
    permissions = (
        Permissions({"default": {verb: Rule(allow=tuple(names)) for verb, names in grants.items()}}) if grants else None
    )
    return Hub(Access("required", ("s3cret",), {"ann": "key-of-ann"}, permissions=permissions))


def code_of(answers):
    (answer,) = answers
    return json.loads(answer[2:])["message"] if answer.startswith(b"44") else "connected"


@pytest.mark.parametrize(
    ("query", "connect", "headers"),
    [
        ("token=s3cret", "40", {}),
        ("token=key-of-ann", "40", {}),
        ("", '40{"token":"s3cret"}', {}),
        ("", "40", {"authorization": "Bearer s3cret"}),
    ],
)
def test_a_token_lets_in(query, connect, headers):
    hub = secured()
    assert code_of(hub.open(f"serviceName=a&{query}", headers).say(connect)) == "connected"
    hub.stop()


@pytest.mark.parametrize("name", ["user", "default", "secret"])
def test_a_service_may_be_called_by_a_word_that_no_client_may(name):
    for hub, token in ((secured(), "s3cret"), (Hub(), "")):
        service = hub.open(f"serviceName={name}&token={token}")
        assert code_of(service.say("40")) == "connected"
        assert service.peer.client == service.peer.id
        hub.stop()


@pytest.mark.parametrize("name", ["broker", "queue:q", "kv/k", "user:ann", "key:ann", "role:r", "token:t"])
def test_what_could_be_taken_for_another_kind_of_name_is_no_service(name):
    for hub, token in ((secured(), "s3cret"), (secured(), "key-of-ann"), (Hub(), "")):
        assert code_of(hub.open(f"serviceName={name}&token={token}").say("40")) == "FORBIDDEN"
        hub.stop()


def test_a_service_that_is_silent_or_has_gone_is_replaced_by_its_own_principal_only():
    hub = secured()
    first = hub.open("serviceName=billing&token=key-of-ann")
    assert code_of(first.say("40")) == "connected"
    assert code_of(hub.open("serviceName=billing&token=s3cret").say("40")) == "FORBIDDEN"
    second = hub.open("serviceName=billing&token=key-of-ann")
    assert second.say("40") == []  # the first is probed
    hub.clock.advance(1.0)
    assert code_of(second.link.take()) == "connected"
    assert first.link.closed is not None
    second.disconnect()
    assert code_of(hub.open("serviceName=billing&token=s3cret").say("40")) == "FORBIDDEN"
    hub.stop()


@pytest.mark.parametrize(("query", "connect"), [("", "40"), ("token=no", "40"), ("", '40{"token":"no"}')])
def test_without_the_token_nobody_comes_in(query, connect):
    hub = secured()
    assert code_of(hub.open(f"serviceName=a&{query}").say(connect)) == "UNAUTHORIZED"
    hub.stop()


def test_a_token_that_is_no_text_is_refused():
    hub = secured()
    assert code_of(hub.open("serviceName=a").say('40{"token":5}')) == "INVALID_REQUEST"
    hub.stop()


def test_the_name_of_a_credential_is_not_for_others():
    hub = secured()
    assert code_of(hub.open("serviceName=ann&token=s3cret").say("40")) == "FORBIDDEN"
    assert code_of(hub.open("serviceName=ann&token=key-of-ann").say("40")) == "connected"
    hub.stop()


def test_permissions_are_asked_for_registering_and_calling():
    hub = secured(register=["a"], call=["a.*"])
    service = hub.open("serviceName=a&token=s3cret")
    assert code_of(service.say("40")) == "connected"
    assert code_of(hub.open("serviceName=b&token=s3cret").say("40")) == "FORBIDDEN"
    service.ask("b", "1")
    hub.stop()


def test_guessing_tokens_ends_the_connection():
    hub = secured()
    client = hub.open("serviceName=a")
    for _ in range(5):
        assert code_of(client.say('40{"token":"no"}')) == "UNAUTHORIZED"
    client.say('40{"token":"s3cret"}')
    assert client.link.closed == (1013, "RATE_LIMITED")
    hub.stop()


# Requests and responses


def test_request_and_response_pass_as_they_were_written(hub):
    a, b = hub.connect("a"), hub.connect("b")
    payload = '{"id":"UWmX","more":[1e3, 1.0],"event":"echo","data":{"n":9007199254740993,"s":"\\ud800"}}'
    a.say('42["request",{"targetService":"b","payload":' + payload + "}]")
    assert b.link.take() == [b'42["request",%b]' % payload.encode()]
    b.say('42["response",{"response":{"got":1e3,"s":"\\udc00"},"id":"UWmX"}]')
    assert a.link.take() == [rb'42["response",{"id":"UWmX","response":{"got":1e3,"s":"\udc00"}}]']


BEYOND = ["1e309", "-1E999", "9" * 400, "-" + "9" * 310, "1" + "0" * 308 + "e1", "1" + "0" * 400 + ".5"]
WITHIN = ["1e308", "1e-999", "9" * 308, "1" + "0" * 308, "9007199254740993", "1.0"]


@pytest.mark.parametrize("number", BEYOND)
@pytest.mark.parametrize("shape", ["%s", '{"a":[%s]}'])
def test_a_request_with_a_number_beyond_the_doubles_is_refused(hub, number, shape):
    a, b = hub.connect("a"), hub.connect("b")
    payload = '{"id":"1","event":"e","data":' + shape % number + "}"
    (answer,) = a.say('42["request",{"targetService":"b","payload":' + payload + "}]")
    assert json.loads(answer[2:])[1]["response"]["error"]["code"] == "INVALID_REQUEST"
    assert b.link.take() == []


def test_a_request_with_such_a_number_and_a_lone_surrogate_is_not_passed_on(hub):
    a, b = hub.connect("a"), hub.connect("b")
    a.say('42["request",{"targetService":"b","payload":{"id":"1","event":"e","data":["\\ud800",1e309]}}]')
    assert b.link.take() == []


@pytest.mark.parametrize("number", BEYOND)
def test_a_response_with_a_number_beyond_the_doubles_is_an_error(hub, number):
    a, b, other = hub.connect("a"), hub.connect("b"), hub.foreign()
    a.ask("b", "1")
    b.say('42["response",{"id":"1","response":{"n":' + number + "}}]")
    ((_, answer),) = a.heard()
    assert answer["response"]["error"]["code"] == "INVALID_RESPONSE"
    other.call("r1", Request("", "b.e", "", "", b"[]"))
    ((_, payload),) = b.heard()
    b.say('42["response",{"id":"' + payload["id"] + '","response":' + number + "}]")
    assert other.session.replies[0].error.code == "INVALID_RESPONSE"


@pytest.mark.parametrize("number", WITHIN)
def test_any_other_number_passes_as_it_is_written(hub, number):
    a, b = hub.connect("a"), hub.connect("b")
    payload = '{"id":"1","event":"e","data":[' + number + ',"1e999"]}'
    a.say('42["request",{"targetService":"b","payload":' + payload + "}]")
    assert b.link.take() == [b'42["request",%b]' % payload.encode()]
    b.say('42["response",{"id":"1","response":' + number + "}]")
    assert a.link.take() == [b'42["response",{"id":"1","response":%b}]' % number.encode()]


@pytest.mark.parametrize("response", ['"text"', "0", "false", "[]", '{"error":{"code":"EVENT_NOT_FOUND"}}'])
def test_any_response_is_forwarded(hub, response):
    a, b = hub.connect("a"), hub.connect("b")
    a.ask("b", "1")
    frame = '42["response",{"id":"1","response":' + response + "}]"
    b.say(frame)
    assert a.link.take() == [frame.encode()]


@pytest.mark.parametrize("answer", ['{"id":"1","response":null}', '{"id":"1"}'])
def test_a_missing_response_becomes_an_empty_object(hub, answer):
    a, b = hub.connect("a"), hub.connect("b")
    a.ask("b", "1")
    b.say('42["response",' + answer + "]")
    assert a.link.take() == [b'42["response",{"id":"1","response":{}}]']


def test_data_may_be_absent_or_null(hub):
    a, b = hub.connect("a"), hub.connect("b")
    a.ask("b", "1")
    a.ask("b", "2", data=None)
    assert b.heard() == [
        ["request", {"id": "1", "event": "echo"}],
        ["request", {"id": "2", "event": "echo", "data": None}],
    ]


def test_a_service_may_ask_itself(hub):
    a = hub.connect("a")
    assert json.loads(a.ask("a", "1", data=1)[0][2:]) == ["request", {"id": "1", "event": "echo", "data": 1}]
    assert a.emit("response", {"id": "1", "response": 2}) == [b'42["response",{"id":"1","response":2}]']


def test_an_unknown_target_is_an_error(hub):
    a = hub.connect("a")
    assert a.ask("nosuch", "TeB0", data={}) == [
        b'42["response",{"id":"TeB0","response":{"error":{"code":"TARGET_SERVICE_NOT_FOUND",'
        b'"message":"Service \\"nosuch\\" not found","errorData":{"targetService":"nosuch","requestID":"TeB0"}}}}]'
    ]


def test_a_target_is_not_found_by_the_beginning_of_its_name(hub):
    a, b = hub.connect("a"), hub.connect("b")
    a.ask("b.c", "1")
    assert a.peer.calling == {}
    assert b.link.take() == []


def test_a_lost_target_answers_its_open_requests_at_once(hub):
    a, b = hub.connect("a"), hub.connect("b")
    a.ask("b", "1")
    b.disconnect()
    assert a.heard() == [
        [
            "response",
            {
                "id": "1",
                "response": {
                    "error": {
                        "code": "TARGET_SERVICE_DISCONNECTED",
                        "message": 'Service "b" disconnected',
                        "errorData": {"targetService": "b", "requestID": "1"},
                    }
                },
            },
        ]
    ]


def test_binary_parts_travel_with_request_and_response(hub):
    a, b = hub.connect("a"), hub.connect("b")
    a.say(
        '451-["request",{"targetService":"b","payload":{"id":"1","event":"e","data":{"_placeholder":true,"num":0}}}]',
        b"\x01\x02",
    )
    assert b.link.take() == [
        b'451-["request",{"id":"1","event":"e","data":{"_placeholder":true,"num":0}}]',
        (b"\x01\x02",),
    ]
    b.say('451-["response",{"id":"1","response":{"b":{"_placeholder":true,"num":0}}}]', b"\x03")
    assert a.link.take() == [
        b'451-["response",{"id":"1","response":{"b":{"_placeholder":true,"num":0}}}]',
        (b"\x03",),
    ]


def test_a_late_response_comes_through_until_it_is_forgotten(hub):
    a, b = hub.connect("a"), hub.connect("b")
    a.ask("b", "1")
    a.ask("b", "2")
    for _ in range(11):
        hub.clock.advance(10)
        for each in (a, b):
            each.say("3")
    b.emit("response", {"id": "1", "response": 1})
    assert a.heard() == [["response", {"id": "1", "response": 1}]]
    hub.clock.advance(10)
    hub.clock.advance(0.1)
    b.emit("response", {"id": "2", "response": 2})
    assert [frame for frame in a.link.take() if frame != b"2"] == []
    assert hub.broker.calls.pending == 0


def test_requests_that_are_never_answered_are_forgotten(hub):
    a, b = hub.connect("a"), hub.connect("b")
    for turn in range(5):
        for number in range(100):
            a.ask("b", f"{turn}-{number}")
        b.link.take()
        hub.clock.advance(60)
        a.say("3")
        b.say("3")
        hub.clock.advance(61)
        a.say("3")
        b.say("3")
        a.link.take()
        if a.link.closed:
            break
    assert len(b.session._serving) <= 264


def test_too_many_open_requests_are_refused():
    hub = Hub(max_pending_calls=10)
    a, b = hub.connect("a"), hub.connect("b")
    for number in range(10):
        assert a.ask("b", str(number)) == []
    assert json.loads(a.ask("b", "11")[0][2:])[1]["response"]["error"]["code"] == "RATE_LIMITED"
    b.emit("response", {"id": "1", "response": 1})
    a.link.take()
    assert a.ask("b", "11") == []
    hub.stop()


def test_one_that_is_too_fast_gets_an_error(hub):
    hub = Hub(rate=1.0, rate_burst=5)
    client = hub.connect("a")
    codes = [json.loads(client.ask("x", "1")[0][2:])[1]["response"]["error"]["code"] for _ in range(9)]
    assert codes[-1] == "RATE_LIMITED"
    other = hub.open("serviceName=b")
    other.say("40")
    assert other.link.closed == (1013, "RATE_LIMITED")
    hub.stop()


# Hostile


def test_a_response_nobody_waits_for_is_dropped_and_counted(hub):
    a, b = hub.connect("a"), hub.connect("b")
    a.emit("response", {"id": "nope", "response": 1})
    a.ask("b", "1")
    b.emit("response", {"id": "1", "response": 1})
    b.emit("response", {"id": "1", "response": 2})
    assert a.heard() == [["response", {"id": "1", "response": 1}]]
    a.ask("b", "2")
    a.disconnect()
    b.emit("response", {"id": "2", "response": 1})
    assert hub.dialect.dropped == 3
    assert hub.broker.metrics.answers_dropped == 3
    assert b.link.closed is None


@pytest.mark.parametrize(
    "words",
    [
        ["request"],
        ["response"],
        ["heartbeat"],
        ["request", None],
        ["request", 5],
        ["request", []],
        ["request", {}],
        ["request", {"targetService": "a"}],
        ["request", {"targetService": "a", "payload": None}],
        ["request", {"targetService": "a", "payload": {}}],
        ["request", {"targetService": "a", "payload": {"id": 5, "event": "x"}}],
        ["response", None],
        ["response", "x"],
        ["response", {}],
        ["response", {"id": None}],
        ["response", {"id": {}, "response": 1}],
        ["heartbeat", 5],
        ["unknown", 1, 2],
        ["request", {"targetService": "a", "payload": {"id": "\ud800", "event": "x"}}],
    ],
)
def test_messages_without_what_they_need_are_passed_over(hub, words):
    a = hub.connect("a")
    assert a.emit(*words) == []
    assert a.link.closed is None
    assert len(a.ask("a", "1")) == 1


@pytest.mark.parametrize(
    "envelope",
    [
        {"payload": {"id": "1", "event": "x"}},
        {"targetService": 5, "payload": {"id": "1", "event": "x"}},
        {"targetService": "a", "payload": {"id": "1"}},
        {"targetService": "a", "payload": {"id": "1", "event": None}},
    ],
)
def test_a_malformed_request_with_an_id_is_answered(hub, envelope):
    a = hub.connect("a")
    (text,) = a.emit("request", envelope)
    (name, answer) = json.loads(text[2:])
    assert (name, answer["id"], answer["response"]["error"]["code"]) == ("response", "1", "INVALID_REQUEST")


@pytest.mark.parametrize("malformed", [False, True])
@pytest.mark.parametrize(("target", "id"), [("é" * 9999, "1"), ("a" * 256, "1"), ("a", "é" * 1025)])
def test_names_that_are_too_long_are_refused_and_cut_in_the_error(hub, target, id, malformed):
    a = hub.connect("a")
    payload = {"id": id, **({} if malformed else {"event": "x"})}
    (text,) = a.emit("request", {"targetService": target, "payload": payload})
    (_, answer) = json.loads(text[2:])
    error = answer["response"]["error"]
    assert (answer["id"], error["code"]) == (id, "INVALID_REQUEST")
    assert error["errorData"] == {"targetService": target[:255], "requestID": id[:1024]}
    assert len(json.dumps(error)) < 10_000


def test_only_the_one_that_was_asked_can_answer(hub):
    a, b, c = hub.connect("a"), hub.connect("b"), hub.connect("c")
    a.ask("b", "1")
    c.emit("response", {"id": "1", "response": {"forged": True}})
    assert a.link.take() == []
    b.emit("response", {"id": "1", "response": {"real": True}})
    assert a.heard() == [["response", {"id": "1", "response": {"real": True}}]]


def test_one_id_at_two_targets_is_two_requests(hub):
    a, b, c = hub.connect("a"), hub.connect("b"), hub.connect("c")
    a.ask("b", "1")
    c.ask("a", "1")
    b.emit("response", {"id": "1", "response": "for a"})
    a.link.sent.pop(0)
    assert a.heard() == [["response", {"id": "1", "response": "for a"}]]
    assert c.link.take() == []


def test_an_id_in_use_at_the_target_is_refused(hub):
    a, b, c = hub.connect("a"), hub.connect("b"), hub.connect("c")
    a.ask("b", "1")
    (refusal,) = c.ask("b", "1")
    assert json.loads(refusal[2:])[1]["response"]["error"] == {
        "code": "DUPLICATE_REQUEST_ID",
        "message": 'Request ID "1" is in use',
        "errorData": {"targetService": "b", "requestID": "1"},
    }
    b.emit("response", {"id": "1", "response": "for a"})
    assert a.heard() == [["response", {"id": "1", "response": "for a"}]]
    assert c.ask("b", "1") == []


def test_heartbeats_keep_only_their_sender(hub):
    a, b = hub.connect("a"), hub.connect("b")
    for _ in range(10):
        hub.clock.advance(5)
        b.emit("heartbeat", {"serviceName": "a"})
    assert a.link.closed == (1001, "ping timeout")
    assert b.link.closed is None
    assert b"41" not in a.link.sent


def test_any_packet_keeps_a_service_whatever_its_heartbeats(hub):
    a = hub.connect("a")
    for _ in range(20):
        hub.clock.advance(10)
        a.ask("x", "1")
    assert a.link.closed is None


# Services that send heartbeats


HEARTBEAT = '42["heartbeat",{"serviceName":"any"}]'


def silence(hub, seconds):
    """Let *seconds* go by in steps shorter than those that look like a pause of the process."""
    for _ in range(round(seconds / 0.25)):
        hub.clock.advance(0.25)


def test_a_service_that_has_sent_heartbeats_is_removed_after_15_silent_seconds(hub):
    a = hub.connect("a")
    a.say(HEARTBEAT)
    silence(hub, 14.75)
    assert a.link.closed is None
    silence(hub, 0.5)
    assert a.link.closed == (1001, "idle")
    assert b"41" not in a.link.sent
    hub.connect("a")


@pytest.mark.parametrize("frame", [HEARTBEAT, "3", "6", '42["request",{}]', '42["other"]', '42["heartbeat"]'])
def test_any_packet_postpones_the_removal(hub, frame):
    a = hub.connect("a")
    a.say(HEARTBEAT)
    silence(hub, 9.75)
    a.say(frame)
    silence(hub, 14.75)
    assert a.link.closed is None
    silence(hub, 0.75)
    assert a.link.closed == (1001, "idle")


def test_a_service_that_answers_pings_stays_however_rare_its_heartbeats(hub):
    a = hub.connect("a")
    a.say(HEARTBEAT)
    for _ in range(100):
        silence(hub, 1)
        if b"2" in a.link.take():
            a.say("3")
    assert a.link.closed is None


@pytest.mark.parametrize(("pong", "pinged"), [(20.0, 10.0), (2.0, 13.0)])
def test_it_is_pinged_so_that_it_can_answer_in_time(pong, pinged):
    hub = Hub(pong_seconds=pong)
    a = hub.connect("a")
    a.say(HEARTBEAT)
    silence(hub, pinged - 0.5)
    assert a.link.take() == []
    silence(hub, 1)
    assert a.link.take() == [b"2"]
    silence(hub, 1)
    assert a.link.closed is None
    silence(hub, 5)
    assert a.link.closed is not None
    hub.stop()


def test_one_that_never_sent_a_heartbeat_is_removed_by_pings_alone(hub):
    a = hub.connect("a")
    a.ask("x", "1")
    silence(hub, 44)
    assert a.link.closed is None
    silence(hub, 2)
    assert a.link.closed == (1001, "ping timeout")


def test_the_removal_can_be_switched_off():
    hub = Hub(microstream_idle_seconds=0.0)
    a = hub.connect("a")
    a.say(HEARTBEAT)
    silence(hub, 44)
    assert a.link.closed is None
    hub.stop()


def test_one_that_has_unregistered_needs_no_heartbeats_until_it_sends_them_again(hub):
    a = hub.connect("a")
    a.say(HEARTBEAT, "41")
    silence(hub, 20)
    assert a.link.closed is None
    a.say("40", HEARTBEAT)
    silence(hub, 16)
    assert a.link.closed == (1001, "idle")


def test_a_pause_of_the_whole_process_is_not_the_silence_of_its_clients(hub):
    a = hub.connect("a")
    a.say(HEARTBEAT)
    hub.clock.advance(60)
    assert a.link.closed is None
    silence(hub, 1)
    a.say("3")
    silence(hub, 14)
    assert a.link.closed is None
    silence(hub, 2)
    assert a.link.closed == (1001, "idle")


def test_too_large_a_message_closes_with_1009(hub):
    a = hub.connect("a")
    a.session.received(b"4" + b"x" * 1_000_000, False)
    assert a.link.closed[0] == 1009


@pytest.mark.parametrize(
    "frames",
    [
        ["4abc"],
        ["42{}"],
        ["42[]"],
        ['42["connect"]'],
        ['42abc["x"]'],
        ["40"],
        ["2"],
        ["9"],
        [b"\x00"],
        ['4511-["x"]'],
        ['451-["x"]', '42["x"]'],
        ["42" + "[" * 3000],
        ['42["request",' + '{"a":' * 2000 + "1" + "}" * 2000 + "]"],
    ],
)
def test_broken_protocol_closes_that_connection_alone(hub, frames):
    a, b = hub.connect("a"), hub.connect("b")
    a.say(*frames)
    assert a.link.closed[0] == 1002
    assert hub.broker.calls.services.names() == ["b"]
    a.say('42["request",{}]')
    assert b.link.closed is None


FRAMES = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from([b"40", b"41", b"3", b"1", b"40/x", b'40{"token":5}', b'451-["request",1]']),
            st.builds(
                lambda name, arg: b"42" + json.dumps([name, arg]).encode(),
                st.sampled_from(["request", "response", "heartbeat", "other"]),
                st.recursive(
                    st.sampled_from([None, 5, "a", "b", [], "\ud800", 1e300]),
                    lambda inner: st.dictionaries(
                        st.sampled_from(["targetService", "payload", "id", "event", "data", "response", "error"]), inner
                    ),
                    max_leaves=12,
                ),
            ),
        ),
        st.booleans(),
    ),
    max_size=20,
)


@given(FRAMES)
def test_no_input_harms_the_hub(frames):
    hub = Hub()
    clients = [hub.open("serviceName=a"), hub.open("serviceName=b")]
    for which, data, binary in frames:
        try:
            text = binary or bool(data.decode())
        except UnicodeDecodeError:
            continue
        client = clients[which]
        if text and not client.link.closed:
            client.session.received(data, binary)
    witness = hub.connect("witness")
    assert len(witness.ask("witness", "1")) == 1
    hub.stop()


# Other dialects


def test_a_foreign_call_reaches_a_service(hub):
    service, other = hub.connect("math"), hub.foreign()
    other.call("r1", Request("", "math.add", "", "", b'[{"a":1.0}]'))
    ((name, payload),) = service.heard()
    assert (name, payload["event"], payload["data"]) == ("request", "add", {"a": 1.0})
    service.emit("response", {"id": payload["id"], "response": None})
    (reply,) = other.session.replies
    assert (reply.ref, reply.body, reply.error, reply.source) == ("r1", b"null", None, "math")


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b"[]", b""),
        (b"[1e3]", b',"data":1e3'),
        (b"[1,2]", b',"data":[1,2]'),
        (b'["\\ud800"]', b',"data":"\\ud800"'),
        (b'[1,"\\ud800"]', b',"data":[1,"\\ud800"]'),
    ],
)
def test_foreign_arguments_become_data(hub, body, data):
    service, other = hub.connect("math"), hub.foreign()
    other.call("r1", Request("", "math.add.more", "", "", body))
    (frame,) = service.link.take()
    assert frame.endswith(b'"event":"add.more"%b}]' % data)


def test_foreign_arguments_that_are_no_list_are_refused(hub):
    hub.connect("math")
    with pytest.raises(Invalid):
        hub.foreign().call("r1", Request("", "math.add", "", "", b"{}"))


@pytest.mark.parametrize(
    ("response", "code", "message", "data"),
    [
        ({"error": {"code": "E", "message": "m", "errorData": {"x": 1}}}, "E", "m", b'{"x": 1}'),
        ({"error": {"code": "E"}}, "E", "", None),
        ({"error": "kaput"}, "INTERNAL_SERVER_ERROR", '"kaput"', None),
    ],
)
def test_an_error_in_the_response_fails_a_foreign_call(hub, response, code, message, data):
    service, other = hub.connect("math"), hub.foreign()
    other.call("r1", Request("", "math.add", "", "", b"[]"))
    ((_, payload),) = service.heard()
    service.emit("response", {"id": payload["id"], "response": response})
    error = other.session.replies[0].error
    assert isinstance(error, CalleeFailed)
    assert (error.code, error.message, error.data) == (code, message, data)


@pytest.mark.parametrize(
    "response", [{"error": None}, {"error": False}, {"error": 0}, {"error": ""}, [1], {"errors": 1}]
)
def test_other_responses_are_results_of_a_foreign_call(hub, response):
    service, other = hub.connect("math"), hub.foreign()
    other.call("r1", Request("", "math.add", "", "", b"[]"))
    ((_, payload),) = service.heard()
    service.emit("response", {"id": payload["id"], "response": response})
    assert json.loads(other.session.replies[0].body) == response
    assert other.session.replies[0].error is None


@pytest.mark.parametrize(("words", "body"), [({}, b"[]"), ({"data": None}, b"[null]"), ({"data": [1]}, b"[[1]]")])
def test_a_request_reaches_a_foreign_procedure(hub, words, body):
    service, other = hub.connect("a"), hub.foreign()
    value_of(Deferred.fromCoroutine(other.perform(["math.add"])))
    service.ask("math", "1", "add", **words)
    (request,) = other.session.requests
    assert (request.procedure, request.body, request.caller) == ("math.add", body, "a")
    other.answer(request.id, b'{"sum":3.0}')
    assert service.link.take() == [b'42["response",{"id":"1","response":{"sum":3.0}}]']


def test_a_foreign_failure_is_told_in_the_words_of_the_hub(hub):
    service, other = hub.connect("a"), hub.foreign()
    value_of(Deferred.fromCoroutine(other.perform(["math.add"])))
    for data, expected in ((b'{"x":1}', {"x": 1}), (None, {})):
        service.ask("math", "1", "add")
        other.answer(other.session.requests.pop().id, b"null", CalleeFailed("Boom", "it broke", data))
        ((_, answer),) = service.heard()
        assert answer["response"]["error"] == {"code": "Boom", "message": "it broke", "errorData": expected}


def test_a_service_goes_before_a_procedure(hub):
    service, other, caller = hub.connect("math"), hub.foreign(), hub.connect("caller")
    value_of(Deferred.fromCoroutine(other.perform(["math.add"])))
    caller.ask("math", "1", "add")
    assert len(service.link.take()) == 1
    assert other.session.requests == []


def test_a_stream_is_not_for_services(hub):
    hub.connect("math")
    with pytest.raises(NotFound):
        hub.foreign().request("r1", Request("", "", "", "", b"{}", recipient="math"))


def test_mail_is_left_in_the_mailbox(hub):
    hub.connect("math")
    value_of(hub.foreign().enqueue("m1", b"{}", recipient="math"))


# The rest


def test_a_bug_of_ours_costs_its_connection_alone(hub, monkeypatch):
    async def broken(self, names, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr("broker.peer.Peer.perform", broken)
    client = hub.open("serviceName=a")
    client.say("40")
    assert client.link.closed == (1011, "internal error")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("EIO=3&transport=websocket", "Unsupported protocol version"),
        ("transport=websocket", "Unsupported protocol version"),
        ("EIO=4&transport=abc", "Transport unknown"),
        ("EIO=4", "Transport unknown"),
        ("EIO=4&transport=websocket&sid=guess", "Session ID unknown"),
        ("&".join(["a=1"] * 200), "Transport unknown"),
    ],
)
def test_a_wrong_handshake_is_refused_with_400(hub, query, message):
    peer = hub.broker.attach("microstream", "127.0.0.1")
    link = FakeLink(HttpRequest("GET", "/socket.io/", query, {}))
    with pytest.raises(Refused) as caught:
        value_of(Deferred.fromCoroutine(hub.dialect.session(peer, link)))
    assert (caught.value.status, caught.value.body) == (400, message.encode())


@pytest.mark.parametrize(
    ("settings", "times"),
    [
        ({}, Times(25.0, 20.0, 10.0, 1_000_000)),
        ({"ping_seconds": 0.0, "pong_seconds": 5.0}, Times(25.0, 5.0, 10.0, 1_000_000)),
        ({"max_message_bytes": 5000}, Times(25.0, 20.0, 10.0, 5000)),
    ],
)
def test_times_follow_the_settings(settings, times):
    assert dialect(Settings(**settings)).times == times
