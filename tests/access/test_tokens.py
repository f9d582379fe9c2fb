"""Tokens: minted, shown, expired, revoked."""

from typing import Any, cast

import attrs
import jwt
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.access.permissions import Permissions, Rule
from broker.access.principals import Access
from broker.access.tokens import SIGNING_KEY, SPACE, Tokens
from broker.core.service import Broker
from broker.errors import Denied, Gone, RateLimited, Unauthenticated
from broker.testing import make_broker, value_of

KEYS = {"ann": "ann-key", "bob": "bob-key"}


@attrs.define(eq=False)
class Holder:
    ends: list = attrs.field(factory=list)

    def disconnect(self, code, reason):
        self.ends.append((code, reason))


def do(coroutine):
    return value_of(Deferred.fromCoroutine(coroutine))


@pytest.fixture
def clock():
    clock = Clock()
    clock.advance(1_000_000_000)
    return clock


@pytest.fixture
def broker(clock):
    return make_broker(clock, Access("required", secrets=("secret",), keys=dict(KEYS)))


def attach(broker, credential="", holder=None):
    peer = broker.attach("test", "127.0.0.1")
    if credential:
        peer.identify(credential)
    if holder is not None:
        peer.bind(object(), holder.disconnect)
    return peer


def timers(clock):
    """Return what is to happen besides the broker's own sweeps."""
    return [call for call in clock.getDelayedCalls() if call.getTime() - clock.seconds() > 65]


def test_a_token_speaks_for_who_minted_it(broker):
    token = do(attach(broker, "ann-key").mint({"patterns": ["a"]}, 60))
    peer = attach(broker)
    assert do(peer.present(token)) == {"patterns": ["a"]}
    assert (peer.identity.name, peer.identity.authenticated, peer.admitted) == ("ann", True, True)
    assert broker.metrics.verbs["test"] == {"identify": 2, "mint": 1}


def test_a_token_fits_into_a_url(broker):
    token = do(attach(broker, "ann-key").mint({}, 60))
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


@pytest.mark.parametrize("wrong", ["", "x", "a.b.c", "invalid-token", "ä", "x" * 10_000])
def test_what_is_no_token_is_refused(broker, wrong):
    peer = attach(broker)
    with pytest.raises(Unauthenticated):
        do(peer.present(wrong))
    assert not peer.admitted
    assert broker.metrics.auth_failures["test"] == 1


def test_a_token_that_was_changed_or_signed_by_another_is_refused(broker):
    token = do(attach(broker, "ann-key").mint({}, 60))
    head, body, signature = token.split(".")
    claims = jwt.decode(token, options={"verify_signature": False})
    forged = [
        f"{head}.{body}.{signature[:-4]}AAAA",
        jwt.encode(claims, "x" * 32, algorithm="HS256"),
        jwt.encode(claims, "", algorithm="none"),
        jwt.encode({"jti": "x"}, broker.tokens._key, algorithm="HS256"),
        jwt.encode({"jti": "x", "bearer": {}, "claims": {}, "exp": None}, broker.tokens._key, algorithm="HS256"),
    ]
    for text in forged:
        with pytest.raises(Unauthenticated):
            do(attach(broker).present(text))


def test_at_its_end_the_connection_is_closed_and_comes_in_no_more(broker, clock):
    token = do(attach(broker, "ann-key").mint({}, 100))
    holder = Holder()
    do(attach(broker, holder=holder).present(token))
    clock.advance(99.5)
    assert holder.ends == []
    clock.advance(0.5)
    assert holder.ends == [(4001, "token expired")]
    with pytest.raises(Unauthenticated):
        do(attach(broker).present(token))
    assert timers(clock) == []


def test_a_token_ends_at_its_time_however_short(broker, clock):
    token = do(attach(broker, "ann-key").mint({}, 0.5))
    holder = Holder()
    do(attach(broker, holder=holder).present(token))
    clock.advance(0.5)
    assert holder.ends == [(4001, "token expired")]


def test_a_revoked_token_closes_what_lives_by_it_and_nothing_else(broker):
    minter = attach(broker, "ann-key")
    token, other = do(minter.mint({}, 1000)), do(minter.mint({}, 1000))
    holders = [Holder(), Holder(), Holder()]
    for holder, shown in zip(holders, (token, token, other), strict=True):
        do(attach(broker, holder=holder).present(shown))
    do(minter.revoke(token))
    assert [holder.ends for holder in holders] == [[(4003, "token revoked")], [(4003, "token revoked")], []]
    with pytest.raises(Unauthenticated):
        do(attach(broker).present(token))
    do(attach(broker).present(other))
    with pytest.raises(Unauthenticated):
        do(minter.revoke("x"))


