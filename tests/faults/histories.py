"""Whether a history of one key is linearizable: the search of Wing and Gong, with Lowe's memory of what was tried.

A history is linearizable if each operation can be given one moment between its call and its answer, such
that all of them, one after the other in that order, have the answers that they had.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs

UNKNOWN = object()  # an answer that has not come: the operation may have happened, or may not, at any later time
CONFLICT = "conflict"  # the answer of a compare-and-set that was refused
MAX_STEPS = 2_000_000  # of one search

# Value and revision; "" and 0 for a key that is not there; None while nobody knows, behind a new epoch.
State = tuple[str, int] | None


class Undecided(Exception):
    """The search took too long."""


@attrs.frozen
class Operation:
    """What one client has asked of a key, and what it was told.

    Attributes:
        kind: get, set, compare (and set), patch or increment.
        argument: what was written; for a compare it is the value and the revision that it needs.
        start, end: when it was called, and answered; ``end`` is infinite without an answer.
        answer: value and revision, or for a set and a compare the revision alone; ``CONFLICT``; ``UNKNOWN``.
    """

    kind: str
    argument: Any
    start: float
    end: float = math.inf
    answer: Any = UNKNOWN
    client: str = ""

    def steps(self, state: State) -> Iterator[State]:
        """Give the state behind this operation; nothing if it can not have had its answer in *state*."""
        if state is None:
            yield from self._first()
            return
        value, revision = state
        if self.kind == "get":
            if self.answer is UNKNOWN or tuple(self.answer) == state:
                yield state
            return
        if self.kind == "compare" and self.argument[1] != revision:
            if self.answer == CONFLICT:
                yield state
            return  # without an answer it need not have happened, and nothing would be different
        after = (self._written(value), revision + 1)
        if self.answer is UNKNOWN or self._told(after) == self.answer:
            yield after

    @property
    def needs(self) -> float:
        """The revision in which alone it can have had its answer; infinite if that says nothing."""
        if self.answer is UNKNOWN or self.answer == CONFLICT:
            return math.inf
        revision: int = self.answer if self.kind in ("set", "compare") else self.answer[1]
        return revision if self.kind == "get" else revision - 1

    def _written(self, value: str) -> str:
        if self.kind == "set":
            return str(self.argument)
        if self.kind == "compare":
            return str(self.argument[0])
        if self.kind == "increment":
            return str(int(value or "0") + int(self.argument))
        return patched(value, str(self.argument))

    def _told(self, after: tuple[str, int]) -> Any:
        return after[1] if self.kind in ("set", "compare") else after

    def _first(self) -> Iterator[State]:
        """Do the same where nothing is known of what was there before."""
        if self.answer is UNKNOWN or self.answer == CONFLICT:
            yield None
        elif self.kind in ("set", "compare"):
            yield self._written(""), self.answer
        else:
            yield tuple(self.answer)


def patched(old: str, new: str) -> str:
    """Return what a patch makes of two values: objects are merged one level deep, others appended."""
    try:
        first, second = json.loads(old), json.loads(new)
    except ValueError:
        return old + new
    if isinstance(first, dict) and isinstance(second, dict):
        return json.dumps({**first, **second}, separators=(",", ":"))
    return old + new


def is_linearizable(history: Iterable[Operation], state: State = ("", 0)) -> bool:
    """Return whether the operations of one key can have happened one after the other, from *state* on.

    Raises:
        Undecided: it can not be said after ``MAX_STEPS`` steps.
    """
    operations = sorted(
        (one for one in history if not (one.kind == "get" and one.answer is UNKNOWN)), key=lambda one: one.start
    )
    return _Search(operations).succeeds(state)


class _Search:
    """Tries orders, depth first; what it has been through with the same rest and the same state, it leaves out."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._operations = operations
        self._answered = sum(1 << place for place, one in enumerate(operations) if one.end < math.inf)
        self._needs = sorted((one.needs, place) for place, one in enumerate(operations) if one.needs < math.inf)

    def succeeds(self, state: State) -> bool:
        """Return whether there is an order in which all that were answered have happened."""
        seen: set[tuple[int, State]] = set()
        stack = [(0, state)]
        steps = 0
        while stack:
            done, state = stack.pop()
            if done & self._answered == self._answered:
                return True
            # Those that were answered are tried first: they are put on the stack last.
            for place in self._next(done):
                for after in self._operations[place].steps(state):
                    reached = done | 1 << place, after
                    if reached not in seen and not self._is_too_late(*reached):
                        seen.add(reached)
                        stack.append(reached)
            steps += 1
            if steps > MAX_STEPS:
                raise Undecided(f"after {steps} steps, with {len(self._operations)} operations")
        return False

    def _is_too_late(self, done: int, state: State) -> bool:
        """Return whether one that is left needs an earlier revision: there is no way back to that."""
        if state is None:
            return False
        return next((needs < state[1] for needs, place in self._needs if not done >> place & 1), False)

    def _next(self, done: int) -> list[int]:
        """Return which may be the next: each that was called before the first end of those that are left."""
        left: list[int] = []
        first_end = math.inf
        for place, one in enumerate(self._operations):
            if one.start > first_end:
                break
            if not done >> place & 1:
                left.append(place)
                first_end = min(first_end, one.end)
        possible = [place for place in left if self._operations[place].start <= first_end]
        return sorted(possible, key=lambda place: -self._operations[place].end)
