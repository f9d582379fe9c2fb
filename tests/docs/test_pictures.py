"""The pictures of the documentation are what docs/pictures.py draws."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from xml.etree import ElementTree

import pytest

from tests.support.daemon import ROOT

FOLDER = ROOT / "docs" / "pictures"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.svg")), ids=lambda path: path.stem)
def test_a_picture_is_what_the_script_draws(script, path):
    text = path.read_text("utf-8")
    assert text == script.PICTURES[path.stem]().svg(), "run `python docs/pictures.py`"
    assert ElementTree.fromstring(text).tag.endswith("svg")


def test_each_picture_is_there_and_on_a_page(script):
    pages = "".join(page.read_text("utf-8") for page in [*(ROOT / "docs").rglob("*.rst"), ROOT / "README.rst"])
    for name in script.PICTURES:
        assert (FOLDER / f"{name}.svg").exists()
        assert f"pictures/{name}.svg" in pages
