"""Values at every edge in every verb of every dialect: the answer is the dialect's, and nobody else is harmed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import LogLevel

from broker.errors import Invalid
from broker.jsontext import members
from broker.messages import HttpRequest
from broker.testing import Connected, connect, http_request, make_broker, value_of
from protocols import ganomede, hpkv, http, owlmeans, thinws
from protocols.http.operations import Operation
from protocols.microstream import MicroStream
from protocols.owlmeans.methods import Options
from protocols.owlmeans.reserved import METHODS
from tests.support.logs import lines_of, logging

NUMBERS = (
    "0", "-0.0", "1", "-1", "0.5", "1e-308", "-1e-308", "1e308", "-1e308", "1e309", "-1e999", "9" * 400, "9" * 5000,
    *(str(2**power + more) for power in (31, 32, 53, 63, 64) for more in (-1, 0, 1)),
    *(str(-(2**power) - 1) for power in (31, 53, 63)),
    "253402300799", "315576000000", "8.64e12", "8.64e15",
)  # fmt: skip
OTHERS = (
    "true", "false", "null", '""', '"1"', '"1e308"', '"NaN"', '"-1"', '"x"', '"\\ud800"', "[]", "[1]", "[[1e308]]",
    "{}", '{"ttl":1e308}', '{"a":{"b":[9007199254740993]}}', "[" * 500 + "]" * 500,
)  # fmt: skip
UNREADABLE = ("NaN", "Infinity", "-Infinity", "[" * 5000 + "]" * 5000)  # no JSON, or nested too deep to be read
edges = st.sampled_from((*NUMBERS, *OTHERS, *UNREADABLE))
KEYS = ('"k"', '"other"', '"n"')
FIRST, LAST = "\0", "\U0010ffff"  # any character may be in a key


class World:
    """A broker with all dialects, something in it, and a client who is none of those that send edges."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000.0)
        self.broker = make_broker(self.clock, poll_timeout_seconds=1.0)
        dialects = (owlmeans, hpkv, ganomede, thinws, http)
        self.dialects: dict[str, Any] = {}
        for each in dialects:
            dialect = each.dialect(self.broker.settings)
            self.dialects[dialect.name] = dialect
        self.dialects["microstream"] = MicroStream(self.broker.settings, self.clock)
        self.other = self.join("owlmeans")
        self.call(self.other, "broker.set", ["k", "v"])
        self.call(self.other, "broker.set", ["n", "5"])
        self.call(self.other, "broker.watch", [">"])

    def join(self, dialect: str, query: str = "", path: str = "/") -> Connected:
        return connect(self.broker, self.dialects[dialect], HttpRequest("GET", path, query, {"host": "localhost"}))

    def http(self, dialect: str, method: str, target: str, body: bytes = b"", **headers: str) -> Any:
        answer = http_request(self.broker, self.dialects[dialect], method, target, body, headers)
        self.clock.pump([0.1] * 25)
        if not answer.called:  # nothing waits longer than a minute
            self.clock.pump([1.0] * 61)
        return value_of(answer)

    def say(self, client: Connected, text: str) -> list[Any]:
        """Let *client* send *text*; return what it is sent until all is quiet, read as JSON."""
        sent = client.say(text.encode())
        self.clock.pump([0.1] * 4)
        return [json.loads(frame) for frame in sent + client.link.take()]

    def call(self, client: Connected, method: str, arguments: list[Any]) -> Any:
        said = self.say(client, json.dumps({"type": "call", "id": "c", "method": method, "payload": arguments}))
        (answer,) = [frame for frame in said if frame.get("id") == "c" and frame["type"] in ("result", "error")]
        assert answer["type"] == "result", answer
        return answer["payload"]

    def check_others(self) -> None:
        """See that another client can still read, list, watch, change and remove whatever there is."""
        for entry in self.call(self.other, "broker.range", ["", LAST])["entries"]:
            assert self.call(self.other, "broker.get", [entry["key"]]) == entry
        newcomer = self.join("owlmeans")
        found = self.call(newcomer, "broker.watch", [">"])["entries"]
        records = self.hpkv({"op": 5, "key": FIRST, "endKey": LAST})["records"]
        assert {record["key"] for record in records} == {entry["key"] for entry in found}
        assert self.http("ganomede", "GET", "/latest?channel=ch").status == 200
        for entry in found:
            assert self.call(self.other, "broker.delete", [entry["key"]])["deleted"] is True
        assert self.other.link.closed is None

    def hpkv(self, said: dict[str, Any], **more: Any) -> Any:
        client = self.join("hpkv", "apiKey=any", "/ws")
        (answer,) = self.say(client, json.dumps({**said, **more, "messageId": 1}))
        assert answer["code"] == 200, answer
        return answer


