"""What is kept of the curves, which tell how costs grow."""

from __future__ import annotations

import csv
import json

import pytest

from benchmarks.results import Range
from benchmarks.scale.__main__ import MOST_EVENTS, chosen
from benchmarks.scale.curve import Curve, Line
from benchmarks.scale.curves import CURVES
from benchmarks.scale.results import ScaleResults
from benchmarks.scale.stored import CHANNELS, channel, fill
from broker.patterns import LOG_PREFIX
from broker.stores.sqlite_file import open_file
from broker.stores.sqlite_tables import TableReader


def line(*medians: float) -> Line:
    return Line([10**number for number in range(len(medians))], [Range(each, each, each) for each in medians])


@pytest.mark.parametrize(("medians", "growth"), [((10, 11, 12), 1.2), ((10, 30, 5), 3), ((10,), 1)])
def test_the_growth_is_that_of_the_dearest_point(medians, growth):
    assert line(*medians).growth == growth


def test_what_is_saved_is_read_again_and_what_is_not_flat_says_so(tmp_path):
    results = ScaleResults(curves={"others": {"title": "others", "lines": {}}})
    results.add(Curve("keys", "keys", (1, 10), lambda site: ()), {"set": line(10, 11), "read": line(10, 13)})
    results.save(tmp_path)
    assert ScaleResults.load(tmp_path).curves == json.loads(json.dumps(results.curves))
    assert list(csv.reader((tmp_path / "scale.csv").read_text("utf-8").splitlines())) == [
        ["keys", "set", "10.0 with 1", "11.0 with 10", "1.10"],
        ["keys", "read", "10.0 with 1", "13.0 with 10", "1.30, not flat"],
    ]


def test_without_results_there_are_none(tmp_path):
    assert ScaleResults.load(tmp_path) == ScaleResults()


def test_sizes_can_be_left_out_and_the_largest_is_only_measured_when_asked_for():
    (events,) = chosen(["events"], 10_000, most=True)
    assert events.sizes == (1000, 10_000)
    (events,) = chosen(["events"], MOST_EVENTS, most=True)
    assert events.sizes[-1] == MOST_EVENTS
    assert chosen([], MOST_EVENTS, most=False) == list(CURVES)


def test_a_file_is_filled_as_the_broker_does_it_and_can_be_filled_again(tmp_path):
    file = tmp_path / "txbroker.db"
    for size in (5 * CHANNELS, 2 * CHANNELS):
        fill(file, size)
    opened = open_file(str(file), "os", 1.0, 0)
    reader = TableReader(opened.reads, opened.epoch)
    heads = {reader.head(LOG_PREFIX + channel(number)) for number in range(CHANNELS)}
    ids = [event.id for event in reader.read(LOG_PREFIX + channel(3), 0, 100)]
    opened.close()
    assert (heads, ids) == ({7}, [1, 2, 3, 4, 5, 6, 7])
