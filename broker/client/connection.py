"""The connection of a client: its states, when it comes back, and when it gives up."""

from __future__ import annotations

import attrs

from broker.client.backoff import Backoff
from broker.client.context import Owner
from broker.client.errors import (
    ClientError,
    Closed,
    ConnectionLost,
    Denied,
    Invalid,
    NotConnected,
    Unauthenticated,
    Untrusted,
    error_of,
)
from broker.client.liveness import Liveness
from broker.client.notices import Notice, NoticeKind
from broker.client.outcomes import Outcome
from broker.client.states import Driver, State
from broker.client.timers import Timer
from broker.client.values import Identity

ABNORMAL, TOO_BIG = 1006, 1009
BAD_CREDENTIAL = (1008, 4001, 4003)  # close codes
FINAL = range(3500, 4000)  # close codes after which a client does not come back
MAX_REFUSALS = 5  # of credentials or certificates in a row, until it gives up
STABLE = 1.0  # seconds that a connection lasts at least, to count as a success


@attrs.define(eq=False)
class Connection:
    """Of one client: a driver tells it what happens, and it tells the driver what to do.

    Attributes:
        owner: the client.
        driver: does its input and output.
        state: of now.
        end: why it does not come back; None: it does.
        identity: who the client is to the broker, once it was said.
        url: of the present or the last attempt.
    """

    owner: Owner
    driver: Driver
    state: State = attrs.field(default=State.IDLE, init=False)
    end: ClientError | None = attrs.field(default=None, init=False)
    identity: Identity | None = attrs.field(default=None, init=False)
    url: str = attrs.field(default="", init=False)
    _liveness: Liveness = attrs.field(init=False)
    _backoff: Backoff = attrs.field(init=False)
    _starts: list[Outcome[Identity]] = attrs.field(factory=list, init=False)
    _ends: list[Outcome[None]] = attrs.field(factory=list, init=False)
    _refusals: int = attrs.field(default=0, init=False)
    _ready_at: float = attrs.field(default=0.0, init=False)
    _place: int = attrs.field(init=False)  # of the URL that is next
    _timer: Timer | None = attrs.field(default=None, init=False)  # of the state

    def __attrs_post_init__(self) -> None:
        options, random = self.owner.options, self.owner.random
        self._liveness = Liveness(self.owner, lambda: self.drop("the broker is silent"))
        self._backoff = Backoff(options.first_wait, options.max_wait, random)
        # Clients of several nodes spread over them.
        self._place = int(random() * len(options.urls)) if len(options.urls) > 1 else 0

    @property
    def is_ready(self) -> bool:
        """Whether the application can send by it."""
        return self.state is State.READY

    @property
    def is_open(self) -> bool:
        """Whether there is one at all."""
        return self.state in (State.GREETING, State.READY)

    # What the driver tells.

    def connected(self) -> None:
        """There is a connection."""
        if self.state is State.CONNECTING:
            self.state = State.GREETING
            self.owner.on_open()

    def heard(self) -> None:
        """The broker has said something."""
        self._liveness.heard()

    def disconnected(self, code: int, reason: str) -> None:
        """The connection has ended, or could not be made."""
        if self.state is State.CLOSING:
            self._stop(None)
        elif self.state is not State.CONNECTING and not self.is_open:
            return
        elif code in BAD_CREDENTIAL:
            self._credential_refused(code, reason)
        else:
            if code == TOO_BIG:
                self.owner.on_too_big(reason)
            self._lose(code, reason)
            if code in FINAL:
                self._stop(Closed(f"{code} {reason}".strip()))
            else:
                self._wait(code, reason)

    def refused(self, status: int, reason: str, retry_after: float) -> None:
        """The handshake was answered with the HTTP *status* in the place of 101."""
        if self.state is State.CLOSING:
            self._stop(None)
        elif self.state is not State.CONNECTING:
            return
        elif status == 401:
            self._credential_refused(status, error_of(reason).message)
        elif status in (400, 403):
            error = error_of(reason)
            fitting = isinstance(error, Denied | Invalid)
            self._stop(error if fitting else (Invalid if status == 400 else Denied)(reason))
        else:
            self._wait(status, reason, retry_after)

    def untrusted(self, reason: str) -> None:
        """The broker has shown a certificate that is not trusted."""
        if self.state is State.CLOSING:
            self._stop(None)
        elif self.state is State.CONNECTING:
            # Who was never connected has a wrong setting; later, it may be the broker that has one for a while.
            tries = MAX_REFUSALS if self.identity is not None else 1
            self._give_up_after(tries * len(self.owner.options.urls), Untrusted(reason), "untrusted", ABNORMAL)

    def drop(self, reason: str) -> None:
        """Give the present connection, or attempt, up."""
        self.driver.abort()
        self.disconnected(ABNORMAL, reason)

    # What the application asks.

    def start(self) -> Outcome[Identity]:
        """Connect, and stay connected; ends when it is ready for the first time, or has given up."""
        outcome: Outcome[Identity] = Outcome()
        outcome.cancelled = lambda: self._forget_start(outcome)
        if self.end is not None:
            outcome.fail(self.end)
        elif self.is_ready and self.identity is not None:
            outcome.succeed(self.identity)
        else:
            self._starts.append(outcome)
            if self.state is State.IDLE:
                self._connect()
        return outcome

    def close(self) -> Outcome[None]:
        """End it in good order."""
        outcome: Outcome[None] = Outcome()
        if self.state is State.STOPPED:
            outcome.succeed(None)
            return outcome
        self._ends.append(outcome)
        if self.is_open:
            self._cancel_timers()
            self._end_all(Closed())
            self.state = State.CLOSING
            self._timer = self.owner.timers.after(self.owner.options.close_timeout, self._close_timeout)
            self.driver.close()
        elif self.state is not State.CLOSING:
            self.driver.abort()
            self._stop(None)
        return outcome

    # What becomes of the greeting.

    def greeted(self, identity: Identity) -> None:
        """The broker has said who the client is."""
        self._cancel_timers()
        self.identity, self.state = identity, State.READY
        self._ready_at, self._refusals = self.owner.clock(), 0
        self._liveness.start()
        self.owner.on_ready(identity)
        starts, self._starts = self._starts, []
        for outcome in starts:
            outcome.succeed(identity)

    def not_greeted(self, error: ClientError) -> None:
        """The broker has not said it."""
        if self.state is not State.GREETING:
            return
        if isinstance(error, Unauthenticated):
            self.driver.abort()
            self._credential_refused(BAD_CREDENTIAL[0], error.message)
        else:
            self.drop(error.message)

    # The states.

    def _connect(self) -> None:
        urls, options = self.owner.options.urls, self.owner.options
        self.state, self._place = State.CONNECTING, self._place + 1
        self._timer = self.owner.timers.after(options.connect_timeout, lambda: self.drop("not ready in time"))
        self.url = url = options.address_of(urls[(self._place - 1) % len(urls)])
        self.owner.notify(Notice("connecting", url.partition("?")[0]))
        if self.state is State.CONNECTING:  # the application may have closed it when it was told
            self.driver.connect(url)

    def _credential_refused(self, code: int, reason: str) -> None:
        """Come back with another credential, or not at all."""
        tries = MAX_REFUSALS if self.driver.renewable else 1
        self._give_up_after(tries, Unauthenticated(reason), "auth-failed", code)

    def _give_up_after(self, tries: int, error: ClientError, kind: NoticeKind, code: int) -> None:
        """Tell of *error*, and come back, unless it was the last of so many in a row."""
        self._refusals += 1
        self._lose(code, error.message)
        self.owner.notify(Notice(kind, error.message, code, error=error))
        if self._refusals < tries:
            self._wait(code, error.message)
        else:
            self._stop(error)

    def _lose(self, code: int, reason: str) -> None:
        """Notice the end of a connection."""
        was_ready, self.state = self.is_ready, State.WAITING
        self._cancel_timers()
        if was_ready and self.owner.clock() - self._ready_at >= STABLE:
            self._backoff.reset()
        self.owner.counts.losses += was_ready
        self.owner.on_lost(ConnectionLost(reason))
        if was_ready:
            self.owner.notify(Notice("lost", reason, code))

    def _wait(self, code: int, reason: str, retry_after: float = 0.0) -> None:
        """Try again later, or give up."""
        if self.state is State.STOPPED:
            return  # the application has closed it when it was told
        self._cancel_timers()
        limit = self.owner.options.max_attempts
        if limit is not None and self._backoff.attempts >= limit:
            self._stop(NotConnected(reason))
            return
        self.state = State.WAITING
        delay = self._backoff.next(retry_after)
        self._timer = self.owner.timers.after(delay, self._connect)
        self.owner.notify(Notice("waiting", reason, code, delay))

    def _close_timeout(self) -> None:
        self.driver.abort()
        self._stop(None)

    def _stop(self, error: ClientError | None) -> None:
        """Be finished."""
        if self.state is State.STOPPED:
            return
        self._cancel_timers()
        self.state = State.STOPPED
        self._end_all(error or Closed())
        self.owner.notify(Notice("stopped", "" if error is None else str(error), error=error))
        ends, self._ends = self._ends, []
        for outcome in ends:
            outcome.succeed(None)

    def _end_all(self, error: ClientError) -> None:
        if self.end is None:
            self.end = error
            starts, self._starts = self._starts, []
            self.owner.on_end(error)
            for outcome in starts:
                outcome.fail(error)

    def _forget_start(self, outcome: Outcome[Identity]) -> None:
        if outcome in self._starts:
            self._starts.remove(outcome)
        outcome.fail(Closed())

    def _cancel_timers(self) -> None:
        self.owner.timers.cancel(self._timer)
        self._timer = None
        self._liveness.stop()
