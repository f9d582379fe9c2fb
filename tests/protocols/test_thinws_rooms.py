"""ThinWS over a link without a network: every rule of rooms, one by one."""

from __future__ import annotations

import json

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.access.permissions import Permissions, Rule
from broker.access.principals import Access
from broker.config.settings import Settings
from broker.errors import BrokerError, NotFound
from broker.jsontext import MAX_PARTS
from broker.messages import HttpRequest, Mail, Request
from broker.peer import Peer
from broker.sessions import MAX_BACKLOG_BYTES, MAX_BACKLOG_FRAMES, MAX_HELD_EVENTS
from broker.testing import connect, make_broker, value_of
from protocols.thinws import ThinWs, dialect
from tests.protocols.fitful_store import FitfulStore
from tests.protocols.thinws_emulator import FakeClient, hashed
from tests.support.logs import failures_of

LARGEST = 2**53 - 1


@pytest.fixture
def broker():
    return make_broker()


@pytest.fixture
def thinws():
    return dialect(Settings())


@pytest.fixture
def client(broker, thinws):
    """Make clients as the shipped one: ``client("alice")``."""

    def make(name, room="", message_id=1):
        made = FakeClient(broker, thinws, name, message_id)
        if room:
            made.subscribe(room)
        made.heard()
        return made

    return make


def raw(broker, thinws, handshake=None):
    """Return a client that sends nothing by itself."""
    return connect(broker, thinws, handshake)


def publish(broker, topic, name="message", body=b"1", dialect="owlmeans"):
    peer = broker.attach(dialect, "127.0.0.1")
    value_of(peer.publish(topic, name, body))


def ack(id):
    return '{"type":"ack","messageID":%s}' % id


def error(text, id=None):
    return '{"type":"error","message":"%s"%s}' % (text, "" if id is None else ',"messageID":%s' % id)


# 1: acks


@pytest.mark.parametrize(
    ("text", "vector"),
    [
        ("alice", "92903040"),
        ("bob", "97717"),
        ("Bob", "66965"),
        ("carol", "94431409"),
        ("žluťoučký", "-1512236005"),
        ("😀", "1772899"),
        ("Aa", "2112"),
        ("BB", "2112"),
    ],
)
def test_the_emulator_hashes_as_the_client(text, vector):
    assert hashed(text) == vector


@pytest.mark.parametrize(
    "id",
    [
        "0",
        str(LARGEST),
        "1.50",
        "1e2",
        "-0",
        '"m-1"',
        '"\\u00e4\\ud800"',
        "null",
        "true",
        "[1, 2]",
        '{"a": 1}',
        "9" * 40,
    ],
)
def test_the_message_id_comes_back_as_it_was_written(broker, thinws, id):
    client = raw(broker, thinws)
    assert client.say('{"messageID": %s ,"type":"connect","connectionID":"1"}' % id) == [ack(id).encode()]
    assert client.say('{"messageID":%s,"type":"nonsense"}' % id) == [error("Unknown message type", id).encode()]


def test_a_frame_without_an_id_gets_an_ack_without_one(broker, thinws):
    client = raw(broker, thinws)
    assert client.say('{"type":"connect","connectionID":"1"}') == [b'{"type":"ack"}']
    assert client.say('{"type":"subscribe"}') == [b'{"type":"error","message":"roomID is required"}']


def test_an_ack_from_the_client_is_ignored(broker, thinws):
    assert raw(broker, thinws).say('{"type":"ack","messageID":1}') == []


# 2, 3: messages


@pytest.mark.parametrize(
    "body", ['"text"', '{"b": 1.50, "a":[1 ,2]}', "[]", "null", "12345678901234567890", '"\\ud800"']
)
def test_members_get_a_message_as_it_was_written(client, body):
    alice, bob = client("alice", "room1"), client("bob", "room1")
    alice.transmit('{"messageID":7,"type":"message","message":%s,"roomID":"room1"}' % body)
    said = '{"type":"message","message":%s,"roomID":"room1"}' % body
    assert alice.heard() == [ack(7), said]
    assert bob.heard() == [said]


def test_every_member_of_the_object_passes_in_its_order_but_for_two(client):
    alice = client("alice", "room1")
    alice.transmit(
        '{"messageID":"m-1","type":"message","roomID":"room1","connectionID":"999","payload":{"a":1},"foo":"bar","ä":0}'
    )
    assert alice.heard() == [ack('"m-1"'), '{"type":"message","roomID":"room1","payload":{"a":1},"foo":"bar","ä":0}']


