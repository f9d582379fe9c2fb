"""What operators do with minted tokens: ``POST /admin/api/tokens/revoke``."""

from __future__ import annotations

import msgspec
from twisted.logger import Logger
from zope.interface import implementer

from broker.errors import Unauthenticated
from broker.interfaces import IHttpDialect, IPeer
from broker.jsontext import ERRORS
from broker.messages import HttpRequest, Identity, Response
from broker.web.refusals import json_refusal

log = Logger()

REVOKE = "/admin/api/tokens/revoke"
JSON = "application/json"
OPERATOR = Identity("operator")  # whoever may use the admin port


class Revocation(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request."""

    token: str


_decode = msgspec.json.Decoder(Revocation).decode


@implementer(IHttpDialect)
class TokenPage:
    """Revokes tokens, served as a dialect is.

    The token comes in the body: a URL would be logged.
    """

    name = "admin-tokens"
    http_paths = (REVOKE,)

    async def answer(self, peer: IPeer, request: HttpRequest) -> Response:
        """Revoke the token in the body, which is ``{"token": text}``."""
        if request.method != "POST":
            return json_refusal(405, f"{request.method} is not allowed.", headers=(("Allow", "POST"),))
        # A page of another origin can not send this type without asking before.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            return json_refusal(415, f"The Content-Type must be {JSON}.")
        try:
            token = _decode(request.body).token
        except ERRORS as error:
            unknown = f": {error}" if str(error).startswith("Object contains unknown field") else ""
            return json_refusal(400, 'The body must be {"token": "…"}' + f"{unknown}.")
        peer.admit(OPERATOR)
        try:
            await peer.revoke(token)
        except Unauthenticated:
            return json_refusal(400, "This is no token of this broker.")
        log.info("a token was revoked by {address}", address=request.address)
        return Response(200, b'{"revoked":true}', headers=(("Cache-Control", "no-store"),))
