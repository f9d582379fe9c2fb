"""The one thread that writes to the SQLite store: a batch, a transaction."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeAlias

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads

from broker.errors import Unavailable
from broker.stores.sqlite_reads import Reads
from broker.stores.sqlite_writes import Writes

# The caller's Deferred, the method of Writes that does it, and its arguments.
Operation: TypeAlias = tuple[Deferred[Any], Callable[..., Any], tuple[Any, ...]]

READS = frozenset({Reads.read, Reads.latest, Reads.head, Reads.logs, Reads.get, Reads.range})


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
