"""Who may see the pages of the admin port."""

from __future__ import annotations

from collections.abc import Coroutine
from hmac import compare_digest
from typing import Any

from broker.access.browsers import BrowserPolicy
from broker.messages import HttpRequest, Response
from broker.web.refusals import json_refusal
from broker.web.site import Site

UNPROTECTED = ("/health", "/healthz")  # for those who only ask whether it is alive


class AdminSite(Site):
    """A site that shows its pages to those who have its secret, and to web pages of its own only.

    Args:
        secret: to be shown as ``Authorization: Bearer``; "": everybody on this machine is shown them.
        hosts: what ``Host`` may name besides this machine where there is no secret.
        others: see ``Site``.
    """

    def __init__(self, *others: Any, secret: str = "", hosts: tuple[str, ...] = (), **more: Any) -> None:
        # An origin that may use the broker is not thereby one that may watch it.
        policy = BrowserPolicy((), None if secret else hosts, secured=bool(secret), setting="")
        super().__init__(*others, policy=policy, **more)
        self._secret = secret.encode()

    def answer(self, request: HttpRequest) -> Coroutine[Any, Any, Response]:
        """Return the answer to *request*, or that the secret is missing or wrong."""
        if request.path in UNPROTECTED or self._is_shown(request):
            return super().answer(request)
        return self._unauthenticated(request)

    def _is_shown(self, request: HttpRequest) -> bool:
        if not self._secret:
            return True
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and compare_digest(shown.strip().encode("latin-1"), self._secret)

    async def _unauthenticated(self, request: HttpRequest) -> Response:
        self._throttled.log(
            "secret",
            "{path} of the admin port was refused to {address}, who did not show TXBROKER_ADMIN_SECRET",
            path=request.path[:200],
            address=request.address,
        )
        return json_refusal(401, "Show TXBROKER_ADMIN_SECRET as a bearer token.")
