"""Errors as this dialect writes them: one string, ``type|||message|||stack``."""

from __future__ import annotations

import math
import re

import msgspec

from broker.errors import BrokerError, CalleeFailed, NotDone, RateLimited

FALLBACK = "ResilientError"  # the class clients make of what is of no class of theirs
MAX_NAME = 128  # characters of a name inside a message

# Type and message by the core's code.  "Use only registered types": of any other
# the client makes an error whose type is the whole text.
TABLE = {
    "NOT_FOUND": ("SocketErrorConnectionUnsupported", "socket:connection:unsupported:{what}:{name}"),
    "GONE": ("SocketErrorConnection", "socket:connection:{what}:{name}"),
    "TIMEOUT": ("SocketErrorTimeout", "socket:timeout:{what}"),
    "UNAUTHENTICATED": ("SocketErrorConnectionUnauthorized", "socket:connection:unauthorized:{what}"),
    "DENIED": ("ForbiddenAuthorizationError", "auth:authorization:forbidden:{what}:{name}"),
    "INVALID": ("SocketErrorMessageMalformed", "socket:message:malformed:{what}"),
    "TAKEN": ("SocketErrorMessage", "socket:message:exists:{name}"),
    "CONFLICT": ("SocketErrorMessage", "socket:message:conflict:{name}"),
    "RATE_LIMITED": ("SocketErrorMessage", "socket:message:limit:{name}"),
    "BUSY": ("SocketErrorMessage", "socket:message:busy:{name}"),
    "CANCELLED": ("SocketErrorMessage", "socket:message:cancelled:{name}"),
    "TOO_LARGE": ("SocketErrorMessage", "socket:message:limit:{what}"),
}
INTERNAL = ("SocketError", "socket:internal")

_IDENTIFIER = re.compile(r"[A-Za-z_$][\w$]*").fullmatch
_CODE = re.compile(r"[A-Z0-9]+(_[A-Z0-9]+)*").fullmatch
_STACK = re.compile(r"\w*Error: ").match


class _Details(msgspec.Struct):
    """What goes with an error of a callee, where stacks are passed."""

    stack: str = ""


_decode_text = msgspec.json.Decoder(str).decode
_decode_details = msgspec.json.Decoder(_Details).decode
_encode = msgspec.json.Encoder().encode


def marshal(error: BrokerError, stacks: bool = False) -> str:
    """Return *error* as it is written on the wire; with *stacks*, a callee's own with its stack."""
    if isinstance(error, CalleeFailed):
        return _of_callee(error) + (_stack_of(error) if stacks else "")
    kind, message = TABLE.get(error.code, INTERNAL)
    if error.what == "options" and error.name:
        message += ":{name}"  # which of them
    return f"{kind}|||{message.format(what=clean(error.what), name=clean(error.name))}|||"


def retry_after(error: BrokerError) -> float:
    """Return the seconds after which to try again, in whole milliseconds; 0: that is not known."""
    known = error.retry_after if isinstance(error, RateLimited | NotDone) else 0.0
    return math.ceil(known * 1000) / 1000


def refused(why: str, explanation: str = "") -> str:
    """Return the failure of an authentication."""
    if explanation:
        why = f"{why}:{explanation}"
    return f"AuthManagerErrorAuthenFailed|||auth:manager:authen:{clean(why)}|||"


def unsupported(stage: str) -> str:
    """Return the failure of an authentication that asks for an unknown *stage*."""
    return f"AuthManagerErrorUnsupported|||auth:manager:unsupported:{clean(stage)}|||"


def clean(name: str) -> str:
    """Return *name* as it may stand in a message."""
    return name.replace("|||", "")[:MAX_NAME].rstrip("|")


def normalise(payload: bytes, stacks: bool = False) -> CalleeFailed:
    """Return the error that a callee's payload means.

    A handler that throws a plain error sends ``text|||Error: text …|||…``: the
    first part is no type.  The stack is nobody's business, unless *stacks* are kept.
    """
    try:
        text = _decode_text(payload)
    except msgspec.DecodeError:
        return CalleeFailed(FALLBACK, "error")
    kind, mark, rest = text.partition("|||")
    if not mark:
        return CalleeFailed(FALLBACK, text or "error")
    message, _, more = rest.partition("|||")
    thrown = _STACK(message)
    if not _IDENTIFIER(kind) or (thrown is not None and message.startswith(kind, thrown.end())):
        kind, message, more = FALLBACK, kind or "error", message
    stack = more.partition("|||")[0]
    return CalleeFailed(kind, message, _encode(_Details(stack)) if stacks and stack else None)


def _of_callee(error: CalleeFailed) -> str:
    message = error.message.replace("|||", "")
    if error.code == FALLBACK:
        return f"{FALLBACK}|||{message}|||"
    # A class of our clients is written like one; the codes of other dialects are upper case.
    if _IDENTIFIER(error.code) and not _CODE(error.code):
        return f"{error.code}|||{message}|||"
    return f"{FALLBACK}|||{clean(error.code)}: {message}|||"


def _stack_of(error: CalleeFailed) -> str:
    try:
        return _decode_details(error.data or b"{}").stack.replace("|||", "")
    except (msgspec.DecodeError, RecursionError):
        return ""  # details of another dialect
