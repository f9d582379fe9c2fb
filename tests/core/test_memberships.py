"""Memberships: what a client has joined comes back with it."""

import json

import attrs
import pytest
from twisted.internet.defer import Deferred, fail

from broker.access.permissions import Permissions, Rule
from broker.access.principals import Access
from broker.core.memberships import CONTROL
from broker.errors import Denied, Gone, RateLimited, Unauthenticated, Unavailable
from broker.messages import Entry, Event
from broker.testing import make_broker, value_of


@attrs.define(eq=False)
class Session:
    heard: list = attrs.field(factory=list)

    def event(self, event, pattern):
        self.heard.append(event.topic)


@pytest.fixture
def broker():
    return make_broker()


def attach(broker, member="", dialect="test"):
    peer = broker.attach(dialect, "127.0.0.1")
    peer.bind(Session())
    if member:
        do(peer.become(member))
    return peer


def do(coroutine):
    return value_of(Deferred.fromCoroutine(coroutine))


def speak(broker, *topics):
    for topic in topics:
        value_of(attach(broker).publish(topic, "x", None))


def test_what_was_joined_comes_back(broker):
    ann = attach(broker, "ann")
    do(ann.join("a"))
    do(ann.join("b*"))
    before = ann.session
    ann.close()
    speak(broker, "a")
    again = attach(broker)
    assert do(again.become("ann")) == ["a", "b*"]
    speak(broker, "a", "b*", "c")
    assert again.session.heard == ["a", "b*"]
    assert before.heard == []


def test_members_and_dialects_are_kept_apart(broker):
    do(attach(broker, "1").join("1:a"))
    do(attach(broker, "1:1").join("b"))
    do(attach(broker, "\U0010ffff").join("\U0010ffff" * 255))
    assert do(attach(broker).become("1")) == ["1:a"]
    assert do(attach(broker).become("11")) == []
    assert do(attach(broker).become("1:1")) == ["b"]
    assert do(attach(broker).become("\U0010ffff")) == ["\U0010ffff" * 255]
    assert do(attach(broker, dialect="other").become("1")) == []


def test_what_was_joined_as_nobody_becomes_a_membership(broker):
    ann = attach(broker)
    do(ann.join("early"))
    assert do(ann.become("ann")) == ["early"]
    assert do(attach(broker).become("ann")) == ["early"]


def test_becoming_another_leaves_what_the_first_has_joined(broker):
    peer = attach(broker, "ann")
    do(peer.join("a"))
    assert do(peer.become("bob")) == []
    speak(broker, "a")
    assert peer.session.heard == []
    assert do(peer.become("ann")) == ["a"]
    assert do(attach(broker).become("bob")) == []


def test_becoming_the_same_again_changes_nothing(broker):
    ann = attach(broker, "ann")
    do(ann.join("a"))
    assert do(ann.become("ann")) == ["a"]
    speak(broker, "a")
    assert ann.session.heard == ["a"]


def test_a_member_hears_itself_and_each_event_once(broker):
    ann = attach(broker, "ann")
    do(ann.join("a"))
    do(ann.join("a"))
    value_of(ann.publish("a", "x", None))
    assert ann.session.heard == ["a"]


def test_parting_is_of_all_sessions_of_the_member_and_for_good(broker):
    one, two, other = attach(broker, "ann"), attach(broker, "ann"), attach(broker, "bob")
    for peer in (one, two, other):
        do(peer.join("a"))
    do(one.part("a"))
    speak(broker, "a")
    assert (one.session.heard, two.session.heard, other.session.heard) == ([], [], ["a"])
    assert do(attach(broker).become("ann")) == []


def test_parting_as_nobody_ends_the_subscription(broker):
    nobody = attach(broker)
    do(nobody.join("a"))
    do(nobody.part("a"))
    speak(broker, "a")
    assert (nobody.session.heard, len(broker.topics)) == ([], 0)


def test_parting_from_what_this_session_has_not_joined_is_of_the_store_all_the_same(broker):
    do(attach(broker, "ann").join("a"))
    late = attach(broker, "ann")
    late.part_all()
    do(late.part("a"))
    do(late.part("never"))
    assert do(attach(broker).become("ann")) == []


def test_parting_from_all_keeps_the_memberships(broker):
    ann = attach(broker, "ann")
    do(ann.join("a"))
    ann.part_all()
    speak(broker, "a")
    assert ann.session.heard == []
    assert do(ann.become("ann")) == ["a"]


def test_a_member_has_so_many_memberships_and_no_more():
    broker = make_broker(max_subscriptions=2)
    ann, same = attach(broker, "ann"), attach(broker, "ann")
    do(ann.join("a"))
    do(same.join("b"))
    with pytest.raises(RateLimited):
        do(ann.join("c"))
    assert not ann.joined("c")
    do(ann.join("a"))
    assert do(attach(broker).become("ann")) == ["a", "b"]


def test_a_member_that_comes_back_is_limited_by_what_it_has_joined_before():
    broker = make_broker(max_subscriptions=2)
    ann = attach(broker, "ann")
    for topic in ("a", "b"):
        do(ann.join(topic))
    ann.close()
    again = attach(broker, "ann")
    again.unsubscribe("a", exact=True)
    with pytest.raises(RateLimited):
        do(again.join("c"))
    do(again.join("a"))


def test_a_membership_that_is_permitted_no_more_is_left_out(broker):
    do(attach(broker, "ann").join("open"))
    do(attach(broker, "ann").join("shut"))
    broker.parts.access = Access(
        "none", permissions=Permissions({"anonymous": {"subscribe": Rule(("open",))}}, lenient=True)
    )
    assert do(attach(broker).become("ann")) == ["open"]


