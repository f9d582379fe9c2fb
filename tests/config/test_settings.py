"""Settings: how the environment becomes one object, and what is said when it can not."""

import importlib.util
import re
from pathlib import Path

import attrs
import pytest

from broker.config.addresses import is_local, without_password
from broker.config.files import unwritable
from broker.config.options import Retention, options_of
from broker.config.settings import PROTOCOLS, Settings, SettingsError

ROOT = Path(__file__).parent.parent.parent


def problems_of(**environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ(environ)
    return caught.value.problems


def test_empty_environment_gives_a_daemon_on_loopback_that_asks_nobody():
    settings = Settings.from_environ({})
    assert settings.listen == ("tcp:8000:interface=127.0.0.1",)
    assert settings.protocols == PROTOCOLS
    assert (settings.auth, settings.secured) == ("none", False)
    assert (settings.store, settings.bus) == ("sqlite:", "local:")
    assert settings.retention == Retention(seconds=604800.0, count=1000000)
    assert settings.warnings == ()


def test_secret_opens_the_daemon_to_other_machines_and_is_required():
    settings = Settings.from_environ({"TXBROKER_API_SECRET": "s3cret"})
    assert settings.listen == ("tcp:8000",)
    assert (settings.auth, settings.secured) == ("required", True)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("poll_timeout_seconds", "2.5", 2.5),
        ("max_message_bytes", "65536", 65536),
        ("thinws_open_rooms", "TRUE", True),
        ("fast_path", "0", False),
        ("protocols", "ganomede, thinws  hpkv", ("ganomede", "thinws", "hpkv")),
        ("listen", "tcp:1:interface=127.0.0.1; unix:/s", ("tcp:1:interface=127.0.0.1", "unix:/s")),
        ("admin_listen", "none", ()),
        ("api_keys", "one:k1,two:k:2", {"one": "k1", "two": "k:2"}),
        ("retention", "12h", Retention(43200.0, 0)),
        ("retention", "500", Retention(0.0, 500)),
        ("retention", "none", Retention()),
        ("durable_topics", "orders.> a.*.b", ("orders.>", "a.*.b")),
        ("log_level", "WARNING", "warn"),
        ("durability", "os", "os"),
    ],
)
def test_text_becomes_a_value(name, text, value):
    assert getattr(Settings.from_environ({f"TXBROKER_{name.upper()}": text}), name) == value


def test_empty_text_is_the_same_as_none():
    assert Settings.from_environ({"TXBROKER_RATE": "", "TXBROKER_API_SECRET": " "}).rate == 0.0


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("RATE", "fast", "expected a number that is not negative, not 'fast'"),
        ("PING_SECONDS", "1e308", "expected at most 3153600000, not '1e308'"),
        ("RETENTION", "1e300d", "expected at most 3153600000, not '1e300d'"),
        ("RETENTION", "40000d", "expected at most 3153600000, not '40000d'"),
        ("MAX_CONNECTIONS", "9999999999999999", "expected at most 15 digits, not '9999999999999999'"),
        ("PING_SECONDS", "-1", "expected a number that is not negative, not '-1'"),
        ("PING_SECONDS", "inf", "expected a number that is not negative, not 'inf'"),
        ("MAX_CONNECTIONS", "1e3", "expected a whole number that is not negative, not '1e3'"),
        ("MAX_CONNECTIONS", "-1", "expected a whole number that is not negative, not '-1'"),
        ("COMPRESSION", "maybe", "expected true, false, 1 or 0, not 'maybe'"),
        ("DURABILITY", "maybe", "expected one of fsync, os, not 'maybe'"),
        ("DURABLE_TOPICS", "a.>.b", "expected patterns of topics, of which 'a.>.b' is none, not 'a.>.b'"),
        ("DURABLE_TOPICS", "x a*b", "expected patterns of topics, of which 'a*b' is none, not 'x a*b'"),
        ("RETENTION", "7w", "expected an age such as 7d, 12h, 30m or 90s, a count, both, or none, not '7w'"),
        ("RETENTION", "1d 2d", "expected an age such as 7d, 12h, 30m or 90s, a count, both, or none, not '1d 2d'"),
    ],
)
def test_bad_text_is_told_with_its_name(name, text, expected):
    assert problems_of(**{f"TXBROKER_{name}": text}) == [f"TXBROKER_{name}: {expected}"]


