"""The log: one line for each event, as JSON or as text.

Credentials never reach a line: neither those of the settings, nor the value
of a name such as ``secret`` or ``token`` in a URL or a header.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO, cast
from urllib.parse import unquote

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from zope.interface import implementer

from broker.observe.log_file import LogFile

encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

LEVELS = {level.name: rank for rank, level in enumerate(LogLevel.iterconstants())}
# What these libraries log at "info" is logged at "debug".
VERBOSE_NAMESPACES = ("twisted.", "autobahn.", "txaio", "txredisapi", "-", "log_legacy")
# Keys of an event that twisted.logger or the old twisted.python.log put there.
TWISTED_KEYS = {"format", "message", "time", "isError", "system", "failure", "why", "logLevel", "factory"}

ASSIGNMENT = re.compile(
    r"""(?ix)
    ( (?<![a-z]) (?:secret|token|api[_-]?key|authorization|password) \\*["']? \s* [=:] \s* (?:b?\\*["'])?
      (?:(?:bearer|basic)\s+)? )
    [^\s"'&,;)}\]\\]+
    """
)


# A field of a URL, whose name may be written with escapes, and a user with a password before a host.
URL_FIELD = re.compile(r"""(?<=[?&;\#])([^&;=?\#\s"'\\]+)=[^&;\#\s"'\\]+""")
SECRET_FIELDS = frozenset(
    ("secret", "token", "apikey", "api_key", "x-api-key", "authorization", "auth", "password", "access_token", "key")
)
URL_USER = re.compile(r"""(?<=//)[^/?\#@\s"'\\]*@""")

# What some take for the end of a line, or what turns the direction of the text behind it.
SEPARATORS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
# A name that a client chose must not look like another line, nor control the terminal.
LINE_ESCAPES = (
    {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
    | SEPARATORS
    | {
        ord("\n"): "\n    ",
        ord("\t"): "\t",
    }
)


class Redaction:
    """Masks credentials in a text: those known, and the value of any name that is a credential's.

    The fields of a URL are compared without regard to case and as a server would
    decode them: ``%73ecret=x`` is a secret too.

    Args:
        secrets: those known; short ones would mask ordinary words.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._forms: set[str] = set()
        self._known: re.Pattern[str] | None = None
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Mask *secrets*, too."""
        self._forms |= {form for secret in secrets if len(secret) >= 4 for form in (secret, json.dumps(secret)[1:-1])}
        if self._forms:
            self._known = re.compile("|".join(map(re.escape, sorted(self._forms, key=len, reverse=True))))

    def __call__(self, text: str) -> str:
        """Return *text* with ``***`` in place of each credential."""
        return ASSIGNMENT.sub(r"\1***", URL_FIELD.sub(_mask_field, URL_USER.sub("***@", self.known(text))))

    def known(self, text: str) -> str:
        """Return *text* with the known credentials masked."""
        return text if self._known is None else self._known.sub("***", text)


def _mask_field(match: re.Match[str]) -> str:
    name = unquote(match[1].replace("+", " ")).strip().lower().removesuffix("[]")
    return f"{match[1]}=***" if name in SECRET_FIELDS else match[0]


@implementer(ILogObserver)
class LogLines:
    """Writes log events as lines.

    Args:
        stream: where they are written, and flushed after each.
        level: the name of the lowest level that is written.
        form: "json" or "text".
        node: the name of this node, part of each JSON line.
        redact: masks credentials.
        worker: the number of this process, of several that write the same log; 0: there is one.

    Attributes:
        level: as above; it may be set.
        redact: as above.
    """

    def __init__(self, stream: TextIO, level: str, form: str, node: str, redact: Redaction, worker: int = 0) -> None:
        self._stream = stream
        self.level = level
        self._write = self._json if form == "json" else self._text
        self._common: dict[str, Any] = {"node": node, **({"worker": worker} if worker else {})}
        self._mark = f"[{worker}] " if worker else ""
        self.redact = redact

    @property
    def level(self) -> str:
        """The name of the lowest level that is written."""
        return self._level

    @level.setter
    def level(self, name: str) -> None:
        self._level, self._min_rank = name, LEVELS[name]

    def __call__(self, event: LogEvent) -> None:
        """Write *event*, unless its level is too low."""
        level = event.get("log_level", LogLevel.info).name
        rank = LEVELS[level]
        verbose = rank <= LEVELS["info"] and str(event.get("log_namespace", "-")).startswith(VERBOSE_NAMESPACES)
        if (LEVELS["debug"] if verbose else rank) < self._min_rank:
            return
        when = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
        # A line with no word of a client, such as an example of how to pass a secret, holds no unknown credential.
        redact = self.redact.known if event.get("log_trusted") else self.redact
        if getattr(self._stream, "lost", 0):
            self._tell_lost(when)
        self._stream.write(redact(self._write(when, level, event)) + "\n")
        self._stream.flush()

    def _tell_lost(self, when: datetime) -> None:
        """Write how many lines a pipe has not taken, once it is read again; the last may have been cut short."""
        file = cast(LogFile, self._stream)
        if file.is_writable():
            lost, file.lost = file.lost, 0
            told = {"log_format": "{lost} lines of the log were lost: nobody has read the pipe", "lost": lost}
            file.write("\n" + self._write(when, "warn", told) + "\n")

    def _json(self, when: datetime, level: str, event: LogEvent) -> str:
        line: dict[str, Any] = {
            "ts": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level,
            "msg": message_of(event),
            **self._common,
            **_fields(event),
        }
        if event.get("log_failure") is not None:
            line["traceback"] = event["log_failure"].getTraceback()
        text = encode(line)
        return text if text.isascii() else text.translate(SEPARATORS)

    def _text(self, when: datetime, level: str, event: LogEvent) -> str:
        line = f"{when.astimezone():%H:%M:%S} {level:<5} {self._mark}{message_of(event).translate(LINE_ESCAPES)}"
        if event.get("log_failure") is not None:
            line += f"\n{event['log_failure'].getTraceback()}".translate(LINE_ESCAPES)
        return line


def message_of(event: LogEvent) -> str:
    """Return the message of *event*, as ``formatEvent`` does, for a fifth of its price.

    That is left what it alone can do: to call what has parentheses, and to tell what can not be formatted.
    """
    form = event.get("log_format")
    if isinstance(form, str) and "()" not in form and "log_flattened" not in event:
        try:
            return form.format_map(event)
        except Exception:  # of any value's own ``__str__``
            return formatEvent(event)
    return formatEvent(event)


def _fields(event: LogEvent) -> Mapping[str, Any]:
    """Return the fields of *event* that its caller has given."""
    return {
        name: value
        for name, value in event.items()
        if isinstance(value, (str, int, float)) and not name.startswith("log_") and name not in TWISTED_KEYS
    }
