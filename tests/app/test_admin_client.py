"""The client of the admin port, and the command that revokes tokens by it."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import jwt
import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from broker.app.admin_client import AdminClient, AdminError
from broker.app.command import main
from broker.app.ports import url_of_port
from tests.support.daemon import WITH_METRICS, clean_environ
from tests.support.eventually import TIMEOUT
from tests.support.http_client import post
from tests.support.ws_client import Refused, ws_connect

KEY = "the-key-of-the-shop"
API = "/admin/api/"
TXBROKER = Path(sys.executable).with_name("txbroker")


@pytest.fixture(scope="module")
def daemon_environ():
    return {"TXBROKER_API_KEYS": f"shop:{KEY}", **WITH_METRICS}


@pytest.mark.parametrize(
    ("endpoints", "url"),
    [
        (("tcp:8001:interface=127.0.0.1",), "http://127.0.0.1:8001"),
        (("tcp:port=9001",), "http://127.0.0.1:9001"),
        (("tcp:9001:interface=0.0.0.0:backlog=5",), "http://127.0.0.1:9001"),
        ((r"tcp:9001:interface=\:\:1",), "http://[::1]:9001"),
        (("tcp:0", "ssl:9443:interface=10.0.0.1"), "https://10.0.0.1:9443"),
        (("unix:/run/admin:mode=600", "tcp:8001"), "unix:/run/admin"),
        ((r"unix:address=run/a\:b c:lockfile=0",), "unix:run/a%3Ab%20c"),
        (("tcp6:9001",), "http://[::1]:9001"),
        (("tcp:0",), "http://127.0.0.1:8001"),
        ((), "http://127.0.0.1:8001"),
    ],
)
def test_the_port_is_where_the_settings_say(endpoints, url):
    assert url_of_port(endpoints) == url


@pytest.mark.parametrize(
    "url", ["", "localhost:8001", "ftp://localhost", "http://localhost:x", "unix:", "unix://run/admin", "http://["]
)
def test_what_is_no_url_is_told(url):
    with pytest.raises(AdminError, match="is no URL of http or https"):
        AdminClient(url).post("/x", {})


def test_a_port_that_does_not_answer_is_told():
    with pytest.raises(AdminError, match=r"http://127\.0\.0\.1:1 can not be asked: .*refused"):
        AdminClient("http://127.0.0.1:1").post("/x", {})


def test_a_socket_that_is_not_there_is_told(tmp_path):
    with pytest.raises(AdminError, match=r"/none can not be asked: .*No such file"):
        AdminClient(f"unix:{tmp_path}/none").post("/x", {})


@pytest.mark.parametrize("secret", ["hunter22\n", "hunter22\0", "hunter22\r\nHost: x"])
def test_a_secret_that_no_header_can_hold_is_told_without_it(secret):
    with pytest.raises(AdminError) as caught:
        AdminClient("http://127.0.0.1:1", secret).post("/x", {})
    assert str(caught.value) == "TXBROKER_ADMIN_SECRET has characters that can not be sent"


@pytest.mark.parametrize("given", ["", " \n"])
def test_nothing_is_no_token(monkeypatch, capsys, given):
    monkeypatch.setattr("sys.stdin", io.StringIO(given))
    with pytest.raises(SystemExit) as caught:
        main(["token", "revoke"])
    assert (caught.value.code, capsys.readouterr().err) == (1, "txbroker: there is no token to revoke\n")


def test_a_token_is_no_argument(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["token", "revoke", "a.b.c"])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "give the token on the standard input" in said
    assert "a.b.c" not in said


def test_a_file_that_is_not_there_is_told(capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        main(["token", "revoke", "--file", str(tmp_path / "none")])
    assert caught.value.code == 1
    assert capsys.readouterr().err == f"txbroker: {tmp_path}/none can not be read: No such file or directory\n"


def test_a_file_that_is_no_text_is_told_without_what_it_has(capsys, tmp_path):
    (tmp_path / "token").write_bytes(b"secret\xe9")
    with pytest.raises(SystemExit):
        main(["token", "verify", "--file", str(tmp_path / "token")])
    assert capsys.readouterr().err == f"txbroker: {tmp_path}/token has no token: it is no text in UTF-8\n"


def admin_urls(daemon):
    """Return the admin ports of all nodes, the last one first."""
    told = [str(event["msg"]) for event in daemon.events() if "metrics are at" in str(event["msg"])]
    return [line.removeprefix("metrics are at ").removesuffix("/metrics") for line in told][::-1]


def run(daemon, *arguments, text="", **environ):
    """Return the Deferred of what ``txbroker`` did with *arguments*."""
    command = [str(TXBROKER), "token", "revoke", *arguments]
    return deferToThread(
        subprocess.run,
        command,
        input=text,
        env=clean_environ(daemon.directory) | environ,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


async def minted(daemon):
    answer = await post(daemon.url + "/token/websocket", {"accessPattern": ".*"}, headers={"x-api-key": KEY})
    return answer.json()["token"]


@pytest_twisted.ensureDeferred
async def test_a_token_is_revoked_on_every_node(shared_daemon):
    token, other = await minted(shared_daemon), await minted(shared_daemon)
    sockets = [await ws_connect(shared_daemon.ws(f"/ws?token={token}")) for _ in range(3)]
    kept = await ws_connect(shared_daemon.ws(f"/ws?token={other}"))
    done = await run(shared_daemon, "--admin", admin_urls(shared_daemon)[0], text=token + "\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "the token is revoked\n", "")
    assert [await socket.closed() for socket in sockets] == [(4003, "token revoked")] * 3
    for _ in range(3):
        with pytest.raises(Refused, match="403"):
            await ws_connect(shared_daemon.ws(f"/ws?token={token}"))
    assert await kept.close() == (1000, "")
    assert not [line for line in shared_daemon.output if token in line]


@pytest_twisted.ensureDeferred
async def test_a_client_is_seen_and_kicked_at_every_node_by_any_of_them(shared_daemon):
    for node in getattr(shared_daemon, "nodes", []):
        await node.until_metric("txbroker_nodes", 3)  # a second after the start, each knows all
    sockets = [await ws_connect(shared_daemon.ws(f"/owlmeans?token={KEY}")) for _ in range(3)]
    for socket in sockets:
        socket.send_json({"type": "call", "id": "1", "method": "broker.subscribe", "payload": ["a"], "timeout": 60000})
        await socket.receive()
    client = AdminClient(admin_urls(shared_daemon)[0])
    nodes = [row["node"] for row in (await deferToThread(client.get, API + "nodes", {}))["items"]]
    pages = [await deferToThread(client.get, API + "sessions", {"node": node}) for node in nodes]
    assert sum(len(page["items"]) for page in pages) == 3
    assert [page["node"] for page in pages] == nodes
    kicked = await deferToThread(client.post, API + "kick", {"client": "shop", "code": 1008})
    assert (kicked["disconnected"], kicked.get("silent", [])) == (3, [])
    assert [(await socket.closed())[0] for socket in sockets] == [1008] * 3


@pytest_twisted.ensureDeferred
async def test_a_token_stays_revoked_after_a_restart(daemon, tmp_path):
    token, file = await minted(daemon), tmp_path / "token"
    file.write_text(token)
    done = await run(daemon, "--admin", admin_urls(daemon)[0], "--file", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    await daemon.restart()
    with pytest.raises(Refused, match="403"):
        await ws_connect(daemon.ws(f"/ws?token={token}"))
    done = await run(daemon, "--admin", admin_urls(daemon)[0], text="no.token.this")
    assert (done.returncode, done.stdout) == (1, "")
    assert "has answered with 400: This is no token of this broker; " in done.stderr
    done = await run(daemon, "--admin", daemon.url, text=token)
    assert (done.returncode, "has answered with 404" in done.stderr) == (1, True)


@pytest_twisted.ensureDeferred
async def test_over_a_unix_socket_the_secret_decides_and_live_clients_are_closed_too(
    start_daemon, daemon_environ, short_path
):
    path, secret = short_path / "admin", "the-secret-of-the-operators"
    daemon = await start_daemon(
        **daemon_environ | {"TXBROKER_ADMIN_LISTEN": f"unix:{path}", "TXBROKER_ADMIN_SECRET": secret}
    )
    token = await minted(daemon)
    sockets = [await ws_connect(daemon.ws(f"/ws?token={token}")) for _ in range(2)]
    for more in ({}, {"TXBROKER_ADMIN_SECRET": "another-secret-than-that"}):
        done = await run(daemon, "--admin", f"unix:{path}", text=token, **more)
        assert (done.returncode, done.stderr.count("401: Show TXBROKER_ADMIN_SECRET")) == (1, 1)
    await (await ws_connect(daemon.ws(f"/ws?token={token}"))).close()
    done = await run(daemon, "--admin", f"unix:{path}", text=token, TXBROKER_ADMIN_SECRET=secret)
    assert (done.returncode, done.stdout) == (0, "the token is revoked\n")
    assert [await socket.closed() for socket in sockets] == [(4003, "token revoked")] * 2
    with pytest.raises(Refused, match="403"):
        await ws_connect(daemon.ws(f"/ws?token={token}"))
    told = [line["msg"] for line in daemon.events() if "admin refused" in line["msg"] or "revoked" in line["msg"]]
    refused = "admin refused unix: UNAUTHENTICATED for anonymous at identify; see TXBROKER_ADMIN_SECRET"
    id = jwt.decode(token, options={"verify_signature": False})["jti"]
    assert told == [
        f"{refused}; not counted as a guess",
        refused,
        f"the token with the id {id} was revoked by unix",
    ]
    assert token not in "\n".join(daemon.output)


@pytest_twisted.ensureDeferred
async def test_where_the_admin_port_asks_for_a_secret_the_command_shows_it(start_daemon, daemon_environ):
    secret = "the-secret-of-the-operators"
    daemon = await start_daemon(**daemon_environ, TXBROKER_ADMIN_SECRET=secret)
    token, url = await minted(daemon), admin_urls(daemon)[0]
    done = await run(daemon, "--admin", url, text=token)
    assert (done.returncode, done.stderr.count("401: Show TXBROKER_ADMIN_SECRET")) == (1, 1)
    done = await run(daemon, "--admin", url, text=token, TXBROKER_ADMIN_SECRET=secret)
    assert (done.returncode, done.stdout) == (0, "the token is revoked\n")
    page = {"origin": "http://evil.example", "authorization": f"Bearer {secret}"}
    answer = await post(url + "/admin/api/tokens/revoke", {"token": token}, headers=page)
    assert answer.status == 403
