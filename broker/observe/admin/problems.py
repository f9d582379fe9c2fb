"""How the admin API says what goes wrong: ``application/problem+json`` (RFC 9457).

The member ``error`` is what errors are at all other pages of the broker.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import msgspec

from broker.errors import BrokerError, RateLimited
from broker.messages import Response
from broker.web.refusals import CODE_OF_STATUS, STATUSES, retry_header

Headers = tuple[tuple[str, str], ...]

PROBLEM = "application/problem+json"
NO_STORE = ("Cache-Control", "no-store")
MORE_CODES = {405: "INVALID", 415: "INVALID"}


def problem(status: int, detail: str, *, code: str = "", headers: Headers = ()) -> Response:
    """Return an answer that says what is wrong."""
    code = code or MORE_CODES.get(status) or CODE_OF_STATUS.get(status) or HTTPStatus(status).name
    said = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "error": {"code": code, "message": detail, "data": None},
    }
    return Response(status, json.dumps(said).encode("ascii"), PROBLEM, (*headers, NO_STORE))


def failed(error: BrokerError) -> Response:
    """Return the answer for an error of the core."""
    status = 410 if error.code == "GONE" else STATUSES.get(error.code, 500)
    retry_after = error.retry_after if isinstance(error, RateLimited) else 1.0
    # Operators may know why: str() has the details that clients are not told.
    return problem(status, str(error) or error.code, code=error.code, headers=retry_header(status, retry_after))


def answer(content: Any) -> Response:
    """Return *content* as JSON."""
    return Response(200, _encode(content), headers=(NO_STORE,))


def _encode(content: Any) -> bytes:
    try:
        return msgspec.json.encode(content)
    except UnicodeEncodeError:  # a lone surrogate, which msgspec does not write
        return json.dumps(content, default=_plain).encode("ascii")


def _plain(value: Any) -> Any:
    """Return JSON that has its own text, as ``msgspec.Raw`` is, so that ``json`` can write it."""
    return json.loads(bytes(value))
