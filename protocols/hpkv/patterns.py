"""Which keys a token lets its holder use, and of which it hears."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import attrs

from broker.errors import Invalid
from protocols.hpkv.regex import Regex
from protocols.hpkv.syntax import Malformed, Refused

MAX_PATTERN_LENGTH = 256  # characters of a pattern
SEPARATORS = ":/-_#|"
SPECIAL = frozenset("\\^$.+?()[]{}|")  # without any of these, a subscription is a glob

Predicate = Callable[[str], bool]


@attrs.frozen
class Rights:
    """What a token lets its holder do.

    Attributes:
        may: says which keys may be read and written.
        names: keys whose changes are told.
        predicate: says of which other keys changes are told; None: of no others.
    """

    may: Predicate
    names: frozenset[str]
    predicate: Predicate | None


@lru_cache(maxsize=1024)
def rights(keys: tuple[str, ...], patterns: tuple[str, ...], access: str) -> Rights:
    """Return the rights that were asked for by subscribeKeys, subscribePatterns and accessPattern.

    Without *access*, the keys and patterns that are subscribed to are those
    that may be used.

    Raises:
        Invalid: one of them is no pattern, or one that is not taken.
    """
    names = frozenset(keys) | {pattern for pattern in patterns if is_plain(pattern)}
    predicate = any_of(tuple(sorted({pattern for pattern in patterns if not is_plain(pattern)})))
    if access:
        may = access_pattern(access)
    elif predicate is None:
        may = names.__contains__
    else:
        may = _either(names, predicate)
    return Rights(may, names, predicate)


def is_plain(pattern: str) -> bool:
    """Whether the subscription *pattern* is just a key: "no star = exact"."""
    return "*" not in pattern and SPECIAL.isdisjoint(pattern)


@lru_cache(maxsize=1024)
def any_of(patterns: tuple[str, ...]) -> Predicate | None:
    """Return which keys one of the subscription *patterns* matches; the same function for the same patterns."""
    tests = [subscription_pattern(pattern) for pattern in patterns]
    if len(tests) < 2:
        return tests[0] if tests else None
    return lambda key: any(test(key) for test in tests)


def access_pattern(text: str) -> Predicate:
    """Return which keys an accessPattern admits: "regular expression searched anywhere in the key".

    What is no regular expression is a glob.

    Raises:
        Invalid: it is too long, or of a kind that is not taken.
    """
    return _pattern(text, "Invalid access pattern")


def subscription_pattern(text: str) -> Predicate:
    """Return which keys one of subscribePatterns matches: "wildcards, prefixes, suffixes, or regex".

    Raises:
        Invalid: as for ``access_pattern``.
    """
    message = "Invalid subscribe pattern"
    if SPECIAL.isdisjoint(text) and len(text) <= MAX_PATTERN_LENGTH:
        return glob(text)
    return _pattern(text, message)


def _pattern(text: str, message: str) -> Predicate:
    if len(text) > MAX_PATTERN_LENGTH:
        raise Invalid("pattern", message=message)
    try:
        return Regex(widened(text)).search
    except Malformed:
        return glob(text)
    except Refused:
        raise Invalid("pattern", message=message) from None


def widened(text: str) -> str:
    """Return *text* with ``.*`` for each ``*`` behind a separator that is neither escaped nor in brackets.

    So that ``^product:*$`` admits what its authors mean by it.
    """
    made: list[str] = []
    escaped = bracketed = separated = False
    for char in text:
        if char == "*" and separated:
            made.append(".")
        made.append(char)
        separated = char in SEPARATORS and not escaped and not bracketed
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == "[":
            bracketed = True
        elif char == "]":
            bracketed = False
    return "".join(made)


def glob(text: str) -> Predicate:
    """Return which keys are *text* as a whole, where each ``*`` stands for anything."""
    first, *others = text.split("*")
    if not others:
        return text.__eq__
    *middle, last = others
    shortest = len(text) - len(others)

    def predicate(key: str) -> bool:
        if len(key) < shortest or not key.startswith(first) or not key.endswith(last):
            return False
        at, end = len(first), len(key) - len(last)
        for part in middle:
            at = key.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True

    return predicate


def _either(names: frozenset[str], predicate: Predicate) -> Predicate:
    return lambda key: key in names or predicate(key)
