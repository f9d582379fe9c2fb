"""HPKV over a link without a network: every operation, every code, byte for byte."""

from __future__ import annotations

import json
import sys

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from broker.access.principals import Access
from broker.config.settings import Settings
from broker.errors import NotFound
from broker.messages import Mail, Request
from broker.peer import Peer
from broker.sessions import MAX_BACKLOG_BYTES, MAX_BACKLOG_FRAMES
from broker.testing import make_broker, value_of
from protocols.hpkv import dialect
from protocols.hpkv.frames import MAX_RECORDS, read
from tests.protocols.fitful_store import FitfulStore
from tests.protocols.hpkv_client import Bench, frame, say, told
from tests.support.logs import failures_of

GET, SET, PATCH, DELETE, RANGE, ATOMIC = range(1, 7)


@pytest.fixture
def clock():
    clock = Clock()
    clock.advance(1795211661.613)
    return clock


@pytest.fixture
def bench(clock):
    return Bench(make_broker(clock), dialect(Settings()))


@pytest.fixture
def client(bench):
    return bench.api()


# Answers, byte for byte

TRANSCRIPT = [
    (
        r'{"op":2,"key":"k","value":"{\"a\":1}","messageId":1}',
        b'{"code":200,"success":true,"message":"Record inserted","messageId":1}',
    ),
    (
        r'{"op":2,"key":"k","value":"{\"a\":2}","messageId":2}',
        b'{"code":200,"success":true,"message":"Record updated","messageId":2}',
    ),
    (
        r'{"op":3,"key":"k","value":"{\"b\":1}","messageId":3}',
        b'{"code":200,"success":true,"message":"Record updated","messageId":3}',
    ),
    (r'{"op":1,"key":"k","messageId":4}', rb'{"code":200,"key":"k","value":"{\"a\":2,\"b\":1}","messageId":4}'),
    (
        r'{"op":6,"key":"n","value":-2.5,"messageId":5}',
        b'{"code":200,"success":true,"key":"n","newValue":-2.5,"messageId":5}',
    ),
    (
        r'{"op":6,"key":"n","value":5,"messageId":6}',
        b'{"code":200,"success":true,"key":"n","newValue":2.5,"messageId":6}',
    ),
    (
        r'{"op":5,"key":"k","endKey":"z","limit":1,"messageId":7}',
        rb'{"code":200,"records":[{"key":"k","value":"{\"a\":2,\"b\":1}"}],"count":1,"truncated":true,"messageId":7}',
    ),
    (
        r'{"op":5,"key":"n","endKey":"n","messageId":8}',
        b'{"code":200,"records":[{"key":"n","value":"2.5"}],"count":1,"truncated":false,"messageId":8}',
    ),
    (r'{"op":4,"key":"k","messageId":9}', b'{"code":200,"success":true,"message":"Record deleted","messageId":9}'),
    (r'{"op":1,"key":"k","messageId":10}', b'{"code":404,"error":"Record not found","messageId":10}'),
    (r'{"op":4,"key":"k"}', b'{"code":404,"error":"Record not found"}'),
    (
        r'{"op":2,"key":"ä\u0000","value":"\ud83d\ude00","timestamp":1,"messageId":11}',
        b'{"code":200,"success":true,"message":"Record inserted","messageId":11}',
    ),
    (r'{"op":1,"key":"\u00e4\u0000"}', '{"code":200,"key":"ä\\u0000","value":"😀"}'.encode()),
]


def test_a_conversation(client):
    for said, answer in TRANSCRIPT:
        assert client.say(said) == [answer]


@pytest.mark.parametrize(
    "id", ["0", "9007199254740991", "1.50", '"7"', "null", '"\\ud800"', "[1, 2]", '{"a": 1}', "true"]
)
def test_the_message_id_comes_back_as_it_was_written(client, id):
    assert client.say('{"op":1,"key":"k","messageId": %s }' % id) == [
        b'{"code":404,"error":"Record not found","messageId":%b}' % id.encode()
    ]
    assert client.say('{"op":9,"messageId":%s}' % id)[0].endswith(b'"messageId":%b}' % id.encode())


