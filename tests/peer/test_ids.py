"""The ids of a peer: whose name it may take, and what it keeps while it is connected."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from broker.access.permissions import Permissions, Rule
from broker.access.principals import Access
from broker.core.names import Claimant
from broker.core.owners import CLIENT_ID, DAY, MEMBER, SERVICE_NAME, SPACE
from broker.core.service import SWEEP
from broker.errors import Denied, Invalid, Unauthenticated
from broker.messages import Identity
from broker.patterns import pair_key
from broker.testing import make_broker, value_of
from tests.support.peers import Session, attach, closings_of, perform

SECRET, BOB, EVE = Identity("secret"), Identity("user", "bob", "bob"), Identity("user", "eve", "eve")


@pytest.fixture
def broker(clock):
    return make_broker(clock, Access("required", secrets=("s",), keys={"mailer": "key"}))


def admitted(broker, identity, name="", dialect="test"):
    peer = broker.attach(dialect, "127.0.0.1")
    peer.bind(Session())
    peer.admit(identity)
    if name:
        value_of(peer.take_name(name))
    peer.appear()
    return peer


def allowed_to_act(pattern, identity):
    grants = Permissions({identity.principal: {"act": Rule((pattern,))}}, lenient=True).grants_of(
        identity.kind, identity.name
    )
    return Identity(identity.kind, identity.name, identity.client, grants=grants)


def test_who_may_act_as_another_takes_its_name_and_gets_its_mail(broker):
    value_of(admitted(broker, SECRET, "worker-1").enqueue("", b'"before"', recipient="worker-1"))
    eve = admitted(broker, allowed_to_act("worker-*", EVE), "worker-1")
    assert eve.client == "worker-1"
    value_of(admitted(broker, BOB).enqueue("", b"1", recipient="worker-1"))
    assert [(mail.body, mail.source) for mail in eve.session.mails] == [(b"1", "bob")]
    assert value_of(eve.publish("t", "e", b"1")).source == "worker-1"
    with pytest.raises(Denied):
        value_of(eve.take_name("worker-2"))


def test_a_named_principal_takes_no_other_name_even_if_it_is_free(broker):
    for identity in (EVE, Identity("key", "mailer", "mailer"), Identity("user")):
        with pytest.raises(Denied):
            admitted(broker, identity, "free")


def test_a_client_that_shows_another_credential_is_called_by_that(clock):
    broker = make_broker(clock, Access("none", keys={"mailer": "key"}))
    peer = attach(broker, "ann")
    peer.identify("key")
    assert peer.client == "mailer"


def test_a_user_who_comes_disconnects_who_had_his_name_but_not_who_may_act_as_him(broker):
    squatter, helper = admitted(broker, SECRET, "bob"), admitted(broker, allowed_to_act("bob", EVE), "bob")
    closings = [closings_of(peer) for peer in (squatter, helper)]
    admitted(broker, BOB)
    assert closings == [[(1001, "replaced")], []]
    assert [squatter.closed, helper.closed] == [True, False]


@pytest.mark.parametrize("use", ["member", "service"])
@pytest.mark.parametrize("before", [SECRET, EVE])
def test_a_user_who_comes_disconnects_who_had_his_name_for_something_else(broker, before, use):
    squatter, helper = admitted(broker, before), admitted(broker, allowed_to_act("bob", EVE), dialect="other")
    for peer in (squatter, helper):
        if use == "member":
            value_of(peer.become("bob"))
        else:
            perform(peer, "bob", as_service=True, shared=True)
    closings = [closings_of(peer) for peer in (squatter, helper)]
    admitted(broker, BOB)
    assert closings == [[(1001, "replaced")], []]
    assert squatter.closed


def test_who_has_a_name_but_is_not_seen_yet_when_its_user_comes_is_disconnected(broker):
    squatter = broker.attach("test", "127.0.0.1")
    squatter.bind(Session())
    squatter.admit(SECRET)
    closings = closings_of(squatter)
    value_of(squatter.take_name("bob"))
    bob = admitted(broker, BOB)
    squatter.appear()
    assert closings == [(1001, "replaced")]
    assert broker.presence.sessions_of("bob") == [bob]


class SlowClaimant(Claimant):
    """Waits for the other nodes."""

    def __init__(self, held):
        self.held = held

    async def claim(self, name, *, shared, takeover):
        await self.held


def test_who_registers_a_service_while_its_user_comes_does_not_get_it(broker):
    squatter, held = admitted(broker, EVE), Deferred()
    broker.parts.cluster.claimant = lambda: SlowClaimant(held)
    registering = Deferred.fromCoroutine(squatter.perform(["bob"], as_service=True))
    admitted(broker, BOB)
    held.callback(None)
    with pytest.raises(Denied):
        value_of(registering)
    assert "bob" not in broker.calls.services


def test_nobody_acts_before_he_has_shown_who_he_is(broker):
    with pytest.raises(Unauthenticated):
        broker.attach("test", "x").act_as("ann")


def test_to_be_asked_whether_it_may_is_no_use_of_an_id(broker):
    for identity in (EVE, BOB):
        value_of(admitted(broker, identity).act_as("phone"))
    value_of(admitted(broker, EVE).move_cursor("phone", "news", 1))
    assert admitted(broker, EVE).act_as("phone") is None
    with pytest.raises(Denied):
        value_of(admitted(broker, BOB).act_as("phone"))


def test_who_may_not_read_a_topic_owns_no_id_by_asking_for_it(broker):
    grants = Permissions({}).grants_of("user", "eve")
    eve = admitted(broker, Identity("user", "eve", "eve", grants=grants))
    with pytest.raises(Denied):
        eve.move_cursor("phone", "news", 1)
    with pytest.raises(Denied):
        eve.post("news", "e", b"1", client="phone")
    value_of(admitted(broker, BOB).move_cursor("phone", "news", 1))


def test_an_id_is_checked_before_the_number_is_stored(broker):
    with pytest.raises(Invalid):
        admitted(broker, BOB).move_cursor("phone", "news", -1)
    assert value_of(broker.store.get(SPACE, pair_key(CLIENT_ID, "phone"))) is None


def test_to_be_connected_is_to_use_an_id(broker, clock):
    broker.parts.owners._lives = dict.fromkeys((CLIENT_ID, MEMBER, SERVICE_NAME), 5 * DAY)
    named = admitted(broker, SECRET, "worker")
    value_of(named.become("member"))
    perform(named, "service", as_service=True)
    admitted(broker, BOB)
    for _ in range(30):
        clock.advance(DAY)
        clock.advance(SWEEP)
    held = ((CLIENT_ID, "worker"), (CLIENT_ID, "bob"), (MEMBER, "member"), (SERVICE_NAME, "service"))
    for kind, id in held:
        entry = value_of(broker.store.get(SPACE, pair_key(kind, id)))
        assert entry.expires > clock.seconds() + 5 * DAY, (kind, id)
    named.close()
    clock.advance(9 * DAY)
    clock.advance(SWEEP)
    eve = admitted(broker, allowed_to_act("worker", EVE), "worker")
    assert eve.client == "worker"
    assert value_of(broker.store.get(SPACE, pair_key(CLIENT_ID, "worker"))).value == b"user:eve"
