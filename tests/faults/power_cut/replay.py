"""Records a daemon under load, and cuts the power at random moments of what was recorded."""

from __future__ import annotations

import math
import pickle
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import attrs

from tests.faults.power_cut.disk import SHARED, Disk, Image, Survival
from tests.faults.power_cut.image import found_by_clients, found_by_store, write_image
from tests.faults.power_cut.load import ENVIRON, KEPT_EVENTS, Load
from tests.faults.power_cut.promises import Found, Promises
from tests.faults.power_cut.recording import NAMING, RESIZE, SOURCE, SYNC, Record, environ, read_log
from tests.support.commands import TXBROKER
from tests.support.daemon import Daemon
from tests.support.preloaded import compile_library
from tests.support.processes import Program

SYNC_SECONDS = 0.002  # that each sync takes longer: what is answered too early is answered before its end
RARE = (*NAMING, RESIZE)
ENDS = ("kill", "stop")  # of a life
NEAR = 12  # records around a rare one
LOG, PROMISES = "operations.log", "promises.pickle"  # the files of a recording
SHOWN = 5  # of what is broken on one image


@attrs.frozen
class Recording:
    """What a daemon has written and synced in *directory*, and what it has acknowledged meanwhile.

    Attributes:
        marks: the end of each step, in nanoseconds of the monotonic clock.
    """

    directory: str
    records: list[Record]
    promises: Promises
    marks: list[int]

    @classmethod
    def load(cls, kept: Path) -> Recording:
        """Return the one in the directory *kept*."""
        directory, promises, marks = pickle.loads((kept / PROMISES).read_bytes())
        return cls(directory, read_log((kept / LOG).read_bytes()), promises, marks)

    def __str__(self) -> str:
        kinds = Counter(record.kind for record in self.records)
        processes = len({record.process for record in self.records})
        return f"{kinds['W']} writes and {kinds['S']} syncs of {processes} processes"

    def indices(self, first: int, *kinds: str) -> list[int]:
        """Return the indices, from *first* on, of the records of these kinds."""
        return [index for index in range(first, len(self.records)) if self.records[index].kind in kinds]


async def record(work: Path, steps: Sequence[str], goal: int, *, large: int = 0, **settings: str) -> Recording:
    """Let a daemon live and end amid the work of its clients, and commands of ``txbroker`` in between.

    Args:
        work: where its state is to be, and the recording.
        steps: ``kill`` or ``stop`` for a life that ends so, or the words of a command.
        goal: events that are acknowledged in each life.
        large: how many large keys there are in the first life; from 9 on the file is shortened by that.
        settings: of the daemon.

    Raises:
        NoCompiler: there is none.
    """
    work = work.resolve()
    state, log = work / "state", work / LOG
    state.mkdir()
    preload = environ(compile_library(SOURCE, work), state, log, SYNC_SECONDS)
    daemon = Daemon(state, **{**ENVIRON, **settings, **preload})
    promises, marks = Promises(KEPT_EVENTS), list[int]()
    try:
        for step in steps:
            await _do(step, Load(daemon, promises, len(marks), large), goal)
            marks.append(time.monotonic_ns())
    finally:
        if daemon.running:
            await daemon.kill()
    assert not daemon.troubles(), "\n".join(daemon.troubles())
    (work / PROMISES).write_bytes(pickle.dumps((str(state), promises, marks)))
    recording = Recording.load(work)
    _check_whole(recording, state)
    return recording


async def _do(step: str, load: Load, goal: int) -> None:
    daemon = load.daemon
    if step in ENDS:
        await daemon.start()
        await load.run(goal, daemon.stop if step == "stop" else daemon.kill)
        return
    command = Program.start([TXBROKER, *step.split()], env=daemon.environ, cwd=daemon.directory)
    assert await command.exit() == 0, command.report()


def _check_whole(recording: Recording, state: Path) -> None:
    """Check that nothing was written without a record."""
    seen = Disk.after(recording.records, recording.directory).content()
    there = {path.name: path.read_bytes() for path in state.iterdir() if not path.name.endswith(SHARED)}
    assert seen.keys() == there.keys(), (sorted(seen), sorted(there))
    assert [name for name in seen if seen[name] != there[name]] == [], "written by other means than those recorded"


