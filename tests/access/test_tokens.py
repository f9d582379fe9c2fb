"""Tokens: minted, shown, expired, revoked."""

import time
from typing import Any, cast

import attrs
import jwt
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.access.permissions import Permissions, Rule
from broker.access.principals import Access
from broker.access.tokens import REVOKED, SIGNING_KEY, SPACE, Tokens
from broker.access.web_tokens import WebTokens, secret_key
from broker.core.service import Broker
from broker.errors import Denied, Gone, RateLimited, Unauthenticated
from broker.messages import Event, Identity
from broker.testing import make_broker, value_of

SIGNING = "0123456789abcdef" * 2
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
    assert len(broker.parts.lifetimes) == 0


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
    before = len(clock.getDelayedCalls())
    one, two = attach(broker, holder=Holder()), attach(broker, holder=Holder())
    for peer in (one, two, two):
        do(peer.present(token))
    assert len(clock.getDelayedCalls()) == before + 2
    one.close()
    assert len(clock.getDelayedCalls()) == before + 1
    two.close()
    assert len(clock.getDelayedCalls()) == before
    assert len(broker.parts.lifetimes) == 0


def test_stopping_leaves_no_timer(broker, clock):
    token = do(attach(broker, "ann-key").mint({}, 1000))
    do(attach(broker, holder=Holder()).present(token))
    broker.stopService()
    assert clock.getDelayedCalls() == []


def test_who_has_gone_meanwhile_holds_nothing(broker):
    token = do(attach(broker, "ann-key").mint({}, 1000))
    peer = attach(broker)
    peer.close()
    with pytest.raises(Gone):
        do(peer.present(token))
    assert len(broker.parts.lifetimes) == 0


def test_tokens_survive_a_restart_on_the_same_store(broker, clock):
    token = do(attach(broker, "ann-key").mint({"a": 1}, 100))
    store, store.parent = broker.store, None
    again = Broker(broker.settings, store, make_broker().bus, clock, broker.access)
    assert do(attach(again).present(token)) == {"a": 1}
    do(attach(again, "ann-key").revoke(token))
    with pytest.raises(Unauthenticated):
        do(attach(broker).present(token))


def test_the_signing_key_is_made_once_by_all_nodes(broker, clock):
    nodes = [Tokens(broker.store, lambda _: None) for _ in range(3)]
    minted = [do(node.mint({"name": ""}, {}, 60)) for node in nodes]
    assert [do(nodes[0].verify(token)).bearer["name"] for token in minted] == ["", "", ""]
    assert value_of(broker.store.get(SPACE, SIGNING_KEY)).revision == 1


def test_a_node_that_comes_second_takes_the_key_of_the_first(broker, clock):
    class Late:
        """A store that another node writes to between our look and our write."""

        looks = 0

        def get(self, space, key):
            self.looks += 1
            return broker.store.get(space, "nothing" if self.looks == 1 else key)

        set, wall = broker.store.set, broker.store.wall

    first = Tokens(broker.store, lambda _: None)
    token = do(first.mint({}, {}, 60))
    assert do(Tokens(cast(Any, Late()), lambda _: None).verify(token)).claims == {}


def claims_of(token):
    return jwt.decode(token, options={"verify_signature": False})


def user(clock, seconds, **claims):
    """Return a JSON web token that ends in *seconds*, and a broker whose clock agrees with that."""
    clock.advance(int(time.time()) + 0.0 - clock.seconds())
    access = Access("required", web_tokens=WebTokens((secret_key(SIGNING),), leeway=60.0))
    return jwt.encode({"exp": clock.seconds() + seconds, **claims}, SIGNING, "HS256"), make_broker(clock, access)


def test_a_minted_token_lives_no_longer_than_what_it_was_minted_with(clock):
    shown, broker = user(clock, 100, sub="eve")
    minter = attach(broker, shown)
    token = do(minter.mint({}, 7200))
    assert claims_of(token)["exp"] == clock.seconds() + 100 + 60  # with the leeway
    assert claims_of(do(minter.mint({}, 50)))["exp"] == clock.seconds() + 50
    holder = Holder()
    do(attach(broker, holder=holder).present(token))
    clock.advance(159)
    assert holder.ends == []
    clock.advance(1)
    assert holder.ends == [(4001, "token expired")]
    with pytest.raises(Unauthenticated):
        do(minter.mint({}, 7200))