# Errors

ERRORS = [
    (frame(), 400, "Invalid operation"),
    (frame(0, "k"), 400, "Invalid operation"),
    (frame(7, "k"), 400, "Invalid operation"),
    (frame("2", "k", "v"), 400, "Invalid operation"),
    (frame(2.5, "k", "v"), 400, "Invalid operation"),
    (frame(True, "k"), 400, "Invalid operation"),
    (frame([1], "k"), 400, "Invalid operation"),
    (frame(10**30, "k"), 400, "Invalid operation"),
    ('{"op":null,"key":"k"}', 400, "Invalid operation"),
    (frame(GET), 400, "Key is required"),
    (frame(GET, ""), 400, "Key is required"),
    (frame(GET, 5), 400, "Key is required"),
    (frame(GET, ["k"]), 400, "Key is required"),
    ('{"op":1,"key":null}', 400, "Key is required"),
    (frame(SET, "\ud800", "v"), 400, "Key is required"),
    (frame(RANGE, "", endKey="z"), 400, "Key is required"),
    (frame(SET, "x" * 1025, "v"), 400, "Key too large"),
    (frame(GET, "ä" * 513), 400, "Key too large"),
    (frame(SET, "k"), 400, "Value is required"),
    (frame(SET, "k", ""), 400, "Value is required"),
    (frame(SET, "k", 5), 400, "Value is required"),
    (frame(SET, "k", {"a": 1}), 400, "Value is required"),
    (frame(SET, "k", "\udc00"), 400, "Value is required"),
    (frame(PATCH, "k"), 400, "Value is required"),
    (frame(PATCH, "k", [1]), 400, "Value is required"),
    ('{"op":2,"key":"k","value":null}', 400, "Value is required"),
    (frame(ATOMIC, "k"), 400, "Value is not numeric"),
    (frame(ATOMIC, "k", "1"), 400, "Value is not numeric"),
    (frame(ATOMIC, "k", True), 400, "Value is not numeric"),
    ('{"op":6,"key":"k","value":null}', 400, "Value is not numeric"),
    ('{"op":6,"key":"k","value":1e999}', 400, "Value is not numeric"),
    ('{"op":6,"key":"k","value":-1e999}', 400, "Value is not numeric"),
    ('{"op":6,"key":"k","value":%s}' % ("9" * 309), 400, "Value is not numeric"),
    ('{"op":6,"key":"k","value":-%s}' % ("9" * 400), 400, "Value is not numeric"),
    ('{"op":6,"key":"k","value":%s}' % ("9" * 5000), 400, "Value is not numeric"),
    ('{"op":6,"key":"k","value":%s.5}' % ("9" * 309), 400, "Value is not numeric"),
    ('{"op":6,"key":"k","value":0.1E+310}', 400, "Value is not numeric"),
    (frame(RANGE, "a"), 400, "Invalid range"),
    (frame(RANGE, "a", endKey=5), 400, "Invalid range"),
    ('{"op":5,"key":"a","endKey":null}', 400, "Invalid range"),
    (frame(RANGE, "a", endKey="b", limit=0), 400, "Invalid limit"),
    (frame(RANGE, "a", endKey="b", limit=-1), 400, "Invalid limit"),
    (frame(RANGE, "a", endKey="b", limit=1.5), 400, "Invalid limit"),
    (frame(RANGE, "a", endKey="b", limit="5"), 400, "Invalid limit"),
    (frame(RANGE, "a", endKey="b", limit=True), 400, "Invalid limit"),
    ('{"op":5,"key":"a","endKey":"b","limit":null}', 400, "Invalid limit"),
    (frame(GET, "missing"), 404, "Record not found"),
    (frame(DELETE, "missing"), 404, "Record not found"),
]


