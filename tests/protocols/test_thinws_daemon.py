"""The twelve groups of behaviour of ThinWS against a daemon in a process of its own."""

from __future__ import annotations

import json

import pytest
import pytest_twisted

from tests.protocols.thinws_emulator import NetClient, compact
from tests.support.eventually import pause
from tests.support.ws_client import Refused, ws_connect


@pytest.fixture
def client(daemon_of):
    """Make clients that are gone after the test: ``client("alice")``."""
    clients: list[NetClient] = []

    def make(name, path="/thinws", **options):
        clients.append(NetClient(daemon_of().ws(path), name, **options))
        return clients[-1]

    yield make
    for made in clients:
        made.end()


@pytest.fixture
def daemon_of(shared_daemon):
    return lambda: shared_daemon


async def connected(client):
    """Wait for the ack of the ``connect`` that the client sends by itself."""
    text = await client.message()
    assert json.loads(text)["type"] == "ack"
    return client


async def member(client, room):
    await connected(client)
    await client.ack(client.subscribe(room))
    return client


async def talk(sender, value, room, *receivers):
    """Let *sender*, a member too, say *value*; it and the receivers hear it, ack first."""
    id = sender.send(value, room)
    said = compact({"type": "message", "message": value, "roomID": room})
    await sender.expect('{"type":"ack","messageID":%d}' % id, said)
    for receiver in receivers:
        await receiver.expect(said)


@pytest.mark.parametrize("id", [0, 2**53 - 1])
@pytest_twisted.ensureDeferred
async def test_1_connect_is_acked_with_its_number(client, id):
    await client("alice", message_id=id).expect('{"type":"ack","messageID":%d}' % id)


@pytest.mark.parametrize("value", ["text", {"x": 1, "y": [2]}, [], None, 1.5, 2**53, "žluťoučký 😀"])
@pytest_twisted.ensureDeferred
async def test_2_two_clients_talk(client, value):
    alice, bob = await member(client("alice"), "talk"), await member(client("bob"), "talk")
    await talk(alice, value, "talk", bob)
    await talk(bob, value, "talk", alice)


@pytest_twisted.ensureDeferred
async def test_2_acks_come_before_echoes_in_a_long_row(client):
    alice, bob = await member(client("alice"), "row"), await member(client("bob"), "row")
    ids = [alice.send(number, "row") for number in range(300)]
    acks = ['{"type":"ack","messageID":%d}' % id for id in ids]
    said = ['{"type":"message","message":%d,"roomID":"row"}' % number for number in range(300)]
    heard = [await alice.message() for _ in range(600)]
    assert [text for text in heard if text in acks] == acks
    assert [text for text in heard if text in said] == said
    assert all(heard.index(ack) < heard.index(echo) for ack, echo in zip(acks, said, strict=True))
    await bob.expect(*said)


@pytest_twisted.ensureDeferred
async def test_3_once_each_to_every_socket(client):
    one, two = await member(client("same id"), "once"), await connected(client("same id"))
    await one.ack(one.subscribe("once"))
    await talk(one, "x", "once", two)
    await talk(one, "y", "once", two)


@pytest_twisted.ensureDeferred
async def test_4_rooms_come_back_after_a_cut(client):
    alice, bob = await member(client("cut"), "r1"), await member(client("other"), "r1")
    await alice.ack(alice.subscribe("r2"))
    await bob.ack(bob.subscribe("r2"))
    alice.drop()
    await connected(alice)
    await talk(bob, 1, "r1", alice)
    await talk(bob, 2, "r2", alice)
    assert alice.opens == 2


@pytest_twisted.ensureDeferred
async def test_5_unsubscribed_is_for_good(client):
    alice, bob = await member(client("leaver"), "left"), await member(client("stayer"), "left")
    await alice.ack(alice.unsubscribe("left"))
    alice.drop()
    await connected(alice)
    id = alice.send("x", "left")
    await alice.expect('{"type":"error","message":"Not a member of this room","messageID":%d}' % id)
    await talk(bob, "y", "left")
    await alice.ack(alice.unsubscribe("never seen"))
    assert alice.waiting == []


@pytest_twisted.ensureDeferred
async def test_6_disconnect_keeps_socket_and_stored_rooms(client):
    alice, bob = await member(client("pauser"), "paused"), await member(client("keeper"), "paused")
    await alice.ack(alice.disconnect())
    await talk(bob, "unheard", "paused")
    await alice.ack(alice.connect())
    await talk(bob, "heard", "paused", alice)
    assert alice.opens == 1


