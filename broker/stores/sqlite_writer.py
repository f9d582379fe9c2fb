"""Group commit: the queue of operations on the SQLite store, and the one thread that does them.

A batch of operations is one transaction.  That ends early when it has lasted for long, or when its reads have found
much: the rest has the next one, once the first have been answered.  So nobody waits for all that others have asked for,
and it is not all in memory.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from queue import Empty, SimpleQueue
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorFromThreads, IReactorTime
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.core.slices import SLICE, slices_of
from broker.errors import BrokerError, Unavailable
from broker.stores.room import full_text
from broker.stores.sqlite_batches import READS, Batch, QueuedCall, bytes_read, sets_from, without_writing
from broker.stores.sqlite_failures import cannot_write, lies_in_file, write_refusal
from broker.stores.sqlite_guard import FileGuard
from broker.stores.sqlite_heavy import HEAVY_BYTES, MAX_HEAVY_BYTES, HeavyQueue
from broker.stores.sqlite_tables import TableWriter
from broker.stores.states import STOPPING

MAX_PENDING = 20_000  # operations under way; more are refused at once
MAX_PENDING_BYTES = 16 * 1024 * 1024  # of bodies and values under way
FEW = 32  # operations under way, up to which nobody looks whether one that carries little is heavy
LARGE_BATCH = 4  # operations, from which the next batch waits a little for more
STOP_SECONDS = 2.0  # for what waits when the store stops
PROBE_INTERVAL = 1.0  # seconds between two attempts to write while writing fails
CHECK_INTERVAL = 0.5  # seconds between two looks at the files
MAX_SECONDS = 0.1  # that a transaction lasts, and its last operation
MAX_READ_BYTES = 1 << 23  # of bodies and values that it reads, and its last operation
PAGES_PER_COMMIT, PAGES_PER_OPERATION, PAGE = 4, 1, 4096  # that are written to the log, about


class GroupCommit:
    """Groups operations into batches, one of which is with the writer thread at a time.

    All of it runs on the reactor thread.

    Args:
        tables: used by the writer thread.
        guard: knows whether what is written is in the file; used by the writer thread.
        clock: times the attempts to write again after a failure.
        reactor: where the thread's answers are delivered.
        observe: called with the operations and the seconds of each commit.
        failed: called with the number of operations that a failure took.
        stored: returns how many bytes a key has in the file.

    Attributes:
        broken: why nothing can be written until the next start; "" for nothing.
        failure: why the last attempt to write failed; "" when it did not.
        shortage: why nothing may be added; "" when it may.
    """

    log = Logger()

    def __init__(
        self,
        tables: TableWriter,
        guard: FileGuard,
        clock: IReactorTime,
        reactor: IReactorFromThreads,
        observe: Callable[[int, float], object],
        failed: Callable[[int], object],
        stored: Callable[[str, str], int],
    ) -> None:
        self.broken = ""
        self.failure = ""
        self.shortage = ""
        self._tables = tables
        self._guard = guard
        self._clock = clock
        self._reactor = reactor
        self._slices = slices_of(reactor if IReactorTime.providedBy(reactor) else Clock())
        self._observe = observe
        self._failed = failed
        self._stored = stored
        self._writer = WriterThread(tables, guard, reactor, self._answer, self._note)
        self._preparing: list[Callable[[], object]] = []
        self._waiting: list[QueuedCall] = []
        self._waiting_bytes = 0
        self._waiting_touched: set[Hashable] = set()
        self._heavy = HeavyQueue()
        self._written: dict[Hashable, int] = {}  # bytes of the large values that wait, by the key
        self._running_written: dict[Hashable, int] = {}
        self._running = 0
        self._running_bytes = 0
        self._last_size = 0  # operations of the last batch
        self._running_touched: set[Hashable] = set()
        self._left: list[QueuedCall] = []  # of the last batch, for the next
        self._busy = False  # a batch is with the thread, or about to be
        self._purging = False
        self._probe: IDelayedCall | None = None
        self._giving_up: IDelayedCall | None = None
        self._gave_up = False
        self._drained: Deferred[None] | None = None

    def start(self) -> None:
        """Start the writer thread."""
        if self._tables.shortage:
            self._note_shortage(self._tables.shortage)
        self._writer.start()
        if self._tables.to_purge:
            self._purge()

    def stop(self) -> Deferred[None]:
        """End the writer thread when all that was submitted is written, or refused since it takes too long."""
        self._drained = Deferred()
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        drained = self._drained
        if self._busy:
            self._giving_up = self._clock.callLater(STOP_SECONDS, self._give_up)
        else:
            self._finish()
        return drained

    def _give_up(self) -> None:
        self._giving_up, self._gave_up = None, True
        self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        """Refuse what is not with the writer thread."""
        calls = self._left + self._waiting + self._heavy.remove_all()
        if self._left:
            self._running = self._running_bytes = 0
        self._left, self._waiting, self._waiting_bytes = [], [], 0
        if calls:
            self.log.warn("The store stops: {count} operations that waited are refused.", count=len(calls))
        for answer, _, _ in calls:
            answer.errback(Unavailable("store", message=STOPPING))

    def submit(
        self,
        verb: Callable[..., Any],
        arguments: tuple[Any, ...],
        size: int,
        *touched: Hashable,
        key: tuple[str, str] | None = None,
        after: tuple[Hashable, ...] = (),
    ) -> Deferred[Any]:
        """Let the writer thread call ``verb(tables, *arguments)``; return its result.

        Args:
            verb: a method of ``TableWriter``.
            arguments: those after the tables.
            size: the bytes of the bodies and values among them.
            touched: names of what it may change, for ``outstanding``.
            key: the space and name of the one key that it changes, or reads, whose value may be large.
            after: for a read, names of what is to be written before it.

        Raises:
            Unavailable: too much is under way, or the file can not be written.
        """
        waiting = self._waiting
        if self.broken and verb not in READS:
            self._failed(1)
            return fail(write_refusal(self.broken))
        if (
            len(waiting) + self._heavy.count + self._running >= MAX_PENDING
            or self._waiting_bytes + self._running_bytes + size > MAX_PENDING_BYTES
        ):
            self._failed(1)
            return fail(Unavailable("store", message="The store can not keep up: too much waits to be written."))
        answer: Deferred[Any] = Deferred()
        call = answer, verb, arguments
        cost = self._cost(key, size) if key is not None else self._heavy.cost(*after) if self._heavy.bytes else 0
        if cost > HEAVY_BYTES:
            if self._heavy.bytes + cost > MAX_HEAVY_BYTES:
                self._failed(1)
                return fail(
                    Unavailable(
                        "store", message="The store can not keep up: too many large values change, or are read."
                    )
                )
            self._heavy.add(call, size, cost, (*touched, *after))
        else:
            waiting.append(call)
            self._waiting_touched.update(touched)
        self._waiting_bytes += size
        if not self._busy:
            self._begin_batch()
        return answer

    def before_batch(self, prepare: Callable[[], object]) -> None:
        """Call *prepare* before the next batch is handed to the thread: what it submits is the end of that."""
        self._preparing.append(prepare)
        if not self._busy:
            self._begin_batch()

    def _begin_batch(self) -> None:
        """Begin at the end of this loop iteration: what else is submitted in it goes along."""
        self._busy = True
        self._begin_soon()

    def outstanding(self, touched: Hashable) -> bool:
        """Whether something that may change *touched* is not yet written."""
        if touched in self._waiting_touched or touched in self._running_touched:
            return True
        return self._heavy.bytes > 0 and self._heavy.cost(touched) > 0

    def _cost(self, key: tuple[str, str], size: int) -> int:
        """Return how many bytes are read and written for *key*, *size* of them new; 0 if they matter to nobody."""
        cost = self._heavy.cost(key) if self._heavy.bytes else 0
        if not cost and (size > HEAVY_BYTES or len(self._waiting) + self._running >= FEW):
            cost = max(size, self._stored(*key), self._written.get(key, 0), self._running_written.get(key, 0))
        if size > HEAVY_BYTES:
            self._written[key] = size
        return cost

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

    def _prepare(self) -> None:
        preparing, self._preparing = self._preparing, []
        for prepare in preparing:
            try:
                prepare()
            except Exception:
                self.log.failure("a batch was not prepared")

    def _begin(self) -> None:
        if self._left:
            operations, self._left = self._left, []
            self._writer.put(Batch(operations, self._running_bytes))
            return
        if self._preparing:
            self._prepare()
        if not (self._waiting or self._heavy.bytes):
            self._rest()
            return
        operations, touched, size = self._waiting, self._waiting_touched, self._waiting_bytes
        self._waiting, self._waiting_touched, self._waiting_bytes = [], set(), 0
        self._written, self._running_written = {}, self._written
        if self._heavy.bytes:
            for heavy in self._heavy.next_batch():
                operations.append(heavy.call)
                touched.update(heavy.touched)
            self._waiting_bytes = self._heavy.size
            size -= self._waiting_bytes
        self._last_size = len(operations)
        self._running, self._running_bytes, self._running_touched = len(operations), size, touched
        self._writer.put(Batch(operations, size))

    def _answer(self, batch: Batch) -> None:
        # Before the callbacks: they may read and submit again.
        self._left, self._running, self._running_bytes = batch.rest, len(batch.rest), 0
        if batch.rest:
            self._running_bytes = batch.size_of_rest
        else:
            self._running_touched = set()
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
        if self._gave_up:
            self._refuse_waiting()
        if self._left or self._waiting or self._heavy.bytes or self._preparing:
            self._begin_soon()
        else:
            self._rest()

    def _rest(self) -> None:
        self._busy = False
        if self._drained is not None:
            self._finish()

    def _note_failure(self, batch: Batch) -> None:
        if batch.failure:
            self._failed(sum(isinstance(outcome, Unavailable) for outcome in batch.outcomes))
            self._note(batch.failure)
        elif batch.wrote:
            self._observe(len(batch.operations), batch.seconds)
            if self.failure:
                self.log.info("The store can write again.")
                self.failure = ""

    def _note(self, failure: str) -> None:
        """Notice that nothing can be written."""
        if self.broken:
            return
        if self._guard.broken:
            self.broken = self._guard.broken
            self.log.error("{reason}", reason=cannot_write(self.broken))
            return
        if not self.failure:
            self.log.error("{reason}", reason=cannot_write(failure))
        self.failure = failure
        if self._probe is None and self._drained is None:
            self._probe = self._clock.callLater(PROBE_INTERVAL, self._try_again)

    def file_lost(self) -> None:
        """Notice that the file is damaged, or not the store's any more."""
        self._note(self._guard.broken)

    def damaged(self, error: sqlite3.Error) -> None:
        """Notice that a read in the reactor thread has found damage."""
        self._guard.judge(error, reading=True)
        self._note(self._guard.broken)

    def _note_shortage(self, shortage: str) -> None:
        if not self.shortage:
            self.log.error("{reason}", reason=full_text(shortage))
        elif not shortage:
            self.log.info("The store has room again.")
        self.shortage = shortage

    def _try_again(self) -> None:
        self._probe = None
        if self.failure and not self.broken:
            self.submit(TableWriter.probe, (), 0).addErrback(_ignore_reported)

    def _purge(self) -> None:
        """Delete some of the trimmed events; a no-op while that goes on."""
        if self._purging or self._drained is not None or self.broken:
            return
        self._purging = True
        self.submit(TableWriter.purge, (), 0).addErrback(_ignore_reported).addBoth(self._purged)

    def _purged(self, _: object) -> None:
        self._purging = False

    def _finish(self) -> None:
        self._writer.stop()
        if self._guard.broken:
            self._note(self._guard.broken)  # what it calls from the thread may come too late
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
        assert self._drained is not None
        self._drained.callback(None)


