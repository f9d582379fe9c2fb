"""One client of a dialect, as the core and the transport call it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from broker.interfaces.coroutines import Coro
from broker.messages import Event, Mail, Reply, Request, Start


class ISession(Interface):
    """One client of a dialect.  Called by the transport and by the core.

    A method that raises costs its own connection only: it is logged and the
    link is closed with 1011.

    A session may have another one, ``gap(topic, why)``, which is called when changes of keys, or stored events, were
    missed that can not be had any more: on a topic or pattern, or, if that is "", of all keys that it watches; *why*
    is ``MISSED`` or ``EPOCH``.  Without that it is disconnected with 1013.
    """

    def opened() -> None:
        """The connection is open: from now on frames may be sent."""

    def received(data: bytes, binary: bool) -> None:
        """One whole message came; text is known to be UTF-8.

        In a stream dialect: some bytes came, where the network has cut them; see ``broker.sessions.FramedSession``.
        """

    def event(event: Event, pattern: str) -> None:
        """An event came by the subscription to *pattern*.

        *pattern* equals ``event.topic`` for a plain subscription.  Key changes
        that ``Peer.watch`` asked for come here too, with pattern "".
        """

    def request(request: Request) -> None:
        """Take a call or a streamed request; answer it by ``Peer.answer``.

        Raising a ``BrokerError`` refuses it: the caller gets that error.
        """

    def cancelled(id: str) -> None:
        """The caller has cancelled request *id*: an answer is not awaited any more.

        A session that has no such method is not told.
        """

    def reply(reply: Reply) -> None:
        """An answer came to a ``Peer.call`` or a ``Peer.request``."""

    def mail(mail: Mail) -> bool | Deferred[bool] | Coro[bool]:
        """Take a queued message, or a job as a ``Delivery``; False: not now, keep it until ``IPeer.collect``.

        With a Deferred, or a coroutine, the answer comes later: True when the client has acknowledged it; only then it
        is removed, and a job is finished.  What fails, or does not fire within ``TXBROKER_LEASE_SECONDS`` (of a
        ``Delivery``: its lease) and is cancelled then, is delivered again after a while: a message of a mailbox with
        those that were handed out behind it, in their order; for a job that is a failure.  When the session ends it is
        cancelled, too, and what it had is given back.

        A mailbox hands out at most 64 messages before it waits for the answers to them, a work queue as many jobs as
        the consumer has asked for, and a session with 256 answers due gets nothing more.  A job that is consumed
        without ``ack`` is not in the store while it is with a client: then a lost node may lose it.
        """

    def accepts_jobs(all_left: bool) -> bool:
        """Whether a job of a work queue could be sent now: little waits to leave for the client.

        *all_left*: whether nothing may wait.  After False, the session calls ``IPeer.collect`` when it may be true.
        """

    def probe() -> Awaitable[bool]:
        """Say whether the client is still alive, asking it if need be."""

    def closed(code: int, reason: str) -> Awaitable[object] | None:
        """The connection has ended, and nothing more can be sent.

        Frames that came whole before the end take effect, however it ended.  While
        some wait, return a Deferred or a coroutine that ends when they are done; the peer
        is closed then, otherwise right after this.  After ten seconds, and when the
        daemon stops, it is cancelled and the peer closed all the same.

        Only a client that the broker itself disconnects (``IPeer.disconnect``: it was
        kicked, or its credential has ended) may do nothing more.
        """


class IStreamSession(ISession):
    """A session of a stream dialect that has words for its end."""

    def last_words(code: int, reason: str) -> bytes:
        """Return what the client is sent before the broker closes its connection, perhaps b"".

        *code* is a close code of WebSocket, see ``CloseCode``.
        """


class IFollower(Interface):
    """A subscription that begins at a position, see ``IPeer.follow``.  ``IPeer.unsubscribe`` ends it."""

    topic: str = Attribute("The name or the pattern that it follows.")
    starts: Sequence[Start] = Attribute(
        "Where it begins: in its topic, or in each that its pattern has matched so far."
    )

    def start() -> None:
        """Begin to deliver: the client has been told where it begins."""

    def resume() -> None:
        """Go on: the client has room for events again."""
