"""docs/reference has every interface, with all that is in it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from zope.interface.interface import InterfaceClass

from broker import interfaces

DOCS = Path(__file__).parent.parent / "docs"
ALL = {name: found for name, found in vars(interfaces).items() if isinstance(found, InterfaceClass)}


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("interfaces_page", DOCS / "interfaces_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page(interfaces, str.splitlines)


@pytest.mark.parametrize("name", sorted(ALL))
def test_an_interface_has_all_its_members_there(page, name):
    start = page.index(f".. py:class:: broker.interfaces.{name}")
    section = page[start:].split("\n.. py:class::")[0]
    for member in ALL[name].names():
        assert f":: {member}" in section, member


def test_a_verb_has_its_types_and_its_errors(page):
    verb = page[page.index(".. py:method:: enqueue(") :].split(".. py:method::")[1]
    assert verb.startswith(
        " enqueue(ref: str, body: bytes, *, recipient: str='', time: float=0.0) -> Deferred[bool]\n\n"
        "      Send a message to a client's mailbox, or to the work queue ``queue:<name>``.\n"
    )


@pytest.mark.parametrize(
    "name",
    (
        "answers errors interfaces jobs jsontext messages patterns plugins schemas separators sessions streams testing"
    ).split(),
)
def test_a_module_that_plugin_authors_read_has_a_page(name):
    assert f"broker.{name}" in (DOCS / "reference" / f"{name}.rst").read_text()
    assert f"\n   {name}\n" in (DOCS / "reference" / "index.rst").read_text()
