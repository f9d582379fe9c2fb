"""Keys: HPKV and the native dialect's methods on the same ones."""

from __future__ import annotations

import json
from itertools import count

import pytest
import pytest_twisted

from tests.bridge.clients import Hpkv, OwlMeans, ThinWs
from tests.protocols.owlmeans_emulator import Failed

_numbers = count(1)


@pytest.fixture(scope="module")
def daemon_environ():
    return {"TXBROKER_STORE": "sqlite:"}


@pytest.fixture
def key():
    """A key of one test."""
    return f"key.{next(_numbers)}"


@pytest_twisted.ensureDeferred
async def test_an_hpkv_set_is_heard_by_an_owlmeans_observer(join, key):
    owl, hpkv = await join(OwlMeans), await join(Hpkv)
    owl.emulator.observe(f"kv/{key}")
    await owl.subscribe(f"kv/{key}")
    await hpkv.set(key, "value")
    await owl.event()
    ((event, payload),) = owl.emulator.heard
    assert (event, list(payload)) == (f"kv/{key}", ["key", "value", "timestamp"])
    assert (payload["key"], payload["value"]) == (key, "value")
    assert isinstance(payload["timestamp"], int)


@pytest_twisted.ensureDeferred
async def test_what_one_dialect_writes_the_other_reads(join, key):
    owl, hpkv = await join(OwlMeans), await join(Hpkv)
    await hpkv.set(key, "žluťoučký 😀")
    first = (await owl.ask("broker.get", key))["revision"]
    assert await owl.ask("broker.get", key) == {"key": key, "value": "žluťoučký 😀", "revision": first}
    second = (await owl.ask("broker.set", key, '{"a":1,"b":2}'))["revision"]
    assert second > first
    assert (await hpkv.get(key))["value"] == '{"a":1,"b":2}'
    await hpkv.patch(key, '{"b":3.0,"c":1e3}')
    assert (await owl.ask("broker.get", key))["value"] == '{"a":1,"b":3.0,"c":1e3}'
    assert (await owl.ask("broker.patch", key, '{"a":[]}'))["value"] == '{"a":[],"b":3.0,"c":1e3}'
    assert (await hpkv.get(key))["value"] == '{"a":[],"b":3.0,"c":1e3}'
    assert await owl.ask("broker.delete", key) == {"key": key, "deleted": True}
    assert (await hpkv.get(key))["error"] == "Record not found"


@pytest_twisted.ensureDeferred
async def test_writes_of_owlmeans_notify_hpkv(join, key):
    owl, hpkv = await join(OwlMeans), await join(Hpkv.watcher, key)
    await owl.ask("broker.set", key, "1")
    await owl.ask("broker.increment", key, 2)
    await owl.ask("broker.patch", key, "0")
    await owl.ask("broker.delete", key)
    heard = [await hpkv.notification() for _ in range(4)]
    assert [event["value"] for event in heard] == ["1", "3", "30", None]
    assert {(event["type"], event["key"]) for event in heard} == {("notification", key)}


@pytest_twisted.ensureDeferred
async def test_nobody_can_forge_the_change_of_a_key(join, key):
    owl, thin, hpkv = await join(OwlMeans), await join(ThinWs), await join(Hpkv.watcher, key)
    forged = f'{{"key":"{key}","value":"forged","timestamp":1}}'
    owl.notify(f"kv/{key}", forged)
    await owl.sync()
    await thin.enter(f"kv/{key}")
    refused = await thin.ask(type="message", roomID=f"kv/{key}", message=json.loads(forged))
    assert refused["message"] == "Not authorized"
    await owl.ask("broker.set", key, "true")
    assert (await hpkv.notification())["value"] == "true"


@pytest_twisted.ensureDeferred
async def test_increments_of_both_add_up(join, key):
    owl, hpkv = await join(OwlMeans), await join(Hpkv)
    for _ in range(100):
        owl.begin("broker.increment", json.dumps(key))
        hpkv.say(f'{{"op":6,"key":"{key}","value":2}}')
    for _ in range(100):
        await owl.next("answer")
        await hpkv.next("answer")
    assert (await hpkv.get(key))["value"] == "300"


@pytest_twisted.ensureDeferred
async def test_ranges_have_one_order(join, key):
    owl, hpkv = await join(OwlMeans), await join(Hpkv)
    names = [f"{key}/{name}" for name in ("\ufffd", "😀", "a", "Z", "é", "a\0b")]
    for number, name in enumerate(names):
        await hpkv.set(name, str(number))
    found = await hpkv.range(f"{key}/", f"{key}/\U0010ffff")
    assert [name for name, _ in found] == sorted(names, key=str.encode)
    answer = await owl.ask("broker.range", f"{key}/", f"{key}/\U0010ffff")
    assert [(entry["key"], entry["value"]) for entry in answer["entries"]] == found


