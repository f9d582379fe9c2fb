"""What an identity or a role may do: rules by verb, from the permission file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs

from broker.errors import Invalid
from broker.patterns import check_pattern, covers, is_pattern, matches, overlaps

VERBS = (
    "publish", "subscribe", "call", "register", "request", "acknowledge",
    "send", "consume", "read", "write", "mint",
)  # fmt: skip
MAX_DECISIONS = 1024  # that are remembered for a set of grants


@attrs.frozen
class Rule:
    """Patterns of the names for which one verb is allowed and denied; deny wins."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def may(self, name: str) -> bool:
        """Whether the plain *name* is permitted."""
        return any(matches(p, name) for p in self.allow) and not any(matches(p, name) for p in self.deny)

    def may_all(self, pattern: str) -> bool:
        """Whether every name that *pattern* matches is permitted."""
        return any(covers(p, pattern) for p in self.allow) and not any(overlaps(p, pattern) for p in self.deny)


class Grants:
    """The rules of one identity or role, by verb.

    Attributes:
        lenient: whether a verb without a rule is permitted, else it is refused.
    """

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self.lenient = False
        self._rules = dict(rules)
        self._decision = lru_cache(MAX_DECISIONS)(self._decide)

    def may(self, verb: str, name: str) -> bool:
        """Whether *verb* is permitted with *name*, which may be a pattern when subscribing."""
        return self._decision(verb, name)

    def _decide(self, verb: str, name: str) -> bool:
        rule = self._rules.get(verb)
        if rule is None:
            return self.lenient
        return rule.may_all(name) if verb == "subscribe" and is_pattern(name) else rule.may(name)

    def names(self, verb: str) -> Iterable[str]:
        """Return the allow patterns of *verb* as they were written."""
        rule = self._rules.get(verb)
        return rule.allow if rule else ()


def read_permissions(path: Path) -> dict[str, Grants]:
    """Read the permission file: TOML, ``[name.verb]`` with ``allow`` and ``deny`` lists.

    Raises:
        Invalid: it can not be read or says something else.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Invalid("permissions", message=f"permissions file: {error}") from None
    return {
        name: Grants({verb: _rule(name, verb, rule) for verb, rule in verbs.items()}) for name, verbs in tables.items()
    }


def _rule(name: str, verb: str, rule: Any) -> Rule:
    where = f"[{name}.{verb}]"
    if verb not in VERBS:
        raise Invalid("permissions", message=f"permissions file: {where}: no such verb; there are {', '.join(VERBS)}")
    if not isinstance(rule, dict) or not set(rule) <= {"allow", "deny"}:
        raise Invalid("permissions", message=f"permissions file: {where} takes allow and deny")
    lists = []
    for key in ("allow", "deny"):
        patterns = rule.get(key, [])
        if not isinstance(patterns, list):
            raise Invalid("permissions", message=f"permissions file: {where} {key} is a list of patterns")
        lists.append(tuple(check_pattern(p, f"permissions file: {where} {key}") for p in patterns))
    return Rule(*lists)
