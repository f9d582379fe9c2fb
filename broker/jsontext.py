r"""JSON read without writing it anew: the lenient decoder of all dialects.

What passes through the broker keeps its exact text; only what is needed is decoded.

* The text is UTF-8 and JSON as RFC 8259 has it: ``NaN`` and ``Infinity`` are no JSON.
* A lone surrogate, which JavaScript writes as the escape ``"\ud800"``, stays that escape
  where the text is kept, member names included.  Where a text is decoded to be used it
  is refused: it has no form in UTF-8, so that it can name nothing.
* Of several members with one name the last counts.
* Nesting of more than about 1000 levels, the recursion limit of Python, is refused.
* A number that is infinite as a double, ``1e309`` or 310 digits, is found by
  :func:`overflows`; any other passes as it is written, whatever its length.
* A text with more than ``MAX_SUSPECTS`` numbers of such a size, finite or not, counts as one
  that overflows; one with a lone surrogate and more than ``MAX_SCANNED`` members or items, or
  ``MAX_PARTS`` in all, is refused.
* Whoever keeps each member apart asks :func:`has_many_members` first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from math import isfinite
from types import UnionType
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Raw, UnsetType

from broker.errors import Invalid

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # of msgspec's decoders

_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode
_raw = msgspec.json.Decoder(Raw)
_blank = re.compile(r"[ \t\n\r]*").match
_LONE = re.compile("[\ud800-\udfff]").search

#: Returns a match where the short *text* may hold a number that :func:`overflows`: to be infinite takes an exponent of
#: three digits, or hundreds of digits.  A text of ``MIN_SUSPECT`` bytes or more is better asked about at once.
may_overflow = re.compile(rb"[0-9]{3}").search

# To see that a text has no such number costs 0.1 us: a literal first byte makes the search a memchr.  So a long text
# is searched with its "E" in lower case.
MIN_SUSPECT = 200  # bytes of a number that may be infinite without an exponent of three digits
_EXPONENT = re.compile(rb"e(?<=[0-9]e)\+?[0-9]{3}").search
_CAPITAL_E = ord("E")
_ENDED_EXPONENT = re.compile(rb"e(?<=[0-9]e)\+?[0-9]{3,}+(?:[\],}\s]|\Z)").search
_IS_DIGIT = bytes(byte in b"0123456789." for byte in range(256))
_ROW = b"\1" * MIN_SUSPECT

_EXPONENTS = re.compile(rb"e(?<=[0-9]e)\+?[0-9]{3,}").finditer
_LONG = re.compile(rb"[0-9]{%d}[0-9.]*(?:e[+-]?[0-9]+)?" % MIN_SUSPECT).match
_ends_in_exponent = re.compile(rb"e[+-]?\Z").search
MAX_SUSPECT_LENGTH = 800  # characters of a number that count, see ``_has_infinite``
JSON_TYPE = re.compile(r"\s*[^;\s]+[/+]json\s*(;|$)", re.IGNORECASE)  # RFC 6839, 3.1: the suffix of its kinds
MAX_SUSPECTS = 5000  # such numbers of one text; one with more is refused, for the time that each takes
MAX_IN_STRINGS = 2000  # such texts within strings that are found one by one
MAX_PARTS = 20_000  # of a text with a lone surrogate, all of which are decoded
MAX_SCANNED = 5000  # members or items that are read on the slow path, see ``_scan``


def overflows(text: bytes) -> bool:
    """Whether *text*, which must be JSON, holds a number that is infinite as a double.

    JavaScript would read it as ``Infinity``, which it can not write as JSON again.
    """
    if len(text) < MIN_SUSPECT and _CAPITAL_E not in text and not _EXPONENT(text):
        return False
    if _CAPITAL_E in text:
        text = text.replace(b"E", b"e")
    return bool(_ENDED_EXPONENT(text) or _has_many_digits(text)) and _has_infinite(_unescaped(text))


def members(data: bytes, *, numbers: bool = False) -> dict[str, Raw]:
    """Return the members of the JSON object *data*, in order, each with its exact text.

    With *numbers*, a number anywhere in it that :func:`overflows` is refused.
    (Behind a lone surrogate in *data* it always is.)

    Raises:
        Invalid: it is not one JSON object, nests too deep, or has such a number.
    """
    if _is_long_with_lone_surrogate(data):
        raise Invalid("object")
    try:
        found = _decode_members(data)
    except msgspec.ValidationError:
        raise Invalid("object") from None
    except RecursionError:
        raise Invalid("nesting") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        if not _may_have_surrogates(data):
            raise Invalid("object") from None
        return dict(_scanned(data, "{", "}"))  # perhaps for a lone surrogate, which msgspec refuses anywhere
    if numbers and overflows(data):
        raise Invalid("number")
    return found


def object_text(members: Mapping[str, Raw]) -> bytes:
    """Return the JSON object of *members*, without blanks between them."""
    try:
        return _encode(members)
    except UnicodeEncodeError:
        return b"{%b}" % b",".join(b"%b:%b" % (json.dumps(name).encode(), text) for name, text in members.items())


def decode(decoder: msgspec.json.Decoder[T], data: bytes | Raw) -> T:
    """Return *data* as *decoder* reads it; what is of type ``Raw`` keeps its exact text.

    Raises:
        Invalid: it is no JSON, nests too deep, or is not of the decoder's type.
    """
    try:
        return decoder.decode(data)
    except ERRORS as error:
        text = bytes(data)
        if not _may_have_surrogates(text):
            raise Invalid("JSON", message=str(error)) from None
    if decoder.type is Raw:
        _check_scanned(text)
    value: T = _as(decoder.type, text)
    return value


def is_json_type(content_type: str) -> bool:
    """Whether what is of *content_type*, a media type, is JSON text."""
    return JSON_TYPE.match(content_type) is not None


def read_text(data: bytes, what: str = "text") -> str:
    """Return *data*, UTF-8, as text.

    Raises:
        Invalid: it is none; the error names *what*.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Invalid(what) from None


