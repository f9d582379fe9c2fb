"""The commands of ``txbroker``, each as an operator gives it."""

from __future__ import annotations

import importlib.util
import io
import json
import os
from typing import Any
from unittest.mock import Mock
from urllib.parse import parse_qsl, urlencode

import click
import jwt
import pytest
from twisted.internet.defer import Deferred

from broker import __version__
from broker.app.admin_client import AdminClient
from broker.app.command import main, txbroker
from broker.app.commands.console import cell
from broker.app.commands.live import LISTS
from broker.app.tap import make_history
from broker.config.example import env_text
from broker.config.settings import Settings
from broker.messages import Identity
from broker.observe.admin.api import AdminApi
from broker.observe.admin.tokens import REVOKE, TokenPage
from broker.sessions import BaseSession
from broker.testing import http_request, make_broker, value_of
from tests.support.daemon import ROOT

SECRET = "the-key-that-tokens-are-signed-with"


class Client(BaseSession):
    """Remembers how it was disconnected."""

    ended: Any = None

    def disconnect(self, code, reason):
        self.ended = code, reason


class Operator:
    """Gives commands, which ask a broker in this process."""

    def __init__(self, monkeypatch, capsys):
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.broker = make_broker(api_keys={"ann": "the-key-of-ann"}, auth="optional")
        self.drained = 0
        self.api = AdminApi(self.broker, make_history(self.broker), drain=self.drain)
        for name in [name for name in os.environ if name.startswith("TXBROKER_")]:
            monkeypatch.delenv(name)
        monkeypatch.setattr(AdminClient, "_exchange", self.exchange)

    def drain(self):
        self.drained += 1

    def exchange(self, client, method, path, body, headers):
        dialect = TokenPage(self.api.revoke) if path == REVOKE else self.api
        answer = value_of(http_request(self.broker, dialect, method, path, body or "", headers))
        return answer.status, answer.body

    def __call__(self, *words, text="", **environ):
        for name, value in environ.items():
            self._monkeypatch.setenv(name, value)
        self._monkeypatch.setattr("sys.stdin", io.StringIO(text))
        status: Any = 0
        try:
            main(words)
        except SystemExit as end:
            status = end.code
        return (status, *self._capsys.readouterr())

    def json(self, *words, **more):
        status, said, errors = self(*words, "--json", **more)
        assert (status, errors) == (0, "")
        return json.loads(said)

    def client(self, name):
        peer = self.broker.attach("owlmeans", "10.0.0.1")
        peer.admit(Identity("user", name, name))
        peer.bind(Client())
        return peer


@pytest.fixture
def give(monkeypatch, capsys):
    operator = Operator(monkeypatch, capsys)
    operator._monkeypatch.setattr(AdminClient, "_exchange", lambda client, *more: operator.exchange(client, *more))
    return operator


def do(waiting):
    async def awaited():
        return await waiting

    return value_of(Deferred.fromCoroutine(awaited()))


def commands(group=txbroker, prefix=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*prefix, name))
        else:
            yield (*prefix, name), command


ALL = dict(commands())


