"""The client API: what a client may ask for, and that its leaving undoes it."""

from __future__ import annotations

from uuid import uuid1, uuid4

import attrs
import pytest
from twisted.internet.defer import Deferred, fail
from zope.interface.verify import verifyObject

from broker.access.permissions import Grants, Permissions, Rule
from broker.access.principals import Access
from broker.core.registry import NAME_BYTES
from broker.core.shares import MAX_LISTINGS, READS_AT_ONCE
from broker.core.slices import slices_of
from broker.errors import BrokerError, Denied, Gone, Invalid, NotFound, RateLimited, Taken, Unauthenticated, Unavailable
from broker.interfaces import IPeer
from broker.messages import Event, Request
from broker.patterns import CONTROL_PREFIX
from broker.peer import Peer
from broker.peer.calls import NAMES_PER_LOOK
from broker.testing import make_broker, value_of
from tests.support.logs import lines_of
from tests.support.peers import Session, attach, call, closings_of, perform

# What the core calls; a dialect does not.
CALLED_BY_THE_CORE = {
    "on_cancel", "on_event", "on_reply", "on_request", "post_mail", "accepts_jobs", "on_gap", "probe", "lives",
    "may_be", "keep_ids", "keep_testament", "since",
    "keep_mailbox", "renew", "warn",
}  # fmt: skip


def test_a_peer_provides_its_interface(broker):
    assert verifyObject(IPeer, attach(broker))


def test_the_interface_has_every_verb():
    public = {name for name in dir(Peer) if not name.startswith("_")}
    assert public - set(IPeer.names(all=True)) == CALLED_BY_THE_CORE | {"calling", "flow", "token"}


# Names


def test_client_id_is_of_the_credential_then_the_name_then_the_session(broker):
    broker.access.keys = {"ann": "key"}
    peer = attach(broker)
    assert peer.client == peer.id
    value_of(peer.take_name("bob"))
    assert peer.client == "bob"
    peer.identify("key")
    assert peer.client == "ann"


def test_name_is_taken_once(broker):
    peer = attach(broker, "ann")
    value_of(peer.take_name("ann"))
    with pytest.raises(Denied):
        value_of(peer.take_name("bob"))


@pytest.mark.parametrize("name", ["broker", "broker.x", "queue:q", "key-name"])
def test_names_of_others_can_not_be_taken(broker, name):
    broker.access.keys = {"key-name": "key"}
    with pytest.raises(Denied):
        value_of(attach(broker).take_name(name))


@pytest.mark.parametrize("shared", [False, True])
def test_the_session_id_of_another_can_not_be_taken_be_it_of_another_node_or_to_come(broker, shared):
    ann, bob = attach(broker), attach(broker)
    broker.bus.shared = shared
    to_come = f"{bob.id[:24]}{int(bob.id[24:], 16) + 5:012x}"
    for name in (bob.id, to_come, "01234567-89ab-8def-8123-456789abcdef"):
        with pytest.raises(Denied):
            value_of(ann.take_name(name))
        with pytest.raises(Denied):
            value_of(ann.act_as(name))
        with pytest.raises(Denied):
            value_of(ann.post("t", "e", None, client=name))
    value_of(ann.take_name(ann.id))
    assert ann.client == ann.id


def test_a_uuid_of_a_client_is_a_name_like_any_other(broker):
    for shared, name in ((False, str(uuid4())), (True, str(uuid1()))):
        broker.bus.shared = shared
        peer = attach(broker)
        value_of(peer.take_name(name))
        assert peer.client == name


@pytest.mark.parametrize(
    ("mode", "credential", "may"), [("none", "", True), ("optional", "", False), ("optional", "s", True)]
)
def test_name_needs_a_credential_where_one_may_be_shown(clock, mode, credential, may):
    broker = make_broker(clock, Access(mode=mode, secrets=("s",)))
    peer = attach(broker)
    if credential:
        peer.identify(credential)
    if may:
        value_of(peer.take_name("ann"))
    else:
        with pytest.raises(Denied):
            value_of(peer.take_name("ann"))


def test_identity_changes_only_from_nobody(broker):
    broker.access.keys = {"ann": "a", "bob": "b"}
    peer = attach(broker)
    peer.identify("a")
    peer.identify("a")
    with pytest.raises(Denied):
        peer.identify("b")
    assert peer.client == "ann"


