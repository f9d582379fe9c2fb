"""Who may see the pages of the admin port."""

from __future__ import annotations

from collections.abc import Coroutine
from hmac import compare_digest
from typing import Any

import attrs

from broker.access.browsers import BrowserPolicy
from broker.access.failures import AuthFailures
from broker.errors import RateLimited
from broker.messages import HttpRequest, Response
from broker.observe.admin.page_files import PATHS
from broker.observe.metrics import ADMIN
from broker.web.refusals import error_refusal, json_refusal
from broker.web.site import Site, SitePeer

# For those who only ask whether it is alive; and the page, which asks for the secret and shows it with its requests.
UNPROTECTED = ("/health", "/healthz", *PATHS)


class AdminSite(Site):
    """A site that shows its pages to those who have its secret, and to web pages of its own only.

    Args:
        secret: to be shown as ``Authorization: Bearer``; "": everybody on this machine is shown them.
        hosts: what ``Host`` may name besides this machine where there is no secret.
        failures: counts and logs wrong secrets.
        others: see ``Site``.
    """

    def __init__(
        self, *others: Any, failures: AuthFailures, secret: str = "", hosts: tuple[str, ...] = (), **more: Any
    ) -> None:
        # An origin that may use the broker is not thereby one that may watch it.
        policy = BrowserPolicy((), None if secret else hosts, secured=bool(secret), setting="")
        super().__init__(*others, policy=policy, **more)
        self._secret = secret.encode()
        self._failures = failures

    def replace_secret(self, secret: str) -> None:
        """Ask for *secret* instead of the one before, and close the connections of those who have shown that."""
        self._secret = secret.encode()
        for channel in list(self._channels):
            channel.finish()

    def answer(self, request: HttpRequest) -> Coroutine[Any, Any, Response]:
        """Return the answer to *request*, or that the secret is missing or wrong."""
        if not self._secret or request.path in UNPROTECTED:
            return super().answer(request)
        try:
            self._failures.check(ADMIN, request.address)
        except RateLimited as error:
            return self._shaped_refusal(request, error_refusal(error), error.message)
        if self._is_operator(request):
            return super().answer(request)
        scheme, _, _ = request.headers.get("authorization", "").partition(" ")
        self._failures.count(ADMIN, request.address, "TXBROKER_ADMIN_SECRET", guessed=bool(scheme))
        message = "Show TXBROKER_ADMIN_SECRET as a bearer token."
        return self._shaped_refusal(request, json_refusal(401, message), message)

    def _is_operator(self, request: HttpRequest) -> bool:
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and compare_digest(shown.strip().encode("latin-1"), self._secret)

    def _peer_for(self, dialect: Any, request: HttpRequest) -> SitePeer:
        """Return the peer of *request*; an operator's connection makes no room for others."""
        peer = super()._peer_for(dialect, request)
        peer.admitted = not self._secret or self._is_operator(request)
        return peer

    def _called(self, dialect: Any) -> str:
        return ADMIN

    def _shaped_refusal(self, request: HttpRequest, response: Response, message: str) -> Coroutine[Any, Any, Response]:
        """Answer with *response*, in the form of what was asked for if that has one."""
        shaped = self._shaped(self.routes.http(request), response.status, message, request)
        if shaped is not None:
            response = attrs.evolve(shaped, headers=(*shaped.headers, *response.headers))
        return _refused(response)


async def _refused(response: Response) -> Response:
    return response
