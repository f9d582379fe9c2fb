"""The public port of a worker: what belongs to a session of another worker goes to that one.

Sessions of Engine.IO's long-polling live in one process, and each of their requests may come by a connection of its
own, to any worker.  Their ids begin with the name of the node, which is that of the worker.  Requests are asked of it;
the connection of a WebSocket that such a session upgrades to is handed over, after which it costs no more than others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from twisted.internet import tcp
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.app.workers.exchange import decode_answer, encode_request
from broker.app.workers.plan import WorkerPlan
from broker.errors import Unavailable
from broker.messages import HttpRequest, Response
from broker.web.http.channel import HttpChannel
from broker.web.site import Site

log = Logger()

SESSION_ID = r"(?:^|&)sid=%s-(\d{1,4})\."
NOT_IN_NAMES = re.compile("[^A-Za-z0-9_-]")


class PassedOn(msgspec.Struct, array_like=True):
    """A request for another worker.

    Attributes:
        number: of that.
        request: as ``exchange`` has it.
    """

    number: int
    request: bytes


class HandedOver(msgspec.Struct, array_like=True):
    """A connection for another worker; its descriptor goes with it.

    Attributes:
        number: of that.
        family: of the socket.
        address: of the client.
        data: what it has sent.
    """

    number: int
    family: int
    address: str
    data: bytes


class SharedSite(Site):
    """See above.

    Attributes:
        pass_on: asks another worker a request; see ``PassedOn``.
        hand_over: hands another worker a connection, with the descriptor; see ``HandedOver``.
    """

    pass_on: Callable[[PassedOn], Deferred[bytes]]
    hand_over: Callable[[HandedOver, int], object]
    _own = 0
    _session_id = re.compile("$.")

    def share(self, plan: WorkerPlan, node: str) -> None:
        """Be the site of the worker of *plan*, which is the node *node*."""
        self._own = plan.number
        base = NOT_IN_NAMES.sub("-", node.rpartition("-")[0])
        self._session_id = re.compile(SESSION_ID % re.escape(base))

    def answer(self, request: HttpRequest) -> Coroutine[Any, Any, Response]:
        """See ``Site.answer``."""
        number = self._owner(request)
        return self._ask_owner(number, request) if number else super().answer(request)

    def upgrade(self, request: HttpRequest, channel: HttpChannel, rest: bytes) -> Response | None:
        """See ``Site.upgrade``."""
        number, transport = self._owner(request), channel.transport
        # Under TLS the connection is more than its socket: the session stays with its long-polling then.
        if number and self._drained is None and isinstance(transport, tcp.Connection) and not channel.secure:
            transport.pauseProducing()
            self._release(channel)
            handed = HandedOver(number, transport.socket.family, channel.address, head_of(request) + rest)
            self.hand_over(handed, os.dup(transport.fileno()))
            self._clock.callLater(0, drop, transport)  # the channel has to know first that it is none any more
            return None
        return super().upgrade(request, channel, rest)

    def adopt(self, handed: HandedOver, descriptor: int) -> None:
        """Go on with the connection *descriptor*, which another worker has handed over."""
        factory = AddressedFactory(self, IPv4Address("TCP", handed.address, 0))
        reactor: Any = self._clock
        reactor.adoptStreamConnection(descriptor, handed.family, factory)
        if factory.made is not None:
            factory.made.dataReceived(handed.data)

    def _owner(self, request: HttpRequest) -> int:
        """Return the number of the other worker that has the session of *request*; 0: there is none."""
        found = self._session_id.search(request.query)
        number = int(found[1]) if found else 0
        return number if number != self._own else 0

    async def _ask_owner(self, number: int, request: HttpRequest) -> Response:
        try:
            return decode_answer(await self.pass_on(PassedOn(number, encode_request(request))))
        except Unavailable:
            return await super().answer(request)  # it has gone, and so has the session

    def _release(self, channel: HttpChannel) -> None:
        """Forget the connection of *channel*."""
        self._channels.discard(channel)
        self._unadmitted.leave(channel)
        self._counter.leave(channel.address)
        self._counts.closed("http", 101)


class AddressedFactory(Factory):
    """Makes the protocol of one connection, whose client is at *address* whatever the socket says.

    Attributes:
        made: its protocol; None: it was refused.
    """

    noisy = False

    def __init__(self, site: Site, address: IAddress) -> None:
        self._site, self._address = site, address
        self.made: Protocol | None = None

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """See ``IProtocolFactory``."""
        self.made = self._site.buildProtocol(self._address)
        return self.made


def head_of(request: HttpRequest) -> bytes:
    """Return the head of *request* as it may have been sent."""
    target = f"{request.path}?{request.query}" if request.query else request.path
    fields = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"{request.method} {target} HTTP/{request.version}\r\n{fields}\r\n".encode("latin-1")


def drop(transport: Any) -> None:
    """Close the socket of *transport* here, without a word to its client: another process has it, too."""
    if not transport.disconnected:
        transport._shouldShutdown = False
        transport.protocol = Protocol()  # the channel has been told by then
        transport.connectionLost(Failure(ConnectionDone()))