def test_each_ack_is_before_its_echo_and_the_order_is_kept(client):
    alice, bob = client("alice", "r"), client("bob", "r")
    ids = [alice.send(number, "r") for number in range(20)]
    said = ['{"type":"message","message":%d,"roomID":"r"}' % number for number in range(20)]
    assert alice.heard() == [text for id, echo in zip(ids, said, strict=True) for text in (ack(id), echo)]
    assert bob.heard() == said


def test_a_frame_of_very_many_members_is_refused_but_a_message_may_have_them(client):
    alice = client("alice", "r")
    many = ",".join(f'"{number}":1' for number in range(MAX_PARTS + 2))
    assert alice.client.say('{"type":"message","roomID":"r",%s}' % many) == [error("Invalid message").encode()]
    assert alice.client.say('{"type":"message","roomID":"r","message":{%s}}' % many)[0] == b'{"type":"ack"}'


def test_subscribing_twice_delivers_once(client):
    alice = client("alice", "r")
    assert ack(alice.subscribe("r")) in alice.heard()
    alice.send("x", "r")
    assert len(alice.heard()) == 2


def test_two_sockets_of_one_id_hear_a_message_each(client):
    one, two = client("alice", "r"), client("alice")
    client("bob", "r").send("x", "r")
    assert one.heard() == two.heard() == ['{"type":"message","message":"x","roomID":"r"}']


def test_what_other_dialects_say_comes_as_a_message(broker, client):
    alice = client("alice", 'r "1"')
    publish(broker, 'r "1"', "moved", b'{"x": 1.0}')
    publish(broker, 'r "1"', "gone", None)
    assert alice.heard() == [
        '{"type":"message","roomID":"r \\"1\\"","message":{"x": 1.0}}',
        '{"type":"message","roomID":"r \\"1\\"","message":null}',
    ]


@pytest.mark.parametrize(
    ("members", "body"),
    [
        ('"message":{"a": 1}', b'{"a": 1}'),
        ('"payload":[1]', b"[1]"),
        ('"payload":1,"message":2', b"2"),
        ('"x":1', None),
    ],
)
def test_other_dialects_get_the_message_or_the_payload_and_no_sender(broker, thinws, members, body):
    heard = []

    class Listener:
        def event(self, event, pattern):
            heard.append((event.topic, event.name, event.body, event.source))

    peer = broker.attach("owlmeans", "127.0.0.1")
    peer.bind(Listener())
    peer.subscribe("r")
    alice = FakeClient(broker, thinws, "alice")
    alice.subscribe("r")
    alice.transmit('{"type":"message","roomID":"r",%s}' % members)
    assert heard == [("r", "message", body, "")]


def test_a_stored_room_is_heard_live_and_never_replayed():
    broker = make_broker(durable_topics=("r",))
    thinws = dialect(Settings())
    alice = FakeClient(broker, thinws, "alice", 1)
    alice.subscribe("r")
    alice.send("x", "r")
    assert alice.heard() == [ack(1), ack(2), ack(3), '{"type":"message","message":"x","roomID":"r"}']
    alice.reopen()
    assert alice.heard() == [ack(4)]
    stored = value_of(broker.attach("test", "").read("r", 0, 10))
    assert [(event.name, event.body) for event in stored] == [("message", b'"x"')]


# 4, 5, 6: who is a member


def test_rooms_are_joined_again_by_connect_alone(client):
    alice, bob = client("alice", "r1"), client("bob", "r1")
    alice.subscribe("r2")
    bob.subscribe("r2")
    alice.reopen()
    bob.heard()
    bob.send(1, "r1")
    bob.send(2, "r2")
    assert alice.heard() == [
        ack(4),
        '{"type":"message","message":1,"roomID":"r1"}',
        '{"type":"message","message":2,"roomID":"r2"}',
    ]


def test_the_ids_of_two_clients_may_be_one(client):
    """What a hash of 32 bits does; see "Differences" in the documentation."""
    client("Aa", "r")
    other = client("BB")
    client("bob", "r").send("x", "r")
    assert len(other.heard()) == 1


def test_unsubscribed_is_for_good_and_for_all_sockets(client):
    one, two, bob = client("alice", "r"), client("alice"), client("bob", "r")
    id = one.unsubscribe("r")
    assert one.heard() == [ack(id)]
    bob.send("x", "r")
    one.reopen()
    bob.send("x", "r")
    refused = one.send("y", "r")
    assert one.heard() == [ack(refused - 1), error("Not a member of this room", refused)]
    assert two.heard() == []
    assert len(bob.heard()) == 4


