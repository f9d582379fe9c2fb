import json
from time import thread_time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw, UnsetType

from broker.errors import Invalid
from broker.jsontext import (
    MAX_IN_STRINGS,
    MAX_PARTS,
    MAX_SCANNED,
    MAX_SUSPECTS,
    _suspects,
    check_json,
    decode,
    may_overflow,
    members,
    object_text,
    overflows,
    read_fields,
    read_items,
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
# What JavaScript writes for a lone surrogate: Hypothesis makes none of them by itself.
texts = st.text(st.characters(codec=None, categories=["Cs", "L", "P", "Zs"]), max_size=8)


def members_of(text: str) -> dict[str, bytes]:
    return {name: bytes(raw) for name, raw in members(text.encode()).items()}


def test_members_keep_their_texts_and_their_order():
    text = '{"b": 1.50 , "a":[1, 2],"c":{"d" : null},"e":12345678901234567890123,"f":1e2}'
    assert list(members_of(text).items()) == [
        ("b", b"1.50"),
        ("a", b"[1, 2]"),
        ("c", b'{"d" : null}'),
        ("e", b"12345678901234567890123"),
        ("f", b"1e2"),
    ]


def test_of_members_with_one_name_the_last_counts():
    assert members_of('{"a":1,"a":2}') == {"a": b"2"}


def test_lone_surrogate_stays_the_escape_it_was():
    assert members_of(' { "\\ud800" : "\\uDC00x" ,\n"a":[ ] } ') == {"\ud800": b'"\\uDC00x"', "a": b"[ ]"}
    assert object_text(members(b'{"\\ud800": "\\udc00", "b" :1}')) == b'{"\\ud800":"\\udc00","b":1}'


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "null", "5", "[]", '"a"', "{", "{}x", '{"a"}', '{"a":}', '{"a":1,}', '{"a":1 "b":2}', '{"a":NaN}',
        "{a:1}",
        '{"a":Infinity}', '{"a":01}', '{"a":"\x01"}', "\ufeff{}", '{"a":"\\x"}', "{'a':1}",
        # The same behind a lone surrogate, which another scanner reads.
        '{"\\ud800"', '{"\\ud800"}', '{"\\ud800":1,}', '{"\\ud800":1}x', '{"\\ud800":1]', '{"\\ud800":NaN}',
        '{"\\ud800":1e999}', '{"\\ud800":1,2:3}', '["\\ud800"]', '"\\ud800"', '{"\\ud800" 1}',
        '{"a":"\\ud800","b":' + "[" * 100_000 + "}",
    ],
)  # fmt: skip
def test_what_is_no_object_is_invalid(text):
    with pytest.raises(Invalid):
        members(text.encode())


def test_text_that_is_not_utf8_is_invalid():
    with pytest.raises(Invalid):
        members(b'{"\xff":1}')
    with pytest.raises(Invalid):
        members(b'{"\xff":"\\ud800"}')


@pytest.mark.parametrize("depth", [10_000, 100_000])
def test_too_deep_an_object_is_invalid(depth):
    with pytest.raises(Invalid):
        members(b'{"a":' + b"[" * depth + b"]" * depth + b"}")


def test_numbers_that_nobody_can_hold_are_refused_where_asked_for():
    assert members_of('{"a":1e999}') == {"a": b"1e999"}
    for text in (b'{"a":1e999}', b'{"a":[-1e999]}', b'{"a":' + b"9" * 5000 + b"}", b'{"a":"\\ud800","b":1e999}'):
        with pytest.raises(Invalid):
            members(text, numbers=True)
    for text in (b'{"a":' + b"9" * 400 + b"}", b'{"a":[{"b":1E+400}]}'):
        with pytest.raises(Invalid):
            members(text, numbers=True)
    assert members(b'{"a":1e308}', numbers=True)


@given(st.dictionaries(texts, values, max_size=5))
def test_taking_apart_and_putting_together_changes_nothing(found):
    text = json.dumps(found)
    assert json.loads(object_text(members(text.encode()))) == found
    assert all(json.loads(bytes(raw)) == found[name] for name, raw in members(text.encode()).items())


# Numbers.  The largest double is 17976931348623157 followed by 292 digits; halfway to the
# next power of two it is rounded to infinity.

