"""The JavaScript client, which the broker serves itself."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from broker.messages import Response
from protocols.http.operations import Call, Operation

JAVASCRIPT = "text/javascript; charset=utf-8"


@cache
def _source() -> bytes:
    return (files("protocols.http") / "client.js").read_bytes()


async def run(call: Call) -> Response:
    """Answer with a module for browsers and Node."""
    return Response(200, _source(), JAVASCRIPT, (("Cache-Control", "max-age=300"),))


CLIENT_OPERATION = Operation(
    "GET",
    "/client.js",
    "Get a client in JavaScript, for browsers and Node.",
    run,
    results={200: "A module."},
    media=(JAVASCRIPT.partition(";")[0],),
    result=str,
    open=True,
)
