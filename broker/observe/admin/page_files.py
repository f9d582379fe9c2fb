"""The page of the admin port: ``/admin/``, static files without a build."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from zope.interface import implementer

from broker.interfaces import IHttpDialect
from broker.messages import HttpRequest, Response
from broker.web.refusals import json_refusal

PREFIX = "/admin/"
TYPES = {
    "": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    **dict.fromkeys(
        ("app.js", "api.js", "act.js", "charts.js", "dom.js", "overview.js", "table.js", "views.js"),
        "text/javascript; charset=utf-8",
    ),
}
#: What is no secret, and asks for the secret itself.
PATHS = ("/admin", *(PREFIX + name for name in TYPES))

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = (
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-cache"),
)


@implementer(IHttpDialect)
class PageFiles:
    """Serves the files, as a dialect is served."""

    name = "admin-page"
    http_paths = PATHS

    async def answer(self, peer: object, request: HttpRequest) -> Response:
        """Return the file that *request* asks for."""
        if request.method not in ("GET", "HEAD"):
            return json_refusal(405, f"{request.method} is not allowed.", headers=(("Allow", "GET, HEAD"),))
        if request.path == "/admin":
            return Response(308, b"", "", (("Location", PREFIX), *HEADERS))
        name = request.path.removeprefix(PREFIX)
        if name not in TYPES:
            return json_refusal(404, f"Nothing is at {request.path[:200]}.")
        return Response(200, _content(name), TYPES[name], HEADERS)


@cache
def _content(name: str) -> bytes:
    return (files("broker.observe.admin") / "page" / (name or "index.html")).read_bytes()
