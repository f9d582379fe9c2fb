"""Messages to the other nodes, and the dispatch of theirs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as NoReply
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.cluster.messages import BoolReply, Message, decode, encode
from broker.errors import BrokerError
from broker.interfaces import ISharedBus

log = Logger()


class NodeMessenger:
    """Sends messages to other nodes by the bus, and hands theirs on.

    Args:
        bus: carries the messages.
        clock: times how long answers take.
    """

    def __init__(self, bus: ISharedBus, clock: IReactorTime) -> None:
        self.bus, self.clock = bus, clock
        self._handlers: dict[type[Any], Callable[[str, Any], object]] = {BoolReply: self._replied}
        self._departure_handlers: list[Callable[[str], object]] = []
        self._lapse_handlers: list[Callable[[], object]] = []
        self._lease_handlers: list[Callable[[], object]] = []
        self._numbers = count(1)
        self._asked: dict[int, Deferred[bool]] = {}
        bus.received = self.received
        bus.departed = self.departed
        bus.lapsed, bus.leased = self.lapsed, self.leased

    def on(self, kind: type[Any], handler: Callable[[str, Any], object]) -> None:
        """Let *handler* be called with the sender's address and each message of *kind*."""
        self._handlers[kind] = handler

    def on_departure(self, handler: Callable[[str], object]) -> None:
        """Let *handler* be called with the address of each node that has gone; see ``ISharedBus.departed``."""
        self._departure_handlers.append(handler)

    def on_lapse(self, handler: Callable[[], object]) -> None:
        """Let *handler* be called when this node's lease has ended; see ``ISharedBus.lapsed``."""
        self._lapse_handlers.append(handler)

    def on_lease(self, handler: Callable[[], object]) -> None:
        """Let *handler* be called when all names are to be claimed again; see ``ISharedBus.leased``."""
        self._lease_handlers.append(handler)

    def send(self, address: str, message: Message) -> Deferred[bool]:
        """Send *message*; fire with whether that node is listening.  It does not fail."""
        return self.bus.send(address, encode(message)).addErrback(_not_sent)

    async def ask(self, address: str, make: Callable[[int], Message], timeout: float) -> bool | None:
        """Send ``make(number)``; return what the node replies, None when it does not within *timeout* seconds."""
        number = next(self._numbers)
        reply = self._asked[number] = Deferred()
        try:
            if not await self.send(address, make(number)):
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

    def received(self, sender: str, message: bytes) -> None:
        """Dispatch what another node has sent."""
        try:
            decoded = decode(message)
        except msgspec.DecodeError as error:
            # Nodes of two versions may be at work during an upgrade.
            log.warn("a message of node {sender} was not understood: {error}", sender=sender, error=str(error))
            return
        try:
            self._handlers[type(decoded)](sender, decoded)
        except Exception:  # else the connection to the bus would end with it, and all that others have sent
            log.failure("a message of node {sender} could not be handled", sender=sender)

    def departed(self, address: str) -> None:
        """Tell all that a node has gone; see ``on_departure``."""
        for handler in self._departure_handlers:
            handler(address)

    def lapsed(self) -> None:
        """Tell all that this node's lease has ended."""
        for handler in self._lapse_handlers:
            handler()

    def leased(self) -> None:
        """Tell all that this node has a lease again."""
        for handler in self._lease_handlers:
            handler()

    def _replied(self, _: str, reply: BoolReply) -> None:
        asked = self._asked.get(reply.id)
        if asked is not None and not asked.called:
            asked.callback(reply.yes)


def _not_sent(failure: Failure) -> bool:
    failure.trap(BrokerError)
    return False
