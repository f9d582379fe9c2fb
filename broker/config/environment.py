"""The environment of the daemon, with a file of variables over it that can be changed while it runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

FILE = "TXBROKER_SETTINGS_FILE"
LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*?)\s*", re.DOTALL)
QUOTED = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')*""", re.DOTALL)
PART = re.compile(r"""\\(.)|"((?:[^"\\]|\\.)*)"|'([^']*)'|([^"'\\]+)""", re.DOTALL)
ESCAPE = re.compile(r"\\([\"\\$`])")  # within double quotes, as in a shell


class Environment:
    """The variables of the environment, and those of the file that ``TXBROKER_SETTINGS_FILE`` names.

    What the file has counts; what it has no more when it is read again is not set any more, even if the
    service manager has read it, too, before it has started the process.

    Args:
        environ: the variables that the process was started with.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._path = environ.get(FILE, "").strip()
        self._environ = dict(environ)
        self._known = False

    def read(self) -> tuple[Mapping[str, str], list[str]]:
        """Return the variables as they are now, and a sentence for each thing that is wrong with the file."""
        if not self._path:
            return self._environ, []
        problems: list[str] = []
        found = dict(_variables(self._path, problems))
        if not (self._known or problems):
            self._known = True
            self._environ = {name: text for name, text in self._environ.items() if found.get(name) != text}
        return {**self._environ, **found, FILE: self._path}, problems


def _variables(path: str, problems: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the names and values in the file *path*; what is wrong with it is appended to *problems*.

    It is read as ``EnvironmentFile=`` of systemd is: ``NAME=value`` in lines, in quotes if there are
    blanks in it; lines that begin with ``#`` or ``;`` are comments.
    """
    try:
        lines = Path(path).read_text("utf-8").split("\n")
    except OSError:
        return  # as a file that a setting names, it is told with the others
    except ValueError:
        problems.append(f"{FILE}: {path} is no text in UTF-8")
        return
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip()[0] in "#;":
            continue
        match = LINE.fullmatch(line)
        if match is None or QUOTED.fullmatch(match[2]) is None:
            # Not the line itself: it may hold a secret.
            wanted = "NAME=value" if match is None else "quotes around a value with blanks"
            problems.append(f"{FILE}: {path}:{number}: expected {wanted}")
        else:
            yield match[1], "".join(map(_text, PART.finditer(match[2])))


def _text(part: re.Match[str]) -> str:
    if part[2] is not None:
        return ESCAPE.sub(r"\1", part[2])
    return next(text for text in (part[1], part[3], part[4]) if text is not None)
