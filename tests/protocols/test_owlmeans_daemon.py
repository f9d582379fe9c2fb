"""The frames of the specification's transcript, against a daemon of its own process."""

from __future__ import annotations

import json

import jwt
import pytest
import pytest_twisted

from tests.conftest import StartDaemon
from tests.protocols.owlmeans_emulator import HOLD, Failed, Remote
from tests.support.daemon import Daemon
from tests.support.http_client import post
from tests.support.ws_client import Refused, ws_connect


def shows(frame: dict, **members) -> bool:
    """Whether *frame* has *members*."""
    return members.items() <= frame.items()


async def join(daemon: Daemon, query: str = "", path: str = "/") -> Remote:
    return await Remote.join(daemon.ws(f"{path}?{query}" if query else path))


@pytest_twisted.ensureDeferred
async def test_transcript_of_calls(shared_daemon: Daemon):
    alice, bob = await join(shared_daemon, "client=alice"), await join(shared_daemon, "client=bob")
    bob.client.perform("math.add", lambda a, b: a + b)
    bob.client.perform("math.fail", lambda: (_ for _ in ()).throw(Exception("User not found")))
    pending = bob.client.call("broker.register", ["math.add", "math.fail"], id="u2")
    await bob.settled(pending)
    assert shows(
        bob.client.frames[-1],
        type="result",
        id="u2",
        payload={"registered": ["math.add", "math.fail"]},
        sender="broker",
    )
    pending = alice.client.call("math.add", 2, 3, id="u3")
    alice.flush()
    call = await bob.step()
    assert shows(call, type="call", method="math.add", payload=[2, 3], timeout=60000, sender="alice", recipient="bob")
    assert call["id"] != "u3"
    assert await alice.settled(pending) == 5
    assert shows(alice.client.frames[-1], type="result", id="u3", payload=5, sender="bob")

    with pytest.raises(Failed):
        await alice.ask("nope.method", 1, id="u9")
    unsupported = "SocketErrorConnectionUnsupported|||socket:connection:unsupported:method:nope.method|||"
    assert shows(alice.client.frames[-1], type="error", id="u9", payload=unsupported)

    pending = alice.client.call("math.fail", id="u5")
    alice.flush()
    await bob.step()
    with pytest.raises(Failed, match="User not found"):
        await alice.settled(pending)
    assert shows(
        alice.client.frames[-1], type="error", id="u5", payload="ResilientError|||User not found|||", sender="bob"
    )

    await bob.offer("hang", lambda: HOLD)
    pending = alice.client.call("hang", id="u28")
    alice.flush()
    await bob.step()
    bob.socket.abort()
    with pytest.raises(Failed):
        await alice.settled(pending)
    lost = "SocketErrorConnection|||socket:connection:lost:hang|||"
    assert shows(alice.client.frames[-1], type="error", id="u28", payload=lost)
    await alice.socket.close()


@pytest_twisted.ensureDeferred
async def test_transcript_of_events(shared_daemon: Daemon):
    alice, bob = await join(shared_daemon), await join(shared_daemon, "client=bob")
    alice.client.observe("order.created", "order.*")
    await alice.ask("broker.subscribe", ["order.created", "order.*"])
    bob.client.raw('{"event":"order.created","payload":{"id":1},"type":"event"}')
    bob.flush()
    exact, pattern = await alice.step(), await alice.step()
    assert shows(exact, type="event", event="order.created", payload={"id": 1}, sender="bob")
    assert shows(pattern, type="event", event="order.*", topic="order.created", payload={"id": 1}, sender="bob")
    assert "topic" not in exact
    assert exact["id"] == pattern["id"]
    assert alice.client.heard == [("order.created", {"id": 1}), ("order.*", {"id": 1})]
    for member in (alice, bob):
        assert await member.socket.close() == (1000, "")


@pytest_twisted.ensureDeferred
async def test_transcript_of_a_request_and_of_a_message(shared_daemon: Daemon):
    alice, bob = await join(shared_daemon, "client=ann"), await join(shared_daemon, "client=ben")
    bob.client.acknowledge(lambda message: [bob.client.reply(message["id"], {"i": i}) for i in range(3)] != [])
    await bob.ask("broker.acknowledge", "stream")
    stream = alice.client.request({"action": "stream"})
    alice.flush()
    assert shows(await bob.step(), type="request", payload={"action": "stream"}, sender="ann")
    await alice.until(lambda: len(stream) == 3)
    assert stream == [{"i": 0}, {"i": 1}, {"i": 2}]
    assert {frame["sender"] for frame in alice.client.of("response")} == {"ben"}

    alice.client.enqueue({"job": 1}, "j1")
    await alice.sync()
    await bob.ask("broker.consume")
    await bob.until(lambda: bob.client.queue != [])
    assert shows(bob.client.queue[0], type="message", payload={"job": 1}, id="j1", sender="ann")
    assert bob.client.consume() == ({"job": 1}, "j1", 0)
    for member in (alice, bob):
        await member.socket.close()


