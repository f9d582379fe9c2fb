"""A connection to Redis, which is made again by itself when it is lost."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Connection as TcpConnection
from twisted.logger import Logger
from twisted.python.failure import Failure
from txredisapi import BaseRedisProtocol, InvalidData, RedisError, RedisFactory, ResponseError
from txredisapi import ConnectionError as NotConnected
from txredisapi import TimeoutError as NotAnswered
from zope.interface import implementer

from broker.errors import Invalid
from broker.redis.address import RedisAddress
from broker.redis.rights import Rights, is_denial
from broker.redis.slices import Slices

__all__ = ["Connection", "NotUsable", "Protocol", "ResponseError"]

log = Logger()

NOT_CONNECTED_YET = "not connected yet"
REPLY_TIMEOUT = 5.0  # seconds without a reply after which the connection is given up
BRIEF = 1.0  # seconds of use; one that is given up sooner may be of no use the next time either
# Of a TcpConnection, to send what it is given at once.
TCP_NAMES = ("dataBuffer", "_tempDataBuffer", "_writeDisconnecting", "_writeDisconnected", "_aborting")


# Where in a script Redis has refused, which says nothing to an operator.
SCRIPT_POSITION = re.compile(
    r"^.*@user_script: ?\d+: (-(?=[A-Z]+ )|(?=The user executing ))| script: \w+, on @user_script:\d+\.?$"
)


def refusal_text(error: BaseException | None) -> str:
    """Return why Redis refuses, in its words, without the position in a script."""
    return SCRIPT_POSITION.sub("", str(error))


class NotUsable(Exception):
    """There is a connection, but not to a Redis that can serve now; the message says why."""


def make_reply_parser() -> Any:
    """Return a new parser of the replies of Redis, a ``hiredis.Reader``.

    Raises:
        Invalid: hiredis is not installed.
    """
    # Imported here: it is an extra, without which everything works but Redis.
    try:
        import hiredis
    except ModuleNotFoundError as error:
        if error.name != "hiredis":
            raise
        raise Invalid("hiredis", message="Redis needs hiredis: pip install txbroker[redis]") from None
    return hiredis.Reader(protocolError=InvalidData, replyError=ResponseError)


class Protocol(BaseRedisProtocol):
    """One TCP or unix connection; its owner authenticates before it is used.

    The library would log in by itself, but it gives up for good when that
    fails, and a Redis that is full or loading today is not tomorrow.
    """

    factory: Any
    lost_reason = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._replies = make_reply_parser()
        self._awaited: deque[tuple[Deferred[Any], float]] = deque()  # replies, and when each is due
        self._timer: IDelayedCall | None = None
        self._sender: Callable[[bytes], object] | None = None

    def connectionMade(self) -> None:
        """Let the owner authenticate."""
        Deferred.fromCoroutine(self._begin()).addCallbacks(self._authenticated, self._refused)

    async def _begin(self) -> None:
        owner = self.factory.owner
        try:
            await owner.authenticate(self)
        except ResponseError as error:
            if owner.rights is None or not is_denial(str(error)):
                raise
            await owner.rights.look(self)
            if not owner.rights.problem:
                raise
            raise NotUsable(owner.rights.problem) from None  # which names all that is missing
        if owner.rights is not None:
            await owner.rights.look(self)

    def _authenticated(self, _: None) -> None:
        if self.connected:
            super().connectionMade()
            self.factory.owner.opened(self)

    def _refused(self, failure: Failure) -> None:
        self.factory.owner.refused(failure, self.lost_reason)
        self.transport.abortConnection()

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        """Parse replies."""
        # Without the conversions that the library makes, none of which we want.
        self._replies.feed(data)
        while (reply := self._replies.gets()) is not False:
            self.replyReceived(reply)

    def execute_command(self, *words: Any, **_: Any) -> Deferred[Any]:
        """Send a command; fire with its reply, or fail with a ``RedisError``."""
        # One Deferred for each, and one timer for all, where the library has three and a timer.
        if not self.connected:
            raise NotConnected("Not connected")
        clock = self.factory.owner.reactor
        reply: Deferred[Any] = Deferred()
        self._awaited.append((reply, clock.seconds() + self.replyTimeout))
        if self._timer is None:
            self._timer = clock.callLater(self.replyTimeout, self._check_timeout)
        self._write(self._build_command(*words))
        return reply

    def replyReceived(self, reply: Any) -> None:
        """Answer the oldest command."""
        if self._awaited:
            awaited, _ = self._awaited.popleft()
            if isinstance(reply, Exception):
                awaited.errback(reply)
            else:
                awaited.callback(reply)

    def _check_timeout(self) -> None:
        """Give the connection up when the oldest command has waited for too long."""
        self._timer = None
        if not self._awaited:
            return
        clock = self.factory.owner.reactor
        left = self._awaited[0][1] - clock.seconds()
        if left > 0:
            self._timer = clock.callLater(left, self._check_timeout)
            return
        self._fail_all(NotAnswered, f"no answer within {self.replyTimeout:g} s")
        self.transport.abortConnection()

    def _fail_all(self, error: type[RedisError], reason: str) -> None:
        while self._awaited:
            awaited, _ = self._awaited.popleft()
            awaited.errback(error(reason))

    def connectionLost(self, why: Failure = connectionDone) -> None:
        """Fail every command that waits for its reply."""
        self.lost_reason = why.getErrorMessage()
        # The owner first: whose command has failed may issue the next at once.
        self.factory.owner.closed(self, why)
        super().connectionLost(why)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._fail_all(NotConnected, "Lost connection")

    def send(self, *words: bytes) -> None:
        """Send a command whose replies go to ``on_message`` of the owner."""
        self._write(self._build_command(*words))

    def _write(self, data: bytes) -> None:
        if self._sender is None:
            self._sender = sender_for(self.transport)
        self._sender(data)

    def _build_command(self, *args: Any, **kwargs: Any) -> bytes:
        """Return the command as bytes, in a tenth of the time that the library takes for it."""
        words = [word if type(word) is bytes else str(word).encode() for word in args]
        return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


class SubscribingProtocol(Protocol):
    """A connection whose replies, once it is authenticated, are messages of subscriptions.

    They are passed on in slices: thousands may come at once, and each may have many receivers.
    """

    _waits = False  # whether replies wait for the next slice

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        """Parse replies, after those that wait."""
        self._replies.feed(data)
        if not self._waits:
            self._pass_on()

    def _pass_on(self) -> None:
        self._waits = False
        next_reply = self._replies.gets
        if (reply := next_reply()) is False:
            return
        self.replyReceived(reply)
        if (reply := next_reply()) is False:
            return  # as usual, it was the only one
        slices = self.factory.owner.slices
        end, now = slices.deadline(), slices.now
        while self.connected and reply is not False:
            self.replyReceived(reply)
            if now() >= end:
                self._waits = True
                self.transport.pauseProducing()  # else it would be read faster than it is passed on
                slices.add(self._go_on)
                return
            reply = next_reply()

    def _go_on(self) -> None:
        if self.connected:  # else what has not been passed on is missing, as what was on its way
            self._pass_on()
            if not self._waits:
                self.transport.resumeProducing()

    def replyReceived(self, reply: Any) -> None:
        """Pass each message to the owner, in order."""
        # The library takes the second confirmation of one SUBSCRIBE for the reply to the next command.
        if self._ready:
            self.factory.owner.on_message(reply)
        else:
            super().replyReceived(reply)


class _Factory(RedisFactory):
    """Keeps one connection; with jitter, for all nodes would reconnect at once."""

    initialDelay = 0.1
    maxDelay = 1.0  # no longer: after a failover writes wait for the last node, see the timeline of the store
    factor = 1.8
    jitter = 0.25

    def __init__(self, owner: Connection, protocol: type[Protocol]) -> None:
        # The credentials are not its business: see Protocol.
        super().__init__(None, None, 1, isLazy=True, charset=None, replyTimeout=REPLY_TIMEOUT, convertNumbers=False)
        self.owner = owner
        self.protocol = protocol

    def retryDelay(self, attempt: int) -> float:
        """Return the seconds until the next attempt to connect, after so many that have failed."""
        delay: float = super().retryDelay(max(attempt, self.owner.given_up))
        return delay


@implementer(IStreamClientEndpoint)
class Connection:
    """Connects, authenticates, and connects again.

    Args:
        address: where.
        reactor: connects.
        purpose: what it is for, as log lines say it.
        prepare: called with each new protocol before it is used; may raise ``NotUsable``.
        opened: called when ``protocol`` is ready for use.
        closed: called when the one that was ready is lost.
        on_message: called with each reply, if the connection is for subscriptions.
        slices: those in which replies are passed on then.
        rights: looks whether the server permits what the connection is for.

    Attributes:
        problem: why it can not be used, in some words; "" when it can.
        protocol: the one that is ready for use, or None.
        reactor: as it was given.
        rights: as they were given.
        given_up: how many in a row were dropped soon after they were ready.

    Raises:
        Invalid: Redis support is not installed, or the certificate that *address* names can not be used.
    """

    def __init__(
        self,
        address: RedisAddress,
        reactor: Any,
        *,
        purpose: str,
        prepare: Callable[[Any], Awaitable[None]],
        opened: Callable[[], object],
        closed: Callable[[], object],
        on_message: Callable[[Any], object] | None = None,
        slices: Slices | None = None,
        rights: Rights | None = None,
    ) -> None:
        # So that what is missing is an error here, not of the first connection.
        make_reply_parser()
        address.check_authority()
        self.problem = NOT_CONNECTED_YET
        self.protocol: Any = None
        self.on_message, self.slices, self.rights = on_message, slices, rights
        self._address, self.reactor, self._purpose = address, reactor, purpose
        self.given_up, self._ready_since, self._dropped = 0, 0.0, False
        self._prepare, self._opened, self._closed = prepare, opened, closed
        self._protocol_class = Protocol if on_message is None else SubscribingProtocol
        self._factory: _Factory | None = None

    def start(self) -> None:
        """Begin to connect."""
        self.problem = NOT_CONNECTED_YET
        self._factory = _Factory(self, self._protocol_class)
        self._factory.startConnecting(self)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Try to connect, and note why that failed."""
        return maybeDeferred(self._try, protocolFactory).addErrback(self._failed)

    def _try(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        return self._address.endpoint(self.reactor).connect(factory)

    def _failed(self, failure: Failure) -> Failure:
        if not failure.check(CancelledError):
            self._note(failure.getErrorMessage())
        return failure

    def stop(self) -> Deferred[Any]:
        """Disconnect for good."""
        factory, self._factory = self._factory, None
        self.problem = "stopped"
        if self.rights is not None:
            self.rights.stop()
        return succeed(None) if factory is None else factory.disconnect()

    def drop(self, reason: str) -> None:
        """Abort the connection, if there is one; another is made."""
        if self.protocol is not None:
            self._dropped = True
            self._note(reason)
            self.protocol.transport.abortConnection()

    # What the protocol calls.

    async def authenticate(self, protocol: Any) -> None:
        """Log in, choose the database and prepare."""
        address = self._address
        if address.password:
            names = (address.user,) if address.user else ()
            await protocol.execute_command(b"AUTH", *names, address.password)
        if address.db:
            await protocol.execute_command(b"SELECT", address.db)
        await self._prepare(protocol)

    def opened(self, protocol: Any) -> None:
        """Use *protocol*."""
        if self._factory is None:
            return
        self.protocol, self._ready_since = protocol, self.reactor.seconds()
        if self.problem != NOT_CONNECTED_YET:
            log.info("Redis {redis} can be used again for {purpose}", redis=str(self._address), purpose=self._purpose)
        self.problem = ""
        self._opened()

    def refused(self, failure: Failure, lost_reason: str) -> None:
        """Note why a connection can not be used; *lost_reason* says why it was lost, or ""."""
        if failure.check(NotUsable, RedisError) is None:
            log.failure("no connection to Redis {redis}", failure, redis=str(self._address))
        self._note(lost_reason or refusal_text(failure.value))

    def closed(self, protocol: Any, why: Failure) -> None:
        """Note that *protocol* was lost."""
        if protocol is not self.protocol:
            return
        self.protocol = None
        if self.reactor.seconds() - self._ready_since >= BRIEF:
            self.given_up = 0
        elif self._dropped:
            self.given_up += 1
        self._dropped = False
        self._note(self.problem or f"the connection was lost: {why.getErrorMessage()}")
        self._closed()

    def _note(self, problem: str) -> None:
        if self._factory is not None and problem != self.problem:
            self.problem = problem
            log.warn(
                "Redis {redis} can not be used for {purpose}: {problem}",
                redis=str(self._address),
                purpose=self._purpose,
                problem=problem,
            )


def sender_for(transport: Any) -> Callable[[bytes], object]:
    """Return what sends bytes on *transport*, in order with ``write``; that itself for TLS, and other kinds.

    Twisted's ``write`` asks the reactor to be told when there is room, and sends then: one more iteration, and three
    system calls, for each of the few hundred bytes that a batch has.
    """
    if isinstance(transport, TcpConnection) and all(hasattr(transport, name) for name in TCP_NAMES):
        return partial(_send, transport)
    return transport.write  # type: ignore[no-any-return]


def _send(transport: Any, data: bytes) -> None:
    if not (transport.dataBuffer or transport._tempDataBuffer) and _is_open(transport):
        try:
            sent = transport.socket.send(data)
        except OSError:
            sent = 0  # no room, or an error: the reactor will meet that again, and report it
        if sent == len(data):
            return
        data = data[sent:]
    transport.write(data)


def _is_open(transport: Any) -> bool:
    return transport.connected and not (
        transport._writeDisconnecting or transport._writeDisconnected or transport._aborting
    )