@pytest.mark.parametrize(("said", "code", "text"), ERRORS)
def test_what_is_wrong_is_told_with_the_id(client, said, code, text):
    numbered = said[:-1] + ("," if len(said) > 2 else "") + '"messageId":3}'
    assert say(client, said) == {"code": code, "error": text}
    assert say(client, numbered) == {"code": code, "error": text, "messageId": 3}
    assert client.link.closed is None


GARBAGE = [
    "",
    "x",
    "{",
    "[]",
    "null",
    "5",
    '"op"',
    "[" * 100_000,
    '{"op":1,"key":NaN}',
    '{"op":1,"key":"k",}',
    "\ufeff{}",
    '{"op":1,"key":"k","x":%s}' % ("[" * 100_000 + "]" * 100_000),
    '{"op":"\\ud800","value":1e999}',
    '{"op":1,"key":"k","messageId":1e309}',
    '{"op":1,"key":"k","messageId":%s}' % ("9" * 309),
    '{"op":1,"key":"k","messageId":{"a":[-%s]}}' % ("9" * 400),
    '{"op":1.5,"key":"k","messageId":1e309}',
]


@pytest.mark.parametrize("text", GARBAGE, ids=lambda text: text[:30])
def test_garbage_gets_an_answer_without_an_id(client, text):
    assert client.say(text) == [b'{"code":400,"error":"Invalid message"}']


def test_a_binary_frame_closes(client):
    client.session.received(b'{"op":1,"key":"k"}', True)
    assert (client.link.closed[0], client.link.take()) == (1003, [])


def test_one_thing_after_the_other_is_checked(clock):
    bench = Bench(make_broker(clock, rate=1.0, rate_burst=1), dialect(Settings()))
    token = bench.token(access="^mine$")
    client = bench.enter(f"token={token}")
    clock.advance(1.0)  # the token took one
    for said, answer in (
        (frame(9, "", ""), "Invalid operation"),
        (frame(SET, "", ""), "Key is required"),
        (frame(SET, "theirs", ""), "Access denied"),
        (frame(GET, "theirs"), "Access denied"),
        (frame(SET, "mine", ""), "Value is required"),
        (frame(DELETE, "mine"), "Record not found"),
    ):
        assert say(client, said)["error"] == answer
        assert say(client, said) == {"code": 429, "error": "Rate limit exceeded"}
        clock.advance(1.0)


# Values


@pytest.mark.parametrize(
    "value", ["text", "42", "true", "null", ' {"a": 1} ', '"', "\\", "ä😀\0\n", "007", "x" * 100_000]
)
def test_a_value_comes_back_exactly(client, value):
    say(client, frame(SET, "k", value))
    assert say(client, frame(GET, "k"))["value"] == value
    (record,) = say(client, frame(RANGE, "k", endKey="k"))["records"]
    assert record == {"key": "k", "value": value}


@pytest.mark.parametrize(
    ("stored", "amount", "total"),
    [
        (None, "1", "1"),
        (None, "-2.5", "-2.5"),
        ("1", "5", "6"),
        ("10", "-10", "0"),
        ("0.1", "0.2", "0.30000000000000004"),
        ("2.5", "0.5", "3"),
        ("9007199254740991", "1", "9007199254740992"),
        ("123456789012345678901234567890", "1", "123456789012345678901234567891"),
        ("1", "1e3", "1001"),
        ("-0", "0", "0"),
    ],
)
def test_atomic(client, stored, amount, total):
    if stored is not None:
        say(client, frame(SET, "n", stored))
    assert client.say('{"op":6,"key":"n","value":%s}' % amount) == [
        b'{"code":200,"success":true,"key":"n","newValue":%b}' % total.encode()
    ]
    assert say(client, frame(GET, "n"))["value"] == total


@pytest.mark.parametrize("stored", ["text", "", "1x", "NaN", "Infinity", "true", '"1"', "[1]", " 1", "0x1"])
def test_what_is_no_number_is_not_incremented(client, stored):
    if stored:
        say(client, frame(SET, "n", stored))
        assert say(client, frame(ATOMIC, "n", 1)) == {"code": 400, "error": "Value is not numeric"}
        assert say(client, frame(GET, "n"))["value"] == stored


