"""What the benchmarks keep of what they have measured."""

from __future__ import annotations

import csv
import json

import pytest

from benchmarks.results import Range, Result, Results, Spread

NAMES = ("cpu_us", "ops_per_s", "p50_us", "p99_us", "server_share", "load_share")


def spread(*cpu: float) -> Spread:
    return Spread.of([dict.fromkeys(NAMES, value) for value in cpu])


@pytest.fixture
def result():
    sides = {"txbroker": spread(30, 10, 20), "other": spread(40), "bare C server": spread(8)}
    return Result("P1", "a relay", "cpu_us", 0.4, "txbroker", "other", sides)


def test_of_each_figure_the_median_and_the_range_are_kept(result):
    assert result.sides["txbroker"].cpu_us == Range(20, 10, 30)


def test_ours_is_told_in_terms_of_the_peer_and_of_the_least_there_can_be(result):
    assert (result.ratio, result.of_the_least) == (0.5, 2.5)


def test_without_the_bare_server_nothing_is_said_of_the_least(result):
    del result.sides["bare C server"]
    assert result.of_the_least is None


def test_a_goal_that_was_measured_again_replaces_the_one_of_before_and_leaves_the_others(result, tmp_path):
    before = Results(goals={"P1": {}, "P2": {"kept": 1}})
    before.add(result)
    assert before.goals["P2"] == {"kept": 1}
    assert before.goals["P1"]["ratio"] == 0.5


def test_what_is_saved_is_read_again(result, tmp_path):
    results = Results()
    results.add(result)
    results.save(tmp_path)
    assert Results.load(tmp_path).goals == json.loads(json.dumps(results.goals))
    assert "Python" in Results.load(tmp_path).machine


def test_a_goal_that_is_not_reached_says_so_in_the_table(result, tmp_path):
    results = Results()
    results.add(result)
    results.save(tmp_path)
    (row,) = csv.reader((tmp_path / "goals.csv").read_text("utf-8").splitlines())
    assert row == ["P1", "a relay", "20.0 (10.0–30.0)", "40.0 (40.0–40.0) other", "0.50", "0.4, not reached", "2.5"]


def test_without_results_there_are_none(tmp_path):
    assert Results.load(tmp_path) == Results()
