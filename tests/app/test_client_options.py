"""How the commands for application developers find their broker, and what their arguments stand for."""

from __future__ import annotations

import io
import subprocess
import sys

import click
import pytest

from broker.app.client.output import event_as_dict, event_as_line, moment, one_line
from broker.app.client.payloads import payload_of, position_of
from broker.app.client.shell import input_of
from broker.app.client.target import find_target, native_url
from broker.app.command import main, txbroker
from broker.client import Event, Position
from broker.config.settings import Settings
from broker.errors import Invalid


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in ("URL", "CREDENTIAL", "CREDENTIAL_FILE", "CA_FILE", "LISTEN", "API_SECRET"):
        monkeypatch.delenv(f"TXBROKER_{name}", raising=False)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://host:8000", "ws://host:8000/v1/ws"),
        ("host:8000", "ws://host:8000/v1/ws"),
        ("https://host/", "wss://host/v1/ws"),
        ("wss://host/broker/", "wss://host/broker/v1/ws"),
        ("ws://[::1]:8000/owlmeans", "ws://[::1]:8000/owlmeans"),
    ],
)
def test_a_url_is_that_of_the_native_dialect(text, url):
    assert native_url(text) == url


@pytest.mark.parametrize(
    "text", ["ftp://host", "http://", "http://host:0", "http://host:x", "unix:/run/x", "http://a..b/"]
)
def test_what_is_no_url_is_refused(text):
    with pytest.raises(Invalid, match="expected a URL"):
        native_url(text)


@pytest.mark.parametrize("text", ["http://me:secret@host", "ws://host/v1/ws?token=secret", "ftp://me:secret@host"])
def test_a_credential_in_a_url_is_refused_without_repeating_it(text):
    with pytest.raises(Invalid) as refused:
        native_url(text)
    assert "secret" not in refused.value.message


def test_without_a_url_it_is_the_broker_of_this_machine_with_its_secret(monkeypatch):
    assert find_target({}, "", "").url == "ws://127.0.0.1:8000/v1/ws"
    monkeypatch.setenv("TXBROKER_LISTEN", "tcp:9000")
    monkeypatch.setenv("TXBROKER_API_SECRET", "of-this-machine-alone")
    target = find_target({}, "", "")
    assert (target.url, target.credential) == ("ws://127.0.0.1:9000/v1/ws", "of-this-machine-alone")
    assert "alone" not in repr(target)


def test_the_secret_of_this_machine_is_not_shown_to_another(monkeypatch):
    monkeypatch.setenv("TXBROKER_API_SECRET", "of-this-machine-alone")
    assert find_target({"TXBROKER_URL": "https://other.example"}, "", "").credential == ""
    assert find_target({}, "https://other.example", "").credential == ""


def test_a_credential_comes_from_the_environment_or_a_file(tmp_path):
    file = tmp_path / "credential"
    file.write_text("of the file\n")
    environ = {"TXBROKER_URL": "http://host", "TXBROKER_CREDENTIAL": "of the environment"}
    assert find_target(environ, "", "").credential == "of the environment"
    assert find_target(environ, "", str(file)).credential == "of the file"
    named = {"TXBROKER_URL": "http://host", "TXBROKER_CREDENTIAL_FILE": str(file)}
    assert find_target(named, "", "").credential == "of the file"
    with pytest.raises(Invalid, match="both set"):
        find_target({**environ, **named}, "", "")


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff", b"a\nb", b"x" * 20000])
def test_a_file_without_a_credential_is_refused(tmp_path, content):
    file = tmp_path / "credential"
    file.write_bytes(content)
    with pytest.raises(Invalid):
        find_target({"TXBROKER_URL": "http://host"}, "", str(file))


def test_what_clients_are_told_is_no_unknown_setting():
    names = ("URL", "CREDENTIAL", "CREDENTIAL_FILE", "CA_FILE", "METHOD", "QUEUE", "JOB_ID", "JOB_DELIVERY")
    assert Settings.from_environ({f"TXBROKER_{name}": "x" for name in names}).warnings == ()
    assert Settings.from_environ({"TXBROKER_CREDENTIALS": "x"}).warnings != ()


