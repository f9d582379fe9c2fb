"""Every setting that can be seen to be wrong is told at the start, in a sentence with its name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor

from broker.app.checks import Attempts, problems_of
from broker.app.settings import read_settings
from broker.app.tap import make_daemon
from broker.config.environment import Environment
from broker.config.options import Kind, options_of
from broker.config.settings import Settings, SettingsError
from broker.errors import Invalid

LOOPBACK = ":interface=127.0.0.1"
SOCKET = "/tmp/a-socket-that-is-not-there"
WAITER = "tests.support.waiter:Dialect"
NUMBERS = ("-1", "1.5", "many", "1e3", "1" * 16, "\u0663\u0664x")
SIZES = ("-1", "1MiB", "1.5", "many")
TIMES = ("-1", "nan", "inf", "1h", "1e99", "soon")
# Of each kind: what can not be its value, wherever it stands.
OF_KIND = {
    "count": NUMBERS,
    "count or auto": NUMBERS,
    "bytes": SIZES,
    "seconds": TIMES,
    "per second": TIMES,
    "true or false": ("maybe", "2", "on off"),
    "auto or off": ("on", "1", "auto off"),
    "addresses": ("300.1.1.1", "10.0.0.0/33", "proxy.example"),
    "patterns": ("a.>.b", ">.a"),
    "name:key pairs": ("nocolon", "a:1 a:2", "a:same b:same", ":key", "name:"),
    "age and count": ("7w", "1d 2d", "-1d", "d", "1 2"),
    "paths of files": ("{missing}", "{directory}", "{malformed}", "{malformed} {malformed}"),
    "path of a file": ("{missing}", "{directory}", "{malformed}", "{missing}/below"),
    "path of a file to write": ("{missing}/below", "{directory}", "{malformed}/below"),
    "endpoints": (
        *("tcp:99999" + LOOPBACK, "tcp:-1" + LOOPBACK, "tcp:http" + LOOPBACK, "tcp:" + LOOPBACK, "pigeon:1" + LOOPBACK),
        *("tcp:1:what=1" + LOOPBACK, "tcp:1:backlog=many" + LOOPBACK, "tcp6:99999:interface=\\:\\:1"),
        *("haproxy:tcp:99999" + LOOPBACK, "tcp:7001" + LOOPBACK + ";tcp:7001" + LOOPBACK),
        *("ssl:7001:privateKey={missing}" + LOOPBACK, "ssl:7001:privateKey={directory}" + LOOPBACK),
        *("ssl:7001:privateKey={malformed}" + LOOPBACK, "ssl:99999:privateKey={key}" + LOOPBACK),
        *("unix:", "haproxy:unix:", "unix:address=:mode=600"),
        *("unix:{missing}/socket", "unix:{directory}/" + 108 * "x", "unix:{malformed}", "unix:/x:mode=9"),
    ),
}
REDIS = (
    *("redis://host:99999", "redis://host:0", "redis://host:port", "redis://host/name", "redis://host/1/2"),
    *("redis://host/1?db=2", "redis://host?db=-1", "redis://host?what=1", "redis://host?what", "redis://host/0#1"),
    *("redis://one,two", "redis://[::1", "redis+unix://", "redis+unix://host/path", "redis+sentinel://host"),
    *("redis+sentinel://one,two:0/master", "redisx://host", "redis", "redis://host?ca={malformed}"),
    *("rediss://host?ca={missing}", "rediss://host?ca={directory}", "rediss://host?ca={malformed}"),
    *(
        "rediss+sentinel://host/master?ca={missing}",
        "redis://:pa#ss@host",
        "redis://:pa/ss@host",
        "redis://:pa?ss@host",
    ),
)
# Of single settings.
OF_NAME = {
    "store": (
        "papyrus:",
        "sqlite",
        "sqlite://host/x",
        "sqlite:{missing}/x.db",
        "sqlite:{directory}",
        "memory:x",
        *REDIS,
    ),
    "bus": ("horse:", "local", "local:x", "redis://host", *REDIS),
    "protocols": (
        "dodo",
        "dodo:x",
        "os:nothing",
        "os:getcwd",
        "ganomede ganomede",
        "none",
        ":x",
        "..x",
        "ganomede,x y",
    ),
    "insecure": ("dodo", "ganomede dodo"),
    "allowed_origins": ("app.example", "https://", "https://a b"),
    "allowed_hosts": ("http://host", "a/b", "host:port"),
    "auth": ("maybe", "required"),
    "durability": ("maybe",),
    "log_level": ("loud",),
    "log_format": ("xml",),
    "listen": ("none",),
    "max_message_bytes": ("0", "none"),
    "max_value_bytes": ("0",),
    "send_queue_bytes": ("0",),
    "pong_seconds": ("0",),
    "node_lease_seconds": ("0", "0.9"),
    "redis_wait_ms": ("0", "4001"),
}
ANY_TEXT = {"jwt_audience", "jwt_issuer", "metrics_queues", "node", "redis_prefix"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of each kind."""
    directory = tmp_path_factory.mktemp("settings")
    malformed, key = directory / "malformed", directory / "key.pem"
    malformed.write_text("= this is nothing that anybody reads\n")
    key.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (directory / "empty").touch()
    (directory / "latin1").write_bytes(b"s\xe9cret")
    return {
        "missing": str(directory / "missing"),
        "directory": str(directory),
        "malformed": str(malformed),
        "key": str(key),
    }


