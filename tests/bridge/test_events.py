"""Events from every dialect to every other one."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import attrs
import pytest
import pytest_twisted

from tests.bridge.clients import NO_BODY, Ganomede, Hpkv, OwlMeans, ThinWs, member

# Names, numbers and order that a decoder would not give back.
BODY = '{"z":[1e3,1.0,-0,12345678901234567890],"a":{"\\u00e9":"é\\ud83d\\ude00\\/"},"":null}'

_numbers = count(1)


@pytest.fixture(scope="module")
def daemon_environ():
    return {"TXBROKER_DURABLE_TOPICS": "kept.> kv/kept.>"}


@attrs.frozen
class Published:
    """What an event must be, whoever tells of it; ``id`` is 0 for one that is live only."""

    topic: str
    name: str
    body: str | None
    source: str
    original: str = ""
    author: str = ""


# Published by


async def by_ganomede(daemon, join, topic):
    await Ganomede(daemon).post(topic, BODY, kind="Type é", source="svc/v1")
    return Published(topic, "Type é", BODY, "w", author="svc/v1")


async def by_owlmeans(daemon, join, topic):
    owl = await join(OwlMeans)
    await owl.ask("broker.identify", "alice")
    owl.notify(topic, BODY)
    return Published(topic, topic, BODY, "alice")


async def by_owlmeans_with_an_answer(daemon, join, topic):
    owl = await join(OwlMeans)
    await owl.ask("broker.identify", "alice")
    await owl.call("broker.publish", json.dumps(topic), BODY)
    return Published(topic, topic, BODY, "alice")


async def by_thinws(daemon, join, topic):
    thin = await join(ThinWs)
    await thin.enter(topic)
    await thin.send(topic, BODY)
    return Published(topic, "message", BODY, "", original=f'{{"type":"message","message":{BODY},"roomID":"{topic}"}}')


def by_hpkv(change: str) -> Callable[..., Awaitable[Published]]:
    async def publish(daemon, join, topic):
        hpkv, key = await join(Hpkv), topic.removeprefix("kv/")
        value: str | None = '{"a":1}'
        if change == "increment":
            await hpkv.increment(key, 2.5)
            value = "2.5"
        elif change == "patch":
            await hpkv.patch(key, value)
        else:
            await hpkv.set(key, value)
            if change == "delete":
                await hpkv.delete(key)
                value = None
        body = json.dumps({"key": key, "value": value}, separators=(",", ":"))
        return Published(topic, "delete" if change == "delete" else "set", body, "")

    return publish


PUBLISHERS = {
    "ganomede POST": by_ganomede,
    "OwlMeans notify": by_owlmeans,
    "OwlMeans publish": by_owlmeans_with_an_answer,
    "ThinWS message": by_thinws,
    **{f"HPKV {change}": by_hpkv(change) for change in ("set", "patch", "delete", "increment")},
}


def topic_for(publisher: str, durable: bool) -> str:
    number = next(_numbers)
    return f"{'kv/' if 'HPKV' in publisher else ''}{'kept' if durable else 'live'}.{number}"


def without_time(body: str | None) -> Any:
    """Return the body; that of a key's change without its time, which nobody can foretell."""
    if body and body.startswith('{"key":'):
        return {name: value for name, value in json.loads(body).items() if name != "timestamp"}
    return body


crossing = pytest.mark.parametrize("publisher", PUBLISHERS)
durability = pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])


def events_of(publisher: str) -> int:
    """Return how many events it publishes, the last of which counts: a key is set before it is deleted."""
    return 2 if publisher == "HPKV delete" else 1


# Delivered to


@durability
@crossing
@pytest_twisted.ensureDeferred
async def test_owlmeans_observers_hear_of_it(shared_daemon, join, publisher, durable):
    topic = topic_for(publisher, durable)
    owl = await join(OwlMeans)
    await owl.subscribe(topic)
    published = await PUBLISHERS[publisher](shared_daemon, join, topic)
    for _ in range(events_of(publisher)):
        text = await owl.event()
    heard = json.loads(text)
    assert (heard["type"], heard["event"]) == ("event", topic)
    assert (heard["name"], heard["sender"]) == (published.name, published.source)
    assert heard.get("from", "") == published.author
    assert without_time(member(text, "payload")) == without_time(published.body)
    stored = durable or publisher == "ganomede POST"
    assert ("epoch" in heard) == stored
    assert isinstance(heard["id"], int if stored else str)
    assert isinstance(heard["dt"], int)


@durability
@crossing
@pytest_twisted.ensureDeferred
async def test_thinws_members_hear_of_it(shared_daemon, join, publisher, durable):
    topic = topic_for(publisher, durable)
    thin = await join(ThinWs)
    await thin.enter(topic)
    published = await PUBLISHERS[publisher](shared_daemon, join, topic)
    for _ in range(events_of(publisher)):
        text = await thin.message()
    if published.original:
        assert text == published.original
    else:
        assert text.startswith(f'{{"type":"message","roomID":"{topic}","message":')
        assert without_time(member(text, "message")) == without_time(published.body)