def check(soak: bool, strategy: Any, say: Callable[[World, Any], object]) -> None:
    """Let *say* say what *strategy* makes, many times with *soak*, and see that it harms nobody and nothing."""

    @settings(max_examples=300 if soak else 5)
    @given(strategy)
    def checked(said: Any) -> None:
        with logging(LogLevel.error) as errors:
            world = World()
            say(world, said)
            world.check_others()
        assert lines_of(errors) == []

    checked()


# OwlMeans

OPTIONS = sorted({field.encode_name for kind in Options.__subclasses__() for field in msgspec.structs.fields(kind)})
options = st.dictionaries(st.sampled_from(OPTIONS), edges, min_size=1, max_size=2).map(
    lambda made: f"{{{','.join(f'{json.dumps(name)}:{text}' for name, text in made.items())}}}"
)
arguments = st.tuples(
    st.sampled_from(KEYS) | edges, st.sampled_from(('"v"', '"~"', "5")) | edges, options | edges, edges
).flatmap(lambda made: st.integers(0, 4).map(lambda count: f"[{','.join(made[:count])}]"))
fields = st.dictionaries(st.sampled_from(("timeout", "dt", "recipient", "stage", "event", "method")), edges, max_size=2)


def owl_frame(kind: str, members: dict[str, str]) -> str:
    said = {"type": json.dumps(kind), **members}
    return f"{{{','.join(f'{json.dumps(name)}:{text}' for name, text in said.items())}}}"


def is_readable(frame: str) -> bool:
    """Whether *frame* is a JSON object to the decoder of all dialects; another text is passed over."""
    try:
        return bool(members(frame.encode()))
    except Invalid:
        return False


@pytest.mark.parametrize("method", METHODS.names)
def test_a_method_of_owlmeans(method, soak):
    def say(world, made):
        payload, more = made
        mallory = world.join("owlmeans")
        fields = {"id": '"m"', **more, "method": json.dumps(method), "payload": payload, "recipient": '""'}
        frame = owl_frame("call", fields)
        said = world.say(mallory, frame)
        if is_readable(frame):
            answers = [frame for frame in said if frame["type"] in ("result", "error")]
            assert [frame["id"] for frame in answers] == ["m"]

    check(soak, st.tuples(arguments, fields), say)


@pytest.mark.parametrize("value", ["1e308", "-1", "0", "-0.0", "315576000000", "true", '"1"', "null", "[1]", "9" * 400])
def test_a_lifetime_that_is_none_is_refused_before_anything_is_stored(value):
    world = World()
    said = world.say(world.join("owlmeans"), owl_frame("call", {
        "id": '"m"', "method": '"broker.set"', "payload": f'["fresh","v",{{"ttl":{value}}}]',
    }))  # fmt: skip
    (answer,) = [frame for frame in said if frame.get("id") == "m"]
    assert answer["type"] == ("result" if value == "null" else "error")
    if answer["type"] == "error":
        assert answer["payload"].startswith("SocketErrorMessageMalformed|||socket:message:malformed:")
        assert world.call(world.other, "broker.get", ["fresh"])["value"] is None


@pytest.mark.parametrize("kind", ["call", "request", "event", "message", "result", "error", "response", "auth", "ping"])
def test_a_frame_of_owlmeans(kind, soak):
    def say(world, made):
        payload, more = made
        performer, mallory = world.join("owlmeans"), world.join("owlmeans")
        world.call(performer, "broker.register", ["m"])
        world.call(performer, "broker.acknowledge", [])
        world.call(performer, "broker.subscribe", [">"])
        world.call(performer, "broker.consume", [])
        members = {"id": '"m"', "method": '"m"', "event": '"e"', **more, "payload": payload}
        for frame in world.say(mallory, owl_frame(kind, members)):
            assert frame["type"] in ("result", "error", "response", "system", "auth", "pong", "event")
        world.clock.pump([1.0] * 3)
        assert all(0 <= json.loads(frame).get("dt", 0) <= 8.64e15 for frame in performer.link.take())
        assert performer.link.closed is None

    check(soak, st.tuples(edges, fields), say)