def problems(**environ: str) -> list[str]:
    """Return what is told of a daemon that can not start."""
    settings, wrong = read_settings(Environment(environ))
    with pytest.raises(SettingsError) as caught:
        make_daemon(reactor, settings, problems=wrong)
    return caught.value.problems


def wrong_values(name: str, kind: Kind[Any]) -> Iterator[str]:
    yield from OF_NAME.get(name, ())
    yield from OF_KIND.get(kind.word, ())


@pytest.mark.parametrize("name", options_of(Settings))
def test_wrong_values_of_a_setting_are_told_with_its_name(name: str, files: dict[str, str]) -> None:
    option = options_of(Settings)[name]
    variable = f"TXBROKER_{name.upper()}"
    values = list(wrong_values(name, option.kind))
    assert values or option.secret or name in ANY_TEXT, "what may be wrong with it?"
    for text in values:
        told = problems(**{variable: text.format(**files)})
        assert any(problem.startswith(f"{variable}: ") or f"{variable} " in problem for problem in told), (text, told)
        assert not any("\n" in problem or "Traceback" in problem for problem in told), (text, told)
        assert not any(word in problem for word in ("'pa'", "ss@host") for problem in told), (text, told)


@pytest.mark.parametrize("word", ["hunter2", "hunter2/and:more+=", "name:hunter2 other:hunter2"])
def test_a_secret_in_the_place_of_its_file_is_not_shown(word: str) -> None:
    (problem,) = problems(TXBROKER_API_SECRET_FILE=word)
    assert problem == "TXBROKER_API_SECRET_FILE names no file that can be read: is that the secret itself?"


def test_values_that_can_not_be_used_are_shown_in_part() -> None:
    told = problems(TXBROKER_RATE="redis://:hunter2@host", TXBROKER_MAX_CALLS="9" * 100_000)
    assert told[0].endswith(", not '9999" + "9" * 96 + "'…") or told[1].endswith("9" * 96 + "'…")
    assert not any("hunter2" in problem for problem in told)
    assert sum(map(len, told)) < 500


def test_a_long_name_takes_no_time() -> None:
    assert len(problems(TXBROKER_ALLOWED_HOSTS="a" * 50_000 + "/", TXBROKER_RATE="x")) == 2


