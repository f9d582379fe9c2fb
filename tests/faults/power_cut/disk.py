"""A disk that loses power: what may be on it then, by what was written and synced before.

Nothing is on it for sure but what was synced.  Of a file, what was not may be there or not, each write
by itself, whole or some of its sectors; a file can be longer than what has reached it.  Of the names in a
directory, those that were created, renamed or removed since its last sync may each be as before; where the
file system has a journal, they change in their order, and any sync brings all of them to the disk.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import TypeAlias

import attrs

from tests.faults.power_cut.recording import CLOSE, LINK, OPEN, RENAME, RESIZE, SYNC, UNLINK, WRITE, Record

Image: TypeAlias = dict[str, bytes]  # the content of each file, by its path below the directory

KEPT = (0.0, 0.0, 0.2, 0.5, 0.8, 1.0)  # parts of what was not synced that are there
TORN = (0.0, 0.3, 1.0)  # parts of those that are there in part only
SECTORS = (512, 4096)  # bytes
LATEST = 40  # records: perhaps none of the last ones is there
SHARED = "-shm"  # a file of SQLite's that is memory, and may have any content at its start
SHARED_BYTES = 32768


@attrs.frozen
class Survival:
    """What becomes of that which was not synced.

    Attributes:
        chance: decides about each change.
        end: the record from which on nothing is there.
        kept: how likely a change before that is there.
        torn: how likely it is there in part only.
        sector: bytes of which all are there or none.
        stale: whether what has a place but was not written shows something old, not zeros.
    """

    chance: Random
    end: int
    kept: float
    torn: float
    sector: int
    stale: bool

    @classmethod
    def draw(cls, chance: Random, position: int) -> Survival:
        """Return one for a cut before the record *position*."""
        end = position - chance.choice((0, chance.randrange(LATEST)))
        kept, torn, sector = chance.choice(KEPT), chance.choice(TORN), chance.choice(SECTORS)
        return cls(chance, end, kept, torn, sector, chance.random() < 0.3)

    def keeps(self, index: int) -> bool:
        """Whether the change by the record *index* is there, at least in part."""
        return index < self.end and self.chance.random() < self.kept

    def tears(self) -> bool:
        """Whether one that is there is so in part only."""
        return self.chance.random() < self.torn

    def filler(self, size: int) -> bytes:
        """Return what stands where nothing was written."""
        return self.chance.randbytes(size) if self.stale else bytes(size)


def resize(content: bytearray, size: int, filler: Callable[[int], bytes] = bytes) -> None:
    """Give *content* the size *size*."""
    del content[size:]
    content += filler(size - len(content))


@attrs.frozen
class Change:
    """By the record *index*: *data* was written at *offset*, or the size became *offset* if *data* is None."""

    index: int
    offset: int
    data: memoryview | None

    @property
    def end(self) -> int:
        """Behind the last byte that it concerns."""
        return self.offset + (0 if self.data is None else len(self.data))

    def apply(self, content: bytearray, filler: Callable[[int], bytes] = bytes) -> None:
        """Do it."""
        if self.data is None or self.offset > len(content):
            resize(content, self.offset, filler)
        if self.data is not None:
            content[self.offset : self.end] = self.data

    def apply_in_part(self, content: bytearray, survival: Survival) -> None:
        """Write some sectors, whatever the size is then."""
        assert self.data is not None
        if self.end > len(content):
            resize(content, self.end, survival.filler)
        size = survival.sector
        for start in range(self.offset - self.offset % size, self.end, size):
            if survival.chance.random() < 0.5:
                first, last = max(start, self.offset), min(start + size, self.end)
                content[first:last] = self.data[first - self.offset : last - self.offset]


@attrs.define(eq=False)
class File:
    """What is on the disk of a file, and what was changed since."""

    synced: bytearray = attrs.field(factory=bytearray)
    changes: list[Change] = attrs.field(factory=list)

    def sync(self) -> None:
        """Bring all changes to the disk."""
        for change in self.changes:
            change.apply(self.synced)
        self.changes.clear()

    def content(self) -> bytes:
        """Return what processes read."""
        content = bytearray(self.synced)
        for change in self.changes:
            change.apply(content)
        return bytes(content)

    def after_cut(self, survival: Survival) -> bytes:
        """Return what is there after a power cut."""
        content, limit = bytearray(self.synced), math.inf
        for change in self.changes:
            if change.end > limit or not survival.keeps(change.index):
                if change.data is None:
                    # What was written later, where it had been cut off, got another place on the disk.
                    limit = min(limit, change.offset)
            elif change.data is not None and survival.tears():
                change.apply_in_part(content, survival)
            else:
                change.apply(content, survival.filler)
        return bytes(content)


@attrs.frozen
class NameChange:
    """By the record *index*: paths have got another file, or none any more."""

    index: int
    files: Mapping[str, File | None]

    def apply(self, names: dict[str, File]) -> None:
        """Do it."""
        for name, file in self.files.items():
            if file is None:
                names.pop(name, None)
            else:
                names[name] = file


@attrs.define(eq=False)
class Disk:
    """The files in one directory, which is empty at first.

    Args:
        directory: its path.
        journaled: whether each sync brings all names to the disk, which otherwise that of the directory does.
        syncs: False to let every sync do nothing.
    """

    directory: str
    journaled: bool = False
    syncs: bool = True
    _open: dict[tuple[int, int], File | None] = attrs.field(factory=dict)  # None for the directory itself
    _names: dict[str, File] = attrs.field(factory=dict)
    _synced_names: dict[str, File] = attrs.field(factory=dict)
    _name_changes: list[NameChange] = attrs.field(factory=list)

    @classmethod
    def after(cls, records: Iterable[Record], directory: str, *, journaled: bool = False, syncs: bool = True) -> Disk:
        """Return the disk on which *records* were done."""
        disk = cls(directory, journaled, syncs)
        for index, record in enumerate(records):
            disk.apply(index, record)
        return disk

    def apply(self, index: int, record: Record) -> None:
        """Do what *record* says, the one with the number *index*."""
        kind, key = record.kind, (record.process, record.file)
        if kind == OPEN:
            self._open[key] = self._opened(index, self._name(record.paths[0]))
        elif kind in (RENAME, LINK, UNLINK):
            self._change_names(index, kind, *map(self._name, record.paths))
        elif key not in self._open:
            pass  # inherited from another process, to be closed
        elif kind == CLOSE:
            del self._open[key]
        elif kind == SYNC:
            self._sync(self._open[key])
        elif (file := self._open[key]) is not None:
            assert kind in (WRITE, RESIZE), record
            file.changes.append(Change(index, record.offset, record.data if kind == WRITE else None))

    def _name(self, path: str) -> str:
        return os.path.relpath(path, self.directory)

    def _opened(self, index: int, name: str) -> File | None:
        if name == ".":
            return None
        if name not in self._names:
            self._note(NameChange(index, {name: File()}))
        return self._names[name]

    def _change_names(self, index: int, kind: str, old: str, new: str) -> None:
        changed: dict[str, File | None] = {} if kind == LINK else {old: None}
        if kind != UNLINK:
            changed[new] = self._names[old]
        self._note(NameChange(index, changed))

    def _note(self, change: NameChange) -> None:
        change.apply(self._names)
        self._name_changes.append(change)

    def _sync(self, file: File | None) -> None:
        if not self.syncs:
            return
        if file is not None:
            file.sync()
        if file is None or self.journaled:
            for change in self._name_changes:
                change.apply(self._synced_names)
            self._name_changes.clear()

    def content(self) -> Image:
        """Return what processes see."""
        return {name: file.content() for name, file in self._names.items() if not name.endswith(SHARED)}

    def after_cut(self, survival: Survival) -> Image:
        """Return what is there after a power cut."""
        return {
            name: survival.chance.randbytes(SHARED_BYTES) if name.endswith(SHARED) else file.after_cut(survival)
            for name, file in self._names_after_cut(survival).items()
        }

    def _names_after_cut(self, survival: Survival) -> dict[str, File]:
        names = dict(self._synced_names)
        lost: set[str] = set()  # what comes later to the same names is not there, either
        for change in self._name_changes:
            if lost.isdisjoint(change.files) and survival.keeps(change.index):
                change.apply(names)
            elif self.journaled:
                break
            else:
                lost.update(change.files)
        return names
