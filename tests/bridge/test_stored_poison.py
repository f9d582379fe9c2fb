"""Keys that an older version, or somebody by hand, has stored: every client can still read, list and remove them."""

from __future__ import annotations

import json
import sqlite3
from itertools import count

import pytest
import pytest_twisted

from tests.bridge.clients import Hpkv, OwlMeans
from tests.support.cluster import Cluster
from tests.support.eventually import TIMEOUT

EXPIRIES = ["1e308", "inf", "-1.0", "-inf", "253402300800.0", "8.64e12", "9e12", "1e-308"]
EXPIRED = ("1e-308",)
_numbers = count(1)


async def store(daemon, key, value, expires):
    """Write a row beside the daemon, as it would stand there."""
    if isinstance(daemon, Cluster):
        await daemon.redis.command("HSET", "txbroker:keys:kv", key, f"1 {expires} {value}")
        await daemon.redis.command("ZADD", "txbroker:order:kv", "0", key)
        if float(expires) > 0:
            await daemon.redis.command("ZADD", "txbroker:due:kv", expires, key)
            await daemon.redis.command("SADD", "txbroker:spaces", "kv")
        return
    connection = sqlite3.connect(daemon.directory / "txbroker.db", timeout=TIMEOUT)
    with connection:
        row = ("kv", key.encode(), value.encode(), 1, float(expires))
        connection.execute("INSERT INTO entry (space, key, value, revision, expires) VALUES (?, ?, ?, ?, ?)", row)
    connection.close()


@pytest.fixture
def place():
    """What the keys of one test begin with."""
    return f"poison{next(_numbers)}."


@pytest.mark.parametrize("expires", EXPIRIES)
@pytest_twisted.ensureDeferred
async def test_a_key_with_any_expiry_can_be_read_listed_and_removed(shared_daemon, join, place, expires):
    owl, hpkv = await join(OwlMeans), await join(Hpkv)
    await owl.ask("broker.set", place + "good", "v")
    await store(shared_daemon, place + "bad", "5", expires)
    alive = [place + "good"] if expires in EXPIRED else [place + "bad", place + "good"]
    entries = (await owl.ask("broker.range", place, place + "~"))["entries"]
    assert [entry["key"] for entry in entries] == alive
    assert all(0 < entry.get("expires", 1) <= 8.64e15 for entry in entries)
    assert (await owl.ask("broker.watch", place + ">"))["entries"] == entries
    assert (await owl.ask("broker.get", place + "bad"))["value"] == ("5" if len(alive) == 2 else None)
    assert [key for key, _ in await hpkv.range(place, place + "~")] == alive
    assert (await hpkv.get(place + "bad"))["code"] == (200 if len(alive) == 2 else 404)
    assert (await owl.ask("broker.delete", place + "bad"))["deleted"] is (len(alive) == 2)
    assert (await owl.ask("broker.get", place + "bad"))["revision"] == 0


@pytest_twisted.ensureDeferred
async def test_a_key_with_any_expiry_can_be_changed_and_then_expires(shared_daemon, join, place):
    owl, keys = await join(OwlMeans), []
    for expires in EXPIRIES:
        for change in ("increment", "patch", "set"):
            keys.append(f"{place}{len(keys)}")
            await store(shared_daemon, keys[-1], "5", expires)
            changed = await owl.ask(f"broker.{change}", keys[-1], *([1] if change == "increment" else ["1"]))
            assert changed["revision"] > 1
            await owl.ask("broker.set", keys[-1], "gone soon", {"ttl": 0.01})
    await owl.ask("broker.watch", place + ">")
    await owl.ask("broker.set", place + "last", "v", {"ttl": 0.01})
    while (event := json.loads(await owl.event()))["name"] != "expired" or event["payload"]["key"] != place + "last":
        pass
    assert (await owl.ask("broker.range", place, place + "~"))["entries"] == []


@pytest_twisted.ensureDeferred
async def test_a_key_of_a_reserved_name_can_be_read_and_removed(shared_daemon, join):
    owl, hpkv = await join(OwlMeans), await join(Hpkv)
    for key, remove in (("broker", owl), ("broker.left", hpkv)):
        await store(shared_daemon, key, "old", "0.0")
        assert (await hpkv.get(key))["value"] == "old"
        assert (await hpkv.do(2, key, "new"))["code"] == 403
        assert "forbidden:write" in await owl.failure("broker.set", key, "new")
        assert (key, "old") in await hpkv.range("broker", "broker~")
        if remove is hpkv:
            await hpkv.delete(key)
        else:
            assert (await owl.ask("broker.delete", key))["deleted"] is True
        assert (await hpkv.get(key))["code"] == 404