@pytest.mark.parametrize(
    ("text", "payload"),
    [
        ('{"a":[1,2.5,null]}', {"a": [1, 2.5, None]}),
        ("hello", "hello"),
        ('"hello"', "hello"),
        ("NaN", "NaN"),
        ("{", "{"),
        ("[" * 100_000, "[" * 100_000),
        ("", ""),
        ("-7", -7),
    ],
)
def test_a_payload_is_json_or_else_text(text, payload):
    assert payload_of(text) == payload
    assert payload_of(text, as_text=True) == text


def test_a_payload_of_one_dash_is_the_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"n": 1}\n')))
    assert payload_of("-") == {"n": 1}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    with pytest.raises(Invalid, match="no UTF-8"):
        payload_of("-")


def test_a_position_is_an_id_with_or_without_its_epoch():
    assert position_of("17") == 17
    assert position_of("e1:17") == Position("e1", 17)
    for text in ("", "x", ":1", "e1:", "1" * 20, "-1", "²"):
        with pytest.raises(Invalid):
            position_of(text)


def test_an_event_is_one_line_that_controls_no_terminal():
    event = Event("a\nb", "made", "\x1b[31mred\u202e", time=1500, id=3, epoch="e")
    assert event_as_line(event) == "1970-01-01T00:00:01.500Z  a\\nb  e:3  (made)  \\x1b[31mred\\u202e"
    assert event_as_dict(Event("t", "t", b"\xff")) == {
        "topic": "t",
        "name": "t",
        "payload": "/w==",
        "encoding": "base64",
    }
    assert one_line("tab\there") == "tab\\there"


def test_a_command_reads_text_as_it_is_and_everything_else_as_json():
    assert input_of("hello", strict=False) == b"hello"
    assert input_of("hello", strict=True) == b'"hello"\n'
    assert input_of({"a": None}, strict=False) == b'{"a":null}\n'


WRONG = [
    ["publish", "t", "--url", "ftp://host"],
    ["publish", "t", "x", "--lines"],
    ["publish", "t", "x", "--retain", "--durable"],
    ["publish", "t", "--timeout", "0"],
    ["publish", "t", "--nothing"],
    ["publish"],
    ["read", "t", "--after", "1", "--last", "2"],
    ["read", "t", "--after", "x"],
    ["tail", "t", "--from", "yesterday"],
    ["tail", "t", "--last", "3", "--from", "start"],
    ["call", "m", "1", "--stream"],
    ["serve", "m"],
    ["serve", "m", "--", "there-is-no-such-program", "x"],
    ["work", "q", "--", "there-is-no-such-program", "x"],
    ["dead", "requeue", "q"],
    ["dead", "drop", "q", "1", "--all"],
    ["kv", "set", "k"],
    ["kv", "increment", "k", "much"],
    ["kv", "increment", "k", "-x"],
    ["publish", "t", "--credential-file", "/nowhere/at/all"],
]


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_wrong_arguments_end_with_2_before_anything_is_asked(capsys, monkeypatch, words):
    monkeypatch.setenv("TXBROKER_URL", "http://127.0.0.1:1")
    with pytest.raises(SystemExit) as ended:
        main(words)
    said, errors = capsys.readouterr()
    assert (ended.value.code, said) == (2, "")
    assert "txbroker: " in errors.splitlines()[-1]


def test_a_file_of_certificates_that_has_none_ends_with_2(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["publish", "t", "--url", "https://127.0.0.1:1", "--ca-file", __file__])
    assert ended.value.code == 2
    assert "no certificates" in capsys.readouterr().err


def test_a_number_below_zero_is_no_option():
    group = txbroker.commands["kv"]
    assert isinstance(group, click.Group)
    command = group.commands["increment"]
    context = command.make_context("increment", ["k", "-2.5", "--client", "-x", "--timeout", "3"])
    found = [context.params[name] for name in ("key", "amount", "client", "timeout")]
    assert found == ["k", -2.5, "-x", 3.0]


def test_what_a_command_needs_is_not_imported_for_the_help_of_all():
    program = "import sys, broker.app.command; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    unwanted = ("broker.client", "broker.app.client.", "broker.config.settings", "websockets", "twisted", "http")
    assert [name for name in loaded if name.startswith(unwanted)] == []


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "-"),
        (1_500, "1970-01-01T00:00:01.500Z"),
        (8_640_000_000_000_000, "8640000000000000 ms"),
        (10**30, f"{10**30} ms"),
        (-(10**17), f"{-(10**17)} ms"),
    ],
)
def test_a_time_that_no_calendar_has_is_shown_as_a_number(milliseconds, text):
    assert moment(milliseconds) == text
