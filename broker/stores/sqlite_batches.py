"""Operations on the SQLite store that share one transaction, and what becomes of them without one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs
from twisted.internet.defer import Deferred

from broker.stores.sqlite_failures import read_refusal, write_refusal
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
        outcomes: for each its result, or the exception it ends with.
        failure: why nothing was written, or may not be there; "" when it was.
        error: what SQLite has said then.
        wrote: whether there was anything to write.
        seconds: how long it took.
    """

    operations: list[QueuedCall]
    size: int = 0
    outcomes: list[Any] = attrs.field(factory=list)
    failure: str = ""
    error: Exception | None = None
    wrote: bool = False
    seconds: float = 0.0

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
