"""What the arguments of a command stand for: payloads and positions."""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from broker.client.values import Position
from broker.errors import Invalid

STANDARD_INPUT = "-"
_decode = msgspec.json.Decoder().decode


def payload_of(text: str, *, as_text: bool = False) -> Any:
    """Return what *text* stands for: JSON if it is some, else the text itself; ``-`` stands for standard input.

    Args:
        text: an argument.
        as_text: whether it is text also if it is JSON.

    Raises:
        Invalid: standard input is no UTF-8.
    """
    found = read_input() if text == STANDARD_INPUT else text
    return found if as_text else value_of(found)


def value_of(text: str) -> Any:
    """Return what *text* stands for: JSON if it is some, else the text itself."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return text


def read_input() -> str:
    """Return the standard input, without the end of its last line.

    Raises:
        Invalid: it is no UTF-8.
    """
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise Invalid(message=f"standard input is no UTF-8: {error}") from None
    return text.removesuffix("\n").removesuffix("\r")


def position_of(text: str) -> Position | int:
    """Return the position ``EPOCH:ID``, or the id of the present epoch.

    Raises:
        Invalid: it is neither.
    """
    epoch, colon, id = text.rpartition(":")
    if not (id.isascii() and id.isdecimal() and len(id) < 20) or (colon and not epoch):
        raise Invalid(message=f"expected a position such as 17 or EPOCH:17, and not {text!r}")
    return Position(epoch, int(id)) if epoch else int(id)
