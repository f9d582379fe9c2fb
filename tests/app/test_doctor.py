"""``txbroker doctor`` says what keeps clients away, and what to change."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread, get_ident
from typing import Any

import pytest
import pytest_twisted
import trustme
from twisted.internet.task import Clock
from websockets.utils import accept_key

from broker.app.client.doctor import findings
from broker.app.client.findings import Finding
from broker.app.client.reaching import Reach
from broker.app.client.streaming import check_idle
from broker.app.client.target import Target, native_url
from broker.messages import HttpRequest
from broker.observe.lag import ReactorLag
from broker.observe.metrics import Histogram
from broker.web.pages import Pages
from tests.conftest import StartDaemon
from tests.support.balancers import NGINX, path_of
from tests.support.daemon import Daemon
from tests.support.developer import SECRET, Developer
from tests.support.eventually import eventually
from tests.support.processes import Program

pytestmark = pytest.mark.alone
DIALECTS = ["owlmeans", "ganomede", "thinws", "hpkv", "microstream", "http"]


@pytest.fixture(scope="module")
def daemon_environ() -> dict[str, str]:
    return {"TXBROKER_API_SECRET": SECRET, "TXBROKER_ALLOWED_ORIGINS": "https://app.example"}


async def examined(give: Developer, *words: str, **environ: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the status, and what was found by the name of the check."""
    status, said, errors = await give("doctor", "--json", "--timeout", "30", *words, **environ)
    assert errors == ""
    return status, {found["check"]: found for found in map(json.loads, said.splitlines())}


