"""Operations on the SQLite store that share one transaction, and what becomes of them without one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import attrs
from twisted.internet.defer import Deferred

from broker.jobs import Job
from broker.messages import Entry, Event
from broker.stores.sqlite_failures import read_refusal, write_refusal
from broker.stores.sqlite_sets import SIZES, leading
from broker.stores.sqlite_tables import TableReader, TableWriter

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
        TableWriter.revision,
        TableWriter.read_jobs,
    }
)


@attrs.define(eq=False)
class Batch:
    """Operations for the thread, and their outcomes.

    Attributes:
        operations: in the order in which they were submitted.
        size: the bytes that they carry.
        rest: those behind them that are left for the next batch.
        outcomes: for each its result, or the exception it ends with.
        failure: why nothing was written, or may not be there; "" when it was.
        error: what SQLite has said then.
        wrote: whether there was anything to write.
        seconds: how long it took.
    """

    operations: list[QueuedCall]
    size: int = 0
    rest: list[QueuedCall] = attrs.field(factory=list)
    outcomes: list[Any] = attrs.field(factory=list)
    failure: str = ""
    error: Exception | None = None
    wrote: bool = False
    seconds: float = 0.0

    @property
    def size_of_rest(self) -> int:
        """The bytes that the rest carries, about."""
        count = len(self.rest)
        return self.size * count // (len(self.operations) + count)

    def leave(self, count: int) -> None:
        """Leave what is behind the first *count* operations."""
        self.operations, self.rest = self.operations[:count], self.operations[count:]

    def refuse_writes(self, failure: str) -> None:
        """Let all end with *failure* that are no reads."""
        self.failure = failure
        self.outcomes = [
            outcome if verb in READS else write_refusal(failure)
            for (_, verb, _), outcome in zip(self.operations, self.outcomes, strict=True)
        ]


def without_writing(tables: TableWriter, operations: list[QueuedCall], failure: str) -> list[Any]:
    """Return the outcomes when nothing is written: reads see what was before."""
    outcomes: list[Any] = []
    for _, verb, arguments in operations:
        if verb not in READS:
            outcomes.append(write_refusal(failure))
            continue
        try:
            outcomes.append(verb(tables, *arguments))
        except sqlite3.Error as error:
            outcomes.append(read_refusal(str(error)))
    return outcomes


def bytes_read(outcome: Any) -> int:
    """Return how many bytes of bodies and values there are in the outcome of a read."""
    if isinstance(outcome, Entry):
        return len(outcome.value)
    if isinstance(outcome, (Event, Job)):
        return len(outcome.body or b"")
    if isinstance(outcome, Sequence) and not isinstance(outcome, (str, bytes)):
        return sum(map(bytes_read, outcome))
    return 0


def sets_from(operations: Sequence[QueuedCall], place: int) -> list[tuple[Any, ...]]:
    """Return the arguments of those of *operations*, from *place* on, that set keys and can do so together; or []."""
    calls = []
    for _, verb, arguments in operations[place : place + SIZES[0]]:
        if verb is not TableWriter.set:
            break
        calls.append(arguments)
    return calls[: leading(calls)]