def test_open_rooms_are_open_to_all(broker):
    thinws = dialect(Settings(thinws_open_rooms=True))
    alice, eve = FakeClient(broker, thinws, "alice", 1), FakeClient(broker, thinws, "eve", 1)
    alice.subscribe("r")
    alice.heard()
    eve.send("intruder", "r")
    assert eve.heard() == [ack(1), ack(2)]
    assert alice.heard() == ['{"type":"message","message":"intruder","roomID":"r"}']


def test_a_room_that_nobody_knows_can_be_unsubscribed(client):
    alice = client("alice")
    assert ack(alice.unsubscribe("never")) in alice.heard()


def test_disconnect_leaves_the_rooms_and_keeps_the_socket(client):
    alice, bob = client("alice", "r"), client("bob", "r")
    id = alice.disconnect()
    bob.send("x", "r")
    assert alice.heard() == [ack(id)]
    assert alice.client.link.closed is None
    id = alice.subscribe("other")
    alice.send("y", "other")
    assert alice.heard() == [ack(id), ack(id + 1), '{"type":"message","message":"y","roomID":"other"}']
    alice.connect()
    bob.send("z", "r")
    assert alice.heard()[1:] == ['{"type":"message","message":"z","roomID":"r"}']


def test_nothing_stays_of_a_client_that_goes(broker, client):
    alice = client("alice", "r")
    alice.disconnect()
    alice.subscribe("later")
    alice.drop()
    assert (len(broker.topics), len(broker.memberships)) == (0, 0)


def test_rooms_without_an_identity_are_of_this_socket_alone(broker, thinws):
    client = raw(broker, thinws)
    client.say('{"type":"subscribe","roomID":"r"}')
    publish(broker, "r")
    assert len(client.link.take()) == 1
    assert value_of(broker.store.range("member", "", "\U0010ffff", 10)) == []
    client.say('{"type":"connect","connectionID":"7"}')
    client.leave()
    again = raw(broker, thinws)
    again.say('{"type":"connect","connectionID":"7"}')
    publish(broker, "r")
    assert len(again.link.take()) == 1


def test_another_identity_has_other_rooms(broker, thinws, client):
    client("alice", "a").drop()
    socket = raw(broker, thinws)
    socket.say('{"type":"connect","connectionID":"%s"}' % hashed("alice"))
    socket.say('{"type":"connect","connectionID":"other"}')
    publish(broker, "a")
    assert socket.link.take() == []


# 7: clients written after the documentation


def test_a_client_after_the_readme_works(broker, thinws):
    one, two = raw(broker, thinws), raw(broker, thinws)
    for socket in (one, two):
        subscribed = socket.say('{"type":"subscribe","messageID":"s","connectionID":"my id","roomID":"lobby"}')
        assert subscribed == [b'{"type":"ack","messageID":"s"}']
    said = one.say('{"type":"message","messageID":"m","connectionID":"my id","roomID":"lobby","payload":{"x":1}}')
    assert said == [b'{"type":"ack","messageID":"m"}', b'{"type":"message","roomID":"lobby","payload":{"x":1}}']
    assert two.link.take() == said[1:]
    one.leave()
    again = raw(broker, thinws)
    again.say('{"type":"connect","connectionID":"my id","roomID":"ignored"}')
    publish(broker, "lobby")
    assert len(again.link.take()) == 1
    assert again.say('{"type":"unsubscribe","connectionID":"my id","roomID":"lobby"}') == [b'{"type":"ack"}']
    publish(broker, "lobby")
    assert again.link.take() == two.link.take()[1:] == []


def test_unsubscribe_connects_on_its_way(broker, thinws, client):
    client("alice", "r").drop()
    socket = raw(broker, thinws)
    socket.say('{"type":"unsubscribe","connectionID":"%s","roomID":"r"}' % hashed("alice"))
    again = client("alice")
    publish(broker, "r")
    assert again.heard() == []


@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe"])
def test_another_connection_id_changes_nothing(broker, thinws, client, kind):
    alice = client("alice", "r")
    said = alice.client.say('{"type":"%s","messageID":1,"connectionID":"x","roomID":"r"}' % kind)
    assert said == [error("connectionID mismatch", 1).encode()]
    publish(broker, "r")
    assert len(alice.heard()) == 1


@pytest.mark.parametrize("id", ['"x"', "5", "-1512236005", '"%s"' % ("x" * 256), '" "'])
def test_a_connection_id_is_any_text_or_number(broker, thinws, id):
    assert raw(broker, thinws).say('{"type":"connect","connectionID":%s}' % id) == [b'{"type":"ack"}']


