"""The one judge of requests that browsers make for pages: by what name, and for which page."""

from __future__ import annotations

import attrs

from broker.access.hosts import Hosts
from broker.access.origins import Origins
from broker.messages import HttpRequest


@attrs.frozen
class Objection:
    """Why a request is refused with 403.

    Attributes:
        message: for its client; names the setting that would allow it.
        setting: that setting; "" for none.
        cause: what the request said, for the log.
    """

    message: str
    setting: str
    cause: str


class BrowserPolicy:
    """Says which requests are refused because of the page that they come from, or the name they are sent to.

    Args:
        origins: of pages that are allowed; empty: those of the host and port that the request names.
        hosts: what ``Host`` may name besides this machine; None: anything.
        secured: whether clients have to show a credential.
        setting: what names the origins; "" where no setting does.
    """

    def __init__(
        self,
        origins: tuple[str, ...] = (),
        hosts: tuple[str, ...] | None = None,
        *,
        secured: bool = True,
        setting: str = "TXBROKER_ALLOWED_ORIGINS",
    ) -> None:
        self.origins = Origins(origins)
        self._hosts = Hosts(("*",) if hosts is None else hosts)
        self._secured = secured
        named = f": {setting} does not name it" if setting else ""
        self._foreign_page = f"Pages of this origin are not allowed{named}."
        self._setting = setting

    def objection(self, request: HttpRequest, *, any_origin: bool = False, harmless: bool = False) -> Objection | None:
        """Return why *request* is refused, or None.

        Args:
            request: of any kind, a handshake too.
            any_origin: whether pages of any origin may make it where none is named, for what it needs
                to know: a credential that browsers do not add by themselves.  Without credentials
                those are the pages of this machine.
            harmless: whether it changes nothing and shows nothing but that the daemon is there.
        """
        # A client of a unix socket has no address, and is no browser.  What a proxy says does not count instead of
        # ``Host``: a page could say it, too.
        named = (request.headers.get("host"), request.forwarded_host or None)
        unknown = [host or "" for host in named if not self.is_known(host)] if request.address else []
        if unknown:
            return Objection(
                "Without a credential this name is not answered to: TXBROKER_ALLOWED_HOSTS does not name it.",
                "TXBROKER_ALLOWED_HOSTS",
                f"Host {unknown[0][:200]!r}",
            )
        if self._admits_page(request, any_origin, harmless):
            return None
        given = request.headers.get("origin")
        cause = "a page of another site" if given is None else f"a page of {given[:200]}"
        return Objection(self._foreign_page, self._setting, cause)

    def is_known(self, host: str | None) -> bool:
        """Whether a request with this field ``Host`` may be answered; None: it has none."""
        return self._hosts.admit(host)

    def admits_origin(self, request: HttpRequest, *, this_machine: bool = False) -> bool:
        """Whether the page that *request* comes from is of an origin that is allowed; see ``Origins.admit``."""
        headers = request.headers
        if request.forwarded_host:
            headers = {**headers, "host": request.forwarded_host}
        return self.origins.admit(headers, this_machine=this_machine)

    def _admits_page(self, request: HttpRequest, any_origin: bool, harmless: bool) -> bool:
        any_origin = any_origin and not self.origins.named
        if self.admits_origin(request, this_machine=any_origin):
            return True
        if self._secured:
            return any_origin or harmless
        return harmless and _is_navigation(request)


def _is_navigation(request: HttpRequest) -> bool:
    """Whether the user of a browser follows a link in a page; no script of that page sees the answer."""
    said = [request.headers.get(f"sec-fetch-{name}") for name in ("mode", "dest")]
    return said == ["navigate", "document"] and request.method in ("GET", "HEAD") and "origin" not in request.headers
