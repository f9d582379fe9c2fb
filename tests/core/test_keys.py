"""Keys: what may be done with them, and who is told."""

import json
from collections import Counter
from typing import Any, cast

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from broker.access.permissions import Permissions, Rule
from broker.access.principals import Access
from broker.buses import open_bus
from broker.buses.local import LocalBus
from broker.core.clocks import WallClock
from broker.core.fan_outs import AT_ONCE, FEW
from broker.core.keys import BYTES_PER_READ, ENTRIES_PER_READ, MAX_LATE, MAX_MERGED, MAX_PREDICATES, Keys, merge
from broker.core.slices import SLICE, slices_of
from broker.errors import Conflict, Denied, Invalid, TooLarge, Unauthenticated, Unavailable
from broker.messages import MAX_EXPIRY, MAX_TIME, Entry, Event
from broker.testing import make_broker, value_of


@attrs.define(eq=False)
class Watcher:
    id: str = "w"
    heard: list = attrs.field(factory=list)
    closed: int | None = None

    def on_event(self, event, pattern):
        self.heard.append(event)

    def disconnect(self, code, reason):
        self.closed = code

    event = on_event

    @property
    def changes(self):
        return [(event.topic, event.name) for event in self.heard]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def broker(clock):
    return make_broker(clock)


@pytest.fixture
def keys(broker):
    return broker.keys


def attach(broker):
    peer = broker.attach("test", "127.0.0.1")
    peer.bind(Watcher())
    return peer


def found(keys, first, last, limit, **options):
    entries = value_of(Deferred.fromCoroutine(keys.range(first, last, limit, **options)))
    return [key for key, _ in entries]


# Merging

MERGED = {
    "replaced and added": ('{"name":"a","value":123}', '{"value":456,"b":1}', '{"name":"a","value":456,"b":1}'),
    "nested objects as a whole": ('{"a":{"x":1}}', '{"a":{"y":2}}', '{"a":{"y":2}}'),
    "null is stored": ('{"a":1}', '{"a":null}', '{"a":null}'),
    "numbers as they were written": ('{"a":1.50}', '{"c":12345678901234567890}', '{"a":1.50,"c":12345678901234567890}'),
    "without blanks": ('{ "a" : [1, 2] }', '{ "b" : { "c" : "x y" } }', '{"a":[1,2],"b":{"c":"x y"}}'),
    "half a character": ('{"a":"\\ud800"}', '{"b":1}', '{"a":"\\ud800","b":1}'),
    "nothing new": ('{"a":1}', "{}", '{"a":1}'),
    "text is appended": ("Hello ", "World!", "Hello World!"),
    "an array is text": ("[1]", "[2]", "[1][2]"),
    "one object is not enough": ('{"a":1}', "x", '{"a":1}x'),
    "numbers are text": ("1", "2", "12"),
    "too deep is text": ("[" * 50_000, "{}", "[" * 50_000 + "{}"),
}  # fmt: skip


@pytest.mark.parametrize(("stored", "patch", "merged"), MERGED.values(), ids=MERGED)
def test_merge(stored, patch, merged):
    assert merge(stored.encode(), patch.encode()) == merged.encode()


def test_objects_with_too_many_members_are_not_merged():
    many = json.dumps({str(number): 1 for number in range(MAX_MERGED - 1)}).encode()
    assert len(json.loads(merge(many, b'{"a":1}'))) == MAX_MERGED
    for stored, patch in ((many, b'{"a":1,"b":1}'), (b'{"a":1,"b":1}', many)):
        with pytest.raises(TooLarge):
            merge(stored, patch)


def test_what_is_appended_to_may_have_very_many_members():
    many = json.dumps({str(number): 1 for number in range(MAX_MERGED + 1)}).encode()
    assert merge(many, b"x") == many + b"x"


objects = st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5) | st.none(), max_size=4)


@given(objects, objects)
def test_merging_objects_is_what_python_does(stored, patch):
    merged = merge(json.dumps(stored).encode(), json.dumps(patch, indent=1).encode())
    assert list(json.loads(merged).items()) == list({**stored, **patch}.items())


# Reading and writing


