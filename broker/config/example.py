"""A file of all settings with their help, for ``docker run --env-file`` and the like."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping

from broker.config.options import Option, options_of
from broker.config.settings import ENV_PREFIX, Settings

TITLE = re.compile(r"^    # ([A-Z].*)$")
HEAD = "# Settings of txbroker, with their defaults.  Remove a '#' to change one."


def groups() -> dict[str, dict[str, Option]]:
    """Return the options under the comments that stand above them in the class."""
    options = options_of(Settings)
    source = inspect.getsource(Settings)
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    starts = {
        node.target.id: node.lineno
        for node in definition.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    titles = {number: match[1] for number, line in enumerate(source.splitlines(), 1) if (match := TITLE.match(line))}
    found: dict[str, dict[str, Option]] = {}
    for name, option in options.items():
        title = titles[max(number for number in titles if number < starts[name])]
        found.setdefault(title, {})[name] = option
    return found


def env_text(rows: Iterable[Mapping[str, str]] = ()) -> str:
    """Return the file: settings with their defaults, each of them commented out, and those of *rows* that are set.

    Args:
        rows: ``name``, ``value`` and ``source`` of settings, secrets masked; those whose source is "default", and the
            masked ones, stay commented out.
    """
    known = {row["name"]: row["value"] for row in rows if row["source"] != "default"}
    lines = [HEAD, ""]
    for title, options in groups().items():
        lines += [f"# {title}", ""]
        for name, option in options.items():
            text = option.help + (f" Default: {option.default}." if option.computed else "")
            lines += textwrap.wrap(text.replace("``", ""), 98, initial_indent="# ", subsequent_indent="# ")
            lines += [_line(ENV_PREFIX + name.upper(), option, known), ""]
    own = [f"{name}={value}" for name, value in known.items() if name.removeprefix(ENV_PREFIX).lower() not in _names()]
    return "\n".join([*lines, *(["# Of dialects", "", *own, ""] if own else [])])


def _line(variable: str, option: Option, known: Mapping[str, str]) -> str:
    if variable in known and not option.secret:
        return f"{variable}={known[variable]}"
    return f"#{variable}=" + (known.get(variable) or ("" if option.computed else option.default))


def _names() -> set[str]:
    return set(options_of(Settings))
