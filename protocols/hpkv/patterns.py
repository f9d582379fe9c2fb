"""Which keys a token lets its holder use, and whose changes its holder is notified of.

Patterns come with a request for a token and are tried on keys that anybody may choose.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakValueDictionary

import attrs

from broker.errors import Invalid, TooLarge
from broker.remembered import remembered
from protocols.hpkv.javascript import NotRegex, Unsupported, to_re2
from protocols.hpkv.programs import Program, compile_within, search

MAX_PATTERN_LENGTH = 256  # characters of a pattern
MAX_PATTERN_BYTES = 1 << 17  # of memory in which a pattern must compile
MAX_PATTERNS = 32  # of one token; plain keys are not counted
MAX_CACHED = 16  # tokens whose compiled patterns are kept, until memory is given back, though nobody uses them
SEPARATORS = ":/-_#|"
SPECIAL = frozenset("\\^$.+?()[]{}|")  # without any of these, a subscription is a glob

Predicate = Callable[[str], bool]


@attrs.frozen
class Rights:
    """What a token lets its holder do.

    Attributes:
        may: says which keys may be read and written.
        names: keys whose changes are notified.
        predicate: says of which other keys changes are notified; None: of no others.
        programs: what these two need of memory.
    """

    may: Predicate
    names: frozenset[str]
    predicate: Predicate | None
    programs: tuple[Program, ...] = ()


@attrs.frozen(eq=False)
class AnyOf:
    """Says yes to a key if one of *tests* does."""

    tests: tuple[Predicate, ...]

    def __call__(self, key: str) -> bool:
        """Whether one of the tests says yes to *key*."""
        return any(test(key) for test in self.tests)


_shared: WeakValueDictionary[tuple[str, ...], AnyOf] = WeakValueDictionary()


@remembered(MAX_CACHED)
def rights(keys: tuple[str, ...], patterns: tuple[str, ...], access: str) -> Rights:
    """Return what was asked for by subscribeKeys, subscribePatterns and accessPattern.

    Without *access*, the keys and patterns that are subscribed to are those
    that may be used.

    Raises:
        Invalid: one of them is no pattern, or one that is refused.
        TooLarge: there are more than ``MAX_PATTERNS``, or they need too much time together.
    """
    names = frozenset(keys) | {pattern for pattern in patterns if is_plain(pattern)}
    predicate = any_of(tuple(sorted({pattern for pattern in patterns if not is_plain(pattern)})))
    tests = predicate.tests if predicate is not None else ()
    if access:
        may = access_pattern(access)
        tests = (*tests, may)
    elif predicate is None:
        may = names.__contains__
    else:
        may = _either(names, predicate)
    return Rights(may, names, predicate, tuple({test for test in tests if isinstance(test, Program)}))


def is_plain(pattern: str) -> bool:
    """Whether the subscription *pattern* is just a key: "no star = exact"."""
    return "*" not in pattern and SPECIAL.isdisjoint(pattern)


def any_of(patterns: tuple[str, ...]) -> AnyOf | None:
    """Return which keys one of the subscription *patterns* matches; None: there are none.

    While it is in use, it is the same function for the same patterns, so that
    it is asked once for all who share it.

    Raises:
        Invalid: one of them is no pattern, or one that is refused.
        TooLarge: there are more than ``MAX_PATTERNS``, or they need too much time together.
    """
    if not patterns:
        return None
    if len(patterns) > MAX_PATTERNS:
        raise TooLarge("token")
    found = _shared.get(patterns)
    if found is None:
        found = _shared[patterns] = AnyOf(_tests(patterns))
    return found


def _tests(patterns: tuple[str, ...]) -> tuple[Predicate, ...]:
    """Return what to ask for *patterns*: the globs, and the regular expressions all at once.

    One program takes a key's time for the threads that are alive, not for each expression.
    """
    expressions: list[str] = []
    tests: list[Predicate] = []
    for pattern in patterns:
        expression = _subscription(pattern)
        if expression is None:
            tests.append(glob(pattern))
        else:
            expressions.append(expression)
    return (*tests, _any_found(expressions)) if expressions else tuple(tests)


def access_pattern(text: str) -> Predicate:
    """Return which keys an accessPattern allows: "regular expression searched anywhere in the key".

    What is no regular expression is a glob.

    Raises:
        Invalid: it is too long, needs too much memory, or is of a kind that is refused.
    """
    expression = _expression(text, "Invalid access pattern")
    return glob(text) if expression is None else _any_found([expression])


def subscription_pattern(text: str) -> Predicate:
    """Return which keys one of subscribePatterns matches: "wildcards, prefixes, suffixes, or regex".

    Raises:
        Invalid: as for ``access_pattern``.
    """
    return _tests((text,))[0]


def _subscription(text: str) -> str | None:
    if SPECIAL.isdisjoint(text) and len(text) <= MAX_PATTERN_LENGTH:
        return None
    return _expression(text, "Invalid subscribe pattern")


def _expression(text: str, message: str) -> str | None:
    """Return the pattern *text* as RE2 writes it; None: it is a glob.

    Raises:
        Invalid: as for ``access_pattern``, with *message*.
    """
    if len(text) > MAX_PATTERN_LENGTH:
        raise Invalid("pattern", message=message)
    try:
        expression = to_re2(widened(text))
        compile_within(expression, MAX_PATTERN_BYTES)
    except NotRegex:
        return None
    except (Unsupported, UnicodeEncodeError):
        raise Invalid("pattern", message=message) from None
    return expression


def _any_found(expressions: list[str]) -> Program:
    return search("|".join(f"(?:{expression})" for expression in expressions))


def widened(text: str) -> str:
    """Return *text* with ``.*`` for each ``*`` behind a separator that is neither escaped nor in brackets.

    So that ``^product:*$`` allows what its authors mean by it.
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
