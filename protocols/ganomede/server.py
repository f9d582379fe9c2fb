"""What the server says of itself: ping and about."""

from __future__ import annotations

import json
import re
import socket
from datetime import UTC, datetime

from broker.interfaces import IPeer
from broker.messages import HttpRequest, Response
from protocols.ganomede.answers import Refusal, missing, quote
from protocols.ganomede.query import unquote

JSON, TEXT = "application/json", "text/plain"
# What a range in an Accept header admits, in the order of our preference.
RANGES = {JSON: JSON, "application/*": JSON, "*/*": JSON, TEXT: TEXT, "text/*": TEXT}
WEIGHT = re.compile(r";\s*q\s*=\s*([0-9.]+)")


async def ping(peer: IPeer, request: HttpRequest) -> Response:
    """Say that the server is alive."""
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
    """Say what the server is; no secrets."""
    known = peer.about()
    started = datetime.fromtimestamp(known["started"], UTC)
    said = {
        "hostname": socket.gethostname(),
        "type": "ganomede-events",
        "version": known["version"],
        "description": "Events over HTTP with cursors and long polls",
        "startDate": started.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        **{name: known[name] for name in known if name not in ("version", "started")},
    }
    body = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(200, body, "application/json; charset=UTF-8")


def preferred(accept: str) -> str | None:
    """Return the type to answer with, or None when *accept* admits none that there is."""
    if not accept:
        return JSON
    best: tuple[float, str] | None = None
    for part in accept.lower().split(","):
        kind = RANGES.get(part.partition(";")[0].strip())
        weight = _weight(part)
        if kind is not None and weight > 0 and (best is None or weight > best[0]):
            best = weight, kind
    return best[1] if best else None


def _weight(part: str) -> float:
    found = WEIGHT.search(part)
    try:
        return float(found[1]) if found else 1.0
    except ValueError:
        return 1.0