@pytest.mark.parametrize("text", ["18100", "tcp:18100"])
def test_what_others_can_reach_is_told_with_its_name_and_with_what_they_can_not(text: str):
    (problem,) = problems_of(TXBROKER_LISTEN=text)
    assert problem.startswith(f"TXBROKER_LISTEN: {text} can be reached")
    assert "tcp:8000:interface=127.0.0.1" in problem
    assert "TXBROKER_API_SECRET" in problem


def test_all_that_is_wrong_is_told_at_once():
    assert len(problems_of(TXBROKER_RATE="x", TXBROKER_FAST_PATH="x", TXBROKER_LISTEN="tcp:80")) == 3


@pytest.mark.parametrize("text", ["nocolon", "a:1 a:2", ":x"])
def test_a_wrong_secret_is_never_repeated(text):
    (problem,) = problems_of(TXBROKER_API_KEYS=text)
    assert text not in problem


def test_secret_may_stand_in_a_file(tmp_path: Path):
    file = tmp_path / "secret"
    file.write_text("s3cret\n")
    settings = Settings.from_environ({"TXBROKER_API_SECRET_FILE": str(file)})
    assert settings.api_secret == "s3cret"
    assert settings.sources["api_secret"] == "TXBROKER_API_SECRET_FILE"


def test_secret_file_that_can_not_be_read_is_told(tmp_path: Path):
    (problem,) = problems_of(TXBROKER_API_SECRET_FILE=str(tmp_path / "none"))
    assert problem.startswith("TXBROKER_API_SECRET_FILE: ")


def test_secret_and_its_file_together_are_refused():
    (problem,) = problems_of(TXBROKER_API_SECRET="a", TXBROKER_API_SECRET_FILE="b")
    assert "keep one of them" in problem


def test_misspelt_name_is_warned_of_with_the_nearest():
    settings = Settings.from_environ({"TXBROKER_POL_TIMEOUT_SECONDS": "3", "TXBROKER_ZZZZZZZZ": "1"})
    assert settings.warnings == (
        "TXBROKER_POL_TIMEOUT_SECONDS is not a setting; did you mean TXBROKER_POLL_TIMEOUT_SECONDS?",
        "TXBROKER_ZZZZZZZZ is not a setting",
    )


@pytest.mark.parametrize(("store", "warned"), [("sqlite:", True), ("memory:", True), ("redis://host", False)])
def test_replicas_that_a_store_has_not_are_warned_of(store: str, warned: bool):
    settings = Settings.from_environ({"TXBROKER_STORE": store, "TXBROKER_REDIS_WAIT_REPLICAS": "1"})
    warning = "TXBROKER_REDIS_WAIT_REPLICAS has no effect: TXBROKER_STORE is no Redis"
    assert settings.warnings == ((warning,) if warned else ())


def test_names_that_kubernetes_makes_of_a_service_are_passed_by():
    names = ("TXBROKER_PORT", "TXBROKER_SERVICE_HOST", "TXBROKER_SERVICE_PORT_HTTP", "TXBROKER_PORT_8000_TCP_ADDR")
    assert Settings.from_environ(dict.fromkeys(names, "tcp://10.0.0.1:8000")).warnings == ()


def test_names_of_the_original_servers_are_understood():
    settings = Settings.from_environ(
        {
            "API_SECRET": "s3cret",
            "LOG_LEVEL": "trace",
            "POLL_TIMEOUT": "2500",
            "REDIS_EVENTS_PORT_6379_TCP_ADDR": "db",
            "REDIS_EVENTS_PORT_6379_TCP_PORT": "6380",
        }
    )
    assert (settings.api_secret, settings.log_level, settings.poll_timeout_seconds) == ("s3cret", "debug", 2.5)
    assert settings.store == settings.bus == "redis://db:6380/0"
    assert settings.drain_seconds == 10.0


