"""The simulated connections to a Redis server.

A connection keeps the order of what it carries; several overtake each other.  What is sent through one that is cut is
held until it heals, as TCP does, unless an end gives the connection up meanwhile: then it is lost, and the other end
learns of it when the cut heals.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from txredisapi import ConnectionError as RedisConnectionError
from txredisapi import TimeoutError as RedisTimeout

from broker.redis import connection as real
from tests.simulation.world import NodeClock, Timer, World

if TYPE_CHECKING:
    from random import Random
    from re import Pattern

    from tests.simulation.server import Server

CONNECT_TIMEOUT = 5.0  # seconds
FIRST_RETRY, MAX_RETRY, RETRY_FACTOR = 0.1, 3.0, 1.8
LATENCY = 0.0003  # seconds one way, at least


class Pipe:
    """One direction of a connection.

    Args:
        world: its time.
        chance: decides how long each message takes.
        link: the connection.
        receive: called with each message.
    """

    def __init__(self, world: World, chance: Random, link: Link, receive: Callable[..., None]) -> None:
        self._world, self._chance, self._link, self._receive = world, chance, link, receive
        self._last = 0.0  # when the last message arrives
        self._messages: deque[tuple[Any, ...] | None] = deque()  # that have not arrived; None: one that is lost
        self._held = 0  # how many of them would have, but for a cut
        self.closed = False

    def send(self, *message: Any) -> None:
        if self.closed:
            return
        chance, link = self._chance.random(), self._link
        delay = LATENCY + 0.002 * chance * chance + (link.lag * self._chance.random() if link.lag else 0.0)
        if chance > 0.995:
            delay += 0.3 * self._chance.random()  # a packet was sent again
        self._last = max(self._last + 1e-6, self._world.now + delay)
        self._messages.append(message)
        self._world.at(self._last, self._arrive)

    def _arrive(self) -> None:
        """Bring the oldest message, whichever this was meant for: what is held comes before what was sent after it."""
        if self._link.cut:
            self._held += 1
            return
        message = self._messages.popleft()
        if message is not None and not self.closed:
            self._receive(*message)

    def heal(self) -> None:
        """Bring what was held."""
        for number in range(self._held):
            self._world.after(LATENCY + number * 1e-6, self._arrive)
        self._last = max(self._last, self._world.now + LATENCY + self._held * 1e-6)
        self._held = 0

    def close(self) -> None:
        """Lose what is on its way, and all that is sent from now on."""
        self.closed = True
        self.lose()

    def lose(self) -> None:
        """Lose what a cut holds, and what else is on its way: nothing comes of which an earlier part is missing."""
        self._messages = deque([None] * (len(self._messages) - self._held))
        self._held = 0


class Link:
    """A connection between a node and the server.

    Attributes:
        cut: whether nothing gets through for now.
        lag: seconds that a message takes longer, at most.
        loss: how likely a message of another node is lost; half as likely it comes twice.
    """

    def __init__(self, world: World, name: str, server: Server, client: SimProtocol) -> None:
        self.world, self.name, self.server, self.client = world, name, server, client
        chance = world.chance("link", name)
        self.cut, self.lag = False, 0.0
        self.loss = 0.0
        self.up = Pipe(world, chance, self, self._to_server)
        self.down = Pipe(world, chance, self, self._to_client)
        self.channels: set[bytes] = set()
        self.patterns: dict[bytes, Pattern[bytes]] = {}
        self.chance = chance
        self._client_gone = self._server_gone = False

    def _to_server(self, kind: str, *words: Any) -> None:
        if self._server_gone:
            return
        if kind == "end":
            self.server.forget(self)
        else:
            self.server.receive(self, words)

    def _to_client(self, kind: str, reply: Any = None) -> None:
        if not self._client_gone:
            self.client.clock.receive(self.client.on_arrival, kind, reply)

    def reply(self, reply: Any) -> None:
        self.down.send("reply", reply)

    def client_aborts(self, *, silently: bool = False) -> None:
        """The node's end is closed; *silently*: nobody tells the server."""
        if self._client_gone:
            return
        self._client_gone = True
        self.down.close()
        if self.cut and self.chance.random() < 0.5:
            self.up.lose()  # what was not acknowledged is never sent again
        if not silently:
            self.up.send("end")

    def server_aborts(self) -> None:
        """The server's end is closed."""
        if self._server_gone:
            return
        self._server_gone = True
        self.up.close()
        if self.chance.random() < 0.5:
            self.down.lose()  # replies that were on their way are lost
        self.down.send("end")

    def set_cut(self, cut: bool) -> None:
        self.cut = cut
        if not cut:
            self.up.heal()
            self.down.heal()