@durability
@crossing
@pytest_twisted.ensureDeferred
async def test_ganomede_reads_what_is_stored(shared_daemon, join, publisher, durable):
    topic = topic_for(publisher, durable)
    published = await PUBLISHERS[publisher](shared_daemon, join, topic)
    ganomede = Ganomede(shared_daemon)
    stored = await ganomede.latest(topic)
    if durable and not stored:
        await ganomede.poll(topic)  # nobody tells an OwlMeans client that its event is stored
        stored = await ganomede.latest(topic)
    if not durable and publisher != "ganomede POST":
        assert stored == []
        return
    assert len(stored) == events_of(publisher)
    last = json.loads(stored[-1])
    assert list(last) == ["id", "timestamp", "type", "from", "data"]
    assert (last["id"], last["type"], last["from"]) == (
        len(stored),
        published.name,
        published.author or published.source,
    )
    assert without_time(member(stored[-1], "data")) == without_time(published.body)


@durability
@crossing
@pytest_twisted.ensureDeferred
async def test_hpkv_is_notified_of_keys_only(shared_daemon, join, publisher, durable):
    topic = topic_for(publisher, durable)
    # What is published on a topic that is called like a key is no change of that key.
    key = topic.removeprefix("kv/")
    hpkv = await join(Hpkv.watcher, key)
    published = await PUBLISHERS[publisher](shared_daemon, join, topic)
    if "HPKV" in publisher:
        for _ in range(events_of(publisher)):
            heard = await hpkv.notification()
        assert list(heard) == ["type", "key", "value", "timestamp"]
        assert {"key": key, "value": heard["value"]} == without_time(published.body)
    await hpkv.set(key, "a real change")
    assert (await hpkv.notification())["value"] == "a real change"
    assert hpkv.count("notification") == 0


# What one of them says of an event, the others say too


@pytest_twisted.ensureDeferred
async def test_id_and_time_are_the_same_for_all(shared_daemon, join):
    owl, ganomede = await join(OwlMeans), Ganomede(shared_daemon)
    await owl.subscribe("kept.same")
    posted = await ganomede.post("kept.same", "[]")
    first = json.loads(await owl.event())
    assert (first["id"], first["dt"]) == (posted["id"], posted["timestamp"]) == (1, posted["timestamp"])
    thin = await join(ThinWs)
    await thin.enter("kept.same")
    await thin.send("kept.same", "1")
    second = json.loads(await owl.event())
    read = json.loads((await ganomede.latest("kept.same"))[-1])
    assert (second["id"], second["dt"]) == (read["id"], read["timestamp"]) == (2, read["timestamp"])
    assert second["epoch"] == first["epoch"] != ""


@pytest_twisted.ensureDeferred
async def test_an_owlmeans_notify_to_a_durable_topic_ends_a_waiting_poll(shared_daemon, join):
    owl, ganomede = await join(OwlMeans), Ganomede(shared_daemon)
    await ganomede.post("kept.poll", "[]")
    polling = ganomede.poll("kept.poll", after=1)
    owl.notify("kept.poll", BODY)
    (event,) = (await polling).json()
    assert (event["id"], event["type"], event["data"]) == (2, "kept.poll", json.loads(BODY))


@pytest_twisted.ensureDeferred
async def test_a_key_with_a_durable_topic_ends_a_waiting_poll(shared_daemon, join):
    hpkv = await join(Hpkv)
    polling = Ganomede(shared_daemon).poll("kv/kept.polled")
    await hpkv.set("kept.polled", "v")
    (event,) = (await polling).json()
    assert (event["type"], event["from"]) == ("set", "")
    assert event["data"] == {"key": "kept.polled", "value": "v", "timestamp": event["data"]["timestamp"]}


@pytest_twisted.ensureDeferred
async def test_live_events_are_nothing_to_a_poll(shared_daemon, join):
    owl, thin, ganomede = await join(OwlMeans), await join(ThinWs), Ganomede(shared_daemon)
    await thin.enter("live.poll")
    polling = ganomede.poll("live.poll")
    owl.notify("live.poll", "1")
    await owl.sync()
    await thin.send("live.poll", "2")
    await ganomede.post("live.poll", "[3]")
    assert [(event["id"], event["data"]) for event in (await polling).json()] == [(1, [3])]


@pytest_twisted.ensureDeferred
async def test_a_topic_that_ganomede_posts_to_is_stored_for_those_posts_alone(shared_daemon, join):
    owl, ganomede = await join(OwlMeans), Ganomede(shared_daemon)
    await ganomede.post("live.mixed", "[1]")
    owl.notify("live.mixed", "2")
    await owl.sync()
    await ganomede.post("live.mixed", "[3]")
    assert [member(event, "data") for event in await ganomede.latest("live.mixed")] == ["[1]", "[3]"]


