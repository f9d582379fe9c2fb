"""Refusals of the public port: statuses, bodies, and a line in the log."""

from __future__ import annotations

import json
import math
from http import HTTPStatus
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from broker.errors import BrokerError, RateLimited, Refused
from broker.messages import Response

STATUSES = {
    "UNAUTHENTICATED": 401,
    "DENIED": 403,
    "NOT_FOUND": 404,
    "INVALID": 400,
    "TOO_LARGE": 413,
    "RATE_LIMITED": 429,
    "UNAVAILABLE": 503,
    "BUSY": 503,
    "TAKEN": 409,
    "CONFLICT": 409,
    "TIMEOUT": 504,
}
CODE_OF_STATUS = {
    400: "INVALID",
    401: "UNAUTHENTICATED",
    403: "DENIED",
    404: "NOT_FOUND",
    408: "TIMEOUT",
    413: "TOO_LARGE",
    429: "RATE_LIMITED",
    431: "TOO_LARGE",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
RETRY_AFTER = 1  # seconds, where nothing better is known
INTERVAL = 10.0  # seconds between two lines of the log about the same thing


def json_refusal(
    status: int,
    message: str,
    *,
    code: str = "",
    data: bytes | None = None,
    headers: tuple[tuple[str, str], ...] = (),
    retry_after: float = RETRY_AFTER,
) -> Response:
    """Return ``{"error":{"code","message","data"}}`` with *status*."""
    if not code:
        code = CODE_OF_STATUS.get(status) or HTTPStatus(status).name
    headers = (*headers, *retry_header(status, retry_after))
    body = b'{"error":{"code":%b,"message":%b,"data":%b}}' % (_quoted(code), _quoted(message), data or b"null")
    return Response(status, body, headers=headers)


def error_refusal(error: BrokerError) -> Response:
    """Return the HTTP answer for *error*."""
    if isinstance(error, Refused):
        if error.body:
            headers = retry_header(error.status, error.retry_after)
            return Response(error.status, error.body, error.content_type, headers)
        return json_refusal(error.status, error.message, retry_after=error.retry_after)
    status = STATUSES.get(error.code, 500)
    retry_after = error.retry_after if isinstance(error, RateLimited) else RETRY_AFTER
    return json_refusal(status, error.message, code=error.code, data=error.data, retry_after=retry_after)


@attrs.define(eq=False)
class ThrottledLogger:
    """Logs each kind of refusal at most once in ``INTERVAL`` seconds."""

    _log: Logger
    _clock: IReactorTime
    _logged: dict[str, tuple[float, int]] = attrs.field(factory=dict)

    def log(self, what: str, text: str, **fields: Any) -> None:
        """Log *text* with *fields*, unless *what* was logged less than ``INTERVAL`` ago; then count it."""
        now = self._clock.seconds()
        last, skipped = self._logged.get(what, (-INTERVAL, 0))
        if now - last < INTERVAL:
            self._logged[what] = (last, skipped + 1)
            return
        self._logged[what] = (now, 0)
        if skipped:
            text += " ({skipped} more like it in between)"
        self._log.info(text, skipped=skipped, **fields)


def retry_header(status: int, seconds: float = RETRY_AFTER) -> tuple[tuple[str, str], ...]:
    """Return the header that tells when to try again, where *status* is one for which that is known."""
    return (("Retry-After", str(max(1, math.ceil(seconds)))),) if status in (429, 503) else ()


def with_headers(response: Response, headers: tuple[tuple[str, str], ...]) -> Response:
    """Return *response* with *headers*, in the place of those that it has by the same names."""
    names = {name.lower() for name, _ in headers}
    kept = tuple(pair for pair in response.headers if pair[0].lower() not in names)
    return attrs.evolve(response, headers=(*kept, *headers))


def _quoted(text: str) -> bytes:
    return json.dumps(text).encode("ascii")
