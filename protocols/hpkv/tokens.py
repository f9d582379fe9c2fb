"""``POST /token/websocket``: how a browser gets in without the API key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from broker.errors import BrokerError, Invalid, RateLimited, TooLarge
from broker.interfaces import IPeer
from broker.jsontext import ERRORS
from broker.messages import HttpRequest, Response
from protocols.hpkv.patterns import Rights, rights

MAX_TOKEN_BYTES = 4096  # of the claims of a token, since it travels in a URL
# Which pages may read it is for the port to say.
PREFLIGHT = Response(
    204,
    headers=(
        ("Access-Control-Allow-Methods", "POST"),
        ("Access-Control-Allow-Headers", "content-type, x-api-key"),
        ("Access-Control-Max-Age", "86400"),
    ),
)

STATUSES = {
    "UNAUTHENTICATED": (401, "Invalid API key"),
    "DENIED": (403, "This key may not make tokens"),
    "RATE_LIMITED": (429, "Rate limit exceeded"),
    "TOO_LARGE": (413, "Too many patterns"),
}


class Wanted(msgspec.Struct):
    """The body of a request: what the token shall be for."""

    subscribeKeys: list[str] | None = None
    subscribePatterns: list[str] | None = None
    accessPattern: str | None = None


_decode = msgspec.json.Decoder(Wanted).decode
_encode = msgspec.json.Encoder().encode


class TokenEndpoint:
    """Answers the requests for tokens.

    Args:
        seconds: how long a token is valid.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def answer(self, peer: IPeer, request: HttpRequest) -> Response:
        """Return the answer to *request*."""
        response = await self._answer(peer, request)
        try:
            peer.take_one_token()  # unless it has authenticated, and was counted then
        except RateLimited as error:
            return self._refused(error)
        return response

    async def _answer(self, peer: IPeer, request: HttpRequest) -> Response:
        if request.method == "OPTIONS":
            return PREFLIGHT
        if request.method != "POST":
            return self.error(405, "Method not allowed", ("Allow", "POST, OPTIONS"))
        try:
            token = await self._mint(peer, request)
        except BrokerError as error:
            return self._refused(error)
        return Response(200, _encode({"token": token}), headers=(("Cache-Control", "no-store"),))

    async def _mint(self, peer: IPeer, request: HttpRequest) -> str:
        peer.identify(request.headers.get("x-api-key"))
        peer.take_one_token()
        claims = read_claims(request.body)
        rights_of(claims)
        return await peer.mint(claims, self._seconds)

    def error(self, status: int, text: str, *headers: tuple[str, str]) -> Response:
        """Return an error, ``{"error": text}``."""
        return Response(status, _encode({"error": text}), headers=headers)

    def _refused(self, error: BrokerError) -> Response:
        if isinstance(error, Invalid):
            return self.error(400, error.message)
        status, text = STATUSES.get(error.code, (500, "Internal server error"))
        if status == 401:
            text = error.explanation or text
        if isinstance(error, RateLimited):
            return self.error(status, text, ("Retry-After", str(max(1, math.ceil(error.retry_after)))))
        return self.error(status, text)


def read_claims(body: bytes) -> dict[str, Any]:
    """Return the claims of a token, for the request *body*.

    Raises:
        Invalid: it is not as ``Wanted`` has it, or a key or a pattern is empty.
        TooLarge: it asks for more than a URL holds.
    """
    try:
        wanted = _decode(body)
    except ERRORS:
        raise Invalid("body", message="Invalid request") from None
    claims = {
        "keys": wanted.subscribeKeys or [],
        "patterns": wanted.subscribePatterns or [],
        "access": wanted.accessPattern or "",
    }
    if not all(claims["keys"]) or not all(claims["patterns"]):
        raise Invalid("body", message="Invalid subscribe pattern")
    if len(_encode(claims)) > MAX_TOKEN_BYTES:
        raise TooLarge("token")
    return claims


def rights_of(claims: Mapping[str, Any]) -> Rights:
    """Return the rights that a token with *claims* gives.

    Raises:
        Invalid: a pattern is refused.
        TooLarge: there are too many patterns.
    """
    return rights(tuple(claims["keys"]), tuple(claims["patterns"]), claims["access"])
