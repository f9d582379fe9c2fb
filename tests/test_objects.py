"""The members of an object are counted, and no more of them than has to be."""

from __future__ import annotations

import json

import pytest

from broker.objects import has_more_members_than


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"{}", False),
        (b'{"a":1,"b":[1,2,3,4,5],"c":{"d":1,"e":2,"f":3,"g":4}}', False),
        (b'{"a":",,,,,,","b":1}', False),
        (b' { "a" : 1 , "b" : 2 , "c" : 3 , "d" : 4 } ', True),
        (b'{"a":1,"a":2,"a":3,"a":4}', True),
        (b"[1,2,3,4,5]", False),
        (b'{"a":1,"b":2,"c":3,x', False),
        (b'{"a":1,"b":2,"c":3,"d":4,x', True),
        (b'{"\\ud800":1,"b":2,"c":3,"d":4}', False),
        (b'{"a":1,"b":2,"c":3,"\\ud800":4}', False),
        (b'"' + b"," * 9 + b'"', False),
        (b"\xff,,,,", False),
    ],
)
def test_an_object_has_more_than_three_members(text, expected):
    assert has_more_members_than(text, 3) is expected


def test_nothing_is_read_behind_the_member_that_is_too_many():
    many = json.dumps({str(number): 1 for number in range(1000)}).encode()
    assert has_more_members_than(many[:1000], 50)  # which ends in the middle of something
