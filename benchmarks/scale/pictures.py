"""The pictures of the curves.

``python -m benchmarks.scale.pictures`` draws them anew from benchmarks/results/scale.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.pictures import new_picture, save_picture
from benchmarks.results import RESULTS
from benchmarks.scale.results import ScaleResults

COLORS = "#1f6fb2", "#d98a29", "#3a8f5c", "#8a5fb0"
SIZE = 6.5, 3.2  # inches


def draw(curve: dict[str, Any], file: Path) -> None:
    """Write the picture of one curve: each line times what its smallest size costs."""
    figure, axes = new_picture(*SIZE)
    for color, (name, line) in zip(COLORS, curve["lines"].items(), strict=False):
        first = line["values"][0]["median"]
        values = [each["median"] / first for each in line["values"]]
        reach = [
            [(each["median"] - each["least"]) / first for each in line["values"]],
            [(each["most"] - each["median"]) / first for each in line["values"]],
        ]
        label = f"{name}: {first:.1f} with {line['sizes'][0]:,}"
        axes.errorbar(line["sizes"], values, yerr=reach, color=color, marker="o", markersize=4, capsize=2, label=label)
    axes.axhline(1.2, color="#999", linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(curve["title"])
    axes.set_ylabel("times the smallest")
    if curve["lines"]:
        axes.legend(frameon=False, fontsize="small")
    save_picture(figure, axes, file)


if __name__ == "__main__":
    for name, curve in ScaleResults.load().curves.items():
        draw(curve, RESULTS / f"scale-{name}.svg")
