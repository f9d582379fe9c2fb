"""The link between the supervisor and a worker: questions, answers, and what one tells the other, over a socket."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, TypeAlias

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IFileDescriptorReceiver
from twisted.logger import Logger
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.errors import BrokerError, Unavailable

log = Logger()


class Ask(msgspec.Struct, tag="ask", array_like=True):
    """A question.

    Attributes:
        id: of the question, at the side that asks.
        name: what is asked for.
        body: whatever that needs.
    """

    id: int
    name: str
    body: bytes


class Reply(msgspec.Struct, tag="reply", array_like=True):
    """The answer to the question of that id; None: there was an error."""

    id: int
    body: bytes | None


class Cancel(msgspec.Struct, tag="cancel", array_like=True):
    """Nobody waits for the answer to the question of that id any more."""

    id: int


class Notice(msgspec.Struct, tag="notice", array_like=True):
    """What needs no answer."""

    name: str
    body: bytes


Message: TypeAlias = Ask | Reply | Cancel | Notice

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


@implementer(IFileDescriptorReceiver)
class ControlLink(Int32StringReceiver):
    """One side of a link.

    Args:
        answer: returns, perhaps later, the answer to a question by its name and body.
        told: called with what the other side tells, its name and its body.
        lost: called when the other side has gone.
    """

    MAX_LENGTH = 1 << 28  # bytes of a message: bodies of clients are limited by a setting

    def __init__(
        self,
        answer: Callable[[str, bytes], Awaitable[bytes]],
        told: Callable[[str, bytes], object] = lambda name, body: None,
        lost: Callable[[], object] = lambda: None,
    ) -> None:
        self._answer, self._told, self._lost = answer, told, lost
        self._numbers = count(1)
        self._descriptors: deque[int] = deque()
        self._asked: dict[int, Deferred[bytes]] = {}
        self._answering: dict[int, Deferred[Any]] = {}
        self._handlers: dict[type[Any], Callable[[Any], object]] = {
            Ask: self._on_ask,
            Reply: self._on_reply,
            Cancel: self._on_cancel,
            Notice: lambda notice: self._told(notice.name, notice.body),
        }

    def ask(self, name: str, body: bytes = b"", descriptor: int | None = None) -> Deferred[bytes]:
        """Return the answer to a question; to cancel it lets the other side stop.

        Fails with ``Unavailable`` when there is none, or nobody to ask.  A *descriptor* is sent with it, and closed.
        """
        number = next(self._numbers)
        reply: Deferred[bytes] = Deferred(lambda _: self._cancel(number))
        if descriptor is not None:
            reply.addBoth(_closed, descriptor)
        if not self.connected:
            reply.errback(Unavailable("worker", name))
            return reply
        self._asked[number] = reply
        if descriptor is not None:
            transport: Any = self.transport
            transport.sendFileDescriptor(descriptor)
        self.sendString(_encode(Ask(number, name, body)))
        return reply

    def notify(self, name: str, body: bytes = b"") -> None:
        """Tell the other side something, if it is there."""
        if self.connected:
            self.sendString(_encode(Notice(name, body)))

    def descriptor(self) -> int:
        """Remove and return the first descriptor that was sent and not asked for; whoever asks closes it."""
        return self._descriptors.popleft()

    def close(self) -> None:
        """Close it."""
        if self.transport is not None:
            self.transport.loseConnection()

    # What Twisted calls

    def stringReceived(self, string: bytes) -> None:
        """Handle a message."""
        message = _decode(string)
        self._handlers[type(message)](message)

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """Keep a descriptor for the question that it was sent with."""
        self._descriptors.append(descriptor)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Give up all that waits."""
        self.connected = 0  # Twisted leaves it
        asked, self._asked = self._asked, {}
        for reply in asked.values():
            reply.errback(Unavailable("worker", "gone"))
        for answering in list(self._answering.values()):
            answering.cancel()
        while self._descriptors:
            os.close(self._descriptors.popleft())
        self._lost()

    def _cancel(self, number: int) -> None:
        if self._asked.pop(number, None) is not None and self.connected:
            self.sendString(_encode(Cancel(number)))

    def _on_ask(self, ask: Ask) -> None:
        answering = Deferred.fromCoroutine(self._answered(ask))
        if not answering.called:
            self._answering[ask.id] = answering
            answering.addBoth(self._on_answered, ask.id)

    def _on_answered(self, _: object, number: int) -> None:
        self._answering.pop(number, None)

    async def _answered(self, ask: Ask) -> None:
        body: bytes | None = None
        try:
            body = await self._answer(ask.name, ask.body)
        except CancelledError:
            return  # nobody waits for it
        except BrokerError as error:
            log.debug("no answer to {name}: {error}", name=ask.name, error=str(error))
        except Exception:
            log.failure("a question of another process could not be answered: {name}", name=ask.name)
        if self.connected:
            self.sendString(_encode(Reply(ask.id, body)))

    def _on_reply(self, reply: Reply) -> None:
        waiting = self._asked.pop(reply.id, None)
        if waiting is None:
            return
        if reply.body is None:
            waiting.errback(Unavailable("worker", "error"))
        else:
            waiting.callback(reply.body)

    def _on_cancel(self, cancel: Cancel) -> None:
        answering = self._answering.get(cancel.id)
        if answering is not None:
            answering.cancel()


def _closed(result: Any, descriptor: int) -> Any:
    os.close(descriptor)
    return result
