"""The page of guarantees names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PROOF = re.compile(r"``(tests/[\w/]+\.py)::(test_\w+)``")


def test_each_proof_of_a_guarantee_is_a_test():
    proofs = PROOF.findall((ROOT / "docs" / "guarantees.rst").read_text())
    assert len(proofs) > 30
    missing = [f"{path}::{name}" for path, name in proofs if f"def {name}(" not in (ROOT / path).read_text()]
    assert not missing


def test_each_guarantee_has_a_proof():
    text = (ROOT / "docs" / "guarantees.rst").read_text()
    promised = text.partition("What is not promised")[0]
    for promise in promised.split("\n* ")[1:]:
        assert PROOF.search(promise), promise