@pytest.mark.parametrize("number", ["1e308", "9" + "0" * 308, "-1" + "7" * 308, "17976931348623157" + "0" * 292])
def test_a_sum_that_overflows_changes_nothing(client, number):
    say(client, frame(SET, "n", number))
    assert say(client, '{"op":6,"key":"n","value":%s}' % number)["error"] == "Value is not numeric"
    assert say(client, frame(GET, "n"))["value"] == number


def test_a_stored_number_beyond_the_doubles_is_not_incremented(client):
    say(client, frame(SET, "n", "9" * 400))
    assert say(client, frame(ATOMIC, "n", 1)) == {"code": 400, "error": "Value is not numeric"}
    assert say(client, frame(GET, "n"))["value"] == "9" * 400


def test_a_number_of_308_digits_is_exact(client):
    say(client, frame(SET, "n", "9" * 307))
    answer = client.say('{"op":6,"key":"n","value":1,"messageId":%s}' % ("8" * 308))
    assert answer == [b'{"code":200,"success":true,"key":"n","newValue":1%b,"messageId":%b}' % (b"0" * 307, b"8" * 308)]


@pytest.mark.parametrize(
    ("stored", "patch", "merged"),
    [
        (None, '{"a": 1}', '{"a": 1}'),
        ('{"a":{"x":1},"b":1}', '{"a":{"y":2},"c":null}', '{"a":{"y":2},"b":1,"c":null}'),
        ('{"a":[1,2]}', '{"a":[3]}', '{"a":[3]}'),
        ("Hello ", "World!", "Hello World!"),
        ("[1]", "[2]", "[1][2]"),
        ('{"a":1}', "text", '{"a":1}text'),
    ],
)
def test_patch(client, stored, patch, merged):
    if stored is not None:
        say(client, frame(SET, "k", stored))
    assert say(client, frame(PATCH, "k", patch))["code"] == 200
    assert say(client, frame(GET, "k"))["value"] == merged


def test_a_value_has_a_limit():
    client = Bench(make_broker(max_value_bytes=10), dialect(Settings())).api()
    assert say(client, frame(SET, "k", "x" * 10))["code"] == 200
    for said in (
        frame(SET, "k", "x" * 11),
        frame(SET, "k", "ä" * 6),
        frame(PATCH, "k", "x"),
        frame(PATCH, "o", "x" * 11),
    ):
        assert say(client, said) == {"code": 400, "error": "Value too large"}
    assert say(client, frame(GET, "k"))["value"] == "x" * 10


def test_a_key_has_a_limit_in_bytes(client):
    for key in ("x" * 1024, "ä" * 512, "😀" * 256):
        assert say(client, frame(SET, key, "v"))["code"] == 200


# Ranges


def keys_of(answer):
    return [record["key"] for record in answer["records"]]


def fill(client, keys, value="v"):
    for key in keys:
        assert say(client, frame(SET, key, value))["code"] == 200


def test_a_range_has_both_bounds_and_the_order_of_bytes(client):
    names = ["a", "a\0", "aa", "b", "z", "ä", "ё", "\uffee", "😀"]
    fill(client, reversed(names))
    assert keys_of(say(client, frame(RANGE, "a", endKey="😀"))) == names
    assert keys_of(say(client, frame(RANGE, "a\0", endKey="b"))) == names[1:4]
    assert keys_of(say(client, frame(RANGE, "\uffef", endKey="\U0010ffff"))) == ["😀"]


@pytest.mark.parametrize(("first", "last"), [("x", "y"), ("b", "a"), ("a", "")])
def test_an_empty_range_is_no_error(client, first, last):
    answer = say(client, frame(RANGE, first, endKey=last))
    assert answer == {"code": 200, "records": [], "count": 0, "truncated": False}


