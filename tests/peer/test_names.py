"""The names that a peer performs, takes and consumes: here, among the nodes, and in the place of another."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred

from broker.core.names import Claimant, LocalNames
from broker.errors import Gone, RateLimited, Taken
from broker.messages import Mail
from broker.testing import make_broker, value_of
from tests.support.peers import attach, closings_of, perform


def test_one_registration_of_several_names_takes_one_token(clock):
    peer = attach(make_broker(clock, rate=0.001, rate_burst=2))
    perform(peer, "a", "b", "c")
    perform(peer, "d")
    with pytest.raises(RateLimited):
        perform(peer, "e")


def test_living_holder_keeps_its_name(broker):
    ann, bob = attach(broker), attach(broker)
    closings = closings_of(ann)
    perform(ann, "s", as_service=True)
    with pytest.raises(Taken):
        perform(bob, "s", as_service=True, takeover=True)
    assert (closings, ann.closed) == ([], False)
    assert broker.calls.services.names_of(ann) == ["s"]


class SlowClaimant(Claimant):
    """Waits for other nodes, and checks then as often as it is asked."""

    def __init__(self, names):
        self.names, self.claimed = names, []

    def __exit__(self, *_):
        self.names.ended += self.claimed

    async def claim(self, name, *, shared, takeover):
        self.names.asked.append((name, shared, takeover))
        await self.names.answer
        self.claimed.append(name)

    def check(self):
        if self.names.lost:
            raise Taken("exists", self.claimed[0])


class SlowNames(LocalNames):
    """Other nodes that take their time; keeps what they were asked for."""

    def __init__(self):
        self.asked, self.ended, self.released, self.answer = [], [], [], Deferred()
        self.lost = False
        self.waiting = None

    def claimant(self):
        return SlowClaimant(self)

    def hold(self, name):
        self.asked.append(name)

    def release(self, names):
        self.released += names

    def settled(self):
        return self.waiting


@pytest.fixture
def names(broker):
    broker.parts.cluster = SlowNames()
    return broker.parts.cluster


@pytest.mark.parametrize(("as_service", "kind"), [(False, "procedure:"), (True, "service:")])
def test_names_are_claimed_among_the_nodes_and_given_back(broker, names, as_service, kind):
    ann = attach(broker)
    names.answer.callback(None)
    perform(ann, "a", "b", as_service=as_service, shared=True)
    assert names.asked == [(kind + "a", True, False), (kind + "b", True, False)]
    assert not ann.release("other", as_service=as_service)
    assert names.released == []
    assert ann.release("a", as_service=as_service)
    assert names.released == [kind + "a"]


def test_who_was_slower_at_the_other_nodes_gets_none_of_its_names(broker, names):
    ann, bob = attach(broker), attach(broker)
    slow = Deferred.fromCoroutine(ann.perform(["a", "b"]))
    broker.calls.performers.add(bob, "b")
    names.answer.callback(None)
    with pytest.raises(Taken):
        value_of(slow)
    assert names.ended == ["procedure:a", "procedure:b"]
    assert broker.calls.performers.names() == ["b"]


def test_who_has_lost_a_name_while_it_waited_for_the_next_gets_none(broker, names):
    ann = attach(broker)
    slow = Deferred.fromCoroutine(ann.perform(["a", "b"]))
    names.lost = True
    names.answer.callback(None)
    with pytest.raises(Taken):
        value_of(slow)
    assert names.ended == ["procedure:a", "procedure:b"]
    assert broker.calls.performers.names() == []


@pytest.mark.parametrize("end", [lambda ann, taking: ann.close(), lambda ann, taking: taking.cancel()])
def test_who_leaves_while_it_waits_for_its_names_gets_none(broker, names, end):
    ann = attach(broker)
    taking = Deferred.fromCoroutine(ann.perform(["a", "b"]))
    end(ann, taking)
    if not taking.called:
        names.answer.callback(None)
    with pytest.raises((Gone, CancelledError)) as caught:
        value_of(taking)
    assert str(caught.value) in ("lost a", "")
    assert names.ended == (["procedure:a", "procedure:b"] if caught.type is Gone else [])
    assert broker.calls.performers.names() == []


def test_what_is_shared_with_other_nodes_is_held_and_given_back(broker, names):
    ann = attach(broker)
    ann.acknowledge("jobs")
    ann.consume("q")
    assert names.asked == ["taker:jobs", "queue:q"]
    for _ in range(2):
        ann.unacknowledge("jobs")
        ann.stop_consuming("q")
    assert names.released == ["taker:jobs", "queue:q"]


@pytest.mark.parametrize("later", [False, True])
def test_a_holder_whose_probe_fails_is_replaced(broker, later):
    ann, bob = attach(broker), attach(broker)
    value_of(ann.perform(["s"], as_service=True))

    def probe():
        raise ZeroDivisionError("a bug")

    async def probe_later():
        probe()

    ann.session.probe = probe_later if later else probe
    value_of(bob.perform(["s"], as_service=True, takeover=True))
    assert ann.closed
    assert broker.calls.services.names_of(bob) == ["s"]


def test_silent_holder_is_replaced(broker, clock):
    ann, bob = attach(broker), attach(broker)
    closings = closings_of(ann)
    ann.session.alive = Deferred()
    perform(ann, "s", as_service=True)
    taking = Deferred.fromCoroutine(bob.perform(["s"], as_service=True, takeover=True))
    assert not taking.called
    clock.advance(1.1)
    value_of(taking)
    assert closings == [(1001, "replaced")]
    assert ann.closed
    assert broker.calls.services.names_of(bob) == ["s"]


def test_peer_without_a_session_gives_no_sign_of_life(broker):
    assert value_of(broker.attach("test", "x").probe(1.0)) is False


@pytest.mark.parametrize("taken", [True, False])
def test_mail_for_a_stranger_is_offered_to_the_other_nodes(broker, names, taken):
    asked: list[tuple[str, Mail]] = []

    async def deliver(session, mail):
        asked.append((session, mail))
        return taken

    names.deliver = deliver
    sent = attach(broker, "ann").enqueue("r", b"1", recipient="far")
    if taken:
        assert value_of(sent) is False
    else:
        with pytest.raises(Gone):
            value_of(sent)
    ((session, mail),) = asked
    assert (session, mail.queue, mail.ref, mail.body, mail.source) == ("far", "client:far", "r", b"1", "ann")


@pytest.mark.parametrize("last", ["bus", "nodes"])
def test_who_joins_waits_until_bus_and_nodes_know_it(broker, names, last):
    waiting: dict[str, Deferred[None]] = {"bus": Deferred(), "nodes": Deferred()}
    broker.bus.listening = lambda: waiting["bus"]
    names.waiting = waiting["nodes"]
    joining = Deferred.fromCoroutine(attach(broker).join("a"))
    (first,) = {"bus", "nodes"} - {last}
    waiting[first].callback(None)
    assert not joining.called
    waiting[last].callback(None)
    assert value_of(joining) is None


# In the place of another


def taking_over(broker, *holders):
    """Let *holders*, who do not respond, share "s", and another take it; return that one and its attempt."""
    for holder in holders:
        holder.session.alive = Deferred()
        perform(holder, "s", shared=True)
    bob = attach(broker)
    return bob, Deferred.fromCoroutine(bob.perform(["s"], takeover=True))


def test_without_takeover_nobody_is_asked_whether_it_lives(broker):
    ann, bob = attach(broker), attach(broker)
    ann.session.alive = False
    perform(ann, "s")
    with pytest.raises(Taken):
        perform(bob, "s")
    assert not ann.closed


def test_all_who_share_a_name_are_replaced_one_after_the_other(broker, clock):
    holders = [attach(broker), attach(broker)]
    bob, taking = taking_over(broker, *holders)
    clock.advance(1.1)
    assert [holder.closed for holder in holders].count(True) == 1
    clock.advance(1.1)
    value_of(taking)
    assert broker.calls.performers.get("s").holders == [bob]


def test_who_gives_up_asking_leaves_the_holder_alone(broker, clock):
    ann = attach(broker)
    _, taking = taking_over(broker, ann)
    taking.cancel()
    with pytest.raises(CancelledError):
        value_of(taking)
    clock.advance(10)
    assert not ann.closed


def test_who_leaves_while_it_asks_gets_nothing(broker, clock):
    ann = attach(broker)
    bob, taking = taking_over(broker, ann)
    bob.close()
    clock.advance(1.1)
    with pytest.raises(Gone) as caught:
        value_of(taking)
    assert (caught.value.what, caught.value.name) == ("lost", "s")
    assert broker.calls.performers.names() == []
