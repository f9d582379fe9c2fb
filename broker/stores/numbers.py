"""The sum of two decimal numbers that are stored as text."""

from __future__ import annotations

import math
import re

from broker.errors import Invalid

# RFC 8259, 6: "number = [ minus ] int [ frac ] [ exp ]"
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")

# As JavaScript, whole numbers below this are written without an exponent.
_MAX_PLAIN = 1e21


def add(stored: bytes, amount: bytes) -> bytes:
    """Return the sum of two decimal numbers as text.

    Two integers give the exact integer.  Otherwise both are taken as doubles,
    and a whole sum is written without a fraction.

    Raises:
        Invalid: one of them is no number, or one or the sum is not finite as a double.
    """
    left, right = parse(stored), parse(amount)
    try:
        return _text(left + right)
    except OverflowError:
        # An int beyond the doubles: JavaScript would read Infinity.
        raise Invalid("number", message="The sum is too large.") from None


def parse(text: bytes) -> int | float:
    """Return the number that *text* writes in the manner of JSON.

    Raises:
        Invalid: it is none, or too large to be held.
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise Invalid("number", message="The value is not a number.")
    if match.lastindex:
        number = float(text)
        if math.isfinite(number):
            return number
    else:
        try:
            integer = int(text)
            float(integer)
            return integer
        except (ValueError, OverflowError):  # Python reads at most some thousand digits
            pass
    raise Invalid("number", message="The number is too large.")


def _text(number: int | float) -> bytes:
    if isinstance(number, float):
        if not math.isfinite(number):
            raise OverflowError
        if not number.is_integer() or abs(number) >= _MAX_PLAIN:
            return repr(number).encode()
        number = int(number)
    float(number)
    return str(number).encode()