def test_a_range_has_a_hundred_records_unless_more_are_asked_for(client):
    fill(client, [f"k{number:04}" for number in range(MAX_RECORDS + 50)])
    for limit, count in (
        (None, 100),
        (1, 1),
        (MAX_RECORDS, MAX_RECORDS),
        (MAX_RECORDS + 49, MAX_RECORDS),
        (10**12, MAX_RECORDS),
    ):
        answer = say(client, frame(RANGE, "k", endKey="l", limit=limit))
        assert (len(answer["records"]), answer["count"], answer["truncated"]) == (count, count, True)
    answer = say(client, frame(RANGE, "k0950", endKey="l", limit=100))
    assert (answer["count"], answer["truncated"]) == (100, False)


def test_an_answer_has_a_limit_in_bytes_and_at_least_one_record(client):
    fill(client, "abc", "x" * 400_000)
    answer = say(client, frame(RANGE, "a", endKey="z"))
    assert (keys_of(answer), answer["truncated"]) == (["a", "b"], True)
    fill(client, "de", "\x01" * 300_000)  # six times as long when it is sent
    answer = say(client, frame(RANGE, "d", endKey="z"))
    assert (keys_of(answer), answer["truncated"]) == (["d"], True)
    answer = say(client, frame(RANGE, "e", endKey="z"))
    assert (keys_of(answer), answer["truncated"]) == (["e"], False)


def test_a_token_shows_its_keys_of_a_range_only(bench, client):
    fill(client, ["ns:a1", "ns:b1", "ns:a2", "ns:b2", "ns:a3", "other:a"])
    holder = bench.holder(access="^ns:a")
    answer = say(holder, frame(RANGE, "ns:", endKey="ns:\u00ff", limit=2))
    assert (keys_of(answer), answer["count"], answer["truncated"]) == (["ns:a1", "ns:a2"], 2, True)
    answer = say(holder, frame(RANGE, "a", endKey="z", limit=3))
    assert (keys_of(answer), answer["truncated"]) == (["ns:a1", "ns:a2", "ns:a3"], False)
    assert keys_of(say(bench.holder(), frame(RANGE, "a", endKey="z"))) == []


# Notifications


def test_a_change_is_told_to_those_who_asked_for_it(bench, client):
    key, pattern, both = (
        bench.holder(keys=["k"]),
        bench.holder(patterns=["k*"]),
        bench.holder(keys=["k"], patterns=["k*", "^k$", "*"]),
    )
    other = bench.holder(keys=["other"])
    (answer,) = client.say(frame(SET, "k", "v"))
    assert answer == b'{"code":200,"success":true,"message":"Record inserted"}'
    for holder in (key, pattern, both):
        assert holder.link.take() == [b'{"type":"notification","key":"k","value":"v","timestamp":1795211661613}']
    assert other.link.take() == client.link.take() == []


def test_every_kind_of_write_is_told_and_nothing_else(bench, client):
    holder = bench.holder(patterns=["*"])
    for said in (
        frame(SET, "k", '{"a":1}'),
        frame(SET, "k", '{"a":1}'),
        frame(PATCH, "k", '{"b":2}'),
        frame(DELETE, "k"),
        frame(DELETE, "k"),
        frame(GET, "k"),
        frame(RANGE, "a", endKey="z"),
        frame(ATOMIC, "n", 2),
        frame(SET, "", "x"),
        frame(ATOMIC, "n", "x"),
    ):
        say(client, said)
    assert told(holder) == [("k", '{"a":1}'), ("k", '{"a":1}'), ("k", '{"a":1,"b":2}'), ("k", None), ("n", "2")]


def test_a_writer_is_told_too_behind_its_answer(bench):
    holder = bench.holder(keys=["k"])
    assert holder.say(frame(SET, "k", "v", messageId=1)) == [
        b'{"code":200,"success":true,"message":"Record inserted","messageId":1}',
        b'{"type":"notification","key":"k","value":"v","timestamp":1795211661613}',
    ]


def test_hearing_of_a_key_is_no_access_to_it(bench, client):
    holder = bench.holder(keys=["k"], access="^other$")
    say(client, frame(SET, "k", "v"))
    assert told(holder) == [("k", "v")]
    assert say(holder, frame(GET, "k"))["code"] == 403


