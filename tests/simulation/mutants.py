"""Faults that are put into the code of the cluster on purpose: the simulator has to find each."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from broker.buses.redis_lease import Lease
from broker.buses.redis_recovery import GapRecovery
from broker.cluster.calls import RemoteCalls
from broker.cluster.claims import Claims
from broker.cluster.link import Link
from broker.cluster.queues import SharedQueues
from broker.redis.script import Script
from tests.simulation.run import Result, run_seed
from tests.simulation.world import Violation


@attrs.frozen
class Mutant:
    """A piece of code with another text.

    Attributes:
        owner: the class that has the method, or ``Script``: the text of those.
        method: its name, or one of the file's texts that is in the script.
        old, new: what is replaced in the source, which has *old* once.
        what: what is wrong then.
    """

    owner: Any
    method: str
    old: str
    new: str
    what: str


MUTANTS: dict[str, Mutant] = {
    "seam not held": Mutant(
        GapRecovery, "on_event", "if missed:", "if False:", "what was stored between mark and subscription is not read"
    ),
    "gap not filled": Mutant(
        GapRecovery,
        "on_event",
        "self._fill(topic, UNKNOWN_MARK, event)",
        "self._deliver_next(event)",
        "an event that comes after a hole is delivered at once",
    ),
    "disconnection not noted": Mutant(
        GapRecovery,
        "disconnected",
        "subscription.mark = max(self._mark, subscription.base)",
        "continue",
        "what was missed while pub/sub was away is not read",
    ),
    "mark moved too far": Mutant(
        GapRecovery,
        "received_up_to",
        "and not (self._behind or self._gaps)",
        "",
        "the mark passes what is still to be read",
    ),
    "position not moved": Mutant(
        SharedQueues,
        "_advance",
        "while (state",
        "return True\n    while (state",
        "the position of a queue is not moved, and nothing that was delivered is removed",
    ),
    "lock not checked": Mutant(
        SharedQueues, "_lock", "not await self._is_free(queue, state)", "False", "two nodes deliver from one queue"
    ),
    "lease not checked": Mutant(
        Lease,
        "number",
        "return self._number if self._now() < self._end else 0",
        "return self._number",
        "a node goes on when its lease is over, until it is told",
    ),
    "fencing number ignored": Mutant(
        Script,
        "local function fenced(number)",
        "local function fenced(number)",
        "local function fenced(number)\n  do return false end",
        "a node acts under a lease that has ended",
    ),
    "sent without a lease": Mutant(
        Script,
        "verbs.send =",
        "if look(ARGV[at + 1]).number ~= tonumber(ARGV[at + 2]) then",
        "if false then",
        "messages go to an address whose lease has ended",
    ),
    "released for another holder": Mutant(
        Claims,
        "_needed",
        "return claim.pending > 0 or self._is_needed(claim.name)",
        "return claim.pending > 0",
        "a name is given back that somebody else has here",
    ),
    "names not suspended": Mutant(
        Claims,
        "holds",
        "claim.state is State.HELD and bool(self._bus.lease)",
        "True",
        "a node without a lease performs what another node may hold",
    ),
    "not claimed again": Mutant(
        Claims,
        "leased",
        "self._happen(claim, Event.LEASED)",
        "pass",
        "names that were held before the lease ended are not claimed under the next one",
    ),
    "route not purged": Mutant(
        RemoteCalls,
        "_forget",
        "del self._known[names]",
        "pass",
        "a callee is still looked for where its node has had a lease",
    ),
    "call not ended with its link": Mutant(
        RemoteCalls,
        "_broken",
        'self._give_up(callee, Gone("lost", callee.call.name))',
        "pass",
        "a call waits for ever for a node that has gone",
    ),
    "doubles not dropped": Mutant(
        Link,
        "on_frame",
        "if number > self._received:",
        "if True:",
        "what a link sends again is done again",
    ),
    "holes not noticed": Mutant(
        Link,
        "on_frame",
        "if number > self._received + 1:",
        "if False:",
        "what comes after a hole is taken, and what was in it dropped",
    ),
    "acknowledged too much": Mutant(
        Link,
        "on_frame",
        "self._trim(frame.ack)",
        "self._trim(frame.ack + 1000)",
        "a message that has not arrived is forgotten",
    ),
    "not sent again": Mutant(
        Link,
        "_failed",
        "self._again = self._base",
        "pass",
        "what nobody knows to have arrived is not sent again before the other side asks",
    ),
    "all holders released": Mutant(
        Script,
        "verbs.release =",
        "hold(name, sharing, rest)\n  call('SREM', prefix .. 'lost/' .. me, name)\n  return 1",
        "hold(name, sharing, {})\n  call('SREM', prefix .. 'lost/' .. me, name)\n  return 1",
        "a node gives back a shared name for all others",
    ),
    "went back unnoticed": Mutant(
        Script,
        "local function went_back",
        "local back = tonumber(call('GET', NUMBERS) or 0) < last",
        "local back = false",
        "numbers of leases are given again by a server that went back",
    ),
}


@contextmanager
def mutated(name: str | None) -> Iterator[None]:
    """Let the code have one mutant meanwhile; None: none."""
    if name is None:
        yield
        return
    mutant = MUTANTS[name]
    place, attribute, changed = _script(mutant) if mutant.owner is Script else _method(mutant)
    original = inspect.getattr_static(place, attribute)
    setattr(place, attribute, changed)
    try:
        yield
    finally:
        setattr(place, attribute, original)


def _replaced(mutant: Mutant, source: str) -> str:
    assert source.count(mutant.old) == 1, f"{mutant.old!r} is {source.count(mutant.old)} times in\n{source}"
    return source.replace(mutant.old, mutant.new)


def _method(mutant: Mutant) -> tuple[Any, str, Any]:
    original: Any = inspect.getattr_static(mutant.owner, mutant.method)
    function: Any = original.fget if isinstance(original, property) else original
    source = _replaced(mutant, textwrap.dedent(inspect.getsource(function)))
    names: dict[str, Any] = {}
    exec(compile("from __future__ import annotations\n" + source, "<mutant>", "exec"), function.__globals__, names)
    return mutant.owner, mutant.method, names[mutant.method]


def _script(mutant: Mutant) -> tuple[Any, str, Any]:
    begin = Script.__init__

    def begin_changed(self: Any, *arguments: Any) -> None:
        begin(self, *arguments)
        text = self._text.decode()
        if mutant.method in text:
            self._text = _replaced(mutant, text).encode()

    return Script, "__init__", begin_changed


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
