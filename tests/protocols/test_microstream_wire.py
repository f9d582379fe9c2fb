"""The cases of the two public protocol suites, through the public port, and what goes with them."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.web.client import ResponseNeverReceived

from protocols.microstream.engineio import Times
from tests.protocols.socketio_server import TIMES, SuiteServer
from tests.support.eventually import eventually
from tests.support.http_client import get, post, request
from tests.support.ws_client import Closed, Refused, ws_connect
from tests.web.test_port import Client


@pytest_twisted.async_yield_fixture
async def suite():
    server = await SuiteServer.start()
    yield server
    await server.stop()


@pytest_twisted.async_yield_fixture
async def calm():
    """The same without pings that come between."""
    server = await SuiteServer.start(Times(upgrade_timeout=0.2))
    yield server
    await server.stop()


def session_of(suite, url):
    """Return the session of *url*, or None when it has ended."""
    sid = url.rpartition("=")[2]
    return next((server.sessions[sid] for server in suite.servers if sid in server.sessions), None)


async def waits(suite, url):
    """Return when a GET of the session waits."""
    await eventually(lambda: session_of(suite, url)._waiting_get is not None)


async def gone(suite, url):
    """Return when the session has ended by itself."""
    await eventually(lambda: session_of(suite, url) is None)


async def polled(url, count):
    """Return the next *count* packets, in as many payloads as they come in."""
    packets = []
    while len(packets) < count:
        packets += (await get(url)).text.split("\x1e")
    return packets


def passes(suite, seconds):
    """Let *seconds*, and a moment for the timers, go by for the sessions."""
    suite.clock.advance(seconds + 0.01)


BOTH = pytest.mark.parametrize("path", ["/engine.io/", "/socket.io/"])


async def open_polling(suite, path="/engine.io/"):
    """Return the URL of a new polling session."""
    answer = await get(f"{suite.http}{path}?EIO=4&transport=polling")
    assert answer.status == 200
    sid = json.loads(answer.body[1:])["sid"]
    return f"{suite.http}{path}?EIO=4&transport=polling&sid={sid}"


async def open_websocket(suite, path="/engine.io/"):
    socket = await ws_connect(f"{suite.ws}{path}?EIO=4&transport=websocket")
    assert (await socket.receive()).startswith("0{")
    return socket


async def open_socketio(suite, connect="40", namespace=""):
    """Return a WebSocket that is connected, its two greetings read."""
    socket = await open_websocket(suite, "/socket.io/")
    socket.send(connect)
    assert (await socket.receive()).startswith("40" + namespace)
    assert (await socket.receive()).startswith("42" + namespace + '["auth",')
    return socket


def upgrade_url(suite, url, path="/engine.io/"):
    return f"{suite.ws}{path}?EIO=4&transport=websocket&sid={url.rpartition('=')[2]}"


async def upgraded(suite, path="/engine.io/"):
    url = await open_polling(suite, path)
    socket = await ws_connect(upgrade_url(suite, url, path))
    socket.send("2probe")
    assert await socket.receive() == "3probe"
    socket.send("5")
    return url, socket


async def status_of(url):
    return (await get(url)).status


# Handshake


@BOTH
@pytest_twisted.ensureDeferred
async def test_polling_opens_a_session(suite, path):
    answer = await get(f"{suite.http}{path}?EIO=4&transport=polling")
    assert answer.status == 200
    assert answer.text[0] == "0"
    value = json.loads(answer.text[1:])
    assert sorted(value) == ["maxPayload", "pingInterval", "pingTimeout", "sid", "upgrades"]
    assert len(value.pop("sid")) == 20
    assert value == {"upgrades": ["websocket"], "pingInterval": 300, "pingTimeout": 200, "maxPayload": 1000000}
    assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
    assert answer.headers["cache-control"] == "no-store"


@BOTH
@pytest.mark.parametrize(
    ("method", "query", "code", "message"),
    [
        ("GET", "transport=polling", 5, "Unsupported protocol version"),
        ("GET", "EIO=abc&transport=polling", 5, "Unsupported protocol version"),
        ("GET", "EIO=3&transport=polling", 5, "Unsupported protocol version"),
        ("GET", "EIO=4", 0, "Transport unknown"),
        ("GET", "EIO=4&transport=abc", 0, "Transport unknown"),
        ("POST", "EIO=4&transport=polling", 2, "Bad handshake method"),
        ("PUT", "EIO=4&transport=polling", 2, "Bad handshake method"),
        ("GET", "EIO=4&transport=websocket", 3, "Bad request"),
        ("GET", "EIO=4&transport=polling&sid=guess", 1, "Session ID unknown"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_bad_handshake_is_told_why(suite, path, method, query, code, message):
    answer = await request(method, f"{suite.http}{path}?{query}")
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"code": code, "message": message}


@BOTH
@pytest_twisted.ensureDeferred
async def test_websocket_opens_a_session(suite, path):
    socket = await ws_connect(f"{suite.ws}{path}?EIO=4&transport=websocket")
    value = json.loads((await socket.receive())[1:])
    assert len(value.pop("sid")) == 20
    assert value == {"upgrades": [], "pingInterval": 300, "pingTimeout": 200, "maxPayload": 1000000}
    await socket.close()


@BOTH
@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("EIO=abc&transport=websocket", "Unsupported protocol version"),
        ("transport=websocket", "Unsupported protocol version"),
        ("EIO=4", "Transport unknown"),
        ("EIO=4&transport=abc", "Transport unknown"),
        ("EIO=4&transport=websocket&sid=guess", "Session ID unknown"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_bad_websocket_handshake_is_refused(suite, path, query, message):
    with pytest.raises(Refused) as caught:
        await ws_connect(f"{suite.ws}{path}?{query}")
    assert (caught.value.status, caught.value.body) == (400, message.encode())
    assert caught.value.headers["Content-Type"] == "text/html"


# Messages by polling


@pytest_twisted.ensureDeferred
async def test_one_packet_by_polling(suite):
    url = await open_polling(suite)
    answer = await post(url, body=b"4hello")
    assert (answer.status, answer.text) == (200, "ok")
    answer = await get(url)
    assert (answer.status, answer.text) == (200, "4hello")


@pytest_twisted.ensureDeferred
async def test_three_packets_in_one_payload(suite):
    url = await open_polling(suite)
    assert (await post(url, body=b"4test1\x1e4test2\x1e4test3")).text == "ok"
    assert (await get(url)).text == "4test1\x1e4test2\x1e4test3"


@pytest_twisted.ensureDeferred
async def test_a_waiting_get_takes_all_that_one_post_brings_about(calm):
    url = await open_polling(calm)
    waiting = get(url)
    await post(url, body=b"\x1e".join(b"4%d" % number for number in range(50)))
    assert (await waiting).text == "\x1e".join(f"4{number}" for number in range(50))


@pytest_twisted.ensureDeferred
async def test_text_and_binary_by_polling(suite):
    url = await open_polling(suite)
    assert (await post(url, body=b"4hello\x1ebAQIDBA==")).text == "ok"
    assert (await get(url)).text == "4hello\x1ebAQIDBA=="


@BOTH
@pytest_twisted.ensureDeferred
async def test_an_invalid_packet_ends_a_polling_session(suite, path):
    url = await open_polling(suite, path)
    assert (await post(url, body=b"abc")).status == 400
    assert (await get(url)).json() == {"code": 1, "message": "Session ID unknown"}


@pytest_twisted.ensureDeferred
async def test_a_second_get_ends_the_session(suite):
    url = await open_polling(suite)
    first = get(url)
    await waits(suite, url)
    assert await status_of(url) == 400
    answer = await first
    assert (answer.status, answer.text) == (200, "1")
    assert await status_of(url) == 400


@pytest_twisted.ensureDeferred
async def test_binary_bodies_are_not_taken(suite):
    url = await open_polling(suite)
    answer = await post(url, body=b"4x", headers={"content-type": "application/octet-stream"})
    assert answer.status == 400
    assert await status_of(url) == 400


@pytest.mark.parametrize("size", [1_000_001, 1_100_000])
@pytest_twisted.ensureDeferred
async def test_a_body_over_the_limit_gets_413_and_ends_the_session(calm, size):
    url = await open_polling(calm)
    waiting = get(url)
    await waits(calm, url)
    assert (await post(url, body=b"4" + b"x" * (size - 1))).status == 413
    assert (await waiting).text == "1"
    assert await status_of(url) == 400


@pytest_twisted.ensureDeferred
async def test_a_body_at_the_limit_is_taken(calm):
    url = await open_polling(calm)
    assert (await post(url, body=b"4" + b"x" * 999_999)).text == "ok"
    assert len((await get(url)).body) == 1_000_000


@pytest_twisted.ensureDeferred
async def test_put_with_a_sid_is_refused_and_harms_nothing(suite):
    url = await open_polling(suite)
    assert (await request("PUT", url, body=b"4x")).json() == {"code": 3, "message": "Bad request"}
    await post(url, body=b"4x")
    assert (await get(url)).text == "4x"


@pytest_twisted.ensureDeferred
async def test_a_client_that_hangs_up_while_it_waits_has_gone(calm):
    url = await open_polling(calm)
    waiting = get(url)
    await waits(calm, url)
    waiting.cancel()
    with pytest.raises(ResponseNeverReceived):
        await waiting
    await gone(calm, url)
    assert await status_of(url) == 400


@pytest_twisted.ensureDeferred
async def test_a_client_that_shuts_down_its_side_while_it_waits_has_gone(calm):
    url = await open_polling(calm)
    client = await connectProtocol(clientFromString(reactor, f"tcp:127.0.0.1:{urlsplit(url).port}"), Client())
    split = urlsplit(url)
    client.transport.write(f"GET {split.path}?{split.query} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    await waits(calm, url)
    client.transport.loseWriteConnection()
    await client.until(lambda: client.lost)
    await gone(calm, url)
    assert client.data == b""


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_fetch_is_let_go():
    suite = await SuiteServer.start(Times(), queue_bytes=1000)
    url = await open_polling(suite)
    assert (await post(url, body=b"4" + b"x" * 900)).status == 200
    assert (await post(url, body=b"4" + b"x" * 900)).status == 200
    assert await status_of(url) == 400
    await suite.stop()


# Messages by WebSocket


@pytest_twisted.ensureDeferred
async def test_text_and_binary_by_websocket(suite):
    socket = await open_websocket(suite)
    socket.send("4hello")
    assert await socket.receive() == "4hello"
    socket.send(b"\x01\x02\x03\x04")
    assert await socket.receive() == b"\x01\x02\x03\x04"
    await socket.close()


@BOTH
@pytest.mark.parametrize("frame", ["abc", "", "2"])
@pytest_twisted.ensureDeferred
async def test_an_invalid_packet_closes_a_websocket(suite, path, frame):
    socket = await open_websocket(suite, path)
    socket.send(frame)
    assert (await socket.closed())[0] == 1002


@pytest_twisted.ensureDeferred
async def test_a_frame_over_the_limit_closes_with_1009(calm):
    socket = await open_websocket(calm)
    socket.send("4" + "x" * 1_000_000)
    assert (await socket.closed())[0] == 1009


# Heartbeat


@BOTH
@pytest_twisted.ensureDeferred
async def test_three_rounds_of_heartbeat_by_polling(suite, path):
    url = await open_polling(suite, path)
    for _ in range(3):
        waiting = get(url)
        await waits(suite, url)
        passes(suite, TIMES.ping_interval)
        assert (await waiting).text == "2"
        assert (await post(url, body=b"3")).text == "ok"


@BOTH
@pytest_twisted.ensureDeferred
async def test_without_a_pong_a_polling_session_ends(suite, path):
    url = await open_polling(suite, path)
    passes(suite, TIMES.ping_interval)
    assert session_of(suite, url)
    passes(suite, TIMES.ping_timeout)
    assert session_of(suite, url) is None
    assert await status_of(url) == 400


@BOTH
@pytest_twisted.ensureDeferred
async def test_three_rounds_of_heartbeat_by_websocket(suite, path):
    socket = await open_websocket(suite, path)
    [session] = [session for server in suite.servers for session in server.sessions.values()]
    for _ in range(3):
        passes(suite, TIMES.ping_interval)
        assert await socket.receive() == "2"
        socket.send("3")
        await eventually(lambda: not session.engine.ping_unanswered)
    await socket.close()


@BOTH
@pytest_twisted.ensureDeferred
async def test_without_a_pong_a_websocket_is_closed(suite, path):
    socket = await open_websocket(suite, path)
    passes(suite, TIMES.ping_interval)
    assert await socket.receive() == "2"
    passes(suite, TIMES.ping_timeout)
    assert await socket.closed() == (1001, "ping timeout")


# Close


@BOTH
@pytest_twisted.ensureDeferred
async def test_close_by_polling(suite, path):
    url = await open_polling(suite, path)
    waiting = get(url)
    await waits(suite, url)
    assert (await post(url, body=b"1")).text == "ok"
    answer = await waiting
    assert (answer.status, answer.text) == (200, "6")
    assert await status_of(url) == 400


@BOTH
@pytest_twisted.ensureDeferred
async def test_close_by_websocket(suite, path):
    socket = await open_websocket(suite, path)
    socket.send("1")
    assert (await socket.closed())[0] == 1000


# Upgrade


@BOTH
@pytest_twisted.ensureDeferred
async def test_upgrade_without_waiting_for_anything(suite, path):
    url = await open_polling(suite, path)
    socket = await ws_connect(upgrade_url(suite, url, path))
    socket.send("2probe")
    socket.send("5")
    assert await socket.receive() == "3probe"
    assert (await get(url)).json() == {"code": 3, "message": "Bad request"}
    assert (await post(url, body=b"4x")).json() == {"code": 3, "message": "Bad request"}
    await socket.close()


@pytest_twisted.ensureDeferred
async def test_upgrade_ends_every_get_and_then_echoes(suite):
    url = await open_polling(suite)
    waiting = get(url)
    socket = await ws_connect(upgrade_url(suite, url))
    socket.send("2probe")
    assert await socket.receive() == "3probe"
    assert (await waiting).text == "6"
    assert (await get(url)).text == "6"
    socket.send("5")
    socket.send("4hello")
    assert await socket.receive() == "4hello"
    await socket.close()


@BOTH
@pytest_twisted.ensureDeferred
async def test_a_second_websocket_is_closed_and_the_first_works_on(suite, path):
    url, socket = await upgraded(suite, path)
    second = await ws_connect(upgrade_url(suite, url, path))
    await second.closed()
    if path == "/engine.io/":
        socket.send("4hello")
        assert await socket.receive() == "4hello"
    else:
        socket.send("40")
        assert (await socket.receive()).startswith("40")
    await socket.close()


@pytest_twisted.ensureDeferred
async def test_messages_during_the_upgrade_arrive_once_and_in_order(calm):
    url = await open_polling(calm)
    await post(url, body=b"4a")
    socket = await ws_connect(upgrade_url(calm, url))
    await post(url, body=b"4b")
    socket.send("2probe")
    assert await socket.receive() == "3probe"
    await post(url, body=b"4c")
    first = await get(url)
    await post(url, body=b"4d")
    socket.send("5")
    socket.send("4e")
    assert first.text == "4a\x1e4b\x1e4c"
    assert [await socket.receive(), await socket.receive()] == ["4d", "4e"]
    await socket.close()


@pytest.mark.parametrize("word", ["", "2", "4x", "5"])
@pytest_twisted.ensureDeferred
async def test_polling_goes_on_when_the_probe_is_wrong(calm, word):
    url = await open_polling(calm)
    socket = await ws_connect(upgrade_url(calm, url))
    socket.send(word)
    await socket.closed()
    await post(url, body=b"4x")
    assert (await get(url)).text == "4x"


@pytest_twisted.ensureDeferred
async def test_polling_goes_on_when_the_upgrade_takes_too_long(calm):
    url = await open_polling(calm)
    socket = await ws_connect(upgrade_url(calm, url))
    socket.send("2probe")
    assert await socket.receive() == "3probe"
    passes(calm, 0.2)
    await socket.closed()
    waiting = get(url)
    await post(url, body=b"4x")
    assert (await waiting).text == "4x"


@pytest_twisted.ensureDeferred
async def test_polling_goes_on_when_the_probing_websocket_dies_and_another_may_come(calm):
    url = await open_polling(calm)
    first = await ws_connect(upgrade_url(calm, url))
    first.send("2probe")
    await first.receive()
    second = await ws_connect(upgrade_url(calm, url))
    await second.closed()
    first.abort()
    await eventually(lambda: session_of(calm, url).upgrade is None)
    await post(url, body=b"4x")
    assert (await get(url)).text == "4x"
    third = await ws_connect(upgrade_url(calm, url))
    third.send("2probe")
    assert await third.receive() == "3probe"
    third.send("5")
    third.send("4y")
    assert await third.receive() == "4y"
    await third.close()


@pytest_twisted.ensureDeferred
async def test_a_session_that_ends_while_it_moves_takes_its_websocket_along(calm):
    url = await open_polling(calm)
    socket = await ws_connect(upgrade_url(calm, url))
    socket.send("2probe")
    await socket.receive()
    await post(url, body=b"1")
    await socket.closed()
    assert await status_of(url) == 400


@pytest_twisted.ensureDeferred
async def test_a_moved_session_ends_with_its_websocket(calm):
    url, socket = await upgraded(calm)
    socket.send("4hello")
    assert await socket.receive() == "4hello"
    socket.abort()
    await gone(calm, url)
    assert (await get(url)).json() == {"code": 1, "message": "Session ID unknown"}


# Web pages


@pytest_twisted.ensureDeferred
async def test_preflight(suite):
    url = f"{suite.http}/socket.io/?EIO=4&transport=polling"
    answer = await request("OPTIONS", url, headers={"origin": suite.http, "access-control-request-headers": "x-custom"})
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == suite.http
    assert answer.headers["access-control-allow-methods"] == "GET, POST, OPTIONS"
    assert answer.headers["access-control-allow-headers"] == "x-custom"


@pytest.mark.parametrize(
    ("allowed", "origin", "status"),
    [
        ((), "https://evil.example", 403),
        ((), "null", 403),
        (("*",), "https://evil.example", 200),
        (("https://app.example",), "https://app.example", 200),
        (("https://app.example",), "https://evil.example", 403),
    ],
)
@pytest_twisted.ensureDeferred
async def test_pages_of_other_hosts_need_to_be_allowed(allowed, origin, status):
    suite = await SuiteServer.start(origins=allowed)
    answer = await get(f"{suite.http}/socket.io/?EIO=4&transport=polling", headers={"origin": origin})
    assert answer.status == status
    if status == 403:
        assert answer.json()["code"] == 4
        assert "TXBROKER_ALLOWED_ORIGINS" in answer.json()["message"]
        assert "access-control-allow-origin" not in answer.headers
    await suite.stop()


# The table of sessions


@pytest.mark.parametrize("bounds", [{"sessions": 2}, {"per_address": 2}])
@pytest_twisted.ensureDeferred
async def test_no_more_sessions_than_allowed(bounds):
    suite = await SuiteServer.start(Times(), **bounds)
    url = await open_polling(suite)
    await open_polling(suite)
    answer = await get(f"{suite.http}/engine.io/?EIO=4&transport=polling")
    assert (answer.status, "retry-after" in answer.headers) == (503, True)
    with pytest.raises(Refused) as caught:
        await ws_connect(f"{suite.ws}/engine.io/?EIO=4&transport=websocket")
    assert caught.value.status == 503
    await post(url, body=b"1")
    await open_polling(suite)
    await suite.stop()


@pytest_twisted.ensureDeferred
async def test_a_stop_does_not_wait_for_those_who_poll(calm):
    url = await open_polling(calm)
    waiting = get(url)
    await waits(calm, url)
    await calm.site.drain(30.0)
    assert (await waiting).text == "1"


@pytest_twisted.ensureDeferred
async def test_a_slash_is_needed_behind_the_path(suite):
    assert (await get(f"{suite.http}/socket.io?EIO=4&transport=polling")).status == 404


# Socket.IO: connect


@pytest.mark.parametrize(
    ("connect", "prefix", "auth"),
    [
        ("40", "", "{}"),
        ('40{"token":"123"}', "", '{"token":"123"}'),
        ("40/custom,", "/custom,", "{}"),
        ("40/custom", "/custom,", "{}"),
        ('40/custom,{"token":"abc"}', "/custom,", '{"token":"abc"}'),
    ],
)
@pytest_twisted.ensureDeferred
async def test_connect_to_a_namespace(suite, connect, prefix, auth):
    socket = await ws_connect(f"{suite.ws}/socket.io/?EIO=4&transport=websocket")
    opened = json.loads((await socket.receive())[1:])
    socket.send(connect)
    answer = await socket.receive()
    assert answer.startswith("40" + prefix)
    value = json.loads(answer.removeprefix("40" + prefix))
    assert list(value) == ["sid"]
    assert value["sid"] != opened["sid"]
    assert await socket.receive() == f'42{prefix}["auth",{auth}]'
    await socket.close()


@pytest_twisted.ensureDeferred
async def test_an_unknown_namespace_is_refused_and_the_connection_stays(suite):
    socket = await open_websocket(suite, "/socket.io/")
    socket.send("40/random")
    assert await socket.receive() == '44/random,{"message":"Invalid namespace"}'
    socket.send("40")
    assert (await socket.receive()).startswith("40{")
    await socket.close()


@pytest_twisted.ensureDeferred
async def test_an_invalid_first_packet_closes(suite):
    socket = await open_websocket(suite, "/socket.io/")
    socket.send("4abc")
    await socket.closed()


@pytest_twisted.ensureDeferred
async def test_no_connect_in_time_closes(calm):
    socket = await open_websocket(calm, "/socket.io/")
    passes(calm, 1.0)
    assert (await socket.closed())[0] == 1008


# Socket.IO: disconnect


@pytest_twisted.ensureDeferred
async def test_disconnect_keeps_the_connection(suite):
    socket = await open_socketio(suite)
    socket.send("41")
    socket.send("40/custom")
    assert (await socket.receive()).startswith("40/custom,")
    await socket.close()


@pytest_twisted.ensureDeferred
async def test_leaving_one_namespace_keeps_the_other(suite):
    socket = await open_socketio(suite)
    socket.send("40/custom")
    assert (await socket.receive()).startswith("40/custom,")
    assert await socket.receive() == '42/custom,["auth",{}]'
    socket.send("41/custom")
    socket.send('42["message","x"]')
    assert await socket.receive() == '42["message-back","x"]'
    await socket.close()


# Socket.IO: messages


@pytest_twisted.ensureDeferred
async def test_a_plain_event(suite):
    socket = await open_socketio(suite)
    socket.send('42["message",1,"2",{"3":[true]}]')
    assert await socket.receive() == '42["message-back",1,"2",{"3":[true]}]'
    await socket.close()


@pytest_twisted.ensureDeferred
async def test_an_event_with_two_attachments(suite):
    socket = await open_socketio(suite)
    parts = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}'
    socket.send(f'452-["message",{parts}]')
    socket.send(b"\x01\x02\x03")
    socket.send(b"\x04\x05\x06")
    assert await socket.receive() == f'452-["message-back",{parts}]'
    assert [await socket.receive(), await socket.receive()] == [b"\x01\x02\x03", b"\x04\x05\x06"]
    await socket.close()


@pytest_twisted.ensureDeferred
async def test_an_event_with_acknowledgement(suite):
    socket = await open_socketio(suite)
    socket.send('42456["message-with-ack",1,"2",{"3":[false]}]')
    assert await socket.receive() == '43456[1,"2",{"3":[false]}]'
    await socket.close()


@pytest_twisted.ensureDeferred
async def test_an_event_with_attachments_and_acknowledgement(suite):
    socket = await open_socketio(suite)
    parts = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}'
    socket.send(f'452-789["message-with-ack",{parts}]')
    socket.send(b"\x01")
    socket.send(b"\x02")
    assert await socket.receive() == f"462-789[{parts}]"
    assert [await socket.receive(), await socket.receive()] == [b"\x01", b"\x02"]
    await socket.close()


@pytest_twisted.ensureDeferred
async def test_attachments_by_polling_travel_in_one_payload(calm):
    url = await open_polling(calm, "/socket.io/")
    await post(url, body=b"40")
    packets = await polled(url, 2)
    assert (packets[0][:3], packets[1]) == ("40{", '42["auth",{}]')
    await post(url, body=b'451-["message",{"_placeholder":true,"num":0}]\x1ebAQID')
    assert (await get(url)).text == '451-["message-back",{"_placeholder":true,"num":0}]\x1ebAQID'


@pytest_twisted.ensureDeferred
async def test_an_acknowledgement_nobody_asked_for_is_passed_over(suite):
    socket = await open_socketio(suite)
    socket.send("431[1]")
    socket.send('42["message"]')
    assert await socket.receive() == '42["message-back"]'
    await socket.close()


@pytest.mark.parametrize("frame", ["4abc", "42{}", '42abc["message-with-ack",1]', "42[]", '42["connect"]', "40"])
@pytest_twisted.ensureDeferred
async def test_a_malformed_packet_closes(suite, frame):
    socket = await open_socketio(suite)
    socket.send(frame)
    await socket.closed()
    with pytest.raises(Closed):
        await socket.receive()
