"""README.rst is the description on PyPI, too, which knows nothing of Sphinx."""

from __future__ import annotations

import re

from broker.config.settings import PROTOCOLS
from tests.support.daemon import ROOT

TEXT = (ROOT / "README.rst").read_text("utf-8")


def test_it_has_only_what_docutils_knows():
    assert re.findall(r":[a-z]+:`", TEXT) == []
    assert set(re.findall(r"^ *\.\. ([\w-]+)::", TEXT, re.MULTILINE)) == {"image", "code-block"}


def test_it_is_short():
    assert len(TEXT.splitlines()) < 150


def test_it_names_each_dialect_that_comes_with_the_broker():
    table = TEXT.partition("\nThe dialects\n")[2].partition("\nBeside others\n")[0]
    assert [name for name in PROTOCOLS if f"\n``{name}``  " not in table] == []
