"""What a request says: in its path, its query and its body.

A body is JSON or a form, perhaps packed, perhaps with a digest.
The rules are those of the original's parsers.  In a query or a form, a repeated or bracketed
parameter (``channel[]=x``) is no text and counts as wrong, and an escape that is none
leaves the whole value as it was sent.
"""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64encode
from hashlib import md5
from typing import Any, Generic, NoReturn, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec

from broker.errors import Invalid
from broker.jsontext import ERRORS, read_fields
from broker.messages import HttpRequest
from broker.patterns import MAX_NAME, check_text, has_control
from protocols.ganomede.answers import Refusal, failure, invalid

S = TypeVar("S", bound=msgspec.Struct)

JSON, FORM, MULTIPART = "application/json", "application/x-www-form-urlencoded", "multipart/form-data"
OTHER_JSON = re.compile(r"application/[a-z.]+\+json")
# RFC 9110, 8.4.1: "All content codings are case-insensitive"; 8.4.1.3: "A recipient SHOULD
# consider "x-gzip" to be equivalent to "gzip"".
GZIP_CODINGS = ("gzip", "x-gzip")
NO_CODING = ("", "identity")
MAX_CODINGS = 3  # of one body
MAX_GZIP_MEMBERS = 1000  # of one body
GZIP_CHUNK = 4096  # bytes unpacked at once: what follows a member is copied no further than that
GZIP_FORMAT = 31  # of zlib: a gzip header, the largest window

BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
CANONICAL = re.compile(r"0|[1-9][0-9]{0,15}")
MAX_SAFE = 2**53 - 1  # the largest whole number of the clients' language
MAX_PARAMETERS = 1000
MAX_ESCAPES = 20_000  # of a form; a megabyte of them takes 0.2 s
MAX_EXPLAINED = 65536  # characters of a text of which is told where it is no JSON: that takes long
NO_TEXT = ""  # stands for a value that is there, but is no text


class Bodies(Generic[S]):
    """Reads bodies that say an *S*: a field that is missing or of a wrong type is empty.

    Args:
        kind: the struct; its fields are texts, ``data`` apart, which is any JSON.
        limit: how many bytes a body may have, unpacked.
    """

    def __init__(self, kind: type[S], limit: int) -> None:
        self._kind = kind
        self._limit = limit
        self._decode = msgspec.json.Decoder(kind).decode
        self._fields = {field.encode_name: field.name for field in msgspec.structs.fields(kind)}

    def read(self, request: HttpRequest) -> S:
        """Return what the body of *request* says.

        Raises:
            Refusal: it can not be read.
        """
        headers, body = request.headers, request.body
        media = headers.get("content-type", "")
        if media != JSON:
            media = media.partition(";")[0].strip().lower()
        if media == MULTIPART:
            _check_boundary(headers["content-type"])
            return self._kind()
        if "content-encoding" in headers:
            body = _decoded(body, headers["content-encoding"], self._limit)
        if len(body) > self._limit:
            message = f"Request body size exceeds {self._limit}"
            raise Refusal(failure(413, "RequestEntityTooLarge", message, plain=True))
        if not body:
            return self._kind()
        if "content-md5" in headers and media != "application/octet-stream":
            _check_digest(request.body, headers["content-md5"])
        if media == JSON or OTHER_JSON.match(media):
            return self._from_json(body)
        if media == FORM:
            return self._from_form(body)
        return self._kind()

    def _from_json(self, body: bytes) -> S:
        try:
            if not body.isascii():
                body.decode()  # the decoder does not look into ``data``
            return self._decode(body)
        except UnicodeDecodeError:
            raise _malformed("the text is not UTF-8") from None
        except ERRORS:
            return self._read_fields(body)

    def _read_fields(self, body: bytes) -> S:
        """Return what *body* says field by field; nothing when it is JSON, but no object.

        Raises:
            Refusal: it is not JSON.
        """
        try:
            said, wrong = read_fields(self._kind, body)
        except Invalid as error:
            complaint = error.message if error.what == "members" else _complaint(body.decode())
            if not complaint and body.lstrip()[:1] == b"{":
                complaint = "a number is out of range"
            if complaint:
                raise _malformed(complaint) from None
            return self._kind()
        for name in wrong:
            setattr(said, self._fields[name], NO_TEXT)
        return said

    def _from_form(self, body: bytes) -> S:
        if body.count(b"%") > MAX_ESCAPES:
            message = f"A form has at most {MAX_ESCAPES} percent escapes"
            raise Refusal(failure(413, "RequestEntityTooLarge", message, plain=True))
        form = read_query(body.decode("utf-8", "replace"))
        values: dict[str, Any] = {name: form[key] for key, name in self._fields.items() if key in form}
        if "data" in values:
            values["data"] = msgspec.Raw(b"")  # a form has texts only
        return self._kind(**values)


def _check_boundary(media: str) -> None:
    # RFC 2046, 5.1.1: "The only mandatory global parameter for the "multipart" media type is the boundary parameter".
    if not re.search(r";\s*boundary=.", media, re.IGNORECASE):
        raise Refusal(failure(400, "BadRequest", "bad content-type header, no multipart boundary", plain=True))


def _check_digest(body: bytes, given: str) -> None:
    digest = b64encode(md5(body, usedforsecurity=False).digest()).decode()
    if given != digest:
        message = f"Content-MD5 '{given}' didn't match '{digest}'"
        raise Refusal(failure(400, "BadDigest", message, plain=True))


