"""Requests of HTTP that one process asks another, and their answers, as bytes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from broker.errors import Unavailable
from broker.messages import HttpRequest, Response


class Request(msgspec.Struct, array_like=True):
    """What ``HttpRequest`` has, but for its peer."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    address: str
    secure: bool = False
    id: str = ""
    version: str = "1.1"
    forwarded_host: str = ""


class Answer(msgspec.Struct, array_like=True):
    """What ``Response`` has whose body is whole."""

    status: int
    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...]
    plain: bool
    close: bool


_encode = msgspec.msgpack.Encoder().encode
_decode_request = msgspec.msgpack.Decoder(Request).decode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode
FIELDS = Request.__struct_fields__


def encode_request(request: HttpRequest) -> bytes:
    """Return *request* as it travels."""
    return _encode(Request(*(getattr(request, name) for name in FIELDS)))


def encode_answer(response: Response) -> bytes:
    """Return *response* as it travels.

    Raises:
        Unavailable: its body is sent while it is made.
    """
    if not isinstance(response.body, bytes):
        raise Unavailable("worker", message="A stream is not sent from one process to another.")
    return _encode(
        Answer(response.status, response.body, response.content_type, response.headers, response.plain, response.close)
    )


def decode_answer(data: bytes) -> Response:
    """Return the response again."""
    answer = _decode_answer(data)
    return Response(
        answer.status,
        answer.body,
        answer.content_type,
        answer.headers,
        plain=answer.plain,
        close=answer.close,
    )


async def answer_with(answer: Callable[[HttpRequest], Coroutine[Any, Any, Response]], data: bytes) -> bytes:
    """Return what *answer* answers to the request that is *data*."""
    asked = _decode_request(data)
    return encode_answer(await answer(HttpRequest(**{name: getattr(asked, name) for name in FIELDS})))