@pytest.fixture
def give(shared_daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Developer:
    return Developer(shared_daemon, monkeypatch)


@pytest_twisted.ensureDeferred
async def test_nothing_is_wrong_where_nothing_is(give: Developer) -> None:
    status, found = await examined(give, "--origin", "https://app.example", "--idle", "0.1")
    assert list(found) == ["port", "tls", "broker", "ready", *DIALECTS, "stream", "idle"]
    assert [name for name, one in found.items() if one["fine"] is not True and name != "ready"] == ["tls"]
    assert status == 0
    text = (await give.lines("doctor", "--timeout", "30"))[0]
    assert text == f"ok     port         something listens at 127.0.0.1:{give.daemon.port}"


@pytest_twisted.ensureDeferred
async def test_a_wrong_or_missing_credential_is_told_for_each_dialect(give: Developer) -> None:
    status, found = await examined(give, TXBROKER_CREDENTIAL="wrong")
    assert status == 1
    assert [name for name in DIALECTS if "TXBROKER_API_SECRET" not in found[name]["remedy"]] == []
    status, found = await examined(give, TXBROKER_CREDENTIAL="")
    assert status == 1
    assert [name for name in DIALECTS if "TXBROKER_CREDENTIAL" not in found[name]["remedy"]] == []
    assert (found["port"]["fine"], found["broker"]["fine"]) == (True, True)


@pytest_twisted.ensureDeferred
async def test_a_refused_origin_is_told_with_the_setting(give: Developer) -> None:
    status, found = await examined(give, "--origin", "https://evil.example", "--dialect", "owlmeans")
    assert status == 1
    assert list(found) == ["port", "tls", "broker", "ready", "owlmeans"]
    assert found["owlmeans"]["remedy"].startswith("add https://evil.example to TXBROKER_ALLOWED_ORIGINS")


@pytest_twisted.ensureDeferred
async def test_a_port_on_which_nothing_listens_is_told(give: Developer) -> None:
    status, found = await examined(give, "--url", "http://127.0.0.1:1")
    assert (status, list(found)) == (1, ["port"])
    assert "TXBROKER_LISTEN" in found["port"]["remedy"]


@pytest_twisted.ensureDeferred
async def test_tls_where_there_is_none_is_told(give: Developer) -> None:
    status, found = await examined(give, "--url", give.daemon.url.replace("http:", "https:"))
    assert (status, list(found)) == (1, ["port", "tls"])
    assert found["tls"]["text"] == "it speaks plain HTTP, and no TLS"


@pytest_twisted.ensureDeferred
async def test_a_broker_with_tls_is_examined_with_its_authority(
    start_daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = trustme.CA()
    files = {name: str(tmp_path / name) for name in ("authority", "certificate", "key")}
    authority.cert_pem.write_to_path(files["authority"])
    issued = authority.issue_cert("127.0.0.1")
    Path(files["certificate"]).write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(files["key"])
    environ = {"TXBROKER_TLS_CERTIFICATE_FILE": files["certificate"], "TXBROKER_TLS_KEY_FILE": files["key"]}
    give = Developer(await start_daemon(**environ, TXBROKER_API_SECRET=SECRET), monkeypatch)
    status, found = await examined(give)
    assert (status, list(found)) == (1, ["port", "tls"])
    assert "--ca-file" in found["tls"]["remedy"]
    with users_of_tls(monkeypatch) as users:
        status, found = await examined(give, "--ca-file", files["authority"])
    assert (status, {name: one for name, one in found.items() if not one["fine"] and name != "ready"}) == (0, {})
    # OpenSSL: who writes while another thread reads the session tickets of TLS 1.3 may lose what is written.
    assert {len(threads) for threads in users.values()} == {1}
    status, found = await examined(give, "--url", give.daemon.url.replace("https:", "http:"))
    assert (status, found["tls"]["remedy"]) == (1, "use an https:// URL")
    assert await give.lines("publish", "t", "1", TXBROKER_CA_FILE=files["authority"]) == ["delivered to 0"]
    status, _, errors = await give("publish", "t", "1")
    assert (status, errors.startswith("txbroker: UNTRUSTED: ")) == (1, True)


@contextmanager
def users_of_tls(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[object, set[int]]]:
    """The threads that read or write each connection over TLS, of the module ``ssl``."""
    users: dict[object, set[int]] = {}

    def recorded(method: Any) -> Any:
        def use(connection: object, *arguments: object) -> Any:
            users.setdefault(connection, set()).add(get_ident())
            return method(connection, *arguments)

        return use

    with monkeypatch.context() as patch:
        for kind, names in ((ssl.SSLSocket, ("read", "send")), (ssl.SSLObject, ("read", "write"))):
            for name in names:
                patch.setattr(kind, name, recorded(getattr(kind, name)))
        yield users


CONFIGURATION = """
server {{
    listen 127.0.0.1:{plain};
    location / {{
        proxy_pass http://127.0.0.1:{broker}; proxy_set_header Host $host;
        proxy_ignore_headers X-Accel-Buffering;
    }}
}}
server {{
    listen 127.0.0.1:{hasty};
    location / {{
        proxy_pass http://127.0.0.1:{broker}; proxy_http_version 1.1; proxy_set_header Host $host;
        proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; proxy_read_timeout 1s;
    }}
}}
"""


@pytest.mark.skipif(not path_of("nginx"), reason="nginx is missing: apt-get install nginx")
@pytest_twisted.ensureDeferred
async def test_a_proxy_that_does_not_upgrade_or_buffers_or_cuts_is_told(give: Developer, short_path: Path) -> None:
    short_path.chmod(0o755)
    plain, hasty = free_port(), free_port()
    text = CONFIGURATION.format(plain=plain, hasty=hasty, broker=give.daemon.port)
    (short_path / "txbroker.conf").write_text(text)
    (short_path / "nginx.conf").write_text(NGINX.format(short_path))
    words = [str(path_of("nginx")), "-p", str(short_path), "-c", str(short_path / "nginx.conf")]
    nginx = Program.start(words, env={"PATH": "/usr/bin:/bin"}, cwd=short_path)
    try:
        await eventually(lambda: listens(hasty))
        status, said, _ = await give("doctor", "--json", "--timeout", "5", "--url", f"http://127.0.0.1:{plain}")
        found = {one["check"]: one for one in map(json.loads, said.splitlines())}
        assert status == 1
        for name in ("owlmeans", "thinws", "hpkv", "microstream"):
            assert "Upgrade" in found[name]["remedy"], found[name]
        assert (found["http"]["fine"], found["stream"]["fine"]) == (True, False)
        assert "proxy_buffering off" in found["stream"]["remedy"]
        words = ["--url", f"http://127.0.0.1:{hasty}", "--idle", "1h", "--dialect", "owlmeans"]
        status, found = await examined(give, *words)
        assert (status, found["owlmeans"]["fine"], found["idle"]["fine"]) == (1, True, False)
        assert "TXBROKER_PING_SECONDS" in found["idle"]["remedy"]
    finally:
        nginx.signal(15)
        await nginx.exit()


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def listens(port: int) -> bool:
    with closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def tls_server(certificate: trustme.LeafCert) -> Iterator[int]:
    """A port that speaks TLS, and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        Thread(target=_shake_hands, args=(server, context), daemon=True).start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)


def _shake_hands(server: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        try:
            context.wrap_socket(client, server_side=True).close()
        except OSError:
            client.close()


def reach(url: str, ca_file: str = "") -> Reach:
    return Reach(Target(native_url(url), ca_file=ca_file), 30.0)


@pytest.mark.parametrize(
    ("host", "days", "text"),
    [
        ("127.0.0.1", 1, "the certificate is trusted"),
        ("127.0.0.1", -1, "the certificate has expired"),
        ("other.example", 1, "the certificate is not for 127.0.0.1"),
    ],
)
def test_what_is_wrong_with_a_certificate_is_told(tmp_path: Path, host: str, days: int, text: str) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority")
    now = datetime.now(UTC)
    issued = authority.issue_cert(host, not_before=now - timedelta(days=9), not_after=now + timedelta(days=days))
    with tls_server(issued) as port:
        finding = reach(f"https://127.0.0.1:{port}", str(tmp_path / "authority")).check_tls()
    assert text in finding.text
    assert finding.fine is (text == "the certificate is trusted")


def test_a_certificate_of_nobody_known_is_told() -> None:
    with tls_server(trustme.CA().issue_cert("127.0.0.1")) as port:
        finding = reach(f"https://127.0.0.1:{port}").check_tls()
        assert (finding.fine, "TXBROKER_CA_FILE" in finding.remedy) == (False, True)
        assert reach(f"http://127.0.0.1:{port}").check_tls() == Finding(
            "tls", False, "it speaks TLS, and no plain HTTP", "use an https:// URL"
        )


@contextmanager
def http_server(answers: dict[str, tuple[int, str]]) -> Iterator[str]:
    """A server that answers by the path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, ""))
            self.send_response(status)
            if status == 301:
                self.send_header("Location", body)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("answers", "check", "words"),
    [
        ({}, "broker", "dialect"),
        ({"/health": (200, "hello")}, "broker", "txbroker"),
        ({"/health": (502, "Bad Gateway")}, "broker", "TXBROKER_LISTEN"),
        ({"/health": (301, "https://elsewhere.example/")}, "broker", "https://elsewhere.example/"),
        ({"/health": (400, "The plain HTTP request was sent to HTTPS port")}, "tls", "https://"),
        ({"/health": (429, '{"error":{"message":"slow down"}}')}, "broker", "wait a minute"),
    ],
)
def test_what_is_no_broker_is_told(answers: dict[str, tuple[int, str]], check: str, words: str) -> None:
    with http_server(answers) as url:
        *_, last = findings(reach(url), (), 0.0)
    assert (last.check, last.fine) == (check, False)
    assert words in last.remedy


