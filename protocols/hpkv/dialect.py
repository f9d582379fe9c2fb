"""Who may connect, and how."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import msgspec
from zope.interface import implementer

from broker.access.origins import Origins
from broker.errors import Denied, RateLimited, Refused, Unauthenticated
from broker.interfaces import IHttpDialect, ILink, IPeer, IWebSocketDialect
from broker.messages import HttpRequest, Response
from protocols.hpkv.session import Session
from protocols.hpkv.tokens import TokenEndpoint, rights_of


def dialect(settings: Any) -> Hpkv:
    """Return the dialect; see ``broker.app.dialects``."""
    return Hpkv(settings.token_seconds, settings.allowed_origins, settings.secured)


@implementer(IWebSocketDialect, IHttpDialect)
class Hpkv:
    """The HPKV dialect.

    Pages of all origins may connect: what lets a client in is in its URL, not
    a cookie that a browser adds by itself.  Only a broker without any credential asks
    where a page is from, for else every page could use one on its visitor's machine.

    Args:
        token_seconds: how long a token is good.
        origins: of the web pages that may connect; empty: see above.
        secured: whether there is a credential to be shown.
    """

    name = "hpkv"
    websocket_paths = ("/ws", "/hpkv/ws")
    http_paths = ("/token/websocket", "/hpkv/token/websocket")
    subprotocols = ()
    example = "{websocket} '{ws}/ws?apiKey=KEY'"

    def __init__(self, token_seconds: float, origins: tuple[str, ...], secured: bool) -> None:
        self.any_origin = not origins
        self._origins = Origins(origins or (("*",) if secured else ()), this_machine=True)
        self._token_endpoint = TokenEndpoint(token_seconds, origins)

    async def session(self, peer: IPeer, link: ILink) -> Session:
        """Let in whoever shows an API key or a token: "Refuse during the handshake with HTTP 403"."""
        request = link.handshake
        if not self._origins.admit(request):
            raise _forbidden("Pages of this origin are not allowed")
        given = _parameters(request.query)
        key = given.get("apiKey") or request.headers.get("x-api-key")
        try:
            if key:
                peer.identify(key)
                return Session(peer, link)
            claims = await peer.present(given.get("token", ""))
        except (Unauthenticated, Denied, RateLimited):
            raise _forbidden("Invalid API key" if key else "Invalid token") from None
        session = Session(peer, link, rights_of(claims))
        # "Subscriptions exist from the handshake on": on every node, before it is answered.
        peer.bind(session, link.close)
        session.watch()
        await peer.listening()
        return session

    async def answer(self, peer: IPeer, request: HttpRequest) -> Response:
        """Return the answer to a request for a token."""
        return await self._token_endpoint.answer(peer, request)

    def refusal(self, status: int, message: str, request: HttpRequest | None) -> Response:
        """Return how this dialect says what the transport has to refuse."""
        return self._token_endpoint.error(request, status, message)


def _forbidden(text: str) -> Refused:
    body = msgspec.json.encode({"error": text})
    return Refused(403, text, body=body, content_type="application/json")


def _parameters(query: str) -> dict[str, str]:
    """Return the parameters of *query*; the client does not encode them, so that "+" is a plus."""
    pairs = (part.partition("=") for part in query.split("&"))
    return {name: unquote(value) for name, _, value in pairs}
