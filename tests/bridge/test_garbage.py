"""Garbage to each dialect of one daemon: told or closed as its words have it, and nobody else notices."""

from __future__ import annotations

import itertools
import json
from typing import Any

import attrs
import pytest
import pytest_twisted

from protocols.owlmeans.reserved import METHODS
from tests.bridge.clients import Client, Ganomede, Hpkv, MicroStream, OwlMeans, ThinWs
from tests.protocols.owlmeans_emulator import REGISTERED
from tests.support.daemon import Daemon
from tests.support.http_client import get, post, request
from tests.support.ws_client import Closed
from tests.web.ws.frames import TEXT, client_frame

DEEP = 100_000
DEEP_ARRAY = "[" * DEEP + "]" * DEEP
DEEP_OBJECT = '{"a":' * DEEP + "1" + "}" * DEEP
LARGE = "x" * (2 << 20)
LARGE_JSON = f'{{"a":"{LARGE}"}}'
NO_TEXT = b'{"type":"\xff\xfe\xed\xa0\x80"}'  # neither is it UTF-8

# What no dialect has a word for.
ODD = {
    "binary": b"\x00\xff{}",
    "nothing": "",
    "null": "null",
    "number": "5",
    "true": "true",
    "text": '"text"',
    "array": "[]",
    "filled array": "[null,5,{}]",
    "no JSON": "{]",
    "two values": "{}{}",
    "NaN": '{"a":NaN}',
    "half a character": '"\\ud800"',
    "deep array": DEEP_ARRAY,
    "deep object": DEEP_OBJECT,
    "open end": "[" * DEEP,
    "deep within": f'{{"type":"event","op":1,"payload":{DEEP_ARRAY}}}',
    "long number": f'{{"a":{"9" * 5000}}}',
    "too large": LARGE,
    "too large JSON": LARGE_JSON,
}
# What stands in the place of a field.
WRONG = (
    "null", "5", "-1.5", "true", '""', '"x"', '"\\ud800"', '"\\u0000"', "[]", "[[]]", "{}", '{"type":{}}',
    "1e999", "9" * 400, "[" * 3000 + "]" * 3000, f'"{"x" * 5000}"',
)  # fmt: skip

# One good frame for each thing that can be said, by its fields.
OWLMEANS_FRAMES = [
    {"type": '"call"', "id": '"c"', "method": '"nosuch"', "payload": "[1]", "timeout": "50", "recipient": '"r"'},
    *(
        {"type": '"call"', "id": '"c"', "method": f'"broker.{method}"', "payload": f'["{name}","v",{{}}]', "dt": "1"}
        for method, name in (
            ("register", "g.x"), ("unregister", "g.x"), ("subscribe", "g.x"), ("unsubscribe", "g.x"),
            ("acknowledge", "g"), ("consume", "g"), ("identify", "g"), ("whoami", ""), ("methods", ">"), ("get", "g"),
            ("set", "g"), ("patch", "g"), ("increment", "g"), ("delete", "g"), ("range", "g"), ("watch", "g.*"),
        )
    ),
    {"type": '"result"', "id": '"i"', "payload": "1"},
    {"type": '"error"', "id": '"i"', "payload": '"A|||b|||"'},
    {"type": '"request"', "id": '"i"', "payload": '{"action":"x"}', "recipient": '"r"'},
    {"type": '"response"', "id": '"i"', "payload": "1"},
    {"type": '"event"', "event": '"g.event"', "payload": "1", "dt": "1"},
    {"type": '"message"', "id": '"i"', "payload": "1", "recipient": '"queue:g"'},
    {"type": '"system"', "event": '"close"', "payload": "{}"},
]  # fmt: skip
CALL = {"type": '"call"', "id": '"odd"'}
THINWS_FRAMES = [
    {"type": '"connect"', "messageID": "1", "connectionID": '"1"', "token": '"t"'},
    {"type": '"subscribe"', "messageID": "1", "connectionID": '"1"', "roomID": '"g"'},
    {"type": '"message"', "messageID": "1", "roomID": '"g"', "message": "1"},
    {"type": '"unsubscribe"', "messageID": "1", "roomID": '"g"'},
    {"type": '"disconnect"', "messageID": "1"},
]
HPKV_FRAMES = [
    {"op": "2", "key": '"g"', "value": '"1"', "messageId": "1"},
    {"op": "1", "key": '"g"', "messageId": "1"},
    {"op": "3", "key": '"g"', "value": '"1"', "messageId": "1"},
    {"op": "5", "key": '"g"', "endKey": '"h"', "limit": "5", "messageId": "1"},
    {"op": "6", "key": '"g"', "value": "1", "messageId": "1"},
    {"op": "4", "key": '"g"', "messageId": "1"},
]


