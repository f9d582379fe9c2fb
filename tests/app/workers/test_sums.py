"""The metrics of several workers as those of one daemon."""

from __future__ import annotations

from broker.app.workers.sums import MetricSums, parse
from broker.observe.catalog import CATALOG, LABEL, MAX, SUM
from broker.observe.exposition import Exposition
from broker.observe.metrics import Metrics


def told(bytes_in: int = 0, ready: float = 1.0, jobs: float = 0.0) -> dict:
    """Return what a worker says with these values."""
    metrics = Metrics()
    metrics.bytes_in = bytes_in
    metrics.opened("owlmeans")
    metrics.reactor_lag_seconds.observe(0.02)
    metrics.gauge("ready", lambda: ready)
    metrics.gauge("jobs_ready", lambda: jobs)
    return parse(Exposition(metrics).text().decode())


def lines_of(text: str) -> list[str]:
    return [line for line in text.split("\n") if line and not line.startswith("#")]


def test_counters_and_histograms_are_added_up():
    lines = lines_of(MetricSums().text({1: told(5), 2: told(7)}))
    assert "txbroker_bytes_in_total 12.0" in lines
    assert 'txbroker_connections_opened_total{dialect="owlmeans"} 2.0' in lines
    assert 'txbroker_connections{dialect="owlmeans"} 2.0' in lines
    assert 'txbroker_reactor_lag_seconds_bucket{le="0.025"} 2.0' in lines
    assert "txbroker_reactor_lag_seconds_count 2.0" in lines
    assert "txbroker_reactor_lag_seconds_sum 0.04" in lines


def test_where_a_sum_would_lie_each_worker_has_its_own_value_or_the_greatest_counts():
    lines = lines_of(MetricSums().text({1: told(ready=0.0, jobs=3.0), 2: told(jobs=3.0)}))
    assert [line for line in lines if line.startswith("txbroker_ready")] == [
        'txbroker_ready{worker="1"} 0.0',
        'txbroker_ready{worker="2"} 1.0',
    ]
    assert "txbroker_jobs_ready 3.0" in lines
    assert [line for line in lines if line.startswith("python_info")] == [
        line for line in lines_of(MetricSums().text({1: told()})) if line.startswith("python_info")
    ]


def test_what_one_has_counted_that_has_ended_stays_but_not_its_gauges():
    sums = MetricSums()
    sums.ended(told(5))
    sums.ended(told(1))
    lines = lines_of(sums.text({1: told(7)}))
    assert "txbroker_bytes_in_total 13.0" in lines
    assert "txbroker_reactor_lag_seconds_count 3.0" in lines
    assert 'txbroker_connections{dialect="owlmeans"} 1.0' in lines


def test_the_text_of_one_is_what_it_has_said():
    metrics = Metrics()
    metrics.begin("owlmeans")
    text = Exposition(metrics).text().decode()
    own, of_library = text.partition("# HELP process_virtual_memory_bytes")[::2]
    assert own
    assert of_library
    assert MetricSums().text({1: parse(own)}) == own


def test_every_metric_says_what_several_make_of_it():
    assert {metric.across for metric in CATALOG.values()} == {SUM, MAX, LABEL}
    added = [metric.name for metric in CATALOG.values() if metric.kind != "gauge" and metric.across != SUM]
    assert added == []
