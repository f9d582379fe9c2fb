"""The ids that clients give themselves, in every dialect: whose they are, and what others are told."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import jwt
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from tests.bridge.clients import Ganomede, MicroStream, OwlMeans, ThinWs
from tests.support.http_client import get, post
from tests.support.ws_client import Closed, Refused, ws_connect

SIGNING, SECRET, MAILER = "signing-key-of-the-issuer" * 2, "the-shared-secret", "the-key-of-the-mailer"
EVERYTHING = ("publish", "subscribe", "call", "register", "request", "acknowledge", "send", "consume", "read")

_numbers = count(1)


def user(name: str | None) -> str:
    return jwt.encode({"exp": 4e9} | ({"sub": name} if name else {}), SIGNING, "HS256")


def fresh(word: str = "id") -> str:
    """Return a name that no other test uses."""
    return f"{word}-{next(_numbers)}"


@pytest.fixture(scope="module")
def daemon_environ(tmp_path_factory):
    permissions = tmp_path_factory.mktemp("ids") / "permissions.toml"
    who = ("user.'*'", "key.mailer", "secret", "anonymous", "default")
    tables = [f'[{table}.{verb}]\nallow = [">"]\n' for table in who for verb in EVERYTHING]
    permissions.write_text("".join(tables) + '[user.gateway.act]\nallow = [">"]\ndeny = ["secret-*"]\n')
    return {
        "TXBROKER_API_SECRET": SECRET,
        "TXBROKER_API_KEYS": f"mailer:{MAILER}",
        "TXBROKER_JWT_SECRET": SIGNING,
        "TXBROKER_PERMISSIONS_FILE": str(permissions),
        "TXBROKER_ERROR_DELAY_SECONDS": "0",
        "TXBROKER_POLL_TIMEOUT_SECONDS": "0.1",
        "TXBROKER_TAKEOVER_PROBE_SECONDS": "0.2",
    }


# How an id is used in each dialect.  Each returns whether that was allowed, and checks the words of a refusal.


def answered(answer: Any) -> bool:
    """Whether an HTTP request was answered well, and not with the refusal of ganomede."""
    if answer.status == 403:
        assert answer.json()["code"] == "Forbidden"
    else:
        assert answer.status == 200, answer.text
    return bool(answer.status == 200)


async def poll(daemon, credential, id):
    return answered(await get(Ganomede(daemon, credential).url("events", channel="ids", clientId=id)))


async def acknowledge(daemon, credential, id):
    return answered(await get(Ganomede(daemon, credential).url("events", channel="ids", clientId=id, after=2)))


async def acknowledge_nonsense(daemon, credential, id):
    return answered(await get(Ganomede(daemon, credential).url("events", channel="ids", clientId=id, after="x")))


async def publish(daemon, credential, id):
    said = {"clientId": id, "secret": credential, "channel": "posted", "from": "me", "type": "T"}
    return answered(await Ganomede(daemon).post_raw(json.dumps(said).encode()))


async def index(daemon, credential, id):
    said = {"id": id, "channel": "ids", "field": "type", "secret": credential}
    return answered(await post(daemon.url + "/events/v1/indices", said))


def thinws(kind: str) -> Any:
    async def use(daemon, credential, id):
        client = ThinWs(await ws_connect(daemon.ws(f"/thinws?token={credential}")))
        reply = await client.ask(type=kind, connectionID=id, roomID="ids")
        if reply["type"] == "error":
            assert reply["message"] == "Not authorized"
            # It is not closed: the shipped client would come back at once.
            await client.enter("another room")
        await client.socket.close()
        return reply["type"] == "ack"

    return use


async def service(daemon, credential, id):
    client = MicroStream(
        await ws_connect(daemon.ws(f"/socket.io/?EIO=4&transport=websocket&serviceName={id}&token={credential}"))
    )
    await client.next("0")
    client.say("40")
    text = await client.socket.receive()
    if text.startswith("44"):
        assert json.loads(text[2:])["message"] == "FORBIDDEN"
    else:
        assert text.startswith('40{"sid":'), text
    await client.socket.close()
    return text.startswith("40")


async def owlmeans(daemon, credential, id):
    try:
        client = OwlMeans(await ws_connect(daemon.ws(f"/owlmeans?client={id}&token={credential}")))
    except Refused as refused:
        return _said_no(refused)
    assert (await client.ask("broker.whoami"))["id"] == id
    await client.socket.close()
    return True


def _said_no(refused: Refused) -> bool:
    assert (refused.status, refused.body.partition(b":")[0]) == (403, b"ForbiddenAuthorizationError|||auth")
    return False


async def identify(daemon, credential, id):
    client = OwlMeans(await ws_connect(daemon.ws(f"/owlmeans?token={credential}")))
    answer = json.loads(await client.call("broker.identify", json.dumps(id)))
    if answer["type"] == "error":
        assert answer["payload"] == f"ForbiddenAuthorizationError|||auth:authorization:forbidden:identify:{id}|||"
    await client.socket.close()
    return answer["type"] == "result"


OWN = {  # by these a principal may have ids besides its name
    "GET": poll,
    "GET after": acknowledge,
    "GET after nonsense": acknowledge_nonsense,
    "POST": publish,
    "index": index,
    "connect": thinws("connect"),
    "subscribe": thinws("subscribe"),
    "unsubscribe": thinws("unsubscribe"),
    "service": service,
}
NAMES = {"client": owlmeans, "identify": identify}  # where a credential names somebody, that is the id
in_each_way = pytest.mark.parametrize("way", OWN)
in_any_way = pytest.mark.parametrize("way", [*OWN, *NAMES])
WAYS = OWN | NAMES


@in_each_way
@pytest_twisted.ensureDeferred
async def test_an_id_is_of_who_used_it_first(shared_daemon, way):
    use, id = OWN[way], fresh()
    assert await use(shared_daemon, user("ann"), id)
    for other in (user("eve"), user(None), MAILER, SECRET):
        assert not await use(shared_daemon, other, id)
    assert await use(shared_daemon, user("ann"), id)


@in_any_way
@pytest_twisted.ensureDeferred
async def test_who_shows_the_secret_shares_ids_but_not_with_others(shared_daemon, way):
    use, id = WAYS[way], fresh()
    for _ in range(2):
        assert await use(shared_daemon, SECRET, id)
    for other in (user("eve"), user(None), MAILER):
        assert not await use(shared_daemon, other, id)


@in_any_way
@pytest_twisted.ensureDeferred
async def test_the_name_of_a_key_is_nobody_elses(shared_daemon, way):
    use = WAYS[way]
    for other in (user("eve"), user(None), user("mailer"), SECRET):
        assert not await use(shared_daemon, other, "mailer")
    assert await use(shared_daemon, MAILER, "mailer")


@in_any_way
@pytest_twisted.ensureDeferred
async def test_the_name_of_a_user_is_his_from_when_he_came_first(shared_daemon, way):
    use, name = WAYS[way], fresh("user")
    assert await identify(shared_daemon, user(name), name)
    for other in (user("eve"), user(None), MAILER, SECRET):
        assert not await use(shared_daemon, other, name)
    assert await use(shared_daemon, user(name), name)


@in_any_way
@pytest.mark.parametrize("id", ["broker", "broker.x", "queue:q", "kv/k", "user:ann", "key:mailer", "default", "secret"])
@pytest_twisted.ensureDeferred
async def test_what_is_reserved_is_no_id(shared_daemon, way, id):
    may = way == "service" and id in ("default", "secret")
    for credential in (SECRET, user("gateway"))[: 1 if may else None]:
        assert await WAYS[way](shared_daemon, credential, id) == may


@in_any_way
@pytest_twisted.ensureDeferred
async def test_the_permissions_may_let_one_act_as_others(shared_daemon, way):
    use, own, secret = WAYS[way], fresh(), fresh("secret")
    first = SECRET if way in NAMES else user("ann")
    for id in (own, secret):
        assert await use(shared_daemon, first, id)
    assert await use(shared_daemon, user("gateway"), own)
    assert not await use(shared_daemon, user("gateway"), secret)
    assert await use(shared_daemon, first, own)


@in_each_way
@pytest_twisted.ensureDeferred
async def test_of_many_who_claim_an_id_at_once_one_gets_it(shared_daemon, way):
    id, users = fresh(), [user(f"racer{number}") for number in range(6)]
    tries = [Deferred.fromCoroutine(OWN[way](shared_daemon, credential, id)) for credential in users]
    won = await gatherResults(tries)
    assert won.count(True) == 1
    again = [await OWN[way](shared_daemon, credential, id) for credential in users]
    assert again == won


@pytest_twisted.ensureDeferred
async def test_owners_are_known_after_a_restart(start_daemon, daemon_environ):
    daemon = await start_daemon(**daemon_environ)
    for way, use in OWN.items():
        assert await use(daemon, user("ann"), f"id of {way}".replace(" ", "-"))
    assert await owlmeans(daemon, user("ann"), "ann")
    await daemon.restart()
    for way, use in OWN.items():
        for other in (user("eve"), SECRET):
            assert not await use(daemon, other, f"id of {way}".replace(" ", "-"))
            assert not await use(daemon, other, "ann")


# What is kept for somebody is not handed to another


@pytest_twisted.ensureDeferred
async def test_mail_of_a_user_who_is_away_waits_for_him(shared_daemon, join):
    name = fresh("away")
    assert await owlmeans(shared_daemon, user(name), name)
    sender = await join(OwlMeans, token=user("sam"))
    sender.say(json.dumps({"type": "message", "recipient": name, "payload": "private"}))
    await sender.sync()
    for credential in (user(None), SECRET, MAILER, user("eve")):
        assert not await owlmeans(shared_daemon, credential, name)
    back = await join(OwlMeans, token=user(name))
    heard = json.loads(await back.next("message"))
    assert (heard["payload"], heard["sender"]) == ("private", "sam")


@pytest_twisted.ensureDeferred
async def test_a_cursor_is_moved_by_its_owner_only(shared_daemon):
    channel, id = fresh("channel"), fresh()
    alice, eve = Ganomede(shared_daemon, user("alice")), Ganomede(shared_daemon, user("eve"))
    for _ in range(3):
        answered(await alice.post_raw(_event(channel, user("alice"), id)))
    assert answered(await get(alice.url("events", channel=channel, clientId=id, after=2)))
    assert not answered(await get(eve.url("events", channel=channel, clientId=id, after=0)))
    again = await get(alice.url("events", channel=channel, clientId=id))
    assert [event["id"] for event in again.json()] == [3]


def _event(channel, credential, id, source="me"):
    said = {"clientId": id, "secret": credential, "channel": channel, "from": source, "type": "T", "data": {}}
    return json.dumps(said).encode()


@pytest_twisted.ensureDeferred
async def test_an_index_is_read_by_whoever_may_read_its_channel(shared_daemon):
    channel, id = fresh("channel"), fresh("index")
    assert answered(await Ganomede(shared_daemon).post_raw(_event(channel, user("alice"), id)))
    said = {"id": id, "channel": channel, "field": "from", "secret": user("alice")}
    assert answered(await post(shared_daemon.url + "/events/v1/indices", said))
    for credential in (user("alice"), user("eve"), user(None), SECRET):
        rows = await get(Ganomede(shared_daemon, credential).url(f"indices/{id}/me"))
        assert [row["from"] for row in rows.json()["rows"]] == ["me"]


@pytest_twisted.ensureDeferred
async def test_a_silent_service_is_replaced_by_its_own_principal_only(shared_daemon, join):
    name = fresh("service")
    await join(MicroStream, name, token=user("alice"))  # which answers no ping, as nobody looks at what it gets
    assert not await service(shared_daemon, user("eve"), name)
    assert not await service(shared_daemon, SECRET, name)
    assert await service(shared_daemon, user("alice"), name)


@pytest_twisted.ensureDeferred
async def test_a_session_of_thinws_stays_in_its_rooms(shared_daemon, join):
    id, room = fresh(), fresh("room")
    alice = ThinWs(await ws_connect(shared_daemon.ws(f"/thinws?token={user('alice')}")))
    assert (await alice.ask(type="connect", connectionID=id))["type"] == "ack"
    await alice.enter(room)
    eve = ThinWs(await ws_connect(shared_daemon.ws(f"/thinws?token={user('eve')}")))
    refused = await eve.ask(type="unsubscribe", connectionID=id, roomID=room)
    assert (refused["type"], refused["message"]) == ("error", "Not authorized")
    await alice.send(room, "1")
    assert json.loads(await alice.message())["message"] == 1
    for client in (alice, eve):
        await client.socket.close()


# What is sent again


async def publish_by_key(client, name):
    return await client.ask("broker.publish", name, {"n": 1}, {"durable": True, "key": "order-7"})


async def publish_batch_by_key(client, name):
    (stored,) = (await client.ask("broker.batch", [{"topic": name, "payload": 1, "key": "order-7"}]))["events"]
    return stored


async def enqueue_by_key(client, name):
    return await client.ask("broker.enqueue", name, {"n": 1}, {"key": "order-7"})


@pytest.mark.parametrize("send", [publish_by_key, publish_batch_by_key, enqueue_by_key])
@pytest_twisted.ensureDeferred
async def test_by_its_key_a_principal_takes_the_place_of_nothing_that_another_sends(shared_daemon, join, send):
    name = fresh("sent")
    clients = [await join(OwlMeans, token=credential) for credential in (user("eve"), user("ann"), MAILER, SECRET)]
    first = [await send(client, name) for client in clients]
    assert len({str(answer["id"]) for answer in first}) == len(clients)
    assert not any(answer.get("duplicate") for answer in first)
    for client, answer in zip(clients, first, strict=True):
        again = await send(client, name)
        assert (again["id"], again["duplicate"]) == (answer["id"], True)


# Jobs of those who have no session


async def ask_queue(daemon, credential, queue, path, body=None):
    headers = {"Authorization": f"Bearer {credential}"}
    return await post(f"{daemon.url}/v1/queues/{queue}{path}", body, headers=headers)


@pytest_twisted.ensureDeferred
async def test_a_job_is_settled_by_whose_it_is_only(shared_daemon):
    queue, ann = fresh("queue"), user("ann")
    await ask_queue(shared_daemon, ann, queue, "", {"n": 1})
    [job] = (await ask_queue(shared_daemon, ann, queue, "/claim")).json()
    for other in (user("eve"), user(None), MAILER, SECRET):
        for act, body in (("done", None), ("fail", {}), ("extend", {"seconds": 1})):
            assert (await ask_queue(shared_daemon, other, queue, f"/jobs/{job['id']}/{act}", body)).status == 404
    assert (await ask_queue(shared_daemon, ann, queue, f"/jobs/{job['id']}/done")).status == 200


@pytest_twisted.ensureDeferred
async def test_a_user_without_a_name_claims_no_job(shared_daemon):
    queue = fresh("queue")
    await ask_queue(shared_daemon, user("ann"), queue, "", {"n": 1})
    assert (await ask_queue(shared_daemon, user(None), queue, "/claim")).status == 403
    assert len((await ask_queue(shared_daemon, user("ann"), queue, "/claim")).json()) == 1


# Who something is from


@pytest_twisted.ensureDeferred
async def test_what_an_application_writes_as_from_is_not_who_it_is_from(shared_daemon, join):
    channel, id = fresh("channel"), fresh()
    owl = await join(OwlMeans, token=user("ann"))
    await owl.subscribe(channel)
    for source in ("broker", "mailer", "svc/v1 é\u0000"):
        answered(await Ganomede(shared_daemon).post_raw(_event(channel, user("alice"), id, source)))
        heard = json.loads(await owl.event())
        assert (heard["sender"], heard["from"]) == (id, source)
        (latest,) = json.loads(f"[{(await Ganomede(shared_daemon, SECRET).latest(channel))[-1]}]")
        assert latest["from"] == source


@pytest_twisted.ensureDeferred
async def test_who_used_the_name_of_a_user_before_he_came_is_disconnected(shared_daemon, join):
    name = fresh("late")
    squatter = OwlMeans(await ws_connect(shared_daemon.ws(f"/owlmeans?client={name}&token={SECRET}")))
    assert (await squatter.ask("broker.whoami"))["id"] == name
    owner = await join(OwlMeans, token=user(name))
    assert (await owner.ask("broker.whoami"))["id"] == name
    with pytest.raises(Closed) as closed:
        await squatter.socket.receive()
    assert closed.value.code == 1001
    assert not await owlmeans(shared_daemon, SECRET, name)
