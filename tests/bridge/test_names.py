"""One namespace of topics, procedures and client ids for all dialects."""

from __future__ import annotations

import json

import pytest
import pytest_twisted

from tests.bridge.clients import Ganomede, Hpkv, MicroStream, OwlMeans, ThinWs, member
from tests.protocols.owlmeans_emulator import HOLD

TOPICS = [
    "users/v1",
    "users/v1:add",
    "order.created",
    "a..b",
    "*",
    "wild.*.card",
    "more.>",
    "two words",
    "žluťoučký 😀",
    "日本語/עברית",
    "constructor",
    "quote\"back\\slash'&?#%25+</script>",
    "x" * 255,
    "😀" * 255,
]
NO_TOPICS = ["", "x" * 256, "line\nend", "nothing\0", "\x1b[0m", "\x7f"]


@pytest.mark.parametrize("topic", TOPICS)
@pytest_twisted.ensureDeferred
async def test_a_name_is_the_same_topic_for_all(shared_daemon, join, topic):
    ganomede, owl, thin = Ganomede(shared_daemon), await join(OwlMeans), await join(ThinWs)
    await owl.subscribe(topic, exact=True)
    await thin.enter(topic)

    await ganomede.post(topic, '{"from":"ganomede"}')
    heard = json.loads(await owl.event())
    assert (heard["event"], heard["payload"]) == (topic, {"from": "ganomede"})
    assert json.loads(await thin.message()) == {"type": "message", "roomID": topic, "message": {"from": "ganomede"}}

    await thin.send(topic, '"from thinws"')
    assert json.loads(await owl.event())["payload"] == "from thinws"
    await thin.message()

    owl.notify(topic, '"from owlmeans"')
    assert json.loads(await thin.message())["message"] == "from owlmeans"

    polled = await ganomede.poll(topic)
    assert [event["data"] for event in polled.json()] == [{"from": "ganomede"}]


@pytest.mark.parametrize("topic", NO_TOPICS)
@pytest_twisted.ensureDeferred
async def test_what_names_nothing_is_refused_by_all(shared_daemon, join, topic):
    owl, thin = await join(OwlMeans), await join(ThinWs)
    said = {"clientId": "w", "secret": "any", "channel": topic, "from": "f", "type": "T"}
    answer = await Ganomede(shared_daemon).post_raw(json.dumps(said).encode())
    assert (answer.status, answer.json()["code"]) == (400, "InvalidContent")
    assert answer.json()["message"].startswith("Invalid Channel")

    malformed = "SocketErrorMessageMalformed|||socket:message:malformed:"
    assert (await owl.failure("broker.subscribe", topic)).startswith(malformed)
    owl.notify(topic, "1")
    assert json.loads(await owl.next("system"))["payload"]["error"].startswith(malformed)

    for kind in ("subscribe", "message"):
        reply = await thin.ask(type=kind, roomID=topic, message=1)
        wrong = "has a control character" if topic else "is required"
        wrong = "is longer than 255 characters" if len(topic) > 255 else wrong
        assert (reply["type"], reply["message"]) == ("error", f"roomID {wrong}")


@pytest_twisted.ensureDeferred
async def test_half_a_character_names_nothing(shared_daemon, join):
    thin = await join(ThinWs)
    body = b'{"clientId":"w","secret":"any","channel":"\\ud800","from":"f","type":"T"}'
    assert (await Ganomede(shared_daemon).post_raw(body)).status == 400
    thin.say('{"messageID":1,"type":"subscribe","roomID":"\\ud800"}')
    assert json.loads(await thin.next("reply"))["message"] == "roomID is required"


@pytest.mark.parametrize("key", ["plain", "a.b", "ns:user/1", "*", "ключ 😀", "x" * 252])
@pytest_twisted.ensureDeferred
async def test_a_key_is_the_topic_that_begins_with_kv(join, key):
    owl, thin, hpkv = await join(OwlMeans), await join(ThinWs), await join(Hpkv)
    await owl.subscribe(f"kv/{key}")
    await thin.enter(f"kv/{key}")
    await hpkv.set(key, "value")
    heard = json.loads(await owl.event())
    assert (heard["event"], heard["payload"]["key"]) == (f"kv/{key}", key)
    assert json.loads(await thin.message())["roomID"] == f"kv/{key}"


# Procedures


async def performer(join, *methods, **query):
    """Return an OwlMeans client that answers each of *methods* with its name."""
    owl = await join(OwlMeans, **query)
    for method in methods:
        owl.emulator.perform(method, lambda *_, method=method: method)
    await owl.ask("broker.register", list(methods))
    return owl