def spoiled(frame: dict[str, str]) -> list[str]:
    """Return *frame* with each field missing, doubled, and wrong in every way."""
    made = []
    for field in frame:
        rest = {name: text for name, text in frame.items() if name != field}
        made.append(text_of(rest))
        made.append(text_of(frame)[:-1] + f',"{field}":{frame[field]}}}')
        made += [text_of({**frame, field: wrong}) for wrong in WRONG]
    return made


def text_of(frame: dict[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{text}' for name, text in frame.items()) + "}"


# A client of each dialect that has nothing to do with it


@attrs.define(eq=False)
class Bystanders:
    """One client of each dialect, connected all the time."""

    daemon: Daemon
    observer: OwlMeans
    caller: OwlMeans
    thin: ThinWs
    hpkv: Hpkv
    watcher: Hpkv
    service: MicroStream
    _rounds: itertools.count[int] = attrs.field(factory=itertools.count)

    @classmethod
    async def join(cls, daemon: Daemon) -> Bystanders:
        self = cls(
            daemon,
            await OwlMeans.join(daemon),
            await OwlMeans.join(daemon, client="bystander"),
            await ThinWs.join(daemon),
            await Hpkv.join(daemon),
            await Hpkv.watcher(daemon, "bystander"),
            await MicroStream.join(daemon, "bystander-service"),
        )
        await self.observer.subscribe("bystanders", "kv/bystander")
        await self.thin.enter("bystanders")
        return self

    async def work(self) -> None:
        """Do something with each, all of it across dialects."""
        number = next(self._rounds)
        body = f'[{number},"{"é" * (number % 50)}"]'
        self.caller.begin("bystander-service.echo", body)
        await self.service.serve(body)
        assert f'"payload":{body},' in await self.caller.next("answer")
        await self.thin.send("bystanders", body)
        assert f'"payload":{body},' in await self.observer.event()
        await self.thin.message()
        posted = await Ganomede(self.daemon).post("bystanders", body)
        assert f'"payload":{body},' in await self.observer.event()
        assert f'"message":{body}' in await self.thin.message()
        assert (await Ganomede(self.daemon).poll("bystanders", after=posted["id"] - 1)).json() == [posted]
        await self.hpkv.set("bystander", body)
        assert (await self.watcher.notification())["value"] == body
        assert json.loads(await self.observer.event())["payload"]["value"] == body

    async def leave(self) -> None:
        for client in (self.observer, self.caller, self.thin, self.hpkv, self.watcher, self.service):
            await client.socket.close()


@pytest_twisted.async_yield_fixture(scope="module")
async def crowd(shared_daemon):
    bystanders = await Bystanders.join(shared_daemon)
    yield bystanders
    await bystanders.leave()


@pytest_twisted.async_yield_fixture
async def bystanders(crowd):
    """Those who must not notice: they work before and after the test."""
    await crowd.work()
    yield crowd
    await crowd.work()


# Saying garbage


MARKERS: dict[type[Client], tuple[str, str]] = {  # a frame, and what is in the answer to it only
    OwlMeans: ('{"type":"ping"}', '{"type":"pong"}'),
    ThinWs: ('{"messageID":"marker","type":"marker"}', '"messageID":"marker"'),
    Hpkv: ('{"op":6,"key":"marker","value":1,"messageId":"marker"}', '"messageId":"marker"'),
    MicroStream: (
        '42["request",{"targetService":"nosuch","payload":{"id":"marker","event":"e"}}]',
        '"id":"marker"',
    ),
}


@attrs.define(eq=False)
class Vandal:
    """Says garbage, and comes again when it is closed."""

    daemon: Daemon
    dialect: type[Client]
    query: dict[str, str]
    _client: Client | None = None

    async def say(self, *messages: str | bytes, answered: int = 0) -> list[str] | int:
        """Return what it is answered, *answered* texts at least, or the code it is closed with."""
        if self._client is None:
            self._client = await self.dialect.join(self.daemon, **self.query)
        socket, (marker, mark) = self._client.socket, MARKERS[self.dialect]
        for message in messages:
            socket.send(message)
        socket.send(marker)
        answers: list[str] = []
        try:
            while mark not in (answer := await socket.receive()):
                answers.append(answer)
            while len(answers) < answered:  # what asks the store may be answered later
                answers.append(await socket.receive())
        except Closed as closed:
            self._client = None
            return closed.code
        return answers

    async def say_no_text(self) -> int:
        """Send a text message that is not UTF-8; return the code it is closed with."""
        client = await self.dialect.join(self.daemon, **self.query)
        client.socket.raw(client_frame(TEXT, NO_TEXT))
        return (await client.socket.closed())[0]

    async def leave(self) -> None:
        if self._client is not None:
            await self._client.socket.close()


VANDALS = {
    "owlmeans": (OwlMeans, {}),
    "thinws": (ThinWs, {}),
    "hpkv": (Hpkv, {"apiKey": "any"}),
    "microstream": (MicroStream, {"serviceName": "vandal"}),
}


@pytest_twisted.async_yield_fixture
async def vandal(shared_daemon):
    made: list[Vandal] = []

    def make(name: str) -> Vandal:
        made.append(Vandal(shared_daemon, *VANDALS[name]))
        return made[-1]

    yield make
    for one in made:
        await one.leave()


INVALID_MESSAGE = '{"type":"error","message":"Invalid message"}'
BAD_FRAME = '{"code":400,"error":"Invalid message"}'
NOTHING: list[str] = []
NOT_QUEUED = (
    '{"type":"system","event":"broker.error","payload":'
    '{"error":"SocketErrorMessageMalformed|||socket:message:malformed:payload|||","ref":{"type":"message"}}}'
)

# What comes of ODD, where it is not the same for all of a dialect.
OUTCOMES: dict[str, tuple[Any, dict[str, Any]]] = {
    # An object without a type is a queued message, and its numbers must be such as others can read.
    "owlmeans": (NOTHING, {"long number": [NOT_QUEUED], "too large": 1009, "too large JSON": 1009}),
    "thinws": ([INVALID_MESSAGE], {"too large": 1009, "too large JSON": 1009}),
    "hpkv": (
        [BAD_FRAME],
        {
            "binary": 1003,
            "too large": 1009,
            "too large JSON": 1009,
            "long number": ['{"code":400,"error":"Invalid operation"}'],
        },
    ),
    # An Engine.IO "5", upgrade, has nothing to say on a WebSocket.
    "microstream": (1002, {"number": NOTHING, "too large": 1009, "too large JSON": 1009}),
}


@pytest.mark.parametrize("dialect", OUTCOMES)
@pytest_twisted.ensureDeferred
async def test_odd_messages_have_the_outcome_of_their_dialect(bystanders, vandal, dialect):
    usual, others = OUTCOMES[dialect]
    speaker = vandal(dialect)
    outcomes = {name: await speaker.say(message) for name, message in ODD.items()}
    assert outcomes == {name: others.get(name, usual) for name in ODD}


@pytest.mark.parametrize("dialect", VANDALS)
@pytest_twisted.ensureDeferred
async def test_text_that_is_no_utf8_is_closed_with_1007(bystanders, vandal, dialect):
    assert await vandal(dialect).say_no_text() == 1007


# Wrong types in every field


def check_owlmeans(text: str) -> None:
    """Check that the shipped client can read *text*: no error it has no class for, no missing payload."""
    frame = json.loads(text)
    kind = frame["type"]
    assert kind in ("call", "result", "error", "request", "response", "event", "auth", "system", "message"), text
    if kind == "error" or (kind == "auth" and frame["stage"] is None):
        parts = frame["payload"].split("|||")
        assert parts[0] in REGISTERED, text
        assert parts[2:] == [""], text
    assert kind != "error" or frame["id"], text
    assert kind != "event" or frame["event"], text


@pytest_twisted.ensureDeferred
async def test_wrong_types_to_owlmeans(bystanders, vandal):
    speaker, seen = vandal("owlmeans"), set()
    for frame in OWLMEANS_FRAMES:
        answers = await speaker.say(*spoiled(frame))
        assert isinstance(answers, list), f"{frame} was closed with {answers}"
        for text in answers:
            check_owlmeans(text)
            seen.add(json.loads(text)["type"])
    assert {"result", "error", "response", "system"} <= seen


# What stands in the place of an argument of a method, and a good one of each method that has others than these.
ODD_ARGUMENTS = (
    "-0.0", "-1", "1e308", "9007199254740993", str(2**64), "9" * 400, "null", "true", '""', '"\\ud800"', '"\\u0000"',
    '"' + "x" * 300 + '"', '"broker"', '"kv/x"', '">"', "[]", "[[1e308]]", '{"ttl":1e308,"limit":-1,"delay":1e308}',
    '{"a":1,"a":[1]}', "[" * 500 + "]" * 500,
)  # fmt: skip
ARGUMENTS = {"batch": ['[{"topic":"odd","payload":1}]'], "increment": ['"odd"', "1", "{}"], "ack": ['"odd"'] * 3}


@pytest_twisted.ensureDeferred
async def test_odd_arguments_to_every_method_of_owlmeans(shared_daemon, bystanders, join, vandal):
    speaker = vandal("owlmeans")
    for name in METHODS.names:
        good = ARGUMENTS.get(name.removeprefix("broker."), ['"odd"', '"v"', "{}"])
        made = [[*good[:place], odd, *good[place + 1 :]] for place in range(len(good) + 1) for odd in ODD_ARGUMENTS]
        calls = [text_of({**CALL, "method": f'"{name}"', "payload": f"[{','.join(each)}]"}) for each in made]
        answers = await speaker.say(*calls, answered=len(calls))
        assert isinstance(answers, list), f"{name} was closed with {answers}"
        assert [text for text in answers if '"id":"odd"' not in text and '"type":"event"' not in text] == []
        for text in answers:
            check_owlmeans(text)
    owl = await join(OwlMeans)
    stored = (await owl.ask("broker.range", "", "~"))["entries"]
    assert {'"odd"', '"' + "x" * 255 + '"'} & {json.dumps(entry["key"]) for entry in stored}
    for entry in stored:
        if entry["key"] != "bystander":
            assert await owl.ask("broker.get", entry["key"]) == entry
            assert (await owl.ask("broker.delete", entry["key"]))["deleted"] is True


@pytest_twisted.ensureDeferred
async def test_wrong_types_to_owlmeans_while_it_authenticates(bystanders, vandal):
    speaker, codes = vandal("owlmeans"), set()
    for text in spoiled({"type": '"auth"', "stage": '"authenticate"', "payload": '{"token":"t"}'}):
        answers = await speaker.say(text)
        if isinstance(answers, int):
            codes.add(answers)
        else:
            assert len(answers) <= 1
            for answer in answers:
                check_owlmeans(answer)
    assert codes == {1008}  # after some tries


THINWS_TEXTS = {
    "Invalid message",
    "Unknown message type",
    "roomID is required",
    "roomID is longer than 255 characters",
    "roomID has a control character",
    "connectionID is required",
    "connectionID mismatch",
    "Not a member of this room",
}


@pytest_twisted.ensureDeferred
async def test_wrong_types_to_thinws(bystanders, vandal):
    speaker, texts = vandal("thinws"), set()
    for frame in THINWS_FRAMES:
        answers = await speaker.say(*spoiled(frame))
        assert isinstance(answers, list), f"{frame} was closed with {answers}"
        for text in answers:
            told = json.loads(text)
            assert told["type"] in ("ack", "error", "message"), text
            if told["type"] == "error":
                texts.add(told["message"])
    assert texts <= THINWS_TEXTS
    assert {"Invalid message", "Unknown message type", "roomID is required", "connectionID is required"} <= texts


@pytest_twisted.ensureDeferred
async def test_wrong_types_to_hpkv(bystanders, vandal):
    speaker, codes = vandal("hpkv"), set()
    for frame in HPKV_FRAMES:
        wrong = spoiled(frame)
        answers = await speaker.say(*wrong, answered=len(wrong))
        assert isinstance(answers, list), f"{frame} was closed with {answers}"
        assert len(answers) == len(wrong)  # each has its answer
        for text in answers:
            told = json.loads(text)
            codes.add(told["code"])
            assert told["code"] == 200 or isinstance(told["error"], str), text
    assert codes == {200, 400, 404}


def microstream_frames() -> list[str]:
    payload = {"id": '"p"', "event": '"e"', "data": "1"}
    made = spoiled({"targetService": '"nosuch"', "payload": text_of(payload)})
    made += [text_of({"targetService": '"nosuch"', "payload": wrong}) for wrong in spoiled(payload)]
    frames = [f'42["request",{text}]' for text in (*WRONG, *made)]
    frames += [f'42["response",{text}]' for text in (*WRONG, *spoiled({"id": '"p"', "response": "1"}))]
    return frames + [f'42["heartbeat",{text}]' for text in WRONG] + ['42["unknown",1]', '42["request"]', "42[5]"]


@pytest_twisted.ensureDeferred
async def test_wrong_types_to_microstream(bystanders, vandal):
    speaker, codes, closed = vandal("microstream"), set(), set()
    for frame in microstream_frames():
        answers = await speaker.say(frame)
        if isinstance(answers, int):
            closed.add(answers)
            continue
        for text in answers:
            assert text.startswith('42["response",'), text
            codes.add(json.loads(text[2:])[1]["response"]["error"]["code"])
    assert codes == {"INVALID_REQUEST", "TARGET_SERVICE_NOT_FOUND"}
    assert closed <= {1002}  # what is no JSON at all ends the connection


PACKETS = [
    "", "7", "x", "2probe", "\x1e", "4", "4x", "4null", "49", "42", "42{}", "42[]", "42null", '42["request"',
    '42["connect"]', '42/nosuch,["x"]', "42" + DEEP_ARRAY, "40", "40[1]", "40{", "41x", "43[]", '4511-["x"]',
    '451-["x",{"_placeholder":true,"num":0}]',
]  # fmt: skip


@pytest_twisted.ensureDeferred
async def test_packets_that_are_none_end_a_microstream_connection(shared_daemon, bystanders):
    for packet in PACKETS:
        service = await MicroStream.join(shared_daemon, "breaker")
        service.say(packet)
        service.say(packet)  # what is due after a header of attachments is no text
        assert (await service.socket.closed())[0] == 1002, packet


# HTTP


BODIES: dict[str, bytes] = {
    **{name: text if isinstance(text, bytes) else str(text).encode() for name, text in ODD.items()},
    "no UTF-8": NO_TEXT,
}


@pytest_twisted.ensureDeferred
async def test_odd_bodies_to_ganomede(shared_daemon, bystanders):
    for name, body in BODIES.items():
        for path in ("events", "indices"):
            url = f"{shared_daemon.url}/events/v1/{path}?secret=any"
            answer = await post(url, body=body, headers={"Content-Type": "application/json"})
            wanted = (413, "RequestEntityTooLarge") if "large" in name else (400, "InvalidContent")
            assert (answer.status, answer.json()["code"]) == wanted, name


@pytest_twisted.ensureDeferred
async def test_wrong_types_to_ganomede(shared_daemon, bystanders):
    good = dict.fromkeys(("clientId", "channel", "from", "type"), '"g"')
    statuses = set()
    for text in spoiled({**good, "data": "[]", "secret": '"any"'}):
        answer = await Ganomede(shared_daemon).post_raw(text.encode())
        statuses.add(answer.status)
        assert answer.status == 200 or set(answer.json()) == {"code", "message"}, text[:200]
    assert statuses == {200, 400, 401}


@pytest_twisted.ensureDeferred
async def test_odd_bodies_for_a_token(shared_daemon, bystanders):
    url = shared_daemon.url + "/token/websocket"
    wrong = [text.encode() for text in spoiled({"subscribeKeys": '["a"]', "accessPattern": '"a"'})]
    for body in (*BODIES.values(), *wrong):
        answer = await post(url, body=body, headers={"x-api-key": "any"})
        assert answer.status in (200, 400, 413), body[:100]
        assert set(answer.json()) == ({"token"} if answer.status == 200 else {"error"})


@pytest_twisted.ensureDeferred
async def test_odd_bodies_to_a_polling_service(shared_daemon, bystanders):
    for name, body in BODIES.items():
        url = f"{shared_daemon.url}/socket.io/?EIO=4&transport=polling&serviceName=vandal"
        sid = json.loads((await get(url)).body[1:])["sid"]
        answer = await request("POST", f"{url}&sid={sid}", body=body)
        if name == "number":  # an Engine.IO "5", upgrade, has nothing to say here
            assert (answer.status, answer.body) == (200, b"ok")
            continue
        assert answer.status == (413 if "large" in name else 400), name
        assert set(answer.json()) == {"code", "message"}
        assert (await get(f"{url}&sid={sid}")).status == 400


@pytest.mark.parametrize("path", ["/", "/thinws", "/ws", "/socket.io/", "/nosuch", "/%00%ff", "//", "/events/v1/%zz"])
@pytest_twisted.ensureDeferred
async def test_odd_paths_and_queries(shared_daemon, bystanders, path):
    for query in ("", "?", "?&&==&", "?%", "?%ff=%ff&" + "a=" * 3000, "?" + "a&" * 2000):
        for method in ("GET", "POST", "DELETE"):
            answer = await request(method, shared_daemon.url + path + query)
            assert 200 <= answer.status < 500, (method, query)
