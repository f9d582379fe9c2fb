"""What the ACL of a Redis does not permit is known at once, told by its name, and makes a node not ready."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer

from broker.buses import open_bus
from broker.buses.redis_keys import bus_needs
from broker.core.channels import StoreEventSource
from broker.errors import NotDone
from broker.messages import Event, KeyAnnouncement
from broker.redis.rights import ARGUMENTS, KEYLESS, Need, Rights, missing_text, needs_of
from broker.redis.script import Script
from broker.stores import open_store
from broker.stores.redis_keys import KEYS, store_needs
from tests.simulation.scripts import scripts
from tests.support.eventually import eventually
from tests.support.redis_server import DENIED, RedisServer

PAGE = Path(__file__).parents[2] / "docs" / "operations" / "scaling.rst"
STORE_SCRIPT = Script("broker.stores.redis_scripts", "state", "clock", "logs", "keys", "jobs").text
BUS_SCRIPT = Script("broker.buses.redis_scripts", "names").text
TIMELINE = files("broker.stores.redis_scripts").joinpath("timeline.lua").read_bytes()
STORE_NEEDS = store_needs((STORE_SCRIPT, TIMELINE), b"own:", b"own:0/", True)
BUS_NEEDS = bus_needs(BUS_SCRIPT, b"own:", b"own:0/")
ALL = ("+@all", "~*", "&*")


class Pair:
    """A store and a bus that are the user ``me`` of a Redis."""

    def __init__(self, server: RedisServer) -> None:
        self._server, self.heard = server, cast(list[Event], [])
        url = f"redis://me:s@127.0.0.1:{server.port}"
        clock: Any = reactor
        self.store = cast(Any, open_store(url, clock=clock, prefix="own:", announce=True))
        self.bus = cast(Any, open_bus(url, "me", reactor=clock, prefix="own:"))
        self.bus.source, self.bus.deliver = StoreEventSource(self.store), self.heard.append

    async def permit(self, *rules: str) -> None:
        """Change the ACL of the user by *rules*."""
        await self._server.command("ACL", "SETUSER", "me", "on", ">s", *rules)

    def start(self) -> None:
        for part in (self.store, self.bus):
            part.startService()

    async def ready(self) -> None:
        """Wait until both are ready."""
        await eventually(lambda: self.store.ready == self.bus.ready == "")

    async def stop(self) -> None:
        for part in (self.bus, self.store):
            await maybeDeferred(part.stopService)


@pytest_twisted.async_yield_fixture
async def pair(redis_server: RedisServer) -> AsyncIterator[Pair]:
    made = Pair(redis_server)
    yield made
    await made.stop()


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """All that is logged."""
    lines: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def event() -> Event:
    return Event("topic", "kind", b"1")


async def use(pair: Pair) -> None:
    """Do something of each kind, and see that what is published arrives."""
    pair.bus.listen("kv/", prefix=True)
    await pair.bus.claim("name")
    stored = (await pair.store.append("event/topic", event())).id
    assert [each.id for each in await pair.store.read("event/topic", stored - 1, 9)] == [stored]
    await (pair.bus.listening() or pair.store.head(""))
    await pair.store.set("kv", "k", b"1", announcement=KeyAnnouncement("kv/k", "set", 1.0, key="k"))
    await eventually(lambda: len(pair.heard) == 1)


# What is needed is known.


@pytest.mark.parametrize("needs", [STORE_NEEDS, BUS_NEEDS], ids=["store", "bus"])
def test_each_command_of_the_scripts_is_asked_for(needs: list[Need]) -> None:
    text = STORE_SCRIPT + TIMELINE if needs is STORE_NEEDS else BUS_SCRIPT
    words = set(re.findall(rb"'([A-Z]{3,})'", text))
    commands = words & {*ARGUMENTS, *KEYLESS, b"PUBLISH"}
    options = {b"OOM", b"READONLY", b"WITHSCORES", b"LIMIT", b"COUNT", b"MAXLEN", b"MINID", b"NOMKSTREAM"}
    assert words - commands <= options, "a command without arguments to ask for it, or an option of one"
    assert commands | ({b"PING"} if needs is BUS_NEEDS else set()) == {need.words[0] for need in needs if not need.key}


def test_each_key_of_the_scripts_is_asked_for() -> None:
    text = STORE_SCRIPT + TIMELINE
    jobs = files("broker.stores.redis_scripts").joinpath("jobs.lua").read_bytes()
    found = set(re.findall(rb"prefix \.\. '([a-z-]+:?)'", text)) - {b"jobs-", b"probe"}
    found |= {kind + b":" for kind in re.findall(rb"space_key\('([a-z]+)'", text)}
    kinds = re.findall(rb"[^_a-z]key\('([a-z]+)'", jobs) + re.findall(rb"\b[a-z] = '([a-z]+)'", jobs)
    assert kinds
    found |= {b"jobs-%b:" % kind for kind in kinds}
    assert found == set(KEYS)


def test_each_key_of_the_bus_is_asked_for() -> None:
    found = set(re.findall(rb"prefix \.\. '([a-z-]+:?)'", BUS_SCRIPT))
    assert {f"own:{key.decode()}" for key in found} == {need.name for need in BUS_NEEDS if need.key}


@pytest.mark.parametrize("part", ["store", "bus"])
@pytest_twisted.ensureDeferred
async def test_each_command_that_is_not_permitted_is_named(pair: Pair, part: str) -> None:
    await pair.permit(*ALL)
    pair.start()
    await pair.ready()
    protocol = getattr(pair, part)._batcher.connection.protocol
    needs = STORE_NEEDS if part == "store" else BUS_NEEDS
    rights = Rights(needs, Clock())
    for command in sorted({need.words[0].decode() for need in needs if not need.key}):
        await pair.permit(f"-{command}")
        await rights.look(protocol)
        await pair.permit(f"+{command}")
        name = command if command != "PUBLISH" else "PUBLISH to own:0/*"
        assert f"user (NOPERM): {name};" in rights.problem
    await pair.permit("resetchannels", "&other*")
    await rights.look(protocol)
    assert "user (NOPERM): PUBLISH to own:0/*;" in rights.problem
    await pair.permit("&own:0/*")
    await rights.look(protocol)
    assert rights.problem == ""
    rights.stop()


# A node is not ready without it.


@pytest_twisted.ensureDeferred
async def test_who_may_not_read_is_not_ready_from_the_start(
    pair: Pair, redis_server: RedisServer, logged: list[str]
) -> None:
    await pair.permit(*ALL, "-xrange", "-xlen", "-hscan")
    pair.start()
    await eventually(lambda: "does not permit this user (NOPERM): XLEN, XRANGE;" in pair.store.ready)
    await eventually(lambda: "does not permit this user (NOPERM): HSCAN;" in pair.bus.ready)
    assert (await pair.store.append("event/topic", event())).id == 1  # what is permitted is done
    assert len([line for line in logged if "its ACL does not permit" in line]) == 2
    await pair.permit("+xrange", "+xlen", "+hscan")
    await pair.ready()
    assert "the ACL of Redis permits all that is needed" in logged
    await use(pair)
    assert await redis_server.command("KEYS", "own:probe*") == []


@pytest_twisted.ensureDeferred
async def test_who_may_not_read_any_more_is_not_ready_until_it_is_permitted(pair: Pair) -> None:
    await pair.permit(*ALL)
    pair.start()
    await pair.ready()
    await pair.store.append("event/topic", event())
    await pair.permit("-xrange")
    with pytest.raises(NotDone, match=DENIED.pattern):
        await pair.store.read("event/topic", 0, 9)
    await eventually(lambda: "does not permit this user (NOPERM): XRANGE;" in pair.store.ready)
    probed = count_probes(pair.store)
    await eventually(lambda: len(probed) > 1)  # which may write all that they did before
    assert "does not permit this user (NOPERM): XRANGE;" in pair.store.ready
    await pair.permit("+xrange")
    await pair.ready()
    assert len(await pair.store.read("event/topic", 0, 9)) == 1


def count_probes(store: Any) -> list[object]:
    """Return a list that gets something with each probe of *store* that Redis has accepted."""
    accepted, found = store._batcher._accepted, cast(list[object], [])
    store._batcher._accepted = lambda result: (accepted(result), found.append(result))
    return found


@pytest_twisted.ensureDeferred
async def test_who_may_use_some_keys_only_is_told_which_are_missing(pair: Pair) -> None:
    some = [f"~own:{key.decode()}{'*' if key.endswith(b':') else ''}" for key in KEYS if key not in (b"log:", b"heads")]
    bus = {f"~{need.name}" for need in BUS_NEEDS if need.key}
    await pair.permit("+@all", "&*", "~own:probe", *some, *bus)
    pair.start()
    await eventually(lambda: "this user (NOPERM): the key own:log:*, the key own:heads;" in pair.store.ready)
    await eventually(lambda: pair.bus.ready == "")
    await pair.permit("~own:*")
    await pair.ready()


@pytest_twisted.ensureDeferred
async def test_who_may_not_even_begin_is_told_all_that_is_missing(pair: Pair) -> None:
    await pair.permit(*ALL, "-@write")
    pair.start()
    await eventually(lambda: "this user (NOPERM): SET, HDEL, HINCRBY, HSET, INCR, " in pair.store.ready)
    await eventually(lambda: "this user (NOPERM): SET, HDEL, HSET, INCR, " in pair.bus.ready)
    assert " and 1 more; what needs that is refused: see docs/operations/scaling" in pair.store.ready
    await pair.permit("+@all")
    await pair.ready()
    await use(pair)


@pytest_twisted.ensureDeferred
async def test_a_full_redis_is_none_that_does_not_permit(pair: Pair, redis_server: RedisServer) -> None:
    await pair.permit(*ALL)
    pair.start()
    await pair.ready()
    await redis_server.command("CONFIG", "SET", "maxmemory", "1")
    rights = Rights([*STORE_NEEDS, *BUS_NEEDS], Clock())
    await rights.look(pair.store._batcher.connection.protocol)
    assert rights.problem == ""
    rights.stop()


# A server that can be asked, of version 7 on.


@pytest.fixture
def permits() -> Iterator[Callable[[Callable[..., bool]], None]]:
    library = scripts()._lua.globals()[b"redis"]
    before = library[b"acl_check_cmd"]

    def use(check: Callable[..., bool]) -> None:
        library[b"acl_check_cmd"] = check

    yield use
    library[b"acl_check_cmd"] = before


def test_a_server_that_can_be_asked_is_given_nothing_to_do(permits: Callable[..., None]) -> None:
    permits(lambda command, *_: command != b"XRANGE")
    rights = Rights(STORE_NEEDS, Clock())
    data: Any = None  # any command would be an error
    refused = scripts().run(scripts().load(rights._script), data, tuple(rights._words))
    assert [STORE_NEEDS[number - 1].name for number in refused] == ["XRANGE"]


def test_keys_that_may_be_read_only_are_told_so() -> None:
    needs = needs_of([b"GET", b"HGET", b"HDEL"], b"own:", [b"log:", b"heads"], b"")
    log, heads = (([need for need in needs if need.name == name]) for name in ("own:log:*", "own:heads"))
    assert "user (NOPERM): reading the key own:log:*, writing the key own:heads;" in missing_text(
        [log[0], heads[1]], needs
    )
    assert missing_text([], needs) == ""
    every = [need for need in needs if need.key or need.words[0] != b"PUBLISH"]
    assert "user (NOPERM): the key own:probe, the key own:log:*, the key own:heads;" in missing_text(every, needs)


# What the documentation says.


def documented() -> list[str]:
    """Return what the page says of users that are permitted enough."""
    return re.findall(r"ACL SETUSER txbroker on >secret (.+)", PAGE.read_text())


def test_the_documentation_has_users() -> None:
    assert len(documented()) == 3


def test_the_user_with_each_command_by_its_name_has_those_of_the_scripts() -> None:
    (named,) = (rules for rules in documented() if "+xrange" in rules)
    needed = {f"+{need.words[0].decode().lower()}" for need in (*STORE_NEEDS, *BUS_NEEDS) if not need.key}
    others = "select info config|get wait eval evalsha script|load subscribe psubscribe unsubscribe punsubscribe"
    assert {rule for rule in named.split() if rule[0] == "+"} == {*needed, *(f"+{word}" for word in others.split())}


@pytest.mark.parametrize("rules", documented())
@pytest_twisted.ensureDeferred
async def test_the_rights_that_the_documentation_names_are_enough(pair: Pair, rules: str) -> None:
    await pair.permit(*rules.replace("~txbroker:", "~own:").split())
    pair.start()
    await pair.ready()
    await use(pair)
    assert pair.store.ready == pair.bus.ready == ""
