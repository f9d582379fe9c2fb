"""The bus of several nodes: Redis carries events, and holds the names that nodes claim."""

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
from broker.messages import Event, decode_text, encode_text
from broker.patterns import LOG_PREFIX
from broker.redis import RedisAddress
from broker.redis.batcher import Batcher, Operation
from broker.redis.connection import Connection
from broker.redis.event_codec import encode_message
from broker.redis.script import Script

log = Logger()

NOT_RUNNING = "The bus is not running."
LEASE = 5.0  # seconds for which the names of a silent node are kept
HEARTBEATS = 5  # how often a lease is renewed in its time


@implementer(ISharedBus)
class RedisBus(Service):
    """Carries events between the nodes that share a Redis.

    Args:
        url: see ``RedisAddress``.
        node: the name of this node.
        prefix: what all keys and channels begin with.
        reactor: connects and tells the time.
        lease: seconds for which the names of a silent node are kept.

    Raises:
        Invalid: *url* is not that of a Redis, or Redis support is not installed.
    """

    shared = True

    def __init__(self, url: str, node: str, *, prefix: str, reactor: Any, lease: float = LEASE) -> None:
        self.node = node
        # Not the node's name alone: what an earlier start of it has left behind is not ours.
        self.address = f"{re.sub(r'[^!-~]', '-', node)}/{secrets.token_hex(4)}"
        self.deliver: Callable[[Event], object] = _ignore
        self.received: Callable[[str, bytes], object] = _ignore
        self.lost: Callable[[str], object] = _ignore
        self.departed: Callable[[str], object] = _ignore
        self._address = RedisAddress.parse(url)
        self._prefix = encode_text(prefix)
        # Channels, unlike keys, are the same in all databases of a server.
        channels = f"{prefix}{self._address.db}/"
        self._base = encode_text(channels)
        self._topics = channels + LOG_PREFIX  # a store publishes to the channel named like the log
        self._reactor, self._lease = reactor, lease
        self._numbers = count(1)
        self._serial = secrets.token_hex(6).encode()
        self._names: dict[str, bool] = {}  # those that this node holds, and whether they are shared
        self._nodes: dict[str, str] = {}  # addresses of the living nodes, and their generations
        self._registered = False  # whether Redis knows of this node and its names
        self._stopped_reason = NOT_RUNNING
        script = Script("broker.buses.redis_scripts", "names")
        self._batcher = Batcher(self._address, script, reactor, preamble=self._preamble, opened=self._opened)
        self._subscriber = self._make_subscriber(f"{channels}node/{self.address}")
        self._heartbeats = LoopingCall(self._heartbeat)
        self._heartbeats.clock = reactor

    def _make_subscriber(self, inbox: str) -> RedisSubscriber:
        subscriber = RedisSubscriber(
            self._reactor,
            self._topics,
            inbox,
            lambda event: self.deliver(event),
            self._on_message,
            lambda origin: origin in self._batcher.publishing,
            self._batcher.on_answer,
        )
        self._subscriber_connection = Connection(
            self._address,
            self._reactor,
            prepare=_nothing,
            opened=self._subscriber_opened,
            closed=subscriber.closed,
            on_message=subscriber.on_message,
        )
        subscriber.use(self._subscriber_connection)
        return subscriber

    @property
    def source(self) -> IEventSource:
        """Where missed events are read."""
        return self._subscriber.source

    @source.setter
    def source(self, source: IEventSource) -> None:
        self._subscriber.source = source

    @property
    def ready(self) -> str:
        """Why events can not be carried now; "" when they can."""
        if self._stopped_reason:
            return self._stopped_reason
        problem = self._batcher.problem or self._subscriber_connection.problem
        return f"Redis at {self._address}: {problem}" if problem else ""

    def startService(self) -> None:
        """Begin to connect.  A Redis that is away now may come later."""
        super().startService()
        self._stopped_reason = ""
        self._batcher.start()
        self._subscriber_connection.start()
        self._heartbeats.start(self._lease / HEARTBEATS, now=False).addErrback(_heartbeats_failed)

    def stopService(self) -> Deferred[Any]:
        """Release all names, and disconnect."""
        super().stopService()
        if self._stopped_reason:
            return succeed(None)
        self._stopped_reason = "The bus is stopping."
        if self._heartbeats.running:
            self._heartbeats.stop()
        self._subscriber.stop()
        for name in list(self._names):
            self.release(name)
        self._do(b"leave").addErrback(_ignore_reported)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._batcher.stop()
        self._stopped_reason = NOT_RUNNING
        await self._subscriber_connection.stop()

    def wiped(self) -> None:
        """See ``ISharedBus.wiped``."""
        self._subscriber.wiped(self.source.kept)

    def last_mark(self, epoch: str) -> int:
        """See ``ISharedBus.last_mark``."""
        return self._subscriber.last_mark(epoch)

    # Events.

    def publish(self, event: Event) -> Deferred[None]:
        """See ``IBus.publish``."""
        stamp = event.epoch.encode() if event.id else b"%b.%d" % (self._serial, next(self._numbers))
        words = (b"publish", encode_text(self._topics + event.topic), encode_message(event, event.id, stamp))
        return self._batcher.submit(Operation(words, _none, len(words[2]), origin=event.origin))

    def listen(self, topic: str, *, prefix: bool = False) -> None:
        """See ``IBus.listen``."""
        self._subscriber.listen(topic, prefix)

    def forget(self, topic: str, *, prefix: bool = False) -> None:
        """See ``IBus.forget``."""
        self._subscriber.forget(topic, prefix)

    def listening(self) -> Deferred[None] | None:
        """See ``IBus.listening``."""
        return self._subscriber.listening()

    # Names.

    def claim(self, name: str, *, shared: bool = False) -> Deferred[None]:
        """See ``IBus.claim``."""
        self._names[name] = shared
        return self._claim(name, shared).addErrback(self._claim_failed, name)

    def _claim(self, name: str, shared: bool) -> Deferred[None]:
        return self._do(b"claim", encode_text(name), b"s" if shared else b"x", decode=partial(_claimed, name))

    def _claim_failed(self, failure: Failure, name: str) -> Failure:
        # Those that are shared are claimed again when Redis is back.
        if failure.check(Taken) or not self._names.get(name, True):
            self._names.pop(name, None)
        return failure

    def seize(self, name: str, holder: str) -> Deferred[None]:
        """See ``ISharedBus.seize``."""
        self._names[name] = False
        seized = self._do(b"seize", encode_text(name), holder.encode(), decode=partial(_claimed, name))
        return seized.addErrback(self._claim_failed, name)

    def release(self, name: str) -> None:
        """See ``IBus.release``."""
        if self._names.pop(name, None) is not None:
            self._do(b"release", encode_text(name)).addErrback(_ignore_reported)

    def holders(self, names: Sequence[str]) -> Deferred[tuple[str, list[str]]]:
        """See ``ISharedBus.holders``."""
        return self._do(b"holders", b"%d" % len(names), *map(encode_text, names), decode=_holders)

    # Nodes.

    def send(self, address: str, message: bytes) -> Deferred[bool]:
        """See ``ISharedBus.send``."""
        return self._do(b"send", address.encode(), message, decode=bool)

    def lives(self, address: str) -> bool:
        """See ``ISharedBus.lives``."""
        return address in self._nodes

    def _on_message(self, message: bytes) -> None:
        kind, _, rest = message.partition(b" ")
        if kind == b"from":
            sender, _, text = rest.partition(b" ")
            self.received(sender.decode(), text)
        elif kind == b"lost":
            name = decode_text(rest)
            if self._names.pop(name, None) is not None:
                self.lost(name)

    # Heartbeats.

    def _opened(self) -> None:
        self._registered = False
        self._renew()

    def _subscriber_opened(self) -> None:
        self._subscriber.opened()
        self._subscriber.heartbeat()
        if self._subscriber.generation > 1:
            self.departed(self.address)  # while it was not connected, messages to it were lost
        self._renew()

    def _heartbeat(self) -> None:
        self._subscriber.heartbeat()
        self._renew()

    def _renew(self) -> None:
        if self._batcher.connection.protocol is not None:
            lease = b"%d" % (self._lease * 1000)
            renewed = self._do(b"renew", b"%d" % self._subscriber.generation, lease)
            renewed.addCallbacks(self._renewed, _ignore_reported)

    def _renewed(self, answer: list[Any]) -> None:
        known, removed, *pairs = answer
        nodes = {id.decode(): generation.decode() for id, generation in zip(pairs[::2], pairs[1::2], strict=True)}
        before, self._nodes = self._nodes, nodes
        for address, generation in before.items():
            if nodes.get(address) != generation and address != self.address:
                self.departed(address)
        if not (known and self._registered):
            self._registered = True
            for name, shared in list(self._names.items()):
                self._claim(name, shared).addErrback(self._reclaim_failed, name)
        if removed:
            Deferred.fromCoroutine(self._tidy()).addErrback(_ignore_reported)

    def _reclaim_failed(self, failure: Failure, name: str) -> None:
        if failure.check(Taken):
            if self._names.pop(name, None) is not None:
                self.lost(name)
        else:
            failure.trap(BrokerError)
            self._registered = False  # again at the next heartbeat

    async def _tidy(self) -> None:
        cursor = b"0"
        while (cursor := await self._do(b"tidy", cursor)) != b"0":
            pass

    def _preamble(self) -> list[bytes]:
        return [self._prefix, self._base, self.address.encode()]

    def _do(self, verb: bytes, *words: bytes, decode: Callable[[Any], Any] = lambda result: result) -> Deferred[Any]:
        size = len(words[-1]) if words else 0
        return self._batcher.submit(Operation((verb, *words), decode, size))


def _ignore(*_: object) -> None:
    """The callback until the service sets one."""


def _none(_: object) -> None:
    return None


async def _nothing(_: object) -> None:
    """Prepare nothing: a connection for subscriptions needs no script."""


def _claimed(name: str, holder: bytes) -> None:
    if holder:
        raise Taken("exists", name)


def _holders(found: list[bytes]) -> tuple[str, list[str]]:
    return (decode_text(found[0]), [id.decode() for id in found[1:]]) if found else ("", [])


def _ignore_reported(failure: Failure) -> None:
    """Drop an error that ``ready`` shows already."""
    failure.trap(BrokerError)


def _heartbeats_failed(failure: Failure) -> None:
    log.failure("the bus has stopped renewing its lease", failure)
