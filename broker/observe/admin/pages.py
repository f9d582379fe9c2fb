"""What operators are shown: metrics, and all that clients are not told of the daemon."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from broker.interfaces import IHttpDialect
from broker.messages import HttpRequest, Response
from broker.web.pages import Pages
from broker.web.refusals import json_refusal


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
        if request.method not in ("GET", "HEAD"):
            return json_refusal(405, f"{request.method} is not allowed.", headers=(("Allow", "GET, HEAD"),))
        await self._refresh()
        return Response(200, *self._read(), headers=(("Cache-Control", "no-store"),))