def test_the_reference_has_every_command_and_option():
    spec = importlib.util.spec_from_file_location("commands_page", ROOT / "docs" / "commands_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sections = module.page().split("\n\n::\n\n    ")
    told = {section.split(" [OPTIONS]")[0]: section for section in sections[1:]}
    assert sorted(told) == sorted(f"txbroker {' '.join(words)}" for words in ALL)
    for words, command in ALL.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert f"{parameter.opts[0]}" in told[f"txbroker {' '.join(words)}"]


def test_the_commands_are_those_that_operators_expect(give):
    names = {" ".join(words) for words in ALL}
    assert names >= {
        *("check", "config", "token mint", "token verify", "token revoke", "backup", "restore", "compact"),
        *("import-ganomede", "connections", "channels", "services", "queues", "keys", "kick", "drain", "status"),
        "version",
    }


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_has_help_and_takes_json(give, words):
    status, said, errors = give(*words, "--help")
    assert (status, errors) == (0, "")
    assert said.startswith(f"usage: txbroker {' '.join(words)} ")
    assert "--json" in said
    assert give(*words, "--nothing")[0] == 2


@pytest.mark.parametrize("words", [[], ["nothing"], ["token"], ["token", "nothing"]])
def test_wrong_arguments_end_with_2_and_say_why_on_standard_error(give, words):
    status, said, errors = give(*words)
    assert (status, said) == (2, "")
    assert errors.startswith("usage: txbroker")


def test_the_version_needs_no_settings(give):
    assert give("version", TXBROKER_LISTEN="nonsense") == (0, f"txbroker {__version__}\n", "")
    assert give("--version")[1] == f"txbroker {__version__}\n"
    assert give.json("version") == {"name": "txbroker", "version": __version__}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), "txbroker: [Errno 28] No space left on device\n"),
        (BrokenPipeError(), ""),
    ],
)
def test_output_that_can_not_be_written_is_told_in_a_line(give, monkeypatch, error, told):
    monkeypatch.setattr("sys.stdout", Mock(write=Mock(side_effect=error), fileno=Mock(side_effect=ValueError)))
    assert give("config") == (1, "", told)


def test_settings_that_can_be_used_are_said_to_be(give):
    assert give("check") == (0, "the settings can be used\n", "")
    assert give.json("check") == {"ok": True, "problems": [], "warnings": []}


def test_settings_that_can_not_be_used_are_told_all_at_once(give, tmp_path):
    wrong = {
        "RATE": "many",
        "PING_SECONDS": "-1",
        "PROTOCOLS": "hpkv nothing",
        "LISTEN": "tcp:99999:interface=127.0.0.1",
    }
    status, said, errors = give("check", **{f"TXBROKER_{name}": value for name, value in wrong.items()})
    assert (status, said) == (2, "")
    assert all(f"txbroker: TXBROKER_{name}: " in errors for name in wrong), errors
    status, said, _ = give("check", "--json")
    assert (status, len(json.loads(said)["problems"])) == (2, len(wrong))


@pytest.mark.parametrize(
    "environ",
    [
        {"TXBROKER_PROTOCOLS": "hpkv nothing"},
        {"TXBROKER_LISTEN": "tcp:99999"},
        {"TXBROKER_STORE": "sqlite:/none/at/all.db"},
        {"TXBROKER_STORE": "redis://host:0"},
        {"TXBROKER_BUS": "horse:"},
        {"TXBROKER_TLS_CERTIFICATE_FILE": __file__, "TXBROKER_TLS_KEY_FILE": __file__},
    ],
    ids=str,
)
def test_what_is_wrong_with_the_settings_together_is_found(give, environ):
    status, said, errors = give("check", **environ)
    assert (status, said) == (2, "")
    assert next(iter(environ)) in errors or "nothing" in errors


def test_certificates_without_a_key_for_each_are_told_once(give):
    environ = {"TXBROKER_TLS_CERTIFICATE_FILE": f"{__file__} {__file__}", "TXBROKER_TLS_KEY_FILE": __file__}
    problems = json.loads(give("check", "--json", **environ)[1])["problems"]
    assert [problem for problem in problems if "CERTIFICATE_FILE" in problem] == [
        "TXBROKER_TLS_KEY_FILE: expected one for each certificate of TXBROKER_TLS_CERTIFICATE_FILE, which names 2"
    ]


def test_a_weak_secret_is_warned_about_and_can_be_used(give):
    status, said, errors = give("check", TXBROKER_API_SECRET="short")
    assert (status, said) == (0, "the settings can be used\n")
    assert "warning: TXBROKER_API_SECRET has fewer than" in errors
    assert "short" not in errors.replace("shorter", "")