@pytest.mark.parametrize("name", [name for name, option in options_of(Settings).items() if option.secret])
@pytest.mark.parametrize("file", ["missing", "", "empty", "latin1"])
def test_the_file_of_a_secret_has_to_hold_one(name: str, file: str, files: dict[str, str]) -> None:
    variable, path = f"TXBROKER_{name.upper()}_FILE", Path(files["directory"], file)
    (problem,) = problems(**{variable: str(path)})
    assert problem.startswith(f"{variable}: {path} ")
    assert "s\xe9cret" not in problem


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"PORT": "99999"}, "PORT: tcp:99999"),
        ({"PORT": "http"}, "PORT: tcp:http"),
        ({"POLL_TIMEOUT": "soon"}, "POLL_TIMEOUT: "),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL: "),
        (
            {"REDIS_EVENTS_PORT_6379_TCP_ADDR": "db", "REDIS_EVENTS_PORT_6379_TCP_PORT": "x"},
            "TXBROKER_STORE: This is no URL of a Redis",
        ),
        ({"STATE_DIRECTORY": "/nowhere/at/all"}, "TXBROKER_STORE: there is no directory /nowhere/at/all"),
        ({"TXBROKER_BUS": "redis://host"}, "TXBROKER_BUS: nodes that share a bus must share a store"),
        (
            {"TXBROKER_PROCESSES": "2"},
            "TXBROKER_PROCESSES: 2 processes need a store that they can share, and sqlite: is",
        ),
        (
            {"TXBROKER_PROCESSES": "2", "TXBROKER_STORE": "memory:"},
            "TXBROKER_PROCESSES: 2 processes need a store that they can share, and memory: is",
        ),
        (
            {"TXBROKER_PROCESSES": "2", "TXBROKER_STORE": "redis://host", "TXBROKER_BUS": "local:"},
            "TXBROKER_PROCESSES: 2 processes need a bus between them",
        ),
        ({"TXBROKER_PROCESSES": "257", "TXBROKER_STORE": "redis://host"}, "TXBROKER_PROCESSES: expected at most 256"),
        ({"TXBROKER_PING_SECONDS": "5", "TXBROKER_PONG_SECONDS": "0"}, "TXBROKER_PONG_SECONDS: expected more than 0"),
        (
            {"TXBROKER_CALL_TIMEOUT_SECONDS": "20", "TXBROKER_MAX_CALL_TIMEOUT_SECONDS": "10"},
            "TXBROKER_CALL_TIMEOUT_SECONDS: expected at most TXBROKER_MAX_CALL_TIMEOUT_SECONDS",
        ),
        (
            {"TXBROKER_LISTEN": "tcp:7001" + LOOPBACK, "TXBROKER_ADMIN_LISTEN": "tcp:7001" + LOOPBACK},
            "TXBROKER_ADMIN_LISTEN: tcp:7001" + LOOPBACK + " can not be listened on beside tcp:7001",
        ),
        (
            {"TXBROKER_LISTEN": f"unix:{SOCKET}", "TXBROKER_ADMIN_LISTEN": f"unix:/tmp/..{SOCKET}"},
            f"TXBROKER_ADMIN_LISTEN: unix:/tmp/..{SOCKET} can not be listened on beside unix:{SOCKET}",
        ),
    ],
)
def test_what_can_not_be_is_told_by_the_name_it_came_by(environ: dict[str, str], expected: str) -> None:
    (problem,) = problems(**environ)
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"TXBROKER_LISTEN": "tcp:8001" + LOOPBACK},  # where operators are by default: they give way
        {"TXBROKER_LISTEN": f"tcp:0{LOOPBACK};tcp:0{LOOPBACK};tcp:7001:interface=127.0.0.2;tcp:7001{LOOPBACK}"},
        {"TXBROKER_MAX_CALL_TIMEOUT_SECONDS": "10"},
        {"TXBROKER_PING_SECONDS": "0", "TXBROKER_PONG_SECONDS": "0"},
        {
            "TXBROKER_INSECURE": "thinws tests.support.waiter:Dialect",
            "TXBROKER_PROTOCOLS": "tests.support.waiter:Dialect",
        },
    ],
)
def test_nothing_is_wrong_with_these(environ: dict[str, str]) -> None:
    assert problems_of(Settings.from_environ(environ)) == []


def test_ports_that_believe_everybody_are_warned_about() -> None:
    environ = {
        "TXBROKER_PROTOCOLS": "ganomede docs.examples.telnet:dialect",
        "TXBROKER_API_SECRET": "a secret of some length",
        "TXBROKER_LISTEN": f"haproxy:tcp:7001;haproxy:tcp:7002{LOOPBACK};tcp:7003",
        "TXBROKER_TELNET_LISTEN": "haproxy:tcp:7004",
    }
    warned = [warning.partition(" believes whoever")[0] for warning in read_settings(Environment(environ))[0].warnings]
    assert warned == ["TXBROKER_LISTEN: haproxy:tcp:7001", "TXBROKER_TELNET_LISTEN: haproxy:tcp:7004"]
    assert not read_settings(Environment({**environ, "TXBROKER_TRUSTED_PROXIES": "10.0.0.0/8"}))[0].warnings


