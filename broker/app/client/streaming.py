"""Whether what is streamed arrives at once, and whether connections stay that say nothing for a while."""

from __future__ import annotations

import asyncio
from contextlib import closing, suppress
from http.client import HTTPException, HTTPResponse
from time import monotonic

from websockets.exceptions import WebSocketException

from broker.app.client.findings import Answer, Finding, refused
from broker.app.client.probes import bearer, fresh_name, websocket
from broker.app.client.reaching import Reach

BUFFERED = (
    "let the proxy before the broker pass on what is streamed as it comes: proxy_buffering off, no compression, and "
    "no proxy_ignore_headers of X-Accel-Buffering"
)
CUT = "let the proxy before the broker wait longer for the next byte than TXBROKER_PING_SECONDS and 15 s"


def check_stream(reach: Reach) -> Finding:
    """Say whether a server-sent event arrives when it was published."""
    topic = fresh_name()
    with closing(reach.connection()) as connection:
        headers = reach.headers({"Accept": "text/event-stream", **bearer(reach)})
        connection.request("GET", f"{reach.target.prefix}/v1/topics/{topic}", headers=headers)
        try:
            response = connection.getresponse()
        except TimeoutError:
            return Finding("stream", False, "server-sent events are held back on the way: nothing comes", BUFFERED)
        if response.status != 200:
            answer = Answer(response.status, {}, response.read(1000).decode("utf-8", "replace"))
            return refused("stream", answer, shown=bool(reach.target.credential), origin=reach.origin)
        try:
            _read_until(response, b"\n\n")  # the beginning comes at once
            published = reach.ask("POST", f"/v1/topics/{topic}", bearer(reach), b'"doctor"')
            if published.status not in (201, 202):
                return Finding("stream", None, f"it begins; nothing can be published: {published.message}")
            _read_until(response, b'data: "doctor"')
        except TimeoutError:
            text = f"server-sent events are held back on the way: none within {reach.timeout:g} s"
            return Finding("stream", False, text, BUFFERED)
    return Finding("stream", True, "a server-sent event arrives at once")


def check_idle(reach: Reach, seconds: float) -> Finding:
    """Say whether a WebSocket stays for *seconds* on which the client says nothing."""
    begun = monotonic()
    try:
        asyncio.run(_stay(reach, seconds))
    except TimeoutError:
        text = f"after {seconds:g} s of silence, a WebSocket does not answer within {reach.timeout:g} s"
        return Finding("idle", False, text, CUT)
    except (OSError, WebSocketException) as error:
        text = f"a WebSocket was cut off after {monotonic() - begun:.0f} s of silence: {error}"
        return Finding("idle", False, text, CUT)
    return Finding("idle", True, f"a WebSocket stays open for {seconds:g} s of silence")


async def _stay(reach: Reach, seconds: float) -> None:
    """Say nothing for *seconds*, then ask whether the connection is there.

    Raises:
        TimeoutError: nothing answers.
        OSError, WebSocketException: it has ended.
    """
    async with websocket(reach, "/v1/ws") as socket:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    await socket.recv()
        # Who is on the way may have forgotten it without a word to either side.
        answered = await socket.ping()
        async with asyncio.timeout(reach.timeout):
            await answered


def _read_until(response: HTTPResponse, wanted: bytes) -> None:
    """Read until *wanted* has come.

    Raises:
        TimeoutError: it has not, or the stream has ended.
    """
    found = b""
    while wanted not in found:
        try:
            data = response.read1(4096)
        except (HTTPException, ValueError) as error:
            raise TimeoutError(str(error)) from None
        if not data:
            raise TimeoutError("the stream has ended")
        found = (found + data)[-8192:]