def _decoded(body: bytes, codings: str, limit: int) -> bytes:
    """Return *body* without its content *codings*: as much of it as tells whether it is over *limit*.

    RFC 9110, 8.4: "If one or more encodings have been applied to a representation,
    the sender […] MUST generate a Content-Encoding header field that lists the content
    codings in the order in which they were applied."
    """
    applied = [coding for coding in map(str.strip, codings.lower().split(",")) if coding not in NO_CODING]
    if len(applied) > MAX_CODINGS or not set(applied).issubset(GZIP_CODINGS):
        message = "content encoding not supported"
        accepted = (("Accept-Encoding", "gzip"),)
        raise Refusal(failure(415, "UnsupportedMediaType", message, plain=True, headers=accepted))
    for _ in applied:
        if len(body) <= limit:
            body = _unpacked(body, limit)
    return body


def _unpacked(packed: bytes, limit: int) -> bytes:
    """Return what the gzip stream *packed* holds, of which at most *limit* + 1 bytes.

    RFC 1952, 2.2: "A gzip file consists of a series of "members" (compressed data sets)."

    Raises:
        Refusal: it is no whole gzip stream.
    """
    unpacked, rest, at, members = bytearray(), b"", 0, 1
    unpacker = zlib.decompressobj(GZIP_FORMAT)
    try:
        while len(unpacked) <= limit and (rest or at < len(packed)):
            if unpacker.eof:
                members += 1
                unpacker = zlib.decompressobj(GZIP_FORMAT)
            if not rest:
                rest = packed[at : at + GZIP_CHUNK]
                at += len(rest)
            unpacked += unpacker.decompress(rest, limit + 1 - len(unpacked))
            rest = unpacker.unused_data or unpacker.unconsumed_tail
            if members > MAX_GZIP_MEMBERS:
                raise zlib.error("too many members")
    except zlib.error:
        raise _no_gzip() from None
    if len(unpacked) <= limit and not unpacker.eof:
        raise _no_gzip()
    return bytes(unpacked)


def _no_gzip() -> Refusal:
    return Refusal(failure(400, "BadRequest", "the body is no whole gzip stream", plain=True))


def _malformed(complaint: str) -> Refusal:
    return invalid(f"Invalid JSON: {complaint}", plain=True)


def _complaint(text: str) -> str:
    """Say in the manner of the original's parser why *text* is no JSON; "" when it is."""
    if len(text) > MAX_EXPLAINED:
        try:
            _skip(text)
        except RecursionError:
            return "nested too deeply"
        except ERRORS:
            return "Unexpected token in JSON"
        return ""
    try:
        _reader.decode(text)
    except json.JSONDecodeError as found:
        return _unexpected(text, found.pos)
    except RecursionError:
        return "nested too deeply"
    except ValueError as error:
        return f"Unexpected token {error} in JSON"
    return ""


def _unexpected(text: str, position: int) -> str:
    # An unterminated string is reported at its beginning.
    if position >= len(text) or (text[position] == '"' and '"' not in text[position + 1 :]):
        return "Unexpected end of JSON input"
    token = text[position]
    word = "string" if token == '"' else "number" if token in "-0123456789" else f"token {token}"
    return f"Unexpected {word} in JSON at position {position}"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity, which Python takes


_skip = msgspec.json.Decoder(msgspec.Raw).decode
_reader = json.JSONDecoder(parse_int=len, parse_constant=_no_constant)


def read_query(query: str) -> dict[str, str]:
    """Return the parameters of a query or a form."""
    fields: dict[str, str] = {}
    for pair in query.split("&", MAX_PARAMETERS)[:MAX_PARAMETERS]:
        name, _, value = pair.partition("=")
        if "%" in name or "+" in name:
            name = unescaped(name)
        name, bracket, _ = name.partition("[")
        if bracket or name in fields:
            fields[name] = NO_TEXT
        else:
            fields[name] = unescaped(value) if "%" in value or "+" in value else value
    return fields


def unescaped(text: str) -> str:
    """Return the value that *text* encodes, or *text* itself when it is badly encoded."""
    text = text.replace("+", " ")
    decoded = unquote(text)
    return text if decoded is None else decoded


def unquote(text: str) -> str | None:
    """Return *text* with its percent escapes decoded, once; None when they are no UTF-8."""
    if "%" not in text:
        return text
    if BAD_ESCAPE.search(text):
        return None
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return None


def whole_number(text: str) -> int | None:
    """Return the number that *text* is the decimal form of, else None."""
    if CANONICAL.fullmatch(text) is None:
        return None
    number = int(text)
    return number if number <= MAX_SAFE else None


def name_of(value: object, message: str) -> str:
    """Return *value* if something can be kept under that name, else refuse with *message*."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
        raise invalid(message)
    if not value.isprintable() and has_control(value):
        raise invalid(message)
    return value


def channel_of(value: object) -> str:
    """Return *value* if it can name a channel, which is a topic of the broker.

    Raises:
        Refusal: it is no text, or says why it can not.
    """
    if not isinstance(value, str) or not value:
        raise invalid("Invalid Channel")
    try:
        return check_text(value)
    except Invalid:
        why = f"longer than {MAX_NAME} characters" if len(value) > MAX_NAME else "it has a control character"
        raise invalid(f"Invalid Channel: {why}") from None
