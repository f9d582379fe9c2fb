"""What operators are shown: metrics, and all that clients are not told of the daemon."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from gzip import compress
from typing import Any

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from broker.interfaces import IHttpDialect
from broker.messages import HttpRequest, Response
from broker.web.pages import METHODS, Pages
from broker.web.refusals import json_refusal

COMPRESSION = 1  # takes half a millisecond, and leaves a twelfth


@implementer(IHttpDialect)
class AdminPages:
    """``/metrics``, ``/ready`` and ``/about`` of the admin port, served as a dialect is.

    Args:
        read: returns the metrics as text, and its content type.
        ready: returns why the daemon can not do its work now, addresses and errors included; [] when it can.
        about: returns what the daemon is, names and addresses included.
        refresh: brings up to date what the metrics tell of others; it fires without failing.
    """

    name = "admin"
    http_paths = ("/metrics", "/ready", "/readyz", "/about")

    def __init__(
        self,
        read: Callable[[], tuple[bytes, str]],
        ready: Callable[[], list[str]],
        about: Callable[[], Mapping[str, Any]],
        refresh: Callable[[], Deferred[None]] = lambda: succeed(None),
    ) -> None:
        self._read, self._refresh = read, refresh
        self._pages = Pages(ready, about)

    async def answer(self, peer: object, request: HttpRequest) -> Response:
        """Return the metrics in the text format of Prometheus, or a page."""
        if request.path != "/metrics":
            return self._pages.answer(request)
        if request.method == "OPTIONS":
            return Response(200, headers=(("Allow", METHODS),))
        if request.method not in ("GET", "HEAD"):
            return json_refusal(405, f"{request.method} is not allowed.", headers=(("Allow", METHODS),))
        await self._refresh()
        text, content_type = self._read()
        headers: tuple[tuple[str, str], ...] = (("Cache-Control", "no-store"), ("Vary", "Accept-Encoding"))
        if not accepts_gzip(request.headers.get("accept-encoding", "")):
            return Response(200, text, content_type, headers=headers)
        headers += (("Content-Encoding", "gzip"),)
        return Response(200, compress(text, COMPRESSION), content_type, headers=headers)


def accepts_gzip(field: str) -> bool:
    """Whether *field*, an ``Accept-Encoding``, names gzip, and not by a weight of 0 (RFC 9110, 12.5.3)."""
    for coding in field.lower().split(","):
        name, *parameters = (part.strip() for part in coding.split(";"))
        if name in ("gzip", "x-gzip"):
            return not any(part.startswith("q=") and not part[2:].strip("0.") for part in parameters)
    return False