# HPKV

operations = st.fixed_dictionaries(
    {"key": st.sampled_from(KEYS) | edges, "value": st.sampled_from(('"v"', "5")) | edges},
    optional={"endKey": st.just('"~"') | edges, "limit": edges, "messageId": st.just("1") | edges},
)


@pytest.mark.parametrize("op", [1, 2, 3, 4, 5, 6, -1, 1e308])
def test_an_operation_of_hpkv(op, soak):
    def say(world, members):
        client = world.join("hpkv", "apiKey=any", "/ws")
        text = ",".join(f'"{name}":{value}' for name, value in {"op": op, **members}.items())
        answer, *_ = world.say(client, f"{{{text}}}")
        assert answer["code"] in (200, 400, 403, 404)
        assert (answer["code"] == 200) != ("error" in answer)

    check(soak, operations, say)


def test_the_claims_of_a_token(soak):
    names = ("subscribeKeys", "subscribePatterns", "accessPattern")

    def say(world, members):
        text = ",".join(f'"{name}":{value}' for name, value in members.items())
        headers = {"x-api-key": "any", "content-type": "application/json"}
        answer = world.http("hpkv", "POST", "/token/websocket", f"{{{text}}}".encode(), **headers)
        assert answer.status in (200, 400, 413)
        assert list(json.loads(answer.body)) == ["token" if answer.status == 200 else "error"]

    check(soak, st.dictionaries(st.sampled_from(names), edges), say)


# ganomede

POSTED = {"clientId": '"c"', "channel": '"ch"', "from": '"f"', "type": '"T"', "data": '{"a":1}'}
DEFINED = {"id": '"i"', "channel": '"ch"', "field": '"type"'}


def changed(members: dict[str, str]) -> st.SearchStrategy[bytes]:
    """Return bodies of *members*, of which some are edges, and perhaps a member that nobody expects."""
    names = st.sampled_from((*members, "id", "timestamp", "after", "limit"))
    more = st.dictionaries(names, edges, max_size=2)
    return more.map(
        lambda more: f"{{{','.join(f'{json.dumps(k)}:{v}' for k, v in {**members, **more}.items())}}}".encode()
    )


def check_answer(answer: Any) -> None:
    said = json.loads(answer.body)
    assert answer.status in (200, 400, 404, 413)
    assert answer.status == 200 or set(said) == {"code", "message"}


@pytest.mark.parametrize(("path", "members"), [("events", POSTED), ("indices", DEFINED)])
def test_a_post_of_ganomede(path, members, soak):
    def say(world, body):
        check_answer(world.http("ganomede", "POST", f"/events/v1/{path}", body, **{"content-type": "application/json"}))
        check_answer(world.http("ganomede", "GET", "/events/v1/indices/i/T"))

    check(soak, changed(members), say)


@pytest.mark.parametrize("path", ["events", "latest", "indices/i/T"])
def test_a_query_of_ganomede(path, soak):
    def say(world, fields):
        world.http("ganomede", "POST", "/events/v1/events", json_of(POSTED), **{"content-type": "application/json"})
        query = "&".join(f"{name}={quote(text)}" for name, text in {"clientId": "c", "channel": "ch", **fields}.items())
        for _ in range(2):  # the second time with the cursor of the first
            check_answer(world.http("ganomede", "GET", f"/events/v1/{path}?{query}"))
        check_answer(world.http("ganomede", "GET", "/events/v1/events?clientId=c&channel=ch"))

    check(soak, st.dictionaries(st.sampled_from(("after", "limit", "clientId", "channel", "timeout")), edges), say)


def json_of(members: dict[str, str]) -> bytes:
    return f"{{{','.join(f'{json.dumps(name)}:{text}' for name, text in members.items())}}}".encode()


# ThinWS


