"""What clients make the daemon hold: counted by class and address, bounded by closing the largest."""

from __future__ import annotations

import attrs
import pytest

from broker.core.memory import SPARED, Account, Memory
from broker.errors import RateLimited
from broker.messages import CloseCode, Event, Request
from broker.sessions import BaseSession
from broker.testing import make_broker, value_of
from tests.support.logs import failures_of


@attrs.define(eq=False)
class Holder:
    """Holds in one account, until it is shed."""

    account: Account
    address: str = "192.0.2.1"
    sheds: int = 0

    def hold(self, size: int) -> Holder:
        self.account.hold(self, size)
        return self

    def shed(self) -> None:
        self.sheds += 1
        self.hold(0)


def sheds(*holders: Holder) -> list[int]:
    return [holder.sheds for holder in holders]


def test_what_is_held_no_more_leaves_nothing_behind():
    memory = Memory()
    holders = [Holder(account, f"192.0.2.{number}") for account in memory.accounts.values() for number in range(3)]
    for size in (10, 100_000, 5):
        for holder in holders:
            holder.hold(size)
        assert memory.used == 9 * size
    for holder in holders:
        holder.hold(0)
    assert memory.used == 0
    assert [len(account) + len(account._addresses) + account.used for account in memory.accounts.values()] == [0, 0, 0]
    assert memory.freed == 9 * 100_000


def test_the_addresses_that_one_client_may_choose_have_one_share():
    broker = make_broker(memory_per_address_bytes=1000)
    first, second = (Holder(broker.memory.upload, f"2001:db8::{number}") for number in (1, 2))
    other = Holder(broker.memory.upload, "2001:db8:0:1::1").hold(900)
    first.hold(600)
    second.hold(500)
    assert sheds(first, second, other) == [1, 0, 0]
    for number in range(3):
        broker.memory.unadmitted.hold(Holder(broker.memory.upload, f"2001:db8::{number}"), 10)
    assert len(broker.memory.unadmitted._addresses) == 1


def test_the_largest_of_an_address_is_shed_when_its_share_is_used_up():
    memory = Memory(share=1000)
    small, large, other = (Holder(memory.upload), Holder(memory.upload), Holder(memory.upload, "192.0.2.2"))
    other.hold(900)
    large.hold(700)
    small.hold(301)
    assert sheds(small, large, other) == [0, 1, 0]
    assert (memory.upload.of_address("192.0.2.1"), memory.upload.used) == (301, 1201)


def test_of_two_that_hold_as_much_the_older_is_shed():
    memory = Memory(share=1000)
    holders = [Holder(memory.held).hold(300) for _ in range(4)]
    assert sheds(*holders) == [1, 1, 0, 0]


def test_those_who_have_no_address_have_no_share_of_their_own():
    memory = Memory(share=1000)
    holders = [Holder(memory.held, "").hold(900) for _ in range(4)]
    assert sheds(*holders) == [0, 0, 0, 0]


def test_a_little_that_waits_to_be_sent_counts_for_no_share():
    memory = Memory(share=2 * SPARED)
    holders = [Holder(memory.send_queue).hold(SPARED) for _ in range(10)]
    large = Holder(memory.send_queue).hold(2 * SPARED + 1)
    assert sheds(*holders, large) == [0] * 10 + [1]
    assert memory.used == 10 * SPARED


def test_a_class_has_a_part_of_the_limit():
    memory = Memory(limit=4000)
    first, second = (Holder(memory.upload, f"192.0.2.{number}").hold(1001) for number in (1, 2))
    assert sheds(first, second) == [1, 0]
    assert not memory.crowded


def test_the_largest_of_all_classes_is_shed_above_the_limit():
    memory = Memory(limit=4000)
    sending, held, upload = (Holder(memory.send_queue), Holder(memory.held, "::1"), Holder(memory.upload, "::2"))
    sending.hold(2000)
    held.hold(1000)
    upload.hold(1000)
    assert sheds(sending, held, upload) == [0, 0, 0]
    upload.hold(1001)
    assert sheds(sending, held, upload) == [1, 0, 0]


def test_one_that_can_not_be_shed_is_forgotten(logged):
    class Broken(Holder):
        def shed(self) -> None:
            raise RuntimeError("a bug")

    memory = Memory(share=1000)
    broken = Broken(memory.upload)
    other = Holder(memory.upload)
    other.hold(100)
    broken.hold(1000)
    assert [type(failure) for failure in failures_of(logged)] == [RuntimeError]
    assert (memory.used, other.sheds) == (100, 0)


VERBS = {
    "publish": lambda peer: peer.publish("t", "n", b"1"),
    "post": lambda peer: peer.post("t", "n", b"1"),
    "set": lambda peer: peer.set("k", b"1"),
    "patch": lambda peer: peer.patch("k", b"1"),
    "increment": lambda peer: peer.increment("k", b"1"),
    "call": lambda peer: peer.call("1", Request("", "m", "", "", b"[]")),
    "request": lambda peer: peer.request("1", Request("", "", "", "", b"1"), "t"),
    "enqueue": lambda peer: value_of(peer.enqueue("", b"1")),
}


@pytest.mark.parametrize("verb", VERBS)
def test_nobody_may_publish_while_memory_is_short(verb):
    broker = make_broker(memory_limit_bytes=1000)
    peer = broker.attach("test", "192.0.2.1")
    holder = Holder(broker.memory.send_queue).hold(801)
    assert broker.ready() == [broker.memory.reason]
    with pytest.raises(RateLimited, match="limit memory"):
        VERBS[verb](peer)
    value_of(peer.get("k"))
    holder.hold(800)
    assert broker.ready() == []
    value_of(peer.set("k", b"1"))


def test_a_peer_for_which_too_much_is_kept_is_disconnected_and_leaves_nothing():
    broker = make_broker(memory_per_address_bytes=1000)
    peer, other, closed = broker.attach("test", "::1"), broker.attach("test", "::1"), []
    peer.bind(BaseSession(), lambda code, reason: closed.append(code))
    peer.hold(600)
    other.hold(300)
    other.hold(200)
    assert (closed, broker.memory.held.used) == ([CloseCode.TRY_AGAIN_LATER], 500)
    other.close()
    peer.close()
    peer.hold(-600)
    peer.hold(600)
    assert broker.memory.used == 0


def test_renderings_of_a_large_event_are_kept_for_a_few_only():
    event, made = Event("t", "n", b"x" * 1_000_000), []

    def encode(event, word):
        made.append(word)
        return word.encode()

    for word in [*"abcdef", *"abcdef"]:
        assert event.render(encode, word) == word.encode()
    assert "".join(made) == "abcdefef"


def test_renderings_of_a_small_event_are_kept_for_all():
    event, made = Event("t", "n", b"x" * 1000), []

    def encode(event, word):
        made.append(word)
        return word

    words = [str(number) for number in range(1000)]
    for word in words * 2:
        event.render(encode, word)
    assert made == words
