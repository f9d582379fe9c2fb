"""What the documentation names is there: files of the source, commands and their options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from broker.app.command import txbroker

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").rglob("*.rst"), *ROOT.glob("*.rst"), ROOT / "SECURITY.md"])
FILE = re.compile(r"``((?:contrib|docs|broker|protocols|tests|benchmarks)/[\w./-]+)``")
MADE = {"docs/_build/html", "protocols/lines.py"}  # by the reader
INLINE = re.compile(r"``txbroker ([a-z][^`]*)``")
TYPED = re.compile(r"^ +txbroker (?!can not start:)([a-z].*)$", re.MULTILINE)


def named_files() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        if page.name != "CHANGELOG.rst":
            yield from ((page.name, name) for name in FILE.findall(page.read_text("utf-8")))


def named_commands() -> set[str]:
    texts = [page.read_text("utf-8") for page in PAGES if page.name != "CHANGELOG.rst"]
    return {words for text in texts for form in (INLINE, TYPED) for words in form.findall(text)}


def test_each_file_that_is_named_is_there():
    missing = [(page, name) for page, name in named_files() if not (ROOT / name).exists()]
    assert [(page, name) for page, name in missing if name not in MADE] == []


@pytest.mark.parametrize("words", sorted(named_commands()))
def test_each_command_that_is_named_takes_its_arguments(words):
    given = shlex.split(re.split(r"[|<>]", re.sub(r"\$\([^)]*\)", "today", words))[0])
    command: click.Command = txbroker
    while isinstance(command, click.Group) and given:
        command = command.commands[given.pop(0)]
    names = {name for parameter in command.params for name in parameter.opts} | {"--help", "-h"}
    assert [word for word in given if word.startswith("-") and word not in names] == []