class WriterThread:
    """Does one batch after the other, and returns each when it is on the disk.

    Args:
        tables: used by this thread alone from ``start`` to ``stop``.
        guard: the same.
        reactor: where *answer* and *failed* are called.
        answer: called with each batch that is done.
        failed: called with the reason when nothing can be written, while there is no batch.
    """

    log = Logger()

    def __init__(
        self,
        tables: TableWriter,
        guard: FileGuard,
        reactor: IReactorFromThreads,
        answer: Callable[[Batch], object],
        failed: Callable[[str], object],
    ) -> None:
        self._tables = tables
        self._guard = guard
        self._reactor = reactor
        self._answer = answer
        self._failed = failed
        self._batches: SimpleQueue[Batch | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="txbroker store", daemon=True)
        self._rested = True  # whether nothing was done since the pages were given up
        self._checked = 0.0  # when all files were looked at
        self._unlooked = 0  # pages in the log that were written since the last look, about
        self._look_after = guard.checkpoints.pages // 8  # of them

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
        while True:
            try:
                batch = self._batches.get(timeout=CHECK_INTERVAL)
            except Empty:
                self._between(None)
                self._rest()
                continue
            if batch is None:
                self._between(None)
                self._guard.end()
                return
            started, self._rested = time.perf_counter(), False
            try:
                self._do(batch)
            except Exception as error:
                # Even the rollback failed; the thread must live on to try again.
                batch.failure = str(error) or type(error).__name__
                batch.outcomes = [write_refusal(batch.failure) for _ in batch.operations]
            batch.seconds = time.perf_counter() - started
            self._reactor.callFromThread(self._answer, batch)
            self._between(batch)
            del batch  # with all that was written or read in it, as long as there is no next

    def _between(self, batch: Batch | None) -> None:
        """Look at the files, and write the log back, if it is time to; nobody but the next batch waits for that."""
        try:
            if batch is None or time.perf_counter() - self._checked >= CHECK_INTERVAL:
                self._check()
            if batch is None:
                return
            self._unlooked += PAGES_PER_COMMIT + PAGES_PER_OPERATION * len(batch.operations) + batch.size // PAGE
            if self._unlooked > self._look_after:
                self._unlooked = 0
                self._guard.look()
        except Exception:
            self._reactor.callFromThread(self.log.failure, "looking at the files of the store failed", Failure())

    def _rest(self) -> None:
        """Give memory back once there has been nothing to do for a while."""
        if not self._rested:
            self._rested = True
            try:
                self._guard.rest()
            except sqlite3.Error:
                self._reactor.callFromThread(self.log.failure, "giving up pages of the store failed", Failure())

    def _do(self, batch: Batch) -> None:
        guard = self._guard
        if guard.broken or guard.suspect:
            failure = guard.broken or guard.recover()
            if failure:
                batch.failure = failure
                batch.outcomes = without_writing(self._tables, batch.operations, failure)
                return
        write(self._tables, batch)
        if batch.error is not None:
            reading = all(verb in READS for _, verb, _ in batch.operations)
            batch.failure = guard.judge(batch.error, reading)
        elif batch.wrote:
            self._confirm(batch)
            space = self._tables.space
            if space is not None and space.shrunk:
                space.shrunk = False
                guard.write_back()

    def _confirm(self, batch: Batch) -> None:
        """Refuse *batch* if it was not written to the files at the paths of the store."""
        if not self._unchanged() and (failure := self._guard.check()):
            batch.refuse_writes(failure)

    def _unchanged(self) -> bool:
        """Whether database and log are as they were left: if not, ``FileGuard.check`` finds out why."""
        watch = self._guard.watch
        try:
            main, log = os.stat(watch.path), os.stat(watch.log_path)
        except OSError:
            return False
        known = (main.st_dev, main.st_ino, main.st_size, main.st_mtime_ns), (log.st_dev, log.st_ino)
        if known != (watch.main, watch.log) or log.st_size < watch.log_bytes:
            return False
        watch.log_bytes = log.st_size
        return True

    def _check(self) -> None:
        """Look at all files."""
        guard = self._guard
        self._checked = time.perf_counter()
        if guard.broken:
            return
        if guard.checkpoints.failing:
            guard.look()
        unsettled = guard.watch.unsettled
        if not unsettled and self._unchanged() and all(map(_is_there, guard.watch.side.items())):
            return
        failure = guard.check()
        if unsettled:
            guard.look()  # it was not written back meanwhile
        if failure and not guard.broken:
            self._reactor.callFromThread(self._failed, failure)


