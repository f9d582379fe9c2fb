"""docs/operations/troubleshooting.rst: what it lets one look for in the log stands there when it has happened."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import pytest_twisted

from tests.conftest import StartDaemon
from tests.support.daemon import ROOT, Daemon
from tests.support.http_client import get
from tests.support.ws_client import Closed, Refused, ws_connect

PAGE = ROOT / "docs" / "operations" / "troubleshooting.rst"
# What a faulty plugin, a store that went back and a blocked loop leave has tests of its own.
NOT_PROVOKED = ("critical", "was lost", "was blocked")
KEY = {"Authorization": "Bearer the-key-of-the-mailer"}


def commands() -> list[str]:
    """Return what the page lets one type to look into the log."""
    return re.findall(r"(grep .*? LOG\b.*?)(?:``|\n)", PAGE.read_text("utf-8"))


async def closed_with(daemon: Daemon, message: str = "", **options: dict[str, str]) -> int:
    """Return the code with which a WebSocket is closed that sends *message*, or nothing."""
    socket = await ws_connect(daemon.ws("/"), **options)  # type: ignore[arg-type]
    if message:
        socket.send(message)
    with pytest.raises(Closed) as caught:
        await socket.receive()
    return caught.value.code


async def provoke(daemon: Daemon) -> None:
    """Be refused and closed for each reason that the page has."""
    topic = f"{daemon.url}/v1/topics/news"
    assert (await get(topic, headers={"Authorization": "Bearer wrong"})).status == 401
    assert (await get(topic, headers=KEY)).status == 403
    assert (await get(topic, headers={**KEY, "Origin": "http://app.example"})).status == 403
    assert await closed_with(daemon) == 1008
    assert await closed_with(daemon, "x" * 2000, headers=KEY) == 1009
    sockets = [await ws_connect(daemon.ws("/"), headers=KEY) for _ in range(4)]
    with pytest.raises(Refused) as caught:
        await ws_connect(daemon.ws("/"), headers=KEY)
    assert (caught.value.status, b"Too many connections" in caught.value.body) == (503, True)
    for _ in range(50):
        sockets[0].send("{}")
    await sockets[0].receive()
    for socket in sockets:
        socket.abort()


@pytest_twisted.ensureDeferred
async def test_each_command_finds_what_has_happened(start_daemon: StartDaemon, tmp_path: Path) -> None:
    (tmp_path / "permissions.toml").write_text('[default.call]\nallow = [">"]\n')
    daemon = await start_daemon(
        TXBROKER_API_KEYS="mailer:the-key-of-the-mailer",
        TXBROKER_AUTH_DEADLINE_SECONDS="0.1",
        TXBROKER_MAX_CONNECTIONS="4",
        TXBROKER_MAX_MESSAGE_BYTES="1000",
        TXBROKER_PERMISSIONS_FILE=str(tmp_path / "permissions.toml"),
        TXBROKER_RATE="20",
    )
    await provoke(daemon)
    await daemon.stop()
    (tmp_path / "LOG").write_text("\n".join(daemon.output) + "\n")
    asked = [command for command in commands() if not any(word in command for word in NOT_PROVOKED)]
    assert len(asked) > 8
    for command in asked:
        found = subprocess.run(["/bin/bash", "-c", command], cwd=tmp_path, capture_output=True, check=False)
        assert found.stdout, command