def test_tries_are_limited_and_counted(clock):
    broker = make_broker(clock, Access(mode="required", secrets=("s",)), auth_tries=2)
    peer = attach(broker)
    for left in (1, 0):
        with pytest.raises(Unauthenticated):
            peer.identify("wrong")
        assert peer.tries_left == left
    with pytest.raises(RateLimited):
        peer.identify("s")
    assert broker.metrics.auth_failures["test"] == 2
    assert broker.metrics.verbs["test"]["identify"] == 3


def test_who_was_recognized_has_all_its_tries_again(clock):
    peer = attach(make_broker(clock, Access(mode="required", secrets=("s",)), auth_tries=2))
    with pytest.raises(Unauthenticated):
        peer.identify("wrong")
    peer.identify("s")
    assert peer.tries_left == 2


# The gate


def test_peer_that_is_not_admitted_may_do_nothing(clock):
    broker = make_broker(clock, Access(mode="required", secrets=("s",)))
    peer = broker.attach("test", "127.0.0.1")
    with pytest.raises(Unauthenticated) as caught:
        peer.subscribe("a")
    assert caught.value.what == "subscribe"
    peer.identify("s")
    peer.subscribe("a")


def test_permission_is_asked_for_each_verb(broker):
    peer = attach(broker)
    peer.identity = attrs.evolve(peer.identity, grants=Grants({"publish": Rule(("ok",))}))
    value_of(peer.publish("ok", "e", b"1"))
    for act in (lambda: peer.publish("no", "e", b"1"), lambda: peer.subscribe("ok"), lambda: call(peer, "ok")):
        with pytest.raises(Denied):
            act()
    assert peer.procedures() == []


def test_rate_is_limited_per_peer_address(clock):
    broker = make_broker(clock, rate=1.0, rate_burst=2)
    peer = attach(broker)
    for _ in range(2):
        peer.subscribe("a")
    with pytest.raises(RateLimited):
        peer.subscribe("a")
    assert broker.metrics.rate_limited == 1
    clock.advance(1)
    peer.subscribe("a")


def test_one_http_request_takes_one_token(clock):
    broker = make_broker(clock, rate=1.0, rate_burst=2)
    for _ in range(2):
        peer = attach(broker)
        peer.take_one_token()
        for _ in range(3):
            peer.subscribe("a")
    with pytest.raises(RateLimited):
        attach(broker).take_one_token()
    unlimited = attach(make_broker(clock))
    unlimited.take_one_token()
    unlimited.pace()


def test_a_peer_tells_the_epoch_of_the_store_and_has_the_clock_of_the_broker(broker):
    peer = attach(broker)
    assert (peer.epoch, peer.clock) == (broker.store.epoch, broker.clock)


READS = {
    "read": lambda peer, topic: peer.read(topic, 0, 1),
    "latest": lambda peer, topic: peer.latest(topic, 1),
    "head": lambda peer, topic: peer.head(topic),
    "poll": lambda peer, topic: peer.poll(topic, 0, 1, 0.0),
    "create_index": lambda peer, topic: peer.create_index("i", topic, "name"),
}
CURSORS = {
    "cursor": lambda peer, topic: peer.cursor("ann", topic),
    "move_cursor": lambda peer, topic: peer.move_cursor("ann", topic, 1),
}


@pytest.fixture
def reader(broker):
    peer = attach(broker)
    peer.identity = attrs.evolve(peer.identity, grants=Grants({"read": Rule(("open", CONTROL_PREFIX + "x"))}))
    return peer


@pytest.mark.parametrize("verb", [*READS, *CURSORS])
def test_every_way_to_read_needs_the_permission(reader, verb):
    read = (READS | CURSORS)[verb]
    value_of(read(reader, "open"))
    with pytest.raises(Denied):
        value_of(read(reader, "shut"))


@pytest.mark.parametrize("verb", READS)
def test_what_nodes_tell_each_other_can_not_be_read(reader, verb):
    with pytest.raises(Denied):
        value_of(READS[verb](reader, CONTROL_PREFIX + "x"))


def test_verbs_are_counted(broker):
    peer = attach(broker)
    peer.subscribe("a")
    peer.subscribe("b")
    peer.ignore()
    peer.procedures()
    assert peer.about() == broker.about()
    assert not peer.answer("unknown", b"1")
    assert broker.metrics.verbs["test"] == {"subscribe": 2, "ignore": 1, "procedures": 1, "about": 1, "answer": 1}


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 256])
def test_names_that_are_none_are_invalid(broker, name):
    peer = attach(broker)
    for act in (lambda: peer.publish(name, "e", b"1"), lambda: peer.subscribe(name), lambda: peer.consume(name)):
        with pytest.raises(Invalid):
            act()


