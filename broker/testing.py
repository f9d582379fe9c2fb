"""Help for authors of dialects: a broker without a daemon, a link without a network."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import attrs
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from zope.interface import implementer

from broker.access.principals import Access
from broker.buses import open_bus
from broker.config.settings import Settings
from broker.core.service import Broker
from broker.interfaces import ILink, ISession
from broker.messages import CloseCode, Frame, HttpRequest
from broker.peer import Peer
from broker.stores import open_store


@implementer(ILink)
@attrs.define(eq=False)
class FakeLink:
    """Keeps what a session sends.

    Attributes:
        handshake: the request the client is said to have come with.
        sent: text messages as bytes, binary ones as (bytes,) tuples.
        closed: (code, reason) once closed, else None.
    """

    handshake: HttpRequest = attrs.field(factory=lambda: HttpRequest("GET", "/", "", {}))
    sent: list[Any] = attrs.field(factory=list)
    closed: tuple[int, str] | None = None
    paused: bool = False

    @property
    def open(self) -> bool:
        """Whether it was not closed yet."""
        return self.closed is None

    def send(self, payload: bytes) -> None:
        """Keep a text message."""
        if self.closed is None:
            payload.decode()  # text must be UTF-8
            self.sent.append(payload)

    def send_binary(self, payload: bytes) -> None:
        """Keep a binary message."""
        if self.closed is None:
            self.sent.append((payload,))

    def send_frame(self, frame: Frame) -> None:
        """Keep the message of a frame."""
        self.send(frame.payload)

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Remember the first close."""
        self.closed = self.closed or (code, reason)

    def abort(self) -> None:
        """Remember a cut as code 1006."""
        self.close(CloseCode.ABNORMAL)

    def take(self) -> list[Any]:
        """Return what was sent since the last time."""
        sent, self.sent = self.sent, []
        return sent


def make_broker(clock: IReactorTime | None = None, access: Access | None = None, **settings: Any) -> Broker:
    """Return a started broker in memory; *settings* are fields of ``Settings``."""
    clock = clock or Clock()
    store = open_store("memory:", clock=clock)
    broker = Broker(Settings(**settings), store, open_bus("local:", "test"), clock, access)
    broker.startService()
    return broker


@attrs.define(eq=False)
class Connected:
    """A client of a dialect under test: its peer, its link, its session."""

    peer: Peer
    link: FakeLink
    session: ISession

    def say(self, text: str | bytes) -> list[Any]:
        """Let the client send *text*; return what it is sent meanwhile."""
        self.session.received(text.encode() if isinstance(text, str) else text, False)
        return self.link.take()

    def leave(self, code: int = CloseCode.NORMAL) -> None:
        """Let the client go; its peer is closed when the session has worked off what came before."""
        self.link.close(code)
        ending: Any = self.session.closed(code, "")
        if ending is None:
            self.peer.close()
        else:
            ensureDeferred(ending).addBoth(lambda _: self.peer.close())


def connect(broker: Broker, dialect: Any, request: HttpRequest | None = None) -> Connected:
    """Return a client that *dialect* has accepted.

    Raises:
        BrokerError: the dialect has refused it.
    """
    link = FakeLink() if request is None else FakeLink(request)
    peer = broker.attach(dialect.name, "127.0.0.1")
    session = value_of(Deferred.fromCoroutine(dialect.session(peer, link)))
    if peer.session is None:
        peer.bind(session, link.close)
    session.opened()
    return Connected(peer, link, session)


def value_of(waiting: Deferred[Any] | Coroutine[Deferred[Any], Any, Any]) -> Any:
    """Return what *waiting*, a Deferred or a coroutine, has ended with, raising its failure.

    Raises:
        AssertionError: it has not ended.
    """
    deferred = ensureDeferred(waiting)
    fired: list[Any] = []
    failed: list[Any] = []
    deferred.addCallbacks(fired.append, failed.append)
    if failed:
        failed[0].raiseException()
    assert fired, "the Deferred has not fired"
    return fired[0]
