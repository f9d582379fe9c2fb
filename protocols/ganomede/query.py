"""What a request says in its path and in its query.

The rules are those of the original's parser: a repeated or bracketed parameter
(``channel[]=x``) is no text and counts as wrong, and an escape that is none
leaves the whole value as it was sent.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from broker.errors import Invalid
from broker.patterns import MAX_NAME, check_name
from protocols.ganomede.answers import invalid

BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
CANONICAL = re.compile(r"0|[1-9][0-9]{0,15}")
MAX_SAFE = 2**53 - 1  # the largest whole number of the clients' language
MAX_PARAMETERS = 1000
NO_TEXT = ""  # stands for a value that is there, but is no text


def read_query(query: str) -> dict[str, str]:
    """Return the parameters of a query or a form."""
    fields: dict[str, str] = {}
    for pair in query.split("&", MAX_PARAMETERS)[:MAX_PARAMETERS]:
        name, _, value = pair.partition("=")
        if "%" in name or "+" in name:
            name = unescaped(name)
        name, bracket, _ = name.partition("[")
        if bracket or name in fields:
            fields[name] = NO_TEXT
        else:
            fields[name] = unescaped(value) if "%" in value or "+" in value else value
    return fields


def unescaped(text: str) -> str:
    """Return the value that *text* encodes, or *text* itself when it is badly encoded."""
    text = text.replace("+", " ")
    decoded = unquote(text)
    return text if decoded is None else decoded


def unquote(text: str) -> str | None:
    """Return *text* with its percent escapes decoded, once; None when they are no UTF-8."""
    if "%" not in text:
        return text
    if BAD_ESCAPE.search(text):
        return None
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return None


def whole_number(text: str) -> int | None:
    """Return the number that *text* is the decimal form of, else None."""
    if CANONICAL.fullmatch(text) is None:
        return None
    number = int(text)
    return number if number <= MAX_SAFE else None


def name_of(value: object, message: str) -> str:
    """Return *value* if something can be kept under that name, else refuse with *message*."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
        raise invalid(message)
    return value


def channel_of(value: object) -> str:
    """Return *value* if it can name a channel, which is a topic of the broker.

    Raises:
        Refusal: it is no text, or says why it can not.
    """
    if not isinstance(value, str) or not value:
        raise invalid("Invalid Channel")
    try:
        return check_name(value)
    except Invalid:
        why = f"longer than {MAX_NAME} characters" if len(value) > MAX_NAME else "it has a control character"
        raise invalid(f"Invalid Channel: {why}") from None
