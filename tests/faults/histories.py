"""Whether a history of one key is linearizable: the search of Wing and Gong, with Lowe's memory of what was tried.

A history is linearizable if each operation can be given one moment between its call and its answer, such
that all of them, one after the other in that order, have the answers that they had.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

import attrs

UNKNOWN = object()  # an answer that has not come: the operation may have happened, or may not, at any later time
CONFLICT = "conflict"  # the answer of a compare-and-set that was refused
MAX_STEPS = 2_000_000  # of one search

# Value and revision; "" and 0 for a key that is not there; None while nobody knows, behind a new epoch.
State = tuple[str, float] | None


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

    def steps(self, state: State, taken: Container[float] = ()) -> Iterator[State]:
        """Give the state behind this operation; nothing if it can not have had its answer in *state*.

        Without an answer, it has had a revision that is not *taken* by another: the one behind it or a later one.
        Half of one less stands for that.
        """
        if state is None:
            yield from self._first()
            return
        value, revision = state
        if self.kind == "get":
            if self.answer is UNKNOWN or _may_be(tuple(self.answer), state):
                yield state if self.answer is UNKNOWN else tuple(self.answer)
            return
        if self.kind == "compare" and self.answer == CONFLICT:
            if self.argument[1] != revision:
                yield state
            return
        if self.kind == "compare":
            needed = self.argument[1]
            if not _may_be((value, needed), state) or (revision != int(revision) and needed in taken):
                return  # without an answer it need not have happened, and nothing would be different
        if self.kind == "set" and revision != int(revision):
            return  # nobody has seen what it overwrites: that need not have happened
        if self.answer is UNKNOWN:
            free = int(revision + 1)
            while free in taken:
                free += 1
            yield self._written(value), free - 0.5
            return
        after = (self._written(value), self.revision)
        if self.revision > revision and self._told(after) == self.answer:
            yield after

    @property
    def revision(self) -> float:
        """The revision that it was answered."""
        return self.answer if self.kind in ("set", "compare") else self.answer[1]  # type: ignore[no-any-return]

    @property
    def needs(self) -> float:
        """The last revision in which it can have had its answer; infinite if that says nothing."""
        if self.answer is UNKNOWN or self.answer == CONFLICT:
            return math.inf
        return self.revision if self.kind == "get" else self.revision - 0.5

    def _written(self, value: str) -> str:
        if self.kind == "set":
            return str(self.argument)
        if self.kind == "compare":
            return str(self.argument[0])
        if self.kind == "increment":
            return str(int(value or "0") + int(self.argument))
        return patched(value, str(self.argument))

    def _told(self, after: tuple[str, float]) -> Any:
        return after[1] if self.kind in ("set", "compare") else after

    def _first(self) -> Iterator[State]:
        """Do the same where nothing is known of what was there before."""
        if self.answer is UNKNOWN or self.answer == CONFLICT:
            yield None
        elif self.kind in ("set", "compare"):
            yield self._written(""), self.answer
        else:
            yield tuple(self.answer)


def _may_be(found: tuple[str, float], state: tuple[str, float]) -> bool:
    """Return whether *found* is what is there in *state*."""
    exact = state[1] == int(state[1])
    return found[0] == state[0] and (found[1] == state[1] if exact else found[1] > state[1])


def patched(old: str, new: str) -> str:
    """Return what a patch makes of two values: objects are merged one level deep, others appended."""
    try:
        first, second = json.loads(old), json.loads(new)
    except ValueError:
        return old + new
    if isinstance(first, dict) and isinstance(second, dict):
        return json.dumps({**first, **second}, separators=(",", ":"))
    return old + new


def revisions_of(history: Iterable[Operation]) -> set[float]:
    """Return the revisions that were answered to those who have written."""
    return {one.revision for one in history if one.kind != "get" and one.answer not in (UNKNOWN, CONFLICT)}


def is_linearizable(history: Iterable[Operation], state: State = ("", 0), taken: Iterable[float] = frozenset()) -> bool:
    """Return whether the operations of one key can have happened one after the other, from *state* on.

    The revisions *taken* are those of writes of other keys, which have the same row of numbers.

    Raises:
        Undecided: it can not be said after ``MAX_STEPS`` steps.
    """
    operations = sorted(
        (one for one in history if not (one.kind == "get" and one.answer is UNKNOWN)), key=lambda one: one.start
    )
    return _Search(operations, revisions_of(operations) | set(taken)).succeeds(state)


class _Search:
    """Tries orders, depth first; what it has been through with the same rest and the same state, it leaves out."""

    def __init__(self, operations: Sequence[Operation], taken: Container[float]) -> None:
        self._operations = operations
        self._taken = taken
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
                for after in self._operations[place].steps(state, self._taken):
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