def test_own_name_goes_before_an_alias():
    assert Settings.from_environ({"LOG_LEVEL": "error", "TXBROKER_LOG_LEVEL": "warn"}).log_level == "warn"


def test_alias_with_a_bad_value_is_told_by_its_own_name():
    assert problems_of(POLL_TIMEOUT="soon")[0].startswith("POLL_TIMEOUT: expected a number")


@pytest.mark.parametrize(
    ("environ", "listen"),
    [
        ({"PORT": "9000"}, "tcp:9000:interface=127.0.0.1"),
        ({"PORT": "9000", "API_SECRET": "x"}, "tcp:9000"),
        ({"PORT": "9000", "HOST": "127.0.0.2"}, "tcp:9000:interface=127.0.0.2"),
        ({"PORT": "9000", "HOST": "::1"}, "tcp6:9000:interface=\\:\\:1"),
        ({"HOST": "somewhere"}, "tcp:8000:interface=127.0.0.1"),
    ],
)
def test_port_and_host_say_where_to_listen(environ, listen):
    assert Settings.from_environ(environ).listen == (listen,)


def test_port_of_a_kubernetes_service_is_ignored_with_a_note():
    settings = Settings.from_environ({"PORT": "tcp://10.0.0.1:80"})
    assert settings.listen == ("tcp:8000:interface=127.0.0.1",)
    assert "it is ignored" in settings.warnings[0]


def test_files_are_put_into_the_first_state_directory():
    assert Settings.from_environ({"STATE_DIRECTORY": "/var/lib/txbroker:/other"}).state_directory == "/var/lib/txbroker"


def test_listening_for_other_machines_without_a_credential_is_refused():
    (problem,) = problems_of(TXBROKER_LISTEN="tcp:8000", TXBROKER_PROTOCOLS="ganomede thinws")
    assert "TXBROKER_INSECURE=ganomede,thinws" in problem


def test_naming_some_dialects_insecure_is_not_enough_for_the_others():
    environ = {"TXBROKER_LISTEN": "tcp:8000", "TXBROKER_PROTOCOLS": "ganomede thinws"}
    assert problems_of(**environ, TXBROKER_INSECURE="thinws")
    assert Settings.from_environ({**environ, "TXBROKER_INSECURE": "thinws,ganomede"}).listen == ("tcp:8000",)


@pytest.mark.parametrize(
    "endpoint",
    ["tcp:8001", "tcp:8001:interface=0.0.0.0", "tcp6:8001", "ssl:8001", "tcp:8001:interface=127.0.0.1:interface="],
)
def test_an_admin_port_for_other_machines_needs_a_secret(endpoint: str):
    environ = {"TXBROKER_ADMIN_LISTEN": f"tcp:8001:interface=127.0.0.1;{endpoint}"}
    (problem,) = problems_of(**environ)
    assert problem.startswith(f"TXBROKER_ADMIN_LISTEN: {endpoint} can be reached from other machines")
    assert "TXBROKER_ADMIN_SECRET" in problem
    assert problems_of(**environ, TXBROKER_API_SECRET="another secret than that", TXBROKER_AUTH="required")
    assert Settings.from_environ({**environ, "TXBROKER_ADMIN_SECRET": "only for operators"}).admin_listen


@pytest.mark.parametrize("name", ["TXBROKER_API_SECRET", "TXBROKER_API_SECRET_PREVIOUS", "TXBROKER_API_KEYS"])
def test_the_secret_of_the_admin_port_is_no_clients_word(name: str):
    word = "a-word-that-is-long-enough"
    given = f"mailer:{word}" if name.endswith("KEYS") else word
    (problem,) = problems_of(**{name: given}, TXBROKER_ADMIN_SECRET=word)
    assert "TXBROKER_ADMIN_SECRET" in problem


@pytest.mark.parametrize("endpoint", ["none", "unix:/run/admin", "tcp6:8001:interface=\\:\\:1"])
def test_an_admin_port_of_this_machine_needs_none(endpoint: str):
    Settings.from_environ({"TXBROKER_ADMIN_LISTEN": endpoint})