def test_coming_back_costs_one_verb_of_the_rate():
    broker = make_broker(rate=0.001, rate_burst=3)
    do(attach(broker, "ann").join("a"))  # two
    assert do(attach(broker).become("ann")) == ["a"]
    with pytest.raises(RateLimited):
        do(attach(broker).become("ann"))


def test_joining_and_parting_cost_a_token_each_unless_they_are_part_of_something():
    ann = attach(make_broker(rate=0.001, rate_burst=2))
    do(ann.join("a"))
    do(ann.part("a"))
    for verb in (ann.join, ann.part):
        with pytest.raises(RateLimited):
            do(verb("a"))
        do(verb("a", rate_limited=False))


def test_who_is_not_admitted_is_nobody():
    broker = make_broker(access=Access("required", secrets=("s",)))
    with pytest.raises(Unauthenticated):
        do(attach(broker).become("ann"))


class Broken:
    """A store that is away when it is asked for some things."""

    def __init__(self, store, *away):
        self._store, self.away = store, set(away)

    def __getattr__(self, name):
        if name in self.away:
            return lambda *_, **__: fail(Unavailable("store"))
        return getattr(self._store, name)


def test_when_the_store_is_away_nothing_changes(broker):
    ann = attach(broker, "ann")
    do(ann.join("a"))
    store = broker.memberships._store = Broken(broker.store, "range", "set", "delete")
    nobody = attach(broker)
    do(nobody.join("early"))
    for failing in (ann.become("bob"), ann.become("ann"), ann.join("b"), ann.part("a"), nobody.become("zoe")):
        with pytest.raises(Unavailable):
            do(failing)
    store.away = {"set"}
    with pytest.raises(Unavailable):
        do(nobody.become("zoe"))
    assert (ann.joined("a"), ann.joined("b"), nobody.joined("early")) == (True, False, True)
    assert (nobody.member, len(broker.memberships)) == ("", 1)
    store.away = set()
    assert do(nobody.become("zoe")) == ["early"]
    do(ann.part("a"))
    assert not ann.joined("a")


def test_a_session_that_goes_while_it_comes_leaves_nothing_behind(broker):
    waiting = Deferred()
    broker.memberships._store = Broken(broker.store)
    broker.memberships._store.range = lambda *_: waiting
    peer = attach(broker)
    coming = Deferred.fromCoroutine(peer.become("ann"))
    peer.close()
    waiting.callback([("8:test:anna", Entry(b"", 1))])
    with pytest.raises(Gone):
        value_of(coming)
    assert (len(broker.memberships), len(broker.topics)) == (0, 0)


def test_a_store_that_has_lost_all_gets_the_memberships_of_those_who_are_here(broker):
    ann, bob = attach(broker, "ann"), attach(broker, "bob")
    for peer, topic in ((ann, "a"), (ann, "b"), (bob, "c")):
        do(peer.join(topic))
    for key, _ in value_of(broker.store.range("member", "", "\U0010ffff", 10)):
        value_of(broker.store.delete("member", key))
    do(broker.memberships.restore())
    ann.close()
    bob.close()
    assert do(attach(broker).become("ann")) == ["a", "b"]
    assert do(attach(broker).become("bob")) == ["c"]


def told_by_another_node(member, topic):
    return Event(CONTROL, "left", json.dumps([f"test:{member}", topic]).encode(), source="another node")


def test_what_was_left_on_another_node_is_left_here(broker):
    ann = attach(broker, "ann")
    do(ann.join("a"))
    ((key, _),) = value_of(broker.store.range("member", "", "\U0010ffff", 10))
    value_of(broker.store.delete("member", key))
    broker.arrived(told_by_another_node("ann", "a"))
    assert not ann.joined("a")


def test_what_was_joined_again_since_it_was_left_on_another_node_stays(broker):
    ann = attach(broker, "ann")
    do(ann.join("a"))
    broker.arrived(told_by_another_node("ann", "a"))
    assert ann.joined("a")


def test_a_second_session_stores_what_another_node_may_have_forgotten(broker):
    first, second = attach(broker, "ann"), attach(broker, "ann")
    do(first.join("a"))
    ((key, _),) = value_of(broker.store.range("member", "", "\U0010ffff", 10))
    value_of(broker.store.delete("member", key))
    do(second.join("a"))
    broker.arrived(told_by_another_node("ann", "a"))
    assert (first.joined("a"), second.joined("a")) == (True, True)


def test_closing_leaves_nothing_behind(broker):
    peers = [attach(broker, "ann"), attach(broker, "ann")]
    do(peers[0].join("a"))
    for peer in peers:
        peer.close()
    assert (len(broker.memberships), len(broker.topics)) == (0, 0)


def test_what_was_joined_may_be_left_without_a_permission():
    access = Access("optional", keys={"ann": "key"}, permissions=Permissions({"key:ann": {"subscribe": Rule(("a",))}}))
    ann = attach(make_broker(access=access))
    ann.identify("key")
    assert do(ann.become("ann")) == []
    do(ann.join("a"))
    do(ann.part("a"))
    assert not ann.joined("a")


def test_a_denied_topic_is_not_joined():
    access = Access(
        "none", permissions=Permissions({"anonymous": {"subscribe": Rule((">",), ("shut",))}}, lenient=True)
    )
    ann = attach(make_broker(access=access), "ann")
    with pytest.raises(Denied):
        do(ann.join("shut"))
    assert do(ann.become("ann")) == []
