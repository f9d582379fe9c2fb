"""What the server says of itself: ping and about."""

from __future__ import annotations

import json
import re
from collections.abc import Container
from datetime import UTC, datetime

from broker.interfaces import IPeer
from broker.messages import HttpRequest, Response
from protocols.ganomede.answers import Refusal, missing, quote
from protocols.ganomede.requests import unquote

JSON, TEXT = "application/json", "text/plain"
KINDS = (JSON, TEXT)  # that ping can answer with; the first is what we prefer
# One range of an Accept header; a quoted string that does not end ends with it, so that nothing is looked at twice.
RANGE = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*(?:"|\\?\Z))+', re.DOTALL)
PORT = re.compile(":[0-9]*$")
WEIGHT = re.compile(r";\s*q\s*=\s*([0-9.]+)")


async def ping(peer: IPeer, request: HttpRequest) -> Response:
    """Say that the server is alive."""
    peer.take_one_token()
    token = unquote(request.path.rpartition("/")[2])
    if token is None:
        raise Refusal(missing(request))
    kind = preferred(request.headers.get("accept", ""))
    if kind is None:
        return Response(406, content_type="")
    if kind == TEXT:
        return Response(200, f"pong/{token}".encode(), TEXT)
    return Response(200, quote(f"pong/{token}"))


async def about(peer: IPeer, request: HttpRequest) -> Response:
    """Say what the server is; no secrets, nor what the machine is called."""
    known = peer.about()
    started = datetime.fromtimestamp(known["started"], UTC)
    said = {
        "hostname": PORT.sub("", request.headers.get("host", "")),  # what the client calls it
        "type": "ganomede-events",
        "version": known["version"],
        "description": "Events over HTTP with cursors and long polls",
        "startDate": started.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        **{name: known[name] for name in known if name not in ("version", "started")},
    }
    body = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(200, body, "application/json; charset=UTF-8")


def preferred(accept: str) -> str | None:
    """Return the type to answer with, or None when *accept* accepts none of them.

    RFC 9110, 12.5.1: "Media ranges can be overridden by more specific media ranges or specific media types.
    If more than one media range applies to a given type, the most specific reference has precedence."
    """
    weights: dict[str, tuple[float, int]] = {}  # range → its weight, and minus its place
    for place, part in enumerate(RANGE.findall(accept.lower())):
        weights.setdefault(part.partition(";")[0].strip(), (_weight(part), -place))
    if not any(weights):
        return JSON
    offers = [(kind, weights[found]) for kind in KINDS if (found := _most_specific(kind, weights))]
    kind, (weight, _) = max(offers, key=lambda offer: offer[1], default=(None, (0.0, 0)))
    return kind if weight > 0 else None


def _most_specific(kind: str, ranges: Container[str]) -> str:
    """Return which of *ranges* says most about the media type *kind*, or ""."""
    candidates = (kind, kind.partition("/")[0] + "/*", "*/*")
    return next((candidate for candidate in candidates if candidate in ranges), "")


def _weight(part: str) -> float:
    found = WEIGHT.search(part)
    try:
        return float(found[1]) if found else 1.0
    except ValueError:
        return 1.0
