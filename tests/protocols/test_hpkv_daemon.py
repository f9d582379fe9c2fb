"""HPKV against a daemon in a process of its own: what the vendor's client does not show."""

from __future__ import annotations

import contextlib
import json

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults

from tests.protocols.hpkv_client import frame
from tests.support import http_client
from tests.support.eventually import pause
from tests.support.ws_client import Refused, ws_connect

KEY = {"x-api-key": "shop-key"}


@pytest.fixture(scope="module")
def daemon_environ():
    return {"TXBROKER_API_KEYS": "shop:shop-key,till:till-key", "TXBROKER_API_SECRET": "shared-secret"}


async def api(daemon, key="shop-key", path="/ws"):
    return await ws_connect(daemon.ws(f"{path}?apiKey={key}"))


async def token(daemon, **wanted):
    answer = await http_client.post(daemon.url + "/token/websocket", wanted, headers=KEY)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    return answer.json()["token"]


async def say(socket, text):
    socket.send(text)
    return await socket.receive_json()


@pytest.mark.parametrize("path", ["/ws", "/hpkv/ws", "//ws", "/hpkv//ws"])
@pytest_twisted.ensureDeferred
async def test_paths_of_the_websocket(shared_daemon, path):
    socket = await api(shared_daemon, path=path)
    assert (await say(socket, frame(1, "missing", messageId=1)))["code"] == 404
    await socket.close()


@pytest.mark.parametrize("path", ["/token/websocket", "//token/websocket", "/hpkv/token/websocket"])
@pytest_twisted.ensureDeferred
async def test_paths_of_the_token_endpoint(shared_daemon, path):
    node = shared_daemon.url  # of three, another each time
    answer = await http_client.post(node + path, {}, headers=KEY)
    assert answer.status == 200
    page = {"origin": node, "access-control-request-method": "POST"}
    preflight = await http_client.request("OPTIONS", node + path, headers=page)
    assert (preflight.status, preflight.headers["access-control-allow-origin"]) == (204, node)
    assert preflight.headers["access-control-allow-headers"] == "content-type, x-api-key"


@pytest.mark.parametrize("query", ["", "?apiKey=wrong", "?token=invalid-token", "?apiKey=wrong&token=x"])
@pytest_twisted.ensureDeferred
async def test_a_handshake_is_refused_with_403(shared_daemon, query):
    with pytest.raises(Refused) as caught:
        await ws_connect(shared_daemon.ws("/ws" + query))
    assert caught.value.status == 403


@pytest_twisted.ensureDeferred
async def test_statuses_of_the_token_endpoint(shared_daemon):
    url = shared_daemon.url + "/token/websocket"
    for status, asked in (
        (401, http_client.post(url, {})),
        (401, http_client.post(url, {}, headers={"x-api-key": "wrong"})),
        (400, http_client.request("POST", url, body=b"{", headers=KEY)),
        (400, http_client.post(url, {"accessPattern": "(a+)+"}, headers=KEY)),
        (413, http_client.request("POST", url, body=b"x" * (2 << 20), headers=KEY)),
        (405, http_client.get(url, headers=KEY)),
    ):
        answer = await asked
        assert (answer.status, list(answer.json())) == (status, ["error"])


@pytest_twisted.ensureDeferred
async def test_patterns_that_could_stop_the_daemon_are_refused(shared_daemon):
    url = shared_daemon.url + "/token/websocket"
    for pattern in (
        "((((){255}){255}){255}){255}",
        "((a{1,255}){1,255})",
        "(?:(?:a?){255}){255}",
        "(a+)+",
        "(?=a)",
        "(?<!a)",
        r"(a)\1",
        "a{1001}",
        "x" * 257,
    ):
        for wanted in ({"accessPattern": pattern}, {"subscribePatterns": ["a*", pattern + "$"]}):
            answer = await http_client.post(url, wanted, headers=KEY)
            assert (answer.status, list(answer.json())) == (400, ["error"]), pattern
    many = {"subscribePatterns": [f"^{number}" for number in range(100)]}
    assert (await http_client.post(url, many, headers=KEY)).status == 413


