"""A connection as a client of each dialect would make it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from broker.app.client.findings import PASS_UPGRADE, SHOW_ANOTHER, SHOW_ONE, Answer, Finding, refused
from broker.app.client.output import one_line
from broker.app.client.reaching import Reach
from broker.app.client.target import trusted

Probe = Callable[[Reach], Finding]
REFUSALS = (401, 403, 429, 502, 503, 504)  # statuses that say why there is no WebSocket
NAME = "txbroker.doctor"  # of topics, keys and rooms that are asked for, and of which nothing stays


def owlmeans(reach: Reach) -> Finding:
    """Ask by the native dialect who the client is."""
    ask = {"type": "call", "id": "1", "method": "broker.whoami", "payload": []}
    return _talk(reach, "owlmeans", "/v1/ws", [json.dumps(ask)], lambda text: json.loads(text)["type"] == "result")


def thinws(reach: Reach) -> Finding:
    """Leave a room, which is a no-op."""
    ask = {"messageID": 1, "type": "unsubscribe", "roomID": NAME}
    return _talk(reach, "thinws", "/thinws", [json.dumps(ask)], lambda text: json.loads(text).get("type") != "error")


def hpkv(reach: Reach) -> Finding:
    """Read a key that is not there."""
    key = quote(reach.target.credential or "none", safe="")
    ask = json.dumps({"op": 1, "key": NAME, "messageId": 1})
    return _talk(reach, "hpkv", f"/ws?apiKey={key}", [ask], lambda text: json.loads(text).get("code") in (200, 404))


def microstream(reach: Reach) -> Finding:
    """Open a Socket.IO session, as a client without a service."""
    token = reach.target.credential
    path = "/socket.io/?EIO=4&transport=websocket"
    if token:
        # Without a name, which would belong to who has the credential from now on: the token is judged first.
        says = [None, f"40{json.dumps({'token': token})}"]
        return _talk(reach, "microstream", path, says, lambda text: "INVALID_SERVICE_NAME" in text)
    return _talk(
        reach, "microstream", f"{path}&serviceName={fresh_name()}", [None, "40"], lambda text: text.startswith("40")
    )


def ganomede(reach: Reach) -> Finding:
    """Ask for events without saying of which channel: what is wrong then is not the secret."""
    answer = reach.ask("GET", f"/events/v1/events?secret={quote(reach.target.credential or 'any', safe='')}")
    return _judge(reach, "ganomede", answer, good=(400,))


def http(reach: Reach) -> Finding:
    """Read a topic that has nothing."""
    answer = reach.ask("GET", f"/v1/topics/{NAME}?limit=1", bearer(reach))
    return _judge(reach, "http", answer, good=(200,))


PROBES: dict[str, Probe] = {probe.__name__: probe for probe in (owlmeans, ganomede, thinws, hpkv, microstream, http)}


def bearer(reach: Reach) -> dict[str, str]:
    """Return the header that shows the credential."""
    credential = reach.target.credential
    return {"Authorization": f"Bearer {credential}"} if credential else {}


def websocket(reach: Reach, path: str) -> connect:
    """Return a WebSocket to *path*, for ``async with``.

    Not one of ``websockets.sync``: that reads in a thread of its own, and OpenSSL has no state for two threads at
    once. What is sent while the session tickets of TLS 1.3 are read may then be lost.

    Raises:
        OSError, WebSocketException: there is none; where it is entered.
    """
    target = reach.target
    split = target.split
    url = f"{split.scheme}://{split.netloc}{target.prefix}{path}"
    context = trusted(target.ca_file) if target.secured else None
    origin: Any = reach.origin or None
    return connect(
        url,
        ssl=context,
        origin=origin,
        additional_headers=bearer(reach),
        compression=None,
        open_timeout=reach.timeout,
        ping_interval=None,  # it would keep a connection that is to be silent
        close_timeout=1.0,
        proxy=None,
    )


def _talk(reach: Reach, check: str, path: str, says: list[str | None], is_good: Callable[[str], bool]) -> Finding:
    """Return what becomes of a WebSocket on which *says* is said; None: wait for a frame first."""
    try:
        text = asyncio.run(_last_answer(reach, path, says))
    except InvalidStatus as error:
        return _not_upgraded(reach, check, path, _answer_of(error))
    except TimeoutError:
        return Finding(check, False, f"no answer over the WebSocket within {reach.timeout:g} s")
    except (OSError, WebSocketException) as error:
        return Finding(check, False, f"the WebSocket has ended: {one_line(str(error))}")
    return _said(reach, check, text, is_good)


async def _last_answer(reach: Reach, path: str, says: list[str | None]) -> str:
    text = ""
    async with websocket(reach, path) as socket:
        for words in says:
            if words is not None:
                await socket.send(words)
            async with asyncio.timeout(reach.timeout):
                text = str(await socket.recv())
    return text


def _said(reach: Reach, check: str, text: str, is_good: Callable[[str], bool]) -> Finding:
    try:
        if is_good(text):
            return Finding(check, True, "connected over a WebSocket, and answered")
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    words = one_line(text)[:300]
    lowered = text.lower()
    if any(word in lowered for word in ("unauthorized", "not authorized", "authmanager")):
        shown = bool(reach.target.credential)
        what = "the credential is not accepted" if shown else "a credential is needed"
        return Finding(check, False, what, SHOW_ANOTHER if shown else SHOW_ONE)
    return Finding(check, None, f"connected over a WebSocket, and refused: {words}")


def _not_upgraded(reach: Reach, check: str, path: str, answer: Answer) -> Finding:
    """Return why *path* was not upgraded: the answer is that to a plain request, if the upgrade was lost on the way."""
    if answer.status not in REFUSALS:
        plain = reach.ask("GET", path, bearer(reach))
        if answer.status == 426 or (plain.status, plain.message) == (answer.status, answer.message):
            text = f"the request for a WebSocket has lost its upgrade on the way: it was answered with {answer.status}"
            return Finding(check, False, text, PASS_UPGRADE)
    return refused(check, answer, shown=bool(reach.target.credential), origin=reach.origin)


def _answer_of(error: InvalidStatus) -> Answer:
    response = error.response
    headers = {name.lower(): value for name, value in response.headers.raw_items()}
    return Answer(response.status_code, headers, (response.body or b"").decode("utf-8", "replace"))


def _judge(reach: Reach, check: str, answer: Answer, good: tuple[int, ...]) -> Finding:
    if answer.status in good:
        return Finding(check, True, "answered over HTTP")
    return refused(check, answer, shown=bool(reach.target.credential), origin=reach.origin)


def fresh_name() -> str:
    """Return the name of a topic that nobody else uses."""
    return f"{NAME}.{uuid4().hex}"
