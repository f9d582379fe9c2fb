"""Which web pages may open a WebSocket here."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from broker.messages import HttpRequest

PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


class Origins:
    """Judges the ``Origin`` that a browser says its page is from.

    RFC 6455, 10.2: "Servers that are not intended to process input from any web page but only for
    certain sites SHOULD verify the |Origin| field is an origin they expect."

    Args:
        allowed: origins such as "https://app.example"; "*" is any.  Empty: pages
            of the host that the request names.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = {origin if origin == "*" else _normal(origin) for origin in allowed}

    def admit(self, request: HttpRequest) -> bool:
        """Whether the page that *request* comes from may connect; no page may always."""
        origin = request.headers.get("origin")
        if origin is None or "*" in self._allowed:
            return True
        if self._allowed:
            return _normal(origin) in self._allowed
        # Behind a proxy that ends TLS the scheme differs: host and port decide.
        given, host = _split(origin), request.headers.get("host", "")
        if given is None:
            return False
        scheme, name, port = given
        own = _split(f"{scheme}://{host}")
        return own is not None and own[1:] == (name, port)


def _split(origin: str) -> tuple[str, str, int | None] | None:
    try:
        parts = urlsplit(origin)
        port = parts.port or PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname else None


def _normal(origin: str) -> object:
    return _split(origin) or origin
