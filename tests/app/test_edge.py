"""A daemon at the edge of a network: TLS for clients of every kind, balancers, certificates that are renewed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import stat
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.request import urlopen

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from broker.app.admin_client import AdminClient
from broker.app.ports import url_of_port
from tests.support.daemon import Daemon
from tests.support.eventually import TIMEOUT
from tests.support.processes import Program
from tests.web.net.test_certificates import names_of, trusting, write

pytestmark = [pytest.mark.processes, pytest.mark.unmeasured]
WAITER = {"TXBROKER_PROTOCOLS": "tests.support.waiter:Dialect"}
AND_TELNET = {"TXBROKER_PROTOCOLS": "tests.support.waiter:Dialect docs.examples.telnet:dialect"}
FETCH = "fetch(process.argv[1]).then(async answer => console.log(answer.status, await answer.text()))"
STATUS = "/admin/api/status"
HEADER = b"PROXY TCP4 203.0.113.5 192.0.2.1 4711 443\r\n"


def is_for_everybody(path: str) -> bool:
    """Whether another user can read the file at *path*."""
    below = Path(path).resolve()
    return all(stat.S_IMODE(one.stat().st_mode) & 0o5 for one in (below, *below.parents))


# Whom a daemon that root starts becomes; where nobody else can read Python, who starts it.
NOBODY = 65534 if os.getuid() == 0 and is_for_everybody(os.__file__) and is_for_everybody(__file__) else os.getuid()


class Edge(Daemon):
    """One with TLS on its port, with a socket in a directory that only who starts it can write to, and its own user."""

    def __init__(self, directory: Path) -> None:
        directory.chmod(0o755)
        state = directory / "state"
        state.mkdir()
        os.chown(state, NOBODY, -1)
        self.files = write(directory, "localhost")
        self.socket, self.telnet, self.admin = (directory / name for name in ("socket", "telnet", "admin"))
        self.options = ("--uid", str(NOBODY))
        listen = f"tcp:0:interface=127.0.0.1;haproxy:unix:{self.socket}:mode=660"
        super().__init__(
            directory,
            **AND_TELNET,
            STATE_DIRECTORY=str(state),
            TXBROKER_LISTEN=listen,
            TXBROKER_TELNET_LISTEN=f"haproxy:tcp:0:interface=127.0.0.1;unix:{self.telnet}:mode=600",
            TXBROKER_ADMIN_LISTEN=f"unix:{self.admin}:mode=600",
            TXBROKER_TLS_CERTIFICATE_FILE=self.files.certificate,
            TXBROKER_TLS_KEY_FILE=self.files.key,
        )


@pytest_twisted.async_yield_fixture(scope="module")
async def edge() -> AsyncIterator[Edge]:
    edge = Edge(Path(tempfile.mkdtemp(prefix="txbroker-")))
    yield await edge.start()  # type: ignore[misc]
    assert await edge.stop() == 0
    assert not edge.troubles()
    shutil.rmtree(edge.directory)


def root_of(edge: Edge) -> str:
    path = edge.directory / "root.pem"
    trusted = trusting().get_ca_certs(binary_form=True)
    path.write_text("".join(map(ssl.DER_cert_to_PEM_cert, trusted)))
    return str(path)


@pytest_twisted.ensureDeferred
async def test_curl_is_answered(edge: Edge) -> None:
    url = f"https://localhost:{edge.port}/health"
    program = Program.start(["curl", "-sS", "--cacert", root_of(edge), url], env=edge.environ, cwd=edge.directory)
    assert await program.exit() == 0
    assert program.lines == ['{"status": "ok"}']


@pytest_twisted.ensureDeferred
async def test_fetch_of_node_is_answered(edge: Edge) -> None:
    environ = {**edge.environ, "NODE_EXTRA_CA_CERTS": root_of(edge)}
    url = f"https://localhost:{edge.port}/ready"
    program = Program.start(["node", "-e", FETCH, url], env=environ, cwd=edge.directory)
    assert await program.exit() == 0
    assert program.lines == ['200 {"ready": true}']


@pytest_twisted.ensureDeferred
async def test_python_is_answered(edge: Edge) -> None:
    def read() -> int:
        with urlopen(f"https://localhost:{edge.port}/about", context=trusting("http/1.1")) as answer:
            return int(answer.status)

    assert await deferToThread(read) == 200


def asked(path: Path, data: bytes) -> bytes:
    """Return the first that is answered to *data* at a unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(str(path))
        connection.sendall(data)
        return connection.recv(65536)


@pytest_twisted.ensureDeferred
async def test_what_was_bound_before_it_became_another_user_is_served(edge: Edge) -> None:
    assert (await deferToThread(asked, edge.socket, HEADER + b"OPTIONS / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert await deferToThread(asked, edge.telnet, b"SUB news\n") == b"OK\n"
    status = await deferToThread(AdminClient(url_of_port([edge.environ["TXBROKER_ADMIN_LISTEN"]])).get, STATUS, {})
    assert status["ready"] == []
    assert os.stat(f"/proc/{edge.pid}").st_uid == NOBODY
    assert [stat.S_IMODE(path.stat().st_mode) for path in (edge.socket, edge.telnet)] == [0o660, 0o600]


@pytest_twisted.ensureDeferred
async def test_raw_connections_come_by_tls_behind_a_header_of_a_proxy(edge: Edge) -> None:
    (place,) = (line["place"] for line in edge.events() if "telnet is at 127" in str(line["msg"]))

    def ask() -> bytes:
        with socket.create_connection(("127.0.0.1", int(str(place).rpartition(":")[2])), TIMEOUT) as plain:
            plain.sendall(HEADER)
            with trusting().wrap_socket(plain, server_hostname="localhost") as connection:
                connection.sendall(b"SUB news\n")
                return connection.recv(65536)

    assert await deferToThread(ask) == b"OK\n"
    await edge.program.line(lambda line: "telnet: a client of 203.0.113.5 went after" in line)


def presented(edge: Edge) -> list[str]:
    with (
        socket.create_connection(("127.0.0.1", edge.port), TIMEOUT) as plain,
        trusting("http/1.1").wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        return names_of(connection)  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_a_renewed_certificate_is_presented_after_sighup_and_a_wrong_one_is_not(edge: Edge) -> None:
    write(edge.directory, "localhost", "renewed.example")
    os.chown(edge.files.key, NOBODY, -1)
    edge.program.signal(signal.SIGHUP)
    await edge.program.line(lambda line: "reloaded" in line and edge.files.certificate in line)
    assert await deferToThread(presented, edge) == ["localhost", "renewed.example"]
    edge.provoked.append("not reloaded")
    Path(edge.files.certificate).write_text("half a")
    edge.program.signal(signal.SIGHUP)
    await edge.program.line(lambda line: "not reloaded" in line and "no certificate in PEM" in line)
    assert await deferToThread(presented, edge) == ["localhost", "renewed.example"]


@pytest_twisted.ensureDeferred
async def test_a_daemon_that_was_killed_leaves_no_obstacle_to_the_next(short_path: Path) -> None:
    daemon = Daemon(short_path, **WAITER)
    daemon.environ["TXBROKER_LISTEN"] = f"unix:{short_path}/socket"
    await daemon.spawn().line(lambda line: '"url":' in line, TIMEOUT)
    await daemon.kill()
    os.symlink(str(os.getpid()), f"{short_path}/socket.lock")  # as one of Twisted's that names a living process
    await daemon.spawn().line(lambda line: '"url":' in line, TIMEOUT)
    assert await daemon.stop() == 0
    assert not (short_path / "socket").exists()
