"""TCP ports that accept as fast as connections come, and begin them as there is time.

A connection costs much more to begin than to accept.  Twisted does both at once, for all that have come:
thousands of clients that come together keep every other connection, and whoever asks for the health of
the daemon, waiting for seconds.  :class:`FramePort` begins connections for a few milliseconds of an
iteration; whoever has come besides waits, the addresses taking turns, but those that have sent something
before those that are silent.  Probes of health have a time of their own, before all others.
"""

from __future__ import annotations

import select
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

from twisted.internet import tcp
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.log import callWithLogger

from broker.access.limits import network_of
from broker.core.slices import slices_of
from broker.web.net.probes import is_probe, peek
from broker.web.net.transport import FrameTransport, Outbox

log = Logger()

SLICE = 0.002  # seconds of one iteration in which connections begin
SHORT_SLICE = 0.001  # the same for silent ones, while more come than can be accepted; and in which some are closed
ACCEPTING = 0.01  # seconds of one iteration in which they are accepted
LAST = 0.2  # seconds in which those begin that wait when the port closes
# Connections of a kind that wait to begin.  After a restart thousands of clients are back at once, some of which try
# three times only: that they wait a second costs less than that they are dropped and come again.
MAX_WAITING = 4096

Arrival = tuple[socket.socket, Any]  # with its address


class FairQueue:
    """Connections of one kind that wait: one of each network in turn, and of one network in the order of coming."""

    def __init__(self) -> None:
        self._of: dict[str, dict[int, Arrival]] = {}  # by network, then by file descriptor
        self._networks: dict[int, str] = {}  # by file descriptor

    def __len__(self) -> int:
        return len(self._networks)

    def add(self, arrival: Arrival) -> Arrival | None:
        """Let *arrival* wait; return who can not any more, perhaps itself: too many do."""
        network, dropped = network_of(arrival[1][0]), None
        if len(self) >= MAX_WAITING:
            larger = self._larger_than(len(self._of.get(network, ())))
            if larger is None:
                return arrival
            dropped = self.remove(next(reversed(larger)))
        descriptor = arrival[0].fileno()
        self._networks[descriptor] = network
        self._of.setdefault(network, {})[descriptor] = arrival
        return dropped

    def popleft(self) -> Arrival:
        """Remove and return who is next."""
        network = next(iter(self._of))
        self._of[network] = own = self._of.pop(network)  # the others go before it now
        return self.remove(next(iter(own)))

    def remove(self, descriptor: int) -> Arrival:
        """Remove and return who has *descriptor*."""
        network = self._networks.pop(descriptor)
        arrival = self._of[network].pop(descriptor)
        if not self._of[network]:
            del self._of[network]
        return arrival

    def _larger_than(self, size: int) -> dict[int, Arrival] | None:
        """Return those of a network that is larger than one of *size* and one more, and than the average."""
        networks = self._of.values()
        bound = max(size + 1, len(self) / (len(networks) + (not size)))
        return next((own for own in networks if len(own) > bound), None)


class Queue:
    """Connections that are accepted and have not begun.

    Attributes:
        probes: those that ask for the health of the daemon.
        said: those that have sent something else.
        ended: those that are to be closed.
        dropped: how many were, since too many waited.
    """

    def __init__(self) -> None:
        self.probes = FairQueue()
        self.ended: deque[socket.socket] = deque()
        self.dropped = 0
        self.said = FairQueue()
        self._silent = FairQueue()
        self._poll = select.poll()  # of the silent

    def __len__(self) -> int:
        return len(self.probes) + len(self.said) + len(self._silent) + len(self.ended)

    def __iter__(self) -> Iterator[Arrival]:
        """Return those that wait, but for probes, in the order in which they may begin; each is removed."""
        while self.said:
            yield self.said.popleft()
        while self._silent:
            arrival = self._silent.popleft()
            self._poll.unregister(arrival[0])
            yield arrival

    def add(self, arrival: Arrival) -> None:
        """Let *arrival* wait in its place; if too many of its kind do, drop it, or one of whose network more wait."""
        begin = peek(arrival[0])
        if begin is None:
            self._poll.register(arrival[0], select.POLLIN)
            dropped = self._silent.add(arrival)
            if dropped is not None:
                self._poll.unregister(dropped[0])
        elif begin:
            dropped = (self.probes if is_probe(begin) else self.said).add(arrival)
        else:
            self._end(arrival)
            return
        if dropped is not None:
            self.dropped += 1
            self._end(dropped)

    def look(self) -> None:
        """Let those that were silent, and are not any more, have the place that is theirs now."""
        if self._silent:
            for descriptor, _ in self._poll.poll(0):
                self._poll.unregister(descriptor)
                self.add(self._silent.remove(descriptor))

    def close(self) -> None:
        """Close all that wait."""
        while self.probes:
            self.probes.popleft()[0].close()
        for connection, _ in self:
            connection.close()
        while self.ended:
            self.ended.popleft().close()

    def _end(self, arrival: Arrival) -> None:
        self.ended.append(arrival[0])
        if len(self.ended) > MAX_WAITING:
            self.ended.popleft().close()