@pytest.mark.parametrize(
    ("options", "hosts"),
    [
        ({}, ()),
        ({"allowed_hosts": ("broker.lan",)}, ("broker.lan",)),
        ({"api_secret": "x", "allowed_hosts": ("broker.lan",)}, None),
        ({"api_secret": "x", "auth": "optional"}, ()),
        ({"listen": ("tcp:8000",)}, None),
        ({"listen": ("tcp:8000",), "allowed_hosts": ("broker.lan",)}, ("broker.lan",)),
        ({"listen": ("unix:/run/x", "tcp:8000:interface=127.0.0.1")}, ()),
    ],
)
def test_hosts_are_judged_where_everybody_on_this_machine_is_let_in(options, hosts):
    assert Settings(**options).judged_hosts == hosts


@pytest.mark.parametrize("auth", ["none", "optional"])
def test_secret_that_nobody_must_show_does_not_open_the_daemon(auth: str):
    environ = {"TXBROKER_API_SECRET": "x", "TXBROKER_AUTH": auth}
    assert Settings.from_environ(environ).listen == ("tcp:8000:interface=127.0.0.1",)
    assert Settings.from_environ({**environ, "PORT": "80"}).listen == ("tcp:80:interface=127.0.0.1",)
    (problem,) = problems_of(**environ, TXBROKER_LISTEN="tcp:8000")
    assert "TXBROKER_AUTH=required" in problem


def test_permissions_keep_those_within_bounds_who_show_nothing(tmp_path: Path):
    file = tmp_path / "permissions.toml"
    file.touch()
    environ = {"TXBROKER_API_SECRET": "x", "TXBROKER_AUTH": "optional", "TXBROKER_PERMISSIONS_FILE": str(file)}
    assert Settings.from_environ(environ).listen == ("tcp:8000",)


@pytest.mark.parametrize("name", ["MAX_MESSAGE_BYTES", "MAX_VALUE_BYTES", "SEND_QUEUE_BYTES"])
def test_no_bytes_at_all_are_refused(name: str):
    assert problems_of(**{f"TXBROKER_{name}": "0"}) == [
        f"TXBROKER_{name}: expected a whole number above 0, not '0'",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a:same b:same", "expected each name and each key once, and 'b' has that of 'a'"),
        ("a:one b:two a:three", "expected each name and each key once, and 'a' is there twice"),
        ("a:one s3cret", "expected name:key pairs, and number 2 is none"),
    ],
)
def test_the_client_whose_key_is_wrong_is_named_and_its_key_is_not(text: str, problem: str):
    assert problems_of(TXBROKER_API_KEYS=text) == [f"TXBROKER_API_KEYS: {problem}"]


@pytest.mark.parametrize("start", ["-----BEGIN PUBLIC KEY-----\n", "-----BEGIN CERTIFICATE-----\n", "ssh-rsa AAAA"])
def test_a_public_key_is_no_secret_to_sign_tokens_with(start: str):
    (problem,) = problems_of(TXBROKER_JWT_SECRET=start + "x" * 40)
    assert "TXBROKER_JWT_PUBLIC_KEY_FILE" in problem


def test_a_file_with_a_byte_order_mark_has_the_same_names_as_without(tmp_path: Path):
    file = tmp_path / "keys"
    file.write_bytes(b"\xef\xbb\xbfmailer:0123456789abcdef\r\n")
    file.chmod(0o600)
    assert Settings.from_environ({"TXBROKER_API_KEYS_FILE": str(file)}).api_keys == {"mailer": "0123456789abcdef"}


@pytest.mark.parametrize(("mode", "told"), [(0o600, ""), (0o640, ""), (0o644, "can read"), (0o602, "can change")])
def test_a_file_with_a_secret_that_others_can_open_is_warned_of(tmp_path: Path, mode: int, told: str):
    file = tmp_path / "secret"
    file.write_text("0123456789abcdef")
    file.chmod(mode)
    warnings = Settings.from_environ({"TXBROKER_API_SECRET_FILE": str(file)}).warnings
    assert [warning.startswith("TXBROKER_API_SECRET_FILE: ") and told in warning for warning in warnings] == [
        True
    ] * bool(told)


