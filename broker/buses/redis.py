"""The bus of several nodes: Redis carries events, and holds the names that nodes claim."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.buses.redis_keys import bus_needs
from broker.buses.redis_lease import Lease, name_of
from broker.buses.redis_subscriber import RedisSubscriber
from broker.core.slices import slices_of
from broker.errors import BrokerError, NotDone, Taken
from broker.interfaces import IEventSource, ISharedBus
from broker.messages import Event, decode_text, encode_text
from broker.patterns import LOG_PREFIX
from broker.redis import RedisAddress
from broker.redis.batcher import RECONNECT_ERRORS, RECONNECT_TIMEOUT, Batcher, Operation
from broker.redis.connection import Connection, ResponseError, refusal_text
from broker.redis.event_codec import encode_message
from broker.redis.form import check_form
from broker.redis.rights import Rights
from broker.redis.script import Script
from broker.redis.server import ServerInfo, check_subscribing, check_version, read_info
from broker.versions import address_of

log = Logger()

NOT_RUNNING = "The bus is not running."
NO_LEASE = "This node has no contact with the others."
LEASE = 5.0  # seconds for which the names of a silent node are kept
HEARTBEATS = 5  # how often a lease is renewed in its time, at least
MAX_INTERVAL = 1.0  # seconds between two renewals, whose answers show which leases of others have ended
MAX_CLAIMS = 200  # names in one operation: Redis does nothing else meanwhile
FENCED = -1  # what a verb of the script answers to a node without a lease


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
        self.address = address_of(re.sub(r"[^!-~]", "-", node), secrets.token_hex(4))
        self.deliver: Callable[[Event], object] = _ignore
        self.received: Callable[[str, bytes], object] = _ignore
        self.found: Callable[[str], object] = _ignore
        self.missed: Callable[[list[str]], object] = _ignore
        self.departed: Callable[[str], object] = _ignore
        self.lapsed: Callable[[], object] = _ignore
        self.leased: Callable[[], object] = _ignore
        self._address = RedisAddress.parse(url)
        self._prefix = encode_text(prefix)
        # Channels, unlike keys, are the same in all databases of a server.
        channels = f"{prefix}{self._address.db}/"
        self._base = encode_text(channels)
        self._topics = channels + LOG_PREFIX  # a store publishes to the channel named like the log
        self._reactor = reactor
        self._numbers = count(1)
        self._serial = secrets.token_hex(6).encode()
        self._lease = Lease(
            self.address,
            lease,
            reactor,
            lapsed=lambda: self.lapsed(),
            leased=self._on_leased,
            departed=lambda address: self.departed(address),
        )
        self.lease_of = self._lease.number_of  # not a method: each call to another node asks
        self._connections = 0  # how often it has connected to do operations
        self._server = ""  # the run id of the server that it is connected to
        self._server_told = ""  # the one that it was connected to when it renewed its lease last
        self._moved_by = 0  # the connection that has shown another server than before
        self._losses = self._losses_told = 0  # how often the store went back, and what a renewal has said of that
        self._first_renewal: tuple[Any, ...] | None = None  # of a connection: the arguments of ``_renewed``
        self._awaiting_lease: list[Deferred[Any]] = []  # what is to be done under the first one
        self._renewing = self._renew_again = False
        self._unsure = self._reviewing = False  # whether names that were given back may be there, and are asked for
        self._stopped_reason = NOT_RUNNING
        script = Script("broker.buses.redis_scripts", "names")
        self._batcher = Batcher(
            self._address,
            script,
            reactor,
            slices_of(reactor),
            purpose="names and messages",
            preamble=self._preamble,
            prepare=self._prepare,
            opened=self._opened,
            probe=(b"probe",),
            rights=Rights(bus_needs(script.text, self._prefix, self._base), reactor),
        )
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
            lambda texts: self.missed(texts),
        )
        self._subscriber_connection = Connection(
            self._address,
            self._reactor,
            purpose="subscriptions",
            prepare=self._prepare_subscriber,
            opened=self._subscriber_opened,
            closed=subscriber.closed,
            on_message=subscriber.on_message,
            slices=slices_of(self._reactor),
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
        interval = min(self._lease.seconds / HEARTBEATS, MAX_INTERVAL)
        self._heartbeats.start(interval, now=False).addErrback(_heartbeats_failed)

    def stopService(self) -> Deferred[Any]:
        """Release all names, and disconnect."""
        super().stopService()
        if self._stopped_reason:
            return succeed(None)
        self._stopped_reason = "The bus is stopping."
        if self._heartbeats.running:
            self._heartbeats.stop()
        self._subscriber.stop()
        self._lease.stop()
        for first in self._awaiting_lease:
            if not first.called:
                first.errback(NotDone("lease", message=self._stopped_reason))
        self._do(b"leave").addErrback(_ignore_reported)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._batcher.stop()
        self._stopped_reason = NOT_RUNNING
        await self._subscriber_connection.stop()

    def wiped(self) -> None:
        """See ``ISharedBus.wiped``."""
        self._subscriber.wiped(self.source.kept)
        if self._moved_by != self._connections:  # else the names are claimed again already
            self._losses += 1
            self._renew()

    def last_mark(self, epoch: str, server: str) -> int:
        """See ``ISharedBus.last_mark``."""
        return self._subscriber.last_mark(epoch, server)

    # Events.

    def publish(self, event: Event) -> Deferred[None]:
        """See ``IBus.publish``."""
        stamp = event.epoch.encode() if event.id else b"%b.%d" % (self._serial, next(self._numbers))
        words = (b"publish", encode_text(self._topics + event.topic), encode_message(event, event.id, stamp))
        # Who publishes keeps the event until it is answered.
        return self._batcher.submit(Operation(words, _none, 2 * len(words[2]), origin=event.origin))

    def listen(self, topic: str, *, prefix: bool = False) -> None:
        """See ``IBus.listen``."""
        self._subscriber.listen(topic, prefix)

    def forget(self, topic: str, *, prefix: bool = False) -> None:
        """See ``IBus.forget``."""
        self._subscriber.forget(topic, prefix)

    def listening(self) -> Deferred[None] | None:
        """See ``IBus.listening``."""
        return self._subscriber.listening()

    def received_all(self) -> Deferred[None]:
        """See ``ISharedBus.received_all``."""
        return self._subscriber.received_all()

    # Names.

    def claim(self, name: str, *, shared: bool = False) -> Deferred[None]:
        """See ``IBus.claim``."""
        return self._act(b"claim", encode_text(name), b"s" if shared else b"x", decode=partial(_claimed, name))

    def claim_all(self, names: Mapping[str, bool], new: Container[str] = ()) -> Deferred[dict[str, str]]:
        """See ``ISharedBus.claim_all``."""
        return Deferred.fromCoroutine(self._claim_all(list(names.items()), new))

    async def _claim_all(self, names: list[tuple[str, bool]], new: Container[str]) -> dict[str, str]:
        refused: dict[str, str] = {}
        for start in range(0, len(names), MAX_CLAIMS):
            words = []
            for name, shared in names[start : start + MAX_CLAIMS]:
                words += [encode_text(name), b"s" if shared else b"X" if name in new else b"x"]
            refused.update(await self._act(b"reclaim", b"%d" % (len(words) // 2), *words, decode=_refused))
        return refused

    def release(self, *names: str) -> Deferred[bool]:
        """See ``ISharedBus.release``."""
        words = (b"release", b"%d" % len(names), *map(encode_text, names))
        return self._act(*words, decode=lambda _: True).addErrback(_is_released)

    def holders(self, names: Sequence[str]) -> Deferred[tuple[str, list[str]]]:
        """See ``ISharedBus.holders``."""
        return self._act(b"holders", b"%d" % len(names), *map(encode_text, names), decode=self._holders)

    def _holders(self, found: list[bytes] | int) -> tuple[str, list[str]]:
        if isinstance(found, int):
            raise _unsettled(found)
        if not found:
            return "", []
        addresses = [address.decode() for address in found[1::2]]
        for address, number in zip(addresses, found[2::2], strict=True):
            if number != b"0":
                self._lease.learn(address, int(number))
        return decode_text(found[0]), addresses

    # Nodes.

    @property
    def lease(self) -> int:
        """See ``ISharedBus.lease``."""
        return self._lease.number

    @property
    def lease_seconds(self) -> float:
        """See ``ISharedBus.lease_seconds``."""
        return self._lease.seconds

    @property
    def unbroken_since(self) -> int:
        """See ``ISharedBus.unbroken_since``."""
        return self._lease.unbroken_since

    @property
    def nodes(self) -> list[str]:
        """See ``ISharedBus.nodes``."""
        return self._lease.names

    @property
    def others(self) -> list[str]:
        """See ``ISharedBus.others``."""
        return self._lease.others

    def lives(self, address: str) -> bool:
        """See ``ISharedBus.lives``."""
        return bool(self._lease.number_of(address))

    def may_live(self, address: str) -> Deferred[bool]:
        """See ``ISharedBus.may_live``."""
        ours = name_of(address) == name_of(self.address)  # an earlier start of this node
        return self._act(b"lives", address.encode(), b"1" if ours else b"", decode=bool)

    def send(self, address: str, message: bytes) -> Deferred[bool]:
        """See ``ISharedBus.send``."""
        own, number = self._lease.number, self._lease.number_of(address)
        if not (own and number):
            return succeed(False)
        words = (b"send", b"%d" % own, address.encode(), b"%d" % number, message)
        sending = Operation(words, self._decode_sent, len(message), control=True, prompt=True)
        return self._batcher.submit(sending).addErrback(_not_sent)

    def _decode_sent(self, result: int) -> bool:
        return self._unless_fenced(bool, result)  # type: ignore[no-any-return]

    def _on_message(self, message: bytes) -> None:
        kind, _, rest = message.partition(b" ")
        if kind == b"from":
            sender, number, ours, text = rest.split(b" ", 3)
            address = sender.decode()
            if self._lease.is_for_us(int(ours)) and self._lease.learn(address, int(number)):
                self.received(address, text)

    # The lease.

    async def _prepare(self, protocol: Any) -> None:
        """Renew the lease before all else: then operations of an earlier connection can not be done any more."""
        info = await read_info(protocol, b"server", prefix=self._prefix)
        check_version(info)
        await check_form(protocol, self._prefix)
        self._server = info.get("run_id", "")
        self._connections += 1
        self._first_renewal = None
        sent, losses = self._lease.now(), self._losses
        try:
            self._first_renewal = (await self._batcher.call(protocol, self._renewal()), sent, losses)
        except ResponseError as error:
            if any(word in str(error) for word in RECONNECT_ERRORS):
                raise
            log.warn("Redis does not renew the lease: {error}", error=refusal_text(error))  # it is full, perhaps

    def _opened(self) -> None:
        if self._first_renewal is not None:
            self._renewed(*self._first_renewal)
            self._first_renewal = None

    async def _prepare_subscriber(self, protocol: Any) -> None:
        """Refuse a replica, which a Sentinel that is behind may name, and one that does not let us subscribe.

        A replica hands over late what its master is given to publish, which that counts as received by nobody.
        """
        server = ServerInfo(await read_info(protocol, prefix=self._prefix))
        server.check()
        self._subscriber.server = server.info.get("run_id", "")
        await check_subscribing(protocol, self._base)

    def _follow_server(self) -> None:
        """Subscribe anew unless that is where this node's lease was just renewed: the master is another one now."""
        if self._server and self._subscriber.server and self._server != self._subscriber.server:
            self._subscriber_connection.drop("it leads to another server than that for names and messages")

    def _subscriber_opened(self) -> None:
        self._subscriber.opened()
        self._subscriber.heartbeat()
        if self._subscriber.generation > 1:
            self.departed(self.address)  # while it was not connected, messages to it were lost
        self._renew()

    def _heartbeat(self) -> None:
        self._subscriber.heartbeat()
        self._renew()

    def _renewal(self) -> tuple[bytes, ...]:
        lease = self._lease
        numbers = (lease.number, lease.last, self._subscriber.generation, lease.seconds * 1000)
        server = "" if self._server == self._server_told else self._server
        lost = b"1" if self._losses != self._losses_told else b""
        elapsed = b"" if lease.confirmed is None else b"%d" % ((lease.now() - lease.confirmed) * 1000)
        return (b"renew", *(b"%d" % number for number in numbers), server.encode(), lost, elapsed)

    def _renew(self) -> None:
        """Renew the lease, or have it done again when that is under way."""
        if self._batcher.connection.protocol is None:
            return
        if self._renewing:
            self._renew_again = True
            return
        self._renewing = True
        renewed = self._batcher.submit(Operation(self._renewal()))
        renewed.addCallback(self._renewed, self._lease.now(), self._losses)
        renewed.addErrback(_ignore_reported).addBoth(self._renewal_ended)

    def _renewal_ended(self, _: object) -> None:
        self._renewing = False
        if self._renew_again:
            self._renew_again = False
            self._renew()

    def _renewed(self, answer: list[Any], sent: float, losses: int) -> None:
        number, untidy, nodes = answer
        if self._stopped_reason:
            return
        self._follow_server()
        moved = self._moved(losses)
        others = [(address.decode(), each, generation.decode()) for address, each, generation in nodes]
        self._lease.renewed(sent, number, others, moved=moved)
        if not self._lease.number:
            self._renew()
        self._unsure = self._unsure or moved
        if self._unsure and not self._reviewing:
            self._reviewing = True
            Deferred.fromCoroutine(self._review()).addErrback(_ignore_reported).addBoth(self._reviewed)
        if untidy:
            Deferred.fromCoroutine(self._tidy(b"%d" % untidy)).addErrback(_ignore_reported)

    def _moved(self, losses: int) -> bool:
        """Whether Redis may have forgotten names, as a renewal has told it that was sent after so many *losses*."""
        moved = losses != self._losses_told
        if self._server_told and self._server_told != self._server:
            moved, self._moved_by = True, self._connections
        self._server_told, self._losses_told = self._server, losses
        return moved

    def _on_leased(self) -> None:
        waiting, self._awaiting_lease = self._awaiting_lease, []
        for first in waiting:
            if not first.called:
                first.callback(None)
        self.leased()

    async def _tidy(self, number: bytes) -> None:
        """Forget names; when that fails, a node is told so again after a while."""
        cursor = b"0"
        while (cursor := await self._do(b"tidy", cursor, number)) != b"0":
            pass

    async def _review(self) -> None:
        """Tell all names that Redis has for this node; when that fails it is done again after the next renewal."""
        server, cursor = self._server, b""
        while cursor != b"0":
            cursor, names = await self._act(b"own", cursor or b"0")
            for name in map(decode_text, names):
                self.found(name)
        self._unsure = self._server != server

    def _reviewed(self, _: object) -> None:
        self._reviewing = False

    def _preamble(self) -> list[bytes]:
        return [self._prefix, self._base, self.address.encode(), b"%d" % self._connections]

    def _act(self, verb: bytes, *words: bytes, decode: Callable[[Any], Any] = lambda result: result) -> Deferred[Any]:
        """Do an operation for this node, under its lease."""
        number = self._lease.number
        if not number:
            if self._lease.last or self._stopped_reason:
                return fail(NotDone("lease", message=NO_LEASE))
            # It has just begun: as long as other operations wait for Redis, this one waits for the first lease.
            first: Deferred[Any] = Deferred()
            self._awaiting_lease.append(first)
            first.addTimeout(RECONNECT_TIMEOUT, self._reactor).addErrback(_no_lease)
            return first.addCallback(lambda _: self._act(verb, *words, decode=decode))
        return self._do(verb, b"%d" % number, *words, decode=partial(self._unless_fenced, decode))

    def _unless_fenced(self, decode: Callable[[Any], Any], result: Any) -> Any:
        if result == FENCED:
            self._renew()
            raise NotDone("lease", message=NO_LEASE)
        return decode(result)

    def _do(self, verb: bytes, *words: bytes, decode: Callable[[Any], Any] = lambda result: result) -> Deferred[Any]:
        size = len(words[-1]) if words else 0
        # However much is published: names and calls must not suffer, and links bound what is sent by them.
        return self._batcher.submit(Operation((verb, *words), decode, size, control=True))


