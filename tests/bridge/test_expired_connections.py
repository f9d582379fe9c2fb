"""What a real daemon does when the web tokens of its clients expire."""

from __future__ import annotations

import json
import time

import jwt
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from tests.support.http_client import get, post
from tests.support.ws_client import Closed, Refused, ws_connect

SIGNING = "0123456789abcdef" * 2
EXPIRED = (1008, "credential expired")
REFUSED = "AuthManagerErrorAuthenFailed|||auth:manager:authen:credential expired|||"


@pytest.fixture(scope="module")
def daemon_environ():
    return {
        "TXBROKER_JWT_SECRET": SIGNING,
        "TXBROKER_JWT_LEEWAY_SECONDS": "0",
        "TXBROKER_POLL_TIMEOUT_SECONDS": "60",
        "TXBROKER_ERROR_DELAY_SECONDS": "0",
    }


def token(seconds):
    return jwt.encode({"sub": "bob", "exp": int(time.time()) + seconds}, SIGNING, "HS256")


async def until_the_end(join, lives=(1, 2, 4, 8, 16, 32)):
    """Return the socket that *join* makes with a token, and that: one that ends soon, but not before."""
    for seconds in lives:
        shown = token(seconds)
        try:
            return await join(shown), shown
        except (Refused, Closed):  # this machine is too busy for that
            continue
    raise AssertionError("every token has expired before it was shown")


async def owlmeans(daemon):
    heard = []

    async def join(shown):
        socket = await ws_connect(daemon.ws(f"/owlmeans?token={shown}"))
        socket.send('{"type":"ping"}')  # its handlers are in place
        heard.append(await socket.receive())
        return socket

    # The warning comes when a tenth of the time is left: on a busy machine it takes more than a second to notice that.
    for lives in ((1, 2, 4, 8, 16, 32), (4, 8, 16, 32), (16, 32)):
        socket, shown = await until_the_end(join, lives)
        assert await socket.closed() == (1008, REFUSED)
        heard += socket.waiting
        if any("broker.expiring" in text for text in heard):
            break
    assert {json.loads(text).get("event", "pong") for text in heard} == {"broker.expiring", "pong"}
    with pytest.raises(Refused, match="401"):
        await ws_connect(daemon.ws(f"/owlmeans?token={shown}"))


async def thinws(daemon):
    async def connect(shown):
        socket = await ws_connect(daemon.ws(f"/thinws?token={shown}"))
        socket.send('{"type":"connect","connectionID":"c"}')
        return socket, await socket.receive()

    async def join(shown):
        socket, answer = await connect(shown)
        if answer != '{"type":"ack"}':
            await socket.close()
            raise Closed(1000, answer)
        return socket

    socket, shown = await until_the_end(join)
    assert await socket.closed() == EXPIRED
    again, answer = await connect(shown)
    assert answer == '{"type":"error","message":"Not authorized"}'
    await again.close()


async def microstream(daemon):
    async def join(shown):
        query = f"EIO=4&transport=websocket&serviceName=bob&token={shown}"
        socket = await ws_connect(daemon.ws(f"/socket.io/?{query}"))
        await socket.receive()
        socket.send("40")
        if not (await socket.receive()).startswith("40"):
            await socket.close()
            raise Closed(1000, "refused")
        return socket

    socket, _ = await until_the_end(join)
    assert await socket.closed() == EXPIRED
    assert socket.waiting == []  # above all no "41", after which the client would never come again


async def hpkv(daemon):
    socket, shown = await until_the_end(lambda shown: ws_connect(daemon.ws(f"/ws?apiKey={shown}")))
    assert await socket.closed() == (4001, "credential expired")
    with pytest.raises(Refused, match="403"):
        await ws_connect(daemon.ws(f"/ws?apiKey={shown}"))


async def minted(daemon):
    async def join(shown):
        answer = await post(daemon.url + "/token/websocket", {"accessPattern": ".*"}, headers={"x-api-key": shown})
        return await ws_connect(daemon.ws(f"/ws?token={answer.json().get('token', '')}"))

    socket, _ = await until_the_end(join)
    assert await socket.closed() == (4001, "token expired")


async def ganomede(daemon):
    shown = token(1)
    answer = await get(f"{daemon.url}/events/v1/events?clientId=c&channel=expiry&secret={shown}")
    assert (answer.status, answer.json()["code"]) == (401, "InvalidCredentialsError")


@pytest_twisted.ensureDeferred
async def test_expired_tokens_end_what_they_have_admitted(shared_daemon):
    dialects = (owlmeans, thinws, microstream, hpkv, minted, ganomede)
    await gatherResults([Deferred.fromCoroutine(each(shared_daemon)) for each in dialects], consumeErrors=True)