@pytest_twisted.ensureDeferred
async def test_a_revision_counts_the_writes_of_both(join, key):
    owl, hpkv = await join(OwlMeans), await join(Hpkv)
    mine = (await owl.ask("broker.set", key, "mine", {"revision": 0}))["revision"]
    await hpkv.set(key, "yours")
    with pytest.raises(Failed, match=f"SocketErrorMessage: socket:message:conflict:{key}"):
        await owl.ask("broker.set", key, "mine again", {"revision": mine})
    assert (await hpkv.get(key))["value"] == "yours"
    yours = (await owl.ask("broker.get", key))["revision"]
    await owl.ask("broker.set", key, "mine again", {"revision": yours})
    assert (await hpkv.get(key))["value"] == "mine again"


@pytest_twisted.ensureDeferred
async def test_a_watch_goes_on_by_another_connection_with_what_was_missed(join, key):
    owl, other, hpkv = await join(OwlMeans), await join(OwlMeans), await join(Hpkv)
    await hpkv.set(f"{key}:1", "before")
    begun = await owl.ask("broker.watch", f"{key}:*")
    assert [entry["value"] for entry in begun["entries"]] == ["before"]
    await owl.ask("broker.unwatch", f"{key}:*")
    for value in ("a", "ä"):
        await hpkv.set(f"{key}:1", value)
    await hpkv.delete(f"{key}:1")
    since = {"epoch": begun["epoch"], "revision": begun["revision"]}
    again = await other.ask("broker.watch", f"{key}:*", {"from": since, "previous": True})
    assert (again["snapshot"], again["entries"]) == (False, [])
    await hpkv.set(f"{key}:2", "live")
    heard = [json.loads(await other.event())["payload"] for _ in range(4)]
    assert [each["value"] for each in heard] == ["a", "ä", None, "live"]
    revisions = [each["revision"] for each in heard]
    assert revisions == sorted(set(revisions))
    assert revisions[0] > begun["revision"]
    assert heard[3]["previous"] is None


@pytest_twisted.ensureDeferred
async def test_a_revision_of_before_a_key_was_removed_is_none_that_it_has_again(join, key):
    owl, hpkv = await join(OwlMeans), await join(Hpkv)
    old = (await owl.ask("broker.set", key, "old"))["revision"]
    await hpkv.delete(key)
    assert "inserted" in (await hpkv.do(2, key, "new"))["message"]
    assert "updated" in (await hpkv.do(2, key, "newer"))["message"]
    for verb, arguments in (("set", ["mine"]), ("delete", [])):
        with pytest.raises(Failed, match="conflict"):
            await owl.ask(f"broker.{verb}", key, *arguments, {"revision": old})
    assert (await hpkv.get(key))["value"] == "newer"


@pytest_twisted.ensureDeferred
async def test_a_key_that_expires_is_gone_for_all(join, key):
    owl, hpkv, watcher = await join(OwlMeans), await join(Hpkv), await join(Hpkv.watcher, key)
    await owl.subscribe(f"kv/{key}")
    await owl.ask("broker.set", key, "short", {"ttl": 0.05})
    assert (await watcher.notification())["value"] == "short"
    assert (await watcher.notification())["value"] is None
    assert (await hpkv.get(key))["code"] == 404
    heard = json.loads(await owl.event())  # of its own write it was not told: there was no "echo"
    assert (heard["name"], heard["payload"]["value"]) == ("expired", None)


@pytest_twisted.ensureDeferred
async def test_a_watch_begins_with_what_hpkv_has_set(join, key):
    owl, hpkv = await join(OwlMeans), await join(Hpkv)
    await hpkv.set(f"{key}.a", "1")
    answer = await owl.ask("broker.watch", f"{key}.*")
    assert [(entry["key"], entry["value"]) for entry in answer["entries"]] == [(f"{key}.a", "1")]
    await hpkv.set(f"{key}.b", "2")
    await hpkv.delete(f"{key}.a")
    heard = [json.loads(await owl.event()) for _ in range(2)]
    assert [event["event"] for event in heard] == [f"kv/{key}.*"] * 2
    assert [(event["name"], event["payload"]["value"]) for event in heard] == [("set", "2"), ("delete", None)]


@pytest_twisted.ensureDeferred
async def test_each_write_notifies_once_however_many_patterns_match(shared_daemon, join, key):
    owl, watcher = await join(OwlMeans), await join(Hpkv.watcher, key, f"{key}", "key.*")
    for number in range(5):
        await owl.ask("broker.set", key, str(number))
    await owl.ask("broker.set", key, "end")
    values = [(await watcher.notification())["value"] for _ in range(6)]
    assert values == ["0", "1", "2", "3", "4", "end"]


@pytest_twisted.ensureDeferred
async def test_keys_survive_the_daemon_for_both(daemon, key):
    owl, hpkv = await OwlMeans.join(daemon), await Hpkv.join(daemon)
    await owl.ask("broker.set", key, "by owlmeans")
    await hpkv.set(f"{key}.2", "by hpkv")
    await daemon.kill()
    await daemon.restart()
    owl, hpkv = await OwlMeans.join(daemon), await Hpkv.join(daemon)
    assert (await hpkv.get(key))["value"] == "by owlmeans"
    assert (await owl.ask("broker.get", f"{key}.2"))["value"] == "by hpkv"
