"""Rows and samples of several workers as those of one daemon."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from broker.observe.admin.history import INTERVAL, KEPT, NAMES, WHOLE
from broker.observe.admin.paging import MAX_LIMIT, Query, Row

GREATEST = ("t", "lag", "jobs", "loop")  # of what several workers say; all else is added up
FRESH = 2 * INTERVAL  # seconds for which a sample of a worker counts

Sample = Mapping[str, Any]


def joined_rows(pages: Sequence[Mapping[str, Any]], query: Query, complete: bool) -> dict[str, Any]:
    """Return one page of the rows of several pages, each of which has the first rows of a worker.

    Args:
        pages: what the workers have answered.
        query: what was asked.
        complete: whether all have answered.
    """
    rows: list[Row] = [{"node": page.get("node", ""), **row} for page in pages for row in page["items"]]
    if query.sort:
        descending = _is_descending(pages, query)
        rows.sort(key=lambda row: _sortable(row.get(query.sort)), reverse=descending)
    first = int(query.after or 0)
    end = first + query.limit
    total = sum(page["total"] or 0 for page in pages)
    more = end < min(total, MAX_LIMIT) and end < len(rows)
    return {
        **{name: value for name, value in pages[0].items() if name != "node"},
        **_joined_counts(pages),
        "items": rows[first:end],
        "next": str(end) if more else None,
        "total": total,
        "complete": complete and all(page["complete"] for page in pages),
    }


def _joined_counts(pages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the counts of refusals of all, where the pages have some."""
    if "counts" not in pages[0]:
        return {}
    sums: dict[tuple[str, str], int] = {}
    for page in pages:
        for row in page["counts"]:
            key = row["dialect"], row["code"]
            sums[key] = sums.get(key, 0) + row["count"]
    return {"counts": [{"dialect": dialect, "code": code, "count": count} for (dialect, code), count in sums.items()]}


def _is_descending(pages: Sequence[Mapping[str, Any]], query: Query) -> bool:
    """Whether the greatest are first: as was asked, or else as the workers have done it."""
    if query.order:
        return query.order == "desc"
    for page in pages:
        found = [_sortable(row.get(query.sort)) for row in page["items"]]
        if len(found) > 1 and found[0] != found[-1]:
            return found[0] > found[-1]
    return False


def _sortable(value: Any) -> tuple[int, Any]:
    return (0, 0) if value is None else (1, value)


class MergedHistory:
    """What all workers have done lately, as ``History`` has it of one.

    The first worker that is there gives the time; each sample of it is added to the last ones of the others.

    Args:
        now: returns seconds that only rise.

    Attributes:
        listeners: called with each new sample.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._samples: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._last: dict[int, tuple[float, Sample]] = {}  # by worker, with the time when it came
        self.listeners: set[Callable[[dict[str, Any]], object]] = set()

    @property
    def samples(self) -> list[dict[str, Any]]:
        """Those that are kept."""
        return list(self._samples)

    def add(self, number: int, sample: Sample) -> None:
        """Take the *sample* of a worker."""
        now = self._now()
        self._last[number] = now, sample
        fresh = {number: sample for number, (then, sample) in self._last.items() if now - then < FRESH}
        if number != min(fresh):
            return
        merged = merged_sample(list(fresh.values()))
        self._samples.append(merged)
        for listener in list(self.listeners):
            listener(merged)


def merged_sample(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return one sample that stands for *samples*."""
    merged: dict[str, Any] = {}
    for name in NAMES:
        values = [sample[name] for sample in samples]
        value = max(values) if name in GREATEST else sum(values)
        merged[name] = int(value) if name in WHOLE else round(value, 4)
    return merged
