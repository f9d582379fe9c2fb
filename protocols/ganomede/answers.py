"""What the dialect answers, and how it says what goes wrong."""

from __future__ import annotations

import math

import msgspec

from broker.errors import BrokerError, RateLimited
from broker.messages import HttpRequest, Response

# Core error code -> status and ganomede's code.
CODES = {
    "UNAUTHENTICATED": (401, "InvalidCredentialsError"),
    "DENIED": (403, "Forbidden"),
    "NOT_FOUND": (404, "ResourceNotFound"),
    "INVALID": (400, "InvalidContent"),
    "TOO_LARGE": (413, "RequestEntityTooLarge"),
    "RATE_LIMITED": (429, "TooManyRequests"),
    "UNAVAILABLE": (503, "ServiceUnavailable"),
}
INTERNAL = (500, "Internal")

# Status -> ganomede's code, for requests that reach no handler.
STATUSES = {
    400: "BadRequest",
    403: "Forbidden",
    404: "ResourceNotFound",
    405: "MethodNotAllowed",
    408: "RequestTimeout",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    417: "ExpectationFailed",
    429: "TooManyRequests",
    431: "RequestHeaderFieldsTooLarge",
    500: "Internal",
    501: "NotImplemented",
    503: "ServiceUnavailable",
    505: "HttpVersionNotSupported",
}

CHALLENGE = 'Secret realm="ganomede-events"'  # a scheme of our own: the secret is in the query or the body

quote = msgspec.json.Encoder().encode  # a text as JSON

NOTHING = Response(200, b"[]")


class Refusal(Exception):
    """Ends the work on a request with *response*."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def failure(
    status: int, code: str, message: str, *, plain: bool = False, headers: tuple[tuple[str, str], ...] = ()
) -> Response:
    """Return an error answer.

    *plain* is for those that reach no handler: they carry no ``X-Request-Id``.
    """
    if status == 401:
        # RFC 9110, 15.5.2: "The server generating a 401 response MUST send a WWW-Authenticate header field".
        headers = (*headers, ("WWW-Authenticate", CHALLENGE))
    body = b'{"code":%b,"message":%b}' % (quote(code), quote(message))
    return Response(status, body, headers=headers, plain=plain)


def invalid(message: str, *, plain: bool = False) -> Refusal:
    """Return the refusal of a request that says something wrong."""
    return Refusal(failure(400, "InvalidContent", message, plain=plain))


def missing(request: HttpRequest, *, plain: bool = True) -> Response:
    """Return the answer for a path that leads nowhere."""
    return failure(404, "ResourceNotFound", f"{request.path} does not exist", plain=plain)


def not_allowed(request: HttpRequest, methods: tuple[str, ...]) -> Response:
    """Return the answer for a known path with another method."""
    message = f"{request.method} is not allowed"
    return failure(405, "MethodNotAllowed", message, plain=True, headers=(("Allow", ", ".join(methods)),))


def failed(error: BrokerError, request: HttpRequest) -> Response:
    """Return the answer for a refusal of the core."""
    if error.code == "NOT_FOUND":
        return missing(request, plain=False)
    status, code = CODES.get(error.code, INTERNAL)
    headers: tuple[tuple[str, str], ...] = ()
    if status in (429, 503):
        seconds = error.retry_after if isinstance(error, RateLimited) else 1.0
        headers = (("Retry-After", str(max(1, math.ceil(seconds)))),)
    # The original says nothing, and clients may compare; what it does not have, a web token, is explained.
    message = error.explanation if status == 401 else error.message
    return failure(status, code, message, headers=headers)
