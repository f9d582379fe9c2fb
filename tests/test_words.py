"""The code and its documentation use the terms of the field.

``CONTRIBUTING.rst`` has the table: what not to write, and what instead.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SUFFIXES = (".py", ".rst", ".sql", ".lua")
pytestmark = pytest.mark.unmeasured

# Not to be found at all, not in names either: whole words, or regular expressions of them.
WORDS = (
    *("Grumbler", "Crowd", "TurnedAway", "Specimen", "QuietLog", "Pulse", "lifeless", "WebSocketDoor", "Desk"),
    *("Trouble", "Verdict", "Neighbours", "QuietSession", "admits", "paced", "_regret", "_expel", "ripe", "hurry"),
    *("hang_up", "hung_up", r"\w*PATIENCE\w*", r"MOST_\w+", r"(?:\w+_)?LEAST(?:_\w+)?", r"(?:\w+_)?LONGEST(?:_\w+)?"),
)
# The same, in any case and over line ends.
PHRASES = (
    *("signs? of life", "the only door", "front door", "hangs? up", "hung up", "part with", "of nothing is nothing"),
    *("again is nothing", "the short way", "a short way", "odd frames?", "half a character"),
    *("could not be made good", "failed to let go"),
)
# Good English, but as the name of a class, function, parameter, attribute or variable they say too little.
NAMES = (
    *("Nobody", "Turn", "Nodes", "Past", "Feed", "Interest", "Elsewhere", "neighbours", "admits", "enough", "below"),
    *("whole", "hear", "take", "serve", "tell", "greet", "granted", "paid", "pay", "patience", "most", "least"),
)
# Test helpers of plugins call it: FakeLink.take() takes away what was sent, no handler takes anything by it.
# What performs a procedure is said to serve it, in the client as on the command line.
PUBLIC_NAMES = {("broker/testing.py", "take"), ("broker/client/client.py", "serve")}
# "line" is what a text has; a deadline is in a bucket.
NAMES_OF_DEADLINES = ("line", "lines")


def files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES and "_build" not in path.parts:
                yield path


def found_words(text: str) -> list[str]:
    """Return the words and phrases of the tables that *text* has."""
    words = re.findall(rf"(?<!\w)(?:{'|'.join(WORDS)})(?!\w)", text)
    spaced = "|".join(PHRASES).replace(" ", r"[\s#]+")
    phrases = re.findall(rf"\b(?:{spaced})\b", text, re.IGNORECASE)
    return words + [" ".join(re.split(r"[\s#]+", phrase)) for phrase in phrases]


def defined_names(tree: ast.AST) -> Iterator[str]:
    """Yield the names that *tree* defines: of classes, functions, parameters, attributes and variables."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


def found_names(source: str) -> list[str]:
    """Return the names of the tables that the module *source* defines, with or without an underscore before them."""
    unwanted = {*NAMES, *(NAMES_OF_DEADLINES if "Deadlines" in source else ())}
    return [name for name in defined_names(ast.parse(source)) if name.lstrip("_") in unwanted]


@pytest.mark.parametrize("path", [*files("broker", "protocols", "docs")], ids=lambda path: str(path.relative_to(ROOT)))
def test_words_are_those_of_the_field(path):
    text = path.read_text("utf-8")
    assert found_words(text) == []
    if path.suffix == ".py":
        here = str(path.relative_to(ROOT))
        assert [name for name in found_names(text) if (here, name) not in PUBLIC_NAMES] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Grumbler.say", ["Grumbler"]),
        ("MOST_EVENTS = 3", ["MOST_EVENTS"]),
        ("IDLE_PATIENCE", ["IDLE_PATIENCE"]),
        ("LEAST = 1; AT_LEAST = 2; at least", ["LEAST", "AT_LEAST"]),
        ("# a sign of\n    # life", ["sign of life"]),
        ("Again is nothing.", ["Again is nothing"]),
        ("trouble, desk, in short: verdicts", []),
        ("Crowded QuietLogger", []),
    ],
)
def test_table_of_words_tells_wrong_from_right(text, found):
    assert found_words(text) == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("class Nobody: pass", ["Nobody"]),
        ("def f(x, *, enough=1): pass", ["enough"]),
        ("self._paid = 1", ["_paid"]),
        ("async def take(): pass", ["take"]),
        ("class C:\n    below: int = 0", ["below"]),
        ("self.tell('Nobody')", []),  # where it is defined counts
        ("for line in text: pass", []),
        ("line = Deadlines()", ["line"]),
    ],
)
def test_table_of_names_tells_wrong_from_right(source, found):
    assert found_names(source) == found


def test_every_word_of_the_contributors_table_is_looked_for():
    table = (ROOT / "CONTRIBUTING.rst").read_text("utf-8").partition("\nWords\n-----\n")[2]
    words = re.findall(r"``(.+?)``", "\n".join(row[: row.index("  ")] for row in table.splitlines() if "  " in row))
    assert len(words) > 30
    names = {*NAMES, *NAMES_OF_DEADLINES}
    assert [word for word in words if not found_words(word) and word.lstrip("_") not in names] == []
