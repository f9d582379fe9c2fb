r"""The syntax of JavaScript's regular expressions, without flags, as a tree.

Look-around, back references, ``\b`` and ``\B`` are not known.
"""

from __future__ import annotations

import re
from typing import TypeAlias

import attrs

MAX_REPEATS = 255  # in {n,m}

LINE_ENDS = "\n\r\u2028\u2029"
SPACE = "\t\n\v\f\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
CONTROLS = {"t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r", "0": "\0"}

_repeats = re.compile(r"\{(\d+)(,(\d*))?\}").match
_hexadecimal = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})").match
_group_name = re.compile(r"\?<[A-Za-z_$][\w$]*>").match


class Malformed(ValueError):
    """The text is no regular expression."""


class Refused(ValueError):
    """The text is a regular expression, but of a kind that is not taken."""


Ranges: TypeAlias = tuple[tuple[str, str], ...]


@attrs.frozen
class Chars:
    """A set of characters."""

    ranges: Ranges
    negated: bool = False

    def __contains__(self, char: object) -> bool:
        return any(low <= char <= high for low, high in self.ranges) is not self.negated  # type: ignore[operator]


@attrs.frozen
class Anchor:
    """The beginning of the text, or its end."""

    end: bool


@attrs.frozen
class Sequence:
    """One after the other."""

    parts: tuple[Node, ...]


@attrs.frozen
class Choice:
    """One of several."""

    parts: tuple[Node, ...]


@attrs.frozen
class Repeat:
    """The same at least *least* and at most *most* times; None: without limit."""

    part: Node
    least: int
    most: int | None


Node: TypeAlias = Chars | Anchor | Sequence | Choice | Repeat


def _ranges(text: str) -> Ranges:
    """Return the ranges that *text* lists in the manner of a class."""
    found = re.findall(r"(.)(?:-(.))?", text, re.DOTALL)
    return tuple((low, high or low) for low, high in found)


CLASSES = {"d": _ranges("0-9"), "w": _ranges("0-9A-Za-z_"), "s": _ranges(SPACE)}
ANY = Chars(_ranges(LINE_ENDS), negated=True)


class Parser:
    """Reads one pattern.

    Raises, from :meth:`parse`:
        Malformed: it is no regular expression.
        Refused: it repeats a repetition without limit, or uses what is not known.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def parse(self) -> Node:
        """Return the whole pattern."""
        node = self._choice()
        if self._at < len(self._text):
            raise Malformed("unmatched )")
        return node

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        char = self._peek()
        if not char:
            raise Malformed("it ends too early")
        self._at += 1
        return char

    def _choice(self) -> Node:
        parts = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated(self._atom()))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _repeated(self, node: Node) -> Node:
        bounds = self._quantifier()
        if bounds is None:
            return node
        least, most = bounds
        if isinstance(node, Anchor):
            raise Malformed("nothing to repeat")
        if most is None and _endless(node):
            raise Refused("a repetition is repeated")
        if self._peek() == "?":  # lazy: which match is found first does not matter here
            self._at += 1
        if self._quantifier() is not None:
            raise Malformed("nothing to repeat")
        return Repeat(node, least, most)

    def _quantifier(self) -> tuple[int, int | None] | None:
        char = self._peek()
        if char == "{":
            return self._counted()
        if char not in ("*", "+", "?") or not char:
            return None
        self._at += 1
        return (1 if char == "+" else 0), (1 if char == "?" else None)

    def _counted(self) -> tuple[int, int | None] | None:
        match = _repeats(self._text, self._at)
        if match is None:
            return None
        self._at = match.end()
        if max(len(match[1]), len(match[3] or "")) > 3:
            raise Refused("too many repeats")
        least = int(match[1])
        most = least if match[2] is None else int(match[3]) if match[3] else None
        if most is not None and most < least:
            raise Malformed("the numbers of a repeat are out of order")
        if max(least, most or 0) > MAX_REPEATS:
            raise Refused("too many repeats")
        return least, most

    def _atom(self) -> Node:
        if self._quantifier() is not None:
            raise Malformed("nothing to repeat")
        char = self._next()
        if char == "(":
            return self._group()
        if char == "[":
            return self._class()
        if char == "\\":
            return self._escape()
        if char == ".":
            return ANY
        if char in "^$":
            return Anchor(end=char == "$")
        return Chars(((char, char),))

    def _group(self) -> Node:
        if self._peek() == "?":
            name = _group_name(self._text, self._at)
            if name is not None:
                self._at = name.end()
            elif self._text.startswith("?:", self._at):
                self._at += 2
            elif self._text.startswith(("?=", "?!", "?<"), self._at):
                raise Refused("look-around")
            else:
                raise Malformed("invalid group")
        node = self._choice()
        if self._next() != ")":
            raise Malformed("unterminated group")
        return node

    def _escape(self) -> Chars:
        char = self._next()
        if char.lower() in CLASSES:
            return Chars(CLASSES[char.lower()], negated=char.isupper())
        if char in "bB" or char in "123456789" or char in "kpPc":
            raise Refused(f"\\{char}")
        char = self._character(char)
        return Chars(((char, char),))

    def _character(self, char: str) -> str:
        """Return which character the escape that begins with *char* means."""
        match = _hexadecimal(self._text, self._at - 1)
        if match is not None:
            self._at = match.end()
            return chr(int(match[1] or match[2], 16))
        return CONTROLS.get(char, char)

    def _class(self) -> Chars:
        negated = self._peek() == "^"
        self._at += negated
        ranges: list[tuple[str, str]] = []
        while self._peek() != "]":
            low = self._member()
            if self._peek() != "-" or self._text[self._at + 1 : self._at + 2] in ("]", ""):
                ranges += low
                continue
            self._at += 1
            high = self._member()
            if len(low) > 1 or len(high) > 1 or low[0][0] != low[0][1] or high[0][0] != high[0][1]:
                ranges += (*low, ("-", "-"), *high)  # as JavaScript reads [\w-x]
            elif low[0][0] > high[0][0]:
                raise Malformed("a range is out of order")
            else:
                ranges.append((low[0][0], high[0][0]))
        self._at += 1
        return Chars(tuple(ranges), negated)

    def _member(self) -> Ranges:
        char = self._next()
        if char != "\\":
            return ((char, char),)
        char = self._next()
        if char in CLASSES:
            return CLASSES[char]
        if char in "DWSB" or char in "123456789" or char in "kpPc":
            raise Refused(f"\\{char} in a class")
        char = "\b" if char == "b" else self._character(char)
        return ((char, char),)


def _endless(node: Node) -> bool:
    """Whether *node* holds a repetition without limit."""
    if isinstance(node, Repeat):
        return node.most is None or _endless(node.part)
    if isinstance(node, Sequence | Choice):
        return any(map(_endless, node.parts))
    return False
