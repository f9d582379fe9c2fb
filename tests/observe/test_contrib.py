"""The dashboard and the alerts: they ask for nothing that is not there."""

from __future__ import annotations

import importlib.util
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


def test_promtool_accepts_the_expressions_of_the_dashboard(tmp_path):
    rules = []
    for number, panel in enumerate(panels()):
        for target in panel.get("targets", ()):
            asked = target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")
            rules.append(f"      - {{record: 'a:b{number}', expr: {json.dumps(asked)}}}")
    file = tmp_path / "rules.yml"
    file.write_text("\n".join(["groups:", "  - name: all", "    rules:", *rules, ""]))
    assert checked("check", "rules", str(file)) == ""


def pages(*names: str) -> str:
    return "".join(path.read_text("utf-8") for name in names for path in sorted((ROOT / "docs").glob(name)))


def test_the_documentation_names_only_metrics_that_exist():
    named = set(re.findall(r"``[^`]*?\b(txbroker_\w+)", pages("*.rst", "operations/*.rst", "dialects/*.rst")))
    bases = {metric.full_name for metric in CATALOG.values()}
    own = {name for name in named if name.startswith(("txbroker_my", "txbroker_tally"))}  # of plugins
    assert named - own - SAMPLES - bases - {"txbroker_"} == set()


def test_what_is_looked_for_in_the_log_is_what_the_broker_writes():
    source = "".join(path.read_text("utf-8") for path in (ROOT / "broker").rglob("*.py")).lower()
    words = re.findall(r"grep (?:-\w )*'([^']+)' LOG", pages("operations/alerts.rst", "operations/troubleshooting.rst"))
    assert len(words) > 10
    for word in words:
        if not word.startswith(('"level"', " 1006")):
            assert word.partition("[")[0].lower() in source, word


def test_the_page_of_metrics_is_the_catalog():
    spec = importlib.util.spec_from_file_location("metrics_page", ROOT / "docs/metrics_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "docs/reference/metrics.rst").read_text("utf-8")
    assert written == module.page(), "run `python docs/metrics_page.py >docs/reference/metrics.rst`"
