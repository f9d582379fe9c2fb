"""Messages to the other nodes, and the dispatch of theirs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import count, groupby
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as NoReply
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from broker.cluster.link import Link
from broker.cluster.links import LinkAccount, Links
from broker.cluster.messages import BoolReply, Message, decode, decode_all, encode, encode_all
from broker.interfaces import ISharedBus

log = Logger()


class NodeMessenger:
    """Sends messages to other nodes over links, and hands theirs on.

    Args:
        bus: carries the frames of the links.
        clock: times how long answers take.
        account: counts what is kept for other nodes.

    Attributes:
        lease_of: that of the bus.
        post: as ``send``, to another node only, with the bytes that the message has, about, before the token.
            The message is encoded with all others of its frame, for a fraction of the time: it
            must not change any more, and have nothing but ASCII in its texts.
    """

    def __init__(self, bus: ISharedBus, clock: IReactorTime, account: LinkAccount | None = None) -> None:
        self.bus, self.clock = bus, clock
        self.lease_of: Callable[[str], int] = bus.lease_of
        self._links = Links(self, clock, account)
        self.post = self._links.put  # itself: each call to another node comes by here
        self._handlers: dict[type[Any], Callable[[str, Iterator[Any]], object]] = {}  # of messages in a row
        self.on(BoolReply, self._replied)
        self.on(msgspec.DecodeError, _not_understood)
        self.on(msgspec.ValidationError, _not_understood)
        self._departure_handlers: list[Callable[[str], object]] = []
        self._miss_handlers: list[Callable[[], object]] = []
        self._lapse_handlers: list[Callable[[], object]] = []
        self._lease_handlers: list[Callable[[], object]] = []
        self._break_handlers: list[Callable[[str, list[Any]], object]] = []
        self._refusal_handler: Callable[[Any], bool] = _keep
        self._numbers = count(1)
        self._asked: dict[int, tuple[str, Deferred[bool | None]]] = {}
        self._to_self: deque[bytes] = deque()  # what this node has sent to itself
        bus.received = self.received
        bus.departed = self.departed
        bus.lapsed, bus.leased = self.lapsed, self.leased

    def on(self, kind: type[Any], handler: Callable[[str, Any], object]) -> None:
        """Let *handler* be called with the sender's address and each message of *kind*."""

        def handle(address: str, messages: Iterator[Any]) -> None:
            for message in messages:
                handler(address, message)

        self._handlers[kind] = handle

    def on_many(self, kind: type[Any], handler: Callable[[str, Iterator[Any]], object]) -> None:
        """Let *handler* be called with the sender's address and all messages of *kind* that come in a row.

        When it raises for one of them, it is called again with the rest.
        """
        self._handlers[kind] = handler

    def on_departure(self, handler: Callable[[str], object]) -> None:
        """Let *handler* be called with the address of each node that has gone; see ``ISharedBus.departed``."""
        self._departure_handlers.append(handler)

    def on_miss(self, handler: Callable[[], object]) -> None:
        """Let *handler* be called when this node is connected again: what was published meanwhile is lost."""
        self._miss_handlers.append(handler)

    def on_lapse(self, handler: Callable[[], object]) -> None:
        """Let *handler* be called when this node's lease has ended; see ``ISharedBus.lapsed``."""
        self._lapse_handlers.append(handler)

    def on_lease(self, handler: Callable[[], object]) -> None:
        """Let *handler* be called when all names are to be claimed again; see ``ISharedBus.leased``."""
        self._lease_handlers.append(handler)

    def on_break(self, handler: Callable[[str, list[Any]], object]) -> None:
        """Let *handler* be called when the link to a node is broken: what was open over it has ended.

        It gets the address, and the tokens of the messages that have surely not arrived there.
        """
        self._break_handlers.append(handler)

    def on_refusal(self, handler: Callable[[Any], bool]) -> None:
        """Let *handler* be called with each token whose message has surely not arrived, so far.

        It returns whether the message is to be forgotten; else it is sent again, until the link is broken.
        """
        self._refusal_handler = handler

    def send(self, address: str, message: Message, token: object = None, *, urgent: bool = False) -> bool:
        """Send *message* to a node; say whether that was begun.

        It arrives there once and in order, unless the link to that node is broken before.
        It is not begun while this node has no lease, nor while too much waits for that one.

        Args:
            address: of the node.
            message: to send.
            token: names the message for the handlers of ``on_refusal`` and ``on_break``.
            urgent: it tells of an end, and is small: it is begun although much waits.
        """
        if address == self.bus.address:
            if not self._to_self:
                self.clock.callLater(0, self._receive_from_self)
            self._to_self.append(encode(message))
            return True
        encoded = encode(message)
        return self._links.put(address, msgspec.Raw(encoded), len(encoded), token, urgent=urgent)

    def is_crowded(self, address: str) -> bool:
        """Whether so much waits to be sent to a node that what can wait should."""
        return self._links.is_crowded(address)

    def _receive_from_self(self) -> None:
        messages, self._to_self = self._to_self, deque()
        self._handle(self.bus.address, map(decode, messages))

    async def ask(self, address: str, make: Callable[[int], Message], timeout: float) -> bool | None:
        """Send ``make(number)``; return what the node replies.

        None: it does not within *timeout* seconds, or can not be asked.
        """
        number = next(self._numbers)
        reply: Deferred[bool | None] = Deferred()
        self._asked[number] = address, reply
        try:
            if not self.send(address, make(number)):
                return None
            return await reply.addTimeout(timeout, self.clock)
        except NoReply:
            return None
        finally:
            del self._asked[number]

    async def holders(self, *names: str) -> tuple[str, list[str]]:
        """Return the first of *names* that is held, and the nodes that hold it, this one first."""
        name, addresses = await self.bus.holders(names)
        return name, sorted(addresses, key=lambda address: address != self.bus.address)

    def stop(self) -> None:
        """Drop what was not sent; nobody is told."""
        self._links.stop()

    # What the bus says.

    def received(self, sender: str, frame: bytes) -> None:
        """Take what another node has sent."""
        try:
            self._links.received(sender, frame)
        except msgspec.DecodeError as error:
            # Nodes of two versions may be at work during an upgrade.
            _not_understood(sender, error)

    def departed(self, address: str) -> None:
        """Tell all that a node has gone; see ``on_departure``."""
        if address == self.bus.address:
            self._links.missed()
            for notice in self._miss_handlers:
                notice()
            return
        self._links.departed(address)
        for handler in self._departure_handlers:
            handler(address)

    def lapsed(self) -> None:
        """Tell all that this node's lease has ended."""
        self._links.lapsed()
        for handler in self._lapse_handlers:
            handler()

    def leased(self) -> None:
        """Tell all that this node has a lease again."""
        for handler in self._lease_handlers:
            handler()

    # What the links say.

    def lease(self) -> int:
        """See ``INode.lease``."""
        return self.bus.lease

    def transmit(self, address: str, frame: bytes) -> Deferred[bool]:
        """See ``INode.transmit``."""
        return self.bus.send(address, frame)

    def encode(self, messages: list[Any]) -> bytes:
        """See ``INode.encode``."""
        return encode_all(messages)

    def decode(self, messages: msgspec.Raw) -> list[Any]:
        """See ``INode.decode``."""
        return decode_all(messages)

    def on_messages(self, link: Link, messages: list[Any]) -> None:
        """See ``INode.on_messages``."""
        self._handle(link.node, messages, link)

    def _handle(self, address: str, messages: Iterable[Any], link: Link | None = None) -> None:
        """Call the handlers of *messages*, until *link* is closed."""
        for kind, alike in groupby(messages if link is None else _while_open(link, messages), type):
            handle = self._handlers.get(kind, _unknown)
            while _fails(handle, address, alike):
                pass  # the rest of them is handled all the same

    def on_refused(self, address: str, token: Any) -> bool:
        """See ``INode.on_refused``."""
        return self._refusal_handler(token)

    def on_broken(self, address: str, unsent: list[Any]) -> None:
        """See ``INode.on_broken``."""
        for asked, reply in list(self._asked.values()):
            if asked == address and not reply.called:
                reply.callback(None)
        for handler in self._break_handlers:
            handler(address, unsent)

    def _replied(self, _: str, reply: BoolReply) -> None:
        asked = self._asked.get(reply.id)
        if asked is not None and not asked[1].called:
            asked[1].callback(reply.yes)


def _while_open(link: Link, messages: Iterable[Any]) -> Iterator[Any]:
    for message in messages:
        yield message
        if link.closed:
            return


def _fails(handle: Callable[[str, Iterator[Any]], object], sender: str, messages: Iterator[Any]) -> bool:
    """Let *messages* be handled; say whether that has failed for one of them, behind which the rest is left."""
    try:
        handle(sender, messages)
    except Exception:  # else the connection to the bus would end with it, and all that others have sent
        log.failure("a message of node {node} could not be handled", node=sender)
        return True
    return False


def _keep(_: object) -> bool:
    return False


def _unknown(sender: str, messages: Iterator[Any]) -> None:
    for message in messages:
        raise AssertionError(f"nobody handles a {type(message).__name__}")


def _not_understood(sender: str, error: Exception) -> None:
    log.warn("a message of node {sender} was not understood: {error}", sender=sender, error=str(error))
