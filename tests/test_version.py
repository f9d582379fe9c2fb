"""``broker.__version__`` is the only place that says a version; all others follow it, or are compared here."""

from __future__ import annotations

import configparser
import json
import re
import runpy
from pathlib import Path

import pytest

from broker import __version__
from broker.config.settings import Settings
from broker.testing import http_request, make_broker, value_of

ROOT = Path(__file__).parent.parent
VERSION = re.compile(r"txbroker[ -](\d+\.\d+\.\d+)")


def test_it_is_of_a_form_that_pip_and_npm_know():
    assert re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", __version__)


def test_the_archives_have_it():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    assert settings["metadata"]["version"] == "attr: broker.__version__"


def test_asyncapi_has_it():
    assert json.loads((ROOT / "docs" / "asyncapi.json").read_text())["info"]["version"] == __version__


def test_openapi_has_it():
    from protocols.http import dialect

    answer = value_of(http_request(make_broker(), dialect(Settings()), "GET", "/v1/openapi.json"))
    assert json.loads(answer.body)["info"]["version"] == __version__


def test_the_documentation_has_it(monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(ROOT / "docs")
    assert runpy.run_path(str(ROOT / "docs" / "conf.py"))["release"] == __version__


def test_each_page_that_shows_it_does_so_rightly():
    pages = [*(ROOT / "docs").rglob("*.rst"), *ROOT.glob("*.rst"), *(ROOT / "contrib").rglob("*.y*ml")]
    shown = [(page.name, found) for page in pages for found in VERSION.findall(page.read_text("utf-8"))]
    assert len(shown) > 1
    assert [(name, found) for name, found in shown if found != __version__] == []


def test_each_package_of_the_clients_has_it():
    packages = [path for path in (ROOT / "clients").rglob("package.json") if "node_modules" not in path.parts]
    assert {path.parent.name: json.loads(path.read_text())["version"] for path in packages} == {
        path.parent.name: __version__ for path in packages
    }