def test_values_have_a_limit(broker):
    keys = Keys(broker.store, broker.bus, lambda _: None, Clock(), max_bytes=4)
    for failing in (keys.set("k", b"12345"), keys.patch("k", b"12345")):
        with pytest.raises(TooLarge):
            value_of(failing)
    value_of(keys.set("k", b"1234"))
    with pytest.raises(TooLarge):
        value_of(keys.patch("k", b"5"))
    assert value_of(keys.get("k")).value == b"1234"


def test_a_range_is_read_to_its_end_in_several_steps(keys):
    names = [f"k{number:04}" for number in range(3 * ENTRIES_PER_READ + 5)]
    for name in names:
        keys.set(name, b"v")
    assert found(keys, "k", "l", 10_000) == names
    assert found(keys, "k0003", "k0007", 10_000) == names[3:8]
    assert found(keys, "k", "l", ENTRIES_PER_READ) == names[:ENTRIES_PER_READ]
    assert found(keys, "k", "l", 10_000, predicate=lambda key: key.endswith("9")) == names[9::10]
    assert found(keys, "k", "l", 7, predicate=lambda key: key.endswith("9")) == names[9:70:10]
    assert found(keys, "l", "k", 10) == []


def slowly(clock, asked, matching=()):
    """Return a predicate that takes as long as a slice."""

    def predicate(key):
        asked.append(key)
        clock.rightNow += SLICE
        return key in matching

    return predicate


def turns_between(clock, asked, upto):
    """Return how many predicates were asked each time that other work got its turn."""
    turns = []

    def other():
        turns.append(len(asked))
        if len(asked) < upto:
            clock.callLater(0, other)

    other()
    clock.pump([0] * upto)
    return turns


def test_a_search_lets_others_have_their_turn_in_time(keys, clock):
    for number in range(5):
        keys.set(f"k{number}", b"v")
    asked = []
    search = Deferred.fromCoroutine(keys.range("a", "z", 10, predicate=slowly(clock, asked)))
    assert turns_between(clock, asked, 5) == [1, 2, 3, 4, 5]
    assert value_of(search) == []


def test_many_searches_share_the_time_of_one(keys, clock):
    keys.set("k0", b"v")
    keys.set("k1", b"v")
    asked = []
    searches = [Deferred.fromCoroutine(keys.range("a", "z", 9, predicate=slowly(clock, asked))) for _ in range(20)]
    assert turns_between(clock, asked, 40) == list(range(20, 41))
    assert [value_of(search) for search in searches] == [[]] * 20


def test_a_search_that_is_given_up_leaves_nothing_behind(keys, clock):
    keys.set("k0", b"v")
    keys.set("k1", b"v")
    search = Deferred.fromCoroutine(keys.range("a", "z", 10, predicate=slowly(clock, [])))
    search.addErrback(lambda failure: failure.trap(CancelledError)).cancel()
    assert [call for call in clock.getDelayedCalls() if call.getTime() <= clock.seconds()] == []


