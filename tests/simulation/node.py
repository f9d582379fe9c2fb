"""One node: the whole core with its store and bus on the simulated Redis."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from math import inf
from typing import Any

import attrs
from twisted.internet.defer import maybeDeferred
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

from broker.buses import open_bus, redis_subscriber
from broker.buses import redis as redis_bus
from broker.config.settings import Settings
from broker.core import service
from broker.core.service import Broker
from broker.peer import client as peer_client
from broker.redis import batcher
from broker.redis.operations import Operation
from broker.stores import open_store
from tests.simulation.network import Network, SimConnection
from tests.simulation.server import Server
from tests.simulation.world import NodeClock, World

FENCED_VERBS = {b"send", b"claim", b"reclaim", b"release", b"holders", b"lives", b"own"}
LEASE = 5.0  # seconds
TOLD = 2.0  # seconds from the end of a lease until all calls to its node have ended
PROBE = 1.0  # seconds in which the holder of a name must respond
UNSUBSCRIBE_DELAY = 2.0  # seconds for which an unused topic stays subscribed
EXPIRY = 5.0  # seconds between two looks for expired keys: a second's are most of a run's work


class Node:
    """A process of the broker, which may end and be started again as another.

    Attributes:
        name: the same at each start.
        thawed: when it was frozen last and has gone on.
        lapsed: when its lease has ended last.
        died: when it has ended without notice; 0.0: it has not.
        absences: from when to when it was frozen for longer than its lease, or that it has ended without notice.
    """

    def __init__(self, world: World, server: Server, name: str, start: int = 1) -> None:
        self.world, self.server, self.name, self.starts = world, server, name, start
        self.clock = NodeClock(world)
        self.network = Network(world, server, self.clock, f"{name}/{start}")
        self.clock.network = self.network  # type: ignore[attr-defined]
        self.thawed = self.died = self.lapsed = 0.0
        self.alive = True
        self.froze = 0.0
        self.absences: list[tuple[float, float]] = []
        clock: Any = self.clock
        settings = Settings(
            takeover_probe_seconds=PROBE, durable_topics=("durable.>",), max_mailbox=100_000, request_idle_seconds=20.0
        )
        self.store: Any = open_store("redis://simulated", clock=clock, reactor=clock, prefix="sim:", announce=True)
        self.bus: Any = open_bus("redis://simulated", name, reactor=clock, prefix="sim:", lease=LEASE)
        self.broker = Broker(settings, self.store, self.bus, clock)
        self._watch_lease()
        self.broker.startService()

    def _watch_lease(self) -> None:
        """See that its lease ends when it is over by the node's clock, and not sooner, unless data was lost."""
        lease, lapsed = self.bus._lease, self.bus._lease._lapsed

        def on_lapse() -> None:
            self.lapsed = self.world.now
            left = lease._end - lease.now()
            if left > 0 and not self.server.has_lost:
                self.world.violate("a lease was lost", f"{self.name}: {left:.3f} s before its end")
            lapsed()

        lease._lapsed = on_lapse
        submit = self.bus._batcher.submit

        def checked(operation: Operation) -> Any:
            verb, number, *_ = (*operation.words, b"")
            if verb in FENCED_VERBS:
                operation.decode = partial(self._check_fenced, operation.decode, verb, number)
            return submit(operation)

        self.bus._batcher.submit = checked

    def _check_fenced(self, decode: Callable[[Any], Any], verb: bytes, number: bytes, result: Any) -> Any:
        """See that nothing is refused that is done under the lease which the node has."""
        if result == redis_bus.FENCED and int(number) == self.bus.lease and not self.server.has_lost:
            self.world.violate("refused under a lease", f"{self.name}: {verb.decode()} under {number.decode()}")
        return decode(result)

    @property
    def ready(self) -> bool:
        """Whether it is alive, not frozen and does its work, with a lease."""
        return self.alive and not self.clock.frozen and not self.broker.ready() and self.leased

    @property
    def leased(self) -> bool:
        """Whether its lease lasts, as far as it knows."""
        lease = getattr(self.bus, "lease", None)
        return bool(lease) if lease is not None else bool(self.bus.lives(self.bus.address))

    def freeze(self) -> None:
        self.clock.frozen = True
        self.froze = self.world.now

    def thaw(self, net_first: bool) -> None:
        self.thawed = self.world.now
        if self.thawed > self.froze + LEASE + TOLD:
            self.absences.append((self.froze, self.thawed))
        self.clock.thaw(net_first)

    def crash(self, *, silently: bool) -> None:
        """End without notice; *silently*: by a power cut, of which nobody is told."""
        self.alive, self.died = False, self.world.now
        self.absences.append((self.died, inf))
        self.clock.die()
        self.network.end(silently=silently)

    def stop(self) -> Any:
        """Stop as by SIGTERM; fire when that is done."""
        return maybeDeferred(self.broker.stopService).addCallback(self._stopped)

    def _stopped(self, _: object) -> None:
        self.alive = False


class Bytes:
    """Random bytes of a seed, for all that asks the system for some."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def __call__(self, size: int) -> bytes:
        return self._chance.randbytes(size)


@implementer(ILogObserver)
@attrs.define
class Noticed:
    """What a run has logged that must not be."""

    world: World

    def __call__(self, event: LogEvent) -> None:
        failure = event.get("log_failure") or event.get("failure")
        failed = failure is not None or event["log_level"] is LogLevel.critical
        if self.world.keep_trace:
            self.world.log(f"    log: {formatEvent(event)}")
        if failed:
            reason = "" if failure is None else f": {failure.type.__name__}: {failure.getErrorMessage()}"
            if failure is not None and self.world.keep_trace:
                self.world.log(failure.getTraceback())
            self.world.violate("logged failure", f"{formatEvent(event)}{reason}")


@contextmanager
def simulated(world: World) -> Iterator[None]:
    """Let all that runs within take its connections, its chance and its numbers from *world*."""
    noticed = Noticed(world)
    state = random.getstate()
    chance = world.chance("system")
    places: list[tuple[Any, str, Any]] = [
        (os, "urandom", Bytes(chance)),
        (random, "_urandom", Bytes(chance)),
        (uuid, "uuid4", lambda: uuid.UUID(bytes=chance.randbytes(16), version=4)),
        (batcher, "Connection", SimConnection),
        (redis_bus, "Connection", SimConnection),
        (service, "EXPIRY", EXPIRY),
        (redis_subscriber, "UNSUBSCRIBE_DELAY", UNSUBSCRIBE_DELAY),
        (peer_client._series, "ids", map("00000000-0000-8000-8000-%012x".__mod__, count(1))),
    ]
    before = [(place, name, getattr(place, name)) for place, name, _ in places]
    random.seed(world.seed)
    globalLogPublisher.addObserver(noticed)
    try:
        for place, name, value in places:
            setattr(place, name, value)
        yield
    finally:
        globalLogPublisher.removeObserver(noticed)
        for place, name, value in before:
            setattr(place, name, value)
        random.setstate(state)
