"""The curves that were measured: kept as JSON, as a table for the documentation, and as a picture of each."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks.results import RESULTS, machine
from benchmarks.scale.curve import FLAT, Curve, Line


@attrs.define
class ScaleResults:
    """All curves that were measured, each when it was last.

    Attributes:
        curves: by name.
        machine: on what the last of them was measured.
    """

    curves: dict[str, Any] = attrs.field(factory=dict)
    machine: dict[str, str] = attrs.field(factory=dict)

    @classmethod
    def load(cls, folder: Path = RESULTS) -> ScaleResults:
        """Return those that are kept, or none."""
        file = folder / "scale.json"
        return cls(**json.loads(file.read_text("utf-8"))) if file.exists() else cls()

    def add(self, curve: Curve, lines: Mapping[str, Line]) -> None:
        """Keep what was measured of *curve* instead of what was before."""
        self.curves[curve.name] = {
            "title": curve.title,
            "lines": {name: {**attrs.asdict(line), "growth": round(line.growth, 3)} for name, line in lines.items()},
        }

    def save(self, folder: Path = RESULTS) -> None:
        """Write the JSON, the table and, where matplotlib is there, the pictures."""
        folder.mkdir(exist_ok=True)
        self.machine = machine()
        text = json.dumps(attrs.asdict(self), indent=1, ensure_ascii=False)
        (folder / "scale.json").write_text(text + "\n", "utf-8")
        with (folder / "scale.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(self.rows())
        try:
            from benchmarks.scale.pictures import draw
        except ImportError:
            print("without matplotlib there are no pictures: pip install '.[bench]'")
            return
        for name, curve in self.curves.items():
            draw(curve, folder / f"scale-{name}.svg")

    def rows(self) -> Iterable[Sequence[str]]:
        """Yield a row for each line: what grows, what is done, the first and the last point, and the growth."""
        for curve in self.curves.values():
            for name, line in curve["lines"].items():
                first, last = ((line["sizes"][place], line["values"][place]["median"]) for place in (0, -1))
                flat = "" if line["growth"] <= FLAT else ", not flat"
                yield curve["title"], name, _point(*first), _point(*last), f"{line['growth']:.2f}{flat}"


def _point(size: int, value: float) -> str:
    return f"{value:.1f} with {size:,}"
