"""Memberships: what a client has joined comes back with it."""

import json

import attrs
import pytest
from twisted.internet.defer import CancelledError, Deferred, fail

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


# While the store has not answered


class Slow:
    """A store that does what it is asked for at once, but answers when it is told to, in order."""

    def __init__(self, store):
        self._store, self.waiting, self.slow = store, [], True

    def __getattr__(self, name):
        return getattr(self._store, name)

    def _later(self, method, words, named):
        result = method(*words, **named)
        if not self.slow:
            return result
        answer = Deferred()
        self.waiting.append((answer, result))
        return answer

    def set(self, *words, **named):
        return self._later(self._store.set, words, named)

    def delete(self, *words, **named):
        return self._later(self._store.delete, words, named)

    def range(self, *words, **named):
        return self._later(self._store.range, words, named)

    def answer(self, failure=None):
        answer, result = self.waiting.pop(0)
        answer.callback(value_of(result)) if failure is None else answer.errback(failure)

    def answer_all(self):
        while self.waiting:
            self.answer()
        self.slow = False


@pytest.fixture
def slow(broker):
    slow = broker.memberships._store = Slow(broker.store)
    slow.slow = False
    return slow


def begin(coroutine):
    return Deferred.fromCoroutine(coroutine)


def test_what_is_left_while_one_becomes_a_member_is_not_joined_again(broker, slow):
    first = attach(broker, "ann")
    do(first.join("a"))
    second = attach(broker)
    do(second.join("early"))
    slow.slow = True
    coming = begin(second.become("ann"))
    slow.answer()  # it has read what there is, and stores what it has joined before
    parting = begin(first.part("a"))
    slow.answer_all()
    assert value_of(coming) == ["early"]
    assert parting.called
    assert not second.joined("a")


def test_what_is_left_as_nobody_while_it_becomes_a_membership_is_none(broker, slow):
    ann = attach(broker)
    for topic in ("a", "b"):
        do(ann.join(topic))
    slow.slow = True
    coming = begin(ann.become("ann"))
    slow.answer()
    do(ann.part("a"))  # while it is stored
    do(ann.part("b"))  # before it is stored
    slow.answer_all()
    assert value_of(coming) == []
    assert do(attach(broker).become("ann")) == []


def test_what_is_joined_as_nobody_while_one_becomes_a_member_is_a_membership(broker, slow):
    ann = attach(broker)
    slow.slow = True
    coming = begin(ann.become("ann"))
    do(ann.join("a"))
    slow.answer_all()
    assert value_of(coming) == ["a"]
    assert do(attach(broker).become("ann")) == ["a"]


@pytest.mark.parametrize("answers", [0, 1])
def test_becoming_that_is_given_up_leaves_nothing_behind(broker, slow, answers):
    ann = attach(broker)
    do(ann.join("early"))
    slow.slow = True
    coming = begin(ann.become("ann"))
    for _ in range(answers):
        slow.answer()
    coming.cancel()
    slow.answer_all()
    with pytest.raises(CancelledError):
        value_of(coming)
    assert (ann.member, len(broker.memberships)) == ("", 0)
    ann.close()
    assert len(broker.topics) == 0


def test_what_changes_while_one_reads_what_it_has_joined_stays_changed(broker, slow):
    first, second = attach(broker, "ann"), attach(broker)
    do(first.join("a"))
    slow.slow = True
    coming = begin(second.become("ann"))
    joining, parting = begin(first.join("b")), begin(first.part("a"))
    slow.waiting.append(slow.waiting.pop(0))  # what was read before is answered last
    slow.answer_all()
    assert (value_of(joining), value_of(parting)) == (None, None)
    assert value_of(coming) == ["b"]


