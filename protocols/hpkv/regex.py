"""Regular expressions that take time in proportion to the text, whatever the pattern.

Patterns come with a token request and are tried on keys that anybody may choose,
so that a matcher which backtracks could be kept busy for hours.  This one
simulates an automaton: each character costs at most the size of the pattern, and
usually one look into a dictionary.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs

from protocols.hpkv.syntax import Anchor, Chars, Choice, Node, Parser, Refused, Repeat, Sequence

MAX_STATES = 500  # of one automaton
MAX_MOVES = 4096  # remembered for one automaton before it starts afresh


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
        if len(self.states) >= MAX_STATES:
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
        if self._moves > MAX_MOVES:
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
