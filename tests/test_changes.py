"""Fragments of the changelog are well-formed, and towncrier makes its next entry of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from broker import __version__

ROOT = Path(__file__).parent.parent
CHANGES = ROOT / "changes"
KINDS = [
    kind["directory"] for kind in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]["type"]
]
NAME = re.compile(rf"\+[a-z0-9]+(-[a-z0-9]+)*\.({'|'.join(KINDS)})\.rst")
HEADING = re.compile(r"^(\d\S*) \((.+)\)\n-+$", re.MULTILINE)


def faults(name: str, text: str) -> list[str]:
    """Return what is wrong with the fragment *name* that says *text*."""
    lines = text.splitlines()
    found = {
        "its name is not +WORDS-WITH-HYPHENS.KIND.rst": not NAME.fullmatch(name),
        "it is no paragraph": not lines or "" in lines,
        "it has a bullet, a heading or an indented line": any(re.match(r"[-*#=~ ]", line) for line in lines),
        "a line is not a sentence with its full stop": not all(line.endswith((".", ".``")) for line in lines),
        "it has an odd number of ``": text.count("``") % 2 == 1,
        "it does not end with a line feed": not text.endswith("\n"),
    }
    return [fault for fault, is_so in found.items() if is_so]


def fragments() -> list[Path]:
    return [path for path in CHANGES.iterdir() if path.name not in ("README.rst", "template.rst")]


def draft(directory: Path) -> str:
    pytest.importorskip("towncrier")
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--date", "2030-01-02"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_fragment_is_well_formed():
    assert {path.name: faults(path.name, path.read_text()) for path in fragments()} == {p.name: [] for p in fragments()}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("12.added.rst", "It is there.\n"),
        ("+Words.added.rst", "It is there.\n"),
        ("+words.feature.rst", "It is there.\n"),
        ("+words.added.rst", ""),
        ("+words.added.rst", "* It is there.\n"),
        ("+words.added.rst", "One.\n\nTwo.\n"),
        ("+words.added.rst", "It is there"),
        ("+words.added.rst", "``It is there.\n"),
    ],
)
def test_a_fragment_that_is_not_is_found(name, text):
    assert faults(name, text)


@pytest.mark.processes
def test_an_entry_is_made_of_the_fragments_by_kind(tmp_path):
    for part in ("pyproject.toml", "CHANGELOG.rst"):
        shutil.copy(ROOT / part, tmp_path)
    (tmp_path / "broker").mkdir()
    (tmp_path / "broker" / "__init__.py").write_text('__version__ = "7.8.9"\n')
    (tmp_path / "changes").mkdir()
    for part in ("README.rst", "template.rst"):
        shutil.copy(CHANGES / part, tmp_path / "changes")
    (tmp_path / "changes" / "+one.fixed.rst").write_text("It works.\nIt did not.\n")
    (tmp_path / "changes" / "+two.added.rst").write_text("``x`` is there.\n")
    assert draft(tmp_path).strip() == (
        "7.8.9 (2030-01-02)\n------------------\n\n"
        "Added\n~~~~~\n\n* ``x`` is there.\n\n"
        "Fixed\n~~~~~\n\n* It works.\n  It did not."
    )


def test_the_changelog_has_each_version_once_and_that_of_this_release():
    text = (ROOT / "CHANGELOG.rst").read_text()
    versions = Counter(version for version, _ in HEADING.findall(text))
    assert not versions or versions[__version__] == 1  # before the first release it has none
    assert set(versions.values()) <= {1}
    assert ".. towncrier: the next release begins here\n" in text
