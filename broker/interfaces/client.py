"""A client of the broker, and its connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import Attribute, Interface

from broker.errors import BrokerError
from broker.interfaces.clocks import IWallClock
from broker.interfaces.links import ILink
from broker.interfaces.sessions import ISession
from broker.messages import Identity


class IClient(Interface):
    """What a dialect knows of its client, and what becomes of the connection."""

    id: str = Attribute("The session id; other clients may learn it, it is no credential.")
    dialect: str = Attribute("The name of the dialect it speaks.")
    address: str = Attribute("The IP address or socket path it comes from.")
    identity: Identity = Attribute("Who it is, as its credential says.")
    admitted: bool = Attribute("Whether it may do anything yet; not before ``identify`` where that is required.")
    client: str = Attribute("Its client id: of the credential, else the name it took, else the session id.")
    named: str = Attribute("The client id it took by ``take_name``, or ''.")
    member: str = Attribute("Whose stored memberships it has, see ``become``; '' for nobody's.")
    session: ISession | None = Attribute("The session that events, requests, replies and mail go to, once bound.")
    closed: bool = Attribute("Whether ``close`` was called.")
    clock: IReactorTime = Attribute("For timers, and for how long something takes; a ``task.Clock`` in tests.")
    wall: IWallClock = Attribute("For dates, and for until when a key lives: the time of day, as the store has it.")
    epoch: str = Attribute("As known last; it changes when the store was wiped: ids of before mean nothing then.")
    refused: bool = Attribute("Whether it was refused anything by permission, rate or credential: that is logged.")
    tries_left: int = Attribute("How many wrong credentials may still be shown.")
    send_queue_bytes: int = Attribute("How many bytes may wait for it: ``TXBROKER_SEND_QUEUE_BYTES``.")
    slow_grace_seconds: float = Attribute("For how long more may: ``TXBROKER_SLOW_GRACE_SECONDS``.")
    subscriptions: Sequence[str] = Attribute("The topics and patterns it has subscribed to, in that order.")
    acknowledged: Sequence[str] = Attribute("The topics whose streamed requests it takes, sorted.")
    consumed: Sequence[str] = Attribute("The work queues it takes messages from, sorted.")
    serving: Mapping[str, object] = Attribute("The requests it has not answered yet, by ``Request.id``.")

    def hold(change: int) -> None:
        """As ``ILink.hold``, for a session that has no link; beyond the bounds it is disconnected with 1013."""

    def slow_consumer(policy: str = "close") -> None:
        """Count it as a client that reads too slowly; *policy* says what is done about it.

        A session that has no link and ends for it calls this before; that is logged.
        """

    def bind(
        session: ISession,
        disconnect: Callable[[int, str], object] | None = None,
        warn: Callable[[float], object] | None = None,
        link: ILink | None = None,
    ) -> None:
        """Let events, requests, replies and mail go to *session*.

        *disconnect* closes its connection; it is called with a close code and a
        reason when the broker must disconnect the client: with 1008 when its credential
        has expired or is not configured any more.  *warn* is called with the seconds that
        are left, at most 30, before a credential expires.  Without them, the methods of the session
        that are called so are used, if it has them.  By *link* the broker notices that the client does not
        read the answers to its streamed requests, and lets who sends them wait.

        The port does this for a WebSocket, with ``ILink.close``, when the dialect has not.
        """

    def appear() -> None:
        """Be visible to others under the client id, and get the mail that waits for it."""

    def disconnect(code: int, reason: str) -> None:
        """Close the client's connection; a no-op without one."""

    def fail(what: str) -> None:
        """Log the exception being handled as a bug in *what*, and disconnect with 1011."""

    def undo() -> None:
        """Undo everything it did; it stays who it is and may begin again."""

    def close() -> None:
        """Undo everything it did, for good.  Idempotent."""

    def ignore(messages: int = 1) -> None:
        """Count *messages* that asked for nothing, in the metrics and against the rate; never raises."""

    def take_token() -> None:
        """Count a message that no verb follows, such as a ping, against the rate.

        Raises:
            RateLimited: there were too many.
        """

    def unauthenticated(verb: str, explanation: str = "") -> BrokerError:
        """Return the error for what a client may not do before it has shown a credential, and log it.

        *explanation* is what was wrong with one that it has shown, if it may be told that.
        """

    def deny(verb: str, name: str, setting: str = "TXBROKER_PERMISSIONS_FILE") -> BrokerError:
        """Return the error for what the dialect itself does not permit, and log it as every refusal is.

        *setting* is what the operator could change, or "".
        """

    def pace() -> None:
        """Count a frame against the rate before it is decoded; its first verb is then not counted again.

        Raises:
            RateLimited: there were too many.
        """

    def take_one_token() -> None:
        """Count all that this peer does from now on once against the rate: it makes one HTTP request.

        Raises:
            RateLimited: there were too many.
        """

    def pause(seconds: float) -> Deferred[None]:
        """Fire in *seconds*."""

    def about() -> dict[str, Any]:
        """Return what the daemon is: name, version, kind of store, epoch and more; nothing confidential."""