@pytest.mark.parametrize("kind", ["connect", "subscribe", "unsubscribe", "message", "disconnect", "ack"])
def test_a_frame_of_thinws(kind, soak):
    def say(world, more):
        member, mallory = world.join("thinws"), world.join("thinws")
        for client in (member, mallory):
            world.say(client, '{"type":"subscribe","roomID":"r"}')
        members = {"type": f'"{kind}"', "roomID": '"r"', "connectionID": '"m"', "messageID": "1", **more}
        said = [frame["type"] for frame in world.say(mallory, json_of(members).decode())]
        assert sorted(said) in ([], ["ack"], ["error"], ["ack", "message"])
        assert member.link.closed is None

    names = st.sampled_from(("roomID", "connectionID", "messageID", "message", "payload", "token"))
    check(soak, st.dictionaries(names, edges, max_size=3), say)


# MicroStream


def packets(frames: list[Any]) -> list[Any]:
    """Return the name and the content of each event among *frames*."""
    return [json.loads(frame[2:]) for frame in frames if frame.startswith(b"42")]


@pytest.mark.parametrize("event", ["request", "response", "heartbeat"])
def test_an_event_of_microstream(event, soak):
    def say(world, made):
        service, mallory = (
            world.join("microstream", f"EIO=4&transport=websocket&serviceName={name}", "/socket.io/")
            for name in ("service", "mallory")
        )
        for client in (service, mallory):
            client.say("40")
        more, whole = made
        payload = json_of({"id": '"1"', "event": '"e"', **more}).decode()
        said = json_of({"targetService": '"service"', "payload": payload, **more}).decode()
        for name, content in packets(mallory.say(f'42["{event}",{whole or said}]')):
            assert name == "response"
            assert isinstance(content["id"], str)
        assert service.link.closed is None
        service.link.take()
        request = '42["request",{"targetService":"nobody","payload":{"id":"2","event":"e"}}]'
        ((_, answer),) = packets(service.say(request))
        assert answer["response"]["error"]["code"] == "TARGET_SERVICE_NOT_FOUND"

    names = st.sampled_from(("id", "event", "data", "targetService", "payload", "response"))
    check(soak, st.tuples(st.dictionaries(names, edges, max_size=3), st.just("") | edges), say)


# The HTTP API

OPERATIONS = {f"{each.method} {each.path}": each for each in http.dialect(make_broker(Clock()).settings).operations}
TEXTS = (
    "",
    "k",
    "n",
    "%00",
    "%ED%A0%80",
    "%FF",
    "..",
    "1-1",
    "0",
    "%20",
    "%3E",
    "*.a.*",
    "*." * 60,
    "a" * 300,
)  # percent-encoded
texts = st.sampled_from(TEXTS) | edges.map(lambda text: quote(text, safe=""))
HEADERS = ("idempotency-key", "if-match", "if-none-match", "last-event-id", "accept", "content-type", "range")
header_values = st.sampled_from(("", "*", '"1"', '"0"', "k", "text/event-stream", 'W/"1"', "\xff")) | edges


def requests_of(operation: Operation) -> st.SearchStrategy[Any]:
    """Return requests for *operation*: the names in its path, its query, its header fields and its body."""
    fields = [*msgspec.structs.fields(operation.query), *msgspec.structs.fields(operation.stream_query)]
    queries = sorted({field.encode_name for field in fields}) or ["x"]
    has_members = hasattr(operation.body, "__struct_fields__")
    members = [field.encode_name for field in msgspec.structs.fields(operation.body)] if has_members else []
    bodies = edges | st.just("")
    if members:
        bodies |= st.dictionaries(st.sampled_from(members), edges).map(lambda made: json_of(made).decode())
    return st.tuples(
        st.lists(texts, min_size=len(operation.names), max_size=len(operation.names)),
        st.dictionaries(st.sampled_from(queries), texts, max_size=3),
        st.dictionaries(st.sampled_from(HEADERS), header_values, max_size=2),
        bodies,
    )


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_an_operation_of_the_http_api(operation, soak):
    def say(world, made):
        names, query, headers, body = made
        path = operation.path
        for name, text in zip(operation.names, names, strict=True):
            path = path.replace(f"{{{name}}}", text)
        asked = "&".join(f"{name}={text}" for name, text in query.items())
        answer = world.http("http", operation.method, f"/v1{path}?{asked}", body.encode(), **headers)
        assert 200 <= answer.status < 500 or answer.status in (502, 504)
        if answer.status >= 400:
            assert json.loads(answer.body)["status"] == answer.status

    check(soak, requests_of(operation), say)
