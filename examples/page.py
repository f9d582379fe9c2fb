"""A dialect that serves the pages of this directory, so that they are of the broker's own origin.

Your pages come from your web server, whose origin ``TXBROKER_ALLOWED_ORIGINS`` of the broker names.
"""

from pathlib import Path

from zope.interface import implementer

from broker.interfaces import IHttpDialect, IPeer
from broker.messages import HttpRequest, Response

HERE = Path(__file__).parent
PREFIX = "/examples/"


@implementer(IHttpDialect)
class Pages:
    """Answers ``GET /examples/NAME.html``."""

    name = "page"
    http_paths = (PREFIX,)

    async def answer(self, peer: IPeer, request: HttpRequest) -> Response:
        """Return the page that is asked for; a credential is asked of what connects, not of the page."""
        if request.method not in ("GET", "HEAD"):
            return Response(405, headers=(("Allow", "GET, HEAD"),))
        file = HERE / request.path.removeprefix(PREFIX)
        if file not in HERE.glob("*.html"):
            return Response(404, b"there is no such page\n", "text/plain")
        return Response(200, file.read_bytes(), "text/html; charset=utf-8")


def dialect(settings: object) -> Pages:
    """Return the dialect; the broker calls this."""
    return Pages()
