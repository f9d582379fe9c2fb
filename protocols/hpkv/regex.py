r"""Regular expressions that take time in proportion to the text, whatever the pattern.

Patterns come with a token request and are tried on keys that anybody may choose,
so that a matcher which backtracks could be kept busy for hours.  This one
simulates an automaton: each character costs at most the size of the pattern, and
usually one look into a dictionary.

The syntax is that of JavaScript without flags.  Look-around, back references,
``\b`` and ``\B`` are not known.
"""

from __future__ import annotations

import re
from typing import TypeAlias

import attrs

MOST_STATES = 500  # of one automaton
MOST_MOVES = 4096  # remembered for one automaton before it starts afresh
MOST_REPEATS = 255  # in {n,m}

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
        if max(least, most or 0) > MOST_REPEATS:
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


@attrs.frozen
class Step:
    """A state that takes one character, and the state after it."""

    chars: Chars
    then: int


@attrs.frozen
class Gate:
    """A state that is passed at the beginning or the end of the text only."""

    anchor: Anchor
    then: int


Split: TypeAlias = tuple[int, ...]  # a state that goes on with any of these
MATCH = 0  # the number of the state in which the pattern has matched


class Automaton:
    """The states of one pattern, by number.

    Raises:
        Refused: they are too many.
    """

    def __init__(self, node: Node) -> None:
        self.states: list[Step | Gate | Split] = [()]
        self.first = self._add(node, MATCH)

    def _state(self, state: Step | Gate | Split) -> int:
        if len(self.states) >= MOST_STATES:
            raise Refused("too long")
        self.states.append(state)
        return len(self.states) - 1

    def _add(self, node: Node, then: int) -> int:
        """Add the states of *node* before *then*; return the first."""
        if isinstance(node, Chars):
            return self._state(Step(node, then))
        if isinstance(node, Anchor):
            return self._state(Gate(node, then))
        if isinstance(node, Choice):
            return self._state(tuple(self._add(part, then) for part in node.parts))
        if isinstance(node, Sequence):
            for part in reversed(node.parts):
                then = self._add(part, then)
            return then
        return self._add_repeat(node, then)

    def _add_repeat(self, node: Repeat, then: int) -> int:
        entry = then
        if node.most is None:
            entry = self._state(())
            self.states[entry] = (self._add(node.part, entry), then)
        else:
            for _ in range(node.most - node.least):
                entry = self._state((self._add(node.part, entry), then))
        for _ in range(node.least):
            entry = self._add(node.part, entry)
        return entry

    def closure(self, numbers: set[int], *, start: bool, end: bool) -> frozenset[int]:
        """Return the states that are reached from *numbers* without a character."""
        found: set[int] = set()
        left = list(numbers)
        while left:
            number = left.pop()
            if number in found:
                continue
            found.add(number)
            state = self.states[number]
            if isinstance(state, tuple):
                left += state
            elif isinstance(state, Gate) and (end if state.anchor.end else start):
                left.append(state.then)
        return frozenset(found)


@attrs.define(eq=False)
class Place:
    """Where the search can be after some characters.

    Attributes:
        steps: the states that can take the next one.
        matched: whether the pattern has matched already.
        ends: whether it matches if the text ends here.
        moves: the place after each next character that was met.
    """

    steps: tuple[Step, ...]
    matched: bool
    ends: bool
    moves: dict[str, Place] = attrs.field(factory=dict)


class Regex:
    """A pattern that is searched anywhere in a text, as JavaScript's ``RegExp.test`` does.

    Raises:
        Malformed: *text* is no regular expression.
        Refused: it is of a kind that is not taken.
    """

    def __init__(self, text: str) -> None:
        try:
            node = Parser(text).parse()
        except RecursionError:
            raise Refused("nesting") from None
        self._automaton = Automaton(node)
        self._begin()

    def search(self, text: str) -> bool:
        """Whether the pattern matches somewhere in *text*."""
        if not text:
            return MATCH in self._automaton.closure({self._automaton.first}, start=True, end=True)
        place = self._first
        for char in text:
            if place.matched:
                return True
            place = place.moves.get(char) or self._move(place, char)
        return place.matched or place.ends

    def _begin(self) -> None:
        self._places: dict[tuple[int, ...], Place] = {}
        self._moves = 0
        self._first = self._place({self._automaton.first}, start=True)

    def _move(self, place: Place, char: str) -> Place:
        self._moves += 1
        if self._moves > MOST_MOVES:
            self._begin()
        # The search may also begin behind each character.
        numbers = {self._automaton.first, *(step.then for step in place.steps if char in step.chars)}
        after = place.moves[char] = self._place(numbers, start=False)
        return after

    def _place(self, numbers: set[int], *, start: bool) -> Place:
        key = (start, *sorted(numbers))
        place = self._places.get(key)
        if place is None:
            reached = self._automaton.closure(numbers, start=start, end=False)
            states = (self._automaton.states[number] for number in sorted(reached))
            steps = tuple(state for state in states if isinstance(state, Step))
            ends = MATCH in self._automaton.closure(numbers, start=start, end=True)
            place = self._places[key] = Place(steps, MATCH in reached, ends)
        return place
