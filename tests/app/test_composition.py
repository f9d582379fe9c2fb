"""How the settings become the parts of the daemon."""

import resource
from math import inf
from typing import Any
from unittest.mock import Mock

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.logger import LogLevel, formatEvent

from broker.access.principals import make_access
from broker.app import tap
from broker.app.daemon import Daemon
from broker.app.log_output import log_output
from broker.app.process import StartError, raise_file_limit
from broker.app.stream_port import StreamPort
from broker.config.settings import Settings, SettingsError
from broker.errors import Invalid, Unavailable
from broker.observe.admin.port import AdminPort
from broker.testing import make_broker


def pem(key) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (rsa.generate_private_key(65537, 2048), "RS256"),
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ],
    ids=["RSA", "EC", "Ed25519"],
)
def test_public_key_tells_how_tokens_are_signed(tmp_path, key, algorithm):
    file = tmp_path / "key.pem"
    file.write_text(pem(key))
    access = make_access(Settings(jwt_public_key_file=str(file)))
    assert [(key.key, key.algorithm) for key in access.web_tokens.keys] == [(pem(key), algorithm)]
    assert access.mode == "required"


def test_public_key_of_another_kind_is_refused(tmp_path):
    file = tmp_path / "key.pem"
    file.write_text(pem(dsa.generate_private_key(1024)))
    with pytest.raises(Invalid, match="TXBROKER_JWT_PUBLIC_KEY_FILE"):
        make_access(Settings(jwt_public_key_file=str(file)))


def test_file_that_holds_no_key_is_refused(tmp_path):
    file = tmp_path / "key.pem"
    file.write_text("no key")
    with pytest.raises(Invalid, match="TXBROKER_JWT_PUBLIC_KEY_FILE"):
        make_access(Settings(jwt_public_key_file=str(file)))


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        ({}, (75.0, 60.0)),
        ({"keepalive_seconds": 20.0, "upload_stall_seconds": 3.0}, (20.0, 3.0)),
        ({"keepalive_seconds": 0.0, "upload_stall_seconds": 0.0}, (inf, inf)),
    ],
)
def test_times_of_http_connections_are_those_of_the_settings(given, limits):
    times = tap.make_site(Clock(), Settings(**given), make_broker(), []).times
    assert (times.idle, times.body) == limits


def test_every_credential_of_the_settings_is_known(tmp_path):
    permissions = tmp_path / "permissions.toml"
    permissions.write_text('[key.one.publish]\nallow = [">"]\n')
    access = make_access(
        Settings(
            api_secret="now",
            api_secret_previous="before",
            api_keys={"one": "key1"},
            jwt_secret="sign",
            permissions_file=str(permissions),
        )
    )
    assert access.secrets == ("now", "before")
    assert access.identify("key1").name == "one"
    assert [(key.key, key.algorithm) for key in access.web_tokens.keys] == [("sign", "HS256")]
    assert access.identify("key1").grants.may("publish", "a")


def test_log_is_left_to_twistd_when_its_options_say_so():
    assert log_output({"logger": "mine.log", "nodaemon": 1}, Settings()) is None
    assert log_output({"syslog": 1}, Settings()) is None


