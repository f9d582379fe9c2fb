"""The names that this node holds among the nodes, or is about to; ``transitions`` says what becomes of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Mapping
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.cluster.transitions import TRANSITIONS, Event, State
from broker.errors import BrokerError, NotDone, Taken

log = Logger()

BATCH = 20  # names that are claimed again at once: publications that go along wait for no more than that
MAX_BATCH = 160  # the same, where all takes longer, since other programs keep the machine busy
RATE = 3200  # names a second that are claimed again then, too: 25,000 in 8 seconds
VISITS = 500  # names that are looked at together whether they must be claimed again: a millisecond
PAUSE = 0.004  # seconds between two batches: 25,000 names are held again after 7 seconds, and others get their turn
RELEASES = 200  # names that are given back in one operation
RETRY = 0.5  # seconds until what was not done is tried again
LAPSED = "This node has lost contact with the others, and may not hold this name any more."


class ClaimingBus(Protocol):
    """What claims need of ``ISharedBus``."""

    lease: int
    unbroken_since: int

    def claim(self, name: str, *, shared: bool = False) -> Deferred[None]:
        """See ``IBus.claim``."""

    def claim_all(self, names: Mapping[str, bool], new: Container[str] = ()) -> Deferred[dict[str, str]]:
        """See ``ISharedBus.claim_all``."""

    def release(self, *names: str) -> Deferred[bool]:
        """See ``ISharedBus.release``."""


@attrs.define(eq=False)
class Claim:
    """One name.

    Attributes:
        shared: how it is needed.
        pending: how many are about to hold it, and not yet known to ``is_needed``.
        waiting: who is told whether it was granted.
        lease: the number of the lease under which the bus was asked last.
        asked: how it was asked for.
        held: the number of the last lease under which it was held here; 0 when it was given back since.
        period: of the table, in which it was granted: it is held in that only.
        queued: whether it is in the queue.
        settled: who is told when the bus has answered.
        timer: of the next attempt.
    """

    name: str
    shared: bool
    state: State = State.FREE
    pending: int = 0
    waiting: list[Deferred[None]] = attrs.field(factory=list)
    lease: int = 0
    asked: bool = False
    held: int = 0
    period: int = 0
    queued: bool = False
    settled: list[Deferred[None]] = attrs.field(factory=list)
    timer: IDelayedCall | None = None


class Claims:
    """Owns the table of names, and is the only one that claims and releases them.

    At most one operation is under way for each name, one batch of names that are claimed again, and one of those
    that are given back: a client that leaves may have thousands, and no claim waits behind them.

    Args:
        bus: where they are claimed.
        clock: times the retries.
        is_needed: whether somebody here holds a name, those left out that are ``pending``.
        lost: called with a name that was held here and is another node's now.
        on_new: called with a name that was granted to one who did not wait for it.
        renewed: called when all were claimed again.
    """

    def __init__(
        self,
        bus: ClaimingBus,
        clock: IReactorTime,
        is_needed: Callable[[str], bool],
        lost: Callable[[str], object],
        on_new: Callable[[str], object],
        renewed: Callable[[], object],
    ) -> None:
        self._bus, self._clock, self._is_needed = bus, clock, is_needed
        self._on_lost, self._on_new, self._on_renewed = lost, on_new, renewed
        self._claims: dict[str, Claim] = {}
        self._period = 0  # ends with a lease, and when names may have been forgotten
        self._unvisited: deque[Claim] = deque()  # may have been held in an earlier period
        self._alone: deque[Claim] = deque()  # to be claimed again: those first that are useless until then
        self._sharing: deque[Claim] = deque()
        self._renewing = False  # whether the queue has all names of a new lease
        self._batch: list[Claim] = []  # those that are being claimed again
        self._pumped = 0.0  # when the last of these were chosen
        self._leaving: deque[Claim] = deque()  # to be given back
        self._releasing = 0  # how many are being given back
        self._looping = False  # whether more are about to be
        self._next: IDelayedCall | None = None
        self._pause: IDelayedCall | None = None  # of the queue of those that are not shared
        self._last: Claim | None = None  # that was held

    def __len__(self) -> int:
        return len(self._claims)

    def __contains__(self, name: str) -> bool:
        return name in self._claims

    # What is asked here.

    def holds(self, name: str) -> bool:
        """Whether this node holds *name* now."""
        claim = self._claims.get(name)
        return claim is not None and self._is_held(claim) and bool(self._bus.lease)

    def _is_held(self, claim: Claim) -> bool:
        return claim.state is State.HELD and claim.period == self._period

    def is_pending(self, name: str) -> bool:
        """Whether somebody here is about to hold *name*."""
        claim = self._claims.get(name)
        return claim is not None and claim.pending > 0

    def join(self, name: str, shared: bool) -> tuple[Claim, Deferred[None]]:
        """Claim *name* for one who must be counted out by ``leave``.

        The Deferred, which may be cancelled, fires when it is held.

        Raises:
            Taken: somebody here has it, or is about to, and not both share.
        """
        claim = self._claims.get(name)
        if claim is None:
            claim = self._claims[name] = Claim(name, shared)
        elif claim.shared != shared:
            if self._needed(claim):
                raise Taken("exists", name)
            claim.shared = shared
        claim.pending += 1
        if claim.state in (State.HELD, State.STALE) and not self._bus.lease:
            return claim, fail(NotDone("lease", message=LAPSED))
        waiting: Deferred[None] = Deferred(lambda cancelled: _drop(claim.waiting, cancelled))
        claim.waiting.append(waiting)
        self._happen(claim, Event.JOIN)
        return claim, waiting

    def leave(self, claim: Claim) -> None:
        """Count out one who has joined: he holds the name now, or has given up."""
        claim.pending -= 1
        self._look(claim)

    def hold(self, name: str) -> None:
        """Share *name*, which somebody here holds, until ``release``: it is claimed until it is granted."""
        claim = self._claims.get(name)
        if claim is None:
            claim = self._claims[name] = Claim(name, True)
        self._last = claim
        self._happen(claim, Event.JOIN)

    def release(self, name: str) -> None:
        """Give *name* back, if nobody here needs it any more."""
        claim = self._claims.get(name)
        if claim is not None:
            self._look(claim)

    def settled(self) -> Deferred[None] | None:
        """Fire when the names that were held so far are known to the other nodes; None: they are, or can not be."""
        # The bus answers in order.
        last = self._last
        if last is None or last.state not in (State.CLAIMING, State.RELEASING):
            return None
        settled: Deferred[None] = Deferred()
        last.settled.append(settled)
        return settled

    def stop(self) -> None:
        """Cancel all timers."""
        for timer in [self._next, self._pause, *(claim.timer for claim in self._claims.values())]:
            if timer is not None and timer.active():
                timer.cancel()

    # What the bus says.

    def lapsed(self) -> None:
        """Hold nothing: the lease has ended."""
        self._period += 1  # each claim notices it when something happens to it: there may be very many

    def leased(self) -> None:
        """Claim everything again."""
        self._renewing = True
        self._period += 1
        self._pumped = self._clock.seconds()
        self._unvisited = deque(self._claims.values())
        self._pump()

    def found(self, name: str) -> None:
        """Note that this node holds *name* as far as the others know; give it back if nobody here needs it."""
        if name not in self._claims and not self._is_needed(name):
            claim = self._claims[name] = Claim(name, False, State.STALE)
            self._look(claim)

    # Transitions.

    def _happen(self, claim: Claim, event: Event, error: BrokerError | None = None) -> None:
        if claim.state is State.HELD and claim.period != self._period:
            claim.state, _ = TRANSITIONS[State.HELD, Event.LAPSED]
        found = TRANSITIONS.get((claim.state, event))
        if found is None:
            return
        claim.state, action = found
        if claim.state in (State.FREE, State.RELEASING):
            claim.held = 0
        if action:
            getattr(self, "_" + action)(claim, error)
        if claim.settled and claim.state not in (State.CLAIMING, State.RELEASING):
            settled, claim.settled = claim.settled, []
            for each in settled:
                each.callback(None)

    def _needed(self, claim: Claim) -> bool:
        return claim.pending > 0 or self._is_needed(claim.name)

    def _look(self, claim: Claim) -> None:
        """Give *claim* back, or forget it, if nobody needs it."""
        if claim.state is State.FREE:
            if not claim.pending and self._claims.get(claim.name) is claim:
                del self._claims[claim.name]
        elif claim.state in (State.HELD, State.STALE) and not self._needed(claim):
            self._happen(claim, Event.LEAVE)

    # Actions.

    def _ask(self, claim: Claim, _: object = None) -> None:
        claim.lease, claim.asked = self._bus.lease, claim.shared
        asked = self._bus.claim(claim.name, shared=claim.shared)
        asked.addCallback(self._answered, claim).addErrback(self._not_answered, claim)

    def _answered(self, _: None, claim: Claim) -> None:
        alone = not claim.waiting
        self._on_grant(claim)
        if alone and claim.state is State.HELD:
            self._on_new(claim.name)

    def _on_grant(self, claim: Claim) -> None:
        lease = self._bus.lease
        if not lease or claim.lease not in (0, lease):
            self._happen(claim, Event.FAILED, NotDone("lease", message=LAPSED))
        elif claim.asked != claim.shared:
            self._happen(claim, Event.CHANGED)  # the one who wanted it otherwise has gone
        else:
            claim.held, claim.period = lease, self._period
            self._happen(claim, Event.GRANTED)

    def _not_answered(self, failure: Failure, claim: Claim) -> None:
        error = failure.value
        if isinstance(error, Taken):
            self._happen(claim, Event.REFUSED, error)
        elif isinstance(error, NotDone) and error.retry_after and self._needed(claim):
            self._happen(claim, Event.WAIT, error)
        elif isinstance(error, BrokerError):
            self._happen(claim, Event.FAILED, error)
        else:
            log.failure("a name could not be claimed", failure)
            self._happen(claim, Event.FAILED, BrokerError("claim"))

    def _ask_later(self, claim: Claim, error: NotDone) -> None:
        claim.timer = self._clock.callLater(min(error.retry_after, RETRY), self._ask_now, claim)

    def _ask_now(self, claim: Claim) -> None:
        claim.timer = None
        if self._needed(claim):
            self._ask(claim)
        else:
            self._happen(claim, Event.FAILED, NotDone("claim"))

    def _answer(self, claim: Claim, _: object) -> None:
        waiting, claim.waiting = claim.waiting, []
        for each in waiting:
            each.callback(None)
        self._look(claim)

    def _refuse(self, claim: Claim, _: object) -> None:
        waiting, claim.waiting = claim.waiting, []
        for each in waiting:
            each.errback(Taken("exists", claim.name))
        if self._is_needed(claim.name):
            self._on_lost(claim.name)  # it was held here until the lease ended
        self._look(claim)

    def _fail(self, claim: Claim, error: BrokerError) -> None:
        waiting, claim.waiting = claim.waiting, []
        for each in waiting:
            # A new one for each: whoever raises it adds its own traceback.
            each.errback(type(error)(error.what, error.name, message=error.message))
        self._retry(claim, None)
        self._look(claim)

    def _release(self, claim: Claim, _: object) -> None:
        self._leaving.append(claim)
        self._release_next()

    def _release_next(self) -> None:
        """Give the next names back, unless that is done already."""
        if self._looping:
            return
        self._looping = True
        leaving = self._leaving
        while leaving and not self._releasing:
            batch = [leaving.popleft() for _ in range(min(RELEASES, len(leaving)))]
            self._releasing = len(batch)
            released = self._bus.release(*[claim.name for claim in batch])
            released.addErrback(_not_released).addCallback(self._released, batch)
        self._looping = False

    def _released(self, done: bool, batch: list[Claim]) -> None:
        self._releasing = 0
        for claim in batch:
            self._happen(claim, Event.RELEASED if done else Event.UNRELEASED)
        self._release_next()

    def _begin_again(self, claim: Claim, _: object) -> None:
        """Claim what was given back, if somebody has come meanwhile."""
        if self._needed(claim):
            self._happen(claim, Event.JOIN)
        else:
            self._look(claim)

    # Claiming again.

    def _queue(self, claim: Claim, _: object, delay: float = 0.0) -> None:
        if not claim.queued:
            claim.queued = True
            (self._sharing if claim.shared else self._alone).append(claim)
        if self._next is None and not self._batch:
            self._next = self._clock.callLater(delay, self._pump)
            self._pumped = self._clock.seconds() + delay

    def _retry(self, claim: Claim, _: object) -> None:
        self._queue(claim, None, RETRY)

    def _pump(self) -> None:
        """Claim the next names of the queue again."""
        self._visit()
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None
        if self._batch or not self._bus.lease:
            return  # the end of that batch, or the next lease, goes on
        # Each once: what can not be given back now is queued again.
        for _ in range(min(self._batch_size(), len(self._alone) + len(self._sharing))):
            queue = self._alone if self._alone and self._pause is None else self._sharing
            if not queue:
                break
            claim = queue.popleft()
            claim.queued = False
            self._look(claim)
            if claim.state is State.STALE and not claim.queued:
                claim.lease, claim.asked = self._bus.lease, claim.shared
                self._happen(claim, Event.AGAIN)
                self._batch.append(claim)
        if self._batch:
            names = {claim.name: claim.shared for claim in self._batch}
            since = self._bus.unbroken_since  # what is held since before that, another node may have got meanwhile
            new = {claim.name for claim in self._batch if claim.held < since}
            self._bus.claim_all(names, new).addCallbacks(self._batch_answered, self._batch_failed).addErrback(_failed)
        elif self._unvisited or self._sharing or (self._alone and self._pause is None):
            if self._next is None:
                self._next = self._clock.callLater(PAUSE, self._pump)
        elif self._renewing and not self._alone:
            self._renewing = False
            self._on_renewed()

    def _batch_size(self) -> int:
        """Return how many names are claimed at once: as many as have come due since the last batch."""
        before, self._pumped = self._pumped, self._clock.seconds()
        return max(BATCH, min(MAX_BATCH, int((self._pumped - before) * RATE)))

    def _visit(self) -> None:
        """Queue the next of those that were held before there was a new lease, or names may have been forgotten."""
        unvisited = self._unvisited
        for _ in range(min(VISITS, len(unvisited)) if self._bus.lease else 0):
            self._happen(unvisited.popleft(), Event.LEASED)

    def _batch_answered(self, refused: Mapping[str, str]) -> None:
        batch, self._batch = self._batch, []
        self._next = self._clock.callLater(PAUSE, self._pump)
        for claim in batch:
            holder = refused.get(claim.name)
            if holder is None:
                self._on_grant(claim)
            elif holder:
                self._happen(claim, Event.REFUSED)
            else:
                self._happen(claim, Event.FAILED, NotDone("lease", message=LAPSED))
                if self._pause is None:
                    self._pause = self._clock.callLater(RETRY, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._pumped = self._clock.seconds()
        self._pump()

    def _batch_failed(self, failure: Failure) -> None:
        failure.trap(BrokerError)
        batch, self._batch = self._batch, []
        error = failure.value if isinstance(failure.value, BrokerError) else BrokerError("claim")
        for claim in batch:
            self._happen(claim, Event.FAILED, error)


def _drop(waiting: list[Deferred[None]], cancelled: Deferred[None]) -> None:
    if cancelled in waiting:
        waiting.remove(cancelled)


def _failed(failure: Failure) -> None:
    log.failure("names could not be claimed again", failure)


def _not_released(failure: Failure) -> bool:
    log.failure("names could not be given back", failure)
    return False
