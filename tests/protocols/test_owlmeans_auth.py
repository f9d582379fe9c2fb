"""Who a client is: credentials in the URL, in headers and in stages; names."""

from __future__ import annotations

import jwt
import pytest
from twisted.internet.defer import Deferred, fail

from broker.access.principals import Access
from broker.access.web_tokens import WebTokens, secret_key
from broker.errors import Refused, Unavailable
from broker.testing import make_broker
from tests.protocols.owlmeans_emulator import Failed, Room, Violation

SECRET = "the-secret"
JWT_KEY = "0123456789abcdef0123456789abcdef"
EXP = 4_000_000_000


def make_room(mode="required", **settings):
    access = Access(
        mode=mode, secrets=(SECRET,), keys={"bob": "bobs-key"}, web_tokens=WebTokens((secret_key(JWT_KEY),), leeway=0.0)
    )
    room = Room(make_broker(access=access, auth=mode, **settings))
    room.clock.advance(1700000000.0)
    return room


def token(**claims):
    return jwt.encode({"exp": EXP, **claims}, JWT_KEY, "HS256")


def whoami(room, member):
    return room.ask(member, "broker.whoami")


def shown(room, member, credential):
    pending = member.client.auth("authenticate", {"token": credential})
    room.pump()
    return pending


# In the handshake


@pytest.mark.parametrize(
    ("query", "headers", "name"),
    [
        ("token=bobs-key", {}, "bob"),
        ("", {"authorization": "bobs-key"}, "bob"),
        ("", {"authorization": "Bearer bobs-key"}, "bob"),
        ("", {"authorization": "ED25519-BASIC-TOKEN bobs-key"}, "bob"),
        ("token=the-secret", {}, ""),
        ("client=carol&token=the-secret", {}, "carol"),
        ("client=bob&token=bobs-key", {}, "bob"),
    ],
)
def test_good_credential_in_the_handshake_lets_in(query, headers, name):
    room = make_room()
    alice = room.join("", query, headers)
    who = whoami(room, alice)
    assert who == {"id": name or alice.id, "session": alice.id, "stage": "authenticated"}


@pytest.mark.parametrize(("query", "headers"), [("token=wrong", {}), ("", {"authorization": "Bearer wrong"})])
def test_bad_credential_in_the_handshake_is_refused_with_401(query, headers):
    room = make_room("optional")
    with pytest.raises(Refused) as caught:
        room.join("", query, headers)
    assert caught.value.status == 401
    assert caught.value.body == b"AuthManagerErrorAuthenFailed|||auth:manager:authen:token|||"


@pytest.mark.parametrize(
    ("mode", "query", "status", "body"),
    [
        ("none", "client=bob", 403, "ForbiddenAuthorizationError|||auth:authorization:forbidden:identify:bob|||"),
        ("none", "client=broker", 403, "ForbiddenAuthorizationError|||auth:authorization:forbidden:identify:broker|||"),
        (
            "none",
            "client=queue:a",
            403,
            "ForbiddenAuthorizationError|||auth:authorization:forbidden:identify:queue:a|||",
        ),
        ("none", "client=" + "x" * 129, 400, "SocketErrorMessageMalformed|||socket:message:malformed:name|||"),
        ("none", "client=a%00b", 400, "SocketErrorMessageMalformed|||socket:message:malformed:name|||"),
        (
            "none",
            "&".join("abc=1" for _ in range(99)),
            400,
            "SocketErrorMessageMalformed|||socket:message:malformed:query|||",
        ),
        ("optional", "client=a%7Fb", 400, "SocketErrorMessageMalformed|||socket:message:malformed:name|||"),
        ("required", "client=" + "x" * 129, 400, "SocketErrorMessageMalformed|||socket:message:malformed:name|||"),
        (
            "optional",
            "client=carol&token=bobs-key",
            403,
            "ForbiddenAuthorizationError|||auth:authorization:forbidden:identify:carol|||",
        ),
    ],
)
def test_names_that_can_not_be_taken_are_refused(mode, query, status, body):
    room = make_room(mode)
    with pytest.raises(Refused) as caught:
        room.join("", query)
    assert (caught.value.status, caught.value.body.decode()) == (status, body)


# In stages


def test_good_credential_in_band_lets_in():
    room = make_room()
    alice = room.join("", "subscribe=e")
    pending = shown(room, alice, "bobs-key")
    assert pending.result() == {
        "userId": "bob",
        "profileId": "bob",
        "role": "user",
        "scopes": [],
        "token": "bobs-key",
    }
    assert alice.client.stage == "authenticated"
    assert whoami(room, alice)["id"] == "bob"
    assert room.ask(alice, "broker.unsubscribe", []) == {"subscribed": ["e"]}
    query = alice.client.auth("authenticated", None)
    room.pump()
    assert query.result() == {"userId": "bob", "profileId": "bob", "role": "user", "scopes": []}


