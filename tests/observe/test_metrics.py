from typing import cast

import pytest

from broker.observe.exposition import Exposition
from broker.observe.metrics import COMMIT_SECONDS_BOUNDS, MAX_OWN, Histogram, Metrics
from broker.plugins import Counter, Gauge
from tests.support.logs import failures_of


def text(metrics):
    return Exposition(metrics).text().decode()


def test_counters_exist_at_zero():
    exposed = text(Metrics())
    for name in ("bytes_in", "bytes_out", "messages_out", "rate_limited", "answers_dropped", "store_errors"):
        assert f"txbroker_{name}_total 0.0" in exposed


def test_a_connection_is_counted_in_and_out():
    metrics = Metrics()
    metrics.opened("owlmeans")
    metrics.opened("owlmeans")
    metrics.closed("owlmeans", 1000)
    exposed = text(metrics)
    assert 'txbroker_connections{dialect="owlmeans"} 1.0' in exposed
    assert 'txbroker_connections_opened_total{dialect="owlmeans"} 2.0' in exposed
    assert 'txbroker_connections_closed_total{code="1000",dialect="owlmeans"} 1.0' in exposed


def test_close_codes_of_applications_share_a_label():
    metrics = Metrics()
    for code in (3001, 3002, 4999):
        metrics.closed("thinws", code)
    assert dict(metrics.closed_total) == {("thinws", "3xxx"): 2, ("thinws", "4xxx"): 1}


def test_verbs_are_counted_by_dialect():
    metrics = Metrics()
    metrics.verbs_of("owlmeans")["call"] += 3
    metrics.slow_consumer("closed")
    metrics.auth_failures["hpkv"] += 1
    exposed = text(metrics)
    assert 'txbroker_messages_in_total{dialect="owlmeans",verb="call"} 3.0' in exposed
    assert 'txbroker_slow_consumers_total{policy="closed"} 1.0' in exposed
    assert 'txbroker_auth_failures_total{dialect="hpkv"} 1.0' in exposed


def test_a_gauge_is_asked_when_it_is_read():
    metrics = Metrics()
    values = iter([1.0, 2.0])
    metrics.gauge("calls_pending", lambda: next(values))
    exposition = Exposition(metrics)
    assert "txbroker_calls_pending 1.0" in exposition.text().decode()
    assert "txbroker_calls_pending 2.0" in exposition.text().decode()


def test_a_histogram_counts_each_value_below_its_bounds():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert histogram.buckets() == [("1.0", 2.0), ("2.0", 3.0), ("+Inf", 4.0)]
    assert histogram.total == 12.0


def test_commits_are_measured():
    metrics = Metrics()
    metrics.committed(3, 0.002)
    exposed = text(metrics)
    assert "txbroker_store_batch_rows_sum 3.0" in exposed
    assert "txbroker_store_commit_seconds_count 1.0" in exposed
    assert len(metrics.commit_seconds.counts) == len(COMMIT_SECONDS_BOUNDS) + 1


def test_metrics_of_a_dialect_have_its_name():
    metrics, lines, rooms = Metrics(), Counter("lines", "Lines that came."), Gauge("rooms", "Rooms.", lambda: 7)
    metrics.add_own("my-lines", [lines, rooms, Gauge("level", "A level.", 1.5)])
    lines.value += 2
    exposed = text(metrics)
    assert "# HELP txbroker_my_lines_lines_total Lines that came.\n" in exposed
    assert "txbroker_my_lines_lines_total 2.0" in exposed
    assert "txbroker_my_lines_rooms 7.0" in exposed
    assert "txbroker_my_lines_level 1.5" in exposed


def test_a_metric_that_can_not_be_read_costs_itself_only(logged):
    metrics = Metrics()
    metrics.add_own("a", [Gauge("bad", "Bad.", lambda: 1 / 0), Gauge("good", "Good.", 1)])
    exposed = text(metrics)
    assert "txbroker_a_good 1.0" in exposed
    assert "txbroker_a_bad" not in exposed
    assert [type(failure) for failure in failures_of(logged)] == [ZeroDivisionError]


@pytest.mark.parametrize(
    ("dialect", "name"),
    [("a", "Bad"), ("a", ""), ("a", "b c"), ("a", "1"), ("store", "errors"), ("messages", "in"), ("a", "twice")],
)
def test_a_metric_whose_name_is_none_or_another_ones_is_refused(dialect, name):
    metrics = Metrics()
    metrics.add_own("a", [Counter("twice", "Help.")])
    with pytest.raises(ValueError, match=dialect):
        metrics.add_own(dialect, [Counter(name, "Help.")])


def test_a_metric_of_a_dialect_may_say_anything_of_itself():
    metrics = Metrics()
    metrics.add_own("a", [Gauge("one", 'A "line"\nand \\ another.\r', 1), Gauge("two", cast(str, None), 2)])
    exposed = text(metrics)
    assert '# HELP txbroker_a_one A "line"\\nand \\\\ another.\r\n# TYPE txbroker_a_one gauge\n' in exposed
    assert "txbroker_a_two 2.0" in exposed


def test_labels_are_escaped():
    metrics = Metrics()
    metrics.opened('x"\\\n')
    assert 'txbroker_connections{dialect="x\\"\\\\\\n"} 1.0' in text(metrics)


@pytest.mark.parametrize(
    ("value", "shown"), [(float("nan"), "NaN"), (float("inf"), "+Inf"), (-1e30, "-1e+30"), (True, "1.0")]
)
def test_odd_numbers_are_written_as_prometheus_reads_them(value, shown):
    metrics = Metrics()
    metrics.add_own("a", [Gauge("odd", "Odd.", value)])
    assert f"txbroker_a_odd {shown}\n" in text(metrics)


def test_a_counter_whose_name_has_its_ending_gets_no_second():
    metrics = Metrics()
    metrics.add_own("a", [Counter("lines_total", "Lines.")])
    assert "txbroker_a_lines_total 0.0" in text(metrics)
    with pytest.raises(ValueError, match="another metric"):
        metrics.add_own("a", [Gauge("lines_total", "Lines.")])


@pytest.mark.parametrize(
    ("dialect", "name"), [("publish", "seconds_bucket"), ("call", "seconds"), ("bytes", "in_total")]
)
def test_no_metric_of_a_dialect_looks_like_a_sample_of_the_broker(dialect, name):
    with pytest.raises(ValueError, match="another metric"):
        Metrics().add_own(dialect, [Gauge(name, "Help.")])


def test_a_dialect_has_a_limit_of_metrics():
    metrics = Metrics()
    metrics.add_own("a", [Gauge(f"g{number}", "Help.", 1) for number in range(MAX_OWN)])
    with pytest.raises(ValueError, match="1001 metrics, and 1000 are the most"):
        metrics.add_own("b", [Gauge(f"g{number}", "Help.", 1) for number in range(MAX_OWN + 1)])
    assert text(metrics).count("txbroker_a_g999 1.0") == 1
