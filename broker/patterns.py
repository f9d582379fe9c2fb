"""Names and patterns of names, in the manner of NATS.

A name is split into tokens at each ".".  In a pattern the token ``*`` stands
for exactly one token and ``>``, as the last token, for one or more.
"""

from __future__ import annotations

from functools import lru_cache

from broker.errors import Invalid

MAX_NAME = 255  # characters
LOG_PREFIX = "event/"  # + topic: the log in which a store keeps its events

BROKER = "broker"  # the client id of the broker itself, as a sender
RESERVED_PREFIX = "broker."  # names of the broker itself, which no client may publish or perform
CONTROL_PREFIX = "broker.control."  # topics by which nodes notify each other, which no client may read
KEY_PREFIX = "kv/"  # + key: the topic of its changes

# A name of the bus, a queue or a recipient begins with its kind.
CLIENT = "client:"  # a client id; its mailbox
SESSION = "session:"  # a session id
QUEUE = "queue:"  # a work queue
PROCEDURE = "procedure:"  # one that is performed
SERVICE = "service:"  # one whose procedures are all performed
TAKER = "taker:"  # a topic of streamed requests
DEFAULT_QUEUE = QUEUE + "default"


def split_kind(name: str) -> tuple[str, str]:
    """Return the kind that *name* begins with, its colon included, and what follows."""
    kind, colon, rest = name.partition(":")
    return kind + colon, rest


def pair_key(first: str, second: str) -> str:
    """Return one text for the two, different for every other two; those with the same *first* begin alike."""
    return f"{len(first)}:{first}{second}"


def check_name(name: object, what: str = "topic") -> str:
    """Return *name* if it can name a topic or a procedure.

    That is 1 to 255 characters, any Unicode but control characters (U+0000 to U+001F, U+007F) and lone surrogates.

    Raises:
        Invalid: it can not.
    """
    if not isinstance(name, str):
        raise Invalid(what)
    return check_text(name, what)


@lru_cache(maxsize=4096)
def check_text(name: str, what: str = "topic") -> str:
    """Do what ``check_name`` does for a *name* that is known to be a text; good ones are remembered.

    Raises:
        Invalid: see there.
    """
    if not 0 < len(name) <= MAX_NAME or not (name.isprintable() or _is_clean(name)):
        raise Invalid(what)
    return name


def _is_clean(name: str) -> bool:
    return not any(c < " " or c == "\x7f" or "\ud800" <= c <= "\udfff" for c in name)


def is_pattern(name: str) -> bool:
    """Whether *name* holds a wildcard token."""
    if "*" not in name and ">" not in name:
        return False
    tokens = name.split(".")
    return "*" in tokens or tokens[-1] == ">"


def check_pattern(pattern: object, what: str = "pattern") -> str:
    """Return *pattern* if it is a name or a well-formed pattern.

    Raises:
        Invalid: it is neither: an empty token, or ``>`` before the end.
    """
    text = check_name(pattern, what)
    if is_pattern(text) or ">" in text.split("."):
        tokens = text.split(".")
        if "" in tokens or ">" in tokens[:-1]:
            raise Invalid(what, text)
    return text


def matches(pattern: str, name: str) -> bool:
    """Whether *pattern* matches the plain *name*."""
    if pattern == name:
        return True
    return _match(pattern.split("."), name.split("."))


def _match(pattern: list[str], name: list[str]) -> bool:
    for index, token in enumerate(pattern):
        if token == ">" and index == len(pattern) - 1:
            return len(name) > index
        if index >= len(name) or (token != "*" and token != name[index]):
            return False
    return len(pattern) == len(name)


def covers(pattern: str, inner: str) -> bool:
    """Whether every name that *inner* matches is matched by *pattern* too."""
    outer, tokens = pattern.split("."), inner.split(".")
    for index, token in enumerate(outer):
        if token == ">" and index == len(outer) - 1:
            return len(tokens) > index
        if index >= len(tokens):
            return False
        other = tokens[index]
        if other == ">" and index == len(tokens) - 1:
            return False
        if token not in ("*", other):
            return False
    return len(outer) == len(tokens)


def overlaps(one: str, other: str) -> bool:
    """Whether some name is matched by both patterns."""
    left, right = one.split("."), other.split(".")
    for index in range(max(len(left), len(right))):
        if index >= len(left) or index >= len(right):
            return False
        a, b = left[index], right[index]
        if (a == ">" and index == len(left) - 1) or (b == ">" and index == len(right) - 1):
            return True
        if a != b and a != "*" and b != "*":
            return False
    return True
