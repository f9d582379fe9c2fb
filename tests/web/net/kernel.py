"""A reactor and a socket that do what the test says, for transports without a network."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from zope.interface import implementer

from broker.web.net.port import FramePort
from broker.web.net.transport import FrameTransport, Outbox


class Socket:
    """A socket whose kernel buffer has room for so many bytes.

    ``calls`` are the pieces that were accepted, one for each successful send.
    """

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.calls: list[bytes] = []
        self.incoming: list[bytes] = []
        self.error: OSError | None = None
        self.shut = False

    @property
    def sent(self) -> bytes:
        return b"".join(self.calls)

    def send(self, data: bytes) -> int:
        if self.error is not None:
            raise self.error
        if data and not self.room:
            raise BlockingIOError(11, "try again")
        taken = bytes(data[: self.room])
        self.room -= len(taken)
        if taken:
            self.calls.append(taken)
        return len(taken)

    def recv(self, size: int) -> bytes:
        if self.error is not None:
            raise self.error
        if not self.incoming:
            raise BlockingIOError(11, "try again")
        return self.incoming.pop(0)

    def shutdown(self, how: int) -> None:
        self.shut = True

    def setblocking(self, flag: bool) -> None: ...

    def setsockopt(self, *args: Any) -> None: ...

    def close(self) -> None: ...

    def fileno(self) -> int:
        return 99

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 1)


@implementer(IReactorFDSet)
class Reactor(Clock):  # type: ignore[misc]  # all that transports ask for
    """A clock that also keeps who wants to read and to write."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.discard(reader)

    def addWriter(self, writer: Any) -> None:
        self.writers.add(writer)

    def removeWriter(self, writer: Any) -> None:
        self.writers.discard(writer)

    def writable(self, transport: FrameTransport) -> Any:
        """The socket of *transport* can be written to: do as a reactor does then."""
        if transport not in self.writers:
            return None
        return transport.doWrite()


class Peer(Protocol):
    """Notes what happens; ``act`` is called with what comes."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.lost: list[Any] = []
        self.act: Any = None
        self.writeConnectionLost: Any = None

    def dataReceived(self, data: bytes) -> None:
        self.got.append(data)
        if self.act is not None:
            self.act(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost.append(reason)


class Machine:
    """A port with connections on fake sockets."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.outbox = Outbox(self.reactor)
        self.port = FramePort(0, Factory(), reactor=self.reactor)
        self.port.outbox = self.outbox

    def connect(self, room: int = 1 << 30) -> tuple[FrameTransport, Socket, Peer]:
        sock, peer = Socket(room), Peer()
        fake: Any = sock
        transport = FrameTransport(fake, peer, ("192.0.2.1", 5), self.port, 1, self.reactor)
        peer.makeConnection(transport)
        return transport, sock, peer

    def iterate(self) -> None:
        """Let the reactor call what is due at once."""
        self.reactor.advance(0)
