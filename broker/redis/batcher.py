"""Operations on Redis in batches: all that are submitted in one loop iteration are one call of a script.

One call is under way at a time, and what is submitted meanwhile is the next: so
operations take effect in the order in which they were submitted, and the more
there is to do, the less each of them costs.

A call is bounded by what it carries and by what it returns.  What the script leaves undone, because there
was enough to return or because more must be known first, is in the next call, alone; operations on other
places do not wait for it.  Nor do they wait for changes of large values, of which each call does a few.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from math import inf
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from txredisapi import RedisError

from broker.errors import BrokerError, NotDone, Unavailable
from broker.redis.address import RedisAddress
from broker.redis.chains import Chain
from broker.redis.connection import Connection, ResponseError, refusal_text
from broker.redis.form import NEWER_FORM
from broker.redis.heavy import HeavyQueue
from broker.redis.operations import AGAIN, Operation
from broker.redis.postponed import Postponed
from broker.redis.replicas import Replicas
from broker.redis.rights import Rights, is_denial
from broker.redis.script import Script
from broker.redis.slices import Slices

__all__ = ["Batcher", "Operation"]

log = Logger()

MAX_PENDING = 20_000  # operations; more are refused at once
MAX_PENDING_BYTES = 16 * 1024 * 1024  # of what they carry, those under way too
BACKLOG_BYTES = 1024 * 1024  # of them, from which on long messages of clients wait
RESUME_BYTES = 512 * 1024  # of those that are not under way, with which they go on
MAX_BATCH = 500  # operations in one call: Redis does nothing else meanwhile
MAX_BATCH_BYTES = 4 * 1024 * 1024  # of what they carry, and of what they are expected to return
MAX_SENT_BYTES = 1024 * 1024  # of what they carry alone, which is copied to be sent
MAX_REPLY_BYTES = 4 * 1024 * 1024  # that a call has read before it leaves further reads to the next
MAX_LOOKED = 2 * MAX_BATCH  # operations that are looked at for one call
RECONNECT_TIMEOUT = 2.0  # seconds that operations wait for a connection
UNUSABLE = "Redis can not be used."  # what clients are told of it
TOO_MUCH = "Redis can not keep up: too much waits for it."
TOO_MANY_LARGE = "Redis can not keep up: too many large values change."
PROBE_INTERVAL = 1.0  # seconds between two attempts to write while Redis refuses that

# Errors by which Redis says that another server, or a new connection, is needed; or another version of this program.
RECONNECT_ERRORS = ("READONLY", "LOADING", "MASTERDOWN", "NOAUTH", NEWER_FORM)


class Batcher:
    """Calls one script on one Redis with the operations that are submitted.

    The script gets a few words of the owner's, then for each operation the number of its words and those.
    It answers with the results, and with numbers and states of the operations that it has left undone.

    Args:
        address: where Redis is.
        script: does the work.
        reactor: connects, and times how long operations wait.
        slices: those in which operations are answered; they get to know of a backlog.
        preamble: returns the first words for the script.
        prepare: called with each new protocol before it is used; may raise ``NotUsable``.
        opened: called whenever Redis can be used.
        refresh: called with the protocol when the script says ``STALE_EPOCH``; then the batch is repeated.
        probe: the words of an operation that writes as all others do, to see whether Redis accepts that: it is done
            with each new connection, and while Redis refuses something.
        marks: whether the script counts calls that write: after the preamble it gets ``mark``, and "1" if any
            of the operations writes.
        rights: looks whether the server permits what the script does.
        wait: how many replicas must have a write before it is answered, and the milliseconds that takes at most;
            otherwise it fails although it may have been done.
        observe: called with the operations and the seconds of each call.
        failed: called with the number of operations that a failure took.

    Attributes:
        connection: leads to Redis.
        refusal: why Redis accepts no writes; "" when it does.
        publishing: the origins of the operations that are under way.
        mark: how many calls have written, as the last answer has shown; 0 at first.

    Raises:
        Invalid: Redis support is not installed.
    """

    def __init__(
        self,
        address: RedisAddress,
        script: Script,
        reactor: Any,
        slices: Slices,
        *,
        purpose: str,
        preamble: Callable[[], list[bytes]],
        prepare: Callable[[Any], Awaitable[None]] | None = None,
        opened: Callable[[], object] | None = None,
        refresh: Callable[[Any], Awaitable[None]] | None = None,
        probe: Sequence[bytes],
        marks: bool = False,
        rights: Rights | None = None,
        wait: tuple[int, int] = (0, 0),
        observe: Callable[[int, float], object] | None = None,
        failed: Callable[[int], object] | None = None,
    ) -> None:
        self.connection = Connection(
            address,
            reactor,
            purpose=purpose,
            prepare=self._prepare,
            opened=self._on_opened,
            closed=self._on_closed,
            rights=rights,
        )
        self.refusal = ""
        self.mark = 0
        self.publishing: frozenset[str] = frozenset()
        self._on_answer: set[Callable[[], object]] = set()  # to be called when they were answered
        self._script = script
        self._clock: IReactorTime = reactor
        self._slices = slices
        self._preamble, self._prepare_owner, self._refresh = preamble, prepare, refresh
        self._opened = opened or _ignore
        self._probe_words = probe
        self._marks = marks
        self._replicas = Replicas(*wait, reactor, self.connection) if wait[0] else None
        self._unsafe = ""  # why what the last call has written may be lost, or ""
        self._observe, self._failed = observe or _ignore, failed or _ignore
        self._preparing: list[Callable[[], object]] = []
        self._waiting: deque[Operation] = deque()
        self._postponed = Postponed()  # those that are older than all that wait
        self._heavy = HeavyQueue()
        self._bytes = 0  # of all three
        self._sent_bytes = 0  # of those under way
        self._has_backlog = False
        self._running = False
        self._usable = False
        self._next: IDelayedCall | None = None
        self._timeout: IDelayedCall | None = None
        self._probing: IDelayedCall | None = None
        self._probes = 0  # that wait, or are under way
        self._stopped: Deferred[None] | None = None

    @property
    def problem(self) -> str:
        """Why operations can not be done now; "" when they can."""
        problem = self.connection.problem
        if not problem or is_denial(problem):
            problem = self._not_permitted or problem or self.refusal
        return problem or (self._replicas.problem if self._replicas else "")

    @property
    def _not_permitted(self) -> str:
        return self.connection.rights.problem if self.connection.rights is not None else ""

    def start(self) -> None:
        """Begin to connect."""
        self._stopped = None
        self.refusal = ""
        if self._replicas is not None:
            self._replicas.start()
        self._on_closed()
        self.connection.start()

    def stop(self) -> Deferred[None]:
        """Accept no more; fire when all is done that was submitted, or has failed, and the connection is closed."""
        self._stopped = Deferred()
        stopped = self._stopped
        self._finish_stop()
        return stopped.addCallback(lambda _: self.connection.stop())

    async def _prepare(self, protocol: Any) -> None:
        if self._prepare_owner is not None:
            await self._prepare_owner(protocol)
        await self._script.load(protocol)
        if self._replicas is not None:
            await self._replicas.look(protocol)

    def _on_opened(self) -> None:
        self._usable = True
        self._cancel_timeout()
        if self._has_work and not self._running and self._next is None:
            self._next = self._clock.callLater(0, self._begin)
        self._opened()
        if not self._probes:  # else one waits
            self._probe()

    def _on_closed(self) -> None:
        self._usable = False
        self._cancel_timeout()
        if self._stopped is not None and self._stopped.called:
            return
        self._timeout = self._clock.callLater(RECONNECT_TIMEOUT, self._give_up)
        self._prepare_batch()

    def submit(self, operation: Operation) -> Deferred[Any]:
        """Do *operation* after those that were submitted before.

        It fails with ``NotDone`` when Redis can not be reached or refuses, or too much waits already; with
        another ``Unavailable`` when it was sent and not answered.
        """
        if not self._usable and self._timeout is None:
            self._failed(1)
            return fail(NotDone("redis", message=UNUSABLE, detail=self.connection.problem))
        size = self._bytes + self._sent_bytes + operation.size
        if (
            len(self._waiting) + len(self._heavy.operations) >= MAX_PENDING
            or size > MAX_PENDING_BYTES
            or (operation.reads and len(self._postponed.operations) >= MAX_PENDING)
        ) and not operation.control:
            self._failed(1)
            return fail(NotDone("redis", message=TOO_MUCH))
        if operation.computes and self._heavy.is_full(operation):
            self._failed(1)
            return fail(NotDone("redis", message=TOO_MANY_LARGE))
        self._waiting.append(operation)
        self._bytes += operation.size
        if size > BACKLOG_BYTES and not self._has_backlog:
            self._has_backlog = True
            self._slices.begin_backlog(self)
        if self._next is None and not self._running and self._usable:
            if operation.prompt:
                self._begin()
            else:  # at the end of this loop iteration: what else is submitted in it goes along
                self._next = self._clock.callLater(0, self._begin)
        return operation.answer

    def before_batch(self, prepare: Callable[[], object]) -> None:
        """Call *prepare* before the next batch begins, in which what it submits is done; at once without Redis."""
        if not self._usable:
            prepare()
            return
        self._preparing.append(prepare)
        if self._next is None and not self._running:
            self._next = self._clock.callLater(0, self._begin)

    def _prepare_batch(self) -> None:
        preparing, self._preparing = self._preparing, []
        running, self._running = self._running, True  # what is submitted now begins nothing
        for prepare in preparing:
            try:
                prepare()
            except Exception:
                log.failure("a batch was not prepared")
        self._running = running

    async def call(self, protocol: Any, words: Sequence[bytes]) -> Any:
        """Do one operation by *protocol* before those that wait: for ``prepare``.

        Raises:
            RedisError: Redis refuses, as a ``ResponseError``, or has not answered.
        """
        (result,), _ = await self._call(protocol, [words], True)
        if isinstance(result, ResponseError):
            raise result
        return result

    def on_answer(self, call: Callable[[], object]) -> None:
        """Call *call* once, when the operations that are under way were answered; idempotent until then."""
        self._on_answer.add(call)

    def _begin(self) -> None:
        self._next = None
        self._prepare_batch()
        if not (self._usable and self._has_work):
            return
        self._running = True  # what is refused below may submit again
        batch = self._next_batch()
        if not batch:
            self._begin_again()
            return
        self._sent_bytes = sum(operation.size for operation in batch)
        self._bytes -= self._sent_bytes
        self.publishing = frozenset(operation.origin for operation in batch if operation.origin)
        if self._replicas is not None or any(operation.chained for operation in batch):
            running = Deferred.fromCoroutine(self._run(batch))
        else:
            running = self._run_plainly(batch)
        running.addErrback(self._fail_bug, batch).addBoth(self._ended)

    def _begin_again(self) -> None:
        """Go on after a batch of which nothing was left, if there is more; others get their turn before."""
        self._running = False
        if self._has_work:
            self._next = self._clock.callLater(0, self._begin)
        else:
            self._finish_stop()

    @property
    def _has_work(self) -> bool:
        return bool(self._waiting or self._postponed.operations or self._heavy.operations or self._preparing)

    def _next_batch(self) -> list[Operation]:
        """Return what the next call does: some of what was postponed, of what waits, and of the heavy changes."""
        batch: list[Operation] = []
        waiting, postponed, heavy = self._waiting, self._postponed, self._heavy
        older, in_use = postponed.operations, heavy.in_use
        looked = size = replies = 0
        while older and looked < MAX_BATCH and size < MAX_SENT_BYTES and size + replies < MAX_BATCH_BYTES:
            operation = postponed.pop()
            looked += 1
            if in_use and heavy.concerns(operation):
                self._add_heavy(operation)
                continue
            size += operation.size
            replies += operation.reply
            batch.append(operation)
        while waiting and looked < MAX_LOOKED and len(batch) < MAX_BATCH and size < MAX_SENT_BYTES:
            operation = waiting.popleft()
            looked += 1
            if (operation.reply and size + replies >= MAX_BATCH_BYTES) or (older and postponed.blocks(operation)):
                postponed.add(operation)
            elif in_use and heavy.concerns(operation):
                self._add_heavy(operation)
            else:
                size += operation.size
                replies += operation.reply
                batch.append(operation)
        return batch + heavy.next_batch() if heavy.operations else batch

    def _add_heavy(self, operation: Operation) -> None:
        if self._heavy.is_full(operation):
            self._bytes -= operation.size
            self._fail((operation,), TOO_MANY_LARGE, "", NotDone)
        else:
            self._heavy.add(operation)

    def _ended(self, _: object) -> None:
        if self.publishing:
            self.publishing = frozenset()
        if self._on_answer:
            calls, self._on_answer = self._on_answer, set()
            for call in calls:
                call()
        self._sent_bytes = 0
        if self._has_backlog and self._bytes <= RESUME_BYTES:
            self._end_backlog()
        # Not before: what they submit begins below, and only once.
        self._running = False
        # Not in the next loop iteration: there is nothing to wait for.
        if self._has_work and self._usable:
            self._begin()
        else:
            self._finish_stop()

    def _finish_stop(self) -> None:
        stopped = self._stopped
        if stopped is not None and not stopped.called and not (self._has_work or self._running):
            for timer in (self._next, self._timeout, self._probing):
                if timer is not None:
                    timer.cancel()
            self._next = self._timeout = self._probing = None
            if self._replicas is not None:
                self._replicas.stop()
            self._usable = False
            stopped.callback(None)

    def _run_plainly(self, batch: list[Operation]) -> Deferred[Any]:
        """Do what ``_run`` does for operations that need no more than one call, which is the usual case, for less."""
        started, protocol = self._clock.seconds(), self.connection.protocol
        writes = not all(operation.reads for operation in batch)
        try:
            called = self._send_call(protocol, [operation.words for operation in batch], writes)
        except RedisError:  # it is being lost
            return Deferred.fromCoroutine(self._run(batch))
        return called.addCallbacks(self._ran, self._not_run, (batch, started), errbackArgs=(batch,))

    def _ran(self, answer: list[Any], batch: list[Operation], started: float) -> Deferred[None] | None:
        results, left, mark = answer
        if mark:
            self.mark = max(self.mark, mark)
        seconds = self._clock.seconds() - started
        self._unsafe = ""
        if len(batch) > 1 or left:
            return Deferred.fromCoroutine(self._answer_many(batch, results, left, seconds))
        result = results[0]
        if isinstance(result, ResponseError):
            self._note_refusal(refusal_text(result))
        self._answer_one(batch[0], result, "")
        self._observe(1, seconds)
        return None

    async def _answer_many(self, batch: list[Operation], results: list[Any], left: list[int], seconds: float) -> None:
        await self._answer(batch, results, _states(left))
        self._observe(len(batch), seconds)

    def _not_run(self, failure: Failure, batch: list[Operation]) -> Deferred[None] | None:
        """Repeat what the server could not do yet; see ``_call``."""
        error = failure.value
        if isinstance(error, ResponseError):
            if self._remedy(error) is not None:
                return Deferred.fromCoroutine(self._run(batch))
            self._fail_script(batch, error)
        elif isinstance(error, RedisError):
            self._fail_lost(batch, error)
        else:
            failure.raiseException()
        return None

    async def _run(self, batch: list[Operation]) -> None:
        started = self._clock.seconds()
        protocol = self.connection.protocol
        under_way = batch
        try:
            if any(operation.chained for operation in batch):
                chain = Chain(batch, self._heavy.learn)
                if questions := chain.questions():
                    chain.know(*await self._call(protocol, questions, False))
                now, end = self._slices.now, self._slices.deadline()
                self._postpone(chain.link(MAX_BATCH_BYTES, lambda: now() >= end))
                under_way = chain.operations()
                sent = [each.words for each in chain.sent]
                results, left = chain.outcomes(*await self._call(protocol, sent, True))
            else:
                writes = not all(operation.reads for operation in batch)
                results, left = await self._call(protocol, [operation.words for operation in batch], writes)
            seconds = self._clock.seconds() - started
            await self._answer(under_way, results, left)
        except ResponseError as error:
            self._fail_script(under_way, error)
        except RedisError as error:
            self._fail_lost(under_way, error)
        else:
            self._observe(len(batch), seconds)

    def _postpone(self, operations: list[Operation]) -> None:
        """Let *operations*, which were under way, be done before all others."""
        self._bytes += sum(operation.size for operation in operations)
        heavy, others = self._heavy.part(operations)
        self._heavy.add_first(heavy)
        self._postponed.add_first(others)

    async def _call(
        self, protocol: Any, asked: list[Sequence[bytes]], writes: bool
    ) -> tuple[list[Any], dict[int, Any]]:
        """Return the results, and by their index the states of those that were left undone."""
        while True:
            try:
                answer = self._send_call(protocol, asked, writes)
                replicated = self._replicas.confirm(protocol) if writes and self._replicas is not None else None
                results, left, mark = await answer
                if mark:
                    self.mark = max(self.mark, mark)
                self._unsafe = await replicated if replicated is not None else ""
                return results, _states(left)
            except ResponseError as error:
                again = self._remedy(error)
                if again is None:
                    raise
            await again(protocol)

    def _send_call(self, protocol: Any, asked: list[Sequence[bytes]], writes: bool) -> Deferred[list[Any]]:
        words = self._preamble()
        if self._marks:
            words += (b"%d" % self.mark, b"1" if writes else b"")
        for each in asked:
            words.append(b"%d" % len(each))
            words += each
        answer: Deferred[list[Any]] = protocol.execute_command(b"EVALSHA", self._script.hash, b"0", *words)
        return answer

    def _remedy(self, error: ResponseError) -> Callable[[Any], Awaitable[None]] | None:
        """Return what must be done before a call that has failed with *error* is repeated; None: it is not."""
        reason = str(error)
        if reason.startswith("NOSCRIPT"):
            return self._script.load  # the server has dropped it
        return self._refresh if "STALE_EPOCH" in reason else None

    async def _answer(self, batch: list[Operation], results: list[Any], left: dict[int, Any]) -> None:
        """Answer those of *batch* that were done, in slices, and let the others be done next."""
        unsafe = self._unsafe
        if left:
            again = [operation for index, operation in enumerate(batch) if index in left]
            for index, state in left.items():
                if state != AGAIN:
                    self._found(batch[index], state)
            results = [result for index, result in enumerate(results) if index not in left]
            batch = [operation for index, operation in enumerate(batch) if index not in left]
            self._postpone(again)
        # Before the callbacks: they may look at ``problem``.
        self._note_refusal(next((refusal_text(result) for result in results if isinstance(result, ResponseError)), ""))
        slices, now = self._slices, self._slices.now
        end = slices.deadline() if len(batch) > 1 else inf
        for operation, result in zip(batch, results, strict=True):
            self._answer_one(operation, result, unsafe)
            if now() >= end:  # what the answers cause may take long
                await slices.pause()
                end = slices.deadline()

    def _found(self, operation: Operation, state: Any) -> None:
        """Let *operation* know the present state of its place, or how many bytes it has."""
        operation.found(state)
        if operation.computes:
            self._heavy.learn(operation.place(), state if type(state) is int else len(state or b""))

    def _answer_one(self, operation: Operation, result: Any, unsafe: str) -> None:
        if isinstance(result, ResponseError):
            self._fail((operation,), "Redis refuses.", refusal_text(result), NotDone)
            return
        if unsafe and not operation.reads:
            self._fail((operation,), "Redis has not confirmed it.", unsafe)
            return
        decode, operation.decode = operation.decode, _ignore
        try:
            value = decode(result)
        except BrokerError as error:
            operation.answer.errback(error)
        except Exception:
            operation.answer.errback()
        else:
            operation.answer.callback(value)

    def _note_refusal(self, refusal: str) -> None:
        if not refusal:
            return
        if not self.refusal:
            log.error("Redis refuses: {reason}", reason=refusal)
        self.refusal = f"Redis refuses: {refusal}"
        rights, protocol = self.connection.rights, self.connection.protocol
        if rights is not None and protocol is not None and is_denial(refusal):
            rights.look_now(protocol)
        if any(word in refusal for word in RECONNECT_ERRORS):
            self.connection.drop(refusal)
        self._probe_later()

    def _probe_later(self) -> None:
        if self._probing is None and self._stopped is None:
            self._probing = self._clock.callLater(PROBE_INTERVAL, self._probe)

    def _probe(self) -> None:
        """Write: that others are done says nothing, for they may have had nothing to write, or have deleted."""
        self._probing = None
        self._probes += 1
        # It may be repeated, and nobody waits until replicas have it.
        probing = self.submit(Operation(self._probe_words, reads=True, control=True))
        probing.addCallbacks(self._accepted, self._not_accepted).addBoth(self._probed)

    def _accepted(self, _: object) -> None:
        if not self.refusal:
            return
        if self._not_permitted:  # perhaps it is no command of the probe that was refused
            self._probe_later()
            return
        log.info("Redis accepts writes again")
        self.refusal = ""

    def _not_accepted(self, failure: Failure) -> None:
        failure.trap(Unavailable)
        if self.refusal:
            self._probe_later()

    def _probed(self, result: object) -> object:
        self._probes -= 1
        return result

    def _fail_script(self, batch: list[Operation], error: ResponseError) -> None:
        """Fail *batch*, since the script as a whole has failed."""
        reason = refusal_text(error)
        self._note_refusal(reason)
        self.connection.drop(reason)
        self._fail(batch, "Redis refuses.", reason, NotDone)

    def _fail_lost(self, batch: list[Operation], error: RedisError) -> None:
        """Fail *batch*, since there was no reply; what only reads is repeated on the next connection."""
        if self._usable:
            self._on_closed()
            self.connection.drop(str(error))
        for operation in reversed(batch):
            if operation.reads:
                self._waiting.appendleft(operation)
                self._bytes += operation.size
        unanswered = [operation for operation in batch if not operation.reads]
        self._fail(unanswered, "Redis has not answered.", str(error))

    def _fail(
        self, batch: Iterable[Operation], message: str, detail: str, error: type[Unavailable] = Unavailable
    ) -> None:
        for operation in batch:
            # A new one for each caller: whoever raises it adds its own traceback.
            self._failed(1)
            operation.decode = _ignore
            operation.answer.errback(error("redis", message=message, detail=detail))

    def _fail_bug(self, failure: Any, batch: list[Operation]) -> None:
        log.failure("operations on Redis failed", failure)
        postponed = {id(operation) for each in (self._postponed, self._heavy) for operation in each.operations}
        for operation in batch:
            if not operation.answer.called and id(operation) not in postponed:
                operation.answer.errback(failure)

    def _give_up(self) -> None:
        self._timeout = None
        waiting = [*self._postponed.operations, *self._heavy.operations, *self._waiting]
        self._waiting, self._postponed, self._heavy, self._bytes = deque(), Postponed(), HeavyQueue(), 0
        if not self._running:
            self._end_backlog()
        self._fail(waiting, UNUSABLE, self.connection.problem, NotDone)
        self._finish_stop()

    def _end_backlog(self) -> None:
        self._has_backlog = False
        self._slices.end_backlog(self)

    def _cancel_timeout(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None


def _states(left: list[int]) -> dict[int, Any]:
    """Return the states of operations that were left undone, by their indices."""
    return {left[i] - 1: left[i + 1] for i in range(0, len(left), 2)}


def _ignore(*_: object) -> None:
    """The callback where none was given."""