def test_record_shows_what_the_token_tells():
    room = make_room()
    alice = room.join()
    record = shown(room, alice, token(sub="ann", userId="u1", role="admin", scopes=["*"])).result()
    assert {k: record[k] for k in ("userId", "profileId", "role", "scopes")} == {
        "userId": "u1",
        "profileId": "ann",
        "role": "admin",
        "scopes": ["*"],
    }


def test_bad_credential_in_band_is_refused_and_may_be_mended():
    room = make_room()
    alice = room.join()
    pending = shown(room, alice, "bad")
    assert str(pending.error) == "AuthManagerErrorAuthenFailed: auth:manager:authen:token"
    assert alice.client.frames == [
        {"type": "auth", "stage": None, "payload": "AuthManagerErrorAuthenFailed|||auth:manager:authen:token|||"}
    ]
    assert alice.client.stage == "authenticate"
    assert shown(room, alice, token(sub="ann")).error is None
    assert shown(room, alice, token(sub="ann")).error is None
    assert str(shown(room, alice, "bobs-key").error) == "AuthManagerErrorAuthenFailed: auth:manager:authen:identity"
    assert whoami(room, alice)["id"] == "ann"


@pytest.mark.parametrize("payload", [None, {}, [], "text", {"token": 5}, {"token": ""}, 7])
def test_missing_credentials_are_refused(payload):
    room = make_room()
    alice = room.join()
    pending = alice.client.auth("authenticate", payload)
    room.pump()
    assert str(pending.error) == "AuthManagerErrorAuthenFailed: auth:manager:authen:token"


def test_too_many_tries_close_the_connection():
    room = make_room(auth_tries=3)
    alice = room.join()
    for _ in range(2):
        shown(room, alice, "bad")
        assert alice.closed is None
    shown(room, alice, "bad")
    assert alice.closed == (1008, "AuthManagerErrorAuthenFailed|||auth:manager:authen:tries|||")
    assert len(alice.client.of("auth")) == 3


@pytest.mark.parametrize("frame", ['{"type":"auth"}', '{"type":"auth","stage":null,"payload":"X|||y|||"}'])
def test_auth_without_stage_gets_no_answer(frame):
    room = make_room()
    alice = room.join()
    alice.client.raw(frame)
    room.pump()
    assert alice.client.frames == []


@pytest.mark.parametrize("stage", ["", "error", "allowence", "auhtentication", "nonsense|||x", 5])
def test_unknown_stages_fail(stage):
    room = make_room()
    alice = room.join()
    pending = alice.client.auth(stage, {})
    room.pump()
    assert pending.error.type == "AuthManagerErrorUnsupported"


@pytest.mark.parametrize(("mode", "offered"), [("none", True), ("optional", True), ("required", False)])
def test_init_tells_the_methods_where_nobody_must_authenticate(mode, offered):
    room = make_room(mode)
    alice = room.join()
    pending = alice.client.auth("init", {})
    room.pump()
    assert (pending.error is None) is offered
    if offered:
        assert pending.result() == {"methods": ["token"]}


def test_query_of_the_record_fails_for_those_who_have_shown_nothing():
    room = make_room("optional")
    alice = room.join()
    pending = alice.client.auth("authenticated", None)
    room.pump()
    assert str(pending.error) == "AuthManagerErrorAuthenFailed: auth:manager:authen:unauthenticated"


def test_any_credential_will_do_where_none_is_configured():
    room = Room()
    alice = room.join("", "token=whatever")
    assert whoami(room, alice)["stage"] == "authenticated"
    bob = room.join("bob")
    record = shown(room, bob, "anything").result()
    assert record["profileId"] == "bob"


# Before and after


def test_unauthenticated_clients_may_only_authenticate_and_ping():
    room = make_room()
    alice, bob = room.join(), room.join("", "token=bobs-key")
    with pytest.raises(Failed, match="SocketErrorConnectionUnauthorized: socket:connection:unauthorized:call"):
        whoami(room, alice)
    stream = alice.client.request({})
    alice.client.notify("e", 1)
    alice.client.enqueue(1, "m1")
    alice.client.answer("x", 1)
    alice.client.send({"type": "system", "event": "close", "payload": {}})
    alice.client.ping()
    room.pump()
    assert stream == [{"error": "SocketErrorConnectionUnauthorized|||socket:connection:unauthorized:request|||"}]
    assert alice.client.notices == [
        f"SocketErrorConnectionUnauthorized|||socket:connection:unauthorized:{verb}|||"
        for verb in ("event", "message", "result")
    ]
    assert alice.client.pongs == 1
    assert [peer.client for peer in room.broker.presence] == ["bob"]
    assert bob.client.frames == []


def test_client_that_does_not_authenticate_is_closed():
    room = make_room(auth_deadline_seconds=30.0)
    slow, fast = room.join(), room.join()
    shown(room, fast, "bobs-key")
    room.clock.advance(29)
    assert slow.closed is None
    room.clock.advance(2)
    room.pump()
    assert slow.closed == (1008, "SocketErrorConnectionUnauthorized|||socket:connection:unauthorized:timeout|||")
    assert fast.closed is None


