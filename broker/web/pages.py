"""What the port itself answers: is the daemon alive, is it ready, what is it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from broker.messages import HttpRequest, Response
from broker.web.refusals import json_refusal

METHODS = "GET, HEAD, OPTIONS"
# What is answered even when there are too many connections: whoever watches the daemon asks for them.
PAGES_FOR_ALL = frozenset(("/health", "/healthz", "/ready", "/readyz"))
# What HAProxy's "option httpchk" asks by OPTIONS if nothing else is said, and the server as a whole (RFC 9110, 9.3.7).
WHOLE = frozenset(("/", "*"))


def is_probe(request: HttpRequest) -> bool:
    """Whether *request*, which no dialect takes, asks for the health of the daemon, as balancers and monitors do."""
    return request.path in PAGES_FOR_ALL or (request.path in WHOLE and request.method == "OPTIONS")


class Pages:
    """``/health``, ``/ready`` and ``/about``; anything else is not found.

    OPTIONS is answered with the status that GET is, without its body: it is what HAProxy checks by.

    Args:
        ready: returns why the daemon can not do its work now; [] when it can.
        about: returns what the daemon is, without secrets.
    """

    def __init__(self, ready: Callable[[], list[str]], about: Callable[[], Mapping[str, Any]]) -> None:
        self._ready = ready
        self._about = about
        self._pages: dict[str, Callable[[], Response]] = {
            "/health": self._health_page,
            "/healthz": self._health_page,
            "/ready": self._ready_page,
            "/readyz": self._ready_page,
            "/about": self._about_page,
        }

    def answer(self, request: HttpRequest) -> Response:
        """Return the page that *request* asks for, or why not."""
        method = request.method
        page = self._ready_page if method == "OPTIONS" and request.path in WHOLE else self._pages.get(request.path)
        if page is None:
            return json_refusal(404, f"Nothing is at {request.path[:200]}.")
        if method in ("GET", "HEAD"):
            return page()
        allow = (("Allow", METHODS),)
        if method == "OPTIONS":
            return Response(page().status, headers=allow)
        return json_refusal(405, f"{method} is not allowed.", headers=allow)

    def _health_page(self) -> Response:
        # All it says is that the reactor runs: a store that is away is no reason for a restart.
        return _page({"status": "ok"})

    def _ready_page(self) -> Response:
        reasons = _told_once(self._ready())
        if not reasons:
            return _page({"ready": True})
        data = json.dumps({"reasons": list(reasons.values())}).encode("ascii")
        return json_refusal(503, f"Not ready: {'; '.join(reasons)}.", data=data)

    def _about_page(self) -> Response:
        return _page(self._about())


def _told_once(reasons: Iterable[str]) -> dict[str, str]:
    """Return *reasons*, each once and with one full stop if it had any, by their words without it.

    Several parts may have the same reason, and texts of errors from libraries end as they like.
    """
    told: dict[str, str] = {}
    for reason in reasons:
        words = reason.rstrip(". \n")
        told.setdefault(words, words + "." if words != reason.rstrip() else words)
    return told


def _page(content: Mapping[str, Any]) -> Response:
    return Response(200, json.dumps(content).encode("ascii"), headers=(("Cache-Control", "no-store"),))
