"""What a request says: in its path, its query, its header fields and its body.

Nothing is guessed: a parameter that is not known, or is there twice, is refused with its name.
"""

from __future__ import annotations

import json
import re
from functools import cache
from types import NoneType, UnionType
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin
from urllib.parse import unquote_to_bytes

import msgspec

from broker.errors import Invalid
from broker.jsontext import ERRORS, MAX_PARTS, overflows
from broker.messages import MAX_ID, HttpRequest, Position
from protocols.http.answers import Refusal, problem

MAX_PARAMETERS = 200
MAX_COMPLAINT = 1000  # characters of what the decoder says is wrong; it repeats the name of a member
BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
UNKNOWN = re.compile(r"contains unknown field `(.*?)`(?: - at `|$)", re.DOTALL)
PLACE = re.compile(r"at `\$\.?([^`.\[]*)")
NUMBER = re.compile("[0-9]{1,16}")
QUALITY = re.compile(r"[01](\.[0-9]{0,3})?")
MAX_ACCEPTED = 50  # media types of one request that are looked at
STREAMED = "text/event-stream"
JSON = "application/json"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity, which Python takes


_any_json = msgspec.json.Decoder(msgspec.Raw)
_reader = json.JSONDecoder(parse_int=len, parse_constant=_no_constant)


class Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The parameters of a query, or the members of a body: these and no others."""


class NoQuery(Strict):
    """No parameter at all."""


S = TypeVar("S", bound=Strict)


def unquoted(text: str, what: str) -> str:
    """Return *text* with its percent escapes decoded.

    Raises:
        Invalid: they are none, or no UTF-8.
    """
    if "%" not in text:
        return text
    if BAD_ESCAPE.search(text):
        raise Invalid(what)
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise Invalid(what) from None


def read_query(query: str) -> dict[str, list[str]]:
    """Return the parameters of a query.

    Raises:
        Invalid: it has an escape that is none, or too many parameters.
    """
    found: dict[str, list[str]] = {}
    if not query:
        return found
    pairs = query.split("&", MAX_PARAMETERS)
    if len(pairs) > MAX_PARAMETERS:
        raise Invalid("query")
    for pair in filter(None, pairs):
        name, _, value = pair.partition("=")
        name = unquoted(name.replace("+", " "), "query")
        found.setdefault(name, []).append(unquoted(value.replace("+", " "), name))
    return found


def parameters(kind: type[S], found: dict[str, list[str]]) -> S:
    """Return what the query says as a *kind*; a field that is a list may be there several times.

    Raises:
        Invalid: a parameter is not known, there twice or malformed; the error names it.
    """
    types, values = _types_of(kind), {}
    for name, given in found.items():
        if name not in types:
            raise Invalid("parameter", name, message=f"parameter {name} is not known")
        attribute, wanted, several = types[name]
        if len(given) > 1 and not several:
            raise Invalid("parameter", name, message=f"parameter {name} is there {len(given)} times")
        try:
            values[attribute] = msgspec.convert(given if several else given[0], wanted, strict=False)
        except msgspec.ValidationError as error:
            raise Invalid("parameter", name, message=f"parameter {name}: {error}") from None
    return kind(**values)


@cache
def _types_of(kind: type[Strict]) -> dict[str, tuple[str, Any, bool]]:
    """Return attribute and type of each parameter that *kind* has, and whether it may be there several times."""
    found: dict[str, tuple[str, Any, bool]] = {}
    for field in msgspec.structs.fields(kind):
        # What is there has a value: "null" is a text.
        given = [each for each in get_args(field.type) if each is not NoneType] if is_optional(field.type) else []
        wanted = given[0] if given else field.type
        found[field.encode_name] = field.name, wanted, get_origin(wanted) is list
    return found


def is_optional(kind: Any) -> bool:
    """Whether None is one of the alternatives of the type *kind*."""
    return get_origin(kind) in (Union, UnionType) and NoneType in get_args(kind)


def _invalid(what: str, problem: str) -> Invalid:
    problem = problem if len(problem) <= MAX_COMPLAINT else f"{problem[:MAX_COMPLAINT]}…"
    found = UNKNOWN.search(problem) or PLACE.search(problem)
    name = found[1] if found else ""
    return Invalid(what, name, message=f"{what} {name}: {problem}" if name else problem)


def json_body(request: HttpRequest) -> bytes:
    """Return the body of *request*, which is any JSON value; b"" for none.

    Raises:
        Invalid: it is no JSON.
    """
    body = request.body
    if not body:
        return b""
    try:
        if not body.isascii():
            body.decode()
        _any_json.decode(body)
    except ERRORS as error:
        _check_lone_surrogates(body, str(error))
    if overflows(body):
        raise Invalid("body", message="the body has a number that is infinite as a double")
    return body


def _check_lone_surrogates(body: bytes, complaint: str) -> None:
    """Let *body*, which the strict decoder refuses, pass if that is for lone surrogates: JavaScript writes them.

    Raises:
        Invalid: it is not.
    """
    if b"\\ud" not in body.lower() or body.count(b",") > MAX_PARTS:
        raise Invalid("body", message=complaint)
    try:
        _reader.decode(body.decode())
    except (ValueError, RecursionError):
        raise Invalid("body", message=complaint) from None


def members(kind: type[S], request: HttpRequest) -> S:
    """Return the members of the body of *request*, which is an object, as a *kind*; without a body, the defaults.

    Raises:
        Invalid: one is missing, not known, or of a wrong type; the error names it.
    """
    said: S = read_json(kind, json_body(request) or b"{}")
    return said


def read_json(kind: Any, body: bytes) -> Any:
    """Return *body* as a *kind*.

    Raises:
        Invalid: it is none; the error names what is wrong.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _invalid("body", str(error)) from None
    except ERRORS as error:
        raise Invalid("body", message=str(error)) from None


