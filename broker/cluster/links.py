"""The links of a node to all others.

A link that can not keep its promise any more is broken, on both sides: when the lease of
one of the two nodes has ended, or when too much is kept for it.  What was open over it has ended then, and the next
message begins a new link.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from broker.cluster.link import ASK, MAX_BYTES, Frame, Link
from broker.core.bounded import BoundedDict

log = Logger()

MAX_MESSAGES = 20_000  # that one link keeps; the double for what must not be refused
CROWDED_BYTES = MAX_BYTES // 4  # from which on who sends much has to wait
CROWDED_MESSAGES = MAX_MESSAGES // 2
MAX_PAST = 10_000  # addresses whose last links are remembered

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Frame).decode


class LinkAccount(Protocol):
    """Counts what links keep; see ``broker.core.memory``."""

    def hold(self, holder: Any, size: int) -> None:
        """Note that *holder* holds *size* bytes now."""


class INode(Protocol):
    """What links need of the node they begin at, and tell it."""

    def lease(self) -> int:
        """Return the number of this node's lease; 0: it has none."""

    def lease_of(self, address: str) -> int:
        """Return the number of another node's, as far as it is known; 0: there is none."""

    def transmit(self, address: str, frame: bytes) -> Deferred[bool]:
        """Send *frame*; fire with whether it was handed over.  A ``BrokerError`` says that nobody knows."""

    def encode(self, messages: list[Any]) -> bytes:
        """Return the array of *messages*, which ``put`` was given; must not raise."""

    def decode(self, messages: msgspec.Raw) -> list[Any]:
        """Return the messages of an array, one for each.  A ``msgspec.DecodeError`` says that it is no array."""

    def on_messages(self, link: Link, messages: list[Any]) -> None:
        """Take the next messages of the node of *link*, until that is closed; must not raise."""

    def on_refused(self, address: str, token: Any) -> bool:
        """Say whether to forget the message of *token*, which has surely not arrived, instead of trying again."""

    def on_broken(self, address: str, unsent: list[Any]) -> None:
        """End what was open over the link to *address*; the messages of the tokens *unsent* have surely not arrived."""