def test_a_broker_that_is_not_ready_is_told_with_what_it_says() -> None:
    answers = {"/health": (200, '{"status": "ok"}'), "/ready": (503, '{"message":"draining"}')}
    answers["/about"] = (200, '{"dialects": []}')
    with http_server(answers) as url:
        found = {one.check: one for one in findings(reach(url), (), 0.0)}
    assert found["ready"].text == "it is not ready: draining"
    assert "txbroker status" in found["ready"].remedy
    assert [found[name].fine for name in DIALECTS] == [None] * 6


@contextmanager
def silent_websocket() -> Iterator[str]:
    """A server that accepts one WebSocket, and says nothing more."""

    def accept() -> None:
        client, _ = server.accept()
        with client:
            head = client.recv(65536).decode()
            (key,) = (line.split(": ")[1] for line in head.split("\r\n") if line.startswith("Sec-WebSocket-Key"))
            fields = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept_key(key)}"
            client.sendall(f"HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n\r\n".encode())
            while client.recv(65536):
                pass

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def test_a_websocket_that_was_forgotten_without_a_word_is_told() -> None:
    with silent_websocket() as url:
        finding = check_idle(Reach(Target(native_url(url)), 1.0), 0.01)
    assert (finding.fine, finding.text) == (
        False,
        "after 0.01 s of silence, a WebSocket does not answer within 1 s",
    )


def test_a_broker_that_was_blocked_is_slow_and_not_wrong() -> None:
    clock = Clock()
    lag = ReactorLag(clock, Histogram((0.01, 1.0)))
    lag.startService()
    clock.advance(2.6)
    refusal = Pages(lambda: [lag.reason()], dict).answer(HttpRequest("GET", "/ready", "", {}))
    lag.stopService()
    with http_server({"/ready": (refusal.status, refusal.body.decode())}) as url:
        finding = reach(url).check_ready()
    assert (finding.fine, finding.text) == (None, "it is slow: the reactor loop was blocked for 2.5 s")


def test_a_host_that_is_not_there_is_told() -> None:
    finding = reach("http://no-such-host.invalid").check_port()
    assert (finding.fine, finding.remedy) == (False, "correct the URL")