def test_a_number_is_the_identity_of_its_text(broker, thinws):
    raw(broker, thinws).say('{"type":"subscribe","connectionID":-15,"roomID":"r"}')
    again = raw(broker, thinws)
    again.say('{"type":"connect","connectionID":"-15"}')
    publish(broker, "r")
    assert len(again.link.take()) == 1


@pytest.mark.parametrize(
    "id",
    [
        "",
        '"connectionID":"",',
        '"connectionID":null,',
        '"connectionID":{},',
        '"connectionID":true,',
        '"connectionID":"\\ud800",',
        '"connectionID":"%s",' % ("x" * 257),
    ],
)
def test_connect_needs_a_connection_id(broker, thinws, id):
    said = raw(broker, thinws).say('{%s"type":"connect","messageID":3}' % id)
    assert said == [error("connectionID is required", 3).encode()]


@pytest.mark.parametrize(
    ("room", "text"),
    [
        ("x" * 256, "roomID is longer than 255 characters"),
        ("\U0001f600" * 256, "roomID is longer than 255 characters"),
        ("a\\u0000", "roomID has a control character"),
        ("\\n", "roomID has a control character"),
        ("a\\u007fb", "roomID has a control character"),
    ],
)
@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe", "message"])
def test_what_is_wrong_with_a_room_is_told(broker, thinws, kind, room, text):
    said = raw(broker, thinws).say('{"roomID":"%s","type":"%s","messageID":3}' % (room, kind))
    assert said == [error(text, 3).encode()]


def test_a_number_of_very_many_digits_is_not_read(broker, thinws, monkeypatch):
    monkeypatch.setattr("protocols.thinws.frames.float", None, raising=False)
    client = raw(broker, thinws)
    digits = "0." + "1" * 5000
    said = client.say('{"type":"subscribe","messageID":3,"roomID":%s}' % digits)
    assert said == [error("roomID is longer than 255 characters", 3).encode()]
    assert client.say('{"type":"connect","messageID":4,"connectionID":%s}' % digits) == [
        error("connectionID is required", 4).encode()
    ]


@pytest.mark.parametrize("number", ["9" * 400, "1e309", "-" + "9" * 5000])
@pytest.mark.parametrize("where", ['"roomID":%s', '"roomID":"r","messageID":%s', '"roomID":"r","message":{"a":[%s]}'])
def test_a_number_that_is_infinite_as_a_double_is_invalid(broker, thinws, number, where):
    client = raw(broker, thinws)
    client.say('{"type":"subscribe","roomID":"r"}')
    assert client.say('{"type":"message",%s}' % where % number) == [error("Invalid message").encode()]


def test_a_number_that_is_finite_as_a_double_passes_however_long(client):
    alice = client("alice", "r")
    alice.transmit('{"type":"message","message":%s,"roomID":"r"}' % ("9" * 308))
    assert alice.heard()[1] == '{"type":"message","message":%s,"roomID":"r"}' % ("9" * 308)


# 8: rooms


@pytest.mark.parametrize(
    "room",
    ["constructor", "__proto__", "*", ">", "a.*", "a.>", "?", "r 1", " ", "žluťoučký", "😀", "x" * 255, "../r", "kv"],
)
def test_a_room_has_any_name(broker, client, room):
    alice, other = client("alice", room), client("bob", "elsewhere")
    alice.send(1, room)
    alice.reopen()
    publish(broker, room)
    assert len(alice.heard()) == 2
    assert other.heard() == []


@pytest.mark.parametrize(
    ("raw_room", "topic"),
    [("5", "5"), ("true", "true"), ("1.50", "1.5"), ("1e3", "1000"), ("0", "0"), ("-0", "0"), ("1e21", "1e+21")],
)
def test_numbers_and_true_are_rooms_and_keep_their_type(broker, thinws, raw_room, topic):
    client = raw(broker, thinws)
    assert client.say('{"type":"subscribe","roomID":%s}' % raw_room) == [b'{"type":"ack"}']
    said = client.say('{"type":"message","roomID":"%s"}' % topic)
    assert said == [b'{"type":"ack"}', b'{"type":"message","roomID":"%s"}' % topic.encode()]
    assert client.say('{"type":"message","roomID":%s}' % raw_room)[1:] == [
        b'{"type":"message","roomID":%s}' % raw_room.encode()
    ]


@pytest.mark.parametrize(
    "room",
    [
        "",
        '"roomID":"",',
        '"roomID":null,',
        '"roomID":false,',
        '"roomID":["r"],',
        '"roomID":{},',
        '"roomID":"\\ud800",',
    ],
)
@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe", "message"])
def test_a_room_is_required(broker, thinws, kind, room):
    said = raw(broker, thinws).say('{%s"type":"%s","messageID":3}' % (room, kind))
    assert said == [error("roomID is required", 3).encode()]


