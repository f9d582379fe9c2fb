"""What was measured: kept as JSON, as a table for the documentation, and as a picture."""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import attrs

from benchmarks.peer_servers import PEERS, Limit
from benchmarks.servers import Missing, program

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("twisted", "autobahn", "msgspec", "httptools", "websockets")
PROGRAMS = {"node": "--version", "nats-server": "--version", "nginx": "-v", "redis-server": "--version"}
PACKAGES = ("socket.io", "ws", "ganomede-events")


@attrs.frozen
class Range:
    """The median of the rounds, and the least and the most of them."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Range:
        """Return that of *values*."""
        return cls(*(round(each, 3) for each in (median(values), min(values), max(values))))


@attrs.frozen
class Spread:
    """What one server was seen to do: µs of CPU time per operation, operations per second, µs, shares of a core."""

    cpu_us: Range
    ops_per_s: Range
    p50_us: Range
    p99_us: Range
    server_share: Range
    load_share: Range

    @classmethod
    def of(cls, rounds: Iterable[Mapping[str, Any]]) -> Spread:
        """Return that of the figures of all *rounds*."""
        figures = list(rounds)
        return cls(**{each.name: Range.of([seen[each.name] for seen in figures]) for each in attrs.fields(cls)})


@attrs.frozen
class Result:
    """One goal: what it is, and what was seen on each side, ours first."""

    name: str
    text: str
    figure: str
    limit: float
    ours: str
    peer: str
    sides: dict[str, Spread]

    @property
    def ratio(self) -> float:
        """Ours, times the peer's."""
        return self._figure(self.ours) / self._figure(self.peer)

    @property
    def of_the_least(self) -> float | None:
        """Ours, times that of the bare C server, where that was measured, too."""
        return self._figure(self.ours) / self._figure(Limit.name) if Limit.name in self.sides else None

    def _figure(self, side: str) -> float:
        found: Range = getattr(self.sides[side], self.figure)
        return found.median


@attrs.define
class Results:
    """All goals that were measured, each when it was last.

    Attributes:
        goals: by name.
        alone: figures that have no peer.
        machine: on what the last of them was measured.
    """

    goals: dict[str, Any] = attrs.field(factory=dict)
    alone: dict[str, float] = attrs.field(factory=dict)
    machine: dict[str, str] = attrs.field(factory=dict)

    @classmethod
    def load(cls, folder: Path = RESULTS) -> Results:
        """Return those that are kept, or none."""
        file = folder / "goals.json"
        return cls(**json.loads(file.read_text("utf-8"))) if file.exists() else cls()

    def add(self, result: Result) -> None:
        """Keep *result* instead of the one of before."""
        least = result.of_the_least
        self.goals[result.name] = {
            **attrs.asdict(result),
            "ratio": round(result.ratio, 3),
            "of_the_least": None if least is None else round(least, 3),
        }

    def save(self, folder: Path = RESULTS) -> None:
        """Write the JSON, the table and, where matplotlib is there, the picture."""
        folder.mkdir(exist_ok=True)
        self.machine = machine()
        text = json.dumps(attrs.asdict(self), indent=1, ensure_ascii=False)
        (folder / "goals.json").write_text(text + "\n", "utf-8")
        with (folder / "goals.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(self.rows())
        try:
            from benchmarks.pictures import draw
        except ImportError:
            print("without matplotlib there is no picture: pip install '.[bench]'")
        else:
            draw(self, folder / "goals.svg")

    def rows(self) -> Iterable[Sequence[str]]:
        """Yield a row for each goal: its name, what it is, ours, the peer's, the ratio, the goal, and the limit."""
        for goal in self.goals.values():
            ours, peer = (goal["sides"][goal[side]][goal["figure"]] for side in ("ours", "peer"))
            least = goal["of_the_least"]
            reached = "" if goal["ratio"] <= goal["limit"] else ", not reached"
            yield (
                goal["name"],
                goal["text"],
                _range(ours),
                f"{_range(peer)} {goal['peer']}",
                f"{goal['ratio']:.2f}",
                f"{goal['limit']:g}{reached}",
                "" if least is None else f"{least:.1f}",
            )


def _range(figure: Mapping[str, float]) -> str:
    return "{median:.1f} ({least:.1f}–{most:.1f})".format(**figure)


def machine() -> dict[str, str]:
    """Return what it was measured on, and with which versions."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = next((int(line.split()[1]) >> 20 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    found = {
        "processor": f"{os.cpu_count()} cores, {cpu or platform.machine()}",
        "memory": f"{memory} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }
    for name, option in PROGRAMS.items():
        with suppress(Missing, OSError, subprocess.SubprocessError):
            done = subprocess.run([program(name), option], capture_output=True, text=True, timeout=10)
            found[name] = (done.stdout or done.stderr).strip().splitlines()[0]
    for name in PACKAGES:
        with suppress(OSError, KeyError):
            package = json.loads((PEERS / "node_modules" / name / "package.json").read_text("utf-8"))
            found[name] = str(package["version"])
    return found


def _lines(path: str) -> list[str]:
    with suppress(OSError):
        return Path(path).read_text("utf-8").splitlines()
    return []
