"""``txbroker bench``: what it counts, and what it leaves behind."""

from __future__ import annotations

import asyncio
import io
import json
import sys

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st

from broker.app.client import benching
from broker.app.client.histogram import Histogram, bucket_of, end_of
from tests.support.daemon import Daemon
from tests.support.developer import Developer


@given(st.integers(0, 2**40))
def test_a_bucket_is_no_wider_than_a_thirtieth_of_what_is_in_it(value: int) -> None:
    end = end_of(bucket_of(value))
    assert value < end <= value + 1 + value / 30
    assert bucket_of(end) == bucket_of(value) + 1


def test_quantiles_are_those_of_what_was_recorded() -> None:
    histogram = Histogram()
    for milliseconds in range(1, 1001):
        histogram.record(milliseconds / 1000)
    for part in (0.5, 0.9, 0.99):
        assert part <= histogram.quantile(part) <= part * 1.04
    assert (histogram.quantile(1.0), histogram.longest, histogram.count) == (1.0, 1.0, 1000)
    assert histogram.mean == pytest.approx(0.5005)


def test_a_histogram_of_nothing_has_no_rows() -> None:
    histogram = Histogram()
    assert (histogram.quantile(0.5), histogram.mean, list(histogram.bars())) == (0.0, 0.0, [])


def test_bars_are_as_long_as_what_they_stand_for() -> None:
    histogram = Histogram()
    for milliseconds in (1.5, 1.5, 1.5, 1.5, 5.0, 5.0):
        histogram.record(milliseconds / 1000)
    assert list(histogram.octaves()) == [(0.002048, 4), (0.004096, 0), (0.008192, 2)]
    assert [line.count("#") for line in histogram.bars()] == [40, 0, 20]
    assert "66.7 %" in next(histogram.bars())


def test_a_bar_of_progress_is_shown_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    async def shown(stream: io.StringIO) -> str:
        monkeypatch.setattr(sys, "stderr", stream)
        task = asyncio.create_task(benching._progress("relay", 1000.0))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return stream.getvalue()

    assert asyncio.run(shown(io.StringIO())) == ""
    text = asyncio.run(shown(Terminal()))
    assert text.startswith("\rrelay      [")
    assert text.endswith(" \r")


@pytest_twisted.ensureDeferred
async def test_each_workload_is_measured_and_leaves_nothing(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    give = Developer(daemon, monkeypatch)
    words = ("--seconds", "0.1", "--timeout", "60", "--concurrency", "8", "--clients", "3")
    found = [json.loads(line) for line in await give.lines("bench", *words, "--json")]
    assert [one["workload"] for one in found] == ["relay", "pipelined", "fan-out", "durable", "jobs", "keys"]
    for one in found:
        times = one["milliseconds"]
        assert 0 < times["p50"] <= times["p90"] <= times["p99"] <= times["p999"] <= times["max"]
        assert sum(count for _, count in one["histogram"]) == one["operations"] > 0
        counted = one["operations"] * one["clients"] / one["seconds"]
        assert one["per_second"] == pytest.approx(counted, rel=0.02)
    assert [(one["clients"], one["concurrency"]) for one in found[:3]] == [(1, 1), (1, 8), (3, 1)]
    assert await give.lines("kv", "range", "!", "~") == []
    lines = await give.lines("bench", *words, "--workload", "keys")
    assert lines[0].startswith("keys ")
    assert "/s  ms: p50 " in lines[0]
    assert lines[1].startswith("  < ")


@pytest_twisted.ensureDeferred
async def test_a_broker_that_does_not_answer_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    give = Developer(Daemon.__new__(Daemon), monkeypatch)
    give.daemon.url = "http://127.0.0.1:1"
    status, said, errors = await give("bench", "--timeout", "0.2")
    assert (status, said, errors.startswith("txbroker: NOT_CONNECTED: ")) == (1, "", True)
