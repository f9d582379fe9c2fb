"""Objects of JSON, whose members are counted before they are kept: a megabyte may be a hundred thousand of them."""

from __future__ import annotations

from typing import Any

import msgspec

from broker.jsontext import ERRORS


class _Name:
    """The name of a member, which is not looked at."""


class _Enough(Exception):
    """There are more members than were asked for."""


_NAME = _Name()


def has_more_members_than(text: bytes, count: int) -> bool:
    """Whether *text* is an object of more than *count* members, those of one name counted one by one.

    False for what is no object, or has a lone surrogate before so many.  It looks no further than the first of
    them that is too many: to decode a hundred thousand takes 50 ms, in which no other thread runs.
    """
    if text.count(b",") < count:  # a member takes a comma besides itself
        return False
    found = 0

    def on_name(kind: type[Any], name: Any) -> _Name:
        nonlocal found
        found += 1
        if found > count:
            raise _Enough
        return _NAME

    try:
        msgspec.json.decode(text, type=dict[_Name, msgspec.Raw], dec_hook=on_name)
    except _Enough:
        return True
    except ERRORS:
        pass
    return False