def test_who_leaves_leaves_no_timer(broker, clock):
    token = do(attach(broker, "ann-key").mint({}, 1000))
    one, two = attach(broker, holder=Holder()), attach(broker, holder=Holder())
    for peer in (one, two, two):
        do(peer.present(token))
    assert len(timers(clock)) == 2
    one.close()
    assert len(timers(clock)) == 1
    two.close()
    assert timers(clock) == []
    assert not broker.tokens._holders


def test_stopping_leaves_no_timer(broker, clock):
    token = do(attach(broker, "ann-key").mint({}, 1000))
    do(attach(broker, holder=Holder()).present(token))
    broker.tokens.stop()
    assert timers(clock) == []


def test_who_has_gone_meanwhile_holds_nothing(broker):
    token = do(attach(broker, "ann-key").mint({}, 1000))
    peer = attach(broker)
    peer.close()
    with pytest.raises(Gone):
        do(peer.present(token))
    assert not broker.tokens._holders


def test_tokens_survive_a_restart_on_the_same_store(broker, clock):
    token = do(attach(broker, "ann-key").mint({"a": 1}, 100))
    store, store.parent = broker.store, None
    again = Broker(broker.settings, store, make_broker().bus, clock, broker.access)
    assert do(attach(again).present(token)) == {"a": 1}
    do(attach(again, "ann-key").revoke(token))
    with pytest.raises(Unauthenticated):
        do(attach(broker).present(token))


def test_the_signing_key_is_made_once_by_all_nodes(broker, clock):
    nodes = [Tokens(broker.store, lambda _: None, clock) for _ in range(3)]
    minted = [do(node.mint({"name": ""}, {}, 60)) for node in nodes]
    assert [do(nodes[0].verify(token)).bearer for token in minted] == [{"name": ""}] * 3
    assert value_of(broker.store.get(SPACE, SIGNING_KEY)).revision == 1


def test_a_node_that_comes_second_takes_the_key_of_the_first(broker, clock):
    class Late:
        """A store that another node writes to between our look and our write."""

        looks = 0

        def get(self, space, key):
            self.looks += 1
            return broker.store.get(space, "nothing" if self.looks == 1 else key)

        set = broker.store.set

    first = Tokens(broker.store, lambda _: None, clock)
    token = do(first.mint({}, {}, 60))
    assert do(Tokens(cast(Any, Late()), lambda _: None, clock).verify(token)).claims == {}


def test_a_key_that_was_taken_away_takes_its_tokens_along(broker):
    token = do(attach(broker, "ann-key").mint({}, 100))
    named = do(attach(broker, "secret").mint({}, 100))
    broker.access.keys = {"bob": "bob-key"}
    with pytest.raises(Unauthenticated):
        do(attach(broker).present(token))
    do(attach(broker).present(named))


def test_a_token_of_nobody_is_worth_nothing_where_a_credential_is_asked_for(clock):
    broker = make_broker(clock)
    token = do(attach(broker).mint({}, 100))
    do(attach(broker).present(token))
    broker.access.mode = "required"
    broker.access.secrets = ("s",)
    with pytest.raises(Unauthenticated):
        do(attach(broker).present(token))


def test_a_token_has_the_permissions_of_who_minted_it():
    rules = {"mint": Rule((">",)), "read": Rule(("kv/open",))}
    permissions = Permissions({"key:ann": rules, "key:bob": {"read": Rule((">",))}})
    access = Access("required", keys=dict(KEYS), permissions=permissions)
    broker = make_broker(access=access)
    token = do(attach(broker, "ann-key").mint({}, 100))
    peer = attach(broker)
    do(peer.present(token))
    value_of(peer.get("open"))
    with pytest.raises(Denied):
        peer.get("shut")
    with pytest.raises(Denied):
        do(attach(broker, "bob-key").mint({}, 100))
    with pytest.raises(Denied):
        do(attach(broker, "bob-key").revoke(token))
    access.permissions = Permissions({})
    peer = attach(broker)
    do(peer.present(token))
    with pytest.raises(Denied):
        peer.get("open")


def test_the_tokens_of_a_principal_share_its_rate():
    broker = make_broker(access=Access("required", keys=dict(KEYS)), rate=0.001, rate_burst=2)
    ann = attach(broker, "ann-key")
    first, second = do(ann.mint({}, 100)), do(ann.mint({}, 100))
    with pytest.raises(RateLimited):
        do(ann.mint({}, 100))
    for token in (first, second):
        peer = attach(broker)
        do(peer.present(token))
        with pytest.raises(RateLimited):
            peer.get("k")
    attach(broker, "bob-key").get("k")


def test_a_frame_that_was_paid_for_has_one_verb_free():
    broker = make_broker(rate=0.001, rate_burst=3)
    peer = attach(broker)
    peer.pace()
    peer.get("k")
    peer.pace()
    peer.pace()  # the second frame asked for nothing
    with pytest.raises(RateLimited):
        peer.pace()
    peer = attach(make_broker(rate=0.001, rate_burst=1))
    peer.pace()
    peer.get("k")
    with pytest.raises(RateLimited):
        peer.get("k")
