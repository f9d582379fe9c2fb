"""Clients that are connected go on with the rights of today, or are disconnected."""

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.access.permissions import Permissions, Rule
from broker.access.principals import Access
from broker.sessions import BaseSession
from broker.testing import make_broker, value_of

ALL = Rule(allow=(">",))
VERBS = ("subscribe", "read", "register", "acknowledge", "consume", "publish", "act")
EVERYTHING = dict.fromkeys(VERBS, ALL)


@attrs.define(eq=False)
class Session(BaseSession):
    ends: list = attrs.field(factory=list)

    def disconnect(self, code, reason):
        self.ends.append(reason)


def do(coroutine):
    return value_of(Deferred.fromCoroutine(coroutine))


@pytest.fixture
def broker():
    keys = {"ann": "ann-key-0123456789", "bob": "bob-key-0123456789"}
    return make_broker(Clock(), Access("required", keys=keys, permissions=Permissions({"default": EVERYTHING})))


def connect(broker, name="ann"):
    peer = broker.attach("test", "127.0.0.1")
    peer.identify(broker.access.keys[name])
    peer.bind(Session())
    return peer


def restrict(broker, **rules):
    """Replace the rules of ann; return how many clients that has disconnected."""
    broker.access.permissions = Permissions({"default": EVERYTHING, "key:ann": EVERYTHING | rules})
    return broker.credentials_changed()


STANDING = {
    "a topic": ("subscribe", lambda peer: peer.subscribe("a.b")),
    "a pattern": ("subscribe", lambda peer: peer.subscribe("a.*")),
    "a name like a pattern": ("subscribe", lambda peer: peer.subscribe("a.*", exact=True)),
    "a watched key": ("subscribe", lambda peer: peer.watch_pattern("a")),
    "a procedure": ("register", lambda peer: do(peer.perform(["a.b"]))),
    "a service": ("register", lambda peer: do(peer.perform(["a.b"], as_service=True))),
    "a queue": ("consume", lambda peer: peer.consume("a")),
    "requests on a topic": ("acknowledge", lambda peer: peer.acknowledge("a.b")),
}


@pytest.mark.parametrize("what", STANDING)
def test_who_has_what_it_may_not_have_any_more_is_disconnected(broker, what):
    verb, take = STANDING[what]
    ann, other = connect(broker), connect(broker, "bob")
    take(ann)
    assert restrict(broker, **{verb: Rule(allow=("b",))}) == 1
    assert (ann.session.ends, other.session.ends) == (["permission withdrawn"], [])


@pytest.mark.parametrize("what", STANDING)
def test_who_may_still_have_it_does_not_notice(broker, what):
    _, take = STANDING[what]
    ann = connect(broker)
    take(ann)
    assert restrict(broker, publish=Rule()) == 0
    assert not ann.identity.grants.may("publish", "a")
    assert ann.session.ends == []


def test_who_follows_what_it_may_not_read_any_more_is_disconnected(broker):
    ann = connect(broker)
    do(ann.follow("a.b", "start", lambda event: True, lambda loss: None))
    assert restrict(broker, read=Rule()) == 1


BORROWED = {
    "a client id": lambda peer, id: peer.take_name(id),
    "a member": lambda peer, id: peer.become(id),
    "a service": lambda peer, id: peer.perform([id], as_service=True),
}


@pytest.mark.parametrize("what", BORROWED)
def test_who_may_not_act_as_another_any_more_is_disconnected(broker, what):
    take, owner, ann = BORROWED[what], connect(broker, "bob"), connect(broker)
    do(take(owner, "of-bob"))
    owner.close()
    do(take(ann, "of-bob"))
    restrict(broker, act=Rule())
    assert ann.session.ends == ["permission withdrawn"]


@pytest.mark.parametrize("what", BORROWED)
def test_who_may_not_act_as_others_any_more_keeps_its_own_ids(broker, what):
    ann = connect(broker)
    do(BORROWED[what](ann, "of-ann"))
    restrict(broker, act=Rule())
    assert ann.session.ends == []


@pytest.mark.parametrize("allowed", ["b", "a"])
def test_testament_is_not_published_where_its_client_may_not_publish_any_more(broker, allowed):
    ann, other = connect(broker), connect(broker, "bob")
    events = []
    other.session.event = lambda event, pattern: events.append(event.name)
    other.subscribe("a")
    do(ann.set_testament("a", "gone", b"1"))
    assert restrict(broker, publish=Rule(allow=(allowed,))) == 0
    ann.close()
    assert events == (["gone"] if allowed == "a" else [])


def test_first_permissions_hold_for_those_who_are_connected():
    broker = make_broker(Clock(), Access("required", keys={"ann": "ann-key-0123456789"}))
    ann = connect(broker)
    assert restrict(broker, publish=Rule()) == 0
    assert not ann.identity.grants.may("publish", "a")


def test_who_uses_what_a_new_key_is_called_is_disconnected():
    broker = make_broker(Clock(), Access("required", secrets=("secret-0123456789",)))
    peer = broker.attach("test", "127.0.0.1")
    peer.identify("secret-0123456789")
    peer.bind(Session())
    do(peer.take_name("kim"))
    broker.access.keys = {"kim": "kim-key-0123456789"}
    assert broker.credentials_changed() == 1


def test_what_a_dialect_has_said_of_its_client_stays(broker):
    peer = broker.attach("test", "127.0.0.1")
    peer.admit(attrs.evolve(broker.access.identify("ann-key-0123456789"), fingerprint="", grants=None))
    peer.bind(Session())
    assert restrict(broker, publish=Rule()) == 0
    assert peer.identity.grants is None