@pytest.mark.parametrize("secret", ["geheim-schl\u00fcssel-geheim", "one-line-of-a-secret\nanother"])
def test_a_secret_that_a_header_field_can_not_have_is_warned_of(secret: str):
    (warning,) = Settings.from_environ({"TXBROKER_API_SECRET": secret}).warnings
    assert (warning.startswith("TXBROKER_API_SECRET has characters"), secret in warning) == (True, False)


def test_required_credential_that_nobody_can_have_is_refused():
    assert "no client could be admitted" in problems_of(TXBROKER_AUTH="required")[0]


@pytest.mark.parametrize("seconds", ["0", "0.5"])
def test_a_lease_that_ends_before_a_slow_node_can_renew_it_is_refused(seconds: str):
    (problem,) = problems_of(TXBROKER_NODE_LEASE_SECONDS=seconds)
    assert problem.startswith("TXBROKER_NODE_LEASE_SECONDS: expected 1 at least")


@pytest.mark.parametrize("milliseconds", ["0", "4001"])
def test_a_wait_for_replicas_that_outlasts_the_wait_for_any_reply_is_refused(milliseconds: str):
    (problem,) = problems_of(TXBROKER_REDIS_WAIT_MS=milliseconds)
    assert problem.startswith("TXBROKER_REDIS_WAIT_MS: expected 1 to 4000")


def test_nothing_to_listen_on_is_refused():
    assert problems_of(TXBROKER_LISTEN="none") == ["TXBROKER_LISTEN names nothing to listen on"]


def test_file_that_can_not_be_read_is_told_at_start(tmp_path: Path):
    (problem,) = problems_of(TXBROKER_PERMISSIONS_FILE=str(tmp_path / "none"))
    assert problem.startswith("TXBROKER_PERMISSIONS_FILE: ")


@pytest.mark.parametrize(
    ("endpoint", "local"),
    [
        ("tcp:80", False),
        ("tcp:80:interface=127.0.0.1", True),
        ("tcp:port=80:interface=127.9.9.9", True),
        ("tcp6:80:interface=\\:\\:1", True),
        ("tcp:80:interface=localhost", True),
        ("tcp:80:interface=10.0.0.1", False),
        ("tcp:80:interface=example.org", False),
        ("unix:/run/txbroker.sock", True),
        ("systemd:domain=INET:index=0", False),
    ],
)
def test_local_endpoints_are_known(endpoint, local):
    assert is_local(endpoint) is local


def test_description_masks_secrets_and_passwords():
    settings = Settings.from_environ({"TXBROKER_API_SECRET": "s3cret", "TXBROKER_STORE": "redis://u:pa55@db/0"})
    shown = {name: (value, source) for name, value, source in settings.describe()}
    assert shown["TXBROKER_API_SECRET"] == ("***", "TXBROKER_API_SECRET")
    assert shown["TXBROKER_STORE"] == ("redis://u:***@db/0", "TXBROKER_STORE")
    assert shown["TXBROKER_JWT_SECRET"] == ("", "default")
    assert shown["TXBROKER_RETENTION"] == ("7d 1000000", "default")
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in repr(settings.describe())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://db/0", "redis://db/0"),
        ("redis://:p@db:1/0", "redis://:***@db:1/0"),
        ("redis://[bad", "redis://***"),
    ],
)
def test_password_of_a_url_is_masked(url, shown):
    assert without_password(url) == shown


@pytest.mark.parametrize("value", [Retention(604800.0, 5), Retention(90.0), Retention(0.0, 5), Retention()])
def test_retention_is_written_as_it_is_read(value):
    kind = options_of(Settings)["retention"].kind
    assert kind.parse(kind.write(value)) == value


def test_every_default_is_read_back_as_it_is_written():
    settings = Settings()
    for name, option in options_of(Settings).items():
        text = option.kind.write(getattr(settings, name))
        if text and not option.secret:
            assert option.kind.parse(text) == getattr(settings, name), name


def test_every_option_has_a_sentence_and_a_unit_in_its_name():
    for name, option in options_of(Settings).items():
        assert re.fullmatch(r"[A-Z`].*[.:?*]", option.help) or option.help.endswith("any."), name
        assert not name.endswith("_port"), name
        assert (option.kind.word == "seconds") == name.endswith("_seconds"), name
        assert (option.kind.word == "bytes") == name.endswith("_bytes"), name


