"""The helpers for authors of dialects."""

from __future__ import annotations

import math
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from broker.access.principals import Access
from broker.config.options import Retention
from broker.errors import Denied, Invalid, Refused
from broker.interfaces import IHttpDialect, ILink, IWebSocketDialect
from broker.messages import HttpRequest, Response
from broker.sessions import BaseSession
from broker.testing import FakeLink, connect, http_request, make_broker, value_of


@implementer(IHttpDialect)
class Pages:
    name = "pages"
    http_paths = ("/pages/",)

    def __init__(self):
        self.peers = []
        self.requests = []
        self.cancelled = False

    async def answer(self, peer, request):
        self.peers.append(peer)
        self.requests.append(request)
        if request.path == "/pages/denied":
            raise Denied("read", "x")
        if request.path == "/pages/wait":
            return await Deferred(lambda _: setattr(self, "cancelled", True))
        return Response(200, request.body)


class Echo(BaseSession):
    def __init__(self, peer, link):
        self.peer, self.link, self.end = peer, link, None

    def received(self, data, binary):
        if data == b"bye":
            self.link.close(1000)
        self.link.send_binary(data) if binary else self.link.send(data)

    def closed(self, code, reason):
        self.end = code


@implementer(IWebSocketDialect)
class Echoes:
    name, websocket_paths, subprotocols = "echoes", ("/",), ()

    async def session(self, peer, link):
        if link.handshake.query == "no":
            self.refused = peer
            raise Refused(403)
        return Echo(peer, link)


# The broker


@pytest.mark.parametrize(
    "settings",
    [{"api_secret": "s"}, {"api_secret_previous": "s"}, {"api_keys": {"ann": "s"}}, {"jwt_secret": "s" * 32}],
    ids=lambda settings: next(iter(settings)),
)
def test_a_broker_with_a_credential_asks_for_it(settings):
    broker = make_broker(**settings)
    assert broker.access.mode == "required"
    assert not broker.attach("test", "").admitted


def test_a_credential_of_the_settings_is_accepted():
    peer = make_broker(api_keys={"ann": "key"}).attach("test", "")
    assert peer.identify("key").name == "ann"


def test_the_permission_file_of_the_settings_is_read(tmp_path):
    file = tmp_path / "permissions.toml"
    file.write_text('[anonymous.publish]\nallow = ["open"]\n')
    peer = make_broker(permissions_file=str(file)).attach("test", "")
    value_of(peer.publish("open", "x", None))
    with pytest.raises(Denied):
        peer.publish("shut", "x", None)


def test_an_optional_credential_need_not_be_shown():
    assert make_broker(api_secret="s", auth="optional").attach("test", "").admitted


def test_an_access_that_is_given_goes_before_the_settings():
    assert make_broker(access=Access("none"), api_secret="s").attach("test", "").admitted


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"api_secrets": "s"}, TypeError, "there is no setting api_secrets; did you mean api_secret"),
        ({"sources": {}}, TypeError, "there is no setting sources"),
        ({"nonsense_xyz": 1}, TypeError, "there is no setting nonsense_xyz$"),
        ({"rate": "1"}, TypeError, "rate must be float, not '1'"),
        ({"rate": None}, TypeError, "rate must be float"),
        ({"max_subscriptions": 2.5}, TypeError, "max_subscriptions must be int"),
        ({"max_subscriptions": True}, TypeError, "max_subscriptions must be int"),
        ({"api_secret": b"s"}, TypeError, "api_secret must be str"),
        ({"fast_path": 1}, TypeError, "fast_path must be bool"),
        ({"durable_topics": "news"}, TypeError, "durable_topics must be tuple"),
        ({"durable_topics": (1,)}, TypeError, "durable_topics must be tuple"),
        ({"api_keys": {"ann": 1}}, TypeError, "api_keys must be .*Mapping"),
        ({"api_keys": ["ann"]}, TypeError, "api_keys must be .*Mapping"),
        ({"retention": 5}, TypeError, "retention must be Retention"),
        ({"rate": -1.0}, ValueError, "rate: expected a number that is not negative"),
        ({"rate": float("nan")}, ValueError, "rate: expected"),
        ({"max_subscriptions": -1}, ValueError, "max_subscriptions: expected a whole number that is not negative"),
        ({"max_value_bytes": 0}, ValueError, "max_value_bytes: expected a whole number above 0"),
        ({"auth": "sometimes"}, ValueError, "auth: expected one of none, optional, required"),
        ({"auth": "required"}, ValueError, "lets nobody in"),
        (
            {"durable_topics": ("a.>.b",)},
            ValueError,
            "durable_topics: expected patterns of topics, of which 'a.>.b' is none",
        ),
        ({"durable_topics": ("a b",)}, ValueError, "durable_topics: expected .'a', 'b'."),
        ({"allowed_origins": ("",)}, ValueError, "allowed_origins: expected"),
        ({"listen": ("tcp:0;tcp:1",)}, ValueError, "listen: expected"),
        ({"auth": "Required", "api_secret": "s"}, ValueError, "auth: expected 'required', not 'Required'"),
        ({"log_level": "INFO"}, ValueError, "log_level: expected 'info'"),
        ({"api_keys": {"ann": ""}}, ValueError, "api_keys: expected name:key pairs"),
        ({"api_keys": {"": "k"}}, ValueError, "api_keys: expected name:key pairs"),
        ({"api_keys": {"ann": "k", "bob": "k"}}, ValueError, "api_keys: expected each name and each key once"),
        ({"api_keys": {"ann": "two words"}}, ValueError, "api_keys: expected"),
        ({"retention": Retention(math.inf)}, ValueError, "retention: expected"),
        ({"retention": Retention(math.nan, 5)}, ValueError, "retention: expected"),
    ],
)
def test_a_setting_that_is_wrong_is_refused(settings, error, text):
    with pytest.raises(error, match=text):
        make_broker(**settings)


