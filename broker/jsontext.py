"""JSON objects taken apart and put together without touching their members' texts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import isfinite
from typing import NoReturn

import msgspec
from msgspec import Raw

from broker.errors import Invalid

_decode = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_all = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_blank = re.compile(r"[ \t\n\r]*").match


def members(data: bytes, *, numbers: bool = False) -> dict[str, Raw]:
    """Return the members of the JSON object *data*, in order, each with its exact text.

    Of several members with one name the last counts.  With *numbers*, each
    number anywhere in it must be one that can be held.

    Raises:
        Invalid: it is not one JSON object, or nests too deep.
    """
    try:
        if numbers:
            _decode_all(data)
        return _decode(data)
    except msgspec.ValidationError:
        raise Invalid("object") from None
    except RecursionError:
        raise Invalid("nesting") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        # msgspec refuses "\ud800" alone, which JavaScript writes for half a character.
        return _scanned(data)


def object_text(members: Mapping[str, Raw]) -> bytes:
    """Return the JSON object of *members*, without blanks between them."""
    try:
        return _encode(members)
    except UnicodeEncodeError:
        return b"{%b}" % b",".join(b"%b:%b" % (json.dumps(name).encode(), text) for name, text in members.items())


def _scanned(data: bytes) -> dict[str, Raw]:
    try:
        return _scan(data.decode())
    except (ValueError, IndexError, RecursionError):
        raise Invalid("object") from None


def _scan(text: str) -> dict[str, Raw]:
    """Do the work of ``members`` with the standard library's scanner.

    Raises:
        ValueError: the text is wrong.
        IndexError: it ends too early.
    """
    found: dict[str, Raw] = {}
    at = _expect(text, 0, "{")
    if text[at] == "}":
        closing = at
    else:
        while True:
            name, at = _scanner.raw_decode(text, at)
            if not isinstance(name, str):
                raise ValueError("name")
            start = _expect(text, _after(text, at), ":")
            at = _scanner.raw_decode(text, start)[1]
            found[name] = Raw(text[start:at].encode())
            closing = _after(text, at)
            if text[closing] != ",":
                break
            at = _after(text, closing + 1)
    if _expect(text, closing, "}") != len(text):
        raise ValueError("rest")
    return found


def _after(text: str, at: int) -> int:
    """Return where the blanks that begin at *at* end."""
    match = _blank(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, mark: str) -> int:
    """Return the place after *mark*, which must come next, and the blanks around it."""
    at = _after(text, at)
    if text[at] != mark:
        raise ValueError(mark)
    return _after(text, at + 1)


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(text)
    return number


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)


_scanner = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse)
