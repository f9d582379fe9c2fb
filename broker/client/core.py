"""One client without its input and output.

A driver tells it what happens (``connected``, ``received``, ``disconnected``, ``refused``, ``untrusted``, ``tick``),
and it tells the driver what to do.  Neither waits for the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import attrs

from broker.client import wire
from broker.client.authentication import Authentication
from broker.client.connection import Connection
from broker.client.consumers import Consumer
from broker.client.context import Counts
from broker.client.dispatcher import Dispatcher
from broker.client.errors import ClientError
from broker.client.notices import Notice, Statistics
from broker.client.options import Options
from broker.client.outcomes import Operation, Outcome
from broker.client.pending import Pending
from broker.client.procedures import Procedures
from broker.client.readers import Reader
from broker.client.registrations import Registration
from broker.client.registry import Registry
from broker.client.requests import Requests
from broker.client.states import Driver, State
from broker.client.subscriptions import Subscription
from broker.client.timers import Timers
from broker.client.values import Identity
from broker.client.watchers import Watcher
from broker.client.watches import Watch

T = TypeVar("T")

_read_identity = wire.reader(Identity)


@attrs.define(eq=False)
class Core:
    """One client: its connection, and the parts that share it.

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
    counts: Counts = attrs.field(factory=Counts, init=False)
    timers: Timers = attrs.field(init=False)
    connection: Connection = attrs.field(init=False)
    registry: Registry = attrs.field(init=False)
    pending: Pending = attrs.field(init=False)
    requests: Requests = attrs.field(init=False)
    procedures: Procedures = attrs.field(init=False)
    authentication: Authentication = attrs.field(init=False)
    _dispatcher: Dispatcher = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.timers = Timers(self.clock, self.driver.wake)
        self.connection = Connection(self, self.driver)
        self.registry = Registry(self)
        self.pending = Pending(self)
        self.requests = Requests(self, self.pending.new_id)
        self.procedures = Procedures(self, self.registry.get, self.driver.invoke)
        self.authentication = Authentication(self)
        parts = self.registry, self.pending, self.requests, self.procedures, self.authentication
        self._dispatcher = Dispatcher(self, self.driver, *parts)

    # What the driver tells.

    def connected(self) -> None:
        """There is a connection."""
        self.connection.connected()

    def received(self, data: bytes) -> None:
        """A text frame has come."""
        self.connection.heard()
        frame = wire.read(data)
        if frame is not None and self.is_open:
            self._dispatcher.dispatch(frame)

    def disconnected(self, code: int, reason: str) -> None:
        """The connection has ended, or could not be made."""
        self.connection.disconnected(code, reason)

    def refused(self, status: int, reason: str, retry_after: float = 0.0) -> None:
        """The handshake was answered with the HTTP *status* in the place of 101."""
        self.connection.refused(status, reason, retry_after)

    def untrusted(self, reason: str) -> None:
        """The certificate of the broker is not trusted."""
        self.connection.untrusted(reason)

    def tick(self) -> float | None:
        """Do what is due; return when the next of it is, None for never."""
        return self.timers.run()

    # What the application asks.

    def start(self) -> Outcome[Identity]:
        """Connect, and stay connected; ends when it is ready for the first time, or has given up."""
        return self.connection.start()

    def close(self) -> Outcome[None]:
        """End it in good order: what is under way ends with ``Closed``."""
        return self.connection.close()

    def settled(self) -> Outcome[None]:
        """Return what ends when all registrations are in place."""
        return self.registry.settled()

    def register(self, registration: Registration) -> None:
        """See ``Registry.add``."""
        self.registry.add(registration)

    def subscribe(self, reader: Reader, *, exact: bool = False, echo: bool = False) -> None:
        """Let *reader* read its topic, by the subscription that there is, or by a new one.

        Raises:
            Invalid: there is one on other terms.
            Closed: the client has ended.
        """
        found = self.registry.get(Subscription.kind, reader.name)
        if isinstance(found, Subscription):
            found.join(reader, exact=exact, echo=echo)
        else:
            made = Subscription(self, reader.name)
            made.join(reader, exact=exact, echo=echo)
            self.registry.add(made)

    def watch(self, watcher: Watcher, *, exact: bool = False) -> None:
        """Let *watcher* watch its keys, by the watch that there is, or by a new one.

        Raises:
            Invalid: there is one on other terms.
            Closed: the client has ended.
        """
        found = self.registry.get(Watch.kind, watcher.name)
        if isinstance(found, Watch):
            found.join(watcher, exact=exact)
        else:
            made = Watch(self, watcher.name)
            made.join(watcher, exact=exact)
            self.registry.add(made)

    def refresh(self, token: str) -> Outcome[None]:
        """Show another credential of the same principal."""
        return self.authentication.show(token)

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

    @property
    def state(self) -> State:
        """Of the connection."""
        return self.connection.state

    @property
    def identity(self) -> Identity | None:
        """Who the client is to the broker, once that was said."""
        return self.connection.identity

    # For the parts of a client: see ``Context``.

    @property
    def is_ready(self) -> bool:
        """Whether there is a connection by which the application can send."""
        return self.connection.is_ready

    @property
    def is_open(self) -> bool:
        """Whether there is a connection at all."""
        return self.connection.is_open

    @property
    def end(self) -> ClientError | None:
        """Why nothing can be asked any more."""
        return self.connection.end

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

    # What becomes of the connection: see ``Owner``.

    def on_open(self) -> None:
        """Ask who the client is."""
        mailbox = self.registry.get(Consumer.kind, "@me")
        if mailbox is not None:
            mailbox.begin()  # as the first frame it holds for what waits already
        self.control("broker.whoami", b"[]").listen(self._greeted, self.connection.not_greeted)

    def on_ready(self, identity: Identity) -> None:
        """Register everything, and send what waits."""
        self.counts.connections += 1
        self.notify(Notice("ready", identity.id))
        self.registry.begin()
        self.pending.flush()
        self.registry.settle()

    def on_too_big(self, reason: str) -> None:
        """End what was too big for the broker."""
        self.pending.give_up_largest(reason)

    def on_lost(self, error: ClientError) -> None:
        """End or keep what was under way."""
        self.registry.lost()
        self.procedures.lost()
        self.requests.lost(error)
        self.pending.lost(error)
        self.authentication.lost(error)

    def on_end(self, error: ClientError) -> None:
        """End everything that is under way."""
        self.procedures.lost()
        self.requests.lost(error)
        self.registry.end(error)
        self.pending.end(error)
        self.authentication.lost(error)

    def _greeted(self, payload: bytes) -> None:
        try:
            identity = _read_identity(payload)
        except wire.UNREADABLE as problem:
            self.connection.not_greeted(ClientError(f"an answer can not be read: {problem}"))
        else:
            self.connection.greeted(identity)