LARGEST = str((2**53 - 1) * 2**971)
HALFWAY = str((2**54 - 1) * 2**970)


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize(
    "number",
    [
        "1e309", "1E309", "1e+309", "1E+309", "1e0309", "1e+00309", "1.0e309", "0.1e310", "10e308", "1e999999999999",
        "1" + "0" * 309, "9" * 309, "9" * 400, "9" * 5000, HALFWAY, HALFWAY + ".5", "1" + "0" * 250 + "e90",
        "1" + "0" * 210 + "e99", "1" + "0" * 210 + "." + "0" * 50 + "e99",
    ],
)  # fmt: skip
def test_numbers_that_are_infinite_as_doubles_are_found_wherever_they_are(sign, number):
    number = sign + number
    for text in ("%s", "[%s]", '{"a":%s}', '[1,{"a":[%s,2]},3]', " [ %s ] ", '["1e5",\n%s\n]', '{"e":"E","a":%s}'):
        assert overflows((text % number).encode())
        assert may_overflow((text % number).encode())
    assert overflows(b'{"a":"' + b"x" * 5000 + b'","b":' + number.encode() + b"}")


@pytest.mark.parametrize(
    "text",
    [
        "0", "-0", "1e308", "-1E+308", "1e-999", "1E-400", "0e999", "0.0E999", "0." + "0" * 400 + "1e700", "2e300",
        "1" + "0" * 308, "9" * 308, LARGEST, "-" + LARGEST, str(int(HALFWAY) - 1), LARGEST + ".9", "0." + "1" * 500,
        '"1e999"', '"x1e999,"', '"a\\"1e999,"', f'"{"1" * 500}"', f'{{"{"9" * 400}":1}}', '{"1e309":1}',
        '{"e1":"E999"}',
        f"1e{'0' * 250}1", f"1e+{'0' * 250}1", f"[-1E-{'9' * 250}]", f"[{','.join(['9' * 199] * 9)},{'1' * 250}]",
        f"[{','.join(['123456'] * 100)}]", "[1.5e+10,2e300]", '"%s"' % ("1e999," * 50), "",
    ],
)  # fmt: skip
def test_other_numbers_pass(text):
    assert not overflows(text.encode())


@given(st.integers(-(10**320), 10**320) | st.integers(-(10**20), 10**20), st.integers(-400, 400), st.booleans())
def test_what_is_found_is_what_a_double_can_not_hold(whole, exponent, written):
    number = f"{whole}e{exponent}" if written else str(whole)
    assert overflows(f'{{"a":[{number}]}}'.encode()) is (abs(float(number)) == float("inf"))


# Types


class Inner(msgspec.Struct):
    name: str
    rest: Raw = Raw(b"")


class Outer(msgspec.Struct, rename={"kind": "type"}):
    kind: str = "none"
    size: int | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    inner: Inner | None = None


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        (r'{"name":"a","rest":"\ud800"}', r'"\ud800"'),
        (r'{"name":"a","rest":["\uDfFf\\ud800",{"\ud800":1}]}', r'["\uDfFf\\ud800",{"\ud800":1}]'),
        (r'{"name":"\ud83d\ude00","rest":"\ude00\ud83d"}', r'"\ude00\ud83d"'),
        (r'{"x":"\ud800","name":"ä","rest": [ 1 ] }', "[ 1 ]"),
    ],
)
def test_what_is_kept_as_text_may_have_lone_surrogates(text, rest):
    assert bytes(decode(msgspec.json.Decoder(Inner), text.encode()).rest) == rest.encode()


def test_lone_surrogates_pass_in_lists_maps_and_structs_within():
    found = decode(msgspec.json.Decoder(dict[str, list[Raw]]), rb'{"a":["\ud800",1]}')
    assert [bytes(item) for item in found["a"]] == [rb'"\ud800"', b"1"]
    first, second = decode(msgspec.json.Decoder(list[Outer]), rb'[{"type":"t","data":"\udc00","inner":null}, {}]')
    assert (first.kind, bytes(first.data or b""), second) == ("t", rb'"\udc00"', Outer())


