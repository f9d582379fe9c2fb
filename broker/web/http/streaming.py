"""Bodies that are made while they are sent: how they are framed, and that their source waits for the client.

A source is a ``BodyProducer``; ``pulled`` makes one of an asynchronous iterator.  It is started when the
head of the answer is written, paused while what was written waits for the client, and stopped when
the client has gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, maybeDeferred
from twisted.internet.interfaces import IConsumer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.core.slices import Slices
from broker.errors import BrokerError
from broker.messages import BodyProducer
from broker.web.http.pulled import PulledBody

log = Logger()


class Framing:
    """How the client sees where a body ends: here, by the end of the connection."""

    field = b""
    delimits = False

    def frame(self, piece: bytes) -> bytes:
        """Return *piece*, which is not empty, as it is sent.

        Raises:
            ValueError: the body is longer than was said.
        """
        return piece

    def last(self) -> bytes:
        """Return what is sent at the end of the body.

        Raises:
            ValueError: the body is shorter than was said.
        """
        return b""


class Chunked(Framing):
    """RFC 9112, 7.1: "The chunked transfer coding wraps content in order to transfer it as a series of chunks".

    All bodies share one: what one client after the other is sent is framed once, and kept once while it waits.
    """

    field = b"Transfer-Encoding: chunked\r\n"
    delimits = True
    _piece = _chunk = b""

    def frame(self, piece: bytes) -> bytes:
        """Return *piece* as a chunk."""
        if piece is not self._piece:
            self._piece, self._chunk = piece, b"%x\r\n%b\r\n" % (len(piece), piece)
        return self._chunk

    def last(self) -> bytes:
        """Return the last chunk, which is empty, and no trailers."""
        return b"0\r\n\r\n"


CHUNKED = Chunked()


class OfLength(Framing):
    """By the length that was told before."""

    delimits = True

    def __init__(self, length: int) -> None:
        self.field = b"Content-Length: %d\r\n" % length
        self._left = length

    def frame(self, piece: bytes) -> bytes:
        """Return *piece*."""
        self._left -= len(piece)
        if self._left < 0:
            raise ValueError("a body is longer than its length")
        return piece

    def last(self) -> bytes:
        """Return nothing, if all has been sent."""
        if self._left:
            raise ValueError(f"a body lacks {self._left} bytes of its length")
        return b""


def framing_of(version: str, length: int | None) -> Framing:
    """Return how a body of *length* bytes, or of any number for None, is sent to a client of that HTTP *version*."""
    if length is not None:
        return OfLength(length)
    # RFC 9112, 6.1: "A server MUST NOT send a response containing Transfer-Encoding unless the corresponding
    # request indicates HTTP/1.1 (or later minor revisions)."
    return CHUNKED if version == "1.1" else Framing()


def is_stream(body: object) -> bool:
    """Whether *body* is made while it is sent."""
    return hasattr(body, "__aiter__") or hasattr(body, "startProducing")


def source_of(body: Any, slices: Slices) -> BodyProducer:
    """Return what makes *body*."""
    return body if hasattr(body, "startProducing") else PulledBody(body.__aiter__(), slices)


def length_of(body: object) -> int | None:
    """Return how many bytes *body* says that it has, as an ``IBodyProducer`` may; None when it does not."""
    length = getattr(body, "length", None)
    return length if isinstance(length, int) else None


def stop(source: BodyProducer, release: Callable[[], object]) -> None:
    """Stop *source*, which nobody reads; call *release* when it has ended."""
    stopping = maybeDeferred(source.stopProducing)
    stopping.addErrback(lambda failure: _log(failure, "a body failed at its end")).addBoth(lambda _: release())


@implementer(IConsumer)
class StreamedAnswer:
    """The body of one answer on its way from its source to the client.

    Args:
        source: makes the body.
        framing: how the client sees where it ends.
        send: called with the bytes for the client.
        ended: called once when there is no more, with this and whether the client has it all; not after ``cancel``.
        release: called once when the source has ended, however it did.

    Attributes:
        started: whether ``start`` has returned.
    """

    def __init__(
        self,
        source: BodyProducer,
        framing: Framing,
        send: Callable[[bytes], object],
        ended: Callable[[StreamedAnswer, bool], object],
        release: Callable[[], object],
    ) -> None:
        self.started = False
        self._source, self._framing = source, framing
        self._send, self._ended, self._release = send, ended, release
        self._begun = self._paused = self._over = False

    # IConsumer

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """No-op: the source is known."""

    def unregisterProducer(self) -> None:
        """No-op: the source has ended when its Deferred fires."""

    def write(self, data: bytes) -> None:
        """Send a piece of the body; a no-op when the client has gone.

        Raises:
            TypeError: it is not bytes.
            ValueError: the body is longer than was said.
        """
        if not isinstance(data, bytes):
            raise TypeError(f"a piece of a body must be bytes, not {type(data).__name__}")
        # RFC 9112, 7.1: a chunk without data would be the last one.
        if data and not self._over:
            self._send(self._framing.frame(data))

    # Called by the channel

    def start(self, *, paused: bool) -> None:
        """Begin, but where the client is *paused* not before ``resume``.  It may end at once."""
        self._paused = paused
        if not paused:
            self._begin()
        self.started = True

    def skip(self) -> None:
        """End at once: the answer has no body."""
        self._over = True
        stop(self._source, self._release)
        self._ended(self, True)

    def pause(self) -> None:
        """What was sent waits for the client: send no more for now."""
        if not (self._paused or self._over):
            self._paused = True
            self._source.pauseProducing()

    def resume(self) -> None:
        """The client has taken what was sent."""
        if not self._paused or self._over:
            return
        self._paused = False
        if self._begun:
            self._source.resumeProducing()
        else:
            self._begin()

    def drain(self) -> None:
        """Let the source end soon, if it is of a kind that would go on for ever."""
        drain = getattr(self._source, "drain", None)
        if drain is not None and not self._over:
            drain()

    def cancel(self) -> None:
        """Stop the source: the client has gone."""
        if not self._over:
            self._over = True
            stop(self._source, self._release)

    def _begin(self) -> None:
        self._begun = True
        maybeDeferred(self._source.startProducing, self).addCallbacks(self._complete, self._failed)

    def _complete(self, _: object) -> None:
        if self._over:
            return
        try:
            last = self._framing.last()
        except ValueError:
            self._failed(Failure())
            return
        if last:
            self._send(last)
        self._finish(complete=True)

    def _failed(self, failure: Failure) -> None:
        """End the connection: by that the client sees that what it has got is not all."""
        _log(failure, "a body failed")
        self._finish(complete=False)

    def _finish(self, *, complete: bool) -> None:
        if not self._over:
            self._over = True
            self._release()
            self._ended(self, complete)


def _log(failure: Failure, what: str) -> None:
    if failure.check(BrokerError):
        log.warn("{what}: {reason}", what=what, reason=str(failure.value))
    elif not failure.check(CancelledError):
        log.failure("{what}", failure, what=what)
