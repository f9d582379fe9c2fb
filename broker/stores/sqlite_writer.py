"""Group commit: the queue of operations on the SQLite store, and the one thread that does them.

A batch of operations is one transaction.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from queue import SimpleQueue
from typing import Any, TypeAlias

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorFromThreads, IReactorTime
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.core.slices import SLICE, slices_of
from broker.errors import Unavailable, with_detail
from broker.stores.room import full_text
from broker.stores.sqlite_tables import TableReader, TableWriter

MAX_PENDING = 20_000  # operations under way; more are refused at once
MAX_PENDING_BYTES = 16 * 1024 * 1024  # of bodies and values under way
LARGE_BATCH = 4  # operations, from which the next batch waits a little for more
CANNOT_WRITE = "The store can not write."  # what clients are told of it
PROBE_INTERVAL = 1.0  # seconds between two attempts to write while writing fails

# The caller's Deferred, the method of TableWriter to call, and its arguments.
QueuedCall: TypeAlias = tuple[Deferred[Any], Callable[..., Any], tuple[Any, ...]]

READS = frozenset(
    {
        TableReader.read,
        TableReader.latest,
        TableReader.head,
        TableReader.logs,
        TableReader.get,
        TableReader.range,
    }
)


class GroupCommit:
    """Groups operations into batches, one of which is with the writer thread at a time.

    All of it runs on the reactor thread.

    Args:
        tables: used by the writer thread.
        clock: times the attempts to write again after a failure.
        reactor: where the thread's answers are delivered.
        observe: called with the operations and the seconds of each commit.
        failed: called with the number of operations that a failure took.

    Attributes:
        failure: why the last attempt to write failed; "" when it did not.
        shortage: why nothing may be added; "" when it may.
    """

    log = Logger()

    def __init__(
        self,
        tables: TableWriter,
        clock: IReactorTime,
        reactor: IReactorFromThreads,
        observe: Callable[[int, float], object],
        failed: Callable[[int], object],
    ) -> None:
        self.failure = ""
        self.shortage = ""
        self._tables = tables
        self._clock = clock
        self._reactor = reactor
        self._slices = slices_of(reactor if IReactorTime.providedBy(reactor) else Clock())
        self._observe = observe
        self._failed = failed
        self._writer = WriterThread(tables, reactor, self._answer)
        self._waiting: list[QueuedCall] = []
        self._waiting_bytes = 0
        self._waiting_touched: set[Hashable] = set()
        self._running = 0
        self._running_bytes = 0
        self._last_size = 0  # operations of the last batch
        self._running_touched: set[Hashable] = set()
        self._busy = False  # a batch is with the thread, or about to be
        self._purging = False
        self._probe: IDelayedCall | None = None
        self._drained: Deferred[None] | None = None

    def start(self) -> None:
        """Start the writer thread."""
        if self._tables.shortage:
            self._note_shortage(self._tables.shortage)
        self._writer.start()
        if self._tables.to_purge:
            self._purge()

    def stop(self) -> Deferred[None]:
        """End the writer thread when all that was submitted is written."""
        self._drained = Deferred()
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        drained = self._drained
        if not self._busy:
            self._finish()
        return drained

    def submit(
        self, verb: Callable[..., Any], arguments: tuple[Any, ...], size: int, *touched: Hashable
    ) -> Deferred[Any]:
        """Let the writer thread call ``verb(tables, *arguments)``; return its result.

        Args:
            verb: a method of ``TableWriter``.
            arguments: those after the tables.
            size: the bytes of the bodies and values among them.
            touched: names of what it may change, for ``outstanding``.

        Raises:
            Unavailable: too much is under way, or the file can not be written.
        """
        waiting = self._waiting
        if (
            len(waiting) + self._running >= MAX_PENDING
            or self._waiting_bytes + self._running_bytes + size > MAX_PENDING_BYTES
        ):
            self._failed(1)
            return fail(Unavailable("store", message="The store can not keep up: too much waits to be written."))
        answer: Deferred[Any] = Deferred()
        waiting.append((answer, verb, arguments))
        self._waiting_bytes += size
        self._waiting_touched.update(touched)
        if not self._busy:
            # At the end of this loop iteration: what else is submitted in it goes along.
            self._busy = True
            self._begin_soon()
        return answer

    def outstanding(self, touched: Hashable) -> bool:
        """Whether something that may change *touched* is not yet written."""
        return touched in self._waiting_touched or touched in self._running_touched

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._busy

    def _begin_soon(self) -> None:
        """Hand what waits to the thread at the end of this loop iteration, or of the next.

        After a large batch, those who have just been answered are about to
        submit again: one iteration later, they share the next commit.
        """
        begin = self._begin
        if self._last_size >= LARGE_BATCH:
            self._reactor.callFromThread(self._reactor.callFromThread, begin)
        else:
            self._reactor.callFromThread(begin)

    def _begin(self) -> None:
        operations = self._waiting
        self._last_size = len(operations)
        self._running, self._running_bytes = len(operations), self._waiting_bytes
        self._running_touched = self._waiting_touched
        self._waiting, self._waiting_bytes, self._waiting_touched = [], 0, set()
        self._writer.put(Batch(operations, self._running_bytes))

    def _answer(self, batch: Batch) -> None:
        # Before the callbacks: they may read and submit again.
        self._running, self._running_bytes, self._running_touched = 0, 0, set()
        self._note_failure(batch)
        if self._tables.shortage != self.shortage:
            self._note_shortage(self._tables.shortage)
        self._answer_some(batch, iter(zip(batch.operations, batch.outcomes, strict=True)))

    def _answer_some(self, batch: Batch, rest: Iterator[tuple[QueuedCall, Any]]) -> None:
        """Answer those who wait for *batch*, in slices: what the answers cause may take long."""
        now = self._slices.now
        end = min(self._slices.end, now() + SLICE)
        for (answer, _, _), outcome in rest:
            if isinstance(outcome, Exception):
                answer.errback(outcome)
            else:
                answer.callback(outcome)
            if now() >= end:
                self._slices.add(lambda: self._answer_some(batch, rest))
                return
        self._answered(batch)

    def _answered(self, batch: Batch) -> None:
        if self._tables.to_purge and not batch.failure:
            self._purge()
        if self._waiting:
            self._begin_soon()
            return
        self._busy = False
        if self._drained is not None:
            self._finish()

    def _note_failure(self, batch: Batch) -> None:
        if batch.failure:
            self._failed(sum(isinstance(outcome, Unavailable) for outcome in batch.outcomes))
            if not self.failure:
                self.log.error("{reason}", reason=cannot_write(batch.failure))
            self.failure = batch.failure
            if self._probe is None and self._drained is None:
                self._probe = self._clock.callLater(PROBE_INTERVAL, self._try_again)
        elif batch.wrote:
            self._observe(len(batch.operations), batch.seconds)
            if self.failure:
                self.log.info("The store can write again.")
                self.failure = ""

    def _note_shortage(self, shortage: str) -> None:
        if not self.shortage:
            self.log.error("{reason}", reason=full_text(shortage))
        elif not shortage:
            self.log.info("The store has room again.")
        self.shortage = shortage

    def _try_again(self) -> None:
        self._probe = None
        if self.failure:
            self.submit(TableWriter.probe, (), 0).addErrback(_ignore_reported)

    def _purge(self) -> None:
        """Delete some of the trimmed events; a no-op while that goes on."""
        if self._purging or self._drained is not None:
            return
        self._purging = True
        self.submit(TableWriter.purge, (), 0).addErrback(_ignore_reported).addBoth(self._purged)

    def _purged(self, _: object) -> None:
        self._purging = False

    def _finish(self) -> None:
        self._writer.stop()
        assert self._drained is not None
        self._drained.callback(None)


@attrs.define(eq=False)
class Batch:
    """Operations for the thread, and their outcomes.

    Attributes:
        operations: in the order in which they were submitted.
        size: the bytes that they carry.
        outcomes: for each its result, or the exception it ends with.
        failure: why nothing was written; "" when it was.
        wrote: whether there was anything to write.
        seconds: how long it took.
    """

    operations: list[QueuedCall]
    size: int = 0
    outcomes: list[Any] = attrs.field(factory=list)
    failure: str = ""
    wrote: bool = False
    seconds: float = 0.0


class WriterThread:
    """Does one batch after the other, and returns each when it is on the disk.

    Args:
        tables: used by this thread alone from ``start`` to ``stop``.
        reactor: where *answer* is called.
        answer: called with each batch that is done.
    """

    def __init__(self, tables: TableWriter, reactor: IReactorFromThreads, answer: Callable[[Batch], object]) -> None:
        self._tables = tables
        self._reactor = reactor
        self._answer = answer
        self._batches: SimpleQueue[Batch | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="txbroker store", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, batch: Batch) -> None:
        """Do *batch* after those that were put before."""
        self._batches.put(batch)

    def stop(self) -> None:
        """End the thread, which must have returned every batch."""
        self._batches.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            started = time.perf_counter()
            try:
                write(self._tables, batch)
            except Exception as error:
                # Even the rollback failed; the thread must live on to try again.
                batch.failure = str(error) or type(error).__name__
                batch.outcomes = [_refusal(batch.failure) for _ in batch.operations]
            batch.seconds = time.perf_counter() - started
            self._reactor.callFromThread(self._answer, batch)


def write(tables: TableWriter, batch: Batch) -> None:
    """Do all operations of *batch* in one transaction and set their outcomes.

    If that fails for a reason that lies in the file or the disk, none is done;
    if it may lie in one of the operations, each gets a transaction of its own.
    """
    operations = batch.operations
    batch.wrote = any(verb not in READS for _, verb, _ in operations)
    try:
        batch.outcomes = _transaction(tables, operations, batch.size)
    except Exception as error:
        tables.rollback()
        if _lies_in_file(error):
            batch.failure = str(error)
            batch.outcomes = _without_writing(tables, operations, batch.failure)
        elif len(operations) == 1:
            batch.outcomes = [error]
        else:
            _one_by_one(tables, batch)


def _transaction(tables: TableWriter, operations: list[QueuedCall], size: int) -> list[Any]:
    outcomes: list[Any] = []
    tables.begin(len(operations), size)
    for _, verb, arguments in operations:
        try:
            outcomes.append(verb(tables, *arguments))
        except sqlite3.Error:
            raise
        except Exception as error:
            # It has raised before its first statement, so that there is nothing to undo.
            outcomes.append(error)
    tables.commit()
    return outcomes


def _lies_in_file(error: Exception) -> bool:
    # DatabaseError itself, not its other children, tells of a damaged file.
    return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError


def _without_writing(tables: TableWriter, operations: list[QueuedCall], failure: str) -> list[Any]:
    """Return the outcomes when nothing is written: reads see what was before."""
    outcomes: list[Any] = []
    for _, verb, arguments in operations:
        if verb not in READS:
            outcomes.append(_refusal(failure))
            continue
        try:
            outcomes.append(verb(tables, *arguments))
        except sqlite3.Error as error:
            outcomes.append(Unavailable("store", message="The store can not be read.", detail=str(error)))
    return outcomes


def _refusal(failure: str) -> Unavailable:
    # A new one for each caller: whoever raises it adds its own traceback.
    return Unavailable("store", message=CANNOT_WRITE, detail=failure)


def cannot_write(failure: str) -> str:
    """Return the sentence that tells of *failure* to operators."""
    return with_detail(CANNOT_WRITE, failure)


def _one_by_one(tables: TableWriter, batch: Batch) -> None:
    for operation in batch.operations:
        single = Batch([operation])
        write(tables, single)
        batch.outcomes += single.outcomes
        batch.failure = single.failure or batch.failure


def _ignore_reported(failure: Failure) -> None:
    """Drop an error that ``GroupCommit.failure`` and the log show already."""
    failure.trap(Unavailable)
