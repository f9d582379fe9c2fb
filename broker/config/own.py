"""The settings that dialects have of their own."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from broker.config.options import EnvironmentReader, options_of

LISTEN = "listen"  # the setting of a stream dialect that has its endpoints


def own_prefix(prefix: str, name: str) -> str:
    """Return what the variables of the dialect *name* begin with, where all begin with *prefix*."""
    return f"{prefix}{name.upper().replace('-', '_')}_"


def described(prefix: str, kinds: Mapping[str, type]) -> list[str]:
    """Return a line for each setting of *kinds*, as ``OwnReader`` has them."""
    return [
        f"{own_prefix(prefix, name)}{attribute.upper()} ({known.kind.word}"
        + (f"; default: {known.default}" if known.default else "")
        + f"): {known.help}"
        for name, kind in kinds.items()
        for attribute, known in options_of(kind).items()
    ]


class OwnReader:
    """The settings of dialects in an environment, and everything that is wrong with them.

    Args:
        prefix: what all names in the environment begin with.
        kinds: the attrs classes of settings, by the names of the dialects.
        environ: the environment.
        taken: the names of the variables of the broker.

    Attributes:
        values: an instance of each class by the name of its dialect; without those that something is wrong with.
        sources: the variable that each value came from, by its name without the prefix, in lower case.
        errors: a sentence for each value that can not be used.
        known: the names of all variables of these settings.
    """

    def __init__(
        self, prefix: str, kinds: Mapping[str, type], environ: Mapping[str, str], taken: Container[str]
    ) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self.errors: list[str] = []
        self.known: set[str] = set()
        for name, kind in kinds.items():
            own = own_prefix(prefix, name)
            reader = EnvironmentReader(own, options_of(kind), environ, {})
            twice = sorted(variable for variable in reader.known if variable in taken or variable in self.known)
            self.errors += reader.errors + [
                f"{variable} of the dialect {name} is another setting" for variable in twice
            ]
            self.known |= reader.known
            start = own.removeprefix(prefix).lower()
            self.sources.update({start + attribute: source for attribute, source in reader.sources.items()})
            if not (reader.errors or twice):
                self.values[name] = kind(**reader.values)