def write(tables: TableWriter, batch: Batch) -> None:
    """Do the operations of *batch* in one transaction and set their outcomes; some may be left.

    If that fails for a reason that lies in the file or the disk, none is done;
    if it may lie in one of the operations, each gets a transaction of its own.
    """
    operations = batch.operations
    batch.wrote = any(verb not in READS for _, verb, _ in operations)
    try:
        batch.outcomes = _transaction(tables, operations, batch.size)
        if len(batch.outcomes) < len(operations):
            batch.leave(len(batch.outcomes))
    except Exception as error:
        tables.rollback()
        if lies_in_file(error):
            batch.failure, batch.error = str(error), error
            batch.outcomes = without_writing(tables, operations, batch.failure)
        elif len(operations) == 1:
            batch.outcomes = [error]
        else:
            _one_by_one(tables, batch)


def _transaction(tables: TableWriter, operations: list[QueuedCall], size: int) -> list[Any]:
    outcomes: list[Any] = []
    left, end = MAX_READ_BYTES, time.perf_counter() + MAX_SECONDS
    tables.begin(len(operations), size)
    while len(outcomes) < len(operations):
        operation = operations[len(outcomes)]
        if operation[1] is TableWriter.set and (sets := sets_from(operations, len(outcomes))):
            outcomes += tables.sets.set(sets)
        else:
            outcomes.append(_outcome(tables, operation))
            if operation[1] in READS:
                left -= bytes_read(outcomes[-1])
        if left <= 0 or time.perf_counter() >= end:
            break
    tables.commit()
    return outcomes


def _outcome(tables: TableWriter, operation: QueuedCall) -> Any:
    """Return what *operation* returns, or what it raises before its first statement: there is nothing to undo."""
    answer, verb, arguments = operation
    try:
        # Nobody waits any more for a read that was cancelled.
        return None if answer.called and verb in READS else verb(tables, *arguments)
    except sqlite3.Error:
        raise
    except Exception as error:
        # The traceback of a refusal would keep this frame, and so the whole batch, until garbage is collected.
        return error.with_traceback(None) if isinstance(error, BrokerError) else error


def _one_by_one(tables: TableWriter, batch: Batch) -> None:
    for operation in batch.operations:
        single = Batch([operation])
        write(tables, single)
        batch.outcomes += single.outcomes
        batch.failure = single.failure or batch.failure
        batch.error = single.error or batch.error


def _is_there(file: tuple[str, tuple[int, int]]) -> bool:
    path, known = file
    try:
        status = os.stat(path)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == known


def _ignore_reported(failure: Failure) -> None:
    """Drop an error that ``GroupCommit.failure`` and the log show already."""
    failure.trap(Unavailable)