@pytest_twisted.ensureDeferred
async def test_transcript_of_a_failed_authentication(start_daemon: StartDaemon):
    daemon = await start_daemon(TXBROKER_API_KEYS="bob:bobs-key", TXBROKER_AUTH_TRIES="2")
    carol = await join(daemon)
    pending = carol.client.auth("authenticate", {"token": "bad"})
    with pytest.raises(Failed, match="AuthManagerErrorAuthenFailed"):
        await carol.settled(pending)
    payload = "AuthManagerErrorAuthenFailed|||auth:manager:authen:token|||"
    assert carol.client.frames == [{"type": "auth", "stage": None, "payload": payload}]
    assert carol.client.stage == "authenticate"
    record = await carol.settled(carol.client.auth("authenticate", {"token": "bobs-key"}))
    assert record["userId"] == "bob"
    assert (await carol.ask("broker.whoami"))["id"] == "bob"
    with pytest.raises(Refused) as caught:
        await ws_connect(daemon.ws("/owlmeans?token=bad"))
    assert (caught.value.status, caught.value.body) == (401, payload.encode())
    dave = await join(daemon, "token=bobs-key", "/owlmeans")
    assert (await dave.ask("broker.whoami"))["id"] == "bob"
    erin = await join(daemon)
    for _ in range(2):
        with pytest.raises(Failed):
            await erin.settled(erin.client.auth("authenticate", {"token": "bad"}))
    assert await erin.socket.closed() == (1008, "AuthManagerErrorAuthenFailed|||auth:manager:authen:tries|||")


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("path", ["/", "/owlmeans", "/v1/ws"])
async def test_dialect_is_found_by_its_paths(shared_daemon: Daemon, path: str):
    member = await join(shared_daemon, path=path)
    await member.sync()
    await member.socket.close()


@pytest_twisted.ensureDeferred
async def test_dialect_is_found_by_its_subprotocol(shared_daemon: Daemon):
    socket = await ws_connect(shared_daemon.ws("/ganomede-or-whatever"), subprotocols=["owlmeans"])
    assert socket.subprotocol == "owlmeans"
    socket.send('{"type":"ping"}')
    assert await socket.receive() == '{"type":"pong"}'
    await socket.close()


MALFORMED = "SocketErrorMessageMalformed|||socket:message:malformed:{}|||"


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("number", ["1e309", "-1E+309", "9" * 309, "1" + "0" * 400])
async def test_numbers_that_are_infinite_in_javascript_are_refused(shared_daemon: Daemon, number: str):
    alice = await join(shared_daemon)
    alice.socket.send('{"type":"event","event":"n","payload":{"a":[%s]}}' % number)
    notice = await alice.step()
    assert notice["payload"]["error"] == MALFORMED.format("payload")
    alice.socket.send('{"type":"call","id":"1","method":"broker.increment","payload":["n",%s]}' % number)
    assert json.loads(await alice.socket.receive())["payload"] == MALFORMED.format("payload")
    await alice.ask("broker.set", f"n/{number[:9]}", number)
    with pytest.raises(Failed, match="malformed:number"):
        await alice.ask("broker.increment", f"n/{number[:9]}", 1)
    await alice.socket.close()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("number", ["1e308", "9" * 308, "1E-999", '"1e999"', '{"1e999":"%s"}' % ("9" * 400)])
async def test_numbers_that_a_double_can_hold_pass_as_they_are(shared_daemon: Daemon, number: str):
    alice, bob = await join(shared_daemon), await join(shared_daemon)
    await alice.ask("broker.subscribe", "large")
    bob.socket.send('{"type":"event","event":"large","payload":%s}' % number)
    assert f'"payload":{number},"sender"' in str(await alice.socket.receive())
    for member in (alice, bob):
        await member.socket.close()


@pytest_twisted.ensureDeferred
async def test_stored_events_of_one_pattern_are_told_apart(shared_daemon: Daemon):
    alice = await join(shared_daemon)
    await alice.ask("broker.subscribe", ["apart.*", "apart.a"])
    for channel in ("apart.a", "apart.b", "apart.a"):
        event = {"clientId": "w", "secret": "any", "from": "w", "type": "T", "channel": channel}
        assert (await post(shared_daemon.url + "/events/v1/events", event)).status == 200
    await alice.until(lambda: len(alice.client.of("event")) == 5)
    events = alice.client.of("event")
    assert len({event["eventId"] for event in events}) == 3
    assert {event["eventId"].partition(":")[2] for event in events} == {"apart.a:1", "apart.b:1", "apart.a:2"}
    await alice.socket.close()


