"""What principals may do: rules by verb, from the permissions file."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from broker.access.web_tokens import could_name
from broker.errors import Invalid
from broker.patterns import (
    KEY_PREFIX,
    QUEUE,
    RESERVED_BEGINNINGS,
    check_pattern,
    covers,
    is_of_broker,
    is_pattern,
    literal_beginning,
    matches,
    overlaps,
)
from broker.remembered import remembered

VERBS = (
    "publish", "subscribe", "call", "register", "request", "acknowledge",
    "send", "consume", "manage", "read", "write", "mint", "act",
)  # fmt: skip
NAMED = ("key", "user", "role")  # kinds whose tables have a name: [user.bob.read]
NAMELESS = ("secret", "anonymous", "default")  # the others: [anonymous.read]
# Verbs whose names all begin alike; a list without any that does would allow, or deny, nothing.
BEGINNINGS = {"write": KEY_PREFIX, "consume": QUEUE, "manage": QUEUE}
MAX_DECISIONS = 1024  # that are remembered for a set of grants
MAX_REMEMBERED = 300  # characters of a name whose decision is remembered
MAX_PRINCIPALS = 4096  # whose grants are remembered

Rules = Mapping[str, "Rule"]  # by verb


@attrs.frozen
class Rule:
    """Patterns of the names for which one verb is allowed and denied; deny wins."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def __add__(self, other: Rule) -> Rule:
        return Rule(self.allow + other.allow, self.deny + other.deny)

    def may(self, name: str) -> bool:
        """Whether the plain *name* is permitted."""
        return _any(self.allow, name) and not _any(self.deny, name)

    def may_all(self, pattern: str) -> bool:
        """Whether every name that *pattern* matches is permitted."""
        return any(covers(p, pattern) for p in self.allow) and not any(overlaps(p, pattern) for p in self.deny)


class Grants:
    """The rules of one principal, by verb.

    Args:
        rules: by verb.
        lenient: whether a verb without a rule is permitted, else it is refused.
    """

    def __init__(self, rules: Rules, *, lenient: bool = False) -> None:
        self._lenient = lenient
        self._rules = dict(rules)
        self._decision = remembered(MAX_DECISIONS)(self._decide)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grants):
            return NotImplemented
        return (self._rules, self._lenient) == (other._rules, other._lenient)

    __hash__ = None  # type: ignore[assignment]  # nothing looks one up

    def rule(self, verb: str) -> Rule | bool:
        """Return the rule of *verb*, or whether it is permitted without one."""
        return self._rules.get(verb, self._lenient)

    def may(self, verb: str, name: str) -> bool:
        """Whether *verb* is permitted with *name*, which may be a pattern when subscribing."""
        # What is no name anyway, since it is too long, is not remembered.
        return self._decision(verb, name) if len(name) <= MAX_REMEMBERED else self._decide(verb, name)

    def may_name(self, verb: str, name: str) -> bool:
        """Whether *verb* is permitted with *name*, which is plain: wildcards in it are ordinary characters."""
        if not is_pattern(name):
            return self.may(verb, name)
        rule = self._rules.get(verb)
        return self._lenient if rule is None else rule.may(name)

    def may_act(self, client: str) -> bool:
        """Whether the client id *client*, which is another's, may be used: never without a rule."""
        rule = self._rules.get("act")
        return rule is not None and rule.may(client)

    def may_all(self, verb: str, pattern: str) -> bool:
        """Whether *verb* is permitted with every name that *pattern* matches."""
        rule = self._rules.get(verb)
        return self._lenient if rule is None else rule.may_all(pattern)

    def _decide(self, verb: str, name: str) -> bool:
        rule = self._rules.get(verb)
        if rule is None:
            return self._lenient
        return rule.may_all(name) if verb == "subscribe" and is_pattern(name) else rule.may(name)

    def names(self, verb: str) -> Iterable[str]:
        """Return the allow patterns of *verb* as they were written."""
        rule = self._rules.get(verb)
        return rule.allow if rule else ()


