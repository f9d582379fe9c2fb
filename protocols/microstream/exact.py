r"""JSON decoded so far as is needed; the rest stays the exact text it was.

Fields of type ``msgspec.Raw`` keep their text.  msgspec refuses half a character,
``"\ud800"`` alone, which JavaScript writes for what is not whole; here it passes.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

T = TypeVar("T")

# Every escape is matched, so that none is looked for inside another.
ESCAPES = re.compile(
    rb"""\\ (?: u[dD][89abAB][0-9a-fA-F]{2} \\u[dD][c-fC-F][0-9a-fA-F]{2}  # two halves: a character
          | (u[dD])([89a-fA-F][0-9a-fA-F]{2})                             # half a one
          | . )""",
    re.VERBOSE | re.DOTALL,
)
STAND_INS = (b"ue", b"uE", b"uf", b"uF", b"u9", b"u8", b"u7", b"u6", b"u5", b"u4", b"u3", b"u2", b"u1")
ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class NotExact(Exception):
    """The text is no JSON, nests too deep, or is not of the shape that was asked for."""


def decode(decoder: msgspec.json.Decoder[T], data: bytes | Raw) -> T:
    """Return *data* as *decoder* reads it.

    Raises:
        NotExact: it can not.
    """
    try:
        return decoder.decode(data)
    except ERRORS as error:
        text = bytes(data)
        if b"\\ud" not in text.lower():
            raise NotExact(str(error)) from None
    try:
        return _decode_halves(decoder, text)
    except ERRORS as error:
        raise NotExact(str(error)) from None


def _decode_halves(decoder: msgspec.json.Decoder[T], text: bytes) -> T:
    """Decode with a stand-in for each half character, and put those back into the Raw texts."""
    unused = [word for word in STAND_INS if b"\\" + word not in text]
    if len(unused) < 2:
        raise NotExact("no room")
    words = {b"ud": unused[0], b"uD": unused[1]}

    def stand_in(match: re.Match[bytes]) -> bytes:
        word = match[1]
        return match[0] if word is None else b"\\" + words[word] + match[2]

    decoded = decoder.decode(ESCAPES.sub(stand_in, text))
    return _restored(decoded, [(b"\\" + new, b"\\" + old) for old, new in words.items()])  # type: ignore[no-any-return]


def _restored(value: Any, back: list[tuple[bytes, bytes]]) -> Any:
    if isinstance(value, Raw):
        text = bytes(value)
        for new, old in back:
            text = text.replace(new, old)
        return Raw(text)
    if isinstance(value, list):
        return [_restored(item, back) for item in value]
    if isinstance(value, dict):
        return {_restored(name, back): _restored(item, back) for name, item in value.items()}
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            setattr(value, name, _restored(getattr(value, name), back))
        return value
    if isinstance(value, str):
        # Half characters are U+D800 to U+DFFF; "\\ue" stands for U+E800 to U+EFFF.
        standing = [int(new[-1:], 16) << 1 | 1 for new, _ in back]
        if any(ord(char) >> 11 in standing for char in value):
            raise NotExact("half a character in a name")
    return value
