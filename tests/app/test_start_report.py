"""Why a start has failed reaches the operator as a whole, wherever he looks."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from broker.app import start_report
from broker.app.log_output import log_output
from broker.app.process import StartError
from broker.app.start_report import StartReport
from broker.config.settings import Settings


@pytest.fixture
def errors(monkeypatch):
    """A pipe as standard error; returns what was written to it."""
    read, write = os.pipe()
    monkeypatch.setattr(sys, "__stderr__", os.fdopen(write, "w"))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(start_report, "log", type(start_report.log)())
    os.set_blocking(read, False)
    yield lambda: os.read(read, 10_000).decode()
    sys.__stderr__.close()
    os.close(read)


def logged(path: Path) -> list[str]:
    return [json.loads(line)["msg"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("error", [StartError("no room " * 50), OSError(13, "Permission denied", "/run/x.pid")])
def test_start_error_is_told_as_a_whole_after_standard_error_has_gone(errors, error):
    report = StartReport()
    report.install()
    sys.excepthook(type(error), error, None)
    assert errors() == f"txbroker: {error}\n"
    report.close()


def test_other_error_is_passed_on(errors, monkeypatch):
    others: list[Any] = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: others.append(error[1]))
    report, bug = StartReport(), KeyError("x")
    report.install()
    sys.excepthook(KeyError, bug, None)
    assert others == [bug]
    report.close()


def test_error_after_the_start_is_passed_on(errors, monkeypatch):
    others: list[Any] = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: others.append(error[1]))
    report, late = StartReport(), OSError("late")
    report.install()
    report.close()
    sys.excepthook(OSError, late, None)
    assert others == [late]


def test_problems_of_settings_are_told_and_logged(errors, tmp_path):
    settings = Settings(log_file=str(tmp_path / "x.log"))
    StartReport().refuse(["TXBROKER_A: one", "TXBROKER_B: two"], {"nodaemon": 1}, settings)
    assert errors() == "txbroker can not start:\n  TXBROKER_A: one\n  TXBROKER_B: two\n"
    assert logged(tmp_path / "x.log") == ["can not start: TXBROKER_A: one", "can not start: TXBROKER_B: two"]


def test_log_that_can_not_be_opened_keeps_nothing_from_being_told(errors, tmp_path):
    StartReport().refuse(["TXBROKER_A: one"], {"nodaemon": 1}, Settings(log_file=str(tmp_path)))
    assert errors() == "txbroker can not start:\n  TXBROKER_A: one\n"


def test_nothing_is_told_twice_where_the_log_is_no_file(errors):
    report = StartReport()
    report.output = log_output({"logfile": f"/dev/fd/{sys.__stderr__.fileno()}"}, Settings())
    report.refuse(["TXBROKER_A: one"], {}, Settings())
    assert errors() == "txbroker can not start:\n  TXBROKER_A: one\n"