async def event_asked(service, caller, procedure):
    """Let *caller* call *procedure*, which *service* has; return the event that it is asked for."""
    pending = caller.emulator.call(procedure)
    caller.flush()
    payload = await service.serve("1")
    while not pending.done:
        await caller.next("answer")
    return json.loads(payload)["event"]


@pytest_twisted.ensureDeferred
async def test_a_service_has_every_procedure_that_begins_with_its_name_and_a_dot(join):
    service, caller = await join(MicroStream, "n1"), await join(OwlMeans)
    assert await event_asked(service, caller, "n1.add") == "add"
    assert await event_asked(service, caller, "n1.add.more") == "add.more"
    assert await event_asked(service, caller, "n1.") == ""
    for procedure in ("n1", "n1x.add", "n", "x.n1.add", ".n1.add"):
        assert await caller.failure(procedure) == (
            f"SocketErrorConnectionUnsupported|||socket:connection:unsupported:method:{procedure}|||"
        )


@pytest_twisted.ensureDeferred
async def test_the_exact_procedure_comes_before_a_service(join):
    service, caller = await join(MicroStream, "n2"), await join(OwlMeans)
    callee = await performer(join, "n2.add")
    pending = caller.emulator.call("n2.add")
    caller.flush()
    await callee.next("call")
    while not pending.done:
        await caller.next("answer")
    assert pending.result() == "n2.add"
    assert await event_asked(service, caller, "n2.sub") == "sub"


@pytest_twisted.ensureDeferred
async def test_the_longest_registered_service_has_a_procedure(join):
    short, long = await join(MicroStream, "n3"), await join(MicroStream, "n3.deep")
    caller = await join(OwlMeans)
    assert await event_asked(long, caller, "n3.deep.add") == "add"
    assert await event_asked(short, caller, "n3.deeper.add") == "deeper.add"
    assert await event_asked(short, caller, "n3.deep") == "deep"
    await long.socket.close()
    assert await event_asked(short, caller, "n3.deep.add") == "deep.add"


@pytest_twisted.ensureDeferred
async def test_a_request_goes_to_the_service_before_the_procedure(join):
    service, caller = await join(MicroStream, "n4"), await join(MicroStream, "n4-caller")
    callee = await performer(join, "n4.add")
    caller.ask("n4", "add")
    await service.serve('"service"')
    assert await caller.response() == '"service"'
    await service.socket.close()
    caller.ask("n4", "add")
    await callee.next("call")
    assert await caller.response() == '"n4.add"'


@pytest_twisted.ensureDeferred
async def test_a_request_goes_to_no_service_of_a_shorter_name(join):
    await join(MicroStream, "n5")
    caller = await join(MicroStream, "n5-caller")
    error = await caller.error("n5.deep", "add")
    assert (error["code"], error["message"]) == ("TARGET_SERVICE_NOT_FOUND", 'Service "n5.deep" not found')


# Client ids


@pytest_twisted.ensureDeferred
async def test_each_client_id_is_told_as_the_source(shared_daemon, join):
    owl = await join(OwlMeans)
    await owl.subscribe("ids")
    alice, thin = await join(OwlMeans, client="alice"), await join(ThinWs)
    await thin.enter("ids")

    alice.notify("ids", "1")
    assert json.loads(await owl.event())["sender"] == "alice"
    await Ganomede(shared_daemon).post("ids", "[]", source="svc/v1")
    heard = json.loads(await owl.event())
    assert (heard["sender"], heard["from"]) == ("w", "svc/v1")
    await thin.send("ids", "1")
    text = await owl.event()
    assert json.loads(text)["sender"] == ""
    assert thin.connection_id not in text


@pytest_twisted.ensureDeferred
async def test_a_service_calls_under_its_name(join):
    callee, caller = await join(OwlMeans), await join(MicroStream, "caller/v1")
    callee.emulator.perform("who.calls", lambda *_: HOLD)
    await callee.ask("broker.register", "who.calls")
    caller.ask("who", "calls")
    assert json.loads(await callee.next("call"))["sender"] == "caller/v1"


@pytest_twisted.ensureDeferred
async def test_the_answer_tells_who_has_given_it(join):
    service, caller = await join(MicroStream, "answerer"), await join(OwlMeans, client="asker")
    caller.emulator.call("answerer.x")
    caller.flush()
    await service.serve("1")
    assert member(await caller.next("answer"), "sender") == '"answerer"'


@pytest_twisted.ensureDeferred
async def test_a_service_can_be_addressed_by_its_client_id(join):
    service, caller = await join(MicroStream, "addressed"), await join(OwlMeans)
    assert await event_asked(service, caller, "@addressed/addressed.x") == "x"
    error = await caller.failure("@addressed/other.x")
    assert error == "SocketErrorConnectionUnsupported|||socket:connection:unsupported:method:other.x|||"
