"""The picture of the goals: server CPU time per operation, ours and the others'.

``python -m benchmarks.pictures`` draws it anew from benchmarks/results/goals.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.peer_servers import Limit
from benchmarks.results import RESULTS, Results

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "txbroker"  # the same picture from the same figures
mpl.rcParams["svg.fonttype"] = "none"
import matplotlib.pyplot as plt  # noqa: E402 # after the choice of what draws

OURS, OTHERS, LEAST = "#1f6fb2", "#9aa5b1", "#d98a29"
HEIGHT = 0.28  # inches for a bar


def draw(results: Results, file: Path) -> None:
    """Write the picture of all *results* that tell CPU time."""
    bars: list[tuple[str, dict[str, float], str]] = []
    for goal in results.goals.values():
        if goal["figure"] == "cpu_us":
            bars += [(f"{goal['name']}  {name}", seen["cpu_us"], _color(goal, name)) for name, seen in _sides(goal)]
    figure, axes = new_picture(9, 0.9 + HEIGHT * len(bars))
    for place, (_, seen, color) in enumerate(bars):
        reach = [[seen["median"] - seen["least"]], [seen["most"] - seen["median"]]]
        axes.barh(place, seen["median"], color=color, xerr=reach, error_kw={"elinewidth": 1, "ecolor": "#444"})
        axes.annotate(f"{seen['median']:.1f}", (seen["most"], place), (4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(bars)), [label for label, _, _ in bars])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("µs of server CPU time per operation, median and range; fewer is better")
    save_picture(figure, axes, file)


def new_picture(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure of so many inches, and its axes."""
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    return figure, axes


def save_picture(figure: Any, axes: Any, file: Path) -> None:
    """Write *figure* to *file*, the same bytes for the same content."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(file, metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def _sides(goal: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(goal["sides"].items(), key=lambda each: each[0] != goal["ours"])


def _color(goal: dict[str, Any], name: str) -> str:
    if name == goal["ours"]:
        return OURS
    return LEAST if name == Limit.name else OTHERS


if __name__ == "__main__":
    draw(Results.load(), RESULTS / "goals.svg")