def check_json(data: bytes, what: str = "JSON") -> bytes:
    """Return *data* if it is one JSON text, as the body of an event must be.

    Raises:
        Invalid: it is none; the error names *what*.
    """
    try:
        decode(_raw, data)
    except Invalid as error:
        raise Invalid(what, message=error.message) from None
    return data


def read_fields(kind: type[S], data: bytes) -> tuple[S, dict[str, Raw]]:
    """Return the *kind* that the members of the JSON object *data* make, field by field.

    A member of a wrong type leaves its field as if it were missing; those are
    returned too, by their names and in order, with their texts.  All fields of *kind* need defaults.

    Raises:
        Invalid: it is not one JSON object, nests too deep, or has very many members besides.
    """
    if has_many_members(data, kind):
        raise Invalid("members", message="too many members")
    fields, values, wrong = _fields(kind), {}, {}
    for name, text in members(data).items():
        if name in fields:
            attribute, kind_of_field = fields[name]
            try:
                values[attribute] = _as(kind_of_field, bytes(text))
            except Invalid:
                wrong[name] = text
    return kind(**values), wrong


def read_items(data: bytes) -> list[Raw]:
    """Return the items of the array *data*, which no strict decoder takes, with their exact texts.

    Raises:
        Invalid: it is none, or not for lone surrogates alone.
    """
    if not _may_have_surrogates(data):
        raise Invalid("array")
    return [item for _, item in _scanned(data, "[", "]")]


def has_many_members(data: bytes, kind: type[msgspec.Struct]) -> bool:
    """Whether the object *data* has more than ``MAX_PARTS`` members besides the fields of *kind*, or within them.

    To skip a hundred thousand takes 1 ms, to keep each of them apart 0.1 s.
    """
    commas = data.count(b",")
    if commas <= MAX_PARTS:
        return False
    try:
        known = msgspec.structs.astuple(_texts_of(kind).decode(data))
    except ERRORS:
        return has_many_parts(data)
    return commas - sum(bytes(text).count(b",") for text in known) > MAX_PARTS


