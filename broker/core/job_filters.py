"""Which jobs a consumer takes: those whose payload has some members with exactly these values.

Each job of a queue may be looked at for each consumer, and is as long as its sender likes: what can not match is
skipped, not decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from broker.errors import TooLarge

MAX_FILTER_BYTES = 4096  # of the members and values that a consumer asks for, as JSON text
MAX_COMMAS = 20_000  # of a payload of which all members are read, since one of them has an odd name
ESCAPED = 12  # bytes that stand for one of compact JSON text, if all of it is written as escapes
MARGIN = 1024  # bytes of blanks, or digits of a number that say nothing, besides
NONE = msgspec.Raw(b"")

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_value = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def job_filter(members: Mapping[str, Any]) -> Callable[[bytes], bool]:
    """Return what says whether a payload, as JSON text, has all *members* with these values.

    A value that takes much more room than that which is asked for is not the same.

    Raises:
        TooLarge: they are longer than ``MAX_FILTER_BYTES``.
    """
    if len(_encode(members)) > MAX_FILTER_BYTES:
        raise TooLarge("filter")
    read = _reader(list(members))
    wanted = [(value, ESCAPED * len(_encode(value)) + MARGIN) for value in members.values()]

    def matches(payload: bytes) -> bool:
        try:
            found = read(payload)
            return all(
                0 < len(text) <= max_bytes and is_same(_value(text), value)
                for text, (value, max_bytes) in zip(found, wanted, strict=True)
            )
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False

    return matches


def _reader(names: list[str]) -> Callable[[bytes], list[bytes]]:
    """Return what returns the texts of the members *names* of a JSON object, b"" for one that is missing."""
    attributes = [f"member{number}" for number in range(len(names))]
    fields = [(attribute, msgspec.Raw, NONE) for attribute in attributes]
    try:
        # A struct skips what it has no field for, of which a dict would keep each.
        kind = msgspec.defstruct("Members", fields, rename=dict(zip(attributes, names, strict=True)))
    except ValueError:  # a quote, a backslash or a control character in a name
        return lambda payload: _read_all(names, payload)
    decode = msgspec.json.Decoder(kind).decode

    def read(payload: bytes) -> list[bytes]:
        found = decode(payload)
        return [bytes(getattr(found, attribute)) for attribute in attributes]

    return read


def _read_all(names: list[str], payload: bytes) -> list[bytes]:
    found = _members(payload) if payload.count(b",") <= MAX_COMMAS else {}
    return [bytes(found.get(name, b"")) for name in names]


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are the same in JSON, where 1 and true are not, and 1 and 1.0 are."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    return isinstance(one, bool) is isinstance(other, bool) and one == other
