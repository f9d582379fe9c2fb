"""Operations on Redis, grouped: all that is asked for in one turn is one call of a script.

One call is under way at a time, and what is asked for meanwhile is the next: so
operations take effect in the order in which they were asked for, and the more
there is to do, the less each of them costs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from txredisapi import RedisError

from broker.errors import BrokerError, Unavailable
from broker.redis.connection import Connection, ResponseError
from broker.redis.script import Script

log = Logger()

MAX_WAITING = 20_000  # operations; more are refused at once
MAX_WAITING_BYTES = 64 * 1024 * 1024  # of what they carry
MAX_BATCH = 500  # operations in one call: Redis does nothing else meanwhile
MAX_BATCH_BYTES = 4 * 1024 * 1024
TIMEOUT = 2.0  # seconds that operations wait for Redis to come back
PROBE = 1.0  # seconds between two attempts to write while Redis refuses that

# Replies by which Redis says that another one would have to be asked.
ELSEWHERE = ("READONLY", "LOADING", "MASTERDOWN", "NOAUTH")


def _as_it_is(result: Any) -> Any:
    return result


@attrs.define(eq=False)
class Operation:
    """One thing to do.

    Attributes:
        words: the verb of the script, and its arguments.
        decode: makes the result of what the script has answered; may raise.
        size: the bytes that it carries, more or less.
        reads: whether it changes nothing, so that it can be repeated.
        origin: the session that it publishes for, if it does.
    """

    words: Sequence[bytes]
    decode: Callable[[Any], Any] = _as_it_is
    size: int = 0
    reads: bool = False
    origin: str = ""
    answer: Deferred[Any] = attrs.field(factory=Deferred, init=False)

    chained: ClassVar[bool] = False

    def peek(self) -> Sequence[bytes]:
        """Return the words that ask for what it must know first; none: nothing."""
        return ()

    def found(self, state: Any) -> None:
        """Take what the script says of the present state, which it could not act upon."""
        raise AssertionError(f"the script has stopped at {self.words[0]!r}")

    def follow(self, before: dict[Any, Any]) -> None:
        """Take into account what chained operations *before* in the same call will do, and add itself."""


class Batches:
    """What waits for Redis, and what it is at.

    A script gets a few words of the owner's, then for each operation the number
    of its words and those.  It answers with the results of those that it has done, and, if it has stopped at
    one, with the state that this one must know.

    Args:
        connection: leads to Redis.
        script: does the work.
        clock: times how long operations wait.
        preamble: returns the first words for the script.
        renew: called when the script says ``RENEW``; then the batch is repeated.
        probe: the words of an operation that writes, to see whether Redis takes writes.
        observe: called with the operations and the seconds of each call.
        failed: called with the number of operations that a failure took.

    Attributes:
        publishing: the origins of what is under way.
        answered: called whenever that was answered.
    """

    def __init__(
        self,
        connection: Connection,
        script: Script,
        clock: IReactorTime,
        *,
        preamble: Callable[[], list[bytes]],
        renew: Callable[[Any], Any] | None = None,
        probe: Sequence[bytes] = (),
        observe: Callable[[int, float], object] | None = None,
        failed: Callable[[int], object] | None = None,
    ) -> None:
        self.refusal = ""  # why Redis takes no writes; "" when it does
        self.publishing: frozenset[str] = frozenset()
        self.answered: Callable[[], object] = _ignore
        self._connection, self._script, self._clock = connection, script, clock
        self._preamble, self._renew = preamble, renew
        self._probe_words = probe
        self._observe, self._failed = observe or _ignore, failed or _ignore
        self._waiting: deque[Operation] = deque()
        self._bytes = 0  # of those that wait
        self._running = False
        self._usable = False
        self._next: IDelayedCall | None = None
        self._timeout: IDelayedCall | None = None
        self._probing: IDelayedCall | None = None
        self._stopped: Deferred[None] | None = None

    @property
    def trouble(self) -> str:
        """Why operations can not be done now; "" when they can."""
        return self._connection.trouble or self.refusal

    def start(self) -> None:
        """Begin to wait for a connection."""
        self._stopped = None
        self.refusal = ""
        self.closed()

    def stop(self) -> Deferred[None]:
        """Take no more; fire when all is done that was asked for, or Redis has not come back for it."""
        self._stopped = Deferred()
        stopped = self._stopped
        self._settle()
        return stopped

    def opened(self) -> None:
        """Use the connection."""
        self._usable = True
        self._cancel_patience()
        if self._waiting and not self._running and self._next is None:
            self._next = self._clock.callLater(0, self._begin)

    def closed(self) -> None:
        """Wait for another connection, for a while."""
        self._usable = False
        self._cancel_patience()
        self._timeout = self._clock.callLater(TIMEOUT, self._give_up)

    def submit(self, operation: Operation) -> Deferred[Any]:
        """Do *operation* after those that were submitted before.

        It fails with ``Unavailable`` when Redis can not be reached or refuses, or too much waits already.
        """
        if not self._usable and self._timeout is None:
            self._failed(1)
            return fail(Unavailable("redis", message=self._excuse))
        if len(self._waiting) >= MAX_WAITING or self._bytes + operation.size > MAX_WAITING_BYTES:
            self._failed(1)
            return fail(Unavailable("redis", message="Redis can not keep up: too much waits for it."))
        self._waiting.append(operation)
        self._bytes += operation.size
        if self._next is None and not self._running and self._usable:
            # At the end of this turn: what else comes in it goes along.
            self._next = self._clock.callLater(0, self._begin)
        return operation.answer

    def _begin(self) -> None:
        self._next = None
        if not (self._usable and self._waiting):
            return
        batch: list[Operation] = []
        size = 0
        while self._waiting and len(batch) < MAX_BATCH and size < MAX_BATCH_BYTES:
            operation = self._waiting.popleft()
            size += operation.size
            batch.append(operation)
        self._bytes -= size
        self._running = True
        self.publishing = frozenset(operation.origin for operation in batch if operation.origin)
        Deferred.fromCoroutine(self._run(batch)).addErrback(self._broke, batch).addBoth(self._ended)

    def _ended(self, _: object) -> None:
        self._running = False
        if self.publishing:
            self.publishing = frozenset()
            self.answered()
        # No turn in between: there is nothing to wait for.
        if self._waiting and self._usable:
            self._begin()
        else:
            self._settle()

    def _settle(self) -> None:
        stopped = self._stopped
        if stopped is not None and not stopped.called and not (self._waiting or self._running):
            for timer in (self._next, self._timeout, self._probing):
                if timer is not None:
                    timer.cancel()
            self._next = self._timeout = self._probing = None
            self._usable = False
            stopped.callback(None)

    async def _run(self, batch: list[Operation]) -> None:
        started = self._clock.seconds()
        protocol = self._connection.protocol
        rest = batch
        try:
            chained = any(operation.chained for operation in batch)
            if chained:
                await self._look(protocol, batch)
            while rest:
                if chained:
                    self._chain(rest)
                rest = self._answer(rest, *await self._call(protocol, [operation.words for operation in rest]))
        except ResponseError as error:
            self._fell(rest, error)
        except RedisError as error:
            self._lost(rest, error)
        else:
            self._observe(len(batch), self._clock.seconds() - started)

    async def _look(self, protocol: Any, batch: list[Operation]) -> None:
        """Ask for what some of *batch* must know first."""
        asking = [(operation, words) for operation in batch if (words := operation.peek())]
        if not asking:
            return
        results, _ = await self._call(protocol, [words for _, words in asking])
        for (operation, _), result in zip(asking, results, strict=True):
            if isinstance(result, ResponseError):
                raise result
            operation.found(result)

    @staticmethod
    def _chain(batch: list[Operation]) -> None:
        before: dict[Any, Any] = {}
        for operation in batch:
            if operation.chained:
                operation.follow(before)

    async def _call(self, protocol: Any, asked: list[Sequence[bytes]]) -> tuple[list[Any], Any]:
        while True:
            words = self._preamble()
            for each in asked:
                words.append(b"%d" % len(each))
                words += each
            try:
                results, state = await self._script.call(protocol, words)
                return results, state
            except ResponseError as error:
                if self._renew is None or "RENEW" not in str(error):
                    raise
            await self._renew(protocol)

    def _answer(self, batch: list[Operation], results: list[Any], state: Any) -> list[Operation]:
        """Answer those of *batch* that were done; return the others."""
        # Before the callbacks: they may ask.
        self._note(
            next((str(result) for result in results if isinstance(result, ResponseError)), ""),
            not all(operation.reads for operation in batch[: len(results)]),
        )
        for operation, result in zip(batch, results, strict=False):
            if isinstance(result, ResponseError):
                self._fail((operation,), f"Redis refuses: {result}.")
                continue
            try:
                value = operation.decode(result)
            except BrokerError as error:
                operation.answer.errback(error)
            except Exception:
                operation.answer.errback()
            else:
                operation.answer.callback(value)
        rest = batch[len(results) :]
        if rest:
            rest[0].found(state)
        return rest

    def _note(self, refusal: str, written: bool) -> None:
        if refusal:
            if not self.refusal:
                log.error("Redis refuses: {reason}", reason=refusal)
            self.refusal = f"Redis refuses: {refusal}"
            if any(word in refusal for word in ELSEWHERE):
                self._connection.drop(refusal)
            if self._probing is None and self._probe_words and self._stopped is None:
                self._probing = self._clock.callLater(PROBE, self._probe)
        elif written and self.refusal:
            log.info("Redis takes writes again")
            self.refusal = ""

    def _probe(self) -> None:
        self._probing = None
        if self.refusal:
            self.submit(Operation(self._probe_words)).addErrback(_known)

    def _fell(self, batch: list[Operation], error: ResponseError) -> None:
        """Let *batch* fail since the script as a whole did."""
        self._note(str(error), False)
        self._connection.drop(str(error))
        self._fail(batch, f"Redis refuses: {error}.")

    def _lost(self, batch: list[Operation], error: RedisError) -> None:
        """Let *batch* fail since there was no reply; what only reads is tried again with the next connection."""
        if self._usable:
            self.closed()
            self._connection.drop(str(error))
        for operation in reversed(batch):
            if operation.reads:
                self._waiting.appendleft(operation)
                self._bytes += operation.size
        self._fail([operation for operation in batch if not operation.reads], f"Redis has not answered: {error}.")

    def _fail(self, batch: Iterable[Operation], message: str) -> None:
        for operation in batch:
            # A new one for each caller: whoever raises it adds its own traceback.
            self._failed(1)
            operation.answer.errback(Unavailable("redis", message=message))

    def _broke(self, failure: Any, batch: list[Operation]) -> None:
        log.failure("operations on Redis failed", failure)
        for operation in batch:
            if not operation.answer.called:
                operation.answer.errback(failure)

    def _give_up(self) -> None:
        self._timeout = None
        waiting, self._waiting, self._bytes = self._waiting, deque(), 0
        self._fail(waiting, self._excuse)
        self._settle()

    @property
    def _excuse(self) -> str:
        return f"Redis can not be used: {self._connection.trouble}."

    def _cancel_patience(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None


def _known(failure: Any) -> None:
    """Let pass what is told by ``refusal`` and the log already."""
    failure.trap(Unavailable)


def _ignore(*_: object) -> None:
    """Stand in for an observer that was not given."""
