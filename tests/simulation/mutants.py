"""Faults that are put into the code of the cluster on purpose: the simulator has to find each."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs

from broker.buses.redis import RedisBus
from broker.buses.redis_lease import Lease
from broker.buses.redis_recovery import GapRecovery
from broker.cluster.calls import RemoteCalls
from broker.cluster.claims import Claims
from broker.cluster.jobs import SharedJobs
from broker.cluster.link import Link
from broker.cluster.links import Links
from broker.cluster.queues import SharedQueues
from broker.core.call_limits import LimitedProcedure
from broker.redis.script import Script
from broker.stores.redis_timeline import Timeline
from tests.simulation.found import FOUND
from tests.simulation.run import run_schedule, run_seed
from tests.simulation.schedule import Schedule

KNOWN_SEEDS = 60  # with which a schedule that shows a mutant is run until it does

_sources: dict[Any, str] = {}  # of methods that were changed


@attrs.frozen
class Edit:
    """A piece of code with another text.

    Attributes:
        owner: the class that has the method, or ``Script``: the text of those.
        method: its name, or one of the file's texts that is in the script.
        old, new: what is replaced in the source, which has *old* once.
    """

    owner: Any
    method: str
    old: str
    new: str


@attrs.frozen
class Mutant:
    """A fault of the code.

    Attributes:
        what: what is wrong then.
        theme: of the schedules that look for it; see ``THEMES``.
        seeds: in which it must be found, wherever they begin.
        first: of them that has found it.
        edits: several where the code has a second defence, which has to fail, too.
        known: the schedule of ``FOUND`` that shows it, where seeds seldom do; "": the seeds do.
    """

    what: str
    theme: str
    seeds: int
    first: int
    edits: tuple[Edit, ...]
    known: str = ""


def _mutant(what: str, theme: str, seeds: int, first: int, *edits: Edit) -> Mutant:
    return Mutant(what, theme, seeds, first, edits)


def _known(what: str, known: str, *edits: Edit) -> Mutant:
    return Mutant(what, "", 1, FOUND[known].seed, edits, known)


# Not here, since nothing goes wrong with it:
# - the mark of ``GapRecovery.received_up_to`` moves although something is still to be read: what is behind keeps a
#   mark of its own, and a gap is read to its end whatever happens;
# - ``send`` of names.lua sends to an address whose lease has ended: the receiver drops what is not for the lease that
#   it has (``Lease.is_for_us``, and once more ``Links.received``), and the link to it ends with the lease.
MUTANTS: dict[str, Mutant] = {
    "seam not held": _mutant(
        "what was stored between mark and subscription is not read",
        "seams",
        200,
        53,
        Edit(GapRecovery, "on_event", "if missed:", "if False:"),
    ),
    "others not looked at": _known(
        "what is read for one subscription begins at its mark, whatever others have got",
        "an event on its way by a pattern was dropped, since a newcomer to its topic had read the one after it",
        Edit(GapRecovery, "_read", "min([gap.mark, *self._received(topic)])", "gap.mark"),
    ),
    "gap not filled": _mutant(
        "an event that comes after a hole is delivered at once",
        "seams",
        100,
        0,
        Edit(GapRecovery, "on_event", "self._fill(topic, UNKNOWN_MARK, event)", "self._deliver_next(event)"),
    ),
    "disconnection not noted": _mutant(
        "what was missed while pub/sub was away is not read",
        "seams",
        100,
        0,
        Edit(GapRecovery, "disconnected", "subscription.mark = max(self._mark, subscription.base)", "continue"),
    ),
    "others not notified": _mutant(
        "a job that finds no room here is not told to the nodes where there is some",
        "jobs",
        100,
        6,
        Edit(SharedJobs, "notify", "self._notifier", "return\n    self._notifier"),
    ),
    "nothing recovered": _mutant(
        "the jobs of a node that is lost stay in flight",
        "workers",
        100,
        9,
        Edit(SharedJobs, "recover", "await super().recover()", "pass"),
    ),
    "those who may renew taken for lost": _mutant(
        "jobs and testaments of a node are given to others that has no lease, since Redis was away for all",
        "outage",
        100,
        1,
        Edit(SharedJobs, "lives", "may_live = await self._bus.may_live(node)", "may_live = False"),
    ),
    "lease not checked": _mutant(
        "a node goes on when its lease is over, until it is told",
        "lapse",
        100,
        5,
        Edit(Lease, "number", "return self._number if self._now() < self._end else 0", "return self._number"),
    ),
    "fencing number ignored": _mutant(
        "a node acts under a lease that has ended, or by a connection that it has given up",
        "stalls",
        500,
        200,
        Edit(
            Script,
            "local function fenced(number)",
            "local function fenced(number)",
            "local function fenced(number)\n  do return false end",
        ),
    ),
    "late operations done": _mutant(
        "what comes by a connection that its node has given up is done",
        "late",
        300,
        48,
        Edit(Script, "tonumber(present[7] or 0) >", "tonumber(present[7] or 0) >", "false and 0 >"),
    ),
    "late renewal done": _mutant(
        "a renewal that comes by a connection that its node has given up ends the lease that was given since",
        "late",
        100,
        8,
        Edit(
            Script,
            "connection and connection > tonumber(ARGV[4])",
            "connection and connection > tonumber(ARGV[4])",
            "false",
        ),
    ),
    "lease given twice": _mutant(
        "who asks twice for a lease, before the first answer comes, gets two, and ends what the first has begun",
        "late",
        100,
        0,
        Edit(
            Script,
            "number == 0 or (number ~= believed and number <= last)",
            "number == 0 or (number ~= believed and number <= last)",
            "number == 0 or number ~= believed",
        ),
    ),
    "released for another holder": _mutant(
        "a name is given back that somebody else has here",
        "shared",
        100,
        0,
        Edit(
            Claims,
            "_needed",
            "return claim.pending > 0 or self._is_needed(claim.name)",
            "return claim.pending > 0",
        ),
    ),
    "those who are about to hold it not counted": _mutant(
        "a name is given back that somebody is just getting",
        "names",
        100,
        9,
        Edit(Claims, "_needed", "claim.pending > 0 or ", ""),
    ),
    "loser not told": _mutant(
        "whose name another node has got meanwhile is not told of it",
        "lapse",
        100,
        2,
        Edit(Claims, "_refuse", "self._on_lost(claim.name)", "pass"),
    ),
    "newcomers do not wait": _mutant(
        "a name that nobody holds at a server that went back is given before those have come who held it",
        "back",
        100,
        17,
        Edit(Script, "local function claim(", "elseif how ~= HELD and #others == 0", "elseif false"),
    ),
    "a hang taken for a clock that was set": _known(
        "names are not kept when no node could renew its lease, since the clock seems to have been set forward",
        "a name was taken from its client by an old claim, since a node got another lease when Redis had hung",
        Edit(Script, "local function give_grace(", "if now - renewed >", "if now - time_of('renewed') >"),
    ),
    "silence not noticed": _known(
        "names are kept from the first renewal on only, when no node could renew its lease",
        "a name was taken from its client by a claim that had waited in Redis until the lease had ended",
        Edit(Script, "local function is_awaited(", "(now < grace or is_silent())", "now < grace"),
    ),
    "newcomers get what was restored": _known(
        "a name is given to a newcomer at the node that had it in the state to which the server went back",
        "a name that a restored state had as held by a node was given to a newcomer there",
        Edit(Script, "local function claim(", "if how == NEW or #ids == 0 or not shared then", "if #ids == 0 then"),
    ),
    "what was restored for a node kept": _known(
        "a name stays with the node that had it in the state to which the server went back, while a newcomer waits",
        "a name that a restored state had as held by a node was given to a newcomer there",
        Edit(Script, "local function claim(", "hold(name, sharing, rest)\n    end\n    if", "end\n    if"),
    ),
    "what was restored is claimed at once": _known(
        "a node has what it held before a time without a lease, according to a server that went back",
        "a name went back with older data to a node that had been cut off, and that another still had",
        Edit(Script, "local function claim(", "or #ids == 0 or not shared then", "or #ids == 0 then"),
    ),
    "what was restored is taken for held": _known(
        "a name is taken from a client for a node that is about to give it back again",
        "a name was taken for such a node before it had given it back again",
        Edit(Script, "local function claim(", "now < settling and settling - now or holder", "holder"),
    ),
    "what is not claimed again is taken for held": _known(
        "a name is taken from a client for a node that does not claim it again",
        "a name was taken for such a node after a time in which no node had a lease",
        Edit(Script, "local function claim(", "return math.max(1, grace - now)", "return others[1]"),
    ),
    "jobs of lost nodes not reviewed": _known(
        "a job that was claimed late for a node that has ended stays in flight",
        "a job was claimed for a worker of a node that had ended, and that the others had looked at already",
        Edit(SharedJobs, "review", "if not self._reviewing and not self._stopped:", "if False:"),
    ),
    "names not reviewed": _known(
        "names that were given back stay with their node where the data went back",
        "names that a restored state had as held, and that were given back since, stayed with their node",
        Edit(RedisBus, "_review", "self.found(name)", "pass"),
    ),
    "taken for held all the while": _known(
        "a name that was held before a time without a lease is claimed as if nobody could have got it meanwhile",
        "a name went back with the data to a node that had been cut off, and that another had by then",
        Edit(Lease, "renewed", "self.unbroken_since = number", "pass"),
    ),
    "names not suspended": _mutant(
        "a node without a lease performs what another node may hold",
        "lapse",
        100,
        2,
        Edit(Claims, "holds", "self._is_held(claim) and bool(self._bus.lease)", "True"),
    ),
    "held under an earlier lease": _known(
        "a node holds what it held under a lease that has ended, and has given back without one",
        "a queue whose last consumer had gone while Redis hung was never forgotten",
        Edit(Script, "local function holders(", "and found.number == tonumber(number) or", "or"),
    ),
    "not claimed again": _mutant(
        "names that were held before the lease ended are not claimed under the next one",
        "lapse",
        100,
        0,
        Edit(Claims, "_visit", "self._happen(unvisited.popleft(), Event.LEASED)", "unvisited.popleft()"),
    ),
    "route not purged": _mutant(
        "a callee is still looked for where its node has had a lease, until the link is given up",
        "ends",
        100,
        18,
        Edit(RemoteCalls, "_forget", "del self._known[names]", "pass"),
        Edit(RemoteCalls, "_route", "if self._lease_of(address) != lease:", "if False:"),
        Edit(RemoteCalls, "_forward", "or self._lease_of(route.untried[0]) != route.nodes[0][1]", ""),
        Edit(RemoteCalls, "_refused", "if callee.fresh and not callee.untried:", "if True:"),
    ),
    "request sent again when its link breaks": _mutant(
        "a request that may have arrived is sent elsewhere",
        "ends",
        50,
        0,
        Edit(RemoteCalls, "_broken", "if callee in again and self._messenger.bus.lease:", "if True:"),
    ),
    "link not ended with the other lease": _mutant(
        "what is open over a link waits although the lease of the other node has ended",
        "ends",
        50,
        0,
        Edit(Links, "departed", 'self.end(link, "")', "pass"),
    ),
    "links not ended with the lease": _mutant(
        "a node goes on with the links of a lease that it has lost",
        "lapse",
        100,
        20,
        Edit(Links, "lapsed", 'self.end(link, "")', "pass"),
    ),
    "call not ended with its link": _mutant(
        "a call waits for ever for a node that has gone",
        "ends",
        100,
        0,
        Edit(RemoteCalls, "_broken", 'self._give_up(callee, Gone("lost", call.name))', "pass"),
    ),
    "doubles not dropped": _mutant(
        "what a link sends again is done again",
        "frames",
        100,
        9,
        Edit(Link, "on_frame", "messages[max(0, self._received + 1 - number) :]", "messages"),
    ),
    "holes not noticed": _mutant(
        "what comes after a hole is taken, and what was in it dropped",
        "frames",
        100,
        7,
        Edit(Link, "on_frame", "if number > self._received + 1:", "if False:"),
    ),
    "acknowledged too much": _mutant(
        "a message that has not arrived is forgotten",
        "frames",
        100,
        2,
        Edit(Link, "on_frame", "if frame.ack >= self._base:\n", "if True:\n"),
        Edit(Link, "on_frame", "self._trim(frame.ack)", "self._trim(frame.ack + 1000)"),
    ),
    "not sent again": _mutant(
        "what nobody knows to have arrived is not sent again, also when the other side asks for it",
        "frames",
        100,
        2,
        Edit(Link, "_failed", "self._again = self._base", "pass"),
        Edit(Link, "on_frame", "if frame.flags & MISSING and self._sent:", "if False:"),
    ),
    "all holders released": _mutant(
        "a node gives back a shared name for all others",
        "shared",
        100,
        17,
        Edit(
            Script,
            "verbs.release =",
            "local _, rest = without(ids, entries, me)\n    hold(name, sharing, rest)",
            "hold(name, sharing, {})",
        ),
    ),
    "void names kept": _mutant(
        "names that are held under leases that have ended are not forgotten",
        "lapse",
        100,
        21,
        Edit(Script, "local function begin_tidying", "if untidy == 0 or", "if true or"),
    ),
    "loss not noticed": _mutant(
        "a node does not compare what it has seen with what the store has",
        "back",
        100,
        0,
        Edit(Timeline, "_ask", "*numbers, *self._known)", "*numbers)"),
    ),
    "went back unnoticed": _mutant(
        "a server that went back lets newcomers have names that others hold",
        "back",
        100,
        5,
        Edit(
            Script,
            "local function went_back",
            "back = back or before\n",
            "\n",
        ),
        Edit(
            Script,
            "local function went_back",
            "if tonumber(call('GET', NUMBERS) or 0) < last then",
            "if false then",
        ),
    ),
    "change not announced": _mutant(
        "a key is changed, and nobody hears of it",
        "anything",
        10,
        0,
        Edit(Script, "verbs.announced", "for event = first, verb - 1, EVENT do", "for event = 1, 0 do"),
    ),
    "slots freed twice": _mutant(
        "a performer with a limit is handed more calls than it takes at once",
        "load",
        50,
        1,
        Edit(LimitedProcedure, "ended", "slots.used -= 1", "slots.used -= 2"),
    ),
    "asked elsewhere after it was sent": _mutant(
        "a request is sent to the next node although the first may have begun it",
        "load",
        50,
        5,
        Edit(RemoteCalls, "_answered_otherwise", "isinstance(reply.error, Busy) and", "not call.streamed and"),
    ),
    "locks of nodes that have ended in force": _known(
        "what a node had locked that has ended can be delivered by no other",
        "a lock that a node left when it stopped was taken for one in force",
        Edit(SharedQueues, "_holds", "lease > 0 and", ""),
    ),
    "locks of earlier leases in force": _known(
        "what a node had locked under a lease or in an epoch that has ended can be delivered by no other",
        "a lock that came back with older data was taken for one in force",
        Edit(SharedQueues, "_holds", "if state.epoch and state.epoch != self._store.epoch:", "if False:"),
        Edit(SharedQueues, "_holds", "(not state.lease or state.lease >= lease)", "True"),
    ),
    "locks of others ignored": _known(
        "two nodes deliver from a mailbox at once",
        "a client left while its mail was delivered slowly, and was to get it once",
        Edit(SharedQueues, "_holds", "return lease > 0 and", "return False and"),
    ),
    "lock kept": _known(
        "a lock that could not be given back while Redis was away stays with its node",
        "a lock could not be given back while Redis was away",
        Edit(SharedQueues, "_unlock", "await self._pauses.pause(RETRY_DELAY)", "return"),
    ),
    "delivered up to an id of another epoch": _known(
        "the position of a queue is moved to an id that was lost",
        "mail was lost whose ids had been delivered before the data went back",
        Edit(SharedQueues, "_advance", "if epoch != self._store.epoch:  #", "if False:  #"),
        Edit(SharedQueues, "_advance", "if epoch != self._store.epoch:\n", "if False:\n"),
    ),
    "key forgotten": _mutant(
        "what is published again is stored again",
        "topics",
        50,
        0,
        Edit(
            Script,
            "local function first_by",
            "if id and not is_over(tonumber(expires)) then",
            "if false then",
        ),
    ),
}


@contextmanager
def mutated(name: str | None) -> Iterator[None]:
    """Let the code have one mutant meanwhile; None: none."""
    with ExitStack() as edits:
        for edit in MUTANTS[name].edits if name is not None else ():
            edits.enter_context(_edited(edit))
        yield


@contextmanager
def _edited(edit: Edit) -> Iterator[None]:
    place, attribute, changed = _script(edit) if edit.owner is Script else _method(edit)
    original = inspect.getattr_static(place, attribute)
    setattr(place, attribute, changed)
    try:
        yield
    finally:
        setattr(place, attribute, original)


class NoSuchMutant(BaseException):
    """The code has changed; not an error that the simulation notes as one of the mutant."""


def _replaced(edit: Edit, source: str) -> str:
    if source.count(edit.old) != 1:
        raise NoSuchMutant(f"{edit.old!r} is {source.count(edit.old)} times in\n{source}")
    return source.replace(edit.old, edit.new)


def _method(edit: Edit) -> tuple[Any, str, Any]:
    original: Any = inspect.getattr_static(edit.owner, edit.method)
    function: Any = original.fget if isinstance(original, property) else original
    changed: Any = _sources.get(function)
    source = _replaced(edit, textwrap.dedent(inspect.getsource(function)) if changed is None else changed)
    names: dict[str, Any] = {}
    exec(compile("from __future__ import annotations\n" + source, "<mutant>", "exec"), function.__globals__, names)
    new = names[edit.method]
    _sources[new.fget if isinstance(new, property) else new] = source
    return edit.owner, edit.method, new


def _script(edit: Edit) -> tuple[Any, str, Any]:
    begin = Script.__init__

    def begin_changed(self: Script, *arguments: str) -> None:
        begin(self, *arguments)
        text = self.text.decode()
        if edit.method in text:
            self.text = _replaced(edit, text).encode()

    return Script, "__init__", begin_changed


def find(name: str, limit: int = 0, first: int = 0) -> tuple[int, str] | None:
    """Return the first seed that finds a mutant and the violation, None when *limit* seeds, 0: its own, do not."""
    mutant = MUTANTS[name]
    if mutant.known:
        return _find_known(name, FOUND[mutant.known])
    with mutated(name):
        for seed in range(first, first + (limit or mutant.seeds)):
            violations = run_seed(seed, mutant.theme).violations
            if violations:
                return seed, str(violations[0])
    return None


def _find_known(name: str, schedule: Schedule) -> tuple[int, str] | None:
    """Run *schedule* with its own seed and some others: a change elsewhere may alter how long each message takes."""
    with mutated(name):
        for seed in range(schedule.seed, schedule.seed + KNOWN_SEEDS):
            violations = run_schedule(attrs.evolve(schedule, seed=seed)).violations
            if violations:
                return seed, str(violations[0])
    return None
