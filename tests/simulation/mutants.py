"""Faults that are put into the code of the cluster on purpose: the simulator has to find each."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from broker.buses.redis_recovery import GapRecovery
from broker.cluster.queues import SharedQueues
from tests.simulation.run import Result, run_seed
from tests.simulation.world import Violation


@attrs.frozen
class Mutant:
    """A method with another text.

    Attributes:
        owner: the class.
        method: its name.
        old, new: what is replaced in its source.
        what: what is wrong with it.
    """

    owner: Any
    method: str
    old: str
    new: str
    what: str


MUTANTS: dict[str, Mutant] = {
    "seam not held": Mutant(
        GapRecovery,
        "on_event",
        "elif marks := self._marks(topic):",
        "elif False:",
        "what was stored between the mark and the subscription is not read",
    ),
    "gap not filled": Mutant(
        GapRecovery,
        "on_event",
        "elif event.id > id:\n            self._fill(topic, UNKNOWN_MARK, event)",
        "elif event.id > id:\n            self._deliver_next(event)",
        "an event that comes after a hole is delivered at once",
    ),
    "disconnection not noted": Mutant(
        GapRecovery,
        "disconnected",
        "subscription.mark = max(self._mark, subscription.base)",
        "subscription.mark = None",
        "what was missed while pub/sub was away is not read",
    ),
    "position not moved": Mutant(
        SharedQueues,
        "_advance",
        "if await self._change(queue, state, upto, state.node):",
        "if True:\n            return True\n        if await self._change(queue, state, upto, state.node):",
        "the position of a queue is not moved, and nothing that was delivered is removed",
    ),
    "lock not checked": Mutant(
        SharedQueues,
        "_lock",
        'if state.node not in ("", self._address) and self._lives(state.node):',
        "if False:",
        "a queue is delivered from by two nodes",
    ),
}


@contextmanager
def mutated(name: str | None) -> Iterator[None]:
    """Let the code have one mutant meanwhile; None: none."""
    if name is None:
        yield
        return
    mutant = MUTANTS[name]
    original: Callable[..., Any] = getattr(mutant.owner, mutant.method)
    source = textwrap.dedent(inspect.getsource(original))
    old, new = textwrap.dedent(mutant.old), textwrap.dedent(mutant.new)
    lines = [" ".join(line.split()) for line in source.splitlines()]
    assert source.count(mutant.old) == 1 or source.count(old) == 1, f"{name}: {mutant.old!r} is not in {lines}"
    changed = source.replace(old, new) if old in source else source.replace(mutant.old, mutant.new)
    names: dict[str, Any] = {}
    exec(compile(changed, f"<mutant {name}>", "exec"), original.__globals__, names)
    setattr(mutant.owner, mutant.method, names[mutant.method])
    try:
        yield
    finally:
        setattr(mutant.owner, mutant.method, original)


def find(
    name: str, limit: int, first: int = 0, known: Callable[[Result, Violation], bool] = lambda *_: False
) -> tuple[int, str] | None:
    """Return the first seed that finds a mutant and the violation, None when *limit* seeds do not.

    Violations that are *known* do not count.
    """
    with mutated(name):
        for seed in range(first, first + limit):
            result = run_seed(seed)
            violations = [each for each in result.violations if not known(result, each)]
            if violations:
                return seed, str(violations[0])
    return None