@lru_cache(maxsize=256)
def _texts_of(kind: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    """Return what reads the texts of the fields of *kind*, and skips all other members."""
    names = {field.name: field.encode_name for field in msgspec.structs.fields(kind)}
    return msgspec.json.Decoder(msgspec.defstruct("Texts", [(name, Raw, Raw(b"")) for name in names], rename=names))


def _may_have_surrogates(data: bytes) -> bool:
    return b"\\ud" in data or b"\\uD" in data


def _is_long_with_lone_surrogate(data: bytes) -> bool:
    """Whether *data* has more parts than are looked at where there is a lone surrogate, and has one."""
    if data.count(b",") <= MAX_PARTS or not _may_have_surrogates(data):
        return False
    try:
        _raw.decode(data)
    except ERRORS:
        return has_many_parts(data)
    return False


def _check_scanned(data: bytes) -> None:
    """Check that *data* is one JSON text, whose strings may have lone surrogates.

    Raises:
        Invalid: it is none, or has too many parts to tell.
    """
    if has_many_parts(data):
        raise Invalid("JSON")
    try:
        text = data.decode()
        if _after(text, _scanner.raw_decode(text, _after(text, 0))[1]) != len(text):
            raise ValueError("rest")
    except (ValueError, IndexError, RecursionError):
        raise Invalid("JSON") from None


def _as(kind: Any, text: bytes) -> Any:
    """Return *text* as a value of type *kind*, of which only the parts that are kept may hold lone surrogates.

    Raises:
        Invalid: it is none.
    """
    if kind is Raw:
        return Raw(text)
    origin = get_origin(kind)
    if origin is dict:
        return {_well_formed(name): _as(get_args(kind)[1], bytes(raw)) for name, raw in members(text).items()}
    if origin is list:
        return [_as(get_args(kind)[0], bytes(raw)) for _, raw in _scanned(text, "[", "]")]
    try:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and not kind.__struct_config__.array_like:
            fields, found = _fields(kind), members(text)
            return kind(
                **{fields[name][0]: _as(fields[name][1], bytes(found[name])) for name in fields if name in found}
            )
        return msgspec.json.decode(text, type=kind)
    except (*ERRORS, TypeError) as error:  # TypeError: a field without a default is missing
        raise Invalid("JSON", message=str(error)) from None


@lru_cache(maxsize=256)
def _fields(kind: type[msgspec.Struct]) -> dict[str, tuple[str, Any]]:
    """Return attribute and type of each field of *kind*, by its name in JSON."""
    return {field.encode_name: (field.name, _of_value(field.type)) for field in msgspec.structs.fields(kind)}


def _of_value(kind: Any) -> Any:
    """Return the type that a value of a field of type *kind* has when it is there."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    kinds = tuple(each for each in get_args(kind) if each is not UnsetType)
    return Raw if Raw in kinds else Union[kinds]  # noqa: UP007


def _well_formed(name: str) -> str:
    if _LONE(name):
        raise Invalid("JSON", message="a lone surrogate in a name")
    return name


def _scanned(data: bytes, opening: str, closing: str) -> list[tuple[str, Raw]]:
    """Return what stands between the brackets of *data*: names, "" in an array, with the exact texts.

    Raises:
        Invalid: it is not of that form.
    """
    if has_many_parts(data):
        raise Invalid("object" if opening == "{" else "array")
    try:
        found = list(_scan(data.decode(), opening, closing))
        if overflows(data):
            raise ValueError("number")
        return found
    except (ValueError, IndexError, RecursionError):
        raise Invalid("object" if opening == "{" else "array") from None


def has_many_parts(data: bytes) -> bool:
    """Whether the JSON text *data* has more than ``MAX_PARTS`` members and items in all."""
    if data.count(b",") <= MAX_PARTS:
        return False
    # Of a name and a text in each there are four quotation marks; to leave so many strings out takes 20 ms.
    return data.count(b'"') - data.count(b'\\"') > 4 * MAX_PARTS or without_strings(data).count(b",") > MAX_PARTS


def _scan(text: str, opening: str, closing: str) -> Iterator[tuple[str, Raw]]:
    """Do the work of ``_scanned`` with the standard library's scanner.

    Raises:
        ValueError: the text is wrong.
        IndexError: it ends too early.
    """
    at = _expect(text, 0, opening)
    more = text[at] != closing
    scanned = 0
    while more:
        scanned += 1
        if scanned > MAX_SCANNED:
            raise ValueError("too many")
        name: Any = ""
        if opening == "{":
            name, at = _scanner.raw_decode(text, at)
            if not isinstance(name, str):
                raise ValueError("name")
            at = _expect(text, at, ":")
        end = _scanner.raw_decode(text, at)[1]
        yield name, Raw(text[at:end].encode())
        at = _after(text, end)
        more = text[at] == ","
        if more:
            at = _after(text, at + 1)
    if _expect(text, at, closing) != len(text):
        raise ValueError("rest")


def _after(text: str, at: int) -> int:
    """Return where the blanks that begin at *at* end."""
    match = _blank(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, mark: str) -> int:
    """Return the place after *mark*, which must come next, and the blanks around it."""
    at = _after(text, at)
    if text[at] != mark:
        raise ValueError(mark)
    return _after(text, at + 1)


def _has_many_digits(text: bytes) -> bool:
    """Whether so many digits and points stand in a row that they may be an infinite number."""
    # An expression would look at each of the digits of a shorter row anew.
    return len(text) >= MIN_SUSPECT and _ROW in text.translate(_IS_DIGIT)


def without_strings(text: bytes) -> bytes:
    """Return the JSON *text* with its strings empty, and nothing else changed."""
    return b'""'.join(_unescaped(text).split(b'"')[::2])


def _unescaped(text: bytes) -> bytes:
    """Return the JSON *text* with no quotes but those of its strings."""
    return text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text


def _has_infinite(text: bytes) -> bool:
    """Whether one of the numbers of *text*, which is unescaped and has no "E", is infinite as a double."""
    spent = in_strings = at = quotes = 0
    for start, number in _suspects(text):
        # To count quotes takes a thirtieth of what it takes to cut a text of many strings at them.
        if start < at:
            at = quotes = 0
        quotes += text.count(b'"', at, start)
        at = start
        if quotes % 2:
            in_strings += 1
            if in_strings > MAX_IN_STRINGS:
                return _has_infinite(b'""'.join(text.split(b'"')[::2]))
            continue
        # A number of hundreds of digits takes as long as dozens of short ones.
        spent += 1 + min(len(number), MAX_SUSPECT_LENGTH) // 16
        if spent > MAX_SUSPECTS or not isfinite(float(number)):
            return True
    return False


def _suspects(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the numbers of *text* that may be infinite, some without their sign, each with a place in it.

    Those with an exponent are first; of both kinds each place is behind that before.
    """
    for match in _EXPONENTS(text):
        start = match.start()
        head = text[max(0, start - MAX_SUSPECT_LENGTH) : start]
        if not head.strip(b"0123456789."):
            head = text[:start]
        yield start, head[len(head.rstrip(b"0123456789.")) :] + match[0]
    yield from _long_numbers(text)


def _long_numbers(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the numbers of *text*, without their sign, that have many digits before the point, each with its place."""
    digits, at = text.translate(_IS_DIGIT), 0
    while (at := digits.find(_ROW, at)) >= 0:
        match = _LONG(text, at)
        if match and not _ends_in_exponent(text[max(0, at - 2) : at]):
            yield at, match[0]
        at = digits.find(b"\0", at)
        if at < 0:
            return


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)


# Integers as floats: int() refuses those of more than 4300 digits, and takes long for others.
_scanner = json.JSONDecoder(parse_int=float, parse_constant=_refuse)