USES_OF_A_NAME = {
    "publish": lambda peer, name: peer.publish(name, "e", b"1"),
    "post": lambda peer, name: value_of(peer.post(name, "e", b"1")),
    "perform": lambda peer, name: perform(peer, name),
    "perform as a service": lambda peer, name: perform(peer, name, as_service=True),
    "acknowledge": lambda peer, name: peer.acknowledge(name),
    "consume": lambda peer, name: peer.consume(name),
    "send to a queue": lambda peer, name: value_of(peer.enqueue("r", b"1", recipient=f"queue:{name}")),
}


@pytest.mark.parametrize("name", ["broker", "broker.", "broker.x", "broker.control.left", "kv/k", "kv/", "queue:q"])
@pytest.mark.parametrize("use", USES_OF_A_NAME.values(), ids=USES_OF_A_NAME)
def test_names_of_the_broker_can_not_be_used(broker, use, name):
    watcher, peer = attach(broker), attach(broker)
    watcher.subscribe(">")
    watcher.subscribe(name, exact=True)
    with pytest.raises(Denied):
        use(peer, name)
    assert watcher.session.heard == []


@pytest.mark.parametrize("name", ["user", "default", "secret", "user:bob", "brokerage", "brokers.x", "kv", "kvx/y"])
@pytest.mark.parametrize("kind", USES_OF_A_NAME)
def test_other_names_are_anybodys(broker, kind, name):
    use = USES_OF_A_NAME[kind]
    if "service" in kind and ":" in name:  # a service is called as a client is, which could be taken for that user
        with pytest.raises(Denied):
            use(attach(broker), name)
    else:
        use(attach(broker), name)


@pytest.mark.parametrize("recipient", ["broker", "broker.x"])
def test_nobody_sends_messages_to_the_broker_itself(broker, recipient):
    with pytest.raises(Denied):
        attach(broker).enqueue("r", b"1", recipient=recipient)


@pytest.mark.parametrize("key", ["broker", "broker.x"])
def test_keys_of_the_broker_can_be_read_and_removed_but_not_written(broker, key):
    peer = attach(broker)
    value_of(broker.keys.set(key, b"1"))  # by an older version
    for write in (lambda: peer.set(key, b"2"), lambda: peer.patch(key, b"2"), lambda: peer.increment(key, b"1")):
        with pytest.raises(Denied):
            write()
    assert value_of(peer.get(key)).value == b"1"
    assert [found for found, _ in value_of(peer.range(key, key, 5))] == [key]
    assert value_of(peer.delete(key)) is True


def test_peer_that_is_closed_can_do_nothing(broker):
    peer = attach(broker)
    peer.close()
    peer.close()
    with pytest.raises(Gone):
        peer.subscribe("a")


# Events


def test_event_says_whose_it_is(broker, clock):
    ann, bob = attach(broker, "ann"), attach(broker, "bob")
    bob.subscribe("a.*")
    ann.publish("a.b", "kind", b"1", original=b"frame")
    ((event, pattern),) = bob.session.heard
    assert (event.topic, event.name, event.body, event.source, event.time) == (
        "a.b",
        "kind",
        b"1",
        "ann",
        clock.seconds(),
    )
    assert (event.origin, event.dialect, event.original, pattern) == (ann.id, "test", b"frame", "a.*")


def test_publisher_hears_its_own_event_only_when_it_asks_for_that(broker):
    ann = attach(broker)
    ann.subscribe("a")
    ann.subscribe("b", echo=True)
    for topic in ("a", "b"):
        value_of(ann.publish(topic, "e", b"1"))
    assert [event.topic for event, _ in ann.session.heard] == ["b"]


def test_an_event_is_of_the_client_whatever_it_says_of_whom(broker):
    ann = attach(broker, "ann")
    assert [value_of(ann.publish("a", "e", b"1", named=named)).source for named in (True, False)] == ["ann", ""]
    posted = [value_of(ann.post("a", "e", b"1", client=client, author="svc")) for client in ("", "w1")]
    assert [(event.source, event.author) for event in posted] == [("ann", "svc"), ("w1", "svc")]


def test_an_event_is_published_when_the_bus_has_taken_it(broker):
    taken: Deferred[None] = Deferred()
    broker.bus.publish = lambda event: taken
    publishing = attach(broker).publish("a", "e", b"1")
    assert not publishing.called
    taken.callback(None)
    assert value_of(publishing).topic == "a"