@given(st.lists(values | texts, max_size=5), st.sampled_from([None, 1]))
def test_items_keep_their_texts_whatever_surrogates_they_have(found, indent):
    items = decode(msgspec.json.Decoder(list[Raw]), json.dumps(found, indent=indent).encode())
    assert [json.loads(bytes(item)) for item in items] == found


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Inner, r'{"name":"\ud800"}'),
        (Inner, r'{"name":"a","rest":"\ud800"'),
        (Inner, r'{"name":5,"rest":"\ud800"}'),
        (Inner, r'{"rest":"\ud800"}'),
        (Inner, r'["\ud800"]'),
        (Inner, '{"name":"a","rest":' + "[" * 5000 + "]" * 5000 + "}"),
        (Inner, ""),
        (str, r'"\ud800"'),
        (dict[str, Raw], r'{"\ud800":1}'),
        (list[Raw], r'{"\ud800":1}'),
        (list[Raw], r'["\ud800",]'),
        (list[Raw], r'["\ud800"]x'),
    ],
)
def test_what_is_not_of_the_type_is_invalid(kind, text):
    with pytest.raises(Invalid):
        decode(msgspec.json.Decoder(kind), text.encode())


def test_fields_are_read_one_by_one():
    found, wrong = read_fields(Outer, rb'{"size":"5","type":"\ud800","x":1e5,"data":{"a":"\ud800"}}')
    assert (found.kind, found.size, bytes(found.data or b"")) == ("none", UNSET, rb'{"a":"\ud800"}')
    assert [(name, bytes(text)) for name, text in wrong.items()] == [("size", b'"5"'), ("type", rb'"\ud800"')]
    assert read_fields(Outer, b'{"size":5}') == (Outer(size=5), {})
    with pytest.raises(Invalid):
        read_fields(Outer, b"[]")


def test_fields_are_read_beside_some_thousand_other_members_at_most(monkeypatch):
    other = b"".join(b',"%d":1' % number for number in range(MAX_PARTS))
    found, wrong = read_fields(
        Outer, b'{"size":"5","data":[1%b]%b}' % (b",1" * MAX_PARTS * 3, other[:-100].rpartition(b",")[0])
    )
    assert (len(bytes(found.data or b"")), list(wrong)) == (3 + 6 * MAX_PARTS, ["size"])
    monkeypatch.setattr("broker.jsontext._decode_members", None)  # they are not kept apart to be counted
    for last in (b"", b',"x":"\\ud800"'):
        with pytest.raises(Invalid) as caught:
            read_fields(Outer, b'{"size":"5"%b,"more":1%b}' % (other, last))
        assert caught.value.what == "members"


def test_what_is_refused_for_a_surrogate_at_its_end_was_not_decoded_before(monkeypatch):
    monkeypatch.setattr("broker.jsontext._decode_members", None)
    with pytest.raises(Invalid):
        members(b"{" + b"".join(b'"%d":1,' % number for number in range(MAX_PARTS + 1)) + b'"x":"\\ud800"}')


@pytest.mark.parametrize(
    "text", [rb'"\ud800" x', rb'[1,"\ud800"', rb"\ud800", rb'1,"a":"\ud800"', rb'{"a":"\ud800"} {}']
)
def test_what_is_no_json_is_none_because_of_a_surrogate(text):
    assert check_json(rb' {"a":["\ud800"]}') == rb' {"a":["\ud800"]}'
    with pytest.raises(Invalid) as caught:
        check_json(text, "line")
    assert caught.value.what == "line"


def test_items_are_read_where_a_strict_decoder_fails_for_a_surrogate():
    assert [bytes(item) for item in read_items(rb'[1, "\ud800",{"a":[]}]')] == [b"1", rb'"\ud800"', rb'{"a":[]}']
    for text in (b"[1", rb'{"a":"\ud800"}', rb'["\ud800"', b'["\\ud800"%b]' % (b",1" * MAX_PARTS)):
        with pytest.raises(Invalid):
            read_items(text)


LONG = 900_000  # bytes of a text that costs more than others


