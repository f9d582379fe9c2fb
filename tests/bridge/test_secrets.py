"""No secret that any dialect is shown stands in the log, whatever became of it."""

from __future__ import annotations

import base64
import json
import time
from itertools import count
from urllib.parse import quote, urlencode

import jwt
import pytest
import pytest_twisted

from tests.bridge.clients import Ganomede, Hpkv, MicroStream, OwlMeans, ThinWs
from tests.support.daemon import Daemon
from tests.support.http_client import get, post, request
from tests.support.ws_client import Closed, Refused, ws_connect

SHARED, PREVIOUS, NAMED, SIGNING = "shared-5f3a91c2", "previous-77aa01", "named-0b9d4e8f", "signing-" + "c1d2e3f4" * 4
PATHS = ("/", "/owlmeans", "/v1/ws", "/thinws", "/ws", "/hpkv/ws", "/socket.io/", "/nosuch")
FIELDS = ("token", "secret", "apiKey", "api_key", "password", "access_token", "%74oken", "TOKEN")


class Secrets:
    """Everything that must not be said."""

    def __init__(self):
        self.all = [SHARED, PREVIOUS, NAMED, SIGNING]
        self._numbers = count(1)

    def wrong(self):
        """Return a credential that is none, and private all the same."""
        self.all.append(f"mistyped-{next(self._numbers):04d}-e7")
        return self.all[-1]

    def keep(self, secret):
        """Remember a secret that the daemon or a client has made up."""
        self.all.append(secret)
        return secret


async def attempt(coming):
    """Let a client come, and go; or be refused."""
    try:
        client = await coming
    except (Refused, Closed):
        return
    await client.close()


async def queries_and_headers(daemon, secrets):
    for path in PATHS:
        for field in FIELDS:
            for given in (SHARED, secrets.wrong()):
                query = f"{field}={given}&EIO=4&transport=websocket&serviceName=s"
                await attempt(ws_connect(f"{daemon.ws(path)}?{query}"))
                await get(f"{daemon.url}{path}?{query.replace('websocket', 'polling')}")
        for scheme in ("", "Bearer ", "Basic ", "ED25519-BASIC-TOKEN "):
            headers = {"Authorization": scheme + secrets.wrong(), "X-Api-Key": secrets.wrong()}
            await attempt(ws_connect(daemon.ws(path), headers=headers))
            await post(daemon.url + path, {"any": "body"}, headers=headers)
            await attempt(ws_connect(daemon.ws(path), headers={"Authorization": scheme + NAMED}))


async def native(daemon, secrets):
    token = secrets.keep(jwt.encode({"sub": "bob", "exp": time.time() + 3600}, SIGNING, "HS256"))
    for good in (token, SHARED, PREVIOUS, NAMED):
        await (await OwlMeans.join(daemon, token=good)).socket.close()
        owl = await OwlMeans.join(daemon)
        owl.say(json.dumps({"type": "auth", "stage": "authenticate", "payload": {"token": good}}))
        owl.emulator.auth("authenticate", {})
        owl.emulator.outbox.clear()
        await owl.next("auth")
        await owl.ask("broker.set", "k", secrets.keep(f"value-{next(secrets._numbers)}-private"))
        owl.notify("t", json.dumps({"token": secrets.wrong(), "plain": secrets.wrong()}))
        owl.say(json.dumps({"type": "call", "id": 5, "method": "m", "payload": {"secret": secrets.wrong()}}))
        owl.say('{"type":"nosuch","token":"%s"' % secrets.wrong())
        await owl.sync()
        await owl.socket.close()
    owl = await ws_connect(daemon.ws("/owlmeans"))
    for _ in range(6):
        owl.send(json.dumps({"type": "auth", "stage": "authenticate", "payload": {"token": secrets.wrong()}}))
    await owl.closed()


