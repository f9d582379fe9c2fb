"""Each error of the core in each dialect's own words."""

from __future__ import annotations

import json
import resource
from urllib.parse import urlencode

import pytest
import pytest_twisted

from broker.errors import BrokerError
from broker.messages import HttpRequest
from protocols.ganomede.answers import failed
from protocols.hpkv.frames import error as hpkv_error
from tests.bridge.clients import Ganomede, Hpkv, MicroStream, OwlMeans, ThinWs
from tests.support.daemon import Daemon
from tests.support.http_client import get, post, request
from tests.support.ws_client import Refused, ws_connect

FULL, POOR = "full-key-12345", "poor-key-12345"
PERMISSIONS = """
[key.full]
publish.allow = [">"]
subscribe.allow = [">"]
call.allow = [">"]
register.allow = [">"]
request.allow = [">"]
send.allow = [">"]
read.allow = [">"]
write.allow = [">"]
mint.allow = [">"]

[key.poor]
register.allow = ["poor"]
"""
LARGE = "x" * (2 << 20)


@pytest.fixture(scope="module")
def daemon_environ(tmp_path_factory):
    permissions = tmp_path_factory.mktemp("bridge") / "permissions.toml"
    permissions.write_text(PERMISSIONS)
    return {
        "TXBROKER_API_KEYS": f"full:{FULL} poor:{POOR}",
        "TXBROKER_PERMISSIONS_FILE": str(permissions),
        "TXBROKER_PROTOCOLS": "owlmeans ganomede thinws hpkv microstream tests.bridge.faulty:dialect",
        "TXBROKER_ERROR_DELAY_SECONDS": "0",
        "TXBROKER_POLL_TIMEOUT_SECONDS": "0.2",
    }


def refusal(answer):
    """Return what a ganomede answer says: status and code."""
    return answer.status, answer.json()["code"]


async def faulty(daemon):
    """Let a client of another dialect perform ``faulty.<CODE>``."""
    socket = await ws_connect(daemon.ws("/faulty"), headers={"Authorization": FULL})
    assert await socket.receive() == "ready"
    return socket


async def refused_service(daemon, **query):
    """Return what the CONNECT of a service is refused with."""
    url = daemon.ws("/socket.io/?" + urlencode({"EIO": 4, "transport": "websocket", **query}))
    service = MicroStream(await ws_connect(url))
    await service.next("0")
    service.say("40")
    refused = json.loads((await service.next("44"))[2:])
    await service.socket.close()
    assert refused["message"] == refused["data"]["code"]
    return refused["data"]


