"""One client without its input and output: the states of its connection, and who gets each frame.

A driver tells it what happens (``connected``, ``received``, ``disconnected``, ``refused``, ``tick``), and it
tells the driver what to do (:class:`Driver`).  Neither waits for the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol, TypeVar

import attrs

from broker.client import wire
from broker.client.backoff import Backoff
from broker.client.consumers import Consumer
from broker.client.context import Counts
from broker.client.errors import (
    ClientError,
    Closed,
    ConnectionLost,
    Denied,
    Invalid,
    NotConnected,
    Unauthenticated,
    error_of,
)
from broker.client.options import Options
from broker.client.outcomes import Operation, Outcome
from broker.client.pending import Pending
from broker.client.procedures import Invocation, Procedures
from broker.client.registrations import Registration
from broker.client.requests import Requests
from broker.client.subscriptions import Subscription
from broker.client.timers import Timer, Timers
from broker.client.values import Gap, Identity, Notice, Statistics
from broker.client.watches import Watch
from broker.client.wire import Frame

T = TypeVar("T")

ABNORMAL, TOO_BIG = 1006, 1009
BAD_CREDENTIAL = (1008, 4001, 4003)  # close codes
FINAL = range(3500, 4000)  # close codes after which a client does not come back
MAX_REFUSALS = 5  # of credentials in a row, until it gives up
STABLE = 1.0  # seconds that a connection lasts at least, to count as a success
KEY_PREFIX = "kv/"  # of the events of watches

_read_identity = wire.reader(Identity)


class State(Enum):
    """Of a client."""

    IDLE = "idle"  #: not started
    CONNECTING = "connecting"
    GREETING = "greeting"  #: it has asked who it is
    READY = "ready"
    WAITING = "waiting"  #: for the next attempt
    CLOSING = "closing"
    STOPPED = "stopped"


class Driver(Protocol):
    """What does the input and output.

    Attributes:
        renewable: whether it can get another credential.
    """

    renewable: bool

    def connect(self) -> None:
        """Open a connection, after the end of the one before."""

    def send(self, data: bytes) -> None:
        """Send a text frame."""

    def close(self) -> None:
        """Close the connection in good order; ``disconnected`` follows."""

    def abort(self) -> None:
        """Drop the connection, or the attempt; nothing of it is told any more."""

    def wake(self, when: float) -> None:
        """Call ``tick`` at *when*, or earlier if that was asked for."""

    def renew(self) -> None:
        """Get another credential, and call ``refresh`` with it."""

    def invoke(self, invocation: Invocation) -> None:
        """Run its handler, and answer it."""

    def notify(self, notice: Notice) -> None:
        """Tell the application."""


@attrs.define(eq=False)
class Core:
    """One client.

    Attributes:
        options: how it behaves.
        driver: does its input and output.
        clock: gives seconds that never go back.
        random: gives a number from 0 up to 1.
    """

    options: Options
    driver: Driver
    clock: Callable[[], float]
    random: Callable[[], float]
    state: State = attrs.field(default=State.IDLE, init=False)
    counts: Counts = attrs.field(factory=Counts, init=False)
    registrations: dict[tuple[str, str], Registration] = attrs.field(factory=dict, init=False)
    identity: Identity | None = attrs.field(default=None, init=False)
    timers: Timers = attrs.field(init=False)
    pending: Pending = attrs.field(init=False)
    requests: Requests = attrs.field(init=False)
    procedures: Procedures = attrs.field(init=False)
    _backoff: Backoff = attrs.field(init=False)
    _auths: deque[Outcome[None]] = attrs.field(factory=deque, init=False)
    _starts: list[Outcome[Identity]] = attrs.field(factory=list, init=False)
    _settles: list[Outcome[None]] = attrs.field(factory=list, init=False)
    _ends: list[Outcome[None]] = attrs.field(factory=list, init=False)
    _refusals: int = attrs.field(default=0, init=False)
    _ready_at: float = attrs.field(default=0.0, init=False)
    _heard_at: float = attrs.field(default=0.0, init=False)
    _asked: bool = attrs.field(default=False, init=False)  # whether the broker has said nothing since a ping
    _state_timer: Timer | None = attrs.field(default=None, init=False)
    _ping_timer: Timer | None = attrs.field(default=None, init=False)
    _final: ClientError | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.timers = Timers(self.clock, self.driver.wake)
        self.pending = Pending(self)
        self.requests = Requests(self, self.pending.new_id)
        self.procedures = Procedures(self, lambda kind, name: self.registrations.get((kind, name)), self.driver.invoke)
        self._backoff = Backoff(self.options.first_wait, self.options.max_wait, self.random)

    # What the driver tells.

    def connected(self) -> None:
        """There is a connection."""
        if self.state is not State.CONNECTING:
            return
        self.state, self._heard_at = State.GREETING, self.clock()
        mailbox = self.registrations.get((Consumer.kind, "@me"))
        if mailbox is not None:
            mailbox.begin()  # as the first frame it holds for what waits already
        self.control("broker.whoami", b"[]").listen(self._greeted, self._not_greeted)

    def received(self, data: bytes) -> None:
        """A text frame has come."""
        self._heard_at, self._asked = self.clock(), False
        frame = wire.read(data)
        if frame is not None and self.is_open:
            self._dispatch(frame)

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
                self.pending.give_up_largest(reason)
            self._lose(code, reason)
            if code in FINAL:
                self._stop(Closed(f"{code} {reason}".strip()))
            else:
                self._wait(code, reason)

    def refused(self, status: int, reason: str, retry_after: float = 0.0) -> None:
        """The handshake was answered with the HTTP *status* in the place of 101."""
        if self.state is State.CLOSING:
            self._stop(None)
        elif self.state is not State.CONNECTING:
            return
        elif status == 401:
            self._credential_refused(status, reason)
        elif status in (400, 403):
            error = error_of(reason)
            fitting = isinstance(error, Denied | Invalid)
            self._stop(error if fitting else (Invalid if status == 400 else Denied)(reason))
        else:
            self._wait(status, reason, retry_after)

    def tick(self) -> float | None:
        """Do what is due; return when the next of it is, None for never."""
        return self.timers.run()

    # What the application asks.

    def start(self) -> Outcome[Identity]:
        """Connect, and stay connected; ends when it is ready for the first time, or has given up."""
        outcome: Outcome[Identity] = Outcome()
        outcome.cancelled = lambda: outcome.fail(Closed())
        if self._final is not None:
            outcome.fail(self._final)
        elif self.is_ready and self.identity is not None:
            outcome.succeed(self.identity)
        else:
            self._starts.append(outcome)
            if self.state is State.IDLE:
                self._connect()
        return outcome

    def close(self) -> Outcome[None]:
        """End it in good order: what is under way ends with ``Closed``."""
        outcome: Outcome[None] = Outcome()
        self._ends.append(outcome)
        if self.state is State.STOPPED:
            self._ends.remove(outcome)
            outcome.succeed(None)
        elif self.is_open:
            self._cancel_timers()
            self._end_all(Closed())
            self.state, self._final = State.CLOSING, Closed()
            self._state_timer = self.timers.after(self.options.close_timeout, self._close_timeout)
            self.driver.close()
        elif self.state is not State.CLOSING:
            self.driver.abort()
            self._stop(None)
        return outcome

    def settled(self) -> Outcome[None]:
        """Return what ends when all registrations are in place."""
        outcome: Outcome[None] = Outcome()
        outcome.cancelled = lambda: outcome.fail(Closed())
        if self._final is not None:
            outcome.fail(self._final)
        else:
            self._settles.append(outcome)
            self._settle()
        return outcome

    def register(self, registration: Registration) -> None:
        """Have *registration* from now on, with every connection.

        Raises:
            Invalid: there is one of its kind and name.
            Closed: the client has ended.
        """
        key = registration.kind, registration.name
        if key in self.registrations:
            raise Invalid(f"there is a {registration.kind} of {registration.name} already")
        if self._final is not None:
            raise self._final
        self.registrations[key] = registration
        registration.on_change = self._registration_changed
        if self.is_ready:
            registration.begin()

    def refresh(self, token: str) -> Outcome[None]:
        """Show another credential of the same principal."""
        outcome: Outcome[None] = Outcome()
        outcome.cancelled = lambda: outcome.fail(Closed())
        if self.is_ready:
            self._auths.append(outcome)
            outcome.listen(lambda _: self.notify(Notice("refreshed")), self._auth_failed)
            self.send(wire.auth(token))
        else:
            outcome.fail(NotConnected())
        return outcome

    def statistics(self) -> Statistics:
        """Return the counts of now."""
        counts, outbox = attrs.asdict(self.counts), self.pending.outbox
        return Statistics(
            state=self.state.value,
            pending=len(self.pending),
            buffered=len(outbox),
            buffered_bytes=outbox.size,
            rate=self.pending.throttle.rate,
            **counts,
        )

    # For the parts of a client: see ``Context``.

    @property
    def is_ready(self) -> bool:
        """Whether there is a connection by which the application can send."""
        return self.state is State.READY

    @property
    def is_open(self) -> bool:
        """Whether there is a connection at all."""
        return self.state in (State.GREETING, State.READY)

    @property
    def end(self) -> ClientError | None:
        """Why nothing can be asked any more."""
        return self._final

    def ask(
        self,
        method: str,
        arguments: list[object],
        read: Callable[[bytes], T],
        *,
        again: bool = False,
        timeout: float | None = None,
        wait: bool | None = None,
        recipient: str = "",
        on_late: Callable[[T], object] | None = None,
    ) -> Operation[T]:
        """Call *method*."""
        return self.pending.ask(
            method, arguments, read, again=again, timeout=timeout, wait=wait, recipient=recipient, on_late=on_late
        )

    def control(self, method: str, arguments: bytes) -> Operation[bytes]:
        """Call *method* for the client itself."""
        return self.pending.control(method, arguments)

    def send(self, data: bytes) -> None:
        """Send *data*, if there is a connection."""
        if self.is_open:
            self.driver.send(data)

    def notify(self, notice: Notice) -> None:
        """Tell the application."""
        self.driver.notify(notice)

    # The connection.

    def _connect(self) -> None:
        self.state = State.CONNECTING
        self._state_timer = self.timers.after(self.options.connect_timeout, lambda: self._drop("not ready in time"))
        self.notify(Notice("connecting"))
        self.driver.connect()

    def _drop(self, reason: str) -> None:
        """Give the present connection, or attempt, up."""
        self.driver.abort()
        self.disconnected(ABNORMAL, reason)

    def _greeted(self, payload: bytes) -> None:
        self.timers.cancel(self._state_timer)
        self.identity = _read_identity(payload)
        self.state, self._ready_at, self._refusals = State.READY, self.clock(), 0
        self.counts.connections += 1
        self._ping_timer = self.timers.after(self.options.ping_interval, self._check_liveness)
        identity = self.identity
        self.notify(Notice("ready", identity.id))
        for registration in list(self.registrations.values()):
            registration.begin()
        self.pending.flush()
        starts, self._starts = self._starts, []
        for outcome in starts:
            outcome.succeed(identity)
        self._settle()

    def _not_greeted(self, error: ClientError) -> None:
        if self.state is not State.GREETING:
            return
        if isinstance(error, Unauthenticated):
            self.driver.abort()
            self._credential_refused(BAD_CREDENTIAL[0], error.message)
        else:
            self._drop(error.message)

    def _check_liveness(self) -> None:
        """Ask whether the broker is there, if it has said nothing for some time."""
        now, interval = self.clock(), self.options.ping_interval
        if now - self._heard_at < interval:
            self._ping_timer = self.timers.at(self._heard_at + interval, self._check_liveness)
            return
        self._asked = True
        self._ping_timer = self.timers.after(self.options.ping_timeout, self._pong_timeout)
        self.send(wire.PING)

    def _pong_timeout(self) -> None:
        if self._asked:
            self._drop("the broker is silent")
        else:
            self._check_liveness()

    def _credential_refused(self, code: int, reason: str) -> None:
        """Come back with another credential, or not at all."""
        self._refusals += 1
        error = Unauthenticated(reason)
        self._lose(code, reason)
        self.notify(Notice("auth-failed", reason, code, error=error))
        if self.driver.renewable and self._refusals < MAX_REFUSALS:
            self._wait(code, reason)
        else:
            self._stop(error)

    def _lose(self, code: int, reason: str) -> None:
        """Notice the end of a connection: end or keep what was under way."""
        was_ready, self.state = self.is_ready, State.WAITING
        self._cancel_timers()
        if was_ready:
            self.counts.losses += 1
            if self.clock() - self._ready_at >= STABLE:
                self._backoff.reset()
        error = ConnectionLost(reason)
        auths, self._auths = self._auths, deque()
        for registration in list(self.registrations.values()):
            registration.lost()
        self.procedures.lost()
        self.requests.lost(error)
        self.pending.lost(error)
        for outcome in auths:
            outcome.fail(error)
        if was_ready:
            self.notify(Notice("lost", reason, code))

    def _wait(self, code: int, reason: str, retry_after: float = 0.0) -> None:
        """Try again later, or give up."""
        if self.state is State.STOPPED:
            return  # the application has closed it when it was told
        self._cancel_timers()
        limit = self.options.max_attempts
        if limit is not None and self._backoff.attempts >= limit:
            self._stop(NotConnected(reason))
            return
        self.state = State.WAITING
        delay = self._backoff.next(retry_after)
        self._state_timer = self.timers.after(delay, self._connect)
        self.notify(Notice("waiting", reason, code, delay))

    def _close_timeout(self) -> None:
        self.driver.abort()
        self._stop(None)

    def _stop(self, error: ClientError | None) -> None:
        """Be finished."""
        if self.state is State.STOPPED:
            return
        self._cancel_timers()
        self.state, self._final = State.STOPPED, error or Closed()
        self._end_all(self._final)
        self.notify(Notice("stopped", "" if error is None else str(error), error=error))
        ends, self._ends = self._ends, []
        for outcome in ends:
            outcome.succeed(None)

    def _end_all(self, error: ClientError) -> None:
        """End everything that is under way."""
        self._final = error
        quiet = type(error) is Closed and not error.message
        self.procedures.lost()
        self.requests.lost(error)
        for registration in list(self.registrations.values()):
            registration.end(None if quiet else error)
        outcomes: list[Outcome[Any]] = [*self._starts, *self._settles, *self._auths]
        self._starts, self._settles, self._auths = [], [], deque()
        self.pending.end(error)
        for outcome in outcomes:
            outcome.fail(error)

    def _cancel_timers(self) -> None:
        for timer in (self._state_timer, self._ping_timer):
            self.timers.cancel(timer)
        self._state_timer = self._ping_timer = None

    # Registrations.

    def _registration_changed(self, registration: Registration) -> None:
        key = registration.kind, registration.name
        if registration.ended and self.registrations.get(key) is registration:
            del self.registrations[key]
        self._settle()

    def _settle(self) -> None:
        """End what waits for the registrations, if all are in place."""
        if self._settles and self.is_ready and all(each.active for each in self.registrations.values()):
            settles, self._settles = self._settles, []
            for outcome in settles:
                outcome.succeed(None)

    # Frames.

    def _dispatch(self, frame: Frame) -> None:
        match frame.type:
            case "result" | "error":
                self.pending.on_answer(frame)
            case "event":
                self._on_event(frame)
            case "message":
                found = self.registrations.get((Consumer.kind, frame.queue))
                if isinstance(found, Consumer):
                    found.on_job(frame)
            case "response":
                self.requests.on_response(str(frame.id), frame.payload)
            case "call":
                self.procedures.on_call(str(frame.id), frame.method, frame.payload, frame.sender)
            case "request":
                self.procedures.on_request(str(frame.id), frame.payload, frame.sender)
            case "auth":
                self._on_auth(frame)
            case "system":
                self._on_system(frame)

    def _on_event(self, frame: Frame) -> None:
        found = self.registrations.get((Subscription.kind, frame.event))
        if frame.event.startswith(KEY_PREFIX):
            watch = self.registrations.get((Watch.kind, frame.event[len(KEY_PREFIX) :]))
            if isinstance(watch, Watch) and (found is None or watch.has(frame)):
                found = watch
        if isinstance(found, Watch | Subscription):
            found.on_event(frame)

    def _on_auth(self, frame: Frame) -> None:
        if not self._auths:
            return
        outcome = self._auths.popleft()
        if frame.stage is None:
            outcome.fail(error_of(str(wire.value_of(frame.payload or b'""'))))
        else:
            outcome.succeed(None)

    def _auth_failed(self, error: ClientError) -> None:
        self.notify(Notice("auth-failed", error.message, error=error))

    def _on_system(self, frame: Frame) -> None:
        payload = wire.value_of(frame.payload) if frame.payload else {}
        match frame.event:
            case "broker.gap":
                topic, why = str(payload.get("topic", "")), str(payload.get("why", "slow"))
                self._on_gap(Gap(topic, why, payload.get("from"), payload.get("to"), payload.get("count")))
            case "broker.cancel":
                self.procedures.on_cancel(str(frame.id))
            case "broker.expiring":
                self.notify(Notice("expiring", delay=payload.get("left", 0) / 1000))
                if self.driver.renewable:
                    self.driver.renew()
            case "broker.error":
                error = error_of(str(payload.get("error", "")))
                self.notify(Notice("error", error.message, error=error))

    def _on_gap(self, gap: Gap) -> None:
        """Tell who waits for what can not be had, or else the application."""
        concerned = [
            each
            for each in self.registrations.values()
            if (isinstance(each, Subscription) and each.covers(gap.topic))
            or (isinstance(each, Watch) and gap.topic == KEY_PREFIX + each.name)
        ]
        for each in concerned:
            if isinstance(each, Subscription | Watch):
                each.on_gap(gap)
        if not concerned:
            self.notify(Notice("gap", gap.why, gap=gap))
