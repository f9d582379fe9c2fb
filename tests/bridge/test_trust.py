"""Who may do what: every kind of credential, in every dialect, with every verb, for names and ids of any kind.

The daemon of these tests was started before with another key of the same name, by which a token was made.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
import pytest_twisted

from tests.bridge.clients import Ganomede, Hpkv, MicroStream, OwlMeans, ThinWs
from tests.bridge.test_ids import WAYS
from tests.support.daemon import Daemon
from tests.support.http_client import get, post
from tests.support.ws_client import Closed, Refused, ws_connect

SIGNING, SECRET = "signing-key-of-the-issuer" * 2, "the-shared-secret"
KEY, REPLACED = "the-key-of-the-mailer", "the-leaked-key-of-the-mailer"
VERBS = ("publish", "subscribe", "call", "register", "request", "acknowledge", "send", "consume", "read", "write")
PERMITTED = ("key.mailer", "user.ann", "role.admin", "secret")  # the others have what [default] says: nothing
OPEN, SHUT = "open", "shut"  # names that begin so are permitted and denied

# What comes of it
DONE, DENIED, UNAUTHENTICATED = "done", "denied", "unauthenticated"


def token(**claims: Any) -> str:
    # They are made when the tests are collected, which may be long before they run.
    return jwt.encode({"exp": time.time() + 86_400} | claims, SIGNING, "HS256")


CREDENTIALS = {  # by kind: the credential, and whether it is good
    "none": ("", False),
    "wrong": ("wrong-credential", False),
    "secret": (SECRET, True),
    "key": (KEY, True),
    "replaced key": (REPLACED, False),
    "user": (token(sub="ann"), True),
    "user with a role": (token(sub="zoe", roles=["admin"]), True),
    "expired user": (token(sub="ann", exp=time.time() - 600), False),
}
STRANGERS = {  # users whose names are words of other kinds: they are good, and have no rights
    name: token(sub=name) for name in ("mailer", "admin", "secret", "anonymous", "default", "broker", "role", "eve")
}


def permissions() -> str:
    names = json.dumps([f"{OPEN}.>", f"{OPEN}*", f"kv/{OPEN}.>", f"queue:{OPEN}*", "ids", "posted", "mailer"])
    tables = [f"[{table}.{verb}]\nallow = {names}\n" for table in PERMITTED for verb in VERBS]
    tables += [f'[{table}.mint]\nallow = [">"]\n' for table in PERMITTED]
    return "".join(tables) + "[default.act]\nallow = []\n"


@pytest_twisted.async_yield_fixture(scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    directory = tmp_path_factory.mktemp("trust")
    file = directory / "permissions.toml"
    file.write_text(permissions())
    trusted = Daemon(
        directory,
        TXBROKER_API_SECRET=SECRET,
        TXBROKER_API_KEYS=f"mailer:{REPLACED}",
        TXBROKER_JWT_SECRET=SIGNING,
        TXBROKER_PERMISSIONS_FILE=str(file),
        TXBROKER_ERROR_DELAY_SECONDS="0",
        TXBROKER_POLL_TIMEOUT_SECONDS="0.1",
        TXBROKER_AUTH_FAILURES_PER_MINUTE="0",
    )
    await trusted.start()
    TOKENS["replaced key"] = await mint(trusted, REPLACED)
    await trusted.restart(TXBROKER_API_KEYS=f"mailer:{KEY}")
    for kind in ("secret", "key", "user"):
        TOKENS[kind] = await mint(trusted, CREDENTIALS[kind][0])
    yield trusted
    await trusted.stop()
    assert not trusted.troubles(), "\n".join(trusted.output)


TOKENS: dict[str, str] = {}  # minted with the credential of each kind


async def mint(daemon: Daemon, credential: str) -> str:
    answer = await post(daemon.url + "/token/websocket", {"accessPattern": "."}, headers={"x-api-key": credential})
    assert answer.status == 200, answer.text
    made: str = answer.json()["token"]
    return made


# What each dialect can do with a name.  Each returns what came of it.


def outcome_of(answer: Any) -> str:
    return {200: DONE, 401: UNAUTHENTICATED, 403: DENIED}[answer.status]


async def post_event(daemon, credential, name):
    said = {"clientId": "poster", "secret": credential, "channel": name, "from": "f", "type": "T"}
    # Whose the clientId is, is not asked here: each credential has one of its own.
    said["clientId"] = f"poster-{abs(hash(credential))}"
    return outcome_of(await Ganomede(daemon).post_raw(json.dumps(said).encode()))


async def poll(daemon, credential, name):
    client = f"poller-{abs(hash(credential))}"
    return outcome_of(await get(Ganomede(daemon, credential).url("events", channel=name, clientId=client)))


async def latest(daemon, credential, name):
    return outcome_of(await get(Ganomede(daemon, credential).url("latest", channel=name)))


def owlmeans(method: str, *more: Any, prefix: str = "") -> Any:
    async def act(daemon, credential, name):
        try:
            client = OwlMeans(await ws_connect(daemon.ws(f"/owlmeans?token={credential}")))
        except Refused as refused:
            return {401: UNAUTHENTICATED}[refused.status]
        answer = json.loads(await client.call(method, *map(json.dumps, (name, *more))))
        await client.socket.close()
        if answer["type"] == "result":
            return DONE
        if answer["payload"].startswith("ForbiddenAuthorizationError"):
            return DENIED
        assert "Unauthorized" in answer["payload"], answer
        return UNAUTHENTICATED

    return act


def thinws(kind: str) -> Any:
    async def act(daemon, credential, name):
        client = ThinWs(await ws_connect(daemon.ws(f"/thinws?token={credential}")))
        body = {"message": 1} if kind == "message" else {}
        if kind == "message":
            await client.ask(type="subscribe", roomID=name)
        reply = await client.ask(type=kind, roomID=name, **body)
        await client.socket.close()
        if reply["type"] == "ack":
            return DONE
        # The dialect has one sentence for both; see the log for which it was.
        assert reply["message"] in ("Not authorized", "Not a member of this room"), reply
        return DENIED

    return act


def hpkv(op: int, **more: Any) -> Any:
    async def act(daemon, credential, name):
        return await by_query(daemon, {"apiKey": credential}, op, name, more)

    return act


async def by_query(daemon, query, op, name, more):
    try:
        client = await Hpkv.join(daemon, **query)
    except (Refused, Closed):
        return UNAUTHENTICATED
    try:
        answer = await client.do(op, name, **more)
    finally:
        await client.socket.close()
    return {200: DONE, 404: DONE, 401: UNAUTHENTICATED, 403: DENIED}[answer["code"]]


async def service(daemon, credential, name):
    url = daemon.ws(f"/socket.io/?EIO=4&transport=websocket&serviceName={name}&token={credential}")
    client = MicroStream(await ws_connect(url))
    await client.next("0")
    client.say("40")
    text = await client.socket.receive()
    await client.socket.close()
    if text.startswith("40"):
        return DONE
    return {"FORBIDDEN": DENIED, "UNAUTHORIZED": UNAUTHENTICATED}[json.loads(text[2:])["message"]]


ACTS = {
    "ganomede POST": post_event,
    "ganomede GET": poll,
    "ganomede latest": latest,
    "owlmeans register": owlmeans("broker.register"),
    "owlmeans subscribe": owlmeans("broker.subscribe"),
    "owlmeans acknowledge": owlmeans("broker.acknowledge"),
    "owlmeans consume": owlmeans("broker.consume"),
    "owlmeans get": owlmeans("broker.get"),
    "owlmeans set": owlmeans("broker.set", "x"),
    "owlmeans delete": owlmeans("broker.delete"),
    "thinws subscribe": thinws("subscribe"),
    "thinws message": thinws("message"),
    "hpkv get": hpkv(1),
    "hpkv set": hpkv(2, value="x"),
    "hpkv delete": hpkv(4),
    "hpkv atomic": hpkv(6, value=1),
    "microstream service": service,
}
in_each_act = pytest.mark.parametrize("act", ACTS)
_names = iter(range(10**6))


def fresh(word: str) -> str:
    return f"{word}.{next(_names)}"


@in_each_act
@pytest.mark.parametrize("kind", CREDENTIALS)
@pytest_twisted.ensureDeferred
async def test_a_credential_may_what_its_principal_is_allowed(daemon, kind, act):
    credential, good = CREDENTIALS[kind]
    assert await ACTS[act](daemon, credential, fresh(OPEN)) == (DONE if good else refusal(act))
    assert await ACTS[act](daemon, credential, fresh(SHUT)) == (DENIED if good else refusal(act))


def refusal(act: str) -> str:
    return DENIED if act.startswith("thinws") else UNAUTHENTICATED


@in_each_act
@pytest.mark.parametrize("name", STRANGERS)
@pytest_twisted.ensureDeferred
async def test_a_user_has_no_rights_by_being_called_like_something_else(daemon, name, act):
    assert await ACTS[act](daemon, STRANGERS[name], fresh(OPEN)) == DENIED


@in_each_act
@pytest.mark.parametrize("name", ["broker", "broker.x", "queue:q", "kv/k"])
@pytest_twisted.ensureDeferred
async def test_nobody_makes_anything_of_a_name_of_the_broker(daemon, name, act):
    assert await ACTS[act](daemon, KEY, name) == DENIED


@pytest.mark.parametrize("op", [1, 2, 4, 6])
@pytest.mark.parametrize("kind", ["secret", "key", "user", "replaced key"])
@pytest_twisted.ensureDeferred
async def test_a_minted_token_may_what_its_principal_is_allowed(daemon, kind, op):
    good = kind != "replaced key"
    for name, expected in ((fresh(OPEN), DONE), (fresh(SHUT), DENIED)):
        value = {2: {"value": "x"}, 6: {"value": 1}}.get(op, {})
        found = await by_query(daemon, {"token": TOKENS[kind]}, op, name, value)
        assert found == (expected if good else UNAUTHENTICATED)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [kind for kind, (_, good) in CREDENTIALS.items() if not good and kind != "none"])
@pytest_twisted.ensureDeferred
async def test_no_id_is_had_by_a_credential_that_is_not_good(daemon, kind, way):
    assert await WAYS[way](daemon, KEY, "mailer")
    try:
        had = await WAYS[way](daemon, CREDENTIALS[kind][0], "mailer")
    except (AssertionError, Refused, Closed):  # it is refused before the id is looked at, in other words
        had = False
    assert not had
