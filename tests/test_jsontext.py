import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import Invalid
from broker.jsontext import members, object_text

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
# What JavaScript writes for half a character: Hypothesis makes none of them by itself.
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


def test_half_a_character_stays_the_escape_it_was():
    assert members_of(' { "\\ud800" : "\\uDC00x" ,\n"a":[ ] } ') == {"\ud800": b'"\\uDC00x"', "a": b"[ ]"}
    assert object_text(members(b'{"\\ud800": "\\udc00", "b" :1}')) == b'{"\\ud800":"\\udc00","b":1}'


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "null", "5", "[]", '"a"', "{", "{}x", '{"a"}', '{"a":}', '{"a":1,}', '{"a":1 "b":2}', '{"a":NaN}',
        "{a:1}",
        '{"a":Infinity}', '{"a":01}', '{"a":"\x01"}', "\ufeff{}", '{"a":"\\x"}', "{'a':1}",
        # The same behind half a character, which another scanner reads.
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
    assert members(b'{"a":1e308}', numbers=True)


@given(st.dictionaries(texts, values, max_size=5))
def test_taking_apart_and_putting_together_changes_nothing(found):
    text = json.dumps(found)
    assert json.loads(object_text(members(text.encode()))) == found
    assert all(json.loads(bytes(raw)) == found[name] for name, raw in members(text.encode()).items())
