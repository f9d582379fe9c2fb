"""What is said at the start leads to where the daemon listens."""

import json
import os
import subprocess
from pathlib import Path
from threading import Timer

import pytest
import pytest_twisted
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.threads import deferToThread
from zope.interface import implementer

from broker.app.greeting import example
from broker.config.addresses import url_of
from broker.interfaces import IHttpDialect, IWebSocketDialect


@pytest.mark.parametrize(
    ("endpoint", "address", "url"),
    [
        ("tcp:80", IPv4Address("TCP", "0.0.0.0", 80), "http://127.0.0.1:80"),
        ("tcp:80:interface=10.0.0.1", IPv4Address("TCP", "10.0.0.1", 80), "http://10.0.0.1:80"),
        ("tcp6:80", IPv6Address("TCP", "::", 80), "http://[::1]:80"),
        ("ssl:443:privateKey=k.pem", IPv4Address("TCP", "127.0.0.1", 443), "https://127.0.0.1:443"),
        ("unix:/run/s", UNIXAddress("/run/s"), "unix:/run/s"),
    ],
)
def test_address_is_one_that_clients_here_can_use(endpoint, address, url):
    assert url_of(endpoint, address) == url


@implementer(IHttpDialect)
class Http:  # type: ignore[misc]
    example: str
    http_paths = ("/a", "/b")


@implementer(IWebSocketDialect)
class WebSocket:  # type: ignore[misc]
    websocket_paths = ("/ws",)


def test_http_dialect_is_tried_with_curl():
    assert example(Http(), "http://h:1") == "curl http://h:1/a"


def test_websocket_dialect_is_tried_with_a_client_that_is_installed():
    assert example(WebSocket(), "https://h:1").endswith("websockets wss://h:1/ws")


@pytest.mark.parametrize(("here", "client"), [("/opt/x", "bin/websockets"), ("/", "/opt/x/bin/websockets")])
def test_the_client_is_named_as_one_types_it_there(monkeypatch, here, client):
    monkeypatch.setattr("sys.executable", "/opt/x/bin/python")
    monkeypatch.setattr("pathlib.Path.cwd", lambda: Path(here))
    assert example(WebSocket(), "http://h:1") == f"{client} ws://h:1/ws"


def test_dialect_may_know_better():
    dialect = Http()
    dialect.example = "curl -d '{\"a\":1}' {http}/b"
    assert example(dialect, "http://h:1") == "curl -d '{\"a\":1}' http://h:1/b"


SECRET = "a-secret-of-some-length"
TRIED = {  # what is shown when the command to try it works
    "owlmeans": "Connected to",
    "ganomede": '"id":1',
    "thinws": "Connected to",
    "hpkv": "Connected to",
    "microstream": '"sid"',
    "http": "retry:",
}


def output(line, environ, wanted):
    """Return what a command of the shell shows, until that has *wanted* in it."""
    with subprocess.Popen(
        ["bash", "-c", line], env={**os.environ, **environ}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        timer = Timer(60.0, process.kill)
        timer.start()
        shown = ""
        while wanted not in shown and (data := os.read(process.stdout.fileno(), 4096)):
            shown += data.decode()
        timer.cancel()
        process.kill()
    return shown


@pytest.mark.parametrize(
    ("settings", "variable"),
    [({"TXBROKER_API_SECRET": SECRET}, "TXBROKER_API_SECRET"), ({"TXBROKER_API_KEYS": f"ann:{SECRET}"}, "KEY")],
)
@pytest_twisted.ensureDeferred
async def test_the_commands_to_try_work_with_a_credential_where_one_is_required(start_daemon, settings, variable):
    daemon = await start_daemon(TXBROKER_PROTOCOLS=",".join(TRIED), **settings)
    for name, wanted in TRIED.items():
        line = json.loads(await daemon.program.line(lambda line, name=name: f"try {name}:" in line))["line"]
        assert f"${variable}" in line
        assert wanted in await deferToThread(output, line, {variable: SECRET}, wanted), name
    if variable == "KEY":
        await daemon.program.line(lambda line: "$KEY in these commands is a credential of TXBROKER_API_KEYS" in line)
    assert not any(SECRET in line or "refused" in line for line in daemon.output)


def test_where_no_credential_is_configured_any_will_do():
    dialect = Http()
    dialect.example = 'curl -d "secret={key}" {http}/b'
    assert example(dialect, "http://h:1") == 'curl -d "secret=any" http://h:1/b'
