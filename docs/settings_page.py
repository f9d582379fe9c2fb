"""Prints what an operator can set: ``rst`` for the documentation, ``env`` for ``.env.example``."""

import ast
import inspect
import re
import sys
import textwrap

from broker.config.options import Option, options_of
from broker.config.settings import ENV_PREFIX, Settings

TITLE = re.compile(r"^    # ([A-Z].*)$")


def groups() -> dict[str, dict[str, Option]]:
    """Return the options under the comments that stand above them in the class."""
    options = options_of(Settings)
    source = inspect.getsource(Settings)
    starts = {
        node.target.id: node.lineno
        for node in ast.parse(source).body[0].body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    titles = {number: match[1] for number, line in enumerate(source.splitlines(), 1) if (match := TITLE.match(line))}
    found: dict[str, dict[str, Option]] = {}
    for name, option in options.items():
        title = titles[max(number for number in titles if number < starts[name])]
        found.setdefault(title, {})[name] = option
    return found


def table() -> str:
    """Return all settings as reStructuredText."""
    lines = []
    for title, options in groups().items():
        lines += [title, "-" * len(title), ""]
        for name, option in options.items():
            variable = ENV_PREFIX + name.upper()
            also = f"\n   A secret: ``{variable}_FILE`` may name a file that holds it." if option.secret else ""
            lines += [
                f".. envvar:: {variable}",
                "",
                f"   {option.help}{also}",
                "",
                f"   *{option.kind.word}*" + _default(option),
                "",
            ]
    return "\n".join(lines)


def _default(option: Option) -> str:
    if not option.default:
        return ""
    return f"; default: {option.default}" if option.computed else f"; default: ``{option.default}``"


def env_example() -> str:
    """Return a file of all settings with their defaults, each of them commented out."""
    lines = ["# Settings of txbroker, with their defaults.  Remove a '#' to change one.", ""]
    for title, options in groups().items():
        lines += [f"# {title}", ""]
        for name, option in options.items():
            text = option.help + (f" Default: {option.default}." if option.computed else "")
            lines += textwrap.wrap(text.replace("``", ""), 98, initial_indent="# ", subsequent_indent="# ")
            lines += [f"#{ENV_PREFIX}{name.upper()}=" + ("" if option.computed else option.default), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    print({"rst": table, "env": env_example}[sys.argv[1]](), end="")
