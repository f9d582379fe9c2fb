"""Names and patterns of names, in the manner of NATS: one grammar for all that takes patterns.

A name is split into tokens at each ".".  In a pattern the token ``*`` stands for exactly one token,
``>``, as the last token, for one or more, and a last token that ends in ``*`` (``job:*``, ``orders.eu-*``)
for whatever begins with the text before it, dots included.  A name that really holds ``*`` or ``>`` must be
asked for as an exact one.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from broker.errors import Invalid
from broker.remembered import remembered

MAX_NAME = 255  # characters
MAX_KEY_BYTES = 1024  # of a key, as UTF-8
MAX_TOKENS = 64  # of a pattern
MAX_WILDCARDS = 16  # times that the token "*" may stand in a pattern
WILDCARDS = ("*", ">")
LOG_PREFIX = "event/"  # + topic: the log in which a store keeps its events

BROKER = "broker"  # the client id of the broker itself, as a sender
RESERVED_PREFIX = "broker."  # names of the broker itself, which no client may publish or perform
CONTROL_PREFIX = "broker.control."  # topics by which nodes notify each other, which no client may read
PRESENCE_PREFIX = "broker.presence."  # + topic: where it is told who comes to it and who goes
KEY_PREFIX = "kv/"  # + key: the topic of its changes

# A name of the bus, a queue or a recipient begins with its kind.
CLIENT = "client:"  # a client id; its mailbox
SESSION = "session:"  # a session id
QUEUE = "queue:"  # a work queue
PROCEDURE = "procedure:"  # one that is performed
SERVICE = "service:"  # one whose procedures are all performed
TAKER = "taker:"  # a topic of streamed requests
DEFAULT_QUEUE = QUEUE + "default"

# What no topic, service, procedure or queue of a client begins with: clients read there, but the broker alone writes.
BROKER_BEGINNINGS = (RESERVED_PREFIX, QUEUE, KEY_PREFIX)

# What no client and no principal may be called: it could be taken for the broker, or for another kind of name.
PRINCIPALS = ("user", "key", "role", "token")  # the kinds of principals that have names
RESERVED_WORDS = frozenset((BROKER, "secret", "anonymous", "default", *PRINCIPALS))
RESERVED_BEGINNINGS = (*BROKER_BEGINNINGS, *(f"{kind}:" for kind in PRINCIPALS))

# RFC 9562, 5.8: "UUIDv8 provides a format for experimental or vendor-specific use cases."  Clients use other versions.
SESSION_VERSION = "8"
_is_session_id = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}").fullmatch


def split_kind(name: str) -> tuple[str, str]:
    """Return the kind that *name* begins with, its colon included, and what follows."""
    kind, colon, rest = name.partition(":")
    return kind + colon, rest


def pair_key(first: str, second: str) -> str:
    """Return one text for the two, different for every other two; those with the same *first* begin alike."""
    return f"{len(first)}:{first}{second}"


def split_pair(key: str) -> tuple[str, str]:
    """Return the two texts of which ``pair_key`` has made *key*."""
    size, _, rest = key.partition(":")
    return rest[: int(size)], rest[int(size) :]


def check_name(name: object, what: str = "topic") -> str:
    """Return *name* if it can name a topic or a procedure.

    That is 1 to 255 characters, any Unicode but control characters (U+0000 to U+001F, U+007F) and lone surrogates.

    Raises:
        Invalid: it can not.
    """
    if not isinstance(name, str):
        raise Invalid(what)
    return check_text(name, what)


@remembered(4096)
def check_text(name: str, what: str = "topic") -> str:
    """Do what ``check_name`` does for a *name* that is known to be a text; good ones are remembered.

    Raises:
        Invalid: see there.
    """
    if not 0 < len(name) <= MAX_NAME or not (name.isprintable() or _is_clean(name)):
        raise Invalid(what)
    return name


def _is_clean(name: str) -> bool:
    return not any(c < " " or c == "\x7f" or "\ud800" <= c <= "\udfff" for c in name)


def is_unicode(name: str) -> bool:
    """Whether *name* has a form in UTF-8: it holds no lone surrogate."""
    if name.isascii():
        return True
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_key(key: str) -> str:
    """Return *key* if something can be stored by it, in every dialect that has keys.

    That is 1 to 1024 bytes of UTF-8, control characters included: it names no line of a log, and no topic.
    One that is longer than a topic may be, or has control characters, is watched by itself or by a pattern.

    Raises:
        Invalid: it is empty, too long, or has a lone surrogate.
    """
    # No character has more than four bytes.
    if not key or not is_unicode(key) or (len(key) * 4 > MAX_KEY_BYTES and len(key.encode()) > MAX_KEY_BYTES):
        raise Invalid("key")
    return key


def is_reserved(name: str) -> bool:
    """Whether *name* is none that a client or a principal may have."""
    return name in RESERVED_WORDS or name.startswith(RESERVED_BEGINNINGS)


def is_of_broker(name: str) -> bool:
    """Whether *name* is reserved for every use: of a service, too, which may well be called "user"."""
    return name == BROKER or name.startswith(RESERVED_BEGINNINGS)


def has_control(name: str) -> bool:
    """Whether *name* holds a control character or a lone surrogate."""
    return not (name.isprintable() or _is_clean(name))


def is_session_id(name: str) -> bool:
    """Whether *name* could be the id of a session, of this or another node: who is not named is known by it."""
    return _is_session_id(name) is not None


def belongs_to_broker(name: str) -> bool:
    """Whether a topic, a service, a procedure or a work queue *name* is the broker's: no client publishes or serves it.

    A topic may well begin with "user:" or be called "default", unlike a client or a principal.
    """
    return name == BROKER or name.startswith(BROKER_BEGINNINGS)


def is_key_of_broker(key: str) -> bool:
    """Whether no client may write the key *key*."""
    return key == BROKER or key.startswith(RESERVED_PREFIX)


def is_pattern(name: str) -> bool:
    """Whether *name* stands for more than itself, unless it is asked for as an exact one."""
    if "*" not in name and ">" not in name:
        return False
    tokens = name.split(".")
    return tokens[-1] == ">" or name[-1] == "*" or "*" in tokens


def pattern_tokens(topic: str, exact: bool = False) -> int:
    """Return of how many tokens the pattern *topic* is; 0 for what stands for itself, as all does that is *exact*."""
    return 0 if exact or not is_pattern(topic) else topic.count(".") + 1


def is_prefix(token: str) -> bool:
    """Whether *token*, the last one of a pattern, stands for whatever begins with the text before its ``*``."""
    return token[-1:] == "*" and len(token) > 1


def literal_beginning(pattern: str) -> str:
    """Return what all names begin with that *pattern* matches; itself for a name."""
    tokens = pattern.split(".")
    for index, token in enumerate(tokens):
        if token == "*" or (index == len(tokens) - 1 and (token == ">" or is_prefix(token))):
            return "".join(f"{each}." for each in tokens[:index]) + token[:-1]
    return pattern


def check_pattern(pattern: object, what: str = "pattern") -> str:
    """Return *pattern* if it is a name without ``*`` and ``>``, or a pattern that can match a name.

    Raises:
        Invalid: it is neither: ``>`` before the end or within a token, ``*`` at the beginning or in the midst of
            one, or an empty token beside a wildcard.
    """
    text = check_name(pattern, what)
    if ("*" in text or ">" in text) and not _is_well_formed(text.split(".")):
        raise Invalid(what, text)
    return text


def _is_well_formed(tokens: list[str]) -> bool:
    """Whether *tokens*, some of which hold wildcard characters, are those of a pattern."""
    if "" in tokens or len(tokens) > MAX_TOKENS or tokens.count("*") > MAX_WILDCARDS:
        return False
    last = tokens[-1]
    literals = [token for token in tokens[:-1] if token != "*"]
    if last not in WILDCARDS:
        literals.append(last[:-1] if is_prefix(last) else last)
    return not any("*" in token or ">" in token for token in literals)


def predicate_of(pattern: str, *, exact: bool = False) -> Callable[[str], bool]:
    """Return what says whether *pattern* matches a plain name; with *exact*, its wildcards are ordinary characters."""
    if exact or not is_pattern(pattern):
        return pattern.__eq__
    tokens = pattern.split(".")
    return lambda name: name == pattern or _match(tokens, name.split("."))


def matches(pattern: str, name: str) -> bool:
    """Whether *pattern* matches the plain *name*."""
    if pattern == name:
        return True
    return _match(pattern.split("."), name.split("."))


def _match(pattern: list[str], name: list[str]) -> bool:
    last = len(pattern) - 1
    for index, token in enumerate(pattern):
        if index >= len(name):
            return False
        if index == last and token == ">":
            return True
        if index == last and is_prefix(token):
            return name[index].startswith(token[:-1])
        if token not in ("*", name[index]):
            return False
    return len(pattern) == len(name)


def covers(pattern: str, inner: str) -> bool:
    """Whether every name that *inner* matches is matched by *pattern* too."""
    outer, tokens = pattern.split("."), inner.split(".")
    last = len(outer) - 1
    for index, token in enumerate(outer):
        if index >= len(tokens):
            return False
        if index == last and token == ">":
            return True
        other = tokens[index]
        if index == last and is_prefix(token):
            return other.startswith(token[:-1])
        # A last token that stands for several is within none that stands for one.
        if index == len(tokens) - 1 and (other == ">" or is_prefix(other)):
            return False
        if token not in ("*", other):
            return False
    return len(outer) == len(tokens)


def overlaps(one: str, other: str) -> bool:
    """Whether some name is matched by both patterns."""
    left, right = one.split("."), other.split(".")
    for index in range(max(len(left), len(right))):
        if index >= len(left) or index >= len(right):
            return False
        a, b = left[index], right[index]
        a_open = index == len(left) - 1 and (a == ">" or is_prefix(a))
        b_open = index == len(right) - 1 and (b == ">" or is_prefix(b))
        if a_open or b_open:
            return _begin_alike(a, a_open, b, b_open)
        if a != b and a != "*" and b != "*":
            return False
    return True


def _begin_alike(a: str, a_open: bool, b: str, b_open: bool) -> bool:
    """Whether some token begins as *a* and *b* say; one that is open goes on as it likes."""
    if a in ("*", ">") or b in ("*", ">"):
        return True
    left, right = a[: -1 if a_open else None], b[: -1 if b_open else None]
    return (a_open and right.startswith(left)) or (b_open and left.startswith(right))