def test_there_may_be_so_many_rooms_and_no_more(thinws):
    broker = make_broker(max_subscriptions=2)
    alice = FakeClient(broker, thinws, "alice", 1)
    for room in "abc":
        alice.subscribe(room)
    assert alice.heard() == [ack(1), ack(2), ack(3), error("Too many rooms", 4)]
    alice.send("x", "c")
    assert alice.heard() == [error("Not a member of this room", 5)]
    same = FakeClient(broker, thinws, "alice", 1)
    same.disconnect()
    same.subscribe("d")
    assert same.heard()[2:] == [error("Too many rooms", 3)]


# 9: the store is away


@pytest.fixture
def store(broker):
    store = broker.memberships._store = FitfulStore(broker.store)
    return store


def test_while_the_store_is_away_the_client_is_told_and_stays(broker, client, store):
    alice = client("alice", "r")
    store.away = True
    ids = [alice.subscribe("s"), alice.unsubscribe("r"), alice.connect()]
    assert alice.heard() == [error("Internal server error", id) for id in ids]
    publish(broker, "r")
    publish(broker, "s")
    assert len(alice.heard()) == 1
    store.away = False
    ids = [alice.subscribe("s"), alice.unsubscribe("r")]
    assert alice.heard() == [ack(id) for id in ids]
    assert alice.client.link.closed is None


def test_without_a_store_nobody_gets_an_identity(broker, thinws, client, store):
    client("alice", "r").drop()
    socket = raw(broker, thinws)
    store.away = True
    assert socket.say('{"type":"connect","connectionID":"%s"}' % hashed("alice")) == [
        error("Internal server error").encode()
    ]
    store.away = False
    publish(broker, "r")
    assert socket.link.take() == []
    assert socket.session.identity == ""


def test_frames_wait_for_the_one_before_them(client, store):
    alice = client("alice")
    store.slow = True
    ids = [alice.subscribe("r"), alice.send("x", "r"), alice.unsubscribe("r"), alice.send("y", "r")]
    assert alice.heard() == []
    store.answer()
    assert alice.heard() == [
        ack(ids[0]),
        ack(ids[1]),
        '{"type":"message","message":"x","roomID":"r"}',
        ack(ids[2]),
        error("Not a member of this room", ids[3]),
    ]


def test_after_the_ack_of_connect_come_the_messages(broker, client, store):
    alice = client("alice", "r")
    store.slow = True
    alice.connect()
    publish(broker, "r", body=b'"meanwhile"')
    assert alice.heard() == []
    store.answer()
    assert alice.heard() == [ack(3), '{"type":"message","roomID":"r","message":"meanwhile"}']


@pytest.mark.parametrize("said", ['"type":"unsubscribe","roomID":"left"', '"type":"connect","connectionID":"another"'])
def test_of_a_room_that_was_left_nothing_comes_after_the_ack(broker, thinws, store, said):
    socket = raw(broker, thinws)
    socket.say('{"type":"connect","connectionID":"7"}')
    socket.say('{"type":"subscribe","roomID":"left"}')
    if "another" not in said:
        socket.say('{"type":"subscribe","roomID":"kept"}')
    store.slow = True
    assert socket.say("{%s}" % said) == []
    publish(broker, "left", body=b"1")
    publish(broker, "kept", body=b"2")
    store.answer()
    left, *rest = socket.link.take()
    assert left == b'{"type":"message","roomID":"left","message":1}'
    kept = [] if "another" in said else [b'{"type":"message","roomID":"kept","message":2}']
    assert rest == [b'{"type":"ack"}', *kept]


def test_only_so_much_waits(broker, client, store):
    alice = client("alice")
    store.slow = True
    alice.subscribe("r")
    alice.send("x" * MAX_BACKLOG_BYTES, "r")
    assert not alice.client.link.receiving
    refused = alice.send("x" * 1000, "r")
    alice.client.session.received(b"x" * 1000, True)
    assert alice.heard() == [error("Rate limit exceeded", refused), error("Rate limit exceeded")]
    store.answer()
    broker.clock.advance(0)
    store.answer()
    assert [text[:30] for text in alice.heard() if "ack" in text] == [ack(2)[:30], ack(3)[:30]]
    assert alice.client.link.receiving


