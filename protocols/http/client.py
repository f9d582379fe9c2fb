"""The JavaScript clients, which the broker serves itself."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from broker.messages import Response
from protocols.http.conditions import IF_NONE_MATCH, read_tags
from protocols.http.operations import Call, Operation

JAVASCRIPT, PLAIN = "text/javascript; charset=utf-8", "text/plain; charset=utf-8"
# Who has an older one gets the new one within five minutes.  The port adds what CORS grants, by the origin.
CACHING = (("Cache-Control", "public, max-age=300, must-revalidate"), ("Vary", "Origin"))


@cache
def _source(name: str) -> bytes:
    """Return a file of this package, or, where the package was not built, of the repository."""
    packaged = files("protocols.http") / name
    if packaged.is_file():
        return packaged.read_bytes()
    return (Path(__file__).parents[2] / "clients" / "js" / name).read_bytes()


@cache
def _tag(name: str) -> str:
    return sha256(_source(name)).hexdigest()[:16]


def _operation(path: str, name: str, summary: str, media: str = JAVASCRIPT) -> Operation:
    """Return what answers with the file *name* at *path*."""

    async def run(call: Call) -> Response:
        tags = read_tags(call, IF_NONE_MATCH)
        headers = (("ETag", f'"{_tag(name)}"'), *CACHING)
        # RFC 9110, 13.1.2: "A recipient MUST use the weak comparison function when comparing entity tags".
        if tags is not None and (tags.any or _tag(name) in (*tags.strong, *tags.weak)):
            return Response(304, content_type="", headers=headers)
        return Response(200, _source(name), media, headers)

    return Operation(
        "GET",
        path,
        summary,
        run,
        headers=(IF_NONE_MATCH,),
        results={200: "The file.", 304: "As it was."},
        media=(media.partition(";")[0],),
        result=str,
        open=True,
    )


CLIENT_OPERATIONS = (
    _operation("/client.js", "txbroker.js", "Get the client in JavaScript, for browsers and Node."),
    _operation("/client.d.ts", "txbroker.d.ts", "Get the types of the client in JavaScript.", PLAIN),
    _operation("/http-client.js", "http-client.js", "Get a client of this API in JavaScript."),
)