def test_what_is_minted_by_a_token_lives_no_longer_than_that(broker, clock):
    peer = attach(broker)
    do(peer.present(do(attach(broker, "ann-key").mint({}, 100))))
    assert claims_of(do(peer.mint({}, 7200)))["exp"] == clock.seconds() + 100


def test_a_token_does_not_tell_of_the_secret_that_it_was_minted_with(broker):
    mark = attach(broker, "secret").identity.fingerprint
    token = do(attach(broker, "secret").mint({}, 100))
    shown = claims_of(token)["bearer"]["fingerprint"]
    assert (len(mark), len(shown), shown in mark) == (64, 32, False)
    assert shown == broker.tokens.tag(mark)
    other = make_broker(access=broker.access)
    assert claims_of(do(attach(other, "secret").mint({}, 100)))["bearer"]["fingerprint"] != shown


def test_a_token_dies_with_the_key_that_it_came_from_not_with_its_name(broker):
    token = do(attach(broker, "ann-key").mint({}, 100))
    broker.access.keys = {"ann": "another-key"}
    with pytest.raises(Unauthenticated):
        do(attach(broker).present(token))
    broker.access.keys = {"ann": "ann-key"}
    do(attach(broker).present(token))


def test_a_token_of_another_version_is_refused(broker):
    do(attach(broker, "ann-key").mint({}, 100))  # makes the signing key
    record = {"jti": "x", "exp": 2e9, "bearer": {"name": "ann", "roles": [], "named": True}, "claims": {}}
    with pytest.raises(Unauthenticated):
        do(attach(broker).present(jwt.encode(record, broker.tokens._key, "HS256")))


def test_a_token_that_is_revoked_while_it_is_looked_at_is_refused(broker, clock):
    token = do(attach(broker, "ann-key").mint({}, 100))
    answer: Deferred = Deferred()

    class Late:
        """A store whose answer is under way when the token is revoked."""

        wall = broker.store.wall

        def get(self, space, key):
            return answer if key.startswith("revoked:") else broker.store.get(space, key)

    tokens = Tokens(cast(Any, Late()), lambda _: None)
    looking = Deferred.fromCoroutine(tokens.verify(token))
    tokens.revoked(Event("", "revoked", None, claims_of(token)["jti"]))
    answer.callback(None)
    with pytest.raises(Unauthenticated):
        value_of(looking)


def test_only_so_many_revocations_are_remembered(broker):
    for number in range(1500):
        broker.tokens.revoked(Event("", "revoked", None, str(number)))
    assert len(broker.tokens._revoked) == 1000


def test_who_is_revoked_before_there_is_a_connection_gets_none(broker):
    token = do(attach(broker, "ann-key").mint({}, 100))
    peer, holder = attach(broker), Holder()
    do(peer.present(token))
    do(attach(broker, "ann-key").revoke(token))
    peer.bind(object(), holder.disconnect)
    assert holder.ends == [(4003, "token revoked")]
    assert len(broker.parts.lifetimes) == 0


def test_a_revoked_token_is_remembered_until_its_own_end(broker, clock):
    token = do(attach(broker, "ann-key").mint({}, 100))
    do(attach(broker, "ann-key").revoke(token))
    entry = value_of(broker.store.get(SPACE, REVOKED + claims_of(token)["jti"]))
    assert entry.expires == clock.seconds() + 100


def test_whose_key_was_replaced_is_disconnected_when_the_credentials_change(broker):
    minter = attach(broker, "ann-key")
    token = do(minter.mint({}, 1000))
    ann, bob, holder, secret = Holder(), Holder(), Holder(), Holder()
    attach(broker, "ann-key", ann)
    attach(broker, "bob-key", bob)
    attach(broker, "secret", secret)
    do(attach(broker, holder=holder).present(token))
    broker.access.keys = {"ann": "new-key", "bob": "bob-key"}
    assert broker.credentials_changed() == 2
    assert ann.ends == [(1008, "credential withdrawn")]
    assert holder.ends == [(4003, "token revoked")]
    assert (bob.ends, secret.ends) == ([], [])


def test_who_has_shown_nothing_is_disconnected_when_a_credential_is_required():
    broker = make_broker(access=Access("optional", secrets=("secret",)))
    stranger, known, dialects_own = Holder(), Holder(), Holder()
    attach(broker, "", stranger)
    attach(broker, "secret", known)
    attach(broker, "", dialects_own).admit(Identity("key", "x"))  # a dialect has looked at its credential itself
    broker.access.mode = "required"
    assert broker.credentials_changed() == 1
    assert (stranger.ends, known.ends, dialects_own.ends) == ([(1008, "credential withdrawn")], [], [])