def test_who_changes_a_key_does_not_hear_of_it_as_an_event(broker):
    ann, bob = attach(broker), attach(broker)
    for peer in (ann, bob):
        peer.subscribe("kv/k")
    value_of(ann.set("k", b"1"))
    value_of(ann.increment("k", b"1"))
    value_of(ann.patch("k", b"x"))
    value_of(ann.delete("k"))
    assert ann.session.heard == []
    assert [event.name for event, _ in bob.session.heard] == ["set", "set", "set", "delete"]


def test_live_events_may_carry_the_clients_time_and_stored_ones_not(clock):
    broker = make_broker(clock, durable_topics=("kept",))
    peer = attach(broker)
    assert value_of(peer.publish("live", "e", b"1", time=5.0)).time == 5.0
    assert value_of(peer.publish("kept", "e", b"1", time=5.0)).time == clock.seconds()


def test_subscriptions_are_limited_and_listed(clock):
    broker = make_broker(clock, max_subscriptions=2)
    peer = attach(broker)
    peer.subscribe("a")
    peer.subscribe("b.*")
    peer.subscribe("a", echo=True)
    with pytest.raises(RateLimited):
        peer.subscribe("c")
    assert peer.subscriptions == ["a", "b.*"]
    peer.unsubscribe("a")
    peer.unsubscribe("never")
    assert peer.subscriptions == ["b.*"]


def test_session_that_fails_at_something_is_closed_alone(broker):
    ann, bob = attach(broker, "ann"), attach(broker, "bob")
    closings = closings_of(bob)
    bob.subscribe("a")
    perform(bob, "m")
    bob.consume("q")
    bob.session.broken = True
    for act in (
        lambda: value_of(ann.publish("a", "e", b"1")),
        lambda: call(ann, "m"),
        lambda: value_of(ann.enqueue("r", b"1", recipient="queue:q")),
        lambda: bob.on_reply(None),
    ):
        closings.clear()
        act()
        assert set(closings) == {(1011, "internal error")}
    assert not ann.closed


# Indices


def test_reading_an_index_costs_one_token_and_the_permission_to_read_its_topic(clock):
    access = Access("optional", keys={"ann": "key"}, permissions=Permissions({"key:ann": {"read": Rule(("open",))}}))
    broker = make_broker(clock, access, rate=0.001, rate_burst=2)
    value_of(broker.parts.indices.create("i", "open", "name"))
    value_of(broker.parts.indices.create("j", "shut", "name"))
    peer = attach(broker)
    peer.identify("key")
    assert value_of(peer.read_index("i", "x", lambda event, field: event.name)).events == []
    with pytest.raises(Denied):
        value_of(peer.read_index("j", "x", lambda event, field: event.name))
    with pytest.raises(RateLimited):
        value_of(peer.read_index("i", "x", lambda event, field: event.name))


# Calls


def test_call_names_caller_service_and_method(broker):
    ann, bob = attach(broker, "ann"), attach(broker, "bob", "other")
    perform(bob, "s", as_service=True)
    call(ann, "s.a.b")
    (request,) = bob.session.served
    assert (request.service, request.method, request.caller, request.dialect) == ("s", "a.b", "ann", "test")
    assert bob.answer(request.id, b"5")
    assert ann.session.replies[0].source == "bob"
    assert broker.metrics.answers_dropped == 0
    assert not bob.answer(request.id, b"6")
    assert broker.metrics.answers_dropped == 1


def test_call_that_nobody_answers_ends_with_a_timeout_unless_it_is_quiet(broker, clock):
    ann, bob = attach(broker), attach(broker)
    perform(bob, "m")
    call(ann, "m")
    ann.call("quiet", Request("", "m", "", "", b"[]", timeout=5.0), quiet=True)
    clock.advance(5.1)
    assert [(reply.ref, reply.error.code) for reply in ann.session.replies] == [("ref", "TIMEOUT")]


def test_call_to_one_who_is_here_but_does_not_perform_it_is_looked_for_elsewhere(broker, monkeypatch):
    ann, bob, stand_in = attach(broker), attach(broker, "bob"), attach(broker)
    with pytest.raises(NotFound):
        call(ann, "m", recipient="bob")
    asked = []
    monkeypatch.setattr(broker.calls, "find_remote", lambda names, error: asked.append(tuple(names)) or stand_in)
    call(ann, "m", recipient="bob")
    call(ann, "m", recipient="away")
    assert asked == [("client:bob", "session:bob"), ("client:away", "session:away")]
    assert (len(bob.session.served), len(stand_in.session.served)) == (0, 2)