@pytest.mark.parametrize(
    "text",
    [
        b"[1e100" + b",1.5" * (LONG // 4) + b"]",
        b'["1e999"' + b',"1e999"' * (LONG // 8) + b"]",
        b"[" + b"1" * 250 + b".5" + b"0" * LONG + b"]",
        b'["\\\\",1e100,"\\"1e999"]',
        b'[1e100,"' + b"e" * LONG + b'"]',
        b'[1e100,"' + b'\\"1e999,' * (LONG // 9) + b'"]',
    ],
)
def test_finite_numbers_pass_however_many_there_are(text):
    assert not overflows(text)


@pytest.mark.parametrize("strings", [1, MAX_IN_STRINGS - 1, MAX_IN_STRINGS, MAX_IN_STRINGS + 1, 20_000])
@pytest.mark.parametrize("string", ['"1e999"', '"a\\"1e999,"', '"\\\\","1E+999 "', f'"{"1" * 400}"'])
@pytest.mark.parametrize(("last", "found"), [("1e300", False), ("1E300", False), ("1e999", True), ("9" * 400, True)])
def test_numbers_beside_many_strings_that_look_like_numbers(strings, string, last, found):
    beside = ",".join([string] * min(strings, 2_000_000 // len(string)))
    assert overflows(f"[{beside},{last}]".encode()) is found
    assert overflows(f"[{last},{beside}]".encode()) is found


def test_a_text_is_cut_at_its_strings_only_for_many_that_look_like_numbers(monkeypatch):
    counted = []
    monkeypatch.setattr("broker.jsontext.MAX_IN_STRINGS", 10)
    monkeypatch.setattr("broker.jsontext._suspects", lambda text: counted.append(text.count(b'"')) or _suspects(text))
    assert not overflows(b'[1e100%b,"1e999"]' % (b',""' * 1000))
    assert not overflows(b"[1e100%b]" % (b',"1e999"' * 11))
    assert counted == [2002, 22, 22]


@pytest.mark.parametrize("last", ["1", "1e100", "1" * 250])
def test_long_numbers_are_looked_at_once(last):
    text = b"[" + (b"9" * 199 + b",") * 20_000 + last.encode() + b"]"
    began = thread_time()
    assert not overflows(text)
    assert thread_time() - began < 1  # it takes a fiftieth; to look at each digit for each before it took 2


def test_only_numbers_that_may_be_infinite_are_read(monkeypatch):
    read = []
    monkeypatch.setattr("broker.jsontext.isfinite", lambda number: read.append(number) or True)
    overflows(b"[1e100" + b",1.5" * 10_000 + b',"1e999",2e200]')
    assert read == [1e100, 2e200]


def test_very_many_strings_beside_a_surrogate_are_too_many_parts_at_a_glance(monkeypatch):
    monkeypatch.setattr("broker.jsontext.without_strings", lambda text: pytest.fail("that takes long"))
    for text in (
        b'{"\\ud800":[%b1]}' % (b'"",' * (2 * MAX_PARTS + 9)),
        b'{"\\ud800":1%b}' % (b',"":""' * (MAX_PARTS + 9)),
    ):
        with pytest.raises(Invalid):
            members(text)


def test_commas_and_quotation_marks_in_strings_are_no_parts():
    text = b'{"\\ud800":1,"b":"%b"}' % (b'\\",' * (MAX_PARTS + 9))
    assert list(members(text)) == ["\ud800", "b"]


def test_more_numbers_near_the_end_of_doubles_than_can_be_read_in_time_overflow():
    assert not overflows(b"[1" + b",1e308" * MAX_SUSPECTS + b"]")
    assert overflows(b"[1" + b",1e308" * (MAX_SUSPECTS + 1) + b"]")
    long = b"," + b"1" * 304
    assert not overflows(b"[1" + long * (MAX_SUSPECTS // 20) + b"]")
    assert overflows(b"[1" + long * (MAX_SUSPECTS // 20 + 1) + b"]")


def test_members_beyond_those_that_can_be_read_in_time_are_refused_behind_a_lone_surrogate():
    text = b'{"\\ud800":1' + b"".join(b',"%d":1' % number for number in range(MAX_SCANNED - 1)) + b"%b}"
    assert len(members(text % b"")) == MAX_SCANNED
    with pytest.raises(Invalid):
        members(text % b',"more":1')
    with pytest.raises(Invalid):
        members(b'{"\\ud800":1,"a":1e999}')


def test_parts_beyond_those_that_can_be_decoded_in_time_are_refused_behind_a_lone_surrogate():
    few, many = ([b'"\\ud800"', *[b"1"] * count] for count in (MAX_PARTS - 1, MAX_PARTS + 1))
    commas = b'{"\\ud800":"' + b"," * (MAX_PARTS + 1) + b'"}'
    assert len(members(b'{"\\ud800":[' + b",".join(few) + b"]}")) == len(members(commas)) == 1
    with pytest.raises(Invalid):
        members(b'{"\\ud800":[' + b",".join(many) + b"]}")


def test_what_is_no_object_is_not_scanned_for_lone_surrogates_without_any(monkeypatch):
    monkeypatch.setattr("broker.jsontext._scanned", None)
    with pytest.raises(Invalid) as caught:
        members(b"{" + b'"a":1,' * 1000)
    assert caught.value.what == "object"
