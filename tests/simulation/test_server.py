"""The simulated Redis answers as a real one does."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from lupa import lua51
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from txredisapi import ResponseError

from broker.redis import RedisAddress
from broker.redis.connection import Connection
from broker.redis.script import Script
from tests.simulation.commands import CommandError, Data
from tests.simulation.run import run_seed
from tests.simulation.scripts import Scripts, scripts
from tests.simulation.server import glob_pattern
from tests.support.redis_server import RedisServer

ROUNDS, SOAK_ROUNDS = 400, 20_000
NAMES = [b"a", b"b", b"c", b"d"]
NUMBERS = [b"-3", b"0", b"1", b"2", b"7", b"10"]
BOUNDS = [b"-inf", b"+inf", b"(1", b"1", b"(7", b"0"]
LEX = [b"-", b"+", b"[a", b"(b", b"[c", b"[c\xff"]
KEYS = {kind: [b"%s%d" % (kind, number) for number in (1, 2)] for kind in (b"t", b"h", b"s", b"z", b"x")}

# Of each command, its name and where its words are taken from.
COMMANDS: list[tuple[bytes, list[list[bytes]]]] = [
    (b"GET", [KEYS[b"t"]]),
    (b"MGET", [KEYS[b"t"], [*KEYS[b"t"], *KEYS[b"h"]]]),
    (b"SET", [KEYS[b"t"], NUMBERS]),
    (b"SET", [KEYS[b"t"], NUMBERS, [b"EX"], [b"1000"]]),
    (b"INCR", [KEYS[b"t"]]),
    (b"INCRBY", [KEYS[b"t"], NUMBERS]),
    (b"DEL", [[*KEYS[b"t"], *KEYS[b"h"], *KEYS[b"s"], *KEYS[b"z"], *KEYS[b"x"]]]),
    (b"EXPIRE", [[*KEYS[b"t"], *KEYS[b"h"]], [b"0", b"1000"]]),
    (b"PERSIST", [[*KEYS[b"t"], *KEYS[b"h"]]]),
    (b"EXISTS", [[*KEYS[b"t"], *KEYS[b"h"]]]),
    (b"HGET", [KEYS[b"h"], NAMES]),
    (b"HMGET", [KEYS[b"h"], NAMES, NAMES]),
    (b"HLEN", [KEYS[b"h"]]),
    (b"HEXISTS", [KEYS[b"h"], NAMES]),
    (b"HSET", [KEYS[b"h"], NAMES, NUMBERS]),
    (b"HSETNX", [KEYS[b"h"], NAMES, NUMBERS]),
    (b"HDEL", [KEYS[b"h"], NAMES]),
    (b"HINCRBY", [KEYS[b"h"], NAMES, NUMBERS]),
    (b"SADD", [KEYS[b"s"], NAMES]),
    (b"SREM", [KEYS[b"s"], NAMES]),
    (b"SISMEMBER", [KEYS[b"s"], NAMES]),
    (b"SCARD", [KEYS[b"s"]]),
    (b"ZADD", [KEYS[b"z"], NUMBERS, NAMES]),
    (b"ZADD", [KEYS[b"z"], [b"NX", b"XX", b"GT"], NUMBERS, NAMES]),
    (b"ZREM", [KEYS[b"z"], NAMES]),
    (b"ZSCORE", [KEYS[b"z"], NAMES]),
    (b"ZCARD", [KEYS[b"z"]]),
    (b"ZCOUNT", [KEYS[b"z"], BOUNDS, BOUNDS]),
    (b"ZRANGE", [KEYS[b"z"], [b"0", b"1", b"-2"], [b"-1", b"0", b"2", b"-9"]]),
    (b"ZRANGE", [KEYS[b"z"], [b"0"], [b"-1"], [b"WITHSCORES"]]),
    (b"ZRANGEBYSCORE", [KEYS[b"z"], BOUNDS, BOUNDS]),
    (b"ZRANGEBYSCORE", [KEYS[b"z"], BOUNDS, BOUNDS, [b"WITHSCORES"], [b"LIMIT"], [b"0", b"1"], [b"0", b"2", b"-1"]]),
    (b"ZREMRANGEBYSCORE", [KEYS[b"z"], BOUNDS, BOUNDS]),
    (b"ZRANGEBYLEX", [[b"lex"], LEX, LEX, [b"LIMIT"], [b"0", b"1"], [b"0", b"2", b"-1"]]),
    (b"ZADD", [[b"lex"], [b"0"], NAMES]),
    (b"XADD", [KEYS[b"x"], [b"1-0", b"2-0", b"3-0", b"5-0", b"9-0"], [b"e"], NUMBERS]),
    (b"XLEN", [KEYS[b"x"]]),
    (b"XRANGE", [KEYS[b"x"], [b"-", b"2", b"3-0"], [b"+", b"5", b"2-0"], [b"COUNT"], [b"1", b"3"]]),
    (b"XREVRANGE", [KEYS[b"x"], [b"+", b"5", b"2-0"], [b"-", b"2", b"3-0"], [b"COUNT"], [b"1", b"3"]]),
    (b"XTRIM", [KEYS[b"x"], [b"MINID"], [b"2-0", b"4", b"9-0"]]),
    (b"XTRIM", [KEYS[b"x"], [b"MAXLEN"], [b"0", b"2"]]),
]


@pytest_twisted.async_yield_fixture
async def execute(shared_redis_server: RedisServer) -> AsyncIterator[Any]:
    """What executes a command on a real, empty server."""
    opened: Deferred[None] = Deferred()

    async def nothing(_: object) -> None:
        """Prepare nothing."""

    connection = Connection(
        RedisAddress.parse(shared_redis_server.url),
        reactor,
        purpose="a flush",
        prepare=nothing,
        opened=lambda: opened.callback(None),
        closed=lambda: None,
    )
    connection.start()
    await opened
    await connection.protocol.execute_command(b"FLUSHALL")
    yield connection.protocol.execute_command
    await connection.stop()


async def answer(execute: Any, words: list[bytes]) -> Any:
    """Return a reply, and of a refusal the word it begins with."""
    try:
        return await execute(*words)
    except ResponseError as error:
        return str(error).split()[0]


def simulated_answer(data: Data, words: list[bytes]) -> Any:
    try:
        return data.execute(*words)
    except CommandError as error:
        return str(error).split()[0]


@pytest_twisted.ensureDeferred
async def test_commands_reply_as_those_of_a_real_server(execute: Any, soak: bool) -> None:
    data, chance = Data(lambda: 0.0, lambda *_: 0), random.Random(20)
    for _ in range(SOAK_ROUNDS if soak else ROUNDS):
        name, places = chance.choice(COMMANDS)
        words = [name, *(chance.choice(place) for place in places)]
        assert simulated_answer(data, words) == await answer(execute, words), words


@pytest_twisted.ensureDeferred
async def test_scripts_find_the_same_library_as_on_a_real_server(execute: Any) -> None:
    text = b"""
        redis.call('SET', 'k', 1.5); redis.call('HSET', 'h', 'f', 3)
        local bad, why = pcall(redis.call, 'INCR', 'h')
        return {redis.call('GET', 'k'), redis.call('GET', 'none'), redis.sha1hex('x'), 1.9, true, false, {1, {2, 'z'}},
                bad, {1, nil, 3}, ARGV[1], #ARGV, string.format('%.0f', 2^53), tostring(redis.call('SET', 'k', 'v').ok)}
    """
    expected = await execute(b"EVAL", text, b"0", b"one", b"two\x00\xff")
    for runner in (scripts(), Scripts(lua51)):
        data = Data(lambda: 0.0, lambda *_: 0)
        assert runner.run(runner.load(text), data, (b"one", b"two\x00\xff")) == expected


def test_runs_are_the_same_with_the_lua_that_redis_has(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = [run_seed(seed).digest for seed in range(8)]
    slower = Scripts(lua51)
    monkeypatch.setattr("tests.simulation.server.scripts", lambda: slower)
    assert [run_seed(seed).digest for seed in range(8)] == digests


def test_long_replies_are_whole() -> None:
    text = b"local found = {} for number = 1, 5000 do found[number] = number end return {found, 'end'}"
    assert scripts().run(scripts().load(text), Data(lambda: 0.0, lambda *_: 0), ()) == [list(range(1, 5001)), b"end"]


def test_the_scripts_of_the_broker_use_commands_that_are_simulated() -> None:
    import re

    data = Data(lambda: 0.0, lambda *_: 0)
    for script in (
        Script("broker.buses.redis_scripts", "names"),
        Script("broker.stores.redis_scripts", "state", "clock", "logs", "keys", "jobs"),
    ):
        for name in re.findall(rb"call\('([A-Z]+)'", script.text):
            assert name in data.commands


@pytest.mark.parametrize(
    ("glob", "channel", "match"),
    [
        (b"a.*", b"a.b.c", True),
        (b"a.*", b"b.a", False),
        (b"a\\*", b"a*", True),
        (b"a\\*", b"ab", False),
        (b"a?c", b"abc", True),
        (b"a[bc]", b"ac", True),
        (b"a[^b]", b"ab", False),
        (b"*", b"\n\xff", True),
    ],
)
def test_globs_match_as_those_of_a_server(glob: bytes, channel: bytes, match: bool) -> None:
    assert bool(glob_pattern(glob).fullmatch(channel)) is match