def test_nothing_is_told_before_or_after(bench, client):
    say(client, frame(SET, "k", "before"))
    holder = bench.holder(keys=["k"])
    assert holder.link.take() == []
    holder.leave()
    say(client, frame(SET, "k", "after"))
    assert holder.link.take() == []
    assert not bench.broker.keys._watched


def test_a_change_by_another_dialect_is_told(bench):
    holder = bench.holder(patterns=["*"])
    peer = bench.broker.attach("owlmeans", "127.0.0.1")
    value_of(peer.set("k", b'{"a":1}'))
    value_of(peer.set("raw", b"\xff"))
    assert told(holder) == [("k", '{"a":1}'), ("raw", "\ufffd")]
    assert say(bench.api(), frame(GET, "raw"))["value"] == "\ufffd"


def test_the_end_of_a_key_is_told(bench, clock):
    holder = bench.holder(keys=["k"])
    value_of(bench.broker.attach("owlmeans", "").set("k", b"v", expires=clock.seconds() + 1.0))
    clock.pump([1.0] * 3)
    assert told(holder) == [("k", "v"), ("k", None)]


# The store is slow, or away


@pytest.fixture
def store(bench):
    bench.broker.keys._store = store = FitfulStore(bench.broker.store)
    return store


@pytest.mark.parametrize(
    "said",
    [
        frame(GET, "k"),
        frame(SET, "k", "v"),
        frame(PATCH, "k", "v"),
        frame(DELETE, "k"),
        frame(RANGE, "a", endKey="z"),
        frame(ATOMIC, "n", 1),
    ],
)
def test_while_the_store_is_away_there_is_an_error(client, store, said):
    store.away = True
    assert say(client, said) == {"code": 500, "error": "Internal server error"}
    store.away = False
    assert "code" in say(client, said)


def test_what_comes_behind_a_range_waits_for_it(client, store):
    store.slow = True
    said = [
        frame(SET, "k", "1", messageId=1),
        frame(RANGE, "a", endKey="z", messageId=2),
        frame(SET, "k", "2", messageId=3),
        frame(RANGE, "a", endKey="z", messageId=4),
        frame(DELETE, "k", messageId=5),
    ]
    for text in said:
        assert client.say(text) == []
    assert len(store.waiting) == 2
    store.answer()
    answers = [json.loads(text) for text in client.link.take()]
    assert [answer["messageId"] for answer in answers] == [1, 2, 3, 4, 5]
    assert [answer["records"][0]["value"] for answer in answers if "records" in answer] == ["1", "2"]


def test_what_comes_without_a_range_does_not_wait(client, store):
    store.slow = True
    for number in range(10):
        client.say(frame(SET, "k", str(number)))
    assert len(store.waiting) == 10


def test_a_thousand_ranges_behind_one_are_all_answered(client, store):
    store.slow = True
    client.say(frame(RANGE, "a", endKey="z"))
    store.slow = False
    for number in range(1000):
        client.say(frame(RANGE, "a", endKey="z", messageId=number))
    store.answer()
    ids = [json.loads(text).get("messageId") for text in client.link.take()]
    assert ids == [None, *range(1000)]


def test_only_so_much_waits_behind_a_range(client, store):
    store.slow = True
    client.say(frame(RANGE, "a", endKey="z"))
    client.say(frame(SET, "k", "x" * MAX_BACKLOG_BYTES))
    assert not client.link.receiving
    assert say(client, frame(SET, "k", "y" * 1000, messageId=7)) == {
        "code": 429,
        "error": "Rate limit exceeded",
        "messageId": 7,
    }
    assert say(client, "x" * 1000) == {"code": 429, "error": "Rate limit exceeded"}
    store.answer()
    client.peer.clock.advance(0)
    store.answer()
    assert len(client.link.take()) == 2