def test_empty_frames_that_wait_are_counted_too(client, store):
    alice = client("alice")
    store.slow = True
    alice.subscribe("r")
    for _ in range(MAX_BACKLOG_FRAMES + 1):
        alice.client.session.received(b"", False)
    assert alice.heard() == [error("Rate limit exceeded")]


def test_long_messages_that_wait_for_an_answer_are_bounded_by_their_bytes(broker, client, store):
    alice = client("alice", "r")
    store.slow = True
    alice.subscribe("s")
    for _ in range(8):
        publish(broker, "r", body=b'"%b"' % (b"x" * (1 << 20)))
    assert alice.client.link.closed is None
    publish(broker, "r")
    assert alice.client.link.closed == (1013, "busy")


def test_so_many_messages_wait_for_an_answer_and_no_more(broker, client, store):
    alice = client("alice", "r")
    store.slow = True
    alice.subscribe("s")
    for _ in range(MAX_HELD_EVENTS):
        publish(broker, "r")
    assert alice.client.link.closed is None
    publish(broker, "r")
    assert alice.client.link.closed == (1013, "busy")


def test_a_client_that_goes_while_it_waits_is_forgotten(broker, client, store):
    alice = client("alice")
    store.slow = True
    alice.subscribe("r")
    alice.subscribe("s")
    alice.drop()
    store.answer()
    assert (len(broker.topics), len(broker.memberships)) == (0, 0)


def test_a_thousand_frames_that_wait_are_answered_in_their_order(client, store):
    alice = client("alice")
    store.slow = True
    ids = [alice.subscribe("r")] + [alice.send(number, "r") for number in range(1000)]
    store.answer()
    assert [text for text in alice.heard() if "ack" in text] == [ack(id) for id in ids]


# 10: garbage

GARBAGE = [
    "",
    "x",
    "{",
    "[]",
    "null",
    "5",
    '"connect"',
    "{}",
    '{"type":5}',
    '{"type":null}',
    '{"type":""}',
    '{"type":["connect"]}',
    '{"type":"message","roomID":"r","message":NaN}',
    '{"type":"message","roomID":"r","message":1e999}',
    '{"type":"message","roomID":"r","message":%s}' % ("[" * 100_000 + "]" * 100_000),
    "\ufeff{}",
    "\0",
]


@pytest.mark.parametrize("text", GARBAGE, ids=lambda text: text[:30])
def test_garbage_gets_an_error_frame(broker, client, text):
    alice, bob = client("alice", "r"), client("bob", "r")
    assert alice.client.say(text) == [error("Invalid message").encode()]
    alice.send("still here", "r")
    assert len(bob.heard()) == 1


def test_a_binary_frame_gets_an_error_frame(client):
    alice = client("alice")
    alice.client.session.received(b'{"type":"connect","connectionID":"1"}', True)
    assert alice.heard() == [error("Invalid message")]


def test_an_error_has_the_id_of_its_frame_where_that_is_known(broker, thinws):
    client = raw(broker, thinws)
    assert client.say('{"messageID":4}') == [error("Invalid message", 4).encode()]
    assert client.say('{"messageID":4,"type":"Connect"}') == [error("Unknown message type", 4).encode()]


# 7, 8 of the summary: rates and credentials


def test_too_many_frames_get_errors_and_the_socket_stays(thinws):
    clock = Clock()
    broker = make_broker(clock, rate=1.0, rate_burst=2)
    alice = FakeClient(broker, thinws, "alice", 1)
    for _ in range(2):
        alice.transmit('{"type":"nonsense","messageID":9}')
    assert alice.heard() == [ack(1), error("Unknown message type", 9), error("Rate limit exceeded", 9)]
    clock.advance(1.0)
    alice.subscribe("r")
    assert alice.heard() == [ack(2)]
    assert alice.client.link.closed is None


@pytest.mark.parametrize(
    "said",
    [
        '"type":"connect","connectionID":"7"',
        '"type":"subscribe","roomID":"r"',
        '"type":"subscribe","roomID":"r","connectionID":"7"',
        '"type":"unsubscribe","roomID":"r"',
        '"type":"unsubscribe","roomID":"r","connectionID":"7"',
        '"type":"disconnect"',
        '"type":"message","roomID":"r"',
    ],
)
def test_one_frame_takes_one_token_of_the_rate(said):
    broker = make_broker(Clock(), rate=0.01, rate_burst=2)
    client = raw(broker, dialect(Settings(thinws_open_rooms=True)))
    replies = [client.say("{%s}" % said)[0] for _ in range(3)]
    assert replies == [b'{"type":"ack"}', b'{"type":"ack"}', error("Rate limit exceeded").encode()]