def test_large_values_are_read_few_at_once(keys, broker, monkeypatch):
    for number in range(6):
        keys.set(f"k{number}", b"v" * (BYTES_PER_READ // 2))
    read, sizes = broker.store.range, []

    def counting(*args):
        entries = read(*args)
        return entries.addCallback(lambda found: sizes.append(len(found)) or found)

    monkeypatch.setattr(broker.store, "range", counting)
    assert len(found(keys, "a", "z", 10)) == 6
    assert sizes == [2, 2, 2, 0]


def test_a_range_reads_no_more_than_it_was_asked_for(broker, keys, monkeypatch):
    for number in range(2 * ENTRIES_PER_READ):
        keys.set(f"k{number:04}", b"v")
    asked, read = [], broker.store.range
    monkeypatch.setattr(broker.store, "range", lambda *words: asked.append(words[3]) or read(*words))
    assert len(found(keys, "k", "l", 2)) == 2
    assert len(found(keys, "k", "l", ENTRIES_PER_READ + 3)) == ENTRIES_PER_READ + 3
    assert len(found(keys, "k", "l", 2, predicate=lambda key: True)) == 2
    assert asked == [2, ENTRIES_PER_READ, 3, ENTRIES_PER_READ]


def test_a_range_ends_when_it_has_enough_but_not_before_the_second(keys):
    for name in "abcd":
        keys.set(name, b"12345")
    assert found(keys, "a", "z", 10, max_bytes=11) == ["a", "b"]
    assert found(keys, "a", "z", 10, max_bytes=12) == ["a", "b", "c"]
    assert found(keys, "a", "z", 10, max_bytes=1) == ["a", "b"]


def test_a_key_may_hold_any_character(keys):
    names = ["a", "a\0", "a\0\0", "a\n", "ä", "\uffff", "\U0001f600"]
    for name in names:
        keys.set(name, b"v")
    assert found(keys, "a", "\U0010ffff", 100) == names
    assert found(keys, "a\0", "a\n", 100) == names[1:4]


def test_a_key_stays_unless_it_is_told_to_expire(broker, keys):
    assert value_of(keys.set("k", b"v")).expires == 0.0
    assert value_of(attach(broker).set("k", b"v")).expires == 0.0
    assert value_of(keys.set("k", b"v", expires=5.0)).expires == 5.0


@pytest.mark.parametrize("expires", [-1.0, MAX_EXPIRY + 1, MAX_TIME, 1e306, float("inf"), float("nan")])
def test_a_key_can_not_expire_when_there_is_no_such_time(keys, expires):
    with pytest.raises(Invalid, match="expires"):
        value_of(keys.set("k", b"v", expires=expires))
    assert value_of(keys.get("k")) is None
    assert value_of(keys.set("k", b"v", expires=MAX_EXPIRY)).expires == MAX_EXPIRY


def test_a_write_that_fails_tells_nobody(keys, broker):
    watcher = Watcher()
    keys.watch(watcher, lambda key: True)
    value_of(keys.set("k", b"x"))
    with pytest.raises(Conflict):
        value_of(keys.set("k", b"y", revision=7))
    with pytest.raises(Invalid):
        value_of(keys.increment("k", b"1"))
    assert value_of(keys.delete("other")) is False
    broker.stopService()
    with pytest.raises(Unavailable):
        value_of(keys.set("k", b"y"))
    assert watcher.changes == [("kv/k", "set")]


# Watching


def test_each_change_is_told_once_to_each_watcher(keys):
    both, name, other, nobody = Watcher(), Watcher(), Watcher(), Watcher()
    keys.watch(both, lambda key: key.startswith("a"), ["a", "ab"])
    keys.watch(name, None, ["a"])
    keys.watch(other, lambda key: key == "b")
    keys.watch(nobody, None, [])
    for key in ("a", "ab", "ac", "b"):
        keys.set(key, b"v")
    keys.delete("a")
    assert both.changes == [("kv/a", "set"), ("kv/ab", "set"), ("kv/ac", "set"), ("kv/a", "delete")]
    assert name.changes == [("kv/a", "set"), ("kv/a", "delete")]
    assert other.changes == [("kv/b", "set")]
    assert nobody.changes == []


def test_one_question_serves_all_who_share_it(keys):
    asked = []
    watchers = [Watcher() for _ in range(3)]
    for watcher in watchers:
        keys.watch(watcher, asked.append)
    keys.watch(Watcher(), lambda key: False)
    keys.set("k", b"v")
    assert asked == ["k"]


def test_patterns_are_watched_beside_each_other(keys):
    watcher = Watcher()
    for pattern in ("a.*", "a.b", "a.b", "c.>"):
        keys.watch_pattern(watcher, pattern)
    keys.watch_pattern(watcher, "d.*", lambda key: key != "d.secret")
    for key in ("a.b", "a", "c.d.e", "d.secret", "d.open"):
        keys.set(key, b"v")
    keys.unwatch_pattern(watcher, "a.*")
    keys.unwatch_pattern(watcher, "never")
    keys.set("a.c", b"v")
    assert watcher.changes == [("kv/a.b", "set"), ("kv/c.d.e", "set"), ("kv/d.open", "set")]
    keys.leave(watcher)
    assert keys._patterns.count == 0
    assert keys._patterns_of == {}


def test_a_change_that_nobody_watches_asks_no_pattern_of_another_branch(keys):
    for client in range(5):
        watcher = Watcher()
        for number in range(100):
            keys.watch_pattern(watcher, f"a.*.b{number}.c{client}")
    before = keys._patterns.visited
    keys.set("a.q.zz", b"v")
    keys.set("a.q.zz", b"v")
    assert keys._patterns.visited - before == 3  # the root, a, *


def test_many_slow_predicates_let_others_have_their_turn(keys, clock):
    fast, slow, asked = Watcher(), [Watcher() for _ in range(MAX_PREDICATES + 1)], []
    for watcher in slow:
        keys.watch(watcher, slowly(clock, asked, ("k", "l")))
    keys.watch(fast, None, ["k", "l"])
    keys.set("k", b"v")
    keys.set("l", b"v")
    both = 2 * len(slow)
    assert turns_between(clock, asked, both) == list(range(1, both + 1))
    clock.pump([0] * 3)
    for watcher in (fast, *slow):
        assert watcher.changes == [("kv/k", "set"), ("kv/l", "set")]
    assert not keys._late


def test_the_slowest_predicate_is_dropped_when_too_many_changes_wait_for_it(keys, clock):
    slow, others = Watcher(), [Watcher() for _ in range(MAX_PREDICATES)]
    keys.watch(slow, slowly(clock, []))
    for index, watcher in enumerate(others):
        keys.watch(watcher, lambda key, index=index: True)
    for _ in range(MAX_LATE + 2):
        keys.set("k", b"v")
    clock.pump([0] * 5)
    assert slow.closed == 1013
    assert [len(watcher.changes) for watcher in others] == [MAX_LATE + 2] * MAX_PREDICATES


@pytest.mark.parametrize("pattern", ["k", "k*"])
def test_of_very_many_who_watch_a_key_so_many_get_a_change_in_each_iteration_of_the_loop(keys, clock, pattern):
    watchers = [Watcher() for _ in range(FEW + 1)]
    for watcher in watchers:
        keys.watch_pattern(watcher, pattern)
    value_of(keys.set("k", b"1"))
    first, last = watchers[0], watchers[-1]
    assert sum(len(watcher.heard) for watcher in watchers) == AT_ONCE
    value_of(keys.delete("k"))
    keys.watch_pattern(last, "other")
    value_of(keys.set("other", b"1"))
    keys.leave(watchers[-2])
    assert last.changes == [("kv/k", "set"), ("kv/k", "delete"), ("kv/other", "set")]
    assert first.changes == [("kv/k", "set")]
    clock.pump([0] * 10)
    assert all(watcher.changes == [("kv/k", "set"), ("kv/k", "delete")] for watcher in watchers[:-2])
    assert watchers[-2].heard == []


def test_expired_keys_are_announced_in_slices(keys, clock, monkeypatch):
    watcher = Watcher()
    keys.watch_pattern(watcher, ">", slowly(clock, [], ("k0", "k1", "k2")))
    for number in range(3):
        value_of(keys.set(f"k{number}", b"v", expires=clock.seconds() + 1))
    watcher.heard.clear()
    clock.rightNow += 2
    before = slices_of(clock).pauses
    done = Deferred.fromCoroutine(keys.expire())
    assert not done.called
    clock.pump([0] * 3)
    assert value_of(done) == 3
    assert slices_of(clock).pauses - before == 2
    assert watcher.changes == [(f"kv/k{number}", "expired") for number in range(3)]


def test_what_is_set_again_is_announced_after_its_end(keys, clock):
    watcher, answered = Watcher(), []
    keys.watch_pattern(watcher, ">", slowly(clock, [], ("k0", "k1")))
    for number in range(2):
        value_of(keys.set(f"k{number}", b"v", expires=clock.seconds() + 1))
    watcher.heard.clear()
    clock.rightNow += 2
    expiring = Deferred.fromCoroutine(keys.expire())
    keys.set("k1", b"w").addCallback(lambda _: answered.extend(watcher.changes))
    assert answered == []
    clock.pump([0] * 3)
    assert value_of(expiring) == 2
    assert watcher.changes == [("kv/k0", "expired"), ("kv/k1", "expired"), ("kv/k1", "set")]
    assert answered == watcher.changes[:2]


def test_expired_keys_are_announced_although_that_is_cancelled(keys, clock):
    watcher = Watcher()
    keys.watch_pattern(watcher, ">", slowly(clock, [], ("k0", "k1")))
    for number in range(2):
        value_of(keys.set(f"k{number}", b"v", expires=clock.seconds() + 1))
    clock.rightNow += 2
    expiring = Deferred.fromCoroutine(keys.expire())
    expiring.addErrback(lambda failure: failure.trap(CancelledError)).cancel()
    keys.set("k2", b"v")
    clock.pump([0] * 3)
    assert watcher.changes[2:] == [("kv/k0", "expired"), ("kv/k1", "expired")]


def test_a_durable_change_and_its_event_are_stored_at_once(clock, monkeypatch):
    broker = make_broker(clock, durable_topics=("kv/k",))
    ann = attach(broker)
    ann.watch(names=["k"])
    monkeypatch.setattr(broker.store, "append", None)
    for change in (
        lambda: ann.set("k", b"1", expires=clock.seconds() + 1),
        lambda: ann.patch("k", b"2"),
        lambda: ann.increment("k", b"3"),
        lambda: ann.delete("k"),
        lambda: ann.set("k", b"4", expires=clock.seconds() + 1),
    ):
        value_of(change())
    clock.advance(1)
    assert [event.name for event in ann.session.heard] == ["set", "set", "set", "delete", "set", "expired"]
    stored = value_of(broker.channels.read("kv/k", 0, 9))
    assert [(event.id, event.body) for event in ann.session.heard] == [(event.id, event.body) for event in stored]


def test_watching_again_takes_the_place_of_before(keys):
    watcher = Watcher()
    keys.watch(watcher, lambda key: True, ["a"])
    keys.watch(watcher, None, ["b"])
    keys.set("a", b"v")
    keys.set("b", b"v")
    keys.unwatch(watcher)
    keys.unwatch(watcher)
    keys.set("b", b"v")
    assert watcher.changes == [("kv/b", "set")]
    assert not any((keys._watchers, keys._predicates, keys._watched))


class Ears(LocalBus):
    """A bus that counts how often it is to listen to what."""

    def __init__(self):
        super().__init__("test")
        self.open = Counter()

    def listen(self, topic, *, prefix=False):
        self.open[topic, prefix] += 1

    def forget(self, topic, *, prefix=False):
        self.open[topic, prefix] -= 1


def test_the_bus_listens_to_what_is_watched_and_no_longer(broker):
    bus, ann, bob = Ears(), Watcher(), Watcher()
    keys = Keys(broker.store, bus, lambda _: None, Clock())
    keys.watch(ann, None, ["a", "b"])
    keys.watch(bob, lambda key: True, ["a"])
    assert bus.open == Counter({("kv/", True): 1, ("kv/a", False): 2, ("kv/b", False): 1})
    keys.unwatch(bob)
    assert bus.open == Counter({("kv/a", False): 1, ("kv/b", False): 1})
    keys.watch(ann, lambda key: True)
    assert bus.open == Counter({("kv/", True): 1})
    keys.unwatch(ann)
    assert bus.open == Counter()


def test_the_body_of_a_change_tells_key_value_and_time(keys, clock):
    clock.advance(1795211661.613)
    watcher = Watcher()
    keys.watch(watcher, lambda key: True)
    keys.set('"\0', b'{"a":"\xc3\xa4"}')
    keys.patch('"\0', b'{"b":1}')
    keys.increment("n", b"2")
    keys.delete("n")
    keys.set("raw", b"\xff")
    assert [event.body for event in watcher.heard] == [
        b'{"key":"\\"\\u0000","value":"{\\"a\\":\\"\xc3\xa4\\"}","timestamp":1795211661613}',
        b'{"key":"\\"\\u0000","value":"{\\"a\\":\\"\xc3\xa4\\",\\"b\\":1}","timestamp":1795211661613}',
        b'{"key":"n","value":"2","timestamp":1795211661613}',
        b'{"key":"n","value":null,"timestamp":1795211661613}',
        b'{"key":"raw","value":"\xef\xbf\xbd","timestamp":1795211661613}',
    ]


def test_the_writer_has_its_answer_before_anybody_is_told():
    class Store:
        answer = Deferred()
        wall = WallClock(lambda: 0.0)

        def set(self, *_, **__):
            return self.answer

    order = []
    keys = Keys(cast(Any, Store()), open_bus("local:", "test"), lambda event: order.append("told"), Clock())
    keys.set("k", b"v").addCallback(lambda _: order.append("answered"))
    Store.answer.callback(Entry(b"v", 1))
    assert order == ["answered", "told"]


@pytest.mark.parametrize("outcome", [None, Failure(Unavailable("bus"))], ids=["sent", "lost"])
def test_between_nodes_the_writer_has_its_answer_when_the_change_is_on_its_way(broker, outcome):
    bus, published = Ears(), []
    bus.shared = True

    def publish(event):
        published.append((event.name, Deferred()))
        return published[-1][1]

    keys = Keys(broker.store, bus, publish, Clock())
    assert value_of(keys.delete("k")) is False
    setting = keys.set("k", b"v")
    assert not setting.called
    ((name, sent),) = published
    sent.callback(outcome)
    assert (name, value_of(setting).value) == ("set", b"v")


def test_a_client_can_not_forge_a_change(broker):
    ann, bob = attach(broker), attach(broker)
    bob.watch(lambda key: True)
    forged = b'{"key":"k","value":"forged","timestamp":0}'
    for publish in (ann.publish, ann.post):
        with pytest.raises(Denied):
            publish("kv/k", "set", forged)
    broker.arrived(Event("kv/k", "set", forged, dialect="test"))  # of a node of an older version
    assert bob.session.heard == []


# Permissions


def check_permission():
    rules = {"read": Rule(("kv/open.>",)), "write": Rule(("kv/open.>",)), "subscribe": Rule(("kv/open.>",))}
    access = Access("none", permissions=Permissions({"anonymous": rules, "role:admin": {}}, lenient=True))
    return make_broker(access=access)


def test_a_range_shows_what_may_be_read_and_no_more():
    broker = check_permission()
    for key in ("open.a", "open.b", "open.c", "secret"):
        value_of(broker.keys.set(key, b"v"))
    ann = attach(broker)
    assert found(ann, "a", "z", 10) == ["open.a", "open.b", "open.c"]
    assert found(ann, "a", "z", 10, max_bytes=1) == ["open.a", "open.b"]
    assert found(ann, "a", "z", 10, predicate=lambda key: key != "open.a") == ["open.b", "open.c"]
    with pytest.raises(Denied):
        ann.get("secret")


def test_changes_are_told_of_what_may_be_heard_and_no_more():
    broker = check_permission()
    ann, bob = attach(broker), attach(broker)
    ann.watch(lambda key: True)
    bob.watch(None, ["open.a", "secret"])
    for key in ("open.a", "open.b", "secret"):
        value_of(broker.keys.set(key, b"v"))
    assert ann.session.changes == [("kv/open.a", "set"), ("kv/open.b", "set")]
    assert bob.session.changes == [("kv/open.a", "set")]


def test_each_change_needs_the_permission_to_write():
    broker = check_permission()
    ann = attach(broker)
    for change in (
        lambda key: ann.set(key, b"1"),
        lambda key: ann.increment(key, b"1"),
        lambda key: ann.patch(key, b"1"),
        lambda key: ann.delete(key),
    ):
        value_of(change("open.a"))
        with pytest.raises(Denied) as caught:
            change("secret")
        assert (caught.value.what, caught.value.name) == ("write", "kv/secret")


def test_watching_needs_no_permission_and_no_token_of_the_rate():
    permissions = Permissions({"key:ann": {"subscribe": Rule(("kv/k",))}})
    access = Access("optional", keys={"ann": "key"}, permissions=permissions)
    broker = make_broker(access=access, rate=0.001, rate_burst=1)
    ann = attach(broker)
    ann.identify("key")
    for _ in range(3):
        ann.watch(None, ["k"])
    value_of(broker.keys.set("k", b"v"))
    assert ann.session.changes == [("kv/k", "set")]


def test_who_is_not_admitted_can_not_watch():
    broker = make_broker(access=Access("required", secrets=("s",)))
    with pytest.raises(Unauthenticated):
        attach(broker).watch(lambda key: True)


# Those that are kept for who comes back.


def begin_watching(peer, kind):
    if kind == "pattern":
        peer.watch_pattern("k*")
    else:
        peer.watch(lambda key: True)
    value_of(Deferred.fromCoroutine(peer.keep_changes()))


@pytest.mark.parametrize("kind", ["pattern", "predicate"])
def test_long_changes_are_kept_while_somebody_watches_and_for_nobody_who_has_left(broker, keys, clock, kind):
    peer, other = attach(broker), attach(broker)
    begin_watching(peer, kind)
    for _ in range(4):
        clock.advance(100)
    for _ in range(8):
        value_of(other.set("k", b"x" * 1_000_000))
    assert len(keys._recent) == 8
    peer.close()
    assert keys._keeping == {}
    for _ in range(4):
        clock.advance(100)
    for _ in range(8):
        value_of(other.set("k", b"x" * 1_000_000))
    assert len(keys._recent) < 3