def test_session_may_refuse_a_call(broker, monkeypatch):
    ann, bob = attach(broker), attach(broker)
    perform(bob, "m")

    def refuse(request):
        raise Invalid("arguments")

    monkeypatch.setattr(Session, "request", lambda self, request: refuse(request))
    with pytest.raises(Invalid):
        call(ann, "m")
    assert broker.calls.pending == 0


def test_names_are_taken_all_or_none(broker):
    ann, bob = attach(broker), attach(broker)
    perform(ann, "b")
    with pytest.raises(Taken):
        perform(bob, "a", "b", "c")
    assert broker.calls.performers.names_of(bob) == []
    perform(bob, "a", "c")
    assert broker.calls.performers.names_of(bob) == ["a", "c"]
    assert ann.procedures() == ["a", "b", "c"]
    assert bob.release("a")
    assert not bob.release("a")


def test_registrations_are_limited(clock, logged):
    broker = make_broker(clock, max_registrations=2)
    peer = attach(broker)
    with pytest.raises(RateLimited):
        perform(peer, "a", "b", "c")
    perform(peer, "a", "b")
    with pytest.raises(RateLimited):
        perform(peer, "c")
    for topic in ("a", "b"):
        peer.acknowledge(topic)
        peer.consume(topic)
    with pytest.raises(RateLimited):
        peer.acknowledge("c")
    with pytest.raises(RateLimited):
        peer.consume("c")
    told = [line for line in lines_of(logged) if line.endswith("; see TXBROKER_MAX_REGISTRATIONS")]
    assert [line.split()[-3].removesuffix(";") for line in told] == ["register", "register", "acknowledge", "consume"]


# Requests


def test_request_goes_to_a_taker_of_its_topic_else_to_the_star(broker):
    ann, bob, eve = attach(broker), attach(broker), attach(broker)
    bob.acknowledge("jobs")
    eve.acknowledge("*")
    for topic in ("jobs", "other", ""):
        ann.request("ref", Request("", "", "", "", b"{}"), topic)
    assert (len(bob.session.served), len(eve.session.served)) == (1, 2)
    eve.unacknowledge("*")
    with pytest.raises(NotFound) as caught:
        ann.request("ref", Request("", "", "", "", b"{}"), "other")
    assert (caught.value.what, caught.value.name) == ("request", "other")
    assert bob.acknowledged == ["jobs"]


def test_takers_of_one_topic_take_turns(broker):
    ann, bob, eve = attach(broker), attach(broker), attach(broker)
    bob.acknowledge("jobs")
    eve.acknowledge("jobs")
    for _ in range(4):
        ann.request("ref", Request("", "", "", "", b"{}"), "jobs")
    assert (len(bob.session.served), len(eve.session.served)) == (2, 2)


@pytest.mark.parametrize(
    ("topic", "recipient", "asked"), [("jobs", "bob", "bob"), ("", "bob", "bob"), ("jobs", "", "jobs"), ("", "", "*")]
)
def test_a_request_needs_the_permission_for_its_recipient_else_its_topic_else_the_star(broker, topic, recipient, asked):
    ann, bob = attach(broker), attach(broker, "bob")
    for taken in ("jobs", "*"):
        bob.acknowledge(taken)
    ann.identity = attrs.evolve(ann.identity, grants=Grants({"request": Rule()}))
    with pytest.raises(Denied) as caught:
        ann.request("ref", Request("", "", "", "", b"{}", recipient=recipient), topic)
    assert (caught.value.what, caught.value.name) == ("request", asked)


def test_a_topic_of_requests_must_be_a_name(broker):
    ann = attach(broker)
    for topic in ("", "a\nb", "x" * 256):
        with pytest.raises(Invalid):
            ann.acknowledge(topic)
    ann.acknowledge("*")
    assert ann.acknowledged == ["*"]


def test_addressed_request_goes_to_the_latest_session(broker):
    ann, old, new = attach(broker), attach(broker, "bob"), attach(broker, "bob")
    ann.request("ref", Request("", "", "", "", b"{}", recipient="bob"))
    ann.request("ref", Request("", "", "", "", b"{}", recipient=old.id))
    assert (len(old.session.served), len(new.session.served)) == (1, 1)
    with pytest.raises(Gone):
        ann.request("ref", Request("", "", "", "", b"{}", recipient="nobody"))


# Mail


def test_mail_for_a_known_client_waits(broker, clock):
    ann, bob = attach(broker, "ann"), attach(broker, "bob")
    bob.close()
    assert value_of(ann.enqueue("r", b"1", recipient="bob")) is False
    again = attach(broker, "bob")
    assert [mail.body for mail in again.session.mails] == [b"1"]