def test_client_that_leaves_unauthenticated_leaves_no_timer():
    room = make_room()
    timers = len(room.clock.getDelayedCalls())
    room.join().leave()
    assert len(room.clock.getDelayedCalls()) == timers


@pytest.mark.parametrize("mode", ["optional", "required"])
def test_name_of_the_url_is_taken_when_a_credential_is_shown(mode):
    room = make_room(mode)
    alice = room.join("alice")
    room.advance(0.3)
    assert alice.connected.peer.client == alice.id
    shown(room, alice, SECRET)
    assert whoami(room, alice)["id"] == "alice"
    assert alice.client.notices == []
    assert [peer.client for peer in room.broker.presence] == ["alice"]


@pytest.mark.parametrize("mode", ["optional", "required"])
@pytest.mark.parametrize(("name", "credential", "taken"), [("carol", "bobs-key", "bob"), ("bob", SECRET, "")])
def test_name_of_the_url_that_is_not_to_be_had_is_told_when_a_credential_is_shown(mode, name, credential, taken):
    room = make_room(mode)
    alice = room.join(name)
    shown(room, alice, credential)
    room.advance(0.3)
    assert whoami(room, alice)["id"] == (taken or alice.id)
    assert alice.client.notices == [f"ForbiddenAuthorizationError|||auth:authorization:forbidden:identify:{name}|||"]


def test_what_comes_while_the_store_is_asked_for_the_name_waits_by_tcp():
    room = make_room()
    alice = room.join("alice")
    asked: Deferred[None] = Deferred()
    room.broker.store.get = lambda *key: asked
    pending = shown(room, alice, SECRET)
    assert (alice.connected.link.receiving, pending.done) == (False, False)
    asked.callback(None)
    room.pump()
    assert (alice.connected.link.receiving, pending.result()["profileId"]) == (True, "alice")


def test_a_name_can_not_be_had_while_the_store_is_away():
    room = make_room()
    alice = room.join("", "token=the-secret")
    room.broker.store.get = lambda *key: fail(Unavailable("store"))
    with pytest.raises(Refused) as caught:
        room.join("", "client=alice&token=the-secret")
    assert (caught.value.status, caught.value.body) == (503, b"SocketError|||socket:internal|||")
    with pytest.raises(Failed, match="socket:internal"):
        room.ask(alice, "broker.identify", "alice")


def test_mail_waits_until_the_client_has_authenticated():
    room = make_room()
    alice = room.join("", "token=" + token(sub="ann"))
    alice.client.enqueue(1, recipient="bob")
    room.pump()
    bob = room.join()
    room.advance(1)
    assert bob.client.queue == []
    shown(room, bob, "bobs-key")
    assert bob.client.queue == []
    room.advance(0.3)
    assert [message["payload"] for message in bob.client.queue] == [1]


def test_the_warning_before_the_end_is_no_answer_to_an_auth_that_is_under_way():
    room = make_room()
    room.clock.advance(EXP - 50 - room.clock.seconds())
    alice = room.join("", "token=" + token(sub="ann"))
    whoami(room, alice)
    pending = alice.client.auth("authenticated", {})
    room.clock.advance(45)
    alice.pump()
    assert ([frame["event"] for frame in alice.client.of("system")], pending.done) == (["broker.expiring"], False)
    room.pump()
    assert pending.result()["profileId"] == "ann"
    room.clock.advance(5)
    assert alice.closed[0] == 1008


# Names


def test_client_may_name_itself_once():
    room = Room()
    alice, other = room.join(), room.join()
    assert room.ask(alice, "broker.identify", "alice") == {"id": "alice", "session": alice.id, "stage": "init"}
    assert room.ask(alice, "broker.identify", "alice")["id"] == "alice"
    with pytest.raises(Failed, match="forbidden:identify:bob"):
        room.ask(alice, "broker.identify", "bob")
    assert room.ask(other, "broker.identify", "alice")["id"] == "alice"
    assert [peer.id for peer in room.broker.presence.sessions("alice")] == [other.id, alice.id]


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb"])
def test_names_that_are_none_are_malformed(name):
    room = Room()
    alice = room.join()
    with pytest.raises(Failed, match="malformed:name"):
        room.ask(alice, "broker.identify", name)


def test_session_id_of_another_can_not_be_taken_as_a_name():
    room = Room()
    alice, mallory = room.join(), room.join()
    with pytest.raises(Failed, match="forbidden:identify"):
        room.ask(mallory, "broker.identify", alice.id)


def test_emulator_refuses_unasked_auth():
    room = Room()
    alice = room.join()
    with pytest.raises(Violation):
        alice.client.received('{"type":"auth","stage":"authenticated","payload":{}}')