def test_settings_are_shown_with_their_sources_and_without_secrets(give):
    environ = {"TXBROKER_API_SECRET": "nobody-may-see-this", "PORT": "9000"}
    rows = {row["name"]: row for row in give.json("config", **environ)}
    assert rows["TXBROKER_API_SECRET"] == {
        "name": "TXBROKER_API_SECRET",
        "value": "***",
        "source": "TXBROKER_API_SECRET",
    }
    assert (rows["TXBROKER_LISTEN"]["value"], rows["TXBROKER_LISTEN"]["source"]) == ("tcp:9000", "PORT")
    assert rows["TXBROKER_RATE"]["source"] == "default"
    status, said, _ = give("config", "--changed")
    assert (status, len(said.splitlines())) == (0, 3)
    assert "nobody-may" not in said + give("config", "--env")[1]


def test_a_file_of_the_settings_has_what_is_set_and_can_be_read_again(give):
    assert give("config", "--env") == (0, env_text(), "")
    said = give("config", "--env", TXBROKER_RATE="7", TXBROKER_API_SECRET="nobody-may-see-this")[1]
    values = dict(line.split("=", 1) for line in said.splitlines() if line and line[0] != "#")
    assert values == {"TXBROKER_RATE": "7"}
    assert Settings.from_environ(values).rate == 7


def test_the_status_shows_the_node_and_fails_when_it_is_not_ready(give):
    status, said, errors = give("status")
    assert (status, errors) == (0, "")
    assert "ready           yes" in said
    assert f"pid             {os.getpid()}\n" in said
    assert "sessions        0\n" in said  # no 0.0
    give.broker.about.facts["dialects"] = [f"dialect{number}" for number in range(9)]
    assert "dialect7, dialect8\n" in give("status")[1]
    give.broker.draining = True
    status, said, errors = give("status")
    assert (status, errors) == (1, "txbroker: not ready: draining\n")
    assert json.loads(give("status", "--json")[1])["ready"] == ["draining"]


def test_every_list_is_shown_as_a_table_and_as_json(give):
    ann = give.client("ann")
    ann.subscribe("news")
    do(ann.perform(["math.add"]))
    do(ann.publish("log", "n", b"1", durable=True))
    do(ann.add_job("mail", b"1"))
    do(ann.set("k", b"1"))
    for name, (columns, _, _) in LISTS.items():
        status, said, errors = give(name)
        assert (status, errors) == (0, ""), name
        assert said.split("\n")[0].split() == list(columns)
        rows = give.json(name)
        assert len(rows) == (0 if name == "connections" else 1), name
        assert len(said.splitlines()) == len(rows) + 1


def test_lists_are_searched_sorted_and_cut(give):
    for name in ("bob", "ann", "eve"):
        give.client(name)
    assert [row["client"] for row in give.json("sessions", "--sort", "client", "--order", "desc")] == [
        "eve",
        "bob",
        "ann",
    ]
    assert [row["client"] for row in give.json("sessions", "--search", "nn")] == ["ann"]
    status, said, errors = give("sessions", "--limit", "2")
    assert (status, len(said.splitlines())) == (0, 3)
    assert errors == "txbroker: there are more than these 2; see --limit and --search\n"
    assert give("sessions", "--sort", "nothing")[0] == 1


def test_a_session_and_all_of_a_client_are_disconnected(give):
    one, two = give.client("ann"), give.client("bob")
    session = two.session
    assert give("kick", "--client", "ann", "--reason", "bye") == (0, "sessions disconnected: 1\n", "")
    assert one.session.ended == (1001, "bye")
    assert give.json("kick", two.id) == {"disconnected": 1}
    assert session.ended == (1001, "disconnected by an operator")
    status, said, errors = give("kick", "none")
    assert (status, said) == (1, "")
    assert errors.endswith("404: There is no session none on this node.\n")
    assert give("kick")[0] == give("kick", "a", "--client", "b")[0] == 2


