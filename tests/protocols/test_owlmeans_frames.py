"""Frames as such: pings, garbage, sizes, numbers, and what is never relayed."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from twisted.internet.defer import fail

from broker.testing import make_broker, value_of
from protocols.owlmeans import dialect, session
from protocols.owlmeans.marshalled import clean
from tests.protocols.owlmeans_emulator import HOLD, Emulator, Failed, Room, Violation

MALFORMED = "SocketErrorMessageMalformed|||socket:message:malformed:{}|||"


@pytest.fixture(params=["auto", "off"])
def room(request):
    return Room(speedups=request.param)


def said(room, member, *texts):
    """Let *member* send raw frames; return what it is sent."""
    before = len(member.client.frames)
    for text in texts:
        member.client.raw(text)
    room.pump()
    return member.client.frames[before:]


def test_dialect_takes_its_paths_and_its_subprotocol():
    made = dialect(make_broker().settings)
    assert made.name == "owlmeans"
    assert made.websocket_paths == ("/", "/owlmeans", "/v1/ws")
    assert made.subprotocols == ("owlmeans",)


def test_ping_is_answered(room):
    assert said(room, room.join(), '{"type":"ping"}') == [{"type": "pong"}]


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "5",
        "text",
        '"text"',
        "",
        "{",
        "[",
        "}",
        "[1}",
        '{"type":"call"',
        '{"a":1}x',
        ' {"type":"ping"}',
        '[],"type":"ping"',
        "[]}{",
        "{" * 5000,
        '{"payload":' + "[" * 100000 + "]" * 100000 + "}",
        '{"type":"ping","payload":NaN}',
        '{"type":"ping","payload":-Infinity}',
        '{"type":"ping","payload":[1e999],"x":"\\ud800"}',
        '{"type":"ping","payload":01}',
        '{"type":"ping","dt":"x",%s}' % ",".join(f'"{number}":1' for number in range(30_000)),
        '[%s"\\ud800"]' % ("1," * 30_000),
    ],
)
def test_garbage_is_dropped_and_counted(room, text):
    alice = room.join("alice")
    assert said(room, alice, text) == []
    assert room.broker.metrics.verbs["owlmeans"]["ignore"] == 1
    assert said(room, alice, '{"type":"ping"}') == [{"type": "pong"}]
    assert alice.closed is None


def test_binary_frames_are_dropped(room):
    alice = room.join("alice")
    alice.connected.session.received(b'{"type":"ping"}', True)
    alice.connected.session.received(b"\xff\xfe", True)
    room.pump()
    assert alice.client.frames == []
    assert room.broker.metrics.verbs["owlmeans"]["ignore"] == 2


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "system", "event": "close", "payload": {"code": 1006}},
        {"type": "pong"},
        {"type": "whatever", "payload": 1},
        {"type": 5, "payload": 1},
        {"type": "", "payload": 1},
    ],
)
def test_frames_of_other_types_are_never_relayed(room, frame):
    alice, bob = room.join("alice"), room.join("bob")
    room.ask(bob, "broker.subscribe", ">")
    room.ask(bob, "broker.consume")
    bob.client.frames.clear()
    assert said(room, alice, json.dumps(frame)) == []
    assert bob.client.frames == []


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"type":null,"payload":[]}', '{"payload":[]}', '{"type":"message","payload":[]}']
)
def test_frames_without_type_are_messages(room, text):
    alice, bob = room.join("alice"), room.join("bob")
    assert said(room, alice, text) == []
    room.ask(bob, "broker.consume")
    assert bob.client.consume()[0] == ({} if text == "{}" else [])


@pytest.mark.parametrize(
    ("frame", "what"),
    [
        ({"type": "call", "method": "m", "payload": []}, "id"),
        ({"type": "call", "id": "", "method": "m", "payload": []}, "id"),
        ({"type": "call", "id": 5, "method": "m", "payload": []}, "id"),
        ({"type": "event", "event": ["x"], "payload": 1}, "event"),
        ({"type": "message", "id": {}, "payload": 1}, "id"),
        ({"type": "message", "recipient": 7, "payload": 1}, "recipient"),
        ({"type": "message", "recipient": "a\nb", "payload": 1}, "recipient"),
        ({"type": "result", "id": 5, "payload": 1}, "id"),
        ({"type": "response", "payload": 1}, "id"),
    ],
)
def test_malformed_frames_without_a_way_back_are_told_by_a_notice(room, frame, what):
    (notice,) = said(room, room.join("alice"), json.dumps(frame))
    assert notice["payload"]["error"] == MALFORMED.format(what)
    assert notice["payload"]["ref"]["type"] == frame["type"]


@pytest.mark.parametrize(
    ("frame", "what"),
    [
        ({"method": 5, "payload": []}, "method"),
        ({"method": None, "payload": []}, "method"),
        ({"payload": []}, "method"),
        ({"method": "m", "payload": {}}, "payload"),
        ({"method": "m", "payload": None}, "payload"),
        ({"method": "m", "payload": "[]"}, "payload"),
        ({"method": "m", "payload": [], "recipient": 5}, "recipient"),
        ({"method": "broker.subscribe", "payload": [5]}, "pattern"),
        ({"method": "broker.subscribe", "payload": ["a", 5]}, "options"),
    ],
)
def test_malformed_calls_are_answered(room, frame, what):
    # Not by the emulator's own call, which would not make such a thing.
    alice = room.join("alice")
    (answer,) = map(json.loads, alice.connected.say(json.dumps({"type": "call", "id": "1", **frame})))
    assert answer["type"] == "error"
    assert answer["payload"] == MALFORMED.format(what)


def test_null_fields_are_as_missing(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.offer(bob, "m", lambda: 1)
    assert room.ask(alice, "m", recipient=None, event=None, stage=None, dt=None, timeout=None) == 1


def test_unknown_fields_are_dropped(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.offer(bob, "m", lambda: 1)
    room.ask(alice, "m", rawData="x", evil={"a": 1})
    assert set(bob.client.of("call")[0]) == {"type", "id", "method", "payload", "timeout", "sender", "recipient", "dt"}


@pytest.mark.parametrize(
    "number", ["1e999", "9" * 400, "-1E+400", "1" + "0" * 400, "1" + "0" * 250 + "e90", "0.1e0999"]
)
def test_numbers_beyond_the_doubles_are_refused(room, number):
    alice, bob = room.join("alice"), room.join("bob")
    payload = '{"a":[1,%s]}' % number
    room.ask(bob, "broker.subscribe", ">")
    room.ask(bob, "broker.consume")
    room.ask(bob, "broker.acknowledge")
    room.offer(bob, "m", lambda *_: HOLD)
    bob.client.acknowledge(lambda _: True)
    error = MALFORMED.format("payload")
    call = '{"type":"call","id":"1","method":"m","payload":[%s]}' % payload
    assert [json.loads(text)["payload"] for text in alice.connected.say(call)] == [error]
    for kind in ("event", "message"):
        frame = '{"type":"%s","event":"e","payload":%s}' % (kind, payload)
        assert said(room, alice, frame)[0]["payload"]["error"] == error
    stream = said(room, alice, '{"type":"request","id":"7","payload":%s}' % payload)
    assert stream[0]["payload"] == {"error": error}
    pending = alice.client.call("m")
    room.pump()
    id = bob.client.of("call")[0]["id"]
    said(room, bob, '{"type":"result","id":"%s","payload":%s}' % (id, payload))
    assert str(pending.error) == "SocketErrorMessageMalformed: socket:message:malformed:payload"


def test_lone_surrogates_pass_in_payloads(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.ask(bob, "broker.subscribe", "e")
    said(room, alice, '{"type":"event","event":"e","payload":"\\ud83d"}')
    assert bob.client.of("event")[0]["payload"] == "\ud83d"
    room.offer(bob, "m", lambda arg: arg)
    assert room.ask(alice, "m", "\udc00 half") == "\udc00 half"


@pytest.mark.parametrize(
    ("frame", "what"),
    [
        ('{"type":"event","event":"e.\\ud800","payload":1}', "event"),
        ('{"type":"message","recipient":"\\uDFFF","payload":1}', "recipient"),
        ('{"type":"result","id":"\\ud83d x","payload":1}', "id"),
        ('{"type":"call","method":"m","id":"\\ud83d","payload":[]}', "id"),
    ],
)
def test_lone_surrogates_name_nothing(room, frame, what):
    (notice,) = said(room, room.join("alice"), frame)
    assert notice["payload"]["error"] == MALFORMED.format(what)


def test_topic_of_a_request_is_found_beside_a_lone_surrogate(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.ask(bob, "broker.acknowledge", "stream")
    said(room, alice, '{"type":"request","id":"1","payload":{"action":"stream","x":"\\ud800"}}')
    assert bob.client.of("request")[0]["payload"]["x"] == "\ud800"


def test_characters_of_names_are_escaped(room):
    alice, bob = room.join("alice"), room.join()
    room.ask(bob, "broker.identify", 'bob "the\\ ä 😀 </script>')
    room.offer(bob, 'say "hi"', lambda: 1)
    assert room.ask(alice, 'say "hi"', id='"\\\n') == 1
    assert alice.client.of("result")[-1]["sender"] == 'bob "the\\ ä 😀 </script>'


def test_names_in_messages_are_cut_and_can_not_forge_an_error(room):
    alice = room.join("alice")
    with pytest.raises(Failed) as caught:
        room.ask(alice, "a|||b||||" + "x" * 300)
    assert caught.value.message == "socket:connection:unsupported:method:ab|" + "x" * 125
    assert clean("x||") == "x"


def test_two_mebibytes_pass_and_come_back(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.offer(bob, "size", lambda text: len(text))
    assert room.ask(alice, "size", "x" * (2 << 20)) == 2 << 20


def test_client_supplied_sender_is_ignored(room):
    alice, bob = room.join("alice"), room.join("bob")
    room.ask(bob, "broker.subscribe", "e")
    alice.client.notify("e", 1, sender="broker")
    alice.client.enqueue(1, recipient="bob", sender="root")
    room.pump()
    assert {frame["sender"] for frame in bob.client.of("event") + bob.client.of("message")} == {"alice"}


def test_transcript_of_a_call_on_the_wire(room):
    alice, bob = room.join("alice", stamped=False), room.join("bob", stamped=False)
    dt = 1700000000000
    say = bob.connected.say
    register = (
        '{"method":"broker.register","payload":[["math.add","math.fail"]],"type":"call","id":"u2","timeout":60000}'
    )
    assert say(register) == [
        b'{"type":"result","id":"u2","payload":{"registered":["math.add","math.fail"]},"sender":"broker","dt":%d}' % dt
    ]
    alice.connected.say('{"method":"math.add","payload":[2,3],"type":"call","id":"u3","timeout":60000}')
    (call,) = bob.connected.link.take()
    id = json.loads(call)["id"].encode()
    assert call == (
        b'{"type":"call","id":"%b","method":"math.add","payload":[2,3],"timeout":60000,'
        b'"sender":"alice","recipient":"bob","dt":%d}' % (id, dt)
    )
    say('{"id":"%s","type":"result","payload":5,"dt":1}' % id.decode())
    assert alice.connected.link.take() == [b'{"type":"result","id":"u3","payload":5,"sender":"bob","dt":1}']


def test_bug_in_a_method_of_the_broker_costs_that_call_only(room, monkeypatch):
    alice = room.join("alice")
    monkeypatch.setattr(room.broker.store, "get", lambda *_: fail(ZeroDivisionError("a bug")))
    logged = []
    monkeypatch.setattr(session, "log", SimpleNamespace(failure=lambda *args, **_: logged.append(args)))
    with pytest.raises(Failed, match="SocketError: socket:internal"):
        room.ask(alice, "broker.get", "k")
    assert len(logged) == 1
    assert room.ask(alice, "broker.whoami")["id"] == "alice"


def test_session_says_that_it_lives(room):
    alice = room.join("alice")
    assert value_of(alice.connected.peer.probe(1.0)) is True


def test_mail_is_not_given_to_a_client_that_has_gone(room):
    alice, bob = room.join("alice"), room.join("bob")
    bob.connected.session.closed(1006, "")
    alice.client.enqueue(1, recipient="bob")
    room.pump()
    assert bob.connected.link.sent == []


# The emulator itself must be able to fail


@pytest.mark.parametrize(
    "frame",
    [
        (b"{}",),
        "[]",
        '{"type":"call","id":"1","method":"never","payload":[]}',
        '{"type":"result","id":"1","payload":1}',
        '{"type":"result","payload":1}',
        '{"type":"error","id":"x","payload":{}}',
        '{"type":"error","id":"x","payload":"text"}',
        '{"type":"error","id":"x","payload":"Unknown|||text|||"}',
        '{"type":"error","id":"x","payload":"SocketError|||text|||stack"}',
        '{"type":"result","id":"x","payload":null}',
        '{"type":"response","payload":1}',
        '{"type":"response","id":"x","payload":null,"sender":"broker"}',
        '{"type":"request","payload":1}',
        '{"type":"event","payload":1}',
        '{"type":"auth","stage":null,"payload":{}}',
        '{"type":"auth","stage":"init","payload":{}}',
        '{"type":"event","event":"e","payload":NaN}',
    ],
)
def test_emulator_fails_on_what_would_throw(frame):
    client = Emulator()
    client.call("m", id="x")
    if 'null,"payload":{}' in frame:
        client.auth("authenticate", {})
    with pytest.raises(Violation):
        client.received(frame)
