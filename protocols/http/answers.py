"""What the dialect answers, and how it says what goes wrong: ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

import msgspec

from broker.answers import milliseconds
from broker.errors import BrokerError, CalleeFailed, Gone, NotDone, RateLimited, Unauthenticated
from broker.messages import Event, Response

Headers = tuple[tuple[str, str], ...]

# Core error code -> status; what has no line is a bug.
STATUSES = {
    "INVALID": 400,
    "UNAUTHENTICATED": 401,
    "DENIED": 403,
    "NOT_FOUND": 404,
    "TAKEN": 409,
    "CONFLICT": 412,
    "GONE": 410,
    "TOO_LARGE": 413,
    "RATE_LIMITED": 429,
    "CANCELLED": 502,
    "UNAVAILABLE": 503,
    "BUSY": 503,
    "TIMEOUT": 504,
}
CODES = {
    400: "INVALID",
    401: "UNAUTHENTICATED",
    403: "DENIED",
    404: "NOT_FOUND",
    408: "TIMEOUT",
    413: "TOO_LARGE",
    415: "INVALID",
    429: "RATE_LIMITED",
    431: "TOO_LARGE",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
# What is said of an error that has no sentence of its own, with its short words.
SENTENCES = {
    "INVALID": "{} is malformed",
    "UNAUTHENTICATED": "a credential is missing, or is none that is known",
    "DENIED": "there is no permission to {}",
    "NOT_FOUND": "there is no {}",
    "GONE": "{} has gone",
    "TOO_LARGE": "{} is too large",
    "RATE_LIMITED": "over the limit: {}",
}
CHALLENGE = 'Bearer realm="txbroker"'
PROBLEM = "application/problem+json"

encode = msgspec.json.Encoder().encode


class Refusal(Exception):
    """Ends the work on a request with *response*."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def problem(
    status: int, detail: str, *, code: str = "", retry_after: float = 0.0, headers: Headers = (), **more: Any
) -> Response:
    """Return an error answer, with *more* members."""
    said: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code or CODES.get(status) or HTTPStatus(status).name,
        "detail": detail,
        **more,
    }
    if status in (429, 503):
        seconds = max(1, math.ceil(retry_after))
        said["retry_after"] = seconds
        headers = (*headers, ("Retry-After", str(seconds)))
    if status == 401:
        # RFC 9110, 15.5.2: "The server generating a 401 response MUST send a WWW-Authenticate header field".
        headers = (*headers, ("WWW-Authenticate", CHALLENGE))
    return Response(status, encode(said), PROBLEM, headers)


def failed(error: BrokerError) -> Response:
    """Return the answer for a refusal of the core."""
    retry_after = error.retry_after if isinstance(error, RateLimited | NotDone) else 1.0
    status = 502 if isinstance(error, CalleeFailed) or _has_left(error) else STATUSES.get(error.code, 500)
    more: dict[str, Any] = {}
    if isinstance(error, Gone) and error.what == "epoch":
        more["epoch"] = error.name  # the present one
    if error.data is not None:
        more["data"] = msgspec.Raw(error.data)
    return problem(status, _detail(error), code=error.code, retry_after=retry_after, **more)


def _detail(error: BrokerError) -> str:
    if isinstance(error, CalleeFailed):
        return error.message  # its own
    if isinstance(error, Gone) and error.what == "epoch":
        return f"the position is of another epoch than the present one, {error.name}"
    if isinstance(error, Unauthenticated) and error.reason:
        return error.reason
    return error.explanation or SENTENCES.get(error.code, "{}").replace("{}", error.message)


def _has_left(error: BrokerError) -> bool:
    return isinstance(error, Gone) and error.what == "lost"


def answer(value: Any, status: int = 200, *, headers: Headers = ()) -> Response:
    """Return *value* as JSON."""
    return Response(status, encode(value), headers=headers)


def etag(epoch: str, number: int) -> tuple[str, str]:
    """Return the field that says how new something is."""
    return "ETag", f'"{epoch}-{number}"'


def event_of(event: Event) -> dict[str, Any]:
    """Return *event* as answers show it; one that is not stored has no id."""
    said: dict[str, Any] = {"topic": event.topic}
    if event.id:
        said |= {"id": event.id, "epoch": event.epoch}
    said |= {
        "name": event.name,
        "payload": msgspec.Raw(event.json),
        "sender": event.source,
    }
    if event.author:
        said["from"] = event.author
    if event.content_type:
        said["content_type"] = event.content_type
    if event.binary:
        said["encoding"] = "base64"
    if event.expires:
        said["expires"] = milliseconds(event.expires)
    return said | {"time": milliseconds(event.time)}