class Links:
    """The links of this node, by the addresses of the other nodes.

    Args:
        node: this one.
        clock: times acknowledgements and retries.
        account: counts what is kept.
    """

    def __init__(self, node: INode, clock: IReactorTime, account: LinkAccount | None = None) -> None:
        self.node, self.clock, self._account = node, clock, account
        self.lease_of, self.on_messages, self.on_refused = node.lease_of, node.on_messages, node.on_refused
        self._links: dict[str, Link] = {}
        self._stopped = False
        self._number = 0  # of the link that was begun last
        self._past: BoundedDict[str, int] = BoundedDict(MAX_PAST)  # the other side's numbers of links that have ended

    @property
    def kept(self) -> int:
        """How many messages are kept."""
        return sum(link.kept for link in self._links.values())

    def put(self, address: str, message: object, size: int, token: object = None, *, urgent: bool = False) -> bool:
        """Send *message* to *address*; say whether it was taken.

        It is not taken while this node has no lease, and when too much waits there.  One that is *urgent*, which is
        what tells of an end, is taken all the same in the second case; at the double, the link is broken.

        Args:
            address: of the other node.
            message: for ``INode.encode``, which gets it with all others of its frame, perhaps more than once.
            size: of *message* in bytes, about.
            token: names the message for ``INode.on_refused`` and ``INode.on_broken``.
            urgent: see above.
        """
        link = self._links.get(address)
        if link is not None and link.due and link.kept < MAX_MESSAGES and (total := link.bytes + size) <= link.limit:
            # Most go with others, and the bus looks at the leases when their frame is sent.
            link.waiting.append((message, token, size))
            link.kept += 1
            link.bytes = total
            return True
        return self._put(link, address, message, size, token, urgent)

    def _put(self, link: Link | None, address: str, message: object, size: int, token: object, urgent: bool) -> bool:
        """Do what ``put`` says, as the first of a frame, or where *link* may keep too much."""
        if link is None or not link.due:
            if self._stopped or not self.node.lease():
                return False
            if link is None:
                link = self._begin(address)
        total = link.bytes + size
        if total > MAX_BYTES or link.kept >= MAX_MESSAGES:
            if not urgent:
                return False
            if total > 2 * MAX_BYTES or link.kept >= 2 * MAX_MESSAGES:
                link.shed()
                return False
        link.put(message, token, size)
        return True

    def is_crowded(self, address: str) -> bool:
        """Whether so much waits for *address* that what can wait should."""
        link = self._links.get(address)
        return link is not None and (link.bytes > CROWDED_BYTES or link.kept > CROWDED_MESSAGES)

    def _begin(self, address: str) -> Link:
        self._number += 1
        link = self._links[address] = Link(self, address, self._number, self.node.lease_of(address))
        return link

    def transmit(self, link: Link, ack: int, first: int, flags: int, messages: list[object]) -> Deferred[bool]:
        """Send a frame over *link*; see ``INode.transmit``."""
        peer = link.peer or -self._past.get(link.node, 0)
        array = msgspec.Raw(self.node.encode(messages))
        frame = Frame(self.node.lease(), link.to, link.number, peer, ack, first, flags, array)
        return self.node.transmit(link.node, _encode(frame))

    def received(self, address: str, data: bytes) -> None:
        """Take what the node *address* has sent.

        Raises:
            msgspec.DecodeError: it is no frame.
        """
        frame = _decode(data)
        messages = self.node.decode(frame.messages)
        lease = self.node.lease()
        if self._stopped or not lease or frame.to not in (0, lease):
            return  # it is for a lease of this node that has ended
        link = self._links.get(address)
        if frame.link <= self._past.get(address, 0):
            if link is not None or self.node.lease_of(address):
                self._show(address)
            return
        if link is not None and self._is_old(frame, link):
            return
        if link is not None and self._is_newer(frame, link):
            self.end(link, "the other side has ended it")
        link = self._links.get(address) or self._begin(address)
        if frame.peer > 0 and frame.peer != link.number:
            self._show(address)
            return
        link.peer, link.to = frame.link, frame.lease
        link.on_frame(frame, messages)

    def _show(self, address: str) -> None:
        """Send a frame of the present link: the other side has not noticed that the one before has ended."""
        (self._links.get(address) or self._begin(address)).wake(ASK)

    @staticmethod
    def _is_old(frame: Frame, link: Link) -> bool:
        return frame.link < link.peer or frame.lease < link.to

    @staticmethod
    def _is_newer(frame: Frame, link: Link) -> bool:
        """Whether *frame* shows that the other side has ended *link*."""
        begun = link.peer and frame.link > link.peer
        leased = link.to and frame.lease > link.to
        return bool(begun or leased or link.number <= -frame.peer)

    def departed(self, address: str) -> None:
        """End the link to a node whose lease has ended, unless it has begun under the next one."""
        link = self._links.get(address)
        if link is not None and not (link.to and link.to == self.node.lease_of(address)):
            self.end(link, "")

    def lapsed(self) -> None:
        """End all links: the lease of this node has ended."""
        for link in list(self._links.values()):
            self.end(link, "")

    def missed(self) -> None:
        """Ask all other nodes for what may have been lost: this one was not reachable."""
        for link in list(self._links.values()):
            link.missed()

    def end(self, link: Link, reason: str, *, again: bool = False) -> None:
        """Break *link*; with *again*, begin the next one at once, which tells the other side."""
        if link.closed:
            return
        if reason:
            log.warn("the link to node {node} is broken: {reason}", node=link.node, reason=reason)
        unsent = link.close()
        del self._links[link.node]
        if link.peer:
            self._past.pop(link.node, None)
            self._past[link.node] = link.peer
        if again:
            self._begin(link.node).wake(ASK)
        self.node.on_broken(link.node, unsent)

    def stop(self) -> None:
        """Send what waits, and drop all links; nobody is told."""
        self._stopped = True
        for link in list(self._links.values()):
            link.send_waiting()
            link.close()
        self._links.clear()

    def hold(self, link: Link, size: int) -> None:
        """Count *size* bytes for *link*."""
        if self._account is not None:
            self._account.hold(link, size)
