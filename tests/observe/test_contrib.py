"""The dashboard and the alerts: they ask for nothing that is not there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.observe.catalog import CATALOG, LABELS, LIBRARY
from tests.support.promtool import checked

ROOT = Path(__file__).parent.parent.parent
DASHBOARD = ROOT / "contrib/grafana/txbroker.json"
ALERTS, ALERT_TESTS = (ROOT / "contrib/prometheus" / name for name in ("alerts.yml", "alerts_test.yml"))
SAMPLES = {name for metric in CATALOG.values() for name in metric.sample_names} | set(LIBRARY) | {"up"}
KNOWN_LABELS = {*LABELS, "le", "queue", "version", "instance", "job"}
NAME = re.compile(r"\b(?:txbroker|process|python)_\w+|\bup\b")
MATCHED = re.compile(r"\{([^{}]*)\}")
GROUPED = re.compile(r"\b(?:by|without) \(([^)]*)\)")


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return found


def expressions() -> Iterator[str]:
    yield from (target["expr"] for panel in panels() for target in panel.get("targets", ()))
    yield from re.findall(r"^ +expr: '(.*)'$", ALERTS.read_text("utf-8"), re.MULTILINE)


def alerts() -> list[str]:
    return re.findall(r"alert: (\w+)", ALERTS.read_text("utf-8"))


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_an_expression_has_only_metrics_and_labels_that_exist(expression):
    names = set(NAME.findall(expression.replace('job="txbroker"', "")))
    assert names
    assert names <= SAMPLES
    labels = {label for inner in MATCHED.findall(expression) for label in re.findall(r"(\w+)\s*[!=]?[=~]", inner)}
    labels |= {label.strip() for inner in GROUPED.findall(expression) for label in inner.split(",")}
    assert labels <= KNOWN_LABELS


def test_each_metric_of_the_daemon_is_on_the_dashboard():
    shown = {name for panel in panels() for target in panel.get("targets", ()) for name in NAME.findall(target["expr"])}
    assert [metric.name for metric in CATALOG.values() if not shown & set(metric.sample_names)] == []


def test_panels_have_titles_ids_and_places_of_their_own():
    found = panels()
    assert len({panel["id"] for panel in found}) == len(found)
    places = [tuple(panel["gridPos"][side] for side in "xy") for panel in found]
    assert len(set(places)) == len(places)
    assert all(panel["title"] and panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in found)


def test_promtool_accepts_the_alerts():
    assert checked("check", "rules", str(ALERTS)) == ""


def test_each_alert_fires_when_it_should():
    assert checked("test", "rules", str(ALERT_TESTS)) == ""


def test_each_alert_has_a_test_and_a_section_of_the_documentation():
    tested = re.findall(r"alertname: (\w+)", ALERT_TESTS.read_text("utf-8"))
    titles = (ROOT / "docs/operations/alerts.rst").read_text("utf-8").split("\n")
    assert sorted(set(tested)) == sorted(alerts())
    assert [name for name in alerts() if name not in titles] == []
    assert sorted(title for title in titles if title.startswith("Txbroker")) == sorted(alerts())