@attrs.frozen
class Cut:
    """The power is cut before the record *position* was done, and *survival* decides what is there after that.

    Attributes:
        seed: from which all of it was drawn.
        journaled: see ``Disk``.
    """

    seed: int
    position: int
    journaled: bool
    survival: Survival

    @classmethod
    def draw(cls, recording: Recording, seed: int, first: int = 0) -> Cut:
        """Return that of *seed*, not before *first*: at any moment, near a rare operation, or while a sync goes on."""
        chance, count = Random(seed), len(recording.records)
        moments = (
            chance.randint(first, count),
            chance.choice(recording.indices(first, *RARE)) + chance.randrange(-NEAR, NEAR),
            chance.choice(recording.indices(first, SYNC)),
        )
        position = max(first, min(chance.choice(moments), count))
        return cls(seed, position, chance.random() < 0.5, Survival.draw(chance, position))

    def image(self, recording: Recording, *, syncs: bool = True) -> Image:
        """Return what is on the disk."""
        records = recording.records[: self.position]
        disk = Disk.after(records, recording.directory, journaled=self.journaled, syncs=syncs)
        return disk.after_cut(self.survival)

    def stamp(self, recording: Recording) -> float:
        """Return until when it can have been: the end of the operation that was not done."""
        return recording.records[self.position].stamp if self.position < len(recording.records) else math.inf

    def describe(self, recording: Recording) -> str:
        """Say when it was."""
        before = str(recording.records[self.position]) if self.position < len(recording.records) else "the end"
        names = "journaled" if self.journaled else "unjournaled"
        return (
            f"image of seed {self.seed} ({names}, cut at {self.position} of {len(recording.records)}, before {before})"
        )


@attrs.define
class Report:
    """What was found on all images.

    Attributes:
        images: how many.
        acknowledged: what had been, by the moments of the cuts, all in all.
        broken: by the seed of the image, what was broken.
    """

    recording: Recording
    images: int = 0
    acknowledged: int = 0
    broken: dict[int, list[str]] = attrs.field(factory=dict)

    @property
    def lost(self) -> int:
        """How much of that was broken."""
        return sum(map(len, self.broken.values()))

    def kinds(self) -> Counter[str]:
        """Return what was broken, by kind."""
        return Counter(text.partition(" ")[0] for texts in self.broken.values() for text in texts)

    def note(self, cut: Cut, broken: list[str]) -> None:
        """Count an image."""
        self.images += 1
        self.acknowledged += self.recording.promises.acknowledged(cut.stamp(self.recording))
        if broken:
            self.broken[cut.seed] = broken

    def __str__(self) -> str:
        return f"{self.images} images, {self.acknowledged} acknowledged, {self.lost} lost"


def explain(work: Path, *reports: Report) -> str:
    """Return what was broken, and how it is made again from a copy of the recording in *work*; "" if nothing was."""
    texts: list[str] = []
    for report in reports:
        for seed, broken in report.broken.items():
            texts += [Cut.draw(report.recording, seed).describe(report.recording), *broken[:SHOWN]]
    if texts:
        kept = tempfile.mkdtemp(prefix="power-cut-")
        for name in (LOG, PROMISES):
            shutil.copy(work / name, kept)
        texts.append(f"again: python -m tests.faults.power_cut 1 --recording {kept} --seed {seed}")
    return "\n".join(texts)


def found_by_stores(
    recording: Recording, first_seed: int, images: int, *, first: int = 0, syncs: bool = True
) -> Iterator[tuple[Cut, Found]]:
    """Yield what a store finds on each of so many images, those of the seeds from *first_seed* on; see ``Cut.draw``."""
    for seed in range(first_seed, first_seed + images):
        cut = Cut.draw(recording, seed, first)
        with tempfile.TemporaryDirectory(prefix="txbroker-") as directory:
            write_image(cut.image(recording, syncs=syncs), Path(directory) / "state")
            yield cut, found_by_store(Path(directory) / "state", recording.promises)


def check_by_store(recording: Recording, first_seed: int, images: int, *, syncs: bool = True) -> Report:
    """Start a store on so many images, and compare what it finds with what was promised."""
    report = Report(recording)
    for cut, found in found_by_stores(recording, first_seed, images, syncs=syncs):
        report.note(cut, recording.promises.broken(found, cut.stamp(recording)))
    return report


async def check_by_daemon(recording: Recording, first_seed: int, images: int) -> Report:
    """Start a daemon on so many images, and let clients ask it."""
    report = Report(recording)
    settings: dict[str, Any] = {**ENVIRON, "TXBROKER_MAX_MAILBOX": "1000"}
    for seed in range(first_seed, first_seed + images):
        cut = Cut.draw(recording, seed)
        directory = Path(tempfile.mkdtemp(prefix="txbroker-")) / "state"
        write_image(cut.image(recording), directory)
        daemon = await Daemon(directory, **settings).start()
        try:
            found = await found_by_clients(daemon, recording.promises)
        finally:
            status = await daemon.stop()
            shutil.rmtree(directory.parent)
        found.faults += [f"daemon ended with {status}"] if status else []
        found.faults += [f"daemon logged {line}" for line in daemon.troubles()]
        report.note(cut, recording.promises.broken(found, cut.stamp(recording)))
    return report
