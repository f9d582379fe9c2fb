"""The bus of several nodes: Redis carries events and names."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.buses.redis_subscriber import RedisSubscriber
from broker.errors import BrokerError, Taken
from broker.interfaces import IEventSource, ISharedBus
from broker.messages import Event
from broker.patterns import LOG_PREFIX
from broker.redis import RedisAddress
from broker.redis.batches import Batches, Operation
from broker.redis.connection import Connection
from broker.redis.events import message, pack, unpack
from broker.redis.script import Script

log = Logger()

LEASE = 5.0  # seconds for which the names of a silent node are kept
BEATS = 5  # signs of life in that time


@implementer(ISharedBus)
class RedisBus(Service):
    """Carries events between the nodes that share a Redis.

    Args:
        url: see ``RedisAddress``.
        node: the name of this node.
        prefix: what all keys and channels begin with.
        reactor: connects and tells the time.
        topics: what comes before a topic in the name of its log, as the store announces it.
        lease: seconds for which the names of a silent node are kept.
    """

    shared = True

    def __init__(
        self, url: str, node: str, *, prefix: str, reactor: Any, topics: str = LOG_PREFIX, lease: float = LEASE
    ) -> None:
        self.node = node
        # Not the node's name alone: what another start of it has left behind is not ours.
        self.address = f"{re.sub(r'[^!-~]', '-', node)}/{secrets.token_hex(4)}"
        self.deliver: Callable[[Event], object] = _nobody
        self.received: Callable[[str, bytes], object] = _nobody
        self.lost: Callable[[str], object] = _nobody
        self.departed: Callable[[str], object] = _nobody
        self._address = RedisAddress.parse(url)
        self._prefix = pack(prefix)
        # Channels, unlike keys, are the same in all databases of a server.
        channels = f"{prefix}{self._address.db}/"
        self._base = pack(channels)
        self._topics = channels + topics
        self._reactor, self._lease = reactor, lease
        self._numbers = count(1)
        self._serial = secrets.token_hex(6).encode()
        self._names: dict[str, bool] = {}  # those that are held here, and whether they are shared
        self._nodes: dict[str, str] = {}  # addresses of those that live, and their generations
        self._known = False  # whether Redis knows of this node and its names
        self._away = "The bus is not running."
        self._script = Script("broker.buses.redis_scripts", "names")
        self._connection = Connection(
            self._address, reactor, prepare=self._script.load, opened=self._opened, closed=self._closed
        )
        self._batches = Batches(self._connection, self._script, reactor, preamble=self._preamble)
        self._feed = RedisSubscriber(
            reactor,
            self._topics,
            f"{channels}node/{self.address}",
            lambda event: self.deliver(event),
            self._notified,
            lambda origin: origin in self._batches.publishing,
        )
        self._batches.answered = self._feed.resume
        self._hearing = Connection(
            self._address,
            reactor,
            prepare=_ready,
            opened=self._listening,
            closed=self._feed.closed,
            heard=self._feed.heard,
        )
        self._feed.use(self._hearing)
        self._beats = LoopingCall(self._beat)
        self._beats.clock = reactor

    @property
    def source(self) -> IEventSource:
        """Where missed events are read."""
        return self._feed.source

    @source.setter
    def source(self, source: IEventSource) -> None:
        self._feed.source = source

    @property
    def ready(self) -> str:
        """Why events can not be carried now; "" when they can."""
        if self._away:
            return self._away
        trouble = self._batches.trouble or self._hearing.trouble
        return f"Redis at {self._address}: {trouble}" if trouble else ""

    def startService(self) -> None:
        """Begin to connect.  A Redis that is away now may come later."""
        super().startService()
        self._away = ""
        self._batches.start()
        self._connection.start()
        self._hearing.start()
        self._beats.start(self._lease / BEATS, now=False).addErrback(_beat_failed)

    def stopService(self) -> Deferred[Any]:
        """Give up all names, and disconnect."""
        super().stopService()
        if self._away:
            return succeed(None)
        self._away = "The bus is stopping."
        if self._beats.running:
            self._beats.stop()
        self._feed.stop()
        for name in list(self._names):
            self.release(name)
        self._do(b"leave").addErrback(_known_already)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._batches.stop()
        self._away = "The bus is not running."
        await self._connection.stop()
        await self._hearing.stop()

    def wiped(self) -> None:
        """Begin anew: the source has lost everything."""
        self._feed.wiped()

    # Events.

    def publish(self, event: Event) -> Deferred[None]:
        """Give *event* to every node that listens."""
        stamp = event.epoch.encode() if event.id else b"%b.%d" % (self._serial, next(self._numbers))
        words = (b"publish", pack(self._topics + event.topic), message(event, event.id, stamp))
        return self._batches.submit(Operation(words, _none, len(words[2]), origin=event.origin))

    def listen(self, topic: str, *, prefix: bool = False) -> None:
        """Begin to receive events of *topic*."""
        self._feed.listen(topic, prefix)

    def forget(self, topic: str, *, prefix: bool = False) -> None:
        """Undo one ``listen``."""
        self._feed.forget(topic, prefix)

    def listening(self) -> Deferred[None] | None:
        """Fire when all that was listened to so far is heard from every node."""
        return self._feed.listening()

    # Names.

    def claim(self, name: str, *, shared: bool = False) -> Deferred[None]:
        """Hold *name* for this node until ``release``."""
        self._names[name] = shared
        return self._claim(name, shared).addErrback(self._unclaimed, name)

    def _claim(self, name: str, shared: bool) -> Deferred[None]:
        return self._do(b"claim", pack(name), b"s" if shared else b"x", decode=partial(_claimed, name))

    def _unclaimed(self, failure: Failure, name: str) -> Failure:
        # Those that are shared are claimed again when Redis is back.
        if failure.check(Taken) or not self._names.get(name, True):
            self._names.pop(name, None)
        return failure

    def seize(self, name: str) -> Deferred[None]:
        """Hold *name*, whoever held it before."""
        self._names[name] = False
        return self._do(b"seize", pack(name)).addErrback(self._unclaimed, name)

    def release(self, name: str) -> None:
        """Give *name* back."""
        if self._names.pop(name, None) is not None:
            self._do(b"release", pack(name)).addErrback(_known_already)

    def holders(self, names: Sequence[str]) -> Deferred[tuple[str, list[str]]]:
        """Return the first of *names* that is held, and by whom."""
        return self._do(b"holders", b"%d" % len(names), *map(pack, names), decode=_holders)

    # Nodes.

    def send(self, address: str, message: bytes) -> Deferred[bool]:
        """Send *message* to one node, at most once."""
        return self._do(b"send", address.encode(), message, decode=bool)

    def lives(self, address: str) -> bool:
        """Whether that node has renewed its lease, as far as this one knows."""
        return address in self._nodes

    def _notified(self, message: bytes) -> None:
        kind, _, rest = message.partition(b" ")
        if kind == b"from":
            sender, _, text = rest.partition(b" ")
            self.received(sender.decode(), text)
        elif kind == b"lost":
            name = unpack(rest)
            if self._names.pop(name, None) is not None:
                self.lost(name)

    # Signs of life.

    def _opened(self) -> None:
        self._known = False
        self._batches.opened()
        self._renew()

    def _closed(self) -> None:
        self._batches.closed()

    def _listening(self) -> None:
        self._feed.opened()
        self._feed.beat()
        if self._feed.generation > 1:
            self.departed(self.address)  # we have, for a while
        self._renew()

    def _beat(self) -> None:
        self._feed.beat()
        self._renew()

    def _renew(self) -> None:
        if self._connection.protocol is not None:
            lease = b"%d" % (self._lease * 1000)
            renewed = self._do(b"renew", b"%d" % self._feed.generation, lease)
            renewed.addCallbacks(self._renewed, _known_already)

    def _renewed(self, answer: list[Any]) -> None:
        known, gone, *pairs = answer
        nodes = {id.decode(): generation.decode() for id, generation in zip(pairs[::2], pairs[1::2], strict=True)}
        before, self._nodes = self._nodes, nodes
        for address, generation in before.items():
            if nodes.get(address) != generation and address != self.address:
                self.departed(address)
        if not (known and self._known):
            self._known = True
            for name, shared in list(self._names.items()):
                self._claim(name, shared).addErrback(self._lost_meanwhile, name)
        if gone:
            Deferred.fromCoroutine(self._tidy()).addErrback(_known_already)

    def _lost_meanwhile(self, failure: Failure, name: str) -> None:
        if failure.check(Taken):
            if self._names.pop(name, None) is not None:
                self.lost(name)
        else:
            failure.trap(BrokerError)
            self._known = False  # again at the next beat

    async def _tidy(self) -> None:
        cursor = b"0"
        while (cursor := await self._do(b"tidy", cursor)) != b"0":
            pass

    def _preamble(self) -> list[bytes]:
        return [self._prefix, self._base, self.address.encode()]

    def _do(self, verb: bytes, *words: bytes, decode: Callable[[Any], Any] = lambda result: result) -> Deferred[Any]:
        size = len(words[-1]) if words else 0
        return self._batches.submit(Operation((verb, *words), decode, size))


def _nobody(*_: object) -> None:
    """Hear nothing, before the service has said who does."""


def _none(_: object) -> None:
    return None


async def _ready(_: object) -> None:
    """Need nothing to be able to listen."""


def _claimed(name: str, holder: bytes) -> None:
    if holder:
        raise Taken("exists", name)


def _holders(found: list[bytes]) -> tuple[str, list[str]]:
    return (unpack(found[0]), [id.decode() for id in found[1:]]) if found else ("", [])


def _known_already(failure: Failure) -> None:
    """Let pass what ``ready`` tells."""
    failure.trap(BrokerError)


def _beat_failed(failure: Failure) -> None:
    log.failure("the bus has stopped to renew its lease", failure)