async def posts_and_polls(daemon, secrets):
    for secret in (SHARED, NAMED, secrets.wrong()):
        body = {"clientId": "w", "secret": secret, "channel": "c", "from": "f", "type": "T", "data": [secrets.wrong()]}
        await post(daemon.url + "/events/v1/events", body)
        await post(daemon.url + "/events/v1/events", body, headers={"Authorization": "Bearer " + secrets.wrong()})
        form = urlencode({**body, "data": ""}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        await request("POST", daemon.url + "/events/v1/events", body=form, headers=headers)
        await Ganomede(daemon).post_raw(b'{"secret":"%b",bad' % secret.encode())
        for path in ("events", "latest", "indices/i/v", "nosuch"):
            await get(Ganomede(daemon, secret).url(path, channel="c", clientId="c", after=7))


async def keys(daemon, secrets):
    url = daemon.url + "/token/websocket"
    for key in (NAMED, SHARED, secrets.wrong()):
        answer = await post(url, {"subscribeKeys": ["k"]}, headers={"x-api-key": key})
        await post(f"{url}?apiKey={key}", {"secret": key}, headers={"x-api-key": secrets.wrong()})
        if answer.status == 200:
            token = secrets.keep(answer.json()["token"])
            hpkv = await Hpkv.join(daemon, token=token)
            await hpkv.set("k", secrets.wrong())
            hpkv.say(json.dumps({"op": 2, "key": 5, "token": token, "value": secrets.wrong()}))
            hpkv.say(f'{{"apiKey":"{secrets.wrong()}"')
            await hpkv.socket.close()
            await attempt(ws_connect(daemon.ws(f"/ws?token={token}x")))


async def rooms(daemon, secrets):
    for token in (SHARED, secrets.wrong()):
        thin = ThinWs(await ws_connect(daemon.ws(f"/thinws?token={token}")))
        mine = secrets.keep(f"connection-{next(secrets._numbers)}-mine")  # a client's only credential
        for frame in (
            {"type": "connect", "connectionID": mine},
            {"type": "connect", "connectionID": mine, "token": NAMED},
            {"type": "subscribe", "roomID": "r", "connectionID": secrets.wrong()},
            {"type": "message", "roomID": "r", "connectionID": mine, "message": secrets.wrong()},
            {"type": "message", "roomID": "nosuch", "token": secrets.wrong()},
            {"type": "unsubscribe", "roomID": "r", "connectionID": mine},
            {"type": secrets.wrong()},
        ):
            await thin.ask(**frame)
        await thin.socket.close()


async def services(daemon, secrets):
    good = await MicroStream.join(daemon, "svc", token=SHARED)
    good.ask("svc", "login", json.dumps({"password": secrets.wrong()}))
    await good.serve(json.dumps({"error": {"code": "X", "message": secrets.wrong()}}))
    await good.response()
    good.say(f'42["request",{{"token":"{secrets.wrong()}"')
    await good.socket.closed()
    for token in (NAMED, secrets.wrong()):
        url = "/socket.io/?EIO=4&transport=websocket&serviceName=named"
        service = MicroStream(await ws_connect(daemon.ws(url)))
        await service.next("0")
        service.say("40" + json.dumps({"token": token}))
        await service.next("40" if token == NAMED else "44")
        await service.socket.close()
        polling = f"{daemon.url}/socket.io/?EIO=4&transport=polling&serviceName=p&token={token}"
        sid = json.loads((await get(polling)).body[1:])["sid"]
        await post(f"{polling}&sid={sid}", body=b"40" + json.dumps({"token": secrets.wrong()}).encode())
        await get(f"{polling}&sid={sid}")


def forms_of(secret):
    """Return how *secret* could stand in a line."""
    raw = secret.encode()
    return {secret, quote(secret, safe=""), raw.hex(), base64.b64encode(raw).decode().rstrip("=")}


@pytest.mark.parametrize("level", ["debug", "info"])
@pytest_twisted.ensureDeferred
async def test_no_output_has_a_secret(start_daemon, level):
    daemon: Daemon = await start_daemon(
        TXBROKER_API_SECRET=SHARED,
        TXBROKER_API_SECRET_PREVIOUS=PREVIOUS,
        TXBROKER_API_KEYS=f"named:{NAMED}",
        TXBROKER_JWT_SECRET=SIGNING,
        TXBROKER_LOG_LEVEL=level,
        TXBROKER_AUTH_FAILURES_PER_MINUTE="0",
        TXBROKER_ERROR_DELAY_SECONDS="0",
        TXBROKER_POLL_TIMEOUT_SECONDS="0.01",
    )
    secrets = Secrets()
    for traffic in (queries_and_headers, native, posts_and_polls, keys, rooms, services):
        await traffic(daemon, secrets)
    await daemon.stop()
    output = "\n".join(daemon.output)
    assert "refused a client" in output
    assert level == "info" or "was dropped" in output
    said = [secret for secret in secrets.all if any(form in output for form in forms_of(secret))]
    assert not said, "\n".join(line for line in daemon.output if any(secret in line for secret in said))