def test_settings_that_are_right_are_taken():
    broker = make_broker(rate=1, retention=Retention(seconds=0.75), durable_topics=("a.>",), api_keys={"ann": "k"})
    assert (broker.settings.rate, broker.settings.retention.seconds) == (1, 0.75)
    assert make_broker(rate=1 / 3, api_keys={}).settings.rate == 1 / 3


def test_a_permission_file_that_says_something_wrong_is_told(tmp_path):
    file = tmp_path / "permissions.toml"
    file.write_text("[anonymous.fly]\n")
    with pytest.raises(Invalid, match="no such verb"):
        make_broker(permissions_file=str(file))


# WebSocket clients


def test_each_message_of_a_stream_has_its_answers():
    client = connect(make_broker(), Echoes())
    assert client.stream(["ä", b"2", (b"\xff",)]) == [["ä".encode()], [b"2"], [(b"\xff",)]]


def test_a_stream_ends_when_the_link_is_closed():
    client = connect(make_broker(), Echoes())
    assert client.stream(["1", "bye", "2"]) == [[b"1"], []]


def test_a_refused_client_leaves_no_peer():
    dialect = Echoes()
    with pytest.raises(Refused):
        connect(make_broker(), dialect, HttpRequest("GET", "/", "no", {}))
    assert dialect.refused.closed


def test_the_address_of_the_handshake_is_that_of_the_peer():
    client = connect(make_broker(), Echoes(), HttpRequest("GET", "/", "", {}, address="192.0.2.1"))
    assert client.peer.address == "192.0.2.1"


def test_leaving_ends_session_link_and_peer():
    client = connect(make_broker(), Echoes())
    client.leave(1001)
    session: Any = client.session
    assert (session.end, client.link.closed, client.peer.closed) == (1001, (1001, ""), True)


def test_a_fake_link_refuses_text_that_is_no_utf8():
    with pytest.raises(UnicodeDecodeError):
        FakeLink().send(b"\xff")


def test_a_fake_link_provides_the_interface():
    assert ILink.providedBy(FakeLink())


# HTTP


def ask(dialect, method="GET", target="/pages/x", body=b"", headers=None, broker=None):
    return http_request(broker or make_broker(), dialect, method, target, body, headers)


def test_a_request_gets_the_answer_of_the_dialect():
    dialect = Pages()
    answer = value_of(ask(dialect, "POST", "/pages/a%20b?c=d", "ä", {"X-Y": "z"}))
    assert (answer.status, answer.body) == (200, "ä".encode())
    (request,) = dialect.requests
    assert (request.method, request.path, request.query) == ("POST", "/pages/a%20b", "c=d")
    assert request.address == "127.0.0.1"
    assert request.headers == {"host": "localhost", "x-y": "z"}


def test_the_peer_of_a_request_is_closed_after_the_answer():
    dialect = Pages()
    value_of(ask(dialect))
    assert [peer.closed for peer in dialect.peers] == [True]


@pytest.mark.parametrize(("target", "status"), [("/pages/denied", 403), ("/none", 404), ("/health", 200)])
def test_a_request_gets_what_the_port_says(target, status):
    assert value_of(ask(Pages(), target=target)).status == status


def test_a_client_that_goes_away_cancels_its_request():
    dialect = Pages()
    waiting = ask(dialect, target="/pages/wait")
    waiting.addErrback(lambda failure: None)
    waiting.cancel()
    assert dialect.cancelled
    assert dialect.peers[0].closed


# Values


def test_the_value_of_a_coroutine_is_what_it_returns():
    async def one():
        return 1

    assert value_of(one()) == 1


def test_the_value_of_what_waits_is_an_error():
    with pytest.raises(AssertionError):
        value_of(Deferred())


def test_time_stands_still():
    broker = make_broker()
    assert isinstance(broker.clock, Clock)
    assert broker.clock.seconds() == 0.0
