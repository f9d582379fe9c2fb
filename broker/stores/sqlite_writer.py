"""Group commit: what waits for the one thread that writes to the SQLite store, and that thread.

A batch of operations is one transaction.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Hashable
from queue import SimpleQueue
from typing import Any, TypeAlias

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorFromThreads, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.errors import Unavailable
from broker.stores.sqlite_tables import Reads, Writes

MAX_OPERATIONS = 20_000  # under way; more are refused at once
MAX_BYTES = 64 * 1024 * 1024  # of bodies and values under way
MANY = 4  # operations in a batch
PROBE = 1.0  # seconds between two attempts to write while writing fails

# The caller's Deferred, the method of Writes that does it, and its arguments.
Operation: TypeAlias = tuple[Deferred[Any], Callable[..., Any], tuple[Any, ...]]

READS = frozenset({Reads.read, Reads.latest, Reads.head, Reads.logs, Reads.get, Reads.range})


class Commits:
    """Groups operations into batches, one of which is with the writer thread.

    All of it runs on the reactor thread.

    Args:
        writes: the tables, for the writer thread.
        clock: times the attempts to write again after a failure.
        reactor: where the thread's answers are delivered.
        observe: called with the operations and the seconds of each commit.
        failed: called with the number of operations that a failure took.
    """

    log = Logger()

    def __init__(
        self,
        writes: Writes,
        clock: IReactorTime,
        reactor: IReactorFromThreads,
        observe: Callable[[int, float], object],
        failed: Callable[[int], object],
    ) -> None:
        self.failure = ""  # why the last attempt to write failed
        self._writes = writes
        self._clock = clock
        self._reactor = reactor
        self._observe = observe
        self._failed = failed
        self._writer = Writer(writes, reactor, self._answer)
        self._waiting: list[Operation] = []
        self._waiting_bytes = 0
        self._waiting_touched: set[Hashable] = set()
        self._running = 0
        self._running_bytes = 0
        self._last = 0  # operations of the last batch
        self._running_touched: set[Hashable] = set()
        self._awake = False  # a batch is with the thread, or about to be
        self._purging = False
        self._probe: IDelayedCall | None = None
        self._drained: Deferred[None] | None = None

    def start(self) -> None:
        """Start the writer thread."""
        self._writer.start()
        if self._writes.to_purge:
            self._purge()

    def stop(self) -> Deferred[None]:
        """End the writer thread when all that was submitted is written."""
        self._drained = Deferred()
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        drained = self._drained
        if not self._awake:
            self._finish()
        return drained

    def submit(
        self, verb: Callable[..., Any], arguments: tuple[Any, ...], size: int, *touched: Hashable
    ) -> Deferred[Any]:
        """Let the writer thread do ``verb(writes, *arguments)``.

        Args:
            verb: a method of ``Writes``.
            arguments: what it is called with.
            size: the bytes of the bodies and values among them.
            touched: what it may change, as ``outstanding`` is asked for it.
        """
        waiting = self._waiting
        if (
            len(waiting) + self._running >= MAX_OPERATIONS
            or self._waiting_bytes + self._running_bytes + size > MAX_BYTES
        ):
            self._failed(1)
            return fail(Unavailable("store", message="The store can not keep up: too much waits to be written."))
        answer: Deferred[Any] = Deferred()
        waiting.append((answer, verb, arguments))
        self._waiting_bytes += size
        self._waiting_touched.update(touched)
        if not self._awake:
            # At the end of this turn: what else comes in it goes along.
            self._awake = True
            self._begin_soon()
        return answer

    def outstanding(self, touched: Hashable) -> bool:
        """Whether something that may change *touched* is not yet written."""
        return touched in self._waiting_touched or touched in self._running_touched

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._awake

    def _begin_soon(self) -> None:
        """Let the thread have what waits at the end of this turn, or of the next.

        After a batch of many, those who have just been answered are about to
        come again: a turn more, and they share the next commit.
        """
        begin = self._begin
        if self._last >= MANY:
            self._reactor.callFromThread(self._reactor.callFromThread, begin)
        else:
            self._reactor.callFromThread(begin)

    def _begin(self) -> None:
        operations = self._waiting
        self._last = len(operations)
        self._running, self._running_bytes = len(operations), self._waiting_bytes
        self._running_touched = self._waiting_touched
        self._waiting, self._waiting_bytes, self._waiting_touched = [], 0, set()
        self._writer.put(Batch(operations))

    def _answer(self, batch: Batch) -> None:
        # Before the callbacks: they may ask and submit again.
        self._running, self._running_bytes, self._running_touched = 0, 0, set()
        self._note(batch)
        for (answer, _, _), outcome in zip(batch.operations, batch.outcomes, strict=True):
            if isinstance(outcome, Exception):
                answer.errback(outcome)
            else:
                answer.callback(outcome)
        if self._writes.to_purge and not batch.failure:
            self._purge()
        if self._waiting:
            self._begin_soon()
            return
        self._awake = False
        if self._drained is not None:
            self._finish()

    def _note(self, batch: Batch) -> None:
        if batch.failure:
            self._failed(sum(isinstance(outcome, Unavailable) for outcome in batch.outcomes))
            if not self.failure:
                self.log.error("The store can not write: {reason}.", reason=batch.failure)
            self.failure = batch.failure
            if self._probe is None and self._drained is None:
                self._probe = self._clock.callLater(PROBE, self._try_again)
        elif batch.wrote:
            self._observe(len(batch.operations), batch.seconds)
            if self.failure:
                self.log.info("The store can write again.")
                self.failure = ""

    def _try_again(self) -> None:
        self._probe = None
        if self.failure:
            self.submit(Writes.probe, (), 0).addErrback(_known)

    def _purge(self) -> None:
        """Delete some of what was trimmed, as long as there is any."""
        if self._purging or self._drained is not None:
            return
        self._purging = True
        self.submit(Writes.purge, (), 0).addErrback(_known).addBoth(self._purged)

    def _purged(self, _: object) -> None:
        self._purging = False

    def _finish(self) -> None:
        self._writer.stop()
        assert self._drained is not None
        self._drained.callback(None)


@attrs.define(eq=False)
class Batch:
    """Operations on their way through the thread, and what became of them.

    Attributes:
        operations: in the order in which they were called.
        outcomes: for each its result, or the exception it ends with.
        failure: why nothing was written; "" when it was.
        wrote: whether there was anything to write.
        seconds: how long it took.
    """

    operations: list[Operation]
    outcomes: list[Any] = attrs.field(factory=list)
    failure: str = ""
    wrote: bool = False
    seconds: float = 0.0


class Writer:
    """Takes batches one after the other and gives each back when it is on disk.

    Args:
        writes: the tables; of this thread alone from ``start`` to ``stop``.
        reactor: where *answer* is called.
        answer: called with each batch that is done.
    """

    def __init__(self, writes: Writes, reactor: IReactorFromThreads, answer: Callable[[Batch], object]) -> None:
        self._writes = writes
        self._reactor = reactor
        self._answer = answer
        self._batches: SimpleQueue[Batch | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="txbroker store", daemon=True)

    def start(self) -> None:
        """Begin to take batches."""
        self._thread.start()

    def put(self, batch: Batch) -> None:
        """Write *batch* after those that were put before."""
        self._batches.put(batch)

    def stop(self) -> None:
        """End the thread, which must have given back every batch."""
        self._batches.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            started = time.perf_counter()
            try:
                write(self._writes, batch)
            except Exception as error:
                # Even the way back failed; the thread must live on to try again.
                batch.failure = str(error) or type(error).__name__
                batch.outcomes = [_refusal(batch.failure) for _ in batch.operations]
            batch.seconds = time.perf_counter() - started
            self._reactor.callFromThread(self._answer, batch)


def write(writes: Writes, batch: Batch) -> None:
    """Do all operations of *batch* in one transaction and note what became of them.

    If that fails for a reason that lies in the file or the disk, none is done;
    if it may lie in one of the operations, each has a transaction of its own.
    """
    operations = batch.operations
    batch.wrote = any(verb not in READS for _, verb, _ in operations)
    try:
        batch.outcomes = _transaction(writes, operations)
    except Exception as error:
        writes.rollback()
        if _lies_in_file(error):
            batch.failure = str(error)
            batch.outcomes = _without_writing(writes, operations, batch.failure)
        elif len(operations) == 1:
            batch.outcomes = [error]
        else:
            _one_by_one(writes, batch)


def _transaction(writes: Writes, operations: list[Operation]) -> list[Any]:
    outcomes: list[Any] = []
    writes.begin()
    for _, verb, arguments in operations:
        try:
            outcomes.append(verb(writes, *arguments))
        except sqlite3.Error:
            raise
        except Exception as error:
            # It has raised before its first statement, so nothing is to undo.
            outcomes.append(error)
    writes.commit()
    return outcomes


def _lies_in_file(error: Exception) -> bool:
    # DatabaseError itself, not its other children, tells of a damaged file.
    return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError


def _without_writing(writes: Writes, operations: list[Operation], failure: str) -> list[Any]:
    """Return the outcomes when no write takes place: reads see what was before."""
    outcomes: list[Any] = []
    for _, verb, arguments in operations:
        if verb not in READS:
            outcomes.append(_refusal(failure))
            continue
        try:
            outcomes.append(verb(writes, *arguments))
        except sqlite3.Error as error:
            outcomes.append(Unavailable("store", message=f"The store can not be read: {error}."))
    return outcomes


def _refusal(failure: str) -> Unavailable:
    # A new one for each caller: whoever raises it adds its own traceback.
    return Unavailable("store", message=f"The store can not write: {failure}.")


def _one_by_one(writes: Writes, batch: Batch) -> None:
    for operation in batch.operations:
        single = Batch([operation])
        write(writes, single)
        batch.outcomes += single.outcomes
        batch.failure = single.failure or batch.failure


def _known(failure: Failure) -> None:
    """Let pass what is told by ``failure`` and the log already."""
    failure.trap(Unavailable)