def test_mail_for_one_whom_its_credential_names_waits_and_comes(broker):
    broker.access.keys = {"bob": "key"}
    ann, bob = attach(broker, "ann"), broker.attach("test", "127.0.0.1")
    value_of(ann.enqueue("r", b"1", recipient="bob"))
    bob.bind(Session())
    bob.identify("key")
    bob.appear()
    assert [mail.body for mail in bob.session.mails] == [b"1"]


def test_mail_says_whose_it_is_and_when_it_was_sent(broker, clock):
    ann, bob = attach(broker, "ann"), attach(broker, "bob")
    bob.consume("default")
    value_of(ann.enqueue("r", b"1"))
    value_of(ann.enqueue("s", b"2", recipient="bob", time=5.0))
    assert [(mail.queue, mail.ref, mail.source, mail.time) for mail in bob.session.mails] == [
        ("queue:default", "r", "ann", clock.seconds()),
        ("client:bob", "s", "ann", 5.0),
    ]


def test_mail_to_a_session_is_handed_over_or_refused(broker):
    ann, bob = attach(broker, "ann"), attach(broker, "bob")
    assert value_of(ann.enqueue("r", b"1", recipient=bob.id)) is False
    bob.session.willing = False
    with pytest.raises(Gone):
        value_of(ann.enqueue("r", b"2", recipient=bob.id))
    bob.session.willing = True
    bob.collect()
    assert [mail.body for mail in bob.session.mails] == [b"1", b"2"]  # offered once each


@pytest.mark.parametrize("name", ["bob", ""])
def test_session_that_declines_gets_its_mail_when_it_collects_whether_it_has_a_name_or_not(broker, name):
    ann, bob = attach(broker, "ann"), attach(broker, name)
    bob.session.willing = False
    value_of(ann.enqueue("r", b"1", recipient=bob.client))
    bob.session.mails.clear()
    bob.session.willing = True
    bob.collect()
    assert [mail.body for mail in bob.session.mails] == [b"1"]
    bob.close()
    assert len(broker.queues) == 1  # ann's


def test_a_session_that_comes_without_a_name_is_not_looked_up(broker):
    attach(broker).collect()
    assert len(broker.queues) == 0


def test_mail_for_a_session_that_fails_is_kept(broker):
    ann, bob = attach(broker, "ann"), attach(broker, "bob")
    bob.session.broken = True
    value_of(ann.enqueue("r", b"1", recipient="bob"))
    bob.close()
    again = attach(broker, "bob")
    assert [mail.body for mail in again.session.mails] == [b"1"]


def test_known_clients_are_known_after_a_restart_of_memory(broker):
    ann = attach(broker, "ann")
    attach(broker, "bob").close()
    broker.parts.mailboxes.forget()
    assert value_of(ann.enqueue("r", b"1", recipient="bob")) is False


def test_unknown_client_has_no_mailbox_unless_a_permission_names_it(broker):
    ann = attach(broker, "ann")
    with pytest.raises(Gone):
        value_of(ann.enqueue("r", b"1", recipient="new"))
    ann.identity = attrs.evolve(ann.identity, grants=Grants({"send": Rule(("new", "n*", ">"))}))
    value_of(ann.enqueue("r", b"1", recipient="new"))
    with pytest.raises(Gone):
        value_of(ann.enqueue("r", b"1", recipient="newer"))


def test_session_that_declines_gets_its_mail_when_it_collects(broker):
    ann, bob = attach(broker, "ann"), attach(broker, "bob")
    bob.consume("q")
    bob.session.willing = False
    value_of(ann.enqueue("r", b"1", recipient="bob"))
    value_of(ann.enqueue("r", b"2", recipient="queue:q"))
    bob.session.mails.clear()
    bob.session.willing = True
    bob.collect()
    assert [mail.body for mail in bob.session.mails] == [b"1", b"2"]
    bob.session.mails.clear()
    bob.session.willing = False
    with pytest.raises(Gone):
        value_of(ann.enqueue("r", b"3", recipient=bob.id))


def test_consumers_of_a_work_queue_share_it(broker):
    ann, bob, eve = attach(broker), attach(broker), attach(broker)
    for peer in (bob, eve):
        peer.consume("q")
    for number in range(4):
        value_of(ann.enqueue("r", b"%d" % number, recipient="queue:q"))
    assert (len(bob.session.mails), len(eve.session.mails)) == (2, 2)


