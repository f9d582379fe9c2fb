"""The blocks of code and of transcripts that pages in reStructuredText have.

What a block is, is told by its language or, in a literal block, by what it looks like:

=============  ==========================================================================================
``console``    commands after ``$ ``, each with what it prints; ``…`` stands for anything
``python``     a program; with ``:caption:``, a file of that name for commands further down
``javascript`` the same, under Node
``html``       a page, in a browser
``text``       what the program before it prints, or the page shows
``toml``       a permissions file, or entry points
``json``       a text that must be JSON
``frames``     what passes over a WebSocket: ``> sent`` and ``< received``, or ``a > sent`` of several clients
``frame``      one frame that the broker sends
``settings``   environment variables
=============  ==========================================================================================

A comment above a block says what else is to be known::

    .. not run: its client is not on npm
    .. run by tests/app/test_backup_page.py
    .. stays while the others run

``.. all run by`` is above the first of a page whose blocks all are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs

DIRECTIVE = re.compile(r"(?P<indent> *)\.\. code-block:: *(?P<language>\S*)$")
LITERAL = re.compile(r"(?P<indent> *)(?!\.\. )\S?.*::$")
NOTE = re.compile(r" *\.\. (not run: .+|(?:all )?run by \S+|stays while the others run)$")
OPTION = re.compile(r" *:(\w+): *(.*)$")
SETTINGS = re.compile(r"(?:(?:TXBROKER_\w+=.*|#.*| +\S.*)\n)+")
FRAMES = re.compile(r"(?:\$ \S*websockets .*\n)?(?:(?:\w+ )?[<>] .*\n)+")
FRAME = re.compile(r'(?:\{"type":.*\}\n)+')


@attrs.frozen
class Block:
    """One block.  ``note`` is the comment above it; ``caption`` the name of a file that it is."""

    page: Path
    line: int
    language: str
    text: str
    caption: str = ""
    note: str = ""

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def reason(self) -> str:
        """Why it is not run; empty if it is."""
        return self.note.partition("not run: ")[2]

    @property
    def test(self) -> str:
        """The test that runs it, if that is another one."""
        return self.note.partition("run by ")[2]

    @property
    def stays(self) -> bool:
        """Whether the command runs on while the blocks below it run."""
        return self.note.startswith("stays")


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the blocks of *page*, in their order."""
    lines = page.read_text("utf-8").splitlines()
    note, number = "", 0
    while number < len(lines):
        text = lines[number]
        number += 1
        if found := NOTE.match(text):
            note = found[1]
        elif found := DIRECTIVE.match(text) or LITERAL.match(text):
            start, indent = number, len(found["indent"])
            while number < len(lines) and (not lines[number] or lines[number].startswith(" " * (indent + 1))):
                number += 1
            language = found.groupdict().get("language", "::")
            yield _block(page, start, language, lines[start:number], note)
            note = note if note.startswith("all ") else ""
        elif text and not note.startswith("all "):
            note = ""


def _block(page: Path, start: int, language: str, lines: list[str], note: str) -> Block:
    caption = ""
    while lines and (found := OPTION.match(lines[0])) and language != "::":
        caption = found[2] if found[1] == "caption" else caption
        del lines[0]
    margin = min((len(line) - len(line.lstrip()) for line in lines if line), default=0)
    text = "\n".join(line[margin:] for line in lines).strip("\n") + "\n"
    return Block(page, start, _kind_of(text, language) if language in ("::", "text") else language, text, caption, note)


def _kind_of(text: str, language: str) -> str:
    """Return what the literal block *text* looks like, or its *language* if that is not seen."""
    kinds = {"settings": SETTINGS, "frames": FRAMES, "frame": FRAME}
    return next((kind for kind, pattern in kinds.items() if pattern.fullmatch(text)), language)


def pattern_of(shown: str) -> re.Pattern[str]:
    """Return what matches that which *shown* stands for: ``…`` is anything, and times are never the same."""
    parts = [re.sub(r"1\d{12}(?!\d)", r"\\d{13}", re.escape(part)) for part in shown.strip().split("…")]
    return re.compile("(?s:.*?)".join(parts))