def test_own_name_of_a_node_is_unlike_another():
    assert Settings().node != Settings().node
    assert re.fullmatch(r"[A-Za-z0-9-]+", Settings().node)


def test_settings_are_frozen():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Settings().rate = 1.0  # type: ignore[misc]


def settings_page():
    """Return the module that makes the page of all settings."""
    spec = importlib.util.spec_from_file_location("settings_page", ROOT / "docs" / "settings_page.py")
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    return page


def test_example_file_and_documentation_name_every_option():
    page = settings_page()
    assert (ROOT / ".env.example").read_text() == page.env_example(), "run docs/settings_page.py env >.env.example"
    table = page.table()
    for name in options_of(Settings):
        assert f".. envvar:: TXBROKER_{name.upper()}\n" in table


@pytest.mark.parametrize("group", ["Limits", "What clients create"])
def test_the_page_of_limits_has_each_limit_with_its_default(group):
    rows = (ROOT / "docs" / "operations" / "limits.rst").read_text("utf-8").splitlines()
    for name, setting in settings_page().groups()[group].items():
        default = ".*" if setting.computed or name.endswith("_seconds") else setting.default
        row = re.compile(rf"\w.*  :envvar:`TXBROKER_{name.upper()}`[^:]*  {default}\b")
        assert any(map(row.match, rows)), name


def test_every_option_is_used_somewhere():
    code = "".join(path.read_text() for folder in ("broker", "protocols") for path in (ROOT / folder).rglob("*.py"))
    own = (ROOT / "broker" / "config" / "settings.py").read_text()
    unused = {
        name
        for name in options_of(Settings)
        if not re.search(rf"settings\.{name}\b", code) and f"self.{name}" not in own
    }
    assert unused <= {"settings_file"}  # which is read before there are settings


def test_credentials_that_are_easily_guessed_or_mistaken_are_warned_about():
    environ = {
        "TXBROKER_API_SECRET": "short",
        "TXBROKER_JWT_SECRET": "x" * 16,
        "TXBROKER_API_KEYS": "bob:also-short user:long-enough-to-be-safe",
    }
    warnings = Settings.from_environ(environ).warnings
    assert [word in "".join(warnings) for word in ("API_SECRET", "'bob'", "JWT_SECRET", "'user'")] == [
        True,
        True,
        True,
        True,
    ]
    assert Settings.from_environ({"TXBROKER_JWT_SECRET": "x" * 32}).warnings == ()
    assert "reserved" in warnings[-1]
    assert not [word for word in ("short", "long-enough-to-be-safe") if word in " ".join(warnings)]


@pytest.mark.parametrize("name", ["API_SECRET", "API_SECRET_PREVIOUS"])
def test_a_word_that_is_both_a_secret_and_a_key_is_refused(name: str):
    environ = {f"TXBROKER_{name}": "the-same-long-word", "TXBROKER_API_KEYS": "bob:the-same-long-word"}
    (problem,) = problems_of(**environ)
    assert "TXBROKER_API_KEYS" in problem
    assert "the-same-long-word" not in problem


@pytest.mark.parametrize("given", ["API_SECRET", "API_SECRET_PREVIOUS", "API_KEYS"])
def test_a_word_that_clients_have_is_refused_as_the_key_of_an_issuer(given):
    word = "the word of all of them"
    shown = f"bob:{word.replace(' ', '-')}" if given == "API_KEYS" else word
    (problem,) = problems_of(
        **{f"TXBROKER_{given}": shown}, TXBROKER_JWT_SECRET=shown.removeprefix("bob:"), TXBROKER_AUTH="required"
    )
    assert problem.startswith("TXBROKER_JWT_SECRET: clients have the same word")


@pytest.mark.parametrize("path", ["-", "/dev/stdout", "/dev/stderr", "/dev/fd/999", ""])
def test_what_is_open_already_is_a_file_of_the_log(path):
    assert unwritable(path) == ""
