"""Regular expressions take a time in proportion to the text, whatever a client sends: none looks at a part anew."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from time import thread_time
from types import ModuleType
from typing import Any

import pytest

import broker
import protocols
from broker.access.hosts import INTERNATIONAL
from protocols.ganomede.indices import MAX_FIELD, PART
from protocols.hpkv import javascript
from protocols.hpkv.patterns import MAX_PATTERN_LENGTH

LENGTH = 32_000  # characters: twice a head of HTTP
MAX_SECONDS = 0.25  # for one text: thirty times what any of them takes; one that looks at a part anew takes seconds
NOT_OF_CLIENTS = ("broker.app.", "broker.client.", "broker.config.", "broker.cluster.")
PARTS = (
    *" \t,;:=&?#%@*.+-_/|~$^\"'\\<>()[]{}",
    *("0", "a", "A", "e", "é", "\ud7ff", "\r\n", "\0", "//", '\\"', '"\\', '""', "[]", "['", '["', "{}", "..", "::"),
    *(" ;", "; ", ", ", ",a", "a,", "a=", "=&", "a=b&", ";q=", "; q", "q=0.", '"a",', 'W/"', "a/", "/a", "://", "a:"),
    *("%4", "%41", "1e", "e9", "1.", "1e+9", "\\u", "secret", "token=", "token ", "authorization:", "bearer ", "?a=b"),
    *("for=", "[::", "@a", "a|", "a_", "A_", "Error: ", "data.", "at `$", "field `a", "\\ud800"),
)
# Characters of the texts that these are for: they may look at a part anew.
LIMITS: dict[re.Pattern[Any], int] = {
    INTERNATIONAL: 300,  # a name that an operator has written
    PART: MAX_FIELD,
    **{use.__self__: MAX_PATTERN_LENGTH for use in (javascript._tokens, javascript._members)},
}
TEXTS = [
    text
    for part in PARTS
    for text in (part * (LENGTH // len(part)), "a" + part * (LENGTH // len(part)) + "!", '"' + part * 9000 + "\\")
]


def uses_of(module: ModuleType) -> Iterator[tuple[str, re.Pattern[Any], str]]:
    """Yield each name of an expression in *module*, the expression, and a method of it that the module calls."""
    file = Path(module.__file__ or "")
    source = file.read_text("utf-8") if file.suffix == ".py" else ""
    for name, value in vars(module).items():
        if isinstance(value, re.Pattern):
            for method in sorted(set(re.findall(rf"\b{name}\.([a-z]+)\(", source))):
                yield name, value, method
        elif isinstance(getattr(value, "__self__", None), re.Pattern):
            yield name, value.__self__, value.__name__


def found_in(package: ModuleType) -> Iterator[Any]:
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if found.name.startswith(NOT_OF_CLIENTS) or found.name.endswith("__main__"):
            continue
        for name, pattern, method in uses_of(importlib.import_module(found.name)):
            # These do the same work; of the one nothing is made.
            use = getattr(pattern, "findall" if method in ("finditer", "sub") else method)
            yield pytest.param(use, id=f"{found.name}.{name}-{method}")


EXPRESSIONS = [*found_in(broker), *found_in(protocols)]


def seconds(use: Callable[[Any], object], text: str | bytes) -> float:
    began = thread_time()
    use(text)
    return thread_time() - began


@pytest.mark.parametrize("use", EXPRESSIONS)
def test_no_expression_looks_at_a_part_of_a_text_anew(use: Any) -> None:
    pattern = use.__self__
    for text in TEXTS:
        text = text[: LIMITS.get(pattern, LENGTH)]
        said = text.encode("utf-8", "surrogatepass") if isinstance(pattern.pattern, bytes) else text
        assert seconds(use, said) < MAX_SECONDS or seconds(use, said) < MAX_SECONDS, text[:20]


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (r'(?:[^,"]|"(?:[^"\\]|\\.)*"|")+', '"' + '\\"' * 8000),
        (r";?[ \t]*q=([01])[ \t]*(?:;|$)", " " * LENGTH),
    ],
)
def test_one_that_does_is_noticed(bad: str, text: str) -> None:
    assert seconds(re.compile(bad, re.DOTALL).findall, text) > MAX_SECONDS
