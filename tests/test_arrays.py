"""The first items of arrays."""

import msgspec
import pytest

from broker.arrays import first_items, has_more_than
from broker.errors import Invalid
from broker.jsontext import MAX_PARTS


def test_items_are_returned_as_they_are_written():
    assert first_items(b'[ 1.0,"a,b" ,[1,2], {}]', 3) == [b"1.0", b'"a,b"', b"[1,2]"]
    assert first_items(b"[1]", 3) == [b"1"]
    assert first_items(b"[]", 3) == []


@pytest.mark.parametrize("text", [b"", b"{}", b"[1", b"[1] 2", b"[1,]", b'["\\ud800"]', b"[\xff]", b"[" * 5000])
def test_what_is_no_array_is_invalid(text):
    with pytest.raises(Invalid):
        first_items(text, 1)
    assert not has_more_than(text, 1)


def test_items_are_counted_and_not_commas():
    assert has_more_than(b"[1,2,3]", 2)
    assert not has_more_than(b"[1,2,3]", 3)
    assert not has_more_than(b'["1,2,3,4",{"a":1,"b":2}]', 2)


def test_an_array_that_is_none_has_more_when_that_takes_long_to_tell():
    many = msgspec.json.encode([1] * (MAX_PARTS + 2))[:-1]
    assert has_more_than(many + b',"\\ud800"]', 2)
    assert not has_more_than(b'["' + b"," * (MAX_PARTS + 2) + b'\\ud800"]', 2)