@pytest.fixture
def two(give, monkeypatch):
    """Another node, which answers no more when it is stopped."""
    other = make_broker()
    other.bus.node = "two"
    api = AdminApi(other, make_history(other))
    here = give.exchange

    def exchange(client, method, path, body, headers):
        name, _, query = path.removeprefix("/admin/api/").partition("?")
        if name == "nodes":
            return 200, json.dumps({"items": [{"node": "test"}, {"node": "two"}]}).encode()
        asked = dict(parse_qsl(query))
        if asked.pop("node", "test") == "test":
            return here(client, method, f"/admin/api/{name}?{urlencode(asked)}", body, headers)
        if not other.running:
            return 503, json.dumps({"error": {"message": "Node two has not answered within 5 s."}}).encode()
        answer = value_of(
            http_request(other, api, method, f"/admin/api/{name}?{urlencode(asked)}", body or "", headers)
        )
        return answer.status, answer.body

    monkeypatch.setattr(give, "exchange", exchange)
    return other


def test_lists_are_those_of_all_nodes_or_of_one(give, two):
    give.client("ann")
    peer = two.attach("owlmeans", "10.0.0.2")
    peer.admit(Identity("user", "bob", "bob"))
    peer.bind(Client())
    status, said, errors = give("sessions")
    assert (status, errors) == (0, "")
    assert [line.split()[0] for line in said.splitlines()] == ["node", "test", "two"]
    assert [(row["node"], row["client"]) for row in give.json("sessions")] == [("test", "ann"), ("two", "bob")]
    assert [row["client"] for row in give.json("sessions", "--node", "two")] == ["bob"]
    assert give.json("status", "--node", "two")["node"] == "two"
    assert len(give.json("queues")) == 0


def test_a_node_that_does_not_answer_is_told_and_the_others_are_shown(give, two):
    give.client("ann")
    two.stopService()
    status, said, errors = give("sessions")
    assert (status, len(said.splitlines())) == (1, 2)
    assert errors.endswith("has answered with 503: Node two has not answered within 5 s.\n")
    status, said, errors = give("sessions", "--node", "two")
    assert (status, said) == (1, "")


def test_a_kick_tells_which_nodes_were_silent(give, monkeypatch):
    told = {"disconnected": 1, "nodes": {"one": 1}, "silent": ["two"]}
    monkeypatch.setattr(give, "exchange", lambda *_: (200, json.dumps(told).encode()))
    assert give("kick", "--connection", "connection-1", "--node", "one") == (
        1,
        "sessions disconnected: 1\n",
        "txbroker: node two has not answered\n",
    )


def test_the_node_is_drained(give):
    assert give("drain") == (0, "the node drains\n", "")
    assert (give.json("drain"), give.drained) == ({"draining": True}, 2)


def test_a_json_web_token_is_minted_and_verified(give):
    environ = {"TXBROKER_JWT_SECRET": SECRET, "TXBROKER_JWT_AUDIENCE": "a", "TXBROKER_JWT_ISSUER": "i"}
    status, said, errors = give(
        "token", "mint", "--sub", "ann", "--role", "r", "--role", "s", "--ttl", "30m", **environ
    )
    assert (status, errors) == (0, "")
    found = give.json("token", "verify", text=said)
    assert (found["principal"], found["roles"]) == ("user:ann", ["r", "s"])
    lines = give("token", "verify", text=said)[1].splitlines()
    assert "roles      r, s" in lines
    assert lines[-1] == f"expires    {cell('expires', found['expires'])}"
    minted = give.json("token", "mint", "--ttl", "2h")
    assert minted["expires"] > found["expires"] - 60
    assert give("token", "verify", text=said[:-3])[0] == 1
    assert give("token", "verify", text="")[0] == 1


@pytest.mark.parametrize(
    ("secret", "words"), [("x" * 15, "16 characters"), ("x" * 31, "32 bytes, the least for HS256")]
)
def test_a_short_secret_is_warned_of_in_the_words_of_the_settings(give, secret, words):
    status, said, errors = give("token", "mint", "--sub", "ann", TXBROKER_JWT_SECRET=secret)
    assert (status, errors.count("\n")) == (0, 1)
    assert errors.startswith(f"txbroker: warning: TXBROKER_JWT_SECRET has fewer than {words}")
    assert secret not in errors
    assert give("token", "verify", text=said)[::2] == (0, "")