def test_empty_frames_behind_a_range_are_counted_too(client, store):
    store.slow = True
    client.say(frame(RANGE, "a", endKey="z"))
    said = [client.say("") for _ in range(MAX_BACKLOG_FRAMES + 1)]
    assert [len(answers) for answers in said if answers] == [1]


def test_what_came_behind_a_range_before_the_end_is_done(client, store):
    store.slow = True
    client.say(frame(RANGE, "a", endKey="z"))
    client.say(frame(SET, "k", "v"))
    client.leave()
    assert not client.peer.closed
    store.answer()
    store.slow = False
    assert value_of(store.get("kv", "k")).value == b"v"
    assert client.peer.closed


def test_who_is_disconnected_has_nothing_more_done(client, store):
    store.slow = True
    client.say(frame(RANGE, "a", endKey="z"))
    client.say(frame(SET, "k", "v"))
    client.peer.disconnect(4003, "token revoked")
    client.leave()
    store.answer()
    store.slow = False
    assert value_of(store.get("kv", "k")) is None
    assert client.link.closed == (4003, "token revoked")
    assert client.peer.closed


# The rest of a session


def test_each_key_has_its_own_rate(clock):
    access = Access("required", keys={"one": "key-1", "two": "key-2"})
    bench = Bench(make_broker(clock, access, rate=1.0, rate_burst=3), dialect(Settings(api_keys=access.keys)))
    one, same, two = bench.api("key-1"), bench.api("key-1"), bench.api("key-2")
    codes = [say(client, frame(GET, "k", messageId=5))["code"] for client in (one, same, one, same, two)]
    assert codes == [404, 404, 404, 429, 404]
    assert say(one, frame(GET, "k", messageId=5)) == {"code": 429, "error": "Rate limit exceeded", "messageId": 5}
    clock.advance(1.0)
    assert say(one, frame(GET, "k"))["code"] == 404
    assert one.link.closed is None


@pytest.mark.parametrize(
    "said",
    [
        frame(GET, "k"),
        frame(SET, "k", "v"),
        frame(PATCH, "k", "v"),
        frame(DELETE, "k"),
        frame(RANGE, "a", endKey="z"),
        frame(ATOMIC, "n", 1),
        frame(9, "k"),
    ],
)
def test_one_frame_takes_one_token_of_the_rate(clock, said):
    client = Bench(make_broker(clock, rate=0.01, rate_burst=2), dialect(Settings())).api()
    assert [say(client, said)["code"] == 429 for _ in range(3)] == [False, False, True]


def test_a_client_has_no_calls_and_no_mailbox(client):
    session = client.session
    with pytest.raises(NotFound):
        session.request(Request("1", "a.b", "a", "b", b"[]"))
    assert session.mail(Mail("client:x", "", b"1")) is False
    assert value_of(Deferred.fromCoroutine(session.probe())) is False
    session.reply(None)


@pytest.mark.parametrize("outcome", [lambda: fail(RuntimeError("ours")), lambda: value(object())])
def test_a_bug_of_ours_costs_one_connection(bench, client, monkeypatch, logged, outcome):
    monkeypatch.setattr(Peer, "get", lambda self, key: outcome())
    client.say(frame(GET, "k"))
    assert client.link.closed[0] == 1011
    assert len(failures_of(logged)) == 1


def value(of):
    answer = Deferred()
    answer.callback(of)
    return answer


def test_a_bug_in_a_range_costs_one_connection(client, monkeypatch, logged):
    async def broken(*arguments, **options):
        raise RuntimeError("ours")

    monkeypatch.setattr(Peer, "range", broken)
    client.say(frame(RANGE, "a", endKey="z"))
    assert client.link.closed[0] == 1011
    assert len(failures_of(logged)) == 1


def test_an_operation_that_waits_does_not_keep_its_frame():
    data = b'{"op":2,"key":"k","value":"%b","messageId":"m"}' % (b"x" * 10_000)
    before = sys.getrefcount(data)
    operation = read(data)
    assert sys.getrefcount(data) > before
    operation.forget_value()
    assert (sys.getrefcount(data), operation.id) == (before, b'"m"')
