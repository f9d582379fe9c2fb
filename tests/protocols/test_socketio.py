"""Socket.IO v5 without a network: messages in, events out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.microstream.engineio import ProtocolError
from protocols.microstream.socketio import (
    MAX_ARGUMENTS,
    MAX_PARTS,
    Ack,
    Connect,
    Connection,
    Disconnect,
    Emit,
    ack_packets,
    connect_error_packet,
    connect_packet,
    event_packets,
)


@pytest.fixture
def connection():
    connection = Connection()
    for namespace in ("/", "/admin"):
        connection.accept(namespace, "sid")
    return connection


def texts(args):
    return [bytes(arg) for arg in args]


# Connect


@pytest.mark.parametrize(
    ("packet", "event"),
    [
        (b"0", Connect("/")),
        (b'0{"token":"123"}', Connect("/", b'{"token":"123"}')),
        (b"0/custom,", Connect("/custom")),
        (b"0/custom", Connect("/custom")),
        (b'0/custom,{"a":1}', Connect("/custom", b'{"a":1}')),
    ],
)
def test_connect_has_a_namespace_and_perhaps_an_object(packet, event):
    assert Connection().receive(packet, False) == event


def test_connect_is_answered_with_a_sid_or_an_error():
    assert connect_packet("/", "wZX3") == b'0{"sid":"wZX3"}'
    assert connect_packet("/custom", "wZX3") == b'0/custom,{"sid":"wZX3"}'
    assert connect_error_packet("/random", b'{"message":"Invalid namespace"}') == (
        b'4/random,{"message":"Invalid namespace"}'
    )


@pytest.mark.parametrize("packet", [b"0[1]", b'0"x"', b"0{", b"01", b"0/x,5", b"0" + b"/" + b"x" * 300, b"0/\x80"])
def test_a_malformed_connect_closes(packet):
    with pytest.raises(ProtocolError):
        Connection().receive(packet, False)


def test_a_second_connect_closes(connection):
    with pytest.raises(ProtocolError):
        connection.receive(b"0", False)


def test_a_connect_while_the_first_is_undecided_closes():
    connection = Connection()
    connection.receive(b"0", False)
    with pytest.raises(ProtocolError):
        connection.receive(b"0", False)


def test_a_refused_client_may_ask_again():
    connection = Connection()
    connection.receive(b"0", False)
    assert connection.refuse("/", b'{"message":"no"}') == b'4{"message":"no"}'
    assert connection.receive(b"0", False) == Connect("/")


@pytest.mark.parametrize("packet", [b'2["x"]', b"1", b"31[]", b'2/custom,["x"]', b'51-["x"]'])
def test_a_packet_for_a_namespace_not_connected_closes(packet):
    connection = Connection()
    if b"custom" in packet:
        connection.accept("/", "sid")
    with pytest.raises(ProtocolError):
        connection.receive(packet, False)


# Disconnect


def test_disconnect_leaves_one_namespace(connection):
    assert connection.receive(b"1/admin,", False) == Disconnect("/admin")
    assert connection.joined == {"/"}
    assert connection.receive(b"1", False) == Disconnect("/")
    assert connection.receive(b"0", False) == Connect("/")


# Events


@pytest.mark.parametrize(
    ("packet", "namespace", "name", "args", "id"),
    [
        (b'2["foo"]', "/", "foo", [], None),
        (b'2["foo",1,{"a":[]}]', "/", "foo", [b"1", b'{"a":[]}'], None),
        (b'212["foo"]', "/", "foo", [], 12),
        (b'2/admin,13["bar"]', "/admin", "bar", [], 13),
        (b'2/admin,["bar"]', "/admin", "bar", [], None),
        (b"2[7]", "/", "7", [], None),
    ],
)
def test_event(connection, packet, namespace, name, args, id):
    event = connection.receive(packet, False)
    assert isinstance(event, Emit)
    assert (event.namespace, event.name, texts(event.args), event.id) == (namespace, name, args, id)


@pytest.mark.parametrize("text", [b"1e3", b"1.0", b"9007199254740993", b'"\\ud800"', b'"a\\u0041"', b'{"b":1,"a":2}'])
def test_the_text_of_an_argument_is_kept(connection, text):
    assert texts(connection.receive(b'2["x",%b]' % text, False).args) == [text]


def test_half_characters_are_kept_among_whole_ones(connection):
    text = rb'"\ud83d\ude00 \uD800 \\ud800 \ue123 \udfff"'
    assert texts(connection.receive(b'2["x",%b]' % text, False).args) == [text]
    event = connection.receive(rb'2["\ud800",1]', False)
    assert (event.name, texts(event.args)) == ("", [b"1"])


@pytest.mark.parametrize(
    "packet",
    [
        b"2",
        b"2{}",
        b"2[]",
        b"2[null]",
        b"2[[]]",
        b"2[true]",
        b'2["connect"]',
        b'2["connect_error"]',
        b'2["disconnect"]',
        b'2["disconnecting"]',
        b'2["newListener"]',
        b'2["removeListener"]',
        b'2abc["x"]',
        b'2["x"',
        b'2["x",NaN]',
        b'2["x"]y',
        b'2["\\u12"]',
        b'21-["x"]',
        b'2-1["x"]',
        b'2["x",' + b"[" * 5000 + b"]" * 5000 + b"]",
        b'4{"message":"x"}',
        b"7",
        b"abc",
        b"",
        b"3[]",
        b"31{}",
        b"39999999999999999[]",
        b"2" + b"9" * 400 + b'["x"]',
        b'21e3["x"]',
        b"1x",
        b"15",
    ],
)
def test_a_malformed_packet_closes(connection, packet):
    with pytest.raises(ProtocolError):
        connection.receive(packet, False)


def test_event_and_acknowledgement_are_compact():
    assert event_packets("/", b'["foo"]') == [(b'2["foo"]', False)]
    assert event_packets("/admin", b'["foo"]', id=3) == [(b'2/admin,3["foo"]', False)]
    assert ack_packets("/", 456, b"[1]") == [(b"3456[1]", False)]


def test_acknowledgement(connection):
    ack = connection.receive(b"3456[1,2]", False)
    assert isinstance(ack, Ack)
    assert (ack.namespace, ack.id, texts(ack.args)) == ("/", 456, [b"1", b"2"])


# Binary


def test_attachments_follow_their_event(connection):
    head = b'52-["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
    assert connection.receive(head, False) is None
    assert connection.receive(b"\x01", True) is None
    event = connection.receive(b"\x02", True)
    assert (event.name, event.attachments) == ("message", (b"\x01", b"\x02"))
    assert connection.receive(b'2["next"]', False).name == "next"


def test_attachments_of_an_acknowledgement(connection):
    assert connection.receive(b'61-/admin,7[{"_placeholder":true,"num":0}]', False) is None
    ack = connection.receive(b"\x01", True)
    assert (ack.namespace, ack.id, ack.attachments) == ("/admin", 7, (b"\x01",))


def test_attachments_go_after_their_packet():
    assert event_packets("/admin", b'["x"]', id=5, attachments=(b"\x01",)) == [
        (b'51-/admin,5["x"]', False),
        (b"\x01", True),
    ]
    assert ack_packets("/", 789, b"[]", attachments=(b"\x01", b"\x02"))[0] == (b"62-789[]", False)


def test_no_attachments_at_all_are_fine(connection):
    assert connection.receive(b'50-["x"]', False).attachments == ()


@pytest.mark.parametrize(
    "messages",
    [
        [(b"\x01", True)],
        [(b'51-["x"]', False), (b'2["x"]', False)],
        [(b'51-["x",{"_placeholder":true,"num":1}]', False), (b"\x01", True)],
        [(b'51-["x",{"_placeholder":true,"num":-1}]', False), (b"\x01", True)],
        [(b'51-["x",[{"_placeholder":true,"num":"0"}]]', False), (b"\x01", True)],
        [(b'51-["x",{"a":{"_placeholder":true}}]', False), (b"\x01", True)],
        [(b'51-["x"', False), (b"\x01", True)],
        [(b'511-["x"]', False)],
        [(b'599999-["x"]', False)],
        [(b'5["x"]', False)],
        [(b'5-["x"]', False)],
    ],
)
def test_wrong_attachments_close(connection, messages):
    *before, (data, binary) = messages
    for each in before:
        assert connection.receive(*each) is None
    with pytest.raises(ProtocolError):
        connection.receive(data, binary)


# Anything


@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.binary(max_size=40),
                st.text(alphabet='0123456-/,[]{}"ab_\\ud8', max_size=30).map(str.encode),
                st.from_regex(rb'\A[0-6]([0-9]{1,2}-)?(/[a-z]*,)?[0-9]{0,3}(\["[a-z]{1,3}"(,[0-9])?\])?\Z'),
            ),
            st.booleans(),
        )
    )
)
def test_no_input_raises_anything_but_malformed(messages):
    connection = Connection()
    for data, binary in messages:
        try:
            event = connection.receive(data, binary)
        except ProtocolError:
            continue
        if isinstance(event, Connect):
            connection.accept(event.namespace, "sid")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)


@given(JSON, st.integers(0, 10**9) | st.none(), st.sampled_from(["/", "/a", "/a/b"]))
def test_what_is_sent_is_received(value, id, namespace):
    connection = Connection()
    connection.accept(namespace, "sid")
    text = json.dumps(value).encode()
    ((packet, _),) = event_packets(namespace, b'["x",%b]' % text, id=id)
    event = connection.receive(packet, False)
    assert (event.namespace, event.id, texts(event.args)) == (namespace, id, [text])


def test_arguments_have_a_limit_that_is_looked_at_before_they_are_decoded():
    connection = Connection()
    connection.accept("/", "sid")
    for head in (b"2", b"31"):
        kept = connection.receive(head + json.dumps(["x", *[1] * (MAX_ARGUMENTS - 1)]).encode(), False)
        assert len(kept.args) >= MAX_ARGUMENTS - 1
        for last in (1, "\ud800"):
            with pytest.raises(ProtocolError, match="too many"):
                connection.receive(head + json.dumps(["x", *[1] * 2 * MAX_PARTS, last]).encode(), False)
    words = json.dumps(["x", [1] * 2 * MAX_PARTS]).encode()
    assert len(connection.receive(b"2" + words, False).args) == 1


def test_what_a_connect_holds_besides_is_skipped():
    many = {str(number): 1 for number in range(2 * MAX_PARTS)}
    assert Connection().receive(b"0" + json.dumps(many).encode(), False).namespace == "/"
    with pytest.raises(ProtocolError, match="payload"):
        Connection().receive(b"0" + json.dumps({**many, "x": "\ud800"}).encode(), False)
    with pytest.raises(ProtocolError, match="payload"):
        Connection().receive(b"0[1]", False)


def test_json_with_attachments_has_so_many_parts_and_no_more():
    connection = Connection()
    connection.accept("/", "sid")
    words = b'"' + b"," * MAX_PARTS + b'"'
    many = b"[" + b",".join([b"1"] * MAX_PARTS) + b"]"
    assert connection.receive(b'51-["x",' + words + b"]", False) is None
    assert connection.receive(b"1", True).attachments == (b"1",)
    assert connection.receive(b'51-["x",' + many + b"]", False) is None
    with pytest.raises(ProtocolError, match="complex"):
        connection.receive(b"1", True)