@pytest_twisted.ensureDeferred
async def test_a_pattern_is_searched_by_the_daemon(shared_daemon):
    text = await token(shared_daemon, accessPattern="^(searched|found):[0-9]+$", subscribePatterns=["searched:*"])
    socket = await ws_connect(shared_daemon.ws(f"/ws?token={text}"))
    assert (await say(socket, frame(2, "found:12", "v")))["code"] == 200
    assert (await say(socket, frame(2, "searched:x", "v")))["code"] == 403
    assert (await say(socket, frame(2, "searched:1", "v")))["code"] == 200
    assert (await socket.receive_json())["key"] == "searched:1"
    await socket.close()


@pytest_twisted.ensureDeferred
async def test_keys_and_tokens_are_never_logged(shared_daemon):
    text = await token(shared_daemon, accessPattern="never-logged")
    with pytest.raises(Refused):
        await ws_connect(shared_daemon.ws("/ws?apiKey=never-logged"))
    socket = await ws_connect(shared_daemon.ws(f"/ws?token={text}"))
    await socket.close()
    assert not any(secret in line for line in shared_daemon.output for secret in (text, "never-logged", "shop-key"))


@pytest_twisted.ensureDeferred
async def test_a_page_may_be_from_anywhere(shared_daemon):
    socket = await ws_connect(shared_daemon.ws("/ws?apiKey=shop-key"), headers={"origin": "http://localhost"})
    assert (await say(socket, frame(1, "missing")))["code"] == 404
    await socket.close()


@pytest_twisted.ensureDeferred
async def test_garbage_costs_nobody_anything(shared_daemon):
    bystander = await ws_connect(shared_daemon.ws("/ws?token=" + await token(shared_daemon, subscribeKeys=["calm"])))
    socket = await api(shared_daemon)
    invalid = {"code": 400, "error": "Invalid message"}
    for garbage in ("x", "[]", "null", "5", '{"op":1', '{"op":' + "[" * 50_000):
        assert await say(socket, garbage) == invalid
    assert await say(socket, '{"op":2,"key":"\\ud800","value":"x","messageId":4}') == {
        "code": 400,
        "error": "Key is required",
        "messageId": 4,
    }
    socket.send('"' + "x" * (2 << 20) + '"')
    assert (await socket.closed())[0] == 1009
    other = await api(shared_daemon)
    other.send(b'{"op":1}')
    assert (await other.closed())[0] == 1003
    assert (await say(await api(shared_daemon), frame(2, "calm", "v")))["code"] == 200
    assert (await bystander.receive_json())["key"] == "calm"
    await bystander.close()


@pytest_twisted.ensureDeferred
async def test_the_answer_comes_before_the_notification_and_each_once(shared_daemon):
    text = await token(shared_daemon, subscribePatterns=["mine:*", "^mine:", "mine:k"])
    writer, other = [await ws_connect(shared_daemon.ws(f"/ws?token={text}")) for _ in range(2)]
    for number in range(100):
        writer.send(frame(2, "mine:k", str(number), messageId=number))
    answered, heard = [], []
    for _ in range(200):
        message = await writer.receive_json()
        if "messageId" in message:
            answered.append(message["messageId"])
        else:
            heard.append(int(message["value"]))
            assert heard[-1] in answered
    assert answered == heard == list(range(100))
    assert [int((await other.receive_json())["value"]) for _ in range(100)] == heard
    assert (await say(other, frame(1, "mine:k", messageId=100)))["messageId"] == 100
    for socket in (writer, other):
        await socket.close()


@pytest_twisted.ensureDeferred
async def test_two_clients_increment_together(shared_daemon):
    sockets = [await api(shared_daemon, key) for key in ("shop-key", "till-key")]
    for number in range(100):
        for socket in sockets:
            socket.send(frame(6, "together", 1, messageId=number))
    sums = [(await socket.receive_json())["newValue"] for _ in range(100) for socket in sockets]
    assert sorted(sums) == list(range(1, 201))
    for socket in sockets:
        await socket.close()