@pytest_twisted.ensureDeferred
async def test_7_a_client_after_the_readme(shared_daemon):
    socket = await ws_connect(shared_daemon.ws("/thinws?x=1"))
    socket.send('{"messageID":"s","type":"subscribe","connectionID":"my id","roomID":"readme"}')
    socket.send('{"messageID":"m","type":"message","connectionID":"my id","roomID":"readme","payload":{"a":1}}')
    assert await socket.receive() == '{"type":"ack","messageID":"s"}'
    assert await socket.receive() == '{"type":"ack","messageID":"m"}'
    assert await socket.receive() == '{"type":"message","roomID":"readme","payload":{"a":1}}'
    await socket.close()


@pytest_twisted.ensureDeferred
async def test_7_by_its_subprotocol_any_path_will_do(shared_daemon):
    socket = await ws_connect(shared_daemon.ws("/any/path?x=1"), subprotocols=["thinws"])
    socket.send('{"type":"connect","connectionID":"1"}')
    assert (await socket.receive(), socket.subprotocol) == ('{"type":"ack"}', "thinws")
    await socket.close()


@pytest.mark.parametrize("room", ["constructor", "__proto__", "*", "two words", "žluťoučký"])
@pytest_twisted.ensureDeferred
async def test_8_any_room_name(client, room):
    alice = await member(client("namer"), room)
    alice.drop()
    await connected(alice)
    await talk(alice, "x", room)


@pytest_twisted.ensureDeferred
async def test_10_garbage_costs_nobody_anything(shared_daemon, client):
    bob = await member(client("bystander"), "calm")
    socket = await ws_connect(shared_daemon.ws("/thinws"))
    invalid = '{"type":"error","message":"Invalid message"}'
    for garbage in (
        "{",
        "[]",
        "null",
        "5",
        b"\x00\xff",
        '{"type":' + "[" * 50_000,
        '{"type":"connect","connectionID":1e999}',
        '{"type":"connect","connectionID":%s}' % ("9" * 400),
        '{"type":"message","roomID":"calm","message":{"a":[%s]}}' % ("9" * 309),
        '{"type":"message","roomID":"calm","messageID":%s}' % ("9" * 5000),
    ):
        socket.send(garbage)
        assert await socket.receive() == invalid
    socket.send('{"type":"connect","connectionID":"1","x":"\\ud800"}')
    assert await socket.receive() == '{"type":"ack"}'
    socket.send('"' + "x" * (2 << 20) + '"')
    assert (await socket.closed())[0] == 1009
    await talk(bob, "still calm", "calm")


@pytest_twisted.ensureDeferred
async def test_10_what_is_wrong_with_a_room_is_told(shared_daemon):
    socket = await ws_connect(shared_daemon.ws("/thinws"))
    for room, text in (
        ("", "roomID is required"),
        ("x" * 256, "roomID is longer than 255 characters"),
        ("a\nb", "roomID has a control character"),
        ("\0", "roomID has a control character"),
    ):
        for kind in ("subscribe", "unsubscribe", "message"):
            socket.send(compact({"type": kind, "roomID": room}))
            assert json.loads(await socket.receive()) == {"type": "error", "message": text}
    await socket.close()


@pytest_twisted.ensureDeferred
async def test_12_a_connection_id_reaches_nobody(shared_daemon, client):
    bob = await member(client("listener"), "private")
    socket = await ws_connect(shared_daemon.ws("/thinws"))
    socket.send('{"type":"subscribe","connectionID":"471100815","roomID":"private"}')
    socket.send('{"type":"message","connectionID":"471100815","roomID":"private","connectionid":1}')
    await bob.expect('{"type":"message","roomID":"private","connectionid":1}')
    await socket.close()
    assert not any("471100815" in line for line in shared_daemon.output)


