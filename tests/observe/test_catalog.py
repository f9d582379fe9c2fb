"""The table of all metrics, against what a broker has."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from broker.app.tap import make_core, make_lag
from broker.config.settings import Settings
from broker.core.memory import PARTS
from broker.messages import CloseCode
from broker.observe.catalog import APPLICATION_CODES, CATALOG, CLOSE_CODES, COUNTER, LABELS, LIBRARY, PROCESSES, VERBS
from broker.observe.exposition import Exposition
from tests.support.promtool import checked

ROOT = Path(__file__).parent.parent.parent
PROMISED = (
    "connections connections_opened_total connections_closed_total messages_in_total messages_out_total"
    " bytes_in_total bytes_out_total publish_seconds deliver_seconds call_seconds calls_pending subscriptions topics"
    " services store_commit_seconds store_batch_rows store_errors_total slow_consumers_total send_queue_bytes"
    " auth_failures_total rate_limited_total reactor_lag_seconds build_info"
).split()
SAMPLE = re.compile(r"^([a-z_:0-9]+)(?:\{(.*)\})? \S+$")


@pytest.fixture(scope="module")
def exposed():
    """What a daemon shows that nobody has used yet."""
    from twisted.internet.task import Clock

    broker = make_core(Clock(), Settings(store="memory:", metrics_queues=("work",)))
    make_lag(Clock(), broker)
    broker.metrics.begin_port()
    for dialect in ("owlmeans", "ganomede"):
        broker.metrics.begin(dialect)
    return Exposition(broker.metrics).text().decode()


def samples(text):
    return [SAMPLE.match(line) for line in text.splitlines() if not line.startswith("#")]


def test_every_promised_metric_has_samples_from_the_start(exposed):
    names = {match[1] for match in samples(exposed)}
    for name in PROMISED:
        full = f"txbroker_{name}"
        assert full in names or full + "_bucket" in names, name


def test_every_metric_is_in_the_catalog_and_every_one_of_the_catalog_is_shown(exposed):
    shown = set(re.findall(r"^# TYPE (\S+) ", exposed, re.MULTILINE))
    elsewhere = {metric.name for metric in CATALOG.values() if metric.when == PROCESSES}
    own = [metric for metric in CATALOG.values() if metric.name not in elsewhere]
    known = {metric.full_name for metric in own if not metric.name.startswith(("redis_", "store_wal"))}
    assert {name for name in shown if name.startswith("txbroker_")} == known
    assert shown - known == set(LIBRARY)


def test_labels_are_those_that_clients_do_not_choose(exposed):
    found = {label for match in samples(exposed) for label in re.findall(r'(\w+)="', match[2] or "")}
    others = {"le", "version", "queue", "generation", "implementation", "major", "minor", "patchlevel"}
    assert found - others == set(LABELS)


def test_only_queues_that_were_named_have_a_label():
    from twisted.internet.task import Clock

    text = Exposition(make_core(Clock(), Settings(store="memory:")).metrics).text().decode()
    assert "queue=" not in text


def test_all_counters_begin_at_zero(exposed):
    totals = [line for line in exposed.splitlines() if line.startswith("txbroker_") and "_total" in line.split("{")[0]]
    assert totals
    assert all(line.endswith(" 0.0") for line in totals)


def test_promtool_finds_nothing_to_object_to(exposed):
    assert checked("check", "metrics", text=exposed) == ""


def test_the_verbs_are_those_that_peers_count():
    source = "".join(path.read_text("utf-8") for path in (ROOT / "broker/peer").glob("*.py"))
    counted = set(re.findall(r'(?:_allow|_allow_queue)\(\s*"(\w+)"|_verbs\["(\w+)"\]', source))
    assert {verb for pair in counted for verb in pair if verb} == set(VERBS)


def test_the_close_codes_are_those_there_are():
    codes = {str(int(code)) if code < 3000 else f"{code // 1000}xxx" for code in CloseCode}
    assert codes <= {*CLOSE_CODES, *APPLICATION_CODES}


def test_the_accounts_of_memory_are_gauges():
    assert {f"{name}_bytes" for name in PARTS} <= set(CATALOG)


def test_helps_are_sentences():
    for metric in CATALOG.values():
        assert metric.help.endswith(".")
        assert metric.kind == COUNTER or not metric.full_name.endswith("_total")
        assert attrs.asdict(metric)["group"]
