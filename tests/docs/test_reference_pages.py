"""The pages of the reference that scripts make have all that there is, and say what is so."""

from __future__ import annotations

import importlib
import json
import re
import sys
from types import ModuleType
from typing import Any

import pytest

from broker.config.settings import Settings
from protocols.http.dialect import dialect
from protocols.owlmeans.reserved import METHODS
from tests.support.code_blocks import blocks_of
from tests.support.daemon import ROOT

DOCS = ROOT / "docs"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    """Import a module of docs, as conf.py does."""
    monkeypatch.syspath_prepend(str(DOCS))

    def module(name: str) -> ModuleType:
        return sys.modules.get(name) or importlib.import_module(name)

    return module


def test_page_of_errors_is_up_to_date(load):
    written = (DOCS / "reference" / "error-codes.rst").read_text("utf-8")
    assert written == load("errors_page").page(), "run `python docs/errors_page.py >docs/reference/error-codes.rst`"


def test_each_code_says_what_to_do(load):
    page = load("errors_page")
    assert {kind.code for kind in page.kinds()} == set(page.ADVICE)
    assert len(page.ADVICE) > 12


def test_each_method_of_the_broker_is_a_frame_there(load):
    page = load("frames_page").page("owlmeans")
    assert [name for name in METHODS.names if f"\n``{name}``\n" not in page] == []


def test_each_request_of_the_http_api_is_there(load):
    page = load("openapi_page").page()
    operations = dialect(Settings()).operations
    assert len(operations) > 25
    assert [each for each in operations if f"``{each.method} /v1{each.path}``" not in page] == []


def shown(page: str) -> list[tuple[str, Any]]:
    """Return the frames that a page shows, whole ones only, each with its direction."""
    text = "".join(block.text for block in blocks_of(DOCS / page) if block.language == "frames")
    found = re.findall(r"^(?:\w+ )?([<>]) (\{[^…\n]*\})$", text, re.MULTILINE)
    return [(direction, json.loads(frame)) for direction, frame in found]


def fits(frame: dict[str, Any], schema: dict[str, Any]) -> bool:
    """Whether *frame* has the members that *schema* needs, and no others, each of its constant where it has one."""
    members = schema["properties"]
    constants = {name: about["const"] for name, about in members.items() if "const" in about}
    return (
        set(schema["required"]) <= set(frame) <= set(members)
        and constants.items() <= {name: frame[name] for name in constants if name in frame}.items()
    )


@pytest.mark.parametrize("name", ["thinws", "hpkv", "owlmeans"])
def test_each_frame_that_is_shown_fits_a_schema_of_its_direction(load, name):
    schemas = load("wire_schemas").DIALECTS[name]()
    frames = shown(f"dialects/{name}.rst")
    assert len(frames) >= 2
    for direction, frame in frames:
        able = [each for title, each in schemas.items() if title.startswith("received") == (direction == "<")]
        assert any(fits(frame, schema) for schema in able if "properties" in schema), frame
