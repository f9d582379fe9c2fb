"""A network between a node and Redis that can fail: a TCP proxy in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from tests.support.redis_server import free_port

PASSING, LOSING, HOLDING = "passing", "losing", "holding"


class Proxy:
    """Forwards connections to *port* of this machine, until it is told to lose or to hold what it forwards.

    Neither end learns of it: connections stay open and take bytes, and the end of one side is not told
    to the other.
    """

    def __init__(self, port: int, rewritten: Mapping[bytes, bytes] | None = None) -> None:
        """*rewritten* has what stands in place of some bytes that the target says, as long as those."""
        self.target = port
        self.rewritten = rewritten or {}
        self.fatal = b""  # bytes for the target with which a connection begins to lose all, those included
        self.port = 0
        self.state = PASSING
        self._pairs: list[_Pair] = []
        self._listening: Any = None

    async def start(self) -> Proxy:
        """Listen on a port of 127.0.0.1, the same one whenever it is started again."""
        self.port = self.port or free_port()
        factory: Any = Factory.forProtocol(lambda: _Pair(self).near)
        self._listening = reactor.listenTCP(self.port, factory, interface="127.0.0.1")
        return self

    async def stop(self) -> None:
        """Close everything."""
        await maybeDeferred(self._listening.stopListening)
        self.reset()

    def swallow(self) -> None:
        """Lose all bytes both ways from now on, as a black hole does.

        The connections of this time, old and new, lose them for ever, as when the other machine has lost
        its power or a router its memory; ``heal`` lets new ones pass.
        """
        self.state = LOSING
        for pair in self._pairs:
            pair.lost = True

    def hold(self) -> None:
        """Keep all bytes both ways; they arrive after ``heal``, as those that TCP has sent again do."""
        self.state = HOLDING
        for pair in self._pairs:
            pair.pause()

    def heal(self) -> None:
        """Forward again: new connections, and those that were held."""
        self.state = PASSING
        for pair in self._pairs:
            pair.resume()

    def reset(self) -> None:
        """Break all connections, in a way that both ends notice."""
        for pair in list(self._pairs):
            pair.abort()

    # What the pairs tell

    def opened(self, pair: _Pair) -> None:
        self._pairs.append(pair)
        pair.lost = self.state == LOSING

    def closed(self, pair: _Pair) -> None:
        if pair in self._pairs:
            self._pairs.remove(pair)


class Network:
    """Several proxies that fail together: all that one machine needs to reach others."""

    def __init__(self, proxies: Sequence[Proxy]) -> None:
        self.proxies = proxies

    async def stop(self) -> None:
        for proxy in self.proxies:
            await proxy.stop()

    def swallow(self) -> None:
        """See ``Proxy.swallow``, as for the others."""
        for proxy in self.proxies:
            proxy.swallow()

    def hold(self) -> None:
        for proxy in self.proxies:
            proxy.hold()

    def heal(self) -> None:
        for proxy in self.proxies:
            proxy.heal()

    def reset(self) -> None:
        for proxy in self.proxies:
            proxy.reset()


class _Pair:
    """A connection that was accepted and the one to the target."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.lost = False
        self.near, self.far = _End(self), _End(self)

    def opened(self) -> None:
        """Connect to the target, for the one that has come."""
        self.proxy.opened(self)
        if self.lost:
            return
        self.near.transport.pauseProducing()
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.proxy.target)
        reached: Deferred[Any] = endpoint.connect(Factory.forProtocol(lambda: self.far))
        reached.addCallbacks(lambda _: self.resume(), lambda _: self.abort())

    def pause(self) -> None:
        for end in self._ends():
            end.transport.pauseProducing()

    def resume(self) -> None:
        for end in self._ends():
            if self.proxy.state != HOLDING and (self.lost or self.far.transport is not None):
                end.transport.resumeProducing()

    def passed(self, end: _End, data: bytes) -> None:
        other = self.far if end is self.near else self.near
        if end is self.far:
            for said, instead in self.proxy.rewritten.items():
                data = data.replace(said, instead)
        elif self.proxy.fatal and self.proxy.fatal in data:
            self.lost = True
        if not self.lost and other.transport is not None:
            other.transport.write(data)

    def ended(self) -> None:
        """Tell the other side, unless that is lost as the bytes are."""
        if not self._ends():
            self.proxy.closed(self)
        elif not self.lost:
            for end in self._ends():
                end.transport.loseConnection()

    def abort(self) -> None:
        self.proxy.closed(self)
        for end in self._ends():
            end.transport.abortConnection()

    def _ends(self) -> list[_End]:
        return [end for end in (self.near, self.far) if end.transport is not None]


class _End(Protocol):
    """One of the two connections of a pair; without a transport before it is there and after its end."""

    transport: Any

    def __init__(self, pair: _Pair) -> None:
        self.pair = pair
        self.transport = None

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        if self is self.pair.near:
            self.pair.opened()

    def dataReceived(self, data: bytes) -> None:
        self.pair.passed(self, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.transport = None
        self.pair.ended()