def _ignore(*_: object) -> None:
    """The callback until the service sets one."""


def _none(_: object) -> None:
    return None


def _claimed(name: str, answer: bytes | int) -> None:
    if isinstance(answer, int):
        raise _unsettled(answer)
    if answer:
        raise Taken("exists", name)


def _unsettled(millis: int) -> NotDone:
    return NotDone("lease", message="The nodes are claiming their names again.", retry_after=millis / 1000)


def _refused(answer: list[bytes]) -> dict[str, str]:
    return {decode_text(name): holder.decode() for name, holder in zip(answer[::2], answer[1::2], strict=True)}


def _no_lease(failure: Failure) -> Any:
    failure.trap(DeferredTimeout)
    raise NotDone("lease", message=NO_LEASE)


def _is_released(failure: Failure) -> bool:
    failure.trap(BrokerError)
    # Without a lease nothing is held; what else keeps Redis from doing it may pass.
    return isinstance(failure.value, NotDone) and failure.value.what == "lease"


def _not_sent(failure: Failure) -> bool:
    failure.trap(NotDone)
    return False


def _ignore_reported(failure: Failure) -> None:
    """Drop an error that ``ready`` shows already."""
    failure.trap(BrokerError)


def _heartbeats_failed(failure: Failure) -> None:
    log.failure("the bus has stopped renewing its lease", failure)