# Calls: what fails at a callee of another dialect


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("NOT_FOUND", "SocketErrorConnectionUnsupported|||socket:connection:unsupported:what:name|||"),
        ("TIMEOUT", "SocketErrorTimeout|||socket:timeout:what|||"),
        ("GONE", "SocketErrorConnection|||socket:connection:what:name|||"),
        ("TAKEN", "SocketErrorMessage|||socket:message:exists:name|||"),
        ("UNAUTHENTICATED", "SocketErrorConnectionUnauthorized|||socket:connection:unauthorized:what|||"),
        ("DENIED", "ForbiddenAuthorizationError|||auth:authorization:forbidden:what:name|||"),
        ("INVALID", "SocketErrorMessageMalformed|||socket:message:malformed:what|||"),
        ("TOO_LARGE", "SocketErrorMessage|||socket:message:limit:what|||"),
        ("RATE_LIMITED", "SocketErrorMessage|||socket:message:limit:name|||"),
        ("UNAVAILABLE", "SocketError|||socket:internal|||"),
        ("INTERNAL", "SocketError|||socket:internal|||"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_owlmeans_words_for_what_fails_elsewhere(shared_daemon, join, code, text):
    callee, owl = await faulty(shared_daemon), await join(OwlMeans, token=FULL)
    assert await owl.failure(f"faulty.{code}") == text
    await callee.close()


@pytest.mark.parametrize(
    ("code", "word", "message"),
    [
        ("NOT_FOUND", "TARGET_SERVICE_NOT_FOUND", 'Service "faulty" not found'),
        ("TIMEOUT", "REQUEST_TIMEOUT", 'Service "faulty" did not answer in time'),
        ("GONE", "TARGET_SERVICE_DISCONNECTED", 'Service "faulty" disconnected'),
        ("UNAUTHENTICATED", "UNAUTHORIZED", "The token is missing or wrong"),
        ("DENIED", "FORBIDDEN", "Not permitted"),
        ("INVALID", "INVALID_REQUEST", "what name"),
        ("RATE_LIMITED", "RATE_LIMITED", "Too many requests"),
        ("UNAVAILABLE", "UNAVAILABLE", "The hub can not do this now"),
        ("INTERNAL", "INTERNAL_SERVER_ERROR", "Internal server error"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_microstream_words_for_what_fails_elsewhere(shared_daemon, join, code, word, message):
    callee, service = await faulty(shared_daemon), await join(MicroStream, "full", token=FULL)
    error = await service.error("faulty", code)
    assert (error["code"], error["message"]) == (word, message)
    assert error["errorData"] == {"targetService": "faulty", "requestID": "r1"}
    await callee.close()


# NOT_FOUND


@pytest_twisted.ensureDeferred
async def test_what_is_not_there(shared_daemon, join):
    owl, hpkv = await join(OwlMeans, token=FULL), await join(Hpkv, apiKey=FULL)
    service = await join(MicroStream, "full", token=FULL)
    unsupported = "SocketErrorConnectionUnsupported|||socket:connection:unsupported:method:nosuch.x|||"
    assert await owl.failure("nosuch.x") == unsupported
    assert (await service.error("nosuch", "x"))["code"] == "TARGET_SERVICE_NOT_FOUND"
    for op in (1, 4):
        assert await hpkv.do(op, "nosuch") == {"code": 404, "error": "Record not found", "messageId": op // 4 + 1}
    index = await get(Ganomede(shared_daemon, FULL).url("indices/nosuch/value"))
    assert refusal(index) == (404, "ResourceNotFound")
    assert refusal(await get(shared_daemon.url + "/events/v1/nosuch")) == (404, "ResourceNotFound")


# TIMEOUT


@pytest_twisted.ensureDeferred
async def test_what_takes_too_long(shared_daemon, join):
    owl = await join(OwlMeans, token=FULL)
    await join(MicroStream, "full", token=FULL)
    assert await owl.failure("full.silence", timeout=50) == "SocketErrorTimeout|||socket:timeout:call|||"
    answer = await Ganomede(shared_daemon, FULL).poll("nothing comes")
    assert (answer.status, answer.body) == (200, b"[]")


# TAKEN


@pytest_twisted.ensureDeferred
async def test_what_somebody_else_has(shared_daemon, join):
    first, second = await join(OwlMeans, token=FULL), await join(OwlMeans, token=FULL)
    first.emulator.perform("mine", lambda: 1)
    await first.ask("broker.register", "mine")
    assert await second.failure("broker.register", "mine") == "SocketErrorMessage|||socket:message:exists:mine|||"
    service = await join(MicroStream, "full", token=FULL)
    url = "/socket.io/?EIO=4&transport=websocket&serviceName=full&token=" + FULL
    other = MicroStream(await ws_connect(shared_daemon.ws(url)))
    await other.next("0")
    other.say("40")
    await service.next("2")  # a sign of life is asked for, and given
    refused = json.loads((await other.next("44"))[2:])
    assert refused["message"] == refused["data"]["code"] == "DUPLICATE_SERVICE_REGISTRATION"
    assert refused["data"]["errorData"] == {"serviceName": "full"}
    await other.socket.close()


# UNAUTHENTICATED


@pytest_twisted.ensureDeferred
async def test_owlmeans_clients_without_a_credential(shared_daemon, join):
    with pytest.raises(Refused) as refused:
        await join(OwlMeans, token="wrong")
    assert (refused.value.status, refused.value.body) == (
        401,
        b"AuthManagerErrorAuthenFailed|||auth:manager:authen:token|||",
    )
    owl = await join(OwlMeans)
    assert await owl.failure("any.method") == (
        "SocketErrorConnectionUnauthorized|||socket:connection:unauthorized:call|||"
    )


@pytest.mark.parametrize("token", [{}, {"token": "wrong"}], ids=["none", "wrong"])
@pytest_twisted.ensureDeferred
async def test_services_without_a_credential(shared_daemon, token):
    refused = await refused_service(shared_daemon, serviceName="full", **token)
    assert refused["code"] == "UNAUTHORIZED"


@pytest_twisted.ensureDeferred
async def test_ganomede_clients_without_a_credential(shared_daemon):
    for secret in ("wrong", ""):
        answer = await Ganomede(shared_daemon, secret).poll("any")
        assert (answer.status, answer.json()) == (401, {"code": "InvalidCredentialsError", "message": ""})


@pytest.mark.parametrize("query", [{"apiKey": "wrong"}, {"token": "wrong"}, {"nothing": "x"}])
@pytest_twisted.ensureDeferred
async def test_hpkv_clients_without_a_credential(shared_daemon, join, query):
    with pytest.raises(Refused) as refused:
        await join(Hpkv, **query)
    assert refused.value.status == 403
    answer = await post(shared_daemon.url + "/token/websocket", {}, headers={"x-api-key": "wrong"})
    assert answer.status == 401


@pytest.mark.parametrize("path", ["/thinws", "/thinws?token=wrong"])
@pytest_twisted.ensureDeferred
async def test_thinws_clients_without_a_credential(shared_daemon, path):
    thin = ThinWs(await ws_connect(shared_daemon.ws(path)))
    for kind in ("connect", "subscribe", "message", "disconnect"):
        reply = await thin.ask(type=kind, connectionID="1", roomID="r")
        assert (reply["type"], reply["message"]) == ("error", "Not authorized")
    await thin.socket.close()


# DENIED


@pytest_twisted.ensureDeferred
async def test_what_is_not_permitted(shared_daemon, join):
    forbidden = "ForbiddenAuthorizationError|||auth:authorization:forbidden:"
    owl = await join(OwlMeans, token=POOR)
    assert await owl.failure("any.method") == f"{forbidden}call:any.method|||"
    assert await owl.failure("broker.subscribe", "any") == f"{forbidden}subscribe:any|||"
    owl.notify("any", "1")
    assert json.loads(await owl.next("system"))["payload"]["error"] == f"{forbidden}publish:any|||"

    service = await join(MicroStream, "poor", token=POOR)
    error = await service.error("full", "any")
    assert (error["code"], error["message"]) == ("FORBIDDEN", "Not permitted")

    assert refusal(await Ganomede(shared_daemon, POOR).poll("any")) == (403, "Forbidden")

    hpkv = await join(Hpkv, apiKey=POOR)
    assert await hpkv.get("any") == {"code": 403, "error": "Access denied", "messageId": 1}
    answer = await post(shared_daemon.url + "/token/websocket", {}, headers={"x-api-key": POOR})
    assert answer.status == 403

    thin = await join(ThinWs, token=POOR)
    assert (await thin.ask(type="subscribe", roomID="any"))["message"] == "Not authorized"
    assert (await thin.ask(type="message", roomID="any", message=1))["message"] == "Not a member of this room"


@pytest_twisted.ensureDeferred
async def test_a_service_may_not_take_any_name(shared_daemon):
    assert (await refused_service(shared_daemon, serviceName="other", token=POOR))["code"] == "FORBIDDEN"


# INVALID


@pytest_twisted.ensureDeferred
async def test_what_is_malformed(shared_daemon, join):
    owl = await join(OwlMeans, token=FULL)
    owl.say('{"type":"call","id":"1","method":5,"payload":[]}')
    owl.emulator._calls["1"] = owl.emulator.call("unused")
    owl.emulator.outbox.clear()
    assert json.loads(await owl.next("answer"))["payload"] == (
        "SocketErrorMessageMalformed|||socket:message:malformed:method|||"
    )

    service = await join(MicroStream, "full", token=FULL)
    service.say('42["request",{"targetService":5,"payload":{"id":"r1","event":"e"}}]')
    assert json.loads(await service.response())["error"]["code"] == "INVALID_REQUEST"

    answer = await Ganomede(shared_daemon, FULL).post_raw(f'{{"secret":"{FULL}","clientId":7}}'.encode())
    assert (answer.status, answer.json()) == (400, {"code": "InvalidContent", "message": "Invalid Client ID"})

    hpkv = await join(Hpkv, apiKey=FULL)
    assert await hpkv.do(9, "k") == {"code": 400, "error": "Invalid operation", "messageId": 1}

    thin = await join(ThinWs, token=FULL)
    assert (await thin.ask(type="nosuch"))["message"] == "Unknown message type"


# TOO_LARGE


@pytest.mark.parametrize(
    ("kind", "query"),
    [
        (OwlMeans, {"token": FULL}),
        (ThinWs, {"token": FULL}),
        (Hpkv, {"apiKey": FULL}),
        (MicroStream, {"serviceName": "full", "token": FULL}),
    ],
)
@pytest_twisted.ensureDeferred
async def test_messages_that_are_too_large_end_the_connection(join, kind, query):
    client = await join(kind, **query)
    client.say(LARGE)
    assert (await client.socket.closed())[0] == 1009


@pytest_twisted.ensureDeferred
async def test_bodies_that_are_too_large_are_refused(shared_daemon, join):
    answer = await Ganomede(shared_daemon, FULL).post_raw(LARGE.encode())
    assert refusal(answer) == (413, "RequestEntityTooLarge")
    url = f"{shared_daemon.url}/socket.io/?EIO=4&transport=polling&serviceName=full&token={FULL}"
    sid = json.loads((await get(url)).body[1:])["sid"]
    assert (await request("POST", f"{url}&sid={sid}", body=LARGE.encode())).status == 413
    hpkv = await join(Hpkv, apiKey=FULL)
    assert (await hpkv.do(2, "k", "x" * ((1 << 20) - 100)))["code"] == 200
    answer = await hpkv.do(3, "k", "x" * 200)
    assert (answer["code"], answer["error"]) == (400, "Value too large")


# UNAVAILABLE: the store can not write


@pytest.mark.alone
@pytest_twisted.ensureDeferred
async def test_a_store_that_can_not_write_is_told_by_all(shared_daemon, join):
    shared_daemon.provoked.append("The store can not write")
    owl, thin = await join(OwlMeans, token=FULL), await join(ThinWs, token=FULL)
    hpkv, ganomede = await join(Hpkv, apiKey=FULL), Ganomede(shared_daemon, FULL)
    before = resource.prlimit(shared_daemon.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        assert await owl.failure("broker.set", "k", "v") == "SocketError|||socket:internal|||"
        answer = await hpkv.do(2, "k", "v")
        assert answer == {"code": 500, "error": "Internal server error", "messageId": 1}
        body = json.dumps({"clientId": "w", "secret": FULL, "channel": "c", "from": "f", "type": "T"})
        answer = await ganomede.post_raw(body.encode())
        assert refusal(answer) == (503, "ServiceUnavailable")
        assert answer.headers["retry-after"] == "1"
        assert (await thin.ask(type="subscribe", roomID="r"))["message"] == "Internal server error"
    finally:
        resource.prlimit(shared_daemon.pid, resource.RLIMIT_FSIZE, before)
    await hpkv.set("k", "v")
    await thin.enter("r")
    await owl.ask("broker.set", "k", "v")
    await ganomede.post("c", "[]")


# RATE_LIMITED


@pytest_twisted.ensureDeferred
async def test_who_is_too_fast_is_told_so(start_daemon):
    keys = {name: f"{name}-key-12345" for name in ("owl", "micro", "gano", "hpkv", "thin")}
    daemon: Daemon = await start_daemon(
        TXBROKER_API_KEYS=" ".join(f"{name}:{key}" for name, key in keys.items()),
        TXBROKER_RATE="0.01",
        TXBROKER_RATE_BURST="3",
        TXBROKER_ERROR_DELAY_SECONDS="0",
        TXBROKER_POLL_TIMEOUT_SECONDS="0.05",
    )
    owl = await OwlMeans.join(daemon, token=keys["owl"])
    failures = [await owl.failure("nosuch.x") for _ in range(5)]
    assert failures[0].startswith("SocketErrorConnectionUnsupported")
    assert failures[-1] == "SocketErrorMessage|||socket:message:limit:rate|||"

    service = await MicroStream.join(daemon, "micro", token=keys["micro"])
    codes = [(await service.error("nosuch", "x"))["code"] for _ in range(5)]
    assert (codes[0], codes[-1]) == ("TARGET_SERVICE_NOT_FOUND", "RATE_LIMITED")

    for _ in range(5):
        answer = await Ganomede(daemon, keys["gano"]).poll("c")
    assert refusal(answer) == (429, "TooManyRequests")
    assert int(answer.headers["retry-after"]) >= 1

    hpkv = await Hpkv.join(daemon, apiKey=keys["hpkv"])
    answers = [await hpkv.get("nosuch") for _ in range(5)]
    assert answers[0]["code"] == 404
    assert answers[-1] == {"code": 429, "error": "Rate limit exceeded", "messageId": 5}

    thin = await ThinWs.join(daemon, token=keys["thin"])
    replies = [await thin.ask(type="subscribe", roomID="r") for _ in range(5)]
    assert replies[0]["type"] == "ack"
    assert replies[-1]["message"] == "Rate limit exceeded"
    for client in (owl, service, hpkv, thin):
        await client.socket.close()


# What no client can provoke


def test_a_bug_is_told_as_such():
    asked = HttpRequest("GET", "/events/v1/events", "", {})
    response = failed(BrokerError(), asked)
    assert (response.status, json.loads(response.body)["code"]) == (500, "Internal")
    assert hpkv_error(BrokerError(), b"7") == b'{"code":500,"error":"Internal server error","messageId":7}'