def test_polls_and_claims_that_wait_end_when_the_credentials_change(broker):
    poll = Deferred.fromCoroutine(attach(broker, "ann-key").poll("t", 0, 10, 60.0))
    claim = Deferred.fromCoroutine(attach(broker, "ann-key").claim_jobs("q", wait=60.0))
    broker.credentials_changed()
    assert (value_of(poll), value_of(claim)) == ([], [])
    assert broker.channels.waiting == 0


def test_a_poll_ends_with_the_credential(clock):
    shown, broker = user(clock, 100, sub="eve")
    clock.advance(157.5)
    poll = Deferred.fromCoroutine(attach(broker, shown).poll("t", 0, 10, 60.0))
    clock.pump([0.5] * 5)
    assert not poll.called
    clock.pump([0.5] * 2)
    with pytest.raises(Unauthenticated, match="The credential has expired"):
        value_of(poll)


def test_a_poll_brings_nothing_when_the_credential_has_expired_meanwhile(clock):
    shown, broker = user(clock, 100, sub="eve")
    clock.advance(159.75)
    poll = Deferred.fromCoroutine(attach(broker, shown).poll("t", 0, 10, 60.0))
    clock.advance(0.3)
    value_of(broker.channels.post(Event("t", "n", b"1")))
    with pytest.raises(Unauthenticated):
        value_of(poll)


def test_a_poll_that_ends_in_time_is_not_touched(clock):
    shown, broker = user(clock, 100, sub="eve")
    poll = Deferred.fromCoroutine(attach(broker, shown).poll("t", 0, 10, 5.0))
    clock.pump([0.5] * 11)
    assert value_of(poll) == []


def test_the_same_principal_may_renew_its_credential(clock):
    shown, broker = user(clock, 100, sub="eve", roles=["a"])
    holder = Holder()
    peer = attach(broker, shown, holder)
    for claims in ({"sub": "bob", "roles": ["a"]}, {"sub": "eve"}, {"roles": ["a"]}):
        with pytest.raises(Denied):
            peer.identify(jwt.encode({"exp": clock.seconds() + 500, **claims}, SIGNING, "HS256"))
    peer.identify(jwt.encode({"exp": clock.seconds() + 500, "sub": "eve", "roles": ["b", "a"]}, SIGNING, "HS256"))
    clock.advance(559)
    assert holder.ends == []
    clock.advance(1)
    assert holder.ends == [(1008, "credential expired")]


def test_a_client_whose_session_fails_when_it_is_warned_is_disconnected(clock, logged):
    shown, broker = user(clock, 40, sub="eve")
    peer, holder = attach(broker, shown), Holder()
    peer.bind(object(), holder.disconnect, lambda seconds: 1 / 0)
    clock.advance(90)
    assert holder.ends == [(1011, "internal error")]
    assert [event["what"] for event in logged if event.get("log_failure")] == ["a warning"]


def test_an_http_request_leaves_nothing_behind(broker):
    peer = attach(broker, "ann-key")
    assert len(broker.parts.lifetimes) == 0
    peer.close()


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


def test_tokens_that_were_good_once_are_no_guesses(clock):
    _, broker = user(clock, 100)
    broker.access.keys = {"ann": "ann-key"}
    minter = attach(broker, "ann-key")
    revoked, expired = do(minter.mint({}, 1000)), do(minter.mint({}, 1))
    do(minter.revoke(revoked))
    clock.advance(1)
    for claims in ({"exp": 1_000_000_000}, {"sub": "eve"}):
        with pytest.raises(Unauthenticated):
            attach(broker, jwt.encode(claims, SIGNING, "HS256"))
    for token in (revoked, expired):
        with pytest.raises(Unauthenticated):
            do(attach(broker).present(token))
    broker.access.keys = {"ann": "new-key"}
    with pytest.raises(Unauthenticated):
        do(attach(broker).present(do(minter.mint({}, 1000))))
    assert broker.metrics.auth_failures["test"] == 5
    assert not broker.parts.failures.addresses


@pytest.mark.parametrize("claims", [{"exp": 1_000_000_000}, {"exp": 4_000_000_000}, {}])
def test_tokens_with_the_signature_of_another_are_guesses_whatever_they_say(clock, claims):
    _, broker = user(clock, 100)
    with pytest.raises(Unauthenticated):
        attach(broker, jwt.encode(claims, SIGNING[::-1], "HS256"))
    assert [failures.number for failures in broker.parts.failures.addresses.values()] == [1]
