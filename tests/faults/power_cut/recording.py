"""What processes have written, synced and renamed below a directory: the log of ``recorder.c``."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import attrs

SOURCE = Path(__file__).with_name("recorder.c")
HEADER = struct.Struct("=iiiIqq")  # as in the source
OPEN, CLOSE, WRITE, RESIZE, SYNC, RENAME, LINK, UNLINK = "OCWRSNLU"
NAMING = (OPEN, RENAME, LINK, UNLINK)  # those that have paths
NAMES = {"O": "open", "C": "close", "W": "write", "R": "resize", "S": "sync", "N": "rename", "L": "link", "U": "unlink"}


@attrs.frozen
class Record:
    """One operation that has succeeded.

    Attributes:
        kind: what was done.
        process, file: who did it, and on which of its descriptors; -1 for none.
        offset: where it was written; the new size of what was resized.
        stamp: nanoseconds of the monotonic clock, when it had been done.
        data: what was written, or the paths.
    """

    kind: str
    process: int
    file: int
    offset: int
    stamp: int
    data: memoryview

    @property
    def paths(self) -> tuple[str, str]:
        """What was opened, linked, renamed or unlinked, and to which other path."""
        first, second, _ = bytes(self.data).split(b"\0")
        return os.fsdecode(first), os.fsdecode(second)

    def __str__(self) -> str:
        if self.kind in NAMING:
            return " ".join([NAMES[self.kind], *filter(None, map(os.path.basename, self.paths))])
        return f"{NAMES[self.kind]} {len(self.data)} bytes at {self.offset} of descriptor {self.file}"


def environ(library: Path, directory: Path, log: Path, sync_seconds: float = 0.0) -> dict[str, str]:
    """Return what a process needs whose operations below *directory* are to be added to *log*, as on a slow disk."""
    return {
        "LD_PRELOAD": str(library),
        "RECORDER_DIRECTORY": str(directory),
        "RECORDER_LOG": str(log),
        "RECORDER_SYNC_MICROSECONDS": str(round(sync_seconds * 1e6)),
    }


def read_log(log: bytes) -> list[Record]:
    """Return the records of a log, in the order in which they were done."""
    return list(_records(memoryview(log)))


def _records(log: memoryview) -> Iterator[Record]:
    at = 0
    while at < len(log):
        kind, process, file, length, offset, stamp = HEADER.unpack_from(log, at)
        at += HEADER.size + length
        yield Record(chr(kind), process, file, offset, stamp, log[at - length : at])
