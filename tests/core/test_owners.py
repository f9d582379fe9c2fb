"""Whose an id is: of the principal that first used it, or is called so."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from broker.access.permissions import Permissions, Rule
from broker.access.principals import Access
from broker.core.owners import CLIENT_ID, DAY, INDEX, MEMBER, SERVICE_NAME, SPACE, Owners
from broker.errors import Conflict, Denied, Invalid, RateLimited, Unavailable
from broker.messages import Identity
from broker.patterns import pair_key
from broker.stores.memory import MemoryStore
from broker.testing import value_of

KEYS = {"mailer": "key", "other": "key2"}
SECRET, ANYBODY = Identity("secret"), Identity()
NOBODY = Identity("user")
ANN, BOB = Identity("user", "ann", "ann"), Identity("user", "bob", "bob")
MAILER, OTHER = Identity("key", "mailer", "mailer"), Identity("key", "other", "other")
KINDS = [CLIENT_ID, MEMBER, SERVICE_NAME, INDEX]


class Node:
    """What knows owners on one node, with a store that may be shared with others."""

    def __init__(self, store=None, others=(), **more):
        self.clock = Clock()
        self.clock.advance(10 * DAY)
        self.store = store or MemoryStore(self.clock)
        if store is None:
            self.store.startService()
        self.nodes = [*others, self]
        self.replaced = []
        access = Access("required", **{"secrets": ("s",), "keys": KEYS} | more.pop("access", {}))
        notify = lambda event: [node.owners.moved(event) for node in self.nodes]  # noqa: E731
        self.undone = []  # what is to be done again while the store is away
        replaced, again = lambda *new: self.replaced.append(new), self.undone.append
        self.owners = Owners(self.store, access, notify, self.clock, replaced, again, **more)

    def claim(self, identity, id, kind=CLIENT_ID):
        value_of(self.owners.claim(kind, id, identity))

    def may(self, identity, id, kind=CLIENT_ID):
        try:
            self.claim(identity, id, kind)
        except Denied:
            return False
        return True

    def restarted(self, **more):
        return Node(self.store, **more)

    def owner(self, id, kind=CLIENT_ID):
        entry = value_of(self.store.get(SPACE, pair_key(kind, id)))
        return entry and entry.value.decode()


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_is_of_the_principal_that_first_used_it(kind):
    node = Node()
    node.claim(ANN, "phone", kind)
    for other in (BOB, MAILER, SECRET, ANYBODY, NOBODY):
        assert not node.may(other, "phone", kind)
    assert node.may(ANN, "phone", kind)
    assert node.owners.known["phone"] == {kind: "user:ann"}


def test_whether_an_id_can_be_had_is_checked_without_taking_it():
    node = Node()
    for who in (ANN, BOB):
        value_of(node.owners.claim(CLIENT_ID, "phone", who, only_check=True))
    assert node.owner("phone") is None
    node.claim(ANN, "phone")
    for who in (BOB, NOBODY):
        with pytest.raises(Denied):
            value_of(node.owners.claim(CLIENT_ID, "phone", who, only_check=True))
    with pytest.raises(Denied):
        value_of(node.owners.claim(CLIENT_ID, "tablet", NOBODY, only_check=True))


@pytest.mark.parametrize("kind", KINDS)
def test_that_holds_on_another_node_and_after_a_restart(kind):
    node = Node()
    node.claim(ANN, "phone", kind)
    assert not node.restarted().may(BOB, "phone", kind)
    assert node.restarted().may(ANN, "phone", kind)


def test_kinds_of_ids_are_apart():
    node = Node()
    node.claim(ANN, "x", INDEX)
    assert all(node.may(BOB, "x", kind) for kind in KINDS if kind != INDEX)


def test_those_whom_nothing_names_own_ids_together():
    node = Node()
    node.claim(SECRET, "worker")
    assert node.may(ANYBODY, "worker")
    assert not node.may(ANN, "worker")


def test_a_user_without_a_name_owns_nothing():
    node = Node()
    assert not node.may(NOBODY, "worker")
    assert node.owner("worker") is None
    assert "worker" not in node.owners.known


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_of_a_key_is_its_own_from_the_start(kind):
    node = Node()
    assert not any(node.may(other, "mailer", kind) for other in (ANN, OTHER, SECRET, NOBODY))
    assert node.may(MAILER, "mailer", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_user_whom_the_permissions_name_has_his_name_from_the_start(kind):
    node = Node(access={"permissions": Permissions({"user:bob": {}})})
    assert not node.may(ANN, "bob", kind)
    assert node.may(BOB, "bob", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_of_a_user_is_his_from_his_first_connection_on(kind):
    node = Node()
    node.owners.claim_name(BOB)
    assert not node.may(SECRET, "bob", kind)
    assert not node.restarted().may(ANN, "bob", kind)
    assert node.restarted().may(BOB, "bob", kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", [SECRET, ANN])
def test_who_used_the_name_of_a_user_before_he_came_must_not_any_more(kind, before):
    node = Node()
    node.claim(before, "bob", kind)
    far = Node(node.store, node.nodes)
    far.claim(before, "bob", kind)
    node.nodes.append(far)
    node.owners.claim_name(BOB)
    assert node.replaced == far.replaced == [("bob", "user:bob")]
    for known in (node, far, node.restarted()):
        assert not known.may(before, "bob", kind)
        assert known.may(BOB, "bob", kind)


def test_a_user_who_comes_again_replaces_nobody():
    node = Node()
    for _ in range(2):
        node.owners.claim_name(BOB)
        node = node.restarted()
        node.owners.claim_name(BOB)
        assert node.replaced == []


@pytest.mark.parametrize("id", ["broker", "broker.x", "queue:q", "kv/k", "user:bob", "key:mailer", "token:1", "role:a"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_reserved_is_nobodys(kind, id):
    node = Node()
    everything = Permissions({"key:mailer": {"act": Rule((">",))}}).grants_of("key", "mailer")
    for identity in (SECRET, ANN, Identity("key", "mailer", "mailer", (), everything)):
        assert not node.may(identity, id, kind)
    assert node.owner(id, kind) is None


@pytest.mark.parametrize("word", ["user", "key", "secret", "token", "anonymous", "role", "default"])
def test_a_service_may_be_called_by_a_word_that_a_client_may_not(word):
    node = Node()
    assert [node.may(SECRET, word, kind) for kind in KINDS] == [kind == SERVICE_NAME for kind in KINDS]


def test_a_principal_in_full_is_its_own_id():
    node = Node()
    twin = Identity("user", "mailer", "user:mailer")
    assert node.may(twin, "user:mailer")
    assert not node.may(twin, "mailer")


@pytest.mark.parametrize("id", ["a\nb", "\0", "a\x7f", "\ud800"])
def test_an_id_has_no_control_characters(id):
    with pytest.raises(Invalid):
        Node().claim(SECRET, id)


def test_who_may_act_uses_the_ids_of_others():
    grants = Permissions({"user:eve": {"act": Rule(("worker-*",), ("worker-9",))}}).grants_of("user", "eve")
    eve = Identity("user", "eve", "eve", (), grants)
    node = Node()
    for id in ("worker-1", "worker-9", "mailer"):
        node.may(MAILER, id)
    assert [node.may(eve, id) for id in ("worker-1", "worker-9", "mailer")] == [True, False, False]
    assert node.may(MAILER, "worker-1")  # it stays whose it was


def test_without_credentials_everybody_shares_and_nothing_is_stored():
    node = Node(access={"keys": {}, "secrets": ()})
    node.claim(ANYBODY, "worker")
    assert node.owners.known["worker"] == {CLIENT_ID: ANYBODY.owner}
    assert node.owner("worker") is None
    assert not node.may(ANYBODY, "broker")


def test_where_nothing_names_people_any_more_the_secret_is_trusted_with_their_ids():
    node = Node()
    node.claim(MAILER, "phone")
    assert node.restarted(access={"keys": {}}).may(SECRET, "phone")


def test_of_two_who_claim_an_id_at_once_one_gets_it():
    node = Node()
    asked = [Deferred(), Deferred()]
    waiting = iter(asked)
    get, node.store.get = node.store.get, lambda *key: next(waiting)
    claims = [Deferred.fromCoroutine(node.owners.claim(CLIENT_ID, "x", who)) for who in (ANN, BOB)]
    node.store.get = get
    for answer in asked:
        answer.callback(None)
    assert value_of(claims[0]) is None
    with pytest.raises(Denied):
        value_of(claims[1])


def test_the_user_of_that_name_wins_a_race_with_anybody_else():
    node = Node()
    asked = [Deferred(), Deferred()]
    waiting = iter(asked)
    get, node.store.get = node.store.get, lambda *key: next(waiting)
    node.owners.claim_name(BOB)
    claim = Deferred.fromCoroutine(Node(node.store, node.nodes).owners.claim(CLIENT_ID, "bob", SECRET))
    node.store.get = get
    asked[1].callback(None)
    value_of(claim)
    asked[0].callback(None)
    assert node.owner("bob") == "user:bob"
    assert node.replaced == [("bob", "user:bob")]
    assert not node.may(SECRET, "bob")


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_told_that_he_may_after_the_user_of_that_name_came_may_not(kind):
    node, answer = Node(), Deferred()
    store_it, node.store.set = node.store.set, lambda *key, **more: answer
    claim = Deferred.fromCoroutine(node.owners.claim(kind, "bob", SECRET))
    node.store.set = store_it
    value_of(node.store.set(SPACE, pair_key(kind, "bob"), b"shared"))
    Node(node.store, node.nodes).owners.claim_name(BOB)
    answer.callback(None)
    with pytest.raises(Denied):
        value_of(claim)
    assert node.owners.called("bob") == "user:bob"
    assert not node.may(SECRET, "bob", kind)


@pytest.mark.parametrize("stored", [None, Unavailable("store")])
def test_who_asks_waits_until_the_name_of_a_user_is_stored(stored: Any) -> None:
    node = Node()
    asked: Deferred[None] = Deferred()
    get, node.store.get = node.store.get, lambda *key: asked
    node.owners.claim_name(BOB)
    waiting: list[Any] = [node.owners.settled("bob"), node.owners.settled("bob")]
    assert [deferred.called for deferred in waiting] == [False, False]
    node.store.get = get
    asked.callback(None) if stored is None else asked.errback(stored)
    assert [value_of(deferred) for deferred in waiting] == [None, None]
    assert node.owners.settled("bob") is None
    assert node.owners.settled("ann") is None


def test_while_the_store_is_away_no_new_id_can_be_used(logged):
    node = Node()
    node.claim(ANN, "phone")
    node.store.get = lambda *key: fail(Unavailable("store"))
    with pytest.raises(Unavailable):
        node.claim(ANN, "tablet")
    assert node.may(ANN, "phone")
    assert logged == []


@pytest.mark.parametrize(("forgotten", "owner"), [(False, "user:bob"), (True, None)])
def test_the_name_of_a_user_who_came_while_the_store_was_away_is_stored_later(logged, forgotten, owner):
    node = Node()
    get, node.store.get = node.store.get, lambda *key: fail(Unavailable("store"))
    node.owners.claim_name(BOB)
    node.store.get = get
    assert [event["log_format"] for event in logged] == ["the owner of a client id was not stored: {reason}"]
    assert not node.may(ANN, "bob")
    if forgotten:
        node.owners.known.clear()  # the next use tries again
    (again,) = node.undone
    value_of(again())
    assert node.owner("bob") == owner


def test_the_name_of_a_user_that_can_not_be_stored_is_tried_at_the_next_use(logged):
    node = Node()
    node.store.get = lambda *key: fail(Invalid("key"))
    node.owners.claim_name(BOB)
    assert ("bob" in node.owners.known, node.undone) == (False, [])


def test_a_store_that_was_wiped_is_told_again():
    node = Node()
    node.owners.claim_name(BOB)
    node.claim(ANN, "phone", INDEX)
    node.store = node.owners._store = MemoryStore(node.clock)
    node.store.startService()
    value_of(node.store.set(SPACE, pair_key(INDEX, "phone"), b"user:eve"))  # another node was faster
    value_of(node.owners.restore())
    assert (node.owner("bob"), node.owner("phone", INDEX)) == ("user:bob", "user:eve")
    assert not node.may(ANN, "phone", INDEX)


def test_a_claim_lives_as_long_as_what_it_owns_from_its_last_use_on():
    node = Node(lives={CLIENT_ID: 7 * DAY})
    node.claim(ANN, "phone")
    for _ in range(20):
        node.clock.advance(DAY)
        node.owners.sweep()
        node.claim(ANN, "phone")
    assert not node.may(BOB, "phone")
    node.clock.advance(11 * DAY)
    node.owners.sweep()
    assert node.may(BOB, "phone")


def test_a_claim_lives_on_by_what_others_do_with_what_it_owns():
    node = Node(lives={INDEX: 7 * DAY})
    value_of(node.owners.extend(INDEX, "by-type"))
    node.claim(ANN, "by-type", INDEX)
    for _ in range(20):
        node.clock.advance(DAY)
        node.owners.sweep()
        value_of(node.owners.extend(INDEX, "by-type"))
    assert not node.may(BOB, "by-type", INDEX)


def test_a_principal_owns_so_many_ids():
    node = Node(limit=2)
    for id in ("a", "b", "a"):
        node.claim(ANN, id)
    with pytest.raises(RateLimited):
        node.claim(ANN, "c")
    node.claim(BOB, "c")
    node.owners.claim_name(ANN)
    assert not node.may(BOB, "ann")


def test_use_of_an_id_costs_a_write_a_day_at_most():
    node = Node(lives={CLIENT_ID: 7 * DAY})
    written = []
    put = node.store.set
    node.store.set = lambda *args, **options: written.append(args) or put(*args, **options)
    for _ in range(10):
        node.claim(ANN, "phone")
        node.owners.claim_name(BOB)
        node.clock.advance(DAY / 20)
        node.owners.sweep()
    assert len(written) == 2


def test_a_claim_that_another_extends_meanwhile_is_looked_at_again():
    node = Node(lives={CLIENT_ID: 7 * DAY})
    node.claim(ANN, "phone")
    node.clock.advance(2 * DAY)
    node.owners.sweep()
    put, fails = node.store.set, [Conflict("revision")]
    node.store.set = lambda *args, **options: fail(fails.pop()) if fails else put(*args, **options)
    assert node.may(ANN, "phone")
    assert fails == []