@pytest.mark.parametrize("options", [{"logfile": "my.log", "nodaemon": 1}, {"nodaemon": 1}])
def test_log_file_that_was_named_is_written(tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    output = log_output(options, Settings(node="n7", log_file="" if "logfile" in options else "my.log"))
    assert output is not None
    output.lines({"log_level": LogLevel.info, "log_namespace": "broker", "log_format": "hello", "log_time": 0.0})
    output.file.close()
    assert '"msg":"hello","node":"n7"' in (tmp_path / "my.log").read_text()


def test_log_file_that_can_not_be_opened_is_named_with_its_option(tmp_path):
    with pytest.raises(SettingsError, match=rf"^TXBROKER_LOG_FILE: {tmp_path} can not be opened: Is a directory$"):
        log_output({"nodaemon": 1}, Settings(log_file=str(tmp_path)))


class Site:
    def __init__(self):
        self.drains = []
        self.drained = succeed(None)

    def drain(self, seconds, *, spread=False):
        self.drains.append((seconds, spread))
        return self.drained

    def stop_now(self):
        pass


class Port:
    def stopListening(self):
        return None


def make_daemon(listen, *endpoints, announced=None):
    return Daemon(
        make_broker(Clock()),
        Site(),
        listen,
        endpoints,
        drain_seconds=1.0,
        announce=(announced if announced is not None else []).append,
    )


def test_lame_duck_lets_its_clients_go_once_and_stops_when_they_have_gone(logged):
    daemon = make_daemon(lambda endpoint: succeed(Port()), "tcp:1")
    daemon.drain()  # nothing, before it runs
    daemon.startService()
    site: Any = daemon._site
    site.drained = Deferred()
    daemon.drain()
    daemon.drain()
    assert site.drains == [(1.0, True)]
    assert daemon._broker.ready() == ["draining"]
    stopped = daemon.stopService()
    assert not stopped.called
    site.drained.callback(None)
    assert stopped.called
    assert [formatEvent(event) for event in logged][-3:-1] == [
        "stopping",
        "drained: no client is left; SIGTERM stops the daemon",
    ]


def test_operators_are_served_until_the_last_client_has_gone():
    daemon = make_daemon(lambda endpoint: succeed(Port()), "tcp:1")
    daemon._others = (admin := Service(),)
    daemon.startService()
    site: Any = daemon._site
    site.drained = Deferred()
    stopped = daemon.stopService()
    assert (admin.running, daemon._broker.ready()) == (1, ["draining"])
    site.drained.callback(None)
    assert (admin.running, stopped.called) == (0, True)


def test_store_that_does_not_open_is_told_in_its_own_words():
    daemon = make_daemon(lambda endpoint: succeed(Port()), "tcp:1")

    def refuse():
        raise Unavailable(message="The disk is full.")

    daemon._broker.startService = refuse
    with pytest.raises(StartError, match="The disk is full"):
        daemon.startService()


def test_it_is_announced_when_it_listens_everywhere():
    slow, announced = Deferred(), []
    daemon = make_daemon(
        lambda endpoint: slow if endpoint == "onion:" else succeed(Port()), "tcp:1", "onion:", announced=announced
    )
    daemon.startService()
    assert announced == []
    slow.callback(Port())
    assert [endpoint for endpoint, _ in announced[0]] == ["tcp:1", "onion:"]


def test_nobody_is_accepted_or_told_before_the_store_was_reached():
    accepted, announced, reached = [], [], Deferred()
    daemon = make_daemon(lambda endpoint: succeed(Port()), "tcp:1", announced=announced)
    daemon._broker.reached = lambda: reached
    daemon._accept = lambda: accepted.append(len(announced))
    daemon.startService()
    assert (accepted, announced) == ([], [])
    reached.callback(None)
    assert (accepted, len(announced)) == ([0], 1)


def test_a_daemon_that_stops_before_the_store_was_reached_accepts_nobody():
    accepted, reached = [], Deferred()
    daemon = make_daemon(lambda endpoint: succeed(Port()), "tcp:1")
    daemon._broker.reached = lambda: reached.addErrback(lambda failure: None)
    daemon._accept = lambda: accepted.append(True)
    daemon.startService()
    daemon.stopService()
    assert (reached.called, accepted) == (True, [])


def test_sockets_are_bound_first_only_for_a_process_that_becomes_another_user():
    bound = []
    daemon = make_daemon(lambda endpoint: succeed(Port()), "tcp:1", "tcp:2")
    daemon._bind = bound.append
    daemon.privilegedStartService()
    assert bound == []
    daemon.binds_first = True
    daemon.privilegedStartService()
    assert bound == ["tcp:1", "tcp:2"]


def test_all_other_ports_are_bound_with_them():
    bound = []

    def bind(endpoint):
        if endpoint == "taken":
            raise CannotListenError("", 8001, OSError("taken"))
        bound.append(endpoint)

    line = StreamPort("line", "TXBROKER_LINE_LISTEN", Mock(), ("tcp:7000",), bind)
    admin = AdminPort(Mock(), Mock(), ("taken", "tcp:8001"), bind)  # which is not worth a start that fails
    daemon = make_daemon(lambda endpoint: succeed(Port()), "tcp:1")
    daemon._bind, daemon._client_ports, daemon._others, daemon.binds_first = bind, (line,), (admin,), True
    daemon.privilegedStartService()
    assert bound == ["tcp:1", "tcp:7000", "tcp:8001"]
    line._bind = Mock(side_effect=CannotListenError("", 7000, OSError("permission denied")))
    with pytest.raises(StartError, match=r"^TXBROKER_LINE_LISTEN: .*permission denied"):
        daemon.privilegedStartService()


def test_ports_of_clients_close_before_those_go():
    daemon = make_daemon(lambda endpoint: succeed(Port()), "tcp:1")
    daemon._client_ports = (port := Service(),)
    daemon.startService()
    site: Any = daemon._site
    site.drained = Deferred()
    stopped = daemon.stopService()
    assert (port.running, stopped.called) == (0, False)
    site.drained.callback(None)
    assert stopped.called


def test_a_socket_that_can_not_be_bound_is_told():
    daemon = make_daemon(lambda endpoint: succeed(Port()), "tcp:1")
    daemon.binds_first = True
    for error in (CannotListenError("", 1, OSError("permission denied")), ValueError("no endpoint")):
        daemon._bind = Mock(side_effect=error)
        with pytest.raises(StartError, match=r"TXBROKER_LISTEN: .*(permission denied|no endpoint)"):
            daemon.privilegedStartService()


def test_who_has_connected_is_accepted_before_a_port_closes_and_has_time_to_ask():
    told = []
    accepting: Any = Port()
    accepting.doRead = lambda: told.append("accepted")
    accepting.stopListening = lambda: told.append("closed")
    daemon = make_daemon(lambda endpoint: succeed(accepting if endpoint == "tcp:1" else Port()), "tcp:1", "onion:")
    daemon._settle = lambda: succeed(told.append("settled"))
    daemon.startService()
    daemon.stopService()
    assert told == ["accepted", "closed", "settled"]


def test_endpoint_that_fails_is_told():
    daemon = make_daemon(lambda endpoint: fail(OSError("no such place")), "tcp:1")
    with pytest.raises(StartError, match="TXBROKER_LISTEN: no such place"):
        daemon.startService()


@pytest.mark.parametrize(
    ("limits", "connections", "after", "level"),
    [
        ((1024, 100_000), 10_000, 100_000, LogLevel.info),
        ((256, 512), 10_000, 512, LogLevel.warn),
        ((10_000, 10_000), 10_000, 10_000, LogLevel.warn),  # other files need some, too
        ((1024, resource.RLIM_INFINITY), 10_000, resource.RLIM_INFINITY, LogLevel.info),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 10_000, resource.RLIM_INFINITY, None),
        ((1024, 4096), 100, 1024, None),
        ((1024, 4096), 0, 4096, None),
    ],
)
def test_as_many_files_may_be_open_as_the_system_allows(monkeypatch, logged, limits, connections, after, level):
    now = [limits]
    monkeypatch.setattr(resource, "getrlimit", lambda which: now[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, wanted: now.append(wanted))
    raise_file_limit(connections)
    assert now[-1][0] == after
    assert [event["log_level"] for event in logged] == ([level] if level else [])
    assert not logged or f"TXBROKER_MAX_CONNECTIONS={connections}" in formatEvent(logged[0])


def test_a_limit_that_can_not_be_raised_is_warned_of(monkeypatch, logged):
    def refuse(which, wanted):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda which: (64, 1_000_000))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_file_limit(10_000)
    assert "RLIMIT_NOFILE was 64" in formatEvent(logged[0])
    assert logged[0]["log_level"] is LogLevel.warn
