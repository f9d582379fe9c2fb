"""One client can not have all the calls and polls there may be."""

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from broker.access.principals import Access
from broker.core.keys import CHANGES_AT_ONCE, RANGES_AT_ONCE
from broker.core.shares import READS_AT_ONCE, READS_OF_ALL, Shares
from broker.errors import RateLimited
from broker.messages import Request
from broker.testing import make_broker, value_of
from tests.support.logs import lines_of
from tests.support.peers import attach, call, perform

KEYS = {"ann": "ann-key", "bob": "bob-key"}


def peer_of(broker, key="", address="127.0.0.1"):
    peer = broker.attach("test", address)
    if key:
        peer.identify(key)
    return peer


def poll(peer):
    return Deferred.fromCoroutine(peer.poll("ch", 0, 10, 5.0))


def refused(act):
    try:
        act()
    except RateLimited as error:
        return error.name
    return ""


def test_a_share_ends_with_the_last_who_holds_it():
    shares = Shares()
    held, again = shares.of("ann"), shares.of("ann")
    assert held is again
    del held, again
    assert len(shares) == 0


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        (("ann-key", "10.0.0.1"), ("bob-key", "10.0.0.1")),
        (("", "10.0.0.1"), ("", "10.0.0.2")),
        (("s", "10.0.0.1"), ("s", "10.0.0.2")),
        (("", "2001:db8::1"), ("", "2001:db8:0:1::1")),
    ],
)
def test_polls_of_one_client_leave_room_for_others(mine, other):
    broker = make_broker(access=Access("optional", secrets=("s",), keys=KEYS), max_waiting_polls=4)
    polls = [poll(peer_of(broker, *mine)) for _ in range(2)]
    with pytest.raises(RateLimited, match="polls"):
        value_of(poll(peer_of(broker, *mine)))
    polls.append(poll(peer_of(broker, *other)))
    assert broker.channels.waiting == 3
    polls[0].addErrback(lambda _: None).cancel()
    polls.append(poll(peer_of(broker, *mine)))
    for waiting in polls:
        waiting.addErrback(lambda _: None).cancel()
    assert broker.channels.waiting == 0


def test_a_named_client_has_one_share_whatever_its_address():
    broker = make_broker(access=Access("required", keys=KEYS), max_waiting_polls=2)
    waiting = poll(peer_of(broker, "ann-key", "10.0.0.1"))
    with pytest.raises(RateLimited):
        value_of(poll(peer_of(broker, "ann-key", "10.0.0.2")))
    waiting.addErrback(lambda _: None).cancel()


def test_the_share_of_polls_is_a_setting():
    broker = make_broker(max_waiting_polls=4, max_waiting_polls_per_client=3)
    polls = [poll(peer_of(broker)) for _ in range(3)]
    with pytest.raises(RateLimited):
        value_of(poll(peer_of(broker)))
    for waiting in polls:
        waiting.cancel()
        waiting.addErrback(lambda _: None)


def test_calls_of_one_client_leave_room_for_others():
    broker = make_broker(access=Access("required", keys=KEYS), max_calls=4)
    callee, *anns, bob = (attach_as(broker, key) for key in ("bob-key", "ann-key", "ann-key", "ann-key", "bob-key"))
    perform(callee, "m")
    assert [refused(lambda ann=ann: call(ann, "m")) for ann in anns] == ["", "", "calls"]
    assert refused(lambda: call(bob, "m")) == ""
    callee.answer(callee.session.served[0].id, b"1")
    assert refused(lambda: call(anns[2], "m")) == ""
    anns[1].close()
    assert refused(lambda: call(anns[2], "m")) == ""


def test_calls_of_all_have_a_limit():
    clock = Clock()
    broker = make_broker(clock, max_calls=2, max_calls_per_client=2)
    callee, first, second = attach(broker), attach(broker), attach(broker)
    perform(callee, "m")
    call(first, "m")
    call(second, "m")
    assert refused(lambda: call(second, "m")) == "calls"
    clock.advance(6)  # they have timed out
    assert broker.calls.pending == 0
    assert refused(lambda: call(second, "m")) == ""


def test_streamed_requests_count_as_calls_do():
    broker = make_broker(max_calls=2)
    taker, asker = attach(broker), attach(broker)
    taker.acknowledge("*")

    def ask():
        asker.request("ref", Request("", "", "", "", b"null"))

    assert [refused(ask), refused(ask)] == ["", "calls"]


