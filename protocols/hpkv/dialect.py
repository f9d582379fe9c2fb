"""Who may connect, and how."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import msgspec
from zope.interface import implementer

from broker.core.slices import slices_of
from broker.errors import Denied, RateLimited, Refused, Unauthenticated
from broker.interfaces import IHttpDialect, ILink, IPeer, IWebSocketDialect
from broker.messages import HttpRequest, Response
from protocols.hpkv.session import Session
from protocols.hpkv.tokens import TokenEndpoint, rights_of

ESCAPED = 6  # bytes of JSON that one byte of a text may need: "\\u0001"


def dialect(settings: Any) -> Hpkv:
    """Return the dialect; see ``broker.app.dialects``."""
    return Hpkv(
        settings.token_seconds,
        settings.max_value_bytes,
        settings.max_message_bytes,
    )


@implementer(IWebSocketDialect, IHttpDialect)
class Hpkv:
    """The HPKV dialect.

    Pages of all origins may connect: what lets a client in is in its URL, not
    a cookie that a browser adds by itself.  See ``IDialectExtras.any_origin``.

    Args:
        token_seconds: how long a token is valid.
        max_value_bytes: of a value as it is stored.
        max_frame_bytes: of a frame besides its value.
    """

    name = "hpkv"
    websocket_paths = ("/ws", "/hpkv/ws")
    http_paths = ("/token/websocket", "/hpkv/token/websocket")
    subprotocols = ()
    example = '{websocket} "{ws}/ws?apiKey={key}"'
    any_origin = True
    comes_back = True  # "Any server-side close … makes the client reconnect"

    def __init__(self, token_seconds: float, max_value_bytes: int = 1 << 20, max_frame_bytes: int = 1 << 20) -> None:
        self._max_message_bytes = ESCAPED * max_value_bytes + max_frame_bytes
        self._max_frame_bytes = max_frame_bytes
        self._token_endpoint = TokenEndpoint(token_seconds)

    async def session(self, peer: IPeer, link: ILink) -> Session:
        """Admit whoever shows an API key or a token: "Refuse during the handshake with HTTP 403"."""
        request = link.handshake
        link.allow_messages(self._max_message_bytes)
        given = _parameters(request.query)
        key = given.get("apiKey") or request.headers.get("x-api-key")
        try:
            if key:
                peer.identify(key)
                return self._bound(Session(link, peer, self._max_frame_bytes), peer)
            claims = await peer.present(given.get("token", ""))
        except RateLimited as error:
            raise _refused(429, "Rate limit exceeded", error.retry_after) from None
        except (Unauthenticated, Denied) as error:
            raise _refused(403, error.explanation or ("Invalid API key" if key else "Invalid token")) from None
        session = self._bound(Session(link, peer, self._max_frame_bytes, rights_of(claims)), peer)
        # "Subscriptions exist from the handshake on": on every node, before it is answered.
        session.begin()
        try:
            await peer.listening()
        except BaseException:
            session.ended()
            raise
        return session

    @staticmethod
    def _bound(session: Session, peer: IPeer) -> Session:
        session.slices = slices_of(peer.clock)
        peer.bind(session)
        return session

    async def answer(self, peer: IPeer, request: HttpRequest) -> Response:
        """Return the answer to a request for a token."""
        return await self._token_endpoint.answer(peer, request)

    def refusal(self, status: int, message: str, request: HttpRequest | None) -> Response:
        """Return how this dialect says what the transport has to refuse."""
        return self._token_endpoint.error(status, message)


def _refused(status: int, text: str, retry_after: float = 1.0) -> Refused:
    body = msgspec.json.encode({"error": text})
    return Refused(status, text, body=body, content_type="application/json", retry_after=retry_after)


def _parameters(query: str) -> dict[str, str]:
    """Return the parameters of *query*; the client does not encode them, so that "+" is a plus."""
    pairs = (part.partition("=") for part in query.split("&"))
    return {name: unquote(value) for name, _, value in pairs}