@pytest.fixture
def guarded():
    return make_broker(access=Access("required", keys={"ann": "ann-key"}))


def test_without_a_credential_nothing_is_allowed_and_nothing_closed(guarded, thinws):
    client = raw(guarded, thinws)
    for kind in ("connect", "subscribe", "message", "unsubscribe", "disconnect"):
        said = client.say('{"type":"%s","connectionID":"1","roomID":"r","messageID":1}' % kind)
        assert said == [error("Not authorized", 1).encode()]
    assert client.link.closed is None


def test_a_token_in_the_url_lets_in(guarded, thinws):
    for handshake in (
        HttpRequest("GET", "/thinws", "x=1&token=ann-key", {}),
        HttpRequest("GET", "/thinws", "", {"authorization": "Bearer ann-key"}),
    ):
        client = raw(guarded, thinws, handshake)
        assert client.say('{"type":"connect","connectionID":"1"}') == [b'{"type":"ack"}']
        assert client.peer.identity.name == "ann"


def test_a_token_in_connect_lets_in_and_reaches_nobody(guarded, thinws):
    client = raw(guarded, thinws, HttpRequest("GET", "/thinws", "token=wrong", {}))
    refused = error("Not authorized").encode()
    assert client.say('{"type":"subscribe","roomID":"r"}') == [refused]
    assert client.say('{"type":"connect","connectionID":"1","token":"wrong"}') == [refused]
    assert client.say('{"type":"connect","connectionID":"1","token":"ann-key"}') == [b'{"type":"ack"}']
    assert client.say('{"type":"subscribe","roomID":"r"}') == [b'{"type":"ack"}']


@pytest.fixture
def two_keys():
    """Return how to connect with one of two keys."""
    broker = make_broker(access=Access("required", keys={"ann": "ann-key", "eve": "eve-key"}))
    return lambda key: raw(broker, dialect(Settings()), HttpRequest("GET", "/thinws", f"token={key}", {}))


def test_another_has_nothing_of_the_rooms_of_a_connection_id(two_keys):
    ann, eve = two_keys("ann-key"), two_keys("eve-key")
    ann.say('{"type":"subscribe","roomID":"r","connectionID":"a"}')
    for kind in ("connect", "subscribe", "unsubscribe"):
        said = eve.say('{"type":"%s","roomID":"r","connectionID":"a","messageID":1}' % kind)
        assert said == [error("Not authorized", 1).encode()]
    assert eve.link.closed is None
    assert eve.peer.member == ""
    assert ann.say('{"type":"message","roomID":"r","message":1}') == [
        b'{"type":"ack"}',
        b'{"type":"message","roomID":"r","message":1}',
    ]


def test_who_is_refused_a_connection_id_keeps_the_one_it_has(two_keys):
    ann, eve = two_keys("ann-key"), two_keys("eve-key")
    ann.say('{"type":"connect","connectionID":"a"}')
    eve.say('{"type":"subscribe","roomID":"r","connectionID":"e"}')
    assert eve.say('{"type":"connect","connectionID":"a"}') == [error("Not authorized").encode()]
    assert (eve.session.identity, eve.peer.member, eve.peer.joined("r")) == ("e", "thinws:e", True)


@pytest.mark.parametrize("id", ["broker", "broker.x", "user:ann", "default", "ann"])
def test_some_connection_ids_are_not_to_be_had(two_keys, id):
    assert two_keys("eve-key").say('{"type":"connect","connectionID":"%s"}' % id) == [error("Not authorized").encode()]


def test_a_connection_id_has_no_control_characters(broker, thinws):
    said = raw(broker, thinws).say('{"type":"connect","connectionID":"a\\u0000b"}')
    assert said == [error("connectionID is required").encode()]


def test_a_wrong_token_is_worse_than_none(thinws):
    broker = make_broker(access=Access("optional", secrets=("s",)))
    client = raw(broker, thinws, HttpRequest("GET", "/thinws", "token=wrong", {}))
    assert client.say('{"type":"connect","connectionID":"1"}') == [error("Not authorized").encode()]
    assert raw(broker, thinws).say('{"type":"connect","connectionID":"1"}') == [b'{"type":"ack"}']


def test_a_forbidden_room_is_refused(thinws):
    rules = {"subscribe": Rule((">",), ("secret",)), "publish": Rule(("open",))}
    broker = make_broker(access=Access("none", permissions=Permissions({"anonymous": rules}, lenient=True)))
    alice = FakeClient(broker, thinws, "alice", 1)
    for room in ("secret", "heard", "open"):
        alice.subscribe(room)
    alice.send(1, "heard")
    alice.send(2, "open")
    assert alice.heard() == [
        ack(1),
        error("Not authorized", 2),
        ack(3),
        ack(4),
        error("Not authorized", 5),
        ack(6),
        '{"type":"message","message":2,"roomID":"open"}',
    ]