class Permissions:
    """The tables of a permissions file.

    Those of a principal and of its roles add up, and a denial in any of them wins.  A
    principal without any has those of ``default``.

    Args:
        tables: the rules by principal as the file has it ("user:bob", "role:admin", "secret",
            "default"); a name may be a pattern ("user:dev-*").
        lenient: whether a verb without a rule is permitted: where no credential is asked
            for, rules only restrict.
    """

    def __init__(self, tables: Mapping[str, Rules], *, lenient: bool = False) -> None:
        self._lenient = lenient
        self._plain = dict(tables)
        self._patterns = [(kind, name, tables[table]) for table in tables for kind, name in _pattern_of(table)]
        self._grants = remembered(MAX_PRINCIPALS)(self._make)

    def grants_of(self, kind: str, name: str = "", roles: Sequence[str] = ()) -> Grants:
        """Return what the principal *name* of *kind* may do, which has *roles*."""
        return self._grants(kind, name, tuple(roles))

    def names(self, name: str) -> bool:
        """Whether there is a table of a user of just this *name*."""
        return f"user:{name}" in self._plain

    def _make(self, kind: str, name: str, roles: tuple[str, ...]) -> Grants:
        found = list(self._tables_of(kind, name))
        for role in roles:
            found += self._tables_of("role", role)
        rules: dict[str, Rule] = {}
        for table in found or [self._plain.get("default", {})]:
            for verb, rule in table.items():
                rules[verb] = rules.get(verb, Rule()) + rule
        return Grants(rules, lenient=self._lenient)

    def _tables_of(self, kind: str, name: str) -> Iterator[Rules]:
        table = f"{kind}:{name}" if name else kind
        if table in self._plain:
            yield self._plain[table]
        for other, pattern, rules in self._patterns:
            if name and other == kind and pattern != name and matches(pattern, name):
                yield rules


def read_permissions(path: Path, keys: Iterable[str] | None, *, lenient: bool = False) -> Permissions:
    """Read a permissions file: TOML, ``[kind.name.verb]`` with lists ``allow`` and ``deny``.

    Args:
        path: of the file.
        keys: the names of the API keys there are; None: nobody knows.
        lenient: see ``Permissions``.

    Raises:
        Invalid: it can not be read, or with everything in it that says something wrong.
    """
    try:
        text = path.read_text("utf-8-sig")
        document = tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise Invalid("permissions", message=f"TXBROKER_PERMISSIONS_FILE: {path}: {error}") from None
    reader = _Reader(str(path), _lines_of(text), None if keys is None else tuple(keys))
    tables = dict(reader.tables(document))
    if reader.problems:
        raise Invalid("permissions", message="TXBROKER_PERMISSIONS_FILE: " + "; ".join(reader.problems))
    return Permissions(tables, lenient=lenient)