def test_it_is_told_what_is_wrong_with_a_web_token(give):
    environ = {"TXBROKER_JWT_SECRET": SECRET}
    for token, told in {
        jwt.encode({"exp": 1}, SECRET): "The token has expired",
        jwt.encode({"exp": 4e9, "aud": "x"}, SECRET): "TXBROKER_JWT_AUDIENCE",
        jwt.encode({"exp": 4e9}, "x" * 40): 'it says alg "HS256"; the keys are HS256',
        jwt.encode(
            {"exp": 4e9}, "x" * 64, "HS512", {"kid": "\x1b[1m"}
        ): r'it says alg "HS512" and kid "\u001b[1m"; the keys',
        "no.token.atall": "it is no JSON web token",
    }.items():
        status, said, errors = give("token", "verify", text=token, **environ)
        assert (status, said, told in errors, token in errors) == (1, "", True, False), errors


@pytest.mark.parametrize(
    "words", [["--ttl", "0"], ["--ttl", "x"], ["--ttl", "9000000d"], ["--sub", "a\nb"], ["--sub", "broker.x"]]
)
def test_what_can_not_be_minted_is_told(give, words):
    assert give("token", "mint", *words, TXBROKER_JWT_SECRET=SECRET)[0] == 2


def test_without_a_key_no_web_token_is_minted_but_the_daemon_mints_one(give):
    status, _, errors = give("token", "mint", "--sub", "ann")
    assert (status, errors.startswith("txbroker: TXBROKER_JWT_SECRET is not set")) == (2, True)
    _, text, errors = give("token", "mint", "--api-key", "ann", "--access", ".*")
    assert errors == ""
    found = give.json("token", "verify", text=text)
    assert (found["principal"], found["claims"]["access"]) == ("key:ann", ".*")
    assert give.json("token", "revoke", text=text) == {"revoked": True}
    assert give("token", "verify", text=text)[0] == 1
    assert give("token", "mint", "--api-key", "bob")[0] == 1


def test_a_token_that_nobody_could_use_is_not_minted(give):
    give.broker.access.mode = "required"
    status, said, errors = give("token", "mint", "--hpkv", "--access", ".*")
    assert (status, said, "--api-key" in errors) == (1, "", True)


def test_a_web_token_is_not_revoked_and_it_is_told_what_can_be_done(give):
    text = jwt.encode({"sub": "ann", "exp": 4e9}, SECRET)
    status, said, errors = give("token", "revoke", text=text)
    assert (status, said, "a JSON web token of somebody else ends at its exp" in errors) == (1, "", True)


def test_a_token_in_use_is_revoked_by_its_id(give):
    assert give("token", "revoke", "--id", "none")[0] == 1
    text = give("token", "mint")[1]
    peer = give.broker.attach("hpkv", "10.0.0.1")
    do(peer.present(text.strip()))
    peer.bind(Client())
    assert give("token", "revoke", "--id", peer.token)[:2] == (0, "the token is revoked\n")
    assert peer.session.ended == (4003, "token revoked")


def test_a_token_is_no_argument_of_any_command(give):
    for action in ("verify", "revoke"):
        status, said, errors = give("token", action, "a.b.c")
        assert (status, said, "a.b.c" in errors) == (2, "", False)


def test_a_cell_is_one_line_and_no_longer_than_it_may_be():
    assert cell("client", "a\nb\x1b[31m") == "a\\x0ab\\x1b[31m"
    assert len(cell("client", "x" * 100)) == 60
    assert cell("expires", 0.0) == "1970-01-01T00:00:00Z"
    assert [cell("x", value) for value in (None, "", True, 1.25, 3.0, ["a", "b"], [])] == [
        "-",
        "-",
        "yes",
        "1.2",
        "3",
        "a, b",
        "-",
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(give, shell):
    status, said, _ = give(_TXBROKER_COMPLETE=f"{shell}_source")
    assert (status, "_TXBROKER_COMPLETE" in said) == (0, True)


def test_commands_are_completed(give, monkeypatch):
    monkeypatch.setenv("COMP_WORDS", "txbroker ba")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert give(_TXBROKER_COMPLETE="bash_complete")[1] == "plain,backup\n"
