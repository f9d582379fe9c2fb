"""Operations of one batch whose new states are computed here, each from what the one before it makes.

Those that change one place, with nothing else of that place between them, are one operation of the
script: it carries the last state, however many there are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, cast

from txredisapi import ResponseError

from broker.redis.operations import AGAIN, Operation
from broker.redis.postponed import Postponed

NOT_KNOWN: Any = object()  # in the place of a state
LEFT: Any = object()  # in the place of a result: it was not done


class Computed(Operation):
    """An operation that replaces the state of its place by one that is computed here.

    It may *lead* others, which are done with it.

    Attributes:
        present: the state that it was given by the script; ``NOT_KNOWN`` at first.
        followers: those that it leads.
        carried: the bytes that go along with the state that it has made.
        counted: the bytes that it counts for in a ``HeavyQueue``; 0 before it was in one.
    """

    computes = True
    present: Any = NOT_KNOWN
    followers: Sequence[Computed] = ()
    carried = 0
    counted = 0

    def found(self, state: Any) -> None:
        """Take the present state."""
        self.present = state

    @abstractmethod
    def question(self) -> Sequence[bytes]:
        """Return the words that read the present state, or the bytes it has, if too much large ones were read."""

    @abstractmethod
    def make(self, state: bytes | None) -> bytes | None:
        """Return the state that it makes of *state*: the same if it has to fail."""

    @abstractmethod
    def lead(self, followers: Sequence[Computed], before: bytes | None, after: bytes | None) -> None:
        """Set ``words`` to those that replace the state *before* by *after*, which the last of *followers* has made."""

    @abstractmethod
    def share(self, result: Any) -> list[Any]:
        """Return what *result* is for it and for each of its followers, or ``LEFT``."""


class Chain:
    """The operations of one batch some of which are computed here.

    Args:
        batch: all of them, in their order.
        learn: called with a place, and how many bytes its state has, wherever that becomes known.

    Attributes:
        sent: those that the script does.
    """

    def __init__(self, batch: list[Operation], learn: Callable[[Hashable, int], object] = lambda *_: None) -> None:
        self.sent: list[Operation] = []
        self._learn = learn
        self._batch = batch
        self._asked: list[Hashable] = []
        self._states: dict[Hashable, Any] = {}
        for operation in batch:
            if operation.chained and cast(Computed, operation).present is not NOT_KNOWN:
                self._states.setdefault(operation.place(), cast(Computed, operation).present)

    def questions(self) -> list[Sequence[bytes]]:
        """Return the words that read what must be known first, once for each place."""
        asked: dict[Hashable, Sequence[bytes]] = {}
        chained = [cast(Computed, operation) for operation in self._batch if operation.chained]
        # Those that are known to be large first: of them, there are no more than the call may read.
        for operation in sorted(chained, key=lambda each: not each.counted):
            if (place := operation.place()) not in self._states and place not in asked:
                asked[place] = operation.question()
        self._asked = list(asked)
        return list(asked.values())

    def know(self, results: list[Any], left: dict[int, Any]) -> None:
        """Take what was read; those of which too much was read already, or only how large they are, are done later."""
        for index, (place, result) in enumerate(zip(self._asked, results, strict=True)):
            if isinstance(result, ResponseError):
                raise result
            if index in left:
                continue
            if type(result) is int:
                self._learn(place, result)
                continue
            self._learn(place, len(result or b""))
            self._states[place] = result

    def link(self, max_bytes: int, over: Callable[[], bool] = lambda: False) -> list[Operation]:
        """Compute the states, one at least, until they have so many bytes or the time is *over*.

        Return the operations that are left to a later call.
        """
        states, rest, size, end = self._states, Postponed(), 0, False
        runs: dict[Hashable, _Run] = {}
        for operation in self._batch:
            place = operation.place()
            if rest.operations and rest.blocks(operation):
                rest.add(operation)
            elif operation.computes and place in states:
                if end:
                    rest.add(operation)
                    continue
                run = runs.get(place)
                if run is None:
                    run = runs[place] = _Run(states[place])
                    self.sent.append(operation)
                states[place] = run.add(cast(Computed, operation))
                size += len(states[place] or b"") + cast(Computed, operation).carried
                end = size >= max_bytes or over()
            elif operation.chained:
                rest.add(operation)
            else:
                self.sent.append(operation)
                self._foresee(operation, place, runs)
        for run in runs.values():
            run.close()
        for place in runs:
            self._learn(place, len(states[place] or b""))
        return list(rest.operations)

    def _foresee(self, operation: Operation, place: Hashable, runs: dict[Hashable, _Run]) -> None:
        """End the runs that *operation*, which the script does, must not overtake."""
        for ended in [place] if place is not None else list(runs):
            if ended in runs:
                runs.pop(ended).close()
        if place in self._states:
            state = self._states[place] = operation.foresee(self._states[place])
            if state is NOT_KNOWN:
                del self._states[place]

    def operations(self) -> list[Operation]:
        """Return those that are done in this call: of ``sent`` each with those that it leads."""
        return [each for operation in self.sent for each in _members(operation)]

    def outcomes(self, results: list[Any], left: dict[int, Any]) -> tuple[list[Any], dict[int, Any]]:
        """Return results and states, as of a call, for ``operations``."""
        every: list[Any] = []
        undone: dict[int, Any] = {}
        for index, (operation, result) in enumerate(zip(self.sent, results, strict=True)):
            if index in left:
                undone[len(every)] = left[index]
                every.append(None)
                for _ in _members(operation)[1:]:
                    undone[len(every)] = AGAIN
                    every.append(None)
                continue
            for each in cast(Computed, operation).share(result) if operation.computes else (result,):
                if each is LEFT:
                    undone[len(every)] = AGAIN
                every.append(each)
        return every, undone


class _Run:
    """Operations that change one place, one after the other."""

    def __init__(self, state: bytes | None) -> None:
        self._before = self._after = state
        self._members: list[Computed] = []

    def add(self, operation: Computed) -> bytes | None:
        """Return the state that *operation* makes of that of the last."""
        self._members.append(operation)
        self._after = operation.make(self._after)
        return self._after

    def close(self) -> None:
        """Let the first lead the others."""
        leader, *followers = self._members
        leader.lead(followers, self._before, self._after)


def _members(operation: Operation) -> list[Operation]:
    return [operation, *cast(Computed, operation).followers] if operation.computes else [operation]