@pytest.mark.parametrize("room", ["broker", "broker.client.online", "kv/k"])
def test_the_names_of_the_broker_itself_can_not_be_sent_to(client, room):
    alice = client("alice", room)
    id = alice.send("x", room)
    assert alice.heard() == [error("Not authorized", id)]


# Server events


class Story:
    """Keeps what the hooks of a dialect were called with."""

    def __init__(self, thinws):
        self.told = []
        for name in ("connect", "disconnect", "subscribe", "unsubscribe", "message"):
            thinws.on(name, lambda connection, *about, name=name: self.told.append((name, *about)))


def test_server_events_are_told_once_each(broker, thinws):
    story = Story(thinws)
    alice = FakeClient(broker, thinws, "alice", 1)
    alice.subscribe("r")
    alice.transmit('{"messageID":3,"type":"message","message":"\\ud800","roomID":"r"}')
    alice.unsubscribe("r")
    alice.disconnect()
    alice.disconnect()
    alice.drop()
    assert story.told == [
        ("connect",),
        ("subscribe", "r"),
        ("message", "r", {"messageID": 3, "type": "message", "message": "\ud800", "roomID": "r"}),
        ("unsubscribe", "r"),
        ("disconnect",),
    ]


def test_each_connect_has_its_disconnect(broker, thinws):
    story = Story(thinws)
    alice = FakeClient(broker, thinws, "alice")
    alice.connect()
    alice.reopen()
    alice.drop()
    assert [name for name, *_ in story.told] == ["connect", "disconnect"] * 3


def test_what_failed_is_not_told(broker, thinws, store):
    alice = FakeClient(broker, thinws, "alice")
    story = Story(thinws)
    store.away = True
    alice.subscribe("r")
    alice.send("x", "r")
    alice.connect()
    assert story.told == []


def test_a_hook_that_fails_costs_a_log_line(broker, thinws, logged):
    thinws.on("subscribe", lambda *_: 1 / 0)
    alice = FakeClient(broker, thinws, "alice", 1)
    alice.subscribe("r")
    assert alice.heard() == [ack(1), ack(2)]
    assert [type(failure) for failure in failures_of(logged)] == [ZeroDivisionError]


def test_a_hook_of_an_unknown_event_is_a_mistake():
    with pytest.raises(KeyError):
        ThinWs().on("Connect", print)


# The rest of a session


def test_a_client_has_no_calls_and_no_mailbox(broker, thinws):
    session = raw(broker, thinws).session
    with pytest.raises(NotFound):
        session.request(Request("1", "a.b", "a", "b", b"[]"))
    assert session.mail(Mail("client:x", "", b"1")) is False
    assert value_of(Deferred.fromCoroutine(session.probe())) is False
    session.reply(None)


@pytest.mark.parametrize("part", ["become", "publish"])
def test_a_bug_of_ours_costs_an_error_frame(broker, thinws, monkeypatch, logged, part):
    async def broken(self, *arguments, **options):
        raise RuntimeError("ours")

    client = FakeClient(broker, thinws, "alice", 1)
    client.subscribe("r")
    client.heard()
    if part == "become":
        monkeypatch.setattr(Peer, part, broken)
        client.connect()
    else:
        monkeypatch.setattr(Peer, part, lambda *_, **__: Deferred.fromCoroutine(broken(0)))
        client.send("x", "r")
    assert client.heard() == [error("Internal server error", 3)]
    assert [type(failure) for failure in failures_of(logged)] == [RuntimeError]


def test_a_message_that_can_not_be_told_closes(broker, thinws, monkeypatch, logged):
    client = FakeClient(broker, thinws, "alice", 1)
    thinws.on("message", print)
    monkeypatch.setattr(json, "loads", lambda text: 1 / 0)
    client.subscribe("r")
    client.send("x", "r")
    assert client.client.link.closed == (1011, "internal error")
    assert [type(failure) for failure in failures_of(logged)] == [ZeroDivisionError]


def test_the_dialect_refuses_slowly():
    assert 2.0 <= ThinWs.refusal_delay <= 5.0


def test_core_errors_have_a_word(broker, thinws):
    session = raw(broker, thinws).session
    session._refuse({}, BrokerError())
    assert session._link.take() == [error("Internal server error").encode()]
