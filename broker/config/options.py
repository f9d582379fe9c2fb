"""One option of the daemon: how its text is parsed, and its documentation.

Everything comes from the environment as text.  An empty text is the same as
none at all; where "nothing" is a choice, the word is ``none``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Generic, TypeVar

import attrs

from broker.errors import Invalid
from broker.patterns import check_pattern

T = TypeVar("T")

MAX_DIGITS = 15  # of a count: what the clients' language has exactly
MAX_SHOWN = 100  # characters of a value that can not be used
MAX_SECONDS = 3153600000.0  # 36500 days: sums with the time of day stay times that every client can be told
USER_OF_URL = re.compile(r"://[^@]*@")
UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


@attrs.frozen
class Kind(Generic[T]):
    """A kind of value.

    Attributes:
        word: what the documentation calls it.
        parse: makes the value of a text; ``ValueError`` says what was expected.
        write: makes the text of a value.
    """

    word: str
    parse: Callable[[str], T]
    write: Callable[[T], str]


@attrs.frozen
class Retention:
    """How long stored events are kept.

    Attributes:
        seconds: the greatest age, 0 for any.
        count: the greatest number in one channel, 0 for any.
    """

    seconds: float = 0.0
    count: int = 0


@attrs.frozen
class Option:
    """One option but for its name and its value.

    Attributes:
        kind: the kind of its value.
        help: one or more sentences.
        secret: whether it is never shown.
        default: the text of the default; "" for none.
        computed: whether *default* is a phrase, since it depends on other options.
    """

    kind: Kind[Any]
    help: str
    secret: bool = False
    default: str = ""
    computed: bool = False


def option(kind: Kind[T], default: Any, help: str, *, secret: bool = False, shown: str = "") -> Any:
    """Return an attrs field for an option.

    Args:
        kind: the kind of its value.
        default: a value, or a function of the settings made so far.
        help: one or more sentences.
        secret: never shown, and may also be given as a file, by ``NAME_FILE``.
        shown: what the documentation says of a default that is a function.
    """
    computed = callable(default)
    known = Option(kind, help, secret, shown if computed else kind.write(default), computed)
    return attrs.field(
        default=attrs.Factory(default, takes_self=True) if computed else default,
        repr=not secret,
        metadata={"option": known},
    )


def options_of(settings: type) -> dict[str, Option]:
    """Return the options of an attrs class by the names of their attributes."""
    fields = attrs.fields(settings)
    return {field.name: field.metadata["option"] for field in fields if "option" in field.metadata}


class EnvironmentReader:
    """The values of options in an environment, and everything that is wrong with it.

    Args:
        prefix: what all names in the environment begin with.
        options: what there is to read, by attribute name.
        environ: the environment.
        aliases: texts of options under other names: attribute name to
            (text, where it came from); an option's own name takes precedence.

    Attributes:
        values: parsed values by attribute name.
        sources: the variable that each came from, by attribute name.
        faults: the names of the attributes whose value can not be used.
        errors: a sentence for each value that can not be used.
        known: the names of all variables of options.
    """

    def __init__(
        self,
        prefix: str,
        options: Mapping[str, Option],
        environ: Mapping[str, str],
        aliases: Mapping[str, tuple[str, str]],
    ) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self.faults: set[str] = set()
        self.errors: list[str] = []
        self.known = {prefix + name.upper() for name in options}
        for attribute, option in options.items():
            name = prefix + attribute.upper()
            if option.secret:
                self.known.add(name + "_FILE")
            try:
                text, source = self._text(name, option, environ) or aliases.get(attribute, ("", ""))
                if text:
                    self.values[attribute] = self._parsed(option, text, source)
                    self.sources[attribute] = source
            except ValueError as error:
                self.faults.add(attribute)
                self.errors.append(str(error))

    @staticmethod
    def _text(name: str, option: Option, environ: Mapping[str, str]) -> tuple[str, str] | None:
        text = environ.get(name, "").strip()
        file = environ.get(name + "_FILE", "") if option.secret else ""
        if text and file:
            raise ValueError(f"{name} and {name}_FILE are both set; keep one of them")
        if file:
            return _read_secret(f"{name}_FILE", file), f"{name}_FILE"
        return (text, name) if text else None

    @staticmethod
    def _parsed(option: Option, text: str, source: str) -> Any:
        try:
            return option.kind.parse(text)
        except (ValueError, Invalid) as error:
            # The text of a secret must not reach a log, not even a wrong one.
            raise ValueError(f"{source}: {error}" + ("" if option.secret else f", not {_shown(text)}")) from None


def _shown(text: str) -> str:
    """Return *text*, which is no value of an option, as it is shown: without the password that a URL has."""
    masked = USER_OF_URL.sub("://***@", text)
    return repr(masked) if len(masked) <= MAX_SHOWN else f"{masked[:MAX_SHOWN]!r}…"


def _read_secret(name: str, path: str) -> str:
    """Return the text of the file that the variable *name* names.

    Raises:
        ValueError: it can not be read, or is empty: nobody would be asked for the secret.
    """
    try:
        text = Path(path).read_text("utf-8-sig").strip()  # some editors begin a file with a byte order mark
    except OSError as error:
        if not os.path.isdir(os.path.dirname(path)) and not os.path.isabs(path):
            # Nor must this word reach a log.
            raise ValueError(f"{name} names no file that can be read: is that the secret itself?") from None
        raise ValueError(f"{name}: {path} can not be read: {error.strerror}") from None
    except ValueError:  # UnicodeDecodeError, whose text could be a part of the secret
        raise ValueError(f"{name}: {path} is no text in UTF-8") from None
    if not text:
        raise ValueError(f"{name}: {path} is empty")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or not text.isascii():
        raise ValueError("expected a whole number that is not negative")
    if len(text) > MAX_DIGITS:
        raise ValueError(f"expected at most {MAX_DIGITS} digits")
    return int(text)


def _bytes(text: str) -> int:
    # Some of the code that gets it would take 0 for no limit, some for nothing at all.
    size = _count(text)
    if not size:
        raise ValueError("expected a whole number above 0")
    return size


def _bytes_or_none(text: str) -> int:
    return 0 if text in ("none", "0") else _bytes(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (math.isfinite(value) and value >= 0):
        raise ValueError("expected a number that is not negative")
    if value > MAX_SECONDS:
        raise ValueError(f"expected at most {MAX_SECONDS:.0f}")
    return value


def _flag(text: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    except KeyError:
        raise ValueError("expected true, false, 1 or 0") from None


def _words(text: str) -> tuple[str, ...]:
    return () if text == "none" else tuple(text.replace(",", " ").split())


def _count_or_auto(text: str) -> int:
    return 0 if text.lower() == "auto" else _count(text)


def _networks(text: str) -> tuple[str, ...]:
    words = _words(text)
    for word in words:
        try:
            word == "unix" or ip_network(word, strict=False)
        except ValueError:
            raise ValueError("expected addresses or networks of addresses, such as 10.0.0.0/8") from None
    return words


def _endpoints(text: str) -> tuple[str, ...]:
    return () if text == "none" else tuple(part.strip() for part in text.split(";") if part.strip())


def _patterns(text: str) -> tuple[str, ...]:
    words = _words(text)
    for word in words:
        try:
            check_pattern(word)
        except Invalid:
            raise ValueError(f"expected patterns of topics, of which {word!r} is none") from None
    return words


def _pairs(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    names: dict[str, str] = {}  # by their keys
    for number, word in enumerate(_words(text), 1):
        name, _, key = word.partition(":")
        if not (name and key):
            raise ValueError(f"expected name:key pairs, and number {number} is none")  # not itself: it may be a key
        if name in found:
            raise ValueError(f"expected each name and each key once, and {name!r} is there twice")
        if key in names:
            raise ValueError(f"expected each name and each key once, and {name!r} has that of {names[key]!r}")
        found[name], names[key] = key, name
    return found


def _retention(text: str) -> Retention:
    seconds, count = 0.0, 0
    for word in () if text == "none" else text.split():
        if word.isdecimal() and not count:
            count = _count(word)
        elif _is_age(word) and not seconds:
            seconds = _seconds(f"{_seconds(word[:-1]) * UNITS[word[-1]]}")
        else:
            raise ValueError("expected an age such as 7d, 12h, 30m or 90s, a count, both, or none")
    return Retention(seconds, count)


def _is_age(word: str) -> bool:
    try:
        float(word[:-1])
    except ValueError:
        return False
    return word[-1] in UNITS


def _write_retention(value: Retention) -> str:
    for unit, size in UNITS.items():
        if value.seconds and value.seconds % size == 0:
            return f"{value.seconds / size:.0f}{unit} {value.count or ''}".strip()
    return f"{value.seconds}s {value.count or ''}".strip() if value.seconds else str(value.count or "none")


def _write_number(value: float) -> str:
    return f"{value:g}" if value < 1e6 else f"{value:.0f}"


def _write_words(words: Iterable[str]) -> str:
    return " ".join(words) or "none"


TEXT: Kind[str] = Kind("text", str, str)
PATH: Kind[str] = Kind("path of a file", str, str)
PATHS: Kind[tuple[str, ...]] = Kind("paths of files", _words, _write_words)
OUTPUT: Kind[str] = Kind("path of a file to write", str, str)
URL: Kind[str] = Kind("URL", str, str)
FLAG: Kind[bool] = Kind("true or false", _flag, lambda value: str(value).lower())
COUNT: Kind[int] = Kind("count", _count, str)
COUNT_OR_AUTO: Kind[int] = Kind("count or auto", _count_or_auto, lambda value: str(value or "auto"))
BYTES: Kind[int] = Kind("bytes", _bytes, str)
BYTES_OR_NONE: Kind[int] = Kind("bytes", _bytes_or_none, lambda value: str(value or "none"))
SECONDS: Kind[float] = Kind("seconds", _seconds, _write_number)
PER_SECOND: Kind[float] = Kind("per second", _seconds, _write_number)
WORDS: Kind[tuple[str, ...]] = Kind("words", _words, _write_words)
NETWORKS: Kind[tuple[str, ...]] = Kind("addresses", _networks, _write_words)
PATTERNS: Kind[tuple[str, ...]] = Kind("patterns", _patterns, _write_words)
ENDPOINTS: Kind[tuple[str, ...]] = Kind("endpoints", _endpoints, lambda value: ";".join(value) or "none")
PAIRS: Kind[Mapping[str, str]] = Kind("name:key pairs", _pairs, lambda value: " ".join(value) or "none")
RETENTION: Kind[Retention] = Kind("age and count", _retention, _write_retention)


def choice(*words: str, **synonyms: str) -> Kind[str]:
    """Return the kind of one of *words*; *synonyms* are read as the word they stand for."""

    def parse(text: str) -> str:
        word = synonyms.get(text.lower(), text.lower())
        if word not in words:
            raise ValueError(f"expected one of {', '.join(words)}")
        return word

    return Kind(" or ".join(words), parse, str)
