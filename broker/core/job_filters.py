"""Which jobs a consumer takes: those whose payload has some members with exactly these values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_value = msgspec.json.Decoder().decode


def job_filter(members: Mapping[str, Any]) -> Callable[[bytes], bool]:
    """Return what says whether a payload, as JSON text, has all *members* with these values."""

    def matches(payload: bytes) -> bool:
        try:
            found = _members(payload)
            return all(name in found and is_same(_value(found[name]), value) for name, value in members.items())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False

    return matches


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are the same in JSON, where 1 and true are not, and 1 and 1.0 are."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    return isinstance(one, bool) is isinstance(other, bool) and one == other