def attach_as(broker, key):
    peer = attach(broker)
    peer.identify(key)
    return peer


def test_who_has_too_much_is_told_in_the_log_with_the_setting(logged):
    broker = make_broker(max_waiting_polls=2, max_calls=2, max_pending_calls=1)
    waiting = poll(peer_of(broker))
    with pytest.raises(RateLimited):
        value_of(poll(peer_of(broker)))
    callee, first, second = attach(broker), attach(broker), attach(broker)
    perform(callee, "m")
    call(first, "m")
    assert [refused(lambda: call(first, "m")), refused(lambda: call(second, "m"))] == ["pending", "calls"]
    assert [line.rpartition(" ")[2] for line in lines_of(logged) if "RATE_LIMITED" in line] == [
        "TXBROKER_MAX_WAITING_POLLS_PER_CLIENT",
        "TXBROKER_MAX_PENDING_CALLS",
        "TXBROKER_MAX_CALLS_PER_CLIENT",
    ]
    waiting.addErrback(lambda _: None).cancel()


def test_of_all_clients_together_some_read_a_range_at_once(monkeypatch):
    keys = {f"k{number}": f"key-{number}" for number in range(40)}
    broker = make_broker(Clock(), Access("required", keys=keys))
    begun: list[Deferred[list[object]]] = []

    async def read(*words, **more):
        begun.append(Deferred())
        return await begun[-1]

    monkeypatch.setattr(broker.keys, "range", read)
    asked = [Deferred.fromCoroutine(peer_of(broker, key).range("", "~", 10)) for key in keys.values()]
    assert len(begun) == RANGES_AT_ONCE < len(asked)
    for reading in begun:  # which grows
        reading.callback([])
    assert [value_of(each) for each in asked] == [[]] * 40


def test_of_all_clients_together_few_read_the_changes_they_have_missed_at_once(monkeypatch):
    broker = make_broker(Clock())
    begun: list[Deferred[object]] = []

    async def changes(after):
        begun.append(Deferred())
        return await begun[-1]

    monkeypatch.setattr(broker.keys, "changes", changes)
    peers = [peer_of(broker, "", f"10.0.0.{number}") for number in range(9)]
    asked = [Deferred.fromCoroutine(peer.changes(">", broker.store.epoch, 0)) for peer in peers]
    assert len(begun) == CHANGES_AT_ONCE
    for reading in begun:  # which grows
        reading.callback([])
    assert [value_of(each) for each in asked] == [[]] * 9


def reads_of(peer):
    """Return what reads stored events, jobs or changes of keys, each a call."""
    return {
        "read": lambda: peer.read("ch", 0, 100),
        "latest": lambda: peer.latest("ch", 100),
        "last": lambda: peer.last("ch", 100),
        "place_of_last": lambda: peer.place_of_last("ch", 100),
        "page": lambda: peer.page("ch"),
        "read_index": lambda: peer.read_index("i", "x", lambda event, field: None),
        "dead_jobs": lambda: peer.dead_jobs("q", 100),
    }


@pytest.mark.parametrize("verb", list(reads_of(None)))
def test_what_may_be_long_is_read_for_some_at_once(monkeypatch, verb):
    keys = {f"k{number}": f"key-{number}" for number in range(3)}
    broker = make_broker(Clock(), Access("required", keys=keys))
    value_of(Deferred.fromCoroutine(peer_of(broker, "key-0").create_index("i", "ch", "type")))
    value_of(peer_of(broker, "key-0").post("ch", "T", b"1"))
    begun: list[Deferred[object]] = []

    def read(*words):
        begun.append(Deferred())
        return begun[-1]

    for place, name in ((broker.store, "read"), (broker.store, "latest"), (broker.store.jobs, "dead")):
        monkeypatch.setattr(place, name, read)
    if verb == "read_index":
        monkeypatch.setattr(broker.parts.indices, "_advance", lambda *words: succeed(None))
        monkeypatch.setattr(broker.parts.indices, "_ids", lambda log: succeed([1]))
    peers = [peer_of(broker, key) for key in keys.values() for _ in range(20)]
    for number, peer in enumerate(peers):
        asked = reads_of(peer)[verb]()
        (asked if isinstance(asked, Deferred) else Deferred.fromCoroutine(asked)).addErrback(lambda _: None)
        assert len(begun) <= (READS_AT_ONCE if number < 20 else READS_OF_ALL)
    assert len(begun) == READS_OF_ALL
