r"""Frames that need a second look, read slowly: wrong types, lone surrogates, too great numbers.

The fast decoder refuses an envelope with a field of a wrong type, and any text
with half of a surrogate pair, which JavaScript writes as the escape ``\ud800``.
It also passes over the numbers inside a payload.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from math import isfinite
from typing import Any

import msgspec

from broker.errors import Invalid
from broker.jsontext import members
from protocols.owlmeans.wire import MAX_TIME, Envelope

# A number is too great for a double by its exponent, or by having hundreds of
# digits.  Before ``overflows`` is asked at all, a payload must have what could be
# one; to see that it has not costs 0.1 us.  A literal first byte makes the search a memchr.
EXPONENT = re.compile(rb"e(?<=[0-9]e)\+?[0-9]{3}").search
CAPITAL_E = ord("E")
LONG = 200  # bytes

_EXPONENT = re.compile(rb"[eE](?<=[0-9].)\+?[0-9]{3,}(?:[\],}\s]|\Z)").search
_DIGITS = re.compile(rb"[0-9.]{2}").search
_LONG_NUMBER = re.compile(rb"[0-9][0-9.]{199}").search
_LONE = re.compile("[\ud800-\udfff]")


def overflows(payload: bytes) -> bool:
    """Whether *payload*, valid JSON, holds a number beyond the doubles.

    Python would write such a number again as ``Infinity``, which ends every JavaScript client.
    """
    return bool(_EXPONENT(payload) or _has_long_number(payload)) and not _finite(payload)


def read(data: bytes) -> tuple[Envelope, str]:
    """Return the envelope of *data* and the first field that is wrong, or "".

    An array is a queued message, with itself as the payload.

    Raises:
        Invalid: it is neither an object nor an array.
    """
    if data[:1] == b"[":
        if list(members(b'{"payload":%b}' % data)) != ["payload"]:
            raise Invalid("array")
        return Envelope(payload=msgspec.Raw(data)), ""
    if data[:1] != b"{":
        # "Everything else (also a leading blank) is ignored without trace."
        raise Invalid("text")
    envelope, wrong = Envelope(), ""
    for name, text in members(data).items():
        if name == "payload":
            envelope.payload = text
        elif name in _FIELDS:
            taken = _FIELDS[name](_value(bytes(text)))
            if taken is not None:
                setattr(envelope, name, taken)
            elif bytes(text) != b"null":
                wrong = wrong or name
    return envelope, wrong


def _has_long_number(payload: bytes) -> bool:
    # Of 200 digits in a row, every hundredth byte has two beside each other.
    return bool(len(payload) >= LONG and _DIGITS(payload[::100]) and _LONG_NUMBER(payload))


def _finite(payload: bytes) -> bool:
    try:
        _numbers.decode(payload.decode())
    except (ValueError, RecursionError):
        return False
    return True


def _checked(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError("number out of range")
    return value


# Integers too: int() refuses those of more than 4300 digits, and takes long for others.
_numbers = json.JSONDecoder(parse_float=_checked, parse_int=_checked)


def _value(text: bytes) -> Any:
    try:
        return _numbers.decode(text.decode())
    except (ValueError, RecursionError):
        return ()


def _text(value: Any) -> str | None:
    # Names go out again as UTF-8, which has no half pairs.
    return _LONE.sub("\ufffd", value) if isinstance(value, str) else None


def _duration(value: Any) -> float | None:
    return value if isinstance(value, float) and value >= 0 else None


def _clock(value: Any) -> float:
    # "dt = the client's if a number, else broker time": nothing else is wrong with it.
    return value if isinstance(value, float) and 0 <= value <= MAX_TIME else 0.0


_FIELDS: dict[str, Callable[[Any], Any]] = {
    "type": _text,
    "id": _text,
    "method": _text,
    "event": _text,
    "recipient": _text,
    "stage": _text,
    "timeout": _duration,
    "dt": _clock,
}