def test_consumers_come_and_go(broker):
    ann, bob = attach(broker), attach(broker)
    bob.consume("q")
    bob.consume("p")
    assert bob.consumed == ["p", "q"]
    bob.stop_consuming("q")
    bob.stop_consuming("q")
    value_of(ann.enqueue("r", b"1", recipient="queue:q"))
    assert bob.session.mails == []
    bob.stop_consuming("p")
    assert len(broker.queues) == 0


# Leaving


def test_closing_undoes_everything(broker, clock):
    ann, bob = attach(broker, "ann"), attach(broker, "bob")
    bob.subscribe("a")
    bob.subscribe("b.*")
    perform(bob, "m")
    perform(bob, "s", as_service=True)
    bob.acknowledge("*")
    bob.consume("q")
    bob.watch(lambda key: True)
    call(ann, "m")
    call(bob, "m")
    heard = bob.session.heard
    bob.close()
    assert len(broker.topics) == 0
    assert broker.calls.pending == 0
    assert (len(broker.calls.performers), len(broker.calls.services), len(broker.calls.takers)) == (0, 0, 0)
    assert len(broker.presence) == 1
    assert len(broker.queues) == 1  # ann's
    assert isinstance(ann.session.replies[0].error, BrokerError)
    broker.arrived(Event("kv/k", "set", b"1"))
    assert heard == []
    assert not bob.post_mail(None)


def test_client_that_becomes_another_leaves_no_mailbox_open(clock):
    broker = make_broker(clock, Access(mode="none", keys={"bob": "key"}))
    peer = attach(broker, "ann")
    peer.identify("key")
    peer.appear()
    assert broker.presence.sessions("ann") == []
    peer.close()
    assert len(broker.queues) == 0


def test_client_that_could_not_be_remembered_is_when_it_comes_again(broker, monkeypatch):
    monkeypatch.setattr(broker.store, "set", lambda *words, **named: fail(Unavailable("store")))
    attach(broker, "ann").close()
    monkeypatch.undo()
    attach(broker, "ann").close()
    assert value_of(broker.store.get("client", "ann")) is not None


def test_the_patterns_of_a_peer_have_few_tokens_on_the_average(clock):
    peer = attach(make_broker(clock, max_subscriptions=2))
    peer.subscribe("*." + ".".join("a" * 14))
    with pytest.raises(RateLimited):
        peer.subscribe("*." + ".".join("b" * 8))
    assert len(peer.subscriptions) == 1
    peer.subscribe("*.b")


def test_the_tokens_of_a_pattern_count_once_and_as_long_as_it_is_subscribed_to(clock):
    peer = attach(make_broker(clock, max_subscriptions=3))
    long, other = (f"*.{'.'.join(letter * 14)}" for letter in "ab")
    for _ in range(3):
        peer.subscribe(long)
        with pytest.raises(RateLimited):
            peer.subscribe(other)
    peer.unsubscribe(long)
    peer.unsubscribe(long)
    for exact in (False, True):
        peer.subscribe(other, exact=exact)
        with pytest.raises(RateLimited):
            peer.subscribe(long)
    peer.close()
    assert peer.subscriptions == []


def test_to_subscribe_to_one_pattern_more_looks_at_none_of_the_others(clock, monkeypatch):
    peer = attach(make_broker(clock, max_subscriptions=300))
    looked = []
    monkeypatch.setattr("broker.peer.topics.pattern_tokens", lambda *words: looked.append(words) or 10)
    for number in range(200):
        peer.subscribe(f"*.{number}.3.4.5.6.7.8.9.10")
    assert len(looked) == 400  # when it is checked, and when it is kept


def test_procedures_that_match_are_found_in_slices(broker, clock):
    peers = [attach(broker) for _ in range(3)]
    for number, peer in enumerate(peers):
        perform(peer, *(f"m{number}.{index:03}" for index in range(NAMES_PER_LOOK)))
    slices = slices_of(clock)
    slices.begin()
    clock.rightNow += 1
    search = Deferred.fromCoroutine(peers[0].matching_procedures("m2.*"))
    assert not search.called
    slices.finish()
    clock.pump([0] * 4)
    assert value_of(search) == [f"m2.{index:03}" for index in range(NAMES_PER_LOOK)]
    first = Deferred.fromCoroutine(peers[0].matching_procedures(">", 2))
    assert value_of(first) == ["m0.000", "m0.001"]
    with pytest.raises(Invalid):
        value_of(Deferred.fromCoroutine(peers[0].matching_procedures("a..*")))