@pytest.mark.parametrize("leave", ["unsubscribe", "connect"])
@pytest_twisted.ensureDeferred
async def test_of_a_room_that_was_left_nothing_comes_after_the_ack(shared_daemon, leave):
    room = f"chatter {leave}"
    for trial in range(8):
        speaker = await raw_member(shared_daemon, f"speaker {leave}", room)
        socket = await raw_member(shared_daemon, f"{leave} {trial}", room)
        for number in range(300):
            speaker.send(compact({"type": "message", "roomID": room, "message": number}))
        await socket.receive()
        said = {"connectionID": f"other {trial}"} if leave == "connect" else {"roomID": room}
        socket.send(compact({"type": leave, **said}))
        while await socket.receive() != '{"type":"ack"}':
            pass
        while json.loads(await speaker.receive()).get("message") != 299:  # it hears them all
            pass
        socket.send("what is answered last")
        assert json.loads(await socket.receive())["message"] == "Invalid message"
        await socket.close()
        await speaker.close()


@pytest_twisted.ensureDeferred
async def test_a_room_that_is_joined_again_at_once_is_joined(shared_daemon):
    socket = await raw_member(shared_daemon, "back at once", "back at once")
    for number in range(30):
        for kind in ("unsubscribe", "subscribe"):
            socket.send(compact({"type": kind, "roomID": "back at once"}))
            assert await socket.receive() == '{"type":"ack"}'
        socket.send(compact({"type": "message", "roomID": "back at once", "message": number}))
        assert await socket.receive() == '{"type":"ack"}'
        assert json.loads(await socket.receive())["message"] == number
    await socket.close()
    socket = await raw_member(shared_daemon, "back at once")
    socket.send(compact({"type": "message", "roomID": "back at once", "message": "still"}))
    assert await socket.receive() == '{"type":"ack"}'
    await socket.close()


@pytest_twisted.ensureDeferred
async def test_a_room_is_joined_again_at_once_by_another_socket(shared_daemon):
    for number in range(10):
        leaver, joiner = [await raw_member(shared_daemon, f"two sockets {number}") for _ in range(2)]
        for kind, socket in (("subscribe", leaver), ("unsubscribe", leaver), ("subscribe", joiner)):
            socket.send(compact({"type": kind, "roomID": "two sockets"}))
            assert await socket.receive() == '{"type":"ack"}'
        await pause(0.1)  # in which the other node hears that the room was left
        joiner.send(compact({"type": "message", "roomID": "two sockets", "message": number}))
        assert await joiner.receive() == '{"type":"ack"}'
        assert json.loads(await joiner.receive())["message"] == number
        for socket in (leaver, joiner):
            await socket.close()


@pytest.mark.parametrize(("count", "size"), [(3000, 1), (8, 1_000_000)])
@pytest_twisted.ensureDeferred
async def test_messages_that_come_faster_than_they_are_done_are_all_done_in_order(shared_daemon, count, size):
    room = f"fast {size}"
    socket = await raw_member(shared_daemon, room, room)
    for number in range(count):
        socket.send(compact({"type": "message", "messageID": number, "roomID": room, "message": "x" * size}))
    ids = []
    while len(ids) < count:
        reply = json.loads(await socket.receive())
        if reply["type"] != "message":
            ids.append((reply["type"], reply["messageID"]))
    assert ids == [("ack", number) for number in range(count)]
    await socket.close()


# What came before the end


async def raw_member(daemon, name, *rooms):
    """Return a socket that sends what a test says, connected as *name* and a member of *rooms*."""
    socket = await ws_connect(daemon.ws("/thinws"))
    said = [{"type": "connect", "connectionID": name}, *({"type": "subscribe", "roomID": room} for room in rooms)]
    for one in said:
        socket.send(compact(one))
    for _ in said:
        assert await socket.receive() == '{"type":"ack"}'
    return socket


@pytest.mark.parametrize("ending", ["close", "abort"])
@pytest_twisted.ensureDeferred
async def test_what_came_before_the_end_is_done(shared_daemon, ending):
    room = f"last words {ending}"
    listener = await raw_member(shared_daemon, f"listener of {ending}", room)
    for number in range(10):
        socket = await ws_connect(shared_daemon.ws("/thinws"))
        socket.send(compact({"type": "subscribe", "connectionID": f"{ending} {number}", "roomID": room}))
        socket.send(compact({"type": "message", "roomID": room, "message": number}))
        if ending == "close":
            socket.close()
        else:
            await socket.receive()  # the ack of subscribe: a socket that is cut at once may lose all it has sent
            socket.abort()
    heard = [json.loads(await listener.receive())["message"] for _ in range(10)]
    assert sorted(heard) == list(range(10))
    await listener.close()


