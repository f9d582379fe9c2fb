"""The pages of guarantees and of security name tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PROOF = re.compile(r"``(tests/[\w/]+\.py)((?:::\w+)*)``")
ROW = re.compile(r"^   \* - (?!Attack$)(.*?)(?=^   \* - |^\S)", re.MULTILINE | re.DOTALL)


def text_of(page):
    return (ROOT / "docs" / page).read_text("utf-8")


def is_defined(path, parts):
    """Whether the test module at *path* has each of *parts*, such as ``::TestLink::test_it``."""
    text = (ROOT / path).read_text("utf-8") if (ROOT / path).exists() else ""
    return bool(text) and all(re.search(rf"\b(def|class) {part}\b", text) for part in parts.split("::")[1:])


@pytest.mark.parametrize("page", ["guarantees.rst", "security.rst"])
def test_each_proof_is_a_test(page):
    proofs = PROOF.findall(text_of(page))
    assert len(proofs) > 30
    assert text_of(page).count("``tests/") == len(proofs)
    assert [path + parts for path, parts in proofs if not is_defined(path, parts)] == []


def test_each_guarantee_has_a_proof():
    promised = text_of("guarantees.rst").partition("What is not promised")[0]
    for promise in promised.split("\n* ")[1:]:
        assert PROOF.search(promise), promise


def test_each_defence_has_a_test_of_its_own():
    rows = ROW.findall(text_of("security.rst") + "\nend")
    assert (
        len(rows) == text_of("security.rst").count("\n   * - ") - text_of("security.rst").count("   * - Attack\n") > 50
    )
    for row in rows:
        assert any("::test_" in parts for _, parts in PROOF.findall(row)), row
