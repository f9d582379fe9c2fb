"""What the documentation names is there: files of the source, commands and their options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from broker.app.command import txbroker
from broker.config.options import options_of
from broker.config.settings import CLIENT_NAMES, ENV_PREFIX, Settings

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").rglob("*.rst"), *ROOT.glob("*.rst"), ROOT / "SECURITY.md"])
FILE = re.compile(r"``((?:contrib|docs|broker|protocols|tests|benchmarks|clients)/[\w./-]+)``")
SETTING = re.compile(r"\bTXBROKER_[A-Z][A-Z_]*[A-Z]\b(?!_)")
DEFAULT = re.compile(r":envvar:`(TXBROKER_\w+)`[^:;.]*?, (\d+) by default")
OPTIONS = {ENV_PREFIX + name.upper(): option for name, option in options_of(Settings).items()}
# Of the tests, of the plugin of an example, and of the commands that are clients.
NO_SETTINGS = {"TXBROKER_SCREENSHOTS", "TXBROKER_TALLY_TOPIC", *CLIENT_NAMES}
QUOTED = re.compile(r"``([a-z][^`{}/=$|>]* [^`{}/=$|>]* [^`{}/=$|>]*)``")  # three words at least
QUOTING = ("alerts", "backup", "clocks", "disks", "logs", "metrics", "scaling", "signals")
PROGRAMS = (
    "curl df fuser grep iostat journalctl kill pip promtool python redis-cli sqlite3 sum systemctl top twistd txbroker"
)
MADE = {"docs/_build/html", "protocols/lines.py"}  # by the reader
INLINE = re.compile(r"``txbroker ([a-z][^`]*)``")
TYPED = re.compile(r"^ +(?:\$ )?txbroker (?!can not start:)([a-z].*)$", re.MULTILINE)


def texts() -> Iterator[str]:
    yield from (page.read_text("utf-8") for page in PAGES if page.name != "CHANGELOG.rst")


def named_files() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        if page.name != "CHANGELOG.rst":
            yield from ((page.name, name) for name in FILE.findall(page.read_text("utf-8")))


def named_commands() -> set[str]:
    return {words for text in texts() for form in (INLINE, TYPED) for words in form.findall(text)}


def test_each_file_that_is_named_is_there():
    missing = [(page, name) for page, name in named_files() if not (ROOT / name).exists()]
    assert [(page, name) for page, name in missing if name not in MADE] == []


@pytest.mark.parametrize("words", sorted(named_commands()))
def test_each_command_that_is_named_takes_its_arguments(words):
    own = words.partition(" -- ")[0]  # what stands behind it is another program's
    given = shlex.split(re.split(r"[|<>]", re.sub(r"\$\([^)]*\)", "today", own))[0])
    command: click.Command = txbroker
    while isinstance(command, click.Group) and given:
        command = command.commands[given.pop(0)]
    names = {name for parameter in command.params for name in parameter.opts} | {"--help", "-h"}
    assert [word for word in given if word.startswith("-") and word not in names] == []


def test_each_setting_that_is_named_is_one():
    named = {name for text in texts() for name in SETTING.findall(text)}
    assert len(named) > 80
    assert {name for name in named if name.removesuffix("_FILE") not in OPTIONS and name not in OPTIONS} == NO_SETTINGS


def test_a_default_that_is_told_is_the_one_there_is():
    told = [found for text in texts() for found in DEFAULT.findall(text)]
    assert len(told) > 3
    assert [(name, value) for name, value in told if OPTIONS[name].default != value] == []


def quoted() -> set[str]:
    """Return what pages quote of the log and of ``/ready``, cut where they leave something out."""
    pages = [(ROOT / "docs/operations" / f"{name}.rst").read_text("utf-8") for name in QUOTING]
    found = {text for page in pages for text in QUOTED.findall(page) if text.split()[0] not in PROGRAMS.split()}
    return {part.strip(" ;,.") for text in found for part in text.split("…") if len(part) > 4}


def test_each_text_of_the_log_that_is_quoted_is_one():
    source = "\n".join(
        path.read_text("utf-8") for part in ("broker", "protocols") for path in (ROOT / part).rglob("*.py")
    )
    joined = re.sub(r'"\s*\n\s*f?"', "", source).lower()
    assert len(quoted()) > 15
    assert [text for text in sorted(quoted()) if text.lower() not in joined] == []
