"""What a request says in its body: JSON or a form, perhaps packed, perhaps with a digest."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64encode
from collections.abc import Mapping
from hashlib import md5
from typing import Generic, NoReturn, TypeVar

import msgspec

from broker.errors import Invalid
from broker.jsontext import members
from broker.messages import HttpRequest
from protocols.ganomede.answers import Refusal, failure, invalid
from protocols.ganomede.query import NO_TEXT, read_query

S = TypeVar("S", bound=msgspec.Struct)

JSON, FORM, MULTIPART = "application/json", "application/x-www-form-urlencoded", "multipart/form-data"
OTHER_JSON = re.compile(r"application/[a-z.]+\+json")

_read_text = msgspec.json.Decoder(str).decode


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
            return self._filled(read_query(body.decode("utf-8", "replace")))
        return self._kind()

    def _from_json(self, body: bytes) -> S:
        try:
            if not body.isascii():
                body.decode()  # the decoder does not look into ``data``
            return self._decode(body)
        except UnicodeDecodeError:
            raise _malformed("the text is not UTF-8") from None
        except (msgspec.DecodeError, RecursionError):
            return self._filled(_members(body))

    def _filled(self, members: Mapping[str, str | msgspec.Raw]) -> S:
        values = {name: _value(name, members[key]) for key, name in self._fields.items() if key in members}
        return self._kind(**values)


def _members(body: bytes) -> Mapping[str, msgspec.Raw]:
    """Return the members of a body with a field of a wrong type; none when it is no object.

    Raises:
        Refusal: it is not JSON.
    """
    try:
        return members(body)
    except Invalid:
        complaint = _complaint(body.decode())
    if complaint:
        raise _malformed(complaint)
    return {}


def _value(name: str, given: str | msgspec.Raw) -> str | msgspec.Raw:
    if name == "data":
        return msgspec.Raw(b"") if isinstance(given, str) else given  # a form has texts only
    if isinstance(given, str):
        return given
    try:
        return _read_text(given)
    except msgspec.DecodeError:
        return NO_TEXT


def _check_boundary(media: str) -> None:
    # RFC 2046, 5.1.1: "The only mandatory global parameter for the "multipart" media type is the boundary parameter".
    if not re.search(r";\s*boundary=.", media, re.IGNORECASE):
        raise Refusal(failure(400, "BadRequest", "bad content-type header, no multipart boundary", plain=True))


def _check_digest(body: bytes, given: str) -> None:
    digest = b64encode(md5(body, usedforsecurity=False).digest()).decode()
    if given != digest:
        message = f"Content-MD5 '{given}' didn't match '{digest}'"
        raise Refusal(failure(400, "BadDigest", message, plain=True))


def _decoded(body: bytes, coding: str, limit: int) -> bytes:
    """Return *body* without its content coding: as much of it as tells whether it is over *limit*."""
    if coding != "gzip":
        message = "content encoding not supported"
        accepted = (("Accept-Encoding", "gzip"),)
        raise Refusal(failure(415, "UnsupportedMediaType", message, plain=True, headers=accepted))
    unpacker = zlib.decompressobj(31)
    try:
        unpacked = unpacker.decompress(body, limit + 1)
    except zlib.error:
        unpacked = b""
    if len(unpacked) <= limit and not unpacker.eof:
        raise Refusal(failure(400, "BadRequest", "the body is no whole gzip stream", plain=True))
    return unpacked


def _malformed(complaint: str) -> Refusal:
    return invalid(f"Invalid JSON: {complaint}", plain=True)


def _complaint(text: str) -> str:
    """Say in the manner of the original's parser why *text* is no JSON; "" when it is."""
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


_reader = json.JSONDecoder(parse_int=len, parse_constant=_no_constant)
