"""What operators do with minted tokens: ``POST /admin/api/tokens/revoke``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from twisted.logger import Logger
from zope.interface import implementer

from broker.access.addresses import UNIX
from broker.errors import NotFound, Unauthenticated
from broker.interfaces import IHttpDialect, IPeer
from broker.jsontext import ERRORS
from broker.messages import HttpRequest, Response
from broker.observe.admin.actions import OPERATOR
from broker.observe.admin.problems import NO_STORE, problem

log = Logger()

REVOKE = "/admin/api/tokens/revoke"
JSON = "application/json"


class Revocation(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request: a token, or the id of one that somebody lives by."""

    token: str | None = None
    id: str | None = None


_decode = msgspec.json.Decoder(Revocation).decode


async def _unknown(id: str) -> None:
    raise NotFound("token", id, message="Nobody lives by such a token.")


@implementer(IHttpDialect)
class TokenPage:
    """Revokes tokens, served as a dialect is.

    The token comes in the body: a URL would be logged.

    Args:
        revoke: revokes the token with an id.
    """

    name = "admin-tokens"
    http_paths = (REVOKE,)

    def __init__(self, revoke: Callable[[str], Awaitable[None]] = _unknown) -> None:
        self._revoke = revoke

    def refusal(self, status: int, message: str, request: HttpRequest) -> Response:
        """Return how this page says what the port refuses."""
        return problem(status, message)

    async def answer(self, peer: IPeer, request: HttpRequest) -> Response:
        """Revoke the token in the body, which is ``{"token": text}`` or ``{"id": text}``."""
        if request.method != "POST":
            return problem(405, f"{request.method} is not allowed.", headers=(("Allow", "POST"),))
        # A page of another origin can not send this type without asking before.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            return problem(415, f"The Content-Type must be {JSON}.")
        try:
            asked = _decode(request.body)
        except ERRORS as error:
            unknown = f": {error}" if str(error).startswith("Object contains unknown field") else ""
            return problem(400, 'The body must be {"token": "…"}' + f"{unknown}.")
        if (asked.token is None) == (asked.id is None):
            return problem(400, 'The body must be {"token": "…"} or {"id": "…"}.')
        peer.admit(OPERATOR)
        try:
            id = asked.id
            if id is not None:
                await self._revoke(id)
            else:
                id = await peer.revoke(asked.token or "")
        except Unauthenticated:
            return problem(400, "This is no token of this broker; a JSON web token of somebody else ends at its exp.")
        except NotFound as error:
            return problem(404, str(error))
        # The id is no secret: nobody is let in by it, and lists of the admin port have it.
        log.info("the token with the id {token} was revoked by {address}", token=id, address=request.address or UNIX)
        return Response(200, b'{"revoked":true}', headers=(NO_STORE,))