@pytest.mark.parametrize(
    "char", ["x", "\x01", '"', "ä", "\U0001f600"], ids=["ascii", "control", "quote", "two", "four"]
)
@pytest_twisted.ensureDeferred
async def test_a_value_of_exactly_the_allowed_size_passes_and_a_larger_one_is_refused_alone(shared_daemon, char):
    largest = char * ((1 << 20) // len(char.encode()))
    socket = await api(shared_daemon)
    for number, value in enumerate((largest, largest + "x", "x" * (4 << 20), "after")):
        socket.send(json.dumps({"op": 2, "key": "largest", "value": value, "messageId": number}))
    answers = {answer["messageId"]: answer for answer in [await socket.receive_json() for _ in range(4)]}
    assert [answers[number]["code"] for number in range(4)] == [200, 400, 400, 200]
    assert answers[1] == {"code": 400, "error": "Value too large", "messageId": 1}
    assert (await say(socket, frame(2, "largest", largest)))["code"] == 200
    assert (await say(socket, frame(1, "largest")))["value"] == largest
    assert (await say(socket, frame(3, "largest", "x")))["error"] == "Value too large"
    await socket.close()


@pytest.mark.parametrize(("op", "key"), [(2, "k" * (2 << 20)), (1, "k" * (2 << 20)), (9, "k")])
@pytest_twisted.ensureDeferred
async def test_a_frame_that_is_long_but_not_by_its_value_is_closed_with_1009(shared_daemon, op, key):
    socket = await api(shared_daemon)
    socket.send(frame(op, key, other="x" * (2 << 20)))
    assert (await socket.closed())[0] == 1009


@pytest_twisted.ensureDeferred
async def test_no_number_becomes_infinite(shared_daemon):
    socket = await api(shared_daemon)
    for number in ("9" * 309, "-" + "9" * 400, "1e309", "9" * 5000):
        answer = await say(socket, '{"op":6,"key":"infinite","value":%s,"messageId":1}' % number)
        assert answer == {"code": 400, "error": "Value is not numeric", "messageId": 1}
        answer = await say(socket, '{"op":1,"key":"infinite","messageId":%s}' % number)
        assert answer == {"code": 400, "error": "Invalid message"}
    assert (await say(socket, frame(2, "infinite", "9" * 400)))["code"] == 200
    assert (await say(socket, frame(6, "infinite", 1)))["error"] == "Value is not numeric"
    assert (await say(socket, frame(2, "infinite", "17976931348623157" + "0" * 292)))["code"] == 200
    answer = await say(socket, '{"op":6,"key":"infinite","value":17976931348623157%s}' % ("0" * 292))
    assert answer["error"] == "Value is not numeric"
    await socket.close()


@pytest_twisted.ensureDeferred
async def test_500_sets_at_once(shared_daemon):
    sockets = [await api(shared_daemon) for _ in range(10)]
    for number in range(50):
        for index, socket in enumerate(sockets):
            socket.send(frame(2, f"many:{index}:{number:02}", f"value {number}", messageId=number))
    for socket in sockets:
        assert [(await socket.receive_json())["code"] for _ in range(50)] == [200] * 50
    answer = await say(sockets[0], frame(5, "many:", endKey="many:~", limit=1000))
    assert (answer["count"], answer["truncated"]) == (500, False)
    await gatherResults([socket.close() for socket in sockets])


@pytest_twisted.ensureDeferred
async def test_what_came_behind_a_range_before_the_end_is_done(shared_daemon):
    for number in range(3):
        socket = await api(shared_daemon)
        for step in range(50):
            socket.send(frame(5, "last:", endKey="last:~", limit=1000))
            socket.send(frame(2, f"last:{number}:{step}", "v" * 1000))
        socket.close()
    reader = await api(shared_daemon)
    for _ in range(200):
        answer = await say(reader, frame(5, "last:", endKey="last:~", limit=1000))
        if answer["count"] == 150:
            break
        await pause(0.05)
    assert answer["count"] == 150
    await reader.close()


# What needs a daemon of its own


@pytest_twisted.ensureDeferred
async def test_keys_and_tokens_survive_a_kill(start_daemon, daemon_environ):
    daemon = await start_daemon(**daemon_environ)
    text = await token(daemon, subscribeKeys=["k"], accessPattern="^k$")
    socket = await ws_connect(daemon.ws(f"/ws?token={text}"))
    assert (await say(socket, frame(2, "k", "kept", messageId=1)))["code"] == 200
    await daemon.kill()
    await daemon.restart()
    socket = await ws_connect(daemon.ws(f"/ws?token={text}"))
    assert (await say(socket, frame(1, "k")))["value"] == "kept"
    assert (await say(socket, frame(1, "other")))["code"] == 403
    writer = await api(daemon)
    writer.send(frame(2, "k", "new"))
    assert (await socket.receive_json())["value"] == "new"
    await daemon.restart(TXBROKER_API_KEYS="till:till-key")
    with pytest.raises(Refused):  # the key that made it was taken away
        await ws_connect(daemon.ws(f"/ws?token={text}"))


@pytest.mark.parametrize(("value_bytes", "message_bytes"), [(1000, 1 << 20), (200_000, 1000), (1000, 1000)])
@pytest_twisted.ensureDeferred
async def test_the_allowed_size_of_a_value_is_a_setting(start_daemon, daemon_environ, value_bytes, message_bytes):
    sizes = {"TXBROKER_MAX_VALUE_BYTES": str(value_bytes), "TXBROKER_MAX_MESSAGE_BYTES": str(message_bytes)}
    daemon = await start_daemon(**daemon_environ, **sizes)
    socket = await api(daemon)
    for char in ("x", "\x01"):
        assert (await say(socket, frame(2, "k", char * value_bytes)))["code"] == 200
        assert (await say(socket, frame(2, "k", char * (value_bytes + 1))))["error"] == "Value too large"
    socket.send("x" * (6 * value_bytes + message_bytes + 1))
    assert (await socket.closed())[0] == 1009


async def comes_with_token(daemon):
    """Return a token and a connection with it, though on a busy machine some may have ended before they are used."""
    while True:
        text = await token(daemon, subscribeKeys=["k"])
        with contextlib.suppress(Refused):
            return text, await ws_connect(daemon.ws(f"/ws?token={text}"))


@pytest_twisted.ensureDeferred
async def test_a_token_ends_and_with_it_the_connection(start_daemon, daemon_environ):
    daemon = await start_daemon(**daemon_environ, TXBROKER_TOKEN_SECONDS="2")
    text, socket = await comes_with_token(daemon)
    assert await socket.closed() == (4001, "token expired")
    with pytest.raises(Refused) as caught:
        await ws_connect(daemon.ws(f"/ws?token={text}"))
    assert caught.value.status == 403


@pytest_twisted.ensureDeferred
async def test_too_much_is_answered_with_429_and_the_id(start_daemon, daemon_environ):
    daemon = await start_daemon(**daemon_environ, TXBROKER_RATE="0.01", TXBROKER_RATE_BURST="3")
    socket, same = await api(daemon), await api(daemon)
    answers = [await say(one, frame(1, "k", messageId=7)) for one in (socket, same, socket, same, socket)]
    assert [answer["code"] for answer in answers] == [404, 404, 404, 429, 429]
    assert answers[-1] == {"code": 429, "error": "Rate limit exceeded", "messageId": 7}
    assert (await say(await api(daemon, "till-key"), frame(1, "k")))["code"] == 404


@pytest_twisted.ensureDeferred
async def test_without_a_credential_a_page_is_from_here(start_daemon):
    daemon = await start_daemon()
    socket = await ws_connect(daemon.ws("/ws?apiKey=any"), headers={"origin": "http://localhost"})
    assert (await say(socket, frame(1, "k")))["code"] == 404
    with pytest.raises(Refused) as caught:
        await ws_connect(daemon.ws("/ws?apiKey=any"), headers={"origin": "https://elsewhere.example"})
    assert (caught.value.status, json.loads(caught.value.body)) == (
        403,
        {"error": "Pages of this origin are not allowed: TXBROKER_ALLOWED_ORIGINS does not name it."},
    )


@pytest_twisted.ensureDeferred
async def test_large_values_behind_a_range_are_stored_and_not_refused(shared_daemon):
    socket = await api(shared_daemon)
    for number in range(200):
        socket.send(frame(2, f"in the way {number:03}", "v"))
    for _ in range(200):
        await socket.receive()
    said = [frame(5, "in the way", endKey="in the way z", limit=1000)]
    said += [frame(2, f"large {number}", "x" * 1_000_000) for number in range(8)]
    for round_ in range(3):
        for number, text in enumerate(said):
            socket.send(text[:-1] + f',"messageId":{10 * round_ + number}}}')
    answers = [await socket.receive_json() for _ in range(3 * len(said))]
    assert [answer["code"] for answer in answers] == [200] * len(answers)
    await socket.close()