def test_procedures_are_searched_for_one_client_after_the_other(broker, clock):
    ann, bob = attach(broker), attach(broker)
    perform(ann, *(f"m.{index:03}" for index in range(NAMES_PER_LOOK)))
    slices = slices_of(clock)
    slices.begin()
    clock.rightNow += 1
    searches = [Deferred.fromCoroutine(bob.matching_procedures(">", 1)) for _ in range(MAX_LISTINGS + 1)]
    assert slices.pauses == 1
    with pytest.raises(RateLimited):
        value_of(Deferred.fromCoroutine(bob.matching_procedures(">")))
    slices.finish()
    clock.advance(0)
    assert [value_of(search) for search in searches] == [["m.000"]] * len(searches)


def test_a_search_for_procedures_ends_with_its_client(broker, clock):
    ann, bob = attach(broker), attach(broker)
    perform(ann, *(f"m.{index:03}" for index in range(NAMES_PER_LOOK)))
    slices = slices_of(clock)
    slices.begin()
    clock.rightNow += 1
    searches = [Deferred.fromCoroutine(bob.matching_procedures(">")) for _ in range(2)]
    bob.close()
    slices.finish()
    clock.advance(0)
    for search in searches:
        with pytest.raises(Gone):
            value_of(search)


def test_few_ranges_of_one_client_are_read_at_once(broker, monkeypatch):
    reads = []

    def read(*bounds, **options):
        reads.append(Deferred())
        return reads[-1]

    monkeypatch.setattr(broker.keys, "range", read)
    peers = [attach(broker) for _ in range(2)]
    ranges = [Deferred.fromCoroutine(peers[number % 2].range("a", "b", 1)) for number in range(READS_AT_ONCE + 1)]
    assert len(reads) == READS_AT_ONCE
    reads[0].errback(Invalid("range"))
    assert len(reads) == READS_AT_ONCE + 1
    ranges[0].addErrback(lambda failure: failure.trap(Invalid))
    for number, each in enumerate(reads[1:]):
        each.callback([number])
    assert sorted(value_of(each) for each in ranges[1:]) == [[number] for number in range(READS_AT_ONCE)]


def test_ranges_that_wait_end_with_their_client(broker, monkeypatch):
    reads = []

    def read(*bounds, **options):
        reads.append(Deferred())
        return reads[-1]

    monkeypatch.setattr(broker.keys, "range", read)
    peers = [attach(broker) for _ in range(2)]
    ranges = [Deferred.fromCoroutine(peers[0].range("a", "b", 1)) for _ in range(READS_AT_ONCE + 2)]
    last = Deferred.fromCoroutine(peers[1].range("a", "b", 1))
    peers[0].close()
    reads[0].callback([])
    for ended in ranges[READS_AT_ONCE:]:
        with pytest.raises(Gone):
            value_of(ended)
    reads[READS_AT_ONCE].callback(["found"])
    assert value_of(last) == ["found"]


def test_names_that_a_client_registers_count_as_held_for_it(broker):
    ann = attach(broker)
    perform(ann, "a", "b")
    perform(ann, "s", as_service=True)
    assert broker.memory.held.used == 3 * (NAME_BYTES + 1)
    ann.release("a")
    assert broker.memory.held.used == 2 * (NAME_BYTES + 1)
    ann.close()
    assert broker.memory.held.used == 0


def test_what_a_peer_watches_ends_with_it(broker):
    ann, bob = attach(broker), attach(broker)
    ann.watch_pattern("a.*")
    ann.watch_pattern("a.*")
    bob.set("a.b", b"1")
    ann.unwatch_pattern("a.*")
    ann.watch_pattern("b.>")
    assert [event.topic for event, _ in ann.session.heard] == ["kv/a.b"]
    ann.close()
    assert broker.keys._patterns.count == 0


def test_a_name_that_holds_a_wildcard_needs_the_permission_of_that_name(broker):
    ann = attach(broker)
    ann.identity = attrs.evolve(ann.identity, grants=Grants({"subscribe": Rule(("a*",), ("ab",))}))
    ann.subscribe("a*", exact=True)
    for topic, exact in (("a*", False), ("b*", True)):
        with pytest.raises(Denied):
            ann.subscribe(topic, exact=exact)


def test_a_watch_shows_what_may_be_subscribed_to(broker):
    ann = attach(broker)
    ann.identity = attrs.evolve(ann.identity, grants=Grants({"subscribe": Rule(("kv/open.*",))}))
    ann.watch_pattern(">")
    for key in ("open.a", "secret.a"):
        attach(broker).set(key, b"1")
    assert [event.topic for event, _ in ann.session.heard] == ["kv/open.a"]