@pytest_twisted.ensureDeferred
async def test_no_lifetime_makes_a_key_that_can_not_be_read(shared_daemon: Daemon):
    alice, bob = await join(shared_daemon), await join(shared_daemon)
    for seconds in (1e306, 10_000 * 365.25 * 86400):
        with pytest.raises(Failed, match="malformed:ttl"):
            await alice.ask("broker.set", "long/refused", "v", {"ttl": seconds})
    await alice.ask("broker.set", "long/longest", "v", {"ttl": 7900 * 365.25 * 86400})
    entries = (await bob.ask("broker.range", "long/", "long/~"))["entries"]
    assert [entry["key"] for entry in entries] == ["long/longest"]
    assert entries[0]["expires"] <= 253402300799000  # the last second of the year 9999


@pytest.mark.alone  # else the time is over before the other node is asked
@pytest_twisted.ensureDeferred
async def test_timeout_below_a_millisecond_is_one(shared_daemon: Daemon):
    alice, bob = await join(shared_daemon), await join(shared_daemon)
    await bob.offer("sleepy", lambda: HOLD)
    pending = alice.client.call("sleepy", timeout=0.4)
    alice.flush()
    assert (await bob.step())["timeout"] == 1
    with pytest.raises(Failed, match="SocketErrorTimeout"):
        await alice.settled(pending)
    for member in (alice, bob):
        await member.socket.close()


@pytest_twisted.ensureDeferred
async def test_frames_that_came_before_a_close_are_done(shared_daemon: Daemon):
    bob = await join(shared_daemon, "client=parting-bob")
    await bob.ask("broker.subscribe", "parting")
    await bob.ask("broker.consume", "parting")
    for number in range(10):
        alice = await join(shared_daemon)
        alice.client.call("broker.subscribe", "anything")
        alice.client.call("broker.set", f"parting/{number}", "done")
        alice.client.notify("parting", number)
        alice.client.enqueue(number, recipient="queue:parting")
        alice.client.enqueue(number + 10, recipient="parting-bob")
        alice.client.call("broker.increment", "parting")
        alice.flush()
        await alice.socket.close()
    await bob.until(lambda: (len(bob.client.of("event")), len(bob.client.queue)) == (10, 20))
    assert sorted(event["payload"] for event in bob.client.of("event")) == list(range(10))
    assert sorted(message["payload"] for message in bob.client.queue) == list(range(20))
    assert len((await bob.ask("broker.range", "parting/", "parting/~"))["entries"]) == 10
    assert (await bob.ask("broker.get", "parting"))["value"] == "10"
    await bob.socket.close()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("mode", ["optional", "required"])
async def test_name_of_the_url_waits_for_a_credential(start_daemon: StartDaemon, mode: str):
    daemon = await start_daemon(TXBROKER_API_SECRET="a-shared-secret", TXBROKER_AUTH=mode)
    alice = await join(daemon, "client=alice")
    record = await alice.settled(alice.client.auth("authenticate", {"token": "a-shared-secret"}))
    assert (record["profileId"], (await alice.ask("broker.whoami"))["id"]) == ("alice", "alice")
    await alice.socket.close()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("claims", [{"sub": "ann\ud800"}, {"sub": "ann", "role": "\udfff"}, {"sub": "ann\n"}])
async def test_a_token_that_can_not_be_told_is_refused(start_daemon: StartDaemon, claims: dict[str, str]):
    daemon = await start_daemon(TXBROKER_JWT_SECRET="a-secret-of-32-bytes-and-a-few-more")
    token = jwt.encode({"exp": 4e9, **claims}, "a-secret-of-32-bytes-and-a-few-more", "HS256")
    alice = await join(daemon)
    with pytest.raises(Failed, match="auth:manager:authen:token"):
        await alice.settled(alice.client.auth("authenticate", {"token": token}))
    with pytest.raises(Refused):
        await join(daemon, f"token={token}")
    await alice.socket.close()


@pytest_twisted.ensureDeferred
async def test_mail_survives_a_kill_of_the_daemon(daemon: Daemon):
    alice, bob = await join(daemon, "client=alice"), await join(daemon, "client=bob")
    await bob.sync()
    await bob.socket.close()
    for number in range(5):
        alice.client.enqueue(number, f"m{number}", recipient="bob")
    # The answer to a later write of the same session says that the messages are safe.
    await alice.ask("broker.set", "marker", "x")
    await daemon.kill()
    await daemon.restart()
    bob = await join(daemon, "client=bob")
    await bob.until(lambda: len(bob.client.queue) == 5)
    assert [message["payload"] for message in bob.client.queue] == [0, 1, 2, 3, 4]
    await bob.socket.close()


@pytest_twisted.ensureDeferred
async def test_too_long_a_frame_closes_its_own_connection_only(shared_daemon: Daemon):
    alice, bob = await join(shared_daemon), await join(shared_daemon)
    alice.socket.send('{"type":"event","event":"e","payload":"%s"}' % ("x" * (2 << 20)))
    assert (await alice.socket.closed())[0] == 1009
    await bob.sync()
    await bob.socket.close()


@pytest_twisted.ensureDeferred
async def test_stopping_daemon_closes_with_1001(daemon: Daemon):
    alice = await join(daemon)
    await alice.sync()
    assert await daemon.stop() == 0
    assert (await alice.socket.closed())[0] == 1001
