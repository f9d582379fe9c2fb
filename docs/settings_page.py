"""Prints what an operator can set: ``rst`` for the documentation, ``env`` for ``.env.example``."""

import sys

from broker.config.example import env_text, groups
from broker.config.options import Option
from broker.config.settings import ENV_PREFIX

__all__ = ["env_example", "groups", "table"]


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
    return env_text()


if __name__ == "__main__":
    print({"rst": table, "env": env_example}[sys.argv[1]](), end="")