@pytest_twisted.ensureDeferred
async def test_all_hear_a_topic_in_one_order(shared_daemon, join):
    owl, thin, ganomede = await join(OwlMeans), await join(ThinWs), Ganomede(shared_daemon)
    await owl.ask("broker.subscribe", "kept.order", {"echo": True})
    await thin.enter("kept.order")
    for number in range(0, 60, 3):
        owl.notify("kept.order", f"[{number}]")
        thin.say(f'{{"messageID":1,"type":"message","message":[{number + 1}],"roomID":"kept.order"}}')
        await ganomede.post("kept.order", f"[{number + 2}]")
    stored = [json.loads(event)["data"] for event in await ganomede.latest("kept.order")]
    assert sorted(stored) == [[number] for number in range(60)]
    assert [json.loads(await owl.event())["payload"] for _ in stored] == stored
    assert [json.loads(await thin.message())["message"] for _ in stored] == stored


# Bodies


@pytest_twisted.ensureDeferred
async def test_an_absent_body_is_an_empty_object_for_owlmeans(shared_daemon, join):
    owl, thin, other = await join(OwlMeans), await join(ThinWs), await join(OwlMeans)
    await owl.subscribe("kept.absent")
    await thin.enter("kept.absent")
    await Ganomede(shared_daemon).post("kept.absent", NO_BODY)
    other.notify("kept.absent", NO_BODY)
    await other.sync()
    await thin.send("kept.absent", NO_BODY)
    for _ in range(3):
        assert member(await owl.event(), "payload") == "{}"
    own = '{"type":"message","roomID":"kept.absent"}'
    messages = [await thin.message() for _ in range(3)]  # those of others may come after its own
    assert own in messages
    assert [member(message, "message") for message in messages if message != own] == ["null", "null"]
    for event in await Ganomede(shared_daemon).latest("kept.absent"):
        assert "data" not in json.loads(event)


@pytest.mark.parametrize(
    "body", ["0", "false", '""', "[]", "{}", "-1.50E+2", "123456789012345678901234567890", '"\\ud800"', '" \\u0000 "']
)
@pytest_twisted.ensureDeferred
async def test_any_json_passes_between_sockets_as_it_was_written(join, body):
    owl, thin = await join(OwlMeans), await join(ThinWs)
    topic = f"live.body.{next(_numbers)}"
    await owl.subscribe(topic)
    await thin.enter(topic)
    owl.notify(topic, body)
    assert await thin.message() == f'{{"type":"message","roomID":"{topic}","message":{body}}}'
    await thin.send(topic, body)
    assert f',"payload":{body},"sender":"",' in await owl.event()


@pytest_twisted.ensureDeferred
async def test_null_passes_too(join):
    owl, thin = await join(OwlMeans), await join(ThinWs)
    await thin.enter("live.null")
    owl.notify("live.null", "null")
    assert await thin.message() == '{"type":"message","roomID":"live.null","message":null}'


@pytest_twisted.ensureDeferred
async def test_a_thinws_payload_counts_where_there_is_no_message(join):
    owl, thin = await join(OwlMeans), await join(ThinWs)
    await owl.subscribe("live.twin")
    await thin.enter("live.twin")
    await thin.send("live.twin", "[1]", field="payload")
    assert member(await owl.event(), "payload") == "[1]"
    both = '{"messageID":9,"type":"message","payload":1,"message":2,"roomID":"live.twin"}'
    thin.say(both)
    assert member(await owl.event(), "payload") == "2"


@durability
@pytest_twisted.ensureDeferred
async def test_thinws_members_get_a_message_of_their_own_verbatim(join, durable):
    room = topic_for("verbatim", durable)
    thin, other = await join(ThinWs), await join(ThinWs)
    for client in (thin, other):
        await client.enter(room)
    thin.say(f'{{"foo":1e3,"messageID":"m","type":"message","connectionID":"1","roomID":"{room}","payload":{BODY}}}')
    wanted = f'{{"foo":1e3,"type":"message","roomID":"{room}","payload":{BODY}}}'
    assert [await thin.message(), await other.message()] == [wanted, wanted]


@durability
@pytest_twisted.ensureDeferred
async def test_patterns_hear_all_dialects(shared_daemon, join, durable):
    owl, topic = await join(OwlMeans), topic_for("pattern", durable)
    pattern = topic.rpartition(".")[0] + ".*"
    await owl.subscribe(pattern)
    await Ganomede(shared_daemon).post(topic, "[]")
    heard = json.loads(await owl.event())
    assert (heard["event"], heard["topic"]) == (pattern, topic)
    thin = await join(ThinWs)
    await thin.enter(topic)
    await thin.send(topic, "1")
    assert json.loads(await owl.event())["topic"] == topic