def test_all_parts_that_can_not_be_made_are_told_at_once(files: dict[str, str]) -> None:
    told = problems(
        TXBROKER_PROTOCOLS="dodo",
        TXBROKER_STORE="redis://host:0",
        TXBROKER_PERMISSIONS_FILE=files["malformed"],
        TXBROKER_ALLOWED_ORIGINS="app.example",
        TXBROKER_LISTEN="tcp:99999" + LOOPBACK,
    )
    names = ("LISTEN", "ALLOWED_ORIGINS", "PROTOCOLS", "PERMISSIONS_FILE", "STORE")
    assert [problem.partition(": ")[0] for problem in told] == [f"TXBROKER_{name}" for name in names]


def test_what_is_wrong_with_the_redis_of_both_is_told_once(files: dict[str, str]) -> None:
    (problem,) = problems(TXBROKER_STORE=f"rediss://host?ca={files['missing']}")
    assert problem == (
        f"TXBROKER_STORE: The file that ca names, {files['missing']}, can not be read: No such file or directory."
    )


def test_what_is_no_fault_of_a_setting_is_raised() -> None:
    attempts = Attempts()
    assert attempts.make("STORE", lambda: 5) == 5
    attempts.finish()
    with pytest.raises(ZeroDivisionError):
        attempts.make("STORE", lambda: 1 / 0)


def fail() -> None:
    raise Invalid("x", message="TXBROKER_JWKS_FILE: it is none")


def test_a_name_is_not_said_twice() -> None:
    attempts = Attempts()
    attempts.make("STORE", fail)
    assert attempts.problems == ["TXBROKER_JWKS_FILE: it is none"]


def test_everything_that_is_wrong_is_told_at_once_whatever_kind_it_is(files: dict[str, str], tmp_path: Path) -> None:
    permissions = tmp_path / "permissions.toml"
    permissions.write_text('[key.zoe.read]\nallow = [">"]\n[bogus]\n')
    environ = {
        "PORT": "abc",
        "TXBROKER_ADMIN_LISTEN": f"ssl:1:privateKey={files['malformed']}{LOOPBACK};systemd:domain=INET:index=0",
        "TXBROKER_ADMIN_SECRET": "operators alone know",
        "TXBROKER_API_KEYS": "ann:key-of-ann",
        "TXBROKER_CURSOR_SECONDS": "7 days",
        "TXBROKER_INSECURE": "ganomde",
        "TXBROKER_JWKS_FILE": files["malformed"],
        "TXBROKER_JWT_PUBLIC_KEY_FILE": files["malformed"],
        "TXBROKER_LOG_FILE": files["directory"],
        "TXBROKER_PERMISSIONS_FILE": str(permissions),
        "TXBROKER_PROTOCOLS": "dodo ganomede emu",
        "TXBROKER_RETENTION": "7 days",
        "TXBROKER_STORE": "rediss://host?ca={missing}".format(**files),
        "TXBROKER_BUS": "rediss://other?ca={missing}".format(**files),
    }
    told = "\n".join(problems(**environ))
    assert [name for name in environ if f"{name}: " not in told and name not in ("TXBROKER_ADMIN_SECRET",)] == [
        "TXBROKER_API_KEYS"
    ]
    for words in ("ssl:1", "systemd has handed no", "did you mean ganomede?", "dialect dodo", "dialect emu", "[bogus]"):
        assert words in told, words


def test_credential_that_can_not_be_read_is_told_without_what_follows_from_that(files: dict[str, str]) -> None:
    environ = {
        "TXBROKER_API_KEYS_FILE": files["missing"],
        "TXBROKER_ADMIN_SECRET_FILE": files["missing"],
        "TXBROKER_AUTH": "required",
        "TXBROKER_LISTEN": "tcp:0",
        "TXBROKER_ADMIN_LISTEN": "tcp:0",
    }
    assert [problem.partition(":")[0] for problem in problems(**environ)] == [
        "TXBROKER_API_KEYS_FILE",
        "TXBROKER_ADMIN_SECRET_FILE",
    ]
