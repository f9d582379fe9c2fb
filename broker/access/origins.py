"""Which web pages may use the broker, whatever they use it by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from broker.access.hosts import host_name, in_ascii

PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
MAX_PORT = 65535
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
# RFC 6454, 6.2, and what people type: a trailing slash or a path, which say nothing of the origin.
ORIGIN = re.compile(
    r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^\s/?#@:\\\[\]]+)(?::([0-9]{0,5}))?(?:/.*)?", re.IGNORECASE
)
# Fetch Metadata, 2.1: the values of Sec-Fetch-Site for a page that is not of the origin it asks.  A page of another
# port is "same-site", and of another origin.
OTHER_SITES = frozenset(("cross-site", "same-site"))

Origin = tuple[str, str, int | None]  # scheme, host, port; RFC 6454, 4


class Origins:
    """Judges the page that a browser makes a request for, by ``Origin`` and ``Sec-Fetch-Site``.

    RFC 6455, 10.2: "Servers that are not intended to process input from any web page but only for
    certain sites SHOULD verify the |Origin| field is an origin they expect."

    Origins are compared as RFC 6454 has it: scheme and host without regard to case, and the
    port of the scheme where none is given.  "null", the origin of pages that have none,
    is allowed only by that word.

    Where a browser names no origin, as for images and links, ``Sec-Fetch-Site`` says whether the page
    is of another one.  Programs send neither.

    Args:
        allowed: origins such as "https://app.example"; "*" is any.  Empty: pages
            of the host and port that the request names.

    Raises:
        ValueError: one of *allowed* is no origin.

    Attributes:
        named: whether there are *allowed* ones.
        all: whether they are all.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed: set[Origin | str] = set()
        for text in allowed:
            origin = parse_origin(in_ascii(text))
            if origin is None and text not in ("*", "null"):
                raise ValueError(f"TXBROKER_ALLOWED_ORIGINS: {text!r} is no origin such as https://app.example")
            if origin is not None and ("*" in origin[1] or (origin[2] or 0) > MAX_PORT):
                raise ValueError(f"TXBROKER_ALLOWED_ORIGINS: {text!r} is the origin of no page: each is named in full")
            self._allowed.add(origin or text)
        self.named = bool(self._allowed)
        self.all = "*" in self._allowed

    def admit(self, headers: Mapping[str, str], *, this_machine: bool = False) -> bool:
        """Whether the page that a request with *headers* comes from is allowed; a request of no page always is.

        Args:
            headers: by lower-case name.
            this_machine: whether, where no origin is named, pages of this machine and of any port of that host are
                allowed besides.
        """
        if self.all:
            return True
        given = headers.get("origin")
        if given is None:
            return not is_of_other_site(headers)
        origin = parse_origin(given)
        if self._allowed:
            return (origin or given) in self._allowed
        return origin is not None and self._is_own(origin, headers, this_machine)

    @staticmethod
    def _is_own(origin: Origin, headers: Mapping[str, str], this_machine: bool) -> bool:
        # Behind a proxy that ends TLS the scheme differs: host and port decide.
        own = parse_origin(f"{origin[0]}://{headers.get('host', '')}")
        if this_machine and origin[1] in (*LOOPBACK, own and own[1]):
            return True
        return own is not None and own[1:] == origin[1:] and not is_of_other_site(headers)


def is_of_other_site(headers: Mapping[str, str]) -> bool:
    """Whether a browser says by ``Sec-Fetch-Site`` that another origin's page makes the request with *headers*."""
    said = headers.get("sec-fetch-site")
    return said is not None and not OTHER_SITES.isdisjoint(re.split("[, \t]+", said.lower()))


def parse_origin(text: str) -> Origin | None:
    """Return the origin that *text* names in its one comparable form, or None when it names none."""
    found = ORIGIN.fullmatch(text)
    if found is None:
        return None
    scheme, host, port = found[1].lower(), host_name(found[2]), int(found[3] or 0)
    return (scheme, host, port or PORTS.get(scheme)) if host else None