def test_becoming_the_same_twice_at_once_is_to_become_it_once(broker, slow):
    ann = attach(broker)
    slow.slow = True
    first, second = begin(ann.become("ann")), begin(ann.become("ann"))
    first.cancel()
    slow.answer_all()
    with pytest.raises(CancelledError):
        value_of(first)
    assert value_of(second) == []
    do(ann.join("a"))
    assert do(ann.become("ann")) == ["a"]
    ann.close()
    assert len(broker.memberships) == 0


def test_joining_that_is_given_up_is_done_all_the_same(broker, slow):
    ann = attach(broker, "ann")
    slow.slow = True
    joining = begin(ann.join("a"))
    joining.cancel()
    slow.answer_all()
    with pytest.raises(CancelledError):
        value_of(joining)
    assert ann.joined("a")
    assert do(attach(broker).become("ann")) == ["a"]


def test_joining_that_is_given_up_and_fails_leaves_no_subscription(broker, slow):
    ann = attach(broker, "ann")
    slow.slow = True
    joining = begin(ann.join("a"))
    joining.cancel()
    slow.answer(Unavailable("store"))
    with pytest.raises(CancelledError):
        value_of(joining)
    assert not ann.joined("a")


def test_parting_that_is_given_up_is_done_all_the_same(broker, slow):
    first, second = attach(broker, "ann"), attach(broker, "ann")
    for peer in (first, second):
        do(peer.join("a"))
    slow.slow = True
    parting = begin(first.part("a"))
    parting.cancel()
    slow.answer_all()
    with pytest.raises(CancelledError):
        value_of(parting)
    assert (first.joined("a"), second.joined("a")) == (False, False)


def test_joining_again_while_one_leaves_is_to_stay(broker, slow):
    first, second = attach(broker, "ann"), attach(broker, "ann")
    do(first.join("a"))
    slow.slow = True
    calls = [begin(second.part("a")), begin(first.join("a")), begin(second.join("a"))]
    slow.answer_all()
    assert all(call.called for call in calls)
    assert (first.joined("a"), second.joined("a")) == (True, True)
    assert do(attach(broker).become("ann")) == ["a"]


def test_joining_again_while_one_leaves_fails_as_a_whole(broker, slow):
    first, second = attach(broker, "ann"), attach(broker, "ann")
    do(first.join("a"))
    slow.slow = True
    begin(second.part("a"))
    joining = begin(first.join("a"))
    slow.answer()
    slow.answer(Unavailable("store"))
    with pytest.raises(Unavailable):
        value_of(joining)
    assert not first.joined("a")


def test_parting_from_all_while_one_joins_is_not_undone(broker, slow):
    ann = attach(broker, "ann")
    slow.slow = True
    joining = begin(ann.join("a"))
    ann.part_all()
    slow.answer_all()
    assert value_of(joining) is None
    assert not ann.joined("a")


def test_becoming_another_while_one_joins_is_not_undone(broker, slow):
    peer = attach(broker, "ann")
    slow.slow = True
    joining, coming = begin(peer.join("a")), begin(peer.become("bob"))
    slow.waiting.reverse()
    slow.answer_all()
    assert (value_of(coming), value_of(joining)) == ([], None)
    assert not peer.joined("a")


def test_what_is_left_while_all_is_stored_again_stays_left(broker, slow):
    ann = attach(broker, "ann")
    for topic in ("a", "b"):
        do(ann.join(topic))
    slow.slow = True
    restoring = begin(broker.memberships.restore())
    for topic in ("a", "b"):
        begin(ann.part(topic))
    slow.answer_all()
    assert value_of(restoring) is None
    assert do(attach(broker).become("ann")) == []


def test_who_comes_while_all_is_stored_again_has_what_is_known(broker, slow):
    first = attach(broker, "ann")
    do(first.join("a"))
    for key, _ in value_of(broker.store.range("member", "", "\U0010ffff", 10)):
        value_of(broker.store.delete("member", key))
    broker.memberships.lost()
    assert do(attach(broker).become("ann")) == ["a"]
    do(broker.memberships.restore())
    first.close()
    assert do(attach(broker).become("ann")) == ["a"]


# Several nodes


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