class FramePort(tcp.Port):
    """A TCP port whose connections are :class:`FrameTransport`.

    Attributes:
        outbox: of the daemon.
        now: gives the time, which runs while work is done.
        max_accepts: how many connections are accepted in one iteration.
    """

    max_accepts = sys.maxsize
    transport = FrameTransport
    outbox: Outbox
    now: Callable[[], float]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.now = perf_counter
        self._clock: Any = self.reactor
        self._slices = slices_of(self.reactor)
        self._waiting = Queue()
        self._call: IDelayedCall | None = None  # while some wait
        self._crowded = False  # whether there was no time to accept all that had come

    @property
    def waiting(self) -> int:
        """How many connections are accepted and have not begun."""
        return len(self._waiting)

    def doRead(self) -> None:
        """Accept whoever has come, and begin as many connections as there is time for."""
        queued, now = self._call is not None, self.now()
        end, last = now + SLICE, now + ACCEPTING
        self._crowded = False
        for _ in range(self.max_accepts):
            if now >= last:
                self._crowded = True
                break
            try:
                arrival = self.socket.accept()
            except BlockingIOError:
                break
            except OSError:
                super().doRead()  # it will meet that again, and knows what to do
                break
            if now < end and not queued:
                self._begin(*arrival)
            else:
                self._waiting.add(arrival)
                queued = True
            now = self.now()
        if queued:
            self._begin_probes(now + SLICE)
            self._schedule()

    def connectionLost(self, reason: Any) -> None:
        """Begin those that have come: to their clients they are connected, and what they ask would be lost."""
        self.doRead()
        if self._call is not None:
            self._call.cancel()
            self._call = None
        waiting, end = self._waiting, self.now() + LAST
        self._begin_probes(end)
        for arrival in waiting:
            self._begin(*arrival)
            if self.now() >= end:
                break
        waiting.close()
        super().connectionLost(reason)

    def _schedule(self) -> None:
        if self._call is None and self._waiting:
            self._call = self._clock.callLater(0, self._go_on)

    def _begin_probes(self, end: float) -> None:
        """Begin the probes that wait, until *end*, and send their answers at once."""
        probes = self._waiting.probes
        while probes and self.now() < end:
            begun = self._begin(*probes.popleft())
            if begun is not None:
                begun.flush_frames()

    def _go_on(self) -> None:
        """Begin as many of those that wait as there is time for."""
        self._call = None
        waiting, slices, now = self._waiting, self._slices, self.now
        waiting.look()
        end, ended = now() + SHORT_SLICE, waiting.ended
        while ended and now() < end:
            ended.popleft().close()
        slices.begin()  # for what they have sent already
        self._begin_probes(now() + SLICE)
        # However many probes there are.
        end = now() + (SHORT_SLICE if self._crowded and not waiting.said else SLICE)
        for arrival in waiting:
            self._begin(*arrival)
            if now() >= end:
                break
        slices.finish()
        if waiting.dropped and not waiting:
            log.warn(
                "{count} connections were dropped: more came than can begin, and {limit} of a kind waited",
                count=waiting.dropped,
                limit=MAX_WAITING,
            )
            waiting.dropped = 0
        self._schedule()

    def _begin(self, connection: socket.socket, address: Any) -> FrameTransport | None:
        """Let the protocol of *connection* begin, with what was sent already; return its transport, or None."""
        transport: FrameTransport | None = None
        try:
            if len(address) == 4:  # of IPv6: with the scope, as Twisted does
                host, _ = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
                address = (host, *address[1:])
            factory: Any = self.factory
            protocol = factory.buildProtocol(self._buildAddr(address))
            if protocol is None:
                connection.close()
                return None
            number = self.sessionno
            self.sessionno = number + 1
            transport = self.transport(connection, protocol, address, self, number, self.reactor)
            protocol.makeConnection(transport)
            transport.doRead()  # what it returns for one that has ended, it returns to the reactor again
        except Exception:
            log.failure("a connection can not begin")
            if transport is None:
                connection.close()
            else:  # the reactor has to forget its descriptor, which the next one gets
                callWithLogger(transport, transport.connectionLost, Failure())
            return None
        return transport
