"""The one judge of which web pages may use the broker, whatever they use it by.

The site asks it for WebSocket handshakes; the dialects that answer pages over HTTP
ask it for their requests and CORS preflights.  Each makes its own of the same setting,
so that nobody has to hand a verdict on and a dialect judges alike without the site.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import AddressValueError, IPv6Address

from broker.messages import HttpRequest

PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
# RFC 6454, 6.2, and what people type: a trailing slash or a path, which say nothing of the origin.
ORIGIN = re.compile(
    r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^\s/?#@:\\\[\]]+)(?::([0-9]{0,5}))?(?:/.*)?", re.IGNORECASE
)

Origin = tuple[str, str, int | None]  # scheme, host, port; RFC 6454, 4


class Origins:
    """Judges the ``Origin`` that a browser says its page is from.

    RFC 6455, 10.2: "Servers that are not intended to process input from any web page but only for
    certain sites SHOULD verify the |Origin| field is an origin they expect."

    Origins are compared as RFC 6454 has it: scheme and host without regard to case, and the
    port of the scheme where none is given.  "null", the origin of pages that have none,
    is allowed only by that word.

    Args:
        allowed: origins such as "https://app.example"; "*" is any.  Empty: pages
            of the host and port that the request names.
        this_machine: whether, with *allowed* empty, also pages of this machine and
            of any port of that host are.
    """

    def __init__(self, allowed: Iterable[str] = (), *, this_machine: bool = False) -> None:
        self._allowed = {origin if origin == "*" else parse_origin(origin) or origin for origin in allowed}
        self._this_machine = this_machine

    def admit(self, request: HttpRequest) -> bool:
        """Whether the page that *request* comes from is allowed; a request of no page always is."""
        given = request.headers.get("origin")
        if given is None or "*" in self._allowed:
            return True
        origin = parse_origin(given)
        if self._allowed:
            return (origin or given) in self._allowed
        return origin is not None and self._is_own(origin, request.headers.get("host", ""))

    def _is_own(self, origin: Origin, host: str) -> bool:
        # Behind a proxy that ends TLS the scheme differs: host and port decide.
        own = parse_origin(f"{origin[0]}://{host}")
        if own is not None and own[1:] == origin[1:]:
            return True
        return self._this_machine and origin[1] in (*LOOPBACK, own and own[1])


def parse_origin(text: str) -> Origin | None:
    """Return the origin that *text* names in its one comparable form, or None when it names none."""
    found = ORIGIN.fullmatch(text)
    if found is None:
        return None
    scheme, host, port = found[1].lower(), _host(found[2].lower()), int(found[3] or 0)
    return (scheme, host, port or PORTS.get(scheme)) if host else None


def _host(host: str) -> str:
    """Return *host* as browsers write it; "" when it is none."""
    try:
        if host.startswith("["):
            return f"[{IPv6Address(host[1:-1]).compressed}]"
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except (AddressValueError, UnicodeError):
        return ""