def position(text: str, epoch: str, what: str) -> Position:
    """Return the position that *text* says: ``epoch-id``, or an id of the present *epoch*.

    Raises:
        Invalid: it says none.
    """
    before, dash, number = text.rpartition("-")
    if not NUMBER.fullmatch(number) or int(number) > MAX_ID or (dash and not before):
        raise Invalid(what)
    return Position(before or epoch, int(number))


def bearer(request: HttpRequest) -> str:
    """Return the credential of the ``Authorization`` field, or ""."""
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else ""


def wants_stream(request: HttpRequest) -> bool:
    """Whether the client asks for server-sent events by their name, and does not prefer JSON."""
    named, _ = _qualities(request)
    quality = named.get(STREAMED, 0.0)
    return quality > 0 and quality >= named.get(JSON, 0.0)


def accepts_stream(request: HttpRequest) -> bool:
    """Whether the client takes server-sent events, perhaps among all kinds."""
    named, ranges = _qualities(request)
    if not named and not ranges:
        return True
    return named.get(STREAMED, ranges.get("text/*", ranges.get("*/*", 0.0))) > 0


def _qualities(request: HttpRequest) -> tuple[dict[str, float], dict[str, float]]:
    """Return what ``Accept`` says of media types, and of ranges of them: how much each is wanted, 0 to 1."""
    named: dict[str, float] = {}
    ranges: dict[str, float] = {}
    for each in request.headers.get("accept", "").lower().split(",", MAX_ACCEPTED)[:MAX_ACCEPTED]:
        kind, _, more = each.partition(";")
        kept = ranges if kind.strip().endswith("*") else named
        if kind.strip():
            kept[kind.strip()] = _quality(more)
    return named, ranges


def _quality(parameters: str) -> float:
    for each in parameters.split(";"):
        name, _, weight = each.partition("=")
        if name.strip() == "q" and QUALITY.fullmatch(weight.strip()):
            return float(weight)
    return 1.0


def check_coding(request: HttpRequest) -> None:
    """Check that the body is as it is sent.

    Raises:
        Refusal: it has a content coding.
    """
    if request.body and request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise Refusal(problem(415, "content codings are not supported", headers=(("Accept-Encoding", "identity"),)))
