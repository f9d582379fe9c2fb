"""The memory of the regular expressions that tokens bring, and in whose name it is counted."""

from __future__ import annotations

import gc

import attrs
import pytest
from twisted.internet.defer import Deferred, ensureDeferred

from broker.config.settings import Settings
from broker.errors import TooLarge
from broker.messages import HttpRequest
from broker.testing import FakeLink, make_broker
from protocols.hpkv import dialect, programs
from protocols.hpkv.javascript import to_re2
from protocols.hpkv.programs import SIZES, search
from tests.protocols.hpkv_client import Bench

LARGE = "^[a-z]{200}[0-9]{200}"
MANY = "(.{1,10}){1,10}"


@attrs.define(eq=False)
class User:
    held: int = 0

    def hold(self, change: int) -> None:
        self.held += change


@pytest.fixture
def bench():
    return Bench(make_broker(), dialect(Settings()))


@pytest.mark.parametrize(
    ("expression", "size"),
    [("^user:[0-9]+:.*$", SIZES[0]), (LARGE, SIZES[1]), (r"^[\p{L}\p{N}]+$", SIZES[2]), (to_re2(MANY), SIZES[3])],
)
def test_a_program_has_no_more_memory_than_it_needs(expression, size):
    assert search(expression).max_bytes == size


def test_what_needs_too_much_is_refused():
    for expression in ("(?:.{100}){90}", "|".join(f"{to_re2(MANY)}{number}" for number in range(4))):
        with pytest.raises(TooLarge):
            search(expression)


def test_the_library_keeps_no_program(monkeypatch):
    import re2

    search("^kept?$")
    assert re2._Regexp._make.cache_info().currsize == 0


def test_one_of_the_users_is_counted_until_the_last_has_left():
    program, users = search("^shared$"), [User() for _ in range(4)]
    assert search("^shared$") is program
    for user in users:
        program.join(user)
    assert [user.held for user in users] == [SIZES[0], 0, 0, 0]
    program.leave(users[1])
    program.leave(users[0])
    assert [user.held for user in users] == [0, 0, 0, SIZES[0]]
    program.leave(users[3])
    assert [user.held for user in users] == [0, 0, SIZES[0], 0]
    program.leave(users[2])
    program.leave(User())  # who never joined
    assert [user.held for user in users] == [0] * 4
    program.join(users[1])
    assert [user.held for user in users] == [0, SIZES[0], 0, 0]


def test_a_program_that_nobody_has_is_gone():
    search("^nobody$")
    gc.collect()
    assert "^nobody$" not in programs._shared


def test_the_memory_of_the_patterns_of_a_token_is_counted_while_it_is_in_use(bench):
    held = bench.broker.parts.memory.held
    one = bench.holder(patterns=["^a[0-9]", "b*"], access="^a.*")
    assert held.used == 2 * SIZES[0]
    same = bench.holder(patterns=["^a[0-9]"])
    assert held.used == 2 * SIZES[0]
    one.leave()
    assert held.used == SIZES[0]
    same.leave()
    bench.holder(patterns=["no expression*"], keys=["k"])
    bench.api()
    assert held.used == 0
    assert len(held) == 0


def test_whose_patterns_need_too_much_memory_together_loses_a_connection():
    bench = Bench(
        make_broker(memory_limit_bytes=20 * SIZES[0], memory_per_address_bytes=0),
        dialect(Settings()),
    )
    small = bench.holder(access="^small$")
    large = [bench.holder(access=f"{LARGE}{number}") for number in range(3)]
    assert sum(client.link.closed is not None for client in large) >= 1
    assert small.link.closed is None
    assert bench.broker.parts.memory.held.used <= 10 * SIZES[0]


def test_who_leaves_during_the_handshake_leaves_nothing(bench, monkeypatch):
    token = bench.token(access="^leaves$")
    waiting: Deferred[None] = Deferred()
    peer = bench.broker.attach("hpkv", "127.0.0.1")
    monkeypatch.setattr(type(peer), "listening", lambda self: waiting)
    session = ensureDeferred(
        bench.dialect.session(peer, FakeLink(HttpRequest("GET", "/ws", f"token={token}", {}), max_message_bytes=1000))
    )
    assert bench.broker.parts.memory.held.used == SIZES[0]
    session.addErrback(lambda _: peer.close())
    session.cancel()
    assert bench.broker.parts.memory.held.used == 0
    assert search("(?:^leaves$)")._payer is None
