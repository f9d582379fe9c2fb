"""Rows and samples of several workers as those of one daemon."""

from __future__ import annotations

import pytest

from broker.app.workers.front import joined_gauges, joined_query
from broker.app.workers.merged import MergedHistory, joined_rows
from broker.errors import Invalid
from broker.observe.admin.history import INTERVAL, NAMES


def page(node: str, *counts: int) -> dict:
    items = [{"id": f"{node}{count}", "count": count} for count in counts]
    return {"node": node, "items": items, "total": len(items), "complete": True, "next": None}


@pytest.mark.parametrize(
    ("query", "expected", "following"),
    [
        ("sort=count&order=desc&limit=3", [9, 7, 4], "3"),
        ("sort=count&order=asc&limit=3", [1, 2, 4], "3"),
        ("sort=count&limit=10", [9, 7, 4, 2, 1], None),  # as the workers have done it
        ("limit=10", [9, 4, 1, 7, 2], None),
        ("sort=count&order=desc&limit=3&after=3", [2, 1], None),
    ],
)
def test_rows_of_all_are_sorted_and_cut_into_pages(query, expected, following):
    _, asked = joined_query(query)
    joined = joined_rows([page("a", 9, 4, 1), page("b", 7, 2)], asked, complete=True)
    assert [row["count"] for row in joined["items"]] == expected
    assert (joined["next"], joined["total"], joined["complete"]) == (following, 5, True)
    assert {row["node"] for row in joined["items"]} <= {"a", "b"}


def test_each_worker_is_asked_for_all_rows_up_to_the_end_of_the_page():
    assert joined_query("limit=20&after=40&q=x&state=live")[0] == "q=x&state=live&limit=60"
    with pytest.raises(Invalid, match="ends after 1000 rows"):
        joined_query("limit=20&after=990")


def test_counts_of_refusals_are_added_up():
    pages = [
        {**page("a"), "counts": [{"dialect": "hpkv", "code": "DENIED", "count": 2}]},
        {**page("b"), "counts": [{"dialect": "hpkv", "code": "DENIED", "count": 3}]},
    ]
    joined = joined_rows(pages, joined_query("")[1], complete=True)
    assert joined["counts"] == [{"dialect": "hpkv", "code": "DENIED", "count": 5}]


def test_gauges_are_added_up_or_the_greatest_or_the_worst():
    found = [{"sessions": 1.0, "jobs_ready": 4.0, "ready": 1.0}, {"sessions": 2.0, "jobs_ready": 3.0, "ready": 0.0}]
    assert joined_gauges(found) == {"sessions": 3.0, "jobs_ready": 4.0, "ready": 0.0}


def sample(**values: float) -> dict:
    return {**dict.fromkeys(NAMES, 0), **values}


def test_samples_are_added_to_those_of_the_first_that_is_there():
    now = 0.0
    history = MergedHistory(lambda: now)
    heard: list[dict] = []
    history.listeners.add(heard.append)
    history.add(2, sample(connections=3, loop=0.5))
    history.add(1, sample(connections=4, loop=0.1))
    history.add(2, sample(connections=5))
    assert [(each["connections"], each["loop"]) for each in heard] == [(3, 0.5), (7, 0.5)]
    now = 3 * INTERVAL  # the first has said nothing since
    history.add(2, sample(connections=6))
    assert [each["connections"] for each in history.samples] == [3, 7, 6]