class SimTransport:
    """What the owner of a protocol asks of its transport."""

    def __init__(self, protocol: SimProtocol) -> None:
        self._protocol = protocol

    def abortConnection(self) -> None:
        self._protocol.clock.callLater(0, self._protocol.lost, "aborted")


class SimProtocol:
    """The node's end of a connection, in the place of ``broker.redis.connection.Protocol``."""

    def __init__(self, owner: SimConnection, clock: NodeClock) -> None:
        self.owner, self.clock = owner, clock
        self.link: Link
        self.transport = SimTransport(self)
        self.connected, self.ready = True, False
        self.lost_reason = ""
        self._waiting: list[tuple[Deferred[Any], Timer]] = []

    def execute_command(self, *words: Any, **_: Any) -> Deferred[Any]:
        if not self.connected:
            raise RedisConnectionError("Not connected")
        self._send(words)
        answer: Deferred[Any] = Deferred()
        timer = self.clock.callLater(real.REPLY_TIMEOUT, self._timed_out)
        self._waiting.append((answer, timer))
        return answer

    def send(self, *words: bytes) -> None:
        if self.connected:
            self._send(words)

    def _send(self, words: tuple[Any, ...]) -> None:
        self.link.up.send("command", *[word if type(word) is bytes else str(word).encode() for word in words])

    def _timed_out(self) -> None:
        self._fail(RedisTimeout(f"no answer within {real.REPLY_TIMEOUT:g} s"))
        self.transport.abortConnection()

    def _fail(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, []
        for _, timer in waiting:
            if timer.active():
                timer.cancel()
        for answer, _ in waiting:
            answer.errback(error)

    def on_arrival(self, kind: str, reply: Any) -> None:
        if not self.connected:
            return
        if kind == "end":
            self.lost("Connection was closed")
        elif self.ready and self.owner.on_message is not None:
            self.owner.on_message(reply)
        elif self._waiting:
            answer, timer = self._waiting.pop(0)
            timer.cancel()
            if isinstance(reply, Exception):
                answer.errback(reply)
            else:
                answer.callback(reply)

    def begin(self) -> None:
        Deferred.fromCoroutine(self.owner.authenticate(self)).addCallbacks(self._authenticated, self._refused)

    def _authenticated(self, _: None) -> None:
        if self.connected:
            self.ready = True
            self.owner.opened(self)

    def _refused(self, failure: Failure) -> None:
        self.owner.refused(failure, self.lost_reason)
        self.transport.abortConnection()

    def lost(self, reason: str) -> None:
        if not self.connected:
            return
        self.connected, self.lost_reason = False, reason
        self.link.client_aborts()
        # The owner first, as the real one does.
        self.owner.closed(self, Failure(ConnectionLost(reason)))
        self._fail(RedisConnectionError("Lost connection"))
        self.owner.connection_over(self)


class SimConnection(real.Connection):
    """The real one but for the sockets below it.

    The reactor that it is given is a :class:`NodeClock` whose attribute ``network`` is the node's :class:`Network`.
    """

    _clock: NodeClock
    _stopped: Deferred[Any] | None = None
    _retry: Timer | None = None
    _current: SimProtocol | None = None

    def start(self) -> None:
        self.problem = real.NOT_CONNECTED_YET
        self._clock = self.reactor
        self._factory = self  # type: ignore[assignment]
        self._stopped = None
        self._delay = FIRST_RETRY
        self._connect()

    def _connect(self) -> None:
        self._retry = None
        network: Network = self._clock.network  # type: ignore[attr-defined]
        network.connect(self, self._connected, self._not_connected)

    def _connected(self, protocol: SimProtocol) -> None:
        if self._factory is None:
            protocol.link.client_aborts()
            return
        self._current = protocol
        self._delay = FIRST_RETRY
        protocol.begin()

    def _not_connected(self, reason: str) -> None:
        if self._factory is not None:
            self._note(reason)
            self._again()

    def _again(self) -> None:
        network: Network = self._clock.network  # type: ignore[attr-defined]
        delay = self._delay * (1 + 0.25 * network.chance.random())
        self._delay = min(MAX_RETRY, self._delay * RETRY_FACTOR)
        self._retry = self._clock.callLater(delay, self._connect)

    def connection_over(self, protocol: SimProtocol) -> None:
        """Connect again, or answer ``stop``."""
        if protocol is self._current:
            self._current = None
        if self._factory is not None:
            self._again()
        elif self._stopped is not None and not self._stopped.called:
            self._stopped.callback(None)

    def stop(self) -> Deferred[Any]:
        self._factory = None
        self.problem = "stopped"
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._stopped = Deferred()
        if self._current is None:
            self._stopped.callback(None)
        else:
            self._current.transport.abortConnection()
        return self._stopped


class Network:
    """How one node reaches the server.

    Attributes:
        cut: the kinds of its connections that get nothing through now; see ``Fault``.
        lag: seconds that what it sends and receives takes longer, at most.
        loss: how likely a message of another node is lost.
    """

    def __init__(self, world: World, server: Server, clock: NodeClock, name: str) -> None:
        self.world, self.server, self.clock, self.name = world, server, clock, name
        self.chance = world.chance("network", name)
        self.cut: set[str] = set()
        self.lag = self.loss = 0.0
        self.links: dict[Link, str] = {}
        self._numbers = 0

    def connect(self, owner: SimConnection, done: Callable[[SimProtocol], None], fail: Callable[[str], None]) -> None:
        kind = "subscriber" if owner.on_message is not None else "commands"
        delay = LATENCY + 0.002 * self.chance.random() + self.lag * self.chance.random()
        if kind in self.cut:
            self.world.after(CONNECT_TIMEOUT, self.clock.receive, fail, "it can not be reached")
        else:
            self.world.after(delay, self._arrived, owner, kind, done, fail)

    def _arrived(self, owner: SimConnection, kind: str, done: Any, fail: Any) -> None:
        if self.clock.dead:
            return
        if not self.server.up:
            self.clock.receive(fail, "Connection was refused by other side")
            return
        self._numbers += 1
        protocol = SimProtocol(owner, self.clock)
        link = protocol.link = Link(self.world, f"{self.name}.{self._numbers}", self.server, protocol)
        link.lag, link.cut, link.loss = self.lag, kind in self.cut, self.loss
        self.links[link] = kind
        self.server.accept(link)
        self.clock.receive(done, protocol)

    def set_cut(self, kinds: set[str], cut: bool) -> None:
        """Let nothing through of what connections of *kinds* carry, or let it through again."""
        self.cut = self.cut | kinds if cut else self.cut - kinds
        for link, kind in self.links.items():
            if kind in kinds:
                link.set_cut(cut)

    def set_lag(self, lag: float) -> None:
        self.lag = lag
        for link in self.links:
            link.lag = lag

    def set_loss(self, loss: float) -> None:
        self.loss = loss
        for link in self.links:
            link.loss = loss

    def reset(self, kinds: set[str]) -> None:
        """Break connections."""
        for link, kind in self.links.items():
            if kind in kinds and link in self.server.links:
                self.server.forget(link)
                link.server_aborts()

    def end(self, *, silently: bool) -> None:
        """The process has ended; *silently*: by a power cut, so that the server does not learn of it."""
        for link in self.links:
            link.client_aborts(silently=silently)