@attrs.define
class _Reader:
    """Makes rules of the tables of a file, and notes what is wrong with it.

    Attributes:
        file: its path.
        lines: the numbers of the lines that the tables begin in, by the parts of their names.
        keys: the names of the API keys, or None.
        problems: a sentence for each fault, with file and line.
    """

    file: str
    lines: Mapping[tuple[str, ...], int]
    keys: Sequence[str] | None
    problems: list[str] = attrs.field(factory=list)

    def tables(self, document: Mapping[str, Any]) -> Iterator[tuple[str, Rules]]:
        """Yield each principal that *document* has tables of, with its rules."""
        for kind, inner in document.items():
            if kind in NAMELESS:
                yield kind, self._rules((kind,), inner)
            elif kind not in NAMED:
                self._unknown_kind(kind, inner)
            elif not isinstance(inner, dict):
                self._wrong((kind,), f"takes tables such as [{kind}.bob.read]")
            else:
                for name, verbs in inner.items():
                    self._check_name(kind, name)
                    yield f"{kind}:{name}", self._rules((kind, name), verbs)

    def _rules(self, path: tuple[str, ...], verbs: Any) -> Rules:
        if not isinstance(verbs, dict):
            self._wrong(path, "takes a table for each verb")
            return {}
        return {verb: self._rule((*path, verb), rule) for verb, rule in verbs.items()}

    def _rule(self, path: tuple[str, ...], rule: Any) -> Rule:
        if path[-1] not in VERBS:
            self._unknown_verb(path, rule)
            if _tables_of_verbs(rule):
                return Rule()
        if not isinstance(rule, dict) or not set(rule) <= {"allow", "deny"}:
            self._wrong(path, "takes allow and deny, each a list of patterns in a line below it")
            return Rule()
        return Rule(*(self._patterns(path, key, rule.get(key, [])) for key in ("allow", "deny")))

    def _patterns(self, path: tuple[str, ...], key: str, patterns: Any) -> tuple[str, ...]:
        if not isinstance(patterns, list):
            self._wrong(path, f"{key} is a list of patterns")
            return ()
        for pattern in patterns:
            if not _can_match(pattern):
                self._wrong(path, f"{key}: {pattern!r} is a pattern that can match nothing")
            elif path[-1] == "act" and _is_reserved(pattern):
                self._wrong(
                    path, f"{key}: {pattern!r} is a pattern that can match nothing: nobody acts as a reserved name"
                )
        texts = tuple(pattern for pattern in patterns if isinstance(pattern, str))
        wanted = BEGINNINGS.get(path[-1], "")
        # One list may do for several verbs, but not if nothing in it is for this one.
        if texts and not any(_begins(pattern, wanted) for pattern in texts):
            self._wrong(path, f"{key} can match nothing: the names of {path[-1]} begin with {wanted}")
        return texts

    def _check_name(self, kind: str, name: str) -> None:
        if not _can_match(name):
            self._wrong((kind, name), "is a pattern that can match no name")
        elif kind == "user" and not (could_name(name) and name.isprintable()):
            self._wrong((kind, name), "is a name that no user can have")
        elif kind == "key" and self.keys is not None and not any(matches(name, key) for key in self.keys):
            self._wrong((kind, name), f"TXBROKER_API_KEYS has no key of this name{_nearest(name, self.keys)}")

    def _unknown_verb(self, path: tuple[str, ...], rule: Any) -> None:
        verbs = _tables_of_verbs(rule)
        if verbs and len(path) == 3:
            # A dot separates the parts of the head of a table, unless they stand in quotes.
            form = f'[{path[0]}."{path[1]}.{path[2]}".{verbs[0]}]'
            self._wrong(path, f"a name with a dot in it stands in quotes: {form}")
        else:
            self._wrong(path, f"no such verb{_nearest(path[-1], VERBS)}; there are {', '.join(VERBS)}")

    def _unknown_kind(self, kind: str, inner: Any) -> None:
        verbs = _tables_of_verbs(inner)
        if verbs:
            # The first form of the file had no kinds.
            forms = " or ".join(f"[{word}.{_quoted(kind)}.{verbs[0]}]" for word in NAMED)
            self._wrong((kind, verbs[0]), f"a table begins with the kind of the principal: {forms}")
        else:
            kinds = (*NAMED, *NAMELESS)
            self._wrong((kind,), f"no such kind{_nearest(kind, kinds)}; there are {', '.join(kinds)}")

    def _wrong(self, path: tuple[str, ...], problem: str) -> None:
        where = f"{self.file}:{line}" if (line := self._line_of(path)) else self.file
        self.problems.append(f"{where}: [{'.'.join(_quoted(part) for part in path)}] {problem}")

    def _line_of(self, path: tuple[str, ...]) -> int:
        """Return the number of the line of the first table within *path*, else of one that *path* is in; 0: unknown."""
        while path:
            for table, line in self.lines.items():
                if table[: len(path)] == path:
                    return line
            path = path[:-1]
        return 0


def _pattern_of(table: str) -> Iterator[tuple[str, str]]:
    """Yield kind and name of *table* if that name is a pattern."""
    kind, _, name = table.partition(":")
    if is_pattern(name):
        yield kind, name


def _tables_of_verbs(inner: Any) -> list[str]:
    """Return the verbs that *inner*, a part of the file, has tables of."""
    return [verb for verb in inner if verb in VERBS] if isinstance(inner, dict) else []


def _any(patterns: Iterable[str], name: str) -> bool:
    return any(matches(pattern, name) for pattern in patterns)


def _can_match(pattern: object) -> bool:
    try:
        check_pattern(pattern)
    except Invalid:
        return False
    return True


def _is_reserved(pattern: str) -> bool:
    """Whether *pattern*, a name or one with wildcards, matches reserved names alone."""
    beginning = literal_beginning(pattern)
    return beginning.startswith(RESERVED_BEGINNINGS) or (beginning == pattern and is_of_broker(pattern))


def _begins(pattern: str, wanted: str) -> bool:
    """Whether some name that *pattern* matches begins with *wanted*."""
    beginning = literal_beginning(pattern)
    return beginning.startswith(wanted) or (beginning != pattern and wanted.startswith(beginning))


def _lines_of(text: str) -> dict[tuple[str, ...], int]:
    """Return the number of the line of each table header of the TOML *text*, by the parts of its name."""
    found: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("["):
            try:
                table: Any = tomllib.loads(line)
            except ValueError:
                continue  # within a list of patterns
            path = []
            while isinstance(table, dict) and table:
                [(part, table)] = table.items()
                path.append(part)
            found.setdefault(tuple(path), number)
    return found


def _quoted(part: str) -> str:
    return part if part.replace("-", "").replace("_", "").isalnum() and part.isascii() else f'"{part}"'


def _nearest(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {near[0]}?" if near else ""
