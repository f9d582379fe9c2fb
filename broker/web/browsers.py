"""Pages of browsers at a port: which are refused, and what CORS grants the others."""

from __future__ import annotations

import attrs

from broker.access.browsers import BrowserPolicy
from broker.access.refusals import RefusalLog
from broker.errors import Denied
from broker.messages import HttpRequest, Response
from broker.web.extras import DialectExtras

MAX_KNOWN_HOSTS = 100  # values of Host that are remembered as answered to
MAX_HOST_LENGTH = 255
MAX_METHOD, MAX_PATH = 10, 40  # characters of a request in the log
PREFLIGHT_SECONDS = "600"
GRANT_HEADERS = ("access-control-allow-origin", "access-control-allow-credentials", "access-control-expose-headers")
EXPOSED = "ETag, Idempotent-Replayed, Retry-After, X-Epoch, X-Expires, X-Request-Id"


class Browsers:
    """Applies the policy to every request and handshake, before a dialect sees it.

    Attributes:
        known_hosts: values of ``Host`` that are answered to; None for a request without.  What names one of
            them, and no page, needs no other look.
    """

    def __init__(self, policy: BrowserPolicy, refusals: RefusalLog) -> None:
        self.known_hosts: set[str | None] = set()
        self._policy = policy
        self._refusals = refusals

    def objection(
        self, request: HttpRequest, extras: DialectExtras | None, dialect: str, *, handshake: bool = False
    ) -> str:
        """Return why *request* is refused, which stands in the log then; "" when it is not.

        Args:
            request: of any kind.
            extras: those of its dialect; None: the port answers it itself.
            dialect: what the log calls that.
            handshake: whether it opens a WebSocket.
        """
        any_origin = handshake and extras is not None and extras.any_origin
        objection = self._policy.objection(request, any_origin=any_origin, harmless=extras is None and not handshake)
        if objection is None:
            self._remember(request.headers.get("host"))
            return ""
        # Not the query: it may hold a credential.
        name = f"{request.method[:MAX_METHOD]} {request.path[:MAX_PATH]} for {objection.cause}"
        self._refusals.add(dialect, request.address, "anonymous", "request", Denied.code, objection.setting, name)
        return objection.message

    def _remember(self, host: str | None) -> None:
        if len(self.known_hosts) >= MAX_KNOWN_HOSTS or len(host or "") > MAX_HOST_LENGTH:
            return
        # It may be none: clients without an address are answered whatever they name.
        if self._policy.is_known(host):
            self.known_hosts.add(host)

    def grant(self, request: HttpRequest, response: Response) -> Response:
        """Return *response* with what lets the page of *request* read it, if its origin is allowed.

        Where the answer to a preflight is 405, or names the methods for programs only, the dialect knows of none: the
        port answers it.
        """
        headers = request.headers
        origin = headers.get("origin")
        if origin is None:
            return response
        added = [("Vary", "Origin")]
        if self._policy.admits_origin(request):
            added = [("Access-Control-Allow-Origin", origin), ("Access-Control-Expose-Headers", EXPOSED), *added]
            # Cookies are none of ours, but of a proxy perhaps: not for the pages of everybody.
            if not self._policy.origins.all:
                added.append(("Access-Control-Allow-Credentials", "true"))
            if request.method == "OPTIONS" and "access-control-request-method" in headers:
                response = _preflight(headers, response)
        kept = [(name, value) for name, value in response.headers if name.lower() not in GRANT_HEADERS]
        return attrs.evolve(response, headers=(*kept, *(pair for pair in added if pair not in kept)))


def _preflight(headers: dict[str, str], response: Response) -> Response:
    """Return the answer to a preflight, for *response* of what it asks about."""
    more: list[tuple[str, str]] = []
    said = {name.lower(): value for name, value in response.headers}
    if response.status == 405 or ("allow" in said and "access-control-allow-methods" not in said):
        methods = said.get("allow") or headers["access-control-request-method"]
        wanted = headers.get("access-control-request-headers") or "content-type"
        more = [("Access-Control-Allow-Methods", methods), ("Access-Control-Allow-Headers", wanted)]
        more.append(("Access-Control-Max-Age", PREFLIGHT_SECONDS))
        response = Response(204)
    if "access-control-request-private-network" in headers:
        more.append(("Access-Control-Allow-Private-Network", "true"))
    return attrs.evolve(response, headers=(*response.headers, *more))