@pytest_twisted.ensureDeferred
async def test_a_returning_member_may_speak_and_go(shared_daemon):
    listener = await raw_member(shared_daemon, "listener of returns", "returns")
    for number in range(10):
        await (await raw_member(shared_daemon, f"returning {number}", "returns")).close()
        socket = await ws_connect(shared_daemon.ws("/thinws"))
        socket.send(compact({"type": "connect", "connectionID": f"returning {number}"}))
        socket.send(compact({"type": "message", "roomID": "returns", "message": number}))
        socket.close()
    heard = [json.loads(await listener.receive())["message"] for _ in range(10)]
    assert sorted(heard) == list(range(10))
    await listener.close()


@pytest_twisted.ensureDeferred
async def test_all_unsubscribes_before_the_end_count(shared_daemon):
    rooms = [f"left at once {number}" for number in range(5)]
    socket = await raw_member(shared_daemon, "leaves five", *rooms)
    for room in rooms:
        socket.send(compact({"type": "unsubscribe", "roomID": room}))
    socket.close()

    async def still_member_of():
        again = await raw_member(shared_daemon, "leaves five")
        for room in rooms:
            again.send(compact({"type": "message", "roomID": room, "message": 1}))
        replies = [json.loads(await again.receive()) for _ in rooms]
        await again.close()
        return [reply for reply in replies if reply.get("message") != "Not a member of this room"]

    # The new connection may be quicker than the end of the old one.
    for _ in range(100):
        left = await still_member_of()
        if not left:
            break
        await pause(0.05)
    assert left == []


# What needs a daemon of its own


@pytest_twisted.ensureDeferred
async def test_4_rooms_come_back_after_a_restart(start_daemon):
    daemon = await start_daemon()
    alice, bob = (NetClient(daemon.ws("/thinws"), name, timeout=0.05) for name in ("alice", "bob"))
    await member(alice, "r1")
    await alice.ack(alice.subscribe("r2"))
    await member(bob, "r1")
    await daemon.kill()
    await daemon.restart()
    await connected(alice)
    await connected(bob)
    await talk(bob, "after the restart", "r1", alice)
    await alice.ack(alice.unsubscribe("r1"))
    await daemon.restart()
    await connected(alice)
    await connected(bob)
    await talk(alice, "only me", "r2")
    id = alice.send("x", "r1")
    await alice.expect('{"type":"error","message":"Not a member of this room","messageID":%d}' % id)
    for client in (alice, bob):
        client.end()


@pytest_twisted.ensureDeferred
async def test_5_open_rooms_are_a_setting(start_daemon):
    daemon = await start_daemon(TXBROKER_THINWS_OPEN_ROOMS="true")
    alice, eve = NetClient(daemon.ws("/thinws"), "alice"), NetClient(daemon.ws("/thinws"), "eve")
    await member(alice, "open")
    await connected(eve)
    await eve.ack(eve.send("intruder", "open"))
    await alice.expect('{"type":"message","message":"intruder","roomID":"open"}')
    for client in (alice, eve):
        client.end()


@pytest_twisted.ensureDeferred
async def test_11_who_is_refused_does_not_come_back_all_the_time(start_daemon):
    daemon = await start_daemon(TXBROKER_API_SECRET="secret")
    refused = NetClient(daemon.ws("/thinws"), "nobody")
    let_in = NetClient(daemon.ws("/thinws?token=secret"), "somebody")
    for _ in range(20):
        text = await refused.message()
        assert json.loads(text)["message"] == "Not authorized"
        refused.connect()
    await member(let_in, "r")
    assert json.loads(await refused.message())["message"] == "Not authorized"
    assert refused.attempts == 1
    assert not any("token=secret" in line for line in daemon.output)
    for client in (refused, let_in):
        client.end()


@pytest_twisted.ensureDeferred
async def test_11_a_page_of_another_origin_is_kept_out(shared_daemon):
    with pytest.raises(Refused) as caught:
        await ws_connect(shared_daemon.ws("/thinws"), headers={"origin": "https://elsewhere.example"})
    assert caught.value.status == 403


@pytest_twisted.ensureDeferred
async def test_what_came_back_is_there_for_everybody_after_the_flood(client):
    """A hundred clients whose connections are cut at once are all members again."""
    clients = [await member(client(f"crowd {number}"), "crowd") for number in range(100)]
    for one in clients:
        one.drop()
    for one in clients:
        await connected(one)
    await talk(clients[0], "all here", "crowd", *clients[1:])
